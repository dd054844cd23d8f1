"""Rounds: in each one every contestant is measured once, in an order that changes."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.benchmark import Benchmark, Measure, Measurement, Metric, Result, Scale
from benchmarks.contestants import CONTESTANTS

Measurements = dict[str, list[Measurement]]


def run(benchmark: Benchmark, scale: Scale, rounds: int, without: Sequence[str]) -> list[Result]:
    """Measure every contestant but those `without` whose name begins so."""
    names = [name for name in benchmark.contestants if not name.startswith(tuple(without))]
    taken: Measurements = {name: [] for name in names}
    with benchmark.prepare(scale) as measure, _inputs_out_of_reach_of_gc():
        for turn in range(benchmark.rounds or rounds):
            for name in _in_turn(names, turn):
                taken[name].append(_measure_once(benchmark, measure, name))
    return _results(benchmark, taken)


def _in_turn(names: Sequence[str], turn: int) -> Sequence[str]:
    """Another one first each time, and back to front every other time.

    What one leaves to the disk and the caches is then not always met by the same next one.
    """
    first = turn % max(1, len(names))
    order = [*names[first:], *names[:first]]
    return order[::-1] if turn % 2 else order


def _measure_once(benchmark: Benchmark, measure: Measure, name: str) -> Measurement:
    gc.collect()
    with TemporaryDirectory(prefix="benchmark-") as folder, _cores(benchmark.one_core):
        return measure(CONTESTANTS[name], Path(folder) / "checkpoints.sqlite")


def _results(benchmark: Benchmark, taken: Measurements) -> list[Result]:
    return [Result(benchmark, metric, _of(metric, taken)) for metric in benchmark.metrics]


def _of(metric: Metric, taken: Measurements) -> dict[str, list[float]]:
    """The rounds of a metric, without those who did not measure it."""
    return {
        name: [round_[metric.key] for round_ in rounds]
        for name, rounds in taken.items()
        if all(metric.key in round_ for round_ in rounds)
    }


@contextmanager
def _inputs_out_of_reach_of_gc() -> Iterator[None]:
    """Keep the collector from going through the prepared inputs while the clock runs."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


@contextmanager
def _cores(one: bool) -> Iterator[None]:
    """Bind every thread of this process to one core; threads started meanwhile inherit it."""
    if not one or not hasattr(os, "sched_setaffinity"):
        yield
        return
    every = os.sched_getaffinity(0)
    _bind({min(every)})
    try:
        yield
    finally:
        _bind(every)


def _bind(cores: set[int]) -> None:
    for thread in Path("/proc/self/task").iterdir():
        try:
            os.sched_setaffinity(int(thread.name), cores)
        except ProcessLookupError:
            continue
