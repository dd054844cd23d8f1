"""The lane of one connection: operations queue up, and one caller at a time leads.

The first to arrive leads: it takes what waits, runs it as one transaction (group commit), answers
everybody, and hands the lead to the head of the queue. So a lone caller pays for no thread switch,
and callers that come while a commit waits for the disk share the next one.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from .errors import ConnectionUnusableError, DatabaseClosedError
from .jobs import MAINTAIN, WRITE, AwaitedJob, BlockingJob, Job, Kind, Operation, answer
from .transactions import Transactions

# Enough to make the disk's wait small for each; few enough that nobody waits for a long batch.
LARGEST_BATCH = 128


class Lane:
    """Runs jobs on one connection, which `connect` opens at the first one."""

    def __init__(self, name: str, connect: Callable[[], Transactions]) -> None:
        self._name = name
        self._connect = connect
        self._reset()

    def _reset(self) -> None:
        self._mutex = threading.Lock()
        self._queue: deque[Job] = deque()
        self._batch: list[Job] = []
        self._leader: Job | None = None
        self._leading_thread: int | None = None
        self._transactions: Transactions | None = None
        self._closed = False

    def call(self, kind: Kind, op: Operation, args: tuple[Any, ...]) -> Any:
        """Run an operation and return its value; Ctrl-C leaves the others answered."""
        return self._perform(BlockingJob(kind, op, args), closing=False)

    def submit(self, job: AwaitedJob) -> None:
        """Queue a job for whoever leads; never blocks."""
        if self._enqueue(job):
            try:
                job.promote()
            except RuntimeError:  # no thread can be started any more: the interpreter is ending
                self._abandon(job)
                raise

    def lead(self) -> None:
        """Run jobs until none is left; for the thread that an awaited job was promoted to."""
        self._lead(None)

    def close(self, op: Operation) -> None:
        """Complete what was accepted, run `op` last, and refuse whatever comes later."""
        if self._closed:
            return
        self._perform(BlockingJob(MAINTAIN, op, ()), closing=True)

    def _perform(self, job: BlockingJob, *, closing: bool) -> Any:
        if self._leading_thread == threading.get_ident():
            raise ConnectionUnusableError(
                f"{self._name}: an operation must use the connection it was given "
                "and not call the database again"
            )
        try:
            if self._enqueue(job, closing=closing) or job.wait():
                self._lead(job)
        except BaseException:
            self._abandon(job)
            raise
        return job.result()

    def _enqueue(self, job: Job, *, closing: bool = False) -> bool:
        """Queue a job; True if its caller has to lead."""
        with self._mutex:
            if self._closed:
                raise DatabaseClosedError(f"{self._name} was closed: open it anew")
            self._closed = closing
            self._queue.append(job)
            if self._leader is not None:
                return False
            self._leader = job
            return True

    def _lead(self, own: Job | None) -> None:
        while True:
            with self._mutex:
                self._batch = batch = self._take()
                if not batch:
                    self._leader = None
                    return
            self._run(batch)
            answer(batch)
            if own is not None and own.answered:
                self._hand_over()
                return

    def _take(self) -> list[Job]:
        """The next job, with the writes behind it if it is one."""
        queue = self._queue
        batch: list[Job] = []
        while queue and len(batch) < LARGEST_BATCH:
            if batch and not (batch[0].kind == queue[0].kind == WRITE):
                break
            batch.append(queue.popleft())
        return batch

    def _run(self, batch: list[Job]) -> None:
        self._leading_thread = threading.get_ident()
        try:
            if self._transactions is None:
                self._transactions = self._connect()
            self._transactions.run(batch)
        except Exception as error:  # it could not be opened
            for job in batch:
                job.error = error
        finally:
            self._leading_thread = None

    def _hand_over(self) -> None:
        with self._mutex:
            self._batch = []
            self._leader = head = self._queue[0] if self._queue else None
        if head is None:
            return
        try:
            head.promote()
        except RuntimeError:  # no thread can be started any more: the interpreter is ending
            self._lead(None)

    def _abandon(self, job: Job) -> None:
        """The caller was interrupted: take its job back, and don't leave the others waiting."""
        with self._mutex:
            if job in self._queue:
                self._queue.remove(job)
            if self._leader is not job:
                return
            waiting = [j for j in self._batch if not j.answered and j is not job]
            self._batch = []
            self._queue.extendleft(reversed(waiting))
        self._hand_over()

    # Around a fork, and at the end.

    def pause(self, limit: float) -> bool:
        """Keep everybody from leading; False if someone still led after `limit` seconds."""
        deadline = time.monotonic() + limit
        pausing = Job(MAINTAIN, _nothing, ())
        while self._leading_thread != threading.get_ident():
            with self._mutex:
                if self._leader is None:
                    self._leader = pausing
                    return True
            if time.monotonic() > deadline:
                break
            time.sleep(0.001)
        return False

    def resume(self) -> None:
        """Let jobs run again after `pause`."""
        self._hand_over()

    def drop(self) -> sqlite3.Connection | None:
        """Give up the connection, for the caller to close; the next job opens a new one."""
        transactions, self._transactions = self._transactions, None
        return transactions.conn if transactions else None

    def forget(self) -> None:
        """In a child process: nothing of the parent's queue and threads is here."""
        closed = self._closed
        self._reset()
        self._closed = closed

    def idle_connection(self) -> sqlite3.Connection | None:
        """The connection, if no job is running on it."""
        if self._leader is None and self._transactions is not None:
            return self._transactions.conn
        return None


def _nothing(conn: sqlite3.Connection) -> None:
    pass
