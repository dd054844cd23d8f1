"""What lies in the tables: Postgres' layout, strict JSON, one blob per version, nothing beside."""

from __future__ import annotations

import enum
import math
import random
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from langgraph.checkpoint.serde.encrypted import EncryptedSerializer
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.checkpoint.serde.types import _DeltaSnapshot

from langgraph_sqlite_saver.checkpoints import listing, sql

from .helpers import (
    LIST,
    chain,
    count,
    execute,
    get,
    id_of,
    orphans,
    place,
    rows,
    save,
    strict_json,
    values,
)


class Color(str, enum.Enum):
    RED = "red"


def inline(path: Path, number: int = 1) -> dict[str, Any]:
    """The channel values that lie in the checkpoint's own row."""
    ((text,),) = rows(
        path, "SELECT checkpoint FROM checkpoints WHERE checkpoint_id = ?", id_of(number)
    )
    return strict_json(text)["channel_values"]


def blobs(path: Path) -> set[tuple[str, str]]:
    """Channels and version keys of the stored blobs."""
    return set(rows(path, "SELECT channel, version FROM checkpoint_blobs"))


# --- layout

# langgraph-checkpoint-postgres 3.2.0: columns, the primary key in capitals.
POSTGRES = {
    "checkpoints": "THREAD_ID CHECKPOINT_NS CHECKPOINT_ID parent_checkpoint_id type checkpoint "
    "metadata",
    "checkpoint_blobs": "THREAD_ID CHECKPOINT_NS CHANNEL VERSION type blob",
    "checkpoint_writes": "THREAD_ID CHECKPOINT_NS CHECKPOINT_ID TASK_ID task_path IDX channel "
    "type blob",
    "checkpoint_migrations": "V",
}
OWN = {
    "checkpoints": ["run_id", "blob_versions"],
    "checkpoint_blobs": ["base", "size", "token", "number"],
    "checkpoint_writes": ["base", "size"],
    "checkpoint_migrations": [],
}


@pytest.mark.parametrize("table", POSTGRES)
def test_columns_and_keys_are_those_of_postgres(
    saver: Any, database_path: Path, table: str
) -> None:
    """In their order; columns of our own come behind, nullable, without a default."""
    saver.threads()
    columns = rows(database_path, f'SELECT name, pk, "notnull", dflt_value, type FROM '
                                  f"pragma_table_info('{table}')")  # fmt: skip
    theirs = POSTGRES[table].split()
    names = [name.upper() if key else name for name, key, *_ in columns]
    assert [name.replace("V", "v") if table.endswith("migrations") else name for name in names][
        : len(theirs)
    ] == [name.replace("V", "v") if table.endswith("migrations") else name for name in theirs]
    keys = sorted((key, name) for name, key, *_ in columns if key)
    assert [name for _, name in keys] == [n.lower() for n in theirs if n.isupper()]
    own = columns[len(theirs) :]
    assert all((key, notnull, default) == (0, 0, None) for _, key, notnull, default, _ in own)
    assert [name for name, *_ in own] == OWN[table]


def test_no_other_tables_or_indexes_are_made(saver: Any, database_path: Path) -> None:
    """Indexes that repeat a key's prefix would cost every write."""
    save(saver, 1, {"a": LIST})
    made = rows(database_path, "SELECT type, name FROM sqlite_master WHERE sql IS NOT NULL")
    assert sorted(made) == sorted(
        [("table", name) for name in POSTGRES] + [("index", "checkpoints_run_id_idx")]
    )


def test_text_is_stored_as_text_and_blobs_as_blobs(saver: Any, database_path: Path) -> None:
    """Whatever types ids and versions had."""
    saver.put_writes(save(saver, 1, {"a": LIST}, thread=7), [("c", 1)], "task")
    assert rows(
        database_path,
        "SELECT typeof(thread_id), typeof(checkpoint_id), typeof(checkpoint), typeof(metadata), "
        "type FROM checkpoints",
    ) == [("text", "text", "text", "text", None)]
    assert rows(
        database_path,
        "SELECT typeof(thread_id), typeof(version), typeof(blob), type FROM checkpoint_blobs",
    ) == [("text", "text", "blob", "msgpack")]
    assert rows(
        database_path,
        "SELECT typeof(thread_id), typeof(idx), typeof(blob), type FROM checkpoint_writes",
    ) == [("text", "integer", "blob", "msgpack")]


def test_the_run_id_has_a_column_and_stays_in_the_metadata(saver: Any, database_path: Path) -> None:
    """As text, whatever it was."""
    save(saver, 1, metadata={"run_id": "r1"})
    save(saver, 2, metadata={"run_id": 7})
    save(saver, 3)
    found = rows(database_path, "SELECT run_id, metadata FROM checkpoints ORDER BY checkpoint_id")
    assert [(run, strict_json(text)) for run, text in found] == [
        ("r1", {"run_id": "r1"}),
        ("7", {"run_id": 7}),
        (None, {}),
    ]


# --- what lies where

INLINE = [None, True, False, 0, -1, 2**63 - 1, -(2**63), 0.5, -0.0, 1e300, "", "short", "ünï😀"]
BLOBS = [
    2**63,
    10**400,
    math.nan,
    math.inf,
    "x" * 1000,
    "a\0b",
    Color.RED,
    b"",
    b"bytes",
    [],
    {},
    {"a": 1},
    {1, 2},
]


@pytest.mark.parametrize("value", INLINE, ids=repr)
def test_small_primitives_lie_inline(saver: Any, database_path: Path, value: Any) -> None:
    """None, bool, int of 64 bits, finite float, short str, as PostgresSaver has it."""
    save(saver, 1, {"a": value})
    assert repr(inline(database_path)) == repr({"a": value})
    assert count(database_path, "checkpoint_blobs") == 0
    assert repr(values(saver)) == repr({"a": value})


@pytest.mark.parametrize("value", BLOBS, ids=lambda value: repr(value)[:20])
def test_everything_else_is_a_blob(saver: Any, database_path: Path, value: Any) -> None:
    """Subclasses such as str-Enums too, and what JSON cannot hold."""
    save(saver, 1, {"a": value})
    assert inline(database_path) == {}
    assert blobs(database_path) == {("a", "1")}


@pytest.mark.parametrize("subclass", [False, True])
def test_with_another_serialiser_nothing_is_inline(
    open_driver: Any, database_path: Path, subclass: bool
) -> None:
    """Encryption above all; a subclass may mean anything as well."""

    class Own(JsonPlusSerializer):
        pass

    key = b"0123456789abcdef"
    serde: Any = Own() if subclass else EncryptedSerializer.from_pycryptodome_aes(key=key)
    saver = open_driver("sync", database_path, serde=serde)
    given = {str(n): value for n, value in enumerate([None, True, 1, 0.5, "secret"])}
    save(saver, 1, given)
    saver.put_writes(place(1), [("c", "secret")], "task")
    assert inline(database_path) == {}
    assert count(database_path, "checkpoint_blobs") == 5
    assert values(saver) == given
    plain = b"".join(each.read_bytes() for each in database_path.parent.iterdir())
    assert (b"secret" in plain) is subclass


def test_a_delta_snapshot_leaves_postgres_mark(saver: Any, database_path: Path) -> None:
    """An inline `true` beside the blob, and the blob wins."""
    save(saver, 1, {"d": _DeltaSnapshot([1, 2])})
    save(saver, 2, {}, versions={"d": 1}, new={}, parent=1)
    assert inline(database_path) == {"d": True}
    assert blobs(database_path) == {("d", "1")}
    assert values(saver, 1) == {"d": _DeltaSnapshot([1, 2])}


def test_checkpoint_and_metadata_are_strict_json(saver: Any, database_path: Path) -> None:
    """Any JSON function reads them, SQLite's own among them, whatever was put."""
    odd = {"nan": math.nan, "s": "\ud800", "z": "a\0", "b": b"\0", "big": 2**70, "t": "é\\u0000"}
    metadata = {key: value for key, value in odd.items() if key != "b"}
    save(
        saver,
        1,
        odd,
        metadata={**metadata, "deep": [metadata], "k\0\ud800": 1},
        note={**odd, "big": 1},
    )
    ((checkpoint, stored, notes),) = rows(
        database_path, "SELECT checkpoint, metadata, blob_versions FROM checkpoints"
    )
    for text in (checkpoint, stored, notes):
        strict_json(text)
        assert rows(database_path, "SELECT json_valid(?)", text) == [(1,)]
    assert strict_json(stored)["t"] == "é\\u0000"


# --- one blob per version


def test_a_version_has_one_blob_over_many_steps(saver: Any, database_path: Path) -> None:
    """Eight channels, one of which changes at each of 50 steps."""
    given = {f"c{n}": [n] for n in range(8)}
    versions = dict.fromkeys(given, 0)
    save(saver, 1, given, versions=versions)
    for number in range(2, 52):
        channel = f"c{number % 8}"
        given, versions = {**given, channel: [number]}, {**versions, channel: number}
        save(saver, number, given, versions=versions, new={channel: number}, parent=number - 1)
    assert count(database_path, "checkpoint_blobs") == 8 + 50
    assert values(saver) == given
    assert orphans(database_path) == []


def test_version_keys_are_what_python_prints(saver: Any, database_path: Path) -> None:
    """SQLite would print floats differently, and 1 is not '1'."""
    given = [1, 1.0, "1", 1e16, 0.1 + 0.2, 5e-324, 1e22]
    for number, version in enumerate(given, start=1):
        save(saver, number, {str(number): [0]}, versions={str(number): version})
    assert blobs(database_path) == {(str(n), str(v)) for n, v in enumerate(given, start=1)}
    assert [values(saver, n) for n in range(1, 8)] == [{str(n): [0]} for n in range(1, 8)]


def test_a_second_value_under_a_version_gets_a_key_of_ours(saver: Any, database_path: Path) -> None:
    """`version~digest`, noted in the row; the same value again shares it."""
    for number, value in enumerate([["a"], ["b"], ["b"], ["a"]], start=1):
        save(saver, number, {"x": value}, versions={"x": 7})
    keys = sorted(version for _, version in blobs(database_path))
    assert keys[0] == "7"
    assert len(keys) == 2
    assert keys[1].startswith("7~")
    notes = [n for (n,) in rows(database_path, "SELECT blob_versions FROM checkpoints ORDER BY 1")]
    assert [n and strict_json(n) for n in notes] == [None, None, {"x": keys[1]}, {"x": keys[1]}]


def test_an_unnamed_version_is_inherited_under_its_parents_key(
    saver: Any, database_path: Path
) -> None:
    """Where the parent keeps it under a key of ours, so do its descendants, at no cost."""
    save(saver, 1, {"x": ["left"]}, versions={"x": 7})
    save(saver, 2, {"x": ["right"]}, versions={"x": 7})
    for number in range(3, 8):
        save(saver, number, {"x": ["right"]}, versions={"x": 7}, new={}, parent=number - 1)
    assert count(database_path, "checkpoint_blobs") == 2
    assert [values(saver, number)["x"] for number in range(1, 8)] == [["left"]] + [["right"]] * 6


def test_what_has_no_version_has_one_blob_for_equal_values(saver: Any, database_path: Path) -> None:
    """A second saving of the same value finds it."""
    for number, value in enumerate([[1], [1], [2]], start=1):
        save(saver, number, {"x": value}, versions={})
    assert count(database_path, "checkpoint_blobs") == 2
    assert orphans(database_path) == []


# --- no orphans


def test_nothing_leaves_an_orphan_behind(saver: Any, database_path: Path) -> None:
    """A random walk through every operation; all rows are looked at after each."""
    die = random.Random(11)
    threads, namespaces = ["a", "b", "c"], ["", "child", "call:1"]

    def put() -> None:
        number = die.randrange(1, 15)
        parent, odds = die.choice([None, *range(1, 15)]), die.choice([0.5, 1])
        given = {c: die.choice([1, [1], [2], ["x" * 200]]) for c in die.sample("xyz", 2)}
        versions = {c: die.randrange(1, 4) for c in die.sample("xyz", 2)}
        new = {c: v for c, v in versions.items() if die.random() < odds}
        config = save(
            saver, number, given, versions=versions, new=new, parent=parent,
            thread=die.choice(threads), ns=die.choice(namespaces),
            metadata={"run_id": die.choice("rst"), "parents": {"": id_of(die.randrange(1, 15))}},
        )  # fmt: skip
        found = values_of(config)
        assert found.keys() >= given.keys()
        if new == versions:  # a version that is not named is trusted to have kept its value
            assert found == {**found, **given}
        saver.put_writes(config, [("w", number)], "task")

    def values_of(config: Any) -> Any:
        return saver.get_tuple(config).checkpoint["channel_values"]

    others = [
        lambda: saver.delete_thread(die.choice(threads)),
        lambda: saver.delete_for_runs([die.choice("rst")]),
        lambda: saver.copy_thread(*die.sample(threads, 2)),
        lambda: saver.prune([die.choice(threads)]),
        lambda: saver.prune(threads, keep_last=die.randrange(1, 4)),
    ]
    for _ in range(250):
        die.choice(others)() if die.random() < 0.15 else put()
        assert orphans(database_path) == []


# --- every query runs on an index

WHOLE_TABLE = {
    "SELECT_HEADS",
    "SELECT_NAMESPACES_OF_ALL",
    "SUM_BYTES_BY_THREAD[0]",
    "SUM_BYTES_BY_THREAD[1]",
    "COUNTS",
    "ORPHAN_WRITES",
    "ORPHAN_BLOBS",
    "SELECT_THREADS_OF_VALUES",
    "CHECKPOINTS",
}


def statements() -> Iterator[tuple[str, str]]:
    """Every statement of the module, and those that `list` makes of its templates."""
    for name, value in vars(sql).items():
        if not name.isupper() or name.startswith("_") or name.endswith("COLUMNS"):
            continue
        if name.startswith("LIST"):
            continue
        if name.endswith("SAVE_ROWS"):  # they write to a view, whose triggers are ROWS_STATEMENTS
            continue
        texts = [value] if isinstance(value, str) else value
        if name == "ROWS_STATEMENTS":  # the last one writes to a temporary table
            texts = re.sub(r"new\.\w+|raise\(.*?\)", "?", ";".join(value[:-1])).split(";")
        for index, text in enumerate(texts):
            yield (name if isinstance(value, str) else f"{name}[{index}]"), text
    for ns in (None, ""):
        for number in (None, 5):
            query = listing.prepare_list(place(number, ns=ns), None, place(9), 3)
            for cursor in (None, listing.Cursor("5", "t", "")):
                text, _ = query.page(cursor, 3)
                yield f"list(ns={ns!r}, number={number}, cursor={cursor is not None})", text


STATEMENTS = dict(statements())


@pytest.fixture(scope="module")
def plan(tmp_path_factory: Any) -> Iterator[Any]:
    """Explains a statement on a file that has statistics."""
    from langgraph_sqlite_saver import SqliteSaver

    path = tmp_path_factory.mktemp("plans") / "agent.db"
    with SqliteSaver(path) as saver:
        for thread in range(20):
            chain(saver, 20, thread=f"t{thread}")
        saver.optimize()
    with closing(sqlite3.connect(path)) as conn:
        conn.execute("ANALYZE")

        def explain(text: str) -> list[str]:
            numbered = [n for n in range(1, 13) if f"?{n}" in text]
            parameters = ["[]"] * (max(numbered) if numbered else text.count("?"))
            found = conn.execute(f"EXPLAIN QUERY PLAN {text}", parameters)
            # SQLite 3.35 says "SCAN TABLE checkpoints AS c", later ones "SCAN c".
            return [re.sub(r"^(\w+) TABLE (?:\w+ AS )?", r"\1 ", row[-1]) for row in found]

        yield explain


# Tables and the aliases they have in statements; `json_each` and subqueries may be walked through.
WATCHED = {"checkpoints", "checkpoint_blobs", "checkpoint_writes", "c", "b", "w", "s", "t"}


def scans(lines: list[str]) -> list[str]:
    """The lines that walk through a whole table."""
    return [line for line in lines if line.startswith("SCAN") and line.split()[1] in WATCHED]


@pytest.mark.parametrize("name", STATEMENTS)
def test_every_query_runs_on_an_index(plan: Any, name: str) -> None:
    """SEARCH, not SCAN, but for those that are known to read whole tables."""
    lines = plan(STATEMENTS[name])
    assert bool(scans(lines)) == (name in WHOLE_TABLE), lines


ONE_ROW = ("checkpoint_ns = ? AND checkpoint_id = ?", "AND version = ?")


@pytest.mark.parametrize("name", [n for n, t in STATEMENTS.items() if any(k in t for k in ONE_ROW)])
def test_what_names_a_row_is_found_by_its_whole_key(plan: Any, name: str) -> None:
    """Not by its thread alone, whose other rows would be walked through."""
    searches = [line for line in plan(STATEMENTS[name]) if line.startswith("SEARCH")]
    assert any("checkpoint_id=?" in line or "version=?" in line for line in searches), searches


def test_one_namespace_comes_in_order_without_sorting(plan: Any) -> None:
    """Listing a thread's newest checkpoints reads just those."""
    for name in STATEMENTS:
        if name.startswith("list(ns=''") or "LIMIT 1" in STATEMENTS[name]:
            assert not any("TEMP B-TREE" in line for line in plan(STATEMENTS[name]))


def test_rows_by_hand_are_read(saver: Any, database_path: Path) -> None:
    """What PostgresSaver's rows look like, put into the tables as they are."""
    saver.threads()
    execute(
        database_path,
        "INSERT INTO checkpoints (thread_id, checkpoint_ns, checkpoint_id, checkpoint, metadata) "
        "VALUES ('t', '', '000001', ?, '{\"step\": 1}')",
        '{"v": 4, "id": "000001", "ts": "x", "channel_values": {"a": 1}, '
        '"channel_versions": {"a": "1", "b": "2.5"}, "versions_seen": {}}',
    )
    kind, data = JsonPlusSerializer().dumps_typed([1])
    execute(
        database_path,
        "INSERT INTO checkpoint_blobs (thread_id, channel, version, type, blob) "
        "VALUES ('t', 'b', '2.5', ?, ?)",
        kind,
        data,
    )
    assert values(saver) == {"a": 1, "b": [1]}
    assert get(saver).metadata == {"step": 1}
