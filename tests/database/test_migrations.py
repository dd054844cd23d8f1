"""Numbered .sql files, each applied once and wholly, or not at all."""

from __future__ import annotations

import hashlib
import sqlite3
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from langgraph_sqlite_saver.database import (
    Database,
    InvalidInputError,
    Migration,
    MigrationError,
    Schema,
    UnknownSchemaError,
    load_migrations,
)

from .helpers import beside, insert, numbers, outside, schema, stored, versions

FIRST = "CREATE TABLE numbers (n INTEGER);"
SECOND = "ALTER TABLE numbers ADD COLUMN label TEXT;"


def tables(path: Path) -> set[str]:
    return {name for (name,) in outside(path, "SELECT name FROM sqlite_master")}


def test_tables_are_made_at_the_first_use(open_database: Any, path: Path) -> None:
    """A read does it as well as a write."""
    db = open_database(path, schemas=[schema(FIRST)])
    assert not path.exists()
    assert db.read(numbers) == []
    assert versions(path) == [1]


def test_each_migration_is_applied_once(path: Path) -> None:
    """Opening the file again, with the same or with a later release."""
    for known in ([FIRST], [FIRST], [FIRST, SECOND], [FIRST, SECOND]):
        with Database(path, schemas=[schema(*known)]) as db:
            db.write(lambda conn: conn.execute("INSERT INTO numbers (n) VALUES (7)"))
    assert versions(path) == [1, 2]
    assert stored(path) == [7, 7, 7, 7]


@pytest.mark.parametrize(
    "wrong",
    [
        "CREATE TABLE half (a); CREATE TABLE numbers (n);",
        "CREATE TABLE half (a); INSERT INTO nowhere VALUES (1);",
        "CREATE TABLE half (a UNIQUE); INSERT INTO half VALUES (1), (1);",
        "CREATE TABLE half (a); CRATE TABLE typo (a);",
        "CREATE TABLE half (a)",
    ],
)
def test_a_failing_migration_leaves_nothing_and_stays_pending(path: Path, wrong: str) -> None:
    """Its first tables vanish, the version is the one before it, and what was applied works."""
    with Database(path, schemas=[schema(FIRST, wrong)]) as db:
        with pytest.raises(MigrationError, match="0002_step"):
            db.open()
    assert versions(path) == [1]
    assert tables(path) == {"numbers", "own_migrations"}
    with Database(path, schemas=[schema(FIRST, SECOND)]) as db:
        db.open()
    assert versions(path) == [1, 2]


def test_a_file_of_a_newer_release_is_refused_untouched(path: Path) -> None:
    """Not a byte of it changes, and nothing is left beside it."""
    with Database(path, schemas=[schema(FIRST, SECOND)]) as db:
        db.open()
    before = hashlib.sha256(path.read_bytes()).digest()
    with Database(path, schemas=[schema(FIRST)]) as db:
        with pytest.raises(UnknownSchemaError, match=f"{path}.*version 2.*upgrade"):
            db.write(insert, 1)
        with pytest.raises(UnknownSchemaError):
            db.read(numbers)
    assert hashlib.sha256(path.read_bytes()).digest() == before
    assert beside(path) == set()


@pytest.mark.parametrize("connection", ["path", "borrowed"])
def test_a_file_older_than_the_first_migration_is_refused_untouched(
    path: Path, connection: str
) -> None:
    """No migration starts from it; the error says which versions are read."""
    with Database(path, schemas=[schema(FIRST, SECOND)]) as db:
        db.open()
    before = hashlib.sha256(path.read_bytes()).digest()
    later = Schema("own_migrations", (Migration(10, "0010_step.sql", "CREATE TABLE more (n);"),))
    with closing(sqlite3.connect(path, check_same_thread=False)) as conn:
        with Database(path if connection == "path" else conn, schemas=[later]) as db:
            for _ in range(2):
                with pytest.raises(UnknownSchemaError, match=r"version 2.*releases read 10"):
                    db.read(numbers)
    assert hashlib.sha256(path.read_bytes()).digest() == before
    assert beside(path) == set()


def test_a_file_that_a_component_refuses_is_left_untouched(path: Path) -> None:
    """It is asked before a PRAGMA is set."""
    outside(path, "CREATE TABLE writes (a)")
    before = path.read_bytes()

    def refuse(conn: sqlite3.Connection) -> None:
        if conn.execute("SELECT 1 FROM sqlite_master WHERE name = 'writes'").fetchone():
            raise UnknownSchemaError("someone else's")

    with Database(path, schemas=[schema(FIRST, refuse=refuse)]) as db:
        with pytest.raises(UnknownSchemaError, match=f"{path}: someone else's"):
            db.open()
    assert path.read_bytes() == before
    assert beside(path) == set()


def test_components_share_a_file_each_with_its_own_versions(path: Path) -> None:
    """In any order, together or one after the other."""
    own = schema(FIRST, SECOND)
    other = schema("CREATE TABLE letters (l TEXT);", table="other_migrations")
    with Database(path, schemas=[other]) as db:
        db.open()
    with Database(path, schemas=[own, other]) as db:
        db.open()
    assert (versions(path), versions(path, "other_migrations")) == ([1, 2], [1])


def statements(sql: str) -> list[str]:
    return list(Migration(1, "0001_step.sql", sql).statements())


TRIGGER = """CREATE TRIGGER t AFTER INSERT ON a BEGIN
    UPDATE a SET b = CASE WHEN new.b THEN 1 END;
    DELETE FROM c;
END;"""


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("A; B;", ["A;", "B;"]),
        ("INSERT INTO a VALUES ('x; y');", ["INSERT INTO a VALUES ('x; y');"]),
        ('CREATE TABLE "a;b" (c);', ['CREATE TABLE "a;b" (c);']),
        ("-- one; two\nA; -- three; four\n", ["-- one; two\nA;"]),
        ("/* one; two */ A;\n/* the; end */\n", ["/* one; two */ A;"]),
        (f"A; {TRIGGER} B;", ["A;", TRIGGER, "B;"]),
        ("", []),
        ("-- nothing here", []),
    ],
)
def test_statements_are_told_apart(sql: str, expected: list[str]) -> None:
    """By SQLite's own rules: strings, names, comments and triggers hold semicolons too."""
    assert statements(sql) == expected


def test_a_missing_last_semicolon_is_an_error() -> None:
    """The statement would be left out in silence."""
    with pytest.raises(MigrationError, match="no semicolon"):
        statements("A; B")


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of migrations inside an importable package."""
    name = f"package_{tmp_path.name}"
    folder = tmp_path / name / "steps"
    folder.mkdir(parents=True)
    (tmp_path / name / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    yield folder
    sys.modules.pop(name, None)


def test_files_are_loaded_in_order(package: Path) -> None:
    """By number, whatever order the directory has."""
    for name in ("0011_b.sql", "0010_a_long_name.sql"):
        (package / name).write_text(f"-- {name}")
    loaded = load_migrations(package.parent.name, "steps")
    assert [(m.version, m.name, m.sql) for m in loaded] == [
        (10, "0010_a_long_name.sql", "-- 0010_a_long_name.sql"),
        (11, "0011_b.sql", "-- 0011_b.sql"),
    ]


@pytest.mark.parametrize(
    "names",
    [
        ["1_a.sql"],
        ["0001-a.sql"],
        ["0001_A.sql"],
        ["0001_.sql"],
        ["0001_a.sql", "0002_b.txt"],
        ["0001_a.sql", "0003_b.sql"],
        ["0001_a.sql", "0001_b.sql"],
    ],
)
def test_bad_names_and_gaps_are_refused(package: Path, names: list[str]) -> None:
    """A migration that would be skipped, or applied in an unknown order."""
    for name in names:
        (package / name).touch()
    with pytest.raises(InvalidInputError):
        load_migrations(package.parent.name, "steps")


RELEASED = sorted((Path(__file__).parents[2] / "migrations").glob("*/*.sql"))


@pytest.mark.parametrize("file", RELEASED, ids=lambda file: f"{file.parent.name}-{file.stem}")
def test_every_released_migration_is_named_numbered_and_complete(file: Path) -> None:
    """`load_migrations` takes its folder, and its text has whole statements."""
    loaded = load_migrations("langgraph_sqlite_saver.migrations", file.parent.name)
    (own,) = (m for m in loaded if m.name == file.name)
    assert list(own.statements())
