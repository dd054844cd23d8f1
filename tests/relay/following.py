"""Followers at work, in threads and in processes; looks into their file; a relay's traffic."""

from __future__ import annotations

import json
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import closing, suppress
from itertools import count
from pathlib import Path
from typing import Any

import ormsgpack
import pytest
import redis
from database.helpers import in_thread, outcome

from langgraph_sqlite_saver.relay import Follower, RelayStore, follow

from .sample import Entry, differences, dump
from .servers import PATIENCE, Server, ServerFailed, until
from .stores import lasting, query

WAYS = ["notified", "scanning"]
# For what takes no longer than a moment: a promise that is broken is not waited for longer.
SOON = 10.0


# What the file holds, read without the library.


def stored(path: Any) -> dict[bytes, Entry]:
    """The keys in the file that have not expired, in the form of a dump of Redis."""
    with closing(sqlite3.connect(path, timeout=30)) as conn:
        conn.execute("BEGIN")
        rows = conn.execute(
            "SELECT key, type, value, expires_at FROM redis_keys"
            " WHERE expires_at IS NULL OR expires_at > ?",
            (time.time() * 1000,),
        ).fetchall()
        return {key: Entry(kind, _value(conn, key, kind, blob), at) for key, kind, blob, at in rows}


def _value(conn: sqlite3.Connection, key: bytes, kind: str, blob: bytes | None) -> Any:
    if kind == "string":
        return blob
    if kind == "stream":
        entries = "SELECT id, fields FROM redis_entries WHERE key = ? ORDER BY id"
        return tuple(
            (_stream_id(id), _pairs(ormsgpack.unpackb(packed)))
            for id, packed in conn.execute(entries, (key,))
        )
    if blob is None:
        members = "SELECT member, value FROM redis_members WHERE key = ?"
        pairs = conn.execute(members, (key,)).fetchall()
        return frozenset(dict(pairs)) if kind == "set" else dict(pairs)
    flat = ormsgpack.unpackb(blob)
    if kind == "list":
        return list(flat)
    return frozenset(flat) if kind == "set" else dict(_pairs(flat))


def _pairs(flat: list[bytes]) -> tuple[tuple[bytes, bytes], ...]:
    return tuple(zip(flat[::2], flat[1::2], strict=True))


def _stream_id(id: bytes) -> bytes:
    return b"%d-%d" % (int.from_bytes(id[:8], "big"), int.from_bytes(id[8:], "big"))


def tables(path: Any) -> dict[str, list[Any]]:
    """The relational tables, their rows in order."""
    names = ("api_keys", "accounts", "usage_records", "usage_unplaced", "usage_stats")
    return {name: sorted(query(path, f"SELECT * FROM {name}"), key=repr) for name in names}


def value(path: Any, sql: str, *values: Any) -> Any:
    """The one value that a query gives; None without a row."""
    rows = query(path, sql, *values)
    return rows[0][0] if rows else None


def held(client: redis.Redis) -> dict[bytes, Entry]:
    """A dump of Redis, taken again where a key went or was retyped while it was read."""
    for _ in range(100):
        with suppress(TypeError, redis.ResponseError):
            return dump(client)
    return dump(client)


def assert_in_step(client: redis.Redis, path: Any, patience: float = SOON) -> None:
    """Soon the file holds what of Redis is worth keeping, and nothing else."""

    def differing() -> list[str]:
        return differences(lasting(held(client)), stored(path))

    with suppress(ServerFailed):
        until(lambda: not differing(), "SQLite to be in step", patience)
    left = differing()
    assert left == [], left


def assert_soon(seen: Callable[[], Any], expected: Any, patience: float = SOON) -> None:
    """Soon it is what is expected."""
    with suppress(ServerFailed):
        until(lambda: seen() == expected, "it", patience)
    found = seen()
    assert found == expected, f"{found!r} and not {expected!r}"


# Followers in this process.

_IS_KNOWN = "SELECT count(*) FROM redis_keys WHERE key = ?"


class Following:
    """A follower at work on a store of its own, in a thread."""

    def __init__(self, server: Server, path: Path, options: dict[str, Any]) -> None:
        names = ("restore", "enable_notifications", "scan_interval")
        own = {name: options.pop(name) for name in names if name in options}
        self.server = server
        self.path = path
        self.lines: list[str] = []
        options = {"redis_url": server.url, "heal": False, "flush_interval": 0.02, **options}
        self.store = RelayStore(path, **options)
        self._stop = threading.Event()
        self._follower = Follower(
            self.store, report=self.lines.append, **{"scan_interval": 0.1, **own}
        )
        self._run: Future[int] = in_thread(self._follower.run, self._stop)
        self._marks = count()

    def begun(self) -> Following:
        """It has gone through all keys a first time."""
        until(lambda: self.way is not None or self._run.done(), "the first look")
        return self

    @property
    def way(self) -> str | None:
        """How it learns of changes, as it reports."""
        words = [line.partition(":")[0] for line in self.lines]
        return next((word for word in words if word in WAYS), None)

    def reported(self, text: str) -> bool:
        """Whether a line of its report has this in it."""
        return any(text in line for line in list(self.lines))

    def has_heard_of(self, name: str) -> bool:
        """Whether it has been told that this key changed, and has not stored it yet."""
        return name.encode() in self._follower._events

    def catch_up(self, times: int = 1) -> None:
        """All that happened before is taken over: what happens after it is."""
        client = self.server.client()
        for _ in range(times):
            mark = b"mark:%d:%d" % (id(self), next(self._marks))
            client.set(mark, "")
            assert_soon(lambda mark=mark: value(self.path, _IS_KNOWN, mark), 1)

    def pass_by(self) -> None:
        """A look through all keys that begins after this is over."""
        self.catch_up(3)

    def stop(self) -> int:
        """What it returns, having been told to end."""
        self._stop.set()
        status: int = outcome(self._run)
        self.store.close()
        return status


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the test's file is."""
    (tmp_path / "data").mkdir()
    return tmp_path / "data" / "relay.db"


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A follower looks often and gathers briefly, so that nobody waits for it here."""
    for name in ("_GATHER", "_LOOK", "_PATIENCE"):
        monkeypatch.setattr(follow, name, 0.1)


@pytest.fixture
def start_following(path: Path, quick: None) -> Iterator[Callable[..., Following]]:
    """Starts followers, `start_following(server, "notified", restore=False)`; they end with the
    test. With "notified" the server is made to tell of changes.
    """
    started: list[Following] = []

    def start(server: Server, way: str = "scanning", **options: Any) -> Following:
        if way == "notified":
            server.config("notify-keyspace-events", "KEA")
        started.append(Following(server, options.pop("path", path), options))
        return started[-1]

    yield start
    for each in started:
        each.stop()


# Followers in processes of their own.

_PROCESS = """
import sys, threading
from langgraph_sqlite_saver.relay import Follower, RelayStore, follow, restoring
path, url, interval, code = sys.argv[1:]
exec(code)
with RelayStore(path, url, heal=False) as store:
    said = lambda line: print(line, flush=True)
    Follower(store, report=said, scan_interval=float(interval)).run(threading.Event())
"""


class Process:
    """A follower in a process of its own, which has run `code` first."""

    def __init__(self, path: Path, url: str, code: str = "", interval: float = 0.1) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", _PROCESS, str(path), url, str(interval), code],
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        assert self.process.stdout is not None
        self.process.stdout.close()

    def begun(self) -> None:
        """It has gone through all keys a first time."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith(tuple(WAYS)):
                return
        raise AssertionError(f"the follower ended: {self.process.wait()}")

    def died(self) -> bool:
        """Whether it was killed, which is waited for."""
        return self.process.wait(PATIENCE) == -signal.SIGKILL

    def kill(self) -> None:
        """It is dead, as by `kill -9`."""
        self.process.kill()
        self.process.wait()


# A relay's traffic.

KEY = "cf049daa-6fd1-4ed6-9a3e-a2c86cd96347"
ACCOUNT = "b30e7d6e-676b-46c4-b1ce-cdc858088309"
MODEL = "gpt-5"
RECORDS = f"usage:records:{KEY}"
TOTAL = f"usage:{KEY}"
COST = f"usage:cost:total:{KEY}"
# Behind those of the sample.
_EVENTS = 1_900_000_000_000


def entry(number: int, cost: float = 0.25) -> str:
    """A usage record as the relay writes it."""
    fields = {"timestamp": "2026-11-22T10:00:00.000Z", "model": MODEL, "accountId": ACCOUNT}
    return json.dumps({**fields, "requestId": str(number), "inputTokens": number, "cost": cost})


def serve(client: Any, number: int, id: str = KEY) -> None:
    """What the relay writes of one request."""
    client.hincrby(f"usage:{id}", "totalRequests", 1)
    client.hincrby(f"usage:{id}", "totalTokens", 10)
    client.hincrby("usage:global:total", "requests", 1)
    client.hincrby(f"account_usage:{ACCOUNT}", "totalRequests", 1)
    client.incrbyfloat(f"usage:cost:total:{id}", 0.25)
    client.lpush(f"usage:records:{id}", entry(number))
    client.ltrim(f"usage:records:{id}", 0, 199)
    client.sadd("usage:model:monthly:months", f"2027-{number:02}")
    client.xadd("billing:events", {"data": str(number)}, id=f"{_EVENTS + number}-0")


def requests(client: redis.Redis, id: str = KEY) -> int:
    """How many requests of an API key Redis has counted."""
    return int(client.hget(f"usage:{id}", "totalRequests") or 0)
