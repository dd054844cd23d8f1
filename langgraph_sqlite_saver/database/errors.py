"""The errors of the library: one base class, and a subclass for each thing a caller can act on."""

from __future__ import annotations

import copy
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from . import logs


class StorageError(Exception):
    """Base class of every error this library raises on purpose."""

    # KeyError and friends quote their message; ours are sentences.
    __str__ = Exception.__str__


class DatabaseLockedError(StorageError):
    """Another process kept the file locked for longer than `lock_timeout` seconds."""


class DatabaseClosedError(StorageError):
    """The database was closed; what it had accepted before was completed."""


def was_closed(name: str) -> DatabaseClosedError:
    """The error for a call after `close()`."""
    return DatabaseClosedError(
        f"{name}: the saver was closed, by close() or at the end of its `with` block. "
        "Use it inside the block, or make a new one"
    )


class DatabaseFullError(StorageError):
    """The disk, or a size limit set on the file, is full; what was stored before stays stored."""


class ReadOnlyError(StorageError):
    """The file can be read but not written."""


class NotADatabaseError(StorageError):
    """The file is no SQLite database, or a damaged one."""


class CannotOpenError(StorageError):
    """The file cannot be opened: a missing directory, missing permissions, too old an SQLite."""


class FileReplacedError(StorageError):
    """The file was deleted, moved, or replaced by another one, while it was open."""


class UnknownSchemaError(StorageError):
    """The file holds tables that this version must not touch: newer ones, or someone else's."""


class MigrationError(StorageError):
    """A migration failed; the file is at the version it had before it."""


class ConnectionUnusableError(StorageError):
    """A borrowed connection cannot serve here: wrong thread, wrong mode, inherited by a fork."""


class InvalidInputError(StorageError, ValueError):
    """An argument has a value that cannot be meant."""


class InvalidTypeError(StorageError, TypeError):
    """An argument has a type that cannot be meant."""


class EventLoopError(StorageError, RuntimeError):
    """A blocking call was made in a thread that runs an event loop."""


_BUSY = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED} if hasattr(sqlite3, "SQLITE_BUSY") else {5, 6}
_BUSY_MESSAGES = ("database is locked", "database table is locked", "locking protocol")
_PROTOCOL = 15


def is_busy(error: BaseException) -> bool:
    """Whether trying again may succeed because another connection held a lock."""
    if not isinstance(error, sqlite3.OperationalError):
        return False
    code = getattr(error, "sqlite_errorcode", None)  # Python 3.11 and later
    if code is not None:
        return code & 0xFF in _BUSY or code == _PROTOCOL
    return any(text in str(error) for text in _BUSY_MESSAGES)


@contextmanager
def translated(where: str) -> Iterator[None]:
    """Turn sqlite3's errors into ours, with the remedy; the original stays as the cause."""
    try:
        yield
    except sqlite3.Error as error:
        explained = translate(error, where)
        if explained is error:
            raise
        raise explained from error
    except UnicodeDecodeError as error:  # SQLite's message quotes what is in the file
        raise NotADatabaseError(f"{where}: its schema is damaged: restore a backup.") from error


def translate(error: sqlite3.Error, where: str) -> Exception:
    """The library's error for one of sqlite3's, or the error itself where we know no better."""
    text = str(error)
    if is_busy(error):
        return DatabaseLockedError(
            f"{where}: {text}. Another connection holds a lock; call again, or raise lock_timeout."
        )
    for pattern, kind, remedy in _TRANSLATIONS:
        if pattern in text:
            if kind is NotADatabaseError:
                logs.damage.error("%s: %s", where, text)
            return kind(f"{where}: {text}. {remedy}")
    return error


def explained(error: BaseException, where: str) -> BaseException:
    """The error to answer with: the library's for one of sqlite3's, which stays as its cause."""
    if not isinstance(error, sqlite3.Error):
        return error
    ours = translate(error, where)
    if ours is not error:
        ours.__cause__ = error
    return ours


def twin(error: BaseException) -> BaseException:
    """The error for one more caller: a traceback belongs to the thread that raises it."""
    own = error
    with suppress(Exception):  # a class whose constructor wants something else
        own = copy.copy(error).with_traceback(error.__traceback__)
        own.__cause__, own.__context__ = error.__cause__, error.__context__
        own.__suppress_context__ = error.__suppress_context__
    return own


_TRANSLATIONS: tuple[tuple[str, type[StorageError], str], ...] = (
    (
        "disk is full",
        DatabaseFullError,
        "Free some space (or raise the size limit) and call again; "
        "what was stored before is unharmed.",
    ),
    (
        "readonly database",
        ReadOnlyError,
        "Reading works; to write, give this user write permission on the file and its directory.",
    ),
    (
        "file is not a database",
        NotADatabaseError,
        "Give the path of an SQLite file, or of a file that does not exist yet.",
    ),
    (
        "unsupported file format",
        NotADatabaseError,
        "The file is damaged, or a newer SQLite made it: restore a backup.",
    ),
    (
        "malformed database schema",
        NotADatabaseError,
        "The file is damaged: restore a backup.",
    ),
    (
        "disk image is malformed",
        NotADatabaseError,
        "The file is damaged: restore a backup, or save what can be read "
        "with the sqlite3 shell's `.recover`.",
    ),
    *(
        (
            text,
            UnknownSchemaError,
            "The file's tables are not as this library makes them: somebody changed them, or they "
            "are damaged. Restore a backup.",
        )
        for text in ("no such column", "has no column named", "no such table: checkpoint")
    ),
    (
        "unable to open database file",
        CannotOpenError,
        "Check that its directory exists and that this user may read and write there.",
    ),
    (
        "no such vfs",
        CannotOpenError,
        "Take the `vfs` out of the URI, or load the extension that brings it first.",
    ),
    (
        "string or blob too big",
        InvalidInputError,
        "A value is above SQLite's limit for one (1 GB by default): split it, or store it "
        "elsewhere and keep a reference.",
    ),
    (
        "objects created in a thread can only be used in that same thread",
        ConnectionUnusableError,
        "Open the connection with check_same_thread=False, or pass a path instead of a connection.",
    ),
    (
        "Cannot operate on a closed database",
        DatabaseClosedError,
        "The connection was closed by its owner.",
    ),
    (
        "disk I/O error",
        StorageError,
        "The disk or the file system refused; look into the system's log.",
    ),
)
