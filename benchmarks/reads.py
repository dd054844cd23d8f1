"""Reading one state, and listing a thread's history."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter

from benchmarks.benchmark import Benchmark, Measure, Measurement, Metric, Scale, at_least, at_most
from benchmarks.contestants import OFFICIAL_NORMAL, OURS_NORMAL, READERS, Contestant, Saver
from benchmarks.stored import Stored
from benchmarks.workload import chat, config_of, long_message

MEGABYTE = 1_000_000


@contextmanager
def small_states(scale: Scale) -> Iterator[Measure]:
    """get_tuple of the newest small state, another thread each time."""
    threads = [f"thread {number}" for number in range(scale.pick(1_000, 20))]
    with Stored([chat(thread, 3) for thread in threads]) as stored:
        yield _reading(stored, threads, again=10)


@contextmanager
def large_states(scale: Scale) -> Iterator[Measure]:
    """get_tuple of the newest state of 1 MB, another thread each time."""
    threads = [f"thread {number}" for number in range(scale.pick(16, 3))]
    chats = [chat(thread, 1, state_bytes=MEGABYTE, message=long_message) for thread in threads]
    with Stored(chats) as stored:
        yield _reading(stored, threads, again=10)


@contextmanager
def history(scale: Scale) -> Iterator[Measure]:
    """list(limit=100) of a thread of small states with three pending writes each."""
    times = scale.pick(50, 1)
    with Stored([chat("thread 0", 200, writes=3)]) as stored:

        def measure(contestant: Contestant, path: Path) -> Measurement:
            with stored.open(contestant, path) as saver:
                _list(saver)
                start = perf_counter()
                for _ in range(times):
                    _list(saver)
                return {"list": (perf_counter() - start) / times * 1_000}

        yield measure


@contextmanager
def async_history(scale: Scale) -> Iterator[Measure]:
    """alist(limit=100) of a thread of small states with three pending writes each."""
    times = scale.pick(50, 1)
    with Stored([chat("thread 0", 200, writes=3)]) as stored:

        async def measure(contestant: Contestant, path: Path) -> Measurement:
            async with stored.open_async(contestant, path) as saver:
                await _alist(saver)
                start = perf_counter()
                for _ in range(times):
                    await _alist(saver)
                return {"list": (perf_counter() - start) / times * 1_000}

        yield lambda contestant, path: asyncio.run(measure(contestant, path))


def _reading(stored: Stored, threads: Sequence[str], again: int) -> Measure:
    """Read every thread once, then `again` times more; only there can a cache help."""
    names = list(threads)
    random.Random("reading").shuffle(names)

    def measure(contestant: Contestant, path: Path) -> Measurement:
        with stored.open(contestant, path) as saver:
            saver.get_tuple(config_of("no such thread"))
            return {"first": _reads_per_second(saver, names)} | {
                "again": _reads_per_second(saver, names * again)
            }

    return measure


def _reads_per_second(saver: Saver, threads: list[str]) -> float:
    start = perf_counter()
    for thread in threads:
        if saver.get_tuple(config_of(thread)) is None:
            raise LookupError(f"{thread} was saved but not found")
    return len(threads) / (perf_counter() - start)


def _list(saver: Saver) -> None:
    _complete(len(list(saver.list(config_of("thread 0"), limit=100))))


async def _alist(saver: Saver) -> None:
    _complete(len([found async for found in saver.alist(config_of("thread 0"), limit=100)]))


def _complete(found: int) -> None:
    if found != 100:
        raise LookupError(f"100 checkpoints were asked for, {found} came")


def _reading_metrics(limit: float) -> list[Metric]:
    bars = [at_least(limit, OURS_NORMAL, OFFICIAL_NORMAL)]
    return [
        Metric("again", "reads/s", bars, more_is_better=True),
        Metric("first", "reads/s, never read before", bars, more_is_better=True),
    ]


def _listing_metrics(limit: float) -> list[Metric]:
    return [Metric("list", "ms for 100", [at_most(limit, OURS_NORMAL, OFFICIAL_NORMAL)])]


BENCHMARKS = (
    Benchmark("get_tuple", small_states, READERS, _reading_metrics(0.75)),
    Benchmark("get_tuple-1MB", large_states, READERS, _reading_metrics(1.0)),
    Benchmark("list", history, READERS, _listing_metrics(0.8)),
    Benchmark("alist", async_history, READERS, _listing_metrics(0.2)),
)
