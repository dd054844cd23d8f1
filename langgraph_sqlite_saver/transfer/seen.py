"""Which checkpoints a run has seen at the source: what goes later was deleted there."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence

from .emptying import Key

_PAGE = 1_000

_MAKE = """
CREATE TABLE seen (
    thread_id TEXT, checkpoint_ns TEXT, checkpoint_id TEXT, pass INTEGER,
    PRIMARY KEY (thread_id, checkpoint_ns, checkpoint_id)
) WITHOUT ROWID
"""

_HAS = "SELECT 1 FROM seen WHERE thread_id = ? AND checkpoint_ns = ? AND checkpoint_id = ?"

_GONE = """
SELECT thread_id, checkpoint_ns, checkpoint_id FROM seen
WHERE pass < ? AND (thread_id, checkpoint_ns, checkpoint_id) > (?, ?, ?)
ORDER BY thread_id, checkpoint_ns, checkpoint_id LIMIT ?
"""


class Seen:
    """The keys that each pass of a run met, in a temporary file of SQLite's once they are many."""

    def __init__(self) -> None:
        self._conn = sqlite3.connect("", isolation_level=None)
        self._conn.execute(_MAKE)
        self._pass = 0

    def __contains__(self, key: object) -> bool:
        return isinstance(key, Key) and self._conn.execute(_HAS, key).fetchone() is not None

    def begin(self) -> None:
        """Another pass."""
        self._pass += 1

    def note(self, keys: Iterable[Key]) -> None:
        """These are there in this pass."""
        rows = [(*key, self._pass) for key in keys]
        self._conn.execute("BEGIN")
        self._conn.executemany("INSERT OR REPLACE INTO seen VALUES (?, ?, ?, ?)", rows)
        self._conn.execute("COMMIT")

    def gone(self) -> Iterator[Sequence[Key]]:
        """Those that were there in an earlier pass and not in this one, page by page."""
        last: tuple[str, ...] = ("", "", "")
        while True:
            found = self._conn.execute(_GONE, (self._pass, *last, _PAGE)).fetchall()
            if not found:
                return
            yield [Key(*key) for key in found]
            last = found[-1]

    def forget(self, keys: Iterable[Key]) -> None:
        """These are dealt with."""
        self._conn.executemany(
            "DELETE FROM seen WHERE thread_id = ? AND checkpoint_ns = ? AND checkpoint_id = ?",
            keys,
        )

    def close(self) -> None:
        """Let go of them."""
        self._conn.close()
