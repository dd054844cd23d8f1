"""Locks of other processes: waited for up to a limit, then reported."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from concurrent.futures import wait
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from langgraph_sqlite_saver.database import Database, DatabaseLockedError, UnknownSchemaError

from .helpers import (
    DEADLOCK,
    Gate,
    beside,
    blocking,
    check_integrity,
    create,
    in_thread,
    insert,
    numbers,
    outcome,
    outside,
    queued,
    run_script,
    schema,
    stored,
    wait_until,
    write_together,
)


@contextmanager
def locked(path: Path) -> Iterator[sqlite3.Connection]:
    """Another connection holds the write lock."""
    with closing(sqlite3.connect(path, isolation_level=None)) as conn:
        conn.execute("BEGIN IMMEDIATE")
        yield conn


@pytest.fixture
def impatient(open_database: Any, path: Path) -> Any:
    """A database that waits for 0.2 s."""
    db = open_database(path, lock_timeout=0.2)
    db.write(create)
    return db


def test_a_lock_held_too_long_is_an_error_that_names_file_and_limit(
    impatient: Any, path: Path
) -> None:
    """For a write alone; afterwards the database is usable."""
    with locked(path):
        with pytest.raises(DatabaseLockedError, match=rf"{path}.*0\.2 s"):
            impatient.write(insert, 1)
    impatient.write(insert, 2)
    assert stored(path) == [2]


def test_all_that_wait_for_the_lock_together_get_the_error(impatient: Any, path: Path) -> None:
    """None of them is left unanswered or half done."""
    with locked(path):
        futures = [in_thread(impatient.write, insert, n) for n in range(5)]
        errors = [outcome(f) for f in futures]
    assert {type(e) for e in errors} == {DatabaseLockedError}
    assert stored(path) == []


def test_reads_do_not_mind_another_s_lock(impatient: Any, path: Path) -> None:
    """WAL: readers and a writer go together across processes too."""
    with locked(path):
        assert impatient.read(numbers) == []


def test_a_lock_held_shortly_is_waited_for(impatient: Any, path: Path) -> None:
    """The caller does not notice."""
    with locked(path) as conn:
        writing = in_thread(impatient.write, insert, 1)
        assert wait([writing], timeout=0.05).not_done
        conn.execute("COMMIT")
        assert outcome(writing) is None
    assert stored(path) == [1]


def test_a_locked_file_can_be_opened_once_the_lock_is_gone(path: Path) -> None:
    """An error at the first use is not remembered."""
    outside(path, "CREATE TABLE foreign_table (a)")
    with closing(sqlite3.connect(path, isolation_level=None)) as conn:
        conn.execute("BEGIN EXCLUSIVE")
        with Database(path, lock_timeout=0.1) as db:
            with pytest.raises(DatabaseLockedError):
                db.write(create)
            conn.execute("COMMIT")
            db.write(create)
            assert db.read(numbers) == []


def test_a_group_that_meets_a_lock_is_committed_when_it_is_gone(db: Any, path: Path) -> None:
    """The lock is taken between two transactions of a queue."""
    with locked(path) as conn:
        writing = [in_thread(db.write, insert, n) for n in range(3)]
        conn.execute("COMMIT")
        assert [outcome(f) for f in writing] == [None] * 3
    assert [outcome(f) for f in write_together(db, (insert, 3), (insert, 4))] == [None] * 2
    assert stored(path) == [0, 1, 2, 3, 4]


TOGETHER = """
    directory = Path(sys.argv[1])
    own = schema("CREATE TABLE numbers (n INTEGER);", "CREATE INDEX by_n ON numbers (n);")
    for round in range(12):
        path = directory / f"{round}.db"
        read_end, write_end = os.pipe()

        def start():
            os.close(write_end)
            os.read(read_end, 1)  # returns for all at once
            with Database(path, schemas=[own]) as db:
                db.write(insert, os.getpid())
                assert os.getpid() in db.read(numbers)

        pids = [forked(start) for _ in range(8)]
        os.close(write_end)
        os.close(read_end)
        assert all([ended_well(pid) for pid in pids])
        assert stored(path) == sorted(pids), "a row is missing"
        assert versions(path) == [1, 2]
    print("ok")
"""


def test_processes_may_start_together_on_a_missing_file(path: Path) -> None:
    """Eight of them, twelve times, without an error; each finds its row, tables are made once."""
    assert run_script(TOGETHER, path.parent) == "ok"
    check_integrity(path.parent / "0.db")
    assert beside(path) == {f"{n}.db" for n in range(12)}


def test_each_gets_an_error_of_his_own(impatient: Any, path: Path) -> None:
    """A traceback grows wherever its error is raised; type, message and cause are the same."""
    gate = Gate()
    first = in_thread(impatient.write, gate, 0)
    assert gate.entered.wait(DEADLOCK)
    waiting = [in_thread(impatient.write, insert, n) for n in range(3)]
    wait_until(lambda: queued(impatient) == 3)
    blocking(impatient)._lane._runner._begin = lambda: refuse(path)
    gate.open()
    assert outcome(first) is None
    errors = [outcome(f) for f in waiting]
    assert len({id(e) for e in errors}) == 3
    assert {(type(e), str(e), str(e.__cause__)) for e in errors} == {
        (DatabaseLockedError, str(path), "database is locked")
    }


def refuse(path: Path) -> None:
    raise DatabaseLockedError(str(path)) from sqlite3.OperationalError("database is locked")


def test_each_gets_an_error_of_his_own_when_it_cannot_be_opened(path: Path) -> None:
    """Three writes that wait behind a first one, and then share the attempt."""
    entered, go = threading.Event(), threading.Event()

    def refuse(conn: sqlite3.Connection) -> None:
        entered.set()
        assert go.wait(DEADLOCK)
        raise UnknownSchemaError("someone else's")

    outside(path, "CREATE TABLE theirs (a)")
    with Database(path, schemas=[schema(refuse=refuse)]) as db:
        first = in_thread(db.write, create)
        assert entered.wait(DEADLOCK)
        waiting = [in_thread(db.write, create) for _ in range(3)]
        wait_until(lambda: queued(db) == 3)
        go.set()
        errors = [outcome(f) for f in [first, *waiting]]
    assert len({id(e) for e in errors}) == 4
    assert {type(e) for e in errors} == {UnknownSchemaError}
