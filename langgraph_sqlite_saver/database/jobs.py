"""A job: an operation on its way through the database, and how its caller gets the answer."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Then:
    """Returned by a maintenance operation: the rest of it, tried again by itself if it is busy."""

    op: Callable[[sqlite3.Connection], Any]


def nothing(*_: object) -> None:
    """The operation of a job that is only to get its turn."""


class Job:
    """An operation, its arguments, its outcome; `done` once that is final, a write committed."""

    __slots__ = ("args", "done", "error", "kind", "op", "value")

    def __init__(self, kind: Kind, op: Operation, args: tuple[Any, ...]) -> None:
        self.kind = kind
        self.op = op
        self.args = args
        self.value: Any = None
        self.error: BaseException | None = None
        self.done = False

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

    __slots__ = ("_lead", "future", "loop")

    def __init__(
        self, kind: Kind, op: Operation, args: tuple[Any, ...], lead: Callable[[], object]
    ) -> None:
        super().__init__(kind, op, args)
        self.loop = asyncio.get_running_loop()
        self.future: asyncio.Future[Any] = self.loop.create_future()
        self._lead = lead

    def promote(self) -> None:
        """Send a thread: an event loop must not run the queue itself."""
        self._lead()


def answer(jobs: Iterable[Job]) -> None:
    """Give every caller its answer: threads are woken, each event loop is called once."""
    awaited: dict[asyncio.AbstractEventLoop, list[AwaitedJob]] = {}
    for job in jobs:
        if isinstance(job, AwaitedJob):
            awaited.setdefault(job.loop, []).append(job)
        elif isinstance(job, BlockingJob):
            job.wake()
    for loop, group in awaited.items():
        with suppress(RuntimeError):  # the loop was closed; nobody waits any more
            loop.call_soon_threadsafe(_settle, group)


def _settle(jobs: Iterable[AwaitedJob]) -> None:
    for job in jobs:
        if job.future.done():  # cancelled meanwhile
            continue
        if isinstance(job.error, StopIteration):  # a future takes it for the end of a coroutine
            job.future.set_exception(RuntimeError("the operation raised StopIteration"))
        elif job.error is not None:
            job.future.set_exception(job.error)
        else:
            job.future.set_result(job.value)
