"""Putting a backup of checkpoints in the place of a file."""

from __future__ import annotations

from pathlib import Path

from ..database import CannotOpenError, archives
from ..database.archives import BackupFigures
from ..database.files import StrPath
from ..database.upkeep import Progress
from .schema import SCHEMA


def check_backup(backup: StrPath, *, directory: StrPath | None = None) -> BackupFigures:
    """What a backup of a checkpoint file holds; it is unpacked in `directory` to be checked.

    Raises as `restore_backup` does.
    """
    found = archives.check_backup(backup, [SCHEMA], directory=directory)
    if found.versions[SCHEMA.versions_table] == 0:
        raise CannotOpenError(f"{backup} holds no checkpoints: name a backup of a checkpoint file")
    return found


def restore_backup(
    backup: StrPath, path: StrPath, *, keep: bool = True, progress: Progress | None = None
) -> BackupFigures:
    """Put a backup in the place of a checkpoint file, which nobody may have open.

    The backup is checked first. Killed at any moment, this leaves the old file or the new one,
    whole.

    Args:
        backup: What `backup()` or `langgraph-sqlite backup` wrote; compressed if it ends in `.gz`.
        path: The file to replace, or one that does not exist yet. Its -wal is taken away.
        keep: Keep the file that was there, as `<path>.before-restore-YYYYMMDD_HHMMSS`.
        progress: Called with bytes of the backup that were read, and all of them.

    Returns:
        What the backup holds, and where the file that was there is kept.

    Raises:
        DatabaseLockedError: The file is open, in another process or in this one.
        NotADatabaseError: The backup is truncated, damaged, or not an SQLite database.
        UnknownSchemaError: A newer version of this library, or another program, wrote it.
        CannotOpenError: It holds no checkpoints, cannot be read, or there is no place for it.
        DatabaseFullError: The disk is full.
    """
    check_backup(backup, directory=Path(path).absolute().parent)
    return archives.restore_backup(backup, path, [SCHEMA], keep=keep, progress=progress)
