"""LangGraph checkpoints in one SQLite file: drop-in, complete, concurrent, crash-safe."""

from .aio import AsyncSqliteSaver
from .checkpoints import (
    Compaction,
    Damage,
    DamagedError,
    InvalidConfigError,
    SerializationError,
    Stats,
    ThreadInfo,
)
from .database import (
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
from .saver import SqliteSaver

__all__ = [
    "AsyncSqliteSaver",
    "CannotOpenError",
    "Compaction",
    "ConnectionUnusableError",
    "Damage",
    "DamagedError",
    "DatabaseClosedError",
    "DatabaseFullError",
    "DatabaseLockedError",
    "EventLoopError",
    "InvalidConfigError",
    "InvalidInputError",
    "InvalidTypeError",
    "MigrationError",
    "NotADatabaseError",
    "ReadOnlyError",
    "SerializationError",
    "SqliteSaver",
    "Stats",
    "StorageError",
    "ThreadInfo",
    "UnknownSchemaError",
]
