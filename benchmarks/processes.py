"""Several processes on one file, and at the moment in which it comes into being."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.benchmark import Benchmark, Measure, Measurement, Metric, Scale, at_least, at_most
from benchmarks.contestants import (
    BARE,
    OFFICIAL_FULL,
    OFFICIAL_NORMAL,
    OURS_FULL,
    OURS_NORMAL,
    SAVERS_ON_DISK,
    Contestant,
)
from benchmarks.workers import Create, Save, Workers

SAVING = 4
OPENING = 8


@contextmanager
def saving(scale: Scale) -> Iterator[Measure]:
    """put + put_writes from four processes on one file, each in a thread of its own."""
    steps = scale.pick(1_000, 20)
    with Workers(SAVING) as workers:

        def measure(contestant: Contestant, path: Path) -> Measurement:
            contestant.create(path)
            outcomes = workers.run(Save(contestant.name, path, steps))
            started = min(outcome.started for outcome in outcomes)
            ended = max(outcome.ended for outcome in outcomes)
            errors = sum(len(outcome.errors) for outcome in outcomes)
            return {
                "pairs": (SAVING * steps - errors) / (ended - started),
                "slowest": max(outcome.slowest for outcome in outcomes) * 1_000,
                "errors": errors,
            }

        yield measure


@contextmanager
def opening(scale: Scale) -> Iterator[Measure]:
    """Eight processes opening a file that does not exist yet, at the same moment."""
    times = scale.pick(20, 5)
    with Workers(OPENING) as workers:

        def measure(contestant: Contestant, path: Path) -> Measurement:
            failed = errors = 0
            for number in range(times):
                job = Create(contestant.name, path.with_name(f"{number}.sqlite"))
                found = sum(len(outcome.errors) for outcome in workers.run(job))
                failed += found > 0
                errors += found
            return {"errors": errors, "failed": 100 * failed / times}

        yield measure


BENCHMARKS = (
    Benchmark(
        "processes",
        saving,
        (*SAVERS_ON_DISK, *BARE),
        [
            Metric(
                "pairs",
                "pairs/s, 4 processes",
                [
                    at_least(1, OURS_NORMAL, OFFICIAL_NORMAL),
                    at_least(1, OURS_FULL, OFFICIAL_FULL),
                ],
                more_is_better=True,
            ),
            Metric(
                "slowest",
                "ms, slowest save",
                [at_most(100, OURS_NORMAL), at_most(100, OURS_FULL)],
                summary="worst",
            ),
            Metric(
                "errors",
                "errors",
                [at_most(0, OURS_NORMAL), at_most(0, OURS_FULL)],
                summary="total",
            ),
        ],
    ),
    Benchmark(
        "processes-open",
        opening,
        (OURS_NORMAL, OURS_FULL, OFFICIAL_FULL),
        [
            Metric(
                "errors",
                "errors, 8 processes",
                [at_most(0, OURS_NORMAL), at_most(0, OURS_FULL)],
                summary="total",
            ),
            Metric("failed", "% of openings with one", summary="mean"),
        ],
    ),
)
