"""Saving: what `put` and `put_writes` store. Values are serialised before an operation starts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from sqlite3 import Connection
from typing import Any

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
from .config import Address, address_of, full_address_of, stored_text
from .jsontext import parameter
from .lineage import Head, Lineage
from .values import (
    EXTRAS,
    Blob,
    blob_keys,
    dump_notes,
    dumps,
    inlines,
    is_inline,
    load_notes,
    no_value,
    own_version,
)
from .versions import is_unique

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

_VERSION_TYPES = {str, int, float, type(None)}


class Put:
    """A checkpoint on its way into the file."""

    __slots__ = (
        "checkpoint_id",
        "document",
        "homeless",
        "left_out",
        "metadata",
        "named",
        "notes",
        "parent_id",
        "place",
        "run_id",
        "serde",
        "text",
        "unnamed",
    )

    def __init__(self, place: Address, checkpoint_id: str, serde: SerializerProtocol) -> None:
        self.place = (place.thread_id, place.checkpoint_ns)
        self.parent_id = place.checkpoint_id
        self.checkpoint_id = checkpoint_id
        self.serde = serde
        self.metadata = "{}"
        self.run_id: str | None = None
        self.document: dict[str, Any] = {}
        self.text = ""  # the document as it is stored
        # Serialised: the channels that new_versions names, with their versions.
        self.named: list[tuple[str, str, Blob]] = []
        # Serialised: what has no version; kept under one of our making.
        self.homeless: list[tuple[str, Blob]] = []
        # Not serialised: what new_versions does not name is, as a rule, stored already.
        self.unnamed: dict[str, tuple[str, Any]] = {}
        # Channels without a value that new_versions does not name, where another branch may have
        # given the version one.
        self.left_out: dict[str, str] = {}
        # What goes to the row's blob_versions.
        self.notes: dict[str, str] = {}


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
    request = Put(place, checkpoint["id"], serde)
    merged = _merged_metadata(config, metadata)
    request.metadata = jsontext.dump_metadata(merged)
    if (run_id := merged.get("run_id")) is not None:
        request.run_id = jsontext.cleaned(str(run_id))
    inline = _sort_values(request, checkpoint, new_versions)
    request.document = {**_sort_keys(request, checkpoint), "channel_values": inline}
    request.text = jsontext.dump_checkpoint(request.document)
    saved: RunnableConfig = {
        "configurable": {
            "thread_id": config["configurable"]["thread_id"],
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
        if type(value) is not dict and not isinstance(value, Mapping):
            raise InvalidTypeError(f"{name} must be a dict, not {type(value).__name__}")
    identity = checkpoint.get("id")
    if not isinstance(identity, str) or not identity:
        raise InvalidInputError("the checkpoint has no id: make one with empty_checkpoint()")
    if not isinstance(checkpoint.get("v", 1), int):
        raise InvalidTypeError(f"the checkpoint's v must be an int, not {checkpoint['v']!r}")
    for part in ("channel_values", "channel_versions", "versions_seen"):
        found = checkpoint.get(part)
        if type(found) is not dict and found is not None and not isinstance(found, Mapping):
            raise InvalidTypeError(f"the checkpoint's {part} must be a dict")


def _merged_metadata(config: RunnableConfig, metadata: CheckpointMetadata) -> CheckpointMetadata:
    try:
        return get_checkpoint_metadata(config, metadata)
    except (AttributeError, TypeError):
        raise InvalidTypeError(
            "the config's metadata and configurable must be dicts whose keys are str"
        ) from None


def _sort_values(
    request: Put, checkpoint: Checkpoint, new_versions: ChannelVersions
) -> dict[str, Any]:
    """The values that lie inline; the others go to where they are stored from."""
    inline: dict[str, Any] = {}
    serde = request.serde
    may_inline = inlines(serde)
    versions = checkpoint.get("channel_versions") or {}
    for channel, value in (checkpoint.get("channel_values") or {}).items():
        if may_inline and is_inline(value):
            inline[channel] = value
            continue
        version = versions.get(channel)
        if version is None:
            _check_channel(channel)
            request.homeless.append((channel, dumps(serde, value, channel)))
        elif channel in new_versions:
            request.named.append((channel, str(version), dumps(serde, value, channel)))
        else:
            request.unnamed[channel] = (str(version), value)
        if isinstance(value, _DeltaSnapshot):  # PostgresSaver's prune looks for this mark
            inline[channel] = True
            request.notes[channel] = str(version)
    _sort_versions(request, checkpoint, new_versions)
    return inline


def _check_channel(channel: Any) -> None:
    if not isinstance(channel, str):
        raise InvalidTypeError(f"a channel's name, in values and writes, is a str, not {channel!r}")
    stored_text(channel, "channel")


def _sort_versions(
    request: Put,
    checkpoint: Checkpoint,
    new_versions: ChannelVersions,
) -> None:
    """Check the versions, and note those whose blob, or its absence, they alone would not find.

    A channel with a version and no value must not get the value of another branch: one that
    new_versions names is empty from here on; others have what the parent has.
    """
    values = checkpoint.get("channel_values") or {}
    for channel, version in (checkpoint.get("channel_versions") or {}).items():
        if type(version) not in _VERSION_TYPES or version != version:  # NaN is not equal to itself
            raise InvalidTypeError(
                f"the version of channel {channel!r} must be a str, an int or a float, "
                f"not {version!r}"
            )
        if channel in values or is_unique(version):
            continue
        if channel in new_versions:
            request.notes[channel] = no_value(str(version))
        else:
            request.left_out[channel] = str(version)


def _sort_keys(request: Put, checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """The checkpoint's keys that are JSON; others, of older formats, become a blob."""
    document = dict(checkpoint)
    for part in ("channel_versions", "versions_seen"):
        if document.get(part) is None:
            document[part] = {}
    if document.keys() == _JSON_KEYS:
        return document
    extras = {
        key: document.pop(key)
        for key, value in checkpoint.items()
        if key not in _JSON_KEYS and not (is_inline(value) or value == [] or value == {})
    }
    if extras:
        request.homeless.append((EXTRAS, dumps(request.serde, extras, "pending_sends")))
    return document


def put(conn: Connection, request: Put, lineage: Lineage) -> Head:
    """Store a checkpoint and the values that are not stored yet; replaces one of the same id.

    What it returns is for `lineage`, once it is committed.
    """
    notes = dict(request.notes)
    stored: dict[str, tuple[str, str]] = {}
    moment = lineage.now(conn)
    for channel, version, blob in request.named:
        _store(conn, request, channel, version, blob, notes)
        stored[channel] = (version, notes.get(channel, version))
    if request.unnamed or request.left_out:
        known = lineage.parent(request.place, request.parent_id, moment)
        _store_unnamed(conn, request, known, notes)
        for channel, (version, _) in request.unnamed.items():
            stored[channel] = (version, notes.get(channel, version))
    versions = request.document["channel_versions"]
    for channel in notes.keys() - stored.keys():
        if notes[channel] != (version := str(versions.get(channel))):
            stored[channel] = (version, notes[channel])
    for channel, blob in request.homeless:
        notes[channel] = own = own_version("", blob)
        conn.execute(sql.INSERT_BLOB, (*request.place, channel, own, *blob))
    row = (
        *request.place,
        request.checkpoint_id,
        request.parent_id,
        request.text,
        request.metadata,
        request.run_id,
        dump_notes(notes),
    )
    if conn.execute(sql.INSERT_CHECKPOINT, row).rowcount == 0:
        _replace(conn, request, row, notes)
        lineage.deleted()
    return Head(request.checkpoint_id, stored, moment)


def _store(
    conn: Connection, request: Put, channel: str, version: str, blob: Blob, notes: dict[str, str]
) -> None:
    """Store a blob under its version, or, where that holds another value, under one of ours."""
    key = (*request.place, channel)
    if conn.execute(sql.INSERT_BLOB, (*key, version, *blob)).rowcount:
        return
    if conn.execute(sql.SELECT_BLOB, (*key, version)).fetchone() == blob:
        return
    notes[channel] = own = own_version(version, blob)
    conn.execute(sql.INSERT_BLOB, (*key, own, *blob))


def _store_unnamed(
    conn: Connection,
    request: Put,
    known: Mapping[str, tuple[str, str]] | None,
    notes: dict[str, str],
) -> None:
    """Values that new_versions does not name: trusted where the parent has the same version.

    The parent may keep that version under a key of ours, which then holds for the child as well.
    """
    if known is None:
        known = _look_up_parent(conn, request)
    for channel, (version, value) in request.unnamed.items():
        parents, key = known.get(channel, (None, version))
        if parents != version or (key != version and key == no_value(version)):
            _store(conn, request, channel, version, dumps(request.serde, value, channel), notes)
        elif key != version:
            notes[channel] = key
    for channel, version in request.left_out.items():
        parents, key = known.get(channel, (None, version))
        if parents == version != key:
            notes[channel] = key


def _look_up_parent(conn: Connection, request: Put) -> dict[str, tuple[str, str]]:
    """Which of the unnamed channels the parent has stored: channel -> (version, key).

    Of those that are left out: what key the parent has, stored or not.
    """
    place, parent_id = request.place, request.parent_id
    row = conn.execute(sql.SELECT_LINEAGE, (*place, parent_id)).fetchone() if parent_id else None
    if row is None:
        return {}
    parent = jsontext.load_checkpoint(row[0])
    keys, versions = blob_keys(parent, load_notes(row[1])), parent["channel_versions"]
    wanted = {channel: keys[channel] for channel in request.unnamed if channel in keys}
    found = conn.execute(sql.SELECT_STORED_CHANNELS, (parameter(wanted), *place))
    stored = {channel for (channel,) in found} | (keys.keys() & request.left_out.keys())
    return {channel: (str(versions.get(channel)), keys[channel]) for channel in stored}


def _replace(conn: Connection, request: Put, row: tuple[Any, ...], notes: dict[str, str]) -> None:
    """Put a checkpoint in the place of one with the same id; blobs only that one had go."""
    text, old_notes = conn.execute(sql.SELECT_LINEAGE, row[:3]).fetchone()
    before = blob_keys(jsontext.load_checkpoint(text), load_notes(old_notes))
    conn.execute(sql.REPLACE_CHECKPOINT, row)
    freed = before.items() - blob_keys(request.document, notes).items()
    if freed:
        delete_unreferenced(conn, *request.place, set(freed))


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
    key = (*place, stored_text(task_id, "task_id"), stored_text(task_path, "task_path"))
    try:
        pairs = [(channel, value) for channel, value in writes]
    except (TypeError, ValueError):
        raise InvalidTypeError("writes must be a sequence of (channel, value) pairs") from None
    rows: list[WriteRow] = []
    special = 0
    for index, (channel, value) in enumerate(pairs):
        _check_channel(channel)
        special += channel in WRITES_IDX_MAP
        kind, data = dumps(serde, value, channel)
        rows.append((*key, WRITES_IDX_MAP.get(channel, index), channel, kind, data))
    return (sql.REPLACE_WRITE if special == len(rows) else sql.INSERT_WRITE), rows


def put_writes(conn: Connection, statement: str, rows: Sequence[WriteRow]) -> None:
    """Store a task's writes, all or none."""
    conn.executemany(statement, rows)
