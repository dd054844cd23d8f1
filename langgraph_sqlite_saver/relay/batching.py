"""Usage on its way to the disk: a bounded queue, and a thread that stores what waits together."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from .errors import RedisUnavailableError, UsageNotStoredError
from .usage import UsageRecord

# Records stored in one transaction; enough to make its cost small for each.
LARGEST = 2000

# Up to which record to wait, and how many had been given up when it was taken.
Ticket = tuple[int, int]

_log = logging.getLogger(__name__)


class PartlyStored(Exception):
    """Not all of a batch is stored.

    `left` is to be tried again, because of `failure`; `given_up` records will never be stored,
    `why` says for what reason.
    """

    def __init__(
        self, left: Sequence[UsageRecord], failure: Exception | None, given_up: int, why: str
    ) -> None:
        super().__init__(why)
        self.left = left
        self.failure = failure
        self.given_up = given_up
        self.why = why


class UsageQueue:
    """Takes records at once and stores them within `interval` seconds.

    A crash of the process loses what came within that time. When `size` records wait, callers wait
    too; when they cannot be stored, they are kept, and callers are told once the queue is full.

    `store` stores a batch; when it raises, the batch stays, or what PartlyStored says.
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
        # Taken by itself: a condition's own `with` can be interrupted inside.
        self._mutex = threading.RLock()
        self._changed = threading.Condition(self._mutex)
        # How many are done with, of those that came first; and of those behind one that waits.
        self._stored = 0
        self._ahead = 0
        # When what waits is to be stored.
        self._due = 0.0
        self._failure: Exception | None = None
        self._failures = 0
        # Records that will never be stored; how many of them a caller was told of.
        self._given_up = 0
        self._told = 0
        self._why = ""
        self._flushing = 0
        self._thread: threading.Thread | None = None

    def _check_process(self) -> None:
        """After a fork the parent stores what it took, and its thread is not here."""
        if self._process != os.getpid():
            self._reset()

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def _accepted(self) -> int:
        return self._stored + self._ahead + len(self._waiting)

    def put(self, records: Sequence[UsageRecord]) -> Ticket:
        """Take records; returns a ticket for `wait`. Waits while the queue is full."""
        self._check_process()
        with self._mutex:
            while True:  # as in database/lane.py: Ctrl-C must find the `with`
                if not self.is_full_for(len(records)):
                    break
                self._refuse_if_failing()
                with self._hurry():
                    self._changed.wait(self._interval)
            if self._closed:
                raise _closed_error()
            self._run()
            if not self._waiting:  # the thread waits for something to come
                self._due = time.monotonic() + self._interval
                self._changed.notify_all()
            self._waiting.extend(records)
            if len(self._waiting) >= LARGEST:
                self._changed.notify_all()
            if self._closed and self._waiting:  # by the handler of a signal, meanwhile
                raise _closed_error()
            return self._accepted, self._given_up

    def is_full_for(self, count: int) -> bool:
        """Whether `put` would wait; for event loops, which must not."""
        return bool(self._waiting) and len(self._waiting) + count > self._size

    def wait(self, ticket: Ticket | None = None) -> None:
        """Wait until what was taken is stored; raises UsageNotStoredError if it cannot be.

        Also for records that were given up: since the ticket, or since somebody was told.
        """
        self._check_process()
        with self._mutex:
            last, told = ticket or (self._accepted, self._told)
            self._wait_for(last)
            self._tell_of_given_up(told)

    def settle(self) -> None:
        """As `wait`, and says nothing of records that were given up."""
        self._check_process()
        with self._mutex:
            self._wait_for(self._accepted)

    def _wait_for(self, last: int) -> None:
        seen = self._failures
        with self._hurry():
            while True:
                if self._stored >= last:
                    break
                if self._failures > seen or self._thread is None:
                    self._refuse_if_failing()
                if self._thread is None:
                    raise _closed_error()
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
        """Store what waits and end; raises UsageNotStoredError for what could not be stored.

        Who closes it once more, or meanwhile, waits and is told as well.
        """
        self._check_process()
        with self._mutex:
            self._closed = True
            self._changed.notify_all()
            thread, told = self._thread, self._told
            # Not by `join`: the handler of a signal may have come while this thread was in `put`,
            # and a condition that waits lets the other thread have the lock.
            while True:
                if self._thread is None:
                    break
                self._changed.wait()
        if thread is not None:
            thread.join()
        self._refuse_if_failing()
        self._tell_of_given_up(told)

    def _refuse_if_failing(self) -> None:
        if self._failure is None:
            return
        redis = isinstance(self._failure, RedisUnavailableError)
        who = "Redis does not take them" if redis else "SQLite refuses them"
        raise UsageNotStoredError(
            f"{len(self._waiting)} usage records wait, for {who}: {self._failure}"
        ) from self._failure

    def _tell_of_given_up(self, told: int) -> None:
        if self._given_up > told:
            self._told = self._given_up
            raise UsageNotStoredError(
                f"{self._given_up - told} usage records were given up: {self._why}"
            )

    # The thread.

    def _run(self) -> None:
        if self._thread is None:
            thread = threading.Thread(target=self._work, name="langgraph-sqlite-usage", daemon=True)
            thread.start()
            # Only now: a signal's handler that closes the queue would wait for one that is not
            # there yet.
            self._thread = thread

    def _work(self) -> None:
        try:
            while batch := self._next():
                if not self._attempt(batch) and self._closed:
                    return
        finally:
            with self._mutex:
                self._thread = None
                self._changed.notify_all()

    def _next(self) -> list[UsageRecord]:
        """What is to be stored next, once it is due; nothing at the end."""
        with self._mutex:
            while not self._waiting and not self._closed:
                self._changed.wait()
            while self._waiting and not self._is_due():
                self._changed.wait(max(self._due - time.monotonic(), 0))
            batch = [self._waiting[i] for i in range(min(len(self._waiting), LARGEST))]
            if len(batch) == len(self._waiting):  # what comes now may wait as long
                self._due = time.monotonic() + self._interval
            return batch

    def _is_due(self) -> bool:
        enough = len(self._waiting) >= LARGEST
        return enough or self._flushing > 0 or self._closed or time.monotonic() >= self._due

    def _attempt(self, batch: Sequence[UsageRecord]) -> bool:
        outcome = PartlyStored((), None, 0, "")
        try:
            self._store(batch)
        except PartlyStored as partly:
            outcome = partly
        except Exception as error:
            outcome = PartlyStored(batch, error, 0, "")
        with self._mutex:
            self._note(batch, outcome)
            if outcome.failure is not None and not self._closed:
                self._changed.wait(self._interval)
        return outcome.failure is None

    def _note(self, batch: Sequence[UsageRecord], outcome: PartlyStored) -> None:
        """What became of the batch that waited first."""
        for _ in batch:
            self._waiting.popleft()
        self._waiting.extendleft(reversed(outcome.left))
        self._ahead += len(batch) - len(outcome.left)
        if not outcome.left:
            self._stored += self._ahead
            self._ahead = 0
        self._failure = outcome.failure
        self._failures += outcome.failure is not None
        self._note_given_up(outcome)
        self._changed.notify_all()

    def _note_given_up(self, outcome: PartlyStored) -> None:
        if not outcome.given_up:
            return
        if self._given_up == self._told:  # once, until a caller is told
            _log.error("%d usage records were given up: %s", outcome.given_up, outcome.why)
        self._given_up += outcome.given_up
        self._why = outcome.why


def _closed_error() -> UsageNotStoredError:
    return UsageNotStoredError("the store was closed: open it anew")
