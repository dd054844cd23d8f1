"""What a transfer did."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ..database.files import StrPath

# Called as `progress(done, total)`; may raise to stop: what is done stays done.
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Transferred:
    """What a transfer carried over, and what was there before.

    Attributes:
        threads: The source's threads, of those asked for.
        checkpoints: Checkpoints carried over by this call.
        writes: Pending writes carried over by this call.
        already_there: Checkpoints that an earlier call, or somebody else, had put there.
        deleted: Checkpoints deleted at the target, because the source deleted them meanwhile.
        verified: Checkpoints that were read from both sides and compared.
        bytes_before, bytes_after: The size of the source and of the target.
        tables_left: Tables in the official saver's file that are not copied: LangGraph's store
            (`store`, `store_vectors`, …) and the program's own tables.
    """

    threads: int = 0
    checkpoints: int = 0
    writes: int = 0
    already_there: int = 0
    deleted: int = 0
    verified: int = 0
    bytes_before: int = 0
    bytes_after: int = 0
    tables_left: tuple[str, ...] = ()


def size_on_disk(path: StrPath) -> int:
    """How large a file is with its -wal, which SQLite moves into it later; 0 without one."""
    real = Path(path).resolve()  # beside which SQLite has the other one
    files = (real, Path(f"{real}-wal"))
    return sum(each.stat().st_size for each in files if each.exists())
