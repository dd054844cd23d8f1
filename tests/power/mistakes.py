"""Workloads that the tests of the model run: two forget a sync, one does not.

As `workload.py`, which takes a second to import.
"""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path


def mark(text: str) -> None:
    """A line of the record."""
    ctypes.CDLL(None).power_mark(text.encode())


def rename_unsynced(folder: Path) -> None:
    """A file is replaced by one whose contents nobody synced."""
    (folder / "new").write_bytes(b"new" * 5000)
    (folder / "new").replace(folder / "file")
    _sync(folder)
    mark("done")


def create_unsynced(folder: Path) -> None:
    """A file's contents are synced, its name is not."""
    with (folder / "file").open("wb") as file:
        file.write(b"new" * 5000)
        file.flush()
        os.fsync(file.fileno())
    mark("done")


def replace_properly(folder: Path) -> None:
    """Contents first, then the name."""
    with (folder / "new").open("wb") as file:
        file.write(b"new" * 5000)
        file.flush()
        os.fsync(file.fileno())
    (folder / "new").replace(folder / "file")
    _sync(folder)
    mark("done")


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    os.fsync(handle)
    os.close(handle)


if __name__ == "__main__":
    globals()[sys.argv[1]](Path(sys.argv[2]))
