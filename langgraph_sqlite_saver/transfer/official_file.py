"""A file of langgraph-checkpoint-sqlite, as it was at one moment.

Its tables (that library's `SqliteSaver.setup`): `checkpoints`, whose rows hold whole checkpoints,
and `writes`. Files of 2.x lack `writes.task_path` until a newer version has written to them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NamedTuple

from ..checkpoints.config import Address
from ..checkpoints.history import Place
from ..database import CannotOpenError, UnknownSchemaError
from ..database.errors import translated
from ..database.files import DatabaseFile, Location, StrPath, take_empty_wal_away
from ..database.names import check_path
from .errors import TransferError

_COLUMNS = {
    "checkpoints": {
        "thread_id", "checkpoint_ns", "checkpoint_id", "parent_checkpoint_id", "type",
        "checkpoint", "metadata",
    },
    "writes": {
        "thread_id", "checkpoint_ns", "checkpoint_id", "task_id", "idx", "channel", "type", "value",
    },
}  # fmt: skip

_TABLES = "SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name"
_KINDS = """
    SELECT DISTINCT 'checkpoints', type FROM checkpoints
    UNION ALL SELECT DISTINCT 'writes', type FROM writes
"""
_ENCIPHERED = "SELECT type, checkpoint FROM checkpoints WHERE type LIKE '%+%' LIMIT 1"
_PLACES = """
    SELECT thread_id, checkpoint_ns FROM checkpoints
    UNION SELECT thread_id, checkpoint_ns FROM writes ORDER BY 1, 2
"""
_IDS = """
    SELECT checkpoint_id FROM checkpoints WHERE thread_id = ? AND checkpoint_ns = ? ORDER BY 1
"""
_CHECKPOINT = """
    SELECT parent_checkpoint_id, type, checkpoint, metadata FROM checkpoints
    WHERE thread_id = ? AND checkpoint_ns = ? AND checkpoint_id = ?
"""
_IDS_OF_WRITES = """
    SELECT DISTINCT checkpoint_id FROM writes WHERE thread_id = ? AND checkpoint_ns = ? ORDER BY 1
"""
_WRITE_KEYS = """
    SELECT checkpoint_id, task_id, idx FROM writes
    WHERE thread_id = ? AND checkpoint_ns = ? AND checkpoint_id BETWEEN ? AND ?
"""


# checkpoint id, task id, index
WriteKey = tuple[str, str, int]


class OldCheckpoint(NamedTuple):
    """A row of `checkpoints`."""

    parent_id: str | None
    kind: str
    data: bytes
    metadata: bytes | str | None


class OldWrite(NamedTuple):
    """A row of `writes`."""

    task_id: str
    task_path: str
    idx: int
    channel: str
    kind: str
    data: bytes


class OfficialFile:
    """Reads one state of the file, whoever writes to it meanwhile; nothing in it is changed."""

    def __init__(self, path: StrPath) -> None:
        self.name = str(path)
        self._path = Path(path).resolve()
        if not self._path.exists():
            check_path(self.name)
            raise CannotOpenError(f"there is no file {path}")
        if self._path.stat().st_size == 0:
            raise CannotOpenError(f"{path} is empty")
        self._wal = Path(f"{self._path}-wal")
        had_wal = self._wal.exists()
        # Who cannot write to the file could not take away again what reading puts beside it.
        self._seen = None if had_wal or os.access(path, os.W_OK) else self._looks()
        how = "mode=ro" if self._seen is None else "immutable=1"
        location = Location.of(f"{self._path.as_uri()}?{how}")
        self._file = DatabaseFile(location, (), {}, lock_timeout=30)
        self._file.open_writer()  # there is none: it looks whether there is a database
        self._made_wal = not had_wal
        self._conn = self._file.open_reader()
        # Damaged rows are read as well, and named by who reads them.
        self._conn.text_factory = lambda text: text.decode(errors="surrogateescape")
        try:
            self._begin()
        except BaseException:
            self.close()
            raise

    def _looks(self) -> tuple[int, int] | None:
        if not self._path.exists() or self._journal_exists():
            return None
        stat = self._path.stat()
        return stat.st_size, stat.st_mtime_ns

    def _journal_exists(self) -> bool:
        return self._wal.exists() or Path(f"{self._path}-journal").exists()

    def check_unchanged(self) -> None:
        """Raise TransferError if somebody wrote to a file that was read as if nobody could."""
        if self._file.is_stale() or (self._seen is not None and self._seen != self._looks()):
            raise TransferError(
                f"{self.name} was written to while it was read, by somebody with more rights than "
                "this user: what came over may be incomplete. Import it again."
            )

    def _begin(self) -> None:
        with self._translated():
            self._conn.execute("BEGIN")
            if self._is_ours():
                raise UnknownSchemaError(
                    f"{self.name} is a file of langgraph-sqlite-saver already: use it as it is"
                )
            for table, wanted in _COLUMNS.items():
                columns = self._conn.execute("SELECT name FROM pragma_table_info(?)", (table,))
                found = {name for (name,) in columns}
                if not found >= wanted:
                    raise UnknownSchemaError(self._what_is_wrong(table, wanted - found))
            path = "task_path" if "task_path" in found else "''"
        self._writes = f"""
            SELECT task_id, {path}, idx, channel, type, value FROM writes
            WHERE thread_id = ? AND checkpoint_ns = ? AND checkpoint_id = ?
            ORDER BY {path}, task_id, idx
        """  # noqa: S608 - one of two names

    def _is_ours(self) -> bool:
        """Whether it has our tables; the official saver, tried on it, has added its `writes`."""
        names = {name for (name,) in self._conn.execute("SELECT name FROM sqlite_master")}
        return names >= {"checkpoint_migrations", "checkpoint_blobs"}

    def _what_is_wrong(self, table: str, missing: set[str]) -> str:
        return (
            f"{self.name} was not written by langgraph-checkpoint-sqlite 2 or 3: its table "
            f"{table!r} lacks {', '.join(sorted(missing))}"
        )

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            with translated(self.name):
                yield
        except UnicodeEncodeError as error:
            raise TransferError(f"{self.name} is damaged: {error.object!r} is no name") from error

    @property
    def size(self) -> int:
        """How large the file is, with what its -wal holds."""
        return sum(each.stat().st_size for each in (self._path, self._wal) if each.exists())

    def kinds(self) -> set[tuple[str, str]]:
        """Each table, and the serialisations that its rows name."""
        with self._translated():
            return {(table, str(kind)) for table, kind in self._conn.execute(_KINDS) if kind}

    def other_tables(self) -> tuple[str, ...]:
        """Tables that are not the saver's, sorted by name."""
        with self._translated():
            found = [name for (name,) in self._conn.execute(_TABLES)]
        return tuple(n for n in found if n not in _COLUMNS and not n.startswith("sqlite_"))

    def enciphered(self) -> tuple[str, bytes] | None:
        """The type and bytes of a checkpoint that is enciphered, if any is."""
        with self._translated():
            found: tuple[str, bytes] | None = self._conn.execute(_ENCIPHERED).fetchone()
        return found

    def places(self) -> Iterator[Place]:
        """Every thread and namespace."""
        with self._translated(), closing(self._conn.execute(_PLACES)) as found:
            yield from found

    def checkpoint_ids(self, place: Place) -> list[str]:
        """The checkpoints of a place, oldest first."""
        with self._translated():
            return [checkpoint_id for (checkpoint_id,) in self._conn.execute(_IDS, place)]

    def ids_of_writes(self, place: Place) -> list[str]:
        """The checkpoints of a place that have pending writes, whether they are there or not."""
        with self._translated():
            return [checkpoint_id for (checkpoint_id,) in self._conn.execute(_IDS_OF_WRITES, place)]

    def write_keys(self, place: Place, first: str, last: str) -> set[WriteKey]:
        """The keys of the pending writes of the checkpoints from `first` to `last`."""
        with self._translated():
            return set(self._conn.execute(_WRITE_KEYS, (*place, first, last)))

    def checkpoint(self, address: Address) -> OldCheckpoint:
        """A checkpoint's row."""
        with self._translated():
            return OldCheckpoint._make(self._conn.execute(_CHECKPOINT, address).fetchone())

    def writes(self, address: Address) -> list[OldWrite]:
        """The pending writes of a checkpoint, in the order in which the official saver has them."""
        with self._translated():
            return [OldWrite._make(row) for row in self._conn.execute(self._writes, address)]

    def close(self) -> None:
        """Let go of the file."""
        self._conn.close()
        if self._made_wal:
            take_empty_wal_away(Location.of(self._path))
