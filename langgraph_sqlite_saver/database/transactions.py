"""Running operations in transactions: one alone, or several committed together.

An operation is a plain function of a connection. It may be run more than once: where one of those
that share a transaction fails, all are run again, each in a savepoint; where SQLite loses the whole
transaction (a full disk rolls back everything, savepoints too) or COMMIT fails, one by one, so that
each is answered truthfully.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from .busy import retry_while_busy
from .errors import explained, is_busy, twin
from .jobs import MAINTAIN, READ, Job, nothing
from .wal import WalKeeper

# What an operation returned, or what it raised.
Outcome = tuple[Any, "BaseException | None"]


def is_the_operations(error: BaseException) -> bool:
    """Whether an operation raised it, and not a signal: Ctrl-C comes to the main thread only."""
    if isinstance(error, Exception):
        return True
    return threading.current_thread() is not threading.main_thread()


class Transactions:
    """The transactions of one connection.

    `where` and `lock_timeout` (seconds) are for the error that a locked database ends in.
    `check_file` raises where the connection's file is not the one to use any more. `on_wait` is
    called with the seconds that a lock was waited for; `wal` is told that something was committed.
    """

    def __init__(
        self,
        conn: sqlite3.Connection,
        where: str,
        lock_timeout: float,
        check_file: Callable[[], None] = nothing,
        on_wait: Callable[[float], None] | None = None,
        wal: WalKeeper | None = None,
    ) -> None:
        self.conn = conn
        self._where = where
        self._lock_timeout = lock_timeout
        self._check_file = check_file
        self.wal = wal
        # What is due after commits, once their callers are answered.
        self.keep_up: Callable[[], None] = nothing if wal is None else wal.keep_up
        self._on_wait = on_wait

    def close(self) -> None:
        """Close the connection."""
        if self.wal is not None:
            self.wal.close()
        self.conn.close()

    def run(self, jobs: Sequence[Job]) -> None:
        """Run the jobs and note each one's value or error; raises only what interrupts it.

        Several go in one transaction. If one of them fails, all are run again, each in a savepoint
        of its own (which would cost every batch a tenth of its time); if that transaction is lost
        too, one by one.
        """
        if len(jobs) > 1:
            for run_job in (self._run_unprotected, self._run_in_savepoint):
                if self._run_together(jobs, run_job):
                    return
        for job in jobs:
            self._run_alone(job)

    def read(self, op: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        """What `op` returns on one snapshot; runs it again where a lock was in the way."""
        self._check_file()
        try:
            return self._read_once(op, args)
        except sqlite3.OperationalError as error:
            if not is_busy(error):
                raise
        return self._retry(lambda: self._read_once(op, args))

    def _read_once(self, op: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        conn = self.conn
        self._undo_interrupted()
        try:
            conn.execute("BEGIN")
            value = op(conn, *args)
        except BaseException:
            self._rollback()
            raise
        self._end_reading()
        return value

    def _end_reading(self) -> None:
        try:
            self.conn.execute("COMMIT")
        except sqlite3.OperationalError:
            self._rollback()
            raise
        except sqlite3.DatabaseError:  # the file is damaged, and the operation got along with it
            self._rollback()

    def _run_alone(self, job: Job) -> None:
        try:
            if job.kind == READ:
                job.settle(self.read(job.run, ()))
            elif job.kind == MAINTAIN:
                job.settle(self._outside(job.run))
            else:
                self._write(job)
        except BaseException as error:
            if not is_the_operations(error):
                raise
            job.settle(None, explained(error, self._where))

    def _outside(self, op: Callable[[sqlite3.Connection], Any]) -> Any:
        self._undo_interrupted()
        try:
            self._check_file()
            return self._retry(lambda: op(self.conn))
        finally:
            self._rollback()

    def _write(self, job: Job) -> None:
        try:
            self._begin()
            value = job.run(self.conn)
            self._commit(lambda: job.settle(value))
        except BaseException:
            self._rollback()
            raise

    def _run_together(self, jobs: Sequence[Job], run_job: Callable[[Job], Outcome]) -> bool:
        """One transaction for all; False where it failed and left nothing."""
        try:
            self._begin()
        except Exception as error:
            for job in jobs:
                job.settle(None, twin(explained(error, self._where)))
            return True
        except BaseException:
            self._rollback()
            raise
        try:
            outcomes = [run_job(job) for job in jobs]
            self._commit(lambda: self._settle(jobs, outcomes))
        except BaseException as error:
            self._rollback()
            if not is_the_operations(error):
                raise
            return False
        return True

    def _run_unprotected(self, job: Job) -> Outcome:
        return job.run(self.conn), None

    def _run_in_savepoint(self, job: Job) -> Outcome:
        try:
            return self._in_savepoint(job.run), None
        except BaseException as error:
            if not is_the_operations(error):
                raise
            if not self.conn.in_transaction:
                raise sqlite3.OperationalError("SQLite rolled the transaction back") from error
            return None, error

    def _settle(self, jobs: Sequence[Job], outcomes: Sequence[Outcome]) -> None:
        for job, (value, failure) in zip(jobs, outcomes, strict=True):
            job.settle(value, failure and explained(failure, self._where))

    def _in_savepoint(self, op: Callable[[sqlite3.Connection], Any]) -> Any:
        conn = self.conn
        try:
            conn.execute("SAVEPOINT operation")
            value = op(conn)
            conn.execute("RELEASE operation")
        except BaseException:
            self._undo_savepoint()
            raise
        return value

    def _undo_savepoint(self) -> None:
        try:
            self.conn.execute("ROLLBACK TO operation")
            self.conn.execute("RELEASE operation")
        except sqlite3.Error:  # SQLite has ended the transaction; if not, nothing in it may stay
            self._rollback()

    def _undo_interrupted(self) -> None:
        """Undo what an interruption has left."""
        if self.conn.in_transaction:
            self.conn.execute("ROLLBACK")

    def _begin(self) -> None:
        self._undo_interrupted()
        self._execute("BEGIN IMMEDIATE")

    def _commit(self, settle: Callable[[], None]) -> None:
        """COMMIT and settle: both or neither, so that what is committed is not run again."""
        try:
            self._check_file()
            self._execute("COMMIT")
            settle()
        except Exception:
            raise
        except BaseException as interruption:
            # Ctrl-C mostly waits for COMMIT to return. One that failed is in __context__.
            failed = isinstance(interruption.__context__, sqlite3.Error)
            if not failed and not self.conn.in_transaction:
                settle()
            raise

    def _execute(self, statement: str) -> None:
        try:
            self.conn.execute(statement)
        except sqlite3.OperationalError as error:
            if not is_busy(error):
                raise
            self._retry(lambda: self.conn.execute(statement))

    def _rollback(self) -> None:
        with suppress(sqlite3.Error):  # the error that led here says more
            if self.conn.in_transaction:
                self.conn.execute("ROLLBACK")

    def _retry(self, attempt: Callable[[], Any]) -> Any:
        return retry_while_busy(
            attempt, limit=self._lock_timeout, where=self._where, on_wait=self._on_wait
        )
