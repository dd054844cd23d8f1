"""Who is measured, and how each is opened: as its own documentation says.

`synchronous` is SQLite's setting for when a commit waits for the disk; only equal settings are
compared with one another. Libraries are imported when they are first opened, so that one that is
not installed can be left out with `--without`.
"""

from __future__ import annotations

import sqlite3
import threading
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Iterator
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    asynccontextmanager,
    closing,
    contextmanager,
)
from pathlib import Path
from typing import Any, Protocol

from benchmarks.workload import Pair

Saver = Any
"""Any `BaseCheckpointSaver` that also has the `setup()` of the SQLite savers."""

OURS_NORMAL = "ours NORMAL"
OURS_FULL = "ours FULL"
OURS_FULL_HISTORY = "ours full history"
OFFICIAL_NORMAL = "official NORMAL"
OFFICIAL_FULL = "official FULL"
IN_MEMORY = "InMemorySaver"
BARE_NORMAL = "bare NORMAL"
BARE_FULL = "bare FULL"


class Writer(Protocol):
    """Saves prepared pairs; what it does between the calls is not timed."""

    def put(self, pair: Pair) -> None:
        """Save the checkpoint of a pair."""

    def put_writes(self, pair: Pair) -> None:
        """Save the pending writes of a pair."""


class SaverWriter:
    """Saves pairs through a checkpoint saver, encoding included."""

    def __init__(self, saver: Saver) -> None:
        self._saver = saver

    def put(self, pair: Pair) -> None:
        self._saver.put(pair.config, pair.checkpoint, pair.metadata, pair.new_versions)

    def put_writes(self, pair: Pair) -> None:
        self._saver.put_writes(pair.saved_config, pair.writes, pair.task_id, pair.task_path)


class Contestant(ABC):
    """A saver with its settings."""

    name: str
    on_disk = True

    @abstractmethod
    def open(self, path: Path) -> AbstractContextManager[Saver]:
        """The sync saver on a file."""

    @abstractmethod
    def open_async(self, path: Path) -> AbstractAsyncContextManager[Saver]:
        """The async saver on a file."""

    @contextmanager
    def writer(self, path: Path) -> Iterator[Writer]:
        """A writer of pairs on a file, safe to share between threads."""
        with self.open(path) as saver:
            yield SaverWriter(saver)

    def create(self, path: Path) -> None:
        """Open a file, make the tables if they are missing, close it."""
        with self.open(path) as saver:
            saver.setup()

    async def create_async(self, path: Path) -> None:
        """The same with the async saver."""
        async with self.open_async(path) as saver:
            await saver.setup()


class Ours(Contestant):
    """This library; `NORMAL` is its default."""

    def __init__(self, name: str, **options: Any) -> None:
        self.name = name
        self._options = options

    @contextmanager
    def open(self, path: Path) -> Iterator[Saver]:
        from langgraph_sqlite_saver import SqliteSaver

        with SqliteSaver(path, **self._options) as saver:
            yield saver

    @asynccontextmanager
    async def open_async(self, path: Path) -> AsyncIterator[Saver]:
        from langgraph_sqlite_saver import AsyncSqliteSaver

        async with AsyncSqliteSaver(path, **self._options) as saver:
            yield saver


class Official(Contestant):
    """`langgraph-checkpoint-sqlite`, which leaves `synchronous` at SQLite's default, `FULL`."""

    def __init__(self, name: str, pragma: str | None) -> None:
        self.name = name
        self._pragma = pragma

    @contextmanager
    def open(self, path: Path) -> Iterator[Saver]:
        from langgraph.checkpoint.sqlite import SqliteSaver

        with closing(sqlite3.connect(path, check_same_thread=False)) as conn:
            if self._pragma:
                conn.execute(self._pragma)
            yield SqliteSaver(conn)

    @asynccontextmanager
    async def open_async(self, path: Path) -> AsyncIterator[Saver]:
        import aiosqlite
        from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver

        async with aiosqlite.connect(path) as conn:
            if self._pragma:
                await (await conn.execute(self._pragma)).close()
            yield AsyncSqliteSaver(conn)


class InMemory(Contestant):
    """`InMemorySaver`: what the encoding costs when nothing is stored."""

    name = IN_MEMORY
    on_disk = False

    @contextmanager
    def open(self, path: Path) -> Iterator[Saver]:
        from langgraph.checkpoint.memory import InMemorySaver

        with InMemorySaver() as saver:
            yield saver

    @asynccontextmanager
    async def open_async(self, path: Path) -> AsyncIterator[Saver]:
        from langgraph.checkpoint.memory import InMemorySaver

        async with InMemorySaver() as saver:
            yield saver


class Bare(Contestant):
    """sqlite3 alone, storing bytes made beforehand: what SQLite costs without a saver."""

    def __init__(self, name: str, synchronous: str) -> None:
        self.name = name
        self._synchronous = synchronous

    def open(self, path: Path) -> AbstractContextManager[Saver]:
        raise NotImplementedError("bare sqlite3 is no saver")

    def open_async(self, path: Path) -> AbstractAsyncContextManager[Saver]:
        raise NotImplementedError("bare sqlite3 is no saver")

    @contextmanager
    def writer(self, path: Path) -> Iterator[Writer]:
        conn = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        with closing(conn):
            conn.execute(f"PRAGMA synchronous={self._synchronous}")
            yield BareWriter(conn)

    def create(self, path: Path) -> None:
        with self.writer(path):
            pass


class BareWriter:
    """One transaction for each call, on the official saver's tables."""

    _TABLES = """
        PRAGMA journal_mode=WAL;
        CREATE TABLE IF NOT EXISTS checkpoints (
            thread_id TEXT NOT NULL, checkpoint_ns TEXT NOT NULL, checkpoint_id TEXT NOT NULL,
            parent_checkpoint_id TEXT, type TEXT, checkpoint BLOB, metadata BLOB,
            PRIMARY KEY (thread_id, checkpoint_ns, checkpoint_id)
        );
        CREATE TABLE IF NOT EXISTS writes (
            thread_id TEXT NOT NULL, checkpoint_ns TEXT NOT NULL, checkpoint_id TEXT NOT NULL,
            task_id TEXT NOT NULL, task_path TEXT NOT NULL, idx INTEGER NOT NULL,
            channel TEXT NOT NULL, type TEXT, value BLOB,
            PRIMARY KEY (thread_id, checkpoint_ns, checkpoint_id, task_id, idx)
        );
    """

    def __init__(self, conn: sqlite3.Connection) -> None:
        self._conn = conn
        self._lock = threading.Lock()
        conn.executescript(self._TABLES)

    def put(self, pair: Pair) -> None:
        sql = "INSERT OR REPLACE INTO checkpoints VALUES (?, ?, ?, ?, ?, ?, ?)"
        self._insert(sql, [pair.checkpoint_row])

    def put_writes(self, pair: Pair) -> None:
        sql = "INSERT OR REPLACE INTO writes VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
        self._insert(sql, pair.write_rows)

    def _insert(self, sql: str, rows: list[Any]) -> None:
        with self._lock, self._conn:
            self._conn.execute("BEGIN IMMEDIATE")
            self._conn.executemany(sql, rows)


CONTESTANTS: dict[str, Contestant] = {
    contestant.name: contestant
    for contestant in (
        Ours(OURS_NORMAL),
        Ours(OURS_FULL, pragmas={"synchronous": "FULL"}),
        Ours(OURS_FULL_HISTORY, history="full"),
        Official(OFFICIAL_NORMAL, "PRAGMA synchronous=NORMAL"),
        Official(OFFICIAL_FULL, None),
        InMemory(),
        Bare(BARE_NORMAL, "NORMAL"),
        Bare(BARE_FULL, "FULL"),
    )
}
SAVERS_ON_DISK = (OURS_NORMAL, OURS_FULL, OFFICIAL_NORMAL, OFFICIAL_FULL)
SAVERS = (*SAVERS_ON_DISK, IN_MEMORY)
BARE = (BARE_NORMAL, BARE_FULL)
READERS = (OURS_NORMAL, OFFICIAL_NORMAL, IN_MEMORY)
"""For reading alone, on which `synchronous` has no bearing."""
