"""A follower keeps SQLite up to date with a Redis that a relay writes, and loses nothing of it."""

# ruff: noqa: F401, F811 - fixtures are imported

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis
from database.helpers import check_integrity, outside

from langgraph_sqlite_saver.relay import RelayStore, follow
from langgraph_sqlite_saver.relay import store as relay_store

from .following import (
    ACCOUNT,
    COST,
    KEY,
    RECORDS,
    SOON,
    TOTAL,
    WAYS,
    Following,
    Process,
    assert_in_step,
    assert_soon,
    entry,
    held,
    path,
    quick,
    requests,
    serve,
    start_following,
    stored,
    tables,
    value,
)
from .sample import SAMPLE, differences, dump, load, raw
from .servers import Server, until
from .stores import api_key, lasting, query

Start = Callable[..., Following]
StartServer = Callable[..., Server]

API_KEY = f"apikey:{KEY}"
IN_TRASH = "SELECT count(*) FROM trash"
LISTED = "SELECT count(*) FROM api_keys WHERE id = ?"
USED = "SELECT count(*) FROM usage_records WHERE api_key_id = ?"
BILLED = "SELECT count(*) FROM redis_entries"
TOTALS = "SELECT total_requests, total_tokens, total_cost FROM api_keys WHERE id = ?"


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> str:
    """A test that uses it runs with notifications and by scanning."""
    return str(request.param)


@pytest.fixture
def following(loaded: Server, start_following: Start, way: str) -> Following:
    """A follower that has taken the sample over."""
    return start_following(loaded, way).begun()


# Changes.


def test_start_takes_over_every_lasting_key(
    any_server: Server, start_following: Start, way: str, path: Path
) -> None:
    """With the tables; the audit log tells of nothing, for nothing changed."""
    load(any_server.client())
    follower = start_following(any_server, way).begun()
    assert follower.way == way
    assert differences(lasting(dump(any_server.client())), stored(path)) == []
    found = {name: len(rows) for name, rows in tables(path).items()}
    assert (found["api_keys"], found["accounts"]) == (6, 10)
    lists = [content for key, content in SAMPLE.items() if key.startswith("usage:records:")]
    recorded = sum(len(content["value"]) for content in lists)
    assert found["usage_records"] + found["usage_unplaced"] == recorded
    assert value(path, "SELECT count(*) FROM audit_log") == 0


def test_next_start_takes_nothing_over_again(
    following: Following, start_following: Start, way: str, path: Path
) -> None:
    """What is known already is counted once."""
    rows = "SELECT * FROM redis_keys ORDER BY key"
    before = query(path, rows), tables(path)
    assert following.stop() == 0
    start_following(following.server, way).begun()
    assert (query(path, rows), tables(path)) == before


Commands = tuple[str, ...]
# name -> what makes a key of this name, and what changes it
CHANGES: dict[str, tuple[Commands, Commands]] = {
    "hset": (("HSET k f 1",), ("HSET k f 2 g 3",)),
    "hdel": (("HSET k f 1 g 1",), ("HDEL k g",)),
    "hincrby": (("HSET k f 1",), ("HINCRBY k f 5",)),
    "hincrbyfloat": (("HSET k f 1",), ("HINCRBYFLOAT k f 0.5",)),
    "sadd": (("SADD k a",), ("SADD k b",)),
    "srem": (("SADD k a b",), ("SREM k a",)),
    "zadd": (("ZADD k 1 a",), ("ZADD k 2.5 a 3 b",)),
    "zrem": (("ZADD k 1 a 2 b",), ("ZREM k a",)),
    "lpush": (("RPUSH k a b",), ("LPUSH k c", "LTRIM k 0 1")),
    "lpop": (("RPUSH k a b",), ("LPOP k",)),
    "set": (("SET k a",), ("SET k b",)),
    "incrbyfloat": (("SET k 1.5",), ("INCRBYFLOAT k 0.25",)),
    "new": ((), ("SET k a",)),
    "expire": (("SET k a",), ("EXPIRE k 1000",)),
    "persist": (("SET k a EX 1000",), ("PERSIST k",)),
    "setex": (("SET k a",), ("SET k a EX 1000",)),
    "rename": (("HSET k f 1",), ("RENAME k k:renamed",)),
    "rename onto another": (("SET k a", "SET k:there b"), ("RENAME k k:there",)),
    "copy": (("SADD k a",), ("COPY k k:copy",)),
    "move": (("SET k a",), ("MOVE k 1",)),
    "xadd": (("XADD k 1-1 f v",), ("XADD k 2-1 f w g x",)),
    "xtrim": (("XADD k 1-1 f v", "XADD k 2-1 f v"), ("XTRIM k MAXLEN 1",)),
    "xgroup": (("XADD k 1-1 f v",), ("XGROUP CREATE k group 0",)),
    "hash to string": (("HSET k f 1",), ("SET k a",)),
    "set to stream": (("SADD k a",), ("DEL k", "XADD k 1-1 f v")),
    "stream anew": (("XADD k 5-1 f v",), ("DEL k", "XADD k 1-1 f w")),
    "last member": (("SADD k a",), ("SREM k a",)),
    "last item": (("RPUSH k a",), ("LPOP k",)),
    "del": (("HSET k f 1",), ("DEL k",)),
    "unlink": (("ZADD k 1 a",), ("UNLINK k",)),
}
# Keys that many records share are kept apart, member by member.
SHARED: dict[str, tuple[Commands, Commands]] = {
    "apikey:idx:all": (("SADD k a b",), ("SADD k c", "SREM k a")),
    "apikey:hash_map": (("HSET k f a g b",), ("HSET k f c", "HDEL k g")),
    "apikey:idx:createdAt": (("ZADD k 1 a 2 b",), ("ZADD k 1.5 a", "ZREM k b")),
    "apikey:tag:one": (("SADD k a",), ("SREM k a",)),
    "apikey:tag:two": (("SADD k a",), ("RENAME k apikey:tag:three",)),
}


def run(client: redis.Redis, key: str, commands: Commands) -> None:
    """Commands in which k stands for the key."""
    for command in commands:
        words = [
            f"{key}{word[1:]}" if word[:2] in ("k", "k:") else word for word in command.split()
        ]
        client.execute_command(*words)


@pytest.mark.parametrize("changes", [CHANGES, SHARED], ids=["own", "shared"])
def test_every_kind_of_change_is_taken_over(
    any_server: Server,
    start_following: Start,
    way: str,
    path: Path,
    changes: dict[str, tuple[Commands, Commands]],
) -> None:
    """As it was made: also where a key goes, or becomes one of another type."""
    client = any_server.client()
    client.set("stays", "there")
    for key, (made, _) in changes.items():
        run(client, key, made)
    start_following(any_server, way).begun()
    before = dump(client)
    assert differences(lasting(before), stored(path)) == []
    for key, (_, changed) in changes.items():
        run(client, key, changed)
    assert len(differences(before, dump(client))) >= len(changes)
    assert_in_step(client, path)


@pytest.mark.parametrize("patch", ["redis_keys", "tables"])
def test_requests_raise_what_the_tables_tell(following: Following, path: Path, patch: str) -> None:
    """Totals, cost, records and billing events rise by what was served."""
    client = following.server.client()
    before = query(path, TOTALS, KEY)[0]
    used, billed = value(path, USED, KEY), value(path, BILLED)
    account = "SELECT total_requests FROM accounts WHERE id = ?"
    of_account = value(path, account, ACCOUNT)
    for number in range(1, 5):
        serve(client, number)
    assert_in_step(client, path)
    assert query(path, TOTALS, KEY) == [(before[0] + 4, before[1] + 40, before[2] + 1.0)]
    assert (value(path, USED, KEY), value(path, BILLED)) == (used + 4, billed + 4)
    assert value(path, account, ACCOUNT) == of_account + 4


def test_change_of_a_record_is_in_its_table_and_in_the_audit_log(
    following: Following, path: Path
) -> None:
    """The columns follow; the log says that Redis did it."""
    client = following.server.client()
    client.hset(API_KEY, "name", "new name")
    client.hset(f"claude:account:{ACCOUNT}", "status", "blocked")
    client.hset("apikey:new", mapping=api_key("new"))
    assert_in_step(client, path)
    assert value(path, "SELECT name FROM api_keys WHERE id = ?", KEY) == "new name"
    assert value(path, "SELECT status FROM accounts WHERE id = ?", ACCOUNT) == "blocked"
    assert value(path, LISTED, "new") == 1
    log = query(path, "SELECT actor, action, kind, record_id FROM audit_log")
    assert sorted(log) == [
        ("redis", "create", "api_key", "new"),
        ("redis", "update", "api_key", KEY),
        ("redis", "update", "claude", ACCOUNT),
    ]


def test_short_lived_keys_are_not_taken_over(following: Following, path: Path) -> None:
    """Sessions, limits and locks come and go unseen."""
    client = following.server.client()
    client.set("sticky_session:1", "a")
    client.set("lock:1", "a", ex=100)
    following.catch_up()
    assert not {b"sticky_session:1", b"lock:1"} & stored(path).keys()


def test_changes_in_another_database_of_redis_are_not_ours(
    following: Following, path: Path
) -> None:
    """Keys of database 1 do not come, and deletions there delete nothing."""
    other = following.server.client(db=1)
    other.hset(API_KEY, "name", "elsewhere")
    other.delete(API_KEY)
    other.set("elsewhere", "1")
    following.pass_by() if following.way == "scanning" else following.catch_up()
    assert (value(path, LISTED, KEY), value(path, IN_TRASH)) == (1, 0)
    assert b"elsewhere" not in stored(path)
    other.flushdb()


# What notifications need.


def flags(server: Server) -> set[str]:
    """What notify-keyspace-events is set to."""
    return set(server.settings()["notify-keyspace-events"])


@pytest.mark.parametrize("before", ["", "Kx", "E", "KA", "Elg$x"])
def test_notifications_are_enabled_on_request(
    redis_server: Server, start_following: Start, path: Path, before: str
) -> None:
    """What was asked for before stays, and changes come by them."""
    redis_server.config("notify-keyspace-events", before)
    client = redis_server.client()
    client.set("k", "1")
    follower = start_following(redis_server, enable_notifications=True, scan_interval=1000).begun()
    assert follower.way == "notified"
    assert flags(redis_server) >= {"E", "A"} | set(before) & {"K"}
    client.set("k", "2")
    assert_in_step(client, path)


@pytest.mark.parametrize("before", ["", "Kx", "KA", "Elg$x"])
def test_config_is_left_alone(redis_server: Server, start_following: Start, before: str) -> None:
    """Without a request; events that do not tell everything are not relied on."""
    redis_server.config("notify-keyspace-events", before)
    was = redis_server.settings()
    assert start_following(redis_server).begun().way == "scanning"
    assert redis_server.settings() == was


def test_notifications_are_enabled_again_after_a_restart(
    any_fresh_server: Server, start_following: Start, path: Path
) -> None:
    """A Redis that comes back has forgotten about them."""
    any_fresh_server.client().set("k", "1")
    follower = start_following(any_fresh_server, enable_notifications=True, scan_interval=1000)
    follower.begun()
    any_fresh_server.close_clients()
    any_fresh_server.restart()
    client = any_fresh_server.client()
    assert_soon(lambda: client.get("k"), b"1")
    follower.catch_up()
    client.set("k", "2")
    assert_in_step(client, path)


# What it does to Redis.


def test_source_is_only_read(any_server: Server, start_following: Start, way: str) -> None:
    """Importing, following, mirroring deletions and ending: no command that writes, but ours."""
    client = any_server.client()
    load(client)
    writing = {name for name, about in client.command().items() if "write" in about["flags"]}
    before = dump(client)
    client.config_resetstat()
    follower = start_following(any_server, way).begun()
    assert differences(before, dump(client)) == []
    client.hset(API_KEY, "name", "changed")
    client.xadd("billing:events", {"data": "{}"}, id="1900000000000-1")
    client.delete("system:service_rates")
    after = dump(client)
    follower.catch_up(3)
    follower.stop()
    calls = {
        name.removeprefix("cmdstat_"): about["calls"]
        for name, about in any_server.info("commandstats").items()
    }
    assert {name: calls[name] for name in calls.keys() & writing - {"set"}} == {
        "hset": 1,
        "xadd": 1,
        "del": 1,
    }
    assert calls["set"] == 3  # our marks
    assert [d for d in differences(after, dump(client)) if "mark:" not in d] == []
    assert ("config|set" in calls) == (way == "notified" and any_server.flavour == "valkey")


# Deletions.


def purge(client: redis.Redis, command: str = "DEL", id: str = KEY) -> None:
    """An API key is deleted for good, as the relay does it."""
    hashed = client.hget(f"apikey:{id}", "apiKey")
    name = client.hget(f"apikey:{id}", "name").decode().lower()
    client.execute_command(command, f"apikey:{id}")
    client.hdel("apikey:hash_map", hashed)
    for index in ("apikey:idx:createdAt", "apikey:idx:lastUsedAt"):
        client.zrem(index, id)
    client.zrem("apikey:idx:name", f"{name}\0{id}")
    for index in ("apikey:idx:all", "apikey:set:active", *client.keys("apikey:tag:*")):
        client.srem(index, id)
    for pattern in (f"usage:{id}*", f"usage:*:{id}*"):
        for key in client.scan_iter(pattern):
            client.execute_command(command, key)


@pytest.mark.parametrize("command", ["DEL", "UNLINK"])
def test_deleted_api_key_is_in_the_trash(
    any_server: Server, start_following: Start, way: str, path: Path, command: str
) -> None:
    """With its usage records, and in no table; the others stay."""
    client = any_server.client()
    load(client)
    follower = start_following(any_server, way).begun()
    used = value(path, USED, KEY)
    assert used > 0
    client.execute_command(command, API_KEY)
    assert_soon(lambda: value(path, IN_TRASH), 1)
    assert_in_step(client, path)
    assert (value(path, LISTED, KEY), value(path, USED, KEY)) == (0, 0)
    assert value(path, "SELECT count(*) FROM trash_usage") == used
    assert value(path, "SELECT count(*) FROM api_keys") == 5
    (found,) = follower.store.trash()
    assert (found.kind, found.id) == ("api_key", KEY)
    assert found.name == SAMPLE[API_KEY]["value"]["name"]
    assert follower.store.get_api_key(KEY) is None
    log = query(path, "SELECT actor, action FROM audit_log WHERE record_id = ?", KEY)
    assert log == [("redis", "delete")]


def test_deleted_account_is_in_the_trash(following: Following, path: Path) -> None:
    """And in no table."""
    following.server.client().delete(f"claude:account:{ACCOUNT}")
    assert_soon(lambda: [e.kind for e in following.store.trash()], ["claude"])
    assert value(path, "SELECT count(*) FROM accounts") == 9


def test_purged_api_key_comes_back_from_the_trash(
    any_server: Server, start_following: Start, way: str, path: Path
) -> None:
    """Record, indexes, usage records and statistics, in Redis and in SQLite, and stays there."""
    client = any_server.client()
    load(client)
    follower = start_following(any_server, way).begun()
    before, tabled = dump(client), tables(path)
    purge(client)
    assert_in_step(client, path)
    assert value(path, LISTED, KEY) == 0
    assert follower.store.undelete(KEY) > 1
    assert differences(before, dump(client)) == []
    follower.catch_up(3)
    client.delete(*client.keys("mark:*"))
    assert_in_step(client, path)
    assert differences(before, dump(client)) == []
    # Sums of times stay when a key is deleted, and are not raised again.
    assert tables(path) == tabled
    assert follower.store.trash() == []


def test_undeleted_key_can_be_deleted_again(following: Following, path: Path) -> None:
    """And goes to the trash again."""
    client = following.server.client()
    for _ in range(2):
        client.delete(API_KEY)
        assert_soon(lambda: [e.id for e in following.store.trash()], [KEY])
        following.store.undelete(KEY)
        assert_in_step(client, path)
        assert value(path, LISTED, KEY) == 1


@pytest.mark.parametrize(("days", "left"), [(29, 1), (31, 0)])
def test_trash_is_kept_for_thirty_days(
    loaded: Server, start_following: Start, path: Path, days: int, left: int
) -> None:
    """Then it is emptied, also of usage records."""
    follower = start_following(loaded, "notified").begun()
    loaded.client().delete(API_KEY)
    assert_soon(lambda: value(path, IN_TRASH), 1)
    follower.stop()
    for table in ("trash", "trash_usage"):
        outside(path, f"UPDATE {table} SET removed_at = removed_at - ?", days * 24 * 3600 * 1000)
    start_following(loaded, "notified").begun()
    assert value(path, IN_TRASH) == left
    assert bool(value(path, "SELECT count(*) FROM trash_usage")) == bool(left)


def test_deletion_while_nobody_followed_is_mirrored(
    following: Following, start_following: Start, way: str, path: Path
) -> None:
    """At the next start, where Redis kept its run id."""
    following.stop()
    client = following.server.client()
    client.delete(API_KEY)
    client.hset("apikey:new", mapping=api_key("new"))
    start_following(following.server, way).begun()
    assert differences(lasting(dump(client)), stored(path)) == []
    assert (value(path, IN_TRASH), value(path, LISTED, "new")) == (1, 1)


# Expiry and eviction.


def test_expiry_is_no_deletion(
    any_server: Server, start_following: Start, way: str, path: Path
) -> None:
    """The key is forgotten; the row and its usage stay, and no usage is in the trash."""
    client = any_server.client()
    load(client)
    follower = start_following(any_server, way).begun()
    used = value(path, USED, KEY)
    names = [API_KEY, f"usage:cost:daily:{KEY}:2026-11-21", RECORDS]
    for name in names:
        client.pexpire(name, 1000)
    assert_in_step(client, path)
    assert API_KEY.encode() in stored(path)
    until(lambda: not client.exists(*names), "the expiry")
    gone = "SELECT count(*) FROM redis_keys WHERE key IN (?, ?, ?)"
    assert_soon(lambda: value(path, gone, *map(raw, names)), 0)
    follower.catch_up(3)
    assert (value(path, LISTED, KEY), value(path, USED, KEY)) == (1, used)
    assert query(path, "SELECT key FROM trash") == [(raw(API_KEY),)]


def evict(server: Server, policy: str, maxmemory: int) -> None:
    """Redis lets keys go for want of memory; afterwards it has enough again."""
    client = server.client()
    was = client.dbsize()
    server.config("maxmemory-policy", policy)
    server.config("maxmemory", str(maxmemory))
    until(lambda: client.dbsize() < was and server.info("stats")["evicted_keys"] > 0, "eviction")
    if policy.startswith("volatile"):
        until(lambda: not client.exists(API_KEY), "the eviction of what expires")
    server.config("maxmemory", "0")


@pytest.mark.parametrize("policy", ["allkeys-lru", "volatile-lru"])
def test_eviction_is_no_deletion(
    redis_server: Server, start_following: Start, way: str, path: Path, policy: str
) -> None:
    """What was evicted stays in SQLite, over more looks through all keys, and over a restart."""
    client = redis_server.client()
    load(client)
    for number in range(300):
        client.set(f"filler:{number}", "x" * 10_000)
    follower = start_following(redis_server, way).begun()
    before, tabled = lasting(dump(client)), tables(path)
    used = redis_server.info("memory")["used_memory"]
    evict(redis_server, policy, 1 if policy == "volatile-lru" else used - 1_000_000)
    left = dump(client)
    assert len(left) < len(before)
    for _ in range(2):
        follower.pass_by()
        client.delete(*client.keys("mark:*"))
        assert before.keys() - stored(path).keys() == set()
        assert tables(path) == tabled
        trashed = query(path, "SELECT key FROM trash")
        assert [key for (key,) in trashed if not key.startswith(b"mark:")] == []
        follower.stop()
        follower = start_following(redis_server, way).begun()


def test_evicted_key_that_comes_back_can_be_deleted(
    loaded: Server, start_following: Start, path: Path
) -> None:
    """It is followed again, and its deletion is mirrored."""
    follower = start_following(loaded, "notified").begun()
    evict(loaded, "volatile-lru", 1)
    client = loaded.client()
    follower.catch_up()
    client.hset(API_KEY, mapping=api_key(KEY, name="back"))
    assert_soon(lambda: value(path, "SELECT name FROM api_keys WHERE id = ?", KEY), "back")
    client.delete(API_KEY)
    assert_soon(lambda: value(path, LISTED, KEY), 0)
    assert [found.id for found in follower.store.trash()] == [KEY]


# Usage records.


def test_records_that_redis_cuts_off_are_kept(following: Following, path: Path) -> None:
    """Of 300, equal ones among them, pushed in parts in front of a list of 200, each is kept."""
    client = following.server.client()
    known = Counter(row[0] for row in query(path, "SELECT input_tokens FROM usage_records"))
    wanted = [number // 2 + 1000 for number in range(300)]
    for start in range(0, 300, 60):
        for number in wanted[start : start + 60]:
            client.lpush(RECORDS, entry(number))
            client.ltrim(RECORDS, 0, 199)
        assert_in_step(client, path)
    assert client.llen(RECORDS) == 200
    found = Counter(row[0] for row in query(path, "SELECT input_tokens FROM usage_records"))
    assert found - known == Counter(wanted)


# Loss.


def begin_anew(client: redis.Redis, flush: str = "FLUSHALL") -> None:
    """A flush and a relay that goes on at once: nobody sees Redis empty."""
    with client.pipeline(transaction=True) as pipe:
        pipe.execute_command(flush)
        for number in range(20, 23):
            serve(pipe, number)
        pipe.sadd("apikey:tag:alpha", "newcomer")
        pipe.set(f"usage:cost:daily:{KEY}:2026-11-22", "0.5")
        pipe.set("claude:account:index:empty", "1", ex=3600)
        pipe.execute()


def test_redis_that_restarts_empty_gets_everything_back(
    any_fresh_server: Server, start_following: Start, way: str, path: Path
) -> None:
    """While it is followed; SQLite is as before, and changes are followed on."""
    client = any_fresh_server.client()
    load(client)
    follower = start_following(any_fresh_server, way).begun()
    before, tabled = lasting(dump(client)), tables(path)
    any_fresh_server.kill()
    any_fresh_server.start()
    assert_soon(lambda: differences(before, held(client)), [])
    assert follower.reported("restored")
    assert_in_step(client, path)
    assert (tables(path), value(path, IN_TRASH)) == (tabled, 0)
    client.hset(API_KEY, "name", "afterwards")
    assert_in_step(client, path)


@pytest.mark.parametrize("flush", ["FLUSHALL", "FLUSHDB", "SWAPDB 0 5"])
def test_flushed_redis_gets_everything_back(
    redis_server: Server, start_following: Start, way: str, path: Path, flush: str
) -> None:
    """However it was emptied; nothing is in the trash."""
    client = redis_server.client()
    load(client)
    start_following(redis_server, way).begun()
    before, tabled = lasting(dump(client)), tables(path)
    client.execute_command(flush)
    assert_soon(lambda: differences(before, held(client)), [])
    assert_in_step(client, path)
    assert (tables(path), value(path, IN_TRASH)) == (tabled, 0)


def test_relay_that_goes_on_after_a_flush_counts_on(
    any_server: Server, start_following: Start, way: str, path: Path
) -> None:
    """Old and new are there, once: counters, costs, records, members and billing events."""
    client = any_server.client()
    load(client)
    start_following(any_server, way).begun()
    before, totals = lasting(dump(client)), query(path, TOTALS, KEY)[0]
    used = value(path, USED, KEY)
    begin_anew(client)
    assert_soon(lambda: requests(client), int(before[TOTAL.encode()].value[b"totalRequests"]) + 3)
    assert_in_step(client, path)
    old = {key: entry.value for key, entry in before.items()}
    now = {key: entry.value for key, entry in dump(client).items()}
    assert old.keys() - now.keys() == set()
    assert float(now[COST.encode()]) == pytest.approx(float(old[COST.encode()]) + 0.75)
    daily = f"usage:cost:daily:{KEY}:2026-11-22".encode()
    assert float(now[daily]) == pytest.approx(float(old[daily]) + 0.5)
    new_entries = [entry(number).encode() for number in (22, 21, 20)]
    assert now[RECORDS.encode()] == new_entries + old[RECORDS.encode()]
    assert now[b"apikey:tag:alpha"] == old[b"apikey:tag:alpha"] | {b"newcomer"}
    events = b"billing:events"
    assert now[events][: len(old[events])] == old[events]
    assert [fields for _, fields in now[events][len(old[events]) :]] == [
        ((b"data", b"%d" % number),) for number in range(20, 23)
    ]
    after = query(path, TOTALS, KEY)[0]
    assert after == pytest.approx((totals[0] + 3, totals[1] + 30, totals[2] + 0.75))
    assert value(path, USED, KEY) == used + 3


def test_costs_are_restored_between_long_lists(any_server: Server, start_following: Start) -> None:
    """Whatever comes before and after them, which one connection's scripts share memory with."""
    client = any_server.client(socket_timeout=3)
    for name in ("a:list", "z:list"):
        client.rpush(name, *range(300))
    client.set(COST, "100")
    start_following(any_server).begun()
    with client.pipeline(transaction=True) as pipe:
        pipe.flushall()
        pipe.incrbyfloat(COST, 0.75)
        pipe.execute()
    assert_soon(lambda: client.exists("a:list", "z:list"), 2)
    assert_soon(lambda: client.get(COST), b"100.75")


def test_restore_removes_the_marks_of_empty_indexes(
    any_server: Server, start_following: Start, way: str
) -> None:
    """Which make a relay that looked too early see no accounts."""
    client = any_server.client()
    load(client)
    start_following(any_server, way).begun()
    begin_anew(client)
    assert client.exists("claude:account:index:empty")
    assert_soon(lambda: client.exists(f"claude:account:{ACCOUNT}", API_KEY), 2)
    assert_soon(lambda: client.exists("claude:account:index:empty"), 0)


def test_older_copy_of_redis_is_brought_up_to_date(
    start_server: StartServer, start_following: Start, way: str, path: Path
) -> None:
    """After a crash Redis has what it last saved: what SQLite holds is newer."""
    server = start_server(dbfilename="dump.rdb")
    client = server.client()
    load(client)
    client.save()
    start_following(server, way).begun()
    for number in range(1, 4):
        serve(client, number)
    client.hset(API_KEY, "name", "newer")
    client.hset("apikey:new", mapping=api_key("new"))
    assert_in_step(client, path)
    before, tabled = lasting(dump(client)), tables(path)
    server.kill()
    server.start()
    assert_soon(lambda: differences(before, lasting(held(client))), [])
    assert_in_step(client, path)
    assert tables(path) == tabled


def test_copy_from_when_redis_had_few_keys_is_brought_up_to_date(
    start_server: StartServer, start_following: Start, path: Path
) -> None:
    """Most keys are missing; of those that are not, counts are not added to themselves."""
    server = start_server(dbfilename="dump.rdb")
    client = server.client()
    client.hset(API_KEY, mapping=api_key(KEY))
    client.hset(TOTAL, "totalRequests", 1000)
    client.set(COST, "100")
    client.save()
    for number in range(20):
        client.hset(f"apikey:later-{number}", mapping=api_key(f"later-{number}"))
    start_following(server).begun()
    serve(client, 1)
    assert_in_step(client, path)
    before = lasting(dump(client))
    server.kill()
    server.start()
    assert_soon(lambda: client.exists("apikey:later-0", "apikey:later-19"), 2)
    assert_in_step(client, path)
    assert differences(before, lasting(dump(client))) == []


def test_loss_while_nobody_followed_is_made_good_at_the_start(
    any_fresh_server: Server, start_following: Start, way: str, path: Path
) -> None:
    """Nothing of it is taken for a deletion."""
    client = any_fresh_server.client()
    load(client)
    start_following(any_fresh_server, way).begun().stop()
    before, tabled = lasting(dump(client)), tables(path)
    any_fresh_server.kill()
    any_fresh_server.start()
    begun = start_following(any_fresh_server, way).begun()
    assert differences(before, dump(client)) == []
    assert (tables(path), value(path, IN_TRASH)) == (tabled, 0)
    assert begun.stop() == 0


def everything(path: Path) -> Any:
    """All that the file holds."""
    rows = query(path, "SELECT * FROM redis_keys ORDER BY key")
    return rows, stored(path), tables(path), value(path, IN_TRASH)


@pytest.mark.parametrize("relay_goes_on", [False, True], ids=["empty", "begun anew"])
def test_loss_is_only_reported_on_request(
    redis_server: Server, start_following: Start, way: str, path: Path, relay_goes_on: bool
) -> None:
    """Nothing is restored and nothing is taken over, whatever happens in Redis; it ends with 1."""
    client = redis_server.client()
    load(client)
    follower = start_following(redis_server, way, restore=False).begun()
    before = everything(path)
    begin_anew(client) if relay_goes_on else client.flushall()
    client.hset(API_KEY, "name", "begun anew")
    client.set("new", "1", ex=1000)
    client.delete("new")
    left = dump(client)
    until(lambda: follower.reported("nothing is taken over"), "the loss to be noticed")
    time.sleep(1.2)
    assert everything(path) == before
    assert differences(left, dump(client)) == []
    client.delete(API_KEY)
    time.sleep(0.3)
    assert follower.stop() == 1
    assert everything(path) == before


def test_reported_loss_is_told(
    redis_server: Server,
    start_following: Start,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """How much it is, and what to do."""
    monkeypatch.setattr(follow, "_REPORT", 0.5)
    client = redis_server.client()
    load(client)
    follower = start_following(redis_server, restore=False).begun()
    client.flushall()
    until(lambda: follower.reported("relay restore-redis"), "the report")
    assert follower.reported("Redis has lost")


def test_follower_goes_on_after_somebody_restored(
    any_server: Server, start_following: Start, way: str, path: Path
) -> None:
    """What Redis holds then is followed again, and nothing is wrong at the end."""
    client = any_server.client()
    load(client)
    follower = start_following(any_server, way, restore=False).begun()
    before = lasting(dump(client))
    begin_anew(client)
    time.sleep(0.5)
    with RelayStore(path, any_server.url, heal=False) as other:
        other.restore()
    counted = int(before[TOTAL.encode()].value[b"totalRequests"]) + 3
    assert requests(client) == counted
    assert_in_step(client, path)
    client.hset(API_KEY, "name", "afterwards")
    assert_in_step(client, path)
    assert value(path, TOTALS, KEY) == counted
    assert follower.stop() == 0


# Redis that does not answer.


def test_redis_that_hangs_is_waited_for(
    fresh_server: Server, start_following: Start, way: str, path: Path
) -> None:
    """Nothing is deleted or doubled, and it goes on with what was done meanwhile."""
    client = fresh_server.client()
    load(client)
    follower = start_following(fresh_server, way, socket_timeout=0.3).begun()
    tabled = tables(path)
    fresh_server.pause()
    time.sleep(1.5)
    assert tables(path) == tabled
    fresh_server.resume()
    serve(client, 1)
    client.delete("system:service_rates")
    assert_in_step(client, path)
    assert value(path, "SELECT count(*) FROM usage_records") == len(tabled["usage_records"]) + 1
    assert value(path, "SELECT count(*) FROM api_keys") == len(tabled["api_keys"])
    assert follower.stop() == 0


def test_redis_that_restarts_with_its_keys_is_followed_on(
    start_server: StartServer, start_following: Start, way: str, path: Path
) -> None:
    """It was down and has lost nothing: nothing is restored, deleted or doubled."""
    server = start_server(appendonly="yes", appendfsync="always", notify_keyspace_events="KEA")
    if way == "scanning":
        server.config("notify-keyspace-events", "")
    client = server.client()
    load(client)
    follower = start_following(server, way).begun()
    before, tabled = dump(client), tables(path)
    server.kill()
    time.sleep(0.5)
    server.start()
    assert_soon(lambda: differences(before, held(client)), [])
    serve(client, 1)
    assert_in_step(client, path)
    assert not follower.reported("restor")
    assert value(path, "SELECT count(*) FROM usage_records") == len(tabled["usage_records"]) + 1
    assert value(path, IN_TRASH) == 0


def test_change_while_the_subscription_was_broken_is_found(
    any_server: Server, start_following: Start, path: Path
) -> None:
    """Nobody was told of it: a look through all keys finds it, not ten minutes later."""
    client = any_server.client()
    load(client)
    start_following(any_server, "notified").begun()
    with client.pipeline(transaction=True) as pipe:
        pipe.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
        pipe.hset(API_KEY, "name", "unheard")
        pipe.delete("system:service_rates")
        killed = pipe.execute()[0]
    assert killed == 1
    assert_in_step(client, path)


def test_later_changes_are_told_on_a_new_subscription(
    any_server: Server, start_following: Start, path: Path
) -> None:
    """After the old one was broken."""
    client = any_server.client()
    load(client)
    start_following(any_server, "notified").begun()
    client.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
    until(lambda: len(client.client_list(_type="pubsub")) == 1, "the new subscription")
    client.hset(API_KEY, "name", "heard")
    assert_in_step(client, path)


# SQLite that refuses.


@contextmanager
def locked(path: Path, how: str) -> Iterator[None]:
    """Another program's transaction on the file."""
    import sqlite3

    with closing(sqlite3.connect(path, timeout=30, isolation_level=None)) as conn:
        conn.execute(f"BEGIN {how}")
        yield
        conn.execute("ROLLBACK")


@pytest.mark.parametrize("how", ["IMMEDIATE", "EXCLUSIVE"])
def test_sqlite_that_refuses_is_waited_for(
    loaded: Server, start_following: Start, way: str, path: Path, how: str
) -> None:
    """Afterwards nothing of what happened meanwhile is missing, deletions included."""
    client = loaded.client()
    follower = start_following(loaded, way, lock_timeout=0.2).begun()
    used = value(path, USED, KEY)
    with locked(path, how):
        for number in range(1, 4):
            serve(client, number)
        client.delete("apikey:91b6a3ed-2a66-4d71-9f17-90cdfb6aff64")
        time.sleep(1)
        client.hset(API_KEY, "name", "during the lock")
    assert_in_step(client, path)
    assert value(path, USED, KEY) == used + 3
    assert [found.kind for found in follower.store.trash()] == ["api_key"]
    assert follower.stop() == 0


@pytest.mark.parametrize("anew", [False, True], ids=["empty", "begun anew"])
def test_flush_while_sqlite_is_busy_costs_no_billing_events(
    redis_server: Server, start_following: Start, way: str, path: Path, anew: bool
) -> None:
    """What was read before the flush is being stored; what is read after it is not the stream."""
    client = redis_server.client()
    load(client)
    start_following(redis_server, way).begun()
    before = client.xrange("billing:events")
    with locked(path, "IMMEDIATE"):
        client.xadd("billing:events", {"data": "last"}, id="1900000000001-0")
        time.sleep(0.7)
        begin_anew(client) if anew else client.flushall()
    assert_soon(lambda: client.xrange("billing:events")[: len(before)], before)
    assert client.exists(API_KEY)
    assert_in_step(client, path)
    assert value(path, BILLED) >= len(before)


# Stopping.


def test_follower_stops_in_good_order(following: Following, way: str, path: Path) -> None:
    """No thread and no connection is left, and what it was told last is stored."""
    client = following.server.client()
    threads = set(threading.enumerate())

    def named() -> str:
        return str(value(path, "SELECT name FROM api_keys WHERE id = ?", KEY))

    client.hset(API_KEY, "name", "last words")
    if way == "notified":
        until(lambda: following.has_heard_of(API_KEY) or named() == "last words", "it to hear")
    else:
        assert_in_step(client, path)
    assert following.stop() == 0
    assert named() == "last words"
    until(lambda: not [each for each in threads if "run" in each.name and each.is_alive()], "end")
    until(lambda: len(client.client_list()) <= 2, "connections to be closed")
    check_integrity(path)


@pytest.mark.parametrize("state", ["hanging", "down", "lost"])
def test_follower_stops_while_it_waits(
    fresh_server: Server, start_following: Start, way: str, state: str
) -> None:
    """For a Redis that hangs, is down, or has lost its keys."""
    client = fresh_server.client()
    load(client)
    follower = start_following(fresh_server, way, restore=False, socket_timeout=0.3).begun()
    {"hanging": fresh_server.pause, "down": fresh_server.kill, "lost": client.flushall}[state]()
    if state == "lost":
        until(lambda: follower.reported("nothing is taken over"), "the loss to be noticed")
    else:
        time.sleep(0.7)
    assert follower.stop() == (1 if state == "lost" else 0)


def test_follower_of_a_redis_that_was_never_up_waits_for_it(
    fresh_server: Server, start_following: Start, path: Path
) -> None:
    """And takes it over when it comes."""
    fresh_server.stop()
    follower = start_following(fresh_server)
    until(lambda: follower.reported("waiting: Redis does not answer"), "the report")
    fresh_server.start()
    client = fresh_server.client()
    load(client)
    assert_in_step(client, path)
    assert follower.stop() == 0


# Processes that die.

_DIE_AT_A_PAGE = """
import os, signal
write, pages = restoring.Restorer._write, []
def dying(self, page, *rest):
    pages.append(page)
    if len(pages) == {page}:
        os.kill(os.getpid(), signal.SIGKILL)
    write(self, page, *rest)
restoring.Restorer._write = dying
"""


def end_turn(path: Path) -> None:
    """As if the half minute had passed for which a dead process keeps its turn at restoring."""
    (note,) = query(path, "SELECT value FROM relay_state WHERE name = 'restoring'")[0]
    if note:  # else it died when it was done
        ended = " ".join([*note.split(" ")[:-1], "0"])
        outside(path, "UPDATE relay_state SET value = ? WHERE name = 'restoring'", ended)


@pytest.mark.parametrize("page", [1, 2])
def test_restore_that_was_killed_is_completed(
    redis_server: Server, start_following: Start, path: Path, page: int
) -> None:
    """Where the relay made the keys that were still to do, what they had counted is added."""
    client = redis_server.client()
    for number in range(250):
        client.set(f"setting:{number:03}", "1")
    client.hset(TOTAL, "totalRequests", 1000)
    client.set(COST, "100")
    start_following(redis_server).begun().stop()
    with client.pipeline(transaction=True) as pipe:
        pipe.flushall()
        pipe.hincrby(TOTAL, "totalRequests", 3)
        pipe.incrbyfloat(COST, 0.75)
        for number in range(200, 250):
            pipe.set(f"setting:{number:03}", "1")
        pipe.execute()
    with Process(path, redis_server.url, _DIE_AT_A_PAGE.format(page=page)) as process:
        assert process.died()
    end_turn(path)
    start_following(redis_server).begun()
    assert (requests(client), float(client.get(COST))) == (1003, 100.75)
    assert_in_step(client, path)


def test_costs_survive_a_restore_that_was_killed(
    redis_server: Server, start_following: Start, path: Path
) -> None:
    """All keys are there when it goes on, and no total is below what it was: costs are."""
    client = redis_server.client()
    for number in range(199):
        client.set(f"setting:{number:03}", "1")
    client.set("settings", "1")
    client.set(COST, "100")
    start_following(redis_server).begun().stop()
    with client.pipeline(transaction=True) as pipe:
        pipe.flushall()
        pipe.incrbyfloat(COST, 0.75)
        pipe.execute()
    with Process(path, redis_server.url, _DIE_AT_A_PAGE.format(page=2)) as process:
        assert process.died()
    assert client.dbsize() == 201
    end_turn(path)
    start_following(redis_server).begun()
    assert float(client.get(COST)) == 100.75
    assert_in_step(client, path)


# Others at the same file.


def test_two_followers_on_one_file_double_nothing(
    any_server: Server, start_following: Start, way: str, path: Path
) -> None:
    """Records are counted once as they come, and counters are restored once."""
    client = any_server.client()
    load(client)
    for each in [start_following(any_server, way) for _ in range(2)]:
        each.begun()
    used, totals = value(path, USED, KEY), query(path, TOTALS, KEY)[0]
    assert used == len(SAMPLE[RECORDS]["value"])
    for number in range(1, 13):
        serve(client, number)
        time.sleep(0.02)
    assert_in_step(client, path)
    begin_anew(client)
    assert_soon(lambda: requests(client), totals[0] + 12 + 3)
    assert_in_step(client, path)
    assert value(path, USED, KEY) == used + 12 + 3
    expected = (totals[0] + 15, totals[1] + 150, totals[2] + 3.75)
    assert query(path, TOTALS, KEY)[0] == pytest.approx(expected)
    time.sleep(0.5)
    assert requests(client) == totals[0] + 15


def test_store_that_heals_and_follower_restore_once(
    any_server: Server,
    start_following: Start,
    way: str,
    path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Both see the loss: counters are old and new, not more."""
    monkeypatch.setattr(relay_store, "_WATCH", 0.05)
    client = any_server.client()
    load(client)
    start_following(any_server, way).begun()
    totals = query(path, TOTALS, KEY)[0]
    with RelayStore(path, any_server.url) as store:
        for round in range(1, 4):
            begin_anew(client)
            until(lambda: client.exists(API_KEY), "the restore")
            assert_soon(lambda round=round: requests(client), totals[0] + 3 * round)
            assert_in_step(client, path)
        store.save_api_key(api_key("new"))
        assert_in_step(client, path)
    assert query(path, TOTALS, KEY)[0][0] == totals[0] + 9
    assert value(path, LISTED, "new") == 1


def test_key_that_waits_for_redis_is_not_taken_for_deleted(
    loaded: Server, start_following: Start, way: str, path: Path
) -> None:
    """A store has saved it and could not tell Redis yet: that it is not there says nothing."""
    follower = start_following(loaded, way).begun()
    with RelayStore(path, None) as other:
        other.save_api_key(api_key("waiting"))
    follower.catch_up(3)
    if way == "notified":
        follower.stop()
        follower = start_following(loaded, way, restore=False).begun()
    assert (value(path, LISTED, "waiting"), follower.store.trash()) == (1, [])


def test_change_in_redis_beside_a_store_that_saves_is_not_missed(
    loaded: Server, start_following: Start, way: str, path: Path
) -> None:
    """What had to be left alone, for something was saved meanwhile, is looked at again."""
    client = loaded.client()
    start_following(loaded, way).begun()
    done = threading.Event()

    def save() -> None:
        with RelayStore(path, None) as other:
            while not done.is_set():
                other.save_account("claude", {"id": "busy", "name": "busy"})

    saving = threading.Thread(target=save)
    saving.start()
    try:
        for number in range(20):
            client.sadd("apikey:tag:alpha", f"member-{number}")
            client.sadd(f"apikey:tag:{number}", "member")
            time.sleep(0.02)
        time.sleep(0.5)
    finally:
        done.set()
        saving.join()
    wanted = {b"apikey:tag:alpha", *(b"apikey:tag:%d" % number for number in range(20))}
    there = {key: entry for key, entry in dump(client).items() if key in wanted}

    def differing() -> list[str]:
        return differences(there, {k: e for k, e in stored(path).items() if k in wanted})

    assert_soon(differing, [])


# Reports.


def test_a_line_a_minute_tells_what_happened(
    loaded: Server, start_following: Start, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """How many keys there are, how many changed, were deleted and expired; and no secret."""
    monkeypatch.setattr(follow, "_REPORT", 0.3)
    follower = start_following(loaded, way).begun()
    client = loaded.client()
    client.hset(API_KEY, "apiKey", "a-new-secret")
    client.delete("apikey:91b6a3ed-2a66-4d71-9f17-90cdfb6aff64")
    client.set("soon", "over", px=1200)
    until(lambda: follower.reported("1 deleted"), "a report of the deletion")
    until(lambda: follower.reported("1 expired"), "a report of the expiry")
    assert all(line.startswith(f"{way}: ") for line in follower.lines)
    first = sum(map(_is_known, SAMPLE))
    assert follower.lines[0] == f"{way}: {first} keys, {first} changed, 0 deleted, 0 expired"


def _is_known(key: str) -> bool:
    return key.encode() in lasting({raw(key): None})  # type: ignore[dict-item]


def test_lines_come_once_a_minute(loaded: Server, start_following: Start) -> None:
    """However much happens."""
    follower = start_following(loaded, "notified").begun()
    for number in range(5):
        loaded.client().set("k", number)
        follower.catch_up()
    assert len(follower.lines) == 1


def test_reports_hold_no_secret(start_server: StartServer, start_following: Start) -> None:
    """Of an outage, a refusal and a loss; not the password, nor what keys hold."""
    server = start_server(requirepass="pass-word-123")
    client = server.client()
    load(client)
    follower = start_following(server).begun()
    client.hset(API_KEY, "apiKey", "a-new-secret")
    server.kill()
    time.sleep(0.3)
    server.start()
    until(lambda: follower.reported("restored"), "the restore")
    server.config("requirepass", "another-456")
    server.close_clients()
    server.kill()
    follower.stop()
    text = "\n".join(follower.lines)
    assert "restored" in text
    secrets = ["pass-word", "another-456", "a-new-secret", SAMPLE[API_KEY]["value"]["apiKey"]]
    assert [secret for secret in secrets if secret in text] == []
