"""Getting along with rows that are damaged: whatever they hold, the others can be read.

A row may have any content: another program wrote it, or a disk lost some of it. What a read takes
from a row is looked at here, and what it cannot be is a DamagedError that names the row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import wraps
from sqlite3 import Connection
from typing import Any, Concatenate, ParamSpec, TypeVar, cast

import orjson

from ..database.own_cursors import decoded
from . import jsontext
from .errors import DamagedError
from .jsontext import is_text

P = ParamSpec("P")
T = TypeVar("T")

# What sqlite3 says of text that is not UTF-8; the whole statement fails then.
_UNDECODABLE = "Could not decode to UTF-8"


@contextmanager
def any_text(conn: Connection) -> Iterator[None]:
    """While it lasts, text that is not UTF-8 is read with surrogates, which nothing takes for text.

    Other text is read as ever, by a slower way.
    """
    before = conn.text_factory
    conn.text_factory = decoded
    try:
        yield
    finally:
        conn.text_factory = before


def in_any_text(
    op: Callable[Concatenate[Connection, P], T],
) -> Callable[Concatenate[Connection, P], T]:
    """An operation that reads any text: for those that go through a whole thread."""

    @wraps(op)
    def run(conn: Connection, /, *args: P.args, **kwargs: P.kwargs) -> T:
        with any_text(conn):
            return op(conn, *args, **kwargs)

    return run


def again_in_any_text(
    op: Callable[Concatenate[Connection, P], T],
) -> Callable[Concatenate[Connection, P], T]:
    """An operation that is run again where it came upon text that is not UTF-8."""

    @wraps(op)
    def run(conn: Connection, /, *args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return op(conn, *args, **kwargs)
        except Exception as error:
            if _UNDECODABLE not in str(error):
                raise
        with any_text(conn):
            return op(conn, *args, **kwargs)

    return run


def is_key(value: Any) -> bool:
    """Whether a column of a key holds what a saver stores there, and can be asked for."""
    return type(value) is str and is_text(value)


def are_keys(values: Iterable[Any]) -> bool:
    """Whether several columns do; one look at all of them, for what reads row after row."""
    try:
        text = "".join(values)
    except TypeError:  # not all are text
        return False
    return (text.isascii() and "\0" not in text) or is_text(text)


# A checkpoint without its values, and the version keys its row notes.
Document = tuple[dict[str, Any], dict[str, str]]


def load_document(place: tuple[Any, ...], text: Any, noted: Any) -> Document:
    """The same as try_document of a row at a place (thread, namespace, id); raises DamagedError."""
    if document := try_document(text, noted):
        return document
    raise damaged_document(place, text, noted)


def damaged_document(place: tuple[Any, ...], text: Any, noted: Any) -> DamagedError:
    """The error for a row of which try_document makes nothing."""
    thread_id, ns, checkpoint_id = place
    return DamagedError(thread_id, ns, None, None, _why(text, noted), checkpoint_id)


def try_document(text: Any, noted: Any) -> Document | None:
    """What a row's columns `checkpoint` and `blob_versions` hold; None if they are damaged."""
    try:
        document = jsontext.load_checkpoint(text)
        notes = orjson.loads(noted) if noted else {}
    except ValueError:
        return None
    sound = (
        type(text) is str
        and type(document) is dict
        and type(document.get("channel_versions")) is dict
        and type(document.setdefault("channel_values", {})) is dict
        and isinstance(document.get("v", 1), (int, float))
        and type(notes) is dict
        and (not notes or all(type(key) is str for key in notes.values()))
    )
    return (document, notes) if sound else None


def _why(text: Any, noted: Any) -> str:
    for column, content in (("checkpoint", text), ("blob_versions", noted or "{}")):
        if type(content) is not str:
            return f"its column {column} holds {type(content).__name__} and not text"
        try:
            if type(jsontext.load_checkpoint(content)) is not dict:
                return f"its column {column} holds other JSON than an object"
        except ValueError as error:
            return f"its column {column} is not JSON: {error}"
    return "its JSON lacks what a checkpoint has, or has other things in its place"


def load_metadata(place: tuple[Any, ...], text: Any) -> dict[str, Any]:
    """The column `metadata` of the row at a place; raises DamagedError."""
    try:
        if type(text) is str and type(metadata := jsontext.load_metadata(text)) is dict:
            return cast("dict[str, Any]", metadata)
        reason = "its column metadata holds other things than a JSON object"
    except (ValueError, RecursionError) as error:
        reason = f"its column metadata is not JSON: {error}"
    thread_id, ns, checkpoint_id = place
    raise DamagedError(thread_id, ns, None, None, reason, checkpoint_id)
