"""What the shell completes: thread ids, straight from the file; names of files it finds itself."""

from __future__ import annotations

import re
import sqlite3
from contextlib import closing
from pathlib import Path

import typer

# The shell puts a word where it was begun, and runs what it means there: ids are often chosen by
# clients, so only text is offered that no shell takes for a command, an option or a pattern.
_HARMLESS = re.compile(r"[A-Za-z0-9_@%+/.,:][A-Za-z0-9_@%+/.,:=-]*")

# More than that helps nobody.
_MOST = 50

# Jumps from one thread to the next along the index, past all checkpoints in between.
_IDS = """
WITH RECURSIVE ids (id) AS (
    SELECT min(thread_id) FROM checkpoints WHERE thread_id >= :begin
    UNION ALL
    SELECT (SELECT min(thread_id) FROM checkpoints WHERE thread_id > id) FROM ids
    WHERE id IS NOT NULL
)
SELECT id FROM ids WHERE substr(id, 1, length(:begin)) = :begin LIMIT :most
"""


def file_names() -> list[str]:
    """Nothing: the shell then completes names of files."""
    return []


def thread_ids(ctx: typer.Context, incomplete: str) -> list[str]:
    """The ids of the file's threads that begin so."""
    from .options import is_at_rest, read_only

    file = ctx.params.get("file")
    if file is None or not Path(file).is_file():
        return []
    uri = read_only(Path(file), at_rest=is_at_rest(Path(file)))
    try:
        with closing(sqlite3.connect(uri, uri=True, timeout=0.5)) as conn:
            found = conn.execute(_IDS, {"begin": incomplete, "most": _MOST}).fetchall()
            return [each for (each,) in found if _HARMLESS.fullmatch(str(each))]
    except (sqlite3.Error, UnicodeError):  # a file, or a word, that is none
        return []
