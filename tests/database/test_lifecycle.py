"""Closing: what is under way is completed, what comes later is refused."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from langgraph_sqlite_saver.database import AsyncDatabase, Database, DatabaseClosedError

from .helpers import (
    DEADLOCK,
    Gate,
    beside,
    blocking,
    create,
    in_thread,
    insert,
    numbers,
    outcome,
    queued,
    stored,
    wait_until,
)


def test_close_completes_what_is_under_way(db: Any, path: Path) -> None:
    """A write that runs, those that wait for it, and a read."""
    writing, reading = Gate(), Gate()
    futures = [in_thread(db.write, writing, 1), in_thread(db.read, reading.wait)]
    assert writing.entered.wait(DEADLOCK) and reading.entered.wait(DEADLOCK)
    futures += [in_thread(db.write, insert, 2), in_thread(db.write, insert, 3)]
    wait_until(lambda: queued(db) == 2)
    closing = in_thread(db.close)
    assert not closing.done()
    reading.open()
    writing.open()
    assert [outcome(f) for f in [*futures, closing]] == [None] * 5
    assert (stored(path), beside(path)) == ([1, 2, 3], set())


def test_later_calls_are_refused(db: Any, path: Path) -> None:
    """Whichever they are; the message names the file."""
    db.close()
    for call in (db.read, db.write, db.maintain):
        with pytest.raises(DatabaseClosedError, match=str(path)):
            call(numbers)


def test_closing_twice_does_nothing(db: Any) -> None:
    """Nor does closing what was never used."""
    db.close()
    db.close()


def test_closing_from_several_threads_at_once(open_database: Any, path: Path) -> None:
    """Each returns when all is closed, none with an error."""
    for _ in range(20):
        db = open_database(path)
        db.write(create)
        futures = [in_thread(db.close) for _ in range(5)]
        assert [outcome(f) for f in futures] == [None] * 5
        assert beside(path) == set()


def test_whoever_closes_second_waits_for_the_first(db: Any, path: Path) -> None:
    """When `close` returns, it is closed."""
    gate = Gate()
    writing = in_thread(db.write, gate, 1)
    assert gate.entered.wait(DEADLOCK)
    closing = [in_thread(db.close), in_thread(db.close)]
    wait_until(lambda: blocking(db)._lane._closed)
    assert not any(f.done() for f in closing)
    gate.open()
    assert [outcome(f) for f in [writing, *closing]] == [None] * 3
    assert beside(path) == set()


def test_reads_that_wait_for_a_reader_end_when_it_is_closed(path: Path) -> None:
    """Served or refused: nobody waits for ever."""
    db = Database(path, readers=1)
    db.write(create)
    gate = Gate()
    reading = in_thread(db.read, gate.wait)
    assert gate.entered.wait(DEADLOCK)
    waiting = [in_thread(db.read, numbers) for _ in range(3)]
    closing = in_thread(db.close)
    gate.open()
    assert outcome(reading) is outcome(closing) is None
    for future in waiting:
        ended = outcome(future)
        assert ended == [] or isinstance(ended, DatabaseClosedError)


def test_closing_under_load_loses_nothing_that_returned(open_database: Any, path: Path) -> None:
    """Threads read and write until they are refused."""
    for _ in range(10):
        db = open_database(path)
        db.write(create)
        before = len(stored(path))

        def keep_writing(db: Any = db) -> int:
            written = 0
            while True:
                try:
                    db.write(insert, 1)
                    written += 1
                    db.read(numbers)
                except DatabaseClosedError:
                    return written

        threads = [in_thread(keep_writing) for _ in range(4)]
        wait_until(lambda before=before: len(stored(path)) > before + 10)
        db.close()
        assert sum(outcome(f) for f in threads) == len(stored(path)) - before
        assert beside(path) == set()


def test_with_closes(path: Path) -> None:
    """Also when its block fails."""
    with pytest.raises(ZeroDivisionError), Database(path) as db:
        db.write(create)
        _ = 1 / 0
    with pytest.raises(DatabaseClosedError):
        db.read(numbers)


def test_faces_share_a_database(shared: Database) -> None:
    """An `AsyncDatabase` made from a `Database` closes that."""

    async def main() -> None:
        async with AsyncDatabase(shared) as db:
            assert db.database is shared
            await db.write(insert, 1)
            assert await db.read(numbers) == shared.read(numbers) == [1]

    asyncio.run(main())
    with pytest.raises(DatabaseClosedError):
        shared.read(numbers)


def test_opening_what_was_closed_is_refused(path: Path) -> None:
    """As any call."""
    db = Database(path)
    db.open()
    db.close()
    with pytest.raises(DatabaseClosedError, match=str(path)):
        db.open()


def test_closing_an_awaitable_database_twice_starts_no_threads(path: Path) -> None:
    """The second time there is nothing to do."""

    async def main() -> None:
        db = AsyncDatabase(path)
        await db.write(create)
        await db.close()
        await db.close()
        assert db._executor is None

    asyncio.run(main())
