"""Whether the file at a path is still the one that was opened there.

Connections stay with the file that they opened, whatever becomes of its name; those that are
opened later get the file that is there then. A pool would read from two files, and write into the
one that nobody can open any more.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from . import logs
from .errors import CannotOpenError, FileReplacedError

# A file, wherever it is moved: its device and inode.
Identity = tuple[int, int]

# How long an answer holds, in seconds. Asking costs 2 to 4 µs, a read of a small
# checkpoint 24.
_FRESH = 0.0005
# How often to open a file that is replaced at that very moment.
_ATTEMPTS = 10


class FileIdentity:
    """The file that a database's connections have open.

    Device and inode are compared, by `stat`. An open file keeps its inode, also on network file
    systems that number files as they are met. Where nobody can say (the directory may not be
    entered any more), the file counts as the same.

    Args:
        name: The file in messages.
        given: The path to look at. A link in it is followed each time, so that one that is
            pointed elsewhere is noticed.
        path: The path without links, beside which SQLite has its -wal.
    """

    def __init__(self, name: str, given: str, path: str) -> None:
        self._name = name
        self._given = given
        self._path = path
        self._opened: Identity | None = None
        self._wal: Identity | None = None
        self._shm: Identity | None = None
        self._was_replaced = False
        self._told = ""
        self._mutex = threading.Lock()
        self._fresh_until = 0.0

    def check(self) -> None:
        """Raise FileReplacedError if another file, or none, is at the path; for each use."""
        now = time.monotonic()
        if now >= self._fresh_until:
            self.check_now()
            self._fresh_until = now + _FRESH

    def check_now(self) -> None:
        """As `check`, whenever it was asked last."""
        if self._opened is not None:
            with suppress(PermissionError):
                self._compare(_identity(self._given))

    def open(self, connect: Callable[[], sqlite3.Connection]) -> sqlite3.Connection:
        """The connection that `connect` opens, known to be of the file that was opened first.

        Raises FileReplacedError, having closed the connection, where it is not.
        """
        for _ in range(_ATTEMPTS):
            before = self._look()
            conn = connect()
            # What was at the path before and after is what was opened in between.
            try:
                logs = self._logs()
                if self._look() == before:
                    self._note(before, logs)
                    return conn
            except BaseException:
                conn.close()
                raise
            conn.close()
        raise CannotOpenError(
            f"{self._name} is replaced again and again: open it when that has ended"
        )

    def _look(self) -> Identity | None:
        try:
            found = _identity(self._given)
        except PermissionError:
            return self._opened
        self._compare(found)
        return found

    def _logs(self) -> tuple[Identity | None, Identity | None]:
        return _identity(f"{self._path}-wal"), _identity(f"{self._path}-shm")

    def _note(self, found: Identity | None, logs: tuple[Identity | None, Identity | None]) -> None:
        with self._mutex:
            if self._opened is None:
                self._opened = found
            elif found != self._opened:  # two threads opened it first, and not the same
                raise self._replaced(None)
            self._wal, self._shm = logs

    def _compare(self, found: Identity | None) -> None:
        if self._opened is None or (found == self._opened and not self._was_replaced):
            return
        self._fresh_until = 0.0
        if found is None and not self._was_replaced:
            self._tell("was deleted or moved while it was open")
            raise FileReplacedError(
                f"{self._name} was deleted or moved while it was open here. Nothing more is read "
                "from it or written to it: put it back, with its -wal, or close this and open a "
                "new one, which begins with an empty file. What was saved before went with the file"
            )
        # From now on, also if the old file comes back: it may have lost its -wal.
        self._was_replaced = True
        aside = self._take_wal_aside()
        self._tell(f"was replaced while it was open{f'; its -wal is now {aside}' if aside else ''}")
        raise self._replaced(aside)

    def _tell(self, what: str) -> None:
        """Log it once: every later call raises."""
        if what != self._told and not self._told.startswith("was replaced"):
            self._told = what
            logs.files.error("%s %s: every call on it raises FileReplacedError", self._name, what)

    def _replaced(self, aside: Path | None) -> FileReplacedError:
        where = f"; what was saved last is in {aside}, which belongs to that file" if aside else ""
        return FileReplacedError(
            f"{self._name} was replaced by another file while it was open here. Nothing more is "
            "read from the old file or written to it: close this and open a new one, which uses "
            f"the file that is there now. What was saved before went with the old file{where}"
        )

    def _take_wal_aside(self) -> Path | None:
        """Move the old file's -wal away, which SQLite would apply to the new one; where it is.

        Only if it is the very one that was there when the old file was opened.
        """
        with self._mutex, suppress(OSError):
            wal, shm = f"{self._path}-wal", f"{self._path}-shm"
            if _identity(self._path) == self._opened:  # only a link points elsewhere
                return None
            aside = None
            if self._wal is not None and _identity(wal) == self._wal:
                aside = Path(f"{self._path}.replaced-{time.strftime('%Y%m%d_%H%M%S')}-wal")
                Path(wal).rename(aside)
            if self._shm is not None and _identity(shm) == self._shm:
                Path(shm).unlink()  # an index of the -wal, which SQLite makes anew
            return aside
        return None


def _identity(path: str) -> Identity | None:
    """What file is at a path; None without one."""
    try:
        found = os.stat(path)  # noqa: PTH116 - for each use: pathlib takes twice as long
    except (FileNotFoundError, NotADirectoryError):
        return None
    return found.st_dev, found.st_ino


def is_open_here(path: Path) -> bool:
    """Whether this process has the file open, which is found without opening it.

    Looks at all descriptors, where the system lists them (Linux, macOS, BSD); False elsewhere.
    """
    wanted = _identity(str(path))
    with suppress(OSError):
        return any(_of_descriptor(int(each.name)) == wanted for each in Path("/dev/fd").iterdir())
    return False


def _of_descriptor(number: int) -> Identity | None:
    try:
        found = os.fstat(number)
    except OSError:  # that of the listing itself
        return None
    return found.st_dev, found.st_ino
