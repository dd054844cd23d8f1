"""What was deleted comes back whole, also where requests that were under way wrote on."""

# ruff: noqa: F401, F811 - fixtures are imported

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from pathlib import Path

import pytest
import redis
from database.helpers import outside

from langgraph_sqlite_saver.relay import RelayStore, keys

from .following import (
    ACCOUNT,
    COST,
    KEY,
    RECORDS,
    TOTAL,
    Following,
    assert_in_step,
    assert_soon,
    entry,
    path,
    quick,
    requests,
    serve,
    start_following,
    stored,
    value,
)
from .sample import SAMPLE, differences, dump, load, raw
from .servers import Server, until
from .stores import Face, api_key, hash_of, imported, lasting, members, open_store, query
from .test_follow import API_KEY, LISTED, TOTALS, USED, evict, following, purge, way

Start = Callable[..., Following]

CLAUDE = f"claude:account:{ACCOUNT}"
NOW = "2026-11-23T10:00:00.000Z"
WHOLE = {name: str(text) for name, text in SAMPLE[API_KEY]["value"].items()}
TRASHED = "SELECT count(*) FROM trash WHERE key = ?"
ACTIVE = "SELECT is_active FROM api_keys WHERE id = ?"


def end_late(client: redis.Redis, id: str = KEY) -> None:
    """A request that was under way when its API key was deleted writes what it has to."""
    serve(client, 500, id)
    client.hset(f"apikey:{id}", "lastUsedAt", NOW)


def in_trash(path: Path, key: str) -> int:
    """How often the trash has a key."""
    return int(value(path, TRASHED, raw(key)))


# Single fields of a record that is gone.


@pytest.mark.parametrize("seen", [False, True], ids=["at once", "later"])
def test_late_request_does_not_replace_a_deleted_api_key(
    any_server: Server, start_following: Start, way: str, path: Path, seen: bool
) -> None:
    """The record is in the trash; it comes back whole, with its usage and what was written late."""
    client = any_server.client()
    load(client)
    client.set(COST, "100.5")
    follower = start_following(any_server, way).begun()
    totals, used = query(path, TOTALS, KEY)[0], value(path, USED, KEY)
    records = client.lrange(RECORDS, 0, -1)
    purge(client)
    if seen:
        assert_soon(lambda: value(path, LISTED, KEY), 0)
        assert_in_step(client, path)
    end_late(client)
    assert_soon(lambda: in_trash(path, API_KEY), 1)
    assert_in_step(client, path)
    assert (value(path, LISTED, KEY), value(path, USED, KEY)) == (0, 0)
    assert [(found.kind, found.name) for found in follower.store.trash()] == [
        ("api_key", WHOLE["name"])
    ]
    follower.store.undelete(KEY)
    assert hash_of(client, API_KEY) == {**WHOLE, "lastUsedAt": NOW}
    assert requests(client) == totals[0] + 1
    assert client.lrange(RECORDS, 0, -1) == [entry(500).encode(), *records]
    after = query(path, TOTALS, KEY)[0]
    assert after == pytest.approx((totals[0] + 1, totals[1] + 10, totals[2] + 0.25))
    assert value(path, USED, KEY) == used + 1
    assert_in_step(client, path)
    assert follower.store.trash() == []


@pytest.mark.parametrize("command", ["HSET", "HINCRBY"])
def test_late_request_does_not_replace_a_deleted_account(
    following: Following, path: Path, command: str
) -> None:
    """Its credentials are in the trash, and come back."""
    client = following.server.client()
    before = hash_of(client, CLAUDE)
    row = query(path, "SELECT encrypted_credentials FROM accounts WHERE id = ?", ACCOUNT)
    client.delete(CLAUDE)
    client.execute_command(command, CLAUDE, "late", "1")
    assert_soon(lambda: in_trash(path, CLAUDE), 1)
    assert_in_step(client, path)
    assert query(path, "SELECT id FROM accounts WHERE id = ?", ACCOUNT) == []
    following.store.undelete(ACCOUNT)
    assert hash_of(client, CLAUDE) == {**before, "late": "1"}
    credentials = "SELECT encrypted_credentials FROM accounts WHERE id = ?"
    assert query(path, credentials, ACCOUNT) == row


def test_remnant_and_sqlite_agree(following: Following, path: Path) -> None:
    """Nothing has to be done about what a late request left of a deleted record."""
    client = following.server.client()
    purge(client)
    end_late(client)
    assert_soon(lambda: in_trash(path, API_KEY), 1)
    assert_in_step(client, path)
    assert following.store.diff() == []


def test_remnant_that_goes_too_hides_no_record(following: Following, path: Path) -> None:
    """What comes back is the record, when it was whole."""
    client = following.server.client()
    client.delete(API_KEY)
    client.hset(API_KEY, "lastUsedAt", NOW)
    assert_soon(lambda: in_trash(path, API_KEY), 1)
    client.delete(API_KEY)
    assert_in_step(client, path)
    assert [found.name for found in following.store.trash()] == [WHOLE["name"]]
    following.store.undelete(KEY)
    assert hash_of(client, API_KEY) == WHOLE


def test_record_that_is_made_anew_is_the_record(following: Following, path: Path) -> None:
    """Where a remnant was; and the old one is not brought back over it."""
    client = following.server.client()
    client.delete(API_KEY)
    client.hset(API_KEY, "lastUsedAt", NOW)
    assert_soon(lambda: in_trash(path, API_KEY), 1)
    client.hset(API_KEY, mapping=api_key(KEY, name="anew"))
    assert_soon(lambda: value(path, "SELECT name FROM api_keys WHERE id = ?", KEY), "anew")
    with pytest.raises(ValueError, match="is there"):
        following.store.undelete(KEY)


def test_late_request_does_not_replace_an_evicted_record(
    loaded: Server, start_following: Start, way: str, path: Path
) -> None:
    """It stays in SQLite, over more looks and a start; what differs can be put in step."""
    client = loaded.client()
    follower = start_following(loaded, way).begun()
    row = query(path, "SELECT * FROM api_keys WHERE id = ?", KEY)
    held = stored(path)[raw(API_KEY)]
    evict(loaded, "volatile-lru", 1)
    follower.catch_up()
    client.hset(API_KEY, "lastUsedAt", NOW)
    for _ in range(2):
        follower.pass_by()
        assert stored(path)[raw(API_KEY)].value == held.value
        assert query(path, "SELECT * FROM api_keys WHERE id = ?", KEY) == row
        assert in_trash(path, API_KEY) == 0
        follower.stop()
        follower = start_following(loaded, way).begun()
    follower.stop()
    with RelayStore(path, loaded.url, heal=False) as store:
        assert raw(API_KEY) in {found.key for found in store.diff()}
        store.reconcile("sqlite")
        assert hash_of(client, API_KEY) == WHOLE
        assert store.diff() == []


def test_import_does_not_replace_a_record_by_a_remnant(imported: Face, loaded: Server) -> None:
    """Nor does it take the record for deleted: an import leaves alone what only SQLite has."""
    client = loaded.client()
    client.delete(API_KEY)
    client.hset(API_KEY, "lastUsedAt", NOW)
    imported.import_from_redis()
    assert imported.query("SELECT name FROM api_keys WHERE id = ?", KEY) == [(WHOLE["name"],)]
    assert imported.trash() == []
    assert imported.reconcile("sqlite")
    assert hash_of(client, API_KEY) == WHOLE


def test_remnant_of_an_unknown_record_is_a_key_like_any_other(
    redis_server: Server, open_store: Callable[..., Face]
) -> None:
    """It is kept as it is, and is no record in the tables."""
    client = redis_server.client()
    client.hset("apikey:gone", "lastUsedAt", NOW)
    client.hset("claude:account:gone", "status", "active")
    before = dump(client)
    store = open_store(redis_server, heal=False)
    store.import_from_redis()
    assert store.query("SELECT id FROM api_keys") == store.query("SELECT id FROM accounts") == []
    client.flushall()
    store.restore()
    assert differences(before, dump(client)) == []


@pytest.mark.parametrize("late", [False, True], ids=["", "written late"])
def test_record_that_became_another_type_is_in_the_trash(
    following: Following, path: Path, late: bool
) -> None:
    """Its credentials too, and it comes back in place of what was written over it."""
    client = following.server.client()
    before = hash_of(client, CLAUDE)
    if late:
        client.delete(CLAUDE)
    client.set(CLAUDE, "junk")
    assert_soon(lambda: in_trash(path, CLAUDE), 1)
    assert_in_step(client, path)
    assert query(path, "SELECT id FROM accounts WHERE id = ?", ACCOUNT) == []
    following.store.undelete(ACCOUNT)
    assert hash_of(client, CLAUDE) == before
    assert_in_step(client, path)


# What comes back, and what it is brought together with.


def test_counts_that_begin_anew_are_added_to_the_old_ones(following: Following, path: Path) -> None:
    """Of every kind, to the last digit; sums of times rise by what was used, once."""
    client = following.server.client()
    model = f"usage:{KEY}:model:daily:gpt-5:2026-11-22"
    daily = f"usage:cost:daily:{KEY}:2026-11-22"
    client.set(COST, "0.1")
    assert_in_step(client, path)
    before = {name: client.hgetall(name) for name in (TOTAL, model)}
    sums = "SELECT sum(requests) FROM usage_stats WHERE id = ? AND model = 'gpt-5' AND period = ?"
    used = value(path, sums, KEY, "day")
    purge(client)
    assert_in_step(client, path)
    client.hincrby(TOTAL, "totalRequests", 1)
    client.hincrby(model, "requests", 2)
    client.hincrby(model, "newKind", 7)
    client.set(COST, "0.2")
    client.set(daily, "1.5", ex=1000)
    assert_in_step(client, path)
    following.store.undelete(KEY)
    old = before[model]
    wanted = {**old, b"requests": b"%d" % (int(old[b"requests"]) + 2), b"newKind": b"7"}
    assert client.hgetall(model) == wanted
    total = int(before[TOTAL][b"totalRequests"]) + 1
    assert client.hgetall(TOTAL) == {**before[TOTAL], b"totalRequests": b"%d" % total}
    assert client.get(COST) == b"0.3"
    assert client.get(daily) == b"1.501875"
    assert 0 < client.ttl(daily) <= 1000
    assert_in_step(client, path)
    assert value(path, sums, KEY, "day") == used + 2


def test_list_that_began_anew_goes_before_the_old_one(following: Following, path: Path) -> None:
    """Cut where the relay cuts it; SQLite has each record once."""
    client = following.server.client()
    client.rpush(RECORDS, *(entry(number) for number in range(300, 300 - 196, -1)))
    client.ltrim(RECORDS, 0, 199)
    assert_in_step(client, path)
    old, used = client.lrange(RECORDS, 0, -1), value(path, USED, KEY)
    assert len(old) > 190
    client.delete(API_KEY, RECORDS)
    for number in range(500, 520):
        client.lpush(RECORDS, entry(number))
    assert_soon(lambda: in_trash(path, RECORDS), 1)
    assert_in_step(client, path)
    following.store.undelete(KEY)
    new = [entry(number).encode() for number in range(519, 499, -1)]
    assert client.lrange(RECORDS, 0, -1) == [*new, *old][:200]
    assert_in_step(client, path)
    assert value(path, USED, KEY) == used + 20


def test_usage_that_was_deleted_long_before_its_key_stays_away(
    following: Following, path: Path
) -> None:
    """Somebody began the count anew; that was no part of the later deletion."""
    client = following.server.client()
    client.delete(TOTAL)
    assert_soon(lambda: in_trash(path, TOTAL), 1)
    client.hincrby(TOTAL, "totalRequests", 1)
    assert_in_step(client, path)
    outside(path, "UPDATE trash SET removed_at = removed_at - ?", 3600 * 1000)
    client.delete(API_KEY)
    assert_soon(lambda: in_trash(path, API_KEY), 1)
    following.store.undelete(KEY)
    assert requests(client) == 1


def test_account_comes_back_with_its_statistics_and_into_its_groups(
    any_server: Server, start_following: Start, way: str, path: Path
) -> None:
    """Of those groups that are still there; counts since are added; and the relay sees it."""
    client = any_server.client()
    load(client)
    total, group = f"account_usage:{ACCOUNT}", "account_group_members:g1"
    client.hset(total, "totalRequests", 77)
    client.hset("account_group:g1", mapping={"id": "g1", "name": "group"})
    client.sadd(group, ACCOUNT, "another")
    client.sadd(f"account_groups_reverse:claude:{ACCOUNT}", "g1", "gone")
    follower = start_following(any_server, way).begun()
    before = lasting(dump(client))
    counted = "SELECT total_requests FROM accounts WHERE id = ?"
    client.srem(group, ACCOUNT)
    client.srem("claude:account:index", ACCOUNT)
    names = [*client.keys(f"account_usage*{ACCOUNT}*"), *client.keys(f"account_groups_r*{ACCOUNT}")]
    client.delete(CLAUDE, *names)
    assert_soon(lambda: in_trash(path, CLAUDE), 1)
    assert_in_step(client, path)
    client.set("claude:account:index:empty", "1", ex=3600)
    client.hset(total, "totalRequests", 3)
    assert_in_step(client, path)
    follower.store.undelete(ACCOUNT)
    assert value(path, counted, ACCOUNT) == 80
    assert client.exists("claude:account:index:empty") == 0
    assert_in_step(client, path)
    client.hset(total, "totalRequests", 77)
    client.delete(*client.keys("mark:*") or ["none"])
    assert differences(before, lasting(dump(client))) == []


@pytest.mark.parametrize("version", ["2", None])
def test_last_record_of_a_kind_comes_back_into_its_indexes(
    redis_server: Server, start_following: Start, way: str, path: Path, version: str | None
) -> None:
    """Which went with it; also where no version says that the relay keeps any."""
    client = redis_server.client()
    if version:
        client.set("apikey:index:version", version)
    client.hset("apikey:k1", mapping=api_key("k1", tags='["vip"]'))
    client.hset("apikey:hash_map", "hash-of-k1", "k1")
    for index in ("apikey:idx:all", "apikey:set:active", "apikey:tag:vip"):
        client.sadd(index, "k1")
    client.hset("gemini_account:g1", mapping={"id": "g1", "accountType": "shared"})
    client.sadd("gemini_account:index", "g1")
    client.sadd("shared_gemini_accounts", "g1")
    client.set("stays", "1")
    follower = start_following(redis_server, way).begun()
    before = dump(client)
    client.delete(*(before.keys() - {b"stays", b"apikey:index:version"}))
    assert_soon(lambda: len(follower.store.trash()), 2)
    assert_in_step(client, path)
    for id in ("g1", "k1"):
        follower.store.undelete(id)
    there = dump(client)
    assert [key for key in before if key not in there] == []
    indexes = [key for key in before if there[key].type == "set"]
    assert {key: there[key].value for key in indexes} == {k: before[k].value for k in indexes}
    if version is None:  # what this relay never had is not invented
        assert b"apikey:idx:createdAt" not in there
    assert_in_step(client, path)


def test_soft_deleted_api_key_comes_back_as_one(following: Following, path: Path) -> None:
    """Among the deleted ones, and no request finds it."""
    client = following.server.client()
    client.delete("apikey:index:version")
    client.hset(API_KEY, mapping={"isDeleted": "true", "isActive": "false"})
    client.hdel("apikey:hash_map", WHOLE["apiKey"])
    client.srem("apikey:set:active", KEY)
    client.sadd("apikey:set:deleted", KEY)
    assert_in_step(client, path)
    deleted = members(client, "apikey:set:deleted")
    purge(client)
    client.srem("apikey:set:deleted", KEY)
    assert_soon(lambda: in_trash(path, API_KEY), 1)
    assert_in_step(client, path)
    following.store.undelete(KEY)
    assert members(client, "apikey:set:deleted") == deleted
    assert KEY not in members(client, "apikey:set:active")
    assert WHOLE["apiKey"] not in members(client, "apikey:hash_map")


# Records that expire.


def expire(client: redis.Redis, name: str) -> None:
    """Redis gave the key a time, and it is over."""
    client.pexpire(name, 700)
    until(lambda: not client.exists(name), "the expiry")


def test_api_key_that_expires_is_in_the_trash(following: Following, path: Path) -> None:
    """Its row stays, not active, with its usage; it comes back for good, with nothing doubled."""
    client = following.server.client()
    totals, used = query(path, TOTALS, KEY)[0], value(path, USED, KEY)
    expire(client, API_KEY)
    assert_soon(lambda: [found.id for found in following.store.trash()], [KEY])
    assert (value(path, ACTIVE, KEY), value(path, USED, KEY)) == (0, used)
    assert following.store.get_api_key(KEY) is None
    assert value(path, "SELECT action FROM audit_log WHERE record_id = ?", KEY) == "expire"
    following.store.undelete(KEY)
    assert hash_of(client, API_KEY) == WHOLE
    assert client.ttl(API_KEY) == -1
    assert (value(path, ACTIVE, KEY), value(path, USED, KEY)) == (1, used)
    assert query(path, TOTALS, KEY)[0] == totals
    assert_in_step(client, path)


def test_late_request_after_an_expiry_replaces_nothing(following: Following, path: Path) -> None:
    """The API key is one that has expired, and its usage stays in the tables."""
    client = following.server.client()
    used = value(path, USED, KEY)
    client.pexpire(API_KEY, 1500)
    assert_in_step(client, path)
    until(lambda: not client.exists(API_KEY), "the expiry")
    client.hset(API_KEY, "lastUsedAt", NOW)
    following.pass_by()
    assert_soon(lambda: in_trash(path, API_KEY), 1)
    assert (value(path, ACTIVE, KEY), value(path, USED, KEY)) == (0, used)
    following.store.undelete(KEY)
    assert hash_of(client, API_KEY) == {**WHOLE, "lastUsedAt": NOW}


def test_account_that_expires_is_in_the_trash(following: Following, path: Path) -> None:
    """Its row, which has its credentials, is gone."""
    client = following.server.client()
    before = hash_of(client, CLAUDE)
    expire(client, CLAUDE)
    assert_soon(lambda: [found.kind for found in following.store.trash()], ["claude"])
    assert query(path, "SELECT id FROM accounts WHERE id = ?", ACCOUNT) == []
    following.store.undelete(ACCOUNT)
    assert hash_of(client, CLAUDE) == before


def test_records_that_expired_while_nobody_looked_are_in_the_trash(
    open_store: Callable[..., Face],
) -> None:
    """Upkeep drops what has expired, but no record."""
    store = open_store(None)
    store.save_api_key(api_key("old"))
    store.save_api_key(api_key("new"))
    outside(store.path, "UPDATE redis_keys SET expires_at = 1 WHERE key = ?", b"apikey:old")
    outside(
        store.path,
        "INSERT INTO redis_keys (key, type, value, expires_at, revision)"
        " VALUES (x'6b', 'string', x'31', 1, 1)",
    )
    outside(store.path, "DELETE FROM outbox")  # Redis has had them
    store.optimize()
    assert [found.id for found in store.trash(everything=True)] == ["old"]
    assert store.query("SELECT id, is_active FROM api_keys ORDER BY id") == [("new", 1), ("old", 0)]
    assert store.query("SELECT count(*) FROM redis_keys WHERE key = x'6b'") == [(0,)]
    store.undelete("old")
    assert store.get_api_key("old") == api_key("old")


@pytest.mark.parametrize("slow", [False, True], ids=["", "slow"])
def test_api_key_that_was_deleted_twice_has_its_counts_once(
    following: Following, path: Path, monkeypatch: pytest.MonkeyPatch, slow: bool
) -> None:
    """The relay brought it back in between, with what it had counted; also on a machine that is
    so slow that a millisecond passes whenever the time is asked for.
    """
    if slow:
        now, passed = keys.now_ms, count()
        monkeypatch.setattr(keys, "now_ms", lambda: now() + next(passed))
    client = following.server.client()
    counted = ("hgetall", f"usage:{KEY}"), ("lrange", RECORDS, 0, -1), ("get", COST)
    before = [client.execute_command(*each) for each in counted]
    used = client.llen(RECORDS)
    assert_soon(lambda: value(path, USED, KEY), used)
    names = [API_KEY, f"usage:{KEY}", RECORDS, COST]
    saved = {name: client.dump(name) for name in names}
    client.delete(*names)
    assert_in_step(client, path)
    for name, dumped in saved.items():
        client.restore(name, 0, dumped)
    assert_in_step(client, path)
    client.delete(*names)
    assert_in_step(client, path)
    in_trash = "SELECT count(*) FROM trash_usage WHERE api_key_id = ?"
    assert_soon(lambda: value(path, in_trash, KEY), 2 * used)
    following.store.undelete(KEY)
    assert [client.execute_command(*each) for each in counted] == before
    assert value(path, USED, KEY) == used > 0
