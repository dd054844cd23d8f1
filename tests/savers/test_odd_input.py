"""Input that is unusual but can be meant is saved; what cannot be meant is refused at once."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from enum import Enum
from pathlib import Path
from typing import Any, TypedDict

import pytest
from langgraph.checkpoint.serde.encrypted import EncryptedSerializer
from langgraph.graph import START, StateGraph

from langgraph_sqlite_saver import (
    InvalidTypeError,
    SerializationError,
    SqliteSaver,
    UnknownSchemaError,
)

from .helpers import LIST, checkpoint, count, get, numbers, place, save, values


class Node(str, Enum):
    """Node names, as some graphs have them."""

    ANSWER = "answer"


class State(TypedDict):
    """One value."""

    said: list[str]


def test_node_names_may_be_str_enums(saver: Any) -> None:
    """As with the official saver."""
    builder = StateGraph(State)
    builder.add_node(Node.ANSWER, lambda state: {"said": [*state["said"], "hello"]})
    builder.add_edge(START, Node.ANSWER)
    graph = builder.compile(checkpointer=saver.saver)
    config = {"configurable": {"thread_id": "t"}}
    if saver.awaited:
        saver.run(graph.ainvoke({"said": []}, config))
    else:
        graph.invoke({"said": []}, config)
    assert values(saver)["said"] == ["hello"]


@pytest.mark.parametrize("part", ["channel_values", "channel_versions", "versions_seen"])
@pytest.mark.parametrize("value", [[], "", 0, False])
def test_parts_that_are_no_dict_are_refused(saver: Any, part: str, value: Any) -> None:
    """They would be found out only when the checkpoint is read."""
    broken = {**checkpoint(1), part: value}
    with pytest.raises(InvalidTypeError, match=part):
        saver.put(place(), broken, {}, {})
    assert saver.list(None) == []


@pytest.mark.parametrize("part", ["channel_values", "channel_versions", "versions_seen"])
def test_parts_that_are_none_are_empty(saver: Any, part: str) -> None:
    """The checkpoint can be read."""
    saver.put(place(), {**checkpoint(1), part: None}, {}, {})
    assert get(saver).checkpoint[part] == {}


def test_a_value_that_the_serialiser_cannot_read_is_named(
    open_driver: Any, database_path: Path
) -> None:
    """An encrypted file without its key, in each method that reads values."""
    secret = EncryptedSerializer.from_pycryptodome_aes(key=b"k" * 16)
    save(open_driver("sync", database_path, serde=secret), 1, {"private": LIST})
    for mode in ("sync", "async"):
        saver = open_driver(mode, database_path)
        with pytest.raises(SerializationError, match=r"channel 'private'.*serde"):
            saver.get_tuple(place())
        with pytest.raises(SerializationError, match=r"channel 'private'.*serde"):
            saver.list(None)


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE VIEW checkpoints AS SELECT 1",
        "CREATE TABLE Checkpoints (x)",
        "CREATE TABLE checkpoint_migrations (version TEXT)",
    ],
)
def test_tables_of_our_names_that_are_not_ours_are_refused(
    database_path: Path, statement: str
) -> None:
    """Whatever their case and kind; the file is not changed."""
    with closing(sqlite3.connect(database_path)) as conn, conn:
        conn.execute(statement)
    before = database_path.read_bytes()
    with pytest.raises(UnknownSchemaError), SqliteSaver(database_path) as saver:
        saver.setup()
    assert database_path.read_bytes() == before


def test_a_version_without_its_tables_is_refused(database_path: Path) -> None:
    """Somebody dropped them, or the versions are another program's."""
    with closing(sqlite3.connect(database_path)) as conn, conn:
        conn.execute("CREATE TABLE checkpoint_migrations (v INTEGER PRIMARY KEY)")
        conn.execute("INSERT INTO checkpoint_migrations VALUES (2)")
    before = database_path.read_bytes()
    with pytest.raises(UnknownSchemaError), SqliteSaver(database_path) as saver:
        saver.setup()
    assert database_path.read_bytes() == before


@pytest.mark.parametrize(
    "metadata",
    [{"parents": "x"}, {"parents": {"": ["z"]}}, {"counters_since_delta_snapshot": 3}],
)
def test_prune_takes_metadata_as_it_comes(saver: Any, metadata: dict[str, Any]) -> None:
    """What LangGraph keeps there may be something else in other hands."""
    for number in (1, 2):
        save(
            saver, number, {"list": LIST}, metadata=metadata, ns="call:1", parent=number - 1 or None
        )
    saver.prune(["t"])
    assert numbers(saver.list(None)) == [2]


def test_deleting_a_run_leaves_what_others_are_rebuilt_from(
    saver: Any, database_path: Path
) -> None:
    """A DeltaChannel's later values keep the writes of the deleted run; no value is lost."""
    for number, run in ((1, "first"), (2, "second"), (3, "second")):
        counters = {"counters_since_delta_snapshot": {"d": [number, number]}, "run_id": run}
        save(
            saver, number, {}, versions={"d": number}, parent=number - 1 or None, metadata=counters
        )
        saver.put_writes(place(number), [("d", number)], "task")
    before = saver.get_delta_channel_history(config=place(3), channels=["d"])
    saver.delete_for_runs(["first"])
    assert saver.get_delta_channel_history(config=place(3), channels=["d"]) == before
    saver.delete_for_runs(["second"])
    saver.delete_for_runs(["first"])
    assert count(database_path, "checkpoints") == count(database_path, "checkpoint_writes") == 0


def test_a_page_of_old_checkpoints_takes_few_statements(database_path: Path) -> None:
    """Sends of formats before 4 come with one statement for the page."""
    with SqliteSaver(database_path) as saver:
        for number in range(1, 41):
            saver.put(
                place(number - 1 or None), {**checkpoint(number, {"list": LIST}), "v": 2}, {}, {}
            )
        statements: list[str] = []

        def traced(conn: sqlite3.Connection) -> None:
            conn.set_trace_callback(statements.append)

        assert len(list(saver.list(None, limit=1))) == 1
        saver.database.read(traced)
        assert len(list(saver.list(place()))) == 40
        assert len(statements) < 20


def test_a_copy_onto_an_existing_thread_mixes_no_values(saver: Any) -> None:
    """Int versions come up in both threads; an emptied channel stays empty on either side."""
    save(saver, 1, {}, versions={"a": 1}, thread="source")
    save(saver, 2, {"a": LIST}, versions={"a": 1}, thread="target")
    save(saver, 3, {"b": LIST}, versions={"b": 1}, thread="source")
    save(saver, 4, {}, versions={"b": 1}, thread="target")
    saver.copy_thread("source", "target")
    assert values(saver, 1, "target") == {}
    assert values(saver, 2, "target") == {"a": LIST}
    assert values(saver, 3, "target") == {"b": LIST}
    assert values(saver, 4, "target") == {}
