"""What operations cost: as much as they touch, whatever else the file or the saver holds.

Costs are counted (statements, steps of SQLite's machine, rows, entries), never timed.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from langgraph_sqlite_saver.checkpoints import overview
from langgraph_sqlite_saver.checkpoints.encoding import Chain, Link
from langgraph_sqlite_saver.checkpoints.history import MOST_PLACES, History
from langgraph_sqlite_saver.checkpoints.lineage import MOST_HEADS

from .helpers import LIST, execute, place, rows, save, unsound, values


def write(saver: Any, op: Callable[[sqlite3.Connection], Any]) -> Any:
    """Run an operation on the saver's writer."""
    value = saver.saver.database.write(op)
    return saver.run(value) if saver.awaited else value


@contextmanager
def statements(saver: Any) -> Iterator[list[str]]:
    """The statements that the saver's writer runs meanwhile, but for its transactions."""
    found: list[str] = []
    write(saver, lambda conn: conn.set_trace_callback(found.append))
    yield found
    write(saver, lambda conn: conn.set_trace_callback(None))
    found[:] = [each for each in found if each not in ("BEGIN IMMEDIATE", "COMMIT")]


def chain_of(size: int) -> dict[str, Chain]:
    """The chain of a channel's version of so many bytes."""
    return {"c": (Link("v", 1, 0, "msgpack", b"x" * size),)}


# --- what a saver keeps in memory of values


def test_one_more_thread_lets_go_of_the_one_used_longest_ago() -> None:
    """Of no more: what a put notes does not depend on how many threads there are."""
    history = History()
    for number in range(MOST_PLACES):
        history.remember((str(number), ""), chain_of(100))
    history.remember(("0", ""), chain_of(100))
    before = history.figures()
    history.remember(("new", ""), chain_of(100))
    assert history.figures() == before
    assert history.chain(("1", ""), "c") is None
    assert history.chain(("0", ""), "c") is not None
    assert history.chain(("2", ""), "c") is not None


def test_the_history_holds_no_more_bytes_than_it_may() -> None:
    """Links count beside values; one value that is too large costs the others nothing."""
    history = History(cache_bytes=10_000)
    for number in range(100):
        history.remember((str(number), ""), chain_of(2000))
        assert history.figures()[1] <= 10_000
    assert history.figures()[0] == 4
    history.remember(("99", ""), chain_of(20_000))
    assert history.figures()[0] == 3
    assert history.chain(("98", ""), "c") is not None
    links = tuple(Link("v", number, number, "", None) for number in range(1000))
    history.remember(("many", ""), {"c": links})
    assert history.chain(("many", ""), "c") is None


def test_the_history_forgets_a_thread_with_all_its_namespaces() -> None:
    """And nothing of it stays; others are not looked at."""
    history = History()
    for ns in ("", "a", "b"):
        for thread in ("one", "two"):
            history.remember((thread, ns), chain_of(100))
    whole = history.figures()
    history.forget("one")
    history.forget("three")
    assert history.figures() == (3, whole[1] // 2)
    assert history.chain(("one", "a"), "c") is None
    assert history.chain(("two", "a"), "c") is not None
    history.forget("two")
    assert history.figures() == (0, 0)


def test_the_history_of_a_forked_child_waits_for_no_thread_of_its_parent() -> None:
    """One that was inside at the fork is not there to come out."""
    history = History()
    inside, leave = threading.Event(), threading.Event()

    def stay() -> None:
        with history._lock:
            inside.set()
            leave.wait()

    thread = threading.Thread(target=stay)
    thread.start()
    inside.wait()
    history.after_fork_in_child()
    history.remember(("t", ""), chain_of(100))
    leave.set()
    thread.join()
    assert history.figures()[0] == 1


# --- what a saver knows of the checkpoints that it has just saved


def delete_by_hand(conn: sqlite3.Connection) -> None:
    """Delete a thread from all tables, as docs/storage.md says that it may be."""
    for table in ("checkpoints", "checkpoint_blobs", "checkpoint_writes"):
        conn.execute(f"DELETE FROM {table} WHERE thread_id = 't'")


def in_its_writer(saver: Any) -> None:
    write(saver, delete_by_hand)


def outside_a_transaction(saver: Any) -> None:
    done = saver.saver.database.maintain(delete_by_hand)
    if saver.awaited:
        saver.run(done)


def beside_it(saver: Any) -> None:
    with closing(sqlite3.connect(saver.saver.database.path)) as conn, conn:
        delete_by_hand(conn)


def in_part(saver: Any) -> None:
    """The values only; the parent is there."""
    write(saver, lambda conn: conn.execute("DELETE FROM checkpoint_blobs"))


def before_other_saves(saver: Any) -> None:
    """What those add hides nothing."""
    write(saver, delete_by_hand)
    save(saver, 1, {"a": LIST}, thread="other")
    saver.put_writes(save(saver, 1, {"a": LIST}, thread="other"), [("c", LIST)], "task")


DELETIONS = [in_its_writer, outside_a_transaction, beside_it, in_part, before_other_saves]


@pytest.mark.parametrize("delete", DELETIONS)
def test_a_step_is_complete_whoever_deleted_what_its_parent_had(
    saver: Any, delete: Callable[[Any], None]
) -> None:
    """It names what changed; the rest is stored if it is not there any more."""
    given, versions = {"a": LIST, "b": LIST}, {"a": 1, "b": 1}
    save(saver, 1, given, versions=versions)
    save(saver, 2, given, versions={"a": 1, "b": 2}, new={"b": 2}, parent=1)
    delete(saver)
    save(saver, 3, given, versions={"a": 1, "b": 3}, new={"b": 3}, parent=2)
    assert values(saver, 3) == given


def test_a_step_looks_nothing_up_that_was_just_saved(saver: Any) -> None:
    """However many threads save meanwhile, pending writes among it."""
    given = {"a": LIST, "b": LIST}
    for number in range(1, 6):
        for thread in ("t", "u"):
            versions = {"a": 1, "b": number}
            new = versions if number == 1 else {"b": number}
            with statements(saver) as found:
                save(saver, number, given, versions=versions, new=new, parent=number - 1 or None,
                     thread=thread)  # fmt: skip
                saver.put_writes(place(number, thread), [("c", LIST)], "task")
            kinds = [each.split()[0] for each in found]
            if number > 1:
                assert kinds == ["PRAGMA", "INSERT", "INSERT", "INSERT"]
            assert values(saver, number, thread) == given


def test_what_is_known_of_heads_is_bounded(saver: Any) -> None:
    """The one saved longest ago goes; no thread stays for ever."""
    for number in range(MOST_HEADS + 10):
        save(saver, 1, {"a": LIST}, thread=number)
    heads = saver.saver._lineage._heads
    assert len(heads) == MOST_HEADS
    assert next(iter(heads)) == ("10", "")


# --- threads(), expire()


def traced(path: Path, op: Callable[..., Any], *args: Any) -> list[str]:
    """The statements that an operation runs on a file."""
    found: list[str] = []
    with closing(sqlite3.connect(path)) as conn:
        conn.set_trace_callback(found.append)
        op(conn, *args)
    return found


def test_threads_takes_as_many_statements_for_many_threads_as_for_one(
    saver: Any, database_path: Path
) -> None:
    """And so does looking for those that are old; it reads no checkpoint but the heads."""
    moment = datetime.now(timezone.utc)
    counts = set()
    for number in range(1, 30):
        for ns in ("", "child"):
            save(saver, number, {"a": LIST}, thread=f"t{number % 10}", ns=ns)
        asked = traced(database_path, overview.threads)
        old = traced(database_path, overview.threads_older_than, moment)
        counts.add((len(asked), len(old)))
    assert counts == {(3, 1)}
    assert len(saver.threads()) == 10


def test_threads_tells_each_threads_own_head_and_bytes(saver: Any, database_path: Path) -> None:
    """Whatever order they were saved in, and with what is damaged among it."""
    for thread in "bac":
        for number in (3, 1, 2):
            for ns in ("", "child"):
                save(saver, number, {"a": ["x" * number]}, thread=thread, ns=ns)
        saver.put_writes(place(3, thread), [("w", LIST)], "task")
    execute(
        database_path,
        "UPDATE checkpoints SET checkpoint = 'no JSON' WHERE thread_id = 'c' "
        "AND checkpoint_ns = '' AND checkpoint_id = '000003'",
    )
    execute(database_path, "DELETE FROM checkpoint_blobs WHERE thread_id = 'c'")
    found = saver.threads()
    assert [(each.thread_id, each.namespaces, each.checkpoints) for each in found] == [
        (name, ["", "child"], 6) for name in "abc"
    ]
    assert [each.last_ts.second for each in found] == [3, 3, 3]
    for each in found:
        sizes = [
            rows(database_path, query, each.thread_id)[0][0]
            for query in (
                "SELECT sum(length(checkpoint) + length(metadata)) FROM checkpoints "
                "WHERE thread_id = ?",
                "SELECT coalesce(sum(length(blob)), 0) FROM checkpoint_blobs WHERE thread_id = ?",
                "SELECT sum(length(blob)) FROM checkpoint_writes WHERE thread_id = ?",
            )
        ]
        assert each.bytes == each.logical_bytes == sum(sizes)
    assert saver.expire(datetime.now(timezone.utc)) == ["a", "b"]


# --- deleting, and saving an id again


@contextmanager
def work(saver: Any) -> Iterator[list[int]]:
    """How many steps SQLite's machine makes on the writer meanwhile: under the write lock."""
    done = [0]

    def count() -> None:
        done[0] += 1

    write(saver, lambda conn: conn.set_progress_handler(count, 1))
    yield done
    write(saver, lambda conn: conn.set_progress_handler(None, 0))


def run_of(saver: Any, length: int) -> None:
    """A thread of as many steps, each of a run of its own."""
    for number in range(1, length + 1):
        save(saver, number, {"a": LIST, "b": [number]}, versions={"a": 1, "b": number},
             new={"b": 1} if number > 1 else {"a": 1, "b": 1}, parent=number - 1 or None,
             metadata={"run_id": f"run {number}"})  # fmt: skip
        saver.put_writes(place(number), [("b", LIST)], "task")


def delete_a_run(saver: Any, length: int) -> None:
    saver.delete_for_runs([f"run {length // 2}"])


def prune_one(saver: Any, length: int) -> None:
    saver.prune(["t"], keep_last=length - 1)


def save_again(saver: Any, length: int) -> None:
    number = length // 2
    save(saver, number, {"b": ["again"]}, versions={"b": "again"}, parent=number - 1)


@pytest.mark.parametrize("do", [delete_a_run, prune_one, save_again])
def test_the_lock_is_held_for_what_goes_however_long_the_thread_is(
    open_driver: Any, tmp_path: Path, do: Callable[[Any, int], None]
) -> None:
    """What has to be read of the rest is read before."""
    done = []
    for length in (40, 400):
        saver = open_driver("sync", tmp_path / f"{length}.db")
        run_of(saver, length)
        with work(saver) as steps:
            do(saver, length)
        assert unsound(saver.saver.database.path) == []
        done.append(steps[0])
    assert done[1] < done[0] * 1.5, done


def test_runs_in_many_threads_are_looked_up_thread_by_thread(saver: Any) -> None:
    """Each thread for its own runs only."""
    for number in range(20):
        save(saver, 1, {"a": LIST}, thread=f"t{number}", metadata={"run_id": f"run {number}"})
    with statements(saver) as found:
        saver.delete_for_runs([f"run {number}" for number in range(20)])
    per_thread = len(found) // 20
    assert per_thread < 20
    with statements(saver) as found:
        saver.delete_for_runs([f"run {number}" for number in range(20)])
    assert found == []
