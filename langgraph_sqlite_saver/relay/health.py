"""What a store knows of its Redis from one call to the next."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable
from queue import SimpleQueue

from .errors import RedisUnavailableError

_log = logging.getLogger(__name__)

# For how long a Redis that did not answer is not asked again, in seconds.
_PATIENCE = 1.0


class Health:
    """What is known of Redis: whether it answers, and which changes it has not taken.

    `is_unmet`: its layout is to be learned before anything is written to it. `logs`: say so where
    it goes down and comes back.
    """

    def __init__(self, *, logs: bool = True) -> None:
        self._logs = logs
        self._down_until = 0.0
        self._suspicions = 0
        self._cleared = 0
        self._mutex = threading.RLock()  # a signal's handler may close the store
        self._told: set[bool] = set()
        self._failed: set[int] = set()
        self._untaken: set[int] = set()
        self._finished: set[int] = set()
        self.is_unmet = False
        # An Event's lock would not let a signal's handler in.
        self.wake: SimpleQueue[None] = SimpleQueue()

    def renew(self) -> None:
        """In a child process."""
        self._mutex = threading.RLock()
        self.wake = SimpleQueue()

    def look(self) -> None:
        """Have the background look after Redis now."""
        if self.wake.empty():
            self.wake.put(None)

    @property
    def is_down(self) -> bool:
        """Whether asking it now would most likely be waiting in vain."""
        return self._down_until > 0 and time.monotonic() < self._down_until

    @property
    def may_answer(self) -> bool:
        """Whether what it answers is what was saved last, as far as this process knows."""
        return self._suspicions == self._cleared and self._is_up_to_date

    @property
    def is_suspected(self) -> bool:
        """Whether it might answer, if it is still the one it was."""
        return self._suspicions != self._cleared and self._is_up_to_date

    @property
    def _is_up_to_date(self) -> bool:
        if self._failed or self._untaken:
            return False
        return not self._down_until or not self.is_down

    @property
    def failed(self) -> tuple[int, ...]:
        """Rows of the outbox whose calls gave up."""
        with self._mutex:
            return tuple(self._failed)

    @property
    def untaken(self) -> tuple[int, ...]:
        """Rows of the outbox, of whatever process, that could not be brought to Redis."""
        with self._mutex:
            return tuple(self._untaken)

    def went_down(self, error: RedisUnavailableError) -> None:
        """A call failed."""
        if not error.answered:
            self._down_until = time.monotonic() + _PATIENCE
        # Once for each time that it is down, or refuses.
        if self._logs and error.answered not in self._told:
            self._told.add(error.answered)
            _log.warning("%s", error)

    def connected(self) -> None:
        """A connection was made: Redis may have been restarted, with older keys or none."""
        with self._mutex:
            self._suspicions += 1
        self.look()

    @property
    def suspicions(self) -> int:
        """How many came up; what was looked at after the last of them clears it."""
        return self._suspicions

    def is_the_one_it_was(self, suspicions: int) -> bool:
        """Whoever answers was looked at when there were so many; whether none came up since."""
        with self._mutex:
            if suspicions == self._suspicions:
                self._cleared = suspicions
            return suspicions == self._suspicions

    def came_back(self) -> None:
        """It answers."""
        self._down_until = 0.0
        if self._told and not (self._failed or self._untaken):
            self._told.clear()
            _log.warning("Redis takes changes again")

    def gave_up(self, id: int) -> None:
        """A change waits in the outbox."""
        with self._mutex:
            self._failed.add(id)
        self.look()

    def not_taken(self, ids: Iterable[int]) -> None:
        """Changes, of whatever process, that wait in the outbox could not be brought to Redis."""
        with self._mutex:
            self._untaken.update(ids)

    @property
    def finished(self) -> tuple[int, ...]:
        """Rows of the outbox that are done with, and are taken out along with the next change."""
        with self._mutex:
            return tuple(self._finished)

    def finish(self, id: int) -> None:
        """Redis has taken a change."""
        with self._mutex:
            self._finished.add(id)

    def swept(self, ids: tuple[int, ...]) -> None:
        """Rows were taken out."""
        if ids:
            with self._mutex:
                self._finished.difference_update(ids)

    def drained(self, ids: tuple[int, ...]) -> None:
        """Changes have reached Redis."""
        with self._mutex:
            self._failed.difference_update(ids)
            self._untaken.difference_update(ids)
