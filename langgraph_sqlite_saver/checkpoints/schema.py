"""The checkpoint tables' migrations, and the files that must be left alone."""

from __future__ import annotations

import sqlite3

from ..database import Schema, UnknownSchemaError, load_migrations

_OFFICIAL_WRITES = {"thread_id", "checkpoint_ns", "checkpoint_id", "task_id", "idx", "channel"}


def refuse_foreign(conn: sqlite3.Connection) -> None:
    """Raise for a file of langgraph-checkpoint-sqlite, or with somebody else's tables of our names.

    The official file is known by its `writes` table; a user's own table of that name has other
    columns and is left alone.
    """
    _refuse_imitations(conn)
    names = "SELECT lower(name) FROM sqlite_master WHERE type IN ('table', 'view')"
    taken = {name for (name,) in conn.execute(names)}
    ours = {"checkpoints", "checkpoint_blobs", "checkpoint_writes"}
    if "checkpoint_migrations" in taken:
        if _columns(conn, "checkpoint_migrations") == {"v"} and (
            ours <= taken or not conn.execute("SELECT 1 FROM checkpoint_migrations").fetchone()
        ):
            return
        ours = {"checkpoint_migrations"}
    elif "writes" in taken and _columns(conn, "writes") >= _OFFICIAL_WRITES:
        raise UnknownSchemaError(
            "the file was written by langgraph-checkpoint-sqlite, whose format is another one. "
            "`langgraph-sqlite import OLD NEW` brings its threads into a new file: give this saver "
            "that one. Nothing in it was changed."
        )
    if taken & ours:
        raise UnknownSchemaError(
            f"the file has a table {sorted(taken & ours)[0]!r} that is not this library's. "
            "Give the saver a file of its own. Nothing in it was changed."
        )


_OURS = ("checkpoint_migrations", "checkpoints", "checkpoint_blobs", "checkpoint_writes")

# A view or a virtual table has no pages of its own.
_IMITATIONS = """
SELECT name FROM sqlite_master
WHERE type IN ('table', 'view') AND coalesce(rootpage, 0) = 0 AND lower(name) IN
    ('checkpoint_migrations', 'checkpoints', 'checkpoint_blobs', 'checkpoint_writes')
"""

# Columns that are computed. Others may have added some, under names of their own.
_COMPUTED = """
SELECT 1 FROM pragma_table_xinfo(?) WHERE hidden IN (2, 3) AND lower(name) IN (
    'v', 'thread_id', 'checkpoint_ns', 'checkpoint_id', 'parent_checkpoint_id', 'type',
    'checkpoint', 'metadata', 'run_id', 'blob_versions', 'channel', 'version', 'blob', 'base',
    'size', 'token', 'number', 'task_id', 'task_path', 'idx'
)
"""


def _refuse_imitations(conn: sqlite3.Connection) -> None:
    """Raise for views and computed columns of our names: reading them runs what the file says, and
    may have no end.
    """
    found = [name for (name,) in conn.execute(_IMITATIONS)]
    found += [name for name in _OURS if conn.execute(_COMPUTED, (name,)).fetchone()]
    if found:
        raise UnknownSchemaError(
            f"the file has a view or a computed column in the place of the table {found[0]!r}: no "
            "saver made it. Leave the file alone. Nothing in it was read or changed."
        )


def _columns(conn: sqlite3.Connection, table: str) -> set[str]:
    return {row[0] for row in conn.execute("SELECT name FROM pragma_table_info(?)", (table,))}


SCHEMA = Schema(
    versions_table="checkpoint_migrations",
    migrations=load_migrations("langgraph_sqlite_saver.migrations", "checkpoints"),
    refuse=refuse_foreign,
)
