"""Connections that somebody lends: his settings, his transactions, his to close."""

from __future__ import annotations

import sqlite3
import sys
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
)

from .helpers import (
    Refused,
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


def test_an_open_transaction_is_left_to_its_owner(
    db: Any, conn: sqlite3.Connection, path: Path
) -> None:
    """Ours vanish with his rollback, and are stored by his commit; a failing one goes alone."""
    for end, expected in ((conn.rollback, []), (conn.commit, [1, 2])):
        conn.execute("INSERT INTO numbers VALUES (1)")
        db.write(insert, 2)
        with pytest.raises(Refused):
            db.write(insert_and_fail, 3)
        assert db.read(numbers) == [1, 2]
        assert conn.in_transaction
        assert stored(path) == []
        end()
        assert stored(path) == expected


def test_tables_are_made_inside_the_owner_s_transaction(
    open_database: Any, conn: sqlite3.Connection, path: Path
) -> None:
    """They too vanish with his rollback."""
    conn.execute("CREATE TABLE theirs (a)")
    conn.execute("INSERT INTO theirs VALUES (1)")
    db = open_database(conn, schemas=[schema("CREATE TABLE numbers (n);")])
    db.write(insert, 1)
    assert conn.in_transaction
    conn.rollback()
    assert outside(path, "SELECT name FROM sqlite_master") == [("theirs",)]


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
    """It has a transaction open always; True is as good as the default."""
    own = sqlite3.connect(path, autocommit=False)
    with pytest.raises(ConnectionUnusableError, match="autocommit=True"):
        Database(own)
    own.close()
    own = sqlite3.connect(path, autocommit=True)
    with Database(own) as db:
        db.write(create)
        db.write(insert, 1)
    assert stored(path) == [1]
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


def test_a_failing_migration_leaves_nothing_in_the_owner_s_transaction(
    open_database: Any, conn: sqlite3.Connection, path: Path
) -> None:
    """What he then commits is his; the migration before it stays."""
    conn.execute("CREATE TABLE theirs (a)")
    conn.execute("INSERT INTO theirs VALUES (1)")
    steps = "CREATE TABLE numbers (n);", "CREATE TABLE half (a); INSERT INTO nowhere VALUES (1);"
    db = open_database(conn, schemas=[schema(*steps)])
    with pytest.raises(MigrationError, match="0002_step"):
        db.write(insert, 1)
    assert conn.in_transaction
    conn.commit()
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
