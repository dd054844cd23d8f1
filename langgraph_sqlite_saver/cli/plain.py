"""Stored values as plain data: nothing that a file names is imported, called or executed.

LangGraph writes what msgpack lacks as extensions that name a class (docs/storage.md). Its own
serialiser imports that class; this one notes the name and keeps the data, so that a file can be
looked into anywhere, and whoever made it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import ormsgpack

# Deeper values are cut off there: no recursion of ours, of JSON's or of a terminal's ends badly.
DEEPEST = 100

# The codes of LangGraph's extensions.
_SINGLE, _POSITIONAL, _KEYWORDS, _METHOD, _PYDANTIC_1, _PYDANTIC_2, _NUMPY, _DELTA = range(8)


@dataclass(frozen=True)
class Plain:
    """An object as what it was made of: its class by name only, its arguments as plain data."""

    module: str
    name: str
    arguments: tuple[Any, ...] = ()
    fields: dict[str, Any] = field(default_factory=dict)

    @property
    def type(self) -> str:
        """The class's full name."""
        return f"{self.module}.{self.name}" if self.module else self.name


@dataclass(frozen=True)
class Opaque:
    """A value that is not read: pickled, enciphered or damaged; equal if its bytes are."""

    what: str
    size: int
    digest: bytes = field(repr=False, default=b"")

    @classmethod
    def of(cls, what: str, data: Any) -> Opaque:
        """From what is wrong with it, and the bytes as they are stored."""
        known = data if isinstance(data, bytes) else repr(data).encode("utf-8", "replace")
        return cls(what, len(known), hashlib.blake2b(known, digest_size=16).digest())

    def __str__(self) -> str:
        return f"<{self.what}, {self.size:,} bytes>" if self.size else f"<{self.what}>"


class PlainSerializer:
    """Reads what JsonPlusSerializer wrote as plain data; a saver's `serde` for looking only.

    What cannot be read is an `Opaque`; with `strict`, damaged values raise ValueError.
    """

    def __init__(self, *, strict: bool = False) -> None:
        self._strict = strict
        self.enciphered = 0  # values that were not read for want of a key

    def dumps_typed(self, obj: Any) -> tuple[str, bytes]:
        """Nothing new is ever stored with it."""
        raise TypeError("this serializer only reads")

    def loads_typed(self, data: tuple[str, bytes]) -> Any:
        """A value's plain data."""
        kind, content = data
        self.enciphered += "+" in kind
        try:
            return _load(kind, content)
        except (ValueError, RecursionError, TypeError) as error:
            if self._strict:
                raise ValueError(str(error)) from error
            return Opaque.of(f"damaged: {error}", content)


def _load(kind: str, content: bytes) -> Any:
    if kind == "msgpack":
        return _expanded(_unpacked(content), 0)
    if kind == "null":
        return None
    if kind in ("bytes", "bytearray"):
        return bytes(content)
    if kind == "json":
        return _expanded(json.loads(content), 0)
    if "+" in kind:
        return Opaque.of(f"enciphered ({kind.partition('+')[2]})", content)
    # Reading a pickle would run code; other types are those of a serialiser that is not here.
    return Opaque.of(kind if kind == "pickle" else f"of type {kind}", content)


class _Extension:
    """An extension as it is stored; `_expanded` reads it, for which no stack of C's is used."""

    __slots__ = ("code", "data")

    def __init__(self, code: int, data: bytes) -> None:
        self.code, self.data = code, data


def _unpacked(content: bytes) -> Any:
    return ormsgpack.unpackb(
        content, ext_hook=_Extension, option=ormsgpack.OPT_NON_STR_KEYS
    )  # fmt: skip


def bounded(value: Any) -> Any:
    """A value from JSON, cut off where it is nested too deeply."""
    return _expanded(value, 0)


def _expanded(value: Any, depth: int) -> Any:
    """A value with the objects in it."""
    kind = type(value)
    if kind is _Extension:
        return _object(value, depth)
    if kind is not dict and kind is not list:
        return value
    if depth > DEEPEST:
        return Opaque("nested too deeply", 0)
    if kind is list:
        return [_expanded(each, depth + 1) for each in value]
    return {key: _expanded(each, depth + 1) for key, each in value.items()}


def _object(extension: _Extension, depth: int) -> Any:
    if depth > DEEPEST:
        return Opaque("nested too deeply", len(extension.data))
    try:
        content = _expanded(_unpacked(extension.data), depth + 1)
        if isinstance(content, Opaque):
            return content
        if extension.code == _DELTA:
            return Plain("", "DeltaSnapshot", (content,))
        if extension.code == _NUMPY:
            return _array(*content)
        return _made(extension.code, *content[:3])
    except (ValueError, TypeError, LookupError):
        return Opaque.of(f"extension {extension.code}", extension.data)


def _array(dtype: str, shape: list[int], order: str, content: bytes) -> Plain:
    return Plain("numpy", "ndarray", (), {"dtype": dtype, "shape": shape, "data": content})


def _made(code: int, module: Any, name: Any, content: Any) -> Plain:
    """What an object was made of; raises for data that is none of LangGraph's."""
    if not isinstance(module, str) or not isinstance(name, str):
        raise TypeError("an object without a class")
    if code in (_SINGLE, _METHOD):
        return Plain(module, name, (content,))
    if code == _POSITIONAL and isinstance(content, list):
        return Plain(module, name, tuple(content))
    if code in (_KEYWORDS, _PYDANTIC_1, _PYDANTIC_2) and isinstance(content, dict):
        return Plain(module, name, (), {str(key): each for key, each in content.items()})
    raise TypeError("an object of unknown content")


# As JSON.


def to_json(value: Any) -> Any:
    """A plain value as JSON holds it; what JSON has no word for is an object with an "@" key."""
    if isinstance(value, Plain):
        return dict(_json_object(value))
    if isinstance(value, Opaque):
        return {"@opaque": value.what, "bytes": value.size}
    if isinstance(value, bytes):
        return {"@bytes": value.hex()}
    if isinstance(value, float) and value - value != 0:  # NaN and infinities are no JSON
        return {"@float": str(value)}
    if isinstance(value, (list, tuple)):
        return [to_json(each) for each in value]
    if isinstance(value, dict):
        if all(isinstance(key, str) and not key.startswith("@") for key in value):
            return {key: to_json(each) for key, each in value.items()}
        return {"@map": [[to_json(key), to_json(each)] for key, each in value.items()]}
    return value


def _json_object(value: Plain) -> Iterator[tuple[str, Any]]:
    yield "@type", value.type
    if value.arguments:
        yield "@args", [to_json(each) for each in value.arguments]
    for key, each in value.fields.items():
        yield key, to_json(each)
