"""A small vocabulary: checkpoints by number, chains and forks of them, and what lies in the file.

Checkpoint number 7 has the id "000007", so that numbers sort as ids do.
"""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from langgraph.checkpoint.sqlite import SqliteSaver as OfficialSaver

LIST = ["not", "a", "primitive"]  # a value that lies in checkpoint_blobs


def id_of(number: int | None) -> str | None:
    """The id of a checkpoint that is known by its number."""
    return None if number is None else f"{number:06}"


def numbers(tuples: Sequence[Any]) -> list[int]:
    """The numbers of listed checkpoints."""
    return [int(each.config["configurable"]["checkpoint_id"]) for each in tuples]


def place(number: int | None = None, thread: Any = "t", ns: str | None = "") -> dict[str, Any]:
    """The config of a checkpoint, or of its thread and namespace."""
    configurable: dict[str, Any] = {"thread_id": thread}
    if ns is not None:
        configurable["checkpoint_ns"] = ns
    if number is not None:
        configurable["checkpoint_id"] = id_of(number)
    return {"configurable": configurable}


def checkpoint(
    number: int,
    values: Mapping[str, Any] | None = None,
    versions: Mapping[str, Any] | None = None,
    **keys: Any,
) -> dict[str, Any]:
    """A checkpoint; without `versions`, every channel of `values` is at version `number`."""
    values = dict(values or {})
    return {
        "v": 4,
        "id": id_of(number),
        "ts": f"2026-01-01T00:00:{number % 60:02}+00:00",
        "channel_values": values,
        "channel_versions": dict.fromkeys(values, number) if versions is None else dict(versions),
        "versions_seen": {},
        "updated_channels": None,
        **keys,
    }


def save(
    saver: Any,
    number: int,
    values: Mapping[str, Any] | None = None,
    *,
    versions: Mapping[str, Any] | None = None,
    new: Mapping[str, Any] | None = None,
    parent: int | None = None,
    thread: Any = "t",
    ns: str = "",
    metadata: Mapping[str, Any] | None = None,
    **keys: Any,
) -> Any:
    """Put a checkpoint; without `new`, every version counts as new."""
    made = checkpoint(number, values, versions, **keys)
    return saver.put(
        place(parent, thread, ns),
        made,
        dict(metadata or {}),
        made["channel_versions"] if new is None else dict(new),
    )


def chain(saver: Any, length: int, *, start: int = 1, thread: Any = "t", ns: str = "") -> None:
    """Checkpoints `start`, …, each the parent of the next, each with a new list in "list"."""
    for number in range(start, start + length):
        save(
            saver,
            number,
            {"list": [number]},
            parent=number - 1 if number > start else None,
            thread=thread,
            ns=ns,
            metadata={"step": number},
        )


def get(saver: Any, number: int | None = None, thread: Any = "t", ns: str = "") -> Any:
    """A checkpoint's tuple, or the newest one's."""
    return saver.get_tuple(place(number, thread, ns))


def values(saver: Any, number: int | None = None, thread: Any = "t", ns: str = "") -> Any:
    """A checkpoint's channel values."""
    return get(saver, number, thread, ns).checkpoint["channel_values"]


def parent(saver: Any, number: int, thread: Any = "t", ns: str = "") -> int | None:
    """The number of a checkpoint's parent."""
    config = get(saver, number, thread, ns).parent_config
    return config and int(config["configurable"]["checkpoint_id"])


def dump(saver: Any) -> list[Any]:
    """Everything a saver lists, in a form that two savers can be compared by."""
    return [
        (
            each.config,
            each.checkpoint,
            each.metadata,
            each.parent_config,
            [tuple(write) for write in each.pending_writes or ()],
        )
        for each in saver.list(None)
    ]


# What lies in the file, seen through a connection of its own.


def rows(path: Path, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
    """The rows of a query."""
    with closing(sqlite3.connect(path)) as conn:
        return conn.execute(sql, parameters).fetchall()


def execute(path: Path, sql: str, *parameters: Any) -> None:
    """Change the file by hand."""
    with closing(sqlite3.connect(path)) as conn, conn:
        conn.execute(sql, parameters)


def names(directory: Path) -> list[str]:
    """What lies in a directory, sorted."""
    return sorted(each.name for each in directory.iterdir())


def count(path: Path, table: str) -> int:
    """How many rows a table has."""
    return rows(path, f"SELECT count(*) FROM {table}")[0][0]


def strict_json(text: str) -> Any:
    """Parse JSON as a strict reader does: no NaN, no surrogates, no NUL."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    text.encode()
    assert not re.search(r"(?<!\\)(\\\\)*\\u0000", text)
    return json.loads(text, parse_constant=refuse)


def orphans(path: Path) -> list[tuple[Any, ...]]:
    """Blobs that no checkpoint needs, blobs that one misses, writes without their checkpoint.

    Walks all rows in Python, so that it shares no SQL with what it watches.
    """
    used, ids = set(), set()
    for thread, ns, checkpoint_id, text, notes in rows(
        path, "SELECT thread_id, checkpoint_ns, checkpoint_id, checkpoint, blob_versions "
        "FROM checkpoints",
    ):  # fmt: skip
        document = strict_json(text)
        ids.add((thread, ns, checkpoint_id))
        versions = {
            channel: str(version)
            for channel, version in document["channel_versions"].items()
            if channel not in document["channel_values"]
        }
        versions.update(strict_json(notes) if notes else {})
        used.update((thread, ns, *each) for each in versions.items())
    blobs = set(
        rows(path, "SELECT thread_id, checkpoint_ns, channel, version FROM checkpoint_blobs")
    )
    writes = set(
        rows(path, "SELECT thread_id, checkpoint_ns, checkpoint_id FROM checkpoint_writes")
    )
    return sorted(blobs - used) + sorted(writes - ids)


@contextmanager
def official_saver(path: Path | str = ":memory:") -> Iterator[OfficialSaver]:
    """langgraph-checkpoint-sqlite's saver, to compare with."""
    with OfficialSaver.from_conn_string(str(path)) as saver:
        yield saver
