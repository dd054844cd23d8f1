"""Moving threads to a Postgres on this machine, which shares its cores, and back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

from benchmarks.benchmark import Bar, Benchmark, Measure, Measurement, Metric, Scale
from benchmarks.contestants import CONTESTANTS, OURS_NORMAL, Contestant
from benchmarks.workload import chat
from benchmarks.writes import save
from langgraph_sqlite_saver.transfer import Transferred, from_postgres, to_postgres
from tests.transfer.postgres_server import PostgresServer

THREADS, STEPS = 200, 100
STATE_BYTES = 2_000


@contextmanager
def moving(scale: Scale) -> Iterator[Measure]:
    """to_postgres and from_postgres of 20,000 checkpoints, 2 KB of state that changes each step."""
    threads, steps = scale.pick(THREADS, 4), scale.pick(STEPS, 20)
    with (
        TemporaryDirectory(prefix="benchmark-postgres-") as folder,
        closing(PostgresServer(settings=())) as server,
    ):
        original = Path(folder) / "original.sqlite"
        with CONTESTANTS[OURS_NORMAL].writer(original) as writer:
            for number in range(threads):
                save(writer, chat(f"thread {number}", steps, state_bytes=STATE_BYTES))

        def measure(contestant: Contestant, path: Path) -> Measurement:
            uri = server.new_database()
            return {
                "there": _per_second(lambda: to_postgres(original, uri)),
                "again": _per_second(lambda: to_postgres(original, uri)),
                "back": _per_second(lambda: from_postgres(uri, path)),
            }

        yield measure


def _per_second(move: Callable[[], Transferred]) -> float:
    start = perf_counter()
    done = move()
    return (done.checkpoints + done.already_there) / (perf_counter() - start)


def _metric(key: str, label: str, bar: int) -> Metric:
    return Metric(key, label, [Bar(OURS_NORMAL, bar, True)], more_is_better=True)


BENCHMARKS = (
    Benchmark(
        "postgres",
        moving,
        (OURS_NORMAL,),
        [
            _metric("there", "checkpoints/s to Postgres", 3_000),
            _metric("again", "checkpoints/s that are there", 20_000),
            _metric("back", "checkpoints/s back", 3_000),
        ],
        rounds=3,
    ),
)
