"""SQLite as a service: one writer, many readers, migrations; knows nothing of what is stored.

`Database` for threads, `AsyncDatabase` for event loops; `read`, `write` and `maintain` run plain
functions of a connection. Usable alone:

    from langgraph_sqlite_saver.database import Database

    with Database("notes.db") as db:
        db.write(lambda conn: conn.execute("CREATE TABLE IF NOT EXISTS notes (text)"))
        db.write(lambda conn: conn.execute("INSERT INTO notes VALUES ('hello')"))
        print(db.read(lambda conn: conn.execute("SELECT text FROM notes").fetchall()))
"""

from .aio import AsyncDatabase
from .aiosqlite_ import AiosqliteDatabase
from .core import Database
from .errors import (
    CannotOpenError,
    ConnectionUnusableError,
    DatabaseClosedError,
    DatabaseFullError,
    DatabaseLockedError,
    EventLoopError,
    InvalidInputError,
    InvalidTypeError,
    MigrationError,
    NotADatabaseError,
    ReadOnlyError,
    StorageError,
    UnknownSchemaError,
)
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
    "EventLoopError",
    "InvalidInputError",
    "InvalidTypeError",
    "Migration",
    "MigrationError",
    "NotADatabaseError",
    "PragmaValue",
    "ReadOnlyError",
    "Schema",
    "StorageError",
    "UnknownSchemaError",
    "load_migrations",
]
