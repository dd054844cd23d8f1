"""ENABLE_SQLITE=false: the same calls on Redis alone; what needs SQLite says so."""

# ruff: noqa: F401, F811 - fixtures are imported

from __future__ import annotations

import json
import select
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from langgraph_sqlite_saver.relay import (
    ACCOUNT_TYPES,
    RedisUnavailableError,
    RelayStore,
    SqliteDisabledError,
    UsageNotStoredError,
    UsageRecord,
)

from .sample import SAMPLE, differences, dump, load
from .servers import Cluster, Server, until
from .stores import (
    Face,
    api_key,
    face,
    hash_of,
    members,
    open_store,
    path,
    sample_account,
    sample_ids,
)

NOON = "2026-11-21T12:00:00.000Z"


@pytest.fixture
def store(open_store: Callable[..., Face], redis_server: Server, face: str) -> Face:
    """A store without a file, by each face."""
    return open_store(redis_server, face, path=None)


def test_no_file_is_made(store: Face, tmp_path: Path) -> None:
    """Not by any call."""
    store.save_api_key(api_key())
    assert not list(tmp_path.rglob("*.db"))


def test_records_are_saved_read_listed_and_deleted(store: Face, redis_server: Server) -> None:
    """With what they are in Redis beside an SQLite."""
    client = redis_server.client()
    first, second = api_key("a", tags='["t"]'), api_key("b", isDeleted="true", isActive="false")
    store.save_api_key(first, ttl=timedelta(hours=1))
    store.save_api_key(second)
    assert store.get_api_key("a") == store.find_api_key("hash-of-a") == first
    assert store.find_api_key("hash-of-b") is None
    assert store.list_api_keys() == [first, second]
    assert store.list_api_keys(limit=1) == [first]
    assert store.list_api_keys(after="a") == [second]
    assert 3_590_000 < client.pttl("apikey:a") <= 3_600_000
    assert members(client, "apikey:set:active") == members(client, "apikey:tag:t") == {"a"}
    assert members(client, "apikey:set:deleted") == {"b"}
    assert store.stats()["apiKeysCount"] == 2
    assert store.delete_api_key("a") is True
    assert store.delete_api_key("b") is True
    assert store.delete_api_key("b") is False
    assert set(client.keys()) <= {b"apikey:index:version", b"apikey:tags:all"}


@pytest.mark.parametrize("name", ACCOUNT_TYPES)
def test_accounts_of_all_types(store: Face, redis_server: Server, name: str) -> None:
    """Saved, read, listed, deleted; the mark of emptiness goes."""
    client, kind = redis_server.client(), ACCOUNT_TYPES[name]
    value = sample_account(name)[1]
    fields = {**(json.loads(value) if kind.is_json else value), "id": "x", "accountType": "shared"}
    client.set(kind.empty_mark, "1")
    store.save_account(name, fields)
    assert store.get_account(name, "x") == fields
    assert store.list_accounts(name) == [fields]
    assert members(client, kind.index.decode()) == {"x"}
    assert not kind.shared or members(client, kind.shared.decode()) == {"x"}
    assert not client.exists(kind.empty_mark)
    assert store.delete_account(name, "x") is True
    assert client.dbsize() == 0


def test_same_calls_leave_the_same_in_redis(
    open_store: Callable[..., Face], redis_server: Server, start_server: Callable[..., Server]
) -> None:
    """With SQLite and without it."""
    servers = [redis_server, start_server()]
    stores = [open_store(servers[0]), open_store(servers[1], path=None)]
    for store in stores:
        store.save_api_key(api_key("a", tags='["t", "u"]'))
        store.save_api_key(api_key("b"))
        store.save_api_key(api_key("a", tags='["u"]', apiKey="rotated", name="Other"))
        store.save_api_key(api_key("c", isActive="false"), ttl=None)
        store.save_account("ccr", {"id": "x", "name": "X", "accountType": "shared"})
        store.save_account("ccr", {"id": "x", "name": "X", "accountType": "group"})
        store.save_account("bedrock", '{"id": "y", "name": "Y"}')
        store.delete_api_key("b")
        store.delete_account("bedrock", "y")
    one, other = (dump(server.client()) for server in servers)
    assert differences(one, other) == []


def test_deleted_key_leaves_nothing_of_the_relays(store: Face, redis_server: Server) -> None:
    """Its hash, its older lookup, its totals and its usage go; what expires may stay."""
    client = redis_server.client()
    load(client)
    id = next(id for id in sample_ids() if f"usage:records:{id}" in SAMPLE)
    hashed = SAMPLE[f"apikey:{id}"]["value"]["apiKey"]
    client.hset(f"apikey_hash:{hashed}", mapping={"id": id, "isActive": "true"})
    store.delete_api_key(id)
    left = [key for key in client.scan_iter(count=1000) if id.encode() in key]
    assert [key for key in left if client.ttl(key) == -1] == []
    assert store.find_api_key(hashed) is None
    assert not client.exists(f"apikey_hash:{hashed}")


def test_older_relays_indexes_are_not_invented(store: Face, redis_server: Server) -> None:
    """Where keys have hash_map alone, saving adds to that alone."""
    client = redis_server.client()
    client.hset("apikey:old", mapping={"id": "old", "apiKey": "h"})
    client.hset("apikey:hash_map", "h", "old")
    store.save_api_key(api_key("new", tags='["t"]'))
    store.save_account("claude", {"id": "acc", "name": "Acc"})
    expected = {b"apikey:old", b"apikey:new", b"apikey:hash_map", b"claude:account:acc"}
    assert set(client.keys()) == expected


def test_usage_is_pushed_and_counted_in_redis(store: Face, redis_server: Server) -> None:
    """Onto the relay's list, newest first and cut to 200, and its totals."""
    client = redis_server.client()
    for n in range(203):
        store.record_usage(UsageRecord("k", "m", input_tokens=2, output_tokens=1, cost=0.5))
        store.record_usage(UsageRecord("other", "m", cost=n))
    store.flush()
    assert client.llen("usage:records:k") == 200
    assert 0 < client.ttl("usage:records:k") <= 90 * 24 * 3600
    totals = hash_of(client, "usage:k")
    assert (totals["totalRequests"], totals["totalTokens"]) == ("203", "609")
    assert float(client.get("usage:cost:total:k")) == 101.5
    found = store.usage(api_key_id="other", limit=3)
    assert [record.cost for record in found] == [202, 201, 200]


def test_usage_is_filtered(store: Face) -> None:
    """As with SQLite: newest first, and what matches of what the list has."""
    for day in (2, 1, 3):
        time = f"2026-11-0{day}T00:00:00.000Z"
        record = UsageRecord("k", f"m{day % 2}", time, account_id=f"acc-{day}", extra={"n": day})
        store.record_usage(record)
    store.flush()

    def found(**wanted: Any) -> list[int]:
        return [record.extra["n"] for record in store.usage(api_key_id="k", **wanted)]

    second, third = (datetime(2026, 11, day, tzinfo=timezone.utc) for day in (2, 3))
    assert found() == [3, 2, 1]
    assert found(limit=2) == [3, 2]
    assert found(model="m1") == [3, 1]
    assert found(model="m1", limit=1) == [3]
    assert found(account_id="acc-2") == [2]
    assert found(since=second) == [3, 2]
    assert found(until=third) == [2, 1]
    assert found(since=second, until=third, model="m1") == []
    with pytest.raises(SqliteDisabledError, match="after"):
        store.usage(api_key_id="k", after=1)


def test_usage_is_read_as_it_was_recorded(store: Face) -> None:
    """Its own fields count, whatever extra names, and nothing is added."""
    record = UsageRecord("k", "m", NOON, input_tokens=2, cache_read_tokens=3, cost=0.5)
    store.record_usage(record, wait=True)
    store.record_usage(replace(record, extra={"cost": 9, "model": "x", "note": "n"}), wait=True)
    assert store.usage(api_key_id="k") == [replace(record, extra={"note": "n"}), record]


@pytest.mark.parametrize("key", ["usage:records:bad", "usage:bad", "usage:cost:total:bad"])
def test_usage_that_redis_cannot_count_holds_nothing_up(
    store: Face, redis_server: Server, key: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It is given up, logged once, and told by the next flush; the rest is counted once."""
    client = redis_server.client()
    client.zadd(key, {"x": 1})
    for _ in range(3):
        store.record_usages([UsageRecord("good", "m", cost=1.0), UsageRecord("bad", "m")])
        until(lambda: not len(store.store._queue), "the queue")
    with pytest.raises(UsageNotStoredError, match=rf"3 usage records were given up.*{key}"):
        store.flush()
    store.flush()
    assert len([each for each in caplog.records if "given up" in each.message]) == 1
    assert client.hget("usage:good", "totalRequests") == b"3"
    assert float(client.get("usage:cost:total:good")) == 3
    assert client.llen("usage:records:good") == 3
    assert client.keys("*bad*") == [key.encode()]
    with pytest.raises(UsageNotStoredError, match="1 usage records were given up"):
        store.record_usage(UsageRecord("bad", "m"), wait=True)


def test_delete_does_not_hide_usage_that_was_given_up(store: Face, redis_server: Server) -> None:
    """It waits for what is on its way; who flushes is told all the same."""
    redis_server.client().set("usage:records:bad", "x")
    store.record_usage(UsageRecord("bad", "m"))
    assert store.delete_api_key("other") is False
    with pytest.raises(UsageNotStoredError, match="given up"):
        store.flush()


def test_closing_tells_of_usage_that_was_given_up(
    open_store: Callable[..., Face], redis_server: Server, face: str
) -> None:
    """Unless somebody was told."""
    redis_server.client().set("usage:records:bad", "x")
    store = open_store(redis_server, face, path=None)
    store.record_usage(UsageRecord("bad", "m"))
    with pytest.raises(UsageNotStoredError, match="given up"):
        store.shut()


def test_usage_that_redis_refuses_waits_and_counts_once(store: Face, redis_server: Server) -> None:
    """A Redis without memory; the error speaks of Redis."""
    client = redis_server.client()
    redis_server.config("maxmemory", "1")
    store.record_usages([UsageRecord("k", "m"), UsageRecord("k2", "m")])
    with pytest.raises(UsageNotStoredError, match=r"Redis does not take them.*OutOfMemory") as told:
        store.flush()
    assert "SQLite" not in str(told.value)
    redis_server.config("maxmemory", "0")
    store.flush()
    assert [client.hget(f"usage:{id}", "totalRequests") for id in ("k", "k2")] == [b"1", b"1"]
    assert client.llen("usage:records:k") == 1


def test_usage_waits_for_a_redis_that_hangs(
    open_store: Callable[..., Face], fresh_server: Server, face: str
) -> None:
    """And is counted once, when it goes on."""
    store = open_store(fresh_server, face, path=None, socket_timeout=0.2)
    store.record_usage(UsageRecord("k", "m"), wait=True)
    fresh_server.pause()
    store.record_usage(UsageRecord("k", "m"))
    with pytest.raises(UsageNotStoredError, match="1 usage records wait, for Redis"):
        store.flush()
    fresh_server.resume()
    store.flush()
    assert fresh_server.client().hget("usage:k", "totalRequests") == b"2"


def test_usage_survives_a_connection_that_was_closed_while_idle(
    store: Face, redis_server: Server
) -> None:
    """Nobody is told of it, for nothing was lost."""
    client = redis_server.client()
    for count in (b"1", b"2", b"3"):
        store.record_usage(UsageRecord("k", "m"))
        store.flush()
        assert client.hget("usage:k", "totalRequests") == count
        client.client_kill_filter(_type="normal", skipme=True)


class Wire:
    """A way to a server that breaks once, after a transaction was carried out, before its reply."""

    def __init__(self, server: Server) -> None:
        self._port = server.port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"redis://127.0.0.1:{self._listener.getsockname()[1]}/0"
        self.breaks = False
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client = self._listener.accept()[0]
                self._threads.append(threading.Thread(target=self._carry, args=(client,)))
                self._threads[-1].start()

    def _carry(self, client: socket.socket) -> None:
        with client, socket.create_connection(("127.0.0.1", self._port)) as server:
            with suppress(OSError):
                while sources := select.select([client, server], [], [])[0]:
                    for source in sources:
                        data = source.recv(1 << 16)
                        if not data:
                            return
                        if source is client and self.breaks and b"EXEC" in data:
                            self.breaks = False
                            server.sendall(data)
                            server.recv(1 << 16)
                            return
                        (server if source is client else client).sendall(data)

    def close(self) -> None:
        """No thread is left."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join()


def test_usage_whose_reply_is_lost_is_counted_once_and_told(
    path: Path, redis_server: Server
) -> None:
    """It is not sent again, for it may have been counted; what comes later is."""
    client = redis_server.client()
    wire = Wire(redis_server)
    try:
        with RelayStore(None, wire.url, flush_interval=0.02) as store:
            store.record_usage(UsageRecord("k", "m", cost=1.0), wait=True)
            wire.breaks = True
            store.record_usage(UsageRecord("k", "m", cost=1.0))
            with pytest.raises(UsageNotStoredError, match=r"were given up.*not known"):
                store.flush()
            store.record_usage(UsageRecord("k", "m", cost=1.0), wait=True)
        assert client.hget("usage:k", "totalRequests") == b"3"
        assert float(client.get("usage:cost:total:k")) == 3
        assert client.llen("usage:records:k") == 3
    finally:
        wire.close()


def test_usage_is_counted_in_a_cluster(
    open_store: Callable[..., Face], redis_cluster: Cluster, face: str
) -> None:
    """Of keys on all its servers, and past one that it cannot count."""
    client = redis_cluster.client()
    client.set("usage:bad", "x")
    store = open_store(redis_cluster, face, path=None)
    ids = [f"k{n}" for n in range(5)]
    store.record_usages([UsageRecord(id, "m", cost=0.5) for id in ["bad", *ids] * 2])
    with pytest.raises(UsageNotStoredError, match="2 usage records were given up"):
        store.flush()
    for id in ids:
        assert client.hget(f"usage:{id}", "totalRequests") == b"2"
        assert (client.get(f"usage:cost:total:{id}"), client.llen(f"usage:records:{id}")) == (
            b"1",
            2,
        )


NEED_SQLITE: dict[str, Callable[[Face], Any]] = {
    "import_from_redis": lambda s: s.import_from_redis(),
    "restore": lambda s: s.restore(),
    "diff": lambda s: s.diff(),
    "reconcile": lambda s: s.reconcile(),
    "trash": lambda s: s.trash(),
    "undelete": lambda s: s.undelete("x"),
    "audit": lambda s: s.audit(),
    "usage": lambda s: s.usage(),
    "usage_totals": lambda s: s.usage_totals(),
    "purge_usage": lambda s: s.purge_usage(timedelta(1)),
    "optimize": lambda s: s.optimize(),
    "backup": lambda s: s.backup(),
    "database": lambda s: s.store.database,
    "database of its face": lambda s: s.face.database,
}


@pytest.mark.parametrize("call", NEED_SQLITE)
def test_what_needs_sqlite_says_so(store: Face, redis_server: Server, call: str) -> None:
    """By an error that names the variable; nothing was done."""
    with pytest.raises(SqliteDisabledError, match="ENABLE_SQLITE"):
        NEED_SQLITE[call](store)
    assert redis_server.client().dbsize() == 0


def test_redis_that_is_down_is_an_error(
    open_store: Callable[..., Face], fresh_server: Server, face: str
) -> None:
    """There is nothing else that could answer."""
    store = open_store(fresh_server, face, path=None)
    fresh_server.stop()
    for call in (
        lambda: store.save_api_key(api_key()),
        lambda: store.get_api_key("k"),
        lambda: store.find_api_key("h"),
        lambda: store.list_api_keys(),
        lambda: store.delete_api_key("k"),
    ):
        with pytest.raises(RedisUnavailableError):
            call()
    fresh_server.start()
    store.save_api_key(api_key())
    assert store.get_api_key("key-1") == api_key()
