"""`put_writes`: saving what a task wrote, before the step's checkpoint is made."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from sqlite3 import Connection
from typing import Any

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import WRITES_IDX_MAP

from ..database import InvalidTypeError
from . import at_once, sql
from .config import Address, check_channel, full_address_of, stored_text
from .damage import again_in_any_text
from .encoding import SMALL, Link, dump_base
from .history import Encoder, Place
from .lineage import Lineage
from .values import Blob, dumps, inner, seal

# The columns of a write, as INSERT_WRITE has them.
WriteRow = tuple[str, str, str, str, str, int, str, str, bytes, str | None, int | None]

# task_id, task_path, idx, channel, and the value's type and bytes, not enciphered.
CarriedWrite = tuple[str, str, int, str, Blob]


class Writes:
    """A task's writes on their way into the file."""

    __slots__ = ("encoded", "history", "large", "links", "place", "resting", "rows", "serde",
                 "statement")  # fmt: skip

    def __init__(self, place: Place, encoder: Encoder) -> None:
        self.place = place
        self.serde = encoder.serde
        self.history = encoder.history
        self.statement = sql.INSERT_WRITE
        self.rows: list[WriteRow] = []
        # Values that may rest on others, by their place in `rows`, which lack them until `encoded`.
        self.large: dict[int, Blob] = {}
        self.encoded = False
        # Which rows rest on versions, and on which.
        self.resting: list[int] = []
        self.links: dict[str, Link] = {}


def prepare_writes(
    encoder: Encoder,
    config: RunnableConfig,
    writes: Sequence[tuple[str, Any]],
    task_id: str,
    task_path: str,
    *,
    at_once: float = math.inf,
) -> Writes:
    """Serialise a task's writes as they are now.

    Ordinary writes keep the first of an index; errors, interrupts and the like (WRITES_IDX_MAP)
    take the place of what was there. Unless the request is `encoded` then, as it is not for more
    than `at_once` bytes of large values, `encode` has to be run before `put_writes`.
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
        number = WRITES_IDX_MAP.get(channel, index)
        _add(request, (*key, number, channel), dumps(serde, value, channel))
    if special == len(pairs):
        request.statement = sql.REPLACE_WRITE
    if sum(len(data) for _, data in request.large.values()) <= at_once:
        _encode(request)
    return request


def carried_writes(
    encoder: Encoder, place: Address, writes: Iterable[CarriedWrite], *, replacing: bool = False
) -> Writes:
    """A checkpoint's writes as another saver stored them; they replace those that are there, or
    leave them. They have to be encoded (`encode`).
    """
    request = Writes(place[:2], encoder)
    for *key, value in writes:
        _add(request, (*place, *key), value)
    if replacing:
        request.statement = sql.REPLACE_WRITE
    return request


def _add(request: Writes, key: Sequence[Any], value: Blob) -> None:
    if len(value[1]) >= SMALL:
        request.large[len(request.rows)] = value
        value = "", b""
    else:
        value = seal(request.serde, *value)
    request.rows.append((*key, *value, None, None))


def encode(conn: Connection, request: Writes) -> None:
    """Encode the values, where that takes too long for an event loop; reads nothing."""
    _encode(request)


def _encode(request: Writes) -> None:
    if request.large:
        newest = request.history.newest(request.place)
        for index, value in request.large.items():
            channel = request.rows[index][6]
            columns, links = request.history.encode_write(request.serde, channel, value, newest)
            request.rows[index] = (*request.rows[index][:7], *columns[:4])
            if links:
                request.resting.append(index)
                request.links.update(links)
    request.encoded = True


@again_in_any_text
def put_writes(conn: Connection, request: Writes, lineage: Lineage) -> None:
    """Store a task's writes, all or none."""
    assert request.encoded
    lineage.begin_saving(conn)
    rows = request.rows
    if request.links and not _are_there(conn, request):
        rows = rows.copy()
        for index in request.resting:
            alone = request.history.alone(request.serde, request.large[index])
            rows[index] = (*rows[index][:7], *alone[:4])
    conn.executemany(request.statement, rows)
    lineage.end_saving(conn)


def put_writes_at_once(conn: Connection, request: Writes, lineage: Lineage) -> Any:
    """As `put_writes`, in one statement; NotImplemented where it takes more."""
    del lineage  # it remembers nothing of such connections
    assert request.encoded
    replacing = request.statement is sql.REPLACE_WRITE
    kind = at_once.REPLACED_WRITE if replacing else at_once.KEPT_WRITE
    rows: list[at_once.Row] = [(kind, *row) for row in request.rows]
    if request.links:
        bases = {channel: (link.version, link.token) for channel, link in request.links.items()}
        rows.append(at_once.needed(request.place, {}, bases))
    return None if at_once.save(conn, rows) else NotImplemented


put_writes.at_once = put_writes_at_once  # type: ignore[attr-defined]


def _are_there(conn: Connection, request: Writes) -> bool:
    """Whether all versions that the writes rest on are in the file, with the values known."""
    wanted = dump_base((channel, link.version) for channel, link in request.links.items())
    found = dict(conn.execute(sql.SELECT_TOKENS, (wanted, *request.place)).fetchall())
    return found == {channel: link.token for channel, link in request.links.items()}
