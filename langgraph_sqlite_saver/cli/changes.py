"""What differs between two states: what was added, removed and changed, and where."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from .output import clean, counted
from .plain import Plain, to_json

# What has no value on one side.
_NOTHING: Any = object()


@dataclass(frozen=True)
class Change:
    """One difference: the way to it inside the channel's value, and both sides."""

    kind: Literal["added", "removed", "changed"]
    path: tuple[Any, ...]
    before: Any
    after: Any

    @property
    def place(self) -> str:
        """Where it is, to be put before the value."""
        return f"{''.join(map(_step, self.path))} = " if self.path else ""

    def sides(self) -> Iterator[tuple[str, Any]]:
        """What was there, and what is: "-" and "+", each with its value."""
        if self.kind != "added":
            yield "-", self.before
        if self.kind != "removed":
            yield "+", self.after

    def as_json(self) -> dict[str, Any]:
        """As JSON."""
        sides = {"-": "before", "+": "after"}
        return {
            "change": self.kind,
            "path": [_json_step(each) for each in self.path],
            **{sides[sign]: to_json(value) for sign, value in self.sides()},
        }


class _Field(str):
    """A field of an object, on the way to a difference."""


def _step(step: Any) -> str:
    return f".{clean(step)}" if isinstance(step, _Field) else clean(f"[{step!r}]")


def _json_step(step: Any) -> Any:
    return step if isinstance(step, (int, str)) else repr(step)


def changes(old: Mapping[str, Any], new: Mapping[str, Any], channel: str) -> list[Change]:
    """How a channel's value differs."""
    return list(_between(old.get(channel, _NOTHING), new.get(channel, _NOTHING), ()))


def _between(old: Any, new: Any, path: tuple[Any, ...]) -> Iterator[Change]:
    if old is _NOTHING or new is _NOTHING:
        yield from _one_sided(old, new, path)
    elif isinstance(old, dict) and isinstance(new, dict):
        for key in dict.fromkeys([*old, *new]):
            yield from _between(old.get(key, _NOTHING), new.get(key, _NOTHING), (*path, key))
    elif isinstance(old, list) and isinstance(new, list):
        yield from _between_lists(old, new, path)
    elif _are_alike(old, new):
        yield from _between_lists(old.arguments, new.arguments, path)
        for name in dict.fromkeys([*old.fields, *new.fields]):
            sides = old.fields.get(name, _NOTHING), new.fields.get(name, _NOTHING)
            yield from _between(*sides, (*path, _Field(name)))
    elif type(old) is not type(new) or not _equal(old, new):
        yield Change("changed", path, old, new)


def _one_sided(old: Any, new: Any, path: tuple[Any, ...]) -> Iterator[Change]:
    if new is not _NOTHING:
        yield Change("added", path, None, new)
    elif old is not _NOTHING:
        yield Change("removed", path, old, None)


def _are_alike(old: Any, new: Any) -> bool:
    """Whether both are objects of one class with fields; a UUID is another, not a changed one."""
    if not isinstance(old, Plain) or not isinstance(new, Plain) or old.type != new.type:
        return False
    return bool(old.fields or new.fields) and len(old.arguments) == len(new.arguments)


def _between_lists(
    old: Sequence[Any], new: Sequence[Any], path: tuple[Any, ...]
) -> Iterator[Change]:
    """What both begin and end with is the same; in between, as many as both have are compared."""
    start = 0
    while start < min(len(old), len(new)) and _equal(old[start], new[start]):
        start += 1
    end = 0
    while end < min(len(old), len(new)) - start and _equal(old[-1 - end], new[-1 - end]):
        end += 1
    left, right = len(old) - end, len(new) - end
    for at in range(start, max(left, right)):
        sides = (
            old[at] if at < left else _NOTHING,
            new[at] if at < right else _NOTHING,
        )
        yield from _between(*sides, (*path, at))


def _equal(old: Any, new: Any) -> bool:
    """Equal also in type: 1 is not True; NaN is itself."""
    if type(old) is not type(new):
        return False
    if isinstance(old, dict):
        return old.keys() == new.keys() and all(_equal(old[key], new[key]) for key in old)
    if isinstance(old, (list, tuple)):
        return len(old) == len(new) and all(map(_equal, old, new))
    if isinstance(old, Plain):
        same = old.type == new.type and _equal(old.arguments, new.arguments)
        return same and _equal(old.fields, new.fields)
    return bool(old == new or (old != old and new != new))


def summary(found: Sequence[Change]) -> str:
    """In a few words."""
    if len(found) == 1 and not found[0].path:
        return found[0].kind
    counts = {kind: sum(each.kind == kind for each in found) for kind in ("added", "removed")}
    changed = len(found) - sum(counts.values())
    parts = [f"+{counted(counts['added'], 'item')}"] if counts["added"] else []
    parts += [f"-{counted(counts['removed'], 'item')}"] if counts["removed"] else []
    return ", ".join([*parts, f"{changed:,} changed"] if changed else parts)
