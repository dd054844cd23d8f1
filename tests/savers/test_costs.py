"""What operations cost: as much as they touch, whatever else the file or the saver holds.

Costs are counted (statements, steps of SQLite's machine, rows, entries), never timed.
"""

from __future__ import annotations

import threading

from langgraph_sqlite_saver.checkpoints.encoding import Chain, Link
from langgraph_sqlite_saver.checkpoints.history import MOST_PLACES, History


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
