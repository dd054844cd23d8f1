"""A Redis that is empty, began anew or is older than SQLite gets what it lacks, by itself."""

# ruff: noqa: F401, F811 - fixtures are imported

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from langgraph_sqlite_saver.relay import RedisUnavailableError, RelayStore
from langgraph_sqlite_saver.relay.restoring import Restorer

from .sample import SAMPLE, differences, dump, load
from .servers import Server, until
from .stores import (
    Face,
    api_key,
    at_once,
    face,
    hash_of,
    imported,
    lasting,
    members,
    open_store,
    path,
    sample_ids,
)

ID = next(id for id in sample_ids() if f"usage:{id}" in SAMPLE)
OLD = [f"old {n}" for n in range(100)]
NEW = [f"new {n}" for n in range(150)]


def test_empty_redis_is_restored_at_open(
    imported: Face, open_store: Callable[..., Face], loaded: Server, face: str
) -> None:
    """All that is worth keeping is there when the store is."""
    client = loaded.client()
    before = lasting(dump(client))
    imported.shut()
    client.flushall()
    open_store(loaded, face)
    assert differences(before, dump(client)) == []


@pytest.mark.parametrize("loss", ["restart", "flush"])
def test_emptied_redis_is_restored_in_the_background(
    open_store: Callable[..., Face], any_fresh_server: Server, loss: str
) -> None:
    """While the store runs and nobody calls it."""
    client = any_fresh_server.client()
    load(client)
    before = lasting(dump(client))
    open_store(any_fresh_server).import_from_redis()
    if loss == "restart":
        any_fresh_server.kill()
        any_fresh_server.start()
    else:
        client.flushall()
    until(lambda: client.dbsize() == len(before), "the restore")
    assert differences(before, dump(client)) == []


def test_redis_that_is_emptied_during_the_restore_does_not_keep_a_store_from_opening(
    imported: Face,
    open_store: Callable[..., Face],
    loaded: Server,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is restored in the background then."""
    client = loaded.client()
    before = lasting(dump(client))
    imported.shut()
    client.flushall()
    write = Restorer._write

    def emptied(*args: Any) -> None:
        monkeypatch.undo()
        write(*args)
        client.flushall()

    monkeypatch.setattr(Restorer, "_write", emptied)
    store = open_store(loaded)
    assert store.get_api_key(ID) is not None
    until(lambda: client.dbsize() == len(before), "the restore")
    assert differences(before, dump(client)) == []


def test_page_that_reaches_a_redis_emptied_just_before_makes_no_loss_look_smaller(
    imported: Face, loaded: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counters that a relay began anew meanwhile get their old counts added."""
    client = loaded.client()
    counted = int(client.hget(f"usage:{ID}", "totalRequests"))
    imported.shut()
    write = Restorer._write

    def late(*args: Any) -> None:
        monkeypatch.undo()
        client.flushall()
        client.hincrby(f"usage:{ID}", "totalRequests", 3)
        write(*args)

    with RelayStore(imported.path, loaded.url, heal=False) as store:
        monkeypatch.setattr(Restorer, "_write", late)
        with pytest.raises(RedisUnavailableError, match="restore again"):
            store.restore()
        store.restore()
    assert int(client.hget(f"usage:{ID}", "totalRequests")) == counted + 3


@pytest.fixture
def began_anew(open_store: Callable[..., Face], redis_server: Server) -> Any:
    """A Redis that lost all and was written to since, and SQLite with what was before."""
    client = redis_server.client()
    client.hset("usage:k", mapping={"totalRequests": "10", "totalTokens": "7"})
    client.set("usage:cost:total:k", "1.5")
    client.rpush("usage:records:k", *OLD)
    client.sadd("user:index", "a", "b")
    client.zadd("other:zset", {"a": 1, "b": 2})
    client.hset("apikey:hash_map", mapping={"h1": "k1", "h2": "k2"})
    client.hset("config", mapping={"a": "old", "b": "old"})
    client.set("text", "old")
    client.xadd("billing:events", {"data": "old"})
    client.mset({f"lost:{n}": n for n in range(20)})
    with RelayStore(open_store(None).path, redis_server.url, heal=False) as store:
        store.import_from_redis()
    client.flushall()
    client.hset("usage:k", mapping={"totalRequests": "2", "totalLongContext": "1"})
    client.set("usage:cost:total:k", "0.25")
    client.rpush("usage:records:k", *NEW)
    client.sadd("user:index", "b", "c")
    client.zadd("other:zset", {"b": 9, "c": 3})
    client.hset("apikey:hash_map", mapping={"h2": "k9", "h3": "k3"})
    client.hset("config", mapping={"b": "new", "c": "new"})
    client.set("text", "new")
    client.xadd("billing:events", {"data": "new"})
    return client


def check_that_both_are_there(client: Any) -> None:
    """Old and new counted, listed and united; where they exclude each other, the new one."""
    assert [client.get(f"lost:{n}") for n in range(20)] == [b"%d" % n for n in range(20)]
    assert hash_of(client, "usage:k") == {
        "totalRequests": "12", "totalTokens": "7", "totalLongContext": "1"
    }  # fmt: skip
    assert float(client.get("usage:cost:total:k")) == 1.75
    found = [entry.decode() for entry in client.lrange("usage:records:k", 0, -1)]
    assert found == (NEW + OLD)[:200]
    assert members(client, "user:index") == {"a", "b", "c"}
    assert members(client, "other:zset") == {"a": 1, "b": 9, "c": 3}
    assert members(client, "apikey:hash_map") == {"h1": "k1", "h2": "k9", "h3": "k3"}
    assert hash_of(client, "config") == {"a": "old", "b": "new", "c": "new"}
    assert client.get("text") == b"new"
    entries = [fields[b"data"] for _, fields in client.xrange("billing:events")]
    assert entries == [b"old", b"new"]


def test_redis_that_began_anew_gets_both(
    began_anew: Any, open_store: Callable[..., Face], redis_server: Server, face: str
) -> None:
    """At open; restoring again adds nothing again."""
    store = open_store(redis_server, face)
    check_that_both_are_there(began_anew)
    before = dump(began_anew)
    store.restore()
    assert differences(before, dump(began_anew)) == []


def test_stores_that_start_together_add_up_once(
    began_anew: Any, open_store: Callable[..., Face], redis_server: Server, path: Any
) -> None:
    """Each opens the same file beside the same Redis."""

    def open_and_close(_: int) -> None:
        with RelayStore(path, redis_server.url):
            pass

    at_once(6, open_and_close)
    check_that_both_are_there(began_anew)


def test_older_copy_of_redis_gets_newer_values(
    open_store: Callable[..., Face], start_server: Callable[..., Server]
) -> None:
    """A Redis that restarts with an older file goes on from what SQLite has."""
    server = start_server(dbfilename="old.rdb")
    client = server.client()
    load(client)
    store = open_store(server)
    client.save()
    client.hincrby(f"usage:{ID}", "totalRequests", 5)
    client.incrbyfloat(f"usage:cost:total:{ID}", 0.5)
    client.lpush(f"usage:records:{ID}", "{}")
    client.set("later", "1")
    client.hset("account_groups_settings", "a", "new")
    store.import_from_redis()
    store.save_api_key({**SAMPLE[f"apikey:{ID}"]["value"], "name": "changed"})
    store.delete_api_key(sample_ids()[-1])
    before = lasting(dump(client))
    server.restart()
    until(lambda: client.hget(f"apikey:{ID}", "name") == b"changed", "the record")
    until(lambda: not client.exists(f"apikey:{sample_ids()[-1]}"), "the deletion")
    assert differences(before, lasting(dump(client))) == []


def test_dry_run_of_a_restore_writes_nothing(
    imported: Face, loaded: Server, open_store: Callable[..., Face], face: str
) -> None:
    """It counts what is missing, and what is there."""
    client = loaded.client()
    imported.shut()
    store = open_store(loaded, face, heal=False)
    client.delete(f"apikey:{ID}", "user:index")
    before = dump(client)
    found = store.restore(dry_run=True)
    assert (found.keys, found.api_keys, found.accounts, found.loss) == (2, 1, 0, "missing")
    assert found.present == len(lasting(before))
    assert differences(before, dump(client)) == []
    assert store.restore().keys == 2
    assert store.restore().loss == "none"


def test_restore_leaves_newer_values_of_redis(
    imported: Face, loaded: Server, open_store: Callable[..., Face], face: str
) -> None:
    """Where keys are missing, those that are there stay as they are."""
    client = loaded.client()
    imported.shut()
    store = open_store(loaded, face, heal=False)
    client.hincrby(f"usage:{ID}", "totalRequests", 3)
    client.set("new", "1")
    before = lasting(dump(client))
    client.delete("user:index")
    store.restore()
    assert differences(before, lasting(dump(client))) == []


def test_store_that_only_looks_restores_nothing(
    imported: Face, loaded: Server, open_store: Callable[..., Face], face: str
) -> None:
    """heal=False leaves an empty Redis empty."""
    imported.shut()
    loaded.client().flushall()
    store = open_store(loaded, face, heal=False)
    assert store.stats()["redisKeysCount"] > 0
    assert loaded.client().dbsize() == 0
