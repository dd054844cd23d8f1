"""History that costs what changed: values as differences, each of which comes back exactly."""

from __future__ import annotations

import operator
import os
import random
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.graph import START, StateGraph
from langgraph.graph.message import add_messages
from langgraph.types import Send
from typing_extensions import TypedDict

from langgraph_sqlite_saver import AsyncSqliteSaver, InvalidInputError, SqliteSaver
from langgraph_sqlite_saver.checkpoints.encoding import SMALL

from .helpers import (
    VERSIONS,
    bases,
    converse,
    everything,
    execute,
    expect,
    get,
    message,
    messages,
    place,
    prose,
    rows,
    save,
    unsound,
    values,
    version,
    write_as_it_is,
)
from .test_graphs import THREAD, Graph, delta, in_memory, shape

SETTINGS = ["compact", "full"]


@pytest.fixture(params=["sync", "async"])
def open_(request: Any, open_driver: Any, database_path: Path) -> Callable[..., Any]:
    """Opens savers of one class on the test's file: `open_(history="full")`."""
    return lambda **options: open_driver(request.param, database_path, **options)


def whole_ones(path: Path, thread: str = "t") -> int:
    """How many values of a conversation rest on nothing."""
    return list(bases(path, thread).values()).count(None)


# --- what it costs


@pytest.mark.parametrize("kind", VERSIONS)
def test_a_growing_list_costs_a_small_multiple_of_its_last_value(open_: Any, kind: str) -> None:
    """200 turns of a chat take about what its last state does, and each state reads back."""
    saver = open_()
    converse(saver, 200, kind=kind)
    stats = saver.stats()
    assert stats.blobs == 200
    assert stats.logical_blob_bytes > 200 * 600 * 100
    assert stats.blob_bytes < 5 * 200 * 600
    (thread,) = saver.threads()
    assert thread.bytes < stats.blob_bytes + 200 * 1000 < thread.logical_bytes
    for reader in (saver, open_()):
        expect(reader, 200)
    listed = open_().list(place())
    assert [each.checkpoint["channel_values"]["messages"] for each in listed] == [
        messages(turn) for turn in range(200, 0, -1)
    ]


def test_a_saver_that_has_just_opened_the_file_goes_on_as_cheaply(
    open_: Any, database_path: Path
) -> None:
    """It looks up what the first put of a thread may rest on, read or not."""
    converse(open_(), 40)
    before = whole_ones(database_path)
    for turn in range(41, 61):
        saver = open_()
        if turn % 2:
            get(saver)
        converse(saver, turn, start=turn)
    assert whole_ones(database_path) <= before + 1  # one is whole now and then
    expect(open_(), 60)


def test_a_channel_that_does_not_change_is_stored_once(open_: Any, database_path: Path) -> None:
    """Whatever the others do."""
    saver = open_()
    documents = prose(50_000)
    for turn in range(1, 30):
        versions = {"documents": version("str", 1), "messages": version("str", turn)}
        new = versions if turn == 1 else {"messages": versions["messages"]}
        given = {"documents": documents, "messages": messages(turn)}
        save(saver, turn, given, versions=versions, new=new, parent=turn - 1 or None)
    assert len(bases(database_path, channel="documents")) == 1
    assert values(open_(), 20) == {"documents": documents, "messages": messages(20)}


# --- every value comes back

_random = random.Random(0)
MEGABYTE = _random.randbytes(10**6)
LARGE = _random.randbytes(20 * 10**6)

SEQUENCES: dict[str, list[Any]] = {
    "incompressible": [_random.randbytes(size) for size in (10_000, 10_100, 300_000, 9_000)],
    "hardly anything": [b"", b"\0", "", b"", b"\xff", prose(9000), b"", prose(9001), b"\1", [], {}],
    "at the thresholds": [
        text[:size]
        for size in (SMALL - 1, SMALL, SMALL + 1, 999, 1000, 1001, 3999, 4000, 4001, 8 * SMALL)
        for text in (MEGABYTE, MEGABYTE[7:], prose(9 * SMALL).encode())
    ],
    "equal to its base": [prose(30_000)] * 6,
    "shrinks and grows back": [MEGABYTE, MEGABYTE[:2000], b"x", MEGABYTE[:2001], MEGABYTE + b"x"],
    "of changing type": [
        messages(40),
        prose(24_000).encode(),
        {"text": prose(24_000)},
        prose(24_000),
        None,
        bytearray(prose(24_000).encode()),
        set(messages(40)),
        7,
        {"a": messages(40)},
    ],
    "alternating and unrelated": [prose(20_000 + n, n % 2) for n in range(12)],
    "all different": [prose(20_000, n) for n in range(12)],
    "growing at the front": [prose(40_000)[-size:] for size in range(5_000, 40_000, 2_500)],
    "20 MB": [LARGE, b"new" + LARGE + b"and newer", b"newer" + LARGE],
}


@pytest.mark.parametrize(
    ("sequence", "history"),
    [(name, each) for name in SEQUENCES for each in SETTINGS if (name, each) != ("20 MB", "full")],
)
def test_every_value_of_a_channel_comes_back(open_: Any, sequence: str, history: Any) -> None:
    """Whatever came before it: to the saver that stored it, to another one, and in a list."""
    given = SEQUENCES[sequence]
    kinds = VERSIONS if len(given[0]) < 10**6 else VERSIONS[:1]
    saver = open_(history=history)
    for kind in kinds:
        for number, value in enumerate(given):
            versions = {"c": version(kind, number)}
            save(saver, number, {"c": value}, versions=versions, parent=number or None, thread=kind)
            saver.put_writes(place(number, kind), [("w", value), ("w", [value])], "task")
    for reader in (saver, open_()):
        for kind in kinds:
            for number in reversed(range(len(given))):
                found = get(reader, number, kind)
                assert found.checkpoint["channel_values"] == {"c": given[number]}
                writes = [value for _, _, value in found.pending_writes]
                assert writes == [given[number], [given[number]]]
            listed = [
                each.checkpoint["channel_values"]["c"] for each in reader.list(place(0, kind))
            ]
            assert listed == given[:1]
    listed = [
        each.checkpoint["channel_values"]["c"] for each in open_().list(place(None, kinds[0]))
    ]
    assert listed == given[::-1]


@pytest.mark.parametrize(("sequence", "most"), [("equal to its base", 50), ("20 MB", 5000)])
def test_a_value_that_is_nearly_its_base_costs_nearly_nothing(
    open_: Any, database_path: Path, sequence: str, most: int
) -> None:
    """Also where what is new comes first, and where the values are large."""
    saver = open_()
    for number, value in enumerate(SEQUENCES[sequence]):
        save(saver, number, {"c": value}, versions={"c": version("str", number)})
    sizes = rows(database_path, "SELECT length(blob) FROM checkpoint_blobs ORDER BY version")
    assert max(size for (size,) in sizes[1:]) < most < sizes[0][0]


def test_values_that_have_nothing_in_common_cost_no_more_than_whole_ones(
    open_: Any, database_path: Path
) -> None:
    """They rest on nothing, as a base would make them no smaller."""
    saver = open_()
    for number in range(8):
        save(saver, number, {"c": os.urandom(20_000)}, versions={"c": version("str", number)})
    assert set(bases(database_path, channel="c").values()) == {None}
    assert saver.stats().blob_bytes == saver.stats().logical_blob_bytes


# --- the setting


def test_full_history_stores_every_value_whole(open_: Any, database_path: Path) -> None:
    """As the serialiser made it, values and pending writes."""
    saver = open_(history="full")
    converse(saver, 12)
    saver.put_writes(place(12), [("messages", messages(12)), ("small", 1)], "task")
    serde = JsonPlusSerializer()
    stored = "SELECT type, blob FROM checkpoint_{} ORDER BY {}"
    assert rows(database_path, stored.format("blobs", "version")) == [
        serde.dumps_typed(messages(turn)) for turn in range(1, 13)
    ]
    assert rows(database_path, stored.format("writes", "idx")) == [
        serde.dumps_typed(value) for value in (messages(12), 1)
    ]
    stats = saver.stats()
    assert stats.logical_blob_bytes == stats.blob_bytes
    assert stats.logical_write_bytes == stats.write_bytes


def test_either_setting_reads_and_goes_on_with_what_the_other_wrote(
    open_: Any, database_path: Path
) -> None:
    """The setting may change in the middle of a thread, to and fro."""
    savers = {history: open_(history=history) for history in SETTINGS}
    for start in range(1, 61, 5):
        history = SETTINGS[start // 5 % 2]
        converse(savers[history], start + 4, start=start)
        get(savers["compact"])
    for history in SETTINGS:
        expect(savers[history], 60)
        expect(open_(history=history), 60)
    found = bases(database_path)
    assert [found[version("str", turn)] for turn in range(6, 11)] == [None] * 5
    assert None not in [found[version("str", turn)] for turn in range(11, 16)]
    assert unsound(database_path) == []


@pytest.mark.parametrize("kind", [SqliteSaver, AsyncSqliteSaver])
@pytest.mark.parametrize("history", ["other", "", "COMPACT", None, True])
def test_other_settings_are_refused(database_path: Path, kind: Any, history: Any) -> None:
    """When the saver is made; no file appears."""
    with pytest.raises(InvalidInputError, match="'compact' or 'full'"):
        kind(database_path, history=history)
    assert not database_path.exists()


# --- files of the release before


@pytest.mark.parametrize("history", SETTINGS)
def test_values_that_lie_as_they_are_stay_so(open_: Any, database_path: Path, history: Any) -> None:
    """They stay as they are, byte for byte, and are read; new values are differences."""
    write_as_it_is(database_path, 20)
    queries = [
        "SELECT thread_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id, type, checkpoint, "
        "metadata, run_id, blob_versions FROM checkpoints WHERE checkpoint_id <= '000020'",
        "SELECT thread_id, checkpoint_ns, channel, version, type, blob FROM checkpoint_blobs "
        f"WHERE version < '{version('str', 21)}'",
        "SELECT thread_id, checkpoint_ns, checkpoint_id, task_id, task_path, idx, channel, type, "
        "blob FROM checkpoint_writes",
    ]
    before = [rows(database_path, query) for query in queries]
    assert [len(each) for each in before] == [20, 20, 1]
    saver = open_(history=history)
    expect(saver, 20)
    converse(saver, 40, start=21)
    assert [rows(database_path, query) for query in queries] == before
    for reader in (saver, open_()):
        expect(reader, 40)
        assert get(reader, 20).pending_writes == [("task", "messages", messages(20))]
    assert whole_ones(database_path) == (21 if history == "compact" else 40)
    assert saver.check() == []


# --- never a wrong base


@pytest.mark.parametrize("kind", VERSIONS)
def test_savers_that_write_a_thread_by_turns_rest_on_each_others_values(
    open_: Any, database_path: Path, kind: str
) -> None:
    """What one remembers of the thread is not the newest any more, but still true."""
    savers = [open_(), open_(), open_(history="full")]
    for turn in range(1, 40):
        converse(savers[turn * turn % 3], turn, start=turn, kind=kind)
    for reader in (*savers, open_()):
        expect(reader, 39)
    assert unsound(database_path) == []


def test_a_process_may_write_the_thread_in_between(open_: Any, database_path: Path) -> None:
    """Both read everything afterwards."""
    saver = open_()
    converse(saver, 5, kind="int")
    script = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parents[2])!r})
from langgraph_sqlite_saver import SqliteSaver
from tests.savers.helpers import converse, expect
with SqliteSaver({str(database_path)!r}) as saver:
    converse(saver, 10, start=6, kind="int")
    expect(saver, 10)
    saver.prune(["t"], keep_last=4)
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)
    converse(saver, 15, start=11, kind="int")
    for reader in (saver, open_()):
        expect(reader, 15, start=7)
    assert unsound(database_path) == []


@pytest.mark.parametrize("kind", VERSIONS)
@pytest.mark.parametrize("again", [0, 3, 5, 9])
def test_a_thread_that_was_deleted_and_begun_again_has_its_own_values(
    open_: Any, database_path: Path, kind: str, again: int
) -> None:
    """Under the same versions, while a saver still has the former ones at hand."""
    saver, other = open_(), open_()
    converse(saver, 5, kind=kind)
    other.delete_thread("t")
    converse(other, again, kind=kind, topic="again")
    saver.put_writes(place(5), [("w", messages(5)), ("w", messages(5, "again"))], "task")
    if again:
        expect(saver, again, topic="again")
    converse(saver, again + 4, start=again + 1, kind=kind, topic="again")
    for reader in (saver, other, open_()):
        expect(reader, again + 4, topic="again")
        (first, second) = get(reader, 5).pending_writes if again + 4 >= 5 else (None, None)
        if first:
            assert (first[2], second[2]) == (messages(5), messages(5, "again"))
    assert [each for each in unsound(database_path) if "missing" in each or "cyclic" in each] == []


def test_a_pending_write_does_not_rest_on_what_has_another_value_now(open_: Any) -> None:
    """The thread was deleted and begun again behind the saver's back."""
    saver, other = open_(), open_()
    converse(saver, 5, kind="int")
    other.delete_thread("t")
    converse(other, 5, kind="int", topic="again")
    saver.put_writes(place(5), [("w", messages(5))], "task")
    for reader in (saver, open_()):
        assert get(reader).pending_writes == [("task", "w", messages(5))]


@pytest.mark.parametrize("kind", VERSIONS)
def test_the_branches_of_a_fork_keep_their_own_values(
    open_: Any, database_path: Path, kind: str
) -> None:
    """Also where both count their versions on from the same number."""
    saver = open_()
    converse(saver, 10, kind=kind)
    expected: dict[int, list[str]] = {turn: messages(turn) for turn in range(1, 11)}
    number = 10
    for fork_of in (5, 2, 9, 11):
        parent = fork_of
        for step in range(1, 5):
            number += 1
            expected[number] = [*expected[parent], message(step, fork_of)]
            made: Any = version(kind, len(expected[number]))
            if kind == "str":  # the saver's own have a random part
                made = f"{made[:-3]}{number:03}"
            given = {"messages": expected[number]}
            save(saver, number, given, versions={"messages": made}, parent=parent)
            parent = number
    for reader in (saver, open_()):
        assert {n: values(reader, n)["messages"] for n in expected} == expected
    assert None in bases(database_path).values() != {None}
    assert unsound(database_path) == []


def test_a_base_that_was_pruned_in_between_is_not_missed(open_: Any, database_path: Path) -> None:
    """The next value then stands alone, and those after it rest on it."""
    saver, other = open_(), open_()
    converse(saver, 9)
    with closing(sqlite3.connect(database_path)) as conn, conn:  # not even the newest is left
        conn.execute("DELETE FROM checkpoint_blobs")
    converse(saver, 20, start=10)
    assert whole_ones(database_path) == 1
    other.prune(["t"], keep_last=1)
    converse(saver, 30, start=21)
    for reader in (saver, other, open_()):
        expect(reader, 30, start=20)
    assert unsound(database_path) == []


# --- copies


@pytest.mark.parametrize("kind", VERSIONS)
@pytest.mark.parametrize("target", ["new", "with the same start", "with other values"])
def test_a_copy_reads_as_its_source_and_goes_on_without_it(
    open_: Any, database_path: Path, kind: str, target: str
) -> None:
    """It adds what is missing in the target, whose own values stay what they are."""
    saver = open_()
    converse(saver, 20, kind=kind)
    saver.put_writes(place(20), [("w", messages(20)), ("w", [messages(19)])], "task")
    kept = {}
    if target == "with the same start":
        saver.copy_thread("t", "copy")
        saver.prune(["copy"])
        converse(saver, 25, start=21, kind=kind)
    elif target == "with other values":
        converse(saver, 7, kind=kind, topic="other", thread="copy")
        kept = {turn: messages(turn, "other") for turn in range(1, 8)}
    last = 25 if target == "with the same start" else 20
    before = {turn: values(saver, turn) for turn in range(1, last + 1)}
    saver.copy_thread("t", "copy")
    for turn, expected in before.items():
        wanted = {"messages": kept[turn]} if turn in kept else expected
        assert values(open_(), turn, "copy") == values(saver, turn, "copy") == wanted
        assert values(saver, turn) == expected
    assert unsound(database_path) == []
    saver.delete_thread("t")
    converse(saver, 30, start=last + 1, kind=kind, thread="copy")
    for reader in (saver, open_()):
        expect(reader, 30, start=len(kept) + 1, thread="copy")
        writes = [value for _, _, value in get(reader, 20, "copy").pending_writes]
        assert writes == [messages(20), [messages(19)]]
    assert unsound(database_path) == []
    assert saver.check() == []


def test_a_copy_onto_a_new_thread_costs_what_the_source_does(open_: Any) -> None:
    """Differences are copied as they are."""
    saver = open_()
    converse(saver, 30)
    before = saver.stats().blob_bytes
    saver.copy_thread("t", "copy")
    assert saver.stats().blob_bytes == 2 * before


# --- deleting

DELETIONS: dict[str, Callable[[Any], Any]] = {
    "prune": lambda saver: saver.prune(["t"]),
    "prune, keep 3": lambda saver: saver.prune(["t"], keep_last=3),
    "prune, keep 20": lambda saver: saver.prune(["t", "u"], keep_last=20),
    "delete odd runs": lambda saver: saver.delete_for_runs(["run1"]),
    "delete even runs": lambda saver: saver.delete_for_runs(["run0"]),
    "delete_thread": lambda saver: saver.delete_thread("t"),
    "expire": lambda saver: saver.expire(timedelta(0)),
    "copy and prune": lambda saver: (saver.copy_thread("t", "u"), saver.prune(["t", "u"])),
}


@pytest.mark.parametrize(("kind", "by_another"), [("str", False), ("int", True)])
@pytest.mark.parametrize("deletion", DELETIONS)
def test_what_remains_reads_as_before_and_rests_on_nothing_that_went(
    open_: Any, database_path: Path, deletion: str, by_another: bool, kind: str
) -> None:
    """Values and pending writes of every remaining checkpoint; no orphan is left."""
    saver = open_()
    for thread, ns in (("t", ""), ("t", "child"), ("u", "")):
        for turn in range(1, 25):
            metadata = {"run_id": f"run{turn % 2}"}
            where: Any = {"thread": thread, "ns": ns}
            converse(saver, turn, start=turn, kind=kind, topic=thread, metadata=metadata, **where)
            carried = [("w", {"all": messages(turn, thread)}), ("w", messages(turn // 2, thread))]
            saver.put_writes(place(turn, thread, ns), carried, "task")
    before = everything(saver)
    DELETIONS[deletion](open_() if by_another else saver)
    for reader in (saver, open_()):
        after = everything(reader)
        common = after.keys() & before.keys()
        assert 0 < len(common) < len(before) or deletion == "expire"
        assert {key: after[key] for key in common} == {key: before[key] for key in common}
    assert unsound(database_path) == []
    assert saver.check() == []
    converse(saver, 30, start=25, kind=kind, topic="t")
    expect(open_(), 30, start=25, topic="t")


def test_a_replaced_checkpoint_takes_no_value_with_it_that_others_rest_on(
    open_: Any, database_path: Path
) -> None:
    """One that is put again under its id, with other values, frees those it had."""
    saver = open_()
    converse(saver, 12)
    for turn in (1, 3, 5, 9):
        save(saver, turn, {"messages": ["replaced"]}, versions={"messages": f"new{turn}"})
    for reader in (saver, open_()):
        for turn in range(1, 13):
            replaced = turn in (1, 3, 5, 9)
            assert values(reader, turn)["messages"] == (
                ["replaced"] if replaced else messages(turn)
            )
    assert version("str", 1) not in bases(database_path)
    assert unsound(database_path) == []


# --- pending writes


def send(state: list[str], number: int = 0) -> Send:
    return Send("tools", {"messages": state, "number": number})


@pytest.mark.parametrize("fresh", [False, True])
def test_a_send_that_carries_the_state_costs_next_to_nothing(open_: Any, fresh: bool) -> None:
    """Several of them too, by a saver that wrote the state or has just read it."""
    saver = open_()
    converse(saver, 170)
    if fresh:
        saver = open_()
        get(saver)
    sends = [("__pregel_tasks", send(messages(170), number)) for number in range(5)]
    saver.put_writes(place(170), sends, "task")
    stats = saver.stats()
    assert stats.logical_write_bytes > 5 * 100_000
    assert stats.write_bytes < 2000
    for reader in (saver, open_()):
        assert get(reader).pending_writes == [("task", *each) for each in sends]


def test_a_write_rests_on_several_channels_at_once(open_: Any, database_path: Path) -> None:
    """A Send of a whole state with two large values repeats both."""
    saver = open_()
    state = {"messages": messages(50), "documents": [prose(30_000, n) for n in range(3)]}
    save(saver, 1, state)
    saver.put_writes(place(1), [("__pregel_tasks", Send("tools", state))], "task")
    assert saver.stats().write_bytes < 1000
    assert get(open_()).pending_writes == [("task", "__pregel_tasks", Send("tools", state))]
    for number, channel in enumerate(("messages", "documents"), 2):
        save(saver, number, {channel: LARGE[:10_000]}, parent=1)
        saver.delete_for_runs(["none"])
    assert unsound(database_path) == []


@pytest.mark.parametrize("kind", VERSIONS)
def test_writes_before_their_checkpoint_are_kept_through_its_put_and_a_prune(
    open_: Any, database_path: Path, kind: str
) -> None:
    """They rest on the checkpoint before, which goes."""
    saver = open_()
    for turn in range(1, 20):
        saver.put_writes(place(turn), [("w", messages(turn)), ("w", [turn])], "task")
        converse(saver, turn, start=turn, kind=kind)
    open_().prune(["t"])
    saver.prune(["t"])
    for reader in (saver, open_()):
        assert get(reader).pending_writes == [
            ("task", "w", messages(19)),
            ("task", "w", [19]),
        ]
    assert unsound(database_path) == []


@pytest.mark.parametrize("channel", ["__error__", "__interrupt__", "__resume__"])
def test_a_write_that_takes_anothers_place_may_rest_on_the_state_or_not(
    open_: Any, channel: str
) -> None:
    """The last one is read, whatever the one before rested on."""
    saver = open_()
    converse(saver, 30)
    for value in (messages(30), ["small"], [messages(30), 1], prose(50_000, "other"), messages(29)):
        saver.put_writes(place(30), [(channel, value)], "task")
        assert get(open_()).pending_writes == [("task", channel, value)]
    assert saver.stats().writes == 1


def test_an_ordinary_write_keeps_the_first_of_an_index(open_: Any) -> None:
    """Also where the second would rest on something else."""
    saver = open_()
    converse(saver, 30)
    for value in (messages(30), [messages(29)]):
        saver.put_writes(place(30), [("w", value)], "task")
        converse(saver, 31, start=31)
    assert get(open_(), 30).pending_writes == [("task", "w", messages(30))]


def test_a_state_that_moves_on_while_writes_are_serialised_harms_none_of_them(
    database_path: Path,
) -> None:
    """Another task's put, and a prune, in the middle of a put_writes."""

    class Interrupted(JsonPlusSerializer):
        def dumps_typed(self, obj: Any) -> Any:
            if obj == "meanwhile":
                converse(saver, 31, start=31)
                with SqliteSaver(database_path) as other:
                    other.prune(["t"])
            return super().dumps_typed(obj)

    with SqliteSaver(database_path, serde=Interrupted()) as saver:
        converse(saver, 30)
        written = [("w", messages(30)), ("w", "meanwhile"), ("w", messages(31))]
        saver.put_writes(place(31), written, "task")
        assert get(saver).pending_writes == [("task", *each) for each in written]


# --- graphs


@pytest.fixture(params=SETTINGS)
def graph_of(request: Any, open_: Any, database_path: Path) -> Iterator[Any]:
    """Compiles a graph on a saver with either setting; what it leaves in the file is sound."""

    def compile_(build: Callable[..., Any], **options: Any) -> Graph:
        driver = open_(history=request.param, **options)
        return Graph(build, driver.saver, driver.run if driver.awaited else None)

    yield compile_
    assert unsound(database_path) == []
    assert open_().check() == []


class Chat(TypedDict):
    messages: Annotated[list[Any], add_messages]


def chat(saver: Any) -> Any:
    """Answers each message with one of its own, of 500 characters."""

    def answer(state: Chat) -> Any:
        number = len(state["messages"])
        return {"messages": [AIMessage(prose(500, number), id=f"answer{number}")]}

    builder = StateGraph(Chat)
    builder.add_node("answer", answer)
    builder.add_edge(START, "answer")
    return builder.compile(checkpointer=saver)


def turn_of(number: int) -> Any:
    return {"messages": [HumanMessage(prose(200, -number), id=f"question{number}")]}


def test_a_chat_has_the_history_that_the_in_memory_saver_has(graph_of: Any) -> None:
    """30 turns, state by state; also read by another saver, which then goes on."""
    graph, model = graph_of(chat), in_memory(chat)
    for number in range(30):
        assert graph.invoke(turn_of(number), THREAD) == model.invoke(turn_of(number), THREAD)
    other = graph_of(chat)
    assert other.invoke(turn_of(30), THREAD) == model.invoke(turn_of(30), THREAD)
    expected = [shape(each) for each in model.history()]
    assert len(expected) == 93
    for each in (graph, other, graph_of(chat)):
        assert [shape(state) for state in each.history()] == expected


def test_a_fork_of_a_chat_has_the_states_of_its_own_branch(graph_of: Any) -> None:
    """By update_state on an older checkpoint; the other branch keeps its own."""
    histories = []
    for graph in (graph_of(chat), in_memory(chat)):
        for number in range(8):
            graph.invoke(turn_of(number), THREAD)
        old = graph.history()[7].config
        forked = graph.update_state(old, {"messages": [HumanMessage(prose(400), id="forked")]})
        graph.invoke(turn_of(100), forked)
        for number in range(9, 12):
            graph.invoke(turn_of(number), THREAD)
        histories.append([shape(each) for each in graph.history()])
    assert histories[0] == histories[1]


class Tools(TypedDict):
    messages: Annotated[list[Any], operator.add]


def tools(saver: Any) -> Any:
    """Sends its whole state to five tools in parallel, twice."""

    def spread(state: Tools) -> Any:
        if len(state["messages"]) > 60:
            return []
        return [Send("tool", {**state, "number": number}) for number in range(5)]

    builder = StateGraph(Tools)
    builder.add_node("model", lambda state: {"messages": [prose(600, len(state["messages"]))]})
    builder.add_node("tool", lambda state: {"messages": [prose(600, state["number"])]})
    builder.add_edge(START, "model")
    builder.add_conditional_edges("model", spread, ["tool"])
    builder.add_edge("tool", "model")
    return builder.compile(checkpointer=saver)


def test_a_graph_that_sends_its_state_has_the_history_of_the_in_memory_saver(
    graph_of: Any,
) -> None:
    """Values, next and tasks of every step."""
    histories = []
    for graph in (graph_of(tools), in_memory(tools)):
        graph.invoke({"messages": messages(50)}, THREAD)
        histories.append([shape(each) for each in graph.history()])
    assert histories[0] == histories[1]


def test_a_delta_channel_is_rebuilt_on_every_branch(graph_of: Any, open_: Any) -> None:
    """From snapshots and writes that are differences, or whole; after a fork, and a prune."""
    histories = []
    for graph in (graph_of(delta), in_memory(delta)):
        graph.invoke({"log": messages(30), "n": 10}, THREAD)
        old = graph.history()[6].config
        forked = graph.update_state(old, {"log": messages(33), "n": 4})
        graph.invoke(None, forked)
        graph.invoke({"log": [prose(5000)], "n": 3}, THREAD)
        histories.append([shape(each) for each in graph.history()])
    assert histories[0] == histories[1]
    other = graph_of(delta)
    assert [shape(each) for each in other.history()] == histories[0]
    open_().prune(["t"])
    assert shape(other.history()[0])["values"] == histories[0][0]["values"]


def test_an_emptied_blob_is_no_base(open_: Any, database_path: Path) -> None:
    """A version without a value, as PostgresSaver's files have it, may come between two."""
    saver = open_()
    converse(saver, 3)
    execute(
        database_path,
        "INSERT INTO checkpoint_blobs (thread_id, channel, version, type) "
        "VALUES ('t', 'messages', ?, 'empty')",
        version("str", 4),
    )
    other = open_()
    save(other, 4, {}, versions={"messages": version("str", 4)}, parent=3)
    assert values(other, 4) == {}
    for writer in (other, saver):
        turn = 5 if writer is other else 6
        converse(writer, turn, start=turn)
    expect(open_(), 6, start=5)
