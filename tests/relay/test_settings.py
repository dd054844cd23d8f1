"""The relay's variables make the store, and what is wrong is told by its name."""

# ruff: noqa: F401, F811 - fixtures are imported

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from langgraph_sqlite_saver.database import InvalidInputError
from langgraph_sqlite_saver.relay import AsyncRelayStore, RelayStore, UsageRecord

from .servers import Server
from .stores import face

KIND = {"sync": RelayStore, "async": AsyncRelayStore}


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The test runs in a directory of its own, for relative paths."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def arguments(**environ: str) -> dict[str, Any]:
    return RelayStore.arguments_of(environ, {})


def test_without_variables_there_are_defaults() -> None:
    """The guide's file, Redis on this machine, the relay's zone."""
    assert arguments() == {
        "path": "./data/relay-service.db",
        "redis_url": "redis://localhost:6379/0",
        "timezone_offset": 8.0,
    }


@pytest.mark.parametrize(
    ("environ", "name", "value"),
    [
        ({"SQLITE_DB_PATH": "a.db"}, "path", "a.db"),
        ({"SQLITE_DB_PATH": ""}, "path", "./data/relay-service.db"),
        ({"ENABLE_SQLITE": "false"}, "path", None),
        ({"ENABLE_SQLITE": "FALSE ", "SQLITE_DB_PATH": "a.db"}, "path", None),
        ({"ENABLE_SQLITE": "0"}, "path", None),
        ({"ENABLE_SQLITE": "true", "SQLITE_DB_PATH": "a.db"}, "path", "a.db"),
        ({"ENABLE_SQLITE": ""}, "path", "./data/relay-service.db"),
        ({"REDIS_HOST": "h"}, "redis_url", "redis://h:6379/0"),
        ({"REDIS_PORT": "7000"}, "redis_url", "redis://localhost:7000/0"),
        ({"REDIS_DB": "3"}, "redis_url", "redis://localhost:6379/3"),
        ({"REDIS_PASSWORD": "p@/: %"}, "redis_url",
         "redis://:p%40%2F%3A%20%25@localhost:6379/0"),
        ({"REDIS_ENABLE_TLS": "true"}, "redis_url", "rediss://localhost:6379/0"),
        ({"REDIS_ENABLE_TLS": "false"}, "redis_url", "redis://localhost:6379/0"),
        ({"REDIS_URL": "redis://u", "REDIS_HOST": "h"}, "redis_url", "redis://u"),
        ({"TIMEZONE_OFFSET": "-3.5"}, "timezone_offset", -3.5),
        ({"TIMEZONE_OFFSET": "0"}, "timezone_offset", 0.0),
    ],
)  # fmt: skip
def test_variable_sets_an_argument(environ: dict[str, str], name: str, value: Any) -> None:
    """Each as the relay understands it; an empty one counts as missing."""
    assert arguments(**environ)[name] == value


@pytest.mark.parametrize(
    "name", ["ENABLE_SQLITE", "REDIS_PORT", "REDIS_DB", "REDIS_ENABLE_TLS", "TIMEZONE_OFFSET"]
)
@pytest.mark.parametrize("text", ["maybe", "1x", "-", "\u00b2"])
def test_wrong_value_is_told_by_the_variables_name(name: str, text: str, face: str) -> None:
    """Nothing is guessed."""
    with pytest.raises(InvalidInputError, match=name):
        KIND[face].from_env({name: text})


@pytest.mark.parametrize("text", ["25", "-24", "99", "nan", "inf", "1e300"])
def test_offset_is_that_of_a_zone(text: str) -> None:
    """Less than a day either way; told by the variable's name, with an example."""
    with pytest.raises(InvalidInputError, match=r"TIMEZONE_OFFSET .* as 8"):
        RelayStore.from_env({"TIMEZONE_OFFSET": text})


def test_store_from_variables_works(redis_server: Server, directory: Path) -> None:
    """With the file, the server, its database and the zone that they name."""
    environ = {
        "SQLITE_DB_PATH": "deep/down/relay.db",
        "REDIS_HOST": "127.0.0.1",
        "REDIS_PORT": str(redis_server.port),
        "REDIS_DB": "5",
        "TIMEZONE_OFFSET": "-1",
    }
    with RelayStore.from_env(environ) as store:
        store.save_api_key({"id": "k", "name": "n"})
        time = "2026-11-21T00:30:00.000Z"
        store.record_usage(UsageRecord("k", "m", timestamp=time), wait=True)
        assert [each.start for each in store.usage_totals(by="day")] == ["2026-11-20"]
    assert (directory / "deep/down/relay.db").exists()
    assert redis_server.client(db=5).exists("apikey:k")
    assert redis_server.client().dbsize() == 0


def test_password_of_variables_is_used(start_server: Any) -> None:
    """Whatever signs it holds."""
    server = start_server(requirepass="p@ss/w:rd %41")
    environ = {
        "REDIS_HOST": "127.0.0.1",
        "REDIS_PORT": str(server.port),
        "REDIS_PASSWORD": "p@ss/w:rd %41",
        "SQLITE_DB_PATH": "relay.db",
    }
    with RelayStore.from_env(environ, strict=True) as store:
        store.save_api_key({"id": "k", "name": "n"})
    assert server.client().exists("apikey:k")


def test_arguments_count_more_than_variables(face: str) -> None:
    """What the caller says explicitly holds."""
    environ = {"SQLITE_DB_PATH": "a.db", "REDIS_URL": "redis://nowhere"}
    made: Any = KIND[face].from_env(environ, path="b.db", redis_url=None)
    store = made if face == "sync" else made.store
    assert (store.path, store.target) == ("b.db", None)


def test_variables_of_the_process_are_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a mapping os.environ is read."""
    monkeypatch.setenv("SQLITE_DB_PATH", "from-the-process.db")
    monkeypatch.delenv("ENABLE_SQLITE", raising=False)
    assert RelayStore.from_env(redis_url=None).path == "from-the-process.db"


def test_store_needs_a_side(face: str) -> None:
    """Neither SQLite nor Redis is no store."""
    with pytest.raises(InvalidInputError, match="path"):
        KIND[face](None, None)


@pytest.mark.parametrize(
    "url",
    [
        "http://host", "redis://host:port", "nonsense", "redis://host/relay", "redis://host/-1",
        "rediss://host:1/0/1", "redis://u:hush/w@host",
    ],
)  # fmt: skip
def test_url_that_is_none_is_refused(url: str) -> None:
    """When the store is made, with what one looks like; a name is not taken for database 0."""
    with pytest.raises(InvalidInputError, match="redis://") as caught:
        RelayStore("a.db", url)
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize("url", ["redis://host", "redis://host/", "redis://host/12", "unix:///a/b"])
def test_other_urls_are_taken(url: str) -> None:
    """Without a database, with one, and a socket's path."""
    with closing(RelayStore("a.db", url, heal=False)) as store:
        assert store.target is not None and store.target.url == url
