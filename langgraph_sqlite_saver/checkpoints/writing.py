"""Saving: what `put` and `put_writes` store. Values are serialised before an operation starts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from sqlite3 import Connection
from typing import Any

import orjson
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import (
    WRITES_IDX_MAP,
    ChannelVersions,
    Checkpoint,
    CheckpointMetadata,
    get_checkpoint_metadata,
)
from langgraph.checkpoint.serde.base import SerializerProtocol
from langgraph.checkpoint.serde.types import _DeltaSnapshot

from ..database import InvalidInputError, InvalidTypeError
from . import jsontext, sql
from .config import address_of, configurable, full_address_of
from .values import (
    EXTRAS,
    Blob,
    blob_keys,
    dump_notes,
    dumps,
    inlines,
    is_inline,
    load_notes,
    own_version,
)

# The keys of a checkpoint that are JSON by their definition (langgraph.checkpoint.base.Checkpoint).
_JSON_KEYS = {
    "v",
    "id",
    "ts",
    "channel_values",
    "channel_versions",
    "versions_seen",
    "updated_channels",
}


@dataclass
class Put:
    """A checkpoint on its way into the file."""

    thread_id: str
    checkpoint_ns: str
    checkpoint_id: str
    parent_id: str | None
    document: dict[str, Any]
    metadata: str
    run_id: str | None
    serde: SerializerProtocol
    # Serialised: the channels that new_versions names, with their version.
    named: list[tuple[str, str, Blob]] = field(default_factory=list)
    # Serialised: what has no version; kept under one of our making.
    homeless: list[tuple[str, str, Blob]] = field(default_factory=list)
    # Not serialised: what new_versions does not name is, as a rule, stored already.
    unnamed: dict[str, tuple[str, Any]] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)


def prepare_put(
    serde: SerializerProtocol,
    config: RunnableConfig,
    checkpoint: Checkpoint,
    metadata: CheckpointMetadata,
    new_versions: ChannelVersions,
) -> tuple[Put, RunnableConfig]:
    """Serialise a checkpoint as it is now; also the config that names it."""
    place = address_of(config)
    _check(checkpoint, metadata, new_versions)
    merged = get_checkpoint_metadata(config, metadata)
    run_id = merged.get("run_id")
    request = Put(
        *place[:2],
        checkpoint_id=checkpoint["id"],
        parent_id=place.checkpoint_id,
        document={},
        metadata=jsontext.dump_metadata(merged),
        run_id=None if run_id is None else str(run_id),
        serde=serde,
    )
    inline = _sort_values(request, checkpoint, new_versions)
    request.document = {**_sort_keys(request, checkpoint), "channel_values": inline}
    saved: RunnableConfig = {
        "configurable": {
            "thread_id": configurable(config)["thread_id"],
            "checkpoint_ns": place.checkpoint_ns,
            "checkpoint_id": checkpoint["id"],
        }
    }
    return request, saved


def _check(checkpoint: Any, metadata: Any, new_versions: Any) -> None:
    for name, value in (
        ("checkpoint", checkpoint),
        ("metadata", metadata),
        ("new_versions", new_versions),
    ):
        if not isinstance(value, Mapping):
            raise InvalidTypeError(f"{name} must be a dict, not {type(value).__name__}")
    if not isinstance(checkpoint.get("id"), str):
        raise InvalidInputError("the checkpoint has no id: make one with empty_checkpoint()")


def _sort_values(
    request: Put, checkpoint: Checkpoint, new_versions: ChannelVersions
) -> dict[str, Any]:
    """The values that lie inline; the others go to where they are stored from."""
    inline: dict[str, Any] = {}
    may_inline = inlines(request.serde)
    versions = checkpoint.get("channel_versions") or {}
    for channel, value in (checkpoint.get("channel_values") or {}).items():
        if may_inline and is_inline(value):
            inline[channel] = value
            continue
        version = versions.get(channel)
        if version is None:
            blob = dumps(request.serde, value, f"channel {channel!r}")
            request.homeless.append((channel, "", blob))
        elif channel in new_versions:
            blob = dumps(request.serde, value, f"channel {channel!r}")
            request.named.append((channel, str(version), blob))
        else:
            request.unnamed[channel] = (str(version), value)
        if isinstance(value, _DeltaSnapshot):  # PostgresSaver's prune looks for this mark
            inline[channel] = True
            request.notes[channel] = str(version)
    return inline


def _sort_keys(request: Put, checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """The checkpoint's keys that are JSON; others, of older formats, become a blob."""
    document = {"channel_versions": {}, "versions_seen": {}, **checkpoint}
    extras = {
        key: document.pop(key)
        for key, value in checkpoint.items()
        if key not in _JSON_KEYS and not (is_inline(value) or value == [] or value == {})
    }
    if extras:
        request.homeless.append((EXTRAS, "", dumps(request.serde, extras, "the checkpoint")))
    return document


def put(conn: Connection, request: Put) -> None:
    """Store a checkpoint and the values that are not stored yet; replaces one of the same id."""
    notes = dict(request.notes)
    for channel, version, blob in request.named:
        _store(conn, request, channel, version, blob, notes)
    if request.unnamed:
        _store_unnamed(conn, request, notes)
    for channel, version, blob in request.homeless:
        _store(conn, request, channel, own_version(version, blob), blob, notes)
        notes[channel] = own_version(version, blob)
    row = (
        request.thread_id,
        request.checkpoint_ns,
        request.checkpoint_id,
        request.parent_id,
        jsontext.dump_checkpoint(request.document),
        request.metadata,
        request.run_id,
        dump_notes(notes),
    )
    if conn.execute(sql.INSERT_CHECKPOINT, row).rowcount == 0:
        _replace(conn, request, row, notes)


def _store(
    conn: Connection, request: Put, channel: str, version: str, blob: Blob, notes: dict[str, str]
) -> None:
    """Store a blob under its version, or, where that holds another value, under one of ours."""
    key = (request.thread_id, request.checkpoint_ns, channel)
    if conn.execute(sql.INSERT_BLOB, (*key, version, *blob)).rowcount:
        return
    if conn.execute(sql.SELECT_BLOB, (*key, version)).fetchone() == blob:
        return
    notes[channel] = own = own_version(version, blob)
    conn.execute(sql.INSERT_BLOB, (*key, own, *blob))


def _store_unnamed(conn: Connection, request: Put, notes: dict[str, str]) -> None:
    """Values that new_versions does not name: trusted where the parent has the same version.

    The parent may keep that version under a key of ours, which then holds for the child as well.
    """
    inherited = _inherited(conn, request)
    trusted = {c: inherited[c] for c in request.unnamed if c in inherited}
    stored: set[str] = set()
    if trusted:
        wanted = (orjson.dumps(trusted).decode(), request.thread_id, request.checkpoint_ns)
        stored = {channel for (channel,) in conn.execute(sql.SELECT_STORED_CHANNELS, wanted)}
    for channel, (version, value) in request.unnamed.items():
        if channel not in stored:
            blob = dumps(request.serde, value, f"channel {channel!r}")
            _store(conn, request, channel, version, blob, notes)
        elif trusted[channel] != version:
            notes[channel] = trusted[channel]


def _inherited(conn: Connection, request: Put) -> dict[str, str]:
    """Where the parent keeps the versions that the checkpoint has unchanged, by channel."""
    key = (request.thread_id, request.checkpoint_ns, request.parent_id)
    row = conn.execute(sql.SELECT_LINEAGE, key).fetchone() if request.parent_id else None
    if row is None:
        return {}
    parent = jsontext.load_checkpoint(row[0])
    notes = load_notes(row[1])
    versions = parent["channel_versions"]
    return {
        channel: notes.get(channel, version)
        for channel, (version, _) in request.unnamed.items()
        if str(versions.get(channel)) == version
    }


def _replace(conn: Connection, request: Put, row: tuple[Any, ...], notes: dict[str, str]) -> None:
    """Put a checkpoint in the place of one with the same id; blobs only that one had go."""
    key = row[:3]
    text, old_notes = conn.execute(sql.SELECT_LINEAGE, key).fetchone()
    before = blob_keys(jsontext.load_checkpoint(text), load_notes(old_notes))
    conn.execute(sql.REPLACE_CHECKPOINT, row)
    after = blob_keys(request.document, notes)
    freed = before.items() - after.items()
    if freed:
        delete_unreferenced(conn, request.thread_id, request.checkpoint_ns, set(freed))


def delete_unreferenced(
    conn: Connection, thread_id: str, checkpoint_ns: str, candidates: set[tuple[str, str]]
) -> None:
    """Delete the blobs among `candidates`, (channel, version key), that no checkpoint uses."""
    left = set(candidates)
    for text, notes in conn.execute(sql.SELECT_NAMESPACE, (thread_id, checkpoint_ns)):
        left -= blob_keys(jsontext.load_checkpoint(text), load_notes(notes)).items()
        if not left:
            return
    conn.executemany(sql.DELETE_BLOB, [(thread_id, checkpoint_ns, *each) for each in left])


WriteRow = tuple[str, str, str, str, str, int, str, str, bytes]


def prepare_writes(
    serde: SerializerProtocol,
    config: RunnableConfig,
    writes: Sequence[tuple[str, Any]],
    task_id: str,
    task_path: str,
) -> tuple[str, list[WriteRow]]:
    """Serialise a task's writes as they are now: the statement for them, and their rows.

    Ordinary writes keep the first of an index; errors, interrupts and the like (WRITES_IDX_MAP)
    take the place of what was there.
    """
    place = full_address_of(config)
    if not isinstance(task_id, str) or not isinstance(task_path, str):
        raise InvalidTypeError("task_id and task_path must be str")
    try:
        pairs = [(channel, value) for channel, value in writes]
    except (TypeError, ValueError):
        raise InvalidTypeError("writes must be a sequence of (channel, value) pairs") from None
    rows = [
        (
            *place,
            task_id,
            task_path,
            WRITES_IDX_MAP.get(channel, index),
            channel,
            *dumps(serde, value, f"a write to {channel!r}"),
        )
        for index, (channel, value) in enumerate(pairs)
    ]
    replaces = all(channel in WRITES_IDX_MAP for channel, _ in pairs)
    return (sql.REPLACE_WRITE if replaces else sql.INSERT_WRITE), rows


def put_writes(conn: Connection, statement: str, rows: Sequence[WriteRow]) -> None:
    """Store a task's writes, all or none."""
    conn.executemany(statement, rows)
