"""A small vocabulary: checkpoints by number, chains and forks of them, and what lies in the file.

Checkpoint number 7 has the id "000007", so that numbers sort as ids do.
"""

from __future__ import annotations

import json
import random
import re
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.checkpoint.sqlite import SqliteSaver as OfficialSaver

from langgraph_sqlite_saver import SqliteSaver

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


# Values that grow turn by turn, as a chat's do, and how they lie in the file.

_WORDS = [
    "the",
    "of",
    "and",
    "to",
    "in",
    "is",
    "that",
    "for",
    "it",
    "as",
    "was",
    "with",
    "be",
    "by",
]
VERSIONS = ["str", "int", "float"]


def prose(size: int, seed: object = 0) -> str:
    """Text of `size` characters that compresses as text does; the same for the same seed."""
    generator = random.Random(repr(seed))
    words: list[str] = []
    while sum(map(len, words)) < size:
        words += (f"{each}{generator.randrange(100)} " for each in generator.choices(_WORDS, k=50))
    return "".join(words)[:size]


@lru_cache(maxsize=1000)
def message(turn: int, topic: object = "") -> str:
    """What is said in a turn: 600 characters that no other turn has."""
    return prose(600, (turn, topic))


def messages(turns: int, topic: object = "") -> list[str]:
    """What was said until a turn."""
    return [message(turn, topic) for turn in range(1, turns + 1)]


def version(kind: str, number: int) -> Any:
    """A channel's version of one of the VERSIONS; those of kind "str" are the saver's own."""
    if kind == "str":
        return f"{number:032}.{number:016}"
    return number if kind == "int" else float(number)


def converse(
    saver: Any,
    turns: int,
    *,
    start: int = 1,
    kind: str = "str",
    topic: object = "",
    thread: Any = "t",
    ns: str = "",
    metadata: Mapping[str, Any] | None = None,
) -> None:
    """Checkpoints `start` to `turns`, each with the `messages` until then in "messages"."""
    for turn in range(start, turns + 1):
        save(
            saver,
            turn,
            {"messages": messages(turn, topic)},
            versions={"messages": version(kind, turn)},
            parent=turn - 1 or None,
            thread=thread,
            ns=ns,
            metadata={**(metadata or {}), "step": turn},
        )


def expect(
    saver: Any, turns: int, *, start: int = 1, topic: object = "", thread: Any = "t"
) -> None:
    """Assert that every checkpoint of a conversation has what was said until then."""
    for turn in range(start, turns + 1):
        assert values(saver, turn, thread) == {"messages": messages(turn, topic)}, turn


def everything(saver: Any) -> dict[tuple[str, str, str], Any]:
    """Each checkpoint that a saver lists, with its pending writes, by thread, namespace and id."""
    return {tuple(each[0]["configurable"].values()): (each[1], each[4]) for each in dump(saver)}


def bases(path: Path, thread: str = "t", channel: str = "messages") -> dict[str, str | None]:
    """Which version each version of a channel rests on."""
    query = "SELECT version, base FROM checkpoint_blobs WHERE thread_id = ? AND channel = ?"
    return dict(rows(path, query, thread, channel))


def unsound(path: Path) -> list[tuple[Any, ...]]:
    """The orphans of a file, values whose base is not there, and values that rest on themselves."""
    found = orphans(path)
    base_of = {
        (*place, version): base and (*place, base)
        for *place, version, base in rows(
            path, "SELECT thread_id, checkpoint_ns, channel, version, base FROM checkpoint_blobs"
        )
    }
    for key in base_of:
        seen, at = set(), key
        while at is not None and at not in seen:
            seen.add(at)
            if at not in base_of:
                found.append(("missing", *at))
            at = base_of.get(at)
        if at is not None:
            found.append(("cyclic", *at))
    for thread, ns, base in rows(
        path, "SELECT thread_id, checkpoint_ns, base FROM checkpoint_writes WHERE base NOT NULL"
    ):
        needed = {(thread, ns, *each) for each in json.loads(base)}
        found += (("missing", *key) for key in needed - base_of.keys())
    return found


def write_as_it_is(path: Path, turns: int, thread: str = "t") -> None:
    """A file that another program wrote by docs/storage.md: a conversation, and a pending write.

    Every value lies as it is, without what makes it a base for others.
    """
    serde = JsonPlusSerializer()
    with SqliteSaver(path) as saver:
        saver.setup()
    with closing(sqlite3.connect(path)) as conn, conn:
        for turn in range(1, turns + 1):
            made = checkpoint(turn, {}, {"messages": version("str", turn)})
            conn.execute(
                "INSERT INTO checkpoints VALUES (?, '', ?, ?, NULL, ?, '{}', NULL, NULL)",
                (thread, id_of(turn), id_of(turn - 1 or None), json.dumps(made)),
            )
            conn.execute(
                "INSERT INTO checkpoint_blobs (thread_id, channel, version, type, blob) "
                "VALUES (?, 'messages', ?, ?, ?)",
                (thread, version("str", turn), *serde.dumps_typed(messages(turn))),
            )
        conn.execute(
            "INSERT INTO checkpoint_writes (thread_id, checkpoint_id, task_id, idx, channel, type, "
            "blob) VALUES (?, ?, 'task', 0, 'messages', ?, ?)",
            (thread, id_of(turns), *serde.dumps_typed(messages(turns))),
        )
