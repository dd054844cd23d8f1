"""A move that is killed at any moment leaves whole checkpoints, and can be done again."""

from __future__ import annotations

import multiprocessing
import random
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from langgraph_sqlite_saver import SqliteSaver
from langgraph_sqlite_saver.transfer.postgres import from_postgres, to_postgres

from .postgres_threads import (
    chain,
    listed,
    orphans,
    place,
    postgres_saver,
    prose,
    save,
)

KILLS = 10
# Imported once, and not by each victim.
PRELOADED = ["langgraph_sqlite_saver.transfer.postgres", "langgraph.graph", "pytest"]
THREADS, STEPS = 10, 120


def fill(saver: Any) -> None:
    """Threads of many checkpoints, with writes, and with values that become differences."""
    for thread in map(str, range(THREADS)):
        chain(saver, STEPS, thread=thread)
        for number in range(1, STEPS, 2):
            saver.put_writes(place(number, thread), [("list", [number]), ("n", 1)], "task")
        for number in range(STEPS + 1, STEPS + 5):
            texts = [prose(9_000, thread), number]
            save(saver, number, {"text": texts}, parent=number - 1, thread=thread)


def move(pipe: Connection, there: bool, path: str, uri: str) -> None:
    """In a process of its own: tells of each page."""

    def tell(done: int, total: int) -> None:
        pipe.send(done)

    if there:
        to_postgres(path, uri, progress=tell)
    else:
        from_postgres(uri, path, progress=tell)
    pipe.send(None)


class Victims:
    """Processes that move, and are killed."""

    def __init__(self, there: bool, path: Path, uri: str) -> None:
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(PRELOADED)
        self._arguments = (there, str(path), uri)
        self._random = random.Random(1)

    def kill_one(self) -> None:
        """Some time after its first, second, … page; never later than its end."""
        ours, theirs = self._context.Pipe(duplex=False)
        process = self._context.Process(target=move, args=(theirs, *self._arguments))
        process.start()
        theirs.close()
        pages = self._random.randrange(3)
        while pages >= 0 and ours.recv() is not None:
            pages -= 1
        ours.poll(self._random.uniform(0, 0.02))
        process.kill()
        process.join()
        process.close()
        ours.close()


def test_a_move_to_postgres_that_is_killed(database_path: Path, postgres: str) -> None:
    """What is there are checkpoints as they were, with all that belongs to them."""
    with SqliteSaver(database_path) as saver:
        fill(saver)
        wanted = listed(saver)
    victims = Victims(True, database_path, postgres)
    parts = set()
    for _ in range(KILLS):
        victims.kill_one()
        with postgres_saver(postgres) as theirs:
            part = listed(theirs)
        assert part == {key: wanted[key] for key in part}
        assert orphans(postgres) == []
        parts.add(len(part))
    assert len(parts - {0, len(wanted)}) > 1, "no kill came in the middle"
    to_postgres(database_path, postgres, verify=True)
    with postgres_saver(postgres) as theirs:
        assert listed(theirs) == wanted


def test_a_move_from_postgres_that_is_killed(database_path: Path, postgres: str) -> None:
    """The same, in the file."""
    with postgres_saver(postgres) as theirs:
        theirs.setup()
        fill(theirs)
        wanted = listed(theirs)
    victims = Victims(False, database_path, postgres)
    parts = set()
    for _ in range(KILLS):
        victims.kill_one()
        with SqliteSaver(database_path) as ours:
            part = listed(ours)
            assert part == {key: wanted[key] for key in part}
            assert ours.check() == []
        parts.add(len(part))
    assert len(parts - {0, len(wanted)}) > 1, "no kill came in the middle"
    from_postgres(postgres, database_path, verify=True)
    with SqliteSaver(database_path) as ours:
        assert listed(ours) == wanted
