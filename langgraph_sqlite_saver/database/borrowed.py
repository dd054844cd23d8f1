"""Connections that the user made and passed in, and that he goes on using beside us.

Other threads of his may begin, commit and roll back between any two of our statements, for SQLite
has one transaction for each connection, whoever uses it. So all that were given one connection
share one queue (`share`), and a call returns only after its commit:

* An operation that can do its work in one statement (its attribute `at_once`) does: SQLite runs a
  statement whole, and nobody meets a transaction of ours.
* Others run in a transaction, inside a savepoint. Where that is gone at the end, somebody committed
  or rolled back in the middle, and the operation is run again: operations are made for it.
* Where the owner has a transaction open, it is waited for a moment, since other threads mostly end
  theirs. One that stays is committed, as langgraph-checkpoint-sqlite does, with a warning.
"""

from __future__ import annotations

import random
import sqlite3
import threading
import time
import warnings
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any, TypeVar, cast

from . import fork, migrations
from .busy import retry_while_busy
from .errors import ConnectionUnusableError, StorageError, explained, translated
from .files import check_sqlite_version
from .jobs import MAINTAIN, READ, BlockingJob, Job, Kind, Operation, nothing
from .lane import Lane
from .migrations import Schema
from .own_cursors import OwnCursors, check_borrowed
from .transactions import is_the_operations

T = TypeVar("T")

PRAGMAS_ARE_THE_OWNERS = "pragmas are for files that we open: set them on your connection yourself"
NAME = "the borrowed connection"


def described(connection: object, file: str) -> str:
    """A borrowed connection for `repr`: its class, and its file where that is known."""
    kind = type(connection)
    return f"on {kind.__module__}.{kind.__qualname__}{f' to {file}' if file else ''}"


# How long a transaction of the owner's is waited for before it is committed, in seconds: a hundred
# times what one of LangGraph's stores takes.
PATIENCE = 0.2
_LOOK_AGAIN = 0.0002, 0.001

# What SQLite and Python say where another thread ended the transaction, or began one.
_ENDED = (
    "no such savepoint",
    "no transaction is active",
    "within a transaction",
    "abort due to ROLLBACK",
    "query aborted",
    "Cursor needed to be reset",
)
# What Python says of a statement that failed, where another thread's was the connection's last when
# it asked SQLite for the reason.
_REASON_LOST = (
    "without setting an exception",
    "without exception set",
    "not an error",
    "no more rows available",
    "another row available",
    "bad parameter or other API misuse",
)
_DISTURBED = (*_ENDED, *_REASON_LOST)
# Each is a coincidence. So many in a row are an operation that commits by itself.
_MOST_REPEATS = 100


# What SQLite says of a transaction that cannot end yet, and calls busy.
_UNFINISHED = "SQL statements in progress"


class OwnersTransactionWarning(UserWarning):
    """A transaction that was open on a borrowed connection was committed with what was saved."""


class _UnfinishedError(Exception):
    """A statement of the owner's keeps a transaction from ending."""


class BorrowedTransactions:
    """Runs operations on a connection that its owner uses too.

    `where` and `lock_timeout` (seconds) are for the error that a locked database ends in; for
    `patience` seconds a transaction of the owner's is waited for.
    """

    def __init__(
        self, conn: OwnCursors, where: str, lock_timeout: float, patience: float = PATIENCE
    ) -> None:
        self._conn = conn
        self.conn = cast(sqlite3.Connection, conn)  # as operations see it
        self.lock_timeout = lock_timeout
        # The owner's to hold, while he uses the connection by himself.
        self.lock = threading.RLock()
        self._running: int | None = None
        self._where = where
        self._patience = patience
        self._to_warn = self._warned = False
        self.file = ""  # the database's file, known once it is prepared

    def run(self, jobs: Sequence[Job]) -> None:
        """Run the jobs and note each one's value or error; raises only what interrupts it."""
        for job in jobs:
            try:
                with self.lock:
                    self._running = threading.get_ident()
                    try:
                        job.settle(self._perform(job))
                    finally:
                        self._running = None
            except BaseException as error:
                if not is_the_operations(error):
                    raise
                job.settle(None, explained(error, self._where))

    def is_held(self) -> bool:
        """Whether the calling thread has `lock`."""
        return cast(bool, cast(Any, self.lock)._is_owned())

    def is_run_by(self, thread: int) -> bool:
        """Whether that thread is running an operation here now."""
        return self._running == thread

    def close(self) -> None:
        """Close the connection, where it is ours."""
        self._conn.close()

    @property
    def wal(self) -> None:
        """None: the -wal is the owner's."""

    @property
    def keep_up(self) -> Callable[[], None]:
        """Nothing: the -wal is the owner's."""
        return nothing

    def prepare(self, schemas: Sequence[Schema]) -> None:
        """Check the file and make its tables; WAL is all that is set."""
        check_sqlite_version()
        with self.lock, translated(self._where):
            for schema in schemas:
                schema.refuse(self.conn)
                migrations.pending(self.conn, schema)
            self._repeated(self._use_wal)
            with suppress(sqlite3.Error):  # an authorizer of the owner's
                self.file = self.conn.execute("PRAGMA database_list").fetchone()[2]
            for schema in schemas:
                self._migrate(schema)

    def _migrate(self, schema: Schema) -> None:
        while True:
            if not migrations.pending(self.conn, schema):
                break
            applied = self._in_transaction(migrations.apply_next, (schema, set()))
            migrations.tell_applied(self.file or self._where, schema, applied)

    def warn(self) -> None:
        """Tell the caller, once, that a transaction of the owner's was committed."""
        if self._to_warn and not self._warned:
            self._warned = True
            warnings.warn(
                "a transaction was open on the borrowed connection (a statement without commit()?) "
                "and was committed with what the saver stored, as langgraph-checkpoint-sqlite "
                "does. Commit your own statements, or give the saver a path",
                OwnersTransactionWarning,
                stacklevel=4,
            )

    def _perform(self, job: Job) -> Any:
        check_borrowed(self._conn.raw)
        if job.kind == READ:
            return self._repeated(lambda: self._read(job))
        if job.kind == MAINTAIN:
            return self._outside(job.run)
        at_once = getattr(job.op, "at_once", None)
        if at_once is not None and self._conn.begins_none:
            value = self._repeated(lambda: job.context.run(self._at_once, at_once, job.args))
            if value is not NotImplemented:
                return value
        return self._in_transaction(job.run, ())

    def _read(self, job: Job) -> Any:
        # A SELECT that is not finished keeps one snapshot, as BEGIN would, and nobody meets it.
        kept = self.conn.execute("SELECT 1 FROM sqlite_master")
        try:
            return job.run(self.conn)
        finally:
            kept.close()

    def _outside(self, op: Callable[[sqlite3.Connection], Any]) -> Any:
        def attempt(part: Callable[[sqlite3.Connection], Any]) -> Any:
            if not self._owner_is_done():
                raise ConnectionUnusableError(
                    f"{self._where}: the connection's owner has a transaction open; "
                    "commit it before maintenance"
                )
            return part(self.conn)

        return self._repeated(lambda: attempt(op))

    def _at_once(self, op: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        for _ in range(_MOST_REPEATS):
            self._end_owners()
            if not self._conn.make_marks():
                return NotImplemented
            self._conn.mark = None
            value = op(self.conn, *args)
            if value is NotImplemented or self._conn.mark is None:
                return value
            # Otherwise somebody began, perhaps before that statement, and may roll it back, or has.
            if not self.conn.in_transaction and self._conn.is_marked(self._conn.mark):
                return value
        return NotImplemented

    def _in_transaction(self, op: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        values: list[Any] = []
        self._repeated(lambda: self._attempt(op, args, values))
        return values[0]

    def _attempt(self, op: Callable[..., Any], args: tuple[Any, ...], values: list[Any]) -> None:
        """Run an operation in a transaction; raises where somebody ended that in the middle.

        A run that was complete gives the value, though it may have to be done again.
        """
        conn = self.conn
        self._end_owners()
        conn.execute("SAVEPOINT asked")  # refused where what BEGIN begins could not be ended
        conn.execute("RELEASE asked")
        conn.execute("BEGIN IMMEDIATE")
        try:
            conn.execute("SAVEPOINT operation")
            value = op(conn, *args)
            mark = self._conn.leave_mark()
            changes = conn.total_changes
            conn.execute("RELEASE operation")
        except BaseException as error:
            self._undo(error)
            raise
        values.append(value)
        try:
            self._retried(lambda: conn.execute("COMMIT"))
        except BaseException as error:
            if not _is_disturbed(error):  # otherwise what is open is another thread's
                self._rollback()
            raise
        if conn.total_changes != changes if mark is None else not self._conn.is_marked(mark):
            raise sqlite3.OperationalError("no such savepoint: another thread ended it meanwhile")

    def _undo(self, error: BaseException) -> None:
        """Undo what is ours: what another thread added to the transaction before it stays.

        Of an operation that was disturbed nothing has to be undone, for it is run again.
        """
        with suppress(sqlite3.Error):
            if self.conn.in_transaction and not _is_disturbed(error):
                self.conn.execute("ROLLBACK TO operation")
        try:
            if self.conn.in_transaction:
                self._retried(lambda: self.conn.execute("COMMIT"))
        except (sqlite3.Error, StorageError):
            if not _is_disturbed(error):
                self._rollback()

    def _rollback(self) -> None:
        with suppress(sqlite3.Error):  # the error that led here says more
            if self.conn.in_transaction:
                self.conn.execute("ROLLBACK")

    def _use_wal(self) -> None:
        (mode,) = self.conn.execute("PRAGMA journal_mode").fetchone()
        if mode == "wal":
            return
        for _ in self._looks():
            self._end_owners()
            try:
                self.conn.execute("PRAGMA journal_mode = WAL").close()
                return
            except sqlite3.OperationalError as error:
                if "readonly" in str(error):
                    return
                # A statement of the owner's is not finished: without WAL it works, too.
                if "within a transaction" not in str(error):
                    raise

    def _owner_is_done(self) -> bool:
        """Whether no transaction is open; one of another thread's mostly ends soon."""
        return any(not self.conn.in_transaction for _ in self._looks())

    def _looks(self) -> Iterator[None]:
        """Once, and again for as long as the owner is waited for."""
        yield
        deadline = time.monotonic() + self._patience
        while time.monotonic() < deadline:
            time.sleep(random.uniform(*_LOOK_AGAIN))
            yield

    def _end_owners(self) -> None:
        """Commit what the owner has open, should it not end by itself."""
        if self._owner_is_done():
            return
        try:
            self._retried(lambda: self.conn.execute("COMMIT"))
        except sqlite3.IntegrityError as error:  # a deferred foreign key
            raise ConnectionUnusableError(
                f"{self._where}: the transaction that its owner has open cannot be committed "
                f"({error}): mend it or roll it back"
            ) from error
        self._to_warn = True

    def _repeated(self, attempt: Callable[[], T]) -> T:
        """What `attempt` returns, run again where another thread disturbed it."""
        for _ in range(_MOST_REPEATS):
            try:
                return self._retried(attempt)
            except Exception as error:
                if not _is_disturbed(error):
                    raise
                last = error
        raise ConnectionUnusableError(
            f"{self._where}: its transactions are ended by somebody else each time ({last}). "
            "An operation must not commit or roll back; give the saver a connection of its own, "
            "or a path"
        ) from last

    def _retried(self, attempt: Callable[[], T]) -> T:
        def once() -> T:
            try:
                return attempt()
            except sqlite3.OperationalError as error:
                if _UNFINISHED not in str(error):
                    raise
                raise _UnfinishedError from error  # no other connection's lock, as SQLite has it

        for _ in self._looks():
            try:
                return retry_while_busy(once, limit=self.lock_timeout, where=self._where)
            except _UnfinishedError as error:
                last = error.__cause__
        raise ConnectionUnusableError(
            f"{self._where}: {last}. Its owner has a statement that goes on writing (an INSERT … "
            "RETURNING that is not read to its end, an open blob): end it first"
        ) from last


def _is_disturbed(error: BaseException) -> bool:
    """Whether another thread's statements on the connection led to an error."""
    for each in (error, error.__cause__):  # a migration's error has it as its cause
        if isinstance(each, (sqlite3.Error, SystemError)):
            return any(text in str(each) for text in _DISTURBED)
    return False


class SharedConnection:
    """A borrowed connection and its queue, for all that were given it."""

    def __init__(self, raw: sqlite3.Connection, lock_timeout: float) -> None:
        self.transactions = BorrowedTransactions(OwnCursors.of(raw), NAME, lock_timeout)
        # One at a time, each on its caller's thread: a connection may be bound to that.
        transactions = self.transactions  # no cycle: it goes with its last user
        self.lane = Lane(NAME, lambda: transactions, largest_batch=1)
        self.is_forked = False
        fork.watch(self)

    def call(self, kind: Kind, op: Operation, args: tuple[Any, ...]) -> Any:
        """Run an operation and return its value.

        Whoever has the owner's lock goes first: the one whose turn it is waits for that lock.
        """
        if not self.transactions.is_held():
            return self.lane.call(kind, op, args)
        job = BlockingJob(kind, op, args)
        self.transactions.run([job])
        return job.result()

    def in_turn(self, function: Callable[[], object]) -> None:
        """Call a function when it is its turn."""
        if self.transactions.is_held():
            function()
        else:
            self.lane.in_turn(function)

    def before_fork(self) -> None:
        """Wait for the operation under way."""
        self.lane.pause(fork.PATIENCE)

    def after_fork_in_parent(self) -> None:
        """Let operations run again."""
        self.lane.resume()

    def after_fork_in_child(self) -> None:
        """The connection must not be used here, nor closed: SQLite's locks were not inherited."""
        self.is_forked = True
        self.lane.forget()
        _inherited.append(self)


_shared: weakref.WeakValueDictionary[int, SharedConnection] = weakref.WeakValueDictionary()
_sharing = threading.Lock()
_inherited: list[SharedConnection] = []


def share(raw: sqlite3.Connection, lock_timeout: float) -> SharedConnection:
    """What all that were given this connection use; the longest `lock_timeout` (seconds) holds."""
    with fork.mutex, _sharing:  # a child would inherit a lock that nobody gives back
        shared = _shared.get(id(raw))  # which it keeps, so that no other has its id
        if shared is None:
            shared = _shared[id(raw)] = SharedConnection(raw, lock_timeout)
        transactions = shared.transactions
        transactions.lock_timeout = max(transactions.lock_timeout, lock_timeout)
        return shared
