"""Running operations on a connection of aiosqlite's, which its owner lends.

aiosqlite serves a connection on a thread of its own and has no public way to run a function there.
`Connection._execute(function, *args)` has done it, with the same signature, since 0.2.0 (2017):
the one private call of the library is in `_on_its_thread`.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar, cast

import aiosqlite
from typing_extensions import ParamSpec

from .borrowed import PRAGMAS_ARE_THE_OWNERS, OwnCursors, check_borrowed
from .busy import check_lock_timeout
from .core import Op
from .errors import ConnectionUnusableError, DatabaseClosedError, InvalidInputError, translated
from .jobs import MAINTAIN, READ, WRITE, Job, Kind, nothing
from .migrations import Schema
from .pragmas import PragmaValue
from .transactions import Transactions

T = TypeVar("T")
P = ParamSpec("P")

_NAME = "the aiosqlite connection"


class AiosqliteDatabase:
    """`AsyncDatabase` over a lent aiosqlite connection: correct, one operation at a time.

    An operation is one hop. The connection stays open at `close()`; it is started here if its
    owner has not awaited it yet.
    """

    def __init__(
        self,
        connection: aiosqlite.Connection,
        *,
        schemas: Sequence[Schema] = (),
        pragmas: Mapping[str, PragmaValue] | None = None,
        lock_timeout: float = 30.0,
    ) -> None:
        check_lock_timeout(lock_timeout)
        if pragmas:
            raise InvalidInputError(PRAGMAS_ARE_THE_OWNERS)
        self.connection = connection
        self._schemas = tuple(schemas)
        self._lock_timeout = lock_timeout
        self._transactions: Transactions | None = None
        self._closed = False

    @property
    def path(self) -> None:
        """None: the file is the owner's."""
        return None

    @property
    def borrowed(self) -> aiosqlite.Connection:
        """The connection that was lent."""
        return self.connection

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
        """Bring the tables up to date now; the first call does it else."""
        await self._run(MAINTAIN, nothing, (), {})

    async def close(self) -> None:
        """Refuse later calls. The connection is its owner's to close."""
        self._closed = True

    async def _run(
        self, kind: Kind, op: Op[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        if self._closed:
            raise DatabaseClosedError("the saver was closed: make a new one")
        job = Job(kind, lambda conn: op(conn, *args, **kwargs), ())
        await self._start()
        try:
            await _on_its_thread(self.connection, self._perform, job)
        except ValueError as error:
            raise DatabaseClosedError(f"{_NAME} was closed by its owner") from error
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

    def _perform(self, job: Job) -> None:
        """Runs on the connection's thread; notes errors in the job, so that none is aiosqlite's."""
        try:
            if self._transactions is None or self._transactions.provisional:
                conn: sqlite3.Connection = self.connection._conn
                check_borrowed(conn)
                own = OwnCursors.ready(conn, self._schemas, _NAME, self._lock_timeout)
                self._transactions = Transactions(own, _NAME, self._lock_timeout, lent=True)
            self._transactions.run([job])
        except BaseException as error:
            job.error = error


async def _on_its_thread(connection: aiosqlite.Connection, function: Any, *args: Any) -> Any:
    return await connection._execute(function, *args)  # type: ignore[no-untyped-call]
