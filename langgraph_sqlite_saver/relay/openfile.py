"""The file that is written into for weeks: whether it is still the one at its path."""

from __future__ import annotations

from pathlib import Path

from ..database import StorageError

# What a file is, wherever it is moved: its device and number.
_Identity = tuple[int, int]


class FileReplacedError(StorageError):
    """The SQLite file was deleted, or another one was put in its place, while it was in use."""


class OpenFile:
    """A database file that has just been opened, and stays open; None: it is in memory."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._wal = Path(f"{path}-wal")
        self._identity = _identity(path) if path is not None else None
        self._identity_of_wal: _Identity | None = None

    def check(self) -> None:
        """Raise FileReplacedError if what is written goes into a file that nobody finds."""
        if self._path is None or self._identity is None:
            return
        try:
            there = _identity(self._path)
            wal = _identity(self._wal)
        except OSError:  # nobody can say
            return
        if there == self._identity:
            self._identity_of_wal = wal
            return
        self._take_wal_away(wal)
        if there is None:
            raise FileReplacedError(
                f"{self._path} was deleted while it was followed into. Started again, follow makes "
                "a new one of what Redis has; the trash, the audit log and older usage are in the "
                "backups: before that, put one in place (relay restore-backup)"
            )
        raise FileReplacedError(
            f"{self._path} was replaced while it was followed into. Started again, follow goes on "
            "with the file that is there now"
        )

    def _take_wal_away(self, wal: _Identity | None) -> None:
        """What is in the -wal of the file that was there would be written into the one that is."""
        if wal is not None and wal == self._identity_of_wal:
            self._wal.unlink(missing_ok=True)
            Path(f"{self._path}-shm").unlink(missing_ok=True)


def _identity(path: Path) -> _Identity | None:
    """What a file is; None without one."""
    try:
        found = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return found.st_dev, found.st_ino
