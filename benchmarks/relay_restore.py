"""How long a Redis that has lost everything is without it."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

from benchmarks.benchmark import Benchmark, Measure, Measurement, Metric, Scale, at_most
from benchmarks.contestants import OURS_NORMAL, Contestant
from benchmarks.relay_data import account, api_key
from benchmarks.relay_server import Server, serving
from langgraph_sqlite_saver.relay import RelayStore


@contextmanager
def restoring(scale: Scale) -> Iterator[Measure]:
    """restore() of 10,000 API keys and 1,000 accounts, with their indexes, to an empty Redis."""
    keys, accounts = scale.pick(10_000, 200), scale.pick(1_000, 20)
    with serving() as server, TemporaryDirectory(prefix="benchmark-restore-") as folder:
        original = Path(folder) / "relay.db"
        _fill(original, server, keys, accounts)
        had = server.control.dbsize()

        def measure(contestant: Contestant, path: Path) -> Measurement:
            shutil.copy(original, path)
            server.flush()
            with RelayStore(path, server.url, heal=False) as store:
                start = perf_counter()
                found = store.restore()
                seconds = perf_counter() - start
            if (found.api_keys, found.accounts, server.control.dbsize()) != (keys, accounts, had):
                raise LookupError(f"restored only {found}")
            return {"seconds": seconds}

        yield measure


def _fill(path: Path, server: Server, keys: int, accounts: int) -> None:
    rng = random.Random("restore")
    with RelayStore(path, server.url) as store:
        for _ in range(keys):
            store.save_api_key(api_key(rng))
        for _ in range(accounts):
            store.save_account("claude", account(rng))


BENCHMARKS = (
    Benchmark(
        "relay-restore",
        restoring,
        (OURS_NORMAL,),
        [Metric("seconds", "s, 11,000 records", [at_most(3, OURS_NORMAL)])],
        rounds=5,
    ),
)
