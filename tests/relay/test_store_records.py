"""API keys and accounts: saved, read, found, listed and deleted, with their indexes."""

# ruff: noqa: F401, F811 - fixtures are imported

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
import redis

from langgraph_sqlite_saver.database import DatabaseClosedError, InvalidInputError, InvalidTypeError
from langgraph_sqlite_saver.relay import ACCOUNT_TYPES

from .sample import SAMPLE, dump, load, raw
from .servers import Server
from .stores import (
    WHEN_MS,
    Face,
    api_key,
    face,
    hash_of,
    imported,
    members,
    open_store,
    path,
    sample_account,
    sample_ids,
    store,
)

HASH_TYPES = [name for name, kind in ACCOUNT_TYPES.items() if not kind.is_json]
YEAR_MS = 365 * 24 * 3600 * 1000


def account(name: str, id: str = "acc-1", **changes: str) -> Any:
    """The sample's account of a type under another id."""
    value = sample_account(name)[1]
    fields = json.loads(value) if ACCOUNT_TYPES[name].is_json else value
    return {**fields, "id": id, **changes}


@pytest.fixture
def client(redis_server: Server) -> redis.Redis:
    """What the server of the test's store holds."""
    return redis_server.client()


# API keys.


def test_api_key_is_read_as_it_was_saved(store: Face, client: redis.Redis) -> None:
    """Unknown fields, '' and missing, '0' and arbitrary text stay what they are, on both sides."""
    fields = api_key(strange="\udcff \0 研究", empty="", zero="0", cost="0.00482500000000000018")
    store.save_api_key(fields)
    assert store.get_api_key("key-1") == fields
    assert hash_of(client, "apikey:key-1") == fields
    client.flushall()
    assert store.get_api_key("key-1") == fields


def test_saving_replaces_the_whole_record(store: Face, client: redis.Redis) -> None:
    """Fields that are not given any more are gone on both sides."""
    store.save_api_key(api_key(old="1"))
    store.save_api_key(api_key(new="2"))
    assert hash_of(client, "apikey:key-1") == store.get_api_key("key-1") == api_key(new="2")
    client.delete("apikey:key-1")
    assert store.get_api_key("key-1") == api_key(new="2")


def test_unknown_records_are_none(store: Face) -> None:
    """Neither a read nor a search nor a deletion of what is not there fails."""
    assert store.get_api_key("nobody") is None
    assert store.find_api_key("nothing") is None
    assert store.get_account("claude", "nobody") is None
    assert store.delete_api_key("nobody") is False
    assert store.delete_account("bedrock", "nobody") is False


@pytest.mark.parametrize(
    ("ttl", "expected"), [({}, YEAR_MS), ({"ttl": timedelta(hours=1)}, 3_600_000)]
)
def test_api_key_expires(store: Face, client: redis.Redis, ttl: Any, expected: int) -> None:
    """A year after each save, or when it is told, in Redis and in SQLite."""
    store.save_api_key(api_key(), **ttl)
    assert abs(client.pttl("apikey:key-1") - expected) < 5000
    ((left,),) = store.query(
        "SELECT expires_at - strftime('%s') * 1000 FROM redis_keys WHERE key = ?", b"apikey:key-1"
    )
    assert abs(left - expected) < 5000


def test_api_key_without_a_ttl_stays(store: Face, client: redis.Redis) -> None:
    """Saved with ttl=None it never expires, also where it did before."""
    store.save_api_key(api_key())
    store.save_api_key(api_key(), ttl=None)
    assert client.ttl("apikey:key-1") == -1


def test_expired_api_key_is_gone(open_store: Callable[..., Face], face: str) -> None:
    """SQLite does not answer with what has expired."""
    store = open_store(None, face)
    store.save_api_key(api_key(), ttl=timedelta(0))
    assert store.get_api_key("key-1") is None
    assert store.list_api_keys() == []


def test_api_keys_are_listed_by_id_in_pages(store: Face) -> None:
    """Each once, in order; a page goes on after the last id of the one before."""
    ids = [f"key-{n:02}" for n in range(11)]
    for id in reversed(ids):
        store.save_api_key(api_key(id))
    found, after = [], None
    while page := store.list_api_keys(limit=4, after=after):
        assert len(page) <= 4
        found += page
        after = page[-1]["id"]
    assert found == [api_key(id) for id in ids]


def test_listing_knows_imported_keys(imported: Face) -> None:
    """Soft-deleted ones are among them; indexes are not."""
    assert [each["id"] for each in imported.list_api_keys()] == sample_ids()
    for name in ACCOUNT_TYPES:
        assert [each["id"] for each in imported.list_accounts(name)] == [sample_account(name)[0]]


# An API key's place in the indexes.


def test_new_api_key_takes_its_place_in_every_index(store: Face, client: redis.Redis) -> None:
    """As the relay's layout says, and the version says that they are complete."""
    tags = ["a:b", "*", "😀", "empty"]
    store.save_api_key(api_key(name="My KEY", tags=json.dumps(tags), lastUsedAt=""))
    assert client.get("apikey:index:version") == b"2"
    assert members(client, "apikey:hash_map") == {"hash-of-key-1": "key-1"}
    assert members(client, "apikey:idx:all") == {"key-1"}
    assert members(client, "apikey:idx:createdAt") == {"key-1": WHEN_MS}
    assert members(client, "apikey:idx:lastUsedAt") == {"key-1": 0}
    assert members(client, "apikey:idx:name") == {"my key\0key-1": 0}
    assert members(client, "apikey:set:active") == {"key-1"}
    assert members(client, "apikey:tags:all") == set(tags)
    assert all(members(client, f"apikey:tag:{tag}") == {"key-1"} for tag in tags)
    assert not client.exists("apikey:set:deleted")


def test_rotated_secret_finds_the_key_and_the_old_one_nothing(
    store: Face, client: redis.Redis
) -> None:
    """hash_map has the new hash alone."""
    store.save_api_key(api_key())
    store.save_api_key(api_key(apiKey="new"))
    assert store.find_api_key("hash-of-key-1") is None
    assert store.find_api_key("new") == api_key(apiKey="new")
    assert members(client, "apikey:hash_map") == {"new": "key-1"}
    client.flushall()
    assert store.find_api_key("hash-of-key-1") is None
    assert store.find_api_key("new") == api_key(apiKey="new")


def test_stale_hash_in_redis_does_not_let_an_old_secret_in(
    store: Face, client: redis.Redis
) -> None:
    """An entry of hash_map whose key has another hash finds nothing."""
    store.save_api_key(api_key(apiKey="new"))
    client.hset("apikey:hash_map", "old", "key-1")
    assert store.find_api_key("old") is None


def test_older_form_of_the_lookup_is_read(store: Face, client: redis.Redis) -> None:
    """Where hash_map misses a hash, apikey_hash:<hash> is looked at."""
    client.hset("apikey:old", mapping={"id": "old", "apiKey": "h"})
    client.hset("apikey_hash:h", mapping={"id": "old", "name": "Old", "isActive": "true"})
    store.import_from_redis()
    assert store.find_api_key("h") == {"id": "old", "apiKey": "h"}


def test_soft_delete_and_return(store: Face, client: redis.Redis) -> None:
    """A key that is marked deleted leaves hash_map and the active, and comes back to them."""
    store.save_api_key(api_key(tags='["t"]'))
    store.save_api_key(api_key(tags='["t"]', isDeleted="true", isActive="false"))
    assert store.find_api_key("hash-of-key-1") is None
    assert not client.exists("apikey:hash_map")
    assert members(client, "apikey:set:active") == set()
    assert members(client, "apikey:set:deleted") == {"key-1"}
    assert members(client, "apikey:idx:all") == members(client, "apikey:tag:t") == {"key-1"}
    store.save_api_key(api_key(tags='["t"]'))
    assert store.find_api_key("hash-of-key-1") == api_key(tags='["t"]')
    assert members(client, "apikey:set:active") == {"key-1"}
    assert members(client, "apikey:set:deleted") == set()


def test_inactive_key_is_neither_active_nor_deleted(store: Face, client: redis.Redis) -> None:
    """It is still found by its hash."""
    store.save_api_key(api_key(isActive="false"))
    assert not client.exists("apikey:set:active", "apikey:set:deleted")
    assert store.find_api_key("hash-of-key-1") == api_key(isActive="false")


def test_changed_tags_name_and_times_move_the_key(store: Face, client: redis.Redis) -> None:
    """It leaves its old places; a tag without keys stays among the tags."""
    store.save_api_key(api_key(tags='["a", "b"]', name="Old"))
    store.save_api_key(
        api_key(tags='["b", "c"]', name="New", lastUsedAt="2026-11-21T20:06:08.129Z")
    )
    assert members(client, "apikey:tag:a") == set()
    assert members(client, "apikey:tag:b") == members(client, "apikey:tag:c") == {"key-1"}
    assert members(client, "apikey:tags:all") == {"a", "b", "c"}
    assert members(client, "apikey:idx:name") == {"new\0key-1": 0}
    assert members(client, "apikey:idx:lastUsedAt") == {"key-1": WHEN_MS}


def test_saving_a_sample_key_again_changes_no_index(imported: Face, loaded: Server) -> None:
    """Indexes that the relay wrote are what saving makes of its keys."""
    client = loaded.client()
    before = dump(client)
    for id in sample_ids():
        if SAMPLE[f"apikey:{id}"]["value"].get("isDeleted") != "true":
            imported.save_api_key(SAMPLE[f"apikey:{id}"]["value"])
    after = dump(client)
    indexes = [key for key in before if key.startswith((b"apikey:idx", b"apikey:set"))]
    indexes += [key for key in before if key.startswith((b"apikey:tag", b"apikey:hash_map"))]
    assert {key: after.get(key) for key in indexes} == {key: before[key] for key in indexes}


# What cannot be saved.


@pytest.mark.parametrize("value", [1, True, None, b"x", ["x"], 0.5])
@pytest.mark.parametrize("kind", ["api_key", "claude"])
def test_what_is_no_text_is_refused_by_name(
    store: Face, client: redis.Redis, kind: str, value: Any
) -> None:
    """The field is named and nothing is stored."""
    fields = {**api_key(), "tokenLimit": value}
    with pytest.raises(InvalidTypeError, match="'tokenLimit'"):
        if kind == "api_key":
            store.save_api_key(fields)
        else:
            store.save_account(kind, fields)
    assert client.dbsize() == 0
    assert store.query("SELECT count(*) FROM redis_keys") == [(0,)]


@pytest.mark.parametrize("id", ["a:b", "hash_map", ""])
def test_id_that_no_api_key_can_have_is_refused(store: Face, id: str) -> None:
    """It would be another key of Redis."""
    with pytest.raises((InvalidInputError, InvalidTypeError)):
        store.save_api_key(api_key(id))
    with pytest.raises((InvalidInputError, InvalidTypeError)):
        store.get_api_key(id)


@pytest.mark.parametrize("id", ["a:b", "index", ""])
@pytest.mark.parametrize("name", ["claude", "bedrock"])
def test_id_that_no_account_can_have_is_refused(store: Face, name: str, id: str) -> None:
    """It would be another key of Redis."""
    with pytest.raises((InvalidInputError, InvalidTypeError)):
        store.save_account(name, account(name, id))


def test_record_without_an_id_is_refused(store: Face) -> None:
    """The error says which field is lacking."""
    with pytest.raises(InvalidInputError, match="'id'"):
        store.save_api_key({"name": "x"})
    with pytest.raises(InvalidInputError, match="'id'"):
        store.save_account("bedrock", {"name": "x"})


def test_unknown_account_type_is_refused_with_those_there_are(store: Face) -> None:
    """By every method that takes one."""
    for call in (
        lambda: store.save_account("palm", {"id": "1"}),
        lambda: store.get_account("palm", "1"),
        lambda: store.list_accounts("palm"),
        lambda: store.delete_account("palm", "1"),
    ):
        with pytest.raises(InvalidInputError, match=r"palm.*azure-openai"):
            call()


@pytest.mark.parametrize("written", ["no JSON", "[]", '"text"', "1"])
def test_bedrock_account_is_a_json_object(store: Face, written: str) -> None:
    """Any other text is refused, and not repeated."""
    with pytest.raises(InvalidInputError, match="JSON object"):
        store.save_account("bedrock", written)


# Accounts.


@pytest.mark.parametrize("name", ACCOUNT_TYPES)
def test_account_is_read_as_it_was_saved(store: Face, client: redis.Redis, name: str) -> None:
    """Of every type: saved, read, listed, lost by Redis, deleted."""
    kind, fields = ACCOUNT_TYPES[name], account(name, strange="", accountType="shared")
    key = kind.prefix + b"acc-1"
    store.save_account(name, fields)
    assert store.get_account(name, "acc-1") == fields
    assert client.ttl(key) == -1
    assert members(client, kind.index.decode()) == {"acc-1"}
    if kind.shared:
        assert members(client, kind.shared.decode()) == {"acc-1"}
    assert store.list_accounts(name) == [fields]
    assert store.query("SELECT id, account_type FROM accounts") == [("acc-1", name)]
    client.delete(key)
    assert store.get_account(name, "acc-1") == fields
    assert store.delete_account(name, "acc-1") is True
    assert client.dbsize() == 0
    assert store.get_account(name, "acc-1") is None
    assert store.query("SELECT count(*) FROM accounts") == [(0,)]


def test_account_that_is_dedicated_leaves_the_shared(store: Face, client: redis.Redis) -> None:
    """It stays in the index of its type."""
    store.save_account("ccr", account("ccr", accountType="shared"))
    store.save_account("ccr", account("ccr", accountType="dedicated"))
    assert not client.exists("shared_ccr_accounts")
    assert members(client, "ccr_account:index") == {"acc-1"}


def test_bedrock_json_is_kept_byte_for_byte(store: Face, client: redis.Redis) -> None:
    """Spaces, order, escapes and numbers of the text that is given."""
    written = '{ "id":"acc-1",  "name":"\\u00e9", "n": 1.50, "a": null, "isActive": true }'
    store.save_account("bedrock", written)
    assert client.get("bedrock_account:acc-1") == written.encode()
    assert store.get_account("bedrock", "acc-1") == json.loads(written)
    client.flushall()
    store.restore()
    assert client.get("bedrock_account:acc-1") == written.encode()


def test_accounts_are_listed_by_id_in_pages(store: Face) -> None:
    """Those of their type alone."""
    for name in ("gemini", "gemini-api"):
        for n in (2, 0, 1):
            store.save_account(name, account(name, f"acc-{n}"))
    page = store.list_accounts("gemini", limit=2)
    assert [each["id"] for each in page] == ["acc-0", "acc-1"]
    assert [each["id"] for each in store.list_accounts("gemini", after="acc-1")] == ["acc-2"]


def test_saving_leaves_usage_alone(imported: Face) -> None:
    """Records, unplaced ones, totals and sums are what they were."""
    tables = ("usage_records", "usage_unplaced", "usage_stats", "usage_extra")

    def usage() -> list[Any]:
        found = [imported.query(f"SELECT * FROM {table} ORDER BY 1, 2") for table in tables]
        for table in ("api_keys", "accounts"):
            query = f"SELECT id, total_requests, total_tokens, total_cost FROM {table} ORDER BY 1"
            found.append(imported.query(query))
        return found

    before = usage()
    assert before[0]
    for id in sample_ids():
        imported.save_api_key({**SAMPLE[f"apikey:{id}"]["value"], "name": "changed"})
    for name in HASH_TYPES:
        imported.save_account(name, {**sample_account(name)[1], "name": "changed"})
    assert usage() == before


def test_saved_records_fill_their_columns(store: Face) -> None:
    """As imported ones do, at once."""
    store.save_api_key(api_key(tokenLimit="9", isActive="false", restrictedModels='["m"]'))
    store.save_account("claude", account("claude", email="enciphered", proxy="{}"))
    assert store.query(
        "SELECT api_key_hash, token_limit, is_active, blacklist_models, created_at, expires_at"
        " FROM api_keys"
    ) == [("hash-of-key-1", 9, 0, '["m"]', "2026-11-21T20:06:08.129Z", None)]
    ((email, proxy, secrets),) = store.query(
        "SELECT email, proxy_config, encrypted_credentials FROM accounts"
    )
    assert (email, proxy) == ("enciphered", "{}")
    assert json.loads(secrets)["accessToken"] == sample_account("claude")[1]["accessToken"]


def test_two_types_may_share_an_id(store: Face) -> None:
    """Each account is what it was, though the guide's table has room for one."""
    store.save_account("claude", account("claude"))
    store.save_account("ccr", account("ccr"))
    assert store.get_account("claude", "acc-1") == account("claude")
    assert store.get_account("ccr", "acc-1") == account("ccr")
    assert store.delete_account("ccr", "acc-1")
    assert store.query("SELECT account_type FROM accounts") == [("claude",)]


# The store as a whole.


def test_figures_have_the_guides_names(imported: Face, loaded: Server) -> None:
    """And count what is there."""
    found = imported.stats()
    assert (found["apiKeysCount"], found["accountsCount"]) == (6, len(ACCOUNT_TYPES))
    (records,) = imported.query("SELECT count(*) FROM usage_records")
    assert found["usageRecordsCount"] == records[0] > 0
    assert found["dbSize"] > 0
    assert found["dbPath"] == str(imported.path)
    assert (found["redisUp"], found["redisKeys"]) == (True, loaded.client().dbsize())
    assert found["outboxPending"] == 0


def test_upkeep_drops_what_expired(store: Face) -> None:
    """Records some minutes later; and leaves the rest readable."""
    store.save_api_key(api_key("gone"), ttl=timedelta(hours=-1))
    store.save_api_key(api_key("kept"))
    store.optimize()
    kept = "SELECT count(*) FROM redis_keys WHERE key = ?"
    assert store.query(kept, b"apikey:gone") == [(0,)]
    assert store.get_api_key("kept") == api_key("kept")


def test_closed_store_says_so(store: Face) -> None:
    """A second close does nothing; any other call is refused."""
    store.close()
    store.close()
    with pytest.raises(DatabaseClosedError):
        store.save_api_key(api_key())
    with pytest.raises(DatabaseClosedError):
        store.list_api_keys()


@pytest.mark.parametrize(
    "call",
    [
        lambda store: store.save_api_key(api_key(), ttl=60),
        lambda store: store.usage(since="2026-11-21"),
        lambda store: store.usage_totals(until="2026-11-21"),
        lambda store: store.audit(since=0),
        lambda store: store.undelete_all(since="yesterday"),
        lambda store: store.list_api_keys(limit=0),
        lambda store: store.list_accounts("claude", limit=-1),
        lambda store: store.usage(limit=0),
        lambda store: store.audit(limit=0),
        lambda store: store.trash(limit=0),
        lambda store: store.diff(limit=0),
    ],
)
def test_times_and_limits_are_checked(store: Face, call: Callable[[Face], object]) -> None:
    """One of another type, or that allows nothing, is named in the error."""
    with pytest.raises((InvalidInputError, InvalidTypeError), match=r"60|datetime|limit"):
        call(store)
    assert store.list_api_keys() == []
