"""Copying a thread: everything, under the same ids, the source untouched."""

from __future__ import annotations

from sqlite3 import Connection

from . import jsontext, sql
from .values import blob_keys, dump_notes, load_notes, own_version
from .writing import delete_unreferenced


def copy_thread(conn: Connection, source: str, target: str) -> None:
    """Copy a thread; onto an existing one it adds what is missing there.

    Where both threads keep different values under one version of a channel, the copied
    checkpoints get theirs under a version of our making. A `thread_id` in the metadata becomes
    the target's.
    """
    if source == target:
        return
    if conn.execute(sql.HAS_THREAD, (target,)).fetchone():
        _resolve_clashes(conn, source, target)
        conn.execute(sql.COPY_BLOBS, (source, target))
        _drop_unused(conn, source, target)
    else:
        conn.execute(sql.COPY_CHECKPOINTS, (source, target))
        conn.execute(sql.COPY_BLOBS, (source, target))
    conn.execute(sql.COPY_WRITES, (source, target))


def _resolve_clashes(conn: Connection, source: str, target: str) -> None:
    clashes: dict[tuple[str, str, str], str] = {}
    for ns, channel, version, kind, data in conn.execute(
        sql.SELECT_CLASHES, (source, target)
    ).fetchall():
        blob = (kind, data or b"")
        own = clashes[(ns, channel, version)] = own_version(version, blob)
        conn.execute(sql.INSERT_BLOB, (target, ns, channel, own, *blob))
    missing = conn.execute(sql.SELECT_MISSING_IN_TARGET, (source, target)).fetchall()
    conn.execute(sql.COPY_CHECKPOINTS, (source, target))
    if not clashes:
        return
    for ns, checkpoint_id, text, noted in missing:
        notes = load_notes(noted)
        for channel, key in blob_keys(jsontext.load_checkpoint(text), notes).items():
            if (ns, channel, key) in clashes:
                notes[channel] = clashes[(ns, channel, key)]
        conn.execute(sql.SET_NOTES, (target, ns, checkpoint_id, dump_notes(notes)))


def _drop_unused(conn: Connection, source: str, target: str) -> None:
    """Blobs of the source's checkpoints whose ids the target had already came for nothing."""
    for (ns,) in conn.execute(sql.SELECT_NAMESPACES, (source,)).fetchall():
        copied = set(conn.execute(sql.SELECT_BLOB_KEYS, (target, ns)).fetchall())
        delete_unreferenced(conn, target, ns, copied)
