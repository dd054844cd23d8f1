"""What can be wrong with a call on a saver, beyond what the database layer reports."""

from __future__ import annotations

import copy
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

    def __str__(self) -> str:
        """What is wrong, in text that every log takes, whatever a damaged row holds."""
        return _printable(Exception.__str__(self))


def _printable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()


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
    """A stored value, or a checkpoint's row, cannot be read; the others can.

    Attributes:
        thread_id, checkpoint_ns: Where it is.
        channel, version: Which value; None for a checkpoint's row.
        checkpoint_id: The checkpoint that was read; None where a value was read by itself.
        reason: What is wrong with it.
    """

    def __init__(
        self,
        thread_id: str,
        checkpoint_ns: str,
        channel: str | None,
        version: str | None,
        reason: str,
        checkpoint_id: str | None = None,
    ) -> None:
        self.thread_id, self.checkpoint_ns = thread_id, checkpoint_ns
        self.channel, self.version, self.reason = channel, version, reason
        self.checkpoint_id = checkpoint_id
        super().__init__(thread_id, checkpoint_ns, channel, version, reason, checkpoint_id)

    def __str__(self) -> str:
        """The place, what is wrong there, and the remedy."""
        what = "the row" if self.channel is None else "the stored value"
        return _printable(
            f"{_named(self)}: {what} is damaged: {self.reason}. Restore the file from a backup, or "
            "delete the thread; check() lists all such places."
        )

    def at(self, checkpoint_id: str) -> DamagedError:
        """The same error, which also names the checkpoint that was read."""
        place = (self.thread_id, self.checkpoint_ns, self.channel, self.version)
        return type(self)(*place, self.reason, self.checkpoint_id or checkpoint_id)


def _named(error: DamagedError) -> str:
    parts = [f"thread {error.thread_id!r}", f"namespace {error.checkpoint_ns!r}"]
    if error.checkpoint_id is not None:
        parts.append(f"checkpoint {error.checkpoint_id!r}")
    if error.channel is not None:
        parts += [f"channel {error.channel!r}", f"version {error.version}"]
    return ", ".join(parts)


def placed(error: SerializationError, row: tuple[Any, ...]) -> SerializationError:
    """The error of reading a checkpoint, (thread, namespace, id, …), which it then names."""
    thread_id, ns, checkpoint_id, *_ = row
    if isinstance(error, DamagedError):
        return error.at(checkpoint_id)
    named = copy.copy(error)  # of the same classes
    named.args = (f"thread {thread_id!r}, namespace {ns!r}, checkpoint {checkpoint_id!r}: {error}",)
    named.__cause__ = error.__cause__
    return named
