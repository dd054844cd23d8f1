"""Where SQLite and Redis differ is found, told without values, and put in step either way."""

# ruff: noqa: F401, F811 - fixtures are imported

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from langgraph_sqlite_saver.database import InvalidInputError
from langgraph_sqlite_saver.relay import RedisLostKeysError, RedisUnavailableError, RelayStore

from .sample import SAMPLE, Entry, differences, dump, raw
from .servers import Server
from .stores import (
    Face,
    api_key,
    face,
    hash_of,
    imported,
    lasting,
    open_store,
    path,
    sample_account,
    sample_ids,
)

ID = sample_ids()[0]
KEY = f"apikey:{ID}"
ACC = f"claude:account:{sample_account('claude')[0]}"
RECORDS = next(key for key in SAMPLE if key.startswith("usage:records:"))
SECRET = "visible-nowhere"

# what is done to Redis, which key differs, of what kind, and what the detail names
HARMS: dict[str, tuple[Any, str, str, str]] = {
    "lost key": (lambda c: c.delete(KEY), KEY, "missing in Redis", ""),
    "lost index": (lambda c: c.delete("user:index"), "user:index", "missing in Redis", ""),
    "new key": (lambda c: c.set("new", SECRET), "new", "missing in SQLite", ""),
    "field": (lambda c: c.hset(ACC, "accessToken", SECRET), ACC, "differs", "accessToken"),
    "new field": (lambda c: c.hset(KEY, "extra", SECRET), KEY, "differs", "extra"),
    "lost field": (lambda c: c.hdel(KEY, "name"), KEY, "differs", "name"),
    "text": (lambda c: c.set("apikey:index:version", SECRET), "apikey:index:version",
             "differs", ""),
    "type": (lambda c: (c.delete("user:index"), c.set("user:index", SECRET)), "user:index",
             "differs", "string"),
    "member": (lambda c: c.sadd("user:index", SECRET), "user:index", "differs", ""),
    "score": (lambda c: c.zadd("cost_rank:all", {ID: 7}), "cost_rank:all", "differs", ""),
    "hash_map": (lambda c: c.hset("apikey:hash_map", SECRET, "x"), "apikey:hash_map",
                 "differs", ""),
    "list": (lambda c: c.lpush(RECORDS, SECRET), RECORDS, "differs", ""),
    "expiry": (lambda c: c.persist(KEY), KEY, "differs", "expires"),
    "new entry": (lambda c: c.xadd("billing:events", {"data": SECRET}), "billing:events",
                  "differs", ""),
    "cut stream": (lambda c: c.xtrim("billing:events", 1, approximate=False), "billing:events",
                   "differs", ""),
    "lost entry": (lambda c: c.xdel("billing:events", c.xrange("billing:events")[1][0]),
                   "billing:events", "differs", ""),
}  # fmt: skip


@pytest.fixture
def store(imported: Face, open_store: Callable[..., Face], loaded: Server, face: str) -> Face:
    """A store that has taken over the sample and leaves Redis alone, by each face."""
    imported.shut()
    return open_store(loaded, face, heal=False)


def test_no_difference_after_an_import(store: Face) -> None:
    """Short-lived keys are not looked at."""
    assert store.diff() == []
    assert store.reconcile() == []


@pytest.mark.parametrize("harm", HARMS)
def test_difference_is_found_and_shows_no_value(imported: Face, loaded: Server, harm: str) -> None:
    """One for the key, of its kind, with the name of a field at most."""
    do, key, kind, detail = HARMS[harm]
    do(loaded.client())
    found = imported.diff()
    assert [(each.key, each.kind) for each in found] == [(raw(key), kind)]
    assert detail in found[0].detail
    assert key in str(found[0]) and kind in str(found[0])
    if harm != "hash_map":  # where members have no values, their names are not told either
        assert SECRET not in str(found) + str(found[0])


@pytest.mark.parametrize("harm", HARMS)
def test_sqlite_is_preferred(imported: Face, loaded: Server, harm: str) -> None:
    """Redis gets back what SQLite has; what only Redis has is taken over."""
    client = loaded.client()
    before = lasting(dump(client))
    do, key, _, _ = HARMS[harm]
    do(client)
    if harm == "new key":
        before[b"new"] = Entry("string", SECRET.encode(), None)
    assert [each.key for each in imported.reconcile()] == [raw(key)]
    assert differences(before, lasting(dump(client))) == []
    assert imported.diff() == []


@pytest.mark.parametrize("harm", HARMS)
def test_redis_is_preferred(
    imported: Face, open_store: Callable[..., Face], loaded: Server, harm: str
) -> None:
    """SQLite takes what Redis has, and nothing changes there."""
    imported.shut()
    store = open_store(loaded, heal=False)
    client = loaded.client()
    do, key, _, _ = HARMS[harm]
    do(client)
    after = lasting(dump(client))
    assert [each.key for each in store.reconcile("redis")] == [raw(key)]
    assert differences(after, lasting(dump(client))) == []
    assert store.diff() == []
    client.flushall()
    store.restore()
    assert differences(after, dump(client)) == []


@pytest.mark.parametrize("prefer", ["sqlite", "redis"])
def test_dry_run_changes_nothing(store: Face, loaded: Server, prefer: str) -> None:
    """It tells what would be put in step."""
    client = loaded.client()
    for name in ("lost key", "new key", "field"):
        HARMS[name][0](client)
    before, rows = dump(client), store.query("SELECT * FROM redis_keys ORDER BY key")
    found = store.reconcile(prefer, dry_run=True)
    assert {each.key for each in found} == {raw(KEY), b"new", raw(ACC)}
    assert differences(before, dump(client)) == []
    assert store.query("SELECT * FROM redis_keys ORDER BY key") == rows
    assert store.diff() == found


def test_record_that_redis_deleted_goes_to_the_trash(store: Face, loaded: Server) -> None:
    """With its usage, from where it can be had back whole."""
    client = loaded.client()
    id = next(id for id in sample_ids() if f"usage:records:{id}" in SAMPLE)
    usage = store.usage(api_key_id=id)
    assert usage
    client.delete(f"apikey:{id}")
    store.reconcile("redis")
    assert store.get_api_key(id) is None
    assert store.usage(api_key_id=id) == []
    assert [(entry.kind, entry.id) for entry in store.trash()] == [("api_key", id)]
    assert store.undelete(id) >= 1
    assert (
        store.get_api_key(id) == hash_of(client, f"apikey:{id}") == SAMPLE[f"apikey:{id}"]["value"]
    )
    again = store.usage(api_key_id=id)
    assert [(r.timestamp, r.model, r.cost, r.extra) for r in again] == [
        (r.timestamp, r.model, r.cost, r.extra) for r in usage
    ]
    assert store.trash() == []


def test_undelete_of_what_is_not_in_the_trash_is_refused(store: Face) -> None:
    """By an error that names the id."""
    with pytest.raises(InvalidInputError, match="nobody"):
        store.undelete("nobody")


def test_differences_are_limited(store: Face, loaded: Server) -> None:
    """At most as many as asked for."""
    loaded.client().flushall()
    assert len(store.diff(limit=3)) == 3


def test_preference_is_one_of_two(store: Face) -> None:
    """Anything else is refused."""
    with pytest.raises(InvalidInputError, match="'sqlite' or 'redis'"):
        store.reconcile("postgres")


def test_what_was_deleted_here_is_removed_there(store: Face, loaded: Server) -> None:
    """Preferring SQLite a deleted record is not taken over."""
    client = loaded.client()
    store.delete_account("ccr", sample_account("ccr")[0])
    key = f"ccr_account:{sample_account('ccr')[0]}"
    client.hset(key, mapping=SAMPLE[key]["value"])
    store.reconcile()
    assert not client.exists(key)
    assert store.diff() == []


@pytest.mark.parametrize("dry_run", [False, True])
def test_redis_that_was_emptied_is_not_preferred(
    store: Face, loaded: Server, dry_run: bool
) -> None:
    """What it lacks is lost, not deleted; who insists can have SQLite emptied too, and back."""
    client = loaded.client()
    before = lasting(dump(client))
    client.flushall()
    with pytest.raises(RedisLostKeysError, match="restore-redis"):
        store.reconcile("redis", dry_run=dry_run)
    assert store.stats()["redisKeysCount"] == len(before)
    store.reconcile("redis", even_if_lost=True)
    assert store.stats()["redisKeysCount"] == 0
    assert store.undelete_all(since=datetime.now() + timedelta(hours=1)) == 0
    assert store.undelete_all() == len(before)
    assert differences(before, dump(client)) == []
    assert store.trash(everything=True) == []
    assert store.diff() == []


def test_redis_that_was_flushed_in_part_is_not_preferred(store: Face, loaded: Server) -> None:
    """Nor one that was emptied, and has some records again."""
    client = loaded.client()
    key = next(name for name in SAMPLE if name.startswith("apikey:") and len(name) == 43)
    client.flushall()
    client.hset(key, mapping=SAMPLE[key]["value"])
    with pytest.raises(RedisLostKeysError):
        store.reconcile("redis")


def test_trash_shows_keys_that_are_no_records(store: Face, loaded: Server) -> None:
    """When asked to; they come back by their names."""
    client = loaded.client()
    name = next(name for name in SAMPLE if name.startswith("account_group:"))
    before = lasting(dump(client))
    client.delete(name)
    store.reconcile("redis")
    assert store.trash() == []
    assert [(entry.kind, entry.id) for entry in store.trash(everything=True)] == [("key", name)]
    assert store.undelete(name) == 1
    assert differences(before, lasting(dump(client))) == []


def test_stream_that_may_not_be_looked_at_is_told_of(path: Path, loaded: Server) -> None:
    """Scripts read it: a user who may not run them gets an error, not a file without it."""
    rights = "on >secret ~* &* +@all -@scripting"
    loaded.client().execute_command("ACL", "SETUSER", "reader", *rights.split())
    url = f"redis://reader:secret@127.0.0.1:{loaded.port}/0"
    with RelayStore(path, url, heal=False) as store:
        with pytest.raises(RedisUnavailableError, match="refused EVAL"):
            store.import_from_redis()


def test_record_that_the_relay_made_keeps_its_places(store: Face, loaded: Server) -> None:
    """Where SQLite is preferred and knows neither it nor that it stands in the indexes."""
    client = loaded.client()
    fields = api_key("theirs", tags='["new"]')
    client.hset("apikey:theirs", mapping=fields)
    client.hset("apikey:hash_map", fields["apiKey"], "theirs")
    client.sadd("apikey:idx:all", "theirs")
    client.sadd("apikey:tags:all", "new")
    client.sadd("apikey:tag:new", "theirs")
    before = lasting(dump(client))
    store.reconcile()
    assert differences(before, lasting(dump(client))) == []
    assert store.diff() == []
    client.flushall()
    store.restore()
    assert differences(before, lasting(dump(client))) == []
