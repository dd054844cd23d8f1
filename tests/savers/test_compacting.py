"""compact(): an existing file is stored as the saver would store it now; no value changes."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from langgraph.types import Send

from langgraph_sqlite_saver import Compaction, SqliteSaver

from .helpers import (
    VERSIONS,
    bases,
    converse,
    count,
    everything,
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

BLOBS = "SELECT * FROM checkpoint_blobs WHERE thread_id = ? ORDER BY version"
WRITES = "SELECT * FROM checkpoint_writes WHERE thread_id = ? ORDER BY checkpoint_id, task_id, idx"


@pytest.fixture(params=["sync", "async"])
def open_(request: Any, open_driver: Any, database_path: Path) -> Callable[..., Any]:
    """Opens savers of one class on the test's file: `open_(history="full")`."""
    return lambda **options: open_driver(request.param, database_path, **options)


def write_full(turns: int, *, kind: str = "str", threads: str = "t", path: Path) -> None:
    """A file of whole values, with a pending write at each checkpoint."""
    with SqliteSaver(path, history="full") as saver:
        for thread in threads:
            converse(saver, turns, kind=kind, topic=thread, thread=thread)
            for turn in range(1, turns + 1):
                sends = [("__pregel_tasks", Send("tools", {"messages": messages(turn, thread)}))]
                saver.put_writes(place(turn, thread), sends, "task")


def stored(path: Path, thread: str = "t") -> Any:
    """The rows of a thread's values."""
    return rows(path, BLOBS, thread), rows(path, WRITES, thread)


# --- what it does


def test_an_existing_chat_becomes_small_and_stays_the_same(open_: Any, database_path: Path) -> None:
    """Its values, and what the disk holds of them; the result says how much."""
    write_full(100, path=database_path)
    saver = open_()
    before, stats = everything(saver), saver.stats()
    result = saver.compact()
    for reader in (saver, open_()):
        assert everything(reader) == before
    after = saver.stats()
    assert isinstance(result, Compaction)
    assert result.values == 200
    assert 100 < result.rewritten <= 200
    assert result.bytes_before - result.bytes_after == (
        stats.blob_bytes + stats.write_bytes - after.blob_bytes - after.write_bytes
    )
    assert after.blob_bytes < stats.blob_bytes / 10
    assert after.write_bytes < stats.write_bytes / 10
    assert after.file_bytes < stats.file_bytes / 5
    assert database_path.stat().st_size == after.file_bytes
    assert after.free_bytes == 0
    assert after.wal_bytes < 10_000  # a page
    assert (after.logical_blob_bytes, after.logical_write_bytes) == (
        stats.blob_bytes,
        stats.write_bytes,
    )
    assert unsound(database_path) == []
    assert saver.check() == []


def test_every_way_to_call_it_gives_the_same(every_saver: Any, database_path: Path) -> None:
    """Blocking and async, on either saver; an empty file has nothing to compact."""
    assert every_saver.compact() == Compaction()
    write_full(12, path=database_path)
    assert every_saver.compact().values == 24
    expect(every_saver, 12, topic="t")
    assert list(bases(database_path).values()).count(None) < 12


@pytest.mark.parametrize("kind", VERSIONS)
def test_a_file_that_was_written_compactly_is_left_alone(
    open_: Any, database_path: Path, kind: str
) -> None:
    """There is nothing that it would store otherwise."""
    saver = open_()
    converse(saver, 9, kind=kind)
    saver.put_writes(place(9), [("w", messages(9)), ("w", 1), ("w", prose(9000))], "task")
    before = stored(database_path)
    assert saver.compact() == Compaction(values=12)
    assert stored(database_path) == before


def test_no_value_comes_to_rest_on_one_that_rests_on_it(open_: Any, database_path: Path) -> None:
    """As 104 does on 95, which comes after it, as text."""
    saver = open_()
    converse(saver, 104, start=95, kind="int")
    saver.compact()
    assert unsound(database_path) == []
    expect(open_(), 104, start=95)


@pytest.mark.parametrize("kind", VERSIONS)
def test_a_fork_is_compacted_with_its_branches(open_: Any, database_path: Path, kind: str) -> None:
    """Also where their versions do not sort as they came, or came up twice."""
    with SqliteSaver(database_path, history="full") as saver:
        converse(saver, 30, kind=kind)
        for number in range(31, 61):
            branch = [*messages(10), *(message(n, "branch") for n in range(10, number - 20))]
            made = version(kind, number - 20)
            versions = {"messages": f"{made[:-3]}{number:03}" if kind == "str" else made}
            save(saver, number, {"messages": branch}, versions=versions, parent=10)
    saver = open_()
    before, size = everything(saver), saver.stats().blob_bytes
    assert saver.compact().rewritten > 30
    for reader in (saver, open_()):
        assert everything(reader) == before
    assert saver.stats().blob_bytes < size / 5
    assert unsound(database_path) == []


def test_values_that_lie_as_they_are_are_compacted(open_: Any, database_path: Path) -> None:
    """They were stored without what makes them a base, and get it."""
    write_as_it_is(database_path, 40)
    saver = open_()
    before, size = everything(saver), saver.stats().blob_bytes
    saver.compact()
    assert saver.stats().blob_bytes < size / 5
    whole = list(bases(database_path).values()).count(None)
    converse(saver, 44, start=41)
    assert list(bases(database_path).values()).count(None) <= whole + 1
    after = everything(open_())
    assert {key: after[key] for key in before} == before
    assert unsound(database_path) == []


def test_values_that_have_nothing_in_common_stay_as_they_are(
    open_: Any, database_path: Path
) -> None:
    """Small ones too."""
    generator = random.Random(0)
    given = [generator.randbytes(9000) if n % 2 else generator.randbytes(n) for n in range(40)]
    with SqliteSaver(database_path, history="full") as saver:
        for number, value in enumerate(given):
            save(saver, number, {"c": value}, versions={"c": version("str", number)})
            saver.put_writes(place(number), [("w", value[::-1])], "task")
    before = stored(database_path)
    assert open_().compact() == Compaction(values=80)
    assert stored(database_path) == before


def test_pending_writes_come_to_rest_on_the_values_of_their_checkpoint(
    open_: Any, database_path: Path
) -> None:
    """A Send that carries the state takes less than a hundredth; others stay whole."""
    write_full(60, path=database_path)
    other = [("w", random.Random(0).randbytes(5000)), ("w", prose(5000, "w")), ("small", [1])]
    with SqliteSaver(database_path, history="full") as saver:
        saver.put_writes(place(60), other, "other")
        saver.put_writes(place(61), [("w", messages(60))], "before its checkpoint")
    saver = open_()
    saver.compact()
    query = "SELECT size, length(blob) FROM checkpoint_writes WHERE idx = 0 AND base NOT NULL"
    large = [(size, length) for size, length in rows(database_path, query) if size > 20_000]
    assert len(large) > 20
    assert all(length < size / 100 for size, length in large)
    assert get(open_(), 60).pending_writes[:3] == [("other", *each) for each in other]
    assert get(open_(), 60).pending_writes[3][2].arg == {"messages": messages(60, "t")}


# --- back to whole values


def test_with_full_history_everything_becomes_whole_again(open_: Any, database_path: Path) -> None:
    """As it would have been had it been stored so."""
    saver = open_()
    for turn in range(1, 41):
        converse(saver, turn, start=turn)
        saver.put_writes(place(turn), [("w", messages(turn)), ("w", prose(20_000, turn))], "task")
    saver.copy_thread("t", "copy")
    before = everything(saver)
    full = open_(history="full")
    full.compact()
    stats = full.stats()
    assert stats.blob_bytes == stats.logical_blob_bytes > 40 * 20 * 600
    assert stats.write_bytes == stats.logical_write_bytes > 40 * 20 * 600
    for table in ("checkpoint_blobs", "checkpoint_writes"):
        whole = f"SELECT count(*) FROM {table} WHERE base IS NULL AND type NOT LIKE 'zstd%'"
        assert rows(database_path, whole) == [(count(database_path, table),)]
    for reader in (saver, full, open_()):
        assert everything(reader) == before


def test_with_full_history_a_write_that_compressed_well_becomes_whole_too(
    open_: Any, database_path: Path
) -> None:
    """However small its frame is."""
    saver = open_()
    save(saver, 1)
    saver.put_writes(place(1), [("w", "x" * 100_000)], "task")
    open_(history="full").compact()
    assert rows(database_path, "SELECT type FROM checkpoint_writes") == [("msgpack",)]


def test_with_full_history_a_second_call_rewrites_nothing(open_: Any, database_path: Path) -> None:
    """What is whole is left alone."""
    write_full(10, path=database_path)
    assert open_(history="full").compact() == Compaction(values=20)


# --- progress, stopping, going on


def test_progress_rises_to_its_total(open_: Any, database_path: Path) -> None:
    """The number of values and pending writes."""
    write_full(10, threads="abc", path=database_path)
    told: list[tuple[int, int]] = []
    open_().compact(progress=lambda *each: told.append(each))
    done = [each for each, _ in told]
    assert {total for _, total in told} == {60}
    assert done == sorted(done)
    assert len(set(done)) > 3
    assert done[-1] == 60


class Stopped(Exception):
    """Raised in a progress function."""


@pytest.mark.parametrize("kind", VERSIONS)
def test_it_can_be_stopped_and_goes_on_where_it_was(
    open_: Any, database_path: Path, kind: str
) -> None:
    """What is done stays; the second call does the rest, and the third one nothing."""
    write_full(15, threads="abcd", kind=kind, path=database_path)
    untouched = {thread: stored(database_path, thread) for thread in "abcd"}

    def stop(done: int, total: int) -> None:
        if done > 50:
            raise Stopped

    saver = open_()
    before = everything(saver)
    with pytest.raises(Stopped):
        saver.compact(progress=stop)
    first, *_, last = (stored(database_path, thread) for thread in "abcd")
    assert first != untouched["a"]
    assert last == untouched["d"]
    assert everything(open_()) == before
    second = saver.compact()
    assert second.rewritten > 15
    assert stored(database_path, "a") == first
    assert saver.compact() == Compaction(values=120)
    assert everything(open_()) == before
    assert unsound(database_path) == []


def test_it_comes_to_an_end_where_versions_do_not_sort_as_they_came(database_path: Path) -> None:
    """As ints do not, as text."""
    with SqliteSaver(database_path, history="full") as saver:
        converse(saver, 300, kind="int")
    with SqliteSaver(database_path) as saver:
        saver.compact()
        saver.compact()
        assert saver.compact().rewritten == 0


def test_only_the_threads_given_are_rewritten(open_: Any, database_path: Path) -> None:
    """None of them for an empty list; one that is not there is no error."""
    write_full(10, threads="abc", path=database_path)
    before = {thread: stored(database_path, thread) for thread in "abc"}
    saver = open_()
    assert saver.compact([]) == Compaction()
    told: list[tuple[int, int]] = []
    result = saver.compact(["b", "missing"], progress=lambda *each: told.append(each))
    assert (result.values, told[-1]) == (20, (20, 20))
    assert {t for t in "abc" if stored(database_path, t) != before[t]} == {"b"}
    for thread in "abc":
        expect(open_(), 10, topic=thread, thread=thread)


# --- while others work


def test_what_others_put_between_its_steps_is_not_lost(open_: Any, database_path: Path) -> None:
    """On the thread it is at, and on new ones; the savers rest on what it has rewritten."""
    write_full(30, threads="ab", path=database_path)
    saver, other = open_(), SqliteSaver(database_path)
    turns = {"a": 30, "b": 30, "new": 0}

    def put(done: int, total: int) -> None:
        for thread in turns if turns["new"] < 10 else ():
            turns[thread] += 1
            start = turns[thread]
            converse(other, start, start=start, topic=thread, thread=thread)

    with other:
        expect(other, 30, topic="a", thread="a")
        saver.compact(progress=put)
        assert turns["new"] > 3
        for reader in (saver, other, open_()):
            for thread, last in turns.items():
                expect(reader, last, topic=thread, thread=thread)
    assert unsound(database_path) == []


def test_it_ends_though_a_thread_grows_at_every_step(open_: Any, database_path: Path) -> None:
    """What came after it began is stored as it should be; progress does not pass its total."""
    write_full(5, path=database_path)
    with SqliteSaver(database_path) as other:

        def put(done: int, total: int) -> None:
            if done > total + 20:
                raise Stopped
            start = 6 + len(told)
            converse(other, start, start=start, topic="t")
            told.append(done)

        told: list[int] = []
        open_().compact(progress=put)


def test_a_prune_between_its_steps_is_no_error(open_: Any, database_path: Path) -> None:
    """What went is passed over."""
    write_full(30, threads="ab", path=database_path)
    saver, other = open_(), SqliteSaver(database_path)
    with other:
        deletions = iter([lambda: other.prune(["a"]), lambda: other.delete_thread("b")])
        saver.compact(progress=lambda *_: next(deletions, lambda: None)())
    assert values(open_(), 30, "a") == {"messages": messages(30, "a")}
    assert [thread.thread_id for thread in saver.threads()] == ["a"]
    assert unsound(database_path) == []


def test_nothing_is_lost_while_a_thread_keeps_putting(open_: Any, database_path: Path) -> None:
    """And another one keeps reading."""
    write_full(20, path=database_path)
    failures: list[BaseException] = []
    reached = threading.Event()

    def put() -> None:
        try:
            with SqliteSaver(database_path) as other:
                converse(other, 80, start=21, topic="t")
        except BaseException as error:
            failures.append(error)
        finally:
            reached.set()

    def read() -> None:
        try:
            with SqliteSaver(database_path) as other:
                while not reached.is_set():
                    expect(other, 20, topic="t")
        except BaseException as error:
            failures.append(error)

    workers = [threading.Thread(target=each) for each in (put, read)]
    for worker in workers:
        worker.start()
    saver, turns = open_(), 0
    while not reached.is_set() or turns < 2:
        saver.compact()
        open_(history="full").compact()
        turns += 1
    for worker in workers:
        worker.join()
    assert failures == []
    expect(open_(), 80, topic="t")
    assert unsound(database_path) == []
    assert saver.check() == []
