"""The Redis server, or the cluster of them: connecting, looking through its keys, what it is."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit

import redis
from redis.backoff import NoBackoff
from redis.cluster import RedisCluster
from redis.retry import Retry

from ..database import InvalidInputError, StorageError
from . import keys
from .asking import REDIS_ERRORS, explained
from .errors import RedisUnavailableError

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

    def connect(self, *, as_text: bool = False, retries: int = 1) -> redis.Redis:
        """A client; it connects at the first command, on a cluster at once.

        `as_text`: its replies are text, which the client makes of them faster than we can.
        `retries`: how often a command is sent again at once where its connection broke, as one that
        lay idle may have; 0 where it must not be carried out twice.
        """
        factory: Any = RedisCluster if self.cluster else redis.Redis
        options: dict[str, Any] = {
            "protocol": 2,
            "socket_timeout": self.timeout,
            "socket_connect_timeout": self.timeout,
            # Not where it did not answer in time: who waits has waited long enough.
            "retry": Retry(NoBackoff(), retries, (redis.ConnectionError,)),
            "decode_responses": as_text,
            "encoding_errors": "surrogateescape",
        }
        if self.connected is not None and not self.cluster:
            options["redis_connect_func"] = partial(_on_connect, self.connected)
        client: redis.Redis = attempt(
            lambda: factory.from_url(_checked(self.url), **options), "connecting"
        )
        return client


def _checked(url: str) -> str:
    """The URL; raises ValueError if its path is no number, which redis-py takes for database 0."""
    parts = urlsplit(url)
    database = unquote(parts.path).strip("/")
    if parts.scheme in ("redis", "rediss") and database and not database.isdecimal():
        raise ValueError
    return url


def _on_connect(connected: Callable[[], object], connection: Any) -> None:
    connected()
    connection.on_connect()


class Clients:
    """The clients of one store, made when they are needed first.

    Raises RedisUnavailableError where the store has no Redis, or a cluster is down.
    """

    def __init__(self, target: Target | None) -> None:
        self._target = target
        self._made: dict[tuple[bool, int], redis.Redis] = {}
        self._mutex = threading.Lock()

    def __bool__(self) -> bool:
        return self._target is not None

    @property
    def raw(self) -> redis.Redis:
        """For bytes."""
        return self._get(as_text=False, retries=1)

    @property
    def text(self) -> redis.Redis:
        """For text."""
        return self._get(as_text=True, retries=1)

    @property
    def once(self) -> redis.Redis:
        """For bytes, and for commands that must not be carried out twice."""
        return self._get(as_text=False, retries=0)

    def _get(self, *, as_text: bool, retries: int) -> redis.Redis:
        client = self._made.get((as_text, retries))
        return client if client is not None else self._make(as_text, retries)

    def _make(self, as_text: bool, retries: int) -> redis.Redis:
        if self._target is None:
            raise RedisUnavailableError(
                "the store was opened without a Redis: changes wait in the outbox"
            )
        with self._mutex:
            if (as_text, retries) not in self._made:
                client = self._target.connect(as_text=as_text, retries=retries)
                self._made[as_text, retries] = client
            return self._made[as_text, retries]

    def renew_lock(self) -> None:
        """In a child process."""
        self._mutex = threading.Lock()

    def renew(self) -> None:
        """Have `once` connect anew: what lay idle may be broken, and it does not try again."""
        client = self._made.pop((False, 0), None)
        if client is not None:
            client.close()

    def close(self) -> None:
        """Close their connections."""
        for client in self._made.values():
            client.close()


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
    """What a server says of itself; of a cluster, of all that hold keys.

    `identity` changes when it is started anew, or takes another server's keys over as its replica.
    `started_at`: the last start, in ms since 1970. `appends`: it keeps every change on disk, so
    that a start loses none. `was_replica`: it may have got its keys from another server.
    """

    identity: str
    started_at: int
    version: str
    keys: int
    evicted: int
    flushes: int
    appends: bool
    was_replica: bool


def nodes(client: redis.Redis) -> list[redis.Redis]:
    """The servers that hold keys: of a cluster, each primary."""
    if not isinstance(client, RedisCluster):
        return [client]
    return attempt(
        lambda: [client.get_redis_connection(node) for node in client.get_primaries()], "CLUSTER"
    )


def info(client: redis.Redis) -> ServerInfo:
    """What the server says of itself; raises RedisUnavailableError."""
    is_cluster = isinstance(client, RedisCluster)
    parts = attempt(lambda: [_info(node, is_cluster) for node in nodes(client)], "INFO")
    return ServerInfo(
        "+".join(sorted(part.identity for part in parts)),
        max(part.started_at for part in parts),
        parts[0].version,
        sum(part.keys for part in parts),
        sum(part.evicted for part in parts),
        sum(part.flushes for part in parts),
        all(part.appends for part in parts),
        any(part.was_replica for part in parts),
    )


def _info(node: redis.Redis, is_cluster: bool) -> ServerInfo:
    pipe = node.pipeline(transaction=False)
    for section in ("server", "replication", "persistence", "stats", "commandstats"):
        pipe.info(section)
    pipe.dbsize()
    server, replication, persistence, stats, commands, count = pipe.execute()
    mode = server.get("redis_mode") or server.get("server_mode")  # Valkey's name for it
    if mode == "cluster" and not is_cluster:
        raise RedisUnavailableError(
            "this Redis is a node of a cluster, which holds a part of the keys: say cluster=True "
            "(--cluster)",
            answered=True,
        )
    flushes = sum(
        commands.get(f"cmdstat_{name}", {}).get("calls", 0)
        for name in ("flushall", "flushdb", "swapdb")
    )
    version = server.get("valkey_version") or server.get("redis_version", "")
    identity = f"{server['run_id']}.{replication.get('master_replid', '')}"
    second = str(replication.get("master_replid2", ""))  # of the one that it was a replica of
    return ServerInfo(
        identity,
        keys.now_ms() - 1000 * int(server["uptime_in_seconds"]),
        version,
        count,
        stats.get("evicted_keys", 0),
        flushes,
        bool(persistence.get("aof_enabled")),
        replication.get("role") != "master" or bool(second.strip("0")),
    )


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


def literally(text: bytes) -> bytes:
    """A glob that matches this text alone."""
    return re.sub(rb"([*?\[\]\\^])", rb"\\\1", text)
