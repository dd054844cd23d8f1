"""What must hold of the rows of any file, whatever was called: read with plain sqlite3."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any


def assert_sound(path: Path) -> None:
    """SQLite finds nothing wrong, and the rows belong together."""
    with closing(sqlite3.connect(path)) as conn:
        assert conn.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert_no_orphans(conn)


def assert_no_orphans(conn: sqlite3.Connection) -> None:
    """Strict JSON, run ids as the metadata has them, and no blob that no checkpoint uses."""
    used: set[tuple[str, ...]] = set()
    for thread, ns, checkpoint, metadata, run_id, notes in conn.execute(
        "SELECT thread_id, checkpoint_ns, checkpoint, metadata, run_id, blob_versions "
        "FROM checkpoints"
    ):
        document = strict_json(checkpoint)
        named = strict_json(metadata).get("run_id")
        if named is None or isinstance(named, str):
            assert run_id == named
        homes = {c: str(v) for c, v in document["channel_versions"].items()}
        homes = {c: v for c, v in homes.items() if c not in document["channel_values"]}
        homes.update(strict_json(notes or "{}"))
        used |= {(thread, ns, *home) for home in homes.items()}
    blobs = conn.execute("SELECT thread_id, checkpoint_ns, channel, version FROM checkpoint_blobs")
    assert set(blobs) <= used


def strict_json(text: str) -> Any:
    """What the text holds; NaN, infinities and NULs are no JSON that all databases read."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    value = json.loads(text, parse_constant=refuse)
    assert "\0" not in json.dumps(value, ensure_ascii=False)
    return value
