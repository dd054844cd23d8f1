"""When Redis' answers count: not before it was looked at, nor while it is older than SQLite."""

# ruff: noqa: F401, F811 - fixtures are imported

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from database.helpers import run_script

from langgraph_sqlite_saver.database import InvalidTypeError
from langgraph_sqlite_saver.relay import RelayStore, UsageRecord
from langgraph_sqlite_saver.relay.comparing import Difference
from langgraph_sqlite_saver.relay.healing import Healer
from langgraph_sqlite_saver.relay.health import Health

from .sample import differences, dump
from .servers import Server, until
from .stores import (
    Face,
    api_key,
    at_once,
    commands_run,
    hash_of,
    members,
    open_store,
    path,
)

NOWHERE = "redis://127.0.0.1:1/0"


def put(client: Any, fields: dict[str, str], *, indexed: bool = False) -> None:
    """An API key as a relay writes it."""
    id = fields["id"]
    client.hset(f"apikey:{id}", mapping=fields)
    client.hset("apikey:hash_map", fields["apiKey"], id)
    if indexed:
        client.sadd("apikey:idx:all", id)
        client.sadd("apikey:set:active", id)
        client.zadd("apikey:idx:name", {f"{fields['name'].lower()}\0{id}": 0})
        client.sadd("apikey:tag:t", id)


@pytest.fixture
def store(open_store: Callable[..., Face], redis_server: Server) -> Face:
    """A store beside an empty server."""
    return open_store(redis_server)


# A Redis that is seen for the first time.


@pytest.fixture
def late_server(start_server: Callable[..., Server]) -> Server:
    """One that starts with the data it had."""
    return start_server(dbfilename="kept.rdb")


def test_redis_that_comes_after_the_first_save_is_imported_first(
    open_store: Callable[..., Face], late_server: Server
) -> None:
    """An older relay's Redis gets the saved records, and no index that it does not have."""
    client = late_server.client()
    for n in range(3):
        put(client, api_key(f"old {n}"))
        client.hset(f"claude:account:old {n}", mapping={"id": f"old {n}", "name": "n"})
    before = dump(client)
    client.save()
    late_server.stop()
    store = open_store(late_server)
    store.save_api_key(api_key("new"))
    store.save_account("claude", {"id": "new", "name": "n"})
    late_server.start()
    client = late_server.client()
    until(lambda: store.stats()["outboxPending"] == 0, "the saves to arrive")
    assert dump(client).keys() - before.keys() == {b"apikey:new", b"claude:account:new"}
    assert members(client, "apikey:hash_map").keys() == {
        f"hash-of-{id}" for id in ("new", "old 0", "old 1", "old 2")
    }
    assert [each["id"] for each in store.list_api_keys()] == ["new", "old 0", "old 1", "old 2"]
    assert len(store.list_accounts("claude")) == 4
    assert store.diff() == []
    client.flushall()
    until(lambda: client.exists("apikey:old 2", "claude:account:old 2") == 2, "the restore")
    assert client.exists("apikey:idx:all", "apikey:index:version", "claude:account:index") == 0


def test_saves_before_the_first_look_take_their_places_in_the_relays_indexes(
    open_store: Callable[..., Face], late_server: Server
) -> None:
    """Where it keeps them; what was changed and deleted before leaves those that it had there."""
    client = late_server.client()
    client.set("apikey:index:version", "2")
    for id in ("kept", "rotated", "deleted"):
        put(client, api_key(id, tags='["t"]'), indexed=True)
    client.set("usage:cost:daily:deleted:2026-11-21", "5")
    client.save()
    late_server.stop()
    store = open_store(late_server)
    store.save_api_key(api_key("new"))
    store.save_api_key(api_key("rotated", apiKey="another", name="Another"))
    store.delete_api_key("deleted")
    late_server.start()
    client = late_server.client()
    until(lambda: client.exists("apikey:new") == 1, "the saves to arrive")
    until(lambda: store.stats()["outboxPending"] == 0, "all of them")
    until(lambda: members(client, "apikey:tag:t") == {"kept"}, "what they left")
    assert members(client, "apikey:hash_map") == {
        "hash-of-kept": "kept", "another": "rotated", "hash-of-new": "new",
    }  # fmt: skip
    assert members(client, "apikey:idx:all") == {"kept", "rotated", "new"}
    assert members(client, "apikey:set:active") == {"kept", "rotated", "new"}
    assert members(client, "apikey:idx:name").keys() == {
        "name of kept\0kept", "another\0rotated", "name of new\0new"
    }  # fmt: skip
    assert not client.exists("apikey:deleted", "usage:cost:daily:deleted:2026-11-21")
    until(lambda: store.diff() == [], "both to agree")


def test_import_by_hand_is_a_first_look_too(
    open_store: Callable[..., Face], redis_server: Server
) -> None:
    """Of a file that has saves which wait."""
    first = open_store(None)
    first.save_api_key(api_key("new"))
    first.shut()
    put(redis_server.client(), api_key("old"))
    with RelayStore(first.path, redis_server.url, heal=False) as store:
        store.import_from_redis()
    later = open_store(redis_server)
    assert later.find_api_key("hash-of-old") == api_key("old")
    assert later.find_api_key("hash-of-new") == api_key("new")
    assert dump(redis_server.client()).keys() == {b"apikey:old", b"apikey:new", b"apikey:hash_map"}


# A Redis that refuses changes, and answers.


def test_redis_that_refuses_changes_is_not_believed_by_other_processes_either(
    open_store: Callable[..., Face], redis_server: Server
) -> None:
    """Those that run, and those that start later."""
    first, other = open_store(redis_server), open_store(redis_server)
    first.save_api_key(api_key("deleted"))
    first.save_api_key(api_key("rotated"))
    control = redis_server.client()
    control.replicaof("127.0.0.1", "1")
    first.delete_api_key("deleted")
    first.save_api_key(api_key("rotated", apiKey="new"))
    first.shut()
    until(lambda: other.find_api_key("hash-of-deleted") is None, "the other to notice")
    until(lambda: other.find_api_key("new") is not None, "the other to notice")
    for store in (other, open_store(redis_server)):
        assert store.get_api_key("deleted") is None
        assert store.find_api_key("hash-of-deleted") is None
        assert store.find_api_key("hash-of-rotated") is None
        assert store.find_api_key("new") == api_key("rotated", apiKey="new")
    control.replicaof("NO", "ONE")
    until(lambda: store.stats()["outboxPending"] == 0, "the changes to arrive")
    assert not control.exists("apikey:deleted")
    until(lambda: store.store._health.may_answer, "Redis to be believed again")


def test_change_that_one_process_cannot_tell_is_told_by_another(
    open_store: Callable[..., Face], redis_server: Server
) -> None:
    """At once: it is not taken for one that a call is at work on."""
    near = open_store(redis_server)
    near.save_api_key(api_key())
    far = open_store(redis_server, redis_url=NOWHERE)
    far.delete_api_key("key-1")
    client = redis_server.client()
    until(lambda: not client.exists("apikey:key-1"), "the deletion", 10)
    assert near.find_api_key("hash-of-key-1") is None


# A Redis that came back from an older copy.


def test_answer_by_which_a_restart_is_noticed_is_not_believed(
    open_store: Callable[..., Face],
    start_server: Callable[..., Server],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Before anything in the background has looked."""
    server = start_server(dbfilename="old.rdb")
    store = open_store(server)
    store.save_api_key(api_key("read"))
    store.save_api_key(api_key("found"))
    server.client().save()
    store.delete_api_key("read")
    store.delete_api_key("found")
    monkeypatch.setattr(Healer, "tick", lambda _: None)
    server.restart()
    assert store.get_api_key("read") is None
    assert store.find_api_key("hash-of-found") is None


def test_look_clears_what_came_up_before_it_alone() -> None:
    """A connection that is made while Redis is looked at is looked at again."""
    health = Health()
    health.connected()
    seen = health.suspicions
    health.connected()
    assert not health.is_the_one_it_was(seen)
    assert not health.may_answer
    assert health.is_the_one_it_was(health.suspicions)
    assert health.may_answer


# What Redis has lost in part.


def test_evicted_lookup_is_put_back_once(store: Face, redis_server: Server) -> None:
    """With the record's other places, while the record itself is there."""
    client = redis_server.client()
    store.save_api_key(api_key(tags='["t"]'))
    before = dump(client)
    client.hset("apikey:key-1", "lastUsedAt", "later")
    at_once(16, lambda _: store.get_api_key("key-1"))  # all connect
    until(lambda: store.store._health.may_answer, "the connections to be looked at")
    client.delete("apikey:hash_map", "apikey:idx:all", "apikey:tag:t", "apikey:set:active")
    client.config_resetstat()

    def is_put_back() -> bool:  # not by who opens a connection, which is looked at first
        found = at_once(16, lambda _: store.find_api_key("hash-of-key-1"))
        assert [each["id"] for each in found] == ["key-1"] * 16
        return bool(client.exists("apikey:hash_map"))

    until(is_put_back, "the lookup")
    assert dump(client).keys() == before.keys()
    assert members(client, "apikey:hash_map") == {"hash-of-key-1": "key-1"}
    assert client.hget("apikey:key-1", "lastUsedAt") == b"later"
    assert commands_run(redis_server, "hset") == 1


def test_single_fields_are_no_record(store: Face, redis_server: Server) -> None:
    """What a request wrote to a key that was evicted hides nothing, and is made whole."""
    client = redis_server.client()
    store.save_api_key(api_key())
    client.delete("apikey:key-1")
    client.hset("apikey:key-1", "lastUsedAt", "later")
    assert store.get_api_key("key-1") == store.find_api_key("hash-of-key-1") == api_key()
    assert hash_of(client, "apikey:key-1") == api_key()


def test_record_that_never_told_its_id_is_read(store: Face, redis_server: Server) -> None:
    """As Redis has it."""
    redis_server.client().hset("apikey:other", "name", "Old")
    assert store.get_api_key("other") == {"name": "Old"}


# Secrets that two keys have had.


def test_key_that_is_saved_again_has_its_secret_back(store: Face, redis_server: Server) -> None:
    """The one that was saved last has it, and the audit log says who lost it."""
    client = redis_server.client()
    store.save_api_key(api_key("one", apiKey="shared"))
    store.save_api_key(api_key("two", apiKey="shared"), actor="admin")
    assert store.find_api_key("shared")["id"] == "two"
    (entry,) = [each for each in store.audit(record_id="one") if each.action == "update"]
    assert (entry.actor, entry.before, entry.after) == ("admin", {"apiKey": "(hidden)"}, {})
    store.delete_api_key("two")
    assert store.find_api_key("shared") is None
    for fields in (api_key("one", apiKey="shared"), api_key("one", apiKey="shared", name="n")):
        store.save_api_key(fields)
        assert store.find_api_key("shared") == fields
        assert members(client, "apikey:hash_map") == {"shared": "one"}


def test_saving_mends_a_lookup_that_was_imported_without_the_key(
    open_store: Callable[..., Face], redis_server: Server
) -> None:
    """The same fields again put it there."""
    client = redis_server.client()
    put(client, api_key())
    client.hdel("apikey:hash_map", "hash-of-key-1")
    store = open_store(redis_server)
    store.save_api_key(api_key())
    assert store.find_api_key("hash-of-key-1") == api_key()
    assert members(client, "apikey:hash_map") == {"hash-of-key-1": "key-1"}


def test_rotated_secret_is_gone_from_the_older_lookup(store: Face, redis_server: Server) -> None:
    """Which a relay reads where the newer one has nothing."""
    client = redis_server.client()
    client.hset("apikey_hash:hash-of-key-1", "id", "key-1")
    store.save_api_key(api_key())
    store.save_api_key(api_key(apiKey="new"))
    assert not client.exists("apikey_hash:hash-of-key-1")


def test_lookup_that_names_what_is_no_id_finds_nothing(store: Face, redis_server: Server) -> None:
    """Whoever wrote it."""
    redis_server.client().hset("apikey:hash_map", "odd", "a:b")
    assert store.find_api_key("odd") is None


# Records that only Redis has.


def test_saving_what_only_redis_has_takes_it_from_its_old_places(
    store: Face, redis_server: Server
) -> None:
    """The old secret among them."""
    client = redis_server.client()
    store.save_api_key(api_key("own"))
    put(client, api_key("theirs", tags='["t"]'), indexed=True)
    client.hset("apikey_hash:hash-of-theirs", "id", "theirs")
    store.save_api_key(api_key("theirs", apiKey="new", name="New"))
    assert members(client, "apikey:hash_map") == {"hash-of-own": "own", "new": "theirs"}
    assert members(client, "apikey:idx:name").keys() == {"name of own\0own", "new\0theirs"}
    assert not client.exists("apikey:tag:t", "apikey_hash:hash-of-theirs")
    assert members(client, "apikey:idx:all") == {"own", "theirs"}


def test_deleting_what_only_redis_has_leaves_nothing(store: Face, redis_server: Server) -> None:
    """Neither in its indexes nor of its statistics; the audit log has it."""
    client = redis_server.client()
    store.save_api_key(api_key("own"))
    before = dump(client)
    put(client, api_key("theirs", tags='["t"]'), indexed=True)
    client.set("usage:cost:daily:theirs:2026-11-21", "5")
    client.hset("usage:theirs:model:daily:m:2026-11-21", "requests", "1")
    assert store.delete_api_key("theirs", actor="admin") is True
    assert differences(before, dump(client)) == []
    (entry,) = store.audit(record_id="theirs")
    assert (entry.action, entry.actor) == ("delete", "admin")
    assert store.delete_api_key("theirs") is False
    client.hset("ccr_account:a", mapping={"id": "a", "accountType": "shared"})
    client.sadd("shared_ccr_accounts", "a")
    assert store.delete_account("ccr", "a") is True
    assert differences(before, dump(client)) == []


def test_record_that_only_redis_has_leaves_its_places_after_an_outage(
    open_store: Callable[..., Face], redis_server: Server
) -> None:
    """When the change arrives."""
    client = redis_server.client()
    store = open_store(redis_server)
    store.save_api_key(api_key("own"))
    put(client, api_key("theirs", tags='["t"]'), indexed=True)
    client.replicaof("127.0.0.1", "1")
    store.save_api_key(api_key("theirs", apiKey="new"))
    client.replicaof("NO", "ONE")
    until(lambda: members(client, "apikey:hash_map").get("new") == "theirs", "the change")
    until(lambda: not client.hexists("apikey:hash_map", "hash-of-theirs"), "the old secret to go")
    until(lambda: not client.exists("apikey:tag:t"), "the old tag to go")


def test_id_that_is_a_word_of_the_layout_takes_nothing_along(
    store: Face, redis_server: Server
) -> None:
    """What says which keys had usage on a day."""
    client = redis_server.client()
    client.sadd("usage:daily:index:2026-11-21", "k")
    store.import_from_redis()
    store.save_api_key(api_key("index"))
    assert store.delete_api_key("index") is True
    assert client.exists("usage:daily:index:2026-11-21")
    kept = "SELECT count(*) FROM redis_keys WHERE key = ?"
    assert store.query(kept, b"usage:daily:index:2026-11-21") == [(1,)]


# The rest.


def test_usage_that_waits_goes_with_its_key(
    open_store: Callable[..., Face], redis_server: Server
) -> None:
    """It is not credited to another of its id."""
    store = open_store(redis_server, flush_interval=30)
    store.save_api_key(api_key())
    store.record_usage(UsageRecord("key-1", "m", cost=1.0))
    store.delete_api_key("key-1")
    store.save_api_key(api_key())
    store.flush()
    assert store.usage(api_key_id="key-1") == []
    assert store.query("SELECT total_requests, total_cost FROM api_keys") == [(0, 0)]


@pytest.mark.parametrize(
    "call",
    [
        lambda store: store.save_api_key(api_key(), actor=None),
        lambda store: store.save_account("ccr", {"id": "a"}, actor=None),
        lambda store: store.delete_api_key("key-1", actor=1),
        lambda store: store.delete_account("ccr", "a", actor=None),
        lambda store: store.undelete("key-1", actor=None),
    ],
)
def test_actor_is_text(store: Face, call: Callable[[Face], object]) -> None:
    """Nothing is changed in the name of something else."""
    with pytest.raises(InvalidTypeError, match="the actor is text"):
        call(store)
    assert store.query("SELECT * FROM redis_keys") == []


def test_difference_hides_what_lets_requests_in() -> None:
    """Also where it is looked at in a debugger or a log."""
    found = Difference(b"apikey_hash:5e88", "missing in SQLite", "")
    assert repr(found) == "<Difference apikey_hash:(hidden): missing in SQLite>"


def test_deleted_without_sqlite_is_gone_after_preferring_redis(
    open_store: Callable[..., Face], redis_server: Server
) -> None:
    """What was done meanwhile with ENABLE_SQLITE=false is known to Redis alone."""
    first = open_store(redis_server)
    first.save_api_key(api_key("deleted"))
    first.save_api_key(api_key("kept"))
    first.shut()
    with RelayStore(None, redis_server.url) as without:
        without.delete_api_key("deleted")
    with RelayStore(first.path, redis_server.url, heal=False) as looking:
        looking.reconcile("redis")
    store = open_store(redis_server)
    assert store.find_api_key("hash-of-deleted") is None
    assert store.find_api_key("hash-of-kept") == api_key("kept")


def test_store_is_closed_by_a_signal_while_it_opens(path: Any, redis_server: Server) -> None:
    """The handler goes on at once, and whoever opens it is told."""
    redis_server.pause()
    code = """
        import logging, signal
        from langgraph_sqlite_saver.database import DatabaseClosedError
        from langgraph_sqlite_saver.relay import RelayStore
        logging.disable()
        path, url = sys.argv[1:]
        store = RelayStore(path, url, socket_timeout=1)

        def close(*_):
            store.close()
            print("the handler went on")

        signal.signal(signal.SIGALRM, close)
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        try:
            store.open()
        except DatabaseClosedError:
            print("closed", store._watcher)
        store.close()
    """
    assert run_script(code, path, redis_server.url) == "the handler went on\nclosed None"


def test_handler_of_a_signal_may_close_a_store_that_just_gave_up(path: Path) -> None:
    """Waking the background takes no lock that the interrupted call may hold."""
    code = """
import logging, signal, sys
from langgraph_sqlite_saver.relay import RelayStore
logging.disable()
store = RelayStore(sys.argv[1], "redis://127.0.0.1:1/0")
store.open()
signal.signal(signal.SIGALRM, lambda *_: (store.close(), sys.exit(0)))
signal.setitimer(signal.ITIMER_REAL, 0.3)
while True:
    store._health.gave_up(1)
"""
    for _ in range(3):
        run_script(code, str(path))


def test_redis_that_refuses_everything_is_asked_little(
    open_store: Callable[..., Face], redis_server: Server
) -> None:
    """Not for each change that waits, again and again."""
    client = redis_server.client()
    store = open_store(redis_server)
    store.save_api_key(api_key("first"))
    client.replicaof("127.0.0.1", "1")
    for n in range(300):
        store.save_api_key(api_key(f"key {n}"))
    client.config_resetstat()
    until(lambda: commands_run(redis_server, "info") > 5, "it to look again")
    assert commands_run(redis_server, "hgetall") < 2000
    client.replicaof("NO", "ONE")
    until(lambda: store.stats()["outboxPending"] == 0, "the changes to arrive")
