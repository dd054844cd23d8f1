"""SQLite as a service: one writer, many readers, migrations; knows nothing of what is stored.

`Database` for threads, `AsyncDatabase` for event loops; `read`, `write` and `maintain` run plain
functions of a connection. The README shows it used alone.
"""

from .aio import AsyncDatabase
from .aiosqlite_ import AiosqliteDatabase
from .borrowed import OwnersTransactionWarning
from .core import Database
from .errors import (
    CannotOpenError,
    ConnectionUnusableError,
    DatabaseClosedError,
    DatabaseFullError,
    DatabaseLockedError,
    EventLoopError,
    FileReplacedError,
    InvalidInputError,
    InvalidTypeError,
    MigrationError,
    NotADatabaseError,
    ReadOnlyError,
    StorageError,
    UnknownSchemaError,
)
from .events import Event, OnEvent
from .migrations import Migration, Schema, load_migrations
from .pragmas import CONNECTION_PRAGMAS, FILE_PRAGMAS, PragmaValue

__all__ = [
    "CONNECTION_PRAGMAS",
    "FILE_PRAGMAS",
    "AiosqliteDatabase",
    "AsyncDatabase",
    "CannotOpenError",
    "ConnectionUnusableError",
    "Database",
    "DatabaseClosedError",
    "DatabaseFullError",
    "DatabaseLockedError",
    "Event",
    "EventLoopError",
    "FileReplacedError",
    "InvalidInputError",
    "InvalidTypeError",
    "Migration",
    "MigrationError",
    "NotADatabaseError",
    "OnEvent",
    "OwnersTransactionWarning",
    "PragmaValue",
    "ReadOnlyError",
    "Schema",
    "StorageError",
    "UnknownSchemaError",
    "load_migrations",
]
