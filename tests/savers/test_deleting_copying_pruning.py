"""Deleting threads and runs, copying, pruning, expiring: what goes, and what stays."""

from __future__ import annotations

import threading
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from langgraph.checkpoint.serde.types import TASKS, _DeltaSnapshot

from langgraph_sqlite_saver import InvalidInputError, InvalidTypeError, SerializationError

from .helpers import (
    LIST,
    chain,
    count,
    dump,
    execute,
    get,
    id_of,
    numbers,
    orphans,
    parent,
    place,
    rows,
    save,
    values,
)

TABLES = ("checkpoints", "checkpoint_blobs", "checkpoint_writes")


@pytest.fixture(autouse=True)
def no_orphans(request: pytest.FixtureRequest, database_path: Path) -> Any:
    """After every test here, no blob and no write is left without its checkpoint."""
    yield
    if database_path.exists():
        assert orphans(database_path) == []


# --- delete_thread


def test_deleting_a_thread_clears_every_namespace(every_saver: Any, database_path: Path) -> None:
    """Checkpoints, blobs and writes; other threads stay."""
    for thread in ("t", "u"):
        for ns in ("", "child"):
            chain(every_saver, 3, thread=thread, ns=ns)
            every_saver.put_writes(place(3, thread, ns), [("c", LIST)], "task")
    every_saver.put_writes(place(9), [("c", 1)], "waits for its checkpoint")
    every_saver.delete_thread("t")
    for table in TABLES:
        assert {t for (t,) in rows(database_path, f"SELECT thread_id FROM {table}")} == {"u"}
    assert get(every_saver) is None
    assert len(every_saver.list(place(thread="u", ns=None))) == 6


def test_deleting_a_missing_thread_is_no_error(saver: Any) -> None:
    """Nor a second time."""
    chain(saver, 1)
    for _ in range(2):
        saver.delete_thread("missing")
    assert numbers(saver.list(None)) == [1]


def test_a_deleted_thread_can_begin_anew(saver: Any) -> None:
    """With the same ids and versions and other values."""
    chain(saver, 2)
    saver.delete_thread("t")
    save(saver, 2, {"list": ["new"]})
    assert values(saver) == {"list": ["new"]}
    assert numbers(saver.list(None)) == [2]


# --- delete_for_runs


def run(saver: Any, number: int, run_id: Any, **where: Any) -> None:
    where = {"parent": number - 1 if number > 1 else None, **where}
    save(saver, number, {"a": [number]}, metadata={"run_id": run_id}, **where)
    place_ = {key: where[key] for key in ("thread", "ns") if key in where}
    saver.put_writes(place(number, **place_), [("c", number)], "task")


def test_runs_are_deleted_across_threads_and_namespaces(every_saver: Any) -> None:
    """By the metadata's run_id, with their writes and blobs."""
    for thread in ("t", "u"):
        for ns in ("", "child"):
            for number in (1, 2):
                run(every_saver, number, f"r{number}", thread=thread, ns=ns)
    run(every_saver, 1, "r3", thread="v")
    every_saver.delete_for_runs(["r2", "r3", "missing"])
    assert numbers(every_saver.list(None)) == [1] * 4
    assert {each.metadata["run_id"] for each in every_saver.list(None)} == {"r1"}


def test_orphaned_children_get_the_nearest_ancestor_left(saver: Any) -> None:
    """Chains of deleted parents are skipped; without one left, there is no parent."""
    for number, run_id in enumerate(["a", "b", "b", "c", "b", "c"], start=1):
        run(saver, number, run_id)
    saver.delete_for_runs(["b"])
    assert numbers(saver.list(place())) == [6, 4, 1]
    assert [parent(saver, n) for n in (6, 4, 1)] == [4, 1, None]
    saver.delete_for_runs(["a"])
    assert [parent(saver, n) for n in (6, 4)] == [4, None]
    assert values(saver, 6) == {"a": [6]}


def test_a_blob_that_a_remaining_checkpoint_uses_stays(saver: Any) -> None:
    """Though the run that is deleted stored it."""
    save(saver, 1, {"a": LIST}, metadata={"run_id": "r1"})
    save(saver, 2, {"a": LIST}, versions={"a": 1}, new={}, parent=1, metadata={"run_id": "r2"})
    saver.delete_for_runs(["r1"])
    assert values(saver, 2) == {"a": LIST}


def test_the_run_id_may_come_from_the_config_and_be_an_int(saver: Any) -> None:
    """As LangGraph puts it there: in the config's metadata."""
    config = place()
    config["metadata"] = {"run_id": "from-config"}
    save(saver, 2)
    saver.put(config, get(saver, 2).checkpoint, {}, {})
    save(saver, 3, metadata={"run_id": 7})
    saver.delete_for_runs(["from-config", 7])
    assert numbers(saver.list(None)) == []


def test_a_loop_of_parents_ends(saver: Any) -> None:
    """Ids saved again under their own descendants make loops; deleting gets through them."""
    for number, of in ((1, None), (2, 1), (3, 2)):
        run(saver, number, f"r{number}", parent=of)
    run(saver, 1, "r1", parent=2)
    saver.delete_for_runs(["r1", "r2"])
    assert parent(saver, 3) is None
    save(saver, 3, {"a": [3]}, parent=3)
    saver.prune(["t"])
    assert saver.get_delta_channel_history(config=place(3), channels=["x"]) == {"x": {"writes": []}}


# --- copy_thread


def test_a_copy_has_everything_under_the_same_ids(every_saver: Any) -> None:
    """Checkpoints, parents, values, metadata, writes, of every namespace; the source stays."""
    for ns in ("", "child"):
        chain(every_saver, 3, ns=ns)
        every_saver.put_writes(place(3, ns=ns), [("c", LIST)], "task", "path")
    before = dump(every_saver)
    every_saver.copy_thread("t", "u")
    copied = [each for each in dump(every_saver) if each not in before]
    renamed = repr(copied).replace("'thread_id': 'u'", "'thread_id': 't'")
    assert renamed == repr(before)
    assert len(dump(every_saver)) == 2 * len(before)


def test_a_copy_lives_its_own_life(saver: Any) -> None:
    """What happens to one does not show in the other."""
    chain(saver, 3)
    saver.copy_thread("t", "u")
    save(saver, 4, {"list": ["copy"]}, thread="u", parent=3)
    save(saver, 4, {"list": ["source"]}, parent=3)
    saver.prune(["t"])
    assert values(saver, 3, "u") == {"list": [3]}
    saver.delete_thread("t")
    assert values(saver, thread="u") == {"list": ["copy"]}


def test_the_metadatas_thread_id_becomes_the_targets(saver: Any) -> None:
    """LangGraph's server keeps one there, and reads by it."""
    save(saver, 1, metadata={"thread_id": "t", "step": 1})
    save(saver, 2, metadata={"step": 2})
    saver.copy_thread("t", "u")
    assert get(saver, 1, "u").metadata == {"thread_id": "u", "step": 1}
    assert get(saver, 2, "u").metadata == {"step": 2}
    assert get(saver, 1).metadata["thread_id"] == "t"
    assert numbers(saver.list(None, filter={"thread_id": "u"})) == [1]


def test_a_copys_runs_can_be_deleted(saver: Any) -> None:
    """It keeps the run ids."""
    run(saver, 1, "r1")
    saver.copy_thread("t", "u")
    saver.delete_for_runs(["r1"])
    assert saver.list(None) == []


def test_copying_a_missing_thread_or_onto_itself_changes_nothing(saver: Any) -> None:
    """No error either."""
    chain(saver, 2)
    before = dump(saver)
    saver.copy_thread("missing", "u")
    saver.copy_thread("missing", "t")
    saver.copy_thread("t", "t")
    assert dump(saver) == before


def test_copying_onto_an_existing_thread_adds_what_is_missing(saver: Any) -> None:
    """What the target has stays; both sides' values are right, though versions clash."""
    for number in (1, 2, 3):
        save(saver, number, {"a": ["source", number]}, versions={"a": 1 + number % 2})
        saver.put_writes(place(number), [("c", "source")], "task")
    for number in (2, 4):
        save(saver, number, {"a": ["target", number]}, versions={"a": 1}, thread="u")
        saver.put_writes(place(number, "u"), [("c", "target")], "task")
    saver.copy_thread("t", "u")
    assert [values(saver, n, "u")["a"] for n in (1, 2, 3, 4)] == [
        ["source", 1],
        ["target", 2],
        ["source", 3],
        ["target", 4],
    ]
    assert get(saver, 2, "u").pending_writes == [("task", "c", "target")]
    assert get(saver, 3, "u").pending_writes == [("task", "c", "source")]
    once = dump(saver)
    saver.copy_thread("t", "u")
    assert dump(saver) == once


@pytest.mark.parametrize(
    "damage",
    [
        "task_id = x'00'",
        "task_id = CAST(x'ff' AS TEXT)",
        "task_id = 'other', channel = x'05'",
        "task_id = 'other', type = 5",
        "task_id = 'other', blob = x'c1'",
        "task_id = 'other', size = 1",
    ],
)
def test_a_damaged_write_is_not_added_to_a_checkpoint_that_can_be_read(
    saver: Any, database_path: Path, damage: str
) -> None:
    """It stays where it is; to a checkpoint that is copied it belongs."""
    chain(saver, 2)
    saver.copy_thread("t", "u")
    for number in (1, 2):
        saver.put_writes(place(number), [("w", LIST)], "task")
    saver.prune(["u"])
    saver.put_writes(place(2, "u"), [("w", LIST)], "task")
    saver.put_writes(place(2), [("w", "sound")], "one more")
    damaged = f"UPDATE checkpoint_writes SET {damage} WHERE thread_id = 't' AND task_id = 'task'"
    execute(database_path, damaged)
    saver.copy_thread("t", "u")
    assert get(saver, 2, "u").pending_writes == [("one more", "w", "sound"), ("task", "w", LIST)]
    with pytest.raises(SerializationError):
        get(saver, 1, "u")
    with pytest.raises(SerializationError):
        get(saver, 2)


def test_copying_there_and_back_changes_nothing(saver: Any) -> None:
    """Everything is there already."""
    chain(saver, 3)
    saver.copy_thread("t", "u")
    before = dump(saver)
    saver.copy_thread("u", "t")
    assert dump(saver) == before


def test_copied_blobs_of_checkpoints_that_stay_out_do_not_come_along(
    saver: Any, database_path: Path
) -> None:
    """An id that the target has keeps the target's values, and only those."""
    save(saver, 1, {"a": ["source"]}, versions={"a": 5})
    save(saver, 1, {"a": ["target"]}, versions={"a": 6}, thread="u")
    saver.copy_thread("t", "u")
    assert values(saver, 1, "u") == {"a": ["target"]}
    assert count(database_path, "checkpoint_blobs") == 2


def test_a_snapshot_stays_one_in_a_copy(saver: Any) -> None:
    """Delta channels are rebuilt there from the same value and writes, clash or not."""
    save(saver, 1, {"d": _DeltaSnapshot([1])})
    saver.put_writes(place(1), [("d", 2)], "task")
    save(saver, 2, {}, versions={"d": 2}, parent=1)
    save(saver, 9, {"d": ["in the way"]}, versions={"d": 1}, thread="u")
    expected = saver.get_delta_channel_history(config=place(2), channels=["d"])
    for target in ("u", "v"):
        saver.copy_thread("t", target)
        found = saver.get_delta_channel_history(config=place(2, target), channels=["d"])
        assert found == expected
        assert found["d"]["seed"] == _DeltaSnapshot([1])


# --- prune


def test_keep_latest_keeps_each_namespaces_head(every_saver: Any) -> None:
    """With its pending writes and values, and no parent; other threads are left alone."""
    for thread in ("t", "u"):
        for ns in ("", "child"):
            chain(every_saver, 4, thread=thread, ns=ns)
            for number in (3, 4):
                every_saver.put_writes(place(number, thread, ns), [("c", number)], "task")
    every_saver.prune(["t"])
    for ns in ("", "child"):
        assert numbers(every_saver.list(place(ns=ns))) == [4]
        assert get(every_saver, ns=ns).pending_writes == [("task", "c", 4)]
        assert values(every_saver, ns=ns) == {"list": [4]}
        assert parent(every_saver, 4, ns=ns) is None
    assert len(every_saver.list(place(thread="u", ns=None))) == 8


def test_a_value_from_an_old_checkpoint_stays(saver: Any, database_path: Path) -> None:
    """The head's unchanged channels live on; blobs that only others used go."""
    save(saver, 1, {"old": LIST})
    for number in range(2, 6):
        versions = {"old": 1, "list": number}
        save(saver, number, {"old": LIST, "list": [number]}, versions=versions, parent=number - 1,
             new={"list": number})  # fmt: skip
    saver.prune(["t"])
    assert values(saver) == {"old": LIST, "list": [5]}
    assert count(database_path, "checkpoint_blobs") == 2


@pytest.mark.parametrize(
    ("keep", "left"), [(1, [5]), (2, [5, 4]), (4, [5, 4, 3, 2]), (9, None), (10**20, None)]
)
def test_keep_last_keeps_that_many_of_each_namespace(saver: Any, keep: int, left: Any) -> None:
    """Those kept keep their parents among them."""
    for ns in ("", "child"):
        chain(saver, 5, ns=ns)
    saver.prune(["t"], keep_last=keep)
    left = left or [5, 4, 3, 2, 1]
    for ns in ("", "child"):
        assert numbers(saver.list(place(ns=ns))) == left
        assert parent(saver, left[-1], ns=ns) is None
        assert all(parent(saver, n, ns=ns) == n - 1 for n in left[:-1])


def test_delete_keeps_nothing(saver: Any) -> None:
    """Of the threads that are named; missing ones are no error."""
    for thread in ("t", "u", "v"):
        chain(saver, 2, thread=thread)
    saver.prune(["t", "missing", "u"], strategy="delete")
    saver.prune([], strategy="delete")
    assert {each.config["configurable"]["thread_id"] for each in saver.list(None)} == {"v"}


def test_writes_that_wait_for_their_checkpoint_outlive_pruning(
    saver: Any, database_path: Path
) -> None:
    """A run saves them in the background, where they can come first."""
    chain(saver, 3)
    saver.put_writes(place(4), [("c", 1)], "task")
    saver.prune(["t"])
    save(saver, 4, parent=3)
    assert get(saver, 4).pending_writes == [("task", "c", 1)]


def test_a_finished_subgraph_call_goes_with_its_root(saver: Any) -> None:
    """As in Postgres: once the root checkpoint it started from is saved and pruned."""
    chain(saver, 3)

    def child(ns: str, root: int | None) -> None:
        metadata = {} if root is None else {"parents": {"": id_of(root)}}
        save(saver, 1, {"a": LIST}, ns=ns, metadata=metadata)

    child("call:gone", 2)
    child("call:running", 3)
    child("call:root-not-saved-yet", 9)
    child("call:unknown", None)
    child("persistent", 2)
    saver.prune(["t"])
    left = {each.config["configurable"]["checkpoint_ns"] for each in saver.list(place(ns=None))}
    assert left == {"", "call:running", "call:root-not-saved-yet", "call:unknown", "persistent"}


def test_a_head_before_format_4_keeps_the_parent_of_its_sends(saver: Any) -> None:
    """Its pending sends are among that one's writes."""
    for number in (1, 2, 3):
        save(saver, number, {"a": [number]}, parent=number - 1 if number > 1 else None, v=3)
    saver.put_writes(place(2), [(TASKS, "send")], "task")
    saver.prune(["t"])
    assert numbers(saver.list(place())) == [3, 2]
    assert values(saver) == {"a": [3], TASKS: ["send"]}
    saver.delete_thread("t")
    chain(saver, 3)
    saver.prune(["t"])
    assert numbers(saver.list(place())) == [3]


def test_prune_keeps_what_a_delta_channel_is_rebuilt_from(saver: Any) -> None:
    """The ancestors up to its snapshot, and nothing before (Postgres refuses such threads)."""
    chain(saver, 2)
    save(saver, 3, {"d": _DeltaSnapshot([3])}, parent=2)
    for number in (4, 5, 6):
        counters = {"counters_since_delta_snapshot": {"d": [number - 3, number - 3]}}
        save(saver, number, {}, versions={"d": number}, parent=number - 1, metadata=counters)
        saver.put_writes(place(number), [("d", number)], "task")
    before = saver.get_delta_channel_history(config=place(6), channels=["d"])
    saver.prune(["t"])
    assert numbers(saver.list(place())) == [6, 5, 4, 3]
    assert parent(saver, 3) is None
    assert saver.get_delta_channel_history(config=place(6), channels=["d"]) == before


def test_a_value_kept_under_a_key_of_ours_is_no_delta_channel(saver: Any) -> None:
    """A fork's clash long ago does not make pruning keep its descendants."""
    save(saver, 1, {"a": ["left"]}, versions={"a": 1})
    save(saver, 2, {"a": ["right"], "b": LIST, "n": 1}, versions={"a": 1})
    for number in (3, 4, 5):
        save(saver, number, {}, versions={"a": number, "b": number}, parent=number - 1)
    saver.prune(["t"])
    assert numbers(saver.list(place())) == [5]


@pytest.mark.parametrize("method", ["prune", "delete_for_runs"])
@pytest.mark.parametrize("ids", ["t", b"t", None, 7, [None], [1.5]])
def test_ids_that_are_no_sequence_of_ids_are_refused(saver: Any, method: str, ids: Any) -> None:
    """A bare string above all, whose letters would be taken for ids; nothing is deleted."""
    chain(saver, 2)
    with pytest.raises(InvalidTypeError) as caught:
        getattr(saver, method)(ids)
    assert isinstance(caught.value, TypeError)
    assert numbers(saver.list(place())) == [2, 1]


@pytest.mark.parametrize(
    "options",
    [
        {"strategy": "newest"},
        {"strategy": None},
        {"strategy": ["delete"]},
        {"keep_last": 0},
        {"keep_last": -1},
        {"strategy": "delete", "keep_last": 2},
    ],
)
def test_a_strategy_that_is_none_is_refused(saver: Any, options: Any) -> None:
    """Before anything is deleted."""
    chain(saver, 2)
    with pytest.raises(InvalidInputError) as caught:
        saver.prune(["t"], **options)
    assert isinstance(caught.value, ValueError)
    assert numbers(saver.list(place())) == [2, 1]


# --- expire


def aged(saver: Any, thread: str, *moments: str, ns: str = "") -> None:
    for number, moment in enumerate(moments, start=1):
        save(saver, number, {"a": [number]}, thread=thread, ns=ns, ts=moment)


@pytest.fixture
def of_many_ages(saver: Any) -> Any:
    """Threads whose newest checkpoint is from 2020, 2022 and today; one without a time."""
    aged(saver, "2020", "2019-01-01T00:00:00+00:00", "2020-06-01T00:00:00.123456+00:00")
    aged(saver, "2020", "2020-07-01T00:00:00Z", ns="child")
    aged(saver, "2022", "2022-06-01T00:00:00+00:00")
    aged(saver, "now", "2001-01-01T00:00:00Z", datetime.now(timezone.utc).isoformat())
    aged(saver, "timeless", "")
    return saver


NOON = datetime(2020, 7, 1, 12)


@pytest.mark.parametrize(
    ("older_than", "gone"),
    [
        (datetime(2020, 7, 1, 1, tzinfo=timezone.utc), ["2020"]),
        (datetime(2020, 6, 30, tzinfo=timezone.utc), []),
        (datetime(2020, 7, 1, 1, tzinfo=timezone(timedelta(hours=2))), []),
        (NOON + (NOON - NOON.astimezone(timezone.utc).replace(tzinfo=None)), ["2020"]),
        (timedelta(days=365), ["2020", "2022"]),
        (timedelta(hours=-1), None),
    ],
)
def test_threads_expire_by_their_newest_checkpoint(
    of_many_ages: Any, older_than: Any, gone: Any
) -> None:
    """Older than an age, or than a moment; a naive one is local time. Without a time: never."""
    if gone is None:
        with pytest.raises(InvalidInputError):
            of_many_ages.expire(older_than)
        gone = []
    else:
        assert list(of_many_ages.expire(older_than)) == gone
    left = {each.config["configurable"]["thread_id"] for each in of_many_ages.list(None)}
    assert left == {"2020", "2022", "now", "timeless"} - set(gone)


def test_a_damaged_thread_keeps_no_other_from_expiring(
    of_many_ages: Any, database_path: Path
) -> None:
    """When it was made nobody knows: it stays."""
    execute(database_path, "UPDATE checkpoints SET checkpoint = '{' WHERE thread_id = 'now'")
    assert list(of_many_ages.expire(timedelta(days=365))) == ["2020", "2022"]
    of_many_ages.delete_thread("now")


@pytest.mark.parametrize("older_than", [7, "2020-01-01", None, timedelta.max, datetime.min])
def test_an_age_that_is_none_is_refused(of_many_ages: Any, older_than: Any) -> None:
    """Nothing is deleted; what lies before all time is no error, and deletes nothing."""
    if isinstance(older_than, (timedelta, datetime)):
        assert list(of_many_ages.expire(older_than)) == []
    else:
        with pytest.raises(InvalidTypeError):
            of_many_ages.expire(older_than)
    assert len(of_many_ages.threads()) == 4


# --- while others save


@pytest.mark.parametrize("deletes", ["prune", "keep_last", "runs"])
def test_a_thread_may_go_on_while_it_is_pruned(
    open_driver: Any, database_path: Path, deletes: str
) -> None:
    """A checkpoint that is saved meanwhile stays, with all its values."""
    saver = open_driver("sync", database_path).saver
    stop = threading.Event()

    def prune() -> None:
        while not stop.is_set():
            if deletes == "runs":
                saver.delete_for_runs(["old"])
            else:
                saver.prune(["t"], keep_last=3 if deletes == "keep_last" else None)

    pruner = threading.Thread(target=prune)
    pruner.start()
    try:
        for number in range(1, 150):
            versions = {"old": 1, "list": number}
            metadata = {"run_id": "new" if number % 10 == 0 else "old"}
            config = save(saver, number, {"old": LIST, "list": [number]}, versions=versions,
                          new={"list": number}, parent=number - 1 or None,
                          metadata=metadata)  # fmt: skip
            found = saver.get_tuple(config)
            if deletes != "runs" or number % 10 == 0:
                assert found.checkpoint["channel_values"] == {"old": LIST, "list": [number]}
    finally:
        stop.set()
        pruner.join()
