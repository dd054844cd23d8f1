"""Values of Redis keys as bytes in SQLite, and back: exact, and equal where the values are equal.

A string is kept as it is. The others are msgpack (https://msgpack.org) of flat byte strings, in an
order of their own where Redis has none, so that two copies of a value compare as bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import ormsgpack

Flat = list[bytes]
# A member and its value, as they lie in redis_members.
Member = tuple[bytes, "bytes | None"]

_ID = struct.Struct(">QQ")


@dataclass(frozen=True, repr=False)  # it may hold secrets
class Value:
    """What a key holds.

    `data` is the flat content: a string's one item; field, value, … of a hash, by field; the items
    of a list; a set's members, sorted; member, score text, … of a zset, by member; of a stream its
    last id and then group, last delivered id, … Its entries come apart, for they are many.
    """

    type: str
    data: tuple[bytes, ...]

    def pairs(self) -> Iterable[tuple[bytes, bytes]]:
        """A hash's fields and values, a zset's members and scores, a stream's groups and ids."""
        data = self.data[1:] if self.type == "stream" else self.data
        return zip(data[::2], data[1::2], strict=True)

    def fields(self) -> dict[bytes, bytes]:
        """A hash as a dict."""
        return dict(self.pairs())

    def members(self) -> list[Member]:
        """What redis_members holds of a hash, a set or a zset."""
        if self.type == "set":
            return [(member, None) for member in self.data]
        return list(self.pairs())


def of_reply(kind: str, reply: Any) -> Value | None:
    """The value that Redis' reply stands for; None for an empty one, which means no key."""
    if kind == "string":
        return None if reply is None else Value(kind, (reply,))
    if not reply:
        return None
    if kind == "list":
        return Value(kind, tuple(reply))
    if kind == "set":
        return Value(kind, tuple(sorted(reply)))
    flat = _flat(reply)
    pairs = zip(flat[::2], flat[1::2], strict=True)
    if kind == "zset":
        return of_pairs(kind, ((member, score_text(score)) for member, score in pairs))
    return of_pairs(kind, pairs)


def score_text(score: bytes) -> bytes:
    """A score as Redis 6 writes it: 17 digits tell every double; later ones write fewer."""
    return b"%.17g" % float(score)


def of_pairs(kind: str, pairs: Iterable[tuple[bytes, bytes]]) -> Value:
    """A hash or a zset from its pairs."""
    return Value(kind, tuple(chain.from_iterable(sorted(pairs))))


def of_members(kind: str, members: Iterable[Member]) -> Value:
    """A hash, a set or a zset from rows of redis_members."""
    if kind == "set":
        return Value(kind, tuple(sorted(member for member, _ in members)))
    return of_pairs(kind, ((member, value or b"") for member, value in members))


def _flat(reply: Any) -> Sequence[bytes]:
    """redis-py gives a hash as a dict."""
    if isinstance(reply, dict):
        return [part for pair in reply.items() for part in pair]
    return list(reply)


def pack(value: Value) -> bytes:
    """As bytes for a column."""
    return value.data[0] if value.type == "string" else ormsgpack.packb(value.data)


def unpack(kind: str, blob: bytes) -> Value:
    """The value that `pack` made bytes of."""
    if kind == "string":
        return Value(kind, (blob,))
    return Value(kind, tuple(ormsgpack.unpackb(blob)))


def pack_list(parts: Sequence[Any]) -> bytes:
    """Byte strings, or lists of them, as bytes for a column."""
    return ormsgpack.packb(parts)


def unpack_list(blob: bytes) -> list[Any]:
    """What `pack_list` made bytes of."""
    return list(ormsgpack.unpackb(blob))


def stream_member(id: bytes) -> bytes:
    """A stream's id, `1795291568160-0`, as 16 bytes that sort as ids do."""
    ms, _, seq = id.partition(b"-")
    return _ID.pack(int(ms), int(seq or 0))


def stream_id(member: bytes) -> bytes:
    """The id that `stream_member` made bytes of."""
    return b"%d-%d" % _ID.unpack(member)
