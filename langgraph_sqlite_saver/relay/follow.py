"""Following a Redis that somebody else writes: SQLite kept up to date beside a relay.

Changes come by keyspace notifications, or are found by going through all keys again and again. The
source is written to for one reason: to restore what it has lost.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from ..database import FileReplacedError, StorageError
from . import copies, keys, layout, outbox, server, trash
from .errors import where
from .keys import Row
from .listening import Listener, Subscription
from .losses import Restored
from .mirror import BATCH, JITTER
from .restoring import Restorer
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
# So many different lines beside the one a minute, in a minute.
_LINES = 20
_UPKEEP = 600.0
_LISTEN = 0.2
_BEAT = 10.0

# So few keys may be gone at once, however few there are.
_FEW = 20

# By these a key goes for good; "expired" and "evicted" are no deletions.
_DELETIONS = frozenset({b"del", b"rename_from", b"move_from"})
_GOING = _DELETIONS | {b"expired", b"evicted"}


_STARTED_AGAIN = (
    "Started again, follow goes on with the file that is there; where there is none, it makes one "
    "of what Redis has. The trash, the audit log and older usage are in the backups: before that, "
    "put one in place (relay restore-backup)"
)


class _SourceChanged(Exception):
    """The source is not what it was: it was restarted or emptied, or tells of changes or not."""


@dataclass(frozen=True)
class _Event:
    """What happened to a key last, and by what it went, if it did."""

    last: bytes
    went: bytes


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
        self._listener = Listener(store, enables=enable_notifications, say=self._say)
        self._scan_interval = scan_interval
        self._report = report
        self._minute = _Minute()
        self._events: dict[bytes, _Event] = {}
        self._told_before: dict[bytes, _Event] = {}
        self._followed_at = 0
        self._gathering_since = 0.0
        self._gather = _GATHER
        self._set_aside: set[bytes] = set()
        self._evicted_before = 0
        self._pubsub: Subscription | None = None
        self._lost = False
        self._said: dict[str, float] = {}
        self._next_pass = 0.0
        self._next_look = 0.0
        self._next_beat = 0.0
        self._next_report = 0.0
        self._next_upkeep = 0.0

    def run(self, stop: threading.Event) -> int:
        """Follow until `stop` is set; 1 if Redis has lost keys that were not restored, else 0.

        Before the end what was heard last is stored, unless Redis or SQLite has just failed: the
        next start finds it. A call to either is waited for, as long as the store's `socket_timeout`
        and `lock_timeout` say.

        Raises:
            FileReplacedError: What is stored goes into a file that nobody finds.
        """
        self._stop = stop
        self._store.open()
        works = True
        while not stop.is_set():
            works = self._follow_while_it_works()
        if not (works and self._take_the_last()):
            self._report(
                "ended while Redis or SQLite failed: the next start finds what was not stored"
            )
        self._hang_up()
        return 1 if self._lost else 0

    def _follow_while_it_works(self) -> bool:
        """False if something failed, which was waited for."""
        try:
            self._follow()
            return True
        except _SourceChanged:
            self._hang_up()
            return True
        except FileReplacedError as error:
            self._hang_up()
            raise FileReplacedError(f"{error}. {_STARTED_AGAIN}") from error
        except StorageError as error:
            problem = str(error)
        except Exception as error:  # of one key, most likely: the others go on
            problem = f"{type(error).__name__} in {where(error)}"
        self._hang_up()
        self._say(f"waiting: {problem}")
        self._stop.wait(_PATIENCE)
        return False

    def _take_the_last(self) -> bool:
        with suppress(_SourceChanged, StorageError):
            if self._events:
                self._take_changed()
            return True
        return False

    def _follow(self) -> None:
        self._mirror = self._store.healer.mirror
        self._listen()
        self._about = server.info(self._store.redis)
        self._followed_at = int(self._store.database.read(keys.state, "followed_at") or 0)
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
        """Say that this Redis is followed, and look whether it still can be as it was."""
        self._next_beat = time.monotonic() + _BEAT
        if self._listener.has_changed():
            raise _SourceChanged
        self._store.database.write(keys.set_state, "followed_at", str(keys.now_ms()))

    @property
    def _restorer(self) -> Restorer:
        return self._store.healer.restorer_until(self._stop.is_set)

    # Whether the source is the one it was.

    def _settle(self) -> None:
        """Before anything is taken over: find out what the source has lost."""
        database, about = self._store.database, self._about

        def go_on(*_: int) -> None:
            if self._stop.is_set():  # the next start does it all
                self._events = {}
                raise _SourceChanged
            self._hear(0)

        if database.read(keys.count):  # else the first look through all keys is the same
            self._store.healer.meet(about, go_on)
        noted = [database.read(keys.state, name) for name in ("identity", "flushes")]
        same = noted == [about.identity, str(about.flushes)] and about.keys > 0
        if not same and database.read(keys.count):
            self._mirror_what_was_told()
            found = self._restorer.assess()
            same = self._kept_its_keys(found, noted[0])
            if not same:
                back = [] if found.loss == "total" else self._what_came_back()
                self._make_good(found, back=back)
                if self._restores:
                    self._restorer.bury()
        self._lost = False
        self._told_before.clear()
        self._store.healer.note_source(about)
        if self._restores and database.read(outbox.count):
            self._store.drain()
        self._pass(mirror_deletions=same)

    def _mirror_what_was_told(self) -> None:
        """Deletions that were heard of a moment before the source changed."""
        told, self._told_before = self._told_before, {}
        self._discard([name for name, event in told.items() if event.last in _DELETIONS])

    def _kept_its_keys(self, found: Restored, identity: str | None) -> bool:
        """Whether it is the same process, and has lost nothing: what is gone was deleted.

        Another database of it was flushed, say, or a replica has left it.
        """
        if self._about.keys == 0 or self._restorer.is_pending:
            return False
        if found.loss not in ("none", "missing") or found.keys > max(_FEW, found.present):
            return False
        about = self._about
        if identity == about.identity:
            return True
        is_running = identity is not None and _runs(identity) == _runs(about.identity)
        return is_running and not about.was_replica

    def _what_came_back(self) -> list[bytes]:
        """Deleted keys that an older copy has brought back, if Redis came up with one."""
        about = self._about
        if about.appends:
            return []
        return copies.what_came_back(self._store, about.started_at, self._followed_at)

    def _make_good(
        self, found: Restored, *, back: Sequence[bytes] = (), is_running: bool = False
    ) -> None:
        if found.loss == "none" and not (back or self._restorer.is_pending):
            return
        what = f"Redis has lost {found.keys:,} keys ({found.loss})"
        remedy = "restored: relay restore-redis"
        if back:
            what = "Redis was started from an older copy, where deleted keys are back"
            remedy = (
                "put right: delete in Redis what relay diff shows as missing in SQLite, then: "
                "relay reconcile"
            )
        if not self._restores:
            self._lost = True
            self._say(f"{what}; nothing is taken over until it is {remedy}")
            self._stop.wait(_LOOK if self._stop.is_set() else 10 * _LOOK)
            raise _SourceChanged
        self._say(f"{what}: restoring")
        if back:
            copies.remove(self._store, back)
        self._restorer.restore(
            may_be_older=not self._about.appends,
            mirrored=True,
            is_older=bool(back),
            is_running=is_running,
        )
        self._said.clear()  # another loss is to be told of
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

    def _listen(self) -> None:
        """Hear of changes from now on, where Redis tells of them."""
        self._told_before |= self._events
        self._events = {}
        self._pubsub = self._listener.begin()

    def _hear(self, patience: float) -> None:
        """Take what events have come; wait for one if there is none."""
        if self._pubsub is None:
            self._stop.wait(patience)
            return
        for key, event in self._pubsub.events(patience):
            self._note(key, event)

    def _note(self, key: bytes, event: bytes) -> None:
        if not layout.is_lasting(key):
            return
        if not self._events:
            self._gathering_since = time.monotonic()
        before = self._events.get(key)
        # That it went, though a late request wrote to it again.
        went = event if event in _GOING else before.went if before is not None else b""
        self._events[key] = _Event(event, went)

    def _take_changed(self) -> None:
        """Store what the events of the last moments told of."""
        started = time.monotonic()
        events, names = self._events, list(self._events)
        taken = self._mirror.take_over(
            names,
            actor=ACTOR,
            guard=self._check_source,
            was_deleted=lambda key: events[key].went in _DELETIONS,
        )
        self._events = {}
        self._minute.changed += taken.changed
        gone = {name: events[name].went for name in taken.missing}
        self._set_aside.difference_update(names)
        self._set_aside.update(name for name, event in gone.items() if event == b"evicted")
        self._forget([name for name, event in gone.items() if event == b"expired"])
        deleted = [name for name, event in gone.items() if event in _DELETIONS]
        moved = self._discard(deleted)
        known = self._store.database.read(keys.rows, deleted)
        # Something newer is saved here, or waits for Redis: to be looked at again in a moment.
        left = [*taken.left, *(name for name in deleted if name in known and name not in moved)]
        if left:
            self._events = {name: events[name] for name in left} | self._events
            self._gathering_since = time.monotonic()
        took = time.monotonic() - started
        self._gather = min(max(_GATHER, 4 * took), _GATHER_MOST)

    def _discard(self, names: list[bytes]) -> list[bytes]:
        """Mirror deletions; those that were."""
        moved: list[bytes] = []
        for part, before in self._still_gone(names):
            moved += self._store.database.write(trash.discard, part, ACTOR, before)
        self._minute.deleted += len(moved)
        return moved

    def _forget(self, names: list[bytes]) -> None:
        for part, before in self._still_gone(names):
            expired = self._store.database.write(trash.forget_expired, part, before)
            self._minute.expired += expired

    def _still_gone(self, names: list[bytes]) -> Iterator[tuple[list[bytes], int]]:
        """Those that Redis does not have, and the revision before it was asked: what is saved here
        after that is newer.
        """
        for start in range(0, len(names), BATCH):
            before = self._store.database.read(keys.revision)
            found = self._mirror.look(names[start : start + BATCH])
            self._check_source()
            yield [each.key for each in found if each.value is None], before

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
        gone = [row for page in self._unseen(seen) for row in self._absent(page)]
        self._check_source()
        soon = keys.now_ms() + JITTER
        self._forget([row.key for row in gone if row.is_expired(soon)])
        living = [row.key for row in gone if not row.is_expired(soon)]
        if self._was_evicting():
            self._set_aside.update(living)
        living = [key for key in living if key not in self._set_aside]
        if len(living) > max(_FEW, self._store.database.read(keys.count) // 2):
            # Nobody deletes that much at once, and a flush may go unnoticed.
            self._make_good(self._restorer.assess(), is_running=True)
            return
        self._discard(living)

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
        """Report something that lasts: at once, and then once a minute, whatever it counts."""
        now = time.monotonic()
        self._said = {said: until for said, until in self._said.items() if now < until}
        about = re.sub(r"[\d,.]+", "0", line)
        if about not in self._said and len(self._said) < _LINES:
            self._said[about] = now + _REPORT
            self._report(line)

    def _hang_up(self) -> None:
        pubsub, self._pubsub = self._pubsub, None
        if pubsub is not None:
            pubsub.close()


def _runs(identity: str) -> list[str]:
    """The run ids in a server's identity, without whose copies of keys they are."""
    return [part.partition(".")[0] for part in identity.split("+")]
