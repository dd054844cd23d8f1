"""A checkpoint of the official saver, cut into its parts: values stay the bytes that they are.

The official saver serialises a whole checkpoint at once: a MessagePack map, or JSON in old files.
What lies inside are the same bytes as a value alone would have; so they need no classes to be
carried, and no time to be made again.
"""

from __future__ import annotations

import json
from typing import Any

import msgpack
import ormsgpack
from langgraph.checkpoint.base import Checkpoint
from langgraph.checkpoint.serde.base import SerializerProtocol
from langgraph.checkpoint.serde.jsonplus import EXT_DELTA_SNAPSHOT, JsonPlusSerializer

from ..checkpoints.values import EXTRAS, Blob, Raw, inner, is_inline, unseal
from .errors import TransferError
from .plain import is_langgraphs, unpacked

# MessagePack's first bytes (its specification, "Formats").
_NIL_BOOLEANS_FLOATS_INTS = {0xC0, 0xC2, 0xC3, *range(0xCA, 0xD4)}
_STRINGS = {*range(0xA0, 0xC0), 0xD9, 0xDA, 0xDB}
_SMALL_INTS = {*range(0x80), *range(0xE0, 0x100)}
_PRIMITIVES = _NIL_BOOLEANS_FLOATS_INTS | _STRINGS | _SMALL_INTS
_BINARIES = {0xC4: 2, 0xC5: 3, 0xC6: 5}
# Extensions with a type byte behind so many bytes of header.
_EXTENSIONS = {0xC7: 2, 0xC8: 3, 0xC9: 5, **dict.fromkeys(range(0xD4, 0xD9), 1)}

_LONGEST_PRIMITIVE = 1_000

# The serialisations that can be cut, and those that single values have beside them.
KINDS = ("msgpack", "json")
KINDS_OF_VALUES = ("null", "bytes", "bytearray")

# The keys that are plain JSON by their definition; what others hold may have classes.
_JSON_KEYS = Checkpoint.__annotations__.keys() - {"pending_sends"}

# What reading damaged data raises.
_DAMAGE = (
    ValueError, TypeError, AttributeError, RecursionError, msgpack.exceptions.UnpackException,
)  # fmt: skip


def cut(serde: SerializerProtocol, kind: str, data: bytes) -> dict[str, Any]:
    """A stored checkpoint, the values of its channels as `Raw` where they cannot lie inline.

    Raises TransferError for a serialisation that only its own serializer could read, and
    SerializationError where the key is wrong.
    """
    plain, data = deciphered(serde, kind, data)
    if plain not in KINDS or not is_langgraphs(inner(serde)):
        return _with_its_parts(_read_whole(inner(serde), plain, data))
    try:
        return _with_its_parts(_cut_json(data) if plain == "json" else _cut_msgpack(data))
    except _DAMAGE as error:
        raise _damaged(plain, error) from error


def _with_its_parts(found: dict[str, Any]) -> dict[str, Any]:
    for part in ("channel_values", "channel_versions", "versions_seen"):
        if not isinstance(found.get(part) or {}, dict):
            raise TransferError(f"its {part} are no map")
    return found


def _damaged(kind: str, error: Exception) -> TransferError:
    return TransferError(f"it is damaged ({kind}): {str(error) or type(error).__name__}")


def cut_write(serde: SerializerProtocol, kind: str, data: bytes) -> Blob:
    """The type and bytes of a pending write; raises as `cut` does."""
    plain, data = deciphered(serde, kind, data)
    if is_langgraphs(inner(serde)):
        try:
            _check(plain, data)
        except _DAMAGE as error:
            raise _damaged(f"a pending write, {plain}", error) from error
    return plain, data


def _check(kind: str, data: bytes) -> None:
    """Raise for what is no value from its beginning to its end."""
    if kind == "json":
        json.loads(data)
    elif kind == "msgpack":
        unpacker = _unpacker(data)
        unpacker.skip()
        _check_end(unpacker, data)


def deciphered(serde: SerializerProtocol, kind: str, data: bytes) -> Blob:
    """The type and bytes of what was stored, without its cipher."""
    if not isinstance(kind, str) or not isinstance(data, bytes):
        raise TransferError("it is damaged: its columns hold other things than they should")
    plain, data = unseal(serde, "(all of them)", kind, data)
    if "+" in plain and isinstance(serde, JsonPlusSerializer):
        raise TransferError(f"it is enciphered ({kind}): its key is needed")
    return plain, data


def _read_whole(serde: SerializerProtocol, kind: str, data: bytes) -> dict[str, Any]:
    try:
        return dict(serde.loads_typed((kind, data)))
    except Exception as error:
        raise TransferError(f"its serializer cannot read it ({kind}): {error}") from error


def _cut_msgpack(data: bytes) -> dict[str, Any]:
    unpacker = _unpacker(data)
    found: dict[str, Any] = {}
    for _ in range(unpacker.read_map_header()):
        key = unpacker.unpack()
        start = unpacker.tell()
        if key == "channel_values":
            found[key] = _cut_values(unpacker, data)
        else:
            unpacker.skip()
            found[key] = unpacked(data[start : unpacker.tell()])
    _check_end(unpacker, data)
    return found


def _unpacker(data: bytes) -> msgpack.Unpacker:
    unpacker = msgpack.Unpacker(max_buffer_size=len(data))
    unpacker.feed(data)
    return unpacker


def _check_end(unpacker: msgpack.Unpacker, data: bytes) -> None:
    if unpacker.tell() != len(data):
        raise ValueError("something follows it")


def _cut_values(unpacker: msgpack.Unpacker, data: bytes) -> dict[str, Any]:
    found = {}
    for _ in range(unpacker.read_map_header()):
        channel = unpacker.unpack()
        start = unpacker.tell()
        unpacker.skip()
        found[channel] = _value(data[start : unpacker.tell()])
    return found


def _value(data: bytes) -> Any:
    first = data[0]
    if first in _PRIMITIVES:
        if len(data) <= _LONGEST_PRIMITIVE and is_inline(value := ormsgpack.unpackb(data)):
            return value
    elif first in _BINARIES:  # alone, bytes are serialised as what they are
        return Raw("bytes", data[_BINARIES[first] :])
    elif first in _EXTENSIONS:
        return Raw("msgpack", data, data[_EXTENSIONS[first]] == EXT_DELTA_SNAPSHOT)
    return Raw("msgpack", data)


def _cut_json(data: bytes) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(data)
    values = found.get("channel_values") or {}
    found["channel_values"] = {
        channel: value if is_inline(value) else Raw("json", json.dumps(value).encode())
        for channel, value in values.items()
    }
    # They stay JSON, where its constructors mean something; `put` keeps them under this name.
    extras = [key for key in found if key not in _JSON_KEYS and found[key] not in ([], {})]
    if extras:
        text = json.dumps({key: found.pop(key) for key in extras})
        found["channel_values"][EXTRAS] = Raw("json", text.encode())
    return found
