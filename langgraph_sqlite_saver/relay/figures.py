"""The store in figures."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

from ..database.upkeep import file_figures

_COUNTED = {
    "apiKeysCount": "api_keys",
    "accountsCount": "accounts",
    "usageRecordsCount": "usage_records",
    "usageStatsCount": "usage_stats",
    "unplacedUsageCount": "usage_unplaced",
    "auditCount": "audit_log",
    "redisKeysCount": "redis_keys",
    "trashCount": "trash",
    "outboxPending": "outbox",
}


def figures(conn: sqlite3.Connection, path: Path | None) -> dict[str, Any]:
    """The guide's keys, and more."""
    found: dict[str, Any] = {
        name: conn.execute(f"SELECT count(*) FROM {table}").fetchone()[0]  # noqa: S608
        for name, table in _COUNTED.items()
    }
    file = file_figures(conn, path)
    return {
        **found,
        "dbSize": file.file_bytes + file.wal_bytes,
        "dbPath": str(path),
        "walSize": file.wal_bytes,
        "freeSize": file.free_bytes,
        "sqliteVersion": file.sqlite_version,
    }
