"""Damage stays where it is: one row of a file is damaged, and everything else reads as before.

A file is made of threads, namespaces, chains of differences, deltas, writes that rest on values
and values under noted versions; one column of one row is damaged by plain SQL; then come random
calls. What could be read before them can be read after them, with the same content, unless it was
asked to go. What cannot be read raises a StorageError that names the place, and `check` finds it.
"""

from __future__ import annotations

import random
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from datetime import timedelta
from functools import lru_cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langgraph.checkpoint.serde.encrypted import EncryptedSerializer
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.checkpoint.serde.types import _DeltaSnapshot
from langgraph.types import Send

from langgraph_sqlite_saver import (
    DamagedError,
    SerializationError,
    SqliteSaver,
    StorageError,
)
from tests.savers.helpers import checkpoint, converse, messages, place, save, version

TURNS = 14
THREADS = ("chat", "ints", "calls", "deltas", "other")

Serde = Callable[[], Any]
SERDES: dict[str, Serde] = {
    "plain": JsonPlusSerializer,
    "encrypted": lambda: EncryptedSerializer.from_pycryptodome_aes(key=b"k" * 16),
}


@lru_cache
def sound_file(serde: str) -> Path:
    """A file without damage, made once."""
    path = Path(mkdtemp()) / "sound.db"
    with SqliteSaver(path, serde=SERDES[serde]()) as saver:
        _fill(saver)
    return path


def _fill(saver: SqliteSaver) -> None:
    converse(saver, TURNS, start=6, thread="chat", metadata={"run_id": "one"})
    converse(saver, TURNS, start=6, kind="int", thread="ints", topic="ints")
    converse(saver, TURNS, start=6, thread="calls", topic="calls")
    converse(saver, TURNS, start=6, thread="calls", ns="tool:1", topic="tool")
    for thread in ("chat", "calls"):
        for turn in (9, TURNS):
            topic = "calls" if thread == "calls" else ""
            carried = Send("tools", {"messages": messages(turn, topic), "turn": turn})
            saver.put_writes(place(turn, thread), [("w", carried), ("w", 1)], f"task{turn}")
    # Values without a home of their own: another value under a version, one without a version.
    other = {"messages": messages(8, "fork"), "odd": ["no version"]}
    save(saver, TURNS + 1, other, versions={"messages": version("str", 8)}, parent=7, thread="chat")
    legacy = checkpoint(TURNS + 2, {"a": ["b"]}, {"a": 1}, pending_sends=[["x"]])
    saver.put(place(TURNS, "ints"), legacy, {"source": "loop"}, {"a": 1})
    for turn in range(1, 9):
        large = _DeltaSnapshot(messages(turn + 8, "delta")) if turn in (1, 5) else None
        values = {"log": large} if large else {}
        made = checkpoint(turn, values, {"log": version("str", turn)})
        counters = {"counters_since_delta_snapshot": {"log": turn}}
        saver.put(place(turn - 1 or None, "deltas"), made, counters, {"log": version("str", turn)})
        saver.put_writes(place(turn, "deltas"), [("log", [f"{turn}"])], "task")
    save(saver, 1, {"a": ["small"], "b": 1}, thread="other", metadata={"run_id": "two"})


COLUMNS = {
    "checkpoints": ("parent_checkpoint_id", "type", "checkpoint", "metadata", "run_id",
                    "blob_versions", "checkpoint_ns", "checkpoint_id", "thread_id"),
    "checkpoint_blobs": ("type", "blob", "base", "size", "token", "number", "version", "channel",
                         "thread_id", "checkpoint_ns"),
    "checkpoint_writes": ("task_id", "task_path", "idx", "channel", "type", "blob", "base", "size",
                          "checkpoint_id"),
}  # fmt: skip

# Other contents, as SQL expressions of the column and a number.
CONTENTS = (
    "NULL",
    "x'00ff'",
    "CAST(x'61ff62' AS TEXT)",
    "''",
    "'{'",
    "'[]'",
    "'{}'",
    "'null'",
    "'[[1]]'",
    "'[[\"a\", {}]]'",
    "'{\"channel_versions\": 1}'",
    '\'{"channel_versions": {"m": []}, "v": "x"}\'',
    "'{\"messages\": 1}'",
    '\'{"__checkpoint_keys__": "~1"}\'',
    '\'{"messages": "~nowhere"}\'',
    "replace(hex(zeroblob(1500)), '0', '[')",
    "'text'",
    "17",
    "-1",
    "9223372036854775807",
    "1.5",
    "CAST({column} AS BLOB)",
    "CAST({column} AS TEXT)",
    "substr({column}, 1, max(0, length({column}) - {number} % 20 - 1))",
    "substr({column}, 2)",
    "CAST(CAST(substr({column}, 1, {number} % max(1, length({column}))) AS BLOB) || x'ff' || "
    "CAST(substr({column}, {number} % max(1, length({column})) + 2) AS BLOB) AS TEXT)",
    "CAST(substr({column}, 1, {number} % max(1, length({column}))) || x'a5' || "
    "substr({column}, {number} % max(1, length({column})) + 2) AS BLOB)",
    "version",  # a base that is itself
    "(SELECT max(version) FROM checkpoint_blobs)",
    "(SELECT min(version) FROM checkpoint_blobs)",
    "(SELECT min(token) FROM checkpoint_blobs)",
)


def damage(path: Path, table: str, column: str, content: str, number: int) -> str | None:
    """Put other content into a column of one row; None where the table does not take it."""
    expression = content.replace("{column}", column).replace("{number}", str(number))
    with closing(sqlite3.connect(path, isolation_level=None)) as conn:
        conn.execute("PRAGMA ignore_check_constraints = ON")
        (count,) = conn.execute(f"SELECT count(*) FROM {table}").fetchone()
        try:
            conn.execute(
                f"UPDATE {table} SET {column} = {expression} WHERE rowid = "
                f"(SELECT rowid FROM {table} ORDER BY rowid LIMIT 1 OFFSET {number % count})"
            )
        except (sqlite3.IntegrityError, sqlite3.OperationalError):
            return None
    return f"{table}.{column} = {expression} ({number % count})"


# What a checkpoint reads as: its tuple, or the error.
Reading = dict[tuple[str, str, str], Any]

KEYS = [
    *((thread, "", f"{turn:06}") for thread in ("chat", "ints", "calls") for turn in range(6, 17)),
    *(("calls", "tool:1", f"{turn:06}") for turn in range(6, TURNS + 1)),
    *(("deltas", "", f"{turn:06}") for turn in range(1, 9)),
    ("other", "", "000001"),
]


def config(key: tuple[str, str, str]) -> Any:
    return {"configurable": dict(zip(("thread_id", "checkpoint_ns", "checkpoint_id"), key,
                                     strict=True))}  # fmt: skip


def read(saver: Any, keys: Any = KEYS) -> tuple[Reading, Reading]:
    """Every checkpoint, and every history of a delta channel, by `get_tuple` and its like."""
    found: Reading = {}
    histories: Reading = {}
    for key in keys:
        found[key] = attempt(lambda key=key: comparable(saver.get_tuple(config(key))))
        if key[0] == "deltas":
            histories[key] = attempt(
                lambda key=key: saver.get_delta_channel_history(
                    config=config(key), channels=["log"]
                )
            )
    return found, histories


def attempt(call: Callable[[], Any]) -> Any:
    """What a call returns, or the error that it may raise."""
    try:
        return call()
    except StorageError as error:
        assert isinstance(error, SerializationError), error
        return error


def comparable(each: Any) -> Any:
    """What is compared of a checkpoint: the parent of one may go with `prune`."""
    if each is None:
        return None
    return (each.checkpoint, each.metadata, [tuple(write) for write in each.pending_writes or ()])


def readable(reading: Reading) -> Reading:
    return {k: v for k, v in reading.items() if v is not None and not isinstance(v, Exception)}


def check_errors(saver: Any, readings: tuple[Reading, Reading]) -> None:
    """Every error names its place, and `check` finds what is there."""
    failed = [
        (key, value)
        for reading in readings
        for key, value in reading.items()
        if isinstance(value, Exception)
    ]
    found = saver.check() if failed else []
    for key, error in failed:
        assert key[0] in str(error), error
        assert key[1] in str(error), error
        if isinstance(error, DamagedError):
            assert (error.thread_id, error.checkpoint_ns) == key[:2]
            assert "check()" in str(error)
        else:
            assert f"checkpoint {key[2]!r}" in str(error)
        places = [each for each in found if each.thread_id == key[0]]
        assert places, (key, error, found)
        if isinstance(error, DamagedError) and error.version and " " not in error.version:
            those = {(each.channel, each.version) for each in places}
            assert (error.channel, error.version) in those or any(
                each.channel or each.task_id for each in places
            ), (error, found)


def check_list(saver: Any, reading: Reading) -> None:
    """`list` brings everything that can be read; then the error, if there is one."""
    expected = {key for key in readable(reading) if key in KEYS}
    listed: Reading = {}
    failed = False
    try:
        for each in saver.list(None):
            place = each.config["configurable"]
            key = (place["thread_id"], place["checkpoint_ns"], place["checkpoint_id"])
            listed[key] = comparable(each)
    except SerializationError:
        failed = True
    assert {key: reading[key] for key in expected} == {
        key: value for key, value in listed.items() if key in expected
    }
    assert failed or not any(isinstance(each, Exception) for each in reading.values())
    for some in ({"step": 9}, {"step": None}, {"a": {}}):
        with_filter = saver.list(None, filter=some)
        attempt(lambda each=with_filter: list(each))


OPERATIONS = ("put", "put_writes", "prune1", "prune4", "prune8", "runs", "copy", "copy_again",
              "compact", "full", "expire", "delete", "list", "threads", "again")  # fmt: skip


def run(path: Path, serde: str, operation: str, die: random.Random) -> None:
    """One call by a saver that has nothing at hand; it may say that something is damaged."""
    thread = die.choice(THREADS)
    history: Any = "full" if operation == "full" else "compact"
    with SqliteSaver(path, serde=SERDES[serde](), history=history) as saver:
        calls: dict[str, Callable[[], Any]] = {
            "put": lambda: converse(saver, 21, start=21, thread="chat"),
            "again": lambda: save(
                saver, 9, {"messages": messages(9)},
                versions={"messages": version("str", 9)}, parent=8, thread="chat",
            ),
            "put_writes": lambda: saver.put_writes(
                place(TURNS, thread), [("v", messages(9, "calls"))], "another task"
            ),
            "prune1": lambda: saver.prune([thread]),
            "prune4": lambda: saver.prune([thread], keep_last=4),
            "prune8": lambda: saver.prune(list(THREADS), keep_last=7),
            "runs": lambda: saver.delete_for_runs([die.choice(("one", "two"))]),
            "copy": lambda: saver.copy_thread(thread, "copy of " + thread),
            "copy_again": lambda: saver.copy_thread(thread, "copy of chat"),
            "compact": saver.compact,
            "full": saver.compact,
            "expire": lambda: saver.expire(timedelta(days=365_000)),
            "delete": lambda: saver.delete_thread("other"),
            "list": lambda: list(saver.list(None, limit=3)),
            "threads": lambda: (saver.threads(), saver.stats()),
        }  # fmt: skip
        if operation in ("list",):
            attempt(calls[operation])
        else:
            calls[operation]()


def may_have_gone(key: tuple[str, str, str], operations: list[str]) -> bool:
    """Whether a checkpoint was among those that the operations were asked to delete."""
    if key[0] == "other" and "delete" in operations:
        return True
    return bool({"prune1", "prune4", "prune8", "runs"} & set(operations))


@given(
    serde=st.sampled_from(list(SERDES)),
    where=st.sampled_from([(t, c) for t, columns in COLUMNS.items() for c in columns]),
    content=st.sampled_from(CONTENTS),
    number=st.integers(0, 10_000),
    operations=st.lists(st.sampled_from(OPERATIONS), min_size=1, max_size=5),
    seed=st.integers(0, 1000),
)
def test_damage_stays_where_it_is(
    serde: str,
    where: tuple[str, str],
    content: str,
    number: int,
    operations: list[str],
    seed: int,
) -> None:
    """Whatever one column of one row holds, and whatever is called then."""
    folder = Path(mkdtemp())
    try:
        path = folder / "agent.db"
        shutil.copyfile(sound_file(serde), path)
        if damage(path, *where, content, number) is None:
            return
        with SqliteSaver(path, serde=SERDES[serde]()) as saver:
            before = read(saver)
            check_errors(saver, before)
            check_list(saver, before[0])
        die = random.Random(seed)
        for operation in operations:
            run(path, serde, operation, die)
        with SqliteSaver(path, serde=SERDES[serde]()) as saver:
            after = read(saver)
            replaced = {("chat", "", "000009")} if "again" in operations else set()
            for old, new in zip(before, after, strict=True):
                for key, value in readable(old).items():
                    if key in replaced:
                        continue
                    if new[key] is None:
                        assert may_have_gone(key, operations), (key, operations)
                        continue
                    if old is before[0]:  # writes may have been added
                        assert not isinstance(new[key], Exception), (key, new[key])
                        assert new[key][:2] == value[:2], key
                        assert [w for w in new[key][2] if w in value[2]] == value[2], key
                    elif isinstance(new[key], Exception):
                        raise AssertionError((key, new[key]))
            check_errors(saver, after)
            check_list(saver, after[0])
    finally:
        shutil.rmtree(folder)


@pytest.mark.parametrize("serde", list(SERDES))
def test_the_sound_file_has_all_of_it(serde: str) -> None:
    """Chains, writes that rest on values, noted versions, snapshots; and no damage."""
    with closing(sqlite3.connect(sound_file(serde))) as conn:
        for query in (
            "SELECT count(*) FROM checkpoint_blobs WHERE base IS NOT NULL",
            "SELECT count(*) FROM checkpoint_writes WHERE base IS NOT NULL",
            "SELECT count(*) FROM checkpoints WHERE blob_versions IS NOT NULL",
            "SELECT count(*) FROM checkpoint_blobs WHERE version LIKE '%~%'",
        ):
            assert conn.execute(query).fetchone()[0] > 0, query
    with SqliteSaver(sound_file(serde), serde=SERDES[serde]()) as saver:
        assert saver.check() == []
        assert not any(isinstance(v, Exception) for r in read(saver) for v in r.values())
