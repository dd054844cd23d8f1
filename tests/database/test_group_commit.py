"""Writes that come together are committed together, and each is answered for itself."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import pytest

from langgraph_sqlite_saver.database import DatabaseFullError

from .helpers import (
    DEADLOCK,
    Gate,
    Refused,
    in_thread,
    insert,
    insert_and_fail,
    numbers,
    outcome,
    outside,
    queued,
    stored,
    wait_until,
    write_together,
)


def traced(db: Any) -> list[str]:
    """The statements that the writer runs from now on."""
    statements: list[str] = []
    db.maintain(lambda conn: conn.set_trace_callback(statements.append))
    return statements


def test_writes_that_wait_together_share_one_transaction(db: Any, path: Path) -> None:
    """One BEGIN and one COMMIT for the one under way, and one for the ten behind it."""
    statements = traced(db)
    futures = write_together(db, *((insert, n) for n in range(10)))
    assert [outcome(f) for f in futures] == [None] * 10
    assert stored(path) == list(range(10))
    assert statements.count("BEGIN IMMEDIATE") == statements.count("COMMIT") == 2


def test_each_caller_gets_its_own_value(db: Any) -> None:
    """In a shared transaction as well."""
    futures = write_together(db, *((lambda conn, n=n: n * n,) for n in range(5)))
    assert [outcome(f) for f in futures] == [0, 1, 4, 9, 16]


def test_one_bad_write_fails_alone(db: Any, path: Path) -> None:
    """Its rows vanish; those before and behind it in the transaction stay."""
    statements = traced(db)
    good, bad, good_too = write_together(db, (insert, 1), (insert_and_fail, 2), (insert, 3))
    assert isinstance(outcome(bad), Refused)
    assert outcome(good) is outcome(good_too) is None
    assert stored(path) == [1, 3]
    assert statements.count("COMMIT") == 2


def test_no_one_is_answered_before_the_commit(db: Any, path: Path) -> None:
    """A write that ran, in a transaction still open, has not returned."""
    first, last = Gate(), Gate()
    futures = [in_thread(db.write, first)]
    assert first.entered.wait(DEADLOCK)
    futures.append(in_thread(db.write, insert, 1))
    wait_until(lambda: queued(db) == 1)
    futures.append(in_thread(db.write, last))
    wait_until(lambda: queued(db) == 2)
    first.open()
    assert last.entered.wait(DEADLOCK)
    assert not futures[1].done()
    assert stored(path) == []
    last.open()
    assert [outcome(f) for f in futures] == [None] * 3
    assert stored(path) == [1]


def test_maintenance_keeps_its_place_in_the_queue(db: Any, path: Path) -> None:
    """Writes before it are committed when it runs, those behind it are not begun."""
    gate = Gate()
    futures = [in_thread(db.write, gate)]
    assert gate.entered.wait(DEADLOCK)
    for n, call in enumerate(
        [(db.write, insert, 1), (db.maintain, numbers), (db.write, insert, 2)], start=1
    ):
        futures.append(in_thread(*call))
        wait_until(lambda n=n: queued(db) == n)
    gate.open()
    assert [outcome(f) for f in futures] == [None, None, [1], None]


def fill_up(conn: sqlite3.Connection, n: int) -> None:
    """More than the file may hold: SQLite rolls the whole transaction back."""
    insert(conn, n)
    conn.execute("CREATE TABLE IF NOT EXISTS ballast (b)")
    conn.execute("INSERT INTO ballast VALUES (zeroblob(10000000))")


def test_when_sqlite_loses_the_transaction_each_is_answered_truthfully(db: Any, path: Path) -> None:
    """A full disk rolls back everybody's rows; those that fit are written again, once each."""
    db.maintain(lambda conn: conn.execute("PRAGMA max_page_count = 100").fetchall())
    good, bad, good_too = write_together(db, (insert, 1), (fill_up, 2), (insert, 3))
    assert isinstance(outcome(bad), DatabaseFullError)
    assert outcome(good) is outcome(good_too) is None
    assert stored(path) == [1, 3]


def orphan(conn: sqlite3.Connection) -> None:
    conn.execute("INSERT INTO children VALUES (42)")


def test_when_the_commit_fails_each_is_answered_truthfully(db: Any, path: Path) -> None:
    """A deferred foreign key is checked by COMMIT, which then fails for all that share it."""
    db.write(lambda conn: conn.execute("CREATE TABLE parents (id INTEGER PRIMARY KEY)"))
    db.write(
        lambda conn: conn.execute(
            "CREATE TABLE children (id REFERENCES parents DEFERRABLE INITIALLY DEFERRED)"
        )
    )
    good, bad, good_too = write_together(db, (insert, 1), (orphan,), (insert, 3))
    assert isinstance(outcome(bad), sqlite3.IntegrityError)
    assert outcome(good) is outcome(good_too) is None
    assert stored(path) == [1, 3]
    assert outside(path, "SELECT * FROM children") == []


def test_a_write_alone_that_cannot_be_committed_is_undone(db: Any) -> None:
    """The next write does not find its transaction open."""
    db.write(lambda conn: conn.execute("CREATE TABLE parents (id INTEGER PRIMARY KEY)"))
    db.write(
        lambda conn: conn.execute(
            "CREATE TABLE children (id REFERENCES parents DEFERRABLE INITIALLY DEFERRED)"
        )
    )
    with pytest.raises(sqlite3.IntegrityError):
        db.write(orphan)
    db.write(insert, 1)
    assert db.read(numbers) == [1]


def test_a_long_queue_is_served_in_batches_without_loss(db: Any, path: Path) -> None:
    """More writes than one transaction takes."""
    futures = write_together(db, *((insert, n) for n in range(200)))
    assert [outcome(f) for f in futures] == [None] * 200
    assert stored(path) == list(range(200))
