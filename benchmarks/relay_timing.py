"""Calls that are compared with one another are taken in turns, one of each.

What else the machine does then meets all of them alike. In turns of 50 calls, each side with its
own code in the caches, a read is to HGETALL as with turns of one.
"""

from __future__ import annotations

import statistics
from collections.abc import Awaitable, Callable, Iterator, Sequence
from time import perf_counter
from typing import TypeVar

Call = Callable[[], object]
AsyncCall = Callable[[], Awaitable[object]]
T = TypeVar("T")


def in_turns(*sides: Sequence[Call]) -> list[float]:
    """The median microseconds of each side's calls; another side is first each time."""
    taken: list[list[float]] = [[] for _ in sides]
    for side, call in _ordered(sides):
        start = perf_counter()
        call()
        taken[side].append(perf_counter() - start)
    return _medians(taken)


async def in_turns_async(*sides: Sequence[AsyncCall]) -> list[float]:
    """As `in_turns`, for an event loop."""
    taken: list[list[float]] = [[] for _ in sides]
    for side, call in _ordered(sides):
        start = perf_counter()
        await call()
        taken[side].append(perf_counter() - start)
    return _medians(taken)


def _ordered(sides: Sequence[Sequence[T]]) -> Iterator[tuple[int, T]]:
    """Whose call is next; who comes first, and after whom, changes."""
    count = len(sides)
    for turn, calls in enumerate(zip(*sides, strict=True)):
        order = [(turn + place) % count for place in range(count)]
        for side in order[::-1] if turn // count % 2 else order:
            yield side, calls[side]


def _medians(taken: Sequence[Sequence[float]]) -> list[float]:
    return [statistics.median(times) * 1e6 for times in taken]
