"""Reads wait neither for a write nor for one another."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from langgraph_sqlite_saver.database import Database
from langgraph_sqlite_saver.database.readers import SHORT, _Ticket

from .helpers import (
    DEADLOCK,
    Gate,
    Refused,
    blocking,
    create,
    in_thread,
    insert,
    numbers,
    outcome,
    wait_until,
)


@pytest.mark.parametrize("readers", [1, 4])
def test_a_read_does_not_wait_for_a_write(open_database: Any, path: Path, readers: int) -> None:
    """Not even the first; it returns what is committed while the write is still under way."""
    db = open_database(path, readers=readers)
    db.write(create)
    db.write(insert, 1)
    gate = Gate()
    writing = in_thread(db.write, gate, 2)
    assert gate.entered.wait(DEADLOCK)
    assert db.read(numbers) == [1]
    gate.open()
    assert outcome(writing) is None


def test_as_many_reads_as_there_are_readers_run_at_once(db: Any) -> None:
    """Each of four is inside its operation before any is let go; no pause between them needed."""
    gates = [Gate() for _ in range(4)]
    reading = [in_thread(db.read, gate.wait) for gate in gates]
    assert all(gate.entered.wait(DEADLOCK) for gate in gates)
    for gate in gates:
        gate.open()
    assert [outcome(f) for f in reading] == [None] * 4


def test_no_more_reads_run_at_once_than_there_are_readers(open_database: Any, path: Path) -> None:
    """The third waits until one of two connections is free, and then is served."""
    db = open_database(path, readers=2)
    db.write(create)
    gates = [Gate() for _ in range(3)]
    reading = [in_thread(db.read, gate.wait) for gate in gates]
    wait_until(lambda: sum(gate.entered.is_set() for gate in gates) == 2)
    outsiders = [gate for gate in gates if not gate.entered.wait(0.05)]
    assert len(outsiders) == 1
    inside = next(gate for gate in gates if gate.entered.is_set())
    inside.open()
    assert outsiders[0].entered.wait(DEADLOCK)
    for gate in gates:
        gate.open()
    assert [outcome(f) for f in reading] == [None] * 3


def test_a_short_read_overtakes_long_ones(db: Any) -> None:
    """Three long reads leave room for it."""
    gates = [Gate() for _ in range(3)]
    reading = [in_thread(db.read, gate.wait) for gate in gates]
    assert all(gate.entered.wait(DEADLOCK) for gate in gates)
    assert [db.read(numbers) for _ in range(10)] == [[]] * 10
    for gate in gates:
        gate.open()
    assert [outcome(f) for f in reading] == [None] * 3


def test_connections_are_opened_as_they_are_needed(db: Any) -> None:
    """One caller after another needs one reader."""
    for _ in range(20):
        db.read(numbers)
    slots = blocking(db)._readers._slots
    assert sum(slot.transactions is not None for slot in slots) <= 1


def test_readers_get_their_turn_in_the_order_of_their_coming(path: Path) -> None:
    """Also before those that come when a connection has just become free."""
    with Database(path, readers=1) as db:
        db.write(create)
        gate, order = Gate(), []
        first = in_thread(db.read, gate.wait)
        assert gate.entered.wait(DEADLOCK)
        waiting = []
        for number in range(20):
            waiting.append(in_thread(db.read, lambda _, number=number: order.append(number)))
            wait_until(lambda: len(db._readers._lines[SHORT].waiting) == len(waiting))
        gate.open()
        assert outcome(first) is None
        db.read(lambda _: order.append(20))
        assert [outcome(each) for each in waiting] == [None] * 20
        assert order == list(range(21))


def test_what_a_save_reads_first_waits_for_no_crowd(db: Any) -> None:
    """All connections are in use, and others wait for them."""
    gates = [Gate() for _ in range(12)]
    reading = [in_thread(db.read, gate.wait) for gate in gates]
    wait_until(lambda: sum(gate.entered.is_set() for gate in gates) == 4)
    assert db.read_first(numbers) == []
    for gate in gates:
        gate.open()
    assert [outcome(f) for f in reading] == [None] * 12


def test_long_reads_keep_no_short_one_waiting(db: Any) -> None:
    """However many there are."""
    gates = [Gate() for _ in range(12)]
    reading = [in_thread(db.read_long, gate.wait) for gate in gates]
    wait_until(lambda: sum(gate.entered.is_set() for gate in gates) == 2)
    assert [db.read(numbers) for _ in range(10)] == [[]] * 10
    assert db.read_first(numbers) == []
    for gate in gates:
        gate.open()
    assert [outcome(f) for f in reading] == [None] * 12


def test_a_reader_that_is_interrupted_lets_the_others_on(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While it waits, as by Ctrl-C; those behind it get their turn."""
    wait, interrupted = _Ticket.wait, []

    def interrupt(ticket: _Ticket) -> None:
        if ticket in interrupted:
            raise Refused
        wait(ticket)

    monkeypatch.setattr(_Ticket, "wait", interrupt)
    with Database(path, readers=1) as db:
        db.write(create)
        gate = Gate()
        first = in_thread(db.read, gate.wait)
        assert gate.entered.wait(DEADLOCK)
        line = db._readers._lines[SHORT]
        refused = in_thread(db.read, numbers)
        wait_until(lambda: len(line.waiting) == 1)
        interrupted.append(line.waiting[0])
        behind = in_thread(db.read, numbers)
        assert isinstance(outcome(refused), Refused)
        gate.open()
        assert (outcome(first), outcome(behind)) == (None, [])
