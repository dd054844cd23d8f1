"""History that costs what changed: values as differences from older versions of their channel.

Each version rests on an older one, its base, whose bytes are the dictionary of its zstd frame.
Version number i rests on number `i & (i - 1)`: i without its lowest set bit. What changed is so
written once or a few times, and any version comes back in log2(i) steps (the skip-delta of
Subversion's FSFS). The versions from one down to the whole one that it rests on are its chain.

A base is known by its token, a random number that a value gets when it is stored: a version that
was deleted and came up again with another value has another one.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Literal, NamedTuple, Protocol

from langgraph.checkpoint.serde.base import SerializerProtocol

from ..database import InvalidInputError
from .frames import compress
from .jsontext import parameter
from .values import Blob, seal

Mode = Literal["compact", "full"]

# Values below are stored whole, at no cost. Alone, without a base, it takes more to be worth it.
SMALL = 1_000
SMALL_ALONE = 4_000

# A whole version at the latest after so many of its bytes' worth of differences: small values,
# which are quick to write whole, should be quick to read too.
_BYTES_PER_LINK = 256
_SHORTEST = 8

# A base that is so many times larger than the value costs more than it can save.
_LARGEST_BASE = 8

# What the cache of a saver may hold, in bytes, and for how many threads and namespaces.
CACHE_BYTES = 32_000_000
_MOST_PLACES = 4096

# How frames are marked in the `type` column: `zstd:msgpack`.
FRAME = "zstd:"

_random = random.SystemRandom()

Place = tuple[str, str]


class Link(NamedTuple):
    """A version of a channel that others may rest on; `data` is its value's bytes, if at hand."""

    version: str
    token: int
    number: int
    kind: str
    data: bytes | None


# From a version down to the whole one; empty if there is nothing to rest on.
Chain = tuple[Link, ...]


class Encoded(NamedTuple):
    """The columns of a stored value, in the tables' order."""

    kind: str
    blob: bytes
    base: str | None = None
    size: int | None = None
    token: int | None = None
    number: int | None = None


class Encoder(Protocol):
    """What turns values into stored rows: a saver, its serialiser and its history."""

    serde: SerializerProtocol
    history: History


class History:
    """How a saver stores values, and the chains it has used last, within CACHE_BYTES.

    Only a cache: what it says of the file is checked in the transaction that relies on it.
    """

    def __init__(self, mode: Mode = "compact", cache_bytes: int = CACHE_BYTES) -> None:
        if mode not in ("compact", "full"):
            raise InvalidInputError(f"history is 'compact' or 'full', not {mode!r}")
        self.full = mode == "full"
        self._limit = cache_bytes
        self._bytes = 0
        # A place's dict is never changed, only replaced: threads share them without a lock.
        self._places: dict[Place, dict[str, Chain]] = {}

    def chain(self, place: Place, channel: str) -> Chain | None:
        """The chain of the newest version known; None if nothing is known of the channel."""
        return self._places.get(place, {}).get(channel)

    def newest(self, place: Place) -> dict[str, Link]:
        """The newest version known of each channel of a place."""
        return {
            channel: chain[0] for channel, chain in self._places.get(place, {}).items() if chain
        }

    def remember(self, place: Place, chains: Mapping[str, Chain]) -> None:
        """Note chains that are in the file, those of the newest versions."""
        if not chains or self.full:
            return
        before = self._places.pop(place, {})
        self._places[place] = after = {**before, **chains}
        self._bytes += _weight(after) - _weight(before)
        if self._bytes > self._limit or len(self._places) > _MOST_PLACES:
            self._shrink()

    def forget(self, thread_id: str) -> None:
        """Drop what is known of a thread from which something may have been deleted."""
        for place in self._places.copy():
            if place[0] == thread_id:
                self._bytes -= _weight(self._places.pop(place, {}))

    def encode(self, serde: SerializerProtocol, value: Blob, chain: Chain) -> tuple[Encoded, Chain]:
        """A value's columns, and the part of `chain` it rests on: nothing if it stands alone."""
        return (plain(serde, value), ()) if self.full else encode(serde, value, chain)

    def encode_write(
        self, serde: SerializerProtocol, value: Blob, place: Place
    ) -> tuple[Encoded, dict[str, Link]]:
        """A pending write's columns, and the versions that it rests on, by channel."""
        if self.full or len(value[1]) < SMALL:
            return plain(serde, value), {}
        return encode_write(serde, value, self.newest(place))

    def alone(self, serde: SerializerProtocol, value: Blob) -> Encoded:
        """The columns of a value that rests on nothing."""
        return plain(serde, value) if self.full else whole(serde, value)

    def resting(
        self, serde: SerializerProtocol, value: Blob, base: bytes, versions: str
    ) -> Encoded:
        """The columns of a value that is stored anew, resting on `versions`, whose bytes `base` is.

        Its token and number stay what they are.
        """
        kind, data = value
        if self.full or not base or len(frame := compress(data, base)) >= len(data):
            return self.alone(serde, value)
        return Encoded(*seal(serde, FRAME + kind, frame), versions, len(data))

    def _shrink(self) -> None:
        """Let go of the places used longest ago."""
        kept: list[tuple[Place, dict[str, Chain]]] = []
        left, total = self._limit * 3 // 4, 0
        for place, chains in reversed(self._places.copy().items()):
            weight = _weight(chains)
            if total + weight > left or len(kept) >= _MOST_PLACES * 3 // 4:
                continue
            total += weight
            kept.append((place, chains))
        self._places, self._bytes = dict(reversed(kept)), total


def _weight(chains: dict[str, Chain]) -> int:
    return sum(len(link.data or b"") for chain in chains.values() for link in chain)


def new_token() -> int:
    """A token for a value that is stored for the first time."""
    return _random.getrandbits(63)


def base_of_next(chain: Chain) -> int:
    """Where in a chain the base of the version after it is."""
    number = chain[0].number + 1
    target = number & (number - 1)
    for position, link in enumerate(chain):
        if link.number <= target:
            return position
    return len(chain) - 1


def encode(serde: SerializerProtocol, value: Blob, chain: Chain) -> tuple[Encoded, Chain]:
    """A value's columns, and the part of `chain` that it rests on: nothing if it stands alone."""
    kind, data = value
    if len(data) < SMALL or not chain:
        return whole(serde, value), ()
    rest, number = chain[base_of_next(chain) :], chain[0].number + 1
    base = rest[0].data
    if (
        not base
        or number >= max(_SHORTEST, len(data) // _BYTES_PER_LINK)
        or len(base) > len(data) * _LARGEST_BASE
    ):
        return whole(serde, value), ()
    frame = compress(data, base)
    if len(frame) * 4 >= len(data):  # little in common: does it take a base at all?
        alone = whole(serde, value)
        if len(frame) * 4 >= len(alone.blob) * 3:
            return alone, ()
    sealed = seal(serde, FRAME + kind, frame)
    return Encoded(*sealed, rest[0].version, len(data), new_token(), number), rest


def whole(serde: SerializerProtocol, value: Blob) -> Encoded:
    """The columns of a value that rests on nothing; as a frame of its own if that is smaller."""
    kind, data = value
    if len(data) >= SMALL_ALONE:
        frame = compress(data)
        if len(frame) < len(data):
            sealed = seal(serde, FRAME + kind, frame)
            return Encoded(*sealed, None, len(data), new_token(), 0)
    return plain(serde, value)


def plain(serde: SerializerProtocol, value: Blob) -> Encoded:
    """The columns of a value as it is, which later ones may rest on unless it is small."""
    sealed = seal(serde, *value)
    if len(value[1]) < SMALL:
        return Encoded(*sealed)
    return Encoded(*sealed, None, None, new_token(), 0)


def encode_write(
    serde: SerializerProtocol, value: Blob, newest: Mapping[str, Link]
) -> tuple[Encoded, dict[str, Link]]:
    """A pending write's columns, and the versions that it rests on.

    A write that carries the state along (a Send's, say) repeats the values of several channels:
    its base is those not larger than itself, one after the other.
    """
    kind, data = value
    links = _carried(len(data), newest)
    base = b"".join(link.data or b"" for link in links.values())
    if base and len(frame := compress(data, base)) * 4 < len(data):
        versions = {channel: link.version for channel, link in links.items()}
        sealed = seal(serde, FRAME + kind, frame)
        return Encoded(*sealed, parameter(versions), len(data)), links
    return whole(serde, value), {}


def _carried(size: int, newest: Mapping[str, Link]) -> dict[str, Link]:
    """The largest values that a write of `size` bytes can hold together."""
    found: dict[str, Link] = {}
    left = largest_carried(size)
    for channel, link in sorted(newest.items(), key=lambda each: -len(each[1].data or b"")):
        if link.data and len(link.data) <= left:
            left -= len(link.data)
            found[channel] = link
    return found


def largest_carried(size: int) -> int:
    """How large the values may be, together, that a write of `size` bytes rests on."""
    return size * 5 // 4
