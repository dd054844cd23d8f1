"""Killed at any moment, a process leaves a file in which every operation is whole or absent.

A child process saves, prunes, deletes, copies and compacts, notes each operation that returned, and
is killed with SIGKILL. Then the file is opened again: it must hold exactly what the noted
operations make, or that and the one operation that each worker had under way.

A kill is not a power cut. What the child wrote is in the operating system's hands, which keeps it;
this shows that commits are complete and in order, not that they reached the disk (`synchronous`
decides about that).
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from properties.model import Model
from properties.rows import assert_sound

from langgraph_sqlite_saver import SqliteSaver

from . import victim
from .outcomes import apply, expected, stored, threads_of
from .victim import Task, program

SOAK = os.environ.get("HYPOTHESIS_PROFILE") == "soak"
KILLS = 500 if SOAK else 50  # for each saver
WORKERS = 3
KINDS = pytest.mark.parametrize("kind", ["sync", "async"])
DEADLOCK = 60  # seconds

Kill = Callable[[Task, int, float], None]


@pytest.fixture
def kill_after() -> Iterator[Kill]:
    """Starts a child and kills it when it has noted so many operations, and some seconds later."""
    server = subprocess.Popen(
        [sys.executable, victim.__file__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )

    def kill(task: Task, operations: int, seconds: float) -> None:
        assert server.stdin is not None and server.stdout is not None
        print(task.text(), file=server.stdin, flush=True)
        pid = int(server.stdout.readline())
        deadline = time.monotonic() + DEADLOCK
        while noted(task) < operations:
            assert time.monotonic() < deadline, "the child does nothing"
            time.sleep(0.0005)
        time.sleep(seconds)
        os.kill(pid, signal.SIGKILL)
        assert int(server.stdout.readline()) == -signal.SIGKILL, "the child failed: see stderr"

    with server:
        yield kill


def noted(task: Task) -> int:
    """How many operations of the child have returned."""
    notes = Path(task.notes)
    return notes.stat().st_size if notes.exists() else 0


def chance_of_this_run() -> tuple[random.Random, int]:
    """Of the programs and the moments; CRASH_SEED repeats those of another run."""
    seed = int(os.environ.get("CRASH_SEED") or random.SystemRandom().randrange(10**6))
    print(f"CRASH_SEED={seed}")
    return random.Random(seed), seed


def check_whole_or_absent(saver: SqliteSaver, task: Task) -> dict[str, Any]:
    """Each thread holds what was noted, or one operation more; returns what they hold.

    By thread, because delete_for_runs has a transaction for each.
    """
    notes = Path(task.notes).read_bytes() if Path(task.notes).exists() else b""
    held = {}
    for worker in range(task.workers):
        model, returned = Model(), notes.count(worker)
        *done, under_way = islice(program(task, worker), returned + 1)
        for op in done:
            apply(op, model)
        before = {thread: expected(model, thread) for thread in threads_of(task, worker)}
        apply(under_way, model)
        for thread in before:
            held[thread] = stored(saver, thread)
            if held[thread] != before[thread]:
                assert held[thread] == expected(model, thread), (returned, under_way)
    return held


@KINDS
def test_a_killed_process_leaves_every_operation_whole_or_absent(
    kind: str, kill_after: Kill, tmp_path: Path
) -> None:
    """Killed again and again on one file: what returned is there, to the last value."""
    chance, seed = chance_of_this_run()
    for first in range(0, KILLS, 50):
        path = tmp_path / f"{first}.db"
        held: dict[str, Any] = {}
        for number in range(first, first + 50):
            notes = tmp_path / f"notes {number}"
            task = Task(kind, str(path), str(notes), seed + number, WORKERS)
            kill_after(task, chance.randrange(1, 40), chance.uniform(0, 0.002))
            with SqliteSaver(path) as saver:
                found = check_whole_or_absent(saver, task)
                assert saver.check(list(found)) == []
                held.update(found)
            assert_sound(path)
        with SqliteSaver(path) as saver:  # later kills took nothing from earlier children
            assert {thread: stored(saver, thread) for thread in held} == held
            assert saver.check() == []
            stats = saver.stats()
            assert stats.blob_bytes < stats.logical_blob_bytes, "no differences were stored"


@KINDS
def test_a_process_killed_while_it_makes_the_file_leaves_one_that_opens(
    kind: str, kill_after: Kill, tmp_path: Path
) -> None:
    """Not yet there, empty, or with its tables: the next one to open it goes on."""
    chance, seed = chance_of_this_run()
    for number in range(KILLS // 2):
        path = tmp_path / f"{number}.db"
        task = Task(kind, str(path), str(tmp_path / f"notes {number}"), seed + number, WORKERS)
        kill_after(task, 0, chance.uniform(0, 0.015))
        with SqliteSaver(path) as saver:
            check_whole_or_absent(saver, task)
        assert_sound(path)
