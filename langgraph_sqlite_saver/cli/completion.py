"""What the shell completes: thread ids, straight from the file; names of files it finds itself."""

from __future__ import annotations

import re
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import typer

# More than that helps nobody.
_MOST = 50

# Seconds in which an answer has to be found: somebody waits for it, and a file may hold anything.
_PATIENCE = 2.0

# Shells put what is offered on their line as it is, zsh even evaluates it, and ids are often chosen
# by clients. These characters mean nothing to bash, zsh, fish or PowerShell, and such a word is no
# option either. All other ids are typed by hand.
_HARMLESS = re.compile(r"[A-Za-z0-9_/+.][A-Za-z0-9_/+.:@=,%-]{0,199}")

# Jumps from one thread to the next along the index, past all checkpoints in between.
_IDS = """
WITH RECURSIVE ids (id) AS (
    SELECT min(thread_id) FROM checkpoints WHERE thread_id >= :begin
    UNION ALL
    SELECT (SELECT min(thread_id) FROM checkpoints WHERE thread_id > id) FROM ids
    WHERE id IS NOT NULL
)
SELECT id FROM ids WHERE substr(id, 1, length(:begin)) = :begin
"""


def file_names() -> list[str]:
    """Nothing: the shell then completes names of files."""
    return []


def thread_ids(ctx: typer.Context, incomplete: str) -> list[str]:
    """The ids of the file's threads that begin so; none that a shell could take for a command."""
    from .options import is_at_rest, read_only

    file = ctx.params.get("file")
    if file is None or not Path(file).is_file():
        return []
    uri = read_only(Path(file), at_rest=is_at_rest(Path(file)))
    found: list[str] = []
    try:
        with closing(sqlite3.connect(uri, uri=True, timeout=0.5)) as conn:
            conn.execute("PRAGMA trusted_schema = OFF")
            end = time.monotonic() + _PATIENCE
            conn.set_progress_handler(lambda: time.monotonic() > end, 10_000)
            for (each,) in conn.execute(_IDS, {"begin": incomplete}):
                if isinstance(each, str) and _HARMLESS.fullmatch(each):
                    found.append(each)
                if len(found) == _MOST:
                    break
    except (sqlite3.Error, UnicodeError, MemoryError):  # a file, or a word, that is none; or no end
        pass
    return found
