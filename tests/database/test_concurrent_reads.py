"""Reads wait neither for a write nor for one another."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from .helpers import (
    DEADLOCK,
    Gate,
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
