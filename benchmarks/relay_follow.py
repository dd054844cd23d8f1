"""Following a Redis that a relay writes, and taking one over."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter

from benchmarks.benchmark import Benchmark, Measure, Measurement, Metric, Scale, at_most
from benchmarks.contestants import OURS_NORMAL, Contestant
from benchmarks.relay_data import fill
from benchmarks.relay_follower import to_stderr
from benchmarks.relay_server import Server, serving
from langgraph_sqlite_saver.relay import RelayStore
from langgraph_sqlite_saver.relay.follow import Follower

CHANGES = 20
PATIENCE = 60.0
POLL = 0.005


@contextmanager
def passes(scale: Scale) -> Iterator[Measure]:
    """A follower's look through 100,000 keys: into an empty file, and when nothing has changed."""
    with _filled(scale.pick(100_000, 2_000)) as server:

        def measure(contestant: Contestant, path: Path) -> Measurement:
            command = [sys.executable, "-m", "benchmarks.relay_follower", server.url, str(path)]
            ended = subprocess.run(command, check=True, stdout=subprocess.PIPE, timeout=600)
            return dict(json.loads(ended.stdout))

        yield measure


@contextmanager
def importing(scale: Scale) -> Iterator[Measure]:
    """import_from_redis of the same 100,000 keys into an empty file."""
    count = scale.pick(100_000, 2_000)
    with _filled(count) as server:

        def measure(contestant: Contestant, path: Path) -> Measurement:
            with RelayStore(path, server.url, heal=False) as store:
                start = perf_counter()
                found = store.import_from_redis()
                seconds = perf_counter() - start
            if found.keys != count:
                raise LookupError(f"of {count} keys came {found}")
            return {"seconds": seconds}

        yield measure


@contextmanager
def _filled(count: int) -> Iterator[Server]:
    with serving() as server:
        fill(server.control, count)
        yield server


# Notifications.


@contextmanager
def noticing(scale: Scale) -> Iterator[Measure]:
    """From an HSET in Redis until SQLite shows it, with notifications; the worst of 20 changes."""
    with _filled(scale.pick(10_000, 500)) as server:
        ids = [name[7:].decode() for name in server.control.scan_iter("apikey:*", count=1_000)]
        changes = scale.pick(CHANGES, 4)

        def measure(contestant: Contestant, path: Path) -> Measurement:
            with _following(path, server), RelayStore(path, None) as reader:
                watch = _Watch(reader, server, ids)
                watch.change(0)
                watch.wait()
                waits = watch.spread(changes)
            return {"worst": max(waits), "median": sorted(waits)[len(waits) // 2]}

        yield measure


@contextmanager
def _following(path: Path, server: Server) -> Iterator[None]:
    stop = threading.Event()
    with RelayStore(path, server.url, heal=False) as store:
        follower = Follower(store, enable_notifications=True, report=to_stderr)
        thread = threading.Thread(target=follower.run, args=(stop,))
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()


class _Watch:
    """Makes changes in Redis and looks until they are in SQLite."""

    def __init__(self, reader: RelayStore, server: Server, ids: Sequence[str]) -> None:
        self._reader, self._server, self._ids = reader, server, ids
        self._pending: dict[int, float] = {}
        self._waits: list[float] = []

    def spread(self, changes: int) -> list[float]:
        """The seconds that each of some changes took, which come at odd moments."""
        rng = random.Random("changes")
        self._waits.clear()
        for number in range(1, changes + 1):
            self.change(number)
            until = perf_counter() + rng.uniform(0, 0.7)
            while perf_counter() < until:
                self._look()
        self.wait()
        return self._waits

    def change(self, number: int) -> None:
        """Change one of the API keys."""
        self._pending[number] = perf_counter()
        self._server.control.hset(f"apikey:{self._id(number)}", "tokenLimit", f"{number + 7}")

    def _id(self, number: int) -> str:
        return self._ids[number % len(self._ids)]

    def wait(self) -> None:
        """Return when no change is waited for."""
        deadline = perf_counter() + PATIENCE
        while self._pending:
            if perf_counter() > deadline:
                raise TimeoutError(f"{len(self._pending)} changes never came")
            self._look()

    def _look(self) -> None:
        time.sleep(POLL)
        for number, since in [*self._pending.items()]:
            fields = self._reader.get_api_key(self._id(number))
            if fields is not None and fields["tokenLimit"] == f"{number + 7}":
                self._waits.append(perf_counter() - since)
                del self._pending[number]


BENCHMARKS = (
    Benchmark(
        "relay-follow",
        passes,
        (OURS_NORMAL,),
        [
            Metric("first", "s, first pass", [at_most(30, OURS_NORMAL)]),
            Metric("second", "s, nothing changed", [at_most(30, OURS_NORMAL)]),
            Metric("peak", "MB, peak of the process"),
        ],
        rounds=1,
    ),
    Benchmark(
        "relay-import",
        importing,
        (OURS_NORMAL,),
        [Metric("seconds", "s, 100,000 keys")],
        rounds=1,
    ),
    Benchmark(
        "relay-notice",
        noticing,
        (OURS_NORMAL,),
        [
            Metric("worst", "s, worst of 20", [at_most(5, OURS_NORMAL)], summary="worst"),
            Metric("median", "s, median"),
        ],
        rounds=1,
    ),
)
