"""aiosqlite connections: run on their own thread, theirs to configure and to close."""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
from collections.abc import Callable, Coroutine
from contextlib import closing
from pathlib import Path
from typing import Any

import aiosqlite
import pytest

from langgraph_sqlite_saver.database import (
    AiosqliteDatabase,
    CannotOpenError,
    ConnectionUnusableError,
    DatabaseClosedError,
    OwnersTransactionWarning,
    aiosqlite_,
)
from langgraph_sqlite_saver.database.aiosqlite_ import _on_its_thread

from .helpers import (
    DEADLOCK,
    Refused,
    create,
    insert,
    insert_and_fail,
    numbers,
    outside,
    schema,
    script,
    stored,
    versions,
)

Test = Callable[[AiosqliteDatabase, aiosqlite.Connection], Coroutine[Any, Any, None]]


def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(asyncio.wait_for(coroutine, DEADLOCK))


def borrowed(path: Path, test: Test, **options: Any) -> None:
    """Run a test with an open connection and a database on it that has its table."""

    async def main() -> None:
        async with aiosqlite.connect(path, **options) as conn:
            db = AiosqliteDatabase(conn)
            await db.write(create)
            await test(db, conn)

    run(main())


def test_aiosqlite_runs_a_function_on_its_thread(path: Path) -> None:
    """The one private call that we make."""

    async def main() -> None:
        async with aiosqlite.connect(path) as conn:
            one = await _on_its_thread(conn, lambda *args: (conn._conn.total_changes, *args), 1, 2)
            assert one == (0, 1, 2)
            with pytest.raises(Refused):
                await _on_its_thread(conn, insert_and_fail_without_table)

    def insert_and_fail_without_table() -> None:
        raise Refused

    run(main())


def test_it_reads_and_writes(path: Path) -> None:
    """What returned is committed; what failed is undone."""

    async def test(db: AiosqliteDatabase, conn: aiosqlite.Connection) -> None:
        await db.write(insert, 1)
        with pytest.raises(Refused):
            await db.write(insert_and_fail, 2)
        assert await db.read(numbers) == stored(path) == [1]
        await db.maintain(lambda conn: conn.execute("VACUUM"))

    borrowed(path, test)


def test_one_that_is_not_started_is_started(path: Path) -> None:
    """Once, however many tasks come at the same time."""

    async def main() -> None:
        conn = aiosqlite.connect(path)
        db = AiosqliteDatabase(conn, schemas=[schema("CREATE TABLE numbers (n);")])
        await asyncio.gather(*(db.write(insert, n) for n in range(10)))
        assert await db.read(numbers) == list(range(10))
        await conn.close()

    run(main())
    assert versions(path) == [1]


def test_one_that_cannot_be_opened_is_said_clearly(path: Path) -> None:
    """As for a path."""

    async def main() -> None:
        conn = aiosqlite.connect(path / "nowhere")
        db = AiosqliteDatabase(conn)
        with pytest.raises(CannotOpenError):
            await db.read(numbers)
        with pytest.raises(DatabaseClosedError):
            await db.read(numbers)
        while conn._thread.is_alive():  # it ends by calling back into this loop
            await asyncio.sleep(0.001)

    run(main())


def test_an_open_transaction_is_committed_with_what_is_written(path: Path) -> None:
    """A call returns after its commit, whatever the owner left open; he is told."""

    async def test(db: AiosqliteDatabase, conn: aiosqlite.Connection) -> None:
        await conn.execute("INSERT INTO numbers VALUES (1)")
        with pytest.raises(ConnectionUnusableError):
            await db.maintain(numbers)
        assert await db.read(numbers) == [1]
        with pytest.warns(OwnersTransactionWarning):
            await db.write(insert, 2)
        assert await db.read(numbers) == stored(path) == [1, 2]

    borrowed(path, test)


@pytest.mark.parametrize("end", ["COMMIT", "ROLLBACK"])
def test_a_transaction_that_another_task_ends_is_left_to_it(
    path: Path, end: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is waited for, and its statements have the thread meanwhile."""
    monkeypatch.setattr(aiosqlite_, "PATIENCE", DEADLOCK)

    async def test(db: AiosqliteDatabase, conn: aiosqlite.Connection) -> None:
        await conn.execute("BEGIN")
        await conn.execute("INSERT INTO numbers VALUES (1)")
        writing = asyncio.ensure_future(db.write(insert, 2))
        await asyncio.sleep(0.01)
        await conn.execute("INSERT INTO numbers VALUES (3)")
        assert not writing.done()
        await conn.execute(end)
        await writing
        assert stored(path) == ([1, 2, 3] if end == "COMMIT" else [2])

    borrowed(path, test)


def test_its_settings_are_left_alone(path: Path) -> None:
    """And don't disturb ours."""

    async def test(db: AiosqliteDatabase, conn: aiosqlite.Connection) -> None:
        conn.row_factory = sqlite3.Row
        assert await db.read(lambda conn: type(conn.execute("SELECT 1").fetchone())) is tuple
        assert conn.row_factory is sqlite3.Row
        assert conn.isolation_level == ""
        async with conn.execute("PRAGMA foreign_keys") as cursor:
            assert tuple(await cursor.fetchone() or ()) == (0,)

    borrowed(path, test)


def test_it_stays_open_when_the_database_is_closed(path: Path) -> None:
    """Later calls through the database are refused."""

    async def test(db: AiosqliteDatabase, conn: aiosqlite.Connection) -> None:
        await db.close()
        with pytest.raises(DatabaseClosedError):
            await db.read(numbers)
        async with conn.execute("SELECT 1") as cursor:
            assert await cursor.fetchone() == (1,)

    borrowed(path, test)


def test_closed_by_its_owner_is_said_clearly(path: Path) -> None:
    """Whether it was used before or not."""

    async def main(used: bool) -> None:
        conn = await aiosqlite.connect(path)
        db = AiosqliteDatabase(conn)
        if used:
            await db.write(create)
        await conn.close()
        with pytest.raises(DatabaseClosedError, match="closed by its owner"):
            await db.read(numbers)

    run(main(True))
    run(main(False))


def test_one_whose_thread_died_is_said_clearly(path: Path) -> None:
    """aiosqlite's thread dies of a loop that was closed with a call under way."""
    code = """
        import aiosqlite
        gate = Gate()

        async def begin():
            db = AiosqliteDatabase(await aiosqlite.connect(sys.argv[1]))
            await db.write(create)
            left.append(asyncio.ensure_future(db.write(gate)))
            while not gate.entered.is_set():
                await asyncio.sleep(0.001)
            return db

        left = []
        loop = asyncio.new_event_loop()
        db = loop.run_until_complete(begin())
        loop.close()
        gate.open()
        wait_until(lambda: not db.connection._thread.is_alive())
        try:
            asyncio.run(asyncio.wait_for(db.read(numbers), 30))
        except ConnectionUnusableError as error:
            print(error, flush=True)
        os._exit(0)
    """
    # What aiosqlite's thread says as it dies goes to stderr.
    done = subprocess.run(script(code, path), capture_output=True, text=True, timeout=DEADLOCK)
    assert "lost its thread" in done.stdout


def test_cancelled_calls_leave_it_usable(path: Path) -> None:
    """No transaction stays open."""

    async def test(db: AiosqliteDatabase, conn: aiosqlite.Connection) -> None:
        for n in range(50):
            task = asyncio.ensure_future(db.write(insert, n))
            await asyncio.sleep(0)
            task.cancel()
        await db.write(insert, 100)
        assert not conn.in_transaction
        assert stored(path)[-1] == 100

    borrowed(path, test)


def test_sixty_four_tasks(path: Path) -> None:
    """One after the other on the one connection."""

    async def test(db: AiosqliteDatabase, conn: aiosqlite.Connection) -> None:
        async def work(n: int) -> None:
            await db.write(insert, n)
            assert n in await db.read(numbers)

        await asyncio.gather(*(work(n) for n in range(64)))
        assert stored(path) == list(range(64))

    borrowed(path, test)


def test_a_lock_is_waited_for_while_it_is_opened(path: Path) -> None:
    """For lock_timeout, whatever timeout its owner has set."""
    outside(path, "PRAGMA journal_mode = WAL")

    async def main() -> None:
        async with aiosqlite.connect(path, timeout=0) as conn:
            db = AiosqliteDatabase(conn, schemas=[schema("CREATE TABLE numbers (n);")])
            with closing(sqlite3.connect(path, isolation_level=None)) as other:
                other.execute("BEGIN IMMEDIATE")
                opening = asyncio.ensure_future(db.write(insert, 1))
                await asyncio.sleep(0.05)
                assert not opening.done()
                other.execute("COMMIT")
                await opening

    run(main())
    assert stored(path) == [1]
