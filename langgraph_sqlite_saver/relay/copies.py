"""Whether a Redis that was restarted came up with an older copy of its keys.

Without an append-only file it starts from its last snapshot, and nothing that it says tells of
that. Counts that have fallen do (see `losses`); and records that are back as they were when their
deletion was followed.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from . import keys, losses, trash
from .asking import Ask, ask
from .layout import raw
from .mirror import Found
from .store import RelayStore

# It must have been followed until so shortly before it started, and have started so shortly before
# now, in milliseconds: in between a relay may have made a record again that it had deleted.
_GAP = 60_000


def what_came_back(store: RelayStore, started_at: int, followed_at: int) -> list[bytes]:
    """Keys that were deleted and are back as they were, where an older copy explains it; else none.

    `started_at`: when Redis was; `followed_at`: until when it was followed; both in ms since 1970.
    """
    if started_at - followed_at > _GAP or keys.now_ms() - started_at > _GAP:
        return []
    found: list[bytes] = []
    names = [raw(name) for name in store.database.read(trash.names, 0)]
    for start in range(0, len(names), losses.PAGE):
        found += _as_they_were(store, names[start : start + losses.PAGE])
    return found if any(map(losses.is_record, found)) else []


def remove(store: RelayStore, names: Sequence[bytes]) -> None:
    """Delete them in Redis again."""
    ask(store.redis, Ask([("DEL", name) for name in names]))


def _as_they_were(store: RelayStore, names: Sequence[bytes]) -> list[bytes]:
    unknown = store.database.read(keys.unknown, names)
    there = store.healer.mirror.look(unknown)
    return [found.key for found in there if store.database.read(_is_in_trash, found)]


def _is_in_trash(conn: sqlite3.Connection, found: Found) -> bool:
    return found.value is not None and trash.holds(conn, found.key, found.value)
