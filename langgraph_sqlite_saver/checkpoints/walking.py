"""Going through every stored value, thread by thread, a bounded step at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from sqlite3 import Connection
from time import monotonic
from typing import NamedTuple

from . import sql
from .damage import in_any_text, is_key

# What one operation may take: others wait for it to write, and its snapshot holds back the -wal.
_STEP_SECONDS = 0.02
_STEP_ROWS = 500


class BlobKey(NamedTuple):
    """A row of `checkpoint_blobs` in a thread."""

    checkpoint_ns: str
    channel: str
    version: str


class WriteKey(NamedTuple):
    """A row of `checkpoint_writes` in a thread."""

    checkpoint_ns: str
    checkpoint_id: str
    task_id: str
    idx: int


_FIRST_BLOB = BlobKey("", "", "")
_FIRST_WRITE = WriteKey("", "", "", -(2**63))


class Step(NamedTuple):
    """What an operation has gone through: where it stopped, and how many rows that were."""

    last: BlobKey | WriteKey | None  # None: the table has no more of the thread
    rows: int


class Walk:
    """Where one is: a thread's blobs first, then its pending writes, then the next thread.

    An operation goes through `rows`; its caller passes on where that ended once it is committed.
    """

    def __init__(self, thread_ids: Sequence[str], total: int, newest: tuple[int, int]) -> None:
        self.done_rows, self.total_rows = 0, total
        # Rows that come later are left out: a busy thread would have no end. (VACUUM only lowers
        # rowids, so that at worst some of those are taken along.)
        self._newest_blob, self._newest_write = newest
        self._threads = list(reversed(thread_ids))
        self._from: BlobKey | WriteKey = _FIRST_BLOB
        self._last: BlobKey | WriteKey | None = None
        # Rows of the step that no call can name, since a column of their key is not text.
        self.nameless: list[BlobKey | WriteKey] = []

    @property
    def done(self) -> bool:
        """Whether everything was gone through."""
        return not self._threads

    @property
    def thread_id(self) -> str:
        """The thread that the next step works on."""
        return self._threads[-1]

    def rows(self, conn: Connection) -> Iterator[BlobKey | WriteKey]:
        """The next rows, until the time of a step is over."""
        deadline = monotonic() + _STEP_SECONDS
        self.nameless = []
        keys: list[BlobKey | WriteKey]
        place = (self.thread_id, *self._from)
        if isinstance(self._from, BlobKey):
            found = conn.execute(sql.BLOBS_FROM, (*place, self._newest_blob, _STEP_ROWS))
            keys = [BlobKey._make(each) for each in found]
        else:
            found = conn.execute(sql.WRITES_FROM, (*place, self._newest_write, _STEP_ROWS))
            keys = [WriteKey._make(each) for each in found]
        for key in keys:
            if key == self._last:
                continue
            if not is_named(key):
                self.nameless.append(key)
                continue
            yield key
            if monotonic() > deadline:
                return

    def take(self, step: Step) -> None:
        """Go on behind a step."""
        self.done_rows += step.rows
        self._last = step.last
        if step.last is not None:
            self._from = step.last
        elif isinstance(self._from, BlobKey):
            self._from = _FIRST_WRITE
        else:
            self._threads.pop()
            self._from = _FIRST_BLOB


def is_named(key: BlobKey | WriteKey) -> bool:
    """Whether a row's key is what a saver stores: it can be asked for."""
    return all(type(each) is int or is_key(each) for each in key)


@in_any_text
def plan(conn: Connection, thread_ids: Sequence[str] | None) -> Walk:
    """A walk through some threads, or through all, also those that have no checkpoint."""
    if thread_ids is None:
        found = conn.execute(sql.SELECT_THREADS_OF_VALUES).fetchall()
        ids = [thread_id for (thread_id,) in found if is_key(thread_id)]
    else:
        ids = list(thread_ids)
    total = sum(
        conn.execute(sql.COUNT_VALUES, (thread_id, thread_id)).fetchone()[0] for thread_id in ids
    )
    return Walk(ids, total, conn.execute(sql.NEWEST_ROWS).fetchone())
