"""Whose context an operation runs in, and who gets what strikes it from outside."""

from __future__ import annotations

import contextvars
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from langgraph_sqlite_saver.database import Database

from .helpers import DEADLOCK, Gate, in_thread, outcome, queued, run_script, stored
from .helpers import wait_until as until

CALLER: contextvars.ContextVar[str] = contextvars.ContextVar("CALLER")


def caller(_: sqlite3.Connection) -> str:
    return CALLER.get()


def in_context(name: str, function: Callable[..., Any], *args: Any) -> Any:
    def run() -> Any:
        CALLER.set(name)
        return function(*args)

    return contextvars.Context().run(run)


@pytest.mark.parametrize("way", ["read", "read_first", "read_long", "write", "maintain"])
def test_an_operation_runs_in_its_caller_s_context(db: Any, way: str) -> None:
    """On whatever thread."""
    assert in_context("me", getattr(db, way), caller) == "me"


def test_each_operation_of_a_shared_transaction_has_its_own_context(db: Any) -> None:
    """One thread runs them all; one of them fails, so that they run a second time."""
    gate, seen = Gate(), []

    def write(conn: sqlite3.Connection, name: str) -> None:
        seen.append((name, CALLER.get()))
        if name == "c":
            raise ValueError(name)

    leading = in_thread(in_context, "leader", db.write, gate)
    assert gate.entered.wait(DEADLOCK)
    names = "abcd"
    sharing = []
    for name in names:
        sharing.append(in_thread(in_context, name, db.write, write, name))
        until(lambda: queued(db) == len(sharing))
    gate.open()
    outcomes = [outcome(leading), *map(outcome, sharing)]
    assert [type(each) for each in outcomes] == [type(None)] * 3 + [ValueError] + [type(None)]
    assert len(seen) > len(names)
    assert all(name == context for name, context in seen)


def test_what_an_operation_sets_is_not_its_caller_s(path: Path) -> None:
    """It may run twice, and on another thread."""
    with Database(path) as db:

        def write() -> str:
            db.write(lambda _: CALLER.set("op"))
            return CALLER.get()

        assert in_context("me", write) == "me"


def test_the_main_thread_runs_only_its_own_operations(path: Path) -> None:
    """A signal's handler would raise in somebody else's."""
    with Database(path) as db:
        db.write(lambda conn: conn.execute("CREATE TABLE numbers (n INTEGER)"))
        ran_on: list[int] = []

        def others() -> list[Any]:
            until(lambda: db._lane._leader is not None)
            return [in_thread(db.write, note) for _ in range(5)]

        def note(_: sqlite3.Connection) -> None:
            ran_on.append(threading.get_ident())

        starting = in_thread(others)
        db.write(lambda _: until(lambda: queued(db) == 5))
        assert [outcome(each) for each in outcome(starting)] == [None] * 5
        assert len(ran_on) == 5
        assert threading.get_ident() not in ran_on


TIME_LIMIT = """
    # A time limit that is a plain Exception, as Celery's is, raised by a signal's handler.
    class TimeLimit(Exception): pass
    def handler(*_): raise TimeLimit
    signal.signal(signal.SIGUSR1, handler)
    db = Database(sys.argv[1])
    db.write(create)

    def others():
        wait_until(lambda: db._lane._leader is not None)
        return [in_thread(db.write, insert, n) for n in (2, 3)]

    def strike(conn):
        insert(conn, 1)
        wait_until(lambda: queued(db) == 2)
        os.kill(os.getpid(), signal.SIGUSR1)
        time.sleep(30)

    starting = in_thread(others)
    try:
        db.write(strike)
    except TimeLimit:
        print("time is up")
    assert all_ok(outcome(f) for f in outcome(starting))
    db.write(insert, 4)
    db.close()
"""


def test_an_exception_of_a_signal_s_handler_reaches_the_caller(path: Path) -> None:
    """Its write is undone; the others' are there, once."""
    assert run_script(TIME_LIMIT, path) == "time is up"
    assert stored(path) == [2, 3, 4]


ANYWHERE = """
    class TimeLimit(Exception): pass
    db = Database(sys.argv[1])
    db.write(create)

    def others(ready, struck):
        # One leads while the main thread queues up, with two behind it: so it leads next.
        gate = Gate()
        futures = [in_thread(db.write, gate)]
        gate.entered.wait(DEADLOCK)
        ready.set()
        wait_until(lambda: queued(db) == 1 or struck.is_set())
        futures += [in_thread(db.write, insert, n) for n in (2, 3)]
        wait_until(lambda: queued(db) == 3 or (struck.is_set() and queued(db) == 2))
        gate.open()
        return futures

    # Where Python runs signals' handlers: as functions begin, and after calls of C's.
    def strike(moments):
        def profile(frame, event, _):
            nonlocal moments
            of_ours = frame.f_code.co_filename.endswith(("transactions.py", "lane.py", "jobs.py"))
            if of_ours and event in ("call", "c_return"):
                moments -= 1
                if moments == 0:
                    sys.setprofile(None)
                    raise TimeLimit
        return profile

    strikes = 0
    while True:
        ready, struck = threading.Event(), threading.Event()
        starting = in_thread(others, ready, struck)
        ready.wait(DEADLOCK)
        sys.setprofile(strike(strikes + 1))
        try:
            db.write(insert, 1)
            break
        except TimeLimit:
            strikes += 1
        finally:
            sys.setprofile(None)
            struck.set()
            assert all_ok(outcome(f) for f in outcome(starting))
    found = db.read(numbers)
    assert found.count(2) == found.count(3) == strikes + 1
    assert strikes > 20 and 0 < found.count(1) <= strikes + 1
    print("done")
    db.close()
"""


def test_what_was_committed_is_not_run_again_wherever_a_handler_raises(path: Path) -> None:
    """At each moment in the layer in turn; nobody else is kept waiting."""
    assert run_script(ANYWHERE, path) == "done"
