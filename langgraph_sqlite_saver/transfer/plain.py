"""Values without their classes: what has a class stays the bytes that it is, in plain data."""

from __future__ import annotations

import json
from typing import Any

import ormsgpack
from langgraph.checkpoint.serde.base import SerializerProtocol
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer


def unpacked(data: bytes) -> Any:
    """MessagePack as plain data; what has a class stays the bytes that it is, and packs again."""
    return ormsgpack.unpackb(data, ext_hook=ormsgpack.Ext, option=ormsgpack.OPT_NON_STR_KEYS)


class PlainSerializer(JsonPlusSerializer):
    """Reads values as plain data: no class is looked for, nothing of a file is imported."""

    def __init__(self) -> None:
        super().__init__(__unpack_ext_hook__=ormsgpack.Ext)

    def loads_typed(self, data: tuple[str, bytes]) -> Any:
        """As plain data; JSON's constructors stay objects of text and lists."""
        return json.loads(data[1]) if data[0] == "json" else super().loads_typed(data)


def packed(value: Any) -> bytes:
    """The same bytes for the same plain data, and others for any other: 1 is not True."""
    try:
        return ormsgpack.packb(value, option=ormsgpack.OPT_NON_STR_KEYS)
    except TypeError:  # an int that is too large, a class of another serializer
        return repr(value).encode("utf-8", "backslashreplace")


def is_langgraphs(serde: SerializerProtocol) -> bool:
    """Whether it reads MessagePack and JSON as LangGraph's own serializer does."""
    kind: Any = type(serde)
    return kind.loads_typed is JsonPlusSerializer.loads_typed
