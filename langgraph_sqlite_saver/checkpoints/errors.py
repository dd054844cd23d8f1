"""What can be wrong with a call on a saver, beyond what the database layer reports."""

from __future__ import annotations

from ..database import InvalidInputError, StorageError


class InvalidConfigError(InvalidInputError):
    """The config names no thread, or names it in a way that cannot be meant."""


class SerializationError(StorageError, TypeError):
    """A value cannot be stored, and nothing of the call was; or one cannot be read."""


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
