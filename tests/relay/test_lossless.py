"""Nothing of a relay's Redis is lost: every key, type, byte, order and expiry comes back."""

# ruff: noqa: F401, F811 - fixtures are imported

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from langgraph_sqlite_saver.relay import ACCOUNT_TYPES, RelayStore

from .conftest import Lender
from .sample import SAMPLE, differences, dump, is_lasting, load, raw
from .servers import Server, until
from .stores import (
    Face,
    api_key,
    face,
    imported,
    lasting,
    open_store,
    path,
    sample_account,
    sample_ids,
)

OPUS, GPT = "claude-opus-4-1-20250805", "gpt-5"

# The sample.


def test_sample_survives_the_loss_of_redis(
    any_server: Server, open_store: Callable[..., Face], face: str
) -> None:
    """Loaded, imported, flushed and restored, each lasting key is what it was."""
    client = any_server.client()
    load(client)
    before = dump(client)
    store = open_store(any_server, face, heal=False)
    taken = store.import_from_redis()
    client.flushall()
    assert dump(client) == {}
    restored = store.restore()
    assert differences(lasting(before), dump(client)) == []
    kept = sum(map(is_lasting, before))
    assert (taken.keys, taken.changed, restored.keys) == (kept, kept, kept)
    assert (taken.api_keys, taken.accounts) == (restored.api_keys, restored.accounts) == (6, 10)


def test_sample_moves_between_server_flavours(
    redis_server: Server,
    start_server: Callable[..., Server],
    open_store: Callable[..., Face],
    tmp_path: Any,
) -> None:
    """From Valkey to Redis 6.2 and back, through a file each, it stays the same."""
    load(redis_server.client())
    before = lasting(dump(redis_server.client()))
    old = start_server("redis")
    first = open_store(redis_server, heal=False)
    first.import_from_redis()
    first.shut()
    second = open_store(old, heal=False)
    second.restore()
    assert differences(before, dump(old.client())) == []
    third = open_store(old, heal=False, path=tmp_path / "third.db")
    third.import_from_redis()
    redis_server.client().flushall()
    fourth = open_store(redis_server, heal=False, path=tmp_path / "third.db")
    fourth.restore()
    assert differences(before, dump(redis_server.client())) == []


def test_import_leaves_redis_alone(loaded: Server, open_store: Callable[..., Face]) -> None:
    """Not a key of Redis changes, short-lived ones included."""
    before = dump(loaded.client())
    open_store(loaded, heal=False).import_from_redis()
    assert differences(before, dump(loaded.client())) == []


def test_second_import_changes_nothing(imported: Face) -> None:
    """What is known already is counted, and not written."""
    tables = ("redis_keys", "usage_records", "usage_unplaced", "api_keys", "accounts")
    before = [imported.query(f"SELECT * FROM {table} ORDER BY 1") for table in tables]
    again = imported.import_from_redis()
    assert (again.keys, again.changed) == (sum(is_lasting(raw(key)) for key in SAMPLE), 0)
    assert [imported.query(f"SELECT * FROM {table} ORDER BY 1") for table in tables] == before


def test_dry_run_of_an_import_stores_nothing(
    loaded: Server, open_store: Callable[..., Face], face: str
) -> None:
    """It counts what it would take over."""
    store = open_store(loaded, face, heal=False)
    taken = store.import_from_redis(dry_run=True)
    assert taken.changed == sum(is_lasting(raw(key)) for key in SAMPLE)
    assert store.query("SELECT count(*) FROM redis_keys") == [(0,)]
    assert store.query("SELECT count(*) FROM usage_records") == [(0,)]


def test_progress_of_an_import_and_a_restore_reaches_its_total(
    loaded: Server, open_store: Callable[..., Face], face: str
) -> None:
    """It rises, and ends at what it was out of."""
    store = open_store(loaded, face, heal=False)
    for work in (store.import_from_redis, store.restore):
        seen: list[tuple[int, int]] = []
        work(progress=lambda done, total, seen=seen: seen.append((done, total)))
        assert seen == sorted(seen)
        assert seen[-1][0] == seen[-1][1] > 0


def test_import_takes_what_changed_since(imported: Face, loaded: Server) -> None:
    """Changed, new and retyped keys, entries of a stream, and an expiry."""
    client = loaded.client()
    id = sample_ids()[0]
    client.hset(f"apikey:{id}", "name", "changed")
    client.hdel(f"apikey:{id}", "description")
    client.set("new:key", "1")
    client.delete("system:service_rates")
    client.hset("system:service_rates", "a", "1")
    client.persist(f"apikey:{id}")
    client.xadd("billing:events", {"data": "{}"})
    client.srem("apikey:tags:all", "alpha")
    taken = imported.import_from_redis()
    assert taken.changed == 5
    before = lasting(dump(client))
    client.flushall()
    imported.restore()
    assert differences(before, dump(client)) == []
    assert imported.query("SELECT name, description FROM api_keys WHERE id = ?", id) == [
        ("changed", None)
    ]


def test_key_that_redis_lost_stays_over_an_import(imported: Face, loaded: Server) -> None:
    """An import adds; what only SQLite has is not taken from it."""
    loaded.client().delete("user:index", f"apikey:{sample_ids()[0]}")
    imported.import_from_redis()
    assert imported.query("SELECT count(*) FROM redis_keys WHERE key = ?", b"user:index") == [(1,)]
    assert imported.query("SELECT count(*) FROM api_keys") == [(6,)]


# The relational tables.


def test_api_keys_have_their_columns(imported: Face) -> None:
    """Each key's fields, '' as '', a missing one as NULL, booleans as numbers."""
    found = imported.query(
        "SELECT id, api_key_hash, name, description, token_limit, is_active, permissions,"
        " blacklist_models, allowed_clients FROM api_keys ORDER BY id"
    )
    fields = [SAMPLE[f"apikey:{id}"]["value"] for id in sample_ids()]
    assert found == [
        (
            each["id"],
            each["apiKey"],
            each.get("name"),
            each.get("description"),
            int(each["tokenLimit"]) if each.get("tokenLimit") else None,
            each["isActive"] == "true",
            each.get("permissions"),
            each.get("restrictedModels"),
            each.get("allowedClients"),
        )
        for each in fields
    ]


def test_times_of_api_keys_are_text_as_given(imported: Face) -> None:
    """A time that is not set is NULL."""
    found = imported.query(
        "SELECT id, created_at, updated_at, last_used_at, expires_at FROM api_keys ORDER BY id"
    )
    names = ("createdAt", "updatedAt", "lastUsedAt", "expiresAt")
    assert found == [
        (id, *(SAMPLE[f"apikey:{id}"]["value"].get(name) or None for name in names))
        for id in sample_ids()
    ]


def test_totals_of_api_keys_are_those_of_redis(imported: Face) -> None:
    """From usage:<id> and usage:cost:total:<id>."""
    found = imported.query(
        "SELECT id, total_requests, total_tokens, total_input_tokens, total_output_tokens,"
        " total_cache_create_tokens, total_cache_read_tokens, total_cost FROM api_keys ORDER BY id"
    )
    names = (
        "totalRequests", "totalTokens", "totalInputTokens", "totalOutputTokens",
        "totalCacheCreateTokens", "totalCacheReadTokens",
    )  # fmt: skip
    expected = []
    for id in sample_ids():
        totals = SAMPLE.get(f"usage:{id}", {"value": {}})["value"]
        cost = float(SAMPLE.get(f"usage:cost:total:{id}", {"value": "0"})["value"])
        expected.append((id, *(int(totals.get(name, 0)) for name in names), pytest.approx(cost)))
    assert found == expected
    assert sum(row[1] for row in found) > 0


def test_accounts_of_all_types_have_their_columns(imported: Face) -> None:
    """The type by the key's prefix, credentials as they were, together as JSON."""
    found = {row[1]: row for row in imported.query("SELECT * FROM accounts")}
    named = [
        row[1] for row in imported.query("SELECT cid, name FROM pragma_table_info('accounts')")
    ]
    assert found.keys() == ACCOUNT_TYPES.keys()
    for name, kind in ACCOUNT_TYPES.items():
        id, value = sample_account(name)
        fields = json.loads(value) if kind.is_json else value
        row = dict(zip(named, found[name], strict=True))
        assert (row["id"], row["name"]) == (id, fields["name"])
        assert row["is_active"] == (fields["isActive"] in (True, "true"))
        assert row["created_at"] == fields["createdAt"]
        secrets = {field: fields[field] for field in kind.credentials if field in fields}
        assert json.loads(row["encrypted_credentials"]) == secrets
        assert row["email"] == fields.get("email")
        if not kind.is_json:
            assert row["proxy_config"] == fields.get("proxy")


def test_totals_of_accounts_are_those_of_redis(imported: Face) -> None:
    """From account_usage:<id>; an account without has zeros."""
    found = dict(imported.query("SELECT id, total_requests FROM accounts"))
    assert found == {
        id: int(SAMPLE.get(f"account_usage:{id}", {"value": {}})["value"].get("totalRequests", 0))
        for id in found
    }
    assert sum(found.values()) > 0


def test_usage_lists_become_records_or_wait(imported: Face) -> None:
    """Each entry once: placed where its key is known and it has a model, else kept as it is."""
    lists = {
        key.rpartition(":")[2]: content["value"]
        for key, content in SAMPLE.items()
        if key.startswith("usage:records:")
    }
    placed: Counter[tuple[Any, ...]] = Counter()
    waiting: Counter[tuple[str, str]] = Counter()
    for id, entries in lists.items():
        for entry in entries:
            told = json.loads(entry)
            if id in sample_ids() and told.get("model"):
                placed[id, told["timestamp"], told["model"], told.get("cost", 0)] += 1
            else:
                waiting[id, entry] += 1
    found = imported.query("SELECT api_key_id, timestamp, model, cost FROM usage_records")
    assert Counter(found) == placed
    left = imported.query("SELECT api_key_id, entry FROM usage_unplaced")
    assert Counter(left) == waiting


def test_equal_entries_count_each_and_odd_ones_wait(
    loaded: Server, open_store: Callable[..., Face]
) -> None:
    """Two equal entries are two requests; one without model, and those of a gone key, are kept."""
    client, id = loaded.client(), sample_ids()[0]
    entry = json.dumps({"timestamp": "2026-11-21T00:00:00.000Z", "model": GPT, "cost": 0.5})
    odd = [json.dumps({"timestamp": "2026-11-21T00:00:00.000Z"}), "no JSON", "[]"]
    client.delete(f"usage:records:{id}")
    client.rpush(f"usage:records:{id}", entry, entry, *odd)
    client.rpush("usage:records:gone-for-good", entry)
    store = open_store(loaded, heal=False)
    store.import_from_redis()
    records = "SELECT cost FROM usage_records WHERE api_key_id = ?"
    assert store.query(records, id) == [(0.5,), (0.5,)]
    waiting = "SELECT entry FROM usage_unplaced WHERE api_key_id = ?"
    assert {entry for (entry,) in store.query(waiting, id)} == set(odd)
    assert store.query(waiting, "gone-for-good") == [(entry,)]


def test_statistics_become_sums(imported: Face) -> None:
    """usage_stats holds the requests and tokens of each key, account, model and time."""
    found = imported.query(
        "SELECT scope, id, period, start, model, requests, input_tokens, all_tokens"
        " FROM usage_stats"
    )
    expected = set()
    periods = {"hourly": "hour", "daily": "day", "monthly": "month"}
    for key, content in SAMPLE.items():
        parts = key.split(":")
        if parts[0] == "usage" and parts[2:3] == ["model"] and parts[3] in periods:
            scope, id, period, model, *start = "key", parts[1], *parts[3:]
        elif parts[:2] == ["account_usage", "model"] and parts[3] != "index":
            scope, period, id, model, *start = "account", *parts[2:]
        else:
            continue
        counts = [int(content["value"][n]) for n in ("requests", "inputTokens", "allTokens")]
        expected.add((scope, id, periods[period], "T".join(start), model, *counts))
    assert set(found) == expected
    assert len(expected) > 10


def test_entries_that_redis_cuts_off_stay_in_sqlite(imported: Face, loaded: Server) -> None:
    """A list of usage records that was pushed to and trimmed adds its new entries once."""
    client, id = loaded.client(), sample_ids()[-1]
    key = f"usage:records:{id}"
    before = len(imported.query("SELECT 1 FROM usage_records WHERE api_key_id = ?", id))
    client.delete(key)
    for n in range(3):
        entry = {"timestamp": f"2026-11-22T00:00:0{n}.000Z", "model": OPUS, "cost": n}
        client.lpush(key, json.dumps(entry))
        client.ltrim(key, 0, 1)
        imported.import_from_redis()
        imported.import_from_redis()
    assert client.llen(key) == 2
    found = imported.query("SELECT 1 FROM usage_records WHERE api_key_id = ?", id)
    assert len(found) == before + 3


def test_counters_that_rise_raise_the_totals_once(imported: Face, loaded: Server) -> None:
    """The columns follow the counters of Redis by their difference."""
    id = next(id for id in sample_ids() if f"usage:{id}" in SAMPLE)
    read = "SELECT total_requests, total_tokens, total_cost FROM api_keys WHERE id = ?"
    ((requests, tokens, cost),) = imported.query(read, id)
    client = loaded.client()
    client.hincrby(f"usage:{id}", "totalRequests", 2)
    client.hincrby(f"usage:{id}", "totalTokens", 30)
    client.incrbyfloat(f"usage:cost:total:{id}", 0.25)
    for _ in range(2):
        imported.import_from_redis()
        expected = (requests + 2, tokens + 30, pytest.approx(cost + 0.25))
        assert imported.query(read, id) == [expected]


# Any value.

BYTES = st.binary(max_size=12) | st.sampled_from([b"", b"\0", b"\xff\xfe", "é研究".encode()])
SCORES = st.sampled_from([b"inf", b"-inf", b"0.1", b"-0.0", b"1e300", b"5e-324", b"3"])
ANY_SCORE = SCORES | st.floats(allow_nan=False).map(lambda x: repr(x).encode())
STREAM_FIELDS = st.lists(st.tuples(BYTES, BYTES), min_size=1, max_size=3)
VALUES = {
    "string": BYTES,
    "hash": st.dictionaries(BYTES, BYTES, min_size=1, max_size=5),
    "list": st.lists(BYTES, min_size=1, max_size=8),
    "set": st.sets(BYTES, min_size=1, max_size=8),
    "zset": st.dictionaries(BYTES, ANY_SCORE, min_size=1, max_size=6),
    "stream": st.tuples(
        st.lists(STREAM_FIELDS, min_size=1, max_size=4),
        st.lists(st.binary(min_size=1, max_size=4), unique=True, max_size=2),
        st.sets(st.integers(1, 4)),
    ),
}
CONTENT = st.sampled_from(list(VALUES)).flatmap(
    lambda kind: st.tuples(st.just(kind), VALUES[kind], st.none() | st.integers(100, 10**9))
)
NAMES = st.binary(min_size=1, max_size=20) | st.sampled_from([raw(key) for key in SAMPLE])


def fill(client: Any, key: bytes, kind: str, value: Any, ttl: int | None) -> None:
    """A key of Redis with this content."""
    flat = value
    if kind == "hash":
        flat = [part for pair in value.items() for part in pair]
    elif kind == "zset":
        flat = [part for member, score in value.items() for part in (score, member)]
    if kind == "stream":
        fill_stream(client, key, *value)
    else:
        names = {"hash": "HSET", "list": "RPUSH", "set": "SADD", "zset": "ZADD"}
        parts = ("SET", key, value) if kind == "string" else (names[kind], key, *flat)
        client.execute_command(*parts)
    if ttl is not None:
        client.expire(key, ttl)


def fill_stream(client: Any, key: bytes, entries: Any, groups: Any, deleted: Any) -> None:
    """A stream of entries 1-1, 2-2, …, of which some are deleted; it never is all empty."""
    for n, fields in enumerate(entries, 1):
        client.execute_command("XADD", key, f"{n}-{n}", *(part for pair in fields for part in pair))
    for n, group in enumerate(groups):
        client.xgroup_create(key, group, id=f"{min(n + 1, len(entries))}-0")
    for n in deleted if groups else deleted - {1}:
        client.xdel(key, f"{n}-{n}")


def stream_facts(client: Any) -> dict[bytes, Any]:
    """Of each stream its last id, and its groups with how far they have got."""
    facts = {}
    for key in client.scan_iter(_type="stream", count=1000):
        groups = {g["name"]: g["last-delivered-id"] for g in client.xinfo_groups(key)}
        facts[key] = (client.xinfo_stream(key)["last-generated-id"], groups)
    return facts


@settings(max_examples=80)
@given(held=st.dictionaries(NAMES.filter(is_lasting), CONTENT, min_size=1, max_size=6))
def test_any_value_survives(
    lender: Lender, tmp_path_factory: pytest.TempPathFactory, held: dict[bytes, Any]
) -> None:
    """Whatever bytes a key of any name and type holds, import, loss and restore keep them."""
    server = lender.lend("valkey")
    client = server.client()
    for key, (kind, value, ttl) in held.items():
        fill(client, key, kind, value, ttl)
    before, facts = dump(client), stream_facts(client)
    path = tmp_path_factory.mktemp("any") / "relay.db"
    with RelayStore(path, server.url, heal=False) as store:
        store.import_from_redis()
        assert store.import_from_redis().changed == 0
        assert store.diff() == []
        client.flushall()
        store.restore()
        assert store.diff() == []
    assert differences(before, dump(client)) == []
    assert stream_facts(client) == facts
    server.close_clients()


def test_emptied_stream_is_still_there(redis_server: Server, open_store: Any) -> None:
    """A stream whose entries were all deleted comes back with its last id."""
    client = redis_server.client()
    client.xadd("events", {"f": "v"}, id="7-1")
    client.xdel("events", "7-1")
    store = open_store(redis_server, heal=False)
    store.import_from_redis()
    client.flushall()
    store.restore()
    assert stream_facts(client) == {b"events": (b"7-1", {})}


LARGE: dict[str, tuple[str, Any]] = {
    "list": ("list", [b"%d" % n for n in range(25_000)]),
    "list of equal entries": ("list", [b"same"] * 25_000),
    "hash": ("hash", {b"%d" % n: b"v" for n in range(12_000)}),
    "zset": ("zset", {b"%d" % n: b"%d.5" % n for n in range(12_000)}),
    "set": ("set", {b"%d" % n for n in range(25_000)}),
    "stream": ("stream", ([[(b"data", b"{}")]] * 1200, [b"group"], {7})),
}


@pytest.mark.parametrize("loss", ["all", "the key", "since a copy"])
@pytest.mark.parametrize("what", LARGE)
def test_large_value_is_restored_whole(
    redis_server: Server, open_store: Callable[..., Face], what: str, loss: str
) -> None:
    """Also where it takes several commands, and whatever else was lost."""
    client, (kind, value) = redis_server.client(), LARGE[what]
    key = b"large:value"
    fill(client, key, kind, value, None)
    client.set("another", "1")
    client.hset("usage:key-1", "totalRequests", "5")
    before, facts = dump(client), stream_facts(client)
    store = open_store(redis_server, heal=False)
    store.import_from_redis()
    if loss == "all":
        client.flushall()
    elif loss == "the key":
        client.delete(key)
    else:  # an older copy: counters went back, and the key lacks its end
        client.hset("usage:key-1", "totalRequests", "1")
        client.delete(key)
        half = value[:10] if kind == "list" else None
        if half:
            fill(client, key, kind, half, None)
    store.restore()
    assert differences(before, dump(client)) == []
    assert stream_facts(client) == facts


def test_expiry_goes_on_over_a_restore(redis_server: Server, open_store: Any) -> None:
    """A key comes back with the time it had left, and not at all once that is over."""
    client = redis_server.client()
    client.set("long", "1", ex=10_000)
    client.set("soon", "1", px=1)
    client.set("shortly", "1", px=150)
    client.set("ever", "1")
    store = open_store(redis_server, heal=False)
    store.import_from_redis()
    ends = client.pexpiretime("long")
    until(lambda: not client.exists("shortly"), "the expiry")
    client.flushall()
    store.restore()
    assert set(client.keys()) == {b"long", b"ever"}
    assert abs(client.pexpiretime("long") - ends) < 2000
    assert client.ttl("ever") == -1


# What is not invented, and what is left out.


def test_older_relays_indexes_are_not_invented(redis_server: Server, open_store: Any) -> None:
    """Where the source has keys and hash_map alone, saving a key adds to those alone."""
    client = redis_server.client()
    client.hset("apikey:old", mapping={"id": "old", "name": "Old", "apiKey": "h", "isActive": "1"})
    client.hset("apikey:hash_map", "h", "old")
    client.hset("claude:account:acc", mapping={"id": "acc", "name": "Acc"})
    store = open_store(redis_server, heal=False)
    store.import_from_redis()
    store.save_api_key(api_key("new", tags='["t"]'))
    store.save_api_key({"id": "old", "name": "Older", "apiKey": "h2"})
    store.save_account("claude", {"id": "acc2", "name": "Acc"})
    store.get_api_key("new")
    expected = {
        b"apikey:old", b"apikey:new", b"apikey:hash_map", b"claude:account:acc",
        b"claude:account:acc2",
    }  # fmt: skip
    assert set(client.keys()) == expected
    assert client.hgetall("apikey:hash_map") == {b"hash-of-new": b"new", b"h2": b"old"}
    client.flushall()
    store.restore()
    assert set(client.keys()) == expected


def test_marks_of_emptiness_are_removed(imported: Face, loaded: Server) -> None:
    """A restore and the saving of an account take away what hides accounts from a relay."""
    client = loaded.client()
    client.flushall()
    client.set("claude:account:index:empty", "1")
    client.set("droid:account:index:empty", "1")
    imported.restore()
    assert not client.exists("claude:account:index:empty", "droid:account:index:empty")
    client.set("claude:account:index:empty", "1")
    imported.save_account("claude", {"id": "new", "name": "New"})
    assert not client.exists("claude:account:index:empty")
    assert b"new" in client.smembers("claude:account:index")


def test_short_lived_keys_are_left_out(imported: Face) -> None:
    """What is kept of the sample is what is worth keeping."""
    kept = {key for (key,) in imported.query("SELECT key FROM redis_keys")}
    assert kept == {raw(key) for key in SAMPLE if is_lasting(raw(key))}
    assert len(kept) < len(SAMPLE)
