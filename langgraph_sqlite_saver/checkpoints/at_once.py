"""Saving in one statement, for connections that others use at the same time.

A `put` writes to two tables, which takes a transaction, and a transaction is everybody's who has
the connection: another thread's BEGIN fails in it, and its COMMIT ends it. One statement is nobody
else's. So each row goes into a view with a trigger for each kind of row; both are temporary: they
belong to the connection, and the file has none of them.

Python begins a transaction by itself before a statement that starts with INSERT: these start with
WITH.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from functools import lru_cache
from sqlite3 import Connection
from typing import Any, cast

from ..database.own_cursors import OwnCursors, next_mark
from . import sql
from .jsontext import parameter

Row = tuple[Any, ...]

# Kinds of rows: the places of their triggers' statements in sql.ROWS_STATEMENTS.
BLOB, CHECKPOINT, KEPT_WRITE, REPLACED_WRITE, NEEDED, MARK = range(6)

# SQLite's limit to the parameters of one statement is 32,766 since 3.32.
_MOST_ROWS = 32_000 // sql.SAVED_COLUMNS


def save(conn: Connection, rows: Sequence[Row]) -> bool:
    """Store rows, each a kind and its columns, all or none.

    False where it cannot be done so: a blob or a checkpoint of that key is there, a value that one
    rests on is not, there are too many rows, or the connection has no place for temporary triggers.
    What was stored left the connection's `mark`: as long as that is there, the rows are.
    """
    if not 0 < len(rows) < _MOST_ROWS:
        return not rows
    # Noted rather than tried: of a statement that fails Python may give another thread's reason.
    own = cast(OwnCursors, conn)
    made, mark = own.made, next_mark()
    if sql.SAVE_ROWS not in made:
        if not _make_views(conn):
            return False
        made.add(sql.SAVE_ROWS)
    rows = [*rows, (MARK, mark)]
    try:
        conn.execute(_statement(len(rows)), [c for row in rows for c in _padded(row)]).close()
    except sqlite3.IntegrityError:
        return False
    except sqlite3.OperationalError as error:
        if "no such table" not in str(error):
            raise
        made.clear()  # the connection's owner rolled the view back, or dropped our tables
        return False
    own.mark = mark
    return True


def needed(
    place: tuple[str, str], versions: Mapping[str, str], bases: Mapping[str, tuple[str, int]]
) -> Row:
    """The row that has all fail unless these versions are there, and bases with their tokens."""
    return NEEDED, *place, parameter(versions), parameter(bases)


def _padded(row: Row) -> Row:
    return row + (None,) * (sql.SAVED_COLUMNS - len(row))


@lru_cache(maxsize=64)
def _statement(rows: int) -> str:
    row = f"({', '.join('?' * sql.SAVED_COLUMNS)})"
    return sql.SAVE_ROWS + ", ".join([row] * rows)


def _make_views(conn: Connection) -> bool:
    try:
        for statement in sql.MAKE_SAVE_ROWS:
            conn.execute(statement).close()
    except sqlite3.DatabaseError as error:
        # An authorizer of the owner's, or a database that can only be read.
        if isinstance(error, sqlite3.OperationalError) and "locked" in str(error):
            raise
        return False
    # Another thread's transaction may take some of them with it when it is rolled back.
    if conn.in_transaction:
        return False
    found: tuple[int] = conn.execute(sql.COUNT_SAVE_ROWS).fetchone()
    return found == (len(sql.MAKE_SAVE_ROWS),)
