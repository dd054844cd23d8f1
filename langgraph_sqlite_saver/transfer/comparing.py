"""Whether a checkpoint is what it was: both sides read, as their savers read them, and compared.

Values are compared as plain data, so that their classes are not needed: what has a class stays the
bytes that it was serialised as.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import suppress
from typing import Any, NamedTuple

from langgraph.checkpoint.base import CheckpointTuple, PendingWrite
from langgraph.checkpoint.serde.base import SerializerProtocol
from langgraph.checkpoint.serde.encrypted import EncryptedSerializer
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.checkpoint.serde.types import TASKS

from ..checkpoints import jsontext
from ..checkpoints.config import Address
from ..checkpoints.errors import SerializationError
from ..checkpoints.reading import SENDS_INSIDE
from ..checkpoints.values import inner
from ..saver import SqliteSaver
from .plain import PlainSerializer, is_langgraphs, packed


class Expected(NamedTuple):
    """A checkpoint as its saver returns it, read with `plain_serde`."""

    parent_id: str | None
    checkpoint: Mapping[str, Any]
    metadata: Mapping[str, Any]
    writes: Sequence[PendingWrite]


def plain_serde(serde: SerializerProtocol) -> SerializerProtocol:
    """A serializer that reads what `serde` wrote as plain data, if LangGraph's own can."""
    if type(serde) is EncryptedSerializer:
        return EncryptedSerializer(serde.cipher, plain_serde(serde.serde))
    if isinstance(serde, JsonPlusSerializer) and is_langgraphs(serde) and not serde.pickle_fallback:
        return PlainSerializer()
    return serde


def plain_reader(saver: SqliteSaver) -> SqliteSaver:
    """A saver on the same file that reads values as plain data."""
    reader = copy.copy(saver)
    reader.serde = plain_serde(saver.serde)
    return reader


def difference(reader: SqliteSaver, address: Address, expected: Expected) -> str | None:
    """What of a checkpoint in our file is not as expected; None if all is."""
    try:
        found = reader.get_tuple(address.config())
    except (SerializationError, ValueError) as error:  # ValueError: no JSON
        return f"it cannot be read: {error}"
    if found is None:
        return "it is missing"
    return next(_Comparison(reader.serde).differences(found, expected), None)


class _Comparison:
    """Compares what was read with a serializer."""

    def __init__(self, serde: SerializerProtocol) -> None:
        self._serde = inner(serde)

    def differences(self, found: CheckpointTuple, expected: Expected) -> Iterator[str]:
        """What is not as expected, one after the other."""
        parent = (found.parent_config or {}).get("configurable", {}).get("checkpoint_id")
        if parent != expected.parent_id:
            yield f"its parent is {parent} and not {expected.parent_id}"
        cleaned = jsontext.load_metadata(jsontext.dump_metadata(expected.metadata))
        for key in self._differing(found.metadata, cleaned):
            yield f"its metadata {key!r} is another"
        yield from self._of_checkpoint(found.checkpoint, expected.checkpoint)
        # Where the thread has gone on meanwhile there are more of them.
        written = iter(found.pending_writes or ())
        if not all(self._is_among(written, write) for write in expected.writes):
            yield "its pending writes are others"

    def _is_among(self, written: Iterator[PendingWrite], write: PendingWrite) -> bool:
        return any(self._is_same(each, write) for each in written)

    def _of_checkpoint(
        self, found: Mapping[str, Any], expected: Mapping[str, Any]
    ) -> Iterator[str]:
        versions = expected.get("channel_versions") or {}
        # Before format 4 the parent's sends are moved into a checkpoint by reading it.
        moved = {TASKS} if expected.get("v", 1) < SENDS_INSIDE else set()
        for part, value in expected.items():
            if part == "channel_values":
                # One that was left out is filled in where its version has a value, as in Postgres.
                skipped = moved | (versions.keys() - (value or {}).keys())
                for channel in self._differing(found[part], value or {}, skipped):
                    yield f"the value of channel {channel!r} is another"
            elif part == "channel_versions":
                for channel in self._differing(found[part], versions, moved):
                    yield f"the version of channel {channel!r} is another"
            elif not self._is_same(found.get(part), value):
                yield f"its {part} is another"

    def _differing(
        self,
        found: Mapping[str, Any],
        expected: Mapping[str, Any],
        skipped: Set[str] = frozenset(),
    ) -> list[str]:
        return [
            key
            for key in (found.keys() | expected.keys()) - skipped
            if key not in found
            or key not in expected
            or not self._is_same(found[key], expected[key])
        ]

    def _is_same(self, found: Any, expected: Any) -> bool:
        if packed(found) == packed(expected):
            return True
        if type(self._serde) is PlainSerializer:
            return False
        # Objects of any class: equal, or the same to the serializer.
        with suppress(Exception):
            if found == expected:
                return True
        return self._serde.dumps_typed(found) == self._serde.dumps_typed(expected)
