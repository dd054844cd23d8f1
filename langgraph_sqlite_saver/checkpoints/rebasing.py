"""Deleting blobs that others may rest on: what stays is stored anew first."""

from __future__ import annotations

from sqlite3 import Connection
from typing import Any

from . import sql
from .contents import Contents, Stored, load_base
from .damage import is_key, try_document
from .encoding import Chain
from .errors import SerializationError
from .history import Encoder, Place
from .values import blob_keys, inner

# (channel, version)
Key = tuple[str, str]

# Rows read, after so many, are let go of: a long channel's would fill the memory.
_FORGET = 256


def delete_unreferenced(
    conn: Connection, encoder: Encoder, place: Place, candidates: set[Key] | None
) -> None:
    """Delete the blobs among `candidates`, or of all there are, that no checkpoint uses.

    None is deleted while the namespace has a checkpoint that cannot be read: it may be repaired,
    and which blobs are its own cannot be told.
    """
    if candidates is None:
        found = conn.execute(sql.SELECT_BLOB_KEYS, place).fetchall()
        candidates = {key for key in found if all(map(is_key, key))}
    left = set(candidates)
    for text, notes in conn.execute(sql.SELECT_NAMESPACE, place):
        document = try_document(text, notes)
        if document is None:
            return
        left -= blob_keys(*document).items()
        if not left:
            return
    _delete_blobs(conn, encoder, place, left)


def _delete_blobs(conn: Connection, encoder: Encoder, place: Place, doomed: set[Key]) -> None:
    """Delete blobs. What rests on them is stored anew before.

    Bytes that cannot be read stay as they are, and with them what they rest on: what is damaged
    may be repaired. A saver without a cipher cannot do it for encrypted values, and is told.
    """
    doomed = set(doomed)
    bases = _bases_of(conn, place, {channel for channel, _ in doomed})
    _free_writes(conn, encoder, place, doomed, bases)
    for channel, rests_on in bases.items():
        _free_blobs(conn, encoder, place, channel, doomed, rests_on)
    conn.executemany(sql.DELETE_BLOB, [(*place, *key) for key in doomed])


# What each version of a channel rests on, oldest first.
_Bases = dict[str, Any]


def _bases_of(conn: Connection, place: Place, channels: set[str]) -> dict[str, _Bases]:
    return {
        channel: dict(conn.execute(sql.SELECT_BASES, (*place, channel)).fetchall())
        for channel in sorted(channels)
    }


def _spare(doomed: set[Key], key: Key, rests_on: _Bases) -> None:
    """Let a blob stay, with those that it rests on."""
    channel = key[0]
    version: Any = key[1]
    while (channel, version) in doomed:
        doomed.remove((channel, version))
        version = rests_on.get(version)


def _free_blobs(
    conn: Connection,
    encoder: Encoder,
    place: Place,
    channel: str,
    doomed: set[Key],
    rests_on: _Bases,
) -> None:
    """Let a channel's versions that stay rest on the one before them that stays.

    Storing all of them whole would be simpler, and costs too much: on a chat of 200 turns four
    times the bytes after `prune(keep_last=20)`, up to 13 times after every other run was deleted.
    """
    contents = Contents(conn, encoder.serde, place)
    before: str | None = None
    for number, (version, base) in enumerate(rests_on.items()):
        if (channel, version) in doomed or not is_key(version):
            continue
        if number % _FORGET == 0:
            contents = Contents(conn, encoder.serde, place)
        if (channel, base) in doomed:
            row = contents.find(channel, version)
            value = contents.readable(row) if row else None
            if row is None or value is None:
                if row is not None and _lacks_key(encoder, row.kind):
                    contents.value(row)  # raises the error that says so
                _spare(doomed, (channel, base), rests_on)
                continue
            chain = _chain_before(contents, row, before, doomed)
            encoded, _ = encoder.history.encode(encoder.serde, value, chain)
            token = row.token if type(row.token) is int else encoded.token  # nothing rests on it
            anew = Stored(channel, version, *encoded[:4], token, encoded.number)
            conn.execute(sql.REBASE_BLOB, (*anew[2:], *place, *anew[:2]))
            contents.replace(anew)
        before = version


def _lacks_key(encoder: Encoder, kind: Any) -> bool:
    """Whether a value is encrypted and the saver has no cipher at all: it needs the key."""
    return "+" in str(kind) and inner(encoder.serde) is encoder.serde


def _chain_before(contents: Contents, row: Stored, before: str | None, doomed: set[Key]) -> Chain:
    """What a row may rest on: of the chain of the version before it what stays, if it can be read
    and does not rest on the row itself.
    """
    found = contents.find(row.channel, before) if before is not None else None
    if found is None or found.token is None:
        return ()
    try:
        chain = contents.chain(found)[1]
    except SerializationError:
        return ()
    if any(link.version == row.version for link in chain):
        return ()
    staying = tuple(link for link in chain if (row.channel, link.version) not in doomed)
    return contents.with_base(row.channel, staying)


def _free_writes(
    conn: Connection, encoder: Encoder, place: Place, doomed: set[Key], bases: dict[str, _Bases]
) -> None:
    """Store whole the pending writes that rest on a blob that goes."""
    contents = Contents(conn, encoder.serde, place)
    for *key, base in conn.execute(sql.SELECT_BASES_OF_WRITES, place).fetchall():
        try:
            needed = doomed.intersection(load_base(base))
        except ValueError:  # it cannot be read, nor told what it rests on
            continue
        if not needed:
            continue
        write = None
        try:
            write = conn.execute(sql.SELECT_WRITE, (*place, *key)).fetchone()
            value = contents.written(*write)
        except (SerializationError, UnicodeEncodeError):
            if write and _lacks_key(encoder, write[1]):
                raise
            for each in needed:
                _spare(doomed, each, bases.get(each[0], {}))
            continue
        encoded = encoder.history.alone(encoder.serde, value)
        conn.execute(sql.REBASE_WRITE, (*encoded[:4], *place, *key))
