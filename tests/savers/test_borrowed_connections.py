"""Savers on a connection of the program's own: what returned is in the file, and nothing raises."""

from __future__ import annotations

import asyncio
import operator
import sqlite3
import threading
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any, TypedDict

import aiosqlite
import pytest
from langgraph.graph import START, StateGraph
from langgraph.store.base import BaseStore
from langgraph.store.sqlite import SqliteStore
from langgraph.store.sqlite.aio import AsyncSqliteStore

from langgraph_sqlite_saver import (
    AsyncSqliteSaver,
    ConnectionUnusableError,
    OwnersTransactionWarning,
    ReadOnlyError,
    SqliteSaver,
    StorageError,
)
from langgraph_sqlite_saver.checkpoints.damage import in_any_text
from langgraph_sqlite_saver.database.own_cursors import OwnCursors

from .helpers import LIST, chain, count, get, place, rows, save, values


class State(TypedDict):
    n: Annotated[list[str], operator.add]


Node = Callable[..., Any]


def graph(saver: Any, *nodes: Node, store: Any = None) -> Any:
    """Nodes one after the other."""
    builder: Any = StateGraph(State)
    before = START
    for number, node in enumerate(nodes):
        builder.add_node(f"n{number}", node)
        builder.add_edge(before, f"n{number}")
        before = f"n{number}"
    return builder.compile(checkpointer=saver, store=store)


def one(state: State) -> Any:
    return {"n": ["x" * 5000]}


def two(state: State) -> Any:
    return {"n": ["y"]}


def thread(name: object) -> Any:
    return {"configurable": {"thread_id": str(name)}}


def committed(path: Path, checkpoints: int) -> set[str]:
    """The threads that another process would find with so many checkpoints."""
    found = rows(
        path,
        "SELECT thread_id FROM checkpoints GROUP BY 1 HAVING count(*) >= ?",
        checkpoints,
    )
    return {name for (name,) in found}


ISOLATION_LEVELS = ["", None, "IMMEDIATE", "EXCLUSIVE"]


@pytest.fixture
def conn(database_path: Path) -> Iterator[sqlite3.Connection]:
    """As most programs open theirs."""
    with closing(sqlite3.connect(database_path, check_same_thread=False)) as opened:
        yield opened


# --- who else uses it


@pytest.mark.parametrize("isolation_level", ISOLATION_LEVELS)
@pytest.mark.parametrize("savers", ["one for each request", "two"])
def test_savers_share_it(database_path: Path, isolation_level: str | None, savers: str) -> None:
    """From several threads; also where none of them had made the tables."""
    names = [str(n) for n in range(24)]
    with closing(
        sqlite3.connect(database_path, check_same_thread=False, isolation_level=isolation_level)
    ) as conn:
        pair = [graph(SqliteSaver(conn), one, two) for _ in range(2)]

        def request(name: str) -> None:
            used = pair[int(name) % 2] if savers == "two" else graph(SqliteSaver(conn), one, two)
            used.invoke({"n": []}, thread(name))

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(request, names))
        assert not conn.in_transaction
        assert committed(database_path, 4) == set(names)


@pytest.mark.parametrize("isolation_level", ISOLATION_LEVELS)
def test_a_graph_runs_inside_a_graph(database_path: Path, isolation_level: str | None) -> None:
    """Each with a saver of its own."""
    with closing(
        sqlite3.connect(database_path, check_same_thread=False, isolation_level=isolation_level)
    ) as conn:
        child = graph(SqliteSaver(conn), one)

        def ask(state: State) -> Any:
            return {"n": [str(len(child.invoke({"n": []}, thread("child"))["n"]))]}

        parent = graph(SqliteSaver(conn), ask, ask)
        for n in range(10):
            parent.invoke({"n": []}, thread(n))
        assert committed(database_path, 4) == {"child", *map(str, range(10))}


def test_a_program_writes_its_own_tables_from_another_thread(
    conn: sqlite3.Connection, database_path: Path
) -> None:
    """It loses none of its rows, gets no error, and disturbs no save."""
    conn.execute("CREATE TABLE mine (x)")
    conn.commit()
    runs, stop, failed = 30, threading.Event(), []

    def write() -> int:
        written = 0
        while not stop.is_set() or not written:
            try:
                conn.cursor().execute("INSERT INTO mine VALUES (1)")
                conn.commit()
                written += 1
            except sqlite3.Error as error:
                failed.append(error)
            stop.wait(0.001)
        return written

    saver = SqliteSaver(conn)
    saver.setup()  # making the tables takes a transaction, which a commit elsewhere may meet
    agent = graph(saver, one, two)
    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(write)
        try:
            for n in range(runs):
                agent.invoke({"n": []}, thread(n))
        finally:
            stop.set()
        written = writing.result()
    assert failed == []
    assert count(database_path, "mine") == written
    assert committed(database_path, 4) == {str(n) for n in range(runs)}


def test_the_official_store_uses_it(conn: sqlite3.Connection, database_path: Path) -> None:
    """Beside the saver, in the same runs: its transactions are its own."""
    store = SqliteStore(conn)
    store.setup()

    def note(state: State, *, store: BaseStore) -> Any:
        store.put(("user",), f"key{len(state['n'])}", {"v": 1})
        return one(state)

    with warnings.catch_warnings():  # what its setup leaves open
        warnings.simplefilter("ignore", OwnersTransactionWarning)
        agent = graph(SqliteSaver(conn), note, note, note, store=store)
        for n in range(20):
            agent.invoke({"n": []}, thread(n))
    assert committed(database_path, 5) == {str(n) for n in range(20)}
    assert {item.key for item in store.search(("user",))} == {"key0", "key1", "key2"}


def test_the_official_store_uses_an_aiosqlite_connection(database_path: Path) -> None:
    """Beside the saver, in the same runs."""

    async def note(state: State, *, store: BaseStore) -> Any:
        await store.aput(("user",), f"key{len(state['n'])}", {"v": 1})
        return one(state)

    async def scenario() -> None:
        async with aiosqlite.connect(database_path, isolation_level=None) as conn:
            store = AsyncSqliteStore(conn)
            await store.setup()
            agent = graph(AsyncSqliteSaver(conn), note, note, store=store)
            await asyncio.gather(*(agent.ainvoke({"n": []}, thread(n)) for n in range(12)))
            assert not conn.in_transaction

    asyncio.run(scenario())
    assert committed(database_path, 4) == {str(n) for n in range(12)}


@pytest.mark.parametrize("awaited", [False, True])
def test_a_forgotten_commit_loses_nothing(database_path: Path, awaited: bool) -> None:
    """What is saved is committed, the program's row with it; it is told once."""
    with pytest.warns(OwnersTransactionWarning, match="without commit") as told:
        if awaited:
            asyncio.run(_forgetful(database_path))
        else:
            with closing(sqlite3.connect(database_path, check_same_thread=False)) as conn:
                saver = SqliteSaver(conn)
                conn.execute("CREATE TABLE mine (x)")
                for number in (1, 2):
                    conn.execute("INSERT INTO mine VALUES (1)")
                    save(saver, number, {"a": LIST})
    assert len(told) == 1
    assert count(database_path, "checkpoints") == count(database_path, "mine") == 2


async def _forgetful(path: Path) -> None:
    async with aiosqlite.connect(path) as conn:
        saver = AsyncSqliteSaver(conn)
        await conn.execute("CREATE TABLE mine (x)")
        for number in ("1", "2"):
            await conn.execute("INSERT INTO mine VALUES (1)")
            checkpoint = {"v": 4, "id": number, "channel_values": {"a": LIST}}
            await saver.aput(place(), {**checkpoint, "channel_versions": {"a": 1}}, {}, {"a": 1})


# --- what it may be


@pytest.mark.parametrize("journal_mode", ["DELETE", "WAL", "MEMORY"])
def test_any_journal_mode_will_do(conn: sqlite3.Connection, journal_mode: str) -> None:
    """Also one that is set while it is in use."""
    saver = SqliteSaver(conn)
    chain(saver, 2)
    assert conn.execute(f"PRAGMA journal_mode = {journal_mode}").fetchone()[0]
    chain(saver, 2, start=3)
    saver.prune(["t"])
    assert values(saver) == {"list": [4]}


def test_a_cursor_of_its_owner_s_may_be_read_half_way(
    conn: sqlite3.Connection, database_path: Path
) -> None:
    """While tables are made, and while a save or a deletion is committed."""
    conn.execute("CREATE TABLE mine (x)")
    conn.executemany("INSERT INTO mine VALUES (?)", [(n,) for n in range(3)])
    conn.commit()
    saver = SqliteSaver(conn)
    for (number,) in conn.execute("SELECT x FROM mine"):
        chain(saver, 2, start=2 * number + 1)
        saver.prune(["t"])
        assert count(database_path, "checkpoints") == 1


@pytest.mark.parametrize("isolation_level", ["", None])
@pytest.mark.parametrize("setup", [False, True])
def test_a_statement_of_its_owner_s_that_goes_on_writing_is_told_of_at_once(
    database_path: Path, isolation_level: str | None, setup: bool
) -> None:
    """No transaction can be committed until it ends, and none is left behind."""
    with closing(sqlite3.connect(database_path, isolation_level=isolation_level)) as conn:
        conn.execute("CREATE TABLE mine (x)")
        conn.execute("INSERT INTO mine VALUES (1), (2)")
        conn.commit()
        saver = SqliteSaver(conn)
        if setup:
            saver.setup()
        writing = conn.execute("UPDATE mine SET x = 0 RETURNING x")
        before = conn.in_transaction
        with pytest.raises(ConnectionUnusableError, match="RETURNING"):
            saver.delete_thread("t")
        assert conn.in_transaction == before
        assert writing.fetchall() == [(0,), (0,)]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", OwnersTransactionWarning)
            chain(saver, 2)
    assert count(database_path, "checkpoints") == 2
    assert rows(database_path, "SELECT x FROM mine") == [(0,), (0,)]


def test_one_that_can_only_read_reads(database_path: Path) -> None:
    """And says what it cannot."""
    with SqliteSaver(database_path) as saver:
        chain(saver, 3)
    uri = f"file:{database_path}?mode=ro"
    with closing(sqlite3.connect(uri, uri=True, check_same_thread=False)) as conn:
        saver = SqliteSaver(conn)
        assert values(saver) == {"list": [3]}
        assert len(list(saver.list(None))) == 3
        with pytest.raises(ReadOnlyError):
            save(saver, 4)


def test_one_that_is_bound_to_its_thread_serves_there(database_path: Path) -> None:
    """While others are refused, with the remedy, it goes on."""
    with closing(sqlite3.connect(database_path)) as conn:
        saver = SqliteSaver(conn)
        errors: list[BaseException] = []
        stop = threading.Event()

        def intrude() -> None:
            while not stop.is_set() or not errors:
                try:
                    save(saver, 99)
                except ConnectionUnusableError as error:
                    errors.append(error)

        intruder = threading.Thread(target=intrude)
        intruder.start()
        try:
            chain(saver, 30)
        finally:
            stop.set()
            intruder.join()
        assert "check_same_thread=False" in str(errors[0])
        assert count(database_path, "checkpoints") == 30


def test_its_owner_s_row_factory_converters_and_authorizer_are_no_hindrance(
    database_path: Path,
) -> None:
    """An authorizer may forbid temporary triggers: a save is a transaction then."""
    denied: list[int] = []

    def authorize(action: int, *_: object) -> int:
        if action in (sqlite3.SQLITE_CREATE_TEMP_VIEW, sqlite3.SQLITE_CREATE_TEMP_TRIGGER):
            denied.append(action)
            return sqlite3.SQLITE_DENY
        return sqlite3.SQLITE_OK

    parsing = sqlite3.PARSE_DECLTYPES | sqlite3.PARSE_COLNAMES
    with closing(
        sqlite3.connect(database_path, check_same_thread=False, detect_types=parsing)
    ) as conn:
        conn.row_factory = lambda cursor, row: {"row": row}
        conn.set_authorizer(authorize)
        saver = SqliteSaver(conn)
        chain(saver, 3)
        saver.put_writes(place(3), [("w", LIST)], "task")
        assert values(saver) == {"list": [3]}
        assert get(saver).pending_writes == [("task", "w", LIST)]
    assert denied
    assert count(database_path, "checkpoints") == 3


def test_one_of_another_module_is_taken(database_path: Path) -> None:
    """pysqlite3, which programs with Chroma put in sqlite3's place; its errors become ours."""
    pysqlite3 = pytest.importorskip("pysqlite3")
    with closing(pysqlite3.connect(str(database_path), check_same_thread=False)) as conn:
        conn.row_factory = pysqlite3.Row
        saver = SqliteSaver(conn)
        chain(saver, 3)
        saver.put_writes(place(3), [("w", LIST)], "task")
        assert values(saver) == {"list": [3]}
        assert get(saver).pending_writes == [("task", "w", LIST)]
        saver.prune(["t"])
        assert saver.check() == []
        assert [thread.checkpoints for thread in saver.threads()] == [1]
        with pytest.raises(ConnectionUnusableError, match="pysqlite3"):
            saver.backup(database_path.with_name("backup.db"))
        conn.execute("PRAGMA query_only = 1")
        with pytest.raises(ReadOnlyError):
            save(saver, 4)
        conn.execute("PRAGMA query_only = 0")
        assert graph(saver, one, two).invoke({"n": []}, thread("graph"))
    assert committed(database_path, 4) == {"graph"}


def test_one_of_sqlalchemy_s_pool_is_taken(database_path: Path) -> None:
    """What raw_connection() gives: the pool has it back when its owner says so."""
    sqlalchemy = pytest.importorskip("sqlalchemy")
    engine = sqlalchemy.create_engine(f"sqlite:///{database_path}")
    raw = engine.raw_connection()
    saver = SqliteSaver(raw)
    chain(saver, 2)
    assert saver.conn is raw
    del raw
    chain(saver, 2, start=3)
    saver.conn.close()
    engine.dispose()
    assert count(database_path, "checkpoints") == 4


def test_what_is_neither_a_path_nor_a_connection_is_named() -> None:
    """By its module: an aiosqlite connection, say, on the blocking saver."""
    with pytest.raises(TypeError, match=r"aiosqlite\.core\.Connection"):
        SqliteSaver(aiosqlite.connect(":memory:"))  # type: ignore[arg-type]


def test_a_saver_is_made_while_another_reads_any_text(conn: sqlite3.Connection) -> None:
    """As `check` and `prune` do, by a text_factory of their own meanwhile."""
    saver = SqliteSaver(conn)
    chain(saver, 3)
    made: list[SqliteSaver] = []
    saver.check(progress=lambda done, total: made.append(SqliteSaver(conn)))
    saver.database.read(in_any_text(lambda own: made.append(SqliteSaver(conn))))
    assert values(made[-1]) == {"list": [3]}
    assert conn.text_factory is str


# --- what a save is there


def test_a_save_is_one_statement(conn: sqlite3.Connection) -> None:
    """No transaction that another thread's statements could meet, large values and all."""
    saver = SqliteSaver(conn)
    save(saver, 1, {"a": ["x" * 6000], "b": LIST})
    executed: list[str] = []
    conn.set_trace_callback(executed.append)
    both = {"a": ["x" * 6001], "b": LIST}
    save(saver, 2, both, versions={"a": 2, "b": 1}, new={"a": 2}, parent=1)
    saver.put_writes(place(2), [("a", ["x" * 6002]), ("b", 1)], "task")
    conn.set_trace_callback(None)
    assert not any(text.startswith(("BEGIN", "SAVEPOINT", "COMMIT")) for text in executed)
    assert len({text for text in executed if "INSERT INTO temp." in text}) == 2
    assert values(saver, 2) == both
    assert get(saver, 2).pending_writes == [("task", "a", ["x" * 6002]), ("task", "b", 1)]


def test_saving_leaves_nothing_of_its_own_in_the_file(
    conn: sqlite3.Connection, database_path: Path
) -> None:
    """The view that a save goes through belongs to the connection."""
    chain(SqliteSaver(conn), 2)
    kinds = rows(database_path, "SELECT DISTINCT type FROM sqlite_master ORDER BY 1")
    assert kinds == [("index",), ("table",)]


def test_a_value_that_went_meanwhile_is_stored_anew(
    conn: sqlite3.Connection, database_path: Path
) -> None:
    """Another process prunes what a save was about to rest on, or to trust."""
    saver = SqliteSaver(conn)
    save(saver, 1, {"a": ["x" * 6000], "b": LIST})
    with SqliteSaver(database_path) as other:
        other.delete_thread("t")
    both = {"a": ["x" * 6001], "b": LIST}
    save(saver, 2, both, versions={"a": 2, "b": 1}, new={"a": 2}, parent=1)
    saver.put_writes(place(2), [("w", ["x" * 6001])], "task")
    with SqliteSaver(database_path) as other:
        assert values(other, 2) == both
        assert get(other, 2).pending_writes == [("task", "w", ["x" * 6001])]


def test_many_writes_are_stored_all_or_none(conn: sqlite3.Connection) -> None:
    """More than one statement takes."""
    saver = SqliteSaver(conn)
    config = save(saver, 1)
    saver.put_writes(config, [(f"c{n}", n) for n in range(5000)], "task")
    assert len(get(saver).pending_writes) == 5000


def test_tables_that_their_owner_dropped_are_missed_with_an_error(
    conn: sqlite3.Connection,
) -> None:
    """At once, and by the library's own."""
    saver = SqliteSaver(conn)
    chain(saver, 2)
    conn.execute("DROP TABLE checkpoints")
    with pytest.raises(StorageError, match="checkpoints"):
        save(saver, 3)
    with pytest.raises(StorageError, match="checkpoints"):
        get(saver)


def after(
    conn: sqlite3.Connection, statement: str, meddling: list[str], monkeypatch: pytest.MonkeyPatch
) -> list[str]:
    """Execute statements as another thread may, once: right behind one of the saver's."""
    left, execute = list(meddling), OwnCursors.execute

    def meddle(own: OwnCursors, text: str, parameters: Any = ()) -> sqlite3.Cursor:
        cursor = execute(own, text, parameters)
        while left and statement in text:
            conn.execute(left.pop(0))
        return cursor

    monkeypatch.setattr(OwnCursors, "execute", meddle)
    return left


@pytest.mark.parametrize("kind", ["checkpoint", "write", "special write"])
def test_a_save_that_another_thread_rolls_back_is_done_again(
    conn: sqlite3.Connection, database_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It began before that one statement, and rolled back right behind it."""
    saver = SqliteSaver(conn)
    config = save(saver, 1)
    saver.put_writes(config, [("__error__", "old")], "task")
    begun = conn.execute
    monkeypatch.setattr(saver.database._shared.transactions, "_end_owners", lambda: None)
    begun("BEGIN")
    left = after(conn, "INSERT INTO temp.", ["ROLLBACK"], monkeypatch)
    if kind == "checkpoint":
        save(saver, 2, {"a": LIST})
    else:
        saver.put_writes(config, [("w" if kind == "write" else "__error__", LIST)], "task")
    assert left == []
    with SqliteSaver(database_path) as other:
        if kind == "checkpoint":
            assert values(other, 2) == {"a": LIST}
        else:
            assert LIST in [value for _, _, value in get(other, 1).pending_writes]


def test_triggers_that_another_thread_rolls_back_are_missed(
    conn: sqlite3.Connection, database_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some of those that a save goes through: the rows of the others would go nowhere."""
    saver = SqliteSaver(conn)
    saver.setup()
    after(conn, "saver_rows_1", ["BEGIN"], monkeypatch)
    after(conn, "saver_rows_3", ["ROLLBACK"], monkeypatch)
    config = save(saver, 1)
    saver.put_writes(config, [("__error__", LIST)], "task")
    with SqliteSaver(database_path) as other:
        assert get(other, 1).pending_writes == [("task", "__error__", LIST)]


def test_a_view_that_its_owner_rolled_back_is_made_again(conn: sqlite3.Connection) -> None:
    """What a save goes through; the save itself goes another way meanwhile."""
    saver = SqliteSaver(conn)
    chain(saver, 2)
    conn.execute("DROP VIEW langgraph_sqlite_saver_rows")
    chain(saver, 2, start=3)
    assert values(saver) == {"list": [4]}
    assert conn.execute("SELECT count(*) FROM sqlite_temp_master").fetchone()[0] > 0
