"""Where a channel's value lies: inline in its checkpoint's row, or as a blob of its version.

Inline go None, bool, int, finite float and short str, as PostgresSaver has it; everything else,
subclasses such as str-Enums included, is a blob under (channel, str(version)). Long strings too:
inline they would be written again at every step.

A value that has no home there is kept under a version of our making, `<version>~<digest>`: a value
without a version, a version that is stored with another value, and keys of the checkpoint that
JSON cannot hold. The checkpoint's `blob_versions` column notes where.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from typing import Any, NamedTuple, TypeGuard

import orjson
from langgraph.checkpoint.serde.base import SerializerProtocol
from langgraph.checkpoint.serde.encrypted import EncryptedSerializer
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.checkpoint.serde.types import _DeltaSnapshot

from ..database.interruptions import is_from_outside
from . import jsontext
from .errors import SerializationError
from .frames import MOST_BYTES
from .jsontext import is_text

# At most this many characters of text lie inline: about what a blob's row and index entry cost.
SHORT = 100
_LARGEST_INT = 2**63

# In `blob_versions`, the "channel" that holds the checkpoint's keys that JSON cannot. Names with
# two underscores are LangGraph's own: no graph has a channel of that name.
EXTRAS = "__checkpoint_keys__"


# Postgres' type of a blob for a version without a value.
EMPTY = "empty"

# A serialised value: its type, as the serialiser names it, and its bytes, before any cipher.
Blob = tuple[str, bytes]


class Raw(NamedTuple):
    """A value that is serialised already, in the place of the value: its type and bytes, not
    enciphered. `is_delta` says that it is a DeltaChannel's snapshot.
    """

    kind: str
    data: bytes
    is_delta: bool = False


def inlines(serde: SerializerProtocol) -> bool:
    """Whether values may lie inline: not with encryption, nor any serialiser we don't know."""
    return type(serde) is JsonPlusSerializer


def is_inline(value: Any) -> bool:
    """Whether JSON holds the value exactly, in few characters."""
    kind = type(value)
    if kind is str:
        return len(value) <= SHORT and is_text(value)
    if kind is int:
        return bool(-_LARGEST_INT <= value < _LARGEST_INT)
    return value is None or kind is bool or (kind is float and math.isfinite(value))


def is_delta(value: Any) -> bool:
    """Whether it is a DeltaChannel's snapshot."""
    return value.is_delta if type(value) is Raw else isinstance(value, _DeltaSnapshot)


def inner(serde: SerializerProtocol) -> SerializerProtocol:
    """What makes bytes of values: the serialiser itself, or the one that a cipher wraps."""
    return serde.serde if _ciphers(serde) else serde


def dumps(plain: SerializerProtocol, value: Any, channel: str) -> Blob:
    """Serialise a channel's value with an `inner` serialiser.

    Raises SerializationError that names the channel.
    """
    kind, data = value[:2] if type(value) is Raw else _dumps(plain, value, channel)
    if len(data) > MOST_BYTES:
        raise SerializationError(
            f"the value of channel {channel!r} has {len(data):,} bytes: none may have more than "
            f"{MOST_BYTES:,}. Keep it in a file, and its name in the channel."
        )
    return kind, data


def _dumps(plain: SerializerProtocol, value: Any, channel: str) -> Blob:
    try:
        kind, data = plain.dumps_typed(value)
    except Exception as error:
        if is_from_outside(error):
            raise
        if type(value) is int and inlines(plain):  # msgpack ends at 64 bits
            return "json", str(value).encode()
        raise SerializationError.of(
            f"the value of channel {channel!r} ({type(value).__name__}) cannot be serialised: "
            f"{error}. "
            "Use plain data, dataclasses or pydantic models, or give the saver a serde that can.",
            error,
        ) from error
    return kind, data if type(data) is bytes else bytes(data or b"")


def loads(plain: SerializerProtocol, channel: str, kind: str, data: bytes) -> Any:
    """Read a value's bytes with an `inner` serialiser.

    Raises SerializationError that names the channel.
    """
    try:
        return plain.loads_typed((kind, data))
    except Exception as error:
        if is_from_outside(error):
            raise
        raise _unreadable(channel, kind, error) from error


def seal(serde: SerializerProtocol, kind: str, data: bytes) -> Blob:
    """What goes into the file: enciphered, last of all, if the serialiser has a cipher.

    The type then ends with the cipher's name, as EncryptedSerializer has it: `msgpack+aes`.
    """
    if not _ciphers(serde):
        return kind, data
    try:
        cipher, text = serde.cipher.encrypt(data)
    except Exception as error:
        if is_from_outside(error):
            raise
        raise SerializationError.of(f"the cipher cannot encrypt a value: {error}", error) from error
    return f"{kind}+{cipher}", text


def unseal(serde: SerializerProtocol, channel: str, kind: str, data: bytes) -> Blob:
    """What `seal` was given; values stored in plain, before there was a cipher, are as they are."""
    if "+" not in kind or not _ciphers(serde):
        return kind, data
    plain, cipher = kind.split("+", 1)
    try:
        return plain, serde.cipher.decrypt(cipher, data)
    except Exception as error:
        if is_from_outside(error):
            raise
        raise _unreadable(channel, kind, error) from error


def _ciphers(serde: SerializerProtocol) -> TypeGuard[EncryptedSerializer]:
    """Whether it is an EncryptedSerializer, whose two steps can be taken apart."""
    kind: Any = type(serde)
    return (
        kind.dumps_typed is EncryptedSerializer.dumps_typed
        and kind.loads_typed is EncryptedSerializer.loads_typed
    )


def _unreadable(channel: str, kind: str, error: Exception) -> SerializationError:
    return SerializationError.of(
        f"the stored value of channel {channel!r} ({kind}) cannot be read: {error}. "
        "Give the serde, and the key, that it was saved with.",
        error,
    )


def own_version(serde: SerializerProtocol, version: str, value: Blob, sealed: Blob) -> str:
    """A version of our making, the same for the same bytes; enciphered ones have each its own."""
    return _digested(version, sealed if _ciphers(serde) else value)


def _digested(version: str, value: Blob) -> str:
    kind, data = value
    digest = hashlib.blake2b(data, digest_size=12, key=kind.encode()[:64]).hexdigest()
    return f"{version}~{digest}"


def no_value(version: str) -> str:
    """A version key under which nothing is ever stored."""
    return _digested(version, (EMPTY, b""))


def blob_keys(checkpoint: Mapping[str, Any], notes: Mapping[str, str]) -> dict[str, str]:
    """The version keys under which a checkpoint's blobs lie, by channel."""
    inline = checkpoint.get("channel_values") or {}
    keys = {
        channel: str(version)
        for channel, version in checkpoint["channel_versions"].items()
        if channel not in inline
    }
    keys.update(notes)
    return keys


def load_notes(text: str | None) -> dict[str, str]:
    """The `blob_versions` of a checkpoint's row."""
    return orjson.loads(text) if text else {}


def dump_notes(notes: Mapping[str, str]) -> str | None:
    """The `blob_versions` for a checkpoint's row; most have none."""
    return jsontext.parameter(notes) if notes else None
