"""A connection to a saver's file for the program's own statements: `saver.conn`."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable
from contextlib import suppress

from . import fork
from .errors import was_closed


class Beside:
    """Opened when it is first asked for; closed with the database, or when nobody has it."""

    def __init__(self, name: str, connect: Callable[[], sqlite3.Connection]) -> None:
        self._name = name
        self._connect = connect
        self._mutex = threading.Lock()
        self._conn: sqlite3.Connection | None = None
        self._closed = False

    def get(self) -> sqlite3.Connection:
        """The connection. Raises DatabaseClosedError once the database was closed."""
        if (conn := self._conn) is not None:
            return conn
        with self._mutex:
            if self._closed:
                raise was_closed(self._name)
            if self._conn is None:
                self._conn = self._connect()
            return self._conn

    def close(self) -> None:
        """Close it for good."""
        self._closed = True
        with self._mutex:
            self._close()

    def close_for_fork(self) -> None:
        """Close it, to be opened anew on both sides; one with a transaction open stays."""
        if self._conn is not None and not self._conn.in_transaction:
            self._close()

    def forget(self) -> sqlite3.Connection | None:
        """In a child process: give up the parent's, which the caller keeps, not closed."""
        conn, self._conn = self._conn, None
        self._mutex = threading.Lock()
        return conn

    def _close(self) -> None:
        conn, self._conn = self._conn, None
        if conn is not None:
            with fork.mutex, suppress(sqlite3.ProgrammingError):  # in use at this moment
                conn.close()
