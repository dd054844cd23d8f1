"""The checkpointer of LangGraph's server, in one SQLite file. In `langgraph.json`:

    "checkpointer": {"path": "langgraph_sqlite_saver.server:checkpointer"}

The environment variable LANGGRAPH_SQLITE_PATH names the file, `.langgraph_sqlite/checkpoints.db` in
the working directory without it. With LANGGRAPH_AES_KEY, the server's own variable, values are
enciphered.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from langgraph.checkpoint.serde.base import SerializerProtocol
from langgraph.checkpoint.serde.encrypted import EncryptedSerializer

from .aio import AsyncSqliteSaver

DEFAULT_PATH = Path(".langgraph_sqlite", "checkpoints.db")


@asynccontextmanager
async def checkpointer() -> AsyncIterator[AsyncSqliteSaver]:
    """A saver on the server's file, which is made with its folder where it is missing.

    The server enters this once for each of its threads that runs an event loop: each gets a saver
    of its own, all on the same file.

    Raises:
        OSError: The folder cannot be made.
        StorageError: A subclass that says what is wrong with the file.
        ValueError: LANGGRAPH_AES_KEY is not 16, 24 or 32 bytes long.
    """
    # In a thread, since the server refuses whatever looks at the disk in its event loop.
    async with await asyncio.to_thread(_saver) as saver:
        yield saver


def _saver() -> AsyncSqliteSaver:
    configured = os.environ.get("LANGGRAPH_SQLITE_PATH")
    saver = AsyncSqliteSaver(configured or DEFAULT_PATH, serde=_serializer())
    if path := saver.database.path:
        path.parent.mkdir(parents=True, exist_ok=True)
    if not configured:
        _keep_out_of_git(DEFAULT_PATH.parent)
    return saver


def _keep_out_of_git(folder: Path) -> None:
    """The folder lies in the user's project; conversations are not to be committed with it."""
    ignored = folder / ".gitignore"
    if not ignored.exists():
        ignored.write_text("*\n")


def _serializer() -> SerializerProtocol | None:
    """What the server's built-in checkpointer would encipher is enciphered here, too."""
    if os.environ.get("LANGGRAPH_AES_KEY"):
        return EncryptedSerializer.from_pycryptodome_aes()
    return None
