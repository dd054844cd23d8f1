"""Processes on one thread: what one saves rests on what the others saved, delete and store anew.

Every state ends in a digest of all that is before it, so that a value which was put together from
the wrong base is seen by whoever reads it.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import random
import time
from pathlib import Path
from typing import Any

import pytest
from properties.rows import assert_sound

from langgraph_sqlite_saver import SqliteSaver

from .steps import SCALE

STUCK = 60 * SCALE
VERSIONS = pytest.mark.parametrize("versions", ["unique", "ints"])
spawn = multiprocessing.get_context("spawn")

# A log of this many lines is cut to half.
_MOST_LINES = 80


def digest(lines: list[str]) -> str:
    return hashlib.blake2b(json.dumps(lines).encode(), digest_size=16).hexdigest()


def longer(log: list[str], line: str) -> list[str]:
    """The log with a line more, and the digest of all before at its end."""
    lines = [*log[:-1], line]
    if len(lines) > _MOST_LINES:
        lines = lines[_MOST_LINES // 2 :]
    return [*lines, digest(lines)]


def right(log: Any) -> list[str]:
    """The log; fails unless its end is the digest of the rest."""
    assert log[-1] == digest(log[:-1]), log
    return log


FIRST = longer([], "first")


def line_of(name: str, n: int) -> str:
    return f"{name} {n} {hashlib.blake2b(f'{name}{n}'.encode()).hexdigest()}"


def config_of(id: str | None = None) -> Any:
    named = {"checkpoint_id": id} if id else {}
    return {"configurable": {"thread_id": "shared", "checkpoint_ns": "", **named}}


def right_tuple(found: Any) -> list[str]:
    """The log of a checkpoint, it and what its writes carry along being right."""
    for _, _, carried in found.pending_writes:
        right(carried["log"])
    return right(found.checkpoint["channel_values"]["log"])


def append(saver: SqliteSaver, versions: str, name: str, n: int) -> list[str]:
    """Read the newest checkpoint, and save one that has a line more; what it was saved as."""
    head = saver.get_tuple(config_of())
    before = head.checkpoint if head else None
    log = longer(right_tuple(head) if head else FIRST, line_of(name, n))
    current = before["channel_versions"]["log"] if before else None
    ours = versions == "unique"
    version = saver.get_next_version(current, None) if ours else int(current or 0) + 1
    parent = before["id"] if before else None
    number = int(parent.split()[0]) + 1 if parent else 0
    id = f"{number:06} {name} {n}"
    checkpoint: Any = {
        "v": 4,
        "id": id,
        "ts": "2026-01-01T00:00:00+00:00",
        "channel_values": {"log": log},
        "channel_versions": {"log": version},
        "versions_seen": {},
        "updated_channels": ["log"],
    }
    metadata: Any = {"step": number}
    saver.put(config_of(parent), checkpoint, metadata, {"log": version})
    saver.put_writes(config_of(id), [("sends", {"log": log, "from": name})], f"{name} {n}")
    if found := saver.get_tuple(config_of(id)):  # not pruned already
        assert right_tuple(found) == log, (id, log, found)
    return log


def take_turns(path: str, versions: str, name: str, mine: int, turns: int) -> None:
    """Save each second step, once the other one has saved the step before."""
    with SqliteSaver(path) as saver:
        for n in range(mine, 2 * turns, 2):
            while n and not ((head := saver.get_tuple(config_of())) and is_step(head, n - 1)):
                time.sleep(0.0005)
            append(saver, versions, name, n)


def is_step(head: Any, n: int) -> bool:
    return int(head.checkpoint["id"].split()[0]) == n


def save_on(path: str, versions: str, name: str, history: Any, steps: int) -> None:
    """Save without waiting for anybody."""
    with SqliteSaver(path, history=history) as saver:
        for n in range(steps):
            append(saver, versions, name, n)
            if n % 10 == 0:
                for each in saver.list(config_of(), limit=20):
                    right_tuple(each)


def tidy_up(path: str, done: Any) -> None:
    """Prune and compact, copy there and back, until told to stop."""
    chance = random.Random(0)
    with SqliteSaver(path) as saver, SqliteSaver(path, history="full") as other:
        while not done.is_set():
            what = chance.random()
            if what < 0.3:
                saver.prune(["shared"], keep_last=chance.randrange(1, 30))
            elif what < 0.6:
                chance.choice([saver, saver, other]).compact()
            elif what < 0.8:
                saver.copy_thread("shared", "copy")
                saver.copy_thread("copy", "shared")
            else:
                saver.delete_thread("copy")
            assert saver.check() == []


def run(*processes: Any) -> None:
    """All of them at once, to their end."""
    for process in processes:
        process.start()
    for process in processes:
        process.join(STUCK)
    assert [process.exitcode for process in processes] == [0] * len(processes)


@VERSIONS
def test_two_processes_take_turns_on_one_thread(versions: str, database_path: Path) -> None:
    """Each goes on from what the other has saved: no line is lost, and all is differences."""
    path, turns = str(database_path), 60 * SCALE
    run(
        spawn.Process(target=take_turns, args=(path, versions, "even", 0, turns)),
        spawn.Process(target=take_turns, args=(path, versions, "odd", 1, turns)),
    )
    expected = FIRST
    with SqliteSaver(database_path) as saver:
        found = list(saver.list(config_of()))[::-1]
        assert len(found) == 2 * turns
        for n, each in enumerate(found):
            expected = longer(expected, line_of("odd" if n % 2 else "even", n))
            assert right_tuple(each) == expected
        assert saver.check() == []
        stats = saver.stats()
        assert stats.blob_bytes < 0.5 * stats.logical_blob_bytes
        assert stats.write_bytes < 0.5 * stats.logical_write_bytes
    assert_sound(database_path)


@VERSIONS
def test_two_processes_save_on_one_thread_while_another_tidies_up(
    versions: str, database_path: Path
) -> None:
    """Branches that meet under the same versions, bases that go: nothing unreadable or wrong."""
    path, steps = str(database_path), 120 * SCALE
    done = spawn.Event()
    tidy = spawn.Process(target=tidy_up, args=(path, done))
    tidy.start()
    try:
        run(
            spawn.Process(target=save_on, args=(path, versions, "a", "compact", steps)),
            spawn.Process(target=save_on, args=(path, versions, "b", "compact", steps)),
        )
    finally:
        done.set()
        tidy.join(STUCK)
    assert tidy.exitcode == 0
    with SqliteSaver(database_path) as saver:
        assert saver.check() == []
        found = list(saver.list(None))
        assert found
        for each in found:
            right_tuple(each)
    assert_sound(database_path)
