"""Bringing back what Redis has lost, also beside a relay that has begun anew on what was left."""

from __future__ import annotations

import secrets
import sqlite3
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeGuard

from ..database import Database, StorageError
from . import commands, keys, layout, losses, outbox, records, server
from .asking import Ask, ask
from .commands import Command, KeyState, Mode
from .errors import RedisUnavailableError
from .keys import Row
from .layout import Place
from .logic import Logic, fields_of_reply
from .losses import Restored
from .outbox import Change, Current
from .projection import fields_of
from .records import Record
from .server import Clients
from .values import Value

Progress = Callable[[int, int], None]

# A turn that shows no progress for this long is over, in milliseconds.
_LEASE = 30_000
# How often to look whether another process's turn is over, in seconds.
_POLL = 0.1
# How often to add to a counter that keeps rising meanwhile.
_TRIES = 100


@dataclass(frozen=True)
class _Turn:
    """One process's turn at restoring. New counts must be added to old ones once, whoever restores
    and however often it is interrupted: keys up to `after` are done, and where the turn is taken
    over or up again, counters that have risen above their old state since are taken for done.
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
        return "rollback" if self.loss == "rollback" else "total"

    def past(self, page: Sequence[Row]) -> _Turn:
        """With a page done."""
        return replace(self, after=max(self.after, page[-1].key))

    @property
    def note(self) -> str:
        """For whoever comes next, with the time at which the turn is over if this is the last."""
        until = keys.now_ms() + _LEASE
        return f"{self.source} {self.owner} {self.loss} {self.after.hex()} {until}"


def _claim(conn: sqlite3.Connection, source: str, owner: str) -> _Turn | None:
    """A turn at restoring this Redis; None while another process has one."""
    note = keys.state(conn, "restoring")
    turn = _Turn(source, owner)
    if note:
        then, other, loss, after, until = note.split(" ")
        if int(until) > keys.now_ms() and other != owner:
            return None
        if then == source and loss:
            if loss == "emptied":  # and nothing was added to a counter since
                turn = _Turn(source, owner, "total")
            else:
                turn = _Turn(source, owner, loss, bytes.fromhex(after), resumed=True)
    keys.set_state(conn, "restoring", turn.note)
    return turn


def _hold(conn: sqlite3.Connection, turn: _Turn) -> bool:
    """Keep the turn; False if it was taken over, since there was no progress for long."""
    if not _is_mine(conn, turn.owner):
        return False
    keys.set_state(conn, "restoring", turn.note)
    return True


def _leave(conn: sqlite3.Connection, turn: _Turn, source: str) -> None:
    """Leave the turn to whoever restores a Redis that was emptied meanwhile.

    A page may have been written after that: what Redis has of it says nothing of the loss.
    """
    is_same_server = source.split("/")[0] == turn.source.split("/")[0]
    if turn.after and is_same_server and _is_mine(conn, turn.owner):
        loss = "emptied" if turn.loss in ("none", "missing") else "total"
        keys.set_state(conn, "restoring", _Turn(source, turn.owner, loss).note)


def _end(conn: sqlite3.Connection, owner: str, *, done: bool) -> None:
    """Let others go on at once."""
    if _is_mine(conn, owner):
        note = (keys.state(conn, "restoring") or "").split(" ")
        keys.set_state(conn, "restoring", "" if done else " ".join([*note[:4], "0"]))


def _is_mine(conn: sqlite3.Connection, owner: str) -> bool:
    note = (keys.state(conn, "restoring") or "").split(" ")
    return len(note) == 5 and note[1] == owner


def _to_be_done_again(why: str) -> RedisUnavailableError:
    """No reason to refuse anybody the store: SQLite answers until a restore comes to its end."""
    return RedisUnavailableError(f"{why}: restore again", answered=True)


class Restorer:
    """Compares what SQLite holds with what Redis has, and writes what is missing there.

    `stopping` says whether to give up: a restore can be long.
    """

    def __init__(
        self,
        database: Database,
        clients: Clients,
        logic: Logic,
        stopping: Callable[[], bool] = lambda: False,
    ) -> None:
        self._database = database
        self._clients = clients
        self._logic = logic
        self._stopping = stopping

    def assess(self) -> Restored:
        """What is missing in Redis; writes nothing there."""
        return losses.assess(self._database, self._clients)

    @property
    def is_pending(self) -> bool:
        """Whether a restore was interrupted and waits for being gone on with."""
        return bool(self._database.read(keys.state, "restoring"))

    def restore(
        self,
        *,
        dry_run: bool = False,
        may_be_older: bool = False,
        mirrored: bool = False,
        is_older: bool = False,
        is_running: bool = False,
        progress: Progress | None = None,
    ) -> Restored:
        """Write what is missing, and what counters and lists have lost; say what that was.

        Keys that are deleted here are removed there, and the marks by which a relay remembers that
        it found no accounts. It can be interrupted and done again, and waits while another process
        is at it. `may_be_older`: Redis was started from a copy, and what was saved here is newer.
        `mirrored`: so is everything, for a follower kept it up to the loss. `is_older`: so it was
        indeed. `is_running`: Redis was not restarted, so that counters which are no lower than what
        is saved were not lost.
        """
        if dry_run:
            return self.assess()
        turn = self._take_turn()
        done = False
        try:
            assessed = losses.assess(self._database, self._clients, partial(self._keep, turn))
            if is_older and assessed.loss != "total":
                assessed.loss = "rollback"
            turn = replace(turn, loss=turn.loss or assessed.loss)
            turn = replace(turn, resumed=turn.resumed or is_running)
            assessed.loss = turn.loss
            self._write_all(
                turn, _Newer(may_be_older, mirrored), assessed.keys + assessed.present, progress
            )
            done = True
        finally:
            self._database.write(_end, turn.owner, done=done)
        return assessed

    def _take_turn(self) -> _Turn:
        owner = secrets.token_hex(8)
        while True:
            turn = self._database.write(_claim, self._source(), owner)
            if turn is not None:
                self._clients.renew()
                return turn
            self._check_stopping()
            time.sleep(_POLL)

    def _source(self) -> str:
        about = server.info(self._clients.raw)
        return f"{about.identity}/{about.flushes}"

    def _keep(self, turn: _Turn) -> None:
        self._check_stopping()
        source = self._source()
        if source != turn.source:
            self._database.write(_leave, turn, source)
            raise _to_be_done_again("Redis was restarted or emptied again")
        if not self._database.write(_hold, turn):
            raise _to_be_done_again("another process took the restore over")

    def _check_stopping(self) -> None:
        if self._stopping():
            raise StorageError("the restore was stopped; the next one goes on with it")

    def _write_all(self, turn: _Turn, newer: _Newer, total: int, progress: Progress | None) -> None:
        done = 0
        for page in losses.pages(self._database):
            self._keep(turn)
            self._write(page, turn, newer)
            turn = turn.past(page)
            done += len(page)
            if progress is not None:
                progress(done, total)
        self._keep(turn)
        self.bury()
        ask(self._clients.raw, Ask([("DEL", mark) for mark in layout.EMPTY_MARKS]))

    def _write(self, page: Sequence[Row], turn: _Turn, newer: _Newer) -> None:
        mode = turn.mode_of(page)
        if mode == "missing" and (places := self._lacking(page, newer)):
            ask(self._clients.raw, Ask(places))
        seen: Current = self._database.read(_to_write, page, mode, newer)
        replies = ask(self._clients.once, Ask(seen.commands))
        if mode == "total":
            told = zip(seen.commands, replies, strict=True)
            there = {command[3] for command, reply in told if command[0] == "EVAL" and reply == 0}
            self._add([s for s in seen.states if _is_counter_of(s, there)], turn)
        while moved := self._database.read(_moved, seen):  # a save came in between
            self._logic.bring(tuple(moved))
            seen = self._database.read(_seen_again, seen)

    def _lacking(self, page: Sequence[Row], newer: _Newer) -> list[Command]:
        """The commands that give records their places in indexes again.

        Where Redis has the record, those that follow from what it has: a secret that was changed
        there must not let anybody in again.
        """
        rows = [row for row in page if losses.is_record(row.key)]
        asked = [records.ask_for(_place(row.key), row.key) for row in rows]
        replies = ask(self._clients.raw, Ask(asked, tolerant=True)) if asked else []
        found = self._database.read(_places, rows, replies, newer)
        indexes = [row.key for row in page if layout.is_index(row.key)]
        return found + self._database.read(_without_a_record, indexes)

    def _add(self, states: Sequence[KeyState], turn: _Turn) -> None:
        """Add old counts to those that began anew.

        Each is added only if Redis still has what was read a moment ago, so that a command that is
        carried out late, or twice, adds nothing twice.
        """
        left: list[tuple[KeyState, frozenset[bytes] | None]] = [(s, None) for s in states]
        for _ in range(_TRIES):
            if not left:
                return
            asked = [commands.read_counter(state) for state, _ in left]
            there = ask(self._clients.raw, Ask(asked, tolerant=True))
            wanted = [
                (state, commands.add(state, reply, only, only_if_below=turn.resumed))
                for (state, only), reply in zip(left, there, strict=True)
                if not isinstance(reply, Exception)  # a key of another type
            ]
            told = [(state, command) for state, command in wanted if command is not None]
            replies = ask(self._clients.once, Ask([c for _, c in told])) if told else ()
            left = [
                (state, frozenset(names))
                for (state, _), names in zip(told, replies, strict=True)
                if names
            ]
        raise _to_be_done_again("counters in Redis rise faster than old counts can be added")

    def bury(self) -> None:
        """Remove from Redis what was deleted here."""
        after: Change = (b"", None)
        while buried := self._database.read(outbox.buried, after, losses.PAGE):
            self._logic.bring(tuple(buried))
            after = buried[-1]


def _place(key: bytes) -> Place:
    place = layout.place(key)
    assert place is not None
    return place


def _places(
    conn: sqlite3.Connection, rows: Sequence[Row], replies: Sequence[object], newer: _Newer
) -> list[Command]:
    found = []
    for row, reply in zip(rows, replies, strict=True):
        place = _place(row.key)
        fields = None if isinstance(reply, Exception) else fields_of_reply(place, reply)
        is_part = fields is None or (row.type == "hash" and "id" not in fields)
        if fields is None or is_part or (newer.saved_here and row.written_here):
            fields = fields_of(place, keys.value_of(conn, row))
        record = Record(place, row.key, Value("hash", ()), {**fields, "id": place.id})
        for key, name in records.memberships(record, indexed=True):
            member = keys.member(conn, key, name)
            if member is not None:
                found.append(commands.add_member(key, layout.INDEX_TYPES.get(key, "set"), member))
    return found


def _is_counter_of(state: object, names: set[bytes]) -> TypeGuard[KeyState]:
    return isinstance(state, KeyState) and state.key in names and commands.is_counter(state)


def _without_a_record(conn: sqlite3.Connection, indexes: Sequence[bytes]) -> list[Command]:
    """What stands in indexes for no record that is here: it lets nobody in."""
    now, found = keys.now_ms(), []
    for index in indexes:
        for member in keys.members(conn, index):
            record = layout.record_of(index, *member)
            row = keys.row(conn, record) if record is not None else None
            if row is None or row.is_expired(now):
                kind = layout.INDEX_TYPES.get(index, "set")
                found.append(commands.add_member(index, kind, member))
    return found


@dataclass(frozen=True)
class _Newer:
    """What of SQLite is newer than a Redis that was started from a copy."""

    saved_here: bool
    everything: bool


def _to_write(conn: sqlite3.Connection, page: Sequence[Row], mode: Mode, newer: _Newer) -> Current:
    """The commands for a page."""
    changes: list[Change] = []
    states: list[object] = []
    found: list[Command] = []
    for row, state in zip(page, keys.states(conn, [row.key for row in page]), strict=True):
        changes.append((row.key, None))
        states.append(state)
        found += commands.write(state, _how(row, state, mode, newer))
    return Current(keys.revision(conn), tuple(changes), tuple(states), tuple(found))


def _how(row: Row, state: KeyState, mode: Mode, newer: _Newer) -> Mode:
    """How one key is brought together: an index gets what it lacks."""
    if newer.saved_here and row.written_here and not layout.is_index(row.key):
        return "replace"
    if mode == "rollback" and newer.everything:
        return "mirrored"
    if layout.is_index(row.key):
        return "missing" if mode == "missing" else "total"
    if mode == "rollback" and not _tells_its_age(row, state):
        return "missing"
    return mode


def _tells_its_age(row: Row, state: KeyState) -> bool:
    """Whether what is there can be told older or newer by itself."""
    return row.type in ("list", "stream") or commands.is_counter(state) or losses.is_record(row.key)


def _moved(conn: sqlite3.Connection, seen: Current) -> list[Change]:
    """What has to be brought to Redis, for it was saved or deleted here meanwhile."""
    if keys.revision(conn) == seen.revision:
        return []
    names = [key for key, _ in seen.changes]
    found: list[Change] = []
    for old, new in zip(seen.states, keys.states(conn, names), strict=True):
        if old == new or not isinstance(old, KeyState):
            continue
        if layout.is_index(new.key):
            found += _members_that_moved(old, new)
        elif new.value is None or _is_saved_here(conn, new.key):
            found.append((new.key, None))
    return found


def _members_that_moved(old: KeyState, new: KeyState) -> list[Change]:
    before = set(old.value.members()) if old.value is not None else set()
    after = set(new.value.members()) if new.value is not None else set()
    return [(new.key, name) for name in {member[0] for member in before ^ after}]


def _is_saved_here(conn: sqlite3.Connection, key: bytes) -> bool:
    row = keys.row(conn, key)
    return row is not None and bool(row.written_here)


def _seen_again(conn: sqlite3.Connection, seen: Current) -> Current:
    """The same keys as they are now."""
    names = [key for key, _ in seen.changes]
    return replace(seen, revision=keys.revision(conn), states=tuple(keys.states(conn, names)))
