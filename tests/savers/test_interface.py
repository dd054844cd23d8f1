"""Names, signatures and defaults: changing the import is the whole migration of the code."""

from __future__ import annotations

import asyncio
import inspect
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import aiosqlite
import pytest
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.checkpoint.sqlite import SqliteSaver as OfficialSaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver as OfficialAsyncSaver

import langgraph_sqlite_saver
from langgraph_sqlite_saver import AsyncSqliteSaver, DatabaseClosedError, SqliteSaver

from .helpers import chain, checkpoint, count, get, place, save

KINDS = [SqliteSaver, AsyncSqliteSaver]


def methods(kind: Any) -> dict[str, Any]:
    """A class's public methods."""
    return {
        name: function
        for name, function in inspect.getmembers(kind, inspect.isfunction)
        if not name.startswith("_")
    }


def parameters(function: Any) -> list[tuple[str, Any, Any]]:
    """Names, kinds and defaults, without self."""
    found = list(inspect.signature(function).parameters.values())[1:]
    return [(each.name, each.kind, each.default) for each in found]


NOT_TWINNED = {"setup", "get_next_version", "with_allowlist"}
BLOCKING = sorted(
    name
    for name in methods(SqliteSaver)
    if name not in NOT_TWINNED and f"a{name}" in methods(SqliteSaver)
)


def test_every_method_has_an_async_twin() -> None:
    """On both classes; only what costs nothing has none, `close`, which loops call `aclose`, and
    `cursor`, which is for statements on a blocking connection.
    """
    ours = {name for name in methods(SqliteSaver) if not name.startswith("a")} - NOT_TWINNED
    assert ours - set(BLOCKING) <= {"close", "cursor"}
    assert {"threads", "stats", "optimize", "backup", "expire", "prune"} <= set(BLOCKING)


@pytest.mark.parametrize("name", BLOCKING)
def test_twins_take_the_same(name: str) -> None:
    """The blocking and the async one, on both classes; each async one is awaitable."""
    one = parameters(methods(SqliteSaver)[name])
    for kind in KINDS:
        blocking, awaited = methods(kind)[name], methods(kind)[f"a{name}"]
        assert parameters(blocking) == parameters(awaited) == one
        assert blocking.__doc__
        assert awaited.__doc__
        is_async = inspect.iscoroutinefunction(awaited) or inspect.isasyncgenfunction(awaited)
        assert is_async or name == "list"


@pytest.mark.parametrize(
    ("ours", "theirs"), [(SqliteSaver, OfficialSaver), (AsyncSqliteSaver, OfficialAsyncSaver)]
)
def test_what_the_official_savers_take_ours_take(ours: Any, theirs: Any) -> None:
    """Their parameters, in order and with their defaults, come first."""
    for name, function in methods(theirs).items():
        expected = parameters(function)
        assert parameters(methods(ours)[name])[: len(expected)] == expected, name
    assert parameters(ours.__init__)[0][:2] == parameters(theirs.__init__)[0][:2]
    for name, kind, default in parameters(theirs.__init__)[1:]:
        assert (name, kind, default) in parameters(ours.__init__)
    given = list(inspect.signature(theirs.from_conn_string).parameters)
    assert list(inspect.signature(ours.from_conn_string).parameters)[: len(given)] == given


def test_the_whole_base_class_is_implemented() -> None:
    """Nothing is left to raise NotImplementedError; LangGraph looks at the class for that."""
    inherited = {"get", "aget", "config_specs", "with_allowlist"}
    for kind in KINDS:
        for name in methods(BaseCheckpointSaver):
            assert name in inherited or getattr(kind, name) is not getattr(
                BaseCheckpointSaver, name
            ), name


def test_all_public_names_are_there() -> None:
    """What `__all__` names, sorted."""
    assert sorted(langgraph_sqlite_saver.__all__) == langgraph_sqlite_saver.__all__
    for name in langgraph_sqlite_saver.__all__:
        assert getattr(langgraph_sqlite_saver, name).__doc__
    with pytest.raises(AttributeError, match="no attribute 'SqliteSavers'"):
        langgraph_sqlite_saver.SqliteSavers  # noqa: B018


LAZY = """
import sys
import langgraph_sqlite_saver

assert set(langgraph_sqlite_saver.__all__) <= set(dir(langgraph_sqlite_saver))
assert not any(name.startswith(("langchain", "langgraph.")) for name in sys.modules)
from langgraph_sqlite_saver import StorageError

assert not any(name.startswith(("langchain", "langgraph.")) for name in sys.modules)
from langgraph_sqlite_saver import *

assert langgraph_sqlite_saver.saver.SqliteSaver is SqliteSaver
assert all(name in globals() for name in langgraph_sqlite_saver.__all__)
"""


def test_a_name_is_imported_when_it_is_first_asked_for() -> None:
    """The package alone, and its errors, take nothing of LangChain's or LangGraph's."""
    subprocess.run([sys.executable, "-W", "error", "-c", LAZY], check=True, timeout=60)


# --- what it shows of itself


@pytest.mark.parametrize("kind", KINDS)
def test_a_repr_names_the_file(kind: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its absolute path, however it was given; and whether the saver is closed."""
    monkeypatch.chdir(tmp_path)
    path, name = tmp_path / "agent.db", kind.__name__
    for target in ("agent.db", path, f"file:{path}?mode=rwc"):
        saver = kind(target)
        assert repr(saver) == f"<{name} {path}>"
        saver.close()
        assert repr(saver) == f"<{name} {path}, closed>"
    saver = kind(":memory:")
    assert repr(saver) == f"<{name} :memory:>"
    saver.close()
    assert repr(saver) == f"<{name} :memory:, closed>"


@pytest.mark.parametrize("kind", KINDS)
def test_a_repr_names_the_file_of_a_borrowed_connection(kind: Any, database_path: Path) -> None:
    """As soon as the saver has used it: nothing is asked of somebody else's connection for it."""
    with closing(sqlite3.connect(database_path, check_same_thread=False)) as conn:
        saver, shown = kind(conn), f"<{kind.__name__} on sqlite3.Connection"
        assert repr(saver) == f"{shown}>"
        get(saver)
        assert repr(saver) == f"{shown} to {database_path}>"
        saver.close()
    assert repr(saver) == f"{shown} to {database_path}, closed>"


def test_a_repr_names_the_file_of_an_aiosqlite_connection(database_path: Path) -> None:
    """The same."""

    async def scenario() -> list[str]:
        async with aiosqlite.connect(database_path) as conn:
            saver = AsyncSqliteSaver(conn)
            shown = [repr(saver)]
            await saver.setup()
            shown.append(repr(saver))
            await saver.aclose()
        return [*shown, repr(saver)]

    on = "<AsyncSqliteSaver on aiosqlite.core.Connection"
    assert asyncio.run(scenario()) == [
        f"{on}>", f"{on} to {database_path}>", f"{on} to {database_path}, closed>"
    ]  # fmt: skip


# --- ways to make one


@pytest.mark.parametrize("target", ["path", ":memory:", "file:{path}", "file:{path}?mode=rwc"])
def test_from_conn_string(database_path: Path, target: str) -> None:
    """A context manager, from a path, a URI or ":memory:"."""
    target = str(database_path) if target == "path" else target.format(path=database_path)
    with SqliteSaver.from_conn_string(target) as saver:
        chain(saver, 2)
        assert get(saver).config == place(2)

    async def scenario() -> Any:
        async with AsyncSqliteSaver.from_conn_string(target) as saver:
            await saver.setup()
            await saver.aput(place(), checkpoint(3), {}, {})
            return await saver.aget_tuple(place())

    assert asyncio.run(scenario()).config == place(3)


def test_a_connection_as_the_official_saver_takes_it(database_path: Path) -> None:
    """It stays open, keeps its row_factory, and can be used beside."""
    with closing(sqlite3.connect(database_path, check_same_thread=False)) as conn:
        conn.row_factory = sqlite3.Row
        saver = SqliteSaver(conn)
        saver.setup()
        chain(saver, 2)
        assert saver.conn is conn
        assert get(saver).config == place(2)
        saver.close()
        assert conn.execute("SELECT count(*) AS n FROM checkpoints").fetchone()["n"] == 2


def test_an_aiosqlite_connection_as_the_official_saver_takes_it(database_path: Path) -> None:
    """Opened or not; it stays open."""

    async def scenario() -> None:
        async with aiosqlite.connect(database_path) as conn:
            saver = AsyncSqliteSaver(conn)
            assert saver.conn is conn
            await saver.aput(place(), checkpoint(1, {"a": [1]}), {}, {"a": 1})
            await saver.aclose()
            async with conn.execute("SELECT count(*) FROM checkpoints") as cursor:
                assert await cursor.fetchone() == (1,)
            assert await AsyncSqliteSaver(conn).aget_tuple(place()) is not None

    asyncio.run(scenario())


def test_with_and_async_with_close(database_path: Path) -> None:
    """And the plain constructor opens nothing before the first call."""
    saver = SqliteSaver(database_path)
    assert not database_path.exists()
    with saver:
        save(saver, 1)

    async def scenario() -> None:
        async with AsyncSqliteSaver(database_path) as saver:
            assert await saver.aget_tuple(place()) is not None
        with pytest.raises(Exception, match="closed"):
            await saver.aget_tuple(place())

    asyncio.run(scenario())
    with pytest.raises(Exception, match="closed"):
        get(saver)
    assert count(database_path, "checkpoints") == 1


# --- what programs reach for beside the methods


@pytest.mark.parametrize("target", ["path", ":memory:"])
def test_conn_is_for_statements_of_your_own(database_path: Path, target: str) -> None:
    """On a blocking saver: the tables are there, what is saved is seen, tables may be made."""
    with SqliteSaver(database_path if target == "path" else target) as saver:
        save(saver, 1)
        assert saver.conn.execute("SELECT DISTINCT thread_id FROM checkpoints").fetchall() == [
            ("t",)
        ]
        saver.conn.execute("CREATE TABLE mine (x)")
        saver.conn.execute("INSERT INTO mine VALUES (1)")
        saver.conn.commit()
        with saver.lock, saver.cursor() as cursor:
            cursor.execute("INSERT INTO mine VALUES (2)")
        save(saver, 2)
        assert not saver.conn.in_transaction
        assert saver.conn.execute("SELECT x FROM mine").fetchall() == [(1,), (2,)]
        assert saver.conn is saver.conn
    with pytest.raises(DatabaseClosedError):
        _ = saver.conn


@pytest.mark.parametrize("target", ["path", ":memory:"])
def test_conn_is_awaited_on_an_async_saver(database_path: Path, target: str) -> None:
    """As aiosqlite's connections are."""

    async def scenario() -> None:
        async with AsyncSqliteSaver(database_path if target == "path" else target) as saver:
            await saver.aput(place(), checkpoint(1), {}, {})
            assert isinstance(saver.conn, aiosqlite.Connection)
            await saver.conn.execute("PRAGMA journal_mode = WAL")
            async with saver.conn.execute("SELECT DISTINCT thread_id FROM checkpoints") as cursor:
                assert await cursor.fetchall() == [("t",)]
            async with saver.lock, saver.conn.cursor() as cursor:
                await cursor.execute("CREATE TABLE mine (x)")
                await cursor.execute("INSERT INTO mine VALUES (1)")
            await saver.conn.commit()
            await saver.aput(place(1), checkpoint(2), {}, {})
            conn = saver.conn
        with pytest.raises(DatabaseClosedError):
            await conn.execute("SELECT 1")

    asyncio.run(scenario())


def test_conn_keeps_no_process_alive_and_leaves_no_wal(database_path: Path) -> None:
    """Asked for, used, and forgotten with its saver."""
    code = f"""
import asyncio
from langgraph_sqlite_saver import AsyncSqliteSaver, DatabaseClosedError, SqliteSaver

async def main():
    saver = AsyncSqliteSaver({str(database_path)!r})
    await saver.setup()
    await saver.conn.execute("SELECT 1 FROM checkpoints")
    return saver

one = asyncio.run(main())
asyncio.run(one.conn.execute("SELECT 1 FROM checkpoints").__aenter__())
two = SqliteSaver({str(database_path)!r})
two.conn.execute("SELECT 1 FROM checkpoints")
"""
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, timeout=60)
    assert [each.name for each in database_path.parent.iterdir()] == ["agent.db"]


def test_is_setup_says_whether_setup_was_called(database_path: Path) -> None:
    """And may be set, as programs do on connections that can only read."""
    with SqliteSaver(database_path) as saver:
        assert saver.is_setup is False
        saver.setup()
        assert saver.is_setup is True
    with closing(sqlite3.connect(f"file:{database_path}?mode=ro", uri=True)) as conn:
        reader = SqliteSaver(conn)
        reader.is_setup = True
        assert get(reader) is None

    async def scenario() -> None:
        async with AsyncSqliteSaver(database_path) as saver:
            assert saver.is_setup is True

    asyncio.run(scenario())


def test_setup_is_allowed_and_not_needed(database_path: Path) -> None:
    """Any number of times."""
    with SqliteSaver(database_path) as saver:
        saver.setup()
        saver.setup()
        assert count(database_path, "checkpoint_migrations") == 1
