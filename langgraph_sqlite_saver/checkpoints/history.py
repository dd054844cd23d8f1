"""History that costs what changed: how a saver stores values, and what they may rest on."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping
from typing import Literal, Protocol

from langgraph.checkpoint.serde.base import SerializerProtocol

from ..database import InvalidInputError, fork
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
MOST_PLACES = 4096

# What a link takes beside its value's bytes: the tuple, its version, its token.
_LINK_BYTES = 250

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
        self._empty()
        fork.watch(self)

    def _empty(self) -> None:
        # The place used longest ago comes first. A place's dict is never changed, only replaced:
        # readers take it without the lock.
        self._places: OrderedDict[Place, dict[str, Chain]] = OrderedDict()
        self._weights: dict[Place, int] = {}
        self._held = 0  # the sum of the weights
        self._namespaces: dict[str, set[str]] = {}  # by thread
        self._lock = threading.RLock()

    def before_fork(self) -> None:
        """Nothing: who waited here for the lock might keep the others from their fork."""

    def after_fork_in_parent(self) -> None:
        """Nothing."""

    def after_fork_in_child(self) -> None:
        """Start afresh: a thread that is not here may have had the lock."""
        self._empty()

    def chain(self, place: Place, channel: str) -> Chain | None:
        """The chain of the newest version known; None if nothing is known of the channel."""
        return self._places.get(place, {}).get(channel)

    def figures(self) -> tuple[int, int]:
        """Of how many places something is known, and about how many bytes that takes."""
        return len(self._places), self._held

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
        with self._lock:
            known = {**self._places.get(place, {}), **chains}
            self._drop(place)
            if (weight := _weight(known)) > self._limit:
                return
            self._places[place] = known
            self._weights[place] = weight
            self._held += weight
            self._namespaces.setdefault(place[0], set()).add(place[1])
            while self._places and (self._held > self._limit or len(self._places) > MOST_PLACES):
                self._drop(next(iter(self._places)))

    def forget(self, thread_id: str) -> None:
        """Drop what is known of a thread from which something may have been deleted."""
        with self._lock:
            for ns in tuple(self._namespaces.get(thread_id, ())):
                self._drop((thread_id, ns))

    def _drop(self, place: Place) -> None:
        if self._places.pop(place, None) is None:
            return
        self._held -= self._weights.pop(place)
        namespaces = self._namespaces[place[0]]
        namespaces.discard(place[1])
        if not namespaces:
            del self._namespaces[place[0]]

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
    return sum(len(link.data or b"") + _LINK_BYTES for chain in chains.values() for link in chain)
