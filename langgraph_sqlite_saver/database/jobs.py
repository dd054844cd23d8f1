"""A job: an operation on its way through the database, and how its caller gets the answer."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from contextvars import copy_context
from typing import Any, Literal

Kind = Literal["read", "write", "maintain", "turn", "pause", "close"]

READ: Kind = "read"
WRITE: Kind = "write"
MAINTAIN: Kind = "maintain"
# Not operations: a function called in its turn, keeping the lane for a fork, and closing it.
TURN: Kind = "turn"
PAUSE: Kind = "pause"
CLOSE: Kind = "close"

Operation = Callable[..., Any]


def nothing(*_: object) -> None:
    """The operation of a job that is only to get its turn."""


class Job:
    """An operation, its arguments, its outcome; `done` once that is final, a write committed.

    It runs in its caller's context (contextvars), on whatever thread.
    """

    __slots__ = ("args", "context", "done", "error", "kind", "op", "value")

    def __init__(self, kind: Kind, op: Operation, args: tuple[Any, ...]) -> None:
        self.kind = kind
        self.op = op
        self.args = args
        self.context = copy_context()
        self.value: Any = None
        self.error: BaseException | None = None
        self.done = False

    def run(self, conn: sqlite3.Connection) -> Any:
        """What the operation returns on a connection."""
        return self.context.run(self.op, conn, *self.args)

    def settle(self, value: Any, error: BaseException | None = None) -> None:
        """Note the outcome."""
        self.value, self.error = value, error
        self.done = True

    def promote(self) -> None:
        """Have the job's caller lead the queue: run its own job and those that wait with it."""
        raise AssertionError("a job is blocking or awaited")


class BlockingJob(Job):
    """A job whose caller sleeps until it is answered, or is asked to lead."""

    __slots__ = ("_asleep",)

    def __init__(self, kind: Kind, op: Operation, args: tuple[Any, ...]) -> None:
        super().__init__(kind, op, args)
        self._asleep = threading.Lock()
        self._asleep.acquire()

    def wait(self, limit: float = -1) -> None:
        """Sleep until woken, or for `limit` seconds."""
        self._asleep.acquire(timeout=limit)

    def wake(self) -> None:
        """Have the caller look again: it has its answer, or the lead. Twice is as good as once."""
        try:  # noqa: SIM105 - a context manager costs three times as much here
            self._asleep.release()
        except RuntimeError:
            pass

    def promote(self) -> None:
        """Wake the caller: it sees that it leads."""
        self.wake()

    def result(self) -> Any:
        """The operation's value; raises its error."""
        if self.error is not None:
            raise self.error
        return self.value


class AwaitedJob(Job):
    """A job that a task of some event loop awaits; `lead` puts a thread on the queue."""

    __slots__ = ("_lead", "future", "mailbox")

    def __init__(
        self, kind: Kind, op: Operation, args: tuple[Any, ...], lead: Callable[[], object]
    ) -> None:
        super().__init__(kind, op, args)
        loop = asyncio.get_running_loop()
        self.future: asyncio.Future[Any] = loop.create_future()
        self.mailbox = _mailbox_of(loop)
        self._lead = lead

    def promote(self) -> None:
        """Send a thread: an event loop must not run the queue itself."""
        self._lead()


class _Mailbox:
    """Answers for an event loop, which is told once of all that are there when it looks."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = weakref.ref(loop)
        self._jobs: deque[AwaitedJob] = deque()
        self._is_told = False

    def put(self, job: AwaitedJob) -> None:
        """Have the loop settle a job, soon."""
        self._jobs.append(job)
        if self._is_told:
            return
        self._is_told = True
        if (loop := self._loop()) is not None:
            with suppress(RuntimeError):  # the loop was closed; nobody waits any more
                loop.call_soon_threadsafe(self._empty)

    def _empty(self) -> None:
        self._is_told = False  # before looking: what is put from now on is told anew
        while self._jobs:
            _settle(self._jobs.popleft())


_mailboxes: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Mailbox] = (
    weakref.WeakKeyDictionary()
)


def _mailbox_of(loop: asyncio.AbstractEventLoop) -> _Mailbox:
    if (found := _mailboxes.get(loop)) is None:
        found = _mailboxes[loop] = _Mailbox(loop)
    return found


def answer(jobs: Iterable[Job]) -> None:
    """Give every caller its answer: threads are woken, event loops are told."""
    for job in jobs:
        if isinstance(job, AwaitedJob):
            job.mailbox.put(job)
        elif isinstance(job, BlockingJob):
            job.wake()


def _settle(job: AwaitedJob) -> None:
    if job.future.done():  # cancelled meanwhile
        return
    if isinstance(job.error, StopIteration):  # a future takes it for the end of a coroutine
        job.future.set_exception(RuntimeError("the operation raised StopIteration"))
    elif job.error is not None:
        job.future.set_exception(job.error)
    else:
        job.future.set_result(job.value)
