"""A checkpoint of our file as Postgres can say it.

PostgresSaver finds a value under its channel and that channel's version, and takes a blob there
before what lies inline. Where our file says otherwise, in `blob_versions`, the checkpoint gets a
version of its own for that channel, `<version>~<digest>`: it sorts right behind the one it stands
for, and what the nodes have seen is spelled the same way, so that no node runs again.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import orjson
import ormsgpack
from langgraph.checkpoint.serde.types import TASKS

from ..checkpoints import jsontext
from ..checkpoints.reading import SENDS_INSIDE, Row
from ..checkpoints.values import EXTRAS, Blob
from .emptying import BlobKey
from .errors import TransferError

# From here on JSONB makes ints of floats.
_LARGE_FLOAT = 1e16

# Sorts below every other version, and is a number to whoever makes the next one.
_NO_VERSION = f"{0:032}"

# A MessagePack map of one key: all that checkpoints of older formats have beside JSON's.
_ONLY_SENDS = b"\x81\xad" + b"pending_sends"

# How Postgres finds a version.
Has = Callable[[BlobKey], bool]


@dataclass
class Spelled:
    """A checkpoint as it goes to Postgres."""

    row: Row
    text: str = ""  # of the document
    # What is stored: the channel's version there -> where its value lies in our file.
    stored: dict[tuple[str, str], BlobKey] = field(default_factory=dict)
    # The same for values that do not lie there as blobs.
    made: dict[tuple[str, str], Blob] = field(default_factory=dict)
    # Where the pending sends of an old format are to go, cut out of the blob at `extras`.
    extras: BlobKey | None = None
    sends_version: Any = None
    # The channels whose version is spelled otherwise: channel -> how.
    versions: dict[str, str] = field(default_factory=dict)


def spelled(row: Row, has: Has) -> Spelled:
    """How Postgres says a checkpoint; `has` tells which blobs the file holds.

    Raises TransferError, which names the channel, where it cannot be said.
    """
    found = Spelled(row)
    place = (row.thread_id, row.checkpoint_ns)
    versions, inline = row.checkpoint["channel_versions"], row.checkpoint["channel_values"]
    for channel, version in versions.items():
        plain = BlobKey(place, channel, str(version))
        if channel not in row.notes and channel not in inline and has(plain):
            found.stored[channel, in_postgres(version)] = plain
    for channel, value in inline.items():
        plain = BlobKey(place, channel, str(versions.get(channel)))
        if channel not in row.notes and (has(plain) or is_awkward(value)):
            _move_inline(found, channel, value)
    for channel, key in row.notes.items():
        if channel == EXTRAS:
            _move_extras(found, BlobKey(place, EXTRAS, key), has)
        else:
            _follow_note(found, channel, BlobKey(place, channel, key), has)
    found.text = _document(found)
    return found


def in_postgres(version: Any) -> str:
    """A version as JSONB's text has it, under which PostgresSaver looks."""
    if isinstance(version, float):
        return format(Decimal(orjson.dumps(version).decode()), "f")
    return str(version)


def is_awkward(value: Any) -> bool:
    """Whether JSONB would make something else of it: a large float an int, -0.0 a 0.0."""
    if type(value) is not float:
        return False
    return abs(value) >= _LARGE_FLOAT or (value == 0 and math.copysign(1, value) < 0)


def _move_inline(found: Spelled, channel: str, value: Any) -> None:
    """Give a version of its own to an inline value that Postgres would not find there."""
    blob = as_blob(value)
    version = _own(found, channel, hashlib.blake2b(blob[1], digest_size=12).hexdigest())
    if is_awkward(value):
        found.made[channel, version] = blob


def as_blob(value: Any) -> Blob:
    """An inline value, serialised."""
    return "msgpack", ormsgpack.packb(value)


def _follow_note(found: Spelled, channel: str, key: BlobKey, has: Has) -> None:
    version = found.row.checkpoint["channel_versions"].get(channel)
    if version is not None and key.version == str(version):  # the snapshot of a DeltaChannel
        if has(key):
            found.stored[channel, in_postgres(version)] = key
    elif has(key):
        found.stored[channel, _own(found, channel, _digest_of(key))] = key
    elif version is not None and has(key._replace(version=str(version))):
        _own(found, channel, _digest_of(key))  # under which nothing lies


def _own(found: Spelled, channel: str, digest: str) -> str:
    """A version for this channel of this checkpoint alone."""
    versions = found.row.checkpoint["channel_versions"]
    if any(type(version) not in (str, type(None)) for version in versions.values()):
        raise TransferError(
            f"channel {channel!r}, version {versions.get(channel)!r}: Postgres has one value for "
            "each version, and this one needs a version of its own, for which only versions that "
            "are text have room"
        )
    version = versions.get(channel)
    found.versions[channel] = own = _behind(_NO_VERSION if version is None else version, digest)
    return own


def _behind(version: str, digest: str) -> str:
    """A version right behind another one; what stands before the point is its number."""
    return f"{version}{'' if '.' in version else '.'}~{digest}"


def _move_extras(found: Spelled, key: BlobKey, has: Has) -> None:
    """Put pending sends that lie beside the channels into theirs, as LangGraph does when it loads
    such a checkpoint.
    """
    document = found.row.checkpoint
    if document.get("v", 1) >= SENDS_INSIDE:
        raise TransferError("it has keys that JSON cannot hold, and Postgres has no place for them")
    if TASKS in document["channel_versions"]:
        raise TransferError(f"channel {TASKS!r}: it has pending sends both inside and beside it")
    found.extras, found.sends_version = key, _version_of_sends(document, _digest_of(key))


def _version_of_sends(document: Mapping[str, Any], digest: str) -> str | int:
    """The newest one, as LangGraph has it, but of this checkpoint alone.

    Numbers have no room right behind it: a negative one is no other's. Nobody compares it, since
    sends are taken whatever their version is.
    """
    versions = [each for each in document["channel_versions"].values() if each is not None]
    if all(type(each) is str for each in versions):
        return _behind(max(versions, default=_NO_VERSION), digest)
    return -(int(digest, 16) % 2**53)


def _digest_of(key: BlobKey) -> str:
    return key.version.rpartition("~")[2]


def sends_in(data: bytes) -> bytes:
    """The pending sends among the keys that JSON could not hold, cut out as they are."""
    if not data.startswith(_ONLY_SENDS):
        raise TransferError(
            "it has keys beside 'pending_sends' that JSON cannot hold, and Postgres has no place "
            "for them"
        )
    return data[len(_ONLY_SENDS) :]


def array_of(values: Sequence[bytes]) -> bytes:
    """A MessagePack array of values that are serialised already."""
    number = len(values)
    if number < 16:
        header = bytes([0x90 | number])
    elif number < 2**16:
        header = b"\xdc" + number.to_bytes(2, "big")
    else:
        header = b"\xdd" + number.to_bytes(4, "big")
    return header + b"".join(values)


def _document(found: Spelled) -> str:
    """The checkpoint's JSON, with its versions as Postgres has to find them."""
    document = {"v": 1, **found.row.checkpoint}  # PostgresSaver wants to be told
    versions = document["channel_versions"]
    if found.versions:
        document["channel_versions"] = {**versions, **found.versions}
        document["versions_seen"] = seen_as(document["versions_seen"], versions, found.versions)
    if found.sends_version is not None:
        with_sends = {**document["channel_versions"], TASKS: found.sends_version}
        document["channel_versions"] = with_sends
    if found.made:
        values = dict(document["channel_values"])
        for channel, _ in found.made:
            del values[channel]
        document["channel_values"] = values
    return jsontext.dump_checkpoint(document)


def seen_as(
    seen: Mapping[str, Mapping[str, Any]],
    versions: Mapping[str, Any],
    changed: Mapping[str, str],
) -> dict[str, dict[str, Any]]:
    """What the nodes have seen, in the versions as they are spelled now.

    Channels that had no version have one now, which every node has seen.
    """
    spelled: dict[str, dict[str, Any]] = {}
    for node, those in seen.items():
        spelled[node] = dict(those)
        for channel, version in changed.items():
            old = versions.get(channel)
            if old is None or those.get(channel) == old:
                spelled[node][channel] = version
    return spelled
