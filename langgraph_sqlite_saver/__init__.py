"""LangGraph checkpoints in one SQLite file: drop-in, complete, concurrent, crash-safe.

Names are imported on first access: pytest loads this package for its plugin in projects that do
not use it, and shell completion does not need LangChain.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

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
        Event,
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
    "Event",
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

# The module that defines a name; `database` for the others.
_MODULES = {
    "AsyncSqliteSaver": "aio",
    "SqliteSaver": "saver",
    "restore_backup": "checkpoints.restoring",
    **dict.fromkeys(
        (
            "Compaction",
            "Damage",
            "DamagedError",
            "Findings",
            "InvalidConfigError",
            "Orphans",
            "SerializationError",
            "Stats",
            "ThreadInfo",
        ),
        "checkpoints",
    ),
}


if not TYPE_CHECKING:  # type checkers would take every name for one of the module's

    def __getattr__(name: str) -> Any:
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(import_module(f".{_MODULES.get(name, 'database')}", __name__), name)
        globals()[name] = value  # the next access does not call this function
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


@asynccontextmanager
async def _checkpointer() -> AsyncIterator[AsyncSqliteSaver]:
    import asyncio

    # In a thread: the server forbids file access in its event loop.
    server = await asyncio.to_thread(import_module, f"{__name__}.server")
    async with server.checkpointer() as saver:
        yield saver


# langgraph-api (0.16.7) looks up "langgraph_sqlite_saver.server:checkpointer" as this key of the
# module's __dict__, which __getattr__ cannot provide.
globals()["server:checkpointer"] = _checkpointer
