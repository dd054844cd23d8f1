"""What a file holds: its threads, and its size."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta, timezone
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from sqlite3 import Connection
from typing import Any, Literal

from ..database import InvalidInputError, InvalidTypeError
from ..database.upkeep import FileFigures
from . import sql
from .damage import again_in_any_text, are_keys, is_key


@dataclass(frozen=True)
class ThreadInfo:
    """One thread.

    Attributes:
        thread_id: Its id.
        namespaces: The root graph's ("") and those of its subgraphs.
        checkpoints: How many checkpoints it has, in all namespaces.
        last_ts: The time of its newest checkpoint; None where that carries none.
        bytes: The stored bytes of its checkpoints, metadata, values and writes, without SQLite's
            overhead of rows, indexes and free pages.
        logical_bytes: What they would be with every value stored whole.
    """

    thread_id: str
    namespaces: list[str]
    checkpoints: int
    last_ts: datetime | None
    bytes: int
    logical_bytes: int


@dataclass(frozen=True)
class Stats:
    """A checkpoint file in figures; bytes are stored bytes, `file_bytes` what the disk holds.

    Attributes:
        path: The file; None in memory.
        file_bytes, wal_bytes: Size of the file and of the log beside it.
        free_bytes: Pages of the file that hold nothing; `optimize` gives them back.
        threads, checkpoints, blobs, writes: How many there are.
        checkpoint_bytes, blob_bytes, write_bytes: What they hold.
        logical_blob_bytes, logical_write_bytes: What they would with every value stored whole.
        orphan_writes: Those of the writes whose checkpoint is not there: it was never saved, was
            deleted before they came, or is just being saved. `expire` deletes old ones.
        orphan_blobs: Those of the blobs whose thread has no checkpoint.
        orphan_bytes: What both hold.
        schema_version: The newest migration applied.
        journal_mode, synchronous: As the writer has them.
        sqlite_version: The library in use.
    """

    path: str | None
    file_bytes: int
    wal_bytes: int
    free_bytes: int
    threads: int
    checkpoints: int
    blobs: int
    writes: int
    checkpoint_bytes: int
    blob_bytes: int
    write_bytes: int
    logical_blob_bytes: int
    logical_write_bytes: int
    orphan_writes: int
    orphan_blobs: int
    orphan_bytes: int
    schema_version: int
    journal_mode: str
    synchronous: str
    sqlite_version: str

    @classmethod
    def of(cls, path: Path | None, figures: FileFigures, counted: Mapping[str, Any]) -> Stats:
        """From what the file system, the PRAGMAs and the tables say."""
        return cls(path=str(path) if path else None, **asdict(figures), **counted)

    def as_dict(self) -> dict[str, Any]:
        """As a plain dict."""
        return asdict(self)


@again_in_any_text
def threads(conn: Connection) -> list[ThreadInfo]:
    """Every thread of the file, by id. Reads the whole file once."""
    values, writes = (
        {row[0]: row for row in conn.execute(statement)} for statement in sql.SUM_BYTES_BY_THREAD
    )
    namespaces = groupby(conn.execute(sql.SELECT_NAMESPACES_OF_ALL), itemgetter(0))
    return [
        _thread(thread_id, rows, values.get(thread_id, _NOTHING), writes.get(thread_id, _NOTHING))
        for thread_id, rows in namespaces
        if is_key(thread_id)  # no call can name others
    ]


# Of a thread that has no values, or no pending writes.
_NOTHING = (None, 0, 0)


def _thread(
    thread_id: str,
    namespaces: Iterable[Sequence[Any]],
    values: Sequence[Any],
    writes: Sequence[Any],
) -> ThreadInfo:
    """From its rows of SELECT_NAMESPACES_OF_ALL and SUM_BYTES_BY_THREAD."""
    names: list[str] = []
    checkpoints = held = 0
    last: datetime | None = None
    for _, ns, number, size, head, is_valid, ts in namespaces:
        checkpoints += number
        held += size
        if is_key(ns):
            names.append(ns)
        if (moment := _time_of(ns, head, is_valid, ts)) and (last is None or moment > last):
            last = moment
    stored, logical = values[1] + writes[1], values[2] + writes[2]
    return ThreadInfo(thread_id, names, checkpoints, last, held + stored, held + logical)


def count(conn: Connection) -> dict[str, int]:
    """The figures of Stats that come from the tables. Reads the whole file once."""
    names = ("threads", "checkpoints", "blobs", "writes")
    sizes = (
        "checkpoint_bytes",
        "blob_bytes",
        "write_bytes",
        "logical_blob_bytes",
        "logical_write_bytes",
        "orphan_writes",
        "orphan_blobs",
        "orphan_bytes",
    )
    figures = conn.execute(sql.COUNTS).fetchone()
    (version,) = conn.execute("SELECT max(v) FROM checkpoint_migrations").fetchone()
    return {**dict(zip(names + sizes, figures, strict=True)), "schema_version": version}


def cutoff(older_than: timedelta | datetime) -> datetime:
    """The moment before which a thread counts as old; a naive datetime is local time."""
    if isinstance(older_than, timedelta):
        if older_than < timedelta(0):
            raise InvalidInputError(f"older_than must not be negative, and is {older_than}")
        try:
            return datetime.now(timezone.utc) - older_than
        except OverflowError:  # before the year 1: nothing is that old
            return datetime.min.replace(tzinfo=timezone.utc)
    if isinstance(older_than, datetime):
        try:
            return older_than.astimezone(timezone.utc)
        except (OverflowError, ValueError):  # at either end of time an offset makes no difference
            return older_than.replace(tzinfo=timezone.utc)
    raise InvalidTypeError(f"older_than must be a timedelta or a datetime, not {older_than!r}")


@again_in_any_text
def threads_older_than(conn: Connection, moment: datetime) -> list[str]:
    """The threads whose newest checkpoint was made before `moment`."""
    heads: dict[str, list[Any]] = {}
    for thread_id, *head in conn.execute(sql.SELECT_HEADS).fetchall():
        heads.setdefault(thread_id, []).append(head)
    return sorted(each for each in heads if is_key(each) and _are_older_than(heads[each], moment))


def is_older_than(conn: Connection, thread_id: str, moment: datetime) -> bool:
    """Whether a thread's newest checkpoint was made before `moment`; unknown counts as no."""
    heads = conn.execute(sql.SELECT_HEADS_OF_THREAD, (thread_id,)).fetchall()
    return _are_older_than([head for _, *head in heads], moment)


def _are_older_than(heads: Sequence[Sequence[Any]], moment: datetime) -> bool:
    """Whether all heads can be read, and the newest was made before `moment`."""
    times = [_time_of(*head) for head in heads]
    known = [each for each in times if each]
    return False not in times and bool(known) and max(known) < moment


def _time_of(ns: Any, head: Any, is_valid: Any, ts: Any) -> datetime | Literal[False] | None:
    """The time that a head tells, None where it tells none; False where it is damaged.

    An index that is damaged names rows that are not there.
    """
    return _parsed(ts) if is_valid and are_keys((ns, head)) else False


def _parsed(text: Any) -> datetime | None:
    try:
        moment = datetime.fromisoformat(str(text).replace("Z", "+00:00"))
    except ValueError:
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)
