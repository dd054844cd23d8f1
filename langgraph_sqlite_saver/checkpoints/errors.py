"""What can be wrong with a call on a saver, beyond what the database layer reports."""

from __future__ import annotations

import sqlite3
from functools import lru_cache
from typing import Any

from ..database import InvalidInputError, StorageError


class InvalidConfigError(InvalidInputError):
    """The config names no thread, or names it in a way that cannot be meant."""


class SerializationError(StorageError, TypeError):
    """A value cannot be stored, and nothing of the call was; or one cannot be read.

    Where a serializer or a cipher raised an error, it is the `__cause__`, and this one is caught by
    its class as well: `except ValueError` for a ValueError.
    """

    @classmethod
    def of(cls, message: str, error: Exception) -> SerializationError:
        """One that is also of the class of `error`, which a serializer raised."""
        kind: Any = type(error)
        made = _like(kind)(message)
        made.__dict__.update(error.__dict__)  # what a class of the caller's own carries
        return made


# Classes that mean something to whoever runs our code: a generator, a queue, the database layer.
_NOT_LIKE = (StopIteration, StopAsyncIteration, sqlite3.Error, StorageError)


@lru_cache(maxsize=100)
def _like(kind: Any) -> type[SerializationError]:
    """A SerializationError that is a `kind`, or the next of its bases that can be had."""
    if issubclass(kind, _NOT_LIKE):
        return SerializationError
    for base in kind.__mro__:
        if issubclass(SerializationError, base):
            break
        try:
            return _combined(kind, base)
        except Exception:  # it is final, as pydantic's is, or wants something of its subclasses
            continue
    return SerializationError


def _combined(kind: type[Exception], base: Any) -> type[SerializationError]:
    def reduce(self: SerializationError) -> Any:
        return _again, (kind, *self.args), self.__dict__

    name = f"SerializationError[{base.__name__}]"
    members: dict[str, Any] = {
        "__module__": __name__,
        "__reduce__": reduce,
        "__doc__": SerializationError.__doc__,
    }
    made: type[SerializationError] = type(name, (SerializationError, base), members)
    made("can one be made?")
    return made


def _again(kind: Any, message: str) -> SerializationError:
    """One that was pickled or copied."""
    return _like(kind)(message)


class DamagedError(SerializationError):
    """A stored value cannot be brought back; the others are not touched by it.

    Attributes:
        thread_id, checkpoint_ns, channel, version: Which value.
        reason: What is wrong with it.
    """

    def __init__(
        self, thread_id: str, checkpoint_ns: str, channel: str, version: str, reason: str
    ) -> None:
        super().__init__(
            f"thread {thread_id!r}, namespace {checkpoint_ns!r}, channel {channel!r}, version "
            f"{version}: the stored value is damaged: {reason}. Restore the file from a backup, or "
            "delete the thread; check() lists all such places."
        )
        self.thread_id, self.checkpoint_ns = thread_id, checkpoint_ns
        self.channel, self.version, self.reason = channel, version, reason

    def __reduce__(self) -> tuple[type[DamagedError], tuple[str, ...]]:
        place = (self.thread_id, self.checkpoint_ns)
        return type(self), (*place, self.channel, self.version, self.reason)
