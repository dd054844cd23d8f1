"""Bringing back what Redis has lost, also beside a relay that has begun anew on what was left."""

from __future__ import annotations

import secrets
import sqlite3
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import redis

from ..database import Database
from . import commands, keys, layout, outbox, server
from .commands import Command, Mode
from .keys import Row
from .logic import Logic
from .outbox import Change, Current
from .steps import Ask, ask, take

Progress = Callable[[int, int], None]

_PAGE = 200
# A turn that shows no progress for this long is over, in milliseconds.
_LEASE = 30_000
# How often to look whether another process's turn is over, in seconds.
_POLL = 0.1


@dataclass
class Restored:
    """What a restore wrote, or would write: keys, and which of them are API keys and accounts.

    `present` keys were there already; `loss` says how much was missing: "none", "missing" (some
    keys), "rollback" (counters went back: an older copy came back) or "total".
    """

    keys: int = 0
    api_keys: int = 0
    accounts: int = 0
    present: int = 0
    loss: str = "none"


@dataclass(frozen=True)
class _Turn:
    """One process's turn at restoring. New counts must be added to old ones once, whoever restores
    and however often it is interrupted: keys up to `after` are done, the next page may be.
    """

    source: str
    owner: str
    loss: str = ""
    after: bytes = b""
    resumed: bool = False

    def mode_of(self, page: Sequence[Row]) -> Mode:
        """How this page's keys are brought together with what Redis has."""
        if self.loss in ("none", "missing") or page[-1].key <= self.after:
            return "missing"
        if self.loss == "rollback":
            return "rollback"
        return "again" if self.resumed else "total"

    def past(self, page: Sequence[Row]) -> _Turn:
        """With a page done."""
        if page[-1].key <= self.after:
            return self
        return replace(self, after=page[-1].key, resumed=False)


def _claim(conn: sqlite3.Connection, source: str, owner: str) -> _Turn | None:
    """A turn at restoring this Redis; None while another process has one."""
    note = keys.state(conn, "restoring")
    turn = _Turn(source, owner)
    if note:
        then, other, loss, after, until = note.split(" ")
        if int(until) > keys.now_ms() and other != owner:
            return None
        if then == source:
            turn = _Turn(source, owner, loss, bytes.fromhex(after), resumed=True)
    _hold(conn, turn)
    return turn


def _release(conn: sqlite3.Connection, owner: str) -> None:
    """Let others go on at once where this turn ended early."""
    note = (keys.state(conn, "restoring") or "").split(" ")
    if len(note) == 5 and note[1] == owner:
        keys.set_state(conn, "restoring", " ".join([*note[:4], "0"]))


def _hold(conn: sqlite3.Connection, turn: _Turn) -> None:
    until = keys.now_ms() + _LEASE
    note = f"{turn.source} {turn.owner} {turn.loss} {turn.after.hex()} {until}"
    keys.set_state(conn, "restoring", note)


class Restorer:
    """Compares what SQLite holds with what Redis has, and writes what is missing there."""

    def __init__(self, database: Database, client: redis.Redis, logic: Logic) -> None:
        self._database = database
        self._client = client
        self._logic = logic

    def assess(self) -> Restored:
        """What is missing in Redis; writes nothing."""
        found = Restored()
        went_back = False
        for page in self._pages():
            replies = ask(self._client, Ask([("EXISTS", row.key) for row in page]))
            for row, there in zip(page, replies, strict=True):
                _count(found, row.key, bool(there))
            went_back = went_back or self._went_back(page)
        if found.keys > found.present:
            found.loss = "total"
        elif went_back:
            found.loss = "rollback"
        elif found.keys:
            found.loss = "missing"
        return found

    def _went_back(self, page: Sequence[Row]) -> bool:
        """Whether totals that only rise are below what they were."""
        totals = [row for row in page if _is_total(row.key) and row.blob is not None]
        if not totals:
            return False
        saved = self._database.read(_requests, totals)
        asked = [("HGET", row.key, field) for row, (field, _) in zip(totals, saved, strict=True)]
        replies = ask(self._client, Ask(asked, tolerant=True))
        return any(
            isinstance(now, bytes) and now.isdigit() and int(now) < before
            for now, (_, before) in zip(replies, saved, strict=True)
        )

    def restore(self, *, dry_run: bool = False, progress: Progress | None = None) -> Restored:
        """Write what is missing, and what counters and lists have lost; say what that was.

        Keys that are deleted here are removed there, and the marks by which a relay remembers that
        it found no accounts. It can be interrupted and done again, and waits while another process
        is at it.
        """
        if dry_run:
            return self.assess()
        turn = self._take_turn()
        try:
            assessed = self.assess()
            turn = replace(turn, loss=turn.loss or assessed.loss)
            assessed.loss = turn.loss
            self._write_all(turn, assessed.keys + assessed.present, progress)
        except BaseException:
            self._database.write(_release, turn.owner)
            raise
        self._database.write(keys.set_state, "restoring", "")
        return assessed

    def _take_turn(self) -> _Turn:
        about = server.info(self._client)
        source = f"{about.run_id}/{about.flushes}".replace(" ", "+")
        owner = secrets.token_hex(8)
        while True:
            turn: _Turn | None = self._database.write(_claim, source, owner)
            if turn is not None:
                return turn
            time.sleep(_POLL)

    def _write_all(self, turn: _Turn, total: int, progress: Progress | None) -> None:
        done = 0
        for page in self._pages():
            self._database.write(_hold, turn)
            self._write(page, turn.mode_of(page))
            turn = turn.past(page)
            done += len(page)
            if progress is not None:
                progress(done, total)
        self._bury()
        ask(self._client, Ask([("DEL", mark) for mark in layout.EMPTY_MARKS]))

    def _write(self, page: Sequence[Row], mode: Mode) -> None:
        seen: Current = self._database.read(_to_write, page, mode)
        ask(self._client, Ask(seen.commands))
        moved = self._database.read(outbox.moved, seen)
        if moved is not None:  # a save came in between
            take(self._logic.bring(moved.changes), self._database, self._client)

    def _bury(self) -> None:
        after: Change = (b"", None)
        while buried := self._database.read(outbox.buried, after, _PAGE):
            take(self._logic.bring(tuple(buried)), self._database, self._client)
            after = buried[-1]

    def _pages(self) -> Sequence[Sequence[Row]]:
        return _Pages(self._database)  # type: ignore[return-value]


class _Pages:
    """The rows that Redis should have, page by page."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def __iter__(self):  # type: ignore[no-untyped-def]
        after = b""
        while page := self._database.read(keys.page, after, _PAGE):
            after = page[-1].key
            now = keys.now_ms()
            if living := [row for row in page if not row.is_expired(now)]:
                yield living


def _count(found: Restored, key: bytes, there: bool) -> None:
    if there:
        found.present += 1
        return
    found.keys += 1
    place = layout.place(key)
    if place is not None:
        found.api_keys += place.family == "api_key"
        found.accounts += place.family == "account"


def _is_total(key: bytes) -> bool:
    if key == b"usage:global:total":
        return True
    place = layout.place(key)
    return place is not None and place.family == "key_totals"


def _requests(conn: sqlite3.Connection, totals: Sequence[Row]) -> list[tuple[bytes, int]]:
    found = []
    for row in totals:
        name = b"requests" if row.key == b"usage:global:total" else b"totalRequests"
        value = keys.value_of(conn, row)
        count = value.fields().get(name, b"") if value.type == "hash" else b""
        found.append((name, int(count) if count.isdigit() else 0))
    return found


def _to_write(conn: sqlite3.Connection, page: Sequence[Row], mode: Mode) -> Current:
    """The commands for a page: what was saved here is right; an index gets what it lacks."""
    changes: list[Change] = []
    states: list[object] = []
    found: list[Command] = []
    for row, state in zip(page, keys.states(conn, [row.key for row in page]), strict=True):
        changes.append((row.key, None))
        states.append(state)
        how: Mode = mode
        if mode == "missing" and layout.is_index(row.key):
            how = "total"
        elif row.written_here and not layout.is_index(row.key):
            how = "replace"
        found += commands.write(state, how)
    return Current(keys.revision(conn), tuple(changes), tuple(states), tuple(found))
