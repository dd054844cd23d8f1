"""History that costs what changed: how a saver stores values, and what they may rest on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, Protocol

from langgraph.checkpoint.serde.base import SerializerProtocol

from ..database import InvalidInputError
from .encoding import (
    Chain,
    Encoded,
    Link,
    base_of_next,
    encode,
    encode_write,
    plain,
    rest_on,
    whole,
)
from .values import Blob

Mode = Literal["compact", "full"]

# What the cache of a saver may hold, in bytes, and for how many threads and namespaces.
CACHE_BYTES = 32_000_000
_MOST_PLACES = 4096

Place = tuple[str, str]


class Encoder(Protocol):
    """What turns values into stored rows: a saver, its serialiser and its history."""

    serde: SerializerProtocol
    history: History


class History:
    """How a saver stores values, and the chains it has used last, within CACHE_BYTES.

    Only a cache: what it says of the file is checked in the transaction that relies on it. A place
    whose values are larger than that is looked up in the file each time.
    """

    def __init__(self, mode: Mode = "compact", cache_bytes: int = CACHE_BYTES) -> None:
        if mode not in ("compact", "full"):
            raise InvalidInputError(f"history is 'compact' or 'full', not {mode!r}")
        self.full = mode == "full"
        self._limit = cache_bytes
        # A place's dict is never changed, only replaced: threads share them without a lock. What
        # one of two that come at once forgets is looked up in the file.
        self._places: dict[Place, dict[str, Chain]] = {}
        self._weights: dict[Place, int] = {}

    def chain(self, place: Place, channel: str) -> Chain | None:
        """The chain of the newest version known; None if nothing is known of the channel."""
        return self._places.get(place, {}).get(channel)

    def usable(self, place: Place, channel: str) -> Chain | None:
        """The chain for the next version, its base at hand; None if it has to be looked up."""
        chain = self.chain(place, channel)
        if chain and chain[base_of_next(chain)].data is None:
            return None
        return chain

    def newest(self, place: Place) -> dict[str, Link]:
        """The newest version known of each channel of a place."""
        return {
            channel: chain[0] for channel, chain in self._places.get(place, {}).items() if chain
        }

    def remember(self, place: Place, chains: Mapping[str, Chain]) -> None:
        """Note chains that are in the file, those of the newest versions."""
        if not chains or self.full:
            return
        known = {**self._places.pop(place, {}), **chains}
        self._places[place] = known
        self._weights[place] = _weight(known)
        if len(self._places) > _MOST_PLACES or sum(self._weights.copy().values()) > self._limit:
            self._shrink()

    def forget(self, thread_id: str) -> None:
        """Drop what is known of a thread from which something may have been deleted."""
        for place in self._places.copy():
            if place[0] == thread_id:
                self._places.pop(place, None)
                self._weights.pop(place, None)

    def _shrink(self) -> None:
        """Let go of the places used longest ago."""
        kept: list[tuple[Place, dict[str, Chain]]] = []
        weights: dict[Place, int] = {}
        left = self._limit * 3 // 4
        for place, chains in reversed(self._places.copy().items()):
            weight = _weight(chains)
            if weight <= left and len(kept) < _MOST_PLACES * 3 // 4:
                left -= weight
                weights[place] = weight
                kept.append((place, chains))
        self._places, self._weights = dict(reversed(kept)), weights

    def encode(self, serde: SerializerProtocol, value: Blob, chain: Chain) -> tuple[Encoded, Chain]:
        """A version's columns, and the part of `chain` it rests on: nothing if it stands alone."""
        return (plain(serde, value), ()) if self.full else encode(serde, value, chain)

    def encode_write(
        self, serde: SerializerProtocol, channel: str, value: Blob, newest: Mapping[str, Link]
    ) -> tuple[Encoded, dict[str, Link]]:
        """A pending write's columns, and the versions that it rests on, by channel."""
        if self.full:
            return plain(serde, value), {}
        return encode_write(serde, channel, value, newest)

    def alone(self, serde: SerializerProtocol, value: Blob) -> Encoded:
        """The columns of a value that rests on nothing."""
        return plain(serde, value) if self.full else whole(serde, value)

    def resting(
        self, serde: SerializerProtocol, value: Blob, base: bytes, versions: str, mark: int
    ) -> Encoded:
        """The columns, but for token and number, of a value stored anew: resting on `versions`,
        whose bytes are `base`, or on nothing.
        """
        found = rest_on(serde, value, base, versions, mark) if base and not self.full else None
        return found or self.alone(serde, value)


def _weight(chains: Mapping[str, Chain]) -> int:
    return sum(len(link.data or b"") for chain in chains.values() for link in chain)
