"""The audit log: who changed which record when, and in what; never a credential."""

# ruff: noqa: F401, F811 - fixtures are imported

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from langgraph_sqlite_saver.relay import ACCOUNT_TYPES

from .servers import Server
from .stores import Face, api_key, face, imported, open_store, path, sample_account


@pytest.fixture
def store(open_store: Callable[..., Face], face: str) -> Face:
    """A store without Redis, by each face."""
    return open_store(None, face)


def told(store: Face, **wanted: Any) -> list[tuple[Any, ...]]:
    """Entries without their ids and times."""
    return [
        (e.actor, e.action, e.kind, e.record_id, e.before, e.after) for e in store.audit(**wanted)
    ]


def test_changes_are_told_newest_first(store: Face) -> None:
    """By whom, what, and the fields that differ alone."""
    store.save_api_key({"id": "k", "name": "a", "tokenLimit": "1"}, actor="ann")
    store.save_api_key({"id": "k", "name": "b", "tags": "[]", "tokenLimit": "1"}, actor="bob")
    store.delete_api_key("k", actor="eve")
    assert told(store) == [
        ("eve", "delete", "api_key", "k",
         {"id": "k", "name": "b", "tags": "[]", "tokenLimit": "1"}, None),
        ("bob", "update", "api_key", "k", {"name": "a"}, {"name": "b", "tags": "[]"}),
        ("ann", "create", "api_key", "k", None, {"id": "k", "name": "a", "tokenLimit": "1"}),
    ]  # fmt: skip
    times = [entry.at for entry in store.audit()]
    assert times == sorted(times, reverse=True)


def test_accounts_are_told_by_their_type(store: Face) -> None:
    """Of JSON accounts too."""
    store.save_account("bedrock", {"id": "b", "name": "x", "isActive": True}, actor="ann")
    store.save_account("bedrock", {"id": "b", "name": "x", "isActive": False}, actor="ann")
    assert told(store, kind="bedrock") == [
        ("ann", "update", "bedrock", "b", {"isActive": True}, {"isActive": False}),
        ("ann", "create", "bedrock", "b", None, {"id": "b", "name": "x", "isActive": True}),
    ]


def test_what_every_request_changes_is_not_told(store: Face) -> None:
    """A save of lastUsedAt alone, or of nothing, leaves no entry."""
    store.save_api_key(api_key())
    store.save_api_key(api_key(lastUsedAt="2026-11-21T20:06:08.129Z"))
    store.save_api_key(api_key(lastUsedAt="2026-11-21T20:06:08.129Z"))
    assert [entry.action for entry in store.audit()] == ["create"]
    store.save_api_key(api_key(lastUsedAt="2026-11-22T00:00:00.000Z", name="b"))
    assert store.audit()[0].after == {"name": "b"}


def test_deletion_of_what_is_not_there_is_not_told(store: Face) -> None:
    """Nothing happened."""
    store.delete_api_key("nobody", actor="eve")
    assert store.audit() == []


def test_refused_change_is_not_told(store: Face) -> None:
    """An entry is written with the change or not at all."""
    with pytest.raises(Exception, match="'name'"):
        store.save_api_key({"id": "k", "name": 1})
    assert store.audit() == []


@pytest.mark.parametrize("name", ACCOUNT_TYPES)
def test_credentials_are_hidden(store: Face, name: str) -> None:
    """That one changed is told, and neither its old nor its new text."""
    value = sample_account(name)[1]
    fields = json.loads(value) if ACCOUNT_TYPES[name].is_json else dict(value)
    store.save_account(name, fields)
    secrets = [field for field in ACCOUNT_TYPES[name].credentials if field in fields]
    assert secrets
    store.save_account(name, {**fields, **dict.fromkeys(secrets, "rotated"), "new": "unknown"})
    (entry, created) = store.audit()
    hidden = dict.fromkeys(secrets, "(hidden)")
    assert entry.before == hidden
    assert entry.after == {**hidden, "new": "(hidden)"}
    assert {field: created.after[field] for field in secrets} == hidden
    assert created.after.get("proxy", "(hidden)") == "(hidden)"


def test_hash_of_an_api_key_is_hidden(store: Face) -> None:
    """It is what lets requests in."""
    store.save_api_key(api_key(apiKey="one"))
    store.save_api_key(api_key(apiKey="two"))
    assert store.audit()[0].before == store.audit()[0].after == {"apiKey": "(hidden)"}


def test_entries_are_filtered(store: Face) -> None:
    """By kind, record, time and number."""
    store.save_api_key({"id": "a"})
    store.save_api_key({"id": "b"})
    store.save_account("ccr", {"id": "a", "name": ""})
    assert [entry.kind for entry in store.audit(record_id="a")] == ["ccr", "api_key"]
    assert [entry.record_id for entry in store.audit(kind="api_key")] == ["b", "a"]
    assert [entry.kind for entry in store.audit(limit=1)] == ["ccr"]
    now = datetime.now(timezone.utc)
    assert len(store.audit(since=now - timedelta(hours=1), until=now + timedelta(hours=1))) == 3
    assert store.audit(since=now + timedelta(hours=1)) == []
    assert store.audit(until=now - timedelta(hours=1)) == []


def test_import_and_restore_are_not_told(imported: Face, loaded: Server) -> None:
    """They copy what others did."""
    loaded.client().flushall()
    imported.restore()
    assert imported.audit() == []
