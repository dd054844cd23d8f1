"""What can be wrong with a call on a saver, beyond what the database layer reports."""

from __future__ import annotations

from ..database import InvalidInputError, StorageError


class InvalidConfigError(InvalidInputError):
    """The config names no thread, or names it in a way that cannot be meant."""


class SerializationError(StorageError, TypeError):
    """A value cannot be stored; nothing of the call was."""
