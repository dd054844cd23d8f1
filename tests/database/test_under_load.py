"""Many threads, tasks and processes at once: every invariant holds at every moment."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path

from langgraph_sqlite_saver.database import AsyncDatabase, Database

from .helpers import DEADLOCK, beside, check_integrity, in_thread, outcome, outside, run_script

# Two accounts that always hold 100 together, and a journal of what was moved.


def open_accounts(conn: sqlite3.Connection) -> None:
    conn.execute("CREATE TABLE accounts (name TEXT PRIMARY KEY, balance INTEGER)")
    conn.execute("CREATE TABLE journal (n INTEGER)")
    conn.execute("INSERT INTO accounts VALUES ('a', 100), ('b', 0)")


def move(conn: sqlite3.Connection, amount: int) -> None:
    conn.execute("UPDATE accounts SET balance = balance - ? WHERE name = 'a'", (amount,))
    conn.execute("INSERT INTO journal VALUES (?)", (amount,))
    if amount % 7 == 0:
        raise ArithmeticError
    conn.execute("UPDATE accounts SET balance = balance + ? WHERE name = 'b'", (amount,))


def check(conn: sqlite3.Connection) -> None:
    balances = [conn.execute(f"SELECT balance FROM accounts WHERE name = '{n}'") for n in "ab"]
    assert sum(cursor.fetchone()[0] for cursor in balances) == 100
    assert (
        conn.execute("SELECT coalesce(sum(n), 0) FROM journal").fetchone()
        == conn.execute("SELECT balance FROM accounts WHERE name = 'b'").fetchone()
    )


def check_all(path: Path, moved: int) -> None:
    assert outside(path, "SELECT count(*) FROM journal") == [(moved,)]
    with Database(path) as db:
        db.read(check)
    check_integrity(path)
    assert beside(path) == set()


AMOUNTS = list(range(1, 101))
WHOLE = sum(1 for n in AMOUNTS if n % 7)


def work(db: Database) -> None:
    for amount in AMOUNTS:
        try:
            db.write(move, amount)
        except ArithmeticError:
            assert amount % 7 == 0
        db.read(check)


def test_eight_threads(path: Path) -> None:
    """Reading and writing in turn, one write in seven failing."""
    with Database(path) as db:
        db.write(open_accounts)
        futures = [in_thread(work, db) for _ in range(8)]
        assert [outcome(f) for f in futures] == [None] * 8
    check_all(path, 8 * WHOLE)


def test_sixty_four_tasks(path: Path) -> None:
    """The same on one event loop."""

    async def task(db: AsyncDatabase) -> None:
        for amount in AMOUNTS[:20]:
            try:
                await db.write(move, amount)
            except ArithmeticError:
                assert amount % 7 == 0
            await db.read(check)

    async def main() -> None:
        async with AsyncDatabase(path) as db:
            await db.write(open_accounts)
            await asyncio.wait_for(asyncio.gather(*(task(db) for _ in range(64))), DEADLOCK)

    asyncio.run(main())
    check_all(path, 64 * 18)


def test_threads_and_tasks_on_one_database(path: Path) -> None:
    """Blocking and awaited calls stand in the same queue."""

    async def main(database: Database) -> None:
        db = AsyncDatabase(database)
        futures = [in_thread(work, database) for _ in range(4)]

        async def task() -> None:
            for amount in AMOUNTS:
                if amount % 7:
                    await db.write(move, amount)
                await db.read(check)

        await asyncio.wait_for(asyncio.gather(*(task() for _ in range(8))), DEADLOCK)
        while not all(f.done() for f in futures):
            await asyncio.sleep(0.01)
        assert [outcome(f) for f in futures] == [None] * 4
        await db.close()

    with Database(path) as database:
        database.write(open_accounts)
        asyncio.run(main(database))
    check_all(path, 12 * WHOLE)


def test_four_processes_of_two_threads(path: Path) -> None:
    """On one file, each with a database of its own."""
    with Database(path) as db:
        db.write(open_accounts)
    code = """
        from database.test_under_load import work

        def child():
            with Database(sys.argv[1]) as db:
                futures = [in_thread(work, db) for _ in range(2)]
                assert all_ok([outcome(f) for f in futures])

        pids = [forked(child) for _ in range(4)]
        assert all([ended_well(pid) for pid in pids])
    """
    run_script(code, path)
    check_all(path, 8 * WHOLE)
