"""Reading: one checkpoint, or pages of them, decoded where they are read."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from operator import itemgetter
from sqlite3 import Connection
from typing import Any, NamedTuple, Protocol, cast

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import (
    Checkpoint,
    CheckpointMetadata,
    CheckpointTuple,
    PendingWrite,
)
from langgraph.checkpoint.serde.base import SerializerProtocol
from langgraph.checkpoint.serde.types import TASKS

from . import sql
from .config import Address
from .contents import Contents, Stored, is_plain
from .damage import again_in_any_text, are_keys, damaged_document, load_metadata, try_document
from .errors import DamagedError, SerializationError, placed
from .history import History, Place
from .jsontext import parameter
from .values import EXTRAS, blob_keys, inner, loads

# A pending write's task and channel, in rows of SELECT_WRITES and SELECT_WRITES_OF_PAGE.
_NAMES, _NAMES_OF_PAGE = itemgetter(0, 1), itemgetter(1, 2)

# The format from which on a checkpoint holds its pending sends itself.
SENDS_INSIDE = 4


class Decoder(Protocol):
    """What turns stored rows into values: a saver, its serialiser and its version scheme."""

    serde: SerializerProtocol
    history: History

    def get_next_version(self, current: Any, channel: None) -> Any:
        """The version after `current`."""


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
        """From the columns as SQLite gives them; raises DamagedError for what they cannot be."""
        thread_id, ns, checkpoint_id, parent_id, checkpoint, metadata, noted = columns
        loaded = try_document(checkpoint, noted)
        if loaded is None:
            raise damaged_document((thread_id, ns, checkpoint_id), checkpoint, noted)
        if not are_keys((thread_id, ns, checkpoint_id, parent_id or "")):
            reason = "a column of its key, or its parent's id, is not text"
            raise DamagedError(thread_id, ns, None, None, reason, checkpoint_id)
        return cls(thread_id, ns, checkpoint_id, parent_id, loaded[0], metadata, loaded[1])

    def blob_keys(self) -> dict[str, str]:
        """Where the values that do not lie inline are, by channel."""
        return blob_keys(self.checkpoint, self.notes)


class _Places:
    """The contents of each place that rows come from, made when they are needed."""

    def __init__(self, conn: Connection, decoder: Decoder) -> None:
        self._conn, self._decoder = conn, decoder
        self._contents: dict[Place, Contents] = {}

    def at(self, row: Row) -> Contents:
        """Those of a row's place."""
        place = (row.thread_id, row.checkpoint_ns)
        if (contents := self._contents.get(place)) is None:
            contents = Contents(self._conn, self._decoder.serde, place, self._decoder.history)
            self._contents[place] = contents
        return contents


@again_in_any_text
def get_tuple(conn: Connection, decoder: Decoder, place: Address) -> CheckpointTuple | None:
    """The checkpoint at a place, or the newest there; None if there is none.

    Raises SerializationError, as a rule DamagedError, that names the checkpoint.
    """
    if place.checkpoint_id is None:
        columns = conn.execute(sql.SELECT_HEAD, place[:2]).fetchone()
    else:
        columns = conn.execute(sql.SELECT_CHECKPOINT, place).fetchone()
    if columns is None:
        return None
    row = Row.of(columns)
    try:
        return _decoded(conn, decoder, row, newest=place.checkpoint_id is None)
    except SerializationError as error:
        named = placed(error, row)
        raise named from named.__cause__


def _decoded(conn: Connection, decoder: Decoder, row: Row, *, newest: bool) -> CheckpointTuple:
    contents = _Places(conn, decoder)
    _load_values(conn, decoder, row, contents, newest=newest)
    serde = inner(decoder.serde)
    writes: list[PendingWrite] = []
    found = conn.execute(sql.SELECT_WRITES, row[:3]).fetchall()
    if not are_keys(chain.from_iterable(map(_NAMES, found))):
        raise contents.at(row).damaged_write(next(c for t, c, *_ in found if not are_keys((t, c))))
    for task_id, channel, kind, data, *others in found:
        if not is_plain(kind, data, others[-1]):
            kind, data = contents.at(row).written(channel, kind, data, *others)
        writes.append((task_id, channel, loads(serde, channel, kind, data)))
    _complete(conn, decoder, [row])
    return _to_tuple(row, writes)


def _load_values(
    conn: Connection, decoder: Decoder, row: Row, contents: _Places, *, newest: bool
) -> None:
    """Put the values that lie in blobs into their row."""
    keys = row.blob_keys()
    if not keys:
        return
    values, serde = row.checkpoint["channel_values"], inner(decoder.serde)
    for columns in conn.execute(sql.SELECT_BLOBS, (parameter(keys), *row[:2])).fetchall():
        channel, _, kind, data, _, size, token, _ = columns
        if token is not None or not is_plain(kind, data, size):
            if data is None:
                continue
            kind, data = contents.at(row).load(Stored._make(columns), newest=newest)
        values[channel] = loads(serde, channel, kind, data)


def _to_tuple(row: Row, writes: list[PendingWrite]) -> CheckpointTuple:
    """From a row whose values are in place."""
    thread_id, ns, checkpoint_id, parent_id, checkpoint, metadata, _ = row
    parent: RunnableConfig | None = None
    if parent_id:
        parent = {
            "configurable": {
                "thread_id": thread_id,
                "checkpoint_ns": ns,
                "checkpoint_id": parent_id,
            }
        }
    return CheckpointTuple(
        {
            "configurable": {
                "thread_id": thread_id,
                "checkpoint_ns": ns,
                "checkpoint_id": checkpoint_id,
            }
        },
        cast(Checkpoint, checkpoint),
        cast(CheckpointMetadata, load_metadata((thread_id, ns, checkpoint_id), metadata)),
        parent,
        writes,
    )


def _complete(conn: Connection, decoder: Decoder, rows: Sequence[Row]) -> None:
    """Put extra keys into their checkpoints, and sends into those of a format before 4.

    There a checkpoint's sends are its parent's writes; they are moved as PostgresSaver does it.
    A list of sends inside the checkpoint, among its extras, is older still, and LangGraph's to
    migrate.
    """
    for row in rows:
        if EXTRAS in row.notes:
            extras = row.checkpoint["channel_values"].pop(EXTRAS, None)
            if not isinstance(extras, dict):
                raise _damaged(row, "the keys of it that JSON cannot hold are missing")
            row.checkpoint.update(extras)
    old = [
        row
        for row in rows
        if row.parent_id
        and row.checkpoint.get("v", 1) < SENDS_INSIDE
        and not row.checkpoint.get("pending_sends")
    ]
    if not old:
        return
    wanted = parameter(_numbered(old, [str(row.parent_id) for row in old]))
    sends: dict[int, list[Any]] = {}
    found = conn.execute(sql.SELECT_SENDS_OF_PAGE, (wanted, TASKS)).fetchall()
    contents = _Places(conn, decoder)
    for number, *columns in found:
        value = contents.at(old[int(number)]).written(TASKS, *columns)
        sends.setdefault(int(number), []).append(loads(inner(decoder.serde), TASKS, *value))
    for number, values in sends.items():
        versions = old[number].checkpoint["channel_versions"]
        old[number].checkpoint["channel_values"][TASKS] = values
        try:
            newest = max(versions.values(), default=None)
        except TypeError as error:
            raise _damaged(old[number], f"its channel versions: {error}") from error
        versions[TASKS] = newest if versions else decoder.get_next_version(None, None)


def _damaged(row: Row, reason: str) -> DamagedError:
    return DamagedError(row.thread_id, row.checkpoint_ns, None, None, reason, row.checkpoint_id)


def _numbered(rows: Sequence[Row], ids: Sequence[str]) -> dict[str, dict[str, dict[str, str]]]:
    """Checkpoint ids at the rows' places, each under its row's number."""
    wanted: dict[str, dict[str, dict[str, str]]] = {}
    for number, (row, checkpoint_id) in enumerate(zip(rows, ids, strict=True)):
        at = wanted.setdefault(row.thread_id, {}).setdefault(row.checkpoint_ns, {})
        at[str(number)] = checkpoint_id
    return wanted


def load_page(
    conn: Connection, decoder: Decoder, rows: Sequence[Row]
) -> tuple[list[CheckpointTuple], int]:
    """Decode several rows with two statements, however many they are; also their bytes.

    What a value rests on is looked up row by row, unless it is at hand; checkpoints of a format
    before 4 take one statement more.
    """
    places = _Places(conn, decoder)
    blob_bytes = _load_blobs(conn, inner(decoder.serde), rows, places)
    writes, write_bytes = _load_writes(conn, inner(decoder.serde), rows, places)
    _complete(conn, decoder, rows)
    tuples = [_to_tuple(row, written) for row, written in zip(rows, writes, strict=True)]
    return tuples, blob_bytes + write_bytes


def _load_blobs(
    conn: Connection, serde: SerializerProtocol, rows: Sequence[Row], places: _Places
) -> int:
    """Put the values that lie in blobs into their rows."""
    wanted, users = _blobs_wanted(rows)
    size = 0
    resting: dict[Contents, list[tuple[Stored, _Users]]] = {}
    for number, *columns in conn.execute(sql.SELECT_BLOBS_OF_PAGE, (parameter(wanted),)).fetchall():
        row, values = users[int(number)]
        blob = Stored._make(columns)
        if is_plain(blob.kind, blob.blob, blob.size):
            size += _hand_out(serde, blob.channel, blob.kind, blob.blob, values)
        elif blob.blob is not None:
            resting.setdefault(places.at(row), []).append((blob, values))
    for contents, those in resting.items():
        # Oldest first: newer versions rest on them.
        for blob, values in sorted(those, key=_by_age):
            size += _hand_out(serde, blob.channel, *contents.value(blob), values)
    return size


def _hand_out(
    serde: SerializerProtocol, channel: str, kind: str, data: bytes, users: _Users
) -> int:
    """Decode a value for each of the rows that share it; returns its bytes."""
    for values in users:
        values[channel] = loads(serde, channel, kind, data)
    return len(data)


# The channel values of the rows that share a blob.
_Users = list[dict[str, Any]]


def _by_age(each: tuple[Stored, _Users]) -> tuple[str, str]:
    return each[0].channel, each[0].version


def _blobs_wanted(rows: Sequence[Row]) -> tuple[dict[str, Any], list[tuple[Row, _Users]]]:
    """The blobs of a page, numbered, for SELECT_BLOBS_OF_PAGE, and whose values they are."""
    wanted: dict[str, dict[str, dict[str, dict[str, str]]]] = {}
    numbers: dict[tuple[str, str, str, str], int] = {}
    users: list[tuple[Row, _Users]] = []
    for row in rows:
        values = row.checkpoint["channel_values"]
        channels = wanted.setdefault(row.thread_id, {}).setdefault(row.checkpoint_ns, {})
        for channel, key in row.blob_keys().items():
            number = numbers.setdefault(
                (row.thread_id, row.checkpoint_ns, channel, key), len(users)
            )
            if number == len(users):
                users.append((row, []))
                channels.setdefault(channel, {})[str(number)] = key
            users[number][1].append(values)
    return wanted, users


def _load_writes(
    conn: Connection, serde: SerializerProtocol, rows: Sequence[Row], places: _Places
) -> tuple[list[list[PendingWrite]], int]:
    """Each row's writes, in the order in which live execution applies them; also their bytes."""
    wanted = _numbered(rows, [row.checkpoint_id for row in rows])
    size = 0
    writes: list[list[PendingWrite]] = [[] for _ in rows]
    found = conn.execute(sql.SELECT_WRITES_OF_PAGE, (parameter(wanted),)).fetchall()
    if not are_keys(chain.from_iterable(map(_NAMES_OF_PAGE, found))):
        number, channel = next((n, c) for n, t, c, *_ in found if not are_keys((t, c)))
        raise places.at(rows[int(number)]).damaged_write(channel)
    for number, task_id, channel, kind, data, *others in found:
        if not is_plain(kind, data, others[-1]):
            contents = places.at(rows[int(number)])
            kind, data = contents.written(channel, kind, data, *others)
        size += len(data)
        writes[int(number)].append((task_id, channel, loads(serde, channel, kind, data)))
    return writes, size
