"""Six faults that were reproduced on langgraph-checkpoint-sqlite 3.1.2 or aiosqlite: none here."""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import aiosqlite
import pytest

from langgraph_sqlite_saver import (
    AsyncSqliteSaver,
    EventLoopError,
    SerializationError,
    SqliteSaver,
)

from .helpers import chain, checkpoint, count, place, save


def can_be_written(path: Path) -> bool:
    """Whether another connection gets the write lock at once: nobody left a transaction open."""
    with closing(sqlite3.connect(path, timeout=0)) as conn:
        conn.execute("BEGIN IMMEDIATE")
        conn.rollback()
    return True


WRITES = [("a", 1), ("b", (each for each in ())), ("c", 3)]


@pytest.mark.parametrize("target", ["file", "connection"])
def test_a_failing_put_writes_keeps_no_row_and_no_transaction(
    target: str, database_path: Path
) -> None:
    """Neither in the file nor on a connection that was lent."""
    with closing(sqlite3.connect(database_path, check_same_thread=False)) as conn:
        saver = SqliteSaver(database_path if target == "file" else conn)
        config = save(saver, 1)
        with pytest.raises(SerializationError):
            saver.put_writes(config, WRITES, "task")
        assert not conn.in_transaction
        assert can_be_written(database_path)
        assert saver.get_tuple(config).pending_writes == []
        saver.close()


@pytest.mark.parametrize("lent", [False, True])
def test_a_failing_aput_writes_keeps_no_row_and_no_transaction(
    lent: bool, database_path: Path
) -> None:
    """The next save does not publish the first half of a failed one."""

    async def scenario(saver: AsyncSqliteSaver) -> None:
        config = await saver.aput(place(), checkpoint(1), {}, {})
        with pytest.raises(SerializationError):
            await saver.aput_writes(config, WRITES, "task")
        assert can_be_written(database_path)
        await saver.aput(place(), checkpoint(2), {}, {})
        found = await saver.aget_tuple(config)
        assert found is not None
        assert found.pending_writes == []

    async def with_saver() -> None:
        if not lent:
            async with AsyncSqliteSaver(database_path) as saver:
                await scenario(saver)
            return
        async with aiosqlite.connect(database_path) as conn:
            await scenario(AsyncSqliteSaver(conn))

    asyncio.run(with_saver())


@pytest.mark.parametrize("lent", [False, True])
@pytest.mark.parametrize("turns", range(6))
def test_a_cancelled_aput_leaves_no_transaction_open(
    lent: bool, turns: int, database_path: Path
) -> None:
    """Whenever the cancellation comes; saver and file go on to work."""

    async def scenario(saver: AsyncSqliteSaver) -> None:
        await saver.aput(place(), checkpoint(1, {"a": [1]}), {}, {})
        for number in range(2, 12):
            task = asyncio.create_task(saver.aput(place(), checkpoint(number), {}, {}))
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        await saver.aput(place(), checkpoint(99), {}, {})
        assert can_be_written(database_path)
        found = await saver.aget_tuple(place())
        assert found is not None
        assert found.checkpoint["id"] == "000099"

    async def with_saver() -> None:
        if not lent:
            async with AsyncSqliteSaver(database_path) as saver:
                await scenario(saver)
            return
        async with aiosqlite.connect(database_path) as conn:
            await scenario(AsyncSqliteSaver(conn))

    asyncio.run(with_saver())


@pytest.mark.parametrize("target", ["file", "connection", ":memory:"])
def test_saving_inside_a_loop_over_list_goes_through(target: str, database_path: Path) -> None:
    """On the same saver, from the same thread and from another."""
    with closing(sqlite3.connect(database_path, check_same_thread=False)) as conn:
        saver = SqliteSaver({"file": database_path, "connection": conn}.get(target, target))
        chain(saver, 20)
        for number, _ in enumerate(saver.list(place()), start=100):
            save(saver, number)
            other = threading.Thread(target=save, args=(saver, number + 100))
            other.start()
            other.join()
        assert len(list(saver.list(place()))) == 60
        saver.close()


@pytest.mark.parametrize("lent", [False, True])
def test_saving_inside_a_loop_over_alist_goes_through(lent: bool, database_path: Path) -> None:
    """On the same saver, from the same task and from another."""

    async def scenario(saver: AsyncSqliteSaver) -> None:
        for number in range(1, 21):
            await saver.aput(place(), checkpoint(number), {}, {})
        number = 100
        async for _ in saver.alist(place()):
            number += 1
            await asyncio.gather(
                saver.aput(place(), checkpoint(number), {}, {}),
                saver.aput(place(), checkpoint(number + 100), {}, {}),
            )
        assert len([each async for each in saver.alist(place())]) == 60

    async def with_saver() -> None:
        if not lent:
            async with AsyncSqliteSaver(database_path) as saver:
                await scenario(saver)
            return
        async with aiosqlite.connect(database_path) as conn:
            await scenario(AsyncSqliteSaver(conn))

    asyncio.run(with_saver())


BLOCKING: dict[str, Any] = {
    "put": lambda s: s.put(place(), checkpoint(1), {}, {}),
    "put_writes": lambda s: s.put_writes(place(1), [("c", 1)], "task"),
    "get_tuple": lambda s: s.get_tuple(place()),
    "list": lambda s: list(s.list(place())),
    "delete_thread": lambda s: s.delete_thread("t"),
    "history": lambda s: s.get_delta_channel_history(config=place(), channels=["c"]),
}


@pytest.mark.parametrize("method", BLOCKING)
def test_a_blocking_call_from_the_loops_thread_does_not_block_for_ever(
    method: str, database_path: Path
) -> None:
    """An error that names what to await; nothing of the call is done."""

    async def scenario() -> None:
        async with AsyncSqliteSaver(database_path) as saver:
            with pytest.raises(EventLoopError, match="await"):
                BLOCKING[method](saver)

    asyncio.run(scenario())
    assert count(database_path, "checkpoints") == count(database_path, "checkpoint_writes") == 0


def test_after_a_loop_closed_with_saves_under_way_other_loops_go_on(database_path: Path) -> None:
    """aiosqlite's thread dies of it, and every later call hangs."""
    saver = AsyncSqliteSaver(database_path)
    for round_ in range(5):
        loop = asyncio.new_event_loop()
        saves = [
            loop.create_task(saver.aput(place(), checkpoint(100 * round_ + n), {}, {}))
            for n in range(1, 21)
        ]
        for _ in range(round_ + 1):
            loop.run_until_complete(asyncio.sleep(0))
        for task in saves:
            task.cancel()
        loop.run_until_complete(asyncio.gather(*saves, return_exceptions=True))
        loop.close()
    asyncio.run(saver.aput(place(), checkpoint(999), {}, {}))
    assert saver.get_tuple(place()).checkpoint["id"] == "000999"  # type: ignore[union-attr]
    saver.close()


UNCLOSED = """
import asyncio, sys
from langgraph_sqlite_saver import AsyncSqliteSaver
saver = AsyncSqliteSaver(sys.argv[1])
made = {"v": 4, "id": "1", "ts": "", "channel_values": {"a": [1]}, "channel_versions": {"a": 1},
        "versions_seen": {}}
asyncio.run(saver.aput({"configurable": {"thread_id": "t"}}, made, {}, {"a": 1}))
print("saved")
"""


def test_an_unclosed_async_saver_lets_the_process_end(database_path: Path) -> None:
    """With what it saved in the file, no warning, and no -wal left beside it."""
    command = [sys.executable, "-W", "error", "-c", UNCLOSED, str(database_path)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert ended.stdout == "saved\n"
    assert ended.stderr == ""
    assert count(database_path, "checkpoints") == 1
    assert [each.name for each in database_path.parent.iterdir()] == ["agent.db"]
