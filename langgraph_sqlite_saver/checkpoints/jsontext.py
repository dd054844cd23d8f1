"""The JSON of `checkpoint` and `metadata`: strict, so that any JSON function reads it.

No NaN or infinity, no lone surrogates, no NUL characters (Postgres' JSONB takes none of them).
`checkpoint` holds nothing of the kind, since values that JSON cannot hold go to blobs. In metadata
they are replaced: NaN and infinities become null, surrogates "?", NULs go. Dates, UUIDs,
enums and dataclasses become what orjson makes of them: text, values, objects.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import orjson

from .errors import SerializationError

_OPTIONS = orjson.OPT_NON_STR_KEYS


def dump_checkpoint(checkpoint: Mapping[str, Any]) -> str:
    """The checkpoint row's text; raises SerializationError for ids or versions of odd types."""
    try:
        return orjson.dumps(checkpoint).decode()
    except TypeError as error:
        raise SerializationError(
            f"checkpoint {checkpoint.get('id')!r} cannot be stored: {error}. Ids are text; "
            "channel versions are text, floats, or ints of at most 64 bits."
        ) from error


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
    return json.dumps(
        {str(key): _cleaned(value, str(key)) for key, value in metadata.items()},
        ensure_ascii=False,
        allow_nan=False,
    )


def load_metadata(text: str) -> Any:
    """What `dump_metadata` was given, ints of any size among it."""
    return json.loads(text)


def _cleaned(value: Any, where: str) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode().replace("\0", "")
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {
            _cleaned(str(key), where): _cleaned(each, f"{where}.{key}")
            for key, each in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [_cleaned(each, where) for each in value]
    try:
        return orjson.loads(orjson.dumps(value, option=_OPTIONS))
    except TypeError as error:
        raise SerializationError(
            f"metadata {where!r} cannot be stored as JSON: {error}. "
            "Put plain data there; objects belong into channels."
        ) from error
