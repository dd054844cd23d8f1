"""The relay tables' migrations."""

from __future__ import annotations

import sqlite3

from ..database import Schema, UnknownSchemaError, load_migrations


def refuse_foreign(conn: sqlite3.Connection) -> None:
    """Raise for a file that has somebody else's tables of our names."""
    query = "SELECT lower(name) FROM sqlite_master WHERE type IN ('table', 'view')"
    taken = {name for (name,) in conn.execute(query)}
    ours = {"api_keys", "accounts", "usage_records", "usage_stats", "audit_log", "outbox"}
    if "relay_migrations" not in taken and taken & ours:
        raise UnknownSchemaError(
            f"the file has a table {sorted(taken & ours)[0]!r} that is not this library's. "
            "Give the relay store a file of its own. Nothing in it was changed."
        )


SCHEMA = Schema(
    versions_table="relay_migrations",
    migrations=load_migrations("langgraph_sqlite_saver.migrations", "relay"),
    refuse=refuse_foreign,
)
