"""`AsyncDatabase`: a `Database` for event loops.

An operation costs one hop to a thread and one call back into the loop, and operations that arrive
while a hop is under way share both. The threads are standard-library executors: they survive a
closed loop, serve several loops, let the interpreter exit, and finish what they have at exit. After
the main thread has ended they take nothing more: then operations run on their caller's thread. No
loop and no asyncio primitive is kept.
"""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, cast

from typing_extensions import ParamSpec, Self

from . import fork
from .aiosqlite_ import AwaitableConnection
from .core import Database, Op, Target
from .errors import was_closed
from .events import OnEvent
from .jobs import MAINTAIN, READ, TURN, WRITE, AwaitedJob, Kind, Operation, answer, nothing
from .migrations import Schema
from .pragmas import PragmaValue
from .readers import FIRST, LONG, SHORT, ReadKind
from .upkeep import Left

T = TypeVar("T")
P = ParamSpec("P")

# How many threads serve each kind of reads, beside as many for short ones as run at once.
_THREADS: dict[ReadKind, int] = {FIRST: 1, LONG: 2}


class _Line:
    """Reads that wait, and how many threads there are for them."""

    def __init__(self, kind: ReadKind, most: int) -> None:
        self.kind = kind
        self.most = most
        self.jobs: deque[AwaitedJob] = deque()
        self.threads = 0


class AsyncDatabase:
    """The awaitable face of a `Database`: the same three ways to run an operation, and `close`.

    It may be used from several event loops, one after another or at once, and from none (nothing
    is started before the first call). A cancelled call leaves it usable; a write that was queued
    is completed all the same.

    Args:
        target: As for `Database`; or a `Database` to share.
        schemas, pragmas, readers, lock_timeout, mode, on_event: As for `Database`. Events of
            operations come in the event loop.
    """

    def __init__(
        self,
        target: Target | Database,
        *,
        schemas: Sequence[Schema] = (),
        pragmas: Mapping[str, PragmaValue] | None = None,
        readers: int = 4,
        lock_timeout: float = 30.0,
        mode: int = 0o600,
        on_event: OnEvent | None = None,
    ) -> None:
        if isinstance(target, Database):
            self._database = target
        else:
            self._database = Database(
                target,
                schemas=schemas,
                pragmas=pragmas,
                readers=readers,
                lock_timeout=lock_timeout,
                mode=mode,
                on_event=on_event,
            )
        self._events = self._database.events
        # A file has readers beside the writer; a single connection has one queue for all.
        self._reads_apart = self._database.path is not None
        self._reset()
        fork.watch(self)

    def _reset(self) -> None:
        self._mutex = threading.Lock()
        self._executor: ThreadPoolExecutor | None = None
        threads = {SHORT: self._database.parallel_reads, **_THREADS}
        self._lines = {kind: _Line(kind, most) for kind, most in threads.items()}
        self._closing = False
        self._closed: Future[None] | None = None
        self._awaitable: AwaitableConnection | None = None
        self._quiet = threading.Event()
        self._quiet.set()

    @property
    def database(self) -> Database:
        """The blocking face of the same database."""
        return self._database

    @property
    def path(self) -> Path | None:
        """As `Database.path`."""
        return self._database.path

    @property
    def description(self) -> str:
        """As `Database.description`."""
        return self._database.description

    @property
    def borrowed(self) -> sqlite3.Connection | None:
        """As `Database.borrowed`."""
        return self._database.borrowed

    @property
    def connection(self) -> sqlite3.Connection | AwaitableConnection:
        """As `Database.connection`, but one that we open is awaited, as aiosqlite's are."""
        if self._database.borrowed is not None:
            return self._database.borrowed
        if self._awaitable is None:
            self._awaitable = AwaitableConnection(self._database)
        return self._awaitable

    async def read(self, op: Op[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """As `Database.read`."""
        return cast(T, await self._run(READ, op, args, kwargs))

    async def read_first(self, op: Op[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """As `Database.read_first`."""
        return cast(T, await self._run(READ, op, args, kwargs, FIRST))

    async def read_long(self, op: Op[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """As `Database.read_long`."""
        return cast(T, await self._run(READ, op, args, kwargs, LONG))

    async def write(self, op: Op[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """As `Database.write`."""
        return cast(T, await self._run(WRITE, op, args, kwargs))

    async def maintain(self, op: Op[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """As `Database.maintain`."""
        return cast(T, await self._run(MAINTAIN, op, args, kwargs))

    def shorten_wal(self, conn: sqlite3.Connection) -> Left:
        """As `Database.shorten_wal`."""
        return self._database.shorten_wal(conn)

    async def open(self) -> None:
        """Open the database now. Otherwise the first call does."""
        await self._answer(MAINTAIN, nothing, ())

    async def close(self) -> None:
        """Complete what is under way, close what was opened here, refuse later calls."""
        self._closing = True
        with self._mutex:
            is_first = self._closed is None
            self._closed = closed = self._closed or Future()
        if is_first:
            self._in_a_thread(self._close, closed)
        # Shielded: a cancelled close is completed all the same.
        await asyncio.shield(asyncio.wrap_future(closed))

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.description}>"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()

    def _run(
        self,
        kind: Kind,
        op: Operation,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        pool: ReadKind = SHORT,
    ) -> Awaitable[Any]:
        call = partial(op, **kwargs) if kwargs else op
        answer = self._answer(kind, call, args, pool)
        return answer if self._events is None else self._events.awaited(kind, op, answer)

    async def _answer(
        self, kind: Kind, op: Operation, args: tuple[Any, ...], pool: ReadKind = SHORT
    ) -> Any:
        if self._closing:
            raise was_closed(self._database.name)
        if kind == READ and self._reads_apart:
            job = AwaitedJob(kind, op, args, _never)
            self._queue_read(job, self._lines[pool])
            return await job.future
        if not self._database.is_prepared:
            await self._in_turn(TURN, self._database.prepare, ())
        value = await self._in_turn(kind, op, args)
        self._database.warn()
        return value

    async def _in_turn(self, kind: Kind, op: Operation, args: tuple[Any, ...]) -> Any:
        job = AwaitedJob(kind, op, args, self._start_leading)
        self._database.submit(job)
        return await job.future

    def _start_leading(self) -> None:
        self._in_a_thread(self._database.lead)

    def _in_a_thread(self, function: Callable[..., object], *args: object) -> None:
        """Run a function on a thread, or on this one where no other is to be had any more."""
        try:
            self._pool().submit(function, *args)
        except RuntimeError:  # the interpreter is ending
            function(*args)

    def _pool(self) -> ThreadPoolExecutor:
        with self._mutex:
            if self._executor is None:
                # A thread for the writer, one for close, the rest for readers.
                most = sum(line.most for line in self._lines.values()) + 2
                self._executor = ThreadPoolExecutor(most, thread_name_prefix="langgraph-sqlite")
            return self._executor

    def _queue_read(self, job: AwaitedJob, line: _Line) -> None:
        with self._mutex:
            line.jobs.append(job)
            self._quiet.clear()
            if line.threads == line.most:
                return
            line.threads += 1
        try:
            self._in_a_thread(self._serve, line)
        except BaseException:  # Ctrl-C; others may rely on this thread
            self._in_a_thread(self._serve, line)
            raise

    def _serve(self, line: _Line) -> None:
        while (job := self._next_read(line)) is not None:
            self._perform(job, line.kind)
            answer((job,))

    def _next_read(self, line: _Line) -> AwaitedJob | None:
        """The next read; None, and one thread fewer, without one."""
        with self._mutex:
            if line.jobs:
                return line.jobs.popleft()
            line.threads -= 1
            if not any(each.threads for each in self._lines.values()):
                self._quiet.set()
            return None

    def _perform(self, job: AwaitedJob, pool: ReadKind) -> None:
        if job.future.cancelled():
            return
        try:
            job.settle(self._database.perform(READ, job.run, (), pool))
        except BaseException as error:  # on a thread of ours, only the operation can have raised it
            job.settle(None, error)

    def _close(self, closed: Future[None]) -> None:
        try:
            self._quiet.wait()
            if self._awaitable is not None:
                self._awaitable.stop()
            self._database.close()
            with self._mutex:
                executor, self._executor = self._executor, None
            if executor is not None:
                executor.shutdown(wait=False)
        except BaseException as error:
            closed.set_exception(error)
        else:
            closed.set_result(None)

    # Threads do not survive a fork.

    def before_fork(self) -> None:
        """Nothing to do: the database waits for what is under way."""

    def after_fork_in_parent(self) -> None:
        """Nothing to do."""

    def after_fork_in_child(self) -> None:
        """Start afresh: the parent's threads and tasks are not here."""
        closing = self._closing
        self._reset()
        self._closing = closing


def _never() -> None:
    raise AssertionError("reads have threads of their own")
