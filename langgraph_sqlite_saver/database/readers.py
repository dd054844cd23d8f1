"""A bounded pool of reading connections; the one used last is given out first (warm cache)."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Literal

from .errors import DatabaseClosedError
from .transactions import Transactions


class Readers:
    """Up to `size` connections, opened by `connect` as they are needed."""

    def __init__(self, name: str, size: int, connect: Callable[[], Transactions]) -> None:
        self._name = name
        self.size = size
        self._connect = connect
        self._closed = False
        self._reset()

    def _reset(self) -> None:
        self._idle: deque[Transactions] = deque()
        self._opened = 0
        self._waiting = 0
        self._changed = threading.Condition()
        self._paused = False

    def acquire(self) -> Transactions:
        """A connection for the caller alone; waits for one while all are in use."""
        if not self._paused:
            try:
                return self._idle.pop()
            except IndexError:
                pass
        return self._acquire_slowly()

    def release(self, reader: Transactions) -> None:
        """Give a connection back."""
        self._idle.append(reader)
        if self._waiting:
            with self._changed:
                self._changed.notify_all()

    def _acquire_slowly(self) -> Transactions:
        with self._changed:
            # Counted as waiting before looking again, so that a release in between notifies.
            self._waiting += 1
            try:
                while (reader := self._idle_or_room()) is None:
                    self._changed.wait()
            finally:
                self._waiting -= 1
        if isinstance(reader, Transactions):
            return reader
        try:
            return self._connect()
        except BaseException:
            with self._changed:
                self._opened -= 1
                self._changed.notify_all()
            raise

    def _idle_or_room(self) -> Transactions | Literal["room"] | None:
        if self._closed:
            raise DatabaseClosedError(f"{self._name} was closed: open it anew")
        if self._paused:
            return None
        try:
            return self._idle.pop()
        except IndexError:
            pass
        if self._opened == self.size:
            return None
        self._opened += 1
        return "room"

    def pause(self, limit: float | None) -> bool:
        """Hold new readers back and wait for those under way; False after `limit` seconds."""
        deadline = None if limit is None else time.monotonic() + limit
        with self._changed:
            self._paused = True
            self._waiting += 1
            try:
                while len(self._idle) < self._opened:
                    left = None if deadline is None else deadline - time.monotonic()
                    if left is not None and left <= 0:
                        return False
                    self._changed.wait(left)
            finally:
                self._waiting -= 1
        return True

    def resume(self) -> None:
        """Let readers on again after `pause`."""
        with self._changed:
            self._paused = False
            self._changed.notify_all()

    def close_idle(self) -> None:
        """Close the connections that nobody uses; later readers open new ones."""
        with self._changed:
            while self._idle:
                self._idle.pop().conn.close()
                self._opened -= 1

    def close(self) -> None:
        """Wait for the reads under way, close all, and refuse later ones."""
        self._closed = True
        self.pause(None)
        self.close_idle()
        self.resume()

    def forget(self) -> None:
        """In a child process: none of the parent's connections is ours."""
        self._reset()
