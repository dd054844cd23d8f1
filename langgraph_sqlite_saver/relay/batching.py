"""Usage on its way to the disk: a bounded queue, and a thread that stores what waits together."""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from .errors import UsageNotStoredError
from .usage import UsageRecord

# Records stored in one transaction; enough to make its cost small for each.
LARGEST = 2000


class UsageQueue:
    """Takes records at once and stores them within `interval` seconds.

    A crash of the process loses what came within that time. When `size` records wait, callers wait
    too; when SQLite refuses, they are kept, and callers are told once the queue is full.
    """

    def __init__(
        self, store: Callable[[Sequence[UsageRecord]], object], interval: float, size: int
    ) -> None:
        self._store = store
        self._interval = interval
        self._size = size
        self._closed = False
        self._reset()

    def _reset(self) -> None:
        self._process = os.getpid()
        self._waiting: deque[UsageRecord] = deque()
        self._changed = threading.Condition()
        self._accepted = 0
        self._stored = 0
        self._failure: Exception | None = None
        self._failures = 0
        self._flushing = 0
        self._thread: threading.Thread | None = None

    def _check_process(self) -> None:
        """After a fork the parent stores what it took, and its thread is not here."""
        if self._process != os.getpid():
            self._reset()

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, records: Sequence[UsageRecord]) -> int:
        """Take records; returns a ticket for `wait`. Waits while the queue is full."""
        self._check_process()
        with self._changed:
            while self._waiting and len(self._waiting) + len(records) > self._size:
                self._refuse_if_failing()
                with self._hurry():
                    self._changed.wait(self._interval)
            self._check_open()
            self._waiting.extend(records)
            self._accepted += len(records)
            self._run()
            if len(self._waiting) >= LARGEST:
                self._changed.notify_all()
            return self._accepted

    def is_full_for(self, count: int) -> bool:
        """Whether `put` would wait; for event loops, which must not."""
        return bool(self._waiting) and len(self._waiting) + count > self._size

    def wait(self, ticket: int | None = None) -> None:
        """Wait until what was taken is on disk; raises UsageNotStoredError if SQLite refuses."""
        self._check_process()
        with self._changed:
            ticket = self._accepted if ticket is None else ticket
            seen = self._failures
            with self._hurry():
                while self._stored < ticket:
                    if self._failures > seen or self._closed:
                        self._refuse_if_failing()
                    self._changed.wait(self._interval)

    @contextmanager
    def _hurry(self) -> Iterator[None]:
        """Have what waits stored at once."""
        self._flushing += 1
        self._changed.notify_all()
        try:
            yield
        finally:
            self._flushing -= 1

    def close(self) -> None:
        """Store what waits and end; raises UsageNotStoredError for what could not be stored."""
        self._check_process()
        with self._changed:
            if self._closed:
                return
            self._closed = True
            self._changed.notify_all()
            thread = self._thread
        if thread is not None:
            thread.join()
        self._refuse_if_failing()

    def _check_open(self) -> None:
        if self._closed:
            raise UsageNotStoredError("the store was closed: open it anew")

    def _refuse_if_failing(self) -> None:
        if self._failure is not None:
            raise UsageNotStoredError(
                f"{len(self._waiting)} usage records wait, for SQLite refuses them: {self._failure}"
            ) from self._failure

    def _run(self) -> None:
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(
                target=self._work, name="langgraph-sqlite-usage", daemon=True
            )
            self._thread.start()

    def _work(self) -> None:
        while True:
            with self._changed:
                while not self._waiting and not self._closed:
                    self._changed.wait()
                if not self._waiting:
                    return
                due = time.monotonic() + self._interval
                while not self._is_due(due):
                    self._changed.wait(max(due - time.monotonic(), 0))
                batch = [self._waiting[i] for i in range(min(len(self._waiting), LARGEST))]
            if not self._attempt(batch) and self._closed:
                return

    def _is_due(self, due: float) -> bool:
        enough = len(self._waiting) >= LARGEST
        return enough or self._flushing > 0 or self._closed or time.monotonic() >= due

    def _attempt(self, batch: Sequence[UsageRecord]) -> bool:
        failure: Exception | None = None
        try:
            self._store(batch)
        except Exception as error:
            failure = error
        with self._changed:
            self._failure = failure
            if failure is None:
                for _ in batch:
                    self._waiting.popleft()
                self._stored += len(batch)
            else:
                self._failures += 1
            self._changed.notify_all()
            if failure is not None and not self._closed:
                self._changed.wait(self._interval)
        return failure is None
