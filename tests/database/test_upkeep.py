"""Upkeep: the -wal is emptied, and what would wait for ever is refused."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import aiosqlite
import pytest

from langgraph_sqlite_saver.database import (
    AiosqliteDatabase,
    CannotOpenError,
    ConnectionUnusableError,
    InvalidInputError,
    upkeep,
)

from .helpers import DEADLOCK, beside, create, stored


@contextmanager
def reading(path: Path) -> Iterator[sqlite3.Connection]:
    """Another connection holds a snapshot."""
    with closing(sqlite3.connect(path, isolation_level=None)) as conn:
        conn.execute("BEGIN")
        conn.execute("SELECT * FROM numbers").fetchall()
        yield conn


def wal_bytes(path: Path) -> int:
    return path.with_name("test.db-wal").stat().st_size


def test_a_backup_is_refused_in_the_owner_s_transaction(open_database: Any, path: Path) -> None:
    """SQLite would wait for its end, and the owner for SQLite."""
    with closing(sqlite3.connect(path, check_same_thread=False)) as conn:
        db = open_database(conn)
        db.write(create)
        conn.execute("INSERT INTO numbers VALUES (1)")
        target = path.with_name("backup.db")
        with pytest.raises(ConnectionUnusableError, match="commit it before a backup"):
            db.read(upkeep.backup, target)
        assert "backup.db" not in str(beside(path))
        conn.commit()
        db.read(upkeep.backup, target)
    assert stored(target) == [1]


def test_a_backup_is_refused_in_a_transaction_of_aiosqlite_s(path: Path) -> None:
    """Whose only thread would be inside the backup."""

    async def main() -> None:
        async with aiosqlite.connect(path) as conn:
            db = AiosqliteDatabase(conn)
            await db.write(create)
            await conn.execute("INSERT INTO numbers VALUES (1)")
            with pytest.raises(ConnectionUnusableError, match="commit it before a backup"):
                await db.read(upkeep.backup, path.with_name("backup.db"))
            await conn.commit()
            await db.read(upkeep.backup, path.with_name("backup.db"))

    asyncio.run(asyncio.wait_for(main(), DEADLOCK))
    assert stored(path.with_name("backup.db")) == [1]


def test_a_backup_that_cannot_be_put_in_its_place_is_explained(
    db: Any, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one that cannot be begun; nothing of it stays."""

    def fsync(handle: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(CannotOpenError, match=r"backup\.db.*Input/output error"):
        db.read(upkeep.backup, path.with_name("backup.db"))
    assert "backup" not in str(beside(path))


def test_a_backup_needs_a_path_that_can_be_one(db: Any) -> None:
    """Not one with a NUL."""
    with pytest.raises(InvalidInputError, match="NUL"):
        db.read(upkeep.backup, "a\0b")
