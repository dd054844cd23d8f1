"""What this process has just stored, so that the next step need not look it up.

A step's `put` names the channels that changed; the others are stored already, under versions that
the parent has too. When the parent is the checkpoint saved last on its thread by the same saver,
that is known without a query, as long as nothing but saving has changed the file: other
connections' commits show in PRAGMA data_version, changes on the writer's own connection, by
whatever operation, in its count of changed rows.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from sqlite3 import Connection
from typing import NamedTuple

# Some hundred bytes and a reference to each channel's version, for each thread and namespace.
MOST_HEADS = 1024


class Moment(NamedTuple):
    """A state of the file: as long as it is the same, what was stored is stored."""

    data_version: int
    other_changes: int


class Head(NamedTuple):
    """A checkpoint that was saved, and the version keys its blobs were found or put under."""

    checkpoint_id: str
    stored: Mapping[str, tuple[str, str]]  # channel -> (version, key)
    moment: Moment


class Lineage:
    """The newest checkpoints that this process saved, by thread and namespace; bounded.

    Unless the saver is `alone` on its writer's connection nothing is remembered: who shares that
    may roll back what was saved.
    """

    def __init__(self, *, alone: bool = True) -> None:
        self._alone = alone
        self._heads: OrderedDict[tuple[str, str], Head] = OrderedDict()
        self._conn: Connection | None = None
        self._changes = 0  # the rows changed through it, up to the end of the last saving
        self._others = 0

    def now(self, conn: Connection) -> Moment:
        """The state that the writer's transaction sees. Only for the writer's connection."""
        self.begin_saving(conn)
        (data_version,) = conn.execute("PRAGMA data_version").fetchone()
        return Moment(data_version, self._others)

    def begin_saving(self, conn: Connection) -> None:
        """Look whether other operations changed rows since the last saving."""
        # Both counts only compare on one connection.
        if conn is not self._conn or conn.total_changes != self._changes:
            self._conn = conn
            self.forget()

    def end_saving(self, conn: Connection) -> None:
        """Note that what was changed since `begin_saving` was added, and took nothing away."""
        self._changes = conn.total_changes

    def parent(
        self, place: tuple[str, str], parent_id: str | None, moment: Moment
    ) -> Mapping[str, tuple[str, str]] | None:
        """Where the parent's values lie, if that is known at `moment`."""
        head = self._heads.get(place)
        if head is None or head.checkpoint_id != parent_id or head.moment != moment:
            return None
        return head.stored

    def remember(self, place: tuple[str, str], head: Head) -> None:
        """Note a checkpoint whose transaction was committed."""
        if not self._alone:
            return
        self._heads.pop(place, None)
        self._heads[place] = head
        if len(self._heads) > MOST_HEADS:
            self._heads.popitem(last=False)

    def forget(self) -> None:
        """Note that blobs may have gone: nothing remembered holds any more."""
        self._others += 1
