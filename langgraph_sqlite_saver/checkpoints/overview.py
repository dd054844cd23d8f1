"""What a file holds: its threads, and its size."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from sqlite3 import Connection
from typing import Any

from ..database import InvalidInputError, InvalidTypeError
from ..database.upkeep import FileFigures
from . import sql
from .damage import in_any_text, is_key


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


@in_any_text
def threads(conn: Connection) -> list[ThreadInfo]:
    """Every thread of the file, by id. Reads the whole file once."""
    sizes = {each: sums for each, *sums in conn.execute(sql.SUM_BYTES_BY_THREAD)}
    found: dict[str, list[tuple[str, int, str]]] = {}
    for thread_id, ns, count, head in conn.execute(sql.SELECT_HEADS).fetchall():
        if not is_key(thread_id):  # no call can name it
            continue
        found.setdefault(thread_id, []).append((ns, count, head))
    return [
        ThreadInfo(
            thread_id=thread_id,
            namespaces=[ns for ns, _, _ in heads if is_key(ns)],
            checkpoints=sum(count for _, count, _ in heads),
            last_ts=_last_ts(conn, thread_id, [(ns, head) for ns, _, head in heads]),
            bytes=stored,
            logical_bytes=logical,
        )
        for thread_id, heads in found.items()
        # The index of a damaged file may have other threads than its tables.
        for stored, logical in [sizes.get(thread_id, (0, 0))]
    ]


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


@in_any_text
def threads_older_than(conn: Connection, moment: datetime) -> list[str]:
    """The threads whose newest checkpoint was made before `moment`."""
    ids = {thread_id for thread_id, *_ in conn.execute(sql.SELECT_HEADS).fetchall()}
    return sorted(each for each in ids if is_key(each) and is_older_than(conn, each, moment))


def is_older_than(conn: Connection, thread_id: str, moment: datetime) -> bool:
    """Whether a thread's newest checkpoint was made before `moment`; unknown counts as no."""
    heads = conn.execute(sql.SELECT_HEADS_OF_THREAD, (thread_id,)).fetchall()
    moments = [_ts(conn, thread_id, *each) for each in heads]
    if any(is_damaged for is_damaged, _ in moments):
        return False
    last = max((each for _, each in moments if each), default=None)
    return last is not None and last < moment


def _last_ts(conn: Connection, thread_id: str, heads: list[tuple[str, str]]) -> datetime | None:
    moments = (_ts(conn, thread_id, *each)[1] for each in heads)
    return max((each for each in moments if each), default=None)


def _ts(conn: Connection, thread_id: str, ns: Any, head: Any) -> tuple[bool, datetime | None]:
    """Whether a checkpoint is damaged, and its time where it tells one."""
    if not (is_key(ns) and is_key(head)):
        return True, None
    found = conn.execute(sql.SELECT_TS, (thread_id, ns, head)).fetchone()
    if found is None:  # an index that is damaged names rows that are not there
        return True, None
    return not found[0], _parsed(found[1])


def _parsed(text: Any) -> datetime | None:
    try:
        moment = datetime.fromisoformat(str(text).replace("Z", "+00:00"))
    except ValueError:
        return None
    return moment.replace(tzinfo=moment.tzinfo or timezone.utc)
