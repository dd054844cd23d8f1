"""What a benchmark is: contestants, what is measured of each, and the bars on it."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from benchmarks.contestants import Contestant

Measurement = dict[str, float]
Measure = Callable[[Contestant, Path], Measurement]
Summary = Literal["median", "mean", "worst", "total"]


@dataclass(frozen=True)
class Bar:
    """What one of our contestants must reach, as a ratio to another one or by itself."""

    ours: str
    limit: float
    at_least: bool
    against: str | None = None

    def value(self, values: Mapping[str, float]) -> float | None:
        """The number that the bar is on; None if a contestant was left out."""
        if self.ours not in values:
            return None
        if self.against is None:
            return values[self.ours]
        if self.against not in values:
            return None
        return ratio(values[self.ours], values[self.against])

    def met(self, value: float) -> bool:
        return value >= self.limit if self.at_least else value <= self.limit

    def margin(self, value: float) -> float:
        """How many times better than the bar; 1 is just met."""
        return ratio(value, self.limit) if self.at_least else ratio(self.limit, value)

    @property
    def compared(self) -> str:
        """What the number stands for, in two or three words."""
        who, _, how = self.ours.partition(" ")
        if self.against is None:
            return how
        other, _, other_how = self.against.partition(" ")
        return f"{how} ÷ {other_how if other == who else other}"

    def __str__(self) -> str:
        return f"{'≥' if self.at_least else '≤'} {self.limit:g}"


def at_least(limit: float, ours: str, against: str) -> Bar:
    """Our value over theirs is at least `limit`."""
    return Bar(ours, limit, True, against)


def at_most(limit: float, ours: str, against: str | None = None) -> Bar:
    """Our value, over theirs if there is one to compare with, is at most `limit`."""
    return Bar(ours, limit, False, against)


def ratio(value: float, other: float) -> float:
    """Equal values make 1, two zeros too."""
    if other:
        return value / other
    return math.inf if value else 1.0


@dataclass(frozen=True)
class Metric:
    """One number of each measurement."""

    key: str
    label: str
    bars: Sequence[Bar] = ()
    more_is_better: bool = False
    summary: Summary = "median"

    def summarise(self, rounds: Sequence[float]) -> float:
        """The number shown for all rounds."""
        if self.summary == "worst":
            return min(rounds) if self.more_is_better else max(rounds)
        if self.summary == "total":
            return sum(rounds)
        return statistics.median(rounds) if self.summary == "median" else statistics.mean(rounds)


@dataclass(frozen=True)
class Scale:
    """How much work a measurement does."""

    quick: bool = False

    def pick(self, full: int, quick: int) -> int:
        return quick if self.quick else full


@dataclass(frozen=True)
class Benchmark:
    """A measurement of every contestant, repeated in rounds.

    `prepare` makes the inputs and yields the function that takes one measurement, on a path where
    no file is yet. With `one_core` all threads of this process share one core while it measures.
    `rounds` is for what comes out the same every time.
    """

    name: str
    prepare: Callable[[Scale], AbstractContextManager[Measure]]
    contestants: Sequence[str]
    metrics: Sequence[Metric]
    one_core: bool = False
    rounds: int | None = None

    @property
    def about(self) -> str:
        """The first line of what `prepare` says it measures."""
        return (self.prepare.__doc__ or "").strip().partition("\n")[0]


@dataclass(frozen=True)
class Result:
    """What came out for one metric of one benchmark."""

    benchmark: Benchmark
    metric: Metric
    rounds: Mapping[str, Sequence[float]]
    values: Mapping[str, float] = field(init=False)

    def __post_init__(self) -> None:
        values = {name: self.metric.summarise(rounds) for name, rounds in self.rounds.items()}
        object.__setattr__(self, "values", values)
