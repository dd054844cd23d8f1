"""A file with records that were saved offline, and a Redis that it has never seen.

What the relay has there is learned first, whoever meets it and however often that is interrupted.
"""

# ruff: noqa: F401, F811 - fixtures are imported

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from langgraph_sqlite_saver.relay import RelayStore, saving, server
from langgraph_sqlite_saver.relay.errors import RedisUnavailableError
from langgraph_sqlite_saver.relay.healing import Healer

from .following import assert_in_step, quick, start_following, stored
from .sample import dump
from .servers import Server, until
from .stores import Face, api_key, members, open_store, path, query

TAGGED = '["t"]'


def put(client: redis.Redis, *ids: str, indexed: bool = True) -> None:
    """API keys as a relay writes them; an older one keeps no indexes."""
    for id in ids:
        fields = api_key(id, tags=TAGGED)
        client.hset(f"apikey:{id}", mapping=fields)
        client.hset("apikey:hash_map", fields["apiKey"], id)
        if indexed:
            client.set("apikey:index:version", "2")
            client.sadd("apikey:idx:all", id)
            client.sadd("apikey:set:active", id)
            client.sadd("apikey:tag:t", id)


@pytest.fixture
def offline(path: Path) -> Iterator[RelayStore]:
    """A store that has saved a record, and never saw a Redis."""
    with RelayStore(path, None) as store:
        store.save_api_key(api_key("own", tags=TAGGED))
        yield store


def assert_has_places(client: redis.Redis, *ids: str) -> None:
    """These records, and no others, are where the relay looks for them."""
    assert members(client, "apikey:hash_map") == {f"hash-of-{id}": id for id in ids}
    for index in ("apikey:idx:all", "apikey:set:active", "apikey:tag:t"):
        assert members(client, index) == set(ids), index


def settled(store: Any) -> None:
    """All that waited has arrived, and both sides agree."""
    until(lambda: store.stats()["outboxPending"] == 0, "the saves to arrive")
    until(lambda: store.diff() == [], "both to agree")


def in_the_middle(monkeypatch: pytest.MonkeyPatch, happens: Callable[[], object]) -> None:
    """Have something happen once, when a first part of Redis was read and is not kept yet."""
    check_same, left = Healer._check_same, [happens]

    def check(healer: Healer, about: server.ServerInfo) -> None:
        while left:
            left.pop()()
        check_same(healer, about)

    monkeypatch.setattr(Healer, "_check_same", check)


def refuse(*_: Any) -> None:
    """A Redis that is restarted while it is read."""
    raise RedisUnavailableError("restarted")


# Two processes that meet it at once, and one that is interrupted.


def test_process_that_comes_late_to_the_meeting_undoes_nothing(
    offline: RelayStore,
    open_store: Callable[..., Face],
    redis_server: Server,
) -> None:
    """It saw that nobody had met this Redis, and dies when another has come to the end of it."""
    client = redis_server.client()
    put(client, "theirs")
    with RelayStore(offline.path, redis_server.url, heal=False) as late:
        looked = late.database.read(saving.is_first_meeting)
        with RelayStore(offline.path, redis_server.url) as first:
            settled(first)
        assert looked
        assert not late.database.write(saving.set_places_aside)  # and dies
    client.flushall()
    settled(open_store(redis_server))
    assert_has_places(client, "own", "theirs")


def test_process_that_is_overtaken_in_the_meeting_undoes_nothing(
    offline: RelayStore,
    open_store: Callable[..., Face],
    redis_server: Server,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Another ends it, while this one has yet to keep what it has read."""
    client = redis_server.client()
    put(client, "theirs")

    def overtaken() -> None:
        with RelayStore(offline.path, redis_server.url) as first:
            settled(first)

    in_the_middle(monkeypatch, overtaken)
    store = open_store(redis_server)
    settled(store)
    client.flushall()
    until(lambda: client.exists("apikey:own", "apikey:theirs") == 2, "the restore")
    settled(store)
    assert_has_places(client, "own", "theirs")


def test_meeting_that_was_interrupted_is_done_again(
    offline: RelayStore,
    open_store: Callable[..., Face],
    redis_server: Server,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By whoever comes next, also when something was told to this Redis meanwhile."""
    client = redis_server.client()
    put(client, "theirs")
    with RelayStore(offline.path, redis_server.url, heal=False) as store:
        with monkeypatch.context() as patch, pytest.raises(RedisUnavailableError):
            patch.setattr(Healer, "_check_same", refuse)
            store.import_from_redis()
        store.save_api_key(api_key("told", tags=TAGGED))
    offline.save_api_key(api_key("later", tags=TAGGED))
    settled(open_store(redis_server))
    assert_has_places(client, "own", "theirs", "told", "later")


def test_meeting_is_done_again_where_the_same_redis_was_noted_meanwhile(
    offline: RelayStore,
    open_store: Callable[..., Face],
    redis_server: Server,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is not known before the meeting has ended."""
    client = redis_server.client()
    put(client, "theirs")
    with RelayStore(offline.path, redis_server.url, heal=False) as store:
        with monkeypatch.context() as patch, pytest.raises(RedisUnavailableError):
            patch.setattr(Healer, "_check_same", refuse)
            store.import_from_redis()
        store.healer.note_source(server.info(store.redis))
    settled(open_store(redis_server))
    assert_has_places(client, "own", "theirs")


def test_redis_that_is_emptied_during_the_meeting_gets_the_records_with_their_places(
    offline: RelayStore,
    open_store: Callable[..., Face],
    redis_server: Server,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is a new relay's then."""
    client = redis_server.client()
    put(client, "theirs")
    in_the_middle(monkeypatch, client.flushall)
    store = open_store(redis_server)
    until(lambda: client.exists("apikey:own") == 1, "the restore")
    settled(store)
    assert_has_places(client, "own")
    store.save_api_key(api_key("later", tags=TAGGED))
    assert_has_places(client, "own", "later")


def test_record_that_is_saved_again_during_the_meeting_has_its_places(
    offline: RelayStore,
    open_store: Callable[..., Face],
    redis_server: Server,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It was deleted before, and is no more."""
    client = redis_server.client()
    put(client, "theirs")
    offline.save_api_key(api_key("again", tags=TAGGED))
    offline.delete_api_key("again")
    again = api_key("again", tags=TAGGED)
    in_the_middle(monkeypatch, lambda: offline.save_api_key(again))
    settled(open_store(redis_server))
    assert_has_places(client, "own", "theirs", "again")


# Whoever meets it.


def assert_an_older_relay_was_met(offline: RelayStore, client: redis.Redis) -> None:
    """Both have the other's record, and neither an index that the relay does not keep."""
    both = {b"apikey:hash_map", b"apikey:theirs", b"apikey:own"}
    assert dump(client).keys() == both
    assert stored(offline.path).keys() == both
    lookup = {"hash-of-theirs": "theirs", "hash-of-own": "own"}
    assert members(client, "apikey:hash_map") == lookup


@pytest.mark.parametrize("call", [RelayStore.restore, RelayStore.reconcile])
def test_call_by_hand_is_a_first_meeting_too(
    offline: RelayStore, redis_server: Server, call: Callable[..., Any]
) -> None:
    """Of a store that does not heal by itself."""
    client = redis_server.client()
    put(client, "theirs", "rotated", indexed=False)
    offline.save_api_key(api_key("rotated", apiKey="new"))
    with RelayStore(offline.path, redis_server.url, heal=False) as store:
        call(store)
        assert store.diff() == []
    assert members(client, "apikey:hash_map") == {
        "hash-of-theirs": "theirs", "hash-of-own": "own", "new": "rotated"
    }  # fmt: skip
    offline.delete_api_key("rotated")
    with RelayStore(offline.path, redis_server.url) as store:
        settled(store)
    assert_an_older_relay_was_met(offline, client)


@pytest.mark.parametrize("call", [RelayStore.restore, RelayStore.reconcile])
def test_dry_run_is_no_meeting(
    offline: RelayStore, redis_server: Server, call: Callable[..., Any]
) -> None:
    """It changes neither side."""
    client = redis_server.client()
    put(client, "theirs", indexed=False)
    before, held = dump(client), stored(offline.path)
    with RelayStore(offline.path, redis_server.url, heal=False) as store:
        call(store, dry_run=True)
    assert dump(client) == before
    assert stored(offline.path) == held


def test_follower_meets_it_first(
    offline: RelayStore, redis_server: Server, start_following: Callable[..., Any], path: Path
) -> None:
    """And goes on as after an import."""
    client = redis_server.client()
    put(client, "theirs", indexed=False)
    following = start_following(redis_server).begun()
    until(lambda: client.exists("apikey:own") == 1, "the record that was saved before")
    assert_in_step(client, path)
    assert_an_older_relay_was_met(offline, client)
    assert not [line for line in following.lines if "lost" in line]
    client.hset("apikey:theirs", "name", "followed")
    assert_in_step(client, path)


# A relay that changes what waits for it.


def test_record_that_the_relay_moved_meanwhile_is_found_where_it_was_saved(
    open_store: Callable[..., Face], redis_server: Server
) -> None:
    """In the lookup and the indexes, as the save that waited has it."""
    client = redis_server.client()
    store = open_store(redis_server)
    store.save_api_key(api_key("own", tags=TAGGED))
    store.shut()
    with RelayStore(store.path, None) as apart:
        apart.save_api_key(api_key("own", tags=TAGGED, description="saved apart"))
    client.hdel("apikey:hash_map", "hash-of-own")
    client.hset("apikey:hash_map", "rotated", "own")
    client.srem("apikey:tag:t", "own")
    client.hset("apikey:own", mapping={"apiKey": "rotated", "tags": "[]"})
    settled(open_store(redis_server))
    assert client.hget("apikey:own", "description") == b"saved apart"
    assert_has_places(client, "own")
