"""An import that is stopped, killed or run again: what is there stays, what is missing comes."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import threading
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from langgraph.checkpoint.base import WRITES_IDX_MAP
from langgraph.checkpoint.serde.encrypted import EncryptedSerializer
from langgraph.checkpoint.serde.types import INTERRUPT, RESUME
from langgraph.types import Command, Interrupt
from savers.helpers import converse, expect, get, numbers, place, prose, rows, save

from langgraph_sqlite_saver import SqliteSaver
from langgraph_sqlite_saver.transfer import VerificationError, import_official

from .official import everything, expect_all, official_saver
from .test_official_graphs import THREAD, subgraphs


@pytest.fixture
def old(tmp_path: Path) -> Path:
    return tmp_path / "old.db"


@pytest.fixture
def new(tmp_path: Path) -> Path:
    return tmp_path / "new.db"


def fill(path: Path, *, threads: int = 4, turns: int = 30) -> int:
    """Conversations, forks, pending writes with and without their checkpoint; how many."""
    with official_saver(path) as saver:
        for thread in range(threads):
            name = f"thread {thread}"
            converse(saver, turns, thread=name, metadata={"thread": thread})
            for turn in range(1, turns, 3):
                save(
                    saver, turn + 1000, {"messages": [prose(500, turn)]},
                    versions={"messages": turn + 1}, parent=turn, thread=name, ns="",
                )  # fmt: skip
                saver.put_writes(
                    place(turn, name), [("messages", [prose(400, turn)]), ("b", 1)], "task", "path"
                )
                saver.put_writes(place(turn + 500, name), [("alone", turn)], "task")
        return len(list(saver.list(None)))


# --- stopped


class Stopped(Exception):
    """By the caller."""


def test_it_goes_on_where_it_was_stopped(old: Path, new: Path) -> None:
    """By an error of the progress callback, again and again; nothing is carried twice."""
    total, counts = fill(old, threads=12), [0]
    for limit in (400, 500, 450):
        calls = iter(range(limit))

        def stop(done: int, total: int, calls: Any = calls) -> None:
            if next(calls, None) is None:
                raise Stopped

        with pytest.raises(Stopped):
            import_official(old, new, progress=stop, verify=True)
        counts.append(len(rows(new, "SELECT 1 FROM checkpoints")))
    done = import_official(old, new, verify=True)
    assert (done.already_there, done.checkpoints) == (counts[-1], total - counts[-1])
    assert counts == sorted(counts)
    assert 0 < counts[1] < total
    expect_all(old, new)


SERVER = """
import os, random, signal, sys, time
sys.path[:0] = [sys.argv[3]]
from langgraph_sqlite_saver.transfer import import_official

def fork():
    pid = os.fork()
    if pid == 0:
        try:
            import_official(sys.argv[1], target, verify=True)
            os._exit(0)
        finally:
            os._exit(3)
    return pid

target = sys.argv[2] + ".measured"
begun = time.monotonic()
assert os.waitpid(fork(), 0)[1] == 0
whole = time.monotonic() - begun
chance = random.Random(int(sys.argv[4]))
target, killed = sys.argv[2], 0
for _ in range(12):
    pid = fork()
    time.sleep(chance.random() * whole * 0.3)
    os.kill(pid, signal.SIGKILL)
    status = os.waitpid(pid, 0)[1]
    assert status in (0, signal.SIGKILL), status
    killed += status == signal.SIGKILL
print(killed)
"""


def run(program: str, *arguments: Any) -> str:
    """What a program printed that ended well."""
    package = Path(__file__).parents[2]
    old, new, *others = map(str, arguments)
    done = subprocess.run(
        [sys.executable, "-c", program, old, new, str(package), *others],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.strip()


def test_it_may_be_killed_at_any_moment(old: Path, new: Path) -> None:
    """The target is sound, holds each checkpoint whole with its writes, and is completed."""
    total = fill(old, threads=20)
    before = old.read_bytes()
    assert int(run(SERVER, old, new, random.randrange(1000))) > 0
    if new.exists() and rows(new, "SELECT 1 FROM sqlite_master WHERE name = 'checkpoint_blobs'"):
        with SqliteSaver(new) as ours, official_saver(old) as theirs:
            assert ours.check() == []
            expected = everything(theirs)
            for address, parts in everything(ours).items():
                assert parts == expected[address]
    done = import_official(old, new, verify=True)
    assert done.checkpoints + done.already_there == done.verified == total
    expect_all(old, new)
    assert old.read_bytes() == before


FULL = """
import resource, signal, sys
sys.path[:0] = [sys.argv[3]]
from langgraph_sqlite_saver import StorageError
from langgraph_sqlite_saver.transfer import import_official
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
errors = 0
for kilobytes in (64, 200, 300, 500):
    resource.setrlimit(resource.RLIMIT_FSIZE, (kilobytes * 1000, resource.RLIM_INFINITY))
    try:
        import_official(sys.argv[1], sys.argv[2], history="full")
    except StorageError as error:
        errors += sys.argv[2] in str(error)
print(errors)
"""


def test_a_full_disk_is_an_error_that_names_the_target(old: Path, new: Path) -> None:
    """And with more space it goes on."""
    total = fill(old)
    assert run(FULL, old, new) == "4"
    done = import_official(old, new, verify=True)
    assert done.checkpoints + done.already_there == total
    expect_all(old, new)


# --- again


def test_the_same_file_twice_changes_nothing(old: Path, new: Path) -> None:
    """The second time everything is there already, and is compared again."""
    total = fill(old)
    first = import_official(old, new)
    assert (first.threads, first.checkpoints, first.already_there) == (4, total, 0)
    before = everything_in(new)
    again = import_official(old, new, verify=True)
    assert (again.checkpoints, again.writes, again.already_there) == (0, 0, total)
    assert again.verified == total
    assert everything_in(new) == before


def everything_in(path: Path) -> Any:
    """Every row of the tables."""
    tables = ("checkpoints", "checkpoint_blobs", "checkpoint_writes")
    return [sorted(rows(path, f"SELECT * FROM {table}"), key=repr) for table in tables]


def test_what_the_source_has_since_comes_over(old: Path, new: Path) -> None:
    """Checkpoints, forks, threads; writes of a checkpoint that came before."""
    fill(old)
    import_official(old, new)
    with official_saver(old) as saver:
        converse(saver, 40, start=31, thread="thread 1")
        save(saver, 41, {"messages": ["fork"]}, parent=3, thread="thread 1")
        converse(saver, 3, thread="later")
        saver.put_writes(place(30, "thread 2"), [("c", prose(500))], "another task")
        saver.put_writes(place(30, "nowhere yet"), [("c", prose(500))], "task")
        save(saver, 501, {"messages": ["late"]}, parent=30, thread="thread 0")  # had writes alone
    done = import_official(old, new, verify=True)
    assert (done.checkpoints, done.writes) == (15, 2)
    expect_all(old, new)


def test_a_target_that_went_on_keeps_what_it_has(old: Path, new: Path) -> None:
    """Checkpoints and writes of its own, also where the source went on as well."""
    total = fill(old)
    import_official(old, new)
    with SqliteSaver(new) as ours:
        save(ours, 2001, {"messages": ["ours"]}, parent=30, thread="thread 1")
        ours.put_writes(place(30, "thread 1"), [("messages", ["ours"])], "our task", "our path")
    with official_saver(old) as saver:
        save(saver, 2002, {"messages": ["theirs"]}, parent=30, thread="thread 1")
        saver.put_writes(place(30, "thread 1"), [("messages", ["theirs"])], "their task")
    done = import_official(old, new, verify=True)
    assert (done.checkpoints, done.writes, done.already_there) == (1, 1, total)
    with SqliteSaver(new) as ours:
        assert get(ours, 2001, "thread 1").checkpoint["channel_values"] == {"messages": ["ours"]}
        assert get(ours, None, "thread 1").checkpoint["channel_values"] == {"messages": ["theirs"]}
        assert [write[0] for write in get(ours, 30, "thread 1").pending_writes] == [
            "their task", "our task",
        ]  # fmt: skip
        assert ours.check() == []


def test_a_graph_that_went_on_at_the_target_is_not_set_back(old: Path, new: Path) -> None:
    """It was answered there; the source, imported again, does not ask once more."""
    with official_saver(old) as saver:
        subgraphs(saver).invoke({"done": ["start"]}, THREAD)
    import_official(old, new)
    with SqliteSaver(new) as ours:
        subgraphs(ours).invoke(Command(resume="yes"), THREAD)
        before = everything(ours)
    import_official(old, new, verify=True)
    with SqliteSaver(new) as ours:
        assert everything(ours) == before
        assert subgraphs(ours).get_state(THREAD).next == ()


def test_two_sources_with_a_thread_in_common(tmp_path: Path, new: Path) -> None:
    """One file was copied and both went on: the thread has the checkpoints of both."""
    one, two = tmp_path / "one.db", tmp_path / "two.db"
    fill(one)
    two.write_bytes(one.read_bytes())
    for path, start in ((one, 3001), (two, 4001)):
        with official_saver(path) as saver:
            for number in (start, start + 1):
                parent = 30 if number == start else start
                save(
                    saver, number, {"messages": [prose(700, number)]}, versions={"messages": 31},
                    parent=parent, thread="thread 1",
                )  # fmt: skip
                saver.put_writes(place(number, "thread 1"), [("b", start)], "task")
            save(saver, 1, {"a": [start]}, thread=f"of {start}")
    first, second = (import_official(path, new, verify=True) for path in (one, two))
    assert (second.checkpoints, second.already_there) == (3, first.checkpoints - 3)
    with SqliteSaver(new) as ours:
        found = everything(ours)
        assert ours.check() == []
    for path in (one, two):
        with official_saver(path) as saver:
            for address, parts in everything(saver).items():
                assert found[address] == parts


@pytest.mark.parametrize("encrypted", [False, True])
def test_an_interrupt_that_the_source_has_replaced_since_is_replaced(
    old: Path, new: Path, encrypted: bool
) -> None:
    """The task was answered and has asked anew: the target asks what the source asks."""
    assert {INTERRUPT, RESUME} <= WRITES_IDX_MAP.keys()
    serde = EncryptedSerializer.from_pycryptodome_aes(key=bytes(16)) if encrypted else None
    with official_saver(old, serde) as saver:
        config = save(saver, 1, {"a": [1]})
        saver.put_writes(config, [(INTERRUPT, [Interrupt("first?", id="1")])], "task")
        import_official(old, new, serde=serde)
        saver.put_writes(config, [(RESUME, ["yes"])], "task")
        saver.put_writes(config, [(INTERRUPT, [Interrupt("second?", id="1")])], "task")
    assert import_official(old, new, serde=serde, verify=True).writes == 2
    assert import_official(old, new, serde=serde, verify=True).writes == 0
    expect_all(old, new, serde=serde)


def test_an_interrupt_of_a_thread_that_has_gone_on_stays(old: Path, new: Path) -> None:
    """What was asked and answered in the new file is not undone; the difference is told."""
    with official_saver(old) as saver:
        config = save(saver, 1, {"a": [1]})
        saver.put_writes(config, [(INTERRUPT, [Interrupt("first?", id="1")])], "task")
        import_official(old, new)
        saver.put_writes(config, [(INTERRUPT, [Interrupt("second?", id="1")])], "task")
    with SqliteSaver(new) as ours:
        ours.put_writes(config, [(RESUME, ["yes"])], "task")
        before = get(ours, 1).pending_writes
        with pytest.raises(VerificationError, match="'000001': its pending writes"):
            import_official(old, new)
        assert get(ours, 1).pending_writes == before


# --- beside others


def test_a_target_in_use_serves_on(old: Path, new: Path) -> None:
    """Another saver reads and writes its own threads meanwhile."""
    total = fill(old, threads=8)
    with SqliteSaver(new) as ours:
        ended = threading.Event()
        saved = []

        def work() -> None:
            while not ended.is_set() or len(saved) < 3:
                number = len(saved) + 1
                save(ours, number, {"messages": [prose(300, number)]}, thread="own")
                assert get(ours, number, "own") is not None
                saved.append(number)

        worker = threading.Thread(target=work)
        worker.start()
        try:
            assert import_official(old, new, verify=True).checkpoints == total
        finally:
            ended.set()
            worker.join()
        assert numbers(list(ours.list(place(thread="own"))))[::-1] == saved
        ours.delete_thread("own")
    expect_all(old, new)


def test_two_imports_at_once_bring_everything_once(old: Path, new: Path) -> None:
    """Of the same file, into the same."""
    fill(old, threads=6)
    failures: list[BaseException] = []

    def work() -> None:
        try:
            import_official(old, new, verify=True)
        except BaseException as error:
            failures.append(error)

    workers = [threading.Thread(target=work) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert failures == []
    expect_all(old, new)


# --- size


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    """A file of four times the size takes hardly more of it."""

    def peak(turns: int) -> tuple[int, int]:
        old, new = tmp_path / f"{turns}.db", tmp_path / f"{turns} new.db"
        with official_saver(old) as saver:
            for turn in range(turns):
                save(
                    saver, turn + 1, {"data": random.Random(turn).randbytes(100_000)},
                    parent=turn or None, thread=f"thread {turn // 50}",
                )  # fmt: skip
        tracemalloc.start()
        try:
            import_official(old, new, verify=True)
            return tracemalloc.get_traced_memory()[1], old.stat().st_size
        finally:
            tracemalloc.stop()

    small, _ = peak(150)
    large, size = peak(600)
    assert large < 1.3 * small
    assert large < size


def test_the_new_file_holds_history_by_its_changes(old: Path, tmp_path: Path) -> None:
    """A conversation takes a fraction; `history="full"` stores whole values."""
    with official_saver(old) as saver:
        converse(saver, 100)
    done = import_official(old, tmp_path / "new.db")
    assert done.bytes_before == old.stat().st_size
    assert done.bytes_after == (tmp_path / "new.db").stat().st_size < done.bytes_before / 10
    whole = import_official(old, tmp_path / "full.db", history="full")
    assert whole.bytes_after > 5 * done.bytes_after
    assert rows(tmp_path / "full.db", "SELECT 1 FROM checkpoint_blobs WHERE base NOT NULL") == []
    for name in ("new.db", "full.db"):
        with SqliteSaver(tmp_path / name) as saver:
            expect(saver, 100)


def test_the_new_file_is_a_file_of_ours_in_all(old: Path, new: Path) -> None:
    """Run ids can be deleted by, threads copied, pruned and listed; ids of text are JSON."""
    fill(old, threads=1)
    with official_saver(old) as saver:
        save(saver, 5001, {"a": [1]}, parent=30, thread="thread 0", metadata={"run_id": "r"})
    import_official(old, new, verify=True)
    with SqliteSaver(new) as ours:
        ours.copy_thread("thread 0", "copy")
        ours.delete_for_runs(["r"])
        assert get(ours, 5001, "copy") is None
        ours.prune(["copy"], strategy="keep_latest")
        assert len(list(ours.list(place(thread="copy")))) == 1
        assert ours.check() == []
    assert all(json.loads(text) for (text,) in rows(new, "SELECT checkpoint FROM checkpoints"))
