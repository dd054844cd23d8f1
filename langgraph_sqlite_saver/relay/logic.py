"""What the store does with SQLite and Redis together.

SQLite commits first, then Redis is told; it answers reads, and SQLite those that it cannot.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, TypeGuard

from ..database import Database, InvalidInputError, StorageError
from . import layout, outbox, records, saving, server
from .asking import Ask, ask, tell
from .errors import RedisUnavailableError
from .health import Health
from .layout import Place, raw, text
from .outbox import Change
from .projection import fields_of
from .records import Record
from .saving import Saved
from .server import Clients
from .times import Buckets
from .values import Value

# For how long another Redis than it was is not looked at again by who reads, in seconds.
_DOUBT = 0.1
# For how long a key that was put back is not put back again, in seconds, and how many are
# remembered.
_PATIENCE = 1.0
_REMEMBERED = 1000


class Logic:
    """The store's operations; `strict`: raise where Redis does not take a change.

    `watched`: something in the background sweeps up and drains. `is_known` looks whether Redis is
    still the one it was.
    """

    def __init__(
        self,
        database: Database,
        clients: Clients,
        health: Health,
        buckets: Buckets,
        *,
        strict: bool,
        watched: bool,
        is_known: Callable[[], bool],
    ) -> None:
        self.health = health
        self._is_known = is_known
        self._doubted_until = 0.0
        self._database = database
        self._clients = clients
        self._buckets = buckets
        self._strict = strict
        self._watched = watched
        self._returned: dict[bytes, float] = {}

    def save(self, record: Record, expires_at: int | None, actor: str, strict: bool | None) -> None:
        """Store a record, here and then in Redis."""
        finished = self.health.finished
        saved = self._database.write(
            saving.save, record, expires_at, actor, self._buckets, finished, self._lease
        )
        self.health.swept(finished)
        there = self.tell(saved, strict)
        if there:
            self._leave(record.place, record.key, there)

    def delete(self, place: Place, key: bytes, actor: str, strict: bool | None) -> bool:
        """Delete a record, here and then in Redis; whether it was there."""
        known, saved = self._database.write(saving.delete, place, key, actor, self._lease)
        there = self.tell(saved, strict)
        if there:
            self._leave(place, key, there, actor, self._statistics(place))
        return known or bool(there)

    @property
    def _lease(self) -> int:
        """For how long a change is its call's to tell Redis; not at all where that is in vain."""
        in_vain = not self._clients or self.health.is_down or self.health.is_unmet
        return 0 if in_vain else outbox.LEASE

    def _leave(
        self,
        place: Place,
        key: bytes,
        there: Mapping[str, Any],
        actor: str | None = None,
        statistics: Sequence[bytes] = (),
        named: Sequence[Change] = (),
    ) -> None:
        """Have a record that Redis had leave its places there, where it has them no more."""
        saved = self._database.write(saving.leave, place, key, there, actor, statistics, named)
        if saved is not None:
            self.tell(saved, strict=False)

    def _statistics(self, place: Place) -> list[bytes]:
        """An API key's counters in Redis, whatever their model and time."""
        own = records.statistics(place.id) if place.family == "api_key" else []
        if not own:
            return []
        later = tuple(key + b":" for key in own)
        found: list[bytes] = []
        with suppress(RedisUnavailableError):  # the record is gone all the same
            match = b"usage:*" + server.literally(raw(place.id)) + b"*"
            for names in server.scan(self._clients.raw, match):
                found += [key for key in names if key in own or key.startswith(later)]
        return found

    def get(self, place: Place, key: bytes) -> dict[str, Any] | None:
        """A record's fields: from Redis, or from SQLite and then back into Redis."""
        is_missing = False
        if self._may_answer():
            try:
                (reply,) = ask(self._clients.text, Ask((records.ask_for(place, key),)))
                # It may have been restarted, from an older copy, when it was asked.
                if self._may_answer():
                    found = fields_of_reply(place, reply)
                    if found and ("id" in found or not self._has_id(place, key, reply)):
                        return found
                    is_missing = True
            except RedisUnavailableError as error:
                self.health.went_down(error)
        known = self._database.read(saving.fields, place, key)
        if known is not None and is_missing:
            self._put_back(place, key, whole=True)
        return known

    def _may_answer(self) -> bool:
        """Whether Redis' answers count; where connections were made anew, it is looked at."""
        if self.health.may_answer:
            return True
        if not self.health.is_suspected or time.monotonic() < self._doubted_until:
            return False
        if not self._is_known():
            self._doubted_until = time.monotonic() + _DOUBT
        return self.health.may_answer

    def _has_id(self, place: Place, key: bytes, reply: Any) -> bool:
        """Whether a hash without an id is what is left of a record, or was made of one."""
        if not isinstance(reply, dict):
            return False
        known = self._database.read(saving.fields, place, key)
        return known is not None and "id" in known

    def find(self, hashed: str) -> dict[str, Any] | None:
        """The API key that a hash stands for."""
        records.checked_bytes(hashed, "the hash")
        id, is_missing = self._id_of(hashed)
        if id is None:
            return None
        try:
            place, key = records.api_key_place(id)
        except InvalidInputError:  # no id of the relay's
            return None
        found = self.get(place, key)
        # An entry that outlived a change of the secret must not let the old one in.
        if found is None or found.get("apiKey") != hashed:
            return None
        if is_missing and found.get("isDeleted") != "true":
            self._put_back(place, key, whole=False)
        return found

    def _id_of(self, hashed: str) -> tuple[str | None, bool]:
        """What Redis says, and where it has nothing to say, SQLite; and whether Redis lacks it."""
        is_missing = False
        if self._may_answer():
            try:
                (id,) = ask(self._clients.text, Ask((("HGET", layout.HASH_MAP, raw(hashed)),)))
                if self._may_answer():
                    if id is not None:
                        return str(id), False
                    is_missing = True
            except RedisUnavailableError as error:
                self.health.went_down(error)
        return self._database.read(saving.id_of_hash, hashed), is_missing

    def _put_back(self, place: Place, key: bytes, *, whole: bool) -> None:
        """Give Redis what it has lost of a record, if it can take it."""
        if not (self._may_answer() and self._is_first_to_miss(key)):
            return
        with suppress(StorageError):  # the record is here all the same
            saved = self._database.write(partial(saving.put_back, whole=whole), place, key)
            if saved is not None:
                self.tell(saved, strict=False)

    def _is_first_to_miss(self, key: bytes) -> bool:
        """One of many that miss a key at once puts it back."""
        now = time.monotonic()
        if len(self._returned) > _REMEMBERED:
            self._returned = {k: at for k, at in self._returned.items() if now - at < _PATIENCE}
        last = self._returned.get(key, -_PATIENCE)
        if now - last < _PATIENCE:
            return False
        self._returned[key] = now
        return True

    def tell(self, saved: Saved, strict: bool | None = None) -> dict[str, Any] | None:
        """Tell Redis what was committed, and again if that changed meanwhile.

        Returns what Redis had of a record that was unknown here.
        """
        raises = self._strict if strict is None else strict
        there = None
        try:
            if self.health.is_unmet:
                raise _unmet()
            if self.health.is_down and not raises:
                self._give_up(saved)
                return None
            there = self._tell_first(saved)
            seen: outbox.Current | None = self._database.read(outbox.moved, saved.seen)
            while seen is not None:
                tell(self._clients.raw, seen.commands)
                seen = self._database.read(outbox.moved, seen)
            self.health.finish(saved.outbox_id)
            if not self._watched:  # nobody sweeps up
                self.sweep()
            self.health.came_back()
        except RedisUnavailableError as error:
            self.health.went_down(error)
            self._give_up(saved)
            if raises:
                raise
        except StorageError:  # it is saved, and Redis has it; whether that still holds is unknown
            self.health.gave_up(saved.outbox_id)
        except BaseException:  # Ctrl-C: the row tells what is left to do
            self.health.gave_up(saved.outbox_id)
            raise
        return there

    def _tell_first(self, saved: Saved) -> dict[str, Any] | None:
        """Tell Redis; of a record that was unknown here, what it had, without a further trip."""
        if saved.unknown is None:
            tell(self._clients.raw, saved.seen.commands)
            return None
        look = records.ask_for(*saved.unknown)
        there, *_ = tell(self._clients.raw, (look, *saved.seen.commands), heard=1)
        return None if isinstance(there, Exception) else fields_of_reply(saved.unknown[0], there)

    def _give_up(self, saved: Saved) -> None:
        """Leave a change to whoever reaches Redis first, of whatever process."""
        self.health.gave_up(saved.outbox_id)
        if not saved.is_due:
            with suppress(StorageError):  # its time comes
                self._database.write(outbox.make_due, saved.outbox_id)

    def sweep(self) -> None:
        """Take out what is done with."""
        finished = self.health.finished
        if finished:
            self._database.write(outbox.discard, finished)
            self.health.swept(finished)

    def drain(self, *, everything: bool = False) -> int:
        """Bring what waits in the outbox to Redis; how many rows are done.

        `everything`: also rows whose calls may be at work, which stay.
        """
        done, after = 0, 0
        failed, untaken = self.health.failed, self.health.untaken
        while rows := self._database.read(outbox.waiting, failed, untaken, everything, after):
            taken = self._bring_what_it_takes(rows)
            finished = tuple(row.id for row in taken if row.is_due)
            self._database.write(outbox.discard, finished)
            self.health.drained(tuple(row.id for row in taken))
            done += len(finished)
            after = rows[-1].id
        self.health.drained(tuple(self._database.read(outbox.missing, failed + untaken)))
        return done

    def _bring_what_it_takes(self, rows: tuple[outbox.Row, ...]) -> tuple[outbox.Row, ...]:
        """Those rows that Redis takes; while there are others its answers are older than those."""
        left = {row.id for row in rows}
        try:
            taken = self._bring_rows(rows)
            left -= {row.id for row in taken}
            return taken
        finally:
            self.health.not_taken(left)

    def _bring_rows(self, rows: tuple[outbox.Row, ...]) -> tuple[outbox.Row, ...]:
        """Those rows that Redis takes: one that it refuses must not hold up the others."""
        changes = tuple(dict.fromkeys(change for row in rows for change in row.changes))
        try:
            there = self._look(changes)
            self.bring(changes)
        except RedisUnavailableError as error:
            if not error.answered or error.refuses_all:
                raise
            if len(rows) == 1:
                self.health.went_down(error)
                return ()
            return tuple(taken for row in rows for taken in self._bring_rows((row,)))
        for place, key, fields in there:
            self._leave(place, key, fields, named=changes)
        return rows

    def look_at_what_waits(self) -> list[tuple[Place, bytes, dict[str, Any]]]:
        """What Redis has of the records that it is to be told of: `leave` wants it afterwards."""
        return self._look([(key, None) for key in self._database.read(outbox.named_keys)])

    def leave(self, there: Iterable[tuple[Place, bytes, dict[str, Any]]]) -> None:
        """Have records leave the places that they had in Redis, and have not by what is here."""
        for place, key, fields in there:
            self._leave(place, key, fields)

    def _look(self, changes: Sequence[Change]) -> list[tuple[Place, bytes, dict[str, Any]]]:
        """What Redis has of the records among some changes."""
        names = [key for key, name in changes if name is None]
        places = [(place, key) for key in names if _is_record(place := layout.place(key))]
        if not places:
            return []
        asked = [records.ask_for(place, key) for place, key in places]
        replies = ask(self._clients.raw, Ask(asked, tolerant=True))
        return [
            (place, key, found)
            for (place, key), reply in zip(places, replies, strict=True)
            if not isinstance(reply, Exception) and (found := fields_of_reply(place, reply))
        ]

    def bring(self, changes: tuple[Change, ...]) -> None:
        """Bring what SQLite holds for these to Redis, until it is so."""
        seen: outbox.Current | None = self._database.read(outbox.current, changes)
        while seen is not None:
            if seen.commands:
                tell(self._clients.raw, seen.commands)
            seen = self._database.read(outbox.moved, seen)


def _unmet() -> RedisUnavailableError:
    return RedisUnavailableError(
        "Redis was down when the store was opened, and has not been looked at since: this change "
        "is safe in SQLite, and reaches Redis when what Redis has has been imported",
        answered=True,
    )


def _is_record(place: Place | None) -> TypeGuard[Place]:
    return place is not None and place.family in ("api_key", "account")


def fields_of_reply(place: Place, reply: Any) -> dict[str, Any] | None:
    """A record's fields from Redis' reply; None if there is none."""
    if not reply:
        return None
    if type(reply) is dict and type(next(iter(reply))) is str:
        return reply
    if isinstance(reply, (bytes, str)):
        return fields_of(place, Value("string", (raw(reply) if isinstance(reply, str) else reply,)))
    pairs = reply.items() if isinstance(reply, dict) else zip(reply[::2], reply[1::2], strict=True)
    try:
        return {name.decode(): value.decode() for name, value in pairs}
    except UnicodeDecodeError:
        return {text(name): text(value) for name, value in pairs}
