"""How long the event loop stands still while large states are read."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter
from typing import Any

from benchmarks.benchmark import Benchmark, Measure, Measurement, Metric, Scale, at_most
from benchmarks.contestants import OURS_NORMAL, READERS, Contestant, Saver
from benchmarks.reads import MEGABYTE
from benchmarks.stored import Stored
from benchmarks.workload import chat, config_of, langchain_message, long_message

TICK = 0.001


@contextmanager
def dicts(scale: Scale) -> Iterator[Measure]:
    """The longest wait of a task that sleeps for 1 ms, while 1 MB states of dicts are read."""
    chosen = chat("thread", scale.pick(20, 3), state_bytes=MEGABYTE, message=long_message)
    with Stored([chosen]) as stored:
        yield _stalling(stored, len(chosen))


@contextmanager
def messages(scale: Scale) -> Iterator[Measure]:
    """The longest wait of a task that sleeps for 1 ms, while LangChain messages, 1 MB, are read."""
    chosen = chat("thread", scale.pick(20, 3), state_bytes=MEGABYTE, message=langchain_message)
    with Stored([chosen]) as stored:
        yield _stalling(stored, len(chosen))


def _stalling(stored: Stored, reads: int) -> Measure:
    async def measure(contestant: Contestant, path: Path) -> Measurement:
        async with stored.open_async(contestant, path) as saver:
            await saver.aget_tuple(config_of("no such thread"))
            return {
                "alist": await longest_wait(_list(saver)) * 1_000,
                "aget_tuple": await longest_wait(_get(saver, reads)) * 1_000,
            }

    return lambda contestant, path: asyncio.run(measure(contestant, path))


async def longest_wait(work: Coroutine[Any, Any, None]) -> float:
    """Run `work` beside a ticking task; return the most seconds between two ticks."""
    gaps: list[float] = []
    ticker = asyncio.create_task(_tick(gaps))
    await asyncio.sleep(0)
    await work
    await asyncio.sleep(2 * TICK)
    ticker.cancel()
    return max(gaps)


async def _tick(gaps: list[float]) -> None:
    last = perf_counter()
    while True:
        await asyncio.sleep(TICK)
        now = perf_counter()
        gaps.append(now - last)
        last = now


async def _list(saver: Saver) -> None:
    async for _ in saver.alist(config_of("thread")):
        pass


async def _get(saver: Saver, times: int) -> None:
    for _ in range(times):
        await saver.aget_tuple(config_of("thread"))


_BAR = [at_most(25, OURS_NORMAL)]
_METRICS = [
    Metric("alist", "ms, longest, alist", _BAR, summary="worst"),
    Metric("aget_tuple", "ms, longest, aget_tuple", _BAR, summary="worst"),
]

BENCHMARKS = (
    Benchmark("loop-stall", dicts, READERS, _METRICS),
    Benchmark("loop-stall-messages", messages, READERS, _METRICS),
)
