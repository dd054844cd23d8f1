"""The table on the terminal, and where this library loses."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

from benchmarks.benchmark import Bar, Result, ratio
from benchmarks.contestants import (
    BARE_FULL,
    BARE_NORMAL,
    CONTESTANTS,
    IN_MEMORY,
    OFFICIAL_FULL,
    OFFICIAL_NORMAL,
    OURS_FULL,
    OURS_NORMAL,
)

RIVALS = {
    OURS_NORMAL: (OFFICIAL_NORMAL, IN_MEMORY, BARE_NORMAL),
    OURS_FULL: (OFFICIAL_FULL, BARE_FULL),
}
"""With whom each is compared to find the lost cases: equal settings, and nothing on disk once."""


def verdict(bar: Bar, result: Result) -> str:
    """Met, missed, or nothing where a contestant was left out."""
    value = bar.value(result.values)
    return "" if value is None else "met" if bar.met(value) else "MISSED"


def number(value: float | None) -> str:
    """Three digits that count."""
    if value is None:
        return ""
    if math.isinf(value):
        return "∞"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def header(environment: dict[str, Any]) -> str:
    """Versions, settings and machine in a few lines."""
    versions = (f"{name} {found or '-'}" for name, found in environment["versions"].items())
    machine, settings = environment["machine"], environment["settings"]
    synchronous = "; ".join(f"{who}: {how}" for who, how in settings["synchronous"].items())
    quick = ", small sizes (--quick): not to be quoted" if settings["quick"] else ""
    cores = f"{machine['cpus']} cores, load {machine['load']:.1f}"
    lines = [
        f"{environment['date']}, {cores}, {machine['platform']}",
        ", ".join(versions),
        f"files in {machine['folder']}, where an fsync takes {machine['fsync_us']:.0f} µs",
        f"synchronous: {synchronous}",
        f"medians of {settings['rounds']} interleaved rounds (errors: of all; longest and slowest: "
        f"the worst of all){quick}",
    ]
    return "\n".join(lines)


def table(results: Sequence[Result]) -> str:
    """One line for each metric, and one for each bar after its first."""
    names = [name.partition(" ") for name in CONTESTANTS]
    heads = [
        ["", "", *(name for name, _, _ in names), "", "", "", ""],
        ["benchmark", "measured", *(level for _, _, level in names), "bar on", "is", "bar", ""],
    ]
    rows = [row for result in results for row in _rows(result)]
    widths = [max(map(len, column)) for column in zip(*heads, *rows, strict=True)]
    rule = ["─" * width for width in widths]
    return "\n".join(_line(cells, widths) for cells in (*heads, rule, *rows))


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    """Numbers to the right, words to the left."""
    words = {0, 1, 2 + len(CONTESTANTS), len(widths) - 1}
    aligned = (
        cell.ljust(width) if place in words else cell.rjust(width)
        for place, (cell, width) in enumerate(zip(cells, widths, strict=True))
    )
    return "  ".join(aligned).rstrip()


def losses(results: Sequence[Result]) -> str:
    """Every case in which another contestant is better than ours."""
    lines = [line for result in results for line in _losses(result)]
    return "\n".join(("Where this library loses:", *(lines or ["  nowhere in this run"])))


def score(results: Sequence[Result]) -> str:
    """How many bars are met."""
    verdicts = [verdict(bar, result) for result in results for bar in result.metric.bars]
    return f"{verdicts.count('met')} bars met, {verdicts.count('MISSED')} missed"


def _rows(result: Result) -> Iterator[list[str]]:
    values = [number(result.values.get(name)) for name in CONTESTANTS]
    start = [result.benchmark.name, result.metric.label, *values]
    if not result.metric.bars:
        yield [*start, "", "", "", ""]
    for bar in result.metric.bars:
        value = bar.value(result.values)
        yield [*start, bar.compared, number(value), str(bar), verdict(bar, result)]
        start = [""] * len(start)


def _losses(result: Result) -> Iterator[str]:
    """A line for each of ours that someone is better than, naming them all."""
    for ours, rivals in RIVALS.items():
        if better := [rival for rival in rivals if _loses(result, ours, rival)]:
            mine = result.values[ours]
            found = ", ".join(
                f"{rival} {number(result.values[rival])} "
                f"({number(ratio(mine, result.values[rival]))} ×)"
                for rival in better
            )
            place = f"{result.benchmark.name}, {result.metric.label}"
            yield f"  {place}: {ours} {number(mine)} to {found}"


def _loses(result: Result, ours: str, rival: str) -> bool:
    if not {ours, rival} <= result.values.keys():
        return False
    difference = result.values[ours] - result.values[rival]
    return difference < 0 if result.metric.more_is_better else difference > 0
