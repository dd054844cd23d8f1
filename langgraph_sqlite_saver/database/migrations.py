"""Numbered .sql files, each applied once, in one transaction with the record of it.

A file is named `0011_add_a_column.sql`: number, underscore, lower-case words. Numbers count up
without a gap, from 1 or, where earlier migrations were given up, from a later one; a file is never
edited once it was released. Each component of the library has a table of its own for the versions
it applied, so that several share one file.

`executescript` commits whatever is open before it runs, and so leaves half a migration behind when
a later statement fails; here the statements run one by one inside the transaction.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from . import logs
from .errors import InvalidInputError, MigrationError, UnknownSchemaError, translate

_FILE_NAME = re.compile(r"(\d{4})_[a-z0-9]+(?:_[a-z0-9]+)*\.sql\Z")


@dataclass(frozen=True)
class Migration:
    """One numbered change of the tables."""

    version: int
    name: str
    sql: str

    def statements(self) -> Iterator[str]:
        """The SQL statements one by one; triggers, with their inner semicolons, stay whole."""
        statement = ""
        for piece in re.split(r"(?<=;)", self.sql):
            statement += piece
            if sqlite3.complete_statement(statement):
                yield statement.strip()
                statement = ""
        if _without_comments(statement).strip():
            raise MigrationError(f"{self.name}: the last statement has no semicolon")


def _without_comments(sql: str) -> str:
    return re.sub(r"--[^\n]*|/\*.*?\*/", "", sql, flags=re.DOTALL)


def _nothing_to_refuse(conn: sqlite3.Connection) -> None:
    pass


@dataclass(frozen=True)
class Schema:
    """The tables of one component: where its versions are recorded, and how to get to the newest.

    `refuse` is called with a read-only connection before anything in the file is touched; it
    raises when the file is one that the component must leave alone.
    """

    versions_table: str
    migrations: tuple[Migration, ...]
    refuse: Callable[[sqlite3.Connection], None] = _nothing_to_refuse

    @property
    def oldest(self) -> int:
        """The oldest version that this code brings further."""
        return self.migrations[0].version if self.migrations else 0

    @property
    def newest(self) -> int:
        """The version this code brings a file to."""
        return self.migrations[-1].version if self.migrations else 0


@cache
def load_migrations(package: str, folder: str) -> tuple[Migration, ...]:
    """The .sql files of a folder inside an installed package, in order.

    Raises InvalidInputError for a file name that is no migration's, or a gap in the numbers.
    """
    found = []
    for file in files(package).joinpath(folder).iterdir():
        match = _FILE_NAME.match(file.name)
        if not match:
            raise InvalidInputError(f"{file.name}: a migration is named 0001_what_it_does.sql")
        found.append(Migration(int(match[1]), file.name, file.read_text(encoding="utf-8")))
    found.sort(key=lambda migration: migration.version)
    first = found[0].version if found else 1
    if [m.version for m in found] != list(range(first, first + len(found))):
        raise InvalidInputError(f"{folder}: migrations must count up without a gap")
    return tuple(found)


def applied_version(conn: sqlite3.Connection, schema: Schema) -> int:
    """The version a file is at: 0 where the component has no tables yet."""
    known = conn.execute(
        "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?", (schema.versions_table,)
    ).fetchone()
    if not known:
        return 0
    (version,) = conn.execute(f"SELECT max(v) FROM {schema.versions_table}").fetchone()  # noqa: S608
    return int(version or 0)


def pending(conn: sqlite3.Connection, schema: Schema) -> tuple[Migration, ...]:
    """The migrations that a file still lacks; writes nothing.

    Raises UnknownSchemaError for a file that a newer version of the library wrote, or one so old
    that no migration starts from it.
    """
    version = applied_version(conn, schema)
    if 0 < version < schema.oldest:
        raise UnknownSchemaError(
            f"its {schema.versions_table} are at version {version}, from before the first release, "
            f"and releases read {schema.oldest} and later. Start a new file, or use the version "
            "that wrote it. The file was left as it is."
        )
    if version > schema.newest:
        raise UnknownSchemaError(
            f"its {schema.versions_table} are at version {version} and this release knows "
            f"{schema.newest}: upgrade langgraph-sqlite-saver. The file was left as it is."
        )
    return tuple(m for m in schema.migrations if m.version > version)


def apply_next(
    conn: sqlite3.Connection, schema: Schema, executed: set[str] | None = None
) -> Migration | None:
    """Inside an open write transaction: apply the next pending migration, if any, and record it.

    The version is read under the write lock, so processes that start together apply each once.
    `executed` has the statements of an earlier attempt, which somebody else may have committed
    half way: what they make may be there.
    """
    executed = set() if executed is None else executed
    todo = pending(conn, schema)
    if not todo:
        return None
    migration = todo[0]
    try:
        conn.execute(f"CREATE TABLE IF NOT EXISTS {schema.versions_table} (v INTEGER PRIMARY KEY)")
        for statement in migration.statements():
            _execute(conn, statement, statement in executed)
            executed.add(statement)
        conn.execute(f"INSERT INTO {schema.versions_table} (v) VALUES (?)", (migration.version,))  # noqa: S608
    except sqlite3.Error as error:
        ours = translate(error, "")
        if ours is not error and not isinstance(ours, UnknownSchemaError):
            raise  # a lock, a full disk: not the migration's fault
        raise MigrationError(
            f"{migration.name} failed: {error}. The file is at the version it had; if it is "
            "another program's, give the saver a file of its own."
        ) from error
    return migration


def tell_applied(where: str, schema: Schema, migration: Migration | None) -> None:
    """Log a migration that was applied and committed."""
    if migration is not None:
        table, version = schema.versions_table, migration.version
        before = 0 if version == schema.oldest else version - 1
        logs.migrations.info("%s: %s from version %d to %d", where, table, before, version)


def _execute(conn: sqlite3.Connection, statement: str, may_be_done: bool) -> None:
    try:
        conn.execute(statement)
    except sqlite3.OperationalError as error:
        there = "already exists" in str(error) or "duplicate column name" in str(error)
        if not (may_be_done and there):
            raise
