"""ENABLE_SQLITE=false: the same calls on Redis alone; what needs SQLite says so."""

# ruff: noqa: F401, F811 - fixtures are imported

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from langgraph_sqlite_saver.relay import (
    ACCOUNT_TYPES,
    RedisUnavailableError,
    SqliteDisabledError,
    UsageRecord,
)

from .sample import SAMPLE, differences, dump, load
from .servers import Server
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
