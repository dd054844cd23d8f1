"""Deleting blobs that others may rest on: what stays is given another base first."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from sqlite3 import Connection
from typing import Any

from . import jsontext, sql
from .contents import Contents, Stored, load_base
from .encoding import Chain, Link, dump_base
from .errors import DamagedError
from .history import Encoder, Place
from .values import blob_keys, load_notes

# (channel, version)
Key = tuple[str, str]

# Rows read, after so many, are let go of: a long channel's would fill the memory.
_FORGET = 256


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
    """Delete blobs. What rests on them is stored anew before; what is damaged already stays so."""
    for channel in sorted({channel for channel, _ in doomed}):
        _rebase_blobs(conn, encoder, place, channel, doomed)
    for *key, base in conn.execute(sql.SELECT_BASES_OF_WRITES, place).fetchall():
        if doomed.intersection(load_base(base)):
            with suppress(DamagedError):
                _rebase_write(conn, encoder, place, key, doomed)
    conn.executemany(sql.DELETE_BLOB, [(*place, *key) for key in doomed])


def _rebase_blobs(
    conn: Connection, encoder: Encoder, place: Place, channel: str, doomed: set[Key]
) -> None:
    """Let a channel's versions that stay rest on the one before them that stays."""
    versions = conn.execute(sql.SELECT_BASES, (*place, channel)).fetchall()
    before: str | None = None
    contents = Contents(conn, encoder.serde, place)
    for number, (version, base) in enumerate(versions):
        if (channel, version) in doomed:
            continue
        if number % _FORGET == 0:
            contents = Contents(conn, encoder.serde, place)
        if (channel, base) in doomed:
            with suppress(DamagedError):
                _rebase_blob(conn, encoder, contents, (channel, version), before, doomed)
        before = version


def _rebase_blob(
    conn: Connection,
    encoder: Encoder,
    contents: Contents,
    key: Key,
    before: str | None,
    doomed: set[Key],
) -> None:
    channel, version = key
    row = contents.find(*key)
    if row is None:
        return
    chain: Chain = ()
    if before is not None and (found := contents.find(channel, before)) and found.token is not None:
        chain = contents.chain(found)[1]
    if any(link.version == version for link in chain):  # it rests on this one
        chain = ()
    staying = tuple(link for link in chain if (channel, link.version) not in doomed)
    encoded, _ = encoder.history.encode(
        encoder.serde, contents.value(row), contents.with_base(channel, staying)
    )
    anew = Stored(channel, version, *encoded[:4], row.token, encoded.number)
    conn.execute(sql.REBASE_BLOB, (*contents.place, *anew))
    contents.replace(anew)


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
