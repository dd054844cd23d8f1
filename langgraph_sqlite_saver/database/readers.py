"""A bounded pool of reading connections; the first that is free is used (a warm cache)."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from . import fork
from .errors import DatabaseClosedError
from .transactions import Transactions

# Ctrl-C in the thread that gives a reader back can swallow its call; then look again, in seconds.
_LOOK_AGAIN = 0.1


class _Slot:
    """Room for a connection. Who uses it is one attribute: nothing can be half given back."""

    __slots__ = ("generation", "transactions", "user")

    def __init__(self) -> None:
        self.user: int | None = None
        self.transactions: Transactions | None = None
        self.generation = 0


class Readers:
    """Up to `size` connections, opened by `connect` as they are needed.

    `generation` counts how often they were all renewed.
    """

    def __init__(self, name: str, size: int, connect: Callable[[], Transactions]) -> None:
        self._name = name
        self.size = size
        self._connect = connect
        self._closed = False
        self.generation = 0
        self._reset()

    def _reset(self) -> None:
        self._slots = [_Slot() for _ in range(self.size)]
        self._mutex = threading.Lock()
        self._changed = threading.Condition(self._mutex)
        self._waiting = 0
        self._paused = False

    def read(self, op: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        """What `op` returns on a connection of its own; waits for one while all are in use."""
        me = threading.get_ident()
        slot: _Slot | None = None
        try:
            slot = self._acquire(me)
            return self._connected(slot).read(op, args)
        finally:
            if slot is None:  # interrupted on the way
                slot = self._used_by(me)
            if slot is not None:
                slot.user = None
            if self._waiting:
                with self._mutex:  # a condition's own `with` can be interrupted inside
                    self._changed.notify_all()

    def is_used_by(self, thread: int) -> bool:
        """Whether that thread is running an operation here now."""
        return self._used_by(thread) is not None

    def _used_by(self, thread: int) -> _Slot | None:
        for slot in self._slots:
            if slot.user == thread:
                return slot
        return None

    def _acquire(self, me: int) -> _Slot:
        with self._mutex:
            slot = self._free() or self._wait_for_one()
            slot.user = me
            return slot

    def _wait_for_one(self) -> _Slot:
        # Counted as waiting before looking again, so that whoever is done in between notifies.
        self._waiting += 1
        try:
            while True:
                if (slot := self._free()) is not None:
                    return slot
                self._changed.wait(_LOOK_AGAIN)
        finally:
            self._waiting -= 1

    def _free(self) -> _Slot | None:
        """A free connection, or else room for one."""
        if self._closed:
            raise DatabaseClosedError(f"{self._name} was closed: open it anew")
        if self._paused:
            return None
        room = None
        for slot in self._slots:
            if slot.user is None:
                if slot.transactions is not None:
                    return slot
                room = room or slot
        return room

    def _connected(self, slot: _Slot) -> Transactions:
        if slot.transactions is not None and slot.generation == self.generation:
            return slot.transactions
        if slot.transactions is not None:
            slot.transactions.conn.close()
            slot.transactions = None
        slot.generation = self.generation
        slot.transactions = opened = self._connect()
        return opened

    def renew(self) -> None:
        """Have each connection opened anew before its next use."""
        self.generation += 1

    def pause(self, limit: float | None) -> bool:
        """Hold new readers back and wait for those under way; False after `limit` seconds."""
        if self.is_used_by(threading.get_ident()):
            return False
        deadline = None if limit is None else time.monotonic() + limit
        with self._mutex:
            self._paused = True
            self._waiting += 1
            try:
                while True:
                    if all(slot.user is None for slot in self._slots):
                        return True
                    if deadline is not None and time.monotonic() > deadline:
                        return False
                    self._changed.wait(_LOOK_AGAIN)
            finally:
                self._waiting -= 1

    def resume(self) -> None:
        """Let readers on again after `pause`."""
        with self._mutex:
            self._paused = False
            self._changed.notify_all()

    def close_idle(self) -> None:
        """Close the connections that nobody uses; later readers open new ones."""
        with fork.mutex:
            for slot in self._slots:
                if slot.user is None and slot.transactions is not None:
                    transactions, slot.transactions = slot.transactions, None
                    transactions.conn.close()

    def close(self) -> None:
        """Wait for the reads under way, close all, and refuse later ones."""
        self._closed = True
        self.pause(None)
        self.close_idle()
        self.resume()

    def forget(self) -> list[Transactions]:
        """In a child process: none of the parent's connections is ours.

        Returns what was open, for the caller to keep: it must not be closed here.
        """
        inherited = [slot.transactions for slot in self._slots if slot.transactions is not None]
        self._reset()
        return inherited
