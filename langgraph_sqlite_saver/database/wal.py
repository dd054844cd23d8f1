"""Copying the -wal into the file, in time, and never beside a commit.

Every SQLite from 3.7.0 to 3.51.2 can damage a file when a checkpoint runs while another connection
commits (https://www.sqlite.org/wal.html#walresetbug): the commit begins the -wal anew, and the
checkpoint marks frames as copied that never were. SQLite's automatic checkpoint is of that kind,
and so are FULL, RESTART and TRUNCATE, which go on as PASSIVE in silence where another connection
holds the write lock. So connections of ours never checkpoint by themselves. The writer takes the
write lock, a second connection checkpoints, and the writer lets go: nobody can commit meanwhile.

The first commit after a whole copy begins the -wal anew and cuts the file to its limit; so a file
that is longer has as many frames, and `stat` says when to copy. A reader that is still at an older
state keeps both from happening: then it is tried again, and from twice the limit on, this process's
reads are held back for a moment.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING

from . import logs
from .busy import retry_while_busy
from .errors import DatabaseLockedError, StorageError
from .pragmas import CONNECTION_PRAGMAS, PragmaValue

if TYPE_CHECKING:
    from .readers import Readers

# A frame's header, and that of the -wal, in bytes (https://www.sqlite.org/fileformat2.html#walformat).
_FRAME_HEADER, _WAL_HEADER = 24, 32

# How often to look at the -wal's size, in seconds: looking costs 1 µs.
_LOOK_EVERY = 0.001
# What was not whole is tried again after so many seconds, or when the -wal has grown by a part of
# its limit.
_AGAIN_AFTER = 0.25
_GROWTH = 4
# How long to wait for another process's commit, in seconds; then it is tried later.
_FOR_WRITERS = 0.0
# How long this process's reads are waited for, in seconds: each time twice as long, and after so
# many times in vain once in a while, in seconds.
_FOR_READERS, _TIMES, _ONCE_IN = 0.01, 5, 2.0
# From so many times the limit on, reads are held back; from so many on, the log says so.
_HOLD_BACK, _TELL = 2, 4
# What a commit of one page leaves at most, in bytes: a page has up to 64 KiB.
_SHORT = _WAL_HEADER + _FRAME_HEADER + 65_536
# How often to try to begin the -wal anew, where others commit in between.
_TRIES = 3


class WalKeeper:
    """Keeps one file's -wal short, for the connection that writes it.

    Args:
        writer: That connection.
        path: The database's path, without links.
        pragmas: The caller's; `wal_autocheckpoint` is the limit in pages (0: the -wal is left to
            others), `journal_size_limit` what is left of the file, in bytes, after it was copied.
        connect: Opens the connection that checkpoints.
        readers: Those of this process.
    """

    def __init__(
        self,
        writer: sqlite3.Connection,
        path: str,
        pragmas: Mapping[str, PragmaValue],
        connect: Callable[[], sqlite3.Connection],
        readers: Readers,
    ) -> None:
        self._writer = writer
        self._path = f"{path}-wal"
        self._name = path
        self._connect = connect
        self._readers = readers
        self._copier: sqlite3.Connection | None = None
        (page,) = writer.execute("PRAGMA page_size").fetchone()
        pages = {**CONNECTION_PRAGMAS, **pragmas}["wal_autocheckpoint"]
        self._limit = _WAL_HEADER + int(pages) * (page + _FRAME_HEADER) if int(pages) > 0 else 0
        kept = int(pragmas.get("journal_size_limit", self._limit))
        if self._limit:
            writer.execute(f"PRAGMA journal_size_limit = {kept}").close()
        # A file of this size is what the last copy left.
        self._kept = max(self._limit, kept)
        self._look_at = 0.0
        self._again_at = 0.0
        self._again_from = self._kept
        self._hold_back_at = 0.0
        self._failures = 0
        self._has_told = False

    def keep_up(self) -> None:
        """After a commit: copy the -wal into the file if it is beyond its limit.

        Never raises for want of a lock: it is tried again after a later commit.
        """
        now = time.monotonic()
        if now < self._look_at or not self._limit:
            return
        self._look_at = now + _LOOK_EVERY
        size = self.size()
        if size <= self._kept:
            self._is_short()
        elif size > self._again_from or now >= self._again_at:
            self._again_from = size + self._limit // _GROWTH
            try:
                self._shorten(size)
            except DatabaseLockedError:
                pass
            except (sqlite3.Error, StorageError) as error:
                logs.wal.warning("%s cannot be copied into its file: %s", self._path, error)
            self._again_at = time.monotonic() + _AGAIN_AFTER

    def empty(self) -> int:
        """Copy all of the -wal and cut it to a page or two; how many bytes it still has.

        Waits for no reader: what one still needs stays.
        """
        for _ in range(_TRIES):
            if not self._copy() or self._begin_anew(0):
                break
        self._copy()
        return self.size()

    def size(self) -> int:
        """The size of the -wal, in bytes."""
        try:
            return os.stat(self._path).st_size  # noqa: PTH116 - after each commit
        except OSError:
            return 0

    def close(self) -> None:
        """Close the second connection."""
        if self._copier is not None:
            self._copier.close()
            self._copier = None

    def _shorten(self, size: int) -> None:
        self._tell(size)
        now = time.monotonic()
        if size <= _HOLD_BACK * self._limit or now < self._hold_back_at or self._readers.are_long:
            retry_while_busy(self._copy, limit=_FOR_WRITERS, where=self._name)
            return
        patience = _FOR_READERS * 2**self._failures
        self._failures = min(self._failures + 1, _TIMES - 1)
        if self._failures == _TIMES - 1:
            self._hold_back_at = now + _ONCE_IN
        try:
            self._readers.pause("wal", patience)
            copied = retry_while_busy(self._copy, limit=_FOR_WRITERS, where=self._name)
            if copied and self._begin_anew(self._kept):
                self._is_short()
        finally:
            self._readers.resume("wal")

    def _is_short(self) -> None:
        self._failures, self._hold_back_at = 0, 0.0
        self._has_told, self._again_from = False, self._kept

    def _tell(self, size: int) -> None:
        if size > _TELL * self._limit and not self._has_told:
            self._has_told = True
            logs.wal.warning(
                "%s has %d bytes, its limit is %d: some connection has been reading one state all "
                "the while (a backup, a replication, a transaction left open), and what came after "
                "that cannot be copied into the file",
                self._path,
                size,
                self._limit,
            )

    def _copy(self) -> bool:
        """Copy what no reader still needs, while nobody can commit; whether that was all."""
        if self._copier is None:
            self._copier = self._connect()
        self._writer.execute("BEGIN IMMEDIATE")
        try:
            found = self._copier.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        finally:
            self._writer.execute("ROLLBACK")
        busy, frames, copied = found
        return not busy and frames == copied

    def _begin_anew(self, kept: int) -> bool:
        """Commit, which begins the -wal anew if no reader needs it, and cut the file to `kept`."""
        writer = self._writer
        writer.execute(f"PRAGMA journal_size_limit = {kept}").close()
        try:
            writer.execute("BEGIN IMMEDIATE")
            (version,) = writer.execute("PRAGMA user_version").fetchone()
            writer.execute(f"PRAGMA user_version = {version}")  # writes a page that is the same
            writer.execute("COMMIT")
        finally:
            with suppress(sqlite3.Error):
                if writer.in_transaction:
                    writer.execute("ROLLBACK")
            writer.execute(f"PRAGMA journal_size_limit = {self._kept}").close()
        return self.size() <= max(kept, _SHORT)
