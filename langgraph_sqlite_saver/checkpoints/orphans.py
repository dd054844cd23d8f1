"""What is stored for checkpoints that are not there.

Pending writes may come before their checkpoint, and for a moment that is nothing to speak of. They
stay where the checkpoint never comes, or where their thread was deleted while a run went on. When
that was is told by the checkpoint's id: LangGraph's are UUIDs of version 6, which hold a time.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from sqlite3 import Connection, DatabaseError

from . import sql
from .damage import in_any_text, is_key
from .jsontext import parameter

# Where a UUID of version 6 begins to count, in steps of 100 ns.
_FIRST_DAY = datetime(1582, 10, 15, tzinfo=timezone.utc)


@dataclass(frozen=True)
class Orphans:
    """Stored rows whose checkpoint is not there; nothing is damaged by them.

    Attributes:
        thread_id: Their thread.
        checkpoint_ns, checkpoint_id: The checkpoint of pending writes; None for the values of a
            thread that has no checkpoint at all.
        rows, bytes: How many pending writes or values, and what they hold.
        made: The time in the checkpoint's id; None where it holds none. Younger ones may belong to
            a checkpoint that is just being saved.
    """

    thread_id: str
    checkpoint_ns: str | None
    checkpoint_id: str | None
    rows: int
    bytes: int
    made: datetime | None

    def is_older_than(self, moment: datetime) -> bool:
        """Whether they are known to be from before `moment`."""
        return self.made is not None and self.made < moment


def find(conn: Connection, thread_ids: Iterable[str] | None) -> list[Orphans]:
    """Those of some threads, or of all. Reads the tables' keys."""
    if thread_ids is None:
        return [*_writes(conn, sql.ORPHAN_WRITES), *_values(conn, sql.ORPHAN_BLOBS)]
    found: list[Orphans] = []
    for each in thread_ids:
        found += _writes(conn, sql.ORPHAN_WRITES_OF_THREAD, each)
        found += _values(conn, sql.ORPHAN_BLOBS_OF_THREAD, each)
    return found


def find_readable(conn: Connection, thread_ids: Iterable[str] | None) -> list[Orphans]:
    """The same of a file that may be damaged: none where the keys cannot be read."""
    try:
        return find(conn, thread_ids)
    except DatabaseError:
        return []


def older_than(conn: Connection, moment: datetime) -> list[Orphans]:
    """The pending writes of every thread that `expire` deletes."""
    return [each for each in _writes(conn, sql.ORPHAN_WRITES) if each.is_older_than(moment)]


@in_any_text
def threads_with_older(conn: Connection, moment: datetime) -> list[str]:
    """The threads that have some."""
    return sorted({each.thread_id for each in older_than(conn, moment) if is_key(each.thread_id)})


@in_any_text
def expire(conn: Connection, thread_id: str, moment: datetime) -> None:
    """Delete a thread's pending writes without a checkpoint that are from before `moment`.

    They are looked up here: a checkpoint may have come since they were found. Of a thread that has
    no checkpoint, and keeps no pending write, the values go too.
    """
    found = list(_writes(conn, sql.ORPHAN_WRITES_OF_THREAD, thread_id))
    old = [each for each in found if each.is_older_than(moment) and is_key(each.checkpoint_ns)]
    for each in old:
        place = (thread_id, each.checkpoint_ns, parameter([each.checkpoint_id]))
        conn.execute(sql.DELETE_WRITES_OF_CHECKPOINTS, place)
    if old and old == found and not conn.execute(sql.HAS_THREAD, (thread_id,)).fetchone():
        for statement in sql.DELETE_THREAD:
            conn.execute(statement, (thread_id,))


def _writes(conn: Connection, query: str, *thread_id: str) -> Iterator[Orphans]:
    for thread, ns, checkpoint_id, rows, size in conn.execute(query, thread_id).fetchall():
        yield Orphans(thread, ns, checkpoint_id, rows, size, time_of(checkpoint_id))


def _values(conn: Connection, query: str, *thread_id: str) -> Iterator[Orphans]:
    for thread, rows, size in conn.execute(query, thread_id).fetchall():
        yield Orphans(thread, None, None, rows, size, None)


def time_of(checkpoint_id: str) -> datetime | None:
    """The time in a UUID of version 6; None for any other id."""
    try:
        found = uuid.UUID(checkpoint_id)
    except (AttributeError, TypeError, ValueError):  # a damaged one is not even text
        return None
    if found.version != 6:
        return None
    steps = found.int >> 80 << 12 | found.int >> 64 & 0xFFF
    return _FIRST_DAY + timedelta(microseconds=steps // 10)
