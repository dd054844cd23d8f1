"""The usage queue: what is recorded is soon on disk, whoever closes the store, and as it was."""

# ruff: noqa: F401, F811 - fixtures are imported

from __future__ import annotations

import dis
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from langgraph_sqlite_saver.database import InvalidTypeError
from langgraph_sqlite_saver.relay import RelayStore, UsageNotStoredError, UsageRecord
from langgraph_sqlite_saver.relay.batching import PartlyStored, UsageQueue

from .servers import until
from .stores import Face, api_key, at_once, face, open_store, path, query

COUNT = "SELECT count(*) FROM usage_records"
# Seconds, many times the interval after which usage is on disk.
SOON = 5.0


@pytest.fixture
def store(open_store: Callable[..., Face], face: str) -> Face:
    """A store without Redis that knows key-1, by each face."""
    store = open_store(None, face)
    store.save_api_key(api_key())
    return store


def run(code: str, *args: object) -> subprocess.Popen[str]:
    """A Python process that runs this."""
    command = [sys.executable, "-c", dedent(code), *map(str, args)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Another program holds the file's write lock."""
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield


# By itself.


def test_usage_reaches_the_disk_by_itself_after_idle_times(store: Face) -> None:
    """Nobody flushes, and each record comes when nothing else waits."""
    for count in (1, 2, 3):
        store.record_usage(UsageRecord("key-1", "m"))
        until(lambda count=count: store.query(COUNT) == [(count,)], "the record", SOON)


def test_killed_process_loses_nothing_that_it_recorded_a_while_ago(path: Path) -> None:
    """By SIGKILL, with records that came after an idle time."""
    recorder = """
        import sys, time
        from langgraph_sqlite_saver.relay import RelayStore, UsageRecord
        store = RelayStore(sys.argv[1], None)
        store.save_api_key({"id": "key-1", "name": "n"})
        store.record_usage(UsageRecord("key-1", "m", cost=1), wait=True)
        print("idle", flush=True)
        sys.stdin.readline()
        store.record_usages([UsageRecord("key-1", "m", cost=1)] * 10)
        print("recorded", flush=True)
        time.sleep(60)
        """
    command = [sys.executable, "-c", dedent(recorder), str(path)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, text=True, **pipes) as process:  # type: ignore[call-overload]
        try:
            assert process.stdout.readline() == "idle\n"
            process.stdin.write("\n")
            process.stdin.flush()
            assert process.stdout.readline() == "recorded\n"
            until(lambda: query(path, COUNT) == [(11,)], "the records", SOON)
        finally:
            process.send_signal(signal.SIGKILL)
    assert query(path, "SELECT total_requests, total_cost FROM api_keys") == [(11, 11.0)]


# Closing.


def test_closing_twice_at_once_stores_everything(open_store: Callable[..., Face]) -> None:
    """Whoever comes second waits for what is being stored."""
    store = open_store(None, flush_interval=60)
    store.save_api_key(api_key())
    store.record_usages([UsageRecord("key-1", "m", extra={"n": n}) for n in range(10_000)])
    at_once(2, lambda _: store.store.close())
    assert store.query(COUNT) == [(10_000,)]


def test_all_who_close_are_told_what_could_not_be_stored(path: Path) -> None:
    """Meanwhile, and later."""
    store = RelayStore(path, None, lock_timeout=0.2)
    store.open()

    def close(_: int) -> str:
        with pytest.raises(UsageNotStoredError) as told:
            store.close()
        return str(told.value)

    with locked(path):
        store.record_usages([UsageRecord("key-1", "m")] * 3)
        told = [*at_once(2, close), close(0)]
    assert all("3 usage records wait, for SQLite refuses them" in each for each in told)


def test_signal_that_closes_a_store_that_is_closing_loses_nothing(path: Path) -> None:
    """Its handler waits too, and then ends the process."""
    code = """
        import signal, sys
        from langgraph_sqlite_saver.relay import RelayStore, UsageRecord
        store = RelayStore(sys.argv[1], None, flush_interval=60)
        store.save_api_key({"id": "key-1", "name": "n"})
        def end(*_):
            store.close()
            print("handled", flush=True)
            sys.exit()
        signal.signal(signal.SIGALRM, end)
        store.record_usages([UsageRecord("key-1", "m", extra={"n": n}) for n in range(20_000)])
        signal.setitimer(signal.ITIMER_REAL, 0.02)
        store.close()
        """
    assert run(code, path).communicate(timeout=60)[0] == "handled\n"
    assert query(path, COUNT) == [(20_000,)]


def test_signal_may_close_the_queue_while_its_thread_records() -> None:
    """At any moment: it does not wait for itself, and all that was taken is stored."""
    code = """
        import signal
        from langgraph_sqlite_saver.relay.batching import UsageQueue
        class Closed(Exception): pass
        def end(*_):
            queue.close()
            raise Closed
        signal.signal(signal.SIGALRM, end)
        for n in range(40):
            stored, taken = [], 0
            queue = UsageQueue(stored.extend, 60, 10**9)
            queue.put(())  # starts the thread, which Python cannot when it is interrupted
            try:
                signal.setitimer(signal.ITIMER_REAL, 0.001 + n / 20_000)
                while True:
                    queue.put((None,))
                    taken += 1
            except Closed:
                pass
            assert len(stored) in (taken, taken + 1), (len(stored), taken)
        print("done")
        """
    process = run(code)
    try:
        assert process.communicate(timeout=60)[0] == "done\n"
    finally:
        process.kill()
        process.wait()


def test_record_after_closing_is_refused(path: Path) -> None:
    """It would never be stored."""
    store = RelayStore(path, None)
    store.save_api_key(api_key())
    store.record_usage(UsageRecord("key-1", "m"), wait=True)
    queue = store._queue
    store.close()
    with pytest.raises(UsageNotStoredError, match="closed"):
        queue.put([UsageRecord("key-1", "m")])
    store.flush()


def test_what_is_left_of_a_batch_is_stored_once_later() -> None:
    """Who waits for it is told, also where what came behind it is stored; nothing is twice."""
    stored: list[UsageRecord] = []
    refused = [UsageRecord("k", "m", cost=0.0)]

    def store(batch: Sequence[UsageRecord]) -> None:
        left = [record for record in batch if record in refused]
        stored.extend(record for record in batch if record not in left)
        if left:
            raise PartlyStored(left, ValueError("not now"), 0, "")

    queue = UsageQueue(store, 0.01, 100)
    first = queue.put([UsageRecord("k", "m", cost=float(n)) for n in range(3)])
    second = queue.put([UsageRecord("k", "m", cost=3.0)])
    until(lambda: len(stored) == 3, "those behind it", SOON)
    for ticket in (first, second):
        with pytest.raises(UsageNotStoredError, match=r"1 usage records wait.*not now"):
            queue.wait(ticket)
    refused.clear()
    queue.wait()
    queue.close()
    assert sorted(record.cost for record in stored) == [0, 1, 2, 3]


# What is recorded is what it was then.


def test_extra_is_kept_as_it_was_when_it_was_recorded(
    open_store: Callable[..., Face], face: str
) -> None:
    """Whatever becomes of it before it is stored, at any depth."""
    store = open_store(None, face, flush_interval=60)
    store.save_api_key(api_key())
    extra: dict[str, Any] = {"id": 1, "parts": [1]}
    store.record_usage(UsageRecord("key-1", "m", extra=extra))
    extra["id"] = 2**70
    extra["parts"].append(object())
    empty: dict[str, Any] = {}
    store.record_usage(UsageRecord("key-1", "m", extra=empty))
    empty["id"] = 2**70
    store.flush()
    assert [record.extra for record in store.usage()] == [None, {"id": 1, "parts": [1]}]


@pytest.mark.parametrize("extra", [{"n": 2**70}, {1: 2}, [1], "text"])
def test_extra_that_cannot_be_stored_is_refused_at_once(store: Face, extra: Any) -> None:
    """And holds nothing up."""
    with pytest.raises(InvalidTypeError, match="extra"):
        store.record_usage(UsageRecord("key-1", "m", extra=extra))
    store.record_usage(UsageRecord("key-1", "m"), wait=True)
    assert len(store.usage()) == 1


# Deleting.


def test_usage_before_a_delete_is_not_credited_to_the_next_key_of_that_id(
    open_store: Callable[..., Face], face: str
) -> None:
    """Also where it still waited when the key was deleted."""
    store = open_store(None, face, flush_interval=60)
    store.save_api_key(api_key())
    store.record_usage(UsageRecord("key-1", "m", cost=7.0))
    store.delete_api_key("key-1")
    store.save_api_key(api_key(name="New"))
    store.flush()
    assert store.usage() == []
    assert store.query("SELECT total_requests, total_cost FROM api_keys") == [(0, 0.0)]


@pytest.mark.skipif(sys.version_info < (3, 11), reason="exception tables came with Python 3.11")
@pytest.mark.parametrize("function", [UsageQueue.put, UsageQueue._wait_for, UsageQueue.close])
def test_ctrl_c_at_the_end_of_a_loop_leaves_no_lock_taken(function: Callable[..., Any]) -> None:
    """As tests/database/test_interruption.py has it of the database layer."""
    compiled = dis.Bytecode(function)
    jumps = [each.offset for each in compiled if each.opname.startswith("JUMP_BACKWARD")]
    tries = [(each.start, each.end) for each in compiled.exception_entries]
    assert jumps
    assert all(any(start <= jump < end for start, end in tries) for jump in jumps)
