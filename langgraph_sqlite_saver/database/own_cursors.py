"""A connection of somebody else's, seen through cursors of ours: whatever its owner has set."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any, TypeVar, cast

from .errors import ConnectionUnusableError

T = TypeVar("T")

# A temporary table of one row, in which a write leaves a number of its own: SQLite says of no
# statement in which transaction it ran, and another thread may have rolled that back.
MARKS = "langgraph_sqlite_saver_marks"
_MAKE_MARKS = f"CREATE TEMP TABLE IF NOT EXISTS {MARKS} (place INTEGER PRIMARY KEY, number INTEGER)"
_WRITE_MARK = f"REPLACE INTO temp.{MARKS} (place, number) VALUES (0, ?)"  # noqa: S608
_READ_MARK = f"SELECT 1 FROM temp.{MARKS} WHERE place = 0 AND number = ?"  # noqa: S608
_marks = count(1)  # of all connections: several savers may have one, each with cursors of its own


def next_mark() -> int:
    """A number that no write has left yet."""
    return next(_marks)


# What a connection has, of whatever module that follows the standard library's.
_ATTRIBUTES = ("cursor", "in_transaction", "total_changes", "text_factory", "Error")
_LEGACY = getattr(sqlite3, "LEGACY_TRANSACTION_CONTROL", -1)


def connection_in(target: object) -> sqlite3.Connection | None:
    """The connection that a saver was given, if it was given one.

    Also one of another module (pysqlite3, sqlcipher3), and what SQLAlchemy's raw_connection()
    returns, which has the connection inside.
    """
    if isinstance(target, sqlite3.Connection):
        return target
    if isinstance(target, (str, os.PathLike)):
        return None
    if hasattr(type(target), "driver_connection"):
        return connection_in(target.driver_connection)  # type: ignore[attr-defined]
    if all(hasattr(type(target), name) for name in _ATTRIBUTES):
        return cast(sqlite3.Connection, target)
    return None


def decoded(data: bytes) -> str:
    """A text_factory that reads text which is not UTF-8, too: with surrogates."""
    return data.decode("utf-8", "surrogateescape")


def check_borrowed(conn: sqlite3.Connection) -> None:
    """Raise ConnectionUnusableError for a connection whose settings would break ours."""
    if getattr(conn, "autocommit", _LEGACY) is False:
        raise ConnectionUnusableError(
            "a connection with autocommit=False always has a transaction open: nothing saved "
            "through it would be committed. Use autocommit=True, or the default isolation_level."
        )
    if conn.text_factory not in (str, decoded):  # ours, while another saver's operation runs
        raise ConnectionUnusableError(
            "the connection's text_factory must be str: pass a connection of its own, or a path"
        )


class OwnCursors:
    """A connection for our operations: plain cursors, without its owner's row_factory."""

    # Whether a statement that starts with WITH begins no transaction, as the standard library has
    # it; pysqlite3 begins one before every statement that writes.
    begins_none = True

    def __init__(self, raw: sqlite3.Connection) -> None:
        self.raw = raw
        self.made: set[str] = set()  # what operations note of the connection's temporary schema
        # The number that a write of one statement has left in MARKS, if it has executed any.
        self.mark: int | None = None

    def make_marks(self) -> bool:
        """Make MARKS; False where its owner's authorizer, or settings, forbid it."""
        if MARKS in self.made:
            return True
        try:
            self.execute(_MAKE_MARKS).close()
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError) and "locked" in str(error):
                raise
            return False
        self.made.add(MARKS)
        return True

    def leave_mark(self) -> int | None:
        """Write a number into MARKS, in an open transaction, and return it; None without MARKS."""
        for _ in range(2):
            if not self.make_marks():
                break
            mark = next_mark()
            try:
                self.execute(_WRITE_MARK, (mark,)).close()
                return mark
            except sqlite3.OperationalError as error:
                self._note_missing_marks(error)
        return None

    def is_marked(self, mark: int) -> bool:
        """Whether MARKS has that number: what was written with it was not rolled back."""
        try:
            return self.execute(_READ_MARK, (mark,)).fetchone() is not None
        except sqlite3.OperationalError as error:
            self._note_missing_marks(error)
            return False

    def _note_missing_marks(self, error: sqlite3.OperationalError) -> None:
        """MARKS was made in a transaction that was rolled back; raises any other error."""
        if "no such table" not in str(error):
            raise error
        self.made.discard(MARKS)

    @classmethod
    def of(cls, raw: sqlite3.Connection) -> OwnCursors:
        """For a connection of the standard library, or of another module."""
        return cls(raw) if isinstance(raw, sqlite3.Connection) else _ForeignCursors(raw)

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction is open, the owner's or ours."""
        return self.raw.in_transaction

    @property
    def total_changes(self) -> int:
        """The rows that were changed through the connection, by anybody."""
        return self.raw.total_changes

    @property
    def text_factory(self) -> Any:
        """As `sqlite3.Connection.text_factory`: its owner's, which is `str`."""
        return self.raw.text_factory

    @text_factory.setter
    def text_factory(self, factory: Any) -> None:
        self.raw.text_factory = factory

    def cursor(self) -> sqlite3.Cursor:
        """A cursor without the owner's row_factory."""
        return sqlite3.Cursor(self.raw)

    def execute(self, sql: str, parameters: Any = ()) -> sqlite3.Cursor:
        """As `sqlite3.Connection.execute`."""
        return self.cursor().execute(sql, parameters)

    def executemany(self, sql: str, parameters: Iterable[Any]) -> sqlite3.Cursor:
        """As `sqlite3.Connection.executemany`."""
        return self.cursor().executemany(sql, parameters)

    def backup(self, target: sqlite3.Connection, **options: Any) -> None:
        """As `sqlite3.Connection.backup`; refused while the owner has a transaction open, for
        SQLite doesn't copy what the same connection is writing, and would wait.
        """
        if self.raw.in_transaction:
            raise ConnectionUnusableError(
                "the connection's owner has a transaction open; commit it before a backup"
            )
        self.raw.backup(target, **options)

    def close(self) -> None:
        """Close the connection; for one of ours."""
        self.raw.close()


class _ForeignCursors(OwnCursors):
    """A connection of another module than `sqlite3`, whose errors become those of `sqlite3`."""

    begins_none = False

    def cursor(self) -> sqlite3.Cursor:
        with _as_sqlite3(self.raw):
            return cast(sqlite3.Cursor, _ForeignCursor(self.raw))

    def backup(self, target: sqlite3.Connection, **options: Any) -> None:
        raise ConnectionUnusableError(
            f"a connection of {type(self.raw).__module__} cannot be copied into one of sqlite3: "
            "make the backup with a saver that was given the file's path"
        )


class _ForeignCursor:
    """A cursor of another module."""

    def __init__(self, conn: Any) -> None:
        self._conn = conn
        self._cursor = conn.cursor()
        self._cursor.row_factory = None

    def _call(self, method: Callable[..., T], *args: Any) -> T:
        with _as_sqlite3(self._conn):
            return method(*args)

    def execute(self, sql: str, parameters: Any = ()) -> _ForeignCursor:
        self._call(self._cursor.execute, sql, parameters)
        return self

    def executemany(self, sql: str, parameters: Iterable[Any]) -> _ForeignCursor:
        self._call(self._cursor.executemany, sql, parameters)
        return self

    def executescript(self, script: str) -> _ForeignCursor:
        self._call(self._cursor.executescript, script)
        return self

    def fetchone(self) -> Any:
        return self._call(self._cursor.fetchone)

    def fetchall(self) -> list[Any]:
        return self._call(self._cursor.fetchall)

    def __iter__(self) -> Iterator[Any]:
        while (row := self.fetchone()) is not None:
            yield row

    @property
    def rowcount(self) -> int:
        return cast(int, self._cursor.rowcount)

    def close(self) -> None:
        self._call(self._cursor.close)


@contextmanager
def _as_sqlite3(conn: Any) -> Iterator[None]:
    try:
        yield
    except conn.Error as error:
        raise _twin(error) from error


def _twin(error: Exception) -> sqlite3.Error:
    """The error of `sqlite3` with the same name, text and codes."""
    names = (kind.__name__ for kind in type(error).__mro__)
    kind = next((getattr(sqlite3, name) for name in names if hasattr(sqlite3, name)), sqlite3.Error)
    twin = cast(sqlite3.Error, kind(*error.args))
    for attribute in ("sqlite_errorcode", "sqlite_errorname"):
        if hasattr(error, attribute):
            setattr(twin, attribute, getattr(error, attribute))
    return twin
