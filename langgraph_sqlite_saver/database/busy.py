"""Waiting for a lock that another process holds.

SQLite's own busy handler sleeps up to 100 ms at a time and lets whoever wakes first have the lock:
with four processes the slowest save took 230–430 ms. Short random sleeps keep the queue moving:
22–36 ms. So connections are opened with `busy_timeout=0` and the waiting is done here.
"""

from __future__ import annotations

import os
import random
import sqlite3
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from . import logs
from .errors import DatabaseLockedError, InvalidInputError, InvalidTypeError, is_busy

T = TypeVar("T")

_SHORTEST, _LONGEST = 0.0002, 0.0015
# A longer wait is logged, in seconds.
_LONG = 1.0
# The byte of the -shm that a writer locks (WAL_WRITE_LOCK).
_WRITE_LOCK = 120


def check_lock_timeout(seconds: float) -> None:
    """Raise for what is no number of seconds."""
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)):
        raise InvalidTypeError(f"lock_timeout is a number of seconds, not {seconds!r}")
    if not seconds >= 0:
        raise InvalidInputError(f"lock_timeout cannot be {seconds!r} seconds")


def retry_while_busy(
    attempt: Callable[[], T],
    *,
    limit: float,
    where: str,
    on_wait: Callable[[float], None] | None = None,
) -> T:
    """What `attempt` returns, tried again while another connection holds a lock.

    `limit` is in seconds; after it DatabaseLockedError names the file (`where`) and the limit.
    `on_wait` is called with the seconds waited, if a lock was waited for.
    """
    started = time.monotonic()
    if on_wait is None:
        return _retry(attempt, limit, where)
    try:
        return attempt()
    except sqlite3.OperationalError as error:
        if not is_busy(error):
            raise
    try:
        return _retry(attempt, limit, where)
    finally:
        on_wait(time.monotonic() - started)


def _retry(attempt: Callable[[], T], limit: float, where: str) -> T:
    started: float | None = None
    told = False
    while True:
        try:
            return attempt()
        except sqlite3.OperationalError as error:
            if not is_busy(error):
                raise
            now = time.monotonic()
            started = now if started is None else started
            if now - started >= limit:
                raise DatabaseLockedError(
                    f"{where}: {_holder(where)} kept the database locked for {limit:g} s. "
                    "Look for a long transaction there, or raise lock_timeout."
                ) from error
            if now - started >= _LONG and not told:
                told = True
                logs.locks.warning(
                    "%s: waiting for a lock of %s, for at most %g s", where, _holder(where), limit
                )
        time.sleep(random.uniform(_SHORTEST, _LONGEST))


def _holder(where: str) -> str:
    """Who holds a file's write lock; Linux lists the processes."""
    pids = set()
    with suppress(OSError, ValueError, AttributeError):
        shm = os.stat(f"{os.path.realpath(where)}-shm")  # noqa: PTH116
        file = f"{os.major(shm.st_dev):02x}:{os.minor(shm.st_dev):02x}:{shm.st_ino}"
        for line in Path("/proc/locks").read_text().splitlines():
            # 1: POSIX  ADVISORY  WRITE 4711 fe:01:131 120 120
            *_, kind, pid, locked, first, last = line.split()
            if (kind, locked) == ("WRITE", file) and int(first) <= _WRITE_LOCK <= int(last):
                pids.add(pid)
    if not pids:
        return "another connection"
    return (
        ", ".join(f"process {pid}" for pid in sorted(pids - {str(os.getpid())})) or "this process"
    )
