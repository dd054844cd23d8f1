"""The lane of one connection: operations queue up, and one caller at a time leads.

The first to arrive leads: it takes what waits, runs it as one transaction (group commit), answers
everybody, and hands the lead to the head of the queue. So a lone caller pays for no thread switch,
and callers that come while a commit waits for the disk share the next one.

A signal's handler runs in the main thread and may raise between any two steps, as Ctrl-C does and a
time limit (Celery's is a plain Exception). So the main thread runs no job but its caller's, which
gets whatever was raised, and each step can be done twice: a job is in the queue or in the batch
(never in neither), what has run is marked `done` before it is answered, and waking a caller once
too often does no harm. On Python 3.12 and 3.13 the back jump of `while
condition:` lies outside a `try` around it, and Ctrl-C there skips the handler: such loops are
written `while True:` with a `break`, here and wherever a lock is held.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Protocol

from .errors import twin, was_closed
from .jobs import (
    CLOSE,
    PAUSE,
    TURN,
    WRITE,
    AwaitedJob,
    BlockingJob,
    Job,
    Kind,
    Operation,
    answer,
    nothing,
)
from .transactions import is_the_operations
from .wal import WalKeeper

# Enough to make the disk's wait small for each; few enough that nobody waits for a long batch.
LARGEST_BATCH = 128


class Runner(Protocol):
    """What runs jobs on a connection: `Transactions`, or `BorrowedTransactions`."""

    def run(self, jobs: Sequence[Job]) -> None:
        """Run the jobs and note each one's value or error; raises only what interrupts it."""

    @property
    def wal(self) -> WalKeeper | None:
        """What keeps the -wal short, where that is ours to do."""

    @property
    def keep_up(self) -> Callable[[], None]:
        """Does what is due after commits, once their callers are answered."""

    def close(self) -> None:
        """Close the connection."""


def _is_main_thread() -> bool:
    return threading.get_ident() == threading.main_thread().ident


class Lane:
    """Runs jobs on one connection, which `connect` opens at the first one.

    Writes that wait go together, up to `largest_batch` of them; with 1 each runs on its own
    caller's thread.
    """

    def __init__(
        self, name: str, connect: Callable[[], Runner], largest_batch: int = LARGEST_BATCH
    ) -> None:
        self._name = name
        self._connect = connect
        self._largest_batch = largest_batch
        self._closed = False
        self._reset()

    def _reset(self) -> None:
        self._mutex = threading.Lock()
        self._queue: deque[Job] = deque()
        self._batch: list[Job] = []
        self._leader: Job | None = None
        self._led = False  # whether a thread has come for the awaited job that leads
        self._pausing: BlockingJob | None = None
        self._leading_thread: int | None = None
        self._runner: Runner | None = None

    def call(self, kind: Kind, op: Operation, args: tuple[Any, ...]) -> Any:
        """Run an operation and return its value; Ctrl-C leaves the others answered."""
        return self._perform(BlockingJob(kind, op, args))

    def submit(self, job: AwaitedJob) -> None:
        """Queue a job for whoever leads; never blocks."""
        try:
            if self._enqueue(job):
                job.promote()
        except BaseException:  # Ctrl-C, or no thread can be started: the interpreter is ending
            self._abandon(job)
            raise

    def lead(self) -> None:
        """Run jobs until none is left; for the thread that an awaited job was promoted to."""
        with self._mutex:
            leader = self._leader
            if not isinstance(leader, AwaitedJob) or self._led:
                return  # promoted twice
            self._led = True
        try:
            self._lead(None)
        except BaseException:
            self._led = False
            self._abandon(leader, cancel=False)
            raise

    def in_turn(self, function: Callable[[], object]) -> None:
        """Call a function when it is its turn."""
        self._perform(BlockingJob(TURN, function, ()))

    def close(self, op: Callable[[], object]) -> None:
        """Complete what was accepted, run `op` last, and refuse whatever comes later."""
        if not self._closed:
            self._perform(BlockingJob(CLOSE, op, ()))

    @property
    def is_open(self) -> bool:
        """Whether there is a connection."""
        return self._runner is not None

    @property
    def runner(self) -> Runner | None:
        """What runs jobs, once there is a connection."""
        return self._runner

    @property
    def is_closed(self) -> bool:
        """Whether calls are refused."""
        return self._closed

    def is_led_by(self, thread: int) -> bool:
        """Whether that thread is running an operation here now."""
        return self._leading_thread == thread

    def _perform(self, job: BlockingJob) -> Any:
        try:
            self._enqueue(job)
            while True:
                if job.done:
                    break
                if self._leader is job:
                    self._lead(job)
                else:
                    job.wait()
        except BaseException:
            self._abandon(job)
            raise
        return job.result()

    def _enqueue(self, job: Job) -> bool:
        """Queue a job; True if its caller has to lead."""
        with self._mutex:
            if self._closed:
                raise was_closed(self._name)
            self._closed = job.kind == CLOSE
            self._queue.append(job)
            if self._leader is not None:
                return False
            self._leader, self._led = job, False
            return True

    def _lead(self, own: Job | None) -> None:
        while own is None or not own.done:
            with self._mutex:
                self._take()
                if not self._batch:
                    break
            self._run(self._batch)
            if len(self._batch) > 1 or own is not self._batch[0]:  # a lone leader is awake
                answer(self._batch)
            if self._runner is not None:
                self._runner.keep_up()
        self._hand_over()

    def _take(self) -> None:
        """Move the next job into the batch, with the writes behind it if it is one."""
        batch: list[Job] = []
        self._batch = batch
        queue = self._queue
        while queue and len(batch) < self._largest_batch and queue[0].kind != PAUSE:
            if batch and (not batch[0].kind == queue[0].kind == WRITE or _is_main_thread()):
                break
            batch.append(queue[0])
            queue.popleft()

    def _run(self, batch: list[Job]) -> None:
        self._leading_thread = threading.get_ident()
        try:
            if batch[0].kind in (CLOSE, TURN):
                batch[0].settle(batch[0].op())
                return
            if self._runner is None:
                self._runner = self._connect()
            self._runner.run(batch)
        except BaseException as error:  # it could not be opened, or closed
            if not is_the_operations(error):
                raise
            for job in batch:
                if not job.done:
                    job.settle(None, twin(error))
        finally:
            self._leading_thread = None

    def _hand_over(self) -> None:
        with self._mutex:
            self._batch = []
            self._led = False
            self._leader = head = self._queue[0] if self._queue else None
        if head is None:
            return
        try:
            head.promote()
        except RuntimeError:  # no thread can be started any more: the interpreter is ending
            self.lead()

    def _abandon(self, job: Job, *, cancel: bool = True) -> None:
        """The caller was interrupted: take its job back, and don't leave the others waiting."""
        with self._mutex:
            if cancel and job in self._queue:
                self._queue.remove(job)
            if job.kind == CLOSE and not job.done:
                self._closed = False
            leader = self._leader
            leads = leader is job and not self._led
            if leads:
                batch, self._batch = self._batch, []
                again = [j for j in batch if not (j.done or j in self._queue)]
                self._queue.extendleft(j for j in reversed(again) if not (cancel and j is job))
        if leads:
            answer(j for j in batch if j.done)
            self._hand_over()
        elif leader is not None:  # it may not have heard of it
            with suppress(RuntimeError):
                leader.promote()

    # Around a fork, and at the end.

    def pause(self, limit: float) -> bool:
        """Keep everybody from leading; False if someone still led after `limit` seconds."""
        if self.is_led_by(threading.get_ident()):
            return False
        self._pausing = pausing = BlockingJob(PAUSE, nothing, ())
        with self._mutex:
            if self._leader is None:
                self._leader = pausing
                return True
            self._queue.appendleft(pausing)
        pausing.wait(limit)
        with self._mutex:
            self._queue.remove(pausing)
            return self._leader is pausing

    def resume(self) -> None:
        """Let jobs run again after `pause`."""
        pausing, self._pausing = self._pausing, None
        with self._mutex:
            if pausing is not None and pausing in self._queue:
                self._queue.remove(pausing)
            paused = pausing is not None and self._leader is pausing
        if paused:
            self._hand_over()

    def drop(self) -> Runner | None:
        """Give up the connection, for the caller to close; the next job opens a new one."""
        runner, self._runner = self._runner, None
        return runner

    def forget(self) -> Runner | None:
        """In a child process: nothing of the parent's queue and threads is here.

        Returns what was open, for the caller to keep: it must not be closed here.
        """
        inherited = self._runner
        self._reset()
        return inherited

    def close_idle(self) -> None:
        """Close the connection, if no job is running on it."""
        if self._leader is None and (runner := self.drop()) is not None:
            runner.close()
