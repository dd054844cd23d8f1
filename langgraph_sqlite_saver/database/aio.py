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
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar, cast

from typing_extensions import ParamSpec, Self

from . import fork
from .core import Database, Op, Target
from .errors import DatabaseClosedError
from .jobs import MAINTAIN, READ, WRITE, AwaitedJob, Kind, answer
from .migrations import Schema
from .pragmas import PragmaValue

T = TypeVar("T")
P = ParamSpec("P")

# A read that has waited this long for the hop under way gets a thread of its own, in seconds.
_PATIENCE = 0.002
# Answers are given together, but none is held back for longer than this, in seconds.
_HOLD = 0.001
_HOLD_MOST = 32


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
        self._reset()
        fork.watch(self)

    def _reset(self) -> None:
        self._mutex = threading.Lock()
        self._executor: ThreadPoolExecutor | None = None
        self._reads: deque[AwaitedJob] = deque()
        self._reading = 0
        self._help_is_coming = False
        self._closing = False
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
        """Open the database now; the first call does it else."""
        await self._run(MAINTAIN, _nothing, (), {})

    async def close(self) -> None:
        """Complete what is under way, close what was opened here, refuse later calls."""
        self._closing = True
        await asyncio.wrap_future(self._pool().submit(self._close))

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
            raise DatabaseClosedError(f"{self._database.name} was closed: open it anew")
        if kind == READ and self._most_readers > 1:
            job = AwaitedJob(kind, op, args, self._start_reading)
            self._queue_read(job)
        else:
            job = AwaitedJob(kind, op, args, self._start_leading)
            self._database.submit(job)
        return await job.future

    def _start_leading(self) -> None:
        self._pool().submit(self._database.lead)

    def _start_reading(self) -> None:
        self._pool().submit(self._serve_reads)

    def _pool(self) -> ThreadPoolExecutor:
        with self._mutex:
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
            first = self._reading == 0
            if first:
                self._reading = 1
            elif self._reading < self._most_readers and not self._help_is_coming:
                self._help_is_coming = True
                job.loop.call_later(_PATIENCE, self._help)
        if first:
            job.promote()

    def _help(self) -> None:
        """One more thread for the reads, if they still wait behind a long one."""
        with self._mutex:
            self._help_is_coming = False
            needed = bool(self._reads) and 0 < self._reading < self._most_readers
            if needed:
                self._reading += 1
        if needed:
            self._start_reading()

    def _serve_reads(self) -> None:
        done: list[AwaitedJob] = []
        held_since = 0.0
        while job := self._next_read(done):
            self._perform(job)
            now = time.perf_counter()
            if not done:
                held_since = now
            done.append(job)
            if len(done) >= _HOLD_MOST or now - held_since > _HOLD:
                answer(done)
                done = []

    def _next_read(self, done: list[AwaitedJob]) -> AwaitedJob | None:
        """The next read; without one, answer those that are done and leave."""
        try:
            return self._reads.popleft()
        except IndexError:
            answer(done)
            done.clear()
        with self._mutex:
            if self._reads:
                return self._reads.popleft()
            self._reading -= 1
            if self._reading == 0:
                self._quiet.set()
            return None

    def _perform(self, job: AwaitedJob) -> None:
        if job.future.cancelled():
            return
        try:
            job.value = self._database.read(job.op, *job.args)
        except Exception as error:
            job.error = error

    def _close(self) -> None:
        self._quiet.wait()
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


def _nothing(conn: sqlite3.Connection) -> None:
    pass
