"""`put`: saving a checkpoint. Values are serialised before an operation starts."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from sqlite3 import Connection
from typing import Any

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import (
    ChannelVersions,
    Checkpoint,
    CheckpointMetadata,
    get_checkpoint_metadata,
)

from ..database import InvalidInputError, InvalidTypeError
from . import at_once, jsontext, sql
from .config import Address, address_of, check_channel
from .contents import Contents, Stored, holds
from .damage import again_in_any_text, in_any_text, try_document
from .encoding import SMALL, Chain, Columns, Encoded, Link
from .errors import SerializationError
from .history import Encoder
from .jsontext import parameter
from .lineage import Head, Lineage, Moment
from .values import (
    EXTRAS,
    Blob,
    blob_keys,
    dump_notes,
    dumps,
    inlines,
    inner,
    is_delta,
    is_inline,
    no_value,
    own_version,
    seal,
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


class Large:
    """A value that may rest on older ones, and the columns it is stored in."""

    __slots__ = ("channel", "columns", "rest", "value", "version")

    def __init__(self, channel: str, version: str, value: Blob) -> None:
        self.channel = channel
        self.version = version
        self.value = value
        self.columns: Encoded
        self.rest: Chain  # what it rests on


class Put:
    """A checkpoint on its way into the file."""

    __slots__ = (
        "checkpoint_id",
        "document",
        "encoded",
        "freed",
        "history",
        "homeless",
        "large",
        "learnt",
        "left_out",
        "metadata",
        "notes",
        "parent_id",
        "place",
        "run_id",
        "serde",
        "small",
        "text",
        "unknown",
        "unnamed",
    )

    def __init__(self, place: Address, checkpoint_id: str, encoder: Encoder) -> None:
        self.place = (place.thread_id, place.checkpoint_ns)
        self.parent_id = place.checkpoint_id
        self.checkpoint_id = checkpoint_id
        self.serde = encoder.serde
        self.history = encoder.history
        self.metadata = "{}"
        self.run_id: str | None = None
        self.document: dict[str, Any] = {}
        self.text = ""  # the document as it is stored
        # Serialised: the channels that new_versions names, with their versions; small ones also
        # as they are stored.
        self.small: list[tuple[str, str, Blob, Blob]] = []
        self.large: list[Large] = []
        # Those whose chains have to be looked up in the file before they are encoded.
        self.unknown: list[str] = []
        self.encoded = False
        # The chains of what was stored, for the history once it is committed.
        self.learnt: dict[str, Chain] = {}
        # The blobs that were those of the checkpoint it replaces; None is all of the namespace.
        self.freed: set[tuple[str, str]] | None = set()
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
    encoder: Encoder,
    config: RunnableConfig,
    checkpoint: Checkpoint,
    metadata: CheckpointMetadata,
    new_versions: ChannelVersions,
    *,
    at_once: float = math.inf,
) -> tuple[Put, RunnableConfig]:
    """Serialise a checkpoint as it is now; also the config that names it.

    Unless the request is `encoded` then, `find_bases` has to be run before `put`: where the file
    has to be looked into, and for more than `at_once` bytes of large values.
    """
    place = address_of(config)
    _check(checkpoint, metadata, new_versions)
    request = Put(place, checkpoint["id"], encoder)
    merged = _merged_metadata(config, metadata)
    request.metadata = _metadata_text(merged)
    if (run_id := merged.get("run_id")) is not None:
        request.run_id = jsontext.cleaned(str(run_id))
    inline = _sort_values(request, checkpoint, new_versions)
    request.unknown = _unknown(request)
    if not request.unknown and sum(len(each.value[1]) for each in request.large) <= at_once:
        _encode(request, {})
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


def _metadata_text(metadata: Mapping[str, Any]) -> str:
    """The metadata as JSON; without its `writes` where JSON cannot hold them.

    LangGraph before 1.0 kept a step's writes there, objects too. SqliteSaver's callers find them
    where they are JSON; PostgresSaver leaves them out.
    """
    try:
        return jsontext.dump_metadata(metadata)
    except SerializationError:
        if "writes" not in metadata:
            raise
        return jsontext.dump_metadata({k: v for k, v in metadata.items() if k != "writes"})


def _sort_values(
    request: Put, checkpoint: Checkpoint, new_versions: ChannelVersions
) -> dict[str, Any]:
    """The values that lie inline; the others go to where they are stored from."""
    inline: dict[str, Any] = {}
    may_inline, serde = inlines(request.serde), inner(request.serde)
    versions = checkpoint.get("channel_versions") or {}
    for channel, value in (checkpoint.get("channel_values") or {}).items():
        if may_inline and is_inline(value):
            inline[channel] = value
            continue
        version = versions.get(channel)
        if version is None:
            check_channel(channel)
            request.homeless.append((channel, dumps(serde, value, channel)))
        elif channel in new_versions:
            blob = dumps(serde, value, channel)
            if len(blob[1]) < SMALL:
                sealed = blob if serde is request.serde else seal(request.serde, *blob)
                request.small.append((channel, str(version), blob, sealed))
            else:
                request.large.append(Large(channel, str(version), blob))
        else:
            request.unnamed[channel] = (str(version), value)
        if is_delta(value):  # PostgresSaver's prune looks for this mark
            inline[channel] = True
            request.notes[channel] = str(version)
    _sort_versions(request, checkpoint, new_versions)
    return inline


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
    may_inline = inlines(request.serde)
    extras = {
        key: document.pop(key)
        for key, value in checkpoint.items()
        if key not in _JSON_KEYS and not (value in ([], {}) or (may_inline and is_inline(value)))
    }
    if extras:
        request.homeless.append((EXTRAS, dumps(inner(request.serde), extras, "pending_sends")))
    return document


def _unknown(request: Put) -> list[str]:
    """The channels whose bases the history has not at hand."""
    if request.history.full:
        return []
    return [
        each.channel
        for each in request.large
        if request.history.usable(request.place, each.channel) is None
    ]


@again_in_any_text
def find_bases(conn: Connection, request: Put) -> None:
    """Look up the chains that are unknown, and encode the values."""
    chains: Mapping[str, Chain] = {}
    if request.unknown:
        contents = Contents(conn, request.serde, request.place, request.history)
        chains = contents.newest_chains(request.unknown)
        request.history.remember(request.place, chains)
    _encode(request, chains)


def _encode(request: Put, chains: Mapping[str, Chain]) -> None:
    history = request.history
    for each in request.large:
        chain = chains.get(each.channel) or history.usable(request.place, each.channel)
        each.columns, each.rest = history.encode(request.serde, each.value, chain or ())
    request.encoded = True


@again_in_any_text
def put(conn: Connection, request: Put, lineage: Lineage) -> Head:
    """Store a checkpoint and the values that are not stored yet; replaces one of the same id.

    What it returns is for `lineage`, and `request.learnt` for the history, once it is committed.
    Then the blobs in `request.freed` are to be deleted, unless other checkpoints use them
    (`removal.plan_values`): to tell takes as long as the thread is long.
    """
    notes = dict(request.notes)
    stored: dict[str, tuple[str, str]] = {}
    moment = lineage.now(conn)
    request.learnt, request.freed = {}, set()
    for channel, version, blob, sealed in request.small:
        _store(conn, request, channel, version, blob, sealed, notes)
        stored[channel] = (version, notes.get(channel, version))
    for each in request.large:
        _store_large(conn, request, each, notes)
        stored[each.channel] = (each.version, notes.get(each.channel, each.version))
    if request.unnamed or request.left_out:
        known = lineage.parent(request.place, request.parent_id, moment)
        _store_unnamed(conn, request, known, notes)
        for channel, (version, _) in request.unnamed.items():
            stored[channel] = (version, notes.get(channel, version))
    versions = request.document["channel_versions"]
    for channel in notes.keys() - stored.keys():
        if notes[channel] != (version := str(versions.get(channel))):
            stored[channel] = (version, notes[channel])
    for channel, own, columns in _homeless(request):
        notes[channel] = own
        conn.execute(sql.INSERT_BLOB, (*request.place, channel, own, *columns))
    row = _checkpoint_row(request, notes)
    if conn.execute(sql.INSERT_CHECKPOINT, row).rowcount == 0:
        _replace(conn, request, row, notes)
        lineage.forget()
    lineage.end_saving(conn)
    return Head(request.checkpoint_id, stored, moment)


def _homeless(request: Put) -> Iterator[tuple[str, str, Encoded]]:
    """What has no version, under one of our making: channel, version, columns."""
    for channel, blob in request.homeless:
        columns = request.history.alone(request.serde, blob)
        yield channel, own_version(request.serde, "", blob, columns[:2]), columns


def _checkpoint_row(request: Put, notes: dict[str, str]) -> tuple[Any, ...]:
    return (
        *request.place,
        request.checkpoint_id,
        request.parent_id,
        request.text,
        request.metadata,
        request.run_id,
        dump_notes(notes),
    )


def put_at_once(conn: Connection, request: Put, lineage: Lineage) -> Any:
    """As `put`, in one statement; NotImplemented where something of it is stored already."""
    del lineage  # it remembers nothing of such connections
    notes = dict(request.notes)
    rows = [_blob_row(request, channel, version, stored)
            for channel, version, _, stored in request.small]  # fmt: skip
    bases: dict[str, tuple[str, int]] = {}
    request.learnt = {}
    for each in request.large:
        rows.append(_blob_row(request, each.channel, each.version, each.columns))
        if each.rest:
            bases[each.channel] = each.rest[0].version, each.rest[0].token
        _learn(request, each, each.columns, each.rest)
    known = _look_up_parent(conn, request) if request.unnamed or request.left_out else {}
    trusted = {channel: version for channel, (version, _) in request.unnamed.items()}
    for channel, version, blob in _untrusted(request, known, notes):
        del trusted[channel]
        alone = request.history.alone(request.serde, blob)
        rows.append(_blob_row(request, channel, version, alone))
    needed = {channel: notes.get(channel, version) for channel, version in trusted.items()}
    for channel, own, columns in _homeless(request):
        notes[channel] = own
        rows.append(_blob_row(request, channel, own, columns))
    row = _checkpoint_row(request, notes)
    rows.append((at_once.CHECKPOINT, *row))
    if needed or bases:
        rows.append(at_once.needed(request.place, needed, bases))
    if not at_once.save(conn, rows) and not _is_stored(conn, row):
        return NotImplemented
    return Head(request.checkpoint_id, {}, Moment(0, 0))


put.at_once = put_at_once  # type: ignore[attr-defined]


def _blob_row(request: Put, channel: str, version: str, columns: Sequence[Any]) -> at_once.Row:
    return (at_once.BLOB, *request.place, channel, version, *columns)


def _is_stored(conn: Connection, row: tuple[Any, ...]) -> bool:
    """Whether that very checkpoint is there: the statement was run before."""
    found = conn.execute(sql.SELECT_CHECKPOINT, row[:3]).fetchone()
    return found is not None and found == (*row[:6], row[7])


def _store_large(conn: Connection, request: Put, each: Large, notes: dict[str, str]) -> None:
    columns, rest = each.columns, each.rest
    if rest and not holds(conn, request.place, each.channel, rest[0]):
        columns, rest = request.history.alone(request.serde, each.value), ()
    if _store(conn, request, each.channel, each.version, each.value, columns, notes):
        _learn(request, each, columns, rest)


def _learn(request: Put, each: Large, columns: Encoded, rest: Chain) -> None:
    if columns.token is not None:
        link = Link(each.version, columns.token, columns.number or 0, *each.value)
        request.learnt[each.channel] = (link, *rest)


def _store(
    conn: Connection,
    request: Put,
    channel: str,
    version: str,
    value: Blob,
    columns: Columns | Blob,
    notes: dict[str, str],
) -> bool:
    """Store a value under its version, or, where that holds another value, under one of ours.

    Returns whether it is new under its version.
    """
    key = (*request.place, channel)
    insert = sql.INSERT_SMALL_BLOB if len(columns) == 2 else sql.INSERT_BLOB
    if conn.execute(insert, (*key, version, *columns)).rowcount:
        return True
    contents = Contents(conn, request.serde, request.place)
    found = contents.find(channel, version)
    if found is None or not _has_value(contents, found, value):
        alone = request.history.alone(request.serde, value)
        notes[channel] = own = own_version(request.serde, version, value, alone[:2])
        conn.execute(sql.INSERT_BLOB, (*key, own, *alone))
    return False


def _has_value(contents: Contents, row: Stored, value: Blob) -> bool:
    try:
        return contents.value(row) == value
    except SerializationError:
        return False


def _store_unnamed(
    conn: Connection,
    request: Put,
    known: Mapping[str, tuple[str, str]] | None,
    notes: dict[str, str],
) -> None:
    """Store the values that new_versions does not name, and that are not trusted."""
    if known is None:
        known = _look_up_parent(conn, request)
    for channel, version, blob in _untrusted(request, known, notes):
        columns = request.history.alone(request.serde, blob)
        _store(conn, request, channel, version, blob, columns, notes)


def _untrusted(
    request: Put, known: Mapping[str, tuple[str, str]], notes: dict[str, str]
) -> Iterator[tuple[str, str, Blob]]:
    """Values that new_versions does not name: trusted where the parent has the same version.

    The parent may keep that version under a key of ours, which then holds for the child as well.
    """
    for channel, (version, value) in request.unnamed.items():
        parents, key = known.get(channel, (None, version))
        if parents != version or (key != version and key == no_value(version)):
            yield channel, version, dumps(inner(request.serde), value, channel)
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
    document = try_document(*row) if row else None
    if document is None:  # none, or one that cannot be read: nothing is known to be stored
        return {}
    keys, versions = blob_keys(*document), document[0]["channel_versions"]
    wanted = [[channel, keys[channel]] for channel in request.unnamed if channel in keys]
    found = conn.execute(sql.SELECT_TOKENS, (parameter(wanted), *place))
    stored = {channel for channel, _ in found} | (keys.keys() & request.left_out.keys())
    return {channel: (str(versions.get(channel)), keys[channel]) for channel in stored}


@in_any_text
def _replace(conn: Connection, request: Put, row: tuple[Any, ...], notes: dict[str, str]) -> None:
    """Put a checkpoint in the place of one with the same id; blobs only that one had may go."""
    before = try_document(*conn.execute(sql.SELECT_LINEAGE, row[:3]).fetchone())
    conn.execute(sql.REPLACE_CHECKPOINT, (*row[3:], *row[:3]))
    if before is None:  # which blobs were its own cannot be told
        request.freed = None
    else:
        request.freed = blob_keys(*before).items() - blob_keys(request.document, notes).items()
