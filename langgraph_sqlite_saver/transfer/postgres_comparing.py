"""Comparing what was carried with what it was, without anybody's classes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any, NamedTuple

from langgraph.checkpoint.serde.base import SerializerProtocol
from langgraph.checkpoint.serde.types import TASKS

from ..checkpoints import jsontext
from ..checkpoints.reading import Row
from ..checkpoints.values import EXTRAS, Blob, dumps, inner, loads, unseal
from .emptying import Key, Write
from .errors import VerificationError
from .postgres_page import Content
from .postgres_reading import Found, Snapshot
from .postgres_spelling import sends_in
from .postgres_tables import Loaded, Tables


class Side(NamedTuple):
    """A checkpoint as one side has it, in a form that can be compared."""

    parent_id: str | None
    metadata: Any
    # Serialised, and deciphered where the key is there.
    values: dict[str, Blob]
    # Its other keys.
    document: Any
    writes: list[Any]


class Comparison:
    """Compares checkpoints as they were with what has become of them."""

    def __init__(self, serde: SerializerProtocol) -> None:
        self._serde = serde
        self._plain = inner(serde)
        self.compared = 0

    def with_postgres(self, tables: Tables, contents: Sequence[Content]) -> None:
        """Raise VerificationError for the first that PostgresSaver would find otherwise."""
        if contents:
            found = tables.loaded([each.key for each in contents])
            for each in contents:
                row = found.get(each.key)
                there = self._loaded(row) if row else None
                self._check("Postgres", each.key, self._carried(each), there)

    def with_file(
        self,
        snapshot: Snapshot,
        compared: Iterable[Found],
        stored: Mapping[Key, tuple[Row, dict[str, Blob], list[Write]]],
    ) -> None:
        """Raise VerificationError for the first of a snapshot that the file has otherwise."""
        for each in compared:
            here = self._stored(*stored[each.key]) if each.key in stored else None
            self._check("the file", each.key, self._found(snapshot, each), here)

    def _check(self, where: str, key: Key, was: Side, is_: Side | None) -> None:
        difference = "it is missing" if is_ is None else _difference(was, is_)
        if difference:
            raise VerificationError(
                f"thread {key.thread_id!r}, namespace {key.checkpoint_ns!r}, checkpoint "
                f"{key.checkpoint_id}: {where} has another one: {difference}"
            )
        self.compared += 1

    # Of the way there.

    def _carried(self, each: Content) -> Side:
        """Our checkpoint, its versions in Postgres' spelling."""
        row = each.spelled.row
        values = self._inline(row.checkpoint) | self._opened(each.values)
        if EXTRAS in values:
            kind, data = values.pop(EXTRAS)
            values[TASKS] = kind, sends_in(data)
        document = jsontext.load_checkpoint(each.spelled.text)
        metadata = jsontext.load_metadata(row.metadata)
        return Side(
            each.parent_id, _numbers(metadata), values, _rest(document), self._writes(each.writes)
        )

    def _loaded(self, row: Loaded) -> Side:
        return Side(
            row.parent_id,
            _numbers(row.metadata),
            self._inline(row.checkpoint) | self._opened(row.blobs),
            _rest(row.checkpoint),
            self._writes(row.writes),
        )

    # Of the way back.

    def _found(self, snapshot: Snapshot, each: Found) -> Side:
        blobs = {channel: snapshot.values[key] for channel, key in each.blobs.items()}
        return Side(
            each.parent_id,
            _numbers(each.metadata),
            self._inline(each.checkpoint) | self._opened(blobs),
            _rest(each.checkpoint),
            self._writes(snapshot.writes.get(each.key, ())),
        )

    def _stored(self, row: Row, blobs: Mapping[str, Blob], writes: Sequence[Write]) -> Side:
        values = self._inline(row.checkpoint) | self._opened(blobs)
        extras = values.pop(EXTRAS, None)
        document = row.checkpoint
        if extras:
            document = {**document, **loads(self._plain, EXTRAS, *extras)}
        metadata = jsontext.load_metadata(row.metadata)
        return Side(
            row.parent_id, _numbers(metadata), values, _rest(document), self._writes(writes)
        )

    # Of both.

    def _inline(self, checkpoint: Mapping[str, Any]) -> dict[str, Blob]:
        values = checkpoint.get("channel_values") or {}
        return {channel: dumps(self._plain, value, channel) for channel, value in values.items()}

    def _opened(self, blobs: Mapping[str, Blob]) -> dict[str, Blob]:
        return {channel: self._open(channel, *blob) for channel, blob in blobs.items()}

    def _open(self, channel: str, kind: str, data: bytes) -> Blob:
        plain, opened = unseal(self._serde, channel, kind, data)
        return plain, bytes(opened)

    def _writes(self, writes: Sequence[Write]) -> list[Any]:
        return sorted(
            (each.task_path, each.task_id, each.idx, each.channel,
             self._open(each.channel, each.kind, each.blob))
            for each in writes
        )  # fmt: skip


def _difference(was: Side, is_: Side) -> str | None:
    if was.parent_id != is_.parent_id:
        return "its parent"
    if was.metadata != is_.metadata:
        return "its metadata"
    if channel := next(_other_values(was.values, is_.values), None):
        return f"the value of channel {channel!r}"
    if was.document != is_.document:
        return "its versions, or another of its keys"
    return None if was.writes == is_.writes else "its pending writes"


def _other_values(was: Mapping[str, Blob], is_: Mapping[str, Blob]) -> Iterator[str]:
    for channel in sorted(was.keys() | is_.keys()):
        if was.get(channel) != is_.get(channel):
            yield channel


def _rest(checkpoint: Mapping[str, Any]) -> Any:
    """A checkpoint without its values."""
    return _numbers({key: value for key, value in checkpoint.items() if key != "channel_values"})


def _numbers(value: Any) -> Any:
    """JSON in which numbers are compared as the numbers they are: JSONB writes 1e300 in full."""
    if type(value) is float:
        return Decimal(repr(value))
    if type(value) is int:
        return Decimal(value)
    if isinstance(value, list):
        return [_numbers(each) for each in value]
    if isinstance(value, dict):
        return {key: _numbers(each) for key, each in value.items()}
    return value
