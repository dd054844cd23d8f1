"""Which threads a file has, and which checkpoint somebody means. Operations of a connection."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from sqlite3 import Connection
from typing import Any

from ..checkpoints import sql
from ..database import InvalidInputError

_COUNT_BY_THREAD = "SELECT thread_id, count(*) FROM checkpoints GROUP BY thread_id"

_COUNT_OF_THREAD = "SELECT count(*) FROM checkpoints WHERE thread_id = ?"

_HAS_ORPHANS = """
SELECT 1 FROM checkpoint_writes WHERE thread_id = ?
UNION ALL SELECT 1 FROM checkpoint_blobs WHERE thread_id = ? LIMIT 1
"""

_THREADS = """
WITH heads AS (
    SELECT thread_id, checkpoint_ns, count(*) AS checkpoints, max(checkpoint_id) AS head
    FROM checkpoints GROUP BY thread_id, checkpoint_ns
)
SELECT heads.thread_id, count(*), sum(checkpoints),
    max(CASE WHEN json_valid(checkpoint) THEN json_extract(checkpoint, '$.ts') END)
FROM heads CROSS JOIN checkpoints AS c ON c.thread_id = heads.thread_id
    AND c.checkpoint_ns = heads.checkpoint_ns AND c.checkpoint_id = heads.head
GROUP BY heads.thread_id
"""

_SIZE_OF_THREAD = """
SELECT coalesce((SELECT sum(length(CAST(checkpoint AS BLOB)) + length(CAST(metadata AS BLOB)))
        FROM checkpoints WHERE thread_id = :thread), 0)
    + coalesce((SELECT sum(length(blob)) FROM checkpoint_blobs WHERE thread_id = :thread), 0)
    + coalesce((SELECT sum(length(blob)) FROM checkpoint_writes WHERE thread_id = :thread), 0)
"""

_IDS_OF_THREAD = """
SELECT checkpoint_ns, checkpoint_id FROM checkpoints WHERE thread_id = ?
ORDER BY checkpoint_ns, checkpoint_id
"""


@dataclass
class Thread:
    """A thread in a list; `bytes` is None where it was not summed up."""

    thread_id: str
    namespaces: int
    checkpoints: int
    last: datetime | None
    bytes: int | None = None


def threads(conn: Connection) -> list[Thread]:
    """Every thread, without its size: the keys, from their index, and a row a namespace."""
    return [
        Thread(str(thread_id), namespaces, checkpoints, moment(ts))
        for thread_id, namespaces, checkpoints, ts in conn.execute(_THREADS)
    ]


def counts(conn: Connection, thread_ids: Sequence[str] | None) -> dict[str, int]:
    """How many checkpoints threads have; all threads for None.

    Raises InvalidInputError for one that has none, nor anything else in the file.
    """
    if thread_ids is None:
        return dict(conn.execute(_COUNT_BY_THREAD).fetchall())
    found = {each: count(conn, each) for each in thread_ids}
    for each, number in found.items():
        if not number and not conn.execute(_HAS_ORPHANS, (each, each)).fetchone():
            raise _no_thread(each)
    return found


def count(conn: Connection, thread_id: str) -> int:
    """How many checkpoints a thread has."""
    return int(conn.execute(_COUNT_OF_THREAD, (thread_id,)).fetchone()[0])


def _no_thread(thread_id: str) -> InvalidInputError:
    return InvalidInputError(
        f"there is no thread {thread_id!r}: langgraph-sqlite threads FILE lists them"
    )


def size(conn: Connection, thread_id: str) -> int:
    """The stored bytes of a thread; reads its rows, but not their large values."""
    return int(conn.execute(_SIZE_OF_THREAD, {"thread": thread_id}).fetchone()[0])


def moment(text: Any) -> datetime | None:
    """A checkpoint's time; None for what is none."""
    try:
        found = datetime.fromisoformat(str(text).replace("Z", "+00:00"))
        return found.replace(tzinfo=found.tzinfo or timezone.utc).astimezone(timezone.utc)
    except (ValueError, OverflowError):
        return None


# Finding checkpoints.


class Ids:
    """The ids of a thread's checkpoints; raises InvalidInputError where the thread has none."""

    def __init__(self, conn: Connection, thread_id: str) -> None:
        self._conn, self._thread_id = conn, thread_id
        self._by_ns: dict[str, list[str]] = {}
        for ns, checkpoint_id in conn.execute(_IDS_OF_THREAD, (thread_id,)):
            self._by_ns.setdefault(str(ns), []).append(str(checkpoint_id))
        if not self._by_ns:
            raise _no_thread(thread_id)

    @property
    def namespaces(self) -> list[str]:
        """All namespaces, sorted."""
        return sorted(self._by_ns)

    def namespace(self, wanted: str | None) -> str:
        """The namespace that is named by all of its name or a part of it that no other has."""
        if (wanted or "") in self._by_ns:
            return wanted or ""
        if not wanted:
            raise InvalidInputError(
                f"the thread has checkpoints of subgraphs only ({_some(self.namespaces)}): "
                "name one with --ns"
            )
        found = [ns for ns in self._by_ns if wanted in ns]
        if len(found) == 1:
            return found[0]
        raise InvalidInputError(_not_one("namespace", wanted, found))

    def find(self, wanted: str, ns: str | None) -> tuple[str, str]:
        """The namespace and id of a checkpoint: `HEAD`, `HEAD~2`, or a part of its id."""
        match = re.fullmatch(r"HEAD(?:~(\d{1,9}))?", wanted)
        if match:
            place = self.namespace(ns)
            return place, self._back(place, int(match[1] or 0))
        # An id tells where it is.
        places = self.namespaces if ns is None else [self.namespace(ns)]
        found: list[tuple[str, str]] = []
        for place in places:
            ids = self._by_ns[place]
            found += [(place, wanted)] if wanted in ids else []
            found += [(place, each) for each in ids if wanted in each and wanted != each]
            if found and (place == "" or ns is not None or found[0][1] == wanted):
                break
        if found and (len(found) == 1 or found[0][1] == wanted):
            return found[0]
        raise InvalidInputError(_not_one("checkpoint", wanted, [each for _, each in found]))

    def _back(self, ns: str, steps: int) -> str:
        ids = self._by_ns[ns]
        at, left = ids[-1], set(ids)
        for back in range(steps):
            left.discard(at)  # nothing comes twice, also where a damaged file says so
            found = self._conn.execute(sql.SELECT_CHECKPOINT, (self._thread_id, ns, at)).fetchone()
            parent = found and found[3]
            if parent not in left:
                is_gone = parent and parent not in ids
                why = f"; the checkpoint before it, {parent}, is gone" if is_gone else ""
                raise InvalidInputError(
                    f"there is no HEAD~{steps}: the first one is HEAD~{back}{why}"
                )
            at = parent
        return at

    def short(self, ns: str) -> int:
        """How many last characters tell the ids of a namespace apart; 8 at least."""
        ids = self._by_ns[ns]
        longest = max(map(len, ids))
        for length in range(8, longest, 4):
            if len({each[-length:] for each in ids}) == len(ids):
                return length
        return longest


def _not_one(what: str, wanted: str, found: Sequence[str]) -> str:
    if not found:
        return f"the thread has no {what} {wanted!r}: langgraph-sqlite show FILE THREAD lists them"
    number = f"{len(found):,} {what}s"
    return f"{wanted!r} is in the names of {number} ({_some(found)}): give more of it"


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
