"""Events for metrics: what a database does, reported to a function of the program."""

from __future__ import annotations

import inspect
import os
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from . import logs
from .errors import InvalidTypeError
from .interruptions import is_from_outside
from .jobs import WRITE, Job, Operation
from .lane import Runner
from .wal import WalKeeper


@dataclass(frozen=True)
class Event:
    """Something that a database did.

    Attributes:
        kind: `"read"`, `"write"` or `"maintain"`: an operation, from the call to its result.
            `"commit"`: a transaction. `"wait"`: a wait for the lock of another connection.
        database: The file, as it was passed.
        seconds: The duration.
        operation: The name of the operation's function: `"get_tuple"`, `"put"`, `"put_writes"`, …
        operations: For a commit: how many operations shared it.
        file_bytes, wal_bytes: For a commit: the sizes of the file and the -wal after it.
        error: The class name of the exception that an operation raised.
    """

    kind: Literal["read", "write", "maintain", "commit", "wait"]
    database: str
    seconds: float
    operation: str = ""
    operations: int = 0
    file_bytes: int = 0
    wal_bytes: int = 0
    error: str | None = None


OnEvent = Callable[[Event], object]


class Events:
    """Calls `on_event`. Its first exception is logged, the others are ignored."""

    @classmethod
    def of(cls, database: str, path: str | None, on_event: OnEvent | None) -> Events | None:
        """None without `on_event`."""
        return None if on_event is None else cls(database, path, on_event)

    def __init__(self, database: str, path: str | None, on_event: OnEvent) -> None:
        if not callable(on_event) or inspect.iscoroutinefunction(on_event):
            raise InvalidTypeError(f"on_event is a function, and not async: {on_event!r}")
        self._database, self._path, self._on_event = database, path, on_event
        self._has_failed = False

    def tell(self, kind: Any, seconds: float, **about: Any) -> None:
        """Report an event with its duration."""
        try:
            self._on_event(Event(kind, self._database, seconds, **about))
        except Exception as error:
            if is_from_outside(error):
                raise
            if not self._has_failed:
                self._has_failed = True
                logs.events.exception(
                    "%s: on_event raised an exception; later ones are not logged", self._database
                )

    @contextmanager
    def operation(self, kind: Any, op: Operation) -> Iterator[None]:
        """Report the operation that runs inside the `with` block."""
        started, error = time.perf_counter(), None
        try:
            yield
        except BaseException as raised:
            error = type(raised).__name__
            raise
        finally:
            name = getattr(op, "__name__", type(op).__name__)
            self.tell(kind, time.perf_counter() - started, operation=name, error=error)

    async def awaited(self, kind: Any, op: Operation, answer: Awaitable[Any]) -> Any:
        """As `operation`, for an awaitable."""
        with self.operation(kind, op):
            return await answer

    def committed(self, seconds: float, operations: int) -> None:
        """Report a commit."""
        file, wal = _size(self._path), _size(self._path, "-wal")
        self.tell("commit", seconds, operations=operations, file_bytes=file, wal_bytes=wal)


class ObservedRunner:
    """A runner that reports its commits."""

    def __init__(self, runner: Runner, events: Events) -> None:
        self._runner, self._events = runner, events

    def run(self, jobs: Sequence[Job]) -> None:
        """Run the jobs, and report the commit."""
        started = time.perf_counter()
        self._runner.run(jobs)
        done = sum(job.kind == WRITE and job.error is None for job in jobs)
        if done:
            self._events.committed(time.perf_counter() - started, done)

    @property
    def wal(self) -> WalKeeper | None:
        """As the runner's."""
        return self._runner.wal

    @property
    def keep_up(self) -> Callable[[], None]:
        """As the runner's."""
        return self._runner.keep_up

    def close(self) -> None:
        """Close the runner."""
        self._runner.close()


def _size(path: str | None, ending: str = "") -> int:
    try:
        return 0 if path is None else os.stat(f"{path}{ending}").st_size  # noqa: PTH116
    except OSError:
        return 0
