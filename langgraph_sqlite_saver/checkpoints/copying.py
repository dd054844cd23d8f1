"""Copying a thread: everything, under the same ids, the source untouched."""

from __future__ import annotations

from collections.abc import Sequence
from sqlite3 import Connection
from typing import Any

from . import sql
from .contents import Contents, Stored
from .damage import are_keys, in_any_text, is_key, try_document
from .errors import DamagedError, SerializationError
from .history import Encoder
from .jsontext import cleaned, parameter
from .values import Blob, blob_keys, dump_notes, inner, loads, no_value, own_version
from .versions import is_unique


@in_any_text
def copy_thread(conn: Connection, encoder: Encoder, source: str, target: str) -> None:
    """Copy a thread; onto an existing one it adds what is missing there.

    Each checkpoint keeps its own values, whatever the other thread has under the same versions. A
    `thread_id` in the metadata becomes the target's. What cannot be read is carried as it is, and
    cannot be read there; but no damaged pending write comes to a checkpoint that the target has,
    which could not be read any more.
    """
    if source == target:
        return
    if conn.execute(sql.HAS_THREAD, (target,)).fetchone():
        damaged = _damaged_writes(conn, encoder, source, target)
        _add_missing(conn, encoder, source, target)
        _add_missing_writes(conn, encoder, source, target, damaged)
    else:
        conn.execute(sql.COPY_CHECKPOINTS, (target, target, source))
        conn.execute(sql.COPY_BLOBS, (target, source))
        conn.execute(sql.COPY_WRITES, (target, source))


def _add_missing(conn: Connection, encoder: Encoder, source: str, target: str) -> None:
    missing = conn.execute(sql.SELECT_MISSING_IN_TARGET, (source, target)).fetchall()
    conn.execute(sql.COPY_CHECKPOINTS, (target, target, source))
    copiers: dict[str, _Copier] = {}
    for ns, checkpoint_id, text, noted in missing:
        document = try_document(text, noted)
        if document is None or not (is_key(ns) and is_key(checkpoint_id)):
            continue  # which blobs are its own cannot be told
        before = document[1]
        notes = dict(before)
        if ns not in copiers:
            copiers[ns] = _Copier(conn, encoder, ns, source, target)
        for channel, key in blob_keys(*document).items():
            if (copied := copiers[ns].copy(channel, key)) != key:
                notes[channel] = copied
        if notes != before:
            conn.execute(sql.SET_NOTES, (dump_notes(notes), target, ns, checkpoint_id))


class _Copier:
    """Copies the blobs of a namespace onto another thread's."""

    def __init__(
        self, conn: Connection, encoder: Encoder, ns: str, source: str, target: str
    ) -> None:
        self._conn, self._encoder = conn, encoder
        self._source = Contents(conn, encoder.serde, (source, ns))
        self._there = Contents(conn, encoder.serde, (target, ns))
        self._copied: dict[tuple[str, str], str] = {}

    def copy(self, channel: str, key: str) -> str:
        """Copy a blob, if there is one; returns the version key that finds it, or its absence.

        A version that may come up in any thread (an int, say) gets a key of our making: the
        target's checkpoints may have another value under it, or none.
        """
        if (channel, key) not in self._copied:
            self._copied[channel, key] = self._copy(channel, key)
        return self._copied[channel, key]

    def _copy(self, channel: str, key: str) -> str:
        row = self._source.find(channel, key)
        unique = is_unique(key) or "~" in key
        if row is None or row.blob is None:
            return key if unique else no_value(key)
        value = self._source.readable(row)
        if unique:
            placed = row if value is None or row.base is None else self._placed(row, value)
            if self._insert(placed):
                return key
            found = self._there.find(channel, key)
            if found is None or found.blob is None:
                return key
            if value is not None and self._there.readable(found) == value:
                return key
        if value is None:
            own = own_version(self._encoder.serde, key, *_as_stored(row))
            self._insert(row._replace(version=own))
        else:
            alone = self._encoder.history.alone(self._encoder.serde, value)
            own = own_version(self._encoder.serde, key, value, alone[:2])
            self._insert(Stored(channel, own, *alone))
        return own

    def _insert(self, row: Stored) -> bool:
        # Text of a damaged row may be what no statement takes.
        columns = (cleaned(each) if isinstance(each, str) else each for each in row)
        return bool(self._conn.execute(sql.INSERT_BLOB, (*self._there.place, *columns)).rowcount)

    def _placed(self, row: Stored, value: Blob) -> Stored:
        """A row as it can be in the target: resting on the nearest of those that it rests on and
        that can be read there, or on nothing.
        """
        history, serde = self._encoder.history, self._encoder.serde
        for link in self._source.chain(row)[1][1:]:
            found = self._there.find(row.channel, link.version)
            if found is None or found.token != link.token:
                continue
            base = self._there.readable(found)
            if base is None or base != self._base(row.channel, link.version):
                continue
            if link.version == row.base:
                return row
            at = link.version, link.token
            encoded = history.resting(serde, value, base[1], *at)
            break
        else:
            encoded = history.alone(serde, value)
        return Stored(row.channel, row.version, *encoded[:4], row.token, row.number)

    def _base(self, channel: str, version: str) -> Blob | None:
        row = self._source.find(channel, version)
        return self._source.readable(row) if row else None


def _as_stored(row: Stored) -> tuple[Blob, Blob]:
    """What makes a version of a value that cannot be read: its columns as they are."""
    blob = ("damaged", repr(row[2:]).encode("utf-8", "surrogateescape"))
    return blob, blob


def _damaged_writes(conn: Connection, encoder: Encoder, source: str, target: str) -> list[int]:
    """The rowids of damaged pending writes that would come to checkpoints of the target.

    What another saver might read, with a key or classes that are missing here, counts as sound.
    """
    here: dict[str, Contents] = {}
    damaged: list[int] = []
    wanted = (source, target, target)
    for rowid, ns, task_id, *write in conn.execute(sql.SELECT_WRITES_TO_ADD, wanted):
        if is_key(ns):
            contents = here.setdefault(ns, Contents(conn, encoder.serde, (source, ns)))
            if not are_keys((task_id, write[0])) or _is_damaged(contents, encoder, *write):
                damaged.append(rowid)
    return damaged


def _is_damaged(
    contents: Contents, encoder: Encoder, channel: str, kind: Any, *others: Any
) -> bool:
    try:
        loads(inner(encoder.serde), channel, *contents.written(channel, kind, *others))
    except DamagedError:
        return True
    except SerializationError as error:
        missing = isinstance(error, (ImportError, AttributeError, MemoryError))
        return not (missing or isinstance(error.__cause__, MemoryError) or "+" in str(kind))
    return False


def _add_missing_writes(
    conn: Connection, encoder: Encoder, source: str, target: str, damaged: Sequence[int]
) -> None:
    """Copy pending writes; those whose bases the target has not, or has otherwise, stand alone."""
    missing = conn.execute(sql.SELECT_MISSING_WRITES, (source, target)).fetchall()
    conn.execute(sql.COPY_OTHER_WRITES, (target, source, parameter(damaged)))
    here: dict[str, tuple[Contents, Contents]] = {}
    for ns, checkpoint_id, task_id, idx, _ in missing:
        if not (is_key(ns) and is_key(checkpoint_id) and is_key(task_id)):
            continue
        if ns not in here:
            one, other = ((each, ns) for each in (source, target))
            here[ns] = Contents(conn, encoder.serde, one), Contents(conn, encoder.serde, other)
        key = (ns, checkpoint_id, task_id, idx)
        write = conn.execute(sql.SELECT_WRITE, (source, *key)).fetchone()
        value = _written(here[ns][0], write)
        if value is None or _written(here[ns][1], write) == value:
            continue
        alone = encoder.history.alone(encoder.serde, value)
        conn.execute(sql.REBASE_WRITE, (*alone[:4], target, *key))


def _written(contents: Contents, write: Any) -> Blob | None:
    try:
        return contents.written(*write)
    except SerializationError:
        return None
