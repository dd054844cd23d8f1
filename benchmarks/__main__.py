"""`python -m benchmarks`: measure, print the tables, write results.json and results.png.

Two groups have a table and results of their own: `--only relay`, relay.json and relay.png; and
`--only moves`.
"""

from __future__ import annotations

import argparse
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

from benchmarks import (
    chart,
    compaction,
    environment,
    files,
    graphs,
    history,
    history_reads,
    moves,
    processes,
    reads,
    relay,
    report,
    results,
    runner,
    stalls,
    tasks,
    writes,
)
from benchmarks.benchmark import Benchmark, Result, Scale

GROUPS = (
    writes,
    tasks,
    reads,
    graphs,
    files,
    history,
    history_reads,
    compaction,
    processes,
    stalls,
    moves,
    relay,
)
APART = (relay, moves)
BENCHMARKS: dict[str, Benchmark] = {
    benchmark.name: benchmark for group in GROUPS for benchmark in group.BENCHMARKS
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line; a missed bar is no error, a benchmark that raises is one."""
    options = _parser().parse_args(arguments)
    if options.list:
        _list()
        return 0
    rounds = options.rounds or (1 if options.quick else 11)
    about = environment.describe(quick=options.quick, rounds=rounds)
    for group in APART:
        about["versions"] |= group.versions()
    found, failed = _run(_chosen(options.only), Scale(options.quick), rounds, options.without)
    _print(about, found)
    for name, part in _parted(found).items():
        _write(options.out, name, about, part)
    if failed:
        print(f"\nfailed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    names = [*BENCHMARKS, *(group.NAME for group in APART)]
    parser.add_argument(
        "--only", nargs="+", metavar="NAME", choices=names, help="these only; relay, moves: groups"
    )
    parser.add_argument(
        "--without",
        nargs="+",
        metavar="NAME",
        default=[],
        help="leave out contestants whose name begins so, as in --without bare InMemory",
    )
    parser.add_argument("--rounds", type=int, metavar="N", help="rounds (default 11, 1 if quick)")
    parser.add_argument("--quick", action="store_true", help="small sizes, to see that all runs")
    parser.add_argument("--out", type=Path, metavar="DIR", default=Path("benchmarks/results"))
    parser.add_argument("--list", action="store_true", help="print the names and what they measure")
    return parser


def _chosen(only: Sequence[str] | None) -> list[Benchmark]:
    """All, or those that are named, alone or as a group."""
    groups = {group.NAME: [benchmark.name for benchmark in group.BENCHMARKS] for group in APART}
    names = (each for name in only or BENCHMARKS for each in groups.get(name, [name]))
    return [BENCHMARKS[name] for name in dict.fromkeys(names)]


def _parted(found: Sequence[Result]) -> dict[str, list[Result]]:
    """What was found of the savers, as "results", and of each group that stands apart."""
    names = {each.name: group.NAME for group in APART for each in group.BENCHMARKS}
    parts: dict[str, list[Result]] = {}
    for result in found:
        parts.setdefault(names.get(result.benchmark.name, "results"), []).append(result)
    return parts


def _list() -> None:
    width = max(map(len, BENCHMARKS))
    for benchmark in BENCHMARKS.values():
        core = " All on one core." if benchmark.one_core else ""
        print(f"{benchmark.name:{width}}  {benchmark.about}{core}")


def _run(
    benchmarks: Sequence[Benchmark], scale: Scale, rounds: int, without: Sequence[str]
) -> tuple[list[Result], list[str]]:
    found: list[Result] = []
    failed: list[str] = []
    for benchmark in benchmarks:
        start = perf_counter()
        try:
            found += runner.run(benchmark, scale, rounds, without)
        except Exception:
            traceback.print_exc()
            failed.append(benchmark.name)
        print(f"{benchmark.name}: {perf_counter() - start:.1f} s", file=sys.stderr, flush=True)
    return found, failed


def _print(about: dict[str, Any], found: Sequence[Result]) -> None:
    parts = [report.header(about)]
    for name, results_ in _parted(found).items():
        if name == "results":
            parts += [report.table(results_), report.losses(results_)]
        else:
            parts.append(relay.table(results_))
    for part in parts:
        print(f"\n{part}")
    print(f"\n{report.score(found)}")


def _write(folder: Path, name: str, about: dict[str, Any], found: Sequence[Result]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    results.write(folder / f"{name}.json", about, found)
    print(f"\nwrote {folder / f'{name}.json'}")
    try:
        chart.write(folder / f"{name}.png", about, found)
    except ImportError:
        print("no picture: matplotlib is not installed")
    else:
        print(f"wrote {folder / f'{name}.png'}")


if __name__ == "__main__":
    sys.exit(main())
