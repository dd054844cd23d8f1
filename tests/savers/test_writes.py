"""Pending writes: their order, which one stays, when they may come."""

from __future__ import annotations

import random
import threading
from pathlib import Path
from typing import Any

import pytest
from langgraph.checkpoint.base import WRITES_IDX_MAP, writes_sort_key
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.serde.types import ERROR, INTERRUPT, RESUME

from .helpers import count, get, official_saver, place, save


def pending(saver: Any, number: int = 1, **where: Any) -> list[tuple[str, str, Any]]:
    return [tuple(each) for each in get(saver, number, **where).pending_writes]


def test_writes_come_back_with_their_checkpoint(every_saver: Any) -> None:
    """From `get_tuple` and from `list`, with any value."""
    config = save(every_saver, 1)
    every_saver.put_writes(config, [("a", {"x": [1]}), ("b", None), ("a", b"\0")], "task")
    expected = [("task", "a", {"x": [1]}), ("task", "b", None), ("task", "a", b"\0")]
    assert pending(every_saver) == every_saver.list(place())[0].pending_writes == expected


def test_a_checkpoint_without_writes_has_an_empty_list(saver: Any) -> None:
    """Not None."""
    save(saver, 1)
    assert get(saver).pending_writes == saver.list(place())[0].pending_writes == []


def test_writes_belong_to_one_checkpoint(saver: Any) -> None:
    """Of one thread and one namespace."""
    for where in ({}, {"thread": "u"}, {"ns": "child"}):
        saver.put_writes(save(saver, 1, **where), [("c", str(where))], "task")
        save(saver, 2, **where)
        assert pending(saver, **where) == [("task", "c", str(where))]
        assert pending(saver, 2, **where) == []


TASKS_OF_A_STEP = [
    ("t2", "~__pregel_pull, a", [("x", 1), ("y", 2)]),
    ("t1", "~__pregel_pull, b", [("x", 3)]),
    ("t3", "~__pregel_push, 10", [(ERROR, "boom"), ("x", 4)]),
    ("t0", "~__pregel_push, 9", [(INTERRUPT, "ask")]),
    ("t4", "", [("x", n) for n in range(12)]),
]


@pytest.mark.parametrize("seed", range(3))
def test_writes_come_in_the_order_in_which_they_are_applied(saver: Any, seed: int) -> None:
    """By (task_path, task_id, idx), whatever order they were saved in."""
    save(saver, 1)
    tasks = random.Random(seed).sample(TASKS_OF_A_STEP, len(TASKS_OF_A_STEP))
    for task, path, writes in tasks:
        saver.put_writes(place(1), writes, task, path)
    keyed = [
        (writes_sort_key(path, task, WRITES_IDX_MAP.get(channel, idx)), (task, channel, value))
        for task, path, writes in tasks
        for idx, (channel, value) in enumerate(writes)
    ]
    expected = [write for _, write in sorted(keyed, key=lambda each: each[0])]
    assert pending(saver) == saver.list(place())[0].pending_writes == expected


def test_writes_agree_with_the_official_savers(saver: Any) -> None:
    """Same writes in the same order."""
    memory = InMemorySaver()
    with official_saver() as official:
        for each in (saver, official, memory):
            save(each, 1)
            for task, path, writes in TASKS_OF_A_STEP * 2:
                each.put_writes(place(1), writes, task, path)
        assert pending(saver) == pending(official) == pending(memory)


def test_of_ordinary_writes_the_first_stays(saver: Any) -> None:
    """For one task and index; also where a special write is among them."""
    save(saver, 1)
    saver.put_writes(place(1), [("a", 1)], "task")
    saver.put_writes(place(1), [("a", 2), ("b", 3)], "task")
    saver.put_writes(place(1), [("x", 9), (ERROR, "late")], "task")
    saver.put_writes(place(1), [("x", 9), (ERROR, "later")], "task")
    assert pending(saver) == [("task", ERROR, "late"), ("task", "a", 1), ("task", "b", 3)]


@pytest.mark.parametrize("channel", [ERROR, INTERRUPT, RESUME])
def test_special_writes_replace(saver: Any, channel: str) -> None:
    """When every channel of the call is in WRITES_IDX_MAP, task path included."""
    save(saver, 1)
    saver.put_writes(place(1), [(channel, "old")], "task", "~a")
    saver.put_writes(place(1), [(channel, "new")], "task", "~b")
    assert pending(saver) == [("task", channel, "new")]


def test_writes_may_come_before_their_checkpoint(saver: Any) -> None:
    """They wait for it."""
    saver.put_writes(place(1), [("c", 1)], "task")
    assert get(saver, 1) is None
    save(saver, 1)
    assert pending(saver) == [("task", "c", 1)]


def test_no_writes_are_no_error(saver: Any, database_path: Path) -> None:
    """An empty sequence stores nothing; any iterable of pairs will do."""
    save(saver, 1)
    saver.put_writes(place(1), [], "task")
    assert count(database_path, "checkpoint_writes") == 0
    saver.put_writes(place(1), (pair for pair in [("a", 1), ["b", 2]]), "task")
    assert pending(saver) == [("task", "a", 1), ("task", "b", 2)]


def test_writes_come_from_any_thread(open_driver: Any, database_path: Path) -> None:
    """Eight at once, none lost."""
    driver = open_driver("sync", database_path)
    save(driver, 1)

    def write(task: int) -> None:
        for n in range(10):
            driver.saver.put_writes(place(1), [("c", n)], f"{task}-{n}")

    threads = [threading.Thread(target=write, args=(task,)) for task in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(pending(driver)) == 80
