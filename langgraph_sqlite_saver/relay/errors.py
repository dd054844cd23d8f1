"""What can go wrong beside SQLite: the relay's errors, each of which a caller can act on."""

from __future__ import annotations

from ..database import StorageError


class RedisUnavailableError(StorageError):
    """Redis is down, refuses or is too slow; what was to be saved is committed in SQLite.

    `answered` says whether it was there and refused; `refuses_all`, whether all that is written.
    """

    def __init__(self, message: str, *, answered: bool = False, refuses_all: bool = False) -> None:
        super().__init__(message)
        self.answered = answered
        self.refuses_all = refuses_all


class RedisLostKeysError(StorageError):
    """Redis has lost keys, and what it lacks was not deleted."""


class SqliteDisabledError(StorageError):
    """ENABLE_SQLITE is false, and only SQLite could do this."""


class UsageNotStoredError(StorageError):
    """Usage records wait in memory because they cannot be stored, or were given up.

    The text says which, and the cause why.
    """


def where(error: BaseException) -> str:
    """The function in which an error came up; its text may hold what a key holds."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace.tb_frame.f_code.co_name if trace is not None else "?"
