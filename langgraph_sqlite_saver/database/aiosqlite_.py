"""aiosqlite's connections: running operations on one that was passed in, and giving one out.

aiosqlite serves a connection on a thread of its own and has no public way to run a function there.
`Connection._execute(function, *args)` has done it, with the same signature, since 0.2.0 (2017):
`_on_its_thread` calls it, and `AwaitableConnection` stands in for it.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar, cast

import aiosqlite
from typing_extensions import ParamSpec

from .borrowed import PATIENCE, PRAGMAS_ARE_THE_OWNERS, BorrowedTransactions, described
from .busy import check_lock_timeout
from .core import Database, Op
from .errors import (
    ConnectionUnusableError,
    DatabaseClosedError,
    InvalidInputError,
    translated,
    was_closed,
)
from .events import Events, OnEvent
from .jobs import MAINTAIN, READ, WRITE, Job, Kind, Operation, nothing
from .migrations import Schema
from .own_cursors import OwnCursors
from .pragmas import PragmaValue
from .upkeep import Left, left

T = TypeVar("T")
P = ParamSpec("P")

_NAME = "the aiosqlite connection"
# Between two looks whether a transaction of the owner's has ended, in seconds.
_LOOK_AGAIN = 0.001


class AiosqliteDatabase:
    """`AsyncDatabase` over a borrowed aiosqlite connection: one operation at a time.

    An operation is one hop, whole before anything else that uses the connection. The connection
    stays open at `close()`; it is started here if its owner has not awaited it yet.
    """

    def __init__(
        self,
        connection: aiosqlite.Connection,
        *,
        schemas: Sequence[Schema] = (),
        pragmas: Mapping[str, PragmaValue] | None = None,
        lock_timeout: float = 30.0,
        on_event: OnEvent | None = None,
    ) -> None:
        check_lock_timeout(lock_timeout)
        if pragmas:
            raise InvalidInputError(PRAGMAS_ARE_THE_OWNERS)
        self.connection = connection
        self._schemas = tuple(schemas)
        self._lock_timeout = lock_timeout
        self._transactions: BorrowedTransactions | None = None
        self._prepared = False
        self._closed = False
        self._events = Events.of(_NAME, None, on_event)

    @property
    def path(self) -> None:
        """None: the file is the owner's."""
        return None

    @property
    def description(self) -> str:
        """As `Database.description`."""
        file = self._transactions.file if self._transactions is not None else ""
        return described(self.connection, file) + (", closed" if self._closed else "")

    @property
    def borrowed(self) -> aiosqlite.Connection:
        """The connection that was passed in."""
        return self.connection

    async def read(self, op: Op[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """As `Database.read`."""
        return cast(T, await self._run(READ, op, args, kwargs))

    async def read_first(self, op: Op[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """As `read`: there is one connection for all."""
        return cast(T, await self._run(READ, op, args, kwargs))

    async def read_long(self, op: Op[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """As `read`: there is one connection for all."""
        return cast(T, await self._run(READ, op, args, kwargs))

    async def write(self, op: Op[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """As `Database.write`."""
        return cast(T, await self._run(WRITE, op, args, kwargs))

    async def maintain(self, op: Op[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """As `Database.maintain`."""
        return cast(T, await self._run(MAINTAIN, op, args, kwargs))

    def shorten_wal(self, conn: sqlite3.Connection) -> Left:
        """As `Database.shorten_wal`: the -wal is the owner's."""
        return left(conn)

    async def open(self) -> None:
        """Bring the tables up to date now. Otherwise the first call does."""
        await self._answer(MAINTAIN, nothing, (), {})

    async def close(self) -> None:
        """Refuse later calls. The connection is its owner's to close."""
        self._closed = True

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.description}>"

    def _run(
        self, kind: Kind, op: Operation, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Awaitable[Any]:
        answer = self._answer(kind, op, args, kwargs)
        return answer if self._events is None else self._events.awaited(kind, op, answer)

    async def _answer(
        self, kind: Kind, op: Op[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        if self._closed:
            raise was_closed(_NAME)
        job = Job(kind, lambda conn: op(conn, *args, **kwargs), ())
        await self._start()
        deadline = time.monotonic() + PATIENCE
        while not job.done:
            patient = kind != READ and time.monotonic() < deadline
            try:
                await _on_its_thread(self.connection, self._perform, job, patient)
            except ValueError as error:
                raise DatabaseClosedError(f"{_NAME} was closed by its owner") from error
            if not job.done:  # its owner's next statement needs the thread
                await asyncio.sleep(_LOOK_AGAIN)
        if self._transactions is not None:
            self._transactions.warn()
        if job.error is not None:
            raise job.error
        return job.value

    async def _start(self) -> None:
        connection = self.connection
        thread: Any = getattr(connection, "_thread", connection)
        if connection._connection is None and connection._running and thread.ident is None:
            with translated(_NAME):
                await connection
        # Another task may be starting it; aiosqlite has nothing to wait for.
        while (  # noqa: ASYNC110
            connection._connection is None and connection._running and thread.is_alive()
        ):
            await asyncio.sleep(0.001)
        if not connection._running:
            raise DatabaseClosedError(f"{_NAME} was closed by its owner")
        if not thread.is_alive():
            raise ConnectionUnusableError(
                f"{_NAME} lost its thread, as it does when a loop is closed with a call under "
                "way: open a new one, or pass a path instead"
            )

    def _perform(self, job: Job, patient: bool) -> None:
        """Runs on the connection's thread; notes errors in the job, so that none is aiosqlite's.

        Where its owner has a transaction open and we are `patient`, nothing is done.
        """
        try:
            conn: sqlite3.Connection = self.connection._conn
            if patient and conn.in_transaction:
                return
            if self._transactions is None:
                own = OwnCursors.of(conn)
                self._transactions = BorrowedTransactions(
                    own, _NAME, self._lock_timeout, patience=0
                )
            if not self._prepared:
                self._transactions.prepare(self._schemas)
                self._prepared = True
            self._transactions.run([job])
        except BaseException as error:
            job.settle(None, error)


async def _on_its_thread(connection: aiosqlite.Connection, function: Any, *args: Any) -> Any:
    return await connection._execute(function, *args)  # type: ignore[no-untyped-call]


class AwaitableConnection(aiosqlite.Connection):
    """A database's connection for the program's own statements, to be awaited as aiosqlite's are.

    It is opened at the first statement and closed with the database. Its thread is an executor's,
    which keeps no process alive and survives a closed loop.
    """

    def __init__(self, database: Database) -> None:
        super().__init__(lambda: database.connection, iter_chunk_size=64)
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="langgraph-sqlite-conn")

    @property
    def _conn(self) -> sqlite3.Connection:
        return self._connector()

    async def _execute(self, fn: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        try:
            future = self._executor.submit(partial(fn, *args, **kwargs))
        except RuntimeError as error:
            raise was_closed("saver.conn") from error
        return await asyncio.wrap_future(future)

    def __await__(self) -> Generator[Any, None, aiosqlite.Connection]:
        yield from ()
        return self

    async def close(self) -> None:
        """Nothing: it is the saver's, and closed with it."""

    def is_alive(self) -> bool:
        """Whether statements are answered."""
        return True

    def stop(self) -> None:
        """Refuse later statements."""
        self._executor.shutdown(wait=True)
