"""A bounded pool of reading connections, which its users get in the order of their coming.

Three kinds of reads, each with a queue and connections of its own, so that none waits for another
kind: short ones; those that a save needs first, which also take a short one's connection where
nobody waits for it; and long ones (a backup, statistics).
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Literal

from . import fork
from .errors import was_closed
from .transactions import Transactions

ReadKind = Literal["short", "first", "long"]

SHORT: ReadKind = "short"
FIRST: ReadKind = "first"
LONG: ReadKind = "long"

# Connections of the other kinds; a save's read takes a moment, and long ones are rare.
_SIZES: dict[ReadKind, int] = {FIRST: 1, LONG: 2}

# Ctrl-C in the thread that gives a connection back can swallow its call: look again, in seconds.
_LOOK_AGAIN = 0.1


class _Slot:
    """Room for a connection. Who uses it is one attribute: nothing can be half given back."""

    __slots__ = ("generation", "transactions", "user")

    def __init__(self) -> None:
        self.user: int | None = None
        self.transactions: Transactions | None = None
        self.generation = 0


class _Ticket:
    """A place in a queue; its owner sleeps until it is called, or for a while."""

    __slots__ = ("_asleep",)

    def __init__(self) -> None:
        self._asleep = threading.Lock()
        self._asleep.acquire()

    def wait(self) -> None:
        self._asleep.acquire(timeout=_LOOK_AGAIN)

    def call(self) -> None:
        """Have the owner look: twice is as good as once."""
        try:  # noqa: SIM105 - a context manager costs three times as much here
            self._asleep.release()
        except RuntimeError:
            pass


class _Line:
    """The connections of one kind of reads, and who waits for one of them."""

    def __init__(self, size: int) -> None:
        self.slots = [_Slot() for _ in range(size)]
        self.waiting: deque[_Ticket] = deque()

    def free(self) -> _Slot | None:
        """A connection that nobody uses (the first: its cache is warm), or else room for one."""
        room = None
        for slot in self.slots:
            if slot.user is None:
                if slot.transactions is not None:
                    return slot
                room = room or slot
        return room

    def call_next(self) -> None:
        """Have the first in the queue look."""
        with suppress(IndexError):
            self.waiting[0].call()


class Readers:
    """Up to `size` connections for short reads, and some for others, opened by `connect`.

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
        self._lines = {kind: _Line(size) for kind, size in ((SHORT, self.size), *_SIZES.items())}
        self._slots = [slot for line in self._lines.values() for slot in line.slots]
        self._mutex = threading.Lock()
        self._pauses: dict[str, _Ticket] = {}

    def read(self, op: Callable[..., Any], args: tuple[Any, ...], kind: ReadKind = SHORT) -> Any:
        """What `op` returns on a connection of its own; waits for one while all are in use."""
        me = threading.get_ident()
        slot: _Slot | None = None
        try:
            slot = self._acquire(me, kind)
            return self._connected(slot).read(op, args)
        finally:
            if slot is None:  # interrupted on the way
                slot = self._used_by(me)
            if slot is not None:
                slot.user = None
            self._call_next()

    def is_used_by(self, thread: int) -> bool:
        """Whether that thread is running an operation here now."""
        return self._used_by(thread) is not None

    @property
    def are_long(self) -> bool:
        """Whether a long read is under way."""
        return any(slot.user is not None for slot in self._lines[LONG].slots)

    def _used_by(self, thread: int) -> _Slot | None:
        for slot in self._slots:
            if slot.user == thread:
                return slot
        return None

    def _acquire(self, me: int, kind: ReadKind) -> _Slot:
        line = self._lines[kind]
        with self._mutex:
            slot = None if line.waiting else self._free(kind)
            if slot is not None:
                slot.user = me
                return slot
            ticket = _Ticket()
            line.waiting.append(ticket)
        try:
            return self._wait(me, kind, line, ticket)
        finally:
            with self._mutex:
                line.waiting.remove(ticket)
            self._call_next()

    def _wait(self, me: int, kind: ReadKind, line: _Line, ticket: _Ticket) -> _Slot:
        """A connection, once the ticket is the first and one is free."""
        while True:
            with self._mutex:
                if line.waiting[0] is ticket and (slot := self._free(kind)) is not None:
                    slot.user = me
                    return slot
            ticket.wait()

    def _free(self, kind: ReadKind) -> _Slot | None:
        if self._closed:
            raise was_closed(self._name)
        if self._pauses:
            return None
        short = self._lines[SHORT]
        if kind == FIRST and not short.waiting and (slot := short.free()) is not None:
            return slot
        return self._lines[kind].free()

    def _call_next(self) -> None:
        """After a connection was given back, or a queue grew shorter."""
        for line in self._lines.values():
            if line.waiting:
                line.call_next()
        if self._pauses:
            for ticket in list(self._pauses.values()):
                ticket.call()

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

    def pause(self, reason: str, limit: float | None) -> bool:
        """Hold new reads back and wait for those under way; False after `limit` seconds.

        `resume`, for the same reason, lets them on again in either case.
        """
        deadline = None if limit is None else time.monotonic() + limit
        ticket = _Ticket()
        with self._mutex:
            self._pauses[reason] = ticket
        try:
            if self.is_used_by(threading.get_ident()):
                return False
            while True:
                if all(slot.user is None for slot in self._slots):
                    return True
                if deadline is not None and time.monotonic() > deadline:
                    return False
                ticket.wait()
        except BaseException:
            self.resume(reason)
            raise

    def resume(self, reason: str) -> None:
        """Let reads on again after `pause`, whatever it returned."""
        with self._mutex:
            self._pauses.pop(reason, None)
        self._call_next()

    def close_idle(self) -> None:
        """Close the connections that nobody uses; later reads open new ones."""
        with fork.mutex:
            self._close_idle()

    def _close_idle(self) -> None:
        for slot in self._slots:
            if slot.user is None and slot.transactions is not None:
                transactions, slot.transactions = slot.transactions, None
                transactions.conn.close()

    def close(self) -> None:
        """Wait for the reads under way, close all, and refuse later ones."""
        self._closed = True
        self.pause("close", None)
        self.close_idle()
        self.resume("close")

    def forget(self) -> list[Transactions]:
        """In a child process: none of the parent's connections is ours.

        Returns what was open, for the caller to keep: it must not be closed here.
        """
        inherited = [slot.transactions for slot in self._slots if slot.transactions is not None]
        self._reset()
        return inherited
