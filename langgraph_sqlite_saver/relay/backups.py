"""A relay's backups: archives of its database, at a version that this release knows."""

from __future__ import annotations

from ..database import archives
from ..database.archives import BackupFigures, made_of, outdated, write_backup
from ..database.files import StrPath
from .schema import SCHEMA

__all__ = [
    "BackupFigures",
    "check_backup",
    "made_of",
    "outdated",
    "restore_backup",
    "write_backup",
]


def check_backup(archive: StrPath, *, directory: StrPath | None = None) -> BackupFigures:
    """As `archives.check_backup`, for a relay's database."""
    return archives.check_backup(archive, [SCHEMA], directory=directory)


def restore_backup(archive: StrPath, path: StrPath) -> BackupFigures:
    """As `archives.restore_backup`, for a relay's database."""
    return archives.restore_backup(archive, path, [SCHEMA])
