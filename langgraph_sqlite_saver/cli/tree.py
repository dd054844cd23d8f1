"""The checkpoints of a thread as a tree, a line each."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

from .states import Step


class Branch(NamedTuple):
    """A step in the tree, what leads to it, and what leads past it, for a line below."""

    lead: str
    past: str
    step: Step


def tree(steps: Sequence[Step], *, ascii: bool = False) -> Iterator[Branch]:
    """Steps, oldest first; forks come before what goes on.

    The way to the newest checkpoint stays at the left; what was left for it is one level in.
    """
    dot, bar, fork = ("* ", "| ", "|-") if ascii else ("● ", "│ ", "├─")
    by_id = {step.checkpoint_id: step for step in steps}
    children: dict[str | None, list[Step]] = {}
    for step in steps:
        children.setdefault(step.parent_id if step.parent_id in by_id else None, []).append(step)
    newest = _newest_below(steps, by_id.keys())
    waiting = [("", "", step) for step in reversed(children.pop(None, []))]
    left = dict(by_id)
    while waiting or left:
        if not waiting:  # those that are ancestors of themselves
            waiting.append(("", "", next(iter(left.values()))))
        lead, first, step = waiting.pop()
        if left.pop(step.checkpoint_id, None) is None:
            continue
        below = children.pop(step.checkpoint_id, [])
        below.sort(key=lambda each: newest[each.checkpoint_id])
        inside = lead + bar if first else lead
        yield Branch(lead + first + dot, inside + (bar if below else "  "), step)
        if below:
            waiting.append((inside, "", below[-1]))
        waiting += [(inside, fork, each) for each in reversed(below[:-1])]


def _newest_below(steps: Sequence[Step], known: Collection[str]) -> dict[str, str]:
    """For each checkpoint the newest that came of it: steps are sorted by id, parents first."""
    newest = {step.checkpoint_id: step.checkpoint_id for step in steps}
    for step in reversed(steps):
        if step.parent_id in known and step.parent_id is not None:
            newest[step.parent_id] = max(newest[step.parent_id], newest[step.checkpoint_id])
    return newest
