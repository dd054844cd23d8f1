"""Deleting blobs that others may rest on: what stays is given another base first."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from sqlite3 import Connection
from typing import Any

from . import jsontext, sql
from .contents import Contents, Stored, load_base
from .encoding import Link, dump_base
from .history import Encoder, Place
from .jsontext import parameter
from .values import blob_keys, load_notes

# (channel, version)
Key = tuple[str, str]


def delete_unreferenced(
    conn: Connection, encoder: Encoder, place: Place, candidates: set[Key]
) -> None:
    """Delete the blobs among `candidates` that no checkpoint uses."""
    left = set(candidates)
    for text, notes in conn.execute(sql.SELECT_NAMESPACE, place):
        left -= blob_keys(jsontext.load_checkpoint(text), load_notes(notes)).items()
        if not left:
            return
    delete_blobs(conn, encoder, place, left)


def delete_blobs(conn: Connection, encoder: Encoder, place: Place, doomed: set[Key]) -> None:
    """Delete blobs. Values that rest on them are stored anew before, one at a time."""
    channels = parameter(sorted({channel for channel, _ in doomed}))
    for channel, version, base in conn.execute(sql.SELECT_BASES, (channels, *place)).fetchall():
        if (channel, base) in doomed and (channel, version) not in doomed:
            _rebase_blob(conn, encoder, place, (channel, version), doomed)
    for *key, base in conn.execute(sql.SELECT_BASES_OF_WRITES, place).fetchall():
        if doomed.intersection(load_base(base)):
            _rebase_write(conn, encoder, place, key, doomed)
    conn.executemany(sql.DELETE_BLOB, [(*place, *key) for key in doomed])


def _rebase_blob(
    conn: Connection, encoder: Encoder, place: Place, key: Key, doomed: set[Key]
) -> None:
    contents = Contents(conn, encoder.serde, place)
    row = contents.find(*key)
    if row is not None:
        anew = rebased(encoder, contents, row, lambda at: (row.channel, at.version) not in doomed)
        conn.execute(sql.REBASE_BLOB, (*place, *anew))


def rebased(
    encoder: Encoder, contents: Contents, row: Stored, is_there: Callable[[Link], bool]
) -> Stored:
    """The row, resting on the nearest of those it rests on that will be there, or on nothing."""
    value, chain = contents.chain(row)
    for link in chain[1:]:
        if is_there(link):
            base = contents.carried([(row.channel, link.version)])
            at = link.version, link.token
            encoded = encoder.history.resting(encoder.serde, value, base, *at)
            break
    else:
        encoded = encoder.history.alone(encoder.serde, value)
    return Stored(row.channel, row.version, *encoded[:4], row.token, row.number)


def _rebase_write(
    conn: Connection, encoder: Encoder, place: Place, key: Sequence[Any], doomed: set[Key]
) -> None:
    """Let a pending write rest on those of its blobs that stay."""
    write = conn.execute(sql.SELECT_WRITE, (*place, *key)).fetchone()
    contents = Contents(conn, encoder.serde, place)
    value = contents.written(*write)
    staying = [each for each in load_base(write[3]) if each not in doomed]
    at = dump_base(staying), contents.mark(staying)
    encoded = encoder.history.resting(encoder.serde, value, contents.carried(staying), *at)
    conn.execute(sql.REBASE_WRITE, (*place, *key, *encoded[:4]))
