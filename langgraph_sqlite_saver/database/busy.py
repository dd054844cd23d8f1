"""Waiting for a lock that another process holds.

SQLite's own busy handler sleeps up to 100 ms at a time and lets whoever wakes first have the lock:
with four processes the slowest save took 230–430 ms. Short random sleeps keep the queue moving:
22–36 ms. So connections are opened with `busy_timeout=0` and the waiting is done here.
"""

from __future__ import annotations

import random
import sqlite3
import time
from collections.abc import Callable
from typing import TypeVar

from .errors import DatabaseLockedError, InvalidInputError, InvalidTypeError, is_busy

T = TypeVar("T")

_SHORTEST, _LONGEST = 0.0002, 0.0015


def check_lock_timeout(seconds: float) -> None:
    """Raise for what is no number of seconds."""
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)):
        raise InvalidTypeError(f"lock_timeout is a number of seconds, not {seconds!r}")
    if not seconds >= 0:
        raise InvalidInputError(f"lock_timeout cannot be {seconds!r} seconds")


def retry_while_busy(attempt: Callable[[], T], *, limit: float, where: str) -> T:
    """What `attempt` returns, tried again while another connection holds a lock.

    `limit` is in seconds; after it DatabaseLockedError names the file (`where`) and the limit.
    """
    deadline: float | None = None
    while True:
        try:
            return attempt()
        except sqlite3.OperationalError as error:
            if not is_busy(error):
                raise
            now = time.monotonic()
            deadline = now + limit if deadline is None else deadline
            if now >= deadline:
                raise DatabaseLockedError(
                    f"{where}: another connection kept the database locked for {limit:g} s. "
                    "Look for a long transaction in another process, or raise lock_timeout."
                ) from error
        time.sleep(random.uniform(_SHORTEST, _LONGEST))
