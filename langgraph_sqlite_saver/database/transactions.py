"""Running operations in transactions: one alone, or several committed together.

An operation is a plain function of a connection. It may be run twice: where SQLite loses a whole
transaction (a full disk rolls back everything, savepoints too) or a COMMIT fails, the operations
that shared it are run again one by one, so that each is answered truthfully.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from typing import Any

from .busy import retry_while_busy
from .errors import ConnectionUnusableError, translate
from .jobs import MAINTAIN, READ, Job


class Transactions:
    """The transactions of one connection.

    `where` and `lock_timeout` (seconds) are for the error that a locked database ends in.
    """

    def __init__(self, conn: sqlite3.Connection, where: str, lock_timeout: float) -> None:
        self.conn = conn
        self._where = where
        self._lock_timeout = lock_timeout

    def run(self, jobs: Sequence[Job]) -> None:
        """Run the jobs and note each one's value or error; raises only what is no Exception."""
        if len(jobs) > 1 and self._run_together(jobs):
            return
        for job in jobs:
            self._run_alone(job)

    def read(self, op: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        """What `op` returns on one snapshot; runs it again where a lock was in the way."""
        try:
            return self._atomically("BEGIN", op, args)
        except sqlite3.OperationalError:
            return self._retry(lambda: self._atomically("BEGIN", op, args))

    def _run_alone(self, job: Job) -> None:
        try:
            if job.kind == READ:
                job.value = self.read(job.op, job.args)
            elif job.kind == MAINTAIN:
                job.value = self._outside(job.op, job.args)
            else:
                job.value = self._atomically("BEGIN IMMEDIATE", job.op, job.args)
        except Exception as error:
            job.error = self._explained(error)

    def _outside(self, op: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        if self.conn.in_transaction:
            raise ConnectionUnusableError(
                f"{self._where}: the connection's owner has a transaction open; "
                "commit it before maintenance"
            )
        return self._retry(lambda: op(self.conn, *args))

    def _atomically(self, begin: str, op: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        conn = self.conn
        if conn.in_transaction:
            return self._in_savepoint(op, args, owned=True)
        try:
            conn.execute(begin)
        except sqlite3.OperationalError:
            self._retry(lambda: conn.execute(begin))
        try:
            value = op(conn, *args)
            self._commit()
        except BaseException:
            self._rollback()
            raise
        return value

    def _in_savepoint(self, op: Callable[..., Any], args: tuple[Any, ...], owned: bool) -> Any:
        """Inside an open transaction: ours, or (`owned`) the connection owner's to commit."""
        conn = self.conn
        conn.execute("SAVEPOINT operation")
        try:
            value = op(conn, *args)
            conn.execute("RELEASE operation")
        except BaseException:
            self._undo_savepoint(owned)
            raise
        return value

    def _undo_savepoint(self, owned: bool) -> None:
        try:
            self.conn.execute("ROLLBACK TO operation")
            self.conn.execute("RELEASE operation")
        except sqlite3.Error:  # SQLite has ended the transaction; if not, nothing in it may stay
            self._rollback(owned)

    def _run_together(self, jobs: Sequence[Job]) -> bool:
        """One transaction for all, a savepoint for each; False where they must run one by one."""
        conn = self.conn
        owned = conn.in_transaction
        try:
            if not owned:
                self._retry(lambda: conn.execute("BEGIN IMMEDIATE"))
        except Exception as error:
            for job in jobs:
                job.error = self._explained(error)
            return True
        try:
            outcomes = [self._outcome(job, owned) for job in jobs]
            if not owned:
                self._commit()
        except sqlite3.Error:
            self._rollback(owned)
            return False
        except BaseException:
            self._rollback(owned)
            raise
        for job, (value, failure) in zip(jobs, outcomes, strict=True):
            job.value, job.error = value, failure and self._explained(failure)
        return True

    def _outcome(self, job: Job, owned: bool) -> tuple[Any, Exception | None]:
        try:
            return self._in_savepoint(job.op, job.args, owned), None
        except Exception as error:
            if not self.conn.in_transaction:
                raise sqlite3.OperationalError("SQLite rolled the transaction back") from error
            return None, error

    def _commit(self) -> None:
        try:
            self.conn.execute("COMMIT")
        except sqlite3.OperationalError:
            self._retry(lambda: self.conn.execute("COMMIT"))

    def _rollback(self, owned: bool = False) -> None:
        if self.conn.in_transaction and not owned:
            self.conn.execute("ROLLBACK")

    def _retry(self, attempt: Callable[[], Any]) -> Any:
        return retry_while_busy(attempt, limit=self._lock_timeout, where=self._where)

    def _explained(self, error: Exception) -> Exception:
        if not isinstance(error, sqlite3.Error):
            return error
        explained = translate(error, self._where)
        if explained is not error:
            explained.__cause__ = error
        return explained
