"""Both faces of a store behind one set of names, records for it, and looks into its file."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any, TypeVar

import pytest

from langgraph_sqlite_saver.relay import ACCOUNT_TYPES, AsyncRelayStore, RelayStore

from .sample import SAMPLE, Entry, is_lasting, raw
from .servers import Cluster, Server

T = TypeVar("T")
FACES = ["sync", "async"]

WHEN = "2026-11-21T20:06:08.129Z"
WHEN_MS = 1795291568129


class Loop:
    """An event loop in a thread of its own."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever)
        self._thread.start()

    def run(self, coroutine: Any) -> Any:
        """What a coroutine comes to."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(60)

    def close(self) -> None:
        """No thread is left."""
        self.run(self.loop.shutdown_default_executor())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()


class Face:
    """Calls a store's methods by their blocking names, from any thread.

    `store` is the blocking store behind it, `path` its file.
    """

    def __init__(self, face: str, *args: Any, **options: Any) -> None:
        self.loop = Loop() if face == "async" else None
        self.face: Any = (RelayStore if self.loop is None else AsyncRelayStore)(*args, **options)
        self.store: RelayStore = self.face if self.loop is None else self.face.store
        self.path = self.store.path
        self._shut = False

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self.face, name)
        loop = self.loop
        return method if loop is None else lambda *args, **kw: loop.run(method(*args, **kw))

    def shut(self) -> None:
        """Neither the store nor its loop is left; a second time it does nothing."""
        if self._shut:
            return
        self._shut = True
        try:
            self.close()
        finally:
            if self.loop is not None:
                self.loop.close()

    def query(self, sql: str, *values: Any) -> list[Any]:
        """Rows as another program sees them: what is committed."""
        return query(self.path, sql, *values)


def query(path: Any, sql: str, *values: Any) -> list[Any]:
    """Rows of a file as a program of its own sees them."""
    with closing(sqlite3.connect(path, timeout=30)) as conn:
        return conn.execute(sql, values).fetchall()


def at_once(count: int, call: Callable[[int], T]) -> list[T]:
    """What calls from so many threads at once come to."""
    start = threading.Barrier(count)

    def wait_and_call(number: int) -> T:
        start.wait()
        return call(number)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(wait_and_call, range(count)))


def lasting(held: dict[bytes, Entry]) -> dict[bytes, Entry]:
    """What of a dump is worth keeping."""
    return {key: entry for key, entry in held.items() if is_lasting(key)}


# Fixtures: a test module imports those that it uses.


@pytest.fixture(params=FACES)
def face(request: pytest.FixtureRequest) -> str:
    """A test that uses it runs on both faces."""
    return str(request.param)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the test's stores keep their file."""
    return tmp_path / "data" / "relay.db"


@pytest.fixture
def open_store(path: Path) -> Iterator[Callable[..., Face]]:
    """Opens stores, `open_store(server, "async", strict=True)`, and closes them at the end."""
    opened: list[Face] = []

    def open_(at: Server | Cluster | None, face: str = "sync", **options: Any) -> Face:
        options = {"path": path, "redis_url": at and at.url, "flush_interval": 0.02, **options}
        options.setdefault("cluster", isinstance(at, Cluster))
        opened.append(Face(face, **options))
        opened[-1].open()
        return opened[-1]

    yield open_
    for each in reversed(opened):
        each.shut()


@pytest.fixture
def store(open_store: Callable[..., Face], redis_server: Server, face: str) -> Face:
    """A store on a new file beside an empty server, by each face."""
    return open_store(redis_server, face)


@pytest.fixture
def imported(open_store: Callable[..., Face], loaded: Server) -> Face:
    """A store that has taken over the sample."""
    store = open_store(loaded)
    store.import_from_redis()
    return store


# Records.


def api_key(id: str = "key-1", **changes: str) -> dict[str, str]:
    """An API key as a relay makes it."""
    return {
        "id": id,
        "name": f"Name of {id}",
        "description": "",
        "apiKey": f"hash-of-{id}",
        "tokenLimit": "0",
        "isActive": "true",
        "tags": "[]",
        "createdAt": WHEN,
        "lastUsedAt": "",
        "expiresAt": "",
        **changes,
    }


def sample_ids() -> list[str]:
    """The ids of the sample's API keys, in order."""
    found = [key.split(":")[1] for key in SAMPLE if key.startswith("apikey:")]
    return sorted(id for id in found if len(id) == 36)


def sample_account(name: str) -> tuple[str, Any]:
    """The id of the sample's account of a type, and what Redis holds of it."""
    prefix = ACCOUNT_TYPES[name].prefix.decode()
    (key,) = (k for k in SAMPLE if k.startswith(prefix) and k != f"{prefix}index")
    return key[len(prefix) :], SAMPLE[key]["value"]


def members(client: Any, key: str) -> Any:
    """The content of an index: a hash or a zset as a dict, a set as a set."""
    kind = client.type(key)
    if kind == b"hash":
        return {text(k): text(v) for k, v in client.hgetall(key).items()}
    if kind == b"zset":
        return {text(m): score for m, score in client.zrange(key, 0, -1, withscores=True)}
    return {text(member) for member in client.smembers(key)}


def text(value: bytes) -> str:
    """Bytes as a record shows them."""
    return value.decode("utf-8", "surrogateescape")


def hash_of(client: Any, key: str) -> dict[str, str]:
    """A hash of Redis as text."""
    return {text(name): text(value) for name, value in client.hgetall(raw(key)).items()}


def commands_run(server: Server, name: str) -> int:
    """How often a command was called since the server's counters began."""
    return int(server.info("commandstats").get(f"cmdstat_{name}", {}).get("calls", 0))
