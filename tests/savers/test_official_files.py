"""The official saver's files are refused and left alone, and it can't save into one of ours."""

from __future__ import annotations

import asyncio
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, TypedDict

import aiosqlite
import pytest
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver as OfficialAsyncSaver
from langgraph.graph import START, StateGraph

from langgraph_sqlite_saver import (
    AsyncSqliteSaver,
    OwnersTransactionWarning,
    SqliteSaver,
    UnknownSchemaError,
)
from langgraph_sqlite_saver.transfer import import_official

from .helpers import (
    LIST,
    chain,
    count,
    execute,
    names,
    numbers,
    official_saver,
    place,
    rows,
    save,
)

WRITE_AND_DIE = """
import asyncio, os, signal, sys
from langgraph.checkpoint.base import empty_checkpoint
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver

async def main():
    async with AsyncSqliteSaver.from_conn_string(sys.argv[1]) as saver:
        config = {"configurable": {"thread_id": "t", "checkpoint_ns": ""}}
        for _ in range(5):
            config = await saver.aput(config, empty_checkpoint(), {"step": 1}, {})
        await saver.aput_writes(config, [("c", 1)], "task")
        os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main())
"""


def closed_file(path: Path) -> None:
    """As `SqliteSaver` leaves it."""
    with official_saver(path) as saver:
        for number in range(1, 6):
            saver.put_writes(save(saver, number), [("c", number)], "task")


def killed_file(path: Path) -> None:
    """As `AsyncSqliteSaver` leaves it when its process is killed: all of it in the -wal."""
    killed = subprocess.run([sys.executable, "-c", WRITE_AND_DIE, str(path)], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert Path(f"{path}-wal").stat().st_size > 0


def old_file(path: Path) -> None:
    """From before `writes` had a task_path."""
    closed_file(path)
    with closing(sqlite3.connect(path)) as conn:
        conn.execute("ALTER TABLE writes DROP COLUMN task_path")


def read_only_file(path: Path) -> None:
    """In a file without write permission."""
    closed_file(path)
    path.chmod(0o400)


FILES = {each.__name__: each for each in (closed_file, killed_file, old_file, read_only_file)}


@pytest.fixture(params=FILES)
def official(request: Any, tmp_path: Path) -> Path:
    """A file of the official saver's, alone in its directory."""
    path = tmp_path / "official.db"
    FILES[request.param](path)
    return path


def contents(directory: Path) -> dict[str, Any]:
    """Every file beside it, to the byte; what a -shm holds is SQLite's own affair."""
    return {
        each.name: each.read_bytes()
        for each in directory.iterdir()
        if not each.name.endswith("-shm")
    }


CALLS: dict[str, Callable[[Any], Any]] = {
    "get_tuple": lambda saver: saver.get_tuple(place()),
    "put": lambda saver: save(saver, 1),
    "setup": lambda saver: saver.setup() if isinstance(saver, SqliteSaver) else run(saver.setup()),
    "optimize": lambda saver: saver.optimize(vacuum="full"),
    "stats": lambda saver: saver.stats(),
}


def run(awaitable: Any) -> Any:
    return asyncio.run(awaitable)


@pytest.mark.parametrize("kind", [SqliteSaver, AsyncSqliteSaver])
def test_an_official_file_is_refused_and_not_a_byte_changed(kind: Any, official: Path) -> None:
    """Nor of its -wal; nothing new lies beside it; the error says what to do."""
    before = contents(official.parent)
    saver = kind(official)
    for call in CALLS.values():
        with pytest.raises(UnknownSchemaError, match="new file"):
            call(saver)
    saver.close()
    assert contents(official.parent) == before
    official.chmod(0o600)
    with official_saver(official) as theirs:
        assert len(list(theirs.list(None))) == 5


@pytest.mark.parametrize("kind", [SqliteSaver, AsyncSqliteSaver])
def test_it_is_known_through_a_link(
    kind: Any, official: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Also where all of it is still in the -wal, which lies beside the file and not the link."""
    link = tmp_path_factory.mktemp("link") / "agent.db"
    link.symlink_to(official)
    before = contents(official.parent)
    with pytest.raises(UnknownSchemaError, match="new file"):
        kind(link).get_tuple(place())
    assert contents(official.parent) == before
    assert names(link.parent) == ["agent.db"]


@pytest.mark.parametrize("kind", [SqliteSaver, AsyncSqliteSaver])
def test_the_refusal_leaves_no_new_file(kind: Any, tmp_path: Path) -> None:
    """Not even a -shm, where there was none."""
    closed_file(tmp_path / "official.db")
    with pytest.raises(UnknownSchemaError):
        kind(tmp_path / "official.db").get_tuple(place())
    assert names(tmp_path) == ["official.db"]


def rollback_journal(path: Path) -> None:
    """The official saver's tables without WAL, so that setting it would show."""
    closed_file(path)
    with closing(sqlite3.connect(path)) as conn:
        conn.execute("PRAGMA journal_mode = DELETE")


def test_through_a_borrowed_connection_nothing_is_set_and_nothing_made(tmp_path: Path) -> None:
    """The owner's PRAGMAs and tables are as they were."""
    path = tmp_path / "official.db"
    rollback_journal(path)
    before = contents(tmp_path)
    with closing(sqlite3.connect(path, check_same_thread=False)) as conn:
        for call in CALLS.values():
            with pytest.raises(UnknownSchemaError, match="new file"):
                call(SqliteSaver(conn))
        assert conn.execute("PRAGMA journal_mode").fetchone() == ("delete",)
        assert not conn.in_transaction
    assert contents(tmp_path) == before


def test_through_a_borrowed_aiosqlite_connection_too(tmp_path: Path) -> None:
    """The same for the async saver."""
    path = tmp_path / "official.db"
    rollback_journal(path)
    before = contents(tmp_path)

    async def scenario() -> None:
        async with aiosqlite.connect(path) as conn:
            with pytest.raises(UnknownSchemaError, match="new file"):
                await AsyncSqliteSaver(conn).aget_tuple(place())
            async with conn.execute("PRAGMA journal_mode") as cursor:
                assert await cursor.fetchone() == ("delete",)

    asyncio.run(scenario())
    assert contents(tmp_path) == before


# --- the official saver on a file of ours


class State(TypedDict):
    x: int


def graph(saver: Any) -> Any:
    build = StateGraph(State)
    build.add_node("n", lambda state: {"x": state["x"] + 1})
    build.add_edge(START, "n")
    return build.compile(checkpointer=saver)


NEW = place(thread="new", ns=None)

SAVES: dict[str, Callable[[Any], Any]] = {
    "put": lambda saver: save(saver, 9, {"a": LIST}, thread="new"),
    "put over one of ours": lambda saver: save(saver, 2, {"a": LIST}),
    "update_state": lambda saver: graph(saver).update_state(NEW, {"x": 1}),
    **{
        f"invoke, durability={durability}": partial(
            lambda durability, saver: graph(saver).invoke({"x": 1}, NEW, durability=durability),
            durability,
        )
        for durability in ("sync", "async", "exit")
    },
}


def everything_of_ours(path: Path) -> Any:
    """Every row of our tables, and what a saver says of them."""
    tables = ("checkpoints", "checkpoint_blobs", "checkpoint_writes", "checkpoint_migrations")
    with SqliteSaver(path) as saver:
        told = (list(saver.list(None)), saver.threads(), saver.stats().as_dict(), saver.check())
        assert told[3] == []
        told[2].update(file_bytes=0, wal_bytes=0, free_bytes=0)
    return told, [rows(path, f"SELECT * FROM {each} ORDER BY 1, 2, 3, 4") for each in tables[:3]]


@pytest.fixture
def ours(database_path: Path) -> Path:
    """A file of ours: inline values, blobs, a pending write."""
    with SqliteSaver(database_path) as saver:
        chain(saver, 5)
        saver.put_writes(place(5), [("c", LIST)], "task")
    return database_path


@pytest.mark.parametrize("way", SAVES)
def test_the_official_saver_fails_at_its_first_save_to_a_file_of_ours(way: str, ours: Path) -> None:
    """The error says what to import; nothing of ours is another, nor told otherwise."""
    before = everything_of_ours(ours)
    with official_saver(ours) as theirs:
        with pytest.raises(sqlite3.IntegrityError, match="import the saver from langgraph_sqlite_"):
            SAVES[way](theirs)
    assert everything_of_ours(ours) == before
    with SqliteSaver(ours) as saver:
        assert graph(saver).invoke({"x": 1}, NEW) == {"x": 2}


def test_the_official_async_saver_too(ours: Path) -> None:
    """As the blocking one."""
    before = everything_of_ours(ours)

    async def scenario() -> None:
        async with OfficialAsyncSaver.from_conn_string(str(ours)) as theirs:
            with pytest.raises(sqlite3.IntegrityError, match="langgraph_sqlite_saver"):
                await graph(theirs).ainvoke({"x": 1}, NEW)

    asyncio.run(scenario())
    assert everything_of_ours(ours) == before


def test_a_file_of_ours_is_never_taken_for_an_official_one(ours: Path) -> None:
    """Though the official saver has left a table of its own there, with writes in it."""
    with official_saver(ours) as theirs:
        theirs.put_writes(place(7, "new"), [("c", 1)], "task")
    assert count(ours, "writes") == 1
    with pytest.raises(UnknownSchemaError, match="langgraph-sqlite-saver already"):
        import_official(ours, ours.with_name("new.db"))
    with closing(sqlite3.connect(ours, check_same_thread=False)) as conn:
        for target in (ours, conn):
            with closing(SqliteSaver(target)) as saver:
                assert numbers(list(saver.list(None))) == [5, 4, 3, 2, 1]


# --- files from before the first release


@pytest.mark.parametrize("version", [1, 2, 3])
def test_a_file_from_before_the_first_release_is_refused_untouched(
    version: int, ours: Path
) -> None:
    """In a sentence of its own, by path and by connection."""
    execute(ours, "UPDATE checkpoint_migrations SET v = ?", version)
    before = contents(ours.parent)
    with closing(sqlite3.connect(ours, check_same_thread=False)) as conn:
        for target in (ours, conn):
            with closing(SqliteSaver(target)) as saver:
                for call in CALLS.values():
                    with pytest.raises(UnknownSchemaError, match="before the first release"):
                        call(saver)
    assert contents(ours.parent) == before


# --- a user's own tables


@pytest.fixture
def own_tables(database_path: Path) -> Iterator[list[Any]]:
    """A `writes` of other columns among them; after the test they are as they were."""
    with closing(sqlite3.connect(database_path)) as conn, conn:
        conn.execute("CREATE TABLE writes (id INTEGER PRIMARY KEY, channel TEXT)")
        conn.execute("CREATE TABLE users (name TEXT)")
        conn.execute("INSERT INTO writes VALUES (1, 'mine')")
    schema = "SELECT name, sql FROM sqlite_master WHERE name IN ('writes', 'users') ORDER BY 1"
    before = rows(database_path, schema)
    yield before
    assert rows(database_path, schema) == before
    assert rows(database_path, "SELECT * FROM writes") == [(1, "mine")]


def test_a_users_own_tables_live_beside_ours(
    open_driver: Any, own_tables: Any, database_path: Path
) -> None:
    """Saving, listing, deleting and vacuuming leave them alone."""
    for mode in ("sync", "async"):
        saver = open_driver(mode, database_path)
        chain(saver, 5)
        saver.prune(["t"])
        assert numbers(saver.list(None)) == [5]
        saver.delete_thread("t")
        saver.optimize(vacuum="full")


def test_they_live_beside_ours_on_a_borrowed_connection(
    own_tables: Any, database_path: Path
) -> None:
    """What he has open is committed with what is saved."""
    with closing(sqlite3.connect(database_path, check_same_thread=False)) as conn:
        saver = SqliteSaver(conn)
        chain(saver, 2)
        conn.execute("INSERT INTO users VALUES ('ann')")
        with pytest.warns(OwnersTransactionWarning):
            save(saver, 3)
        conn.rollback()
        assert numbers(list(saver.list(None))) == [3, 2, 1]
    assert count(database_path, "users") == 1
    assert count(database_path, "checkpoints") == 3


@pytest.mark.parametrize("table", ["checkpoints", "checkpoint_blobs", "checkpoint_writes"])
def test_a_foreign_table_of_our_name_is_refused(table: str, database_path: Path) -> None:
    """And left as it is."""
    with closing(sqlite3.connect(database_path)) as conn, conn:
        conn.execute(f"CREATE TABLE {table} (id INTEGER)")
    before = database_path.read_bytes()
    with pytest.raises(UnknownSchemaError, match=table):
        SqliteSaver(database_path).get_tuple(place())
    assert database_path.read_bytes() == before


def test_an_empty_file_and_one_without_our_tables_become_ours(database_path: Path) -> None:
    """Whoever made them."""
    database_path.touch()
    with SqliteSaver(database_path) as saver:
        chain(saver, 1)
    assert count(database_path, "checkpoints") == 1
