"""The async saver under one task and under 64, on one core and on all.

The official saver hops to its thread for every statement, which costs more where the two threads
are on different cores, so the ratios differ a great deal between the two.
"""

from __future__ import annotations

import asyncio
import random
import statistics
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from time import perf_counter

from benchmarks.benchmark import Benchmark, Measure, Measurement, Metric, Scale, at_least, at_most
from benchmarks.contestants import (
    OFFICIAL_FULL,
    OFFICIAL_NORMAL,
    OURS_FULL,
    OURS_NORMAL,
    READERS,
    SAVERS,
    Contestant,
    Saver,
)
from benchmarks.stored import Stored
from benchmarks.workload import Pair, chat, config_of

TASKS = 64


@contextmanager
def many_tasks(scale: Scale) -> Iterator[Measure]:
    """aput + aput_writes of small states from 64 tasks at once."""
    chats = [chat(f"task {number}", scale.pick(24, 2)) for number in range(TASKS)]
    yield _saving(chats)


@contextmanager
def one_task(scale: Scale) -> Iterator[Measure]:
    """aput + aput_writes of a small state from one task, one call after the other."""
    yield _saving([chat("task", scale.pick(1_500, 30))])


@contextmanager
def many_readers(scale: Scale) -> Iterator[Measure]:
    """aget_tuple of the newest small state of 256 threads, from 64 tasks at once."""
    threads = [f"thread {number}" for number in range(scale.pick(256, 64))]
    order = threads * scale.pick(8, 2)
    random.Random("readers").shuffle(order)
    with Stored([chat(thread, 3) for thread in threads]) as stored:

        def measure(contestant: Contestant, path: Path) -> Measurement:
            return asyncio.run(_read_at_once(contestant, path, stored, order))

        yield measure


def _saving(chats: Sequence[Sequence[Pair]]) -> Measure:
    def measure(contestant: Contestant, path: Path) -> Measurement:
        return asyncio.run(_save_at_once(contestant, path, chats))

    return measure


async def _save_at_once(
    contestant: Contestant, path: Path, chats: Sequence[Sequence[Pair]]
) -> Measurement:
    async with contestant.open_async(path) as saver:
        await _save(saver, chat("warm-up", 5))
        start = perf_counter()
        by_task = await asyncio.gather(*(_save(saver, pairs) for pairs in chats))
        elapsed = perf_counter() - start
    latencies = [latency for task in by_task for latency in task]
    return {"pairs": len(latencies) / elapsed, "p99": _percentile_99(latencies) * 1_000}


async def _save(saver: Saver, pairs: Sequence[Pair]) -> list[float]:
    """Save pairs one after the other; return the seconds that each took."""
    latencies = []
    for pair in pairs:
        start = perf_counter()
        await saver.aput(pair.config, pair.checkpoint, pair.metadata, pair.new_versions)
        await saver.aput_writes(pair.saved_config, pair.writes, pair.task_id, pair.task_path)
        latencies.append(perf_counter() - start)
    return latencies


async def _read_at_once(
    contestant: Contestant, path: Path, stored: Stored, order: Sequence[str]
) -> Measurement:
    async with stored.open_async(contestant, path) as saver:
        await saver.aget_tuple(config_of("no such thread"))
        start = perf_counter()
        await asyncio.gather(*(_read(saver, order[task::TASKS]) for task in range(TASKS)))
        return {"reads": len(order) / (perf_counter() - start)}


async def _read(saver: Saver, threads: Sequence[str]) -> None:
    for thread in threads:
        if await saver.aget_tuple(config_of(thread)) is None:
            raise LookupError(f"{thread} was saved but not found")


def _percentile_99(values: Sequence[float]) -> float:
    return statistics.quantiles(values, n=100)[98]


_ALL_CORES = (
    Benchmark(
        "aput-tasks",
        many_tasks,
        SAVERS,
        [
            Metric(
                "pairs",
                "pairs/s, 64 tasks",
                [at_least(6, OURS_FULL, OFFICIAL_FULL)],
                more_is_better=True,
            ),
            Metric("p99", "ms for a pair, p99", [at_most(1, OURS_FULL, OFFICIAL_FULL)]),
        ],
    ),
    Benchmark(
        "aput",
        one_task,
        SAVERS,
        [
            Metric(
                "pairs",
                "pairs/s, one task",
                [at_least(1.8, OURS_NORMAL, OFFICIAL_NORMAL)],
                more_is_better=True,
            )
        ],
    ),
    Benchmark(
        "aget_tuple-tasks",
        many_readers,
        READERS,
        [
            Metric(
                "reads",
                "reads/s, 64 tasks",
                [at_least(6, OURS_NORMAL, OFFICIAL_NORMAL)],
                more_is_better=True,
            )
        ],
    ),
)
_ONE_CORE = tuple(
    replace(benchmark, name=f"{benchmark.name}-1core", one_core=True) for benchmark in _ALL_CORES
)
BENCHMARKS = _ALL_CORES + _ONE_CORE
