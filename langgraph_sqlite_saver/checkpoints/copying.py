"""Copying a thread: everything, under the same ids, the source untouched."""

from __future__ import annotations

from sqlite3 import Connection

from . import jsontext, sql
from .contents import Contents, Stored, holds
from .encoding import Link
from .history import Encoder, Place
from .rebasing import rebased
from .values import blob_keys, dump_notes, load_notes, no_value, own_version
from .versions import is_unique


def copy_thread(conn: Connection, encoder: Encoder, source: str, target: str) -> None:
    """Copy a thread; onto an existing one it adds what is missing there.

    Each checkpoint keeps its own values, whatever the other thread has under the same versions. A
    `thread_id` in the metadata becomes the target's.
    """
    if source == target:
        return
    if conn.execute(sql.HAS_THREAD, (target,)).fetchone():
        _add_missing(conn, encoder, source, target)
        _add_missing_writes(conn, encoder, source, target)
    else:
        conn.execute(sql.COPY_CHECKPOINTS, (source, target))
        conn.execute(sql.COPY_BLOBS, (source, target))
        conn.execute(sql.COPY_WRITES, (source, target))


def _add_missing(conn: Connection, encoder: Encoder, source: str, target: str) -> None:
    missing = conn.execute(sql.SELECT_MISSING_IN_TARGET, (source, target)).fetchall()
    conn.execute(sql.COPY_CHECKPOINTS, (source, target))
    copied: dict[tuple[str, str, str], str] = {}
    for ns, checkpoint_id, text, noted in missing:
        before = load_notes(noted)
        notes = dict(before)
        between = (source, ns), (target, ns)
        for channel, key in blob_keys(jsontext.load_checkpoint(text), before).items():
            blob = (ns, channel, key)
            if blob not in copied:
                copied[blob] = _copy_blob(conn, encoder, *between, channel, key)
            if copied[blob] != key:
                notes[channel] = copied[blob]
        if notes != before:
            conn.execute(sql.SET_NOTES, (target, ns, checkpoint_id, dump_notes(notes)))


def _copy_blob(
    conn: Connection, encoder: Encoder, source: Place, target: Place, channel: str, key: str
) -> str:
    """Copy a blob, if there is one; returns the version key that finds it, or its absence, there.

    A version that may come up in any thread (an int, say) gets a key of our making: the target's
    checkpoints may have another value under it, or none.
    """
    contents = Contents(conn, encoder.serde, source)
    row = contents.find(channel, key)
    unique = is_unique(key) or "~" in key
    if row is None or row.blob is None:
        return key if unique else no_value(key)
    if unique:
        placed = row if row.base is None else _placed(conn, encoder, contents, target, row)
        if conn.execute(sql.INSERT_BLOB, (*target, *placed)).rowcount:
            return key
        there = Contents(conn, encoder.serde, target)
        found = there.find(channel, key)
        if found is None or (found.blob is not None and there.value(found) == contents.value(row)):
            return key
    value = contents.value(row)
    alone = encoder.history.alone(encoder.serde, value)
    own = own_version(encoder.serde, key, value, alone[:2])
    conn.execute(sql.INSERT_BLOB, (*target, channel, own, *alone))
    return own


def _placed(
    conn: Connection, encoder: Encoder, contents: Contents, target: Place, row: Stored
) -> Stored:
    """A row as it can be in the target: resting on what is there, or on nothing."""

    def is_there(link: Link) -> bool:
        return holds(conn, target, row.channel, link)

    chain = contents.chain(row)[1]
    return row if chain and is_there(chain[1]) else rebased(encoder, contents, row, is_there)


def _add_missing_writes(conn: Connection, encoder: Encoder, source: str, target: str) -> None:
    """Copy pending writes; those whose bases the target has not, or has otherwise, stand alone."""
    missing = conn.execute(sql.SELECT_MISSING_WRITES, (source, target)).fetchall()
    conn.execute(sql.COPY_WRITES, (source, target))
    for ns, *key, base in missing:
        if _tokens(conn, (source, ns), base) == _tokens(conn, (target, ns), base):
            continue
        write = conn.execute(sql.SELECT_WRITE, (source, ns, *key)).fetchone()
        value = Contents(conn, encoder.serde, (source, ns)).written(*write)
        alone = encoder.history.alone(encoder.serde, value)
        conn.execute(sql.REBASE_WRITE, (target, ns, *key, *alone[:4]))


def _tokens(conn: Connection, place: Place, base: str) -> dict[str, int]:
    return dict(conn.execute(sql.SELECT_TOKENS, (base, *place)).fetchall())
