"""Plain values as text, much as Python shows them; a terminal gets no control characters."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from .output import clean, counted
from .plain import Opaque, Plain

_INDENT = "    "
# How many characters of two differing long texts are shown, and how many of them before the
# difference.
_EXCERPT, _BEFORE = 60, 20
# A line that is longer is broken where its value has parts.
_WIDTH = 100


@dataclass(frozen=True)
class Limits:
    """How much is shown: None shows all of long things."""

    text: int | None = None
    items: int | None = None
    empty: bool = False  # whether fields of objects that hold nothing are shown


FULL = Limits(empty=True)
WHOLE = Limits()
SHORT = Limits(text=300, items=20)
LINE = Limits(text=60, items=4)


def lines(value: Any, limits: Limits = FULL, width: int = _WIDTH) -> list[str]:
    """A value as lines."""
    one = _in_line(value, limits, width)
    if one is not None:
        return [one]
    opening, parts, closing = _parts(value, limits)
    found = [opening]
    for name, each in parts:
        if isinstance(each, _Left):
            found.append(f"{_INDENT}… {counted(each.count, 'more item')} …")
            continue
        inner = lines(each, limits, width - len(_INDENT))
        inner[0] = name + inner[0]
        inner[-1] += ","
        found += [_INDENT + line for line in inner]
    return [*found, closing]


def line(value: Any) -> str:
    """A value in one short line."""
    shown = _in_line(value, LINE, math.inf) or ""
    return shown if len(shown) <= 100 else shown[:99] + "…"


def differing(old: Any, new: Any) -> tuple[str, str]:
    """Two differing values, each as one short line; long ones from where they begin to differ."""
    if isinstance(old, str) and isinstance(new, str):
        if max(len(old), len(new)) > _EXCERPT:
            return _excerpts(old, new, repr)
    elif line(old) == line(new):
        return _excerpts(_whole(old), _whole(new), str)
    return line(old), line(new)


def _whole(value: Any) -> str:
    return _in_line(value, FULL, math.inf) or ""


def _excerpts(old: str, new: str, shown: Callable[[str], str]) -> tuple[str, str]:
    pairs = enumerate(zip(old, new, strict=False))
    same = next((n for n, (one, other) in pairs if one != other), min(len(old), len(new)))
    start = max(same - _BEFORE, 0)
    first, second = (_excerpt(each, start, shown) for each in (old, new))
    return first, second


def _excerpt(text: str, start: int, shown: Callable[[str], str]) -> str:
    cut = shown(text[start : start + _EXCERPT])
    if start == 0 and len(text) <= _EXCERPT:
        return cut
    after = "…" if start + _EXCERPT < len(text) else ""
    return f"{'…' if start else ''}{cut}{after} (from character {start + 1:,} of {len(text):,})"


def _in_line(value: Any, limits: Limits, width: float) -> str | None:
    """A value in one line; None where it takes more than `width` and has parts."""
    if _is_leaf(value):
        return _leaf(value, limits)
    opening, parts, closing = _parts(value, limits)
    left = width - len(opening) - len(closing)
    shown: list[str] = []
    for name, each in parts:
        if isinstance(each, _Left):
            shown.append("…")
            continue
        text = _in_line(each, limits, left)
        if text is None:
            return None
        shown.append(name + text)
        left -= len(shown[-1]) + 2
        if left < 0:
            return None
    return opening + ", ".join(shown) + closing


def _is_leaf(value: Any) -> bool:
    if isinstance(value, Plain):
        return not value.arguments and not value.fields
    return not isinstance(value, (list, tuple, dict)) or not value


def _leaf(value: Any, limits: Limits) -> str:
    if isinstance(value, str):
        return _text(value, limits)
    if isinstance(value, bytes):
        return _bytes(value, limits)
    if isinstance(value, Opaque):
        return clean(str(value))
    if isinstance(value, Plain):
        return f"{clean(value.name)}()"
    return repr(value)


def _text(value: str, limits: Limits) -> str:
    if limits.text is None or len(value) <= limits.text:
        return repr(value)
    left = counted(len(value) - limits.text, "more character")
    return f"{value[: limits.text]!r}… ({left})"


def _bytes(value: bytes, limits: Limits) -> str:
    if limits.text is None or len(value) <= 20:
        return repr(value)
    return f"{value[:20]!r}… ({counted(len(value), 'byte')})"


class _Left:
    """Stands for items that are not shown."""

    def __init__(self, count: int) -> None:
        self.count = count


_Parts = list[tuple[str, Any]]


def _parts(value: Any, limits: Limits) -> tuple[str, _Parts, str]:
    """What a value with parts begins with, its parts with their names, and what it ends with."""
    if isinstance(value, Plain):
        return f"{clean(value.name)}(", list(_members(value, limits)), ")"
    if isinstance(value, dict):
        return "{", _some([(f"{_key(key)}: ", each) for key, each in value.items()], limits), "}"
    opening, closing = "()" if isinstance(value, tuple) else "[]"
    return opening, _some([("", each) for each in value], limits), closing


def _members(value: Plain, limits: Limits) -> Iterator[tuple[str, Any]]:
    yield from _some([("", each) for each in value.arguments], limits)
    for key, each in value.fields.items():
        if limits.empty or each not in (None, "", [], {}):
            yield f"{clean(key)}=", each


def _key(key: Any) -> str:
    return _in_line(key, LINE, math.inf) or ""


def _some(parts: Sequence[tuple[str, Any]], limits: Limits) -> _Parts:
    """The first and the last of many parts: of messages, the last are those that matter."""
    if limits.items is None or len(parts) <= limits.items:
        return list(parts)
    first = limits.items // 4
    last = limits.items - first
    return [*parts[:first], ("", _Left(len(parts) - limits.items)), *parts[-last:]]
