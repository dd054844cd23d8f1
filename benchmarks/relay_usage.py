"""How many requests a second can be recorded, and what they weigh."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from time import perf_counter

from benchmarks.benchmark import Bar, Benchmark, Measure, Measurement, Metric, Scale, at_most
from benchmarks.contestants import OURS_NORMAL, Contestant
from benchmarks.files import megabytes
from benchmarks.relay_data import account, api_key, usage_records
from benchmarks.relay_server import serving
from langgraph_sqlite_saver.relay import RelayStore, UsageRecord

KEYS = 100
ACCOUNTS = 10


@contextmanager
def recording(scale: Scale) -> Iterator[Measure]:
    """record_usage of 100,000 requests one by one, of 100 API keys, from first call to flush()."""
    rng = random.Random("usage")
    count = scale.pick(100_000, 5_000)
    keys = [api_key(rng) for _ in range(KEYS)]
    accounts = [account(rng) for _ in range(ACCOUNTS)]
    ids = [fields["id"] for fields in keys], [fields["id"] for fields in accounts]
    plain = usage_records(rng, count, *ids, extra=False)
    full = usage_records(rng, count, *ids, extra=True)
    with serving() as server:

        def measure(contestant: Contestant, path: Path) -> Measurement:
            found = {}
            for name, records in (("", plain), ("extra_", full)):
                server.flush()
                file = path.with_name(f"{name}usage.db")
                with RelayStore(file, server.url) as store:
                    _save(store, keys, accounts)
                    found[f"{name}rate"] = _rate(store, records)
                    found[f"{name}size"] = _checkpointed(file)
                    _check(store, records)
            return found

        yield measure


def _save(
    store: RelayStore, keys: Sequence[dict[str, str]], accounts: Sequence[dict[str, str]]
) -> None:
    for fields in keys:
        store.save_api_key(fields)
    for fields in accounts:
        store.save_account("claude", fields)


def _rate(store: RelayStore, records: Sequence[UsageRecord]) -> float:
    """Records a second."""
    start = perf_counter()
    for record in records:
        store.record_usage(record)
    store.flush()
    return len(records) / (perf_counter() - start)


def _checkpointed(path: Path) -> float:
    """The megabytes of a file whose -wal was emptied."""
    with closing(sqlite3.connect(path)) as conn:
        conn.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return megabytes(path)


def _check(store: RelayStore, records: Sequence[UsageRecord]) -> None:
    counted = sum(totals.requests for totals in store.usage_totals(by="month"))
    stored = store.stats()["usageRecordsCount"]
    if not counted == stored == len(records):
        raise LookupError(f"{len(records)} records: {stored} are stored, {counted} counted")


BENCHMARKS = (
    Benchmark(
        "relay-usage",
        recording,
        (OURS_NORMAL,),
        [
            Metric(
                "rate",
                "records/s",
                [Bar(OURS_NORMAL, 50_000, at_least=True)],
                more_is_better=True,
            ),
            Metric("size", "MB, with indexes", [at_most(40, OURS_NORMAL)]),
            Metric("extra_rate", "records/s, with extra", more_is_better=True),
            Metric("extra_size", "MB, with extra"),
        ],
        rounds=5,
    ),
)
