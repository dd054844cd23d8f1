"""The columns a value is stored in: as it is, as a frame, or as its difference from older values.

Version number i of a channel rests on number `i & (i - 1)`, that is i without its lowest set bit.
So what changed is written a few times, and any version is at most log2(i) steps from a whole one
(the skip-deltas of Subversion's FSFS). The versions from one down to the whole one are its chain.

A base is known by its token, a random number that a value gets when it is stored: a version that
was deleted and came up again with another value has another one.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from langgraph.checkpoint.serde.base import SerializerProtocol

from .differences import difference
from .frames import MOST_BYTES, compress, most_bytes
from .jsontext import parameter
from .values import Blob, seal

# Values below, about a page, are stored whole at no cost: a smaller row would save little.
SMALL = 4_000

# A whole version at the latest after one difference for so many of its bytes: small values, which
# are quick to write whole, should be quick to read too.
_BYTES_PER_LINK = 256

# Chains are about log2(n) long; rewriting may put one behind another.
_LONGEST_CHAIN = 32

# A base that is so many times larger than the value costs more than it can save.
_LARGEST_BASE = 32

# The same for the other channels' values that a write may have something in common with.
_LARGEST_OTHERS = 8

# How much of a write is looked for in the state, to see what it has in common with it. It rests on
# no more channels than there are samples.
SAMPLES = 4
_SAMPLE_BYTES = 32

# How the `type` column marks what is in a frame, and what is a difference: `zstd:msgpack`.
FRAME, DIFFERENCE = "zstd:", "diff:"

_random = random.SystemRandom()


class Link(NamedTuple):
    """A version of a channel that others may rest on; `data` is its value's bytes, if at hand."""

    version: str
    token: int
    number: int
    kind: str
    data: bytes | None


# From a version down to the whole one; empty if there is nothing to rest on.
Chain = tuple[Link, ...]

# The columns of a stored value, in the tables' order: those of Encoded.
Columns = tuple[str, bytes, str | None, int | None, int | None, int | None]


class Encoded(NamedTuple):
    """The columns of a stored value, in the tables' order."""

    kind: str
    blob: bytes
    base: str | None = None
    size: int | None = None
    token: int | None = None
    number: int | None = None


def plain(serde: SerializerProtocol, value: Blob) -> Encoded:
    """The columns of a value as it is, which later ones may rest on unless it is small."""
    sealed = seal(serde, *value)
    if len(value[1]) < SMALL:
        return Encoded(*sealed)
    return Encoded(*sealed, None, None, _new_token(), 0)


def whole(serde: SerializerProtocol, value: Blob) -> Encoded:
    """The columns of a value that rests on nothing; as a frame of its own if that is smaller."""
    kind, data = value
    if SMALL <= len(data) <= MOST_BYTES:  # SQLite refuses what is larger, as it is
        frame = compress(data)
        if len(frame) < len(data) <= most_bytes(len(frame)):
            sealed = seal(serde, FRAME + kind, frame)
            return Encoded(*sealed, None, len(data), _new_token(), 0)
    return plain(serde, value)


def encode(serde: SerializerProtocol, value: Blob, chain: Chain) -> tuple[Encoded, Chain]:
    """The columns of the version after a chain, and the part of the chain that it rests on."""
    kind, data = value
    if not SMALL <= len(data) <= MOST_BYTES or not chain:
        return whole(serde, value), ()
    rest, number = chain[base_of_next(chain) :], chain[0].number + 1
    base = rest[0].data
    if (
        not base
        or number >= len(data) // _BYTES_PER_LINK
        or len(base) > min(largest_base(len(data)), MOST_BYTES)
        or len(rest) > _LONGEST_CHAIN
    ):
        return whole(serde, value), ()
    found = difference(data, base, rest[0].token)
    if len(data) > most_bytes(len(found), len(base)):
        return whole(serde, value), ()
    if len(found) * 4 >= len(data):  # little in common: does it take a base at all?
        alone = whole(serde, value)
        if len(found) * 4 >= len(alone.blob) * 3:
            return alone, ()
    sealed = seal(serde, DIFFERENCE + kind, found)
    return Encoded(*sealed, rest[0].version, len(data), _new_token(), number), rest


def encode_write(
    serde: SerializerProtocol, channel: str, value: Blob, newest: Mapping[str, Link]
) -> tuple[Encoded, dict[str, Link]]:
    """A pending write's columns, and those of the `newest` versions that it rests on.

    A write often repeats what is in the state: a Send's carries it along, a file that was edited
    is one among many. Its base is the values that it has some bytes in common with.
    """
    size = len(value[1])
    if not SMALL <= size <= MOST_BYTES:
        return plain(serde, value), {}
    if links := _related(channel, value[1], newest):
        base = b"".join(link.data or b"" for link in links.values())
        versions = dump_base((name, link.version) for name, link in links.items())
        mark = mark_of(link.token for link in links.values())
        resting = rest_on(serde, value, base, versions, mark)
        if resting is not None and len(resting.blob) * 4 < size:
            return resting, links
    return whole(serde, value), {}


def _related(channel: str, data: bytes, newest: Mapping[str, Link]) -> dict[str, Link]:
    """The values in which samples of `data` are found; its own channel's is looked at first."""
    found: dict[str, Link] = {}
    step = len(data) // SAMPLES
    samples = [data[at : at + _SAMPLE_BYTES] for at in range(step // 2, len(data), step)]
    left = largest_base(len(data))
    for name in sorted(newest, key=lambda each: (each != channel, -len(newest[each].data or b""))):
        known = newest[name].data
        if name != channel:
            left = min(left, len(data) * _LARGEST_OTHERS)
        if samples and known and len(known) <= left:
            left -= len(known)
            missing = [sample for sample in samples if sample not in known]
            if len(missing) < len(samples):
                found[name], samples = newest[name], missing
    return found


def rest_on(
    serde: SerializerProtocol, value: Blob, base: bytes, versions: str, mark: int
) -> Encoded | None:
    """The columns, but for token and number, of a value resting on `versions`, whose bytes are
    `base`; None where it is smaller as it is.
    """
    kind, data = value
    if max(len(base), len(data)) > MOST_BYTES:
        return None
    found = difference(data, base, mark)
    if not len(found) < len(data) <= most_bytes(len(found), len(base)):
        return None
    return Encoded(*seal(serde, DIFFERENCE + kind, found), versions, len(data))


def base_of_next(chain: Chain) -> int:
    """Where in a chain the base of the version after it is."""
    number = chain[0].number + 1
    target = number & (number - 1)
    for position, link in enumerate(chain):
        if link.number <= target:
            return position
    return len(chain) - 1


def largest_base(size: int) -> int:
    """How large the value may be that one of `size` bytes rests on."""
    return size * _LARGEST_BASE


def mark_of(tokens: Iterable[int]) -> int:
    """The mark of a base that is several values, one after the other."""
    return sum(tokens) % 2**64


def dump_base(versions: Iterable[tuple[str, str]]) -> str:
    """A pending write's `base`: the (channel, version) that it rests on, in their order."""
    return parameter([list(each) for each in versions])


def _new_token() -> int:
    return _random.getrandbits(63)
