"""What cannot be carried to Postgres, told before anything of its thread is."""

from __future__ import annotations

from collections.abc import Sequence
from sqlite3 import Connection
from typing import Any

from langgraph.checkpoint.serde.base import SerializerProtocol

from ..checkpoints.frames import MAGIC
from ..checkpoints.reading import Row
from ..checkpoints.values import inner
from .emptying import BlobKey, Key, Page, Values
from .errors import TransferError
from .postgres_page import Rows, Taking, Wish, naming
from .postgres_spelling import spelled

# Checkpoints that may not be sayable: those with notes, or with versions that are no text.
UNUSUAL = """
SELECT thread_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id, checkpoint, metadata,
    blob_versions
FROM checkpoints WHERE thread_id = ? AND (
    blob_versions IS NOT NULL
    OR EXISTS (
        SELECT 1 FROM json_each(checkpoint, '$.channel_versions') AS version
        WHERE version.type NOT IN ('text', 'null')
    )
)
"""

# One frame or difference that is enciphered: the key is needed to undo it. (:magic: how those
# begin that are not; a serialiser's types may have a plus too.)
ENCIPHERED = """
SELECT checkpoint_ns, NULL, channel FROM checkpoint_blobs
WHERE thread_id = :thread AND type LIKE '%+%' AND size IS NOT NULL
AND substr(blob, CASE WHEN base IS NULL THEN 1 ELSE 9 END, 4) <> :magic
UNION ALL
SELECT checkpoint_ns, checkpoint_id, channel FROM checkpoint_writes
WHERE thread_id = :thread AND type LIKE '%+%' AND size IS NOT NULL
AND substr(blob, CASE WHEN base IS NULL THEN 1 ELSE 9 END, 4) <> :magic
LIMIT 1
"""

# PostgresSaver casts these to bytea, in whose syntax a backslash is an escape.
UNSPEAKABLE = """
SELECT checkpoint_ns, NULL, channel FROM checkpoint_blobs
WHERE thread_id = :thread AND (instr(channel, '\\') OR instr(type, '\\'))
UNION ALL
SELECT checkpoint_ns, checkpoint_id, channel FROM checkpoint_writes
WHERE thread_id = :thread AND (instr(channel, '\\') OR instr(task_id, '\\') OR instr(type, '\\'))
LIMIT 1
"""

HAS_BLOB = """
SELECT 1 FROM checkpoint_blobs
WHERE thread_id = ? AND checkpoint_ns = ? AND channel = ? AND version = ?
"""


def refused(
    conn: Connection, serde: SerializerProtocol, threads: Sequence[str]
) -> dict[str, TransferError]:
    """Which of some threads cannot be carried, and why; told before anything of them is."""
    found = Rows()

    def has(blob: BlobKey) -> bool:
        key = (*blob.place, blob.channel, blob.version)
        return conn.execute(HAS_BLOB, key).fetchone() is not None

    for thread_id in threads:
        if error := _unspeakable(conn, thread_id) or _locked(conn, serde, thread_id):
            found.refused[thread_id] = error
            continue
        for columns in conn.execute(UNUSUAL, (thread_id,)):
            row = Row.of(columns)
            with naming(found, Key(*row[:3])):
                each = spelled(row, has)
                if each.extras is not None:
                    page = Page(values=Values(conn, serde).blobs([each.extras]))
                    Taking(conn, serde, page, Wish(set(), set(), set())).sends(each, each.extras)
            if thread_id in found.refused:
                break
    return found.refused


def _unspeakable(conn: Connection, thread_id: str) -> TransferError | None:
    row = conn.execute(UNSPEAKABLE, {"thread": thread_id}).fetchone()
    if row is None:
        return None
    return TransferError(
        f"{_named(thread_id, row)}: PostgresSaver cannot read names of channels and tasks with a "
        "backslash"
    )


def _locked(conn: Connection, serde: SerializerProtocol, thread_id: str) -> TransferError | None:
    """The error for a thread that is enciphered, unless there is a cipher."""
    if inner(serde) is not serde:
        return None
    row = conn.execute(ENCIPHERED, {"thread": thread_id, "magic": MAGIC}).fetchone()
    if row is None:
        return None
    return TransferError(
        f"{_named(thread_id, row)}: it is enciphered, and its differences cannot be undone without "
        "the key. Give the serde, and the key, that it was saved with."
    )


def _named(thread_id: str, row: Sequence[Any]) -> str:
    ns, checkpoint_id, channel = row
    where = f", checkpoint {checkpoint_id}" if checkpoint_id else ""
    return f"thread {thread_id!r}, namespace {ns!r}{where}, channel {channel!r}"
