"""Databases in memory: one connection, correct under threads."""

from __future__ import annotations

from concurrent.futures import wait
from pathlib import Path
from typing import Any

import pytest

from langgraph_sqlite_saver.database import DatabaseClosedError

from .helpers import (
    DEADLOCK,
    Gate,
    Refused,
    blocking,
    create,
    in_thread,
    insert,
    insert_and_fail,
    numbers,
    outcome,
    pragma,
    schema,
)


def test_it_reads_and_writes(open_database: Any) -> None:
    """With its tables made, and no file."""
    db = open_database(":memory:", schemas=[schema("CREATE TABLE numbers (n);")])
    db.write(insert, 1)
    with pytest.raises(Refused):
        db.write(insert_and_fail, 2)
    assert db.read(numbers) == [1]
    assert blocking(db).path is None


def test_each_is_alone(open_database: Any) -> None:
    """And gone when closed; pragmas count here too."""
    first, second = open_database(":memory:", pragmas={"cache_size": 7}), open_database(":memory:")
    first.write(create)
    assert first.read(pragma, "cache_size") == 7
    assert second.read(lambda conn: conn.execute("SELECT * FROM sqlite_master").fetchall()) == []
    first.close()
    with pytest.raises(DatabaseClosedError):
        first.read(numbers)


def test_a_shared_one_is_reached_by_its_uri(open_database: Any, tmp_path: Path) -> None:
    """SQLite's `mode=memory&cache=shared`."""
    uri = f"file:{tmp_path.name}?mode=memory&cache=shared"
    first, second = open_database(uri), open_database(uri)
    first.write(create)
    first.write(insert, 1)
    assert second.read(numbers) == [1]


def test_eight_threads(open_database: Any) -> None:
    """Each sees its own writes; all are there at the end."""
    db = open_database(":memory:")
    db.write(create)

    def work(k: int) -> None:
        for n in range(k * 25, k * 25 + 25):
            db.write(insert, n)
            assert n in db.read(numbers)

    futures = [in_thread(work, k) for k in range(8)]
    assert [outcome(f) for f in futures] == [None] * 8
    assert db.read(numbers) == list(range(200))


def test_a_shared_one_that_is_locked_is_waited_for(open_database: Any, tmp_path: Path) -> None:
    """Also while it is opened."""
    uri = f"file:{tmp_path.name}?mode=memory&cache=shared"
    first = open_database(uri)
    second = open_database(uri, schemas=[schema("CREATE TABLE letters (l);")])
    first.write(create)
    gate = Gate()
    writing = in_thread(first.write, gate, 1)
    assert gate.entered.wait(DEADLOCK)
    opening = in_thread(second.read, numbers)
    assert wait([opening], timeout=0.05).not_done
    gate.open()
    assert outcome(writing) is None
    assert outcome(opening) == [1]
