"""Importing a file of the official saver: how fast it is read, in how much memory, what is left."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

from benchmarks.benchmark import Bar, Benchmark, Measure, Measurement, Metric, Scale, at_most
from benchmarks.contestants import CONTESTANTS, OFFICIAL_NORMAL, OURS_NORMAL, Contestant
from benchmarks.conversations import chat_agent
from benchmarks.memory import peak_megabytes
from langgraph_sqlite_saver.transfer import import_official

# Of the chat with 50 KB of files, whose file is then 1 GB.
TURNS = 400


@contextmanager
def importing(scale: Scale) -> Iterator[Measure]:
    """import_official of a chat of 400 turns, a file of 1 GB, in a process of its own."""
    with TemporaryDirectory(prefix="benchmark-import-") as folder:
        old = Path(folder) / "official.sqlite"
        agent = chat_agent(scale.pick(TURNS, 6))
        with CONTESTANTS[OFFICIAL_NORMAL].open(old) as saver:
            agent.converse(saver)

        def measure(contestant: Contestant, path: Path) -> Measurement:
            command = [sys.executable, "-m", "benchmarks.importing", str(old), str(path)]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            found: Measurement = json.loads(done.stdout)
            return found

        yield measure


def main(old: str, new: str) -> None:
    """Import once; print the figures as JSON."""
    start = perf_counter()
    done = import_official(old, new)
    seconds = perf_counter() - start
    figures = {
        "speed": done.bytes_before / seconds / 1e6,
        "read": done.bytes_before / 1e6,
        "peak": peak_megabytes(),
        "times": done.bytes_before / done.bytes_after,
    }
    print(json.dumps(figures))


BENCHMARKS = (
    Benchmark(
        "import",
        importing,
        (OURS_NORMAL,),
        [
            Metric("speed", "MB/s read", [Bar(OURS_NORMAL, 60, True)], more_is_better=True),
            Metric("read", "MB, the old file"),
            Metric("peak", "MB of memory, at most", [at_most(300, OURS_NORMAL)]),
            Metric("times", "times smaller", [Bar(OURS_NORMAL, 50, True)], more_is_better=True),
        ],
        rounds=3,
    ),
)

if __name__ == "__main__":
    main(*sys.argv[1:])
