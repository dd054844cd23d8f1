"""What Redis lacks or refuses, SQLite has; and Redis gets it as soon as it takes it."""

# ruff: noqa: F401, F811 - fixtures are imported

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from datetime import timedelta
from typing import Any

import pytest

from langgraph_sqlite_saver.database import DatabaseFullError, DatabaseLockedError
from langgraph_sqlite_saver.relay import RedisUnavailableError

from .sample import differences, dump
from .servers import Server, until
from .stores import (
    Face,
    api_key,
    at_once,
    commands_run,
    face,
    hash_of,
    members,
    open_store,
    path,
)

ACCOUNT = {"id": "acc-1", "name": "Account", "accountType": "shared"}


@pytest.fixture
def quiet(open_store: Callable[..., Face], redis_server: Server, face: str) -> Face:
    """A store that does nothing in the background, so that what is seen is what calls do."""
    return open_store(redis_server, face, heal=False)


# Misses.


def test_lost_api_key_is_put_back_by_a_read(quiet: Face, redis_server: Server) -> None:
    """With the time it had left, and its place in the indexes."""
    client = redis_server.client()
    fields = api_key(tags='["t"]')
    quiet.save_api_key(fields, ttl=timedelta(hours=1))
    before = dump(client)
    client.flushall()
    assert quiet.get_api_key("key-1") == fields
    lost = {b"apikey:index:version"}  # not the key's own
    assert dump(client).keys() == before.keys() - lost
    assert hash_of(client, "apikey:key-1") == fields
    assert 3_590_000 < client.pttl("apikey:key-1") <= 3_600_000
    assert members(client, "apikey:hash_map") == {"hash-of-key-1": "key-1"}


def test_lost_account_is_put_back_by_a_read(quiet: Face, redis_server: Server) -> None:
    """With its index and, if it is shared, that set, and without the mark of emptiness."""
    client = redis_server.client()
    quiet.save_account("ccr", ACCOUNT)
    before = dump(client)
    client.flushall()
    client.set("ccr_account:index:empty", "1")
    assert quiet.get_account("ccr", "acc-1") == ACCOUNT
    assert differences(before, dump(client)) == []


def test_lost_hash_is_found_and_put_back(quiet: Face, redis_server: Server) -> None:
    """A search that hash_map misses is answered by SQLite."""
    client = redis_server.client()
    quiet.save_api_key(api_key())
    client.flushall()
    assert quiet.find_api_key("hash-of-key-1") == api_key()
    assert members(client, "apikey:hash_map") == {"hash-of-key-1": "key-1"}
    assert hash_of(client, "apikey:key-1") == api_key()


def test_many_misses_at_once_put_back_once(quiet: Face, redis_server: Server) -> None:
    """All are answered."""
    quiet.save_api_key(api_key())
    redis_server.client().flushall()
    redis_server.client().config_resetstat()
    assert at_once(32, lambda _: quiet.get_api_key("key-1")) == [api_key()] * 32
    assert commands_run(redis_server, "eval") == 1


def test_evicted_records_come_back_by_reads(
    open_store: Callable[..., Face], any_server: Server, face: str
) -> None:
    """A server that drops what it has no room for loses nothing."""
    store = open_store(any_server, face, heal=False)
    used = any_server.info("memory")["used_memory"]
    any_server.config("maxmemory-policy", "allkeys-lru")
    any_server.config("maxmemory", str(used + 500_000))
    keys = [api_key(f"key-{n:03}", icon=str(n) * 5000) for n in range(100)]
    for fields in keys:
        store.save_api_key(fields)
    assert any_server.info("stats")["evicted_keys"] > 0
    assert [store.get_api_key(each["id"]) for each in keys] == keys
    assert [store.find_api_key(each["apiKey"]) for each in keys] == keys
    assert store.list_api_keys() == keys


# A Redis that is down.


def test_everything_works_while_redis_is_down(
    open_store: Callable[..., Face], fresh_server: Server, face: str
) -> None:
    """Saving, reading, finding, listing, deleting; once it is back it has all, by itself."""
    store = open_store(fresh_server, face)
    store.save_api_key(api_key("old"))
    store.save_account("ccr", ACCOUNT)
    fresh_server.stop()
    store.save_api_key(api_key())
    store.save_api_key(api_key("old", apiKey="rotated"))
    store.save_account("claude", {"id": "acc-2", "name": "New"})
    assert store.delete_account("ccr", "acc-1") is True
    assert store.get_api_key("key-1") == store.find_api_key("hash-of-key-1") == api_key()
    assert store.find_api_key("hash-of-old") is None
    assert [each["id"] for each in store.list_api_keys()] == ["key-1", "old"]
    assert store.get_account("ccr", "acc-1") is None
    assert store.list_accounts("ccr") == []
    fresh_server.start()
    client = fresh_server.client()
    until(lambda: client.hget("apikey:hash_map", "rotated") == b"old", "the change")
    until(lambda: client.exists("claude:account:acc-2", "apikey:key-1") == 2, "the new records")
    until(lambda: store.stats()["outboxPending"] == 0, "the outbox")
    assert hash_of(client, "apikey:key-1") == api_key()
    assert members(client, "apikey:hash_map") == {"hash-of-key-1": "key-1", "rotated": "old"}
    assert not client.exists("ccr_account:acc-1", "ccr_account:index", "shared_ccr_accounts")


def test_store_opens_while_redis_is_down(
    open_store: Callable[..., Face], fresh_server: Server, face: str
) -> None:
    """And brings what it has to a Redis that comes later."""
    fresh_server.stop()
    store = open_store(fresh_server, face)
    store.save_api_key(api_key())
    assert store.stats()["redisUp"] is False
    fresh_server.start()
    client = fresh_server.client()
    until(lambda: client.exists("apikey:key-1") == 1, "the record")
    assert store.get_api_key("key-1") == api_key()


def test_changes_wait_over_a_restart_of_the_process(
    open_store: Callable[..., Face], redis_server: Server, face: str
) -> None:
    """Made without Redis, they reach it when a store opens beside it."""
    first = open_store(None, face)
    first.save_api_key(api_key())
    first.save_account("ccr", ACCOUNT)
    first.delete_account("ccr", "acc-1")
    first.shut()
    client = redis_server.client()
    client.sadd("ccr_account:index", "acc-1")
    open_store(redis_server, face)
    assert hash_of(client, "apikey:key-1") == api_key()
    assert not client.exists("ccr_account:index")


def test_strict_store_raises_and_keeps_the_change(
    open_store: Callable[..., Face], fresh_server: Server, face: str
) -> None:
    """It is committed all the same, and reaches Redis later."""
    store = open_store(fresh_server, face, strict=True)
    store.save_api_key(api_key("old"))
    fresh_server.stop()
    with pytest.raises(RedisUnavailableError):
        store.save_api_key(api_key())
    with pytest.raises(RedisUnavailableError):
        store.save_account("ccr", ACCOUNT)
    with pytest.raises(RedisUnavailableError):
        store.delete_api_key("old")
    assert store.query("SELECT id FROM api_keys") == [("key-1",)]
    assert store.query("SELECT id FROM accounts") == [("acc-1",)]
    assert store.get_api_key("key-1") == api_key()
    fresh_server.start()
    client = fresh_server.client()
    until(lambda: client.exists("apikey:key-1", "ccr_account:acc-1") == 2, "the changes")
    until(lambda: not client.exists("apikey:old"), "the deletion")


def test_strictness_of_a_call_counts_more(
    open_store: Callable[..., Face], fresh_server: Server, face: str
) -> None:
    """Either way."""
    strict, lenient = (open_store(fresh_server, face, strict=each) for each in (True, False))
    fresh_server.stop()
    strict.save_api_key(api_key(), strict=False)
    with pytest.raises(RedisUnavailableError):
        lenient.save_api_key(api_key(), strict=True)
    assert strict.delete_api_key("key-1", strict=False) is True


# A Redis that refuses.


def check_that_changes_arrive(
    store: Face, server: Server, refuse: Callable[[], object], allow: Callable[[], object]
) -> None:
    """While it refuses, changes are kept, read back and told of; then they arrive."""
    store.save_api_key(api_key("old"))
    refuse()
    store.save_api_key(api_key())
    assert store.get_api_key("key-1") == store.find_api_key("hash-of-key-1") == api_key()
    store.save_api_key(api_key("old", name="changed"))
    assert store.get_api_key("old") == api_key("old", name="changed")
    with pytest.raises(RedisUnavailableError):
        store.save_api_key(api_key("third"), strict=True)
    allow()
    client = server.client()
    until(lambda: client.hget("apikey:old", "name") == b"changed", "the change")
    until(lambda: hash_of(client, "apikey:key-1") == api_key(), "the record")
    until(lambda: members(client, "apikey:idx:all") == {"old", "key-1", "third"}, "the index")
    until(lambda: store.stats()["outboxPending"] == 0, "the outbox")


def test_full_redis(open_store: Callable[..., Face], any_server: Server, face: str) -> None:
    """maxmemory without eviction."""
    check_that_changes_arrive(
        open_store(any_server, face),
        any_server,
        lambda: any_server.config("maxmemory", "1"),
        lambda: any_server.config("maxmemory", "0"),
    )


def test_redis_that_became_a_replica(
    open_store: Callable[..., Face], redis_server: Server, face: str
) -> None:
    """It answers reads and refuses writes."""
    client = redis_server.client()
    check_that_changes_arrive(
        open_store(redis_server, face),
        redis_server,
        lambda: client.replicaof("127.0.0.1", "1"),
        lambda: client.replicaof("NO", "ONE"),
    )


def test_redis_that_hangs(open_store: Callable[..., Face], redis_server: Server, face: str) -> None:
    """Calls give up after the timeout."""
    check_that_changes_arrive(
        open_store(redis_server, face, socket_timeout=0.2),
        redis_server,
        redis_server.pause,
        redis_server.resume,
    )


def test_key_of_another_type_is_in_the_way(
    open_store: Callable[..., Face], redis_server: Server, face: str
) -> None:
    """An index that is a string holds up neither its record nor others."""
    client = redis_server.client()
    client.set("another", "1")  # or the store takes it for an emptied one
    check_that_changes_arrive(
        open_store(redis_server, face),
        redis_server,
        lambda: client.set("apikey:idx:all", "x"),
        lambda: (client.delete("apikey:idx:all"), client.sadd("apikey:idx:all", "old")),
    )


def test_record_of_another_type_is_replaced(quiet: Face, redis_server: Server) -> None:
    """A read is answered by SQLite, and a save makes it a hash again."""
    client = redis_server.client()
    quiet.save_api_key(api_key())
    client.delete("apikey:key-1")
    client.rpush("apikey:key-1", "x")
    assert quiet.get_api_key("key-1") == api_key()
    quiet.save_api_key(api_key())
    assert hash_of(client, "apikey:key-1") == api_key()


def test_redis_that_asks_for_a_password(
    open_store: Callable[..., Face], start_server: Callable[..., Server], face: str
) -> None:
    """Without it the store works on SQLite; with it the changes arrive."""
    server = start_server(requirepass="p@ss/word")
    outside = f"redis://127.0.0.1:{server.port}/0"
    store = open_store(server, face, redis_url=outside)
    store.save_api_key(api_key())
    assert store.get_api_key("key-1") == store.find_api_key("hash-of-key-1") == api_key()
    with pytest.raises(RedisUnavailableError):
        store.save_api_key(api_key(), strict=True)
    store.shut()
    open_store(server, face)
    assert hash_of(server.client(), "apikey:key-1") == api_key()


# An SQLite that refuses.


def test_locked_file_leaves_redis_untouched(
    open_store: Callable[..., Face], redis_server: Server, face: str
) -> None:
    """What is not committed is not told."""
    store = open_store(redis_server, face, lock_timeout=0.1)
    store.save_api_key(api_key())
    before = dump(redis_server.client())
    with closing(sqlite3.connect(store.path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(DatabaseLockedError):
            store.save_api_key(api_key("key-2"))
        with pytest.raises(DatabaseLockedError):
            store.delete_api_key("key-1")
        assert store.get_api_key("key-1") == api_key()
    assert differences(before, dump(redis_server.client())) == []
    store.save_api_key(api_key("key-2"))
    assert store.get_api_key("key-2") == api_key("key-2")


def test_full_file_leaves_redis_untouched(
    open_store: Callable[..., Face], redis_server: Server, face: str
) -> None:
    """A record that does not fit is refused whole, and others stay readable."""
    first = open_store(redis_server, face)
    first.save_api_key(api_key())
    ((pages,),) = first.query("PRAGMA page_count")
    first.shut()
    store = open_store(redis_server, face, pragmas={"max_page_count": pages + 2})
    before = dump(redis_server.client())
    large = api_key("key-2", icon="x" * 100_000)
    with pytest.raises(DatabaseFullError):
        store.save_api_key(large)
    assert differences(before, dump(redis_server.client())) == []
    assert store.query("SELECT id FROM api_keys") == [("key-1",)]
    assert store.get_api_key("key-1") == api_key()
    redis_server.client().delete("apikey:key-1")
    assert store.get_api_key("key-1") == api_key()


def test_outage_is_told_of_once(
    open_store: Callable[..., Face],
    fresh_server: Server,
    face: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """In the log, when it begins and when it is over: whoever looks at no figures learns of it."""

    def told() -> list[str]:
        records = [record for record in caplog.records if "relay" in record.name]
        return [record.getMessage() for record in records]

    store = open_store(fresh_server, face)
    store.save_api_key(api_key())
    assert told() == []
    fresh_server.stop()
    for n in range(3):
        store.save_api_key(api_key(f"key {n}"))
    assert len(told()) == 1 and "does not answer" in told()[0]
    fresh_server.start()
    until(lambda: len(told()) > 1, "the good news")
    assert len(told()) == 2 and "takes changes again" in told()[1]
    assert store.stats()["outboxPending"] == 0
