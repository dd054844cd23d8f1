"""What a DeltaChannel is rebuilt from: writes, oldest first, and the value they start from."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.serde.types import _DeltaSnapshot

from langgraph_sqlite_saver import StorageError

from .helpers import LIST, get, official_saver, place, save, values


def history(saver: Any, number: int | None = None, *channels: str) -> Any:
    return saver.get_delta_channel_history(config=place(number), channels=list(channels or "d"))


def step(
    saver: Any, number: int, stored: Any = None, *, of: int | None = -1, **options: Any
) -> None:
    """A checkpoint with a new version of "d", which stores nothing unless `stored` is given."""
    given = {} if stored is None else {"d": stored}
    versions = options.pop("versions", {"d": number})
    parent = (number - 1 or None) if of == -1 else of
    save(saver, number, given, versions=versions, parent=parent, **options)


def write(saver: Any, number: int, *added: Any, channel: str = "d", task: str = "task") -> None:
    saver.put_writes(place(number), [(channel, each) for each in added], task)


def test_writes_come_oldest_first_without_the_targets_own(every_saver: Any) -> None:
    """Those of the target are pending; those of the seed's checkpoint made its child."""
    step(every_saver, 1, [0])
    for number in (1, 2, 3):
        write(every_saver, number, number, -number)
        step(every_saver, number + 1)
    assert history(every_saver, 3) == {
        "d": {
            "seed": [0],
            "writes": [("task", "d", n) for n in (1, -1, 2, -2)],
        }
    }
    write(every_saver, 4, "pending")
    assert history(every_saver, 4) == history(every_saver)


def test_without_a_stored_value_there_is_no_seed(saver: Any) -> None:
    """The walk ends at the root."""
    step(saver, 1)
    write(saver, 1, 1)
    step(saver, 2)
    assert history(saver, 2) == {"d": {"writes": [("task", "d", 1)]}}
    assert history(saver, 1) == {"d": {"writes": []}}


def test_a_missing_checkpoint_has_no_history(saver: Any) -> None:
    """Nor a missing thread; a parent that was deleted ends the walk."""
    assert history(saver) == history(saver, 7) == {"d": {"writes": []}}
    step(saver, 3, of=2)
    assert history(saver, 3) == {"d": {"writes": []}}


def test_no_channels_no_history(saver: Any) -> None:
    """An empty mapping."""
    step(saver, 1)
    assert saver.get_delta_channel_history(config=place(1), channels=[]) == {}


@pytest.mark.parametrize(
    "seed", [_DeltaSnapshot([1]), _DeltaSnapshot(True), [1], 5, "text", True, {"a": 1}]
)
def test_the_seed_is_the_nearest_stored_value_plain_or_snapshot(saver: Any, seed: Any) -> None:
    """A thread that was begun before its channel became a DeltaChannel has plain ones."""
    step(saver, 1, ["older"])
    step(saver, 2, seed)
    write(saver, 2, 2)
    step(saver, 3)
    assert history(saver, 3) == {"d": {"seed": seed, "writes": [("task", "d", 2)]}}


def test_a_value_of_the_target_itself_is_no_seed(saver: Any) -> None:
    """Its ancestors are asked for."""
    step(saver, 1, [1])
    step(saver, 2, [2])
    assert history(saver, 2)["d"]["seed"] == [1]


def test_each_channel_ends_at_its_own_seed(saver: Any) -> None:
    """One walk serves all."""
    save(saver, 1, {"a": [1], "b": [1]})
    for number in (1, 2, 3):
        write(saver, number, number, channel="a", task="x")
        write(saver, number, number, channel="b", task="y")
        given = {"a": [2]} if number == 2 else {}
        versions = {"a": number + 1, "b": number + 1}
        save(saver, number + 1, given, versions=versions, parent=number)
    found = history(saver, 4, "a", "b", "c")
    assert found["a"] == {"seed": [2], "writes": [("x", "a", 3)]}
    assert found["b"] == {"seed": [1], "writes": [("y", "b", n) for n in (1, 2, 3)]}
    assert found["c"] == {"writes": []}


def test_writes_of_one_step_come_in_writes_order(saver: Any) -> None:
    """By (task_path, task_id, idx)."""
    step(saver, 1, [0])
    saver.put_writes(place(1), [("d", "last")], "a", "~2")
    saver.put_writes(place(1), [("d", "second"), ("other", 0), ("d", "third")], "z", "~1")
    saver.put_writes(place(1), [("d", "first")], "b", "~1")
    step(saver, 2)
    assert [value for *_, value in history(saver, 2)["d"]["writes"]] == [
        "first",
        "second",
        "third",
        "last",
    ]


def test_the_walk_goes_by_parent_and_not_by_id(saver: Any) -> None:
    """Other branches of a fork don't count, nor do ids that grew on another machine."""
    step(saver, 5, [5], of=None)
    write(saver, 5, "shared")
    step(saver, 3, of=5)
    write(saver, 3, "left")
    step(saver, 4, of=5)
    write(saver, 4, "right")
    step(saver, 1, of=4)
    assert [v for *_, v in history(saver, 1)["d"]["writes"]] == ["shared", "right"]


def test_a_left_out_value_is_filled_in_from_its_snapshot(saver: Any) -> None:
    """`get_tuple` gives a DeltaChannel its snapshot back, at every checkpoint of its version."""
    step(saver, 1, _DeltaSnapshot([1]))
    step(saver, 2, versions={"d": 1}, new={})
    assert values(saver, 2) == {"d": _DeltaSnapshot([1])}
    write(saver, 2, 2)
    step(saver, 3)
    assert history(saver, 3) == {"d": {"seed": _DeltaSnapshot([1]), "writes": [("task", "d", 2)]}}


def grow(saver: Any, seed: int) -> list[int]:
    """A tree of checkpoints with writes; some channels of some store something."""
    die = random.Random(seed)
    for number in range(1, 40):
        given = {}
        for channel in "abc":
            if die.random() < 0.15:
                given[channel] = die.choice([LIST, _DeltaSnapshot([number]), number, True, None])
        versions = {channel: f"{number:032}.{channel}" for channel in "abc"}
        parent = die.choice([number - 1, number - 1, number // 2]) or None
        save(saver, number, given, versions=versions, parent=parent)
        for task in die.sample(["t1", "t2", "t3"], die.randrange(3)):
            write(saver, number, number, channel=die.choice("abc"), task=task)
    return list(range(1, 40))


@pytest.mark.parametrize("seed", range(3))
def test_the_fast_path_and_the_base_class_agree(saver: Any, seed: int) -> None:
    """For every checkpoint of a tree, for one channel and for all."""
    for number in grow(saver, seed):
        for channels in (["a"], ["a", "b", "c", "missing"]):
            arguments = {"config": place(number), "channels": channels}
            fast = saver.get_delta_channel_history(**arguments)
            if saver.awaited:
                slow = saver.run(
                    BaseCheckpointSaver.aget_delta_channel_history(saver.saver, **arguments)
                )
            else:
                slow = BaseCheckpointSaver.get_delta_channel_history(saver.saver, **arguments)
            assert fast == slow


def test_the_official_savers_agree(saver: Any) -> None:
    """On the same tree, wherever they find the seed's own writes to replay."""
    memory = InMemorySaver()
    with official_saver() as official:
        for each in (saver, memory, official):
            grow(each, 7)
        for number in range(1, 40):
            ours = history(saver, number, "a", "b", "c")
            assert ours == history(memory, number, "a", "b", "c")
            assert ours == history(official, number, "a", "b", "c")


@pytest.mark.parametrize("channels", ["messages", None, 7, [1], [["a"]]])
def test_channels_that_are_no_names_are_refused(saver: Any, channels: Any) -> None:
    """A bare string's letters would be taken for channels."""
    step(saver, 1)
    if channels is None:
        assert saver.get_delta_channel_history(config=place(1), channels=channels) == {}
        return
    with pytest.raises(StorageError, match="channel"):
        saver.get_delta_channel_history(config=place(1), channels=channels)


def test_histories_can_be_asked_for_at_once(open_driver: Any, database_path: Any) -> None:
    """By tasks, as subgraphs do."""
    driver = open_driver("async", database_path)
    for number in grow(driver, 1):
        get(driver, number)
    expected = [history(driver, number, "a", "b") for number in range(1, 40)]

    async def all_at_once() -> list[Any]:
        ask = driver.saver.aget_delta_channel_history
        return await asyncio.gather(
            *(ask(config=place(n), channels=["a", "b"]) for n in range(1, 40))
        )

    assert driver.run(all_at_once()) == expected
