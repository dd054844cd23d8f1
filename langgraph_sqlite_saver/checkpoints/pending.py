"""`put_writes`: saving what a task wrote, before the step's checkpoint is made."""

from __future__ import annotations

from collections.abc import Sequence
from sqlite3 import Connection
from typing import Any

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import WRITES_IDX_MAP

from ..database import InvalidTypeError
from . import sql
from .config import check_channel, full_address_of, stored_text
from .encoding import SMALL, Encoded, Link, dump_base
from .history import Encoder, Place
from .values import Blob, dumps, inner, seal

# The columns of a write, as INSERT_WRITE has them.
WriteRow = tuple[str, str, str, str, str, int, str, str, bytes, str | None, int | None]


class Writes:
    """A task's writes on their way into the file."""

    __slots__ = ("history", "links", "newest", "place", "resting", "rows", "serde", "statement")

    def __init__(self, place: Place, encoder: Encoder) -> None:
        self.place = place
        self.serde = encoder.serde
        self.history = encoder.history
        self.statement = sql.INSERT_WRITE
        # What they may rest on; the same for all of them, though the thread may move on meanwhile.
        self.newest: dict[str, Link] | None = None
        self.rows: list[WriteRow] = []
        # The values of the rows that rest on versions, by their place in `rows`, and the versions.
        self.resting: dict[int, Blob] = {}
        self.links: dict[str, Link] = {}


def prepare_writes(
    encoder: Encoder,
    config: RunnableConfig,
    writes: Sequence[tuple[str, Any]],
    task_id: str,
    task_path: str,
) -> Writes:
    """Serialise a task's writes as they are now.

    Ordinary writes keep the first of an index; errors, interrupts and the like (WRITES_IDX_MAP)
    take the place of what was there.
    """
    place = full_address_of(config)
    if not isinstance(task_id, str) or not isinstance(task_path, str):
        raise InvalidTypeError("task_id and task_path must be str")
    key = (*place, stored_text(task_id, "task_id"), stored_text(task_path, "task_path"))
    try:
        pairs = [(channel, value) for channel, value in writes]
    except (TypeError, ValueError):
        raise InvalidTypeError("writes must be a sequence of (channel, value) pairs") from None
    request = Writes(place[:2], encoder)
    serde, special = inner(encoder.serde), 0
    for index, (channel, value) in enumerate(pairs):
        check_channel(channel)
        special += channel in WRITES_IDX_MAP
        blob = dumps(serde, value, channel)
        place_of = (*key, WRITES_IDX_MAP.get(channel, index), channel)
        if len(blob[1]) >= SMALL:
            row = (*place_of, *_encode(request, index, channel, blob)[:4])
        elif serde is encoder.serde:
            row = (*place_of, *blob, None, None)
        else:
            row = (*place_of, *seal(encoder.serde, *blob), None, None)
        request.rows.append(row)
    if special == len(pairs):
        request.statement = sql.REPLACE_WRITE
    return request


def _encode(request: Writes, index: int, channel: str, value: Blob) -> Encoded:
    if request.newest is None:
        request.newest = request.history.newest(request.place)
    history, serde = request.history, request.serde
    columns, links = history.encode_write(serde, channel, value, request.newest)
    if links:
        request.resting[index] = value
        request.links.update(links)
    return columns


def put_writes(conn: Connection, request: Writes) -> None:
    """Store a task's writes, all or none."""
    rows = request.rows
    if request.links and not _are_there(conn, request):
        rows = rows.copy()
        for index, value in request.resting.items():
            alone = request.history.alone(request.serde, value)
            rows[index] = (*rows[index][:7], *alone[:4])
    conn.executemany(request.statement, rows)


def _are_there(conn: Connection, request: Writes) -> bool:
    """Whether all versions that the writes rest on are in the file, with the values known."""
    wanted = dump_base((channel, link.version) for channel, link in request.links.items())
    found = dict(conn.execute(sql.SELECT_TOKENS, (wanted, *request.place)).fetchall())
    return found == {channel: link.token for channel, link in request.links.items()}
