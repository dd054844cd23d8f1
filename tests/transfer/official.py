"""Files of the official saver, and what an import of them has to bring."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from langgraph.checkpoint.sqlite import SqliteSaver as OfficialSaver
from properties.model import exactly
from savers.helpers import rows, unsound

from langgraph_sqlite_saver import SqliteSaver


@contextmanager
def official_saver(path: Path, serde: Any = None) -> Iterator[OfficialSaver]:
    """langgraph-checkpoint-sqlite's saver on a file."""
    with closing(sqlite3.connect(path, check_same_thread=False)) as conn:
        yield OfficialSaver(conn, serde=serde)


def without_task_path(path: Path) -> None:
    """Make of a file one as 2.x left it: `writes` had no task_path."""
    with closing(sqlite3.connect(path)) as conn:
        conn.execute("ALTER TABLE writes DROP COLUMN task_path")


# The tables as 2.0.11 made them.
VERSION_TWO = """
    PRAGMA journal_mode=WAL;
    CREATE TABLE checkpoints (
        thread_id TEXT NOT NULL, checkpoint_ns TEXT NOT NULL DEFAULT '',
        checkpoint_id TEXT NOT NULL, parent_checkpoint_id TEXT,
        type TEXT, checkpoint BLOB, metadata BLOB,
        PRIMARY KEY (thread_id, checkpoint_ns, checkpoint_id)
    );
    CREATE TABLE writes (
        thread_id TEXT NOT NULL, checkpoint_ns TEXT NOT NULL DEFAULT '',
        checkpoint_id TEXT NOT NULL, task_id TEXT NOT NULL,
        idx INTEGER NOT NULL, channel TEXT NOT NULL, type TEXT, value BLOB,
        PRIMARY KEY (thread_id, checkpoint_ns, checkpoint_id, task_id, idx)
    );
"""


def constructor(*id: str, **arguments: Any) -> dict[str, Any]:
    """An object in JSON, as the first releases of 2.x wrote all but plain data."""
    return {"lc": 2, "type": "constructor", "id": list(id), **arguments}


def message(kind: str, text: str) -> dict[str, Any]:
    """A message in JSON, as langchain-core writes it."""
    id = ["langchain", "schema", "messages", kind]
    kwargs = {"content": text, "type": kind.removesuffix("Message").lower(), "id": text}
    return {"lc": 1, "type": "constructor", "id": id, "kwargs": kwargs}


def insert(path: Path, table: str, *values: Any) -> None:
    """A row as an old version wrote it."""
    with closing(sqlite3.connect(path)) as conn, conn:
        marks = ", ".join("?" * len(values))
        conn.execute(f"INSERT INTO {table} VALUES ({marks})", values)


def insert_json(
    path: Path, checkpoint: Mapping[str, Any], parent: str | None = None, ns: str = ""
) -> None:
    """A checkpoint in JSON, of thread t."""
    text = json.dumps(checkpoint).encode()
    insert(path, "checkpoints", "t", ns, checkpoint["id"], parent, "json", text, b'{"step": 1}')


# Comparing.


def comparable(value: Any) -> Any:
    """As `exactly`, for what graphs return as well: arrays, and tuples of them."""
    if isinstance(value, np.ndarray):
        return ("array", value.dtype.str, value.tolist())
    if isinstance(value, Mapping):
        return {key: comparable(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return (type(value), [comparable(each) for each in value])
    return exactly(value)


def everything(saver: Any) -> dict[tuple[str, ...], Any]:
    """All that a saver lists: by address, the checkpoint, metadata, parent and pending writes."""
    return {
        tuple(each.config["configurable"].values()): {
            "config": each.config,
            "parent": each.parent_config,
            "metadata": comparable(each.metadata),
            "writes": comparable([tuple(write) for write in each.pending_writes or ()]),
            **{
                f"{part} {channel}": comparable(value)
                for part in ("channel_values", "channel_versions")
                for channel, value in each.checkpoint[part].items()
            },
            **{
                part: comparable(value)
                for part, value in each.checkpoint.items()
                if part not in ("channel_values", "channel_versions")
            },
        }
        for each in saver.list(None)
    }


def writes_of(path: Path, table: str) -> list[tuple[Any, ...]]:
    """The keys of all pending writes, also of those whose checkpoint is not there."""
    columns = "thread_id, checkpoint_ns, checkpoint_id, task_id, idx, channel"
    return sorted(rows(path, f"SELECT {columns} FROM {table}"))


def expect_all(old: Path, new: Path, *, serde: Any = None) -> None:
    """Assert that everything in the old file came over, and nothing else; that nothing is broken.

    Read with both savers; values that only ours fills in (their version has one) are left out.
    """
    with official_saver(old, serde) as theirs, SqliteSaver(new, serde=serde) as ours:
        expected, found = everything(theirs), everything(ours)
        assert found.keys() == expected.keys()
        for address, parts in expected.items():
            filled = {
                key
                for key in found[address].keys() - parts.keys()
                if key.replace("values", "versions", 1) in parts
            }
            without = {key: part for key, part in found[address].items() if key not in filled}
            assert without == parts, address
        assert ours.check() == []
    assert writes_of(new, "checkpoint_writes") == writes_of(old, "writes")
    listed = set(found)
    assert [each for each in unsound(new) if tuple(each[:3]) in listed or len(each) != 3] == []


def contents(directory: Path) -> dict[str, Any]:
    """Every file of a directory, to the byte; what a -shm holds is SQLite's own affair."""
    return {
        each.name: None if each.name.endswith("-shm") else each.read_bytes()
        for each in directory.iterdir()
        if each.is_file()
    }
