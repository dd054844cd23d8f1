"""What `on_event` is told: operations, commits, waits; whatever it raises harms nothing."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from langgraph_sqlite_saver.database import (
    AsyncDatabase,
    Database,
    DatabaseLockedError,
    Event,
    InvalidTypeError,
)

from .helpers import (
    DEADLOCK,
    Gate,
    Refused,
    create,
    in_thread,
    insert,
    insert_and_fail,
    numbers,
    outcome,
    queued,
    stored,
    wait_until,
    write_together,
)


class Told(list[Event]):
    """The events so far."""

    __call__ = list.append

    def of(self, kind: str) -> list[Event]:
        return [each for each in self if each.kind == kind]

    def operations(self) -> list[tuple[str, str, str | None]]:
        """Kind, name and error of the operations."""
        return [(e.kind, e.operation, e.error) for e in self if e.kind not in ("commit", "wait")]


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture(params=["path", "memory", "borrowed"])
def target(request: pytest.FixtureRequest, path: Path) -> Iterator[Any]:
    """What a database can be made of."""
    with closing(sqlite3.connect(path, check_same_thread=False)) as conn:
        yield {"path": path, "memory": ":memory:", "borrowed": conn}[request.param]


def test_each_operation_is_told_with_its_name_and_how_it_ended(
    open_database: Any, target: Any, told: Told
) -> None:
    """Its time is from the call to the answer."""
    db = open_database(target, on_event=told)
    db.write(create)
    db.write(insert, 1)
    assert db.read(numbers) == [1]
    db.maintain(numbers)
    with pytest.raises(Refused):
        db.write(insert_and_fail, 2)
    assert told.operations() == [
        ("write", "create", None),
        ("write", "insert", None),
        ("read", "numbers", None),
        ("maintain", "numbers", None),
        ("write", "insert_and_fail", "Refused"),
    ]
    assert all(0 < each.seconds < 60 for each in told)


def test_the_time_of_an_operation_holds_its_wait_for_others(
    open_database: Any, path: Path, told: Told
) -> None:
    """What the caller waited for; not what his operation took."""
    db = open_database(path, on_event=told)
    db.write(create)
    told.clear()
    gate = Gate()
    first = in_thread(db.write, gate)
    assert gate.entered.wait(DEADLOCK)
    second = in_thread(db.write, insert, 1)
    wait_until(lambda: queued(db) == 1)
    begun = time.perf_counter()
    time.sleep(0.02)  # how long it is held up
    held = time.perf_counter() - begun
    gate.open()
    assert outcome(first) is None and outcome(second) is None
    assert {each.operation: each.seconds > held for each in told.of("write")} == {
        "Gate": True, "insert": True,
    }  # fmt: skip


def test_a_commit_is_told_with_how_many_operations_shared_it_and_the_sizes(
    open_database: Any, path: Path, told: Told
) -> None:
    """Those that failed do not count; a read makes no commit."""
    db = open_database(path, on_event=told)
    db.write(create)
    told.clear()
    write_together(db, (insert, 1), (insert_and_fail, 2), (insert, 3))
    db.read(numbers)
    first, second = told.of("commit")
    assert (first.operations, second.operations) == (1, 2)
    assert stored(path) == [1, 3]
    assert second.database == str(path)
    assert second.file_bytes == path.stat().st_size
    assert second.wal_bytes == Path(f"{path}-wal").stat().st_size > 0


def test_a_wait_for_a_lock_is_told(open_database: Any, path: Path, told: Told) -> None:
    """With how long it took, also when it was in vain."""
    db = open_database(path, on_event=told, lock_timeout=0.05)
    db.write(create)
    assert told.of("wait") == []
    with closing(sqlite3.connect(path, isolation_level=None)) as conn:
        conn.execute("BEGIN IMMEDIATE")
        with pytest.raises(DatabaseLockedError):
            db.write(insert, 1)
    (wait,) = told.of("wait")
    assert 0.05 <= wait.seconds < 60
    db.write(insert, 1)
    assert len(told.of("wait")) == 1


def test_what_it_raises_harms_nothing_and_is_logged_once(
    open_database: Any, target: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Operations return what they return, and are committed."""

    def fail(event: Event) -> None:
        raise Refused(event.kind)

    db = open_database(target, on_event=fail)
    db.write(create)
    for number in (1, 2, 3):
        db.write(insert, number)
    assert db.read(numbers) == [1, 2, 3]
    found = [each for each in caplog.records if each.name == "langgraph_sqlite_saver.events"]
    assert len(found) == 1 and found[0].exc_info


def test_one_that_calls_the_database_is_refused(path: Path, told: Told) -> None:
    """It is called in the thread that commits."""
    errors = []

    def call_back(event: Event) -> None:
        if event.kind == "commit":
            try:
                db.write(insert, 7)
            except Exception as error:
                errors.append(type(error).__name__)

    with Database(path, on_event=call_back) as db:
        db.write(create)
    assert errors == ["ConnectionUnusableError"]
    assert stored(path) == []


@pytest.mark.parametrize("kind", [Database, AsyncDatabase])
def test_it_is_a_function_and_not_async(path: Path, kind: Any) -> None:
    """Nobody would await it."""

    async def later(event: Event) -> None: ...

    for wrong in (later, "print", 7):
        with pytest.raises(InvalidTypeError, match="on_event"):
            kind(path, on_event=wrong)
