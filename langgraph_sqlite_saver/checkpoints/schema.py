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
            _refuse_other_columns(conn)
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


# A view or a virtual table has no pages of its own.
_IMITATIONS = """
SELECT name FROM sqlite_master
WHERE type IN ('table', 'view') AND coalesce(rootpage, 0) = 0 AND lower(name) IN
    ('checkpoint_migrations', 'checkpoints', 'checkpoint_blobs', 'checkpoint_writes')
"""

# What these tables have had since there are any; later columns come behind. A column that the file
# computes is not among those that a table is said to have.
_FIRST_VERSION = 10
_VALUE = {"type", "blob", "base", "size"}
_COLUMNS = {
    "checkpoints": {
        "thread_id", "checkpoint_ns", "checkpoint_id", "parent_checkpoint_id", "type", "checkpoint",
        "metadata", "run_id", "blob_versions",
    },
    "checkpoint_blobs": _VALUE
    | {"thread_id", "checkpoint_ns", "channel", "version", "token", "number"},
    "checkpoint_writes": _VALUE
    | {"thread_id", "checkpoint_ns", "checkpoint_id", "task_id", "task_path", "idx", "channel"},
}  # fmt: skip


def _refuse_imitations(conn: sqlite3.Connection) -> None:
    """Raise for views of our names: reading them runs what the file says, and may have no end."""
    if found := conn.execute(_IMITATIONS).fetchone():
        raise UnknownSchemaError(
            f"the file has a view in the place of the table {found[0]!r}: no saver made it. Leave "
            "the file alone. Nothing in it was read or changed."
        )


def _refuse_other_columns(conn: sqlite3.Connection) -> None:
    """Raise for tables that lack columns, or compute them from others."""
    (version,) = conn.execute("SELECT max(v) FROM checkpoint_migrations").fetchone()
    for table, columns in _COLUMNS.items() if (version or 0) >= _FIRST_VERSION else ():
        if missing := columns - _columns(conn, table):
            raise UnknownSchemaError(
                f"the table {table!r} has no column {min(missing)!r} of its own: the file is "
                "damaged, or no saver made it. Restore a backup. Nothing in it was changed."
            )


def _columns(conn: sqlite3.Connection, table: str) -> set[str]:
    return {row[0] for row in conn.execute("SELECT name FROM pragma_table_info(?)", (table,))}


SCHEMA = Schema(
    versions_table="checkpoint_migrations",
    migrations=load_migrations("langgraph_sqlite_saver.migrations", "checkpoints"),
    refuse=refuse_foreign,
)
