"""Why the PRAGMAs are as they are: `python -m benchmarks.pragmas`.

Each row changes one default of `langgraph_sqlite_saver.database` and measures it against them, in
interleaved rounds on fresh files: saving, reading, reading behind another connection's commits, a
1 MB state, and a full VACUUM.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from langgraph_sqlite_saver import SqliteSaver

from .workload import Pair, chat, config_of

DEFAULTS = "the defaults"
ALTERNATIVES: dict[str, dict[str, str | int]] = {
    DEFAULTS: {},
    "synchronous=FULL": {"synchronous": "FULL"},
    "auto_vacuum=NONE": {"auto_vacuum": "NONE"},
    "wal_autocheckpoint=1000": {"wal_autocheckpoint": 1000},
    "wal_autocheckpoint=4000": {"wal_autocheckpoint": 4000},
    "wal_autocheckpoint=16000": {"wal_autocheckpoint": 16000},
    "cache_size=-64000": {"cache_size": -64000},
    "temp_store=MEMORY": {"temp_store": "MEMORY"},
    "mmap_size=256 MB": {"mmap_size": 268435456},
    "page_size=2048": {"page_size": 2048},
    "page_size=8192": {"page_size": 8192},
}
ROUNDS = 9


def measure(directory: Path, pragmas: dict[str, str | int], inputs: Sequence[list[Pair]]) -> dict:
    """One round with one setting: what is measured -> microseconds (MB for the file)."""
    small, large = inputs[:-1], inputs[-1]
    path = directory / "checkpoints.db"
    with SqliteSaver(path, pragmas=pragmas) as saver, SqliteSaver(path, pragmas=pragmas) as other:
        saver.setup()
        other.setup()
        figures = {"a pair saved": per(small, lambda pair: save(saver, pair))}
        heads = [config_of(pairs[0].thread_id) for pairs in small]
        figures["read"] = timed(lambda: [saver.get_tuple(head) for head in heads]) / len(heads)
        figures["read after a commit"] = read_behind(saver, other, small, heads)
        figures["1 MB saved"] = per([large], lambda pair: save(saver, pair))
        head = config_of(large[0].thread_id)
        figures["1 MB read"] = timed(lambda: saver.get_tuple(head))
        figures["VACUUM"] = timed(lambda: saver.optimize(vacuum="full"))
    figures["file MB"] = path.stat().st_size / 1e6
    return figures


def read_behind(
    saver: SqliteSaver, other: SqliteSaver, small: Sequence[list[Pair]], heads: Sequence
) -> float:
    """A read, when another connection has committed since the last one."""
    total = 0.0
    for pairs, head in zip(small, heads, strict=True):
        other.put_writes(pairs[-1].saved_config, pairs[-1].writes, "another task")
        total += timed(lambda head=head: saver.get_tuple(head))
    return total / len(heads)


def save(saver: SqliteSaver, pair: Pair) -> None:
    """One superstep."""
    saver.put(pair.config, pair.checkpoint, pair.metadata, pair.new_versions)
    saver.put_writes(pair.saved_config, pair.writes, pair.task_id, pair.task_path)


def per(threads: Sequence[list[Pair]], work: Callable[[Pair], None]) -> float:
    """Microseconds for each pair."""
    pairs = [pair for thread in threads for pair in thread]
    return timed(lambda: [work(pair) for pair in pairs]) / len(pairs)


def timed(work: Callable[[], object]) -> float:
    """Microseconds."""
    started = time.perf_counter()
    work()
    return (time.perf_counter() - started) * 1e6


def main() -> None:
    """Measure every alternative and print the medians."""
    inputs = [chat(f"thread {number}", 20) for number in range(60)]
    inputs.append(chat("large", 6, state_bytes=1_000_000))
    rounds: dict[str, list[dict]] = {name: [] for name in ALTERNATIVES}
    for _ in range(ROUNDS):
        for name, pragmas in ALTERNATIVES.items():
            with tempfile.TemporaryDirectory() as directory:
                rounds[name].append(measure(Path(directory), pragmas, inputs))
    columns = list(rounds[DEFAULTS][0])
    print(f"microseconds, medians of {ROUNDS} rounds")
    print(f"{'':26}" + "".join(f"{column:>21}" for column in columns))
    for name, found in rounds.items():
        medians = [statistics.median(each[column] for each in found) for column in columns]
        print(f"{name:26}" + "".join(f"{median:21,.1f}" for median in medians))


if __name__ == "__main__":
    main()
