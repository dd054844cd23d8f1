"""What Postgres cannot say as a file does: it is said otherwise, or refused; never dropped."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import ormsgpack
import pytest
from langgraph.checkpoint.serde.types import TASKS
from langgraph.types import Send

from langgraph_sqlite_saver import SqliteSaver
from langgraph_sqlite_saver.transfer.errors import TransferError
from langgraph_sqlite_saver.transfer.postgres import from_postgres, to_postgres
from langgraph_sqlite_saver.transfer.postgres_spelling import array_of

from .postgres_threads import chain, orphans, place, postgres_saver, query, save, serde

LIST = ["a", "list"]


def moved(database_path: Path, uri: str, *numbers: int, key: Any = None) -> list[Any]:
    """What PostgresSaver has of some checkpoints of the file."""
    to_postgres(database_path, uri, serde=key, verify=True)
    assert orphans(uri) == []
    with postgres_saver(uri, key) as saver:
        return [saver.get_tuple(place(number)).checkpoint for number in numbers]


def test_each_branch_keeps_its_value_of_a_version(
    database_path: Path, postgres: str, encrypted: bool
) -> None:
    """Where several have the same version: lists, a short text, none at all."""
    key = serde(encrypted)
    each = [{"c": ["one"]}, {"c": ["two"]}, {"c": "short"}, {}, {"c": ["one"]}]
    with SqliteSaver(database_path, serde=key) as saver:
        for number, values in enumerate(each, 1):
            save(saver, number, values, versions={"c": "7"})
    found = moved(database_path, postgres, 1, 2, 3, 4, 5, key=key)
    assert [checkpoint["channel_values"] for checkpoint in found] == each


def test_a_version_of_its_own_comes_right_behind(database_path: Path, postgres: str) -> None:
    """Newer than what it stands for, older than the next, and the next can be made from it."""
    with SqliteSaver(database_path) as saver:
        first = saver.get_next_version(None, None)
        following = saver.get_next_version(first, None)
        for number, values in ((1, ["one"]), (2, ["two"])):
            save(saver, number, {"c": values}, versions={"c": first})
    _, checkpoint = moved(database_path, postgres, 1, 2)
    own = checkpoint["channel_versions"]["c"]
    assert first < own < following
    with postgres_saver(postgres) as theirs:
        assert own < theirs.get_next_version(own, None)


def test_what_a_node_has_seen_it_has_still_seen(database_path: Path, postgres: str) -> None:
    """No node runs again: its version is spelled as the channel's; an older one stays."""
    seen = {"up": {"c": "7"}, "behind": {"c": "6"}, "other": {"d": "7"}}
    with SqliteSaver(database_path) as saver:
        save(saver, 1, {"c": ["one"]}, versions={"c": "7"})
        save(saver, 2, {"c": ["two"]}, versions={"c": "7"}, versions_seen=seen)
    (checkpoint,) = moved(database_path, postgres, 2)
    own = checkpoint["channel_versions"]["c"]
    assert checkpoint["versions_seen"] == {
        "up": {"c": own},
        "behind": {"c": "6"},
        "other": {"d": "7"},
    }


def test_a_value_without_a_version_gets_one_that_every_node_has_seen(
    database_path: Path, postgres: str
) -> None:
    """The oldest there can be; the value is found."""
    with SqliteSaver(database_path) as saver:
        versions = {"d": saver.get_next_version(None, None)}
        seen = {"node": dict(versions)}
        save(saver, 1, {"c": LIST, "d": LIST}, versions=versions, versions_seen=seen)
    (checkpoint,) = moved(database_path, postgres, 1)
    assert checkpoint["channel_values"] == {"c": LIST, "d": LIST}
    assert checkpoint["channel_versions"]["c"] < versions["d"]
    assert checkpoint["versions_seen"] == {"node": checkpoint["channel_versions"]}


def test_numbers_that_jsonb_would_change_are_kept(database_path: Path, postgres: str) -> None:
    """JSONB makes ints of large floats, and a zero of -0.0."""
    numbers = [1e16, -1e300, -0.0, 0.0, 1.5, 5e-324, 1.0, 2**63 - 1, -(2**63), 2**70, True]
    values = {f"c{place_}": number for place_, number in enumerate(numbers)}
    with SqliteSaver(database_path) as saver:
        save(saver, 1, values)
    (checkpoint,) = moved(database_path, postgres, 1)
    found = [checkpoint["channel_values"][channel] for channel in values]
    assert [(type(n), n) for n in found] == [(type(n), n) for n in numbers]
    assert math.copysign(1, found[2]) == -1


@pytest.mark.parametrize("number", [3, 2.0, 0.1, 1e-7, 1e22])
def test_versions_that_are_numbers_are_found(
    database_path: Path, postgres: str, number: float
) -> None:
    """Postgres writes them in another way than Python does."""
    with SqliteSaver(database_path) as saver:
        save(saver, 1, {"c": LIST}, versions={"c": number})
    (checkpoint,) = moved(database_path, postgres, 1)
    assert checkpoint["channel_values"] == {"c": LIST}
    assert checkpoint["channel_versions"] == {"c": number}


def test_a_thread_that_postgres_cannot_hold_is_refused_as_a_whole(
    database_path: Path, postgres: str
) -> None:
    """Versions that are numbers have no room for one between; other threads go on."""
    with SqliteSaver(database_path) as saver:
        for number in range(1, 1_500):
            save(saver, number, {}, versions={"c": number})
        save(saver, 1_500, {"c": ["one"]}, versions={"c": 7_000})
        save(saver, 1_501, {"c": ["two"]}, versions={"c": 7_000})
        chain(saver, 2, thread="a")
        chain(saver, 2, thread="z")
    with pytest.raises(TransferError, match=r"thread 't'.*checkpoint 001501: channel 'c'"):
        to_postgres(database_path, postgres)
    assert query(postgres, "SELECT DISTINCT thread_id FROM checkpoints ORDER BY 1") == [
        ("a",),
        ("z",),
    ]
    assert query(postgres, "SELECT DISTINCT thread_id FROM checkpoint_blobs ORDER BY 1") == [
        ("a",),
        ("z",),
    ]


def test_several_refused_threads_are_all_named(database_path: Path, postgres: str) -> None:
    """In one error, at the end."""
    with SqliteSaver(database_path) as saver:
        for thread in "bc":
            for number in (1, 2):
                save(saver, number, {"c": [number]}, versions={"c": 7}, thread=thread)
        chain(saver, 2, thread="d")
    with pytest.raises(TransferError, match=r"(?s)2 threads.*thread 'b'.*thread 'c'"):
        to_postgres(database_path, postgres)
    assert query(postgres, "SELECT count(*) FROM checkpoints") == [(2,)]


@pytest.mark.parametrize("sends", [1, 40])
def test_pending_sends_of_an_old_format_come_among_the_channels(
    database_path: Path, postgres: str, encrypted: bool, sends: int
) -> None:
    """Where LangGraph puts them when it loads such a checkpoint."""
    key = serde(encrypted)
    pending = [Send("node", {"n": n}) for n in range(sends)]
    with SqliteSaver(database_path, serde=key) as saver:
        save(saver, 1, {"c": LIST}, v=1, pending_sends=pending)
        saver.put_writes(place(1), [(TASKS, each) for each in pending], "task")
        save(saver, 2, {"c": LIST}, parent=1, v=1, pending_sends=pending)
        save(saver, 3, {"c": LIST}, parent=2, v=3)
    first, second, third = moved(database_path, postgres, 1, 2, 3, key=key)
    for checkpoint in (first, second):
        assert checkpoint["channel_values"] == {"c": LIST, TASKS: pending}
        assert checkpoint["channel_versions"].keys() == {"c", TASKS}
        assert "pending_sends" not in checkpoint
    assert third["channel_values"] == {"c": LIST}


@pytest.mark.parametrize("version", ["7", 7, 7.5])
def test_pending_sends_of_several_checkpoints_are_told_apart(
    database_path: Path, postgres: str, version: Any
) -> None:
    """Also where their newest version is the same."""
    with SqliteSaver(database_path) as saver:
        for number in (1, 2):
            sends = [Send("node", number)]
            save(saver, number, {"c": LIST}, versions={"c": version}, v=1, pending_sends=sends)
    found = moved(database_path, postgres, 1, 2)
    assert [each["channel_values"][TASKS] for each in found] == [
        [Send("node", 1)],
        [Send("node", 2)],
    ]


@pytest.mark.parametrize("length", [0, 15, 16, 2**16 - 1, 2**16])
def test_values_are_put_into_an_array_as_they_are(length: int) -> None:
    """The same bytes as if they were serialised together."""
    assert array_of([ormsgpack.packb("x")] * length) == ormsgpack.packb(["x"] * length)


def test_pending_sends_that_postgres_would_replace_are_refused(
    database_path: Path, postgres: str
) -> None:
    """It takes those that the parent's tasks wrote; here they are others."""
    with SqliteSaver(database_path) as saver:
        save(saver, 1, {"c": LIST}, v=1)
        saver.put_writes(place(1), [(TASKS, Send("node", 1))], "task")
        save(saver, 2, {"c": LIST}, parent=1, v=1, pending_sends=[Send("node", 2)])
    with pytest.raises(TransferError, match=r"checkpoint 000002: channel '__pregel_tasks'"):
        to_postgres(database_path, postgres)
    assert query(postgres, "SELECT count(*) FROM checkpoints") == [(0,)]


def test_other_keys_that_json_cannot_hold_are_refused(database_path: Path, postgres: str) -> None:
    """Postgres has no place for them."""
    with SqliteSaver(database_path) as saver:
        save(saver, 1, {"c": LIST}, v=1, current_tasks={"a": b"bytes"})
    with pytest.raises(TransferError, match="keys beside 'pending_sends'"):
        to_postgres(database_path, postgres)


def test_versions_of_our_making_are_carried_back(
    database_path: Path, tmp_path: Path, postgres: str
) -> None:
    """A file that came back has the same values, and moves on to Postgres as it was."""
    back = tmp_path / "back.db"
    each = [{"c": ["one"]}, {"c": ["two"]}, {"c": "short"}, {}, {"c": 1e300}]
    with SqliteSaver(database_path) as saver:
        for number, values in enumerate(each, 1):
            save(saver, number, values, versions={"c": "7"})
    theirs = moved(database_path, postgres, 1, 2, 3, 4, 5)
    from_postgres(postgres, back, verify=True)
    with SqliteSaver(back) as saver:
        ours = [saver.get_tuple(place(number)).checkpoint for number in (1, 2, 3, 4, 5)]
    assert ours == theirs
