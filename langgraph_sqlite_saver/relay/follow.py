"""Following a Redis that somebody else writes: SQLite kept up to date beside a relay.

Changes come by keyspace notifications (https://redis.io/docs/latest/develop/pubsub/keyspace-notifications/),
or are found by going through all keys again and again. The source is written to for one reason: to
restore what it has lost.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import redis
from redis.cluster import RedisCluster

from ..database import StorageError
from . import keys, layout, outbox, server, trash
from .asking import REDIS_ERRORS, Ask, ask
from .errors import where
from .keys import Row
from .mirror import BATCH, JITTER
from .restoring import Restored, Restorer
from .store import RelayStore

# The audit log's name for whoever changes the source.
ACTOR = "redis"

# All in seconds. How long changes are gathered before they are stored together; longer where
# storing them takes long, for an index of many members is read whole.
_GATHER, _GATHER_MOST = 1.0, 3.0
# How often the source is looked at: whether it is the one it was.
_LOOK = 1.0
# How long to wait for a source, or a disk, that fails.
_PATIENCE = 1.0
# With notifications all keys are gone through to close gaps that nobody noticed.
_CLOSE_GAPS = 600.0
_REPORT = 60.0
_UPKEEP = 600.0
_LISTEN = 0.2
_BEAT = 10.0

# So few keys may be gone at once, however few there are.
_FEW = 20

# By these a key goes for good; "expired" and "evicted" are no deletions.
_DELETIONS = frozenset({b"del", b"rename_from", b"move_from"})
# Together all that notify-keyspace-events can ask for by event.
_EVERY_EVENT = "g$lshzxet"


class _SourceChanged(Exception):
    """The source is another one than it was: it was restarted or emptied."""


@dataclass
class _Minute:
    """What happened since the last report."""

    changed: int = 0
    deleted: int = 0
    expired: int = 0


class Follower:
    """Keeps a store's SQLite file up to date with a Redis that a relay writes.

    Deletions are mirrored into the trash; what expires or is evicted is not deleted. A Redis that
    was restarted and has fewer keys, or is empty, has lost them: nothing of that is mirrored.

    Args:
        store: Opened with `heal=False`.
        restore: Give a Redis that has lost keys its keys back; False only reports it, and takes
            nothing over until somebody has restored it, or has put SQLite in step with it.
        enable_notifications: Set `notify-keyspace-events` in Redis where it lacks something.
        scan_interval: Seconds from one look through all keys to the next, without notifications.
        report: Called with lines for people: one a minute, and what is out of the ordinary.
    """

    def __init__(
        self,
        store: RelayStore,
        *,
        restore: bool = True,
        enable_notifications: bool = False,
        scan_interval: float = 30.0,
        report: Callable[[str], object] = print,
    ) -> None:
        self._store = store
        self._restores = restore
        self._enables = enable_notifications
        self._scan_interval = scan_interval
        self._report = report
        self._minute = _Minute()
        self._events: dict[bytes, bytes] = {}
        self._gathering_since = 0.0
        self._gather = _GATHER
        self._set_aside: set[bytes] = set()
        self._evicted_before = 0
        self._pubsub: Any = None
        self._listener: redis.Redis | None = None
        self._lost = False
        self._said, self._said_until = "", 0.0
        self._next_pass = 0.0
        self._next_look = 0.0
        self._next_beat = 0.0
        self._next_report = 0.0
        self._next_upkeep = 0.0

    def run(self, stop: threading.Event) -> int:
        """Follow until `stop` is set; 1 if Redis has lost keys that were not restored, else 0."""
        self._stop = stop
        self._store.open()
        self._mirror = self._store.mirror
        while not stop.is_set():
            try:
                self._follow()
            except _SourceChanged:
                self._hang_up()
            except StorageError as error:
                self._hang_up()
                self._say(f"waiting: {error}")
                stop.wait(_PATIENCE)
            except Exception as error:  # of one key, most likely: the others go on
                self._hang_up()
                self._say(f"waiting: {type(error).__name__} in {where(error)}")
                stop.wait(_PATIENCE)
        with suppress(_SourceChanged, StorageError):
            self._take_changed()
        self._hang_up()
        return 1 if self._lost else 0

    def _follow(self) -> None:
        client = self._store.redis
        self._listen(client)
        self._about = server.info(client)
        self._beat()
        self._settle()
        while not self._stop.is_set():
            self._hear(_LISTEN)
            self._do_what_is_due()

    def _do_what_is_due(self) -> None:
        now = time.monotonic()
        if self._events and now - self._gathering_since >= self._gather:
            self._take_changed()
        if now >= self._next_look:
            self._next_look = now + _LOOK
            self._check_source()
        if now >= self._next_beat:
            self._beat()
            if self._restores and self._store.database.read(outbox.count):
                self._store.drain()  # what a process that died has left
        if now >= self._next_upkeep:
            self._next_upkeep = now + _UPKEEP
            self._store.database.write(trash.empty)
            self._minute.expired += self._store.database.write(keys.drop_expired, keys.now_ms())
        if now >= self._next_report:
            self._next_report = now + _REPORT
            self._report_minute()
        if now >= self._next_pass:
            self._pass(mirror_deletions=True)

    def _beat(self) -> None:
        """Say that this Redis is followed."""
        self._next_beat = time.monotonic() + _BEAT
        self._store.database.write(keys.set_state, "followed_at", str(keys.now_ms()))

    @property
    def _restorer(self) -> Restorer:
        return self._store.restorer_until(self._stop.is_set)

    # Whether the source is the one it was.

    def _settle(self) -> None:
        """Before anything is taken over: find out what the source has lost."""
        database, about = self._store.database, self._about
        same = (
            about.identity == database.read(keys.state, "identity")
            and str(about.flushes) == database.read(keys.state, "flushes")
            and about.keys > 0
        )
        if not same and database.read(keys.count):
            self._make_good(self._restorer.assess())
            if self._restores:
                self._restorer.bury()
        self._lost = False
        self._store.note_source(about)
        if self._restores and database.read(outbox.count):
            self._store.drain()
        self._pass(mirror_deletions=same)

    def _make_good(self, found: Restored) -> None:
        if found.loss == "none" and not self._restorer.is_pending:
            return
        missing = f"Redis has lost {found.keys:,} keys ({found.loss})"
        if not self._restores:
            self._lost = True
            self._say(f"{missing}; nothing is taken over until it is restored: relay restore-redis")
            self._stop.wait(_LOOK if self._stop.is_set() else 10 * _LOOK)
            raise _SourceChanged
        self._say(f"{missing}: restoring")
        self._restorer.restore(may_be_older=not self._about.appends, mirrored=True)
        self._report("restored")

    def _check_source(self) -> None:
        """Raise _SourceChanged unless the source is the one it was, and has keys."""
        about = server.info(self._store.redis)
        known = self._about
        if (about.identity, about.flushes) != (known.identity, known.flushes):
            raise _SourceChanged
        if about.keys == 0 and self._store.database.read(keys.count):
            raise _SourceChanged

    # Changes.

    def _listen(self, client: redis.Redis) -> None:
        """Subscribe to keyspace events, if there are any."""
        self._pubsub = None
        self._events.clear()
        if isinstance(client, RedisCluster) or not self._notifies(client):
            return
        database = client.connection_pool.connection_kwargs.get("db", 0)
        # One that connects again by itself would miss what is told meanwhile, and not say so.
        self._listener = listener = self._store.connect(retries=0)
        options = {"ignore_subscribe_messages": True}
        pubsub: Any = listener.pubsub(**options)  # type: ignore[no-untyped-call]
        self._pubsub = pubsub
        server.attempt(lambda: pubsub.psubscribe(f"__keyevent@{database}__:*"), "PSUBSCRIBE")

    def _notifies(self, client: redis.Redis) -> bool:
        """Whether Redis tells of every change; made to, where that is allowed."""
        name = "notify-keyspace-events"
        (found,) = ask(client, Ask([("CONFIG", "GET", name)], tolerant=True))
        if isinstance(found, Exception):  # hosted Redis has no CONFIG
            return False
        flags = _flags(found)
        if "E" in flags and ("A" in flags or set(_EVERY_EVENT) <= set(flags)):
            return True
        if self._enables:
            ask(client, Ask([("CONFIG", "SET", name, flags.replace("A", "") + "EA")]))
        return self._enables

    def _hear(self, patience: float) -> None:
        """Take what events have come; wait for one if there is none."""
        if self._pubsub is None:
            self._stop.wait(patience)
            return
        get = self._pubsub.get_message
        message = server.attempt(lambda: get(timeout=patience), "PSUBSCRIBE")
        while message is not None:
            self._note(message)
            message = server.attempt(get, "PSUBSCRIBE")

    def _note(self, message: dict[str, Any]) -> None:
        key = message["data"]
        if not layout.is_lasting(key):
            return
        if not self._events:
            self._gathering_since = time.monotonic()
        self._events[key] = message["channel"].rpartition(b":")[2]

    def _take_changed(self) -> None:
        """Store what the events of the last moments told of."""
        started = time.monotonic()
        events, self._events = self._events, {}
        names = list(events)
        before = self._store.database.read(keys.revision)
        taken = self._mirror.take_over(names, actor=ACTOR, guard=self._check_source)
        self._minute.changed += taken.changed
        gone = {name: events[name] for name in taken.missing}
        self._set_aside.difference_update(names)
        self._set_aside.update(name for name, event in gone.items() if event == b"evicted")
        self._forget([name for name, event in gone.items() if event == b"expired"], before)
        deleted = [name for name, event in gone.items() if event in _DELETIONS]
        moved = self._discard(deleted, before)
        known = self._store.database.read(keys.rows, deleted)
        # Something newer is saved here, or waits for Redis: to be looked at again in a moment.
        left = [*taken.left, *(name for name in deleted if name in known and name not in moved)]
        if left:
            self._events = {name: events[name] for name in left} | self._events
            self._gathering_since = time.monotonic()
        took = time.monotonic() - started
        self._gather = min(max(_GATHER, 4 * took), _GATHER_MOST)

    def _discard(self, names: list[bytes], before: int) -> list[bytes]:
        """Mirror deletions; those that were."""
        moved: list[bytes] = []
        for start in range(0, len(names), BATCH):
            part = names[start : start + BATCH]
            moved += self._store.database.write(trash.discard, part, ACTOR, before)
        self._minute.deleted += len(moved)
        return moved

    def _forget(self, names: list[bytes], before: int) -> None:
        if names:
            expired = self._store.database.write(trash.forget_expired, names, before)
            self._minute.expired += expired

    # Going through all keys.

    def _pass(self, *, mirror_deletions: bool) -> None:
        """Compare every key with what is stored; then see which of those are gone."""
        started = time.monotonic()
        about = server.info(self._store.redis)
        seen: set[int] = set()
        first = self._store.database.read(keys.count) == 0
        actor = None if first else ACTOR  # the log tells of changes, not of what was there before
        for names in server.scan(self._store.redis):
            lasting = [name for name in names if layout.is_lasting(name)]
            seen.update(map(hash, lasting))
            self._set_aside.difference_update(lasting)
            taken = self._mirror.take_over(lasting, actor=actor, guard=self._check_source)
            self._minute.changed += taken.changed
            self._between()
        if mirror_deletions:
            self._find_gone(seen)
        self._evicted_before = about.evicted
        interval = self._scan_interval if self._pubsub is None else _CLOSE_GAPS
        self._next_pass = max(started + interval, time.monotonic() + 0.1 * interval)

    def _between(self) -> None:
        """A long look through all keys must not hold up what is told meanwhile."""
        if self._stop.is_set():
            raise _SourceChanged
        if self._pubsub is not None:
            self._hear(0)
            if self._events and time.monotonic() - self._gathering_since >= self._gather:
                self._take_changed()

    def _find_gone(self, seen: set[int]) -> None:
        """Mirror deletions: what is stored and was not come across, and is not there indeed."""
        before = self._store.database.read(keys.revision)
        gone = [row for page in self._unseen(seen) for row in self._absent(page)]
        self._check_source()
        soon = keys.now_ms() + JITTER
        self._forget([row.key for row in gone if row.is_expired(soon)], before)
        living = [row.key for row in gone if not row.is_expired(soon)]
        if len(living) > max(_FEW, self._store.database.read(keys.count) // 2):
            # Nobody deletes that much at once, and a flush may go unnoticed.
            self._make_good(self._restorer.assess())
            return
        if self._was_evicting():
            self._set_aside.update(living)
        self._discard([key for key in living if key not in self._set_aside], before)

    def _unseen(self, seen: set[int]) -> Iterator[list[Row]]:
        after = b""
        while page := self._store.database.read(keys.page, after, BATCH):
            after = page[-1].key
            if unseen := [row for row in page if hash(row.key) not in seen]:
                yield unseen

    def _absent(self, page: list[Row]) -> list[Row]:
        """Those of the rows whose keys Redis does not have."""
        found = self._mirror.look([row.key for row in page])
        return [
            replace(row, blob=None)
            for row, there in zip(page, found, strict=True)
            if there.value is None
        ]

    def _was_evicting(self) -> bool:
        """Whether Redis may have evicted a key since it was last come across."""
        return server.info(self._store.redis).evicted != self._evicted_before

    # Saying so.

    def _report_minute(self) -> None:
        minute, self._minute = self._minute, _Minute()
        how = "scanning" if self._pubsub is None else "notified"
        total = self._store.database.read(keys.count)
        self._report(
            f"{how}: {total:,} keys, {minute.changed:,} changed, {minute.deleted:,} deleted, "
            f"{minute.expired:,} expired"
        )

    def _say(self, line: str) -> None:
        """Report something that lasts: at once, and then once a minute."""
        now = time.monotonic()
        if line != self._said or now >= self._said_until:
            self._said, self._said_until = line, now + _REPORT
            self._report(line)

    def _hang_up(self) -> None:
        pubsub, self._pubsub = self._pubsub, None
        if pubsub is not None:
            with suppress(*REDIS_ERRORS):
                pubsub.close()
        if self._listener is not None:
            self._listener.close()
            self._listener = None


def _flags(reply: Any) -> str:
    """What CONFIG GET says of one setting."""
    values = list(reply.values()) if isinstance(reply, dict) else list(reply)[1:]
    value = values[0] if values else b""
    return value.decode() if isinstance(value, bytes) else str(value)
