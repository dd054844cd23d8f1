"""What the store adds to reading an API key from a Redis that is up."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import redis
import redis.asyncio

from benchmarks.benchmark import Benchmark, Measure, Measurement, Metric, Scale, at_most
from benchmarks.contestants import OURS_NORMAL, Contestant
from benchmarks.relay_data import api_key
from benchmarks.relay_server import HOST, Server, serving
from benchmarks.relay_timing import in_turns, in_turns_async
from langgraph_sqlite_saver.relay import AsyncRelayStore, RelayStore

KEYS = 100
WARM_UP = 20


@contextmanager
def reading(scale: Scale) -> Iterator[Measure]:
    """get_api_key of 45 fields in turns with HGETALL by a client of the same settings."""
    rng = random.Random("reads")
    keys = [api_key(rng) for _ in range(KEYS)]
    ids = [rng.choice(keys)["id"] for _ in range(scale.pick(1_000, 100))]
    with serving() as server:

        def measure(contestant: Contestant, path: Path) -> Measurement:
            server.flush()
            with RelayStore(path, server.url) as store:
                for fields in keys:
                    store.save_api_key(fields)
                _read(store, server, ids[:WARM_UP])
                found = _read(store, server, ids)
            return found | asyncio.run(_read_async(path, server, ids))

        yield measure


def _read(store: RelayStore, server: Server, ids: Sequence[str]) -> Measurement:
    """Every call is of another key than the one before, so that nobody finds it warm."""
    assert store.target is not None
    decoding = store.target.connect(as_text=True)
    default = redis.Redis(HOST, server.port)
    with decoding, default:
        ours, bare, decoded, other = in_turns(
            [partial(store.get_api_key, id) for id in ids],
            *([partial(client.hgetall, f"apikey:{id}") for id in ids]
              for client in (store.redis, decoding, default)),
        )  # fmt: skip
    return {
        "ratio": ours / bare,
        "ours": ours,
        "bare": bare,
        "decoded": decoded,
        "default": other,
    }


async def _read_async(path: Path, server: Server, ids: Sequence[str]) -> Measurement:
    client = redis.asyncio.Redis.from_url(server.url, protocol=2, socket_timeout=5.0)
    async with AsyncRelayStore(path, server.url) as store, client:
        calls = [
            [partial(store.get_api_key, id) for id in ids],
            [partial(client.hgetall, f"apikey:{id}") for id in ids],
        ]
        await in_turns_async(*(side[:WARM_UP] for side in calls))
        ours, bare = await in_turns_async(*calls)
    return {"async_ratio": ours / bare, "async_ours": ours, "async_bare": bare}


BENCHMARKS = (
    Benchmark(
        "relay-read",
        reading,
        (OURS_NORMAL,),
        [
            Metric("ratio", "get_api_key ÷ HGETALL", [at_most(1.15, OURS_NORMAL)]),
            Metric("ours", "µs, get_api_key"),
            Metric("bare", "µs, HGETALL"),
            Metric("decoded", "µs, HGETALL, decoded"),
            Metric("default", "µs, HGETALL, redis-py's defaults"),
            Metric("async_ratio", "async, get_api_key ÷ HGETALL"),
            Metric("async_ours", "µs, async get_api_key"),
            Metric("async_bare", "µs, async HGETALL"),
        ],
    ),
)
