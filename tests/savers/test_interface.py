"""Names, signatures and defaults: changing the import is the whole migration of the code."""

from __future__ import annotations

import asyncio
import inspect
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import aiosqlite
import pytest
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.checkpoint.sqlite import SqliteSaver as OfficialSaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver as OfficialAsyncSaver

import langgraph_sqlite_saver
from langgraph_sqlite_saver import AsyncSqliteSaver, SqliteSaver

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
    """On both classes; only what costs nothing has none, and `close`, which loops call `aclose`."""
    ours = {name for name in methods(SqliteSaver) if not name.startswith("a")} - NOT_TWINNED
    assert ours - set(BLOCKING) <= {"close"}
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
    internal = {"cursor"}
    for name, function in methods(theirs).items():
        if name in internal:
            continue
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


def test_a_saver_of_a_path_has_no_single_connection(database_path: Path) -> None:
    """The error says what to use; `hasattr` says no."""
    with SqliteSaver(database_path) as saver:
        assert not hasattr(saver, "conn")
        with pytest.raises(AttributeError, match="database"):
            _ = saver.conn


def test_setup_is_allowed_and_not_needed(database_path: Path) -> None:
    """Any number of times."""
    with SqliteSaver(database_path) as saver:
        saver.setup()
        saver.setup()
        assert count(database_path, "checkpoint_migrations") == 1
