"""Event loops: several, closed ones, cancelled tasks."""

from __future__ import annotations

import asyncio
import random
import sqlite3
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

from langgraph_sqlite_saver.database import AsyncDatabase, DatabaseClosedError

from .helpers import (
    DEADLOCK,
    Gate,
    beside,
    create,
    in_thread,
    in_transaction,
    insert,
    numbers,
    outcome,
    run_script,
    stored,
)

Run = Callable[[Coroutine[Any, Any, Any]], Any]


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    """Runs a coroutine on a new event loop, which is closed afterwards."""
    new_loop = (
        asyncio.new_event_loop
        if request.param == "asyncio"
        else pytest.importorskip("uvloop").new_event_loop
    )

    def run_one(coroutine: Coroutine[Any, Any, Any]) -> Any:
        loop = new_loop()
        try:
            return loop.run_until_complete(asyncio.wait_for(coroutine, DEADLOCK))
        finally:
            loop.close()

    return run_one


@pytest.fixture
def db(path: Path, run: Run) -> Iterator[AsyncDatabase]:
    opened = AsyncDatabase(path)
    run(opened.write(create))
    yield opened
    run(opened.close())


def test_loops_may_follow_one_another(db: AsyncDatabase, run: Run) -> None:
    """One database, a new loop for each call."""
    for n in range(5):
        run(db.write(insert, n))
        assert run(db.read(numbers)) == list(range(n + 1))


def test_loops_may_share_it_at_once(db: AsyncDatabase, run: Run, path: Path) -> None:
    """Four of them, on four threads."""

    async def work(start: int) -> None:
        for n in range(start, start + 25):
            await db.write(insert, n)
            assert n in await db.read(numbers)

    futures = [in_thread(lambda k=k: run(work(100 * k))) for k in range(4)]
    assert [outcome(f) for f in futures] == [None] * 4
    assert len(stored(path)) == 100


@pytest.mark.parametrize("call", ["read", "write"])
def test_a_loop_closed_with_a_call_under_way_harms_nobody(
    db: AsyncDatabase, run: Run, path: Path, call: str
) -> None:
    """The write is completed, and the next loop is served."""
    gate, left = Gate(), []

    async def begin() -> None:
        op = gate if call == "write" else gate.wait
        left.append(asyncio.ensure_future(getattr(db, call)(op)))
        if call == "write":
            left.append(asyncio.ensure_future(db.write(insert, 1)))
        while not gate.entered.is_set():
            await asyncio.sleep(0.001)

    run(begin())
    gate.open()
    run(db.write(insert, 2))
    assert run(db.read(numbers)) == ([1, 2] if call == "write" else [2])


def test_reads_of_the_next_loop_don_t_wait_for_one_left_behind(db: AsyncDatabase, run: Run) -> None:
    """A loop was closed while it had a long read, and called for help with the next."""
    gate, left = Gate(), []

    async def begin() -> None:
        left.append(asyncio.ensure_future(db.read(gate.wait)))
        while not gate.entered.is_set():
            await asyncio.sleep(0)
        left.append(asyncio.ensure_future(db.read(numbers)))
        await asyncio.sleep(0)

    run(begin())
    time.sleep(0.01)
    assert run(db.read(numbers)) == []
    gate.open()


def test_reads_that_are_asked_for_at_once_run_at_once(db: AsyncDatabase, run: Run) -> None:
    """From one task group: each long read gets a thread, without another call to push it."""
    gates = [Gate() for _ in range(4)]

    async def main() -> None:
        reading = asyncio.gather(*(db.read(gate.wait) for gate in gates))
        while not all(gate.entered.is_set() for gate in gates):
            await asyncio.sleep(0.001)
        for gate in gates:
            gate.open()
        await reading

    run(main())


def test_calls_may_be_cancelled_at_any_moment(db: AsyncDatabase, run: Run, path: Path) -> None:
    """Three hundred of them, by chance; what returned is there, and no transaction is open."""
    chance = random.Random(1)
    returned: list[int] = []

    async def call(n: int) -> None:
        if n % 2:
            await db.read(numbers)
        else:
            await db.write(insert, n)
            returned.append(n)

    async def main() -> None:
        tasks = []
        for n in range(300):
            tasks.append(asyncio.ensure_future(call(n)))
            await asyncio.sleep(chance.choice([0, 0, 0.0001, 0.001]))
            chance.choice(tasks).cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert not await db.maintain(in_transaction)
        await db.write(insert, -1)

    run(main())
    there = stored(path)
    assert set(returned) < set(there)
    assert len(there) == len(set(there))


def test_a_cancelled_write_that_was_queued_is_completed(
    db: AsyncDatabase, run: Run, path: Path
) -> None:
    """Its caller does not learn of it."""

    async def main() -> None:
        gate = Gate()
        first = asyncio.ensure_future(db.write(gate))
        second = asyncio.ensure_future(db.write(insert, 1))
        await asyncio.sleep(0)
        second.cancel()
        gate.open()
        await first
        await db.write(insert, 2)
        assert second.cancelled()

    run(main())
    assert stored(path) == [1, 2]


def test_a_cancelled_close_is_completed(db: AsyncDatabase, run: Run, path: Path) -> None:
    """Later ones wait for it."""

    async def main() -> None:
        gate = Gate()
        writing = asyncio.ensure_future(db.write(gate, 1))
        while not gate.entered.is_set():
            await asyncio.sleep(0.001)
        closing = asyncio.ensure_future(db.close())
        await asyncio.sleep(0.01)
        closing.cancel()
        await asyncio.sleep(0)
        with pytest.raises(DatabaseClosedError):
            await db.read(numbers)
        gate.open()
        await writing
        await asyncio.gather(*(db.close() for _ in range(10)))

    run(main())
    assert beside(path) == set()


def test_the_loop_goes_on_while_an_operation_runs(db: AsyncDatabase, run: Run) -> None:
    """Reading, writing and closing block no other task."""

    async def main() -> None:
        for call in (db.read, db.write, db.maintain):
            gate = Gate()
            task = asyncio.ensure_future(call(gate.wait))
            await asyncio.sleep(0)
            assert not task.done()
            gate.open()
            await task

    run(main())


def test_sixty_four_tasks(db: AsyncDatabase, run: Run, path: Path) -> None:
    """Each sees its own writes; all are there at the end."""

    async def work(k: int) -> None:
        for n in range(k * 10, k * 10 + 10):
            await db.write(insert, n)
            assert n in await db.read(numbers)

    async def main() -> None:
        await asyncio.gather(*(work(k) for k in range(64)))

    run(main())
    assert stored(path) == list(range(640))


def test_an_error_of_one_task_is_not_another_s(db: AsyncDatabase, run: Run) -> None:
    """Answers are given together; each is its own."""

    def fail(conn: sqlite3.Connection, n: int) -> None:
        raise ValueError(n)

    async def main() -> None:
        calls = [db.read(fail, n) if n % 2 else db.read(lambda conn, n: n, n) for n in range(100)]
        answers = await asyncio.gather(*calls, return_exceptions=True)
        for n, each in enumerate(answers):
            assert each.args == (n,) if n % 2 else each == n

    run(main())


def test_a_read_is_answered_when_it_is_done(path: Path, run: Run) -> None:
    """Not when the one behind it, on the same thread, is done as well."""

    async def main() -> None:
        async with AsyncDatabase(path, readers=1) as db:
            await db.write(create)
            gate = Gate()
            quick, slow = (asyncio.ensure_future(db.read(op)) for op in (numbers, gate.wait))
            assert await quick == []
            assert not slow.done()
            gate.open()
            await slow

    run(main())


AFTER_THE_MAIN_THREAD = """
    # A loop on a thread that the main thread does not wait for, as it ends.
    db = AsyncDatabase(sys.argv[1])
    def serve():
        async def main():
            await db.write(create)
            threading.main_thread().join()
            await asyncio.gather(*[db.write(insert, n) for n in range(5)])
            print(*await asyncio.gather(db.read(numbers), db.read_long(numbers)), flush=True)
            await db.close()
        asyncio.run(main())
    threading.Thread(target=serve).start()
"""


def test_calls_after_the_main_thread_has_ended_are_answered(path: Path) -> None:
    """There the executors start nothing any more."""
    assert run_script(AFTER_THE_MAIN_THREAD, path) == "[0, 1, 2, 3, 4] [0, 1, 2, 3, 4]"


AT_EXIT = """
    import atexit
    db = AsyncDatabase(sys.argv[1])
    async def last():
        await db.write(insert, 7)
        print(await db.read(numbers), flush=True)
        await db.close()
    atexit.register(lambda: asyncio.run(last()))
    asyncio.run(db.write(create))
"""


def test_calls_at_exit_are_answered(path: Path) -> None:
    """From a handler that a program has left with atexit."""
    assert run_script(AT_EXIT, path) == "[7]"
