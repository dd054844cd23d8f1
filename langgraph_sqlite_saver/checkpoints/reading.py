"""Reading: one checkpoint, or pages of them, decoded where they are read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from sqlite3 import Connection
from typing import Any, NamedTuple, cast

import orjson
from langgraph.checkpoint.base import (
    Checkpoint,
    CheckpointTuple,
    PendingWrite,
    writes_sort_key,
)
from langgraph.checkpoint.serde.base import SerializerProtocol
from langgraph.checkpoint.serde.types import TASKS

from . import jsontext, sql
from .config import Address
from .values import EXTRAS, blob_keys, load_notes

# The format from which on a checkpoint holds its pending sends itself.
SENDS_INSIDE = 4

NextVersion = Callable[[Any, None], Any]


class Decoder(NamedTuple):
    """What turns stored rows into values: the saver's serialiser and its version scheme."""

    serde: SerializerProtocol
    next_version: NextVersion


class Row(NamedTuple):
    """A row of `checkpoints`, its columns as in sql.COLUMNS, the checkpoint parsed."""

    thread_id: str
    checkpoint_ns: str
    checkpoint_id: str
    parent_id: str | None
    checkpoint: dict[str, Any]
    metadata: str
    notes: dict[str, str]

    @classmethod
    def of(cls, columns: Sequence[Any]) -> Row:
        """From the columns as SQLite gives them."""
        thread_id, ns, checkpoint_id, parent_id, checkpoint, metadata, notes = columns
        document = jsontext.load_checkpoint(checkpoint)
        return cls(thread_id, ns, checkpoint_id, parent_id, document, metadata, load_notes(notes))

    def blob_keys(self) -> dict[str, str]:
        """Where the values that do not lie inline are, by channel."""
        return blob_keys(self.checkpoint, self.notes)

    def needs_sends(self) -> bool:
        """Whether its pending sends are among the parent's writes; a list inside is LangGraph's."""
        return bool(
            self.parent_id
            and self.checkpoint.get("v", 1) < SENDS_INSIDE
            and not self.checkpoint.get("pending_sends")
        )


Blobs = Iterable[tuple[str, str, bytes]]  # channel, type, blob
Writes = Iterable[tuple[str, str, str, bytes, str, int]]  # task, channel, type, blob, path, idx


def get_tuple(conn: Connection, decoder: Decoder, place: Address) -> CheckpointTuple | None:
    """The checkpoint at a place, or the newest there; None if there is none."""
    if place.checkpoint_id is None:
        columns = conn.execute(sql.SELECT_HEAD, place[:2]).fetchone()
    else:
        columns = conn.execute(sql.SELECT_CHECKPOINT, place).fetchone()
    if columns is None:
        return None
    row = Row.of(columns)
    keys = row.blob_keys()
    blobs: Blobs = ()
    if keys:
        wanted = (orjson.dumps(keys).decode(), *place[:2])
        blobs = conn.execute(sql.SELECT_BLOBS, wanted).fetchall()
    writes = conn.execute(sql.SELECT_WRITES, row[:3]).fetchall()
    return to_tuple(conn, decoder, row, blobs, writes)


def to_tuple(
    conn: Connection, decoder: Decoder, row: Row, blobs: Blobs, writes: Writes
) -> CheckpointTuple:
    """Decode a row and what belongs to it."""
    loads = decoder.serde.loads_typed
    checkpoint = row.checkpoint
    values = checkpoint.get("channel_values") or {}
    for channel, kind, data in blobs:
        if kind != "empty":  # Postgres' mark for a version without a value
            values[channel] = loads((kind, data))
    if EXTRAS in row.notes and EXTRAS in values:
        checkpoint.update(values.pop(EXTRAS))
    checkpoint["channel_values"] = values
    if row.needs_sends():
        _add_sends(conn, decoder, row)
    place = Address(*row[:3])
    return CheckpointTuple(
        config=place.config(),
        checkpoint=cast(Checkpoint, checkpoint),
        metadata=jsontext.load_metadata(row.metadata),
        parent_config=place.config(row.parent_id) if row.parent_id else None,
        pending_writes=load_writes(decoder.serde, writes),
    )


def load_writes(serde: SerializerProtocol, rows: Writes) -> list[PendingWrite]:
    """Decode writes, in the order in which live execution applies them."""
    return [
        (task_id, channel, serde.loads_typed((kind, data)))
        for task_id, channel, kind, data, _, _ in sorted(
            rows, key=lambda row: writes_sort_key(row[4], row[0], row[5])
        )
    ]


def _add_sends(conn: Connection, decoder: Decoder, row: Row) -> None:
    """Before format 4 a checkpoint's sends are its parent's writes: as PostgresSaver moves them."""
    key = (row.thread_id, row.checkpoint_ns, row.parent_id, TASKS)
    sends = conn.execute(sql.SELECT_SENDS, key).fetchall()
    if not sends:
        return
    versions = row.checkpoint["channel_versions"]
    row.checkpoint["channel_values"][TASKS] = [decoder.serde.loads_typed(each) for each in sends]
    versions[TASKS] = max(versions.values()) if versions else decoder.next_version(None, None)


def load_page(
    conn: Connection, decoder: Decoder, rows: Sequence[Row]
) -> tuple[list[CheckpointTuple], int]:
    """Decode several rows with two statements, however many they are; also their stored bytes."""
    blobs = _blobs_of(conn, rows)
    writes: list[list[Any]] = [[] for _ in rows]
    wanted = orjson.dumps([row[:3] for row in rows]).decode()
    for index, *write in conn.execute(sql.SELECT_WRITES_OF_PAGE, (wanted,)):
        writes[index].append(write)
    weight = sum(len(blob[2]) for found in blobs for blob in found)
    weight += sum(len(write[3]) for written in writes for write in written)
    tuples = [
        to_tuple(conn, decoder, row, found, written)
        for row, found, written in zip(rows, blobs, writes, strict=True)
    ]
    return tuples, weight


def _blobs_of(conn: Connection, rows: Sequence[Row]) -> list[list[tuple[str, str, bytes]]]:
    """Each row's blobs; one that several rows share is read once, and decoded for each."""
    keys = [
        [(row.thread_id, row.checkpoint_ns, *each) for each in row.blob_keys().items()]
        for row in rows
    ]
    distinct = list({key: None for of_row in keys for key in of_row})
    wanted = orjson.dumps(distinct).decode()
    found = {
        distinct[number]: (kind, data or b"")
        for number, kind, data in conn.execute(sql.SELECT_BLOBS_OF_PAGE, (wanted,))
    }
    return [[(key[2], *found[key]) for key in of_row if key in found] for of_row in keys]
