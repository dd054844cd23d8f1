"""Copying a thread: everything, under the same ids, the source untouched."""

from __future__ import annotations

from sqlite3 import Connection

from . import jsontext, sql
from .values import blob_keys, dump_notes, load_notes, no_value, own_version
from .versions import is_unique


def copy_thread(conn: Connection, source: str, target: str) -> None:
    """Copy a thread; onto an existing one it adds what is missing there.

    Each checkpoint keeps its own values, whatever the other thread has under the same versions. A
    `thread_id` in the metadata becomes the target's.
    """
    if source == target:
        return
    if conn.execute(sql.HAS_THREAD, (target,)).fetchone():
        _add_missing(conn, source, target)
    else:
        conn.execute(sql.COPY_CHECKPOINTS, (source, target))
        conn.execute(sql.COPY_BLOBS, (source, target))
    conn.execute(sql.COPY_WRITES, (source, target))


def _add_missing(conn: Connection, source: str, target: str) -> None:
    missing = conn.execute(sql.SELECT_MISSING_IN_TARGET, (source, target)).fetchall()
    conn.execute(sql.COPY_CHECKPOINTS, (source, target))
    copied: dict[tuple[str, str, str], str] = {}
    for ns, checkpoint_id, text, noted in missing:
        before = load_notes(noted)
        notes = dict(before)
        for channel, key in blob_keys(jsontext.load_checkpoint(text), before).items():
            blob = (ns, channel, key)
            if blob not in copied:
                copied[blob] = _copy_blob(conn, source, target, *blob)
            if copied[blob] != key:
                notes[channel] = copied[blob]
        if notes != before:
            conn.execute(sql.SET_NOTES, (target, ns, checkpoint_id, dump_notes(notes)))


def _copy_blob(conn: Connection, source: str, target: str, ns: str, channel: str, key: str) -> str:
    """Copy a blob, if there is one; returns the version key that finds it, or its absence, there.

    A version that may come up in any thread (an int, say) gets a key of our making: the target's
    checkpoints may have another value under it, or none.
    """
    unique = is_unique(key) or "~" in key
    blob = conn.execute(sql.SELECT_BLOB, (source, ns, channel, key)).fetchone()
    if blob is None:
        return key if unique else no_value(key)
    if unique:
        if conn.execute(sql.INSERT_BLOB, (target, ns, channel, key, *blob)).rowcount:
            return key
        if conn.execute(sql.SELECT_BLOB, (target, ns, channel, key)).fetchone() == blob:
            return key
    own = own_version(key, blob)
    conn.execute(sql.INSERT_BLOB, (target, ns, channel, own, *blob))
    return own
