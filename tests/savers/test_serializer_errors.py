"""What a serializer or a cipher raises is caught by its own class, and by ours."""

from __future__ import annotations

import asyncio
import operator
import pickle
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import pytest
from langgraph.checkpoint.serde.encrypted import EncryptedSerializer
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.graph import START, StateGraph
from pydantic import BaseModel

from langgraph_sqlite_saver import SerializationError, SqliteSaver, StorageError

from .helpers import LIST, get, numbers, place, save


class Refusal(Exception):
    """An application's error, made in a way of its own."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code


class Model(BaseModel):
    number: int


class Faulty(JsonPlusSerializer):
    """Fails at the value `BAD`, when it writes them or when it reads them."""

    def __init__(self, error: Exception, *, reading: bool) -> None:
        super().__init__()
        self.error, self.reading = error, reading

    def dumps_typed(self, obj: Any) -> tuple[str, bytes]:
        if obj == BAD and not self.reading:
            raise self.error
        return super().dumps_typed(obj)

    def loads_typed(self, data: tuple[str, bytes]) -> Any:
        found = super().loads_typed(data)
        if found == BAD and self.reading:
            raise self.error
        return found


BAD = ["bad"]


def error_of(raising: Callable[[], Any]) -> Exception:
    try:
        raising()
    except Exception as error:
        return error
    raise AssertionError


# The class that a caller catches, and the error that a serializer raises.
THEIRS: dict[str, tuple[type[Exception], Exception]] = {
    "ValueError": (ValueError, ValueError("theirs")),
    "KeyError": (KeyError, KeyError("theirs")),
    "OSError": (FileNotFoundError, FileNotFoundError(2, "theirs")),
    "UnicodeEncodeError": (UnicodeEncodeError, error_of("\ud800theirs".encode)),
    "of an application": (Refusal, Refusal(7, "theirs")),
    "final": (ValueError, error_of(lambda: Model(number="theirs"))),  # pydantic's ValidationError
    "StopIteration": (StorageError, StopIteration("theirs")),
    "sqlite3's": (StorageError, sqlite3.OperationalError("database is locked: theirs")),
}


@pytest.mark.parametrize("which", THEIRS)
@pytest.mark.parametrize("reading", [False, True])
@pytest.mark.parametrize("mode", ["sync", "async"])
def test_an_error_of_a_serializer_is_caught_by_its_own_class(
    open_driver: Any, database_path: Path, mode: str, reading: bool, which: str
) -> None:
    """And as SerializationError, as StorageError; it names the channel, and is the cause."""
    kind, error = THEIRS[which]
    saver = open_driver(mode, database_path, serde=Faulty(error, reading=reading))
    config = save(saver, 1)
    calls = [
        lambda: save(saver, 2, {"a": BAD}),
        lambda: saver.put_writes(config, [("a", BAD)], "task"),
    ]
    if reading:
        for call in calls:
            call()
        calls = [lambda: saver.get_tuple(place(2)), lambda: saver.get_tuple(config)]
    for call in calls:
        with pytest.raises(kind) as caught:
            call()
        found = caught.value
        assert isinstance(found, SerializationError) and isinstance(found, StorageError)
        assert "'a'" in str(found) and str(error) in str(found)
        assert found.__cause__ is error
        assert getattr(found, "code", None) == getattr(error, "code", None)
    if not reading:
        assert numbers(saver.list(place())) == [1]


@pytest.mark.parametrize("which", THEIRS)
def test_such_an_error_passes_through_pickle(which: str) -> None:
    """As from a worker process."""
    kind, error = THEIRS[which]
    found = SerializationError.of("what", error)
    again = pickle.loads(pickle.dumps(found))
    assert type(again) is type(found) and isinstance(again, kind)
    assert (str(again), vars(again)) == (str(found), vars(found))


def test_a_graphs_caller_catches_what_the_serializer_raised(database_path: Path) -> None:
    """From invoke and ainvoke alike."""
    build = StateGraph(Annotated[list, operator.add])
    build.add_node("n", lambda state: [])
    build.add_edge(START, "n")
    serde = Faulty(ValueError("theirs"), reading=False)
    with SqliteSaver(database_path, serde=serde) as saver:
        graph = build.compile(checkpointer=saver)
        for run in (graph.invoke, lambda *args: asyncio.run(graph.ainvoke(*args))):
            with pytest.raises(ValueError, match="theirs"):
                run(BAD, place(ns=None))


@pytest.mark.parametrize("reading", [False, True])
def test_an_error_of_a_cipher_is_caught_by_its_own_class(
    database_path: Path, reading: bool
) -> None:
    """A key service that does not answer, say."""

    class Cipher:
        answers = True

        def encrypt(self, plaintext: bytes) -> tuple[str, bytes]:
            if not self.answers:
                raise ConnectionError("no key today")
            return "own", plaintext[::-1]

        def decrypt(self, name: str, ciphertext: bytes) -> bytes:
            return self.encrypt(ciphertext)[1]

    cipher = Cipher()
    with SqliteSaver(database_path, serde=EncryptedSerializer(cipher)) as saver:
        save(saver, 1, {"a": LIST})
        cipher.answers = False
        with pytest.raises(ConnectionError, match="no key today") as caught:
            get(saver) if reading else save(saver, 2, {"a": LIST})
        assert isinstance(caught.value, SerializationError)
