"""What the store does with SQLite and Redis together.

SQLite commits first, then Redis is told; it answers reads, and SQLite those that it cannot.
"""

from __future__ import annotations

import logging
import threading
import time
from contextlib import suppress
from typing import Any

from ..database import Database, StorageError
from . import layout, outbox, records, saving
from .asking import Ask, ask, tell
from .errors import RedisUnavailableError
from .layout import Place, raw, text
from .outbox import Change
from .projection import fields_of
from .records import Record
from .saving import Saved
from .server import Clients
from .times import Buckets
from .values import Value

_log = logging.getLogger(__name__)

# For how long a Redis that did not answer is not asked again, in seconds.
_PATIENCE = 1.0
# How many keys are remembered that were put back a moment ago.
_REMEMBERED = 1000


class Health:
    """What is known of Redis: whether it answers, and which changes it has not taken."""

    def __init__(self) -> None:
        self._down_until = 0.0
        self._suspect = False
        self._mutex = threading.Lock()
        self._told = False
        self._failed: set[int] = set()
        self._finished: set[int] = set()
        self.wake = threading.Event()

    def renew(self) -> None:
        """In a child process."""
        self._mutex = threading.Lock()

    @property
    def is_down(self) -> bool:
        """Whether asking it now would most likely be waiting in vain."""
        return self._down_until > 0 and time.monotonic() < self._down_until

    @property
    def may_answer(self) -> bool:
        """Whether what it answers is what was saved last, as far as this process knows."""
        if self._suspect or self._failed:
            return False
        return not self._down_until or not self.is_down

    @property
    def failed(self) -> tuple[int, ...]:
        """Rows of the outbox whose calls gave up."""
        with self._mutex:
            return tuple(self._failed)

    def went_down(self, error: RedisUnavailableError) -> None:
        """A call failed."""
        if not error.answered:
            self._down_until = time.monotonic() + _PATIENCE
        if not self._told:  # once for each time
            self._told = True
            _log.warning("%s", error)

    def connected(self) -> None:
        """A connection was made: Redis may have been restarted, with older keys or none."""
        self._suspect = True
        self.wake.set()

    def is_the_one_it_was(self) -> None:
        """Whoever answers has been looked at."""
        self._suspect = False

    def came_back(self) -> None:
        """It answers."""
        self._down_until = 0.0
        if self._told and not self._failed:
            self._told = False
            _log.warning("Redis takes changes again")

    def gave_up(self, id: int) -> None:
        """A change waits in the outbox."""
        with self._mutex:
            self._failed.add(id)
        self.wake.set()

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


class Logic:
    """The store's operations; `strict`: raise where Redis does not take a change.

    `watched`: something in the background sweeps up and drains.
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
    ) -> None:
        self.health = health
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
            saving.save, record, expires_at, actor, self._buckets, finished
        )
        self.health.swept(finished)
        self.tell(saved, strict)

    def delete(self, place: Place, key: bytes, actor: str, strict: bool | None) -> bool:
        """Delete a record, here and then in Redis; whether it was there."""
        known, saved = self._database.write(saving.delete, place, key, actor)
        self.tell(saved, strict)
        return known

    def get(self, place: Place, key: bytes) -> dict[str, Any] | None:
        """A record's fields: from Redis, or from SQLite and then back into Redis."""
        if self.health.may_answer:
            try:
                (reply,) = ask(self._clients.text, Ask((records.ask_for(place, key),)))
                if reply:
                    return fields_of_reply(place, reply)
            except RedisUnavailableError as error:
                self.health.went_down(error)
        return self._from_sqlite(place, key)

    def find(self, hashed: str) -> dict[str, Any] | None:
        """The API key that a hash stands for."""
        records.checked_bytes(hashed, "the hash")
        id = self._id_of(hashed)
        found = None if id is None else self.get(*records.api_key_place(id))
        # An entry that outlived a change of the secret must not let the old one in.
        return found if found is not None and found.get("apiKey") == hashed else None

    def _id_of(self, hashed: str) -> str | None:
        """What Redis says, and where it has nothing to say, SQLite."""
        if self.health.may_answer:
            try:
                (id,) = ask(self._clients.text, Ask((("HGET", layout.HASH_MAP, raw(hashed)),)))
                if id is not None:
                    return str(id)
            except RedisUnavailableError as error:
                self.health.went_down(error)
        return self._database.read(saving.id_of_hash, hashed)

    def _from_sqlite(self, place: Place, key: bytes) -> dict[str, Any] | None:
        found = self._database.read(saving.fields, place, key)
        if found is not None and self.health.may_answer and self._is_first_to_miss(key):
            with suppress(StorageError):  # the record is here all the same
                saved = self._database.write(saving.put_back, place, key)
                if saved is not None:
                    self.tell(saved, strict=False)
        return found

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

    def tell(self, saved: Saved, strict: bool | None = None) -> None:
        """Tell Redis what was committed, and again if that changed meanwhile."""
        raises = self._strict if strict is None else strict
        seen: outbox.Current | None = saved.seen
        try:
            if self.health.is_down and not raises:
                self.health.gave_up(saved.outbox_id)
                return
            while seen is not None:
                tell(self._clients.raw, seen.commands)
                seen = self._database.read(outbox.moved, seen)
            self.health.finish(saved.outbox_id)
            if not self._watched:  # nobody sweeps up
                self.sweep()
            self.health.came_back()
        except RedisUnavailableError as error:
            self.health.went_down(error)
            self.health.gave_up(saved.outbox_id)
            if raises:
                raise
        except StorageError:  # it is saved, and Redis has it; whether that still holds is unknown
            self.health.gave_up(saved.outbox_id)
        except BaseException:  # Ctrl-C: the row tells what is left to do
            self.health.gave_up(saved.outbox_id)
            raise

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
        failed = self.health.failed
        while rows := self._database.read(outbox.waiting, failed, everything, after):
            finished = tuple(row.id for row in self._bring_rows(rows) if row.is_due)
            self._database.write(outbox.discard, finished)
            self.health.drained(finished)
            done += len(finished)
            after = rows[-1].id
        self.health.drained(tuple(self._database.read(outbox.missing, failed)))
        return done

    def _bring_rows(self, rows: tuple[outbox.Row, ...]) -> tuple[outbox.Row, ...]:
        """Those rows that Redis takes: one that it refuses must not hold up the others."""
        changes = dict.fromkeys(change for row in rows for change in row.changes)
        try:
            self.bring(tuple(changes))
        except RedisUnavailableError as error:
            if not error.answered:
                raise
            if len(rows) == 1:
                return ()
            return tuple(taken for row in rows for taken in self._bring_rows((row,)))
        return rows

    def bring(self, changes: tuple[Change, ...]) -> None:
        """Bring what SQLite holds for these to Redis, until it is so."""
        seen: outbox.Current | None = self._database.read(outbox.current, changes)
        while seen is not None:
            if seen.commands:
                tell(self._clients.raw, seen.commands)
            seen = self._database.read(outbox.moved, seen)


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
