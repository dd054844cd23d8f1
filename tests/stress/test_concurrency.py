"""Threads, tasks and processes on one file: no error, nothing lost, nothing left over."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import threading
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import uvloop
from properties.rows import assert_sound

from langgraph_sqlite_saver import AsyncSqliteSaver, SqliteSaver

from .steps import (
    SCALE,
    asave,
    awork,
    check,
    check_thread,
    config_of,
    id_at,
    save,
    values_at,
    work,
    work_in_process,
)

KINDS = pytest.mark.parametrize("kind", [SqliteSaver, AsyncSqliteSaver], ids=["sync", "async"])
# A stuck call fails its test long before this, in seconds; nobody waits for it otherwise.
STUCK = 60 * SCALE
# Python 3.12 warns of every fork beside threads. That it goes well here is what is tested.
may_fork = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")


class Background:
    """A thread that runs a function during a `with` block, whose error the block ends in."""

    def __init__(self, function: Callable[[threading.Event], Any]) -> None:
        self._function = function
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._error: BaseException | None = None

    def _run(self) -> None:
        try:
            self._function(self._stop)
        except BaseException as error:
            self._error = error

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *exc_info: object) -> None:
        self._stop.set()
        self._thread.join(STUCK)
        assert not self._thread.is_alive()
        if self._error is not None:
            raise self._error


def in_threads(*functions: Callable[[], Any]) -> None:
    """Run all at once; the first error is raised."""
    with ThreadPoolExecutor(len(functions)) as pool:
        for future in [pool.submit(function) for function in functions]:
            future.result(STUCK)


@KINDS
def test_eight_threads_use_one_saver(kind: Any, database_path: Path) -> None:
    """Each finds at every moment what it has saved."""
    saver = kind(database_path)
    steps = 80 * SCALE
    names = [f"thread {number}" for number in range(8)]
    in_threads(*[partial(work, saver, name, steps) for name in names])
    assert len(list(saver.list(None))) == 8 * steps
    saver.close()
    assert_sound(database_path)


@KINDS
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_sixty_four_tasks_use_one_saver(kind: Any, loop: str, database_path: Path) -> None:
    """Each finds at every moment what it has saved."""

    steps = 9 * SCALE

    async def main() -> None:
        saver = kind(database_path)
        await asyncio.gather(*[awork(saver, f"task {number}", steps) for number in range(64)])
        assert len([each async for each in saver.alist(None)]) == 64 * steps
        await asyncio.to_thread(saver.close)

    (asyncio.run if loop == "asyncio" else uvloop.run)(main())
    assert_sound(database_path)


def test_eight_processes_use_one_file(database_path: Path) -> None:
    """They start together, before the file exists; none sees an error, nothing is lost."""
    spawn = multiprocessing.get_context("spawn")
    steps = 120 * SCALE
    kinds = ["sync", "async"] * 4
    processes = [
        spawn.Process(target=work_in_process, args=(kind, str(database_path), f"p{number}", steps))
        for number, kind in enumerate(kinds)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(STUCK)
    assert [process.exitcode for process in processes] == [0] * 8
    with SqliteSaver(database_path) as saver:
        for number, kind in enumerate(kinds):
            own = steps if kind == "sync" else steps // 2
            check_thread(saver.list(config_of(f"p{number}")), f"p{number}", range(own))
        assert len(list(saver.list(None))) == 8 * steps
    assert_sound(database_path)


@contextmanager
def held_transaction(database: Any) -> Iterator[threading.Event]:
    """A write transaction that stays open until the block ends; the event: it is over."""
    begun, may_end, over = threading.Event(), threading.Event(), threading.Event()

    def hold(conn: Any) -> None:
        conn.execute("UPDATE checkpoints SET metadata = '{}'")
        begun.set()
        assert may_end.wait(STUCK)

    def write() -> None:
        database.write(hold)
        over.set()

    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(write)
        try:
            assert begun.wait(STUCK)
            yield over
        finally:
            may_end.set()
            writing.result(STUCK)


def test_readers_do_not_wait_for_a_write(database_path: Path) -> None:
    """While a transaction is open, threads of its saver and of another one read what was there."""
    with SqliteSaver(database_path) as saver, SqliteSaver(database_path) as other:
        save(saver, "t", 0)
        save(saver, "t", 1)

        def read(reader: SqliteSaver) -> None:
            check(reader.get_tuple(config_of("t")), "t", 1)
            check_thread(reader.list(config_of("t")), "t", range(2))
            history = reader.get_delta_channel_history(config=config_of("t"), channels=["count"])
            assert history["count"]["seed"] == 0
            assert [thread.thread_id for thread in reader.threads()] == ["t"]

        with held_transaction(saver.database) as over:
            in_threads(*[partial(read, each) for each in [saver, other] * 4])
            assert not over.is_set()
        assert saver.get_tuple(config_of("t")).metadata == {}


def test_tasks_that_read_do_not_wait_for_a_write(database_path: Path) -> None:
    """The same on an event loop, one task of which has the transaction."""

    async def main() -> None:
        async with AsyncSqliteSaver(database_path) as saver:
            await asave(saver, "t", 0)
            await asave(saver, "t", 1)
            may_end = threading.Event()

            def hold(conn: Any) -> None:
                conn.execute("UPDATE checkpoints SET metadata = '{}'")
                assert may_end.wait(STUCK)

            writing = asyncio.create_task(saver.database.write(hold))
            behind = asyncio.create_task(asave(saver, "t", 2))

            async def read() -> None:
                check(await saver.aget_tuple(config_of("t")), "t", 1)
                found = [each async for each in saver.alist(config_of("t"))]
                check_thread(found, "t", range(2))

            try:
                await asyncio.wait_for(asyncio.gather(*[read() for _ in range(16)]), STUCK)
                assert not writing.done()
                assert not behind.done()
            finally:
                may_end.set()
            await asyncio.gather(writing, behind)
            check(await saver.aget_tuple(config_of("t", 2)), "t", 2)

    asyncio.run(main())


class Janitor:
    """Prunes, deletes runs, copies and deletes copies, until it is told to stop."""

    def __init__(self, saver: Any, threads: list[str]) -> None:
        self.saver, self.threads = saver, threads

    def __call__(self, stop: threading.Event) -> None:
        rounds = 0
        while not stop.is_set() or rounds < 3:
            for thread in self.threads:
                self.clean(thread, rounds)
            rounds += 1

    def clean(self, thread: str, rounds: int) -> None:
        saver, copy = self.saver, f"copy of {thread}"
        saver.copy_thread(thread, copy)
        for found in saver.list(config_of(copy)):  # nothing half-copied
            n = found.metadata["step"]
            assert found.checkpoint["channel_values"] == values_at(thread, n)
        if rounds % 3 == 0:
            saver.delete_thread(copy)
        elif rounds % 3 == 1:
            saver.prune([copy, thread], keep_last=4)
        elif head := saver.get_tuple(config_of(thread)):
            saver.delete_for_runs([head.metadata["run_id"]])  # the one under way, the head too


def keep_saving(saver: Any, thread: str, steps: int) -> None:
    """What a checkpoint has is whole, whether its parent is still there or not."""
    for n in range(steps):
        save(saver, thread, n)
        if (found := saver.get_tuple(config_of(thread, n))) is not None:
            check(found, thread, n, writes=False)
        for each in saver.list(config_of(thread), limit=3):
            check(each, thread, each.metadata["step"], writes=False)


def keep_saving_in_process(path: str, thread: str, steps: int) -> None:
    with SqliteSaver(path) as saver:
        keep_saving(saver, thread, steps)


@KINDS
def test_deleting_beside_live_threads_loses_nothing(kind: Any, database_path: Path) -> None:
    """Prune, delete_for_runs, delete_thread and copy_thread while threads and processes save.

    The janitor deletes what the writers are about to build on. Every checkpoint that is there has
    all its values nevertheless, and when all is quiet no orphan is left.
    """
    steps = 100 * SCALE
    janitors, near, beside = kind(database_path), kind(database_path), kind(database_path)
    inside = ["near 0", "near 1", "beside 0", "shared 0"]
    outside = ["outside 0", "outside 1"]
    janitor = Janitor(janitors, inside + outside)
    spawn = multiprocessing.get_context("spawn")
    processes = [
        spawn.Process(target=keep_saving_in_process, args=(str(database_path), name, steps))
        for name in outside
    ]
    for process in processes:
        process.start()
    savers = [near, near, beside, janitors]
    with Background(janitor):
        in_threads(
            *[
                partial(keep_saving, saver, name, steps)
                for saver, name in zip(savers, inside, strict=True)
            ]
        )
        for process in processes:
            process.join(STUCK)
    assert [process.exitcode for process in processes] == [0, 0]
    for name in inside + outside:
        save(near, name, steps)
        found = list(near.list(config_of(name)))
        assert found[0].checkpoint["id"] == id_at(steps)
        for each in found:
            check(each, name, each.metadata["step"], writes=False)
    for saver in (janitors, near, beside):
        saver.close()
    assert_sound(database_path)


def test_pruning_beside_live_threads_keeps_the_newest(database_path: Path) -> None:
    """What `keep_last` promises holds for what is saved meanwhile, by threads and processes."""
    spawn = multiprocessing.get_context("spawn")
    process = spawn.Process(
        target=work_pruned_in_process, args=(str(database_path), "far", 80 * SCALE)
    )
    process.start()
    names = ["near 0", "near 1"]
    steps = 80 * SCALE
    with SqliteSaver(database_path) as saver, SqliteSaver(database_path) as pruner:

        def prune(stop: threading.Event) -> None:
            while not stop.is_set():
                pruner.prune([*names, "far"], keep_last=6)

        with Background(prune):
            in_threads(*[partial(work_pruned, saver, name, steps) for name in names])
            process.join(STUCK)
        assert process.exitcode == 0
        pruner.prune([*names, "far"], keep_last=6)
        for name in [*names, "far"]:
            check_thread(saver.list(config_of(name)), name, range(steps - 6, steps))
    assert_sound(database_path)


def work_pruned(saver: Any, thread: str, steps: int) -> None:
    """The last six are always there, with their writes."""
    for n in range(steps):
        save(saver, thread, n)
        for newest in range(max(0, n - 5), n + 1):
            check(saver.get_tuple(config_of(thread, newest)), thread, newest)


def work_pruned_in_process(path: str, thread: str, steps: int) -> None:
    with SqliteSaver(path) as saver:
        work_pruned(saver, thread, steps)


def test_several_savers_of_one_process_share_a_file(database_path: Path) -> None:
    """As LangGraph's server has them: each sees at once what another has saved or deleted."""
    kinds = [SqliteSaver, AsyncSqliteSaver, SqliteSaver, AsyncSqliteSaver]
    savers = [kind(database_path) for kind in kinds]
    in_threads(*[partial(work, saver, f"own {number}", 20) for number, saver in enumerate(savers)])
    for n in range(40):  # one thread, taken in turns
        save(savers[n % 4], "shared", n)
        for saver in savers:
            check(saver.get_tuple(config_of("shared")), "shared", n)
        if n % 5 == 4:
            savers[(n + 1) % 4].prune(["shared"], keep_last=2)
            check_thread(savers[n % 4].list(config_of("shared")), "shared", [n - 1, n])
        if n % 11 == 10:
            savers[(n + 2) % 4].delete_for_runs([f"shared run {n // 10}"])
            assert savers[n % 4].get_tuple(config_of("shared", n)) is None
            save(savers[n % 4], "shared", n)
    for saver in savers:
        saver.close()
    assert sorted(each.name for each in database_path.parent.iterdir()) == ["agent.db"]
    assert_sound(database_path)


def run_in_fork(function: Callable[[], Any]) -> int:
    """Run in a child made by os.fork(); its id."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        function()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def exit_code(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@may_fork
@KINDS
def test_children_of_os_fork_go_on_with_the_same_saver(kind: Any, database_path: Path) -> None:
    """Forked in the middle of other threads' saves, parent and children both go on."""
    saver = kind(database_path)

    def keep_working(stop: threading.Event, name: str) -> None:
        n = 0
        while not stop.is_set() or n < 20:
            save(saver, name, n)
            check(saver.get_tuple(config_of(name)), name, n)
            n += 1

    with ExitStack() as busy:
        for number in range(3):
            busy.enter_context(Background(partial(keep_working, name=f"busy {number}")))
        pids = [run_in_fork(partial(work, saver, f"child {i}", 12)) for i in range(6)]
        codes = [exit_code(pid) for pid in pids]
    assert codes == [0] * 6
    for number in range(6):
        check_thread(saver.list(config_of(f"child {number}")), f"child {number}", range(12))
    saver.close()
    assert_sound(database_path)


@may_fork
@KINDS
def test_children_of_multiprocessing_go_on_with_the_same_saver(
    kind: Any, database_path: Path
) -> None:
    """A pool forked from a process that has the file open; the async saver gets a loop there."""
    saver = kind(database_path)
    work(saver, "parent", 5)

    def child(name: str) -> None:
        check_thread(saver.list(config_of("parent")), "parent", range(5))
        if kind is AsyncSqliteSaver:
            asyncio.run(awork(saver, name, 12))
        else:
            work(saver, name, 12)

    fork = multiprocessing.get_context("fork")
    processes = [fork.Process(target=child, args=(f"child {number}",)) for number in range(4)]
    for process in processes:
        process.start()
    work(saver, "parent too", 20)
    for process in processes:
        process.join(STUCK)
    assert [process.exitcode for process in processes] == [0] * 4
    for number in range(4):
        check_thread(saver.list(config_of(f"child {number}")), f"child {number}", range(12))
    saver.close()
    assert_sound(database_path)
