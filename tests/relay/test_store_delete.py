"""What is deleted stays deleted, whatever copy of Redis comes back."""

# ruff: noqa: F401, F811 - fixtures are imported

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from langgraph_sqlite_saver.relay import ACCOUNT_TYPES, UsageRecord

from .sample import SAMPLE, differences, dump, load
from .servers import Server, until
from .stores import (
    Face,
    api_key,
    face,
    imported,
    members,
    open_store,
    path,
    sample_account,
    sample_ids,
)

# A key with usage, tags, counters and statistics.
ID = next(i for i in sample_ids() if len(SAMPLE[f"apikey:{i}"]["value"]["tags"]) > 2 and
          f"usage:records:{i}" in SAMPLE)  # fmt: skip
HASH = SAMPLE[f"apikey:{ID}"]["value"]["apiKey"]
INDEXES = ["apikey:hash_map", "apikey:idx:all", "apikey:idx:createdAt", "apikey:idx:lastUsedAt"]
INDEXES += ["apikey:idx:name", "apikey:set:active", "apikey:set:deleted"]
TAGS = [f"apikey:tag:{tag}" for tag in json.loads(SAMPLE[f"apikey:{ID}"]["value"]["tags"])]


def traces(client: Any, id: str = ID) -> set[str]:
    """Keys of Redis that are about an API key, and indexes that have it."""
    own = {key for key in client.scan_iter(count=1000) if id.encode() in key}
    own = {key for key in own if not key.startswith((b"concurrency", b"rate_limit"))}
    found = {key.decode() for key in own}
    return found | {key for key in INDEXES + TAGS if any(id in str(m) for m in _all(client, key))}


def _all(client: Any, key: str) -> list[Any]:
    found = members(client, key)
    return [*found, *found.values()] if isinstance(found, dict) else [*found]


def traces_in_sqlite(store: Face, id: str = ID) -> dict[str, int]:
    """How many rows are about an API key, sums of times and the audit log aside."""
    wanted = {
        "redis_keys": "instr(key, CAST(? AS BLOB))",
        "redis_members": "instr(CASE WHEN value IS NULL THEN member ELSE member || value END,"
        " CAST(? AS BLOB)) AND key NOT LIKE 'cost_rank%'",
        "api_keys": "id = ?",
        "usage_records": "api_key_id = ?",
        "usage_unplaced": "api_key_id = ?",
    }
    counts = {
        table: store.query(f"SELECT count(*) FROM {table} WHERE {where}", id)[0][0]
        for table, where in wanted.items()
    }
    return {table: count for table, count in counts.items() if count}


@pytest.fixture
def store(open_store: Callable[..., Face], loaded: Server, face: str) -> Face:
    """A store that has taken over the sample, by each face."""
    store = open_store(loaded, face)
    store.import_from_redis()
    assert len(traces(loaded.client())) > 10
    assert traces_in_sqlite(store).keys() >= {"redis_keys", "redis_members", "usage_records"}
    return store


def test_deleted_api_key_leaves_nothing(store: Face, loaded: Server) -> None:
    """Neither its hash, indexes, statistics and usage in Redis nor their rows in SQLite."""
    assert store.delete_api_key(ID) is True
    assert traces(loaded.client()) == set()
    assert traces_in_sqlite(store) == {}
    assert store.get_api_key(ID) is None
    assert store.find_api_key(HASH) is None
    assert store.delete_api_key(ID) is False


def test_others_stay_as_they_were(store: Face, loaded: Server) -> None:
    """Deleting one key touches no key of another."""
    client = loaded.client()
    before = dump(client)
    store.delete_api_key(ID)
    after = dump(client)
    shared = {*(key.encode() for key in INDEXES + TAGS)}
    expected = {k: v for k, v in before.items() if k not in shared and ID.encode() not in k}
    assert differences(expected, {k: v for k, v in after.items() if k in expected}) == []
    other = sample_ids()[0] if sample_ids()[0] != ID else sample_ids()[1]
    assert store.get_api_key(other) == SAMPLE[f"apikey:{other}"]["value"]


def test_deleted_api_key_does_not_come_back_by_a_restore(store: Face, loaded: Server) -> None:
    """Also where Redis has lost everything, and its older form of lookup."""
    client = loaded.client()
    client.hset(f"apikey_hash:{HASH}", mapping={"id": ID, "isActive": "true"})
    store.import_from_redis()
    store.delete_api_key(ID)
    assert not client.exists(f"apikey_hash:{HASH}")
    client.flushall()
    store.restore()
    assert traces(client) == set()
    assert not client.exists(f"apikey_hash:{HASH}")


def test_older_copy_of_redis_is_cleaned_by_a_restore(store: Face, loaded: Server) -> None:
    """What was deleted here is removed there."""
    store.delete_api_key(ID)
    load(loaded.client())
    assert traces(loaded.client())
    store.restore()
    assert traces(loaded.client()) == set()
    assert store.get_api_key(ID) is None


def test_import_of_an_older_copy_brings_nothing_back(
    store: Face, open_store: Callable[..., Face], loaded: Server, face: str
) -> None:
    """Neither the record nor its entries in the indexes, and a restore after it cleans Redis."""
    store.delete_api_key(ID)
    store.shut()
    later = open_store(loaded, face, heal=False)
    load(loaded.client())
    later.import_from_redis()
    assert traces_in_sqlite(later) == {}
    later.restore()
    assert traces(loaded.client()) == set()
    assert later.find_api_key(HASH) is None


def test_older_file_of_redis_lets_nobody_in(
    open_store: Callable[..., Face], start_server: Callable[..., Server], face: str
) -> None:
    """Reads right after its restart know what was deleted and which secret is the new one."""
    server = start_server(dbfilename="old.rdb")
    store = open_store(server, face)
    store.save_api_key(api_key("gone"))
    store.save_api_key(api_key("kept"))
    server.client().save()
    store.delete_api_key("gone")
    store.save_api_key(api_key("kept", apiKey="rotated"))
    server.restart()
    assert store.find_api_key("hash-of-gone") is None
    assert store.get_api_key("gone") is None
    assert store.find_api_key("hash-of-kept") is None
    assert store.find_api_key("rotated") == api_key("kept", apiKey="rotated")


def test_older_file_of_redis_brings_nothing_back(
    open_store: Callable[..., Face], start_server: Callable[..., Server], face: str
) -> None:
    """A Redis that restarts with a file from before the deletion is cleaned by itself."""
    server = start_server(dbfilename="old.rdb")
    load(server.client())
    store = open_store(server, face)
    store.import_from_redis()
    server.client().save()
    store.delete_api_key(ID)
    store.delete_account("ccr", sample_account("ccr")[0])
    server.restart()
    client = server.client()
    until(lambda: not traces(client), "the deletion to reach Redis")
    until(lambda: not client.exists("ccr_account:index"), "the deletion to reach Redis")
    assert store.get_api_key(ID) is None
    assert store.get_account("ccr", sample_account("ccr")[0]) is None
    store.import_from_redis()
    assert traces_in_sqlite(store) == {}


def test_store_that_opens_on_an_older_copy_cleans_it(
    open_store: Callable[..., Face], loaded: Server, face: str, start_server: Any
) -> None:
    """The deletion is known over a restart of the process too."""
    first = open_store(loaded, face)
    first.import_from_redis()
    first.delete_api_key(ID)
    first.shut()
    other = start_server()
    load(other.client())
    second = open_store(other, face)
    assert traces(other.client()) == set()
    assert second.get_api_key(ID) is None


def test_deleted_while_redis_is_down(
    open_store: Callable[..., Face], start_server: Callable[..., Server], face: str
) -> None:
    """A Redis that comes back with its old data loses the record then."""
    server = start_server(appendonly="yes", appendfsync="always")
    load(server.client())
    store = open_store(server, face)
    store.import_from_redis()
    server.stop()
    assert store.delete_api_key(ID) is True
    assert store.get_api_key(ID) is None
    server.start()
    client = server.client()
    until(lambda: not traces(client), "the deletion to reach Redis")
    assert store.get_api_key(ID) is None


@pytest.mark.parametrize("name", ACCOUNT_TYPES)
def test_deleted_account_does_not_come_back(imported: Face, loaded: Server, name: str) -> None:
    """Of every type: after it neither a restore nor an older copy has it."""
    kind, (id, _) = ACCOUNT_TYPES[name], sample_account(name)
    client = loaded.client()
    client.hset(f"account:test_config:{name}:{id}", "a", "1")
    imported.import_from_redis()
    assert imported.delete_account(name, id) is True
    own = [kind.prefix + id.encode(), f"account:test_config:{name}:{id}".encode()]
    assert not client.exists(*own)
    assert id.encode() not in client.smembers(kind.index)
    assert imported.query("SELECT 1 FROM accounts WHERE account_type = ?", name) == []
    load(client)
    imported.import_from_redis()
    imported.restore()
    assert not client.exists(*own)
    for index in filter(None, (kind.index, kind.shared)):
        assert id.encode() not in client.smembers(index)
    assert imported.get_account(name, id) is None


def test_key_that_is_saved_again_is_there_again(store: Face, loaded: Server) -> None:
    """A deletion does not outlive the record's return, in whatever form."""
    store.delete_api_key(ID)
    fields = {**SAMPLE[f"apikey:{ID}"]["value"], "name": "again"}
    store.save_api_key(fields)
    store.restore()
    store.import_from_redis()
    assert store.get_api_key(ID) == store.find_api_key(HASH) == fields
    loaded.client().flushall()
    store.restore()
    assert store.find_api_key(HASH) == fields


def test_usage_of_a_key_that_is_saved_again_is_restored(store: Face, loaded: Server) -> None:
    """Counters that a relay writes for it are taken over like any other."""
    store.delete_api_key(ID)
    store.save_api_key(SAMPLE[f"apikey:{ID}"]["value"])
    client = loaded.client()
    client.hset(f"usage:{ID}", "totalRequests", "3")
    store.import_from_redis()
    client.flushall()
    store.restore()
    assert client.hget(f"usage:{ID}", "totalRequests") == b"3"


def test_usage_recorded_after_the_deletion_waits(store: Face) -> None:
    """It is neither lost nor does it bring the key back."""
    store.delete_api_key(ID)
    store.record_usage(UsageRecord(ID, "m", cost=1.0), wait=True)
    assert store.get_api_key(ID) is None
    assert traces_in_sqlite(store) == {"usage_unplaced": 1}
