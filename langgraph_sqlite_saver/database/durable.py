"""Having files and their names on the disk, where a power cut leaves them.

A name is not on the disk with its file: the directory that holds it is synced too.
"""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path


def sync(path: Path) -> None:
    """Have what was written to a file on the disk."""
    # Windows syncs through a descriptor that may write only.
    _sync(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)


def sync_names(directory: Path) -> None:
    """Have on the disk what was created, renamed or removed in a directory.

    As in SQLite, this does nothing for a directory that cannot be opened (none can on Windows) or
    that its file system does not sync.
    """
    try:
        _sync(directory, os.O_RDONLY)
    except PermissionError:
        pass
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EBADF):
            raise


def make_directory(directory: Path) -> None:
    """Create a directory (0700) and those above it where they are missing, names on the disk."""
    missing = [each for each in (directory, *directory.parents) if not each.exists()]
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    for each in missing:
        sync_names(each.parent)


def flush(handle: int) -> None:
    """Have an open file on the disk."""
    if sys.platform == "darwin":  # where fsync leaves it in the drive's own cache
        import fcntl

        try:
            fcntl.fcntl(handle, fcntl.F_FULLFSYNC)
            return
        except OSError:  # a file system without it, as on other machines
            pass
    os.fsync(handle)


def _sync(path: Path, flags: int) -> None:
    handle = os.open(path, flags)
    try:
        flush(handle)
    finally:
        os.close(handle)
