"""Whatever `put` was given, `get_tuple` gives back."""

from __future__ import annotations

import copy
import enum
import math
import os
import sqlite3
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.serde.encrypted import EncryptedSerializer
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.checkpoint.serde.types import TASKS

from langgraph_sqlite_saver import DatabaseFullError, SqliteSaver

from .helpers import LIST, count, execute, get, orphans, parent, place, rows, save, values


class Color(str, enum.Enum):
    RED = "red"


class Number(enum.IntEnum):
    ONE = 1


VALUES: dict[str, Any] = {
    "none": None,
    "true": True,
    "zero": 0,
    "minus": -(2**63),
    "big": 2**63,
    "huge": 10**400,
    "float": 0.1 + 0.2,
    "small": 5e-324,
    "inf": math.inf,
    "text": "ünï😀",
    "long": "x" * 10_000,
    "empty": "",
    "nul": "a\0b",
    "str-enum": Color.RED,
    "int-enum": Number.ONE,
    "bytes": b"\x00\xff",
    "list": [1, [2, {"a": [3]}]],
    "set": {1, 2},
    "dict": {"a": {"b": None}},
}
ALLOWED = JsonPlusSerializer(
    allowed_msgpack_modules=[(Color.__module__, "Color"), (Color.__module__, "Number")]
)


@pytest.mark.parametrize("encrypted", [False, True])
@pytest.mark.parametrize("new", [None, {}])
@pytest.mark.parametrize("versions", [None, {}])
def test_every_value_comes_back_with_its_type(
    open_driver: Any, database_path: Path, versions: Any, new: Any, encrypted: bool
) -> None:
    """Whatever `new_versions` says, with and without versions, plain and encrypted."""
    key = b"0123456789abcdef"
    serde = EncryptedSerializer.from_pycryptodome_aes(ALLOWED, key=key) if encrypted else ALLOWED
    saver = open_driver("sync", database_path, serde=serde)
    given = {k: v for k, v in VALUES.items() if not encrypted or k not in ("big", "huge")}
    save(saver, 1, given, versions=versions, new=new)
    found = values(saver, 1)
    assert found == given
    assert {k: type(v) for k, v in found.items()} == {k: type(v) for k, v in given.items()}
    assert orphans(database_path) == []


def test_nan_comes_back(saver: Any) -> None:
    """JSON has no NaN; it is a value all the same."""
    save(saver, 1, {"nan": math.nan})
    assert math.isnan(values(saver)["nan"])


def test_the_whole_checkpoint_comes_back(saver: Any) -> None:
    """Every key, those of older formats too, whatever they hold."""
    keys = {
        "versions_seen": {"node": {"a": 1, "b": "2.x", "c": 0.5}, "__input__": {}},
        "updated_channels": ["a", "b"],
        "pending_sends": [],
        "note": {1: b"bytes", "t": {1, 2}},
        "flag": True,
    }
    given = {"a": [1], "b": 1}
    save(saver, 1, given, versions={"a": 1, "b": "2.x", "gone": 0.5}, **keys)
    found = get(saver).checkpoint
    assert {key: found[key] for key in keys} == keys
    assert found["channel_versions"] == {"a": 1, "b": "2.x", "gone": 0.5}
    assert found["channel_values"] == given


def test_what_put_was_given_is_left_as_it_is(saver: Any) -> None:
    """Neither the checkpoint nor the metadata are changed, nor kept."""
    save(saver, 1)
    made = {**get(saver).checkpoint, "channel_values": {"a": LIST}, "channel_versions": {"a": 1}}
    metadata = {"step": 1, "x": float("nan")}
    before = copy.deepcopy((made, repr(metadata)))
    saver.put(place(), made, metadata, {"a": 1})
    assert (made, repr(metadata)) == before
    made["channel_values"]["a"] = "changed"
    assert values(saver) == {"a": LIST}


def test_a_tuple_that_was_read_is_the_callers(saver: Any) -> None:
    """Changing it changes nothing for the next reader."""
    save(saver, 1, {"a": ["x"]}, metadata={"deep": {"a": 1}})
    first = get(saver)
    first.checkpoint["channel_values"]["a"].append("y")
    first.checkpoint["channel_versions"]["a"] = 9
    first.metadata["deep"]["a"] = 2
    assert values(saver) == {"a": ["x"]}
    assert get(saver).metadata == {"deep": {"a": 1}}
    assert get(saver).checkpoint["channel_versions"] == {"a": 1}


# --- unchanged channels


def test_unchanged_channels_come_from_older_blobs(saver: Any, database_path: Path) -> None:
    """A version is stored once, however many checkpoints carry it."""
    save(saver, 1, {"a": LIST, "b": [1]}, versions={"a": 1, "b": 1})
    for number in range(2, 6):
        versions = {"a": 1, "b": number}
        given = {"a": LIST, "b": [number]}
        save(saver, number, given, versions=versions, new={"b": number}, parent=number - 1)
    assert [values(saver, n)["b"] for n in range(1, 6)] == [[1], [2], [3], [4], [5]]
    assert values(saver, 5)["a"] == LIST
    assert rows(database_path, "SELECT count(*) FROM checkpoint_blobs GROUP BY channel") == [
        (1,),
        (5,),
    ]


def test_a_channel_that_put_left_out_is_filled_in(saver: Any) -> None:
    """Where its version has a stored blob (the official SQLite saver fails this)."""
    save(saver, 1, {"a": LIST, "gone": LIST}, versions={"a": 1, "gone": 1})
    save(saver, 2, {}, versions={"a": 1, "gone": 2}, new={"gone": 2}, parent=1)
    assert values(saver, 2) == {"a": LIST}


def test_a_value_that_new_versions_does_not_name_is_kept(saver: Any) -> None:
    """With a version that is not stored yet, with a parent and without."""
    save(saver, 1, {"a": [1]}, versions={"a": 1}, new={})
    save(saver, 2, {"a": [2]}, versions={"a": 2}, new={}, parent=1)
    save(saver, 3, {"a": [2], "b": [3]}, versions={"a": 2}, new={}, parent=2)
    assert [values(saver, n) for n in (1, 2, 3)] == [
        {"a": [1]},
        {"a": [2]},
        {"a": [2], "b": [3]},
    ]


def test_a_value_without_a_version_is_kept_for_its_checkpoint(saver: Any) -> None:
    """Each of three checkpoints gets its own back."""
    for number, value in enumerate([[1], {"x": 1}, [1]], start=1):
        save(saver, number, {"a": value}, versions={}, parent=number - 1 or None)
    assert [values(saver, n)["a"] for n in (1, 2, 3)] == [[1], {"x": 1}, [1]]


@pytest.mark.parametrize("unnamed", [[9], 5, "x" * 500])
@pytest.mark.parametrize("inherited", [[1], 4, None])
def test_a_version_stored_by_a_fork_is_not_taken_for_an_unnamed_value(
    saver: Any, inherited: Any, unnamed: Any
) -> None:
    """Not even where the parent has that version, but another value inline."""
    save(saver, 1, {"a": ["fork"]}, versions={"a": 1})
    save(saver, 2, {"a": inherited}, versions={"a": 1})
    save(saver, 3, {"a": unnamed}, versions={"a": 2}, new={}, parent=2)
    save(saver, 4, {"a": ["other fork"]}, versions={"a": 2})
    assert [values(saver, n)["a"] for n in (1, 2, 3, 4)] == [
        ["fork"],
        inherited,
        unnamed,
        ["other fork"],
    ]


def test_an_inline_value_of_the_parent_does_not_vouch_for_a_blob(saver: Any) -> None:
    """The blob under the parent's version is another fork's; the child's value is stored."""
    save(saver, 1, {"a": ["fork"]}, versions={"a": 1})
    save(saver, 2, {"a": 5}, versions={"a": 1})
    save(saver, 3, {"a": ["mine"]}, versions={"a": 1}, new={}, parent=2)
    assert values(saver, 3) == {"a": ["mine"]}


@pytest.mark.parametrize("new", [None, {}])
def test_one_version_may_carry_different_values(saver: Any, new: Any) -> None:
    """Int versions after a fork: each checkpoint gets its own back, and so do its children."""
    save(saver, 1, {"a": [1]})
    for number, value in ((2, ["left"]), (3, ["right"]), (4, 7), (5, {"r": 1}), (6, ["right"])):
        save(saver, number, {"a": value}, versions={"a": 2}, new=new, parent=1)
    save(saver, 7, {"a": ["right"]}, versions={"a": 2}, new={}, parent=3)
    save(saver, 8, {"a": ["right"]}, versions={"a": 2}, new={}, parent=7)
    assert [values(saver, n)["a"] for n in range(2, 9)] == [
        ["left"],
        ["right"],
        7,
        {"r": 1},
        ["right"],
        ["right"],
        ["right"],
    ]


VERSIONS = [1, 1.0, "1", "1.0", 1e16, 10**16, 0.1 + 0.2, 0.3, -1, "", "ü", 2**62, "1~2"]


def test_versions_may_be_ints_floats_or_text(saver: Any, database_path: Path) -> None:
    """1, 1.0 and "1" are told apart as Python prints them; each comes back with its type."""
    for number, version in enumerate(VERSIONS, start=1):
        save(saver, number, {"a": [number]}, versions={"a": version})
    for number, version in enumerate(VERSIONS, start=1):
        found = get(saver, number).checkpoint
        assert found["channel_values"] == {"a": [number]}
        assert found["channel_versions"] == {"a": version}
        assert type(found["channel_versions"]["a"]) is type(version)
    keys = {key for (key,) in rows(database_path, "SELECT version FROM checkpoint_blobs")}
    assert {str(version) for version in VERSIONS} <= keys


@pytest.mark.parametrize("channel", ["", "a.b", "__start__", "branch:to:x", "ü", "a'b\"c", "$[0]"])
def test_channels_may_have_any_name(saver: Any, channel: str) -> None:
    """In values, without versions, and in writes."""
    save(saver, 1, {channel: LIST})
    save(saver, 2, {channel: LIST}, versions={}, parent=1)
    save(saver, 3, {channel: 1}, versions={}, parent=2, note={"x": b"y"})
    saver.put_writes(place(3), [(channel, LIST)], "task")
    assert values(saver, 1) == values(saver, 2) == {channel: LIST}
    assert values(saver, 3) == {channel: 1}
    assert get(saver, 3).checkpoint["note"] == {"x": b"y"}
    assert get(saver, 3).pending_writes == [("task", channel, LIST)]
    assert saver.list(None) == [get(saver, n) for n in (3, 2, 1)]


# --- saving an id again


def test_saving_an_id_again_replaces_it_parent_included(saver: Any, database_path: Path) -> None:
    """As the official SQLite saver does; nothing of the old one stays."""
    save(saver, 1, {"a": [1]})
    save(saver, 2, {"a": [2], "b": LIST}, parent=1, metadata={"old": 1, "run_id": "r1"})
    save(saver, 2, {"a": [3]}, versions={"a": 3}, metadata={"new": 1})
    assert values(saver, 2) == {"a": [3]}
    assert parent(saver, 2) is None
    assert get(saver, 2).metadata == {"new": 1}
    assert count(database_path, "checkpoint_blobs") == 2
    assert orphans(database_path) == []
    saver.delete_for_runs(["r1"])
    assert get(saver, 2) is not None


def test_replacing_leaves_what_others_use(saver: Any, database_path: Path) -> None:
    """A blob that another checkpoint shares stays for that one."""
    save(saver, 1, {"a": [1]})
    save(saver, 2, {"a": [1]}, versions={"a": 1}, new={}, parent=1)
    save(saver, 1, {"a": ["new"]})
    assert (values(saver, 1), values(saver, 2)) == ({"a": ["new"]}, {"a": [1]})
    save(saver, 2, {}, versions={})
    assert values(saver, 1) == {"a": ["new"]}
    assert orphans(database_path) == []


def test_replacing_keeps_the_pending_writes(saver: Any) -> None:
    """They belong to the id, as in the official savers."""
    saver.put_writes(save(saver, 1), [("c", 1)], "task")
    save(saver, 1, {"a": [1]})
    assert get(saver).pending_writes == [("task", "c", 1)]


# --- format v < 4


def legacy(saver: Any, **keys: Any) -> Any:
    """A checkpoint of format 3 whose parent has two sends among its writes."""
    save(saver, 1, {"a": [1]}, v=3)
    saver.put_writes(place(1), [(TASKS, "second"), ("c", 1)], "task", "~2")
    saver.put_writes(place(1), [(TASKS, "first")], "task2", "~1")
    return save(saver, 2, {"a": [2]}, parent=1, **keys)


def test_before_format_4_the_parents_sends_move_into_the_checkpoint(saver: Any) -> None:
    """In writes order, at the newest version there is, as `PostgresSaver` does it."""
    legacy(saver, v=3)
    for found in (get(saver, 2), saver.list(place(2))[0]):
        assert found.checkpoint["channel_values"] == {"a": [2], TASKS: ["first", "second"]}
        assert found.checkpoint["channel_versions"] == {"a": 2, TASKS: 2}
    assert TASKS not in get(saver, 1).checkpoint["channel_values"]


def test_sends_that_lie_in_the_checkpoint_are_left_to_langgraph(saver: Any) -> None:
    """It migrates an inline `pending_sends` itself: not both."""
    legacy(saver, v=3, pending_sends=["inside"])
    found = get(saver, 2).checkpoint
    assert found["pending_sends"] == ["inside"]
    assert TASKS not in found["channel_values"]


def test_from_format_4_on_nothing_moves(saver: Any) -> None:
    """The checkpoint holds its sends itself."""
    legacy(saver, v=4)
    assert values(saver, 2) == {"a": [2]}


def test_sends_without_any_version_get_the_savers_first(saver: Any) -> None:
    """`get_next_version` is asked, through the saver."""
    legacy(saver, v=1, versions={})
    version = get(saver, 2).checkpoint["channel_versions"][TASKS]
    assert version.split(".")[0] == saver.get_next_version(None).split(".")[0]


# --- the saver's own ways


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_the_serialiser_may_be_replaced_later(
    open_driver: Any, database_path: Path, mode: str
) -> None:
    """What was stored plainly is read on, what comes is encrypted, inline values included."""
    saver = open_driver(mode, database_path)
    save(saver, 1, {"a": LIST, "b": "plain"})
    saver.saver.serde = EncryptedSerializer.from_pycryptodome_aes(key=b"0123456789abcdef")
    save(saver, 2, {"a": LIST, "b": "secret"}, parent=1)
    saver.put_writes(place(2), [("c", "secret")], "task")
    assert values(saver, 2) == {"a": LIST, "b": "secret"}
    assert values(saver, 1) == {"a": LIST, "b": "plain"}
    assert b"secret" not in b"".join(each.read_bytes() for each in database_path.parent.iterdir())


def test_version_numbers_sort_and_tell_forks_apart(saver: Any) -> None:
    """Text that sorts by number, with a random part; ints and floats are gone on from."""
    first = saver.get_next_version(None)
    second = saver.get_next_version(first)
    assert first < second < saver.get_next_version(second)
    assert saver.get_next_version(first) != second
    assert saver.get_next_version(9) > saver.get_next_version(8.5) > second


def test_two_savers_on_one_file_see_each_other_at_once(
    open_driver: Any, database_path: Path
) -> None:
    """LangGraph's server makes one per thread of its own."""
    savers = [open_driver(mode, database_path) for mode in ("sync", "async", "sync")]
    for number in range(1, 10):
        save(savers[number % 3], number, {"a": [number]}, parent=number - 1 or None)
        assert all(values(saver) == {"a": [number]} for saver in savers)


def test_a_blob_marked_empty_is_no_value(saver: Any, database_path: Path) -> None:
    """Postgres' mark for a version without a value, in rows that came from there."""
    save(saver, 1, {}, versions={"a": 1})
    execute(
        database_path,
        "INSERT INTO checkpoint_blobs (thread_id, channel, version, type) "
        "VALUES ('t', 'a', '1', 'empty')",
    )
    assert values(saver, 1) == {}
    assert saver.list(None)[0].checkpoint["channel_values"] == {}


def test_the_same_run_reads_back_as_from_the_in_memory_saver(saver: Any) -> None:
    """A chain with changed, unchanged and removed channels."""
    memory = InMemorySaver()
    given: dict[str, Any] = {}
    versions: dict[str, Any] = {}
    for number in range(1, 12):
        channel = "abc"[number % 3]
        given = {**given, channel: [number]}
        version = f"{number:032}.5"
        versions = {**versions, channel: version}
        if number % 4 == 0:
            given.pop("a", None)
            versions["a"] = version
        new = {key: value for key, value in versions.items() if value == version}
        for each in (saver, memory):
            save(each, number, given, versions=versions, new=new, parent=number - 1 or None)
    for number in range(1, 12):
        assert get(saver, number).checkpoint == get(memory, number).checkpoint


# --- what was stored a moment ago may be gone

GONE: dict[str, Any] = {
    "delete_thread": lambda saver: saver.delete_thread("t"),
    "delete_for_runs": lambda saver: saver.delete_for_runs(["r"]),
    "prune": lambda saver: saver.prune(["t"], strategy="delete"),
    "expire": lambda saver: saver.expire(timedelta(0)),
    "replace": lambda saver: save(saver, 1, {"a": ["other"]}, versions={"a": 2}),
}


@pytest.mark.parametrize("by_another", [False, True])
@pytest.mark.parametrize("how", GONE)
def test_an_unnamed_value_is_stored_anew_where_its_blob_is_gone(
    saver: Any, open_driver: Any, database_path: Path, how: str, by_another: bool
) -> None:
    """Deleted by this saver or by another one: a run that goes on loses nothing."""
    save(saver, 1, {"a": LIST}, versions={"a": 1}, metadata={"run_id": "r"})
    GONE[how](open_driver("sync", database_path) if by_another else saver)
    save(saver, 2, {"a": LIST}, versions={"a": 1}, new={}, parent=1)
    assert values(saver, 2) == {"a": LIST}
    save(saver, 3, {"a": LIST}, versions={"a": 1}, new={}, parent=2)
    assert values(saver, 3) == {"a": LIST}
    assert orphans(database_path) == []


def test_an_unnamed_value_is_stored_anew_where_its_owner_deleted_it(database_path: Path) -> None:
    """On a borrowed connection, where PRAGMA data_version says nothing of it."""
    with closing(sqlite3.connect(database_path, check_same_thread=False)) as conn:
        saver = SqliteSaver(conn)
        save(saver, 1, {"a": LIST}, versions={"a": 1})
        conn.execute("DELETE FROM checkpoint_blobs")
        conn.commit()
        save(saver, 2, {"a": LIST}, versions={"a": 1}, new={}, parent=1)
        assert values(saver, 2) == {"a": LIST}


def test_a_save_that_failed_is_not_taken_for_stored(database_path: Path) -> None:
    """The next one stores what the failed one could not, once there is room."""
    with SqliteSaver(database_path, pragmas={"max_page_count": 40}) as saver:
        save(saver, 1, {"filler": os.urandom(100_000)}, thread="other")
        with pytest.raises(DatabaseFullError):
            save(saver, 1, {"a": [os.urandom(90_000)]}, versions={"a": 1})
        saver.delete_thread("other")
        value = [os.urandom(90_000)]
        save(saver, 2, {"a": value}, versions={"a": 1}, new={}, parent=1)
        assert values(saver, 2) == {"a": value}
