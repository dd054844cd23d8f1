"""Connections that somebody lends us: they keep their settings, we bring our own cursors."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any, NoReturn, cast

from . import migrations
from .busy import retry_while_busy
from .errors import ConnectionUnusableError, translated
from .files import check_sqlite_version, migrate
from .migrations import Schema

PRAGMAS_ARE_THE_OWNERS = "pragmas are for files that we open: set them on your connection yourself"

_LEGACY = getattr(sqlite3, "LEGACY_TRANSACTION_CONTROL", -1)


class OwnCursors:
    """A lent connection seen through plain cursors, whatever row_factory its owner has set."""

    def __init__(self, conn: sqlite3.Connection) -> None:
        self._conn = conn

    @classmethod
    def ready(
        cls, conn: sqlite3.Connection, schemas: Sequence[Schema], where: str, lock_timeout: float
    ) -> sqlite3.Connection:
        """The connection for our operations, its file checked and its tables made.

        WAL is all that is set, and only where the file is not in use by its owner's transaction.
        `where` and `lock_timeout` (seconds) are for a file that is locked.
        """
        check_sqlite_version()
        with translated(where):
            return retry_while_busy(
                lambda: cls._ready(conn, schemas), limit=lock_timeout, where=where
            )

    @classmethod
    def _ready(cls, conn: sqlite3.Connection, schemas: Sequence[Schema]) -> sqlite3.Connection:
        own = cast(sqlite3.Connection, cls(conn))
        for schema in schemas:
            schema.refuse(own)
            migrations.pending(own, schema)
        if not conn.in_transaction:
            own.execute("PRAGMA journal_mode = WAL").close()
        for schema in schemas:
            if conn.in_transaction:
                _migrate_inside(own, schema)
            else:
                migrate(own, schema)
        return own

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction is open, the owner's or ours."""
        return self._conn.in_transaction

    def cursor(self) -> sqlite3.Cursor:
        """A cursor without the owner's row_factory."""
        return sqlite3.Cursor(self._conn)

    def execute(self, sql: str, parameters: Any = ()) -> sqlite3.Cursor:
        """As `sqlite3.Connection.execute`."""
        return sqlite3.Cursor(self._conn).execute(sql, parameters)

    def executemany(self, sql: str, parameters: Iterable[Any]) -> sqlite3.Cursor:
        """As `sqlite3.Connection.executemany`."""
        return sqlite3.Cursor(self._conn).executemany(sql, parameters)

    def backup(self, target: sqlite3.Connection, **options: Any) -> None:
        """As `sqlite3.Connection.backup`."""
        self._conn.backup(target, **options)

    def inside_owners_transaction(self) -> sqlite3.Connection:
        """The connection for operations in a transaction that its owner has open."""
        return cast(sqlite3.Connection, _Guest(self._conn))


class _Guest(OwnCursors):
    """A lent connection while its owner has a transaction open."""

    def backup(self, target: sqlite3.Connection, **options: Any) -> NoReturn:
        """Refused: SQLite doesn't copy what the same connection is writing, and would wait."""
        raise ConnectionUnusableError(
            "the connection's owner has a transaction open; commit it before a backup"
        )


def _migrate_inside(conn: sqlite3.Connection, schema: Schema) -> None:
    """As `migrate`, in the owner's transaction: nothing of a failing one stays for his commit."""
    while migrations.pending(conn, schema):
        conn.execute("SAVEPOINT migration")
        try:
            migrations.apply_next(conn, schema)
        except BaseException:
            with suppress(sqlite3.Error):  # SQLite may have ended the whole transaction
                conn.execute("ROLLBACK TO migration")
                conn.execute("RELEASE migration")
            raise
        conn.execute("RELEASE migration")


def check_borrowed(conn: sqlite3.Connection) -> None:
    """Raise ConnectionUnusableError for a connection whose settings would break ours."""
    if getattr(conn, "autocommit", _LEGACY) is False:
        raise ConnectionUnusableError(
            "a connection with autocommit=False always has a transaction open: nothing saved "
            "through it would be committed. Use autocommit=True, or the default isolation_level."
        )
    if conn.text_factory is not str:
        raise ConnectionUnusableError(
            "the connection's text_factory must be str: lend us one of its own, or pass a path"
        )
