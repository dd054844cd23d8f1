"""Borrowed connections: their owner's settings, transactions, statements, and his to close."""

from __future__ import annotations

import sqlite3
import sys
import warnings
from collections.abc import Iterator
from concurrent.futures import wait
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from langgraph_sqlite_saver.database import (
    ConnectionUnusableError,
    Database,
    DatabaseClosedError,
    DatabaseLockedError,
    InvalidInputError,
    MigrationError,
    OwnersTransactionWarning,
)
from langgraph_sqlite_saver.database.own_cursors import OwnCursors

from .helpers import (
    DEADLOCK,
    Refused,
    blocking,
    create,
    in_thread,
    insert,
    insert_and_fail,
    numbers,
    outcome,
    outside,
    schema,
    stored,
    versions,
)


@pytest.fixture
def conn(path: Path) -> Iterator[sqlite3.Connection]:
    """The owner's connection, with the defaults of sqlite3 but for the thread check."""
    opened = sqlite3.connect(path, check_same_thread=False)
    yield opened
    opened.close()


@pytest.fixture
def db(open_database: Any, conn: sqlite3.Connection) -> Any:
    opened = open_database(conn)
    opened.write(create)
    return opened


def test_it_reads_and_writes(db: Any, path: Path) -> None:
    """What was written is committed; what failed is undone."""
    db.write(insert, 1)
    with pytest.raises(Refused):
        db.write(insert_and_fail, 2)
    assert db.read(numbers) == stored(path) == [1]


@pytest.mark.parametrize("isolation_level", ["", None, "IMMEDIATE"])
def test_its_settings_are_left_alone(
    open_database: Any, path: Path, isolation_level: str | None
) -> None:
    """And don't disturb ours."""
    own = sqlite3.connect(path, check_same_thread=False, isolation_level=isolation_level)
    own.row_factory = sqlite3.Row
    own.execute("PRAGMA foreign_keys = OFF")
    before = {p: own.execute(f"PRAGMA {p}").fetchone()[0] for p in ("synchronous", "cache_size")}
    db = open_database(own)
    db.write(create)
    db.write(insert, 1)
    assert db.read(lambda conn: type(conn.execute("SELECT 1").fetchone())) is tuple
    assert own.row_factory is sqlite3.Row
    assert own.isolation_level == isolation_level
    assert own.execute("PRAGMA foreign_keys").fetchone()[0] == 0
    assert {p: own.execute(f"PRAGMA {p}").fetchone()[0] for p in before} == before
    assert not own.in_transaction
    own.close()


def test_an_open_transaction_is_committed_with_what_is_written(
    db: Any, conn: sqlite3.Connection, path: Path
) -> None:
    """A call returns after its commit, whatever the owner left open; he is told, once."""
    conn.execute("INSERT INTO numbers VALUES (1)")
    with pytest.warns(OwnersTransactionWarning, match="without commit"):
        db.write(insert, 2)
    assert stored(path) == [1, 2]
    conn.execute("INSERT INTO numbers VALUES (3)")
    with pytest.raises(Refused):
        db.write(insert_and_fail, 4)
    assert stored(path) == db.read(numbers) == [1, 2, 3]
    assert not conn.in_transaction


@pytest.mark.parametrize("end", ["COMMIT", "ROLLBACK"])
def test_a_transaction_that_another_thread_ends_is_left_to_it(
    db: Any, conn: sqlite3.Connection, path: Path, end: str
) -> None:
    """It is waited for; what is written has a transaction of its own."""
    shared = blocking(db)._shared
    assert shared is not None
    shared.transactions._patience = DEADLOCK
    conn.execute("BEGIN")
    conn.execute("INSERT INTO numbers VALUES (1)")
    writing = in_thread(db.write, insert, 2)
    assert wait([writing], timeout=0.05).not_done
    conn.execute(end)
    assert outcome(writing) is None
    assert stored(path) == ([1, 2] if end == "COMMIT" else [2])


@pytest.mark.parametrize(
    "meddling", [["COMMIT"], ["ROLLBACK"], ["ROLLBACK", "BEGIN"], ["COMMIT", "BEGIN"]]
)
def test_what_was_disturbed_is_done_again(
    db: Any, conn: sqlite3.Connection, path: Path, meddling: list[str]
) -> None:
    """Another thread ended the transaction in the middle, and perhaps began one."""
    runs = 0

    def write_two(inner: sqlite3.Connection) -> int:
        nonlocal runs
        runs += 1
        inner.execute("INSERT INTO numbers SELECT 1 WHERE 1 NOT IN (SELECT n FROM numbers)")
        if runs == 1:
            for statement in meddling:
                conn.execute(statement)
        inner.execute("INSERT INTO numbers SELECT 2 WHERE 2 NOT IN (SELECT n FROM numbers)")
        return runs

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", OwnersTransactionWarning)
        assert db.write(write_two) == 2
    assert stored(path) == [1, 2]


@pytest.mark.parametrize("end", ["COMMIT", "ROLLBACK"])
def test_what_was_disturbed_before_its_commit_is_done_again(
    db: Any, conn: sqlite3.Connection, path: Path, end: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another thread ended the transaction and began one: COMMIT would be of that."""
    left, execute = [end, "BEGIN"], OwnCursors.execute

    def meddle(own: OwnCursors, text: str, parameters: Any = ()) -> sqlite3.Cursor:
        cursor = execute(own, text, parameters)
        while left and text == "RELEASE operation":
            conn.execute(left.pop(0))
        return cursor

    monkeypatch.setattr(OwnCursors, "execute", meddle)
    db.write(lambda inner: inner.execute("INSERT OR REPLACE INTO numbers (rowid, n) VALUES (9, 1)"))
    assert (left, stored(path)) == ([], [1])


def test_an_operation_that_commits_is_refused(db: Any, conn: sqlite3.Connection) -> None:
    """It would be run again for ever."""
    with pytest.raises(ConnectionUnusableError, match="must not commit"):
        db.write(lambda inner: inner.execute("COMMIT"))
    assert not conn.in_transaction


def test_all_that_were_given_it_share_one_queue(
    open_database: Any, conn: sqlite3.Connection, path: Path
) -> None:
    """Four databases, four threads, and their own statements between them."""
    databases = [open_database(conn) for _ in range(4)]
    databases[0].write(create)

    def work(k: int) -> None:
        for n in range(k * 25, k * 25 + 25):
            databases[k].write(insert, n)
            assert n in databases[k].read(numbers)

    futures = [in_thread(work, k) for k in range(4)]
    assert [outcome(f) for f in futures] == [None] * 4
    assert stored(path) == list(range(100))


def test_closing_one_leaves_the_others_open(open_database: Any, conn: sqlite3.Connection) -> None:
    """As with savers made for each request."""
    first, second = open_database(conn), open_database(conn)
    first.write(create)
    first.close()
    first.close()
    second.write(insert, 1)
    with pytest.raises(DatabaseClosedError):
        first.read(numbers)


def test_its_lock_keeps_operations_waiting(db: Any, path: Path) -> None:
    """For an owner whose own transactions are not to be met."""
    with blocking(db).lock:
        writing = in_thread(db.write, insert, 1)
        assert wait([writing], timeout=0.05).not_done
        assert stored(path) == []
    assert outcome(writing) is None
    assert stored(path) == [1]


def test_who_has_its_lock_goes_first(open_database: Any, conn: sqlite3.Connection) -> None:
    """Also with a database that has still to be opened: the one whose turn it is waits for him."""
    first, second = blocking(open_database(conn)), blocking(open_database(conn))
    first.write(create)
    with first.lock:
        writing = in_thread(first.write, insert, 1)
        assert wait([writing], timeout=0.05).not_done
        second.write(insert, 2)
        assert first.read(numbers) == [2]
        with pytest.raises(ConnectionUnusableError, match="not call the database again"):
            first.read(lambda conn: second.read(numbers))
        second.close()
    assert outcome(writing) is None
    assert first.read(numbers) == [1, 2]


def test_tables_are_made_though_the_owner_has_a_transaction_open(
    open_database: Any, conn: sqlite3.Connection, path: Path
) -> None:
    """And committed."""
    conn.execute("CREATE TABLE theirs (a)")
    conn.execute("INSERT INTO theirs VALUES (1)")
    db = open_database(conn, schemas=[schema("CREATE TABLE numbers (n);")])
    with pytest.warns(OwnersTransactionWarning):
        db.write(insert, 1)
    assert stored(path) == [1]
    assert outside(path, "SELECT a FROM theirs") == [(1,)]


def test_what_another_thread_added_outlives_a_write_that_fails(
    db: Any, conn: sqlite3.Connection, path: Path
) -> None:
    """If it came before the operation's own statements."""

    def fail(inner: sqlite3.Connection) -> None:
        inner.execute("INSERT INTO numbers VALUES (1)")
        raise Refused

    conn.execute("INSERT INTO numbers VALUES (7)")
    with pytest.warns(OwnersTransactionWarning):
        with pytest.raises(Refused):
            db.write(fail)
        db.write(insert, 8)
    assert stored(path) == [7, 8]


def test_a_write_that_fails_leaves_no_transaction_open(
    open_database: Any, conn: sqlite3.Connection, path: Path
) -> None:
    """Without WAL, another program that reads keeps it from being ended by a COMMIT."""
    db = open_database(conn)
    db.write(create)
    shared = blocking(db)._shared
    assert shared is not None
    shared.transactions.lock_timeout = 0.05
    conn.execute("PRAGMA busy_timeout = 0")
    conn.execute("PRAGMA journal_mode = DELETE")
    with closing(sqlite3.connect(path)) as other:
        other.execute("BEGIN")
        other.execute("SELECT * FROM numbers").fetchall()
        with pytest.raises(Refused):
            db.write(insert_and_fail, 1)
        assert not conn.in_transaction
    db.write(insert, 2)
    assert stored(path) == [2]


def test_tables_are_made_and_committed_otherwise(
    open_database: Any, conn: sqlite3.Connection, path: Path
) -> None:
    """As for a file of ours, and the file is in WAL mode."""
    open_database(conn, schemas=[schema("CREATE TABLE numbers (n);")]).read(numbers)
    assert versions(path) == [1]
    assert outside(path, "PRAGMA journal_mode") == [("wal",)]


def test_maintenance_is_refused_in_the_owner_s_transaction(
    db: Any, conn: sqlite3.Connection
) -> None:
    """It would fail, or commit what is his."""
    conn.execute("INSERT INTO numbers VALUES (1)")
    with pytest.raises(ConnectionUnusableError, match="commit it before maintenance"):
        db.maintain(numbers)
    assert conn.in_transaction


def test_it_stays_open_when_the_database_is_closed(db: Any, conn: sqlite3.Connection) -> None:
    """Also where its owner has a transaction open, which stays open."""
    conn.execute("INSERT INTO numbers VALUES (1)")
    db.close()
    assert conn.in_transaction
    assert conn.execute("SELECT n FROM numbers").fetchall() == [(1,)]
    with pytest.raises(DatabaseClosedError):
        db.read(numbers)


def test_closed_by_its_owner_is_said_clearly(db: Any, conn: sqlite3.Connection) -> None:
    """And the database can still be closed."""
    conn.close()
    for call in (db.read, db.write, db.maintain):
        with pytest.raises(DatabaseClosedError, match="closed by its owner"):
            call(numbers)


@pytest.mark.parametrize("opened", [True, False])
def test_the_wrong_thread_is_said_clearly(path: Path, opened: bool) -> None:
    """With the remedy; closing from there is fine."""
    own = sqlite3.connect(path)
    db = Database(own)
    if opened:
        db.write(create)
    error = outcome(in_thread(db.write, create))
    assert isinstance(error, ConnectionUnusableError)
    assert "check_same_thread=False" in str(error)
    assert outcome(in_thread(db.close)) is None
    own.close()


def test_a_connection_that_cannot_serve_is_refused(path: Path) -> None:
    """One that returns bytes for text; and PRAGMAs are its owner's to set."""
    own = sqlite3.connect(path)
    with pytest.raises(InvalidInputError, match="set them on your connection"):
        Database(own, pragmas={"synchronous": "FULL"})
    own.text_factory = bytes
    with pytest.raises(ConnectionUnusableError, match="text_factory"):
        Database(own)
    own.close()


@pytest.mark.skipif(sys.version_info < (3, 12), reason="autocommit came with Python 3.12")
def test_autocommit_false_is_refused(path: Path) -> None:
    """Also when it is set later. True is as good as the default."""
    own = sqlite3.connect(path, autocommit=False)
    with pytest.raises(ConnectionUnusableError, match="autocommit=True"):
        Database(own)
    own.close()
    own = sqlite3.connect(path, autocommit=True)
    with Database(own) as db:
        db.write(create)
        db.write(insert, 1)
        own.autocommit = False
        with pytest.raises(ConnectionUnusableError, match="autocommit=True"):
            db.write(insert, 2)
        own.autocommit = True
        db.write(insert, 3)
    assert stored(path) == [1, 3]
    own.close()


def test_threads_may_share_it(db: Any, path: Path) -> None:
    """Eight of them, one operation at a time."""

    def work(k: int) -> None:
        for n in range(k * 20, k * 20 + 20):
            db.write(insert, n)
            assert n in db.read(numbers)

    assert [outcome(in_thread(work, k)) for k in range(2)] == [None] * 2
    futures = [in_thread(work, k) for k in range(2, 8)]
    assert [outcome(f) for f in futures] == [None] * 6
    assert stored(path) == list(range(160))


def test_a_failing_migration_leaves_nothing_behind(
    open_database: Any, conn: sqlite3.Connection, path: Path
) -> None:
    """Of it; the one before it stays, and what the owner had open."""
    conn.execute("CREATE TABLE theirs (a)")
    conn.execute("INSERT INTO theirs VALUES (1)")
    steps = "CREATE TABLE numbers (n);", "CREATE TABLE half (a); INSERT INTO nowhere VALUES (1);"
    db = open_database(conn, schemas=[schema(*steps)])
    with pytest.raises(MigrationError, match="0002_step"):
        db.write(insert, 1)
    assert not conn.in_transaction
    assert outside(path, "SELECT a FROM theirs") == [(1,)]
    assert versions(path) == [1]
    assert {name for (name,) in outside(path, "SELECT name FROM sqlite_master")} == {
        "theirs",
        "numbers",
        "own_migrations",
    }


def test_a_lock_is_waited_for_while_it_is_opened(open_database: Any, path: Path) -> None:
    """For lock_timeout, whatever timeout its owner has set."""
    outside(path, "PRAGMA journal_mode = WAL")
    own = sqlite3.connect(path, check_same_thread=False, timeout=0)
    with closing(own), closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        tables = [schema("CREATE TABLE numbers (n);")]
        hasty = Database(own, schemas=tables, lock_timeout=0.1)
        with pytest.raises(DatabaseLockedError, match=r"0\.1 s"):
            hasty.open()
        opening = in_thread(open_database(own, schemas=tables).write, insert, 1)
        assert wait([opening], timeout=0.05).not_done
        other.execute("COMMIT")
        assert outcome(opening) is None
    assert stored(path) == [1]


def test_a_migration_that_was_committed_half_way_is_completed(
    open_database: Any, conn: sqlite3.Connection, path: Path
) -> None:
    """By another thread, between two of its statements."""
    steps = "CREATE TABLE numbers (n); CREATE TABLE second (a); ALTER TABLE second ADD COLUMN b;"
    commits = 0

    def commit_in_the_middle(statement: str) -> None:
        nonlocal commits
        if statement.startswith("ALTER TABLE") and not commits:
            commits += 1
            conn.commit()

    conn.set_trace_callback(commit_in_the_middle)
    db = open_database(conn, schemas=[schema(steps)])
    db.write(insert, 1)
    conn.set_trace_callback(None)
    assert commits == 1
    assert versions(path) == [1]
    assert stored(path) == [1]
