"""Threads whose every step is known from its number, so that anybody can check what is stored.

Imported by the child processes too: nothing here needs pytest.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Iterable
from typing import Any

from langgraph.checkpoint.base import CheckpointTuple


def id_at(n: int) -> str:
    return f"{n:08}"


def version_at(n: int) -> str:
    return f"{n:032}.0.{n:014}"


def versions_at(n: int) -> dict[str, str]:
    """Most channels change at every step; `files` does at every third."""
    steady = dict.fromkeys(("count", "messages", "picture", "log"), version_at(n))
    return {**steady, "files": version_at(n - n % 3)}


def values_at(thread: str, n: int) -> dict[str, Any]:
    return {
        "count": n,
        "messages": [f"{thread}: {number}" for number in range(max(0, n - 9), n + 1)],
        "picture": f"{thread}/{n}".encode() * 20,
        "files": {"thread": thread, "step": n - n % 3, "text": "x" * 500},
        "log": log_at(thread, n),
    }


def log_at(thread: str, n: int) -> list[str]:
    """Grows by a line at each step, from 40 lines on (so that it is stored as a difference) to 70.

    The lines have nothing in common.
    """
    texts = (f"{thread}: {number}" for number in range(n - n % 30 - 40, n + 1))
    return [hashlib.blake2b(text.encode()).hexdigest() for text in texts]


def checkpoint_at(thread: str, n: int) -> Any:
    return {
        "v": 4,
        "id": id_at(n),
        "ts": "2026-01-01T00:00:00+00:00",
        "channel_values": values_at(thread, n),
        "channel_versions": versions_at(n),
        "versions_seen": {},
        "updated_channels": None,
    }


def new_versions_at(n: int) -> Any:
    return {channel: v for channel, v in versions_at(n).items() if v == version_at(n)}


def metadata_at(thread: str, n: int) -> Any:
    """A run takes ten steps."""
    return {"source": "loop", "step": n, "run_id": f"{thread} run {n // 10}"}


def writes_at(thread: str, n: int) -> list[tuple[str, Any]]:
    """One of them carries the state along."""
    carried = {"log": log_at(thread, n), "for": thread}
    return [("messages", [f"{thread}: {n}"]), ("count", n), ("sends", carried)]


TASK = "task"

# How much longer than in the normal run everything takes.
SCALE = 10 if os.environ.get("HYPOTHESIS_PROFILE") == "soak" else 1


def config_of(thread: str, n: int | None = None) -> Any:
    named = {} if n is None else {"checkpoint_id": id_at(n)}
    return {"configurable": {"thread_id": thread, "checkpoint_ns": "", **named}}


def parent_of(n: int) -> int | None:
    return n - 1 if n else None


def put_arguments(thread: str, n: int) -> tuple[Any, ...]:
    return (
        config_of(thread, parent_of(n)),
        checkpoint_at(thread, n),
        metadata_at(thread, n),
        new_versions_at(n),
    )


def save(saver: Any, thread: str, n: int) -> None:
    """One step: a checkpoint and a task's writes on it."""
    saver.put(*put_arguments(thread, n))
    saver.put_writes(config_of(thread, n), writes_at(thread, n), TASK)


async def asave(saver: Any, thread: str, n: int) -> None:
    await saver.aput(*put_arguments(thread, n))
    await saver.aput_writes(config_of(thread, n), writes_at(thread, n), TASK)


def check(found: CheckpointTuple | None, thread: str, n: int, *, writes: bool = True) -> None:
    """It is that step, exactly; its writes, where they may be missing, are all there or none."""
    assert found is not None, f"step {n} of {thread} is lost"
    assert found.checkpoint == checkpoint_at(thread, n), (thread, n, found.checkpoint)
    assert found.metadata == metadata_at(thread, n), (thread, n, found.metadata)
    expected = [(TASK, channel, value) for channel, value in writes_at(thread, n)]
    if writes or found.pending_writes:
        assert found.pending_writes == expected, (thread, n, found.pending_writes)


def check_thread(found: Iterable[CheckpointTuple], thread: str, numbers: Iterable[int]) -> None:
    """These are those steps of the thread, newest first."""
    listed = list(found)
    wanted = sorted(numbers, reverse=True)
    assert [each.checkpoint["id"] for each in listed] == [id_at(n) for n in wanted]
    for each, n in zip(listed, wanted, strict=True):
        check(each, thread, n)


def work(saver: Any, thread: str, steps: int) -> None:
    """Save steps, and look now and then at what was saved."""
    for n in range(steps):
        save(saver, thread, n)
        if n % 4 == 0:
            check(saver.get_tuple(config_of(thread)), thread, n)
            check(saver.get_tuple(config_of(thread, n // 2)), thread, n // 2)
    check_thread(saver.list(config_of(thread)), thread, range(steps))


async def awork(saver: Any, thread: str, steps: int) -> None:
    for n in range(steps):
        await asave(saver, thread, n)
        if n % 4 == 0:
            check(await saver.aget_tuple(config_of(thread)), thread, n)
            check(await saver.aget_tuple(config_of(thread, n // 2)), thread, n // 2)
    found = [each async for each in saver.alist(config_of(thread))]
    check_thread(found, thread, range(steps))


def work_in_process(kind: str, path: str, thread: str, steps: int) -> None:
    """What a process of its own does: two tasks of an async saver, or a sync saver."""
    from langgraph_sqlite_saver import AsyncSqliteSaver, SqliteSaver

    if kind == "sync":
        with SqliteSaver(path) as saver:
            work(saver, thread, steps)
        return

    async def main() -> None:
        async with AsyncSqliteSaver(path) as saver:
            await asyncio.gather(
                awork(saver, thread, steps // 2), awork(saver, f"{thread} too", steps // 2)
            )

    asyncio.run(main())
