"""The Redis server, or the cluster of them: connecting, looking through its keys, what it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import redis
import redis.asyncio
import redis.asyncio.cluster
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.cluster import RedisCluster
from redis.retry import Retry

from ..database import InvalidInputError, StorageError
from .steps import REDIS_ERRORS, explained

T = TypeVar("T")

SCAN_COUNT = 1000


@dataclass(frozen=True)
class Target:
    """Where Redis is and how long to wait for it."""

    url: str
    cluster: bool
    timeout: float
    # Called when a connection has been made: what answers may not be what answered before.
    connected: Callable[[], object] | None = None

    def __repr__(self) -> str:
        return "Target(…)"  # the URL holds a password

    def _options(self, retry: Any, as_text: bool) -> dict[str, Any]:
        # One more try at once: a connection that lay idle may have been closed meanwhile.
        return {
            "protocol": 2,
            "socket_timeout": self.timeout,
            "socket_connect_timeout": self.timeout,
            "retry": retry(NoBackoff(), 1),
            "decode_responses": as_text,
            "encoding_errors": "surrogateescape",
        }

    def connect(self, *, as_text: bool = False) -> redis.Redis:
        """A blocking client; it connects at the first command, on a cluster at once.

        `as_text`: its replies are text, which the client makes of them faster than we can.
        """
        factory: Any = RedisCluster if self.cluster else redis.Redis
        options = self._options(Retry, as_text)
        if self.connected is not None and not self.cluster:
            options["redis_connect_func"] = partial(_on_connect, self.connected)
        client: redis.Redis = attempt(lambda: factory.from_url(self.url, **options), "connecting")
        return client

    def connect_async(self, *, as_text: bool = False) -> redis.asyncio.Redis:
        """A client for the event loop that runs."""
        factory: Any = redis.asyncio.cluster.RedisCluster if self.cluster else redis.asyncio.Redis
        options = self._options(AsyncRetry, as_text)
        if self.connected is not None and not self.cluster:
            options["redis_connect_func"] = partial(_on_connect_async, self.connected)
        client: redis.asyncio.Redis = attempt(
            lambda: factory.from_url(self.url, **options), "connecting"
        )
        return client


def _on_connect(connected: Callable[[], object], connection: Any) -> None:
    connected()
    connection.on_connect()


async def _on_connect_async(connected: Callable[[], object], connection: Any) -> None:
    connected()
    await connection.on_connect()


def attempt(call: Callable[[], T], doing: str) -> T:
    """What a call of redis-py returns; its errors as ours, and nothing of a URL or a value."""
    try:
        return call()
    except ValueError:
        failure: StorageError = InvalidInputError(
            "the Redis URL cannot be read: it is redis://[user:password@]host[:port][/db], "
            "rediss:// with TLS, or unix://path"
        )
    except REDIS_ERRORS as error:
        failure = explained(error, (doing,))
    raise failure


@dataclass(frozen=True)
class ServerInfo:
    """What a server says of itself; of a cluster, of all that hold keys."""

    run_id: str
    version: str
    keys: int
    evicted: int
    flushes: int


def nodes(client: redis.Redis) -> list[redis.Redis]:
    """The servers that hold keys: of a cluster, each primary."""
    if not isinstance(client, RedisCluster):
        return [client]
    return attempt(
        lambda: [client.get_redis_connection(node) for node in client.get_primaries()], "CLUSTER"
    )


def info(client: redis.Redis) -> ServerInfo:
    """What the server says of itself; raises RedisUnavailableError."""
    parts = attempt(lambda: [_info(node) for node in nodes(client)], "INFO")
    return ServerInfo(
        " ".join(sorted(part.run_id for part in parts)),
        parts[0].version,
        sum(part.keys for part in parts),
        sum(part.evicted for part in parts),
        sum(part.flushes for part in parts),
    )


def _info(node: redis.Redis) -> ServerInfo:
    pipe = node.pipeline(transaction=False)
    for section in ("server", "stats", "commandstats"):
        pipe.info(section)
    pipe.dbsize()
    server, stats, commands, keys = pipe.execute()
    flushes = sum(
        commands.get(f"cmdstat_{name}", {}).get("calls", 0)
        for name in ("flushall", "flushdb", "swapdb")
    )
    version = server.get("valkey_version") or server.get("redis_version", "")
    return ServerInfo(server["run_id"], version, keys, stats.get("evicted_keys", 0), flushes)


def scan(client: redis.Redis, match: bytes | None = None) -> Iterator[list[bytes]]:
    """All keys, in portions; some may come twice. Unlike KEYS it holds nobody up."""
    for node in nodes(client):
        cursor = 0
        while True:
            cursor, found = attempt(
                partial(node.scan, cursor, match=match, count=SCAN_COUNT), "SCAN"
            )
            if found:
                yield list(found)  # type: ignore[arg-type]
            if cursor == 0:
                break
