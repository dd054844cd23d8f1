"""How large a file grows, and how long a fresh one takes to open."""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter

from benchmarks.benchmark import Benchmark, Measure, Measurement, Metric, Scale, at_most
from benchmarks.contestants import (
    BARE,
    OFFICIAL_NORMAL,
    OURS_NORMAL,
    SAVERS_ON_DISK,
    Contestant,
)
from benchmarks.workload import Pair, wide


@contextmanager
def file_size(scale: Scale) -> Iterator[Measure]:
    """Bytes on disk after 1,000 steps of 8 channels of 2 KB, one of which changes per step."""
    steps = scale.pick(1_000, 100)
    alone = wide("thread", steps, writes=False)
    with_writes = wide("thread", steps, writes=True)

    def measure(contestant: Contestant, path: Path) -> Measurement:
        beside = path.with_name("with-writes.sqlite")
        return {
            "checkpoints": _megabytes_of(contestant, path, alone),
            "writes": _megabytes_of(contestant, beside, with_writes),
        }

    yield measure


@contextmanager
def fresh_file(scale: Scale) -> Iterator[Measure]:
    """Opening a file that does not exist yet, tables included, and closing it."""
    files = scale.pick(15, 3)

    def measure(contestant: Contestant, path: Path) -> Measurement:
        times = []
        for number in range(files):
            start = perf_counter()
            contestant.create(path.with_name(f"{number}.sqlite"))
            times.append(perf_counter() - start)
        return {"open": statistics.median(times) * 1_000}

    yield measure


@contextmanager
def fresh_file_async(scale: Scale) -> Iterator[Measure]:
    """The same with the async saver, in an event loop that runs already."""
    files = scale.pick(15, 3)

    async def measure(contestant: Contestant, path: Path) -> Measurement:
        times = []
        for number in range(files):
            start = perf_counter()
            await contestant.create_async(path.with_name(f"{number}.sqlite"))
            times.append(perf_counter() - start)
        return {"open": statistics.median(times) * 1_000}

    yield lambda contestant, path: asyncio.run(measure(contestant, path))


def _megabytes_of(contestant: Contestant, path: Path, pairs: list[Pair]) -> float:
    """Store pairs in a new file, close it and weigh it with what it left beside it."""
    with contestant.writer(path) as writer:
        for pair in pairs:
            writer.put(pair)
            if pair.writes:
                writer.put_writes(pair)
    return megabytes(path)


def megabytes(path: Path) -> float:
    """What a file weighs, with what was left beside it."""
    return sum(file.stat().st_size for file in path.parent.glob(f"{path.name}*")) / 1_000_000


_OPENING = [Metric("open", "ms to open and close", [at_most(10, OURS_NORMAL)])]

BENCHMARKS = (
    Benchmark(
        "file-size",
        file_size,
        (OURS_NORMAL, OFFICIAL_NORMAL),
        [
            Metric("checkpoints", "MB, checkpoints", [at_most(0.2, OURS_NORMAL, OFFICIAL_NORMAL)]),
            Metric("writes", "MB, with the steps' writes"),
        ],
        rounds=1,
    ),
    Benchmark("open", fresh_file, (*SAVERS_ON_DISK, *BARE), _OPENING),
    Benchmark("open-async", fresh_file_async, SAVERS_ON_DISK, _OPENING),
)
