"""The JSON of `checkpoint` and `metadata`: strict, so that any JSON function reads it.

No NaN or infinity, no lone surrogates, no NUL characters (Postgres' JSONB takes none of them).
`checkpoint` holds nothing of the kind, since values that JSON cannot hold go to blobs. In metadata
they are replaced: NaN and infinities become null, surrogates "?", NULs go. Dates, UUIDs,
enums and dataclasses become what orjson makes of them: text, values, objects.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

import orjson

from .errors import SerializationError

_OPTIONS = orjson.OPT_NON_STR_KEYS

# For checkpoints: nothing is turned into text on the way.
_AS_GIVEN = orjson.OPT_PASSTHROUGH_DATETIME | orjson.OPT_PASSTHROUGH_DATACLASS

_ESCAPED_NUL = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")


def is_text(value: str) -> bool:
    """Whether a file can hold the text: UTF-8 without lone surrogates, and no NUL characters."""
    if "\0" in value:
        return False
    if value.isascii():
        return True
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def cleaned(text: str) -> str:
    """Text that a file can hold: surrogates are "?", NULs go."""
    return text if is_text(text) else text.encode("utf-8", "replace").decode().replace("\0", "")


# In a text that may hold ints beyond 64 bits, which orjson would read as floats.
_LARGE_INT = re.compile(r"\d{19}")


def dump_checkpoint(checkpoint: Mapping[str, Any]) -> str:
    """The checkpoint row's text; raises SerializationError for ids or versions of odd types."""
    try:
        data = _dump_plain(checkpoint)
        if b"\\u0000" in data and _ESCAPED_NUL.search(data):
            raise TypeError("text with a NUL character")
        return data.decode()
    except TypeError as error:
        raise SerializationError(
            f"checkpoint {checkpoint.get('id')!r} cannot be stored: {error}. Ids are text; "
            "channel versions are text, floats, or ints of at most 64 bits."
        ) from error


def _dump_plain(checkpoint: Mapping[str, Any]) -> bytes:
    try:
        return orjson.dumps(checkpoint, option=_AS_GIVEN)
    except TypeError:  # names that are str-Enums, as nodes may have, are taken for what they are
        return orjson.dumps(_plain_keys(checkpoint), option=_AS_GIVEN)


def _plain_keys(value: Any) -> Any:
    if not isinstance(value, Mapping):
        return value
    return {
        str.__str__(key) if isinstance(key, str) else key: _plain_keys(each)
        for key, each in value.items()
    }


def parameter(value: Any) -> str:
    """A set of keys as one JSON parameter of a statement."""
    return orjson.dumps(value).decode()


def load_checkpoint(text: str) -> Any:
    """What `dump_checkpoint` was given."""
    return orjson.loads(text)


def dump_metadata(metadata: Mapping[str, Any]) -> str:
    """The metadata's text; raises SerializationError that names the key it cannot store."""
    try:
        data = orjson.dumps(metadata, option=_OPTIONS)
        if b"\\u0000" not in data:
            return data.decode()
    except TypeError:  # surrogates, large ints, or something that is no JSON at all
        pass
    try:
        return json.dumps(
            {_key(key): _cleaned(value, str(key)) for key, value in metadata.items()},
            ensure_ascii=False,
            allow_nan=False,
        )
    except (RecursionError, ValueError) as error:  # an int of more digits than Python prints
        raise SerializationError(
            f"the metadata cannot be stored as JSON: {error}. "
            "Objects that contain themselves, or are nested very deeply, belong into channels."
        ) from error


def load_metadata(text: str) -> Any:
    """What `dump_metadata` was given, ints of any size among it."""
    return json.loads(text) if _LARGE_INT.search(text) else orjson.loads(text)


def _cleaned(value: Any, where: str) -> Any:
    if isinstance(value, str):
        return cleaned(value)
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {_key(key): _cleaned(each, f"{where}.{key}") for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_cleaned(each, where) for each in value]
    try:
        plain = orjson.loads(orjson.dumps(value, option=_OPTIONS))
    except TypeError as error:
        raise SerializationError(
            f"metadata {where!r} cannot be stored as JSON: {error}. "
            "Put plain data there; objects belong into channels."
        ) from error
    return _cleaned(plain, where)


def _key(key: Any) -> str:
    """A key as orjson writes it: None is "null", True "true", a date its text."""
    if isinstance(key, str):
        return cleaned(key)
    try:
        (text,) = orjson.loads(orjson.dumps({key: None}, option=_OPTIONS))
    except TypeError:
        text = str(key)
    return cleaned(text)
