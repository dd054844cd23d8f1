"""PRAGMAs: what each connection is opened with, and how that is changed."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import pytest

from langgraph_sqlite_saver.database import (
    CONNECTION_PRAGMAS,
    Database,
    InvalidInputError,
    InvalidTypeError,
)

from .helpers import create, outside, pragma

NUMBERS = {"NORMAL": 1, "FULL": 2, "FILE": 1, True: 1}


@pytest.mark.parametrize("name", CONNECTION_PRAGMAS)
def test_the_defaults_are_set_on_writer_and_readers(db: Any, name: str) -> None:
    """Read back from SQLite."""
    # Copying the -wal is ours.
    wanted = 0 if name == "wal_autocheckpoint" else CONNECTION_PRAGMAS[name]
    wanted = NUMBERS.get(wanted, wanted)
    assert db.maintain(pragma, name) == wanted
    assert db.read(pragma, name) == wanted


def test_a_new_file_is_in_wal_mode_with_incremental_auto_vacuum(db: Any, path: Path) -> None:
    """Properties of the file: another program finds them."""
    assert outside(path, "PRAGMA journal_mode") == [("wal",)]
    assert outside(path, "PRAGMA auto_vacuum") == [(2,)]


def test_an_existing_file_keeps_its_auto_vacuum(path: Path) -> None:
    """It is put into WAL mode, and nothing of it is rewritten."""
    outside(path, "CREATE TABLE theirs (a)")
    with Database(path) as db:
        db.open()
    assert outside(path, "PRAGMA auto_vacuum") == [(0,)]
    with Database(path) as db:
        db.maintain(lambda conn: conn.execute("VACUUM"))
    assert outside(path, "PRAGMA auto_vacuum") == [(0,)]


def test_a_view_of_the_file_cannot_call_what_does_more_than_compute(path: Path) -> None:
    """A file may come from anybody; a function that the program made is none of its business."""

    def look(conn: Any) -> Any:
        conn.create_function("spy", 0, lambda: "seen")
        assert conn.execute("SELECT spy()").fetchall() == [("seen",)]
        return conn.execute("SELECT * FROM trap").fetchall()

    outside(path, "CREATE VIEW trap AS SELECT spy()")
    with Database(path) as db, pytest.raises(sqlite3.OperationalError, match="unsafe use of spy"):
        db.read(look)


def test_overrides_reach_writer_and_readers(open_database: Any, path: Path) -> None:
    """In any case of letters, as text, number or truth value."""
    options = {"SYNCHRONOUS": "FULL", "cache_size": 77, "foreign_keys": False, "mmap_size": 4096}
    db = open_database(path, pragmas=options)
    for way in (db.maintain, db.read):
        assert [way(pragma, name) for name in options] == [2, 77, 0, 4096]


def test_file_pragmas_can_be_overridden(path: Path) -> None:
    """Another journal mode, page size and auto_vacuum."""
    wanted = {"journal_mode": "DELETE", "auto_vacuum": "NONE", "page_size": 8192}
    with Database(path, pragmas=wanted) as db:
        db.write(create)
    found = [outside(path, f"PRAGMA {name}")[0][0] for name in wanted]
    assert found == ["delete", 0, 8192]


@pytest.mark.parametrize("name", ["sinchronous", "", "cache size", "x; DROP TABLE t", "main.x"])
def test_an_unknown_pragma_is_refused(path: Path, name: str) -> None:
    """SQLite itself would ignore it in silence."""
    with pytest.raises(InvalidInputError, match="unknown PRAGMA"):
        Database(path, pragmas={name: 1})


@pytest.mark.parametrize("value", ["1; DROP TABLE numbers", "", "'x'", "1)", None, 1.5, b"1"])
def test_a_value_that_is_none_is_refused(path: Path, value: Any) -> None:
    """It goes into SQL text."""
    with pytest.raises(InvalidInputError, match="cannot have the value"):
        Database(path, pragmas={"cache_size": value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("synchronous", "FULLL"),
        ("synchronous", 4),
        ("journal_mode", "banana"),
        ("auto_vacuum", "SOME"),
        ("temp_store", "DISK"),
        ("locking_mode", 1),
    ],
)
def test_a_misspelt_value_is_refused(path: Path, name: str, value: Any) -> None:
    """SQLite itself would take another in silence; the message lists what there is."""
    with pytest.raises(InvalidInputError, match=f"{value!r}: it is .*(NORMAL|WAL|NONE|MEMORY)"):
        Database(path, pragmas={name: value})


@pytest.mark.parametrize("value", ["full", "FULL", 2, "2"])
def test_a_value_may_be_a_number_or_in_any_case(path: Path, value: Any) -> None:
    """As in SQLite."""
    with Database(path, pragmas={"synchronous": value}) as db:
        assert db.maintain(pragma, "synchronous") == 2


@pytest.mark.parametrize(
    ("level", "wanted"), [("NORMAL", 0), ("off", 0), (1, 0), ("full", 1), ("EXTRA", 1), (2, 1)]
)
def test_commits_that_wait_for_the_disk_wait_for_the_drive(
    path: Path, level: Any, wanted: int
) -> None:
    """Where fsync does not (macOS), `fullfsync` does; a caller's own word counts."""
    with Database(path, pragmas={"synchronous": level}) as db:
        assert db.maintain(pragma, "fullfsync") == wanted
        assert db.read(pragma, "fullfsync") == wanted
    with Database(path, pragmas={"synchronous": level, "fullfsync": not wanted}) as db:
        assert db.maintain(pragma, "fullfsync") == (not wanted)


@pytest.mark.parametrize("pragmas", [["synchronous"], "synchronous", []])
def test_pragmas_are_a_mapping(path: Path, pragmas: Any) -> None:
    """Whatever else is refused by its type."""
    with pytest.raises(InvalidTypeError, match="mapping"):
        Database(path, pragmas=pragmas)
