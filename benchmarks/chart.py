"""The bars as a picture: how many times better, or worse, than asked for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.benchmark import Bar, Result
from benchmarks.report import number, score

MET, MISSED, INK, GRID = "#2a9d8f", "#e4572e", "#333333", "#dddddd"
FURTHEST = 100


class Line(NamedTuple):
    """One horizontal bar of the picture."""

    label: str
    margin: float
    note: str
    colour: str


def write(path: Path, environment: dict[str, Any], results: Sequence[Result]) -> None:
    """Draw each bar's margin on a log axis on which 1 is the bar itself."""
    from matplotlib.figure import Figure

    lines = _lines(results)[::-1]
    figure = Figure(figsize=(11, 1.6 + 0.3 * len(lines)), layout="constrained")
    axes = figure.add_subplot()
    _draw(axes, lines)
    _dress(axes, lines)
    axes.set_title(_title(environment, results), fontsize=10, loc="left")
    figure.savefig(path, dpi=130)


def _lines(results: Sequence[Result]) -> list[Line]:
    return [
        _line(result, bar, value)
        for result in results
        for bar in result.metric.bars
        if (value := bar.value(result.values)) is not None
    ]


def _line(result: Result, bar: Bar, value: float) -> Line:
    return Line(
        f"{result.benchmark.name}: {result.metric.label}  [{bar.compared}]",
        min(max(bar.margin(value), 1 / FURTHEST), FURTHEST),
        f"{number(value)}  (bar {bar})",
        MET if bar.met(value) else MISSED,
    )


def _draw(axes: Any, lines: Sequence[Line]) -> None:
    axes.barh(
        range(len(lines)),
        [line.margin - 1 for line in lines],
        left=1,
        height=0.6,
        color=[line.colour for line in lines],
    )
    for place, line in enumerate(lines):
        axes.annotate(
            line.note,
            (max(line.margin, 1), place),
            xytext=(5, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
            color=line.colour,
        )


def _dress(axes: Any, lines: Sequence[Line]) -> None:
    margins = [line.margin for line in lines]
    axes.set_xscale("log")
    axes.set_xlim(min([0.5, *margins]) * 0.8, max([2, *margins]) * 2.5)
    axes.set_ylim(-0.7, len(lines) - 0.3)
    axes.axvline(1, color=INK, linewidth=1)
    axes.set_yticks(range(len(lines)), [line.label for line in lines], fontsize=8)
    axes.xaxis.set_major_formatter(lambda tick, _: f"{tick:g}")
    axes.xaxis.set_minor_formatter(lambda tick, _: "")
    axes.set_xlabel("times better than the bar (1 = just met)", fontsize=9)
    axes.grid(axis="x", color=GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)


def _title(environment: dict[str, Any], results: Sequence[Result]) -> str:
    versions, machine = environment["versions"], environment["machine"]
    return (
        f"{score(results)}\n"
        f"langgraph-checkpoint-sqlite {versions['langgraph-checkpoint-sqlite']}, "
        f"SQLite {versions['sqlite']}, Python {versions['python']}, {machine['cpus']} cores, "
        f"fsync {machine['fsync_us']:.0f} µs, {environment['date'][:10]}"
    )
