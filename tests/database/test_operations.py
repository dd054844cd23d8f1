"""Reading, writing and maintaining: what an operation may rely on."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import pytest

from langgraph_sqlite_saver.database import (
    ConnectionUnusableError,
    InvalidInputError,
    ReadOnlyError,
)

from .helpers import (
    Refused,
    blocking,
    create,
    in_thread,
    in_transaction,
    insert,
    insert_and_fail,
    numbers,
    outcome,
    outside,
    pragma,
    stored,
)


def test_a_read_sees_every_write_that_returned(db: Any) -> None:
    """Whichever of the readers serves it."""
    for n in range(50):
        db.write(insert, n)
        assert len(db.read(numbers)) == n + 1


def test_a_write_is_committed_when_it_returns(db: Any, path: Path) -> None:
    """Another connection sees it."""
    db.write(insert, 1)
    assert stored(path) == [1]


def test_an_operation_s_value_is_returned(db: Any) -> None:
    """From each of the three ways, with positional and named arguments."""

    def shown(conn: sqlite3.Connection, *args: int, **options: int) -> Any:
        return args, options

    for way in (db.read, db.write, db.maintain):
        assert way(shown, 1, b=2) == ((1,), {"b": 2})


def test_a_failing_write_leaves_nothing(db: Any, path: Path) -> None:
    """Not its first rows, and no open transaction."""
    with pytest.raises(Refused):
        db.write(insert_and_fail, 1)
    assert stored(path) == []
    assert not db.maintain(in_transaction)


class NoException(BaseException):
    """What `except Exception` does not catch."""


@pytest.mark.parametrize("error", [StopIteration, GeneratorExit, NoException])
def test_whatever_an_operation_raises_its_caller_is_answered(db: Any, error: Any) -> None:
    """Even what is no Exception, and what a future cannot hold; the database stays usable."""

    def raising(conn: sqlite3.Connection) -> None:
        insert(conn, 1)
        raise error

    for way in (db.read, db.write, db.maintain):
        assert isinstance(outcome(in_thread(way, raising)), (error, RuntimeError, ReadOnlyError))
    db.maintain(lambda conn: conn.execute("DELETE FROM numbers"))
    db.write(insert, 2)
    assert db.read(numbers) == [2]


def test_a_read_has_one_snapshot(db: Any, path: Path) -> None:
    """What others commit meanwhile is seen by the next read."""

    def twice(conn: sqlite3.Connection) -> tuple[list[int], list[int]]:
        before = numbers(conn)
        outside(path, "INSERT INTO numbers VALUES (1)")
        return before, numbers(conn)

    assert db.read(twice) == ([], [])
    assert db.read(numbers) == [1]


def test_a_read_cannot_write(db: Any, path: Path) -> None:
    """It is refused by SQLite, not by convention."""
    with pytest.raises(ReadOnlyError):
        db.read(insert, 1)
    assert stored(path) == []


def test_maintenance_runs_outside_any_transaction(db: Any) -> None:
    """VACUUM and WAL checkpoints work."""
    assert not db.maintain(in_transaction)
    db.maintain(lambda conn: conn.execute("VACUUM"))
    assert db.maintain(pragma, "wal_checkpoint(TRUNCATE)") == 0


def test_a_transaction_that_maintenance_leaves_open_is_undone(db: Any, path: Path) -> None:
    """Later writes are committed, not kept in a transaction nobody ends."""

    def begin_and_forget(conn: sqlite3.Connection) -> None:
        conn.execute("BEGIN IMMEDIATE")
        insert(conn, 1)

    db.maintain(begin_and_forget)
    db.write(insert, 2)
    assert stored(path) == [2]


@pytest.mark.parametrize("outer", ["read", "write", "maintain"])
@pytest.mark.parametrize("inner", ["read", "write", "maintain", "close"])
def test_an_operation_that_calls_the_database_again_is_refused(
    db: Any, outer: str, inner: str
) -> None:
    """It would wait for itself."""
    database = blocking(db)
    args = () if inner == "close" else (lambda conn: None,)
    with pytest.raises(ConnectionUnusableError, match="not call the database again"):
        getattr(db, outer)(lambda conn: getattr(database, inner)(*args))
    db.write(insert, 1)
    assert db.read(numbers) == [1]


def test_sqlite_s_errors_that_are_the_operation_s_own_are_passed_on(db: Any) -> None:
    """A message that happens to hold a word of ours changes nothing."""
    db.write(lambda conn: conn.execute("CREATE TABLE locked (a UNIQUE)"))
    with pytest.raises(sqlite3.IntegrityError, match=r"locked\.a") as caught:
        db.write(lambda conn: conn.execute("INSERT INTO locked VALUES (1), (1)"))
    assert caught.value.__cause__ is None
    with pytest.raises(sqlite3.OperationalError, match="no such table: locked_too"):
        db.read(lambda conn: conn.execute("SELECT * FROM locked_too"))
    with pytest.raises(sqlite3.OperationalError, match="malformed JSON"):
        db.read(lambda conn: conn.execute("SELECT json('{')").fetchall())


@pytest.mark.parametrize("wrong", [{"readers": 0}, {"lock_timeout": -1}])
def test_senseless_options_are_refused(open_database: Any, path: Path, wrong: Any) -> None:
    """Before a file is made."""
    with pytest.raises(InvalidInputError):
        blocking(open_database(path, **wrong))
    assert not path.exists()


def test_one_reader_is_enough(open_database: Any, path: Path) -> None:
    """The smallest pool serves as well as any."""
    small = open_database(path, readers=1)
    small.write(create)
    small.write(insert, 1)
    assert [small.read(numbers) for _ in range(3)] == [[1]] * 3
