"""What the store does with SQLite and Redis together, once for its sync and its async face.

SQLite commits first, then Redis is told; it answers reads, and SQLite those that it cannot.
"""

from __future__ import annotations

import threading
import time
from typing import Any

from ..database import StorageError
from . import layout, outbox, records
from .errors import RedisUnavailableError
from .layout import Place, raw, text
from .outbox import Change
from .projection import fields_of
from .records import Record, Saved
from .steps import Ask, Steps, read, write
from .times import Buckets
from .values import Value

# For how long a Redis that did not answer is not asked again, in seconds.
_PATIENCE = 1.0


class Health:
    """What is known of Redis: whether it answers, and which changes it has not taken."""

    def __init__(self) -> None:
        self._down_until = 0.0
        self._suspect = False
        self._mutex = threading.Lock()
        self._failed: set[int] = set()
        self._finished: set[int] = set()
        self.wake = threading.Event()

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
    """The store's operations as steps; `strict`: raise where Redis does not take a change."""

    def __init__(self, health: Health, buckets: Buckets, *, strict: bool) -> None:
        self.health = health
        self._buckets = buckets
        self._strict = strict
        self._returning: set[bytes] = set()

    def save(
        self, record: Record, expires_at: int | None, actor: str, strict: bool | None
    ) -> Steps[None]:
        """Store a record, here and then in Redis."""
        finished = self.health.finished
        saved = yield write(records.save, record, expires_at, actor, self._buckets, finished)
        self.health.swept(finished)
        yield from self._tell(saved, strict)

    def delete(self, place: Place, key: bytes, actor: str, strict: bool | None) -> Steps[bool]:
        """Delete a record, here and then in Redis; whether it was there."""
        known, saved = yield write(records.delete, place, key, actor)
        yield from self._tell(saved, strict)
        return bool(known)

    def get(self, place: Place, key: bytes) -> Steps[dict[str, Any] | None]:
        """A record's fields: from Redis, or from SQLite and then back into Redis."""
        if self.health.may_answer:
            try:
                (reply,) = yield Ask((records.ask_for(place, key),), as_text=True)
                if reply:
                    return fields_of_reply(place, reply)
            except RedisUnavailableError as error:
                self.health.went_down(error)
        return (yield from self._from_sqlite(place, key))

    def find(self, hashed: str) -> Steps[dict[str, Any] | None]:
        """The API key that a hash stands for."""
        for id in (yield from self._ids_of(hashed)):
            if id is None:
                continue
            place, key = records.api_key_place(id)
            found = yield from self.get(place, key)
            # An entry that outlived a change of the secret must not let the old one in.
            if found is not None and found.get("apiKey") == hashed:
                return found
        return None

    def _ids_of(self, hashed: str) -> Steps[tuple[str | None, ...]]:
        """What Redis says, and if it may be wrong, what SQLite says."""
        if self.health.may_answer:
            try:
                (id,) = yield Ask([("HGET", layout.HASH_MAP, raw(hashed))])
                if id is not None:
                    return (text(id),)
            except RedisUnavailableError as error:
                self.health.went_down(error)
        return ((yield read(records.id_of_hash, hashed)),)

    def _from_sqlite(self, place: Place, key: bytes) -> Steps[dict[str, Any] | None]:
        found = yield read(records.fields, place, key)
        # One of many that miss it at once puts it back.
        if found is not None and self.health.may_answer and key not in self._returning:
            self._returning.add(key)
            try:
                saved = yield write(records.put_back, place, key)
                if saved is not None:
                    yield from self._tell(saved, strict=False)
            except StorageError:
                pass  # the record is here all the same
            finally:
                self._returning.discard(key)
        return found  # type: ignore[no-any-return]

    def _tell(self, saved: Saved, strict: bool | None) -> Steps[None]:
        """Tell Redis what was committed, and again if that changed meanwhile."""
        raises = self._strict if strict is None else strict
        seen: outbox.Current | None = saved.seen
        try:
            if self.health.is_down and not raises:
                self.health.gave_up(saved.outbox_id)
                return
            while seen is not None:
                yield Ask(seen.commands)
                seen = yield read(outbox.moved, seen)
            self.health.finish(saved.outbox_id)
            self.health.came_back()
        except RedisUnavailableError as error:
            self.health.went_down(error)
            self.health.gave_up(saved.outbox_id)
            if raises:
                raise
        except StorageError:  # it is saved, and Redis has it; whether that still holds is unknown
            self.health.gave_up(saved.outbox_id)
        except BaseException:  # cancelled: the row tells what is left to do
            self.health.gave_up(saved.outbox_id)
            raise

    def tell(self, saved: Saved) -> Steps[None]:
        """Tell Redis what was committed."""
        yield from self._tell(saved, None)

    def sweep(self) -> Steps[None]:
        """Take out what is done with."""
        finished = self.health.finished
        if finished:
            yield write(outbox.discard, finished)
            self.health.swept(finished)

    def drain(self, *, everything: bool = False) -> Steps[int]:
        """Bring what waits in the outbox to Redis; how many rows are done.

        `everything`: also rows whose calls may be at work, which stay.
        """
        done, after = 0, 0
        failed = self.health.failed
        while True:
            rows: tuple[outbox.Row, ...] = yield read(outbox.waiting, failed, everything, after)
            if not rows:
                break
            brought = yield from self._bring_rows(rows)
            finished = tuple(row.id for row in brought if row.is_due)
            yield write(outbox.discard, finished)
            self.health.drained(finished)
            done += len(finished)
            after = rows[-1].id
        self.health.drained(tuple((yield read(outbox.missing, failed))))
        return done

    def _bring_rows(self, rows: tuple[outbox.Row, ...]) -> Steps[tuple[outbox.Row, ...]]:
        """Those rows that Redis takes: one that it refuses must not hold up the others."""
        changes = dict.fromkeys(change for row in rows for change in row.changes)
        try:
            yield from self.bring(tuple(changes))
        except RedisUnavailableError as error:
            if not error.answered:
                raise
            if len(rows) == 1:
                return ()
            taken: tuple[outbox.Row, ...] = ()
            for row in rows:
                taken += yield from self._bring_rows((row,))
            return taken
        return rows

    def bring(self, changes: tuple[Change, ...]) -> Steps[None]:
        """Bring what SQLite holds for these to Redis, until it is so."""
        seen: outbox.Current | None = yield read(outbox.current, changes)
        while seen is not None:
            if seen.commands:
                yield Ask(seen.commands)
            seen = yield read(outbox.moved, seen)


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
