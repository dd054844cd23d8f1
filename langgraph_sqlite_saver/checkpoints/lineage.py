"""What this process has just stored, so that the next step need not look it up.

A step's `put` names the channels that changed; the others are stored already, under versions that
the parent has too. When the parent is the checkpoint saved last on its thread by the same saver,
and nobody else has committed since (PRAGMA data_version) nor anything was deleted, that is known
without a query.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from sqlite3 import Connection
from typing import Any, NamedTuple, TypeVar

T = TypeVar("T")

# Some hundred bytes and a reference to each channel's version, for each thread and namespace.
MOST_HEADS = 1024


class Moment(NamedTuple):
    """A state of the file: as long as it is the same, what was stored is stored."""

    data_version: int
    deletions: int


class Head(NamedTuple):
    """A checkpoint that was saved, and the version keys its blobs were found or put under."""

    checkpoint_id: str
    stored: Mapping[str, tuple[str, str]]  # channel -> (version, key)
    moment: Moment


class Lineage:
    """The newest checkpoints that this process saved, by thread and namespace; bounded.

    Unless the saver is `alone` on its writer's connection nothing is remembered: who shares that
    may roll back or delete what was saved, and PRAGMA data_version does not show what happens on
    the connection itself.
    """

    def __init__(self, *, alone: bool = True) -> None:
        self._alone = alone
        self._heads: dict[tuple[str, str], Head] = {}
        self._conn: Connection | None = None
        self._deletions = 0

    def now(self, conn: Connection) -> Moment:
        """The state that the writer's transaction sees. Only for the writer's connection."""
        if conn is not self._conn:  # data_version only compares on one connection
            self._conn = conn
            self.deleted()
        (data_version,) = conn.execute("PRAGMA data_version").fetchone()
        return Moment(data_version, self._deletions)

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
        if len(self._heads) >= MOST_HEADS:
            self._heads.clear()
        self._heads[place] = head

    def deleted(self) -> None:
        """Note that blobs may have gone: nothing remembered holds any more."""
        self._deletions += 1


def deleting(conn: Connection, lineage: Lineage, op: Callable[..., T], *args: Any) -> T:
    """Run an operation that may delete or replace blobs: nothing remembered holds after it."""
    lineage.deleted()
    return op(conn, *args)
