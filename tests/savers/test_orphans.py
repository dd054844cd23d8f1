"""Pending writes without a checkpoint: counted, found, told from damage, and deleted when old."""

from __future__ import annotations

import operator
import os
import uuid
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Annotated, Any, TypedDict

import pytest
from langgraph.checkpoint.base.id import uuid6
from langgraph.graph import START, StateGraph
from langgraph.types import Command, interrupt

from langgraph_sqlite_saver import SqliteSaver
from langgraph_sqlite_saver.checkpoints import orphans

from .helpers import LIST, checkpoint, count, dump, execute, get, place, rows, save, unsound

NOW = datetime.now(timezone.utc)
_FIRST_DAY = datetime(1582, 10, 15, tzinfo=timezone.utc)


def id_at(moment: datetime) -> str:
    """A checkpoint id as LangGraph made it then, by RFC 9562: the time's upper bits first."""
    steps = (moment - _FIRST_DAY) // timedelta(microseconds=1) * 10
    low = 1 << 63 | uuid.uuid4().int & (1 << 62) - 1
    return str(uuid.UUID(int=steps >> 12 << 80 | 6 << 76 | (steps & 0xFFF) << 64 | low))


def at(checkpoint_id: str, thread: str = "t", ns: str = "") -> dict[str, Any]:
    """The config of a checkpoint."""
    config = place(thread=thread, ns=ns)
    config["configurable"]["checkpoint_id"] = checkpoint_id
    return config


def put(saver: Any, checkpoint_id: str, thread: str = "t") -> Any:
    """Save a checkpoint of that id, with a blob, made when its id says."""
    made = {**checkpoint(1, {"a": LIST}), "id": checkpoint_id}
    made["ts"] = orphans.time_of(checkpoint_id).isoformat()
    return saver.put(place(thread=thread), made, {}, {"a": 1})


def days_ago(days: float) -> str:
    return id_at(NOW - timedelta(days=days))


def late_writes(saver: Any, days: float, thread: str = "t", number: int = 3) -> str:
    """A run that was not stopped goes on writing to a thread that was deleted; the id of its
    checkpoint.
    """
    checkpoint_id = days_ago(days)
    config = put(saver, checkpoint_id, thread)
    saver.delete_thread(thread)
    for task in range(number):
        saver.put_writes(config, [("c", os.urandom(1000))], f"task {task}")
    return checkpoint_id


def test_the_time_in_an_id_is_read_as_langgraph_writes_it() -> None:
    """Of its UUIDs of version 6, to the microsecond; other ids have none."""
    before = datetime.now(timezone.utc)
    made = orphans.time_of(str(uuid6(clock_seq=5)))
    assert made is not None
    assert (
        before - timedelta(seconds=1) <= made <= datetime.now(timezone.utc) + timedelta(seconds=1)
    )
    moment = datetime(2020, 2, 29, 23, 59, 59, 999999, tzinfo=timezone.utc)
    assert orphans.time_of(id_at(moment)) == moment
    for other in ("000001", "", str(uuid.uuid4()), str(uuid.uuid1()), "1f1e-d280", "✓"):
        assert orphans.time_of(other) is None


def test_they_are_counted_and_weighed(every_saver: Any) -> None:
    """By stats; a thread that has its checkpoint has none."""
    config = put(every_saver, days_ago(1), "living")
    every_saver.put_writes(config, [("c", 1)], "task")
    late_writes(every_saver, 1)
    stats = every_saver.stats()
    assert (stats.threads, stats.writes, stats.orphan_writes, stats.orphan_blobs) == (1, 4, 3, 0)
    assert stats.orphan_bytes == 3_000


def test_check_finds_them_and_calls_them_no_damage(every_saver: Any) -> None:
    """Of the whole file, or of the threads that are named."""
    old = late_writes(every_saver, 40, "old")
    every_saver.put_writes(at("odd", "odd", "sub"), [("c", 1)], "task")
    put(every_saver, days_ago(1), "living")
    found = every_saver.check()
    assert list(found) == []
    first, second = found.orphans
    assert (first.thread_id, first.checkpoint_ns, first.checkpoint_id) == ("odd", "sub", "odd")
    assert (first.rows, first.made) == (1, None)
    assert (second.thread_id, second.checkpoint_id, second.rows) == ("old", old, 3)
    assert second.bytes == 3_000
    assert NOW - second.made == pytest.approx(timedelta(days=40), abs=timedelta(seconds=1))
    assert [each.thread_id for each in every_saver.check(["old", "living"]).orphans] == ["old"]
    assert every_saver.check(["living"]).orphans == []


def test_writes_that_come_before_their_checkpoint_are_none_once_it_is_there(
    every_saver: Any,
) -> None:
    """Nothing is lost of them."""
    checkpoint_id = days_ago(0)
    every_saver.put_writes(at(checkpoint_id), [("c", 1)], "task")
    assert len(every_saver.check().orphans) == 1
    put(every_saver, checkpoint_id)
    assert every_saver.check().orphans == []
    assert every_saver.stats().orphan_writes == 0
    assert get(every_saver).pending_writes == [("task", "c", 1)]


def test_expire_deletes_those_that_are_older(every_saver: Any, database_path: Path) -> None:
    """By the time in their checkpoint's id, whatever threads they are in."""
    late_writes(every_saver, 40, "old")
    young = late_writes(every_saver, 20, "young")
    put(every_saver, days_ago(1), "living")
    every_saver.put_writes(at(days_ago(50), "living"), [("c", 1)], "never saved")
    every_saver.put_writes(at(days_ago(50), "living", "sub"), [("c", 1)], "never saved")
    before = dump(every_saver)
    assert list(every_saver.expire(timedelta(days=30))) == []
    left = rows(database_path, "SELECT DISTINCT thread_id, checkpoint_id FROM checkpoint_writes")
    assert left == [("young", young)]
    assert dump(every_saver) == before
    every_saver.expire(NOW - timedelta(days=19))
    assert count(database_path, "checkpoint_writes") == 0
    assert unsound(database_path) == []


def test_what_tells_no_time_never_expires(every_saver: Any, database_path: Path) -> None:
    """Ids of one's own making: they are counted, and go with their thread."""
    for checkpoint_id in ("000001", str(uuid.uuid4())):
        every_saver.put_writes(at(checkpoint_id), [("c", 1)], "task")
    every_saver.expire(timedelta(0))
    assert every_saver.stats().orphan_writes == 2
    every_saver.delete_thread("t")
    assert count(database_path, "checkpoint_writes") == 0


def test_values_of_a_thread_whose_checkpoints_were_deleted_by_hand(
    every_saver: Any, database_path: Path
) -> None:
    """They are found, and go when the last of the thread's writes expires."""
    for days in (40, 20):
        every_saver.put_writes(put(every_saver, days_ago(days)), [("c", 1)], "task")
    save(every_saver, 1, {"b": LIST}, thread="blobs alone")
    execute(database_path, "DELETE FROM checkpoints")
    assert every_saver.stats().orphan_blobs == 2
    found = {(each.thread_id, each.checkpoint_id): each for each in every_saver.check().orphans}
    assert found["t", None].rows == found["blobs alone", None].rows == 1
    every_saver.expire(timedelta(days=30))
    assert (every_saver.stats().orphan_writes, every_saver.stats().orphan_blobs) == (1, 2)
    every_saver.expire(timedelta(days=10))
    assert (every_saver.stats().orphan_writes, every_saver.stats().orphan_blobs) == (0, 1)
    every_saver.delete_thread("blobs alone")
    assert count(database_path, "checkpoint_blobs") == 0


def test_a_checkpoint_that_comes_while_they_are_deleted_keeps_its_writes(
    database_path: Path,
) -> None:
    """They are looked up again in the transaction that deletes."""
    with SqliteSaver(database_path) as saver:
        checkpoint_id = days_ago(40)
        saver.put_writes(at(checkpoint_id), [("c", 1)], "task")
        assert saver.database.read(orphans.threads_with_older, NOW) == ["t"]
        put(saver, checkpoint_id)
        saver.database.write(orphans.expire, "t", NOW)
        assert get(saver).pending_writes == [("task", "c", 1)]


class State(TypedDict):
    words: Annotated[list[str], operator.add]


@pytest.mark.parametrize("durability", ["sync", "async", "exit"])
def test_a_graph_leaves_none(database_path: Path, durability: str) -> None:
    """Interrupted, failed, resumed, or run to its end."""
    failures = ["once"]

    def asks(state: State) -> State:
        return {"words": [interrupt("which?")]}

    def fails_once(state: State) -> State:
        if failures:
            raise RuntimeError(failures.pop())
        return {"words": ["done"]}

    build = StateGraph(State)
    build.add_node("asks", asks)
    build.add_node("beside", lambda state: {"words": ["beside"]})
    build.add_node("fails once", fails_once)
    for node in ("asks", "beside"):
        build.add_edge(START, node)
        build.add_edge(node, "fails once")
    with SqliteSaver(database_path) as saver:
        graph = build.compile(checkpointer=saver)
        config = place(ns=None)
        graph.invoke({"words": []}, config, durability=durability)
        assert saver.check().orphans == []
        with pytest.raises(RuntimeError):
            graph.invoke(Command(resume="this"), config, durability=durability)
        assert saver.check().orphans == []
        assert "done" in graph.invoke(None, config, durability=durability)["words"]
        assert saver.check().orphans == []
        assert saver.stats().writes > saver.stats().orphan_writes == 0
