"""LangGraph checkpoints in one SQLite file: drop-in, complete, concurrent, crash-safe."""

from .aio import AsyncSqliteSaver
from .checkpoints import (
    Compaction,
    Damage,
    DamagedError,
    Findings,
    InvalidConfigError,
    Orphans,
    SerializationError,
    Stats,
    ThreadInfo,
)
from .checkpoints.restoring import restore_backup
from .database import (
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
    OwnersTransactionWarning,
    ReadOnlyError,
    StorageError,
    UnknownSchemaError,
)
from .saver import SqliteSaver
from .server import checkpointer as _checkpointer

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
    "FileReplacedError",
    "Findings",
    "InvalidConfigError",
    "InvalidInputError",
    "InvalidTypeError",
    "MigrationError",
    "NotADatabaseError",
    "Orphans",
    "OwnersTransactionWarning",
    "ReadOnlyError",
    "SerializationError",
    "SqliteSaver",
    "Stats",
    "StorageError",
    "ThreadInfo",
    "UnknownSchemaError",
    "restore_backup",
]

# What langgraph-api (0.16.7) takes "langgraph_sqlite_saver.server:checkpointer" for: a name here.
globals()["server:checkpointer"] = _checkpointer
