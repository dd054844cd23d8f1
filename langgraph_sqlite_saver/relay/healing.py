"""Bringing SQLite and a Redis together: at the first meeting, after an outage, and after a loss."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from ..database import Database, DatabaseClosedError
from . import keys, layout, outbox, saving, server
from .errors import RedisUnavailableError
from .logic import Logic
from .mirror import Mirror, Taken
from .restoring import Restorer
from .server import Clients
from .times import Buckets

Progress = Callable[[int, int], None]

# How often to try again what is overtaken by something else.
_AGAIN = 3


def closed() -> DatabaseClosedError:
    """The error for calls of a store that was closed."""
    return DatabaseClosedError("the store was closed: open a new one")


class Healer:
    """Keeps a store's Redis up to date; `stopping` says whether to give up."""

    def __init__(
        self,
        database: Database,
        clients: Clients,
        logic: Logic,
        buckets: Buckets,
        stopping: Callable[[], bool],
    ) -> None:
        self._database = database
        self._clients = clients
        self._logic = logic
        self._buckets = buckets
        self._stopping = stopping
        # Whether what earlier processes left has been brought to Redis.
        self._drained = False

    @property
    def restorer(self) -> Restorer:
        """What brings back to Redis what it has lost."""
        return self.restorer_until(self._stopping)

    def restorer_until(self, stopping: Callable[[], bool]) -> Restorer:
        """The same; it gives up when `stopping` says so."""
        return Restorer(self._database, self._clients, self._logic, stopping)

    @property
    def mirror(self) -> Mirror:
        """What takes keys over from Redis."""
        return Mirror(self._database, self._clients.raw, self._buckets)

    def heal(self) -> None:
        """Bring Redis up to date, and all of it if it is not the one it was."""
        try:
            about, suspicions = self._look()
            there = self._logic.look_at_what_waits()
            # In this order: one record that is brought there makes a loss look smaller.
            if not self.knows(about):
                self._bring_together(about)
                self.note_source(about)
            self._logic.health.is_unmet = False
            self._logic.drain(everything=True)
            self._logic.leave(there)
            self._drained = True
            self._trust(suspicions)
            self._logic.health.came_back()
        except RedisUnavailableError as error:
            self._logic.health.went_down(error)

    def _look(self) -> tuple[server.ServerInfo, int]:
        """What Redis says of itself, and which suspicions that can clear."""
        for _ in range(_AGAIN):
            suspicions = self._logic.health.suspicions
            about = server.info(self._clients.raw)
            if suspicions == self._logic.health.suspicions:
                break
        return about, suspicions

    def _trust(self, suspicions: int) -> None:
        """Believe what Redis answers; connections that were made since are looked at first."""
        for _ in range(_AGAIN):
            if self._logic.health.is_the_one_it_was(suspicions):
                return
            about, suspicions = self._look()
            if not self.knows(about):
                return

    def is_known(self) -> bool:
        """Whether Redis is the one it was, and has been brought up to date; if so, believe it."""
        if not self._drained:
            return False
        try:
            about, suspicions = self._look()
            return self.knows(about) and self._logic.health.is_the_one_it_was(suspicions)
        except RedisUnavailableError as error:
            self._logic.health.went_down(error)
            return False

    def _bring_together(self, about: server.ServerInfo) -> None:
        """Another Redis than was seen last, or one that has lost its keys."""
        if self.meet(about):
            return
        if about.keys and not self._database.read(keys.count):
            self.take_over(about, None, dry_run=False)
        else:
            started = about.identity != self._database.read(keys.state, "identity")
            self.restorer.restore(may_be_older=started and not about.appends)

    def meet(self, about: server.ServerInfo, progress: Progress | None = None) -> bool:
        """Take over what Redis has if it is seen for the first time; whether it was.

        Saves have to follow its layout. What waits for it is not brought there yet.
        """
        if not self._database.read(saving.is_first_meeting):
            return False
        if about.keys:
            self.take_over(about, progress, dry_run=False)
            return True
        # It was interrupted, and Redis came back without its keys.
        self._database.write(saving.settle, ())
        return False

    def knows(self, about: server.ServerInfo) -> bool:
        """Whether this is the Redis that was seen last, with what it had."""
        if about.keys == 0 and self._lacks_all():
            return False
        if self._database.read(saving.is_meeting):
            return False
        noted = [self._database.read(keys.state, name) for name in ("identity", "flushes")]
        return noted == [about.identity, str(about.flushes)]

    def _lacks_all(self) -> bool:
        """Whether Redis is empty and should not be; it may be a save that it is just told of."""
        if self._database.read(outbox.count) or not self._database.read(keys.count):
            return False
        return server.info(self._clients.raw).keys == 0

    def tick(self) -> None:
        """What the background does from time to time."""
        self._logic.sweep()
        waiting = self._logic.health.failed + self._logic.health.untaken
        try:
            about, suspicions = self._look()
            if not (self._drained and self.knows(about)):
                self.heal()
                return
            if self._database.read(outbox.count):
                self._logic.drain()
            else:
                self._logic.health.drained(waiting)
            self._trust(suspicions)
            self._logic.health.came_back()
        except RedisUnavailableError as error:
            self._logic.health.went_down(error)

    def note_source(self, about: server.ServerInfo) -> None:
        """Note which Redis it is whose keys SQLite has."""
        self._database.write(keys.set_state, "identity", about.identity)
        self._database.write(keys.set_state, "flushes", str(about.flushes))

    def take_over(
        self, about: server.ServerInfo, progress: Progress | None, *, dry_run: bool
    ) -> Taken:
        """What `RelayStore.import_from_redis` does.

        Records that were saved before the first meeting lose their places in indexes, and get those
        that the relay's version has.
        """
        self._logic.sweep()
        total = Taken()
        meets = not dry_run and self._database.write(saving.set_places_aside)
        lost = not meets and self._has_lost_keys(about)
        take_over = partial(
            self.mirror.take_over, dry_run=dry_run, guard=partial(self._check_same, about)
        )
        seen = 0
        for names in server.scan(self._clients.raw):
            # What was saved before stays in the lookup, which an import replaces else.
            later = [layout.HASH_MAP] if meets and layout.HASH_MAP in names else []
            total.add(take_over([name for name in names if name not in later], additions_only=lost))
            total.left += later
            seen += len(names)
            if progress is not None:
                progress(seen, max(about.keys, seen))
        for _ in range(0 if lost else _AGAIN):  # saves came in between
            left, total.left = total.left, []
            if meets and self._database.write(saving.set_later_places_aside):
                left.append(layout.INDEX_VERSION)
            lookup = [name for name in left if meets and name == layout.HASH_MAP]
            total.add(take_over(lookup, additions_only=True))
            total.add(take_over([name for name in left if name not in lookup]))
        if meets:
            self._database.write(saving.settle, total.left, about.identity)
        total.missing.clear()
        if not (dry_run or lost):
            self.note_source(about)
        return total

    def _check_same(self, about: server.ServerInfo) -> None:
        if self._stopping():
            raise closed()
        now = server.info(self._clients.raw)
        if (now.identity, now.flushes) != (about.identity, about.flushes):
            raise RedisUnavailableError("Redis was restarted or emptied meanwhile: call again")

    def _has_lost_keys(self, about: server.ServerInfo) -> bool:
        if self.knows(about) or not self._database.read(keys.count):
            return False
        return self.restorer.assess().loss != "none"
