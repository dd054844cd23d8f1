"""Credentials are in the file and in Redis, and nowhere else: no error, log, repr or audit row."""

# ruff: noqa: F401, F811 - fixtures are imported

from __future__ import annotations

import json
import logging
import os
import sqlite3
import stat
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from langgraph_sqlite_saver.database import InvalidInputError, StorageError
from langgraph_sqlite_saver.relay import ACCOUNT_TYPES, RedisUnavailableError, RelayStore

from .servers import Server, until
from .stores import Face, api_key, face, open_store, path

SECRET = "s3cret" + "-" + "credential"
PASSWORD = "p@ss" + "/" + "word-of-redis"

Chain = list[BaseException]


def chain(error: BaseException | None) -> Chain:
    """An error, and all that it was raised from or in place of."""
    found: Chain = []
    waiting = [error]
    while waiting:
        each = waiting.pop()
        if each is not None and each not in found:
            found.append(each)
            waiting += [each.__cause__, each.__context__]
    return found


def shown(error: BaseException) -> str:
    """Everything that a log or a debugger prints of an error's chain."""
    return " ".join(f"{each} {each!r} {each.args}" for each in chain(error))


@pytest.fixture(autouse=True)
def logged(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Whatever a test does, no logger told a secret at any level."""
    caplog.set_level(logging.DEBUG)
    yield
    told = [f"{record.getMessage()} {record.args}" for record in caplog.get_records("call")]
    assert not [line for line in told if SECRET in line or PASSWORD in line]


@contextmanager
def harmless(*kinds: type[BaseException]) -> Iterator[None]:
    """The block fails with an error of ours that shows no secret, nor what it came from."""
    with pytest.raises(kinds or StorageError) as raised:
        yield
    text = shown(raised.value)
    assert SECRET not in text and PASSWORD not in text


def secret_account(kind: str, **changes: Any) -> dict[str, Any]:
    """An account all of whose credentials hold the secret, and its proxy, and a new field."""
    fields: dict[str, Any] = {"id": "acc-1", "name": "Account", "proxy": f'{{"pass": "{SECRET}"}}'}
    for field in ACCOUNT_TYPES[kind].credentials:
        fields[field] = f"{SECRET} of {field}"
    if ACCOUNT_TYPES[kind].is_json:
        fields["awsCredentials"] = {"encrypted": SECRET, "iv": SECRET}
    return {**fields, "unheardOf": SECRET, **changes}


def secret_key(id: str = "key-1", **changes: Any) -> dict[str, Any]:
    return api_key(id, apiKey=SECRET, unheardOf=SECRET, icon=SECRET, **changes)


def save_all(store: Face, **options: Any) -> None:
    """Records of every kind, with secrets, twice, so that there is a before and an after."""
    for name in ("a", "b"):
        store.save_api_key(secret_key(name=name), **options)
        for kind in ACCOUNT_TYPES:
            store.save_account(kind, secret_account(kind, name=name), **options)


# What is told of records.


def test_audit_log_has_no_credential(open_store: Callable[..., Face], face: str) -> None:
    """Of whatever kind, also in fields that nobody heard of."""
    store = open_store(None, face)
    save_all(store)
    for name in ACCOUNT_TYPES:
        store.save_account(name, {**secret_account(name), "unheardOf": SECRET + "2"})
        store.delete_account(name, "acc-1")
    store.delete_api_key("key-1")
    rows = store.query("SELECT * FROM audit_log")
    assert len(rows) > 3 * len(ACCOUNT_TYPES)
    assert SECRET not in repr(rows)
    assert SECRET not in repr(store.audit(limit=1000))


def test_differences_show_no_credential(
    open_store: Callable[..., Face], redis_server: Server, face: str
) -> None:
    """Where they differ they name fields."""
    store = open_store(redis_server, face, heal=False)
    save_all(store)
    client = redis_server.client()
    for kind in ACCOUNT_TYPES.values():
        key = kind.prefix + b"acc-1"
        if kind.is_json:
            client.set(key, json.dumps({"bearerToken": SECRET * 2}))
        else:
            client.hset(key, kind.credentials[0], SECRET * 2)
    client.hset("apikey:key-1", "apiKey", SECRET * 2)
    found = store.diff()
    assert len(found) == len(ACCOUNT_TYPES) + 1
    assert SECRET not in " ".join(f"{each} {each!r}" for each in found)


def test_stores_show_no_password(open_store: Callable[..., Face], start_server: Any) -> None:
    """Neither they nor what they are made of."""
    server = start_server(requirepass=PASSWORD)
    for name in ("sync", "async"):
        store = open_store(server, name, strict=True)
        save_all(store)
        inner = store.store
        for part in (store.face, inner, inner.target, inner.redis, inner.database):
            assert PASSWORD not in repr(part) + str(part)
        assert PASSWORD not in repr(store.stats())


# Errors.

BAD: dict[str, Callable[[Face], Any]] = {
    "credential that is bytes": lambda s: s.save_account(
        "claude", secret_account("claude", accessToken=SECRET.encode())
    ),
    "credential that is a list": lambda s: s.save_account(
        "droid", secret_account("droid", apiKeys=[SECRET])
    ),
    "another field that is no text": lambda s: s.save_api_key(secret_key(tokenLimit=1)),
    "lone surrogate in a credential": lambda s: s.save_account(
        "claude", secret_account("claude", accessToken=SECRET + "\ud800")
    ),
    "lone surrogate in a hash": lambda s: s.save_api_key(
        secret_key() | {"apiKey": SECRET + "\ud800"}
    ),
    "lone surrogate in JSON": lambda s: s.save_account(
        "bedrock", secret_account("bedrock", bearerToken=SECRET + "\ud800")
    ),
    "broken JSON": lambda s: s.save_account("bedrock", '{"id": "a", "bearerToken": "' + SECRET),
    "JSON that is a list": lambda s: s.save_account("bedrock", json.dumps([SECRET])),
    "what JSON cannot hold": lambda s: s.save_account(
        "bedrock", secret_account("bedrock", bearerToken=SECRET.encode())
    ),
    "record that is text": lambda s: s.save_account("claude", SECRET),
    "key that is text": lambda s: s.save_api_key(SECRET),
    "fields without an id": lambda s: s.save_api_key({"apiKey": SECRET}),
    "id of another type": lambda s: s.save_api_key(secret_key() | {"id": 7}),
    "search for a lone surrogate": lambda s: s.find_api_key(SECRET + "\ud800"),
}


@pytest.mark.parametrize("what", BAD)
def test_refused_record_is_not_repeated(
    open_store: Callable[..., Face], face: str, what: str
) -> None:
    """What was given wrongly is told by the names of its fields."""
    store = open_store(None, face)
    with harmless():
        BAD[what](store)


REFUSALS: dict[str, Callable[[Server], object]] = {
    "full": lambda server: server.config("maxmemory", "1"),
    "replica": lambda server: server.client().replicaof("127.0.0.1", "1"),
    "hanging": lambda server: server.pause(),
    "gone": lambda server: server.stop(),
    "wrong type": lambda server: [
        server.client().set(key, "x") for key in ("apikey:idx:all", "shared_ccr_accounts")
    ],
    "other password": lambda server: (
        server.config("requirepass", "other"),
        server.client(password="other").client_kill_filter(skipme=True),
    ),
}  # fmt: skip


@pytest.mark.parametrize("refusal", REFUSALS)
def test_refusing_redis_tells_no_credential(
    open_store: Callable[..., Face], start_server: Any, face: str, refusal: str
) -> None:
    """Strict calls fail by an error that repeats nothing of what was sent, nor the password."""
    server = start_server(requirepass=PASSWORD)
    store = open_store(server, face, socket_timeout=0.1, heal=False)
    REFUSALS[refusal](server)
    calls: list[Callable[[], Any]] = [
        lambda: store.save_api_key(secret_key(tags=f'["{SECRET}"]'), strict=True),
        lambda: store.save_account("ccr", secret_account("ccr", accountType="shared"), strict=True),
    ]
    if refusal in ("hanging", "gone", "other password"):
        calls += [store.import_from_redis, store.restore, store.diff, store.reconcile]
    for call in calls:
        with harmless(RedisUnavailableError):
            call()
    assert store.find_api_key(SECRET) is not None
    alone = open_store(server, face, path=None, socket_timeout=0.1)
    with harmless(RedisUnavailableError):
        alone.save_api_key(secret_key("key-2", tags=f'["{SECRET}"]'))


def test_refusing_file_tells_no_credential(
    open_store: Callable[..., Face], path: Path, face: str
) -> None:
    """Full, locked or no database at all."""
    store = open_store(None, face, lock_timeout=0.05)
    save_all(store)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with harmless():
            store.save_account("claude", secret_account("claude", name="c"))
    ((pages,),) = store.query("PRAGMA page_count")
    store.shut()
    full = open_store(None, face, pragmas={"max_page_count": pages + 1})
    with harmless():
        full.save_api_key(secret_key(description=SECRET * 20_000))
    full.shut()
    with harmless():
        full.save_api_key(secret_key()) if face == "sync" else full.store.save_api_key(secret_key())
    path.write_bytes(SECRET.encode() * 1000)
    with harmless():
        RelayStore(path, None).open()


@pytest.mark.parametrize(
    "url",
    [
        f"http://:{SECRET}@host:6379/0",
        f"redis://:{SECRET}@host:port/0",
        f"redis://:{SECRET}@[host:1/0",
        f"{SECRET}@host",
    ],
)
def test_url_that_is_none_is_not_repeated(path: Path, url: str, face: str) -> None:
    """It may hold the password."""
    with harmless(InvalidInputError):
        Face(face, path, url) if face == "sync" else RelayStore.from_env({"REDIS_URL": url})


# Files.


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_files_are_private(open_store: Callable[..., Face], path: Path, tmp_path: Path) -> None:
    """The database, its -wal and -shm and its backups are their owner's, whatever the umask."""
    before = os.umask(0)
    try:
        store = open_store(None)
        save_all(store)
        made = store.backup(tmp_path / "backups")
    finally:
        os.umask(before)
    files = [path, Path(f"{path}-wal"), Path(f"{path}-shm"), made]
    assert [mode(each) for each in files] == [0o600] * 4
