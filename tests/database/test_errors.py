"""SQLite's errors, told as what they mean and what to do."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import pytest

from langgraph_sqlite_saver.database import (
    CannotOpenError,
    Database,
    DatabaseFullError,
    InvalidInputError,
    InvalidTypeError,
    NotADatabaseError,
    StorageError,
)

from .helpers import as_nobody, create, insert, numbers, stored


@pytest.mark.parametrize("call", ["read", "write", "maintain", "open"])
@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda path: path.write_bytes(b"no database at all" * 100), NotADatabaseError),
        (lambda path: path.mkdir(), CannotOpenError),
        (lambda path: path.parent.rmdir(), CannotOpenError),
        (lambda path: path.symlink_to(path.parent / "nowhere" / "x"), CannotOpenError),
    ],
    ids=["another format", "a directory", "no directory", "a dangling link"],
)
def test_what_cannot_be_opened_is_named(path: Path, call: str, make: Any, error: Any) -> None:
    """At every kind of first call, with the cause; and closing what never opened is fine."""
    make(path)
    before = path.read_bytes() if path.is_file() else None
    args = () if call == "open" else (numbers,)
    with Database(path) as db:
        with pytest.raises(error, match=str(path)):
            getattr(db, call)(*args)
    assert (path.read_bytes() if path.is_file() else None) == before


def test_what_cannot_be_opened_is_named_when_awaited(open_database: Any, path: Path) -> None:
    """By each face; and the next call tries again."""
    path.mkdir()
    db = open_database(path)
    for call in (db.read, db.write, db.maintain):
        with pytest.raises(CannotOpenError, match="is a directory"):
            call(numbers)
    path.rmdir()
    db.write(create)
    assert db.read(numbers) == []


def test_a_damaged_file_is_reported(path: Path) -> None:
    """With a remedy, and SQLite's own error as the cause."""
    with Database(path) as db:
        db.write(create)
        for start in range(0, 30000, 500):
            db.write(insert, *range(start, start + 500))
    damaged = bytearray(path.read_bytes())
    damaged[8192:-4096] = b"\xff" * (len(damaged) - 12288)
    path.write_bytes(damaged)
    with Database(path) as db:
        with pytest.raises(NotADatabaseError, match=r"damaged.*recover") as caught:
            db.read(numbers)
    assert isinstance(caught.value.__cause__, sqlite3.DatabaseError)


def test_a_full_disk_harms_nothing_that_was_stored(db: Any, path: Path) -> None:
    """Reading goes on, and writing once there is room."""
    db.write(insert, 1)
    db.maintain(lambda conn: conn.execute("PRAGMA max_page_count = 20").fetchall())
    with pytest.raises(DatabaseFullError, match="Free some space"):
        db.write(lambda conn: conn.execute("CREATE TABLE b AS SELECT zeroblob(1000000)"))
    assert db.read(numbers) == [1]
    db.write(insert, 2)
    assert stored(path) == [1, 2]


@pytest.mark.parametrize("mode", [0o755, 0o700])
def test_a_directory_without_permission_is_named(public_path: Path, mode: int) -> None:
    """Where this user cannot make the file, or not even look."""
    public_path.parent.chmod(mode)
    code = """
        try:
            Database(sys.argv[1]).open()
        except CannotOpenError as error:
            print(error)
    """
    assert "Choose a directory that this user may write to" in as_nobody(code, public_path)
    assert not public_path.exists()


def test_a_target_of_a_senseless_type_is_refused() -> None:
    """At once, not at the first use."""
    with pytest.raises(InvalidTypeError, match=r"not builtins\.int"):
        Database(42)  # type: ignore[arg-type]


def test_one_base_class_catches_all() -> None:
    """And the built-in ones that fit do too."""
    import langgraph_sqlite_saver.database as layer

    errors = [getattr(layer, name) for name in layer.__all__ if name.endswith("Error")]
    assert len(errors) > 10
    assert all(issubclass(each, StorageError) for each in errors)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"readers": "4"}, InvalidTypeError),
        ({"readers": 2.5}, InvalidTypeError),
        ({"readers": True}, InvalidTypeError),
        ({"readers": 0}, InvalidInputError),
        ({"lock_timeout": None}, InvalidTypeError),
        ({"lock_timeout": "x"}, InvalidTypeError),
        ({"lock_timeout": -1}, InvalidInputError),
        ({"lock_timeout": float("nan")}, InvalidInputError),
    ],
)
def test_senseless_options_are_refused(path: Path, options: Any, error: Any) -> None:
    """At once; the message names the option."""
    with pytest.raises(error, match=next(iter(options))):
        Database(path, **options)


@pytest.mark.parametrize(
    ("target", "message"),
    [("a\0b.db", "NUL"), ("file:a%00b.db", "NUL"), ("file:a.db?mode=banana", "ro, rw, rwc or")],
)
def test_senseless_paths_are_refused(target: str, message: str) -> None:
    """At once."""
    with pytest.raises(InvalidInputError, match=message):
        Database(target)


def test_an_unknown_vfs_is_said_clearly(path: Path) -> None:
    """SQLite knows it when the file is opened."""
    with Database(f"file:{path}?vfs=nope") as db:
        with pytest.raises(CannotOpenError, match="no such vfs: nope"):
            db.open()


def test_a_value_above_sqlite_s_limit_is_said_clearly(db: Any) -> None:
    """With the remedy; nothing of it is stored."""
    with pytest.raises(InvalidInputError, match=r"too big.*split it"):
        db.write(lambda conn: conn.execute("INSERT INTO numbers VALUES (zeroblob(2000000000))"))
    assert db.read(numbers) == []
