"""`AsyncDatabase`: a `Database` for event loops.

An operation costs one hop to a thread and one call back into the loop, and operations that arrive
while a hop is under way share both. The threads are standard-library executors: they survive a
closed loop, serve several loops, let the interpreter exit, and finish what they have at exit. No
loop and no asyncio primitive is kept.
"""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar, cast

from typing_extensions import ParamSpec, Self

from . import fork
from .aiosqlite_ import AwaitableConnection
from .core import Database, Op, Target
from .errors import DatabaseClosedError
from .jobs import MAINTAIN, READ, TURN, WRITE, AwaitedJob, Kind, Operation, answer, nothing
from .migrations import Schema
from .pragmas import PragmaValue

T = TypeVar("T")
P = ParamSpec("P")

# A read that has waited this long for the hop under way gets a thread of its own, in seconds.
_PATIENCE = 0.005
# Answers are given together, but none is held back for longer than this, in seconds.
_HOLD = 0.005
_HOLD_MOST = 128


class AsyncDatabase:
    """The awaitable face of a `Database`: the same three ways to run an operation, and `close`.

    It may be used from several event loops, one after another or at once, and from none (nothing
    is started before the first call). A cancelled call leaves it usable; a write that was queued
    is completed all the same.

    Args:
        target: As for `Database`; or a `Database` to share.
        schemas, pragmas, readers, lock_timeout: As for `Database`.
    """

    def __init__(
        self,
        target: Target | Database,
        *,
        schemas: Sequence[Schema] = (),
        pragmas: Mapping[str, PragmaValue] | None = None,
        readers: int = 4,
        lock_timeout: float = 30.0,
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
            )
        self._most_readers = self._database.parallel_reads
        # A file has readers beside the writer; a single connection has one queue for all.
        self._reads_apart = self._database.path is not None
        self._reset()
        fork.watch(self)

    def _reset(self) -> None:
        self._mutex = threading.Lock()
        self._executor: ThreadPoolExecutor | None = None
        self._reads: deque[AwaitedJob] = deque()
        # The threads that serve reads: from before they are started until they leave.
        self._readers: set[object] = set()
        self._help_due: tuple[int, float] = (0, 0.0)
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

    async def write(self, op: Op[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """As `Database.write`."""
        return cast(T, await self._run(WRITE, op, args, kwargs))

    async def maintain(self, op: Op[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """As `Database.maintain`."""
        return cast(T, await self._run(MAINTAIN, op, args, kwargs))

    async def open(self) -> None:
        """Open the database now. Otherwise the first call does."""
        await self._run(MAINTAIN, nothing, (), {})

    async def close(self) -> None:
        """Complete what is under way, close what was opened here, refuse later calls."""
        self._closing = True
        with self._mutex:
            if self._closed is None:
                self._closed = self._open_pool().submit(self._close)
        # Shielded: a cancelled close is completed all the same.
        await asyncio.shield(asyncio.wrap_future(self._closed))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()

    async def _run(
        self, kind: Kind, op: Op[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        if kwargs:
            plain, options = op, kwargs

            def op(conn: sqlite3.Connection, *args: Any) -> Any:
                return plain(conn, *args, **options)

        if self._closing:
            raise self._was_closed()
        if kind == READ and self._reads_apart:
            job = AwaitedJob(kind, op, args, _never)
            self._queue_read(job)
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

    def _was_closed(self) -> DatabaseClosedError:
        return DatabaseClosedError(f"{self._database.name} was closed: open it anew")

    def _start_leading(self) -> None:
        self._pool().submit(self._database.lead)

    def _pool(self) -> ThreadPoolExecutor:
        with self._mutex:
            return self._open_pool()

    def _open_pool(self) -> ThreadPoolExecutor:
        if self._executor is None:
            # A thread for the writer, one for close, the rest for readers.
            self._executor = ThreadPoolExecutor(
                self._most_readers + 2, thread_name_prefix="langgraph-sqlite"
            )
        return self._executor

    def _queue_read(self, job: AwaitedJob) -> None:
        with self._mutex:
            self._reads.append(job)
            self._quiet.clear()
            first = not self._readers
        if first:
            self._one_more_reader()
        else:
            self._call_for_help(job.loop)

    def _one_more_reader(self) -> None:
        """Start a thread for the reads that wait."""
        reader = object()
        with self._mutex:
            self._readers.add(reader)
        try:
            self._pool().submit(self._serve_reads, reader)
        except RuntimeError as error:  # closed meanwhile, or the interpreter is ending
            self._refuse_reads(reader, error)
        except BaseException:  # Ctrl-C; others may rely on this thread
            with self._mutex:
                self._readers.discard(reader)
            self._one_more_reader()
            raise

    def _refuse_reads(self, reader: object, error: Exception) -> None:
        with self._mutex:
            self._readers.discard(reader)
            refused = list(self._reads)
            self._reads.clear()
            self._quiet.set()
        for job in refused:
            job.settle(None, self._was_closed() if self._closing else error)
        answer(refused)

    def _call_for_help(self, loop: asyncio.AbstractEventLoop) -> None:
        """Look again in a moment whether reads wait behind a long one: once a loop and moment."""
        now = time.monotonic()
        with self._mutex:
            if len(self._readers) >= self._most_readers:
                return
            caller, due = self._help_due
            if caller == id(loop) and now < due:
                return
            self._help_due = (id(loop), now + 2 * _PATIENCE)
        loop.call_later(_PATIENCE, self._help, loop)

    def _help(self, loop: asyncio.AbstractEventLoop) -> None:
        """One more thread for the reads, if they still wait behind a long one."""
        with self._mutex:
            self._help_due = (0, 0.0)
            needed = bool(self._reads) and len(self._readers) < self._most_readers
        if needed:
            self._one_more_reader()
            self._call_for_help(loop)

    def _serve_reads(self, reader: object) -> None:
        done: list[AwaitedJob] = []
        held_since = 0.0
        while job := self._next_read(reader, done):
            self._perform(job)
            now = time.perf_counter()
            if not done:
                held_since = now
            done.append(job)
            if len(done) >= _HOLD_MOST or now - held_since > _HOLD:
                answer(done)
                done = []

    def _next_read(self, reader: object, done: list[AwaitedJob]) -> AwaitedJob | None:
        """The next read; without one, answer those that are done and leave."""
        with suppress(IndexError):
            return self._reads.popleft()
        answer(done)
        done.clear()
        return self._leave(reader)

    def _leave(self, reader: object) -> AwaitedJob | None:
        """Stop serving reads; a read that came at the last moment is returned instead."""
        with self._mutex:
            with suppress(IndexError):
                return self._reads.popleft()
            self._readers.discard(reader)
            if not self._readers:
                self._quiet.set()
            return None

    def _perform(self, job: AwaitedJob) -> None:
        if job.future.cancelled():
            return
        try:
            job.settle(self._database.read(job.op, *job.args))
        except BaseException as error:  # on a thread of ours, only the operation can have raised it
            job.settle(None, error)

    def _close(self) -> None:
        self._quiet.wait()
        if self._awaitable is not None:
            self._awaitable.stop()
        self._database.close()
        with self._mutex:
            executor, self._executor = self._executor, None
        if executor is not None:
            executor.shutdown(wait=False)

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
