"""Ctrl-C leaves everybody else answered, and the database usable."""

from __future__ import annotations

import dis
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from langgraph_sqlite_saver.database.borrowed import BorrowedTransactions
from langgraph_sqlite_saver.database.lane import Lane
from langgraph_sqlite_saver.database.readers import Readers

from .helpers import check_integrity, run_script, stored

LEADER = """
    # The main thread leads; its own write is followed by others in one transaction.
    path = sys.argv[1]
    db = Database(path)
    db.write(create)

    def interrupted(conn, n):
        insert(conn, n)
        while queued(db) < 3:
            time.sleep(0.001)
        WHAT

    def others():
        wait_until(lambda: db._lane._leader is not None)
        return [in_thread(db.write, insert, n) for n in (2, 3, 4)]

    starting = in_thread(others)
    try:
        db.write(interrupted, 1)
    except KeyboardInterrupt:
        print("interrupted")
    assert all_ok(outcome(f) for f in outcome(starting))
    db.write(insert, 5)
    db.close()
"""


def test_ctrl_c_in_an_operation_undoes_it_and_answers_those_behind_it(path: Path) -> None:
    """A real SIGINT, in the thread that leads."""
    code = LEADER.replace("WHAT", "os.kill(os.getpid(), signal.SIGINT); time.sleep(30)")
    assert run_script(code, path) == "interrupted"
    assert stored(path) == [2, 3, 4, 5]


ANY_MOMENT = """
    # The main thread writes and reads and is interrupted again and again, wherever it happens to
    # be; other threads write through the same database all the while.
    import random
    db = Database(sys.argv[1], lock_timeout=5)
    db.write(lambda conn: conn.execute("CREATE TABLE numbers (n INTEGER)"))
    db.write(lambda conn: conn.execute("CREATE INDEX by_n ON numbers (n)"))
    stop = False
    busy = False
    # Not the future's done(): interrupted in there, the main thread keeps the future's lock.
    over = False

    def keep_writing(start):
        n = 0
        while not stop:
            db.write(insert, start + n)
            n += 1
            time.sleep(0.0005)
        return n

    def interrupt(*_):
        global busy, interruptions
        busy = False
        interruptions += 1
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, interrupt)

    def keep_interrupting():
        global over
        for n in range(400):
            while not busy:
                time.sleep(0.0002)
            time.sleep(random.uniform(0, 0.002))
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
            while interruptions == n:
                time.sleep(0.0002)
        over = True

    done, begun, interruptions = [], 0, 0
    futures = [in_thread(keep_writing, start) for start in (1_000_000, 2_000_000)]
    interrupting = in_thread(keep_interrupting)
    there = lambda conn, n: conn.execute("SELECT 1 FROM numbers WHERE n = ?", (n,)).fetchall()
    while not over:
        try:
            # Not `while condition`: on 3.12 and 3.13 its back jump lies outside the try.
            while True:
                busy = True  # each time: Python may swallow the exception, in a finalizer say
                if over:
                    break
                begun += 1
                db.write(insert, begun)
                done.append(begun)
                assert db.read(there, begun) == [(1,)]
        except KeyboardInterrupt:
            pass
    stop = True
    assert outcome(interrupting) is None
    others = [outcome(f) for f in futures]
    assert all(isinstance(n, int) for n in others), others
    there = db.read(numbers)
    assert len(there) == len(set(there)), "written twice"
    assert set(done) <= set(there), "lost"
    assert sum(n >= 1_000_000 for n in there) == sum(others)
    db.close()
    print(interruptions)
"""


def test_ctrl_c_at_any_moment_loses_nothing_and_writes_nothing_twice(path: Path) -> None:
    """Four hundred of them, while two threads write; then everything is closed in good order."""
    assert run_script(ANY_MOMENT, path) == "400"
    check_integrity(path)


AFTER_COMMIT = """
    # The signal is handled in the leader when COMMIT has returned and nobody is answered yet.
    import queue
    db = Database(sys.argv[1])
    db.write(create)

    # A thread leads first, so that the main thread leads a batch of several.
    first = Gate()
    leading = in_thread(db.write, first)
    first.entered.wait(30)
    def behind():
        wait_until(lambda: queued(db) == 1)
        futures = []
        for n in (2, 3):
            futures.append(in_thread(db.write, insert, n))
            wait_until(lambda: queued(db) == n)
        first.open()
        return futures
    starting = in_thread(behind)

    # COMMIT has 30 MB to write: time for the signal to come while it does.
    statements = queue.SimpleQueue()
    def interrupt():
        while statements.get() != "COMMIT":
            pass
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
    interrupting = in_thread(interrupt)

    def own(conn):
        insert(conn, 1)
        conn.execute("CREATE TABLE IF NOT EXISTS ballast AS SELECT zeroblob(30000000)")
        conn.set_trace_callback(statements.put)

    try:
        db.write(own)
        time.sleep(30)
    except KeyboardInterrupt:
        print("interrupted")
    assert all_ok(outcome(f) for f in outcome(starting))
    db.close()
"""


def test_what_was_committed_before_ctrl_c_is_not_run_again(path: Path) -> None:
    """The signal is handled between COMMIT and the answers of those who share it."""
    assert run_script(AFTER_COMMIT, path) == "interrupted"
    assert stored(path) == [1, 2, 3]


WAITING = """
    db = Database(sys.argv[1])
    db.write(create)
    gate = Gate()
    leading = in_thread(db.write, gate, 1)
    gate.entered.wait(30)
    def interrupt():
        wait_until(lambda: queued(db) == 1)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
    interrupting = in_thread(interrupt)
    try:
        db.write(insert, 2)
    except KeyboardInterrupt:
        print("interrupted")
    gate.open()
    assert outcome(leading) is None
    db.write(insert, 3)
    db.close()
"""


def test_ctrl_c_while_waiting_takes_the_write_back(path: Path) -> None:
    """It had not begun, so it never will."""
    assert run_script(WAITING, path) == "interrupted"
    assert stored(path) == [1, 3]


# What waits or holds a lock in a loop, and has to let the others on when it is interrupted there.
LOOPS = [Lane._perform, Readers.pause, BorrowedTransactions.prepare]


@pytest.mark.skipif(sys.version_info < (3, 11), reason="exception tables came with Python 3.11")
@pytest.mark.parametrize("function", LOOPS, ids=lambda function: function.__qualname__)
def test_ctrl_c_at_the_end_of_a_loop_reaches_the_handler_around_it(
    function: Callable[..., Any],
) -> None:
    """Python 3.12 and 3.13 handle signals at a back jump, and leave some out of their `try`.

    That moment is one instruction long: hitting it takes luck, so the compiled code is looked at.
    """
    compiled = dis.Bytecode(function)
    jumps = [each.offset for each in compiled if each.opname.startswith("JUMP_BACKWARD")]
    tries = [(each.start, each.end) for each in compiled.exception_entries]
    assert jumps
    assert all(any(start <= jump < end for start, end in tries) for jump in jumps)
