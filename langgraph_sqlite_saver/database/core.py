"""`Database`: one SQLite file as a service, for threads; `AsyncDatabase` puts event loops on it."""

from __future__ import annotations

import os
import sqlite3
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Concatenate, TypeVar, Union, cast

from typing_extensions import ParamSpec, Self

from . import fork, upkeep
from .beside import Beside
from .borrowed import (
    NAME,
    PRAGMAS_ARE_THE_OWNERS,
    BorrowedTransactions,
    SharedConnection,
    described,
    share,
)
from .busy import check_lock_timeout, retry_while_busy
from .errors import (
    ConnectionUnusableError,
    InvalidInputError,
    InvalidTypeError,
    ReadOnlyError,
    translated,
    was_closed,
)
from .events import Events, ObservedRunner, OnEvent
from .files import DatabaseFile, Location, check_sqlite_version, checked_mode, connect, migrate
from .jobs import MAINTAIN, READ, WRITE, AwaitedJob, Kind, Operation, nothing
from .lane import Lane, Runner
from .migrations import Schema
from .own_cursors import OwnCursors, check_borrowed, connection_in
from .pragmas import PragmaValue, checked, set_connection_pragmas
from .readers import FIRST, LONG, SHORT, Readers, ReadKind
from .transactions import Transactions
from .upkeep import Left
from .wal import WalKeeper

T = TypeVar("T")
P = ParamSpec("P")
Op = Callable[Concatenate[sqlite3.Connection, P], T]
Target = Union[str, "os.PathLike[str]", sqlite3.Connection]


class Database:
    """One SQLite database: a writer, readers beside it, transactions, migrations.

    Operations are plain functions of a connection, `op(conn, …)`, and are run in one of three
    ways: `read`, `write` or `maintain`. They may be run more than once (see `transactions`), must
    not commit or roll back by themselves, and must not call the database again.

    It may be used from any thread, and from many processes on one file. It opens on first use.
    After `os.fork()` parent and child each open the file anew; a borrowed or `:memory:` connection
    raises in the child.

    Args:
        target: A path, an SQLite URI (`file:agent.db?mode=ro`), `":memory:"`, or a connection of
            yours (`sqlite3.Connection`, or another module's): it keeps its settings and stays
            open.
        schemas: The tables to create or migrate at the first use.
        pragmas: Overrides for the PRAGMAs in `pragmas.py`, as `{"synchronous": "FULL"}`.
            Not for a borrowed connection.
        readers: How many connections may read at once.
        lock_timeout: How long to wait for other processes' locks, in seconds, for each attempt; a
            call that queues behind others may take longer.
        mode: The permissions of a new file and its -wal and -shm, such as 0o640; the umask does not
            change them. An existing file keeps its permissions.
        on_event: A function for metrics. It is called with an `Event` for each operation, commit
            and wait for a lock, in the thread that did it. It must be fast and must not call the
            database.

    Raises:
        StorageError: A subclass that says what to do, from here and from every method.
    """

    def __init__(
        self,
        target: Target,
        *,
        schemas: Sequence[Schema] = (),
        pragmas: Mapping[str, PragmaValue] | None = None,
        readers: int = 4,
        lock_timeout: float = 30.0,
        mode: int = 0o600,
        on_event: OnEvent | None = None,
    ) -> None:
        if isinstance(readers, bool) or not isinstance(readers, int):
            raise InvalidTypeError(f"readers is a whole number, not {readers!r}")
        if readers < 1:
            raise InvalidInputError(f"readers must be at least 1, not {readers}")
        check_lock_timeout(lock_timeout)
        self._mode = checked_mode(mode)
        self._lock_timeout = lock_timeout
        self._schemas = tuple(schemas)
        self._pragmas = checked(pragmas)
        self._forked = False
        self._opened = False
        self._between_operations = False
        self._closing = threading.RLock()
        self._renewing = threading.Lock()
        self._closed = False
        self._borrowed: sqlite3.Connection | None = None
        self._shared: SharedConnection | None = None
        self._file: DatabaseFile | None = None
        self.name: str
        self.events: Events | None
        self._lane: Lane
        self._beside: Beside
        self._readers: Readers | None = None
        self._choose(target, readers, on_event)
        fork.watch(self)
        if self._shared is None:
            weakref.finalize(self, _close_quietly, self._lane, self._readers, self._beside)

    def _choose(self, target: Target, readers: int, on_event: OnEvent | None) -> None:
        """One lane for everything, or for a file: a lane for writing and readers beside it."""
        conn = connection_in(target)
        if conn is not None:
            self._borrow(cast(sqlite3.Connection, target), conn)
            self.events = Events.of(self.name, None, on_event)
            return
        location = Location.of(cast("str | os.PathLike[str]", target))
        self.name = name = location.name
        timeout = self._lock_timeout
        events = self.events = Events.of(name, location.path, on_event)
        if location.path is None:
            open_memory = self._opener_of_memory(location)
            opened: list[sqlite3.Connection] = []

            def connect() -> Runner:
                opened.append(open_memory())
                transactions = BorrowedTransactions(OwnCursors(opened[-1]), name, timeout)
                return ObservedRunner(transactions, events) if events else transactions

            # There is no other connection: `connection` gives this one to the caller as well.
            self._lane = Lane(name, connect, largest_batch=1)
            self._beside = Beside(name, lambda: opened[-1])
            return
        on_wait = partial(events.tell, "wait") if events else None
        file = self._file = DatabaseFile(
            location, self._schemas, self._pragmas, timeout, on_wait, self._mode
        )
        self._beside = Beside(name, file.open_beside)
        check = file.check_identity
        self._readers = Readers(
            name, readers, lambda: Transactions(file.open_reader(), name, timeout, check, on_wait)
        )
        # A file that cannot be written has no writer: what stands in its place says so.
        no_writer = cast(sqlite3.Connection, _NoWriter(name))
        pragmas, of_file = self._pragmas, self._readers  # not self, which could never be collected

        def open_writer() -> Runner:
            conn = file.open_writer()
            if conn is None:
                return Transactions(no_writer, name, timeout, check)
            path = cast(str, location.path)
            wal = WalKeeper(conn, path, pragmas, file.open_reader, of_file)
            transactions = Transactions(conn, name, timeout, check, on_wait, wal)
            return ObservedRunner(transactions, events) if events else transactions

        self._lane = Lane(name, open_writer)

    def _borrow(self, target: sqlite3.Connection, conn: sqlite3.Connection) -> None:
        if self._pragmas:
            raise InvalidInputError(PRAGMAS_ARE_THE_OWNERS)
        check_borrowed(conn)
        self.name = NAME
        self._borrowed = target  # what holds it, perhaps: kept, so that no pool takes it back
        self._shared = share(conn, self._lock_timeout)
        self._lane = self._shared.lane
        self._beside = Beside(NAME, lambda: conn)

    def _opener_of_memory(self, location: Location) -> Callable[[], sqlite3.Connection]:
        schemas, pragmas, timeout = self._schemas, self._pragmas, self._lock_timeout

        def attempt() -> sqlite3.Connection:
            conn = connect(location.uri())
            try:
                set_connection_pragmas(conn, pragmas)
                for schema in schemas:
                    migrate(conn, schema, location.name)
            except BaseException:
                conn.close()
                raise
            return conn

        def open_memory() -> sqlite3.Connection:
            check_sqlite_version()
            with translated(location.name):  # several may share it, by a URI
                return retry_while_busy(attempt, limit=timeout, where=location.name)

        return open_memory

    @property
    def connection(self) -> sqlite3.Connection:
        """A connection for your own statements: the one that was passed in, the only one in
        memory, or one more to the file, closed with the database.
        """
        if self._borrowed is not None:
            return self._borrowed
        self.open()
        return self._beside.get()

    @property
    def path(self) -> Path | None:
        """The file's absolute path; None in memory and for a borrowed connection."""
        location = self._file.location if self._file else None
        return Path(location.path) if location and location.path else None

    @property
    def description(self) -> str:
        """The file or the connection, and whether it is closed; for `repr`."""
        if self._shared is not None:
            what = described(self._borrowed, self._shared.transactions.file)
        else:
            what = str(self.path or self.name)
        return f"{what}, closed" if self._closed or self._lane.is_closed else what

    @property
    def is_borrowed(self) -> bool:
        """Whether the connection belongs to somebody else, who closes it."""
        return self._borrowed is not None

    @property
    def borrowed(self) -> sqlite3.Connection | None:
        """The connection that was passed in, if one was."""
        return self._borrowed

    @property
    def lock(self) -> Any:
        """A lock for your use of `connection`; operations on a borrowed one wait for it."""
        return self._shared.transactions.lock if self._shared else threading.RLock()

    @property
    def is_prepared(self) -> bool:
        """Whether operations can be queued: a borrowed connection needs `prepare` before."""
        return self._shared is None or self._opened

    def prepare(self) -> None:
        """Make the tables through a borrowed connection, when it is the caller's turn."""
        cast(SharedConnection, self._shared).transactions.prepare(self._schemas)
        self._opened = True

    def warn(self) -> None:
        """Tell of a transaction of the connection's owner that was committed."""
        if self._shared is not None:
            self._shared.transactions.warn()

    @property
    def is_read_only(self) -> bool:
        """Whether the file, once opened, turned out to be one that can only be read."""
        return self._file is not None and self._file.read_only

    @property
    def parallel_reads(self) -> int:
        """How many reads can run at once: 1 where there is a single connection."""
        return self._readers.size if self._readers else 1

    def open(self) -> None:
        """Open the database now and bring its tables up to date. Otherwise the first call does."""
        self._check_usable()
        if self._shared is not None:
            if not self._opened:
                self._shared.in_turn(self.prepare)
        elif not self._opened or self._lane.is_closed:
            self._lane.call(MAINTAIN, nothing, ())
            self._opened = True

    def read(self, op: Op[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """What `op(conn, …)` returns on one snapshot, which holds every write that returned.

        Never waits for a write of this database, nor (up to `readers`) for another read.
        """
        if kwargs or self.events is not None:
            return cast(T, self._observed(READ, op, args, kwargs))
        return cast(T, self.perform(READ, op, args))

    def read_first(self, op: Op[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """As `read`, for what a write needs to know before it: waits for no crowd of readers."""
        return cast(T, self._observed(READ, op, args, kwargs, FIRST))

    def read_long(self, op: Op[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """As `read`, for what takes long (a backup, statistics): keeps no other read waiting."""
        return cast(T, self._observed(READ, op, args, kwargs, LONG))

    def write(self, op: Op[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """What `op(conn, …)` returns, once it is committed; nothing of it stays if it raises.

        Writes that come while another commits share the next transaction.
        """
        if kwargs or self.events is not None:
            return cast(T, self._observed(WRITE, op, args, kwargs))
        return cast(T, self.perform(WRITE, op, args))

    def maintain(self, op: Op[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """What `op(conn, …)` returns, run on the writer outside any transaction.

        For VACUUM, a WAL checkpoint, PRAGMAs; writes wait meanwhile.
        """
        return cast(T, self._observed(MAINTAIN, op, args, kwargs))

    def _observed(
        self,
        kind: Kind,
        op: Operation,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        pool: ReadKind = SHORT,
    ) -> Any:
        call = partial(op, **kwargs) if kwargs else op
        if self.events is None:
            return self.perform(kind, call, args, pool)
        with self.events.operation(kind, op):
            return self.perform(kind, call, args, pool)

    def shorten_wal(self, conn: sqlite3.Connection) -> Left:
        """Copy the -wal into the file and cut it short; says what is left. To run with `maintain`.

        It waits for no reader: what one still needs stays. A borrowed connection's -wal is its
        owner's, and left alone.
        """
        runner = self._lane.runner
        if runner is not None and runner.wal is not None:
            runner.wal.empty()
        return upkeep.left(conn)

    def submit(self, job: AwaitedJob) -> None:
        """Queue an awaited job; for `AsyncDatabase`."""
        self._check_usable()
        self._lane.submit(job)

    def lead(self) -> None:
        """Run what is queued; for a thread of `AsyncDatabase`."""
        self._lane.lead()

    def perform(
        self, kind: Kind, op: Operation, args: tuple[Any, ...], pool: ReadKind = SHORT
    ) -> Any:
        """Run an operation without an event; for `AsyncDatabase`, which reports its own."""
        self._check_usable()
        if self._shared is not None:
            return self._perform_borrowed(self._shared, kind, op, args)
        if kind != READ or self._readers is None:
            return self._lane.call(kind, op, args)
        if not self._opened:
            self._open_for_reading()
        return self._read(self._readers, op, args, pool)

    def _perform_borrowed(
        self, shared: SharedConnection, kind: Kind, op: Callable[..., Any], args: tuple[Any, ...]
    ) -> Any:
        if not self._opened:
            shared.in_turn(self.prepare)
        value = shared.call(kind, op, args)
        self.warn()
        return value

    def _open_for_reading(self) -> None:
        if not self._lane.is_open:  # else its file is there, and a write may be under way
            self.open()

    def _read(
        self, readers: Readers, op: Callable[..., Any], args: tuple[Any, ...], pool: ReadKind
    ) -> Any:
        try:
            while True:
                generation = readers.generation
                value = readers.read(op, args, pool)
                if not self.is_read_only or self._is_whole(readers, generation):
                    return value
        except sqlite3.Error:
            with translated(self.name):
                raise

    def _is_whole(self, readers: Readers, generation: int) -> bool:
        """Whether nobody wrote what was read as if nobody wrote: else it may be half of each."""
        file = cast(DatabaseFile, self._file)
        with self._renewing:
            if readers.generation != generation:  # another thread has seen it
                return False
            if file.is_stale():
                file.renew()
                readers.renew()
                return False
        return True

    def close(self) -> None:
        """Complete what is under way, close what was opened here, refuse later calls.

        Calling it again does nothing. A borrowed connection stays open.
        """
        self._check_nesting()
        if self._shared is not None:
            if not self._closed:
                self._closed = True
                self._shared.in_turn(nothing)
            return
        with self._closing:
            if self._file is not None:
                self._beside.close()
            if self._readers is not None:
                self._readers.close()
            self._lane.close(self._close_connection)

    def _close_connection(self) -> None:
        runner = self._lane.drop()
        if runner is not None:
            runner.close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.description}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _check_usable(self) -> None:
        self._check_nesting()
        if self._closed:
            raise was_closed(self.name)
        if self._forked or (self._shared is not None and self._shared.is_forked):
            raise ConnectionUnusableError(
                f"{self.name} was in use when os.fork() was called, and its connection cannot be "
                "carried into a child process. Open a new one there; a file by its path, and "
                "between its operations, is carried over."
            )

    def _check_nesting(self) -> None:
        me = threading.get_ident()
        if (
            self._lane.is_led_by(me)
            or (self._readers and self._readers.is_used_by(me))
            or (self._shared and self._shared.transactions.is_run_by(me))
        ):
            raise ConnectionUnusableError(
                f"{self.name}: an operation must use the connection it was given "
                "and not call the database again"
            )

    # A fork copies SQLite's notes about locks, but not the locks: a child that keeps the parent's
    # connections, even unused, writes to a file that it only believes to have locked. So the
    # connections are closed before the fork, and both sides open the file anew.

    def before_fork(self) -> None:
        """Close the file's connections, between operations."""
        if self._shared is not None:
            return
        readers = self._readers
        self._between_operations = self._lane.pause(fork.PATIENCE) and (
            readers is None or readers.pause("fork", fork.PATIENCE)
        )
        if readers is not None and self._between_operations:
            self._beside.close_for_fork()
            readers.close_idle()
            self._close_connection()

    def after_fork_in_parent(self) -> None:
        """Let operations run again."""
        if self._shared is not None:
            return
        if self._readers is not None:
            self._readers.resume("fork")
        self._lane.resume()
        self._between_operations = False

    def after_fork_in_child(self) -> None:
        """Start afresh: threads, queues and connections of the parent are not here."""
        inherited = (
            self._lane.forget(),
            self._readers and self._readers.forget(),
            self._beside.forget(),
        )
        _inherited.extend(each for each in inherited if each)
        self._forked |= self._file is None or not self._between_operations
        self._closing = threading.RLock()
        self._renewing = threading.Lock()


# Connections of the parent that could not be closed before a fork: kept, since closing them here
# would touch the file behind the parent's back.
_inherited: list[object] = []


class _NoWriter:
    """Stands where a read-only file has no writer."""

    in_transaction = False

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, _: str) -> None:
        raise ReadOnlyError(
            f"{self._name} can be read but not written: give this user write permission on the "
            "file and its directory, or open a copy"
        )

    def close(self) -> None:
        """Nothing is open."""


def _close_quietly(lane: Lane, readers: Readers | None, beside: Beside) -> None:
    """For a database that nobody closed: readers first, so that the writer removes the -wal."""
    with fork.mutex:
        if readers is not None:
            beside.close()
            readers.close_idle()
        lane.close_idle()
