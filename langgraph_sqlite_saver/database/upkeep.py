"""Keeping a file in shape: optimize, size, and backups while others write."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from .durable import sync, sync_names
from .errors import CannotOpenError, InvalidInputError, InvalidTypeError
from .files import StrPath, connect, create_private

Vacuum = Literal["incremental", "full"]
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Left:
    """What `optimize` could not give back: some KB, unless somebody reads an older state.

    Attributes:
        wal_bytes: The size of the log beside the file.
        free_bytes: Pages of the file that hold nothing.
    """

    wal_bytes: int
    free_bytes: int


_BACKUP_PAGES = 2048
# Some milliseconds' worth: writers wait meanwhile.
_VACUUM_PAGES = 512
_SYNCHRONOUS = ("OFF", "NORMAL", "FULL", "EXTRA")


@dataclass(frozen=True)
class FileFigures:
    """A database in figures; in memory `file_bytes` are its pages', and there is no -wal."""

    file_bytes: int
    wal_bytes: int
    free_bytes: int
    journal_mode: str
    synchronous: str
    sqlite_version: str


def file_figures(conn: sqlite3.Connection, path: Path | None) -> FileFigures:
    """How large the database is, how much of it is free, and how it is written."""
    (free,) = conn.execute("PRAGMA freelist_count").fetchone()
    (page_size,) = conn.execute("PRAGMA page_size").fetchone()
    (pages,) = conn.execute("PRAGMA page_count").fetchone()
    (mode,) = conn.execute("PRAGMA journal_mode").fetchone()
    (level,) = conn.execute("PRAGMA synchronous").fetchone()
    return FileFigures(
        file_bytes=_size(path) if path else pages * page_size,
        wal_bytes=_size(Path(f"{path}-wal")) if path else 0,
        free_bytes=free * page_size,
        journal_mode=mode,
        synchronous=_SYNCHRONOUS[level],
        sqlite_version=sqlite3.sqlite_version,
    )


def left(conn: sqlite3.Connection) -> Left:
    """How long the log beside a connection's file is, and what is free in the file."""
    path = conn.execute("PRAGMA database_list").fetchone()[2]
    (free,) = conn.execute("PRAGMA freelist_count").fetchone()
    (page_size,) = conn.execute("PRAGMA page_size").fetchone()
    return Left(_size(Path(f"{path}-wal")) if path else 0, free * page_size)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def optimize(conn: sqlite3.Connection, vacuum: Vacuum | None = None) -> None:
    """Refresh the planner's statistics and give free pages back. To run with `maintain`.

    `"incremental"` returns free pages without rewriting the file; `"full"` rewrites it, which
    takes as much disk again and keeps writers waiting.
    """
    if vacuum not in (None, "incremental", "full"):
        raise InvalidInputError(f"vacuum is 'incremental', 'full' or None, not {vacuum!r}")
    conn.execute("PRAGMA optimize").fetchall()
    if vacuum == "incremental":
        # It gives a row without columns for each page, at which `execute` would stop.
        conn.cursor().executescript("PRAGMA incremental_vacuum")
    elif vacuum == "full":
        conn.execute("VACUUM")


def give_back(conn: sqlite3.Connection) -> bool:
    """Return some free pages to the disk; whether there are more. To run with `maintain`.

    Nothing is returned where the file was made without `auto_vacuum`.
    """
    (mode,) = conn.execute("PRAGMA auto_vacuum").fetchone()
    if mode == 0:
        return False
    conn.cursor().executescript(f"PRAGMA incremental_vacuum({_VACUUM_PAGES})")
    (free,) = conn.execute("PRAGMA freelist_count").fetchone()
    return bool(free)


def _checked_target(conn: sqlite3.Connection, path: StrPath) -> Path:
    """Where the backup goes; raises for a place that cannot be meant or would do damage."""
    if not isinstance(path, (str, os.PathLike)):
        raise InvalidTypeError(f"a backup needs a path, not {path!r}")
    if "\0" in os.fsdecode(path):
        raise InvalidInputError(f"a path cannot hold a NUL character: {path!r}")
    target = Path(path)
    if not target.name or target.is_dir():
        raise InvalidInputError(f"{path!s} is a directory: give the path of a file for the backup")
    if not target.parent.is_dir():
        raise CannotOpenError(f"{target}: create the directory {target.parent} first")
    source = conn.execute("PRAGMA database_list").fetchone()[2]
    if source and target.exists() and target.samefile(source):
        raise InvalidInputError(f"{target} is the database itself: give the backup another path")
    if Path(f"{target}-wal").exists():  # SQLite would apply it to whatever has that name
        raise InvalidInputError(
            f"{target} is a database in use, or one whose process died: it has a -wal. Give the "
            "backup another path, or remove both first"
        )
    return target


def backup(conn: sqlite3.Connection, path: StrPath, progress: Progress | None = None) -> None:
    """Write one snapshot of the database to `path` (mode 0600), while others go on writing.

    The file appears whole or not at all: it is written beside its place and then renamed. One
    that was there is replaced. It is on the disk when this returns. `progress(done, total)` is
    called with pages copied. To run with `read`.
    """
    target = _checked_target(conn, path)
    partial = target.with_name(f".{target.name}.{os.getpid()}-{threading.get_ident()}.partial")
    with _explained(target):
        with suppress(FileNotFoundError):
            partial.unlink()
        create_private(partial)
    try:
        # Begin the snapshot now: without one, every commit elsewhere would start the copy anew.
        conn.execute("SELECT 1 FROM sqlite_master").fetchone()
        with closing(connect(str(partial))) as copy:
            conn.backup(copy, pages=_BACKUP_PAGES, progress=_reporter(progress))
        with _explained(target):
            sync(partial)
            partial.replace(target)
            sync_names(target.parent)
    finally:
        for leftover in (partial, Path(f"{partial}-wal"), Path(f"{partial}-shm")):
            with suppress(FileNotFoundError):
                leftover.unlink()


@contextmanager
def _explained(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise CannotOpenError(
            f"{target}: cannot create it in {target.parent} ({error.strerror}). "
            "Choose a directory that this user may write to."
        ) from error


def _reporter(progress: Progress | None) -> Callable[[int, int, int], None] | None:
    if progress is None:
        return None
    return lambda status, remaining, total: progress(total - remaining, total)
