"""Following a service that goes on while it is moved, to Postgres and back."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from langgraph_sqlite_saver import SqliteSaver
from langgraph_sqlite_saver.transfer import TransferError
from langgraph_sqlite_saver.transfer.postgres import from_postgres, to_postgres

from .postgres_threads import (
    chain,
    everything,
    execute,
    orphans,
    place,
    postgres_saver,
    query,
    save,
)


class During:
    """Does things to the source in the middle of a move, each in a pass of its own."""

    def __init__(self, *steps: Callable[[], None]) -> None:
        self._steps = list(steps)

    def __call__(self, done: int, total: int) -> None:
        if done == total and self._steps:
            self._steps.pop(0)()


def both(path: Path, uri: str) -> tuple[Any, Any]:
    """What each saver says."""
    with SqliteSaver(path) as ours, postgres_saver(uri) as theirs:
        return everything(ours), everything(theirs)


@dataclass
class Between:
    """Two savers, and moving from the one to the other."""

    way: str
    source: Any
    target: Any
    move: Callable[..., Any]


@pytest.fixture(params=["there", "back"])
def between(
    request: pytest.FixtureRequest, database_path: Path, postgres: str
) -> Iterator[Between]:
    """From our file to Postgres, and back."""

    def there(*steps: Callable[[], None], follow: bool = True) -> Any:
        return to_postgres(database_path, postgres, follow=follow, progress=During(*steps))

    def back(*steps: Callable[[], None], follow: bool = True) -> Any:
        return from_postgres(postgres, database_path, follow=follow, progress=During(*steps))

    with SqliteSaver(database_path) as ours, postgres_saver(postgres) as theirs:
        ours.setup()
        theirs.setup()
        if request.param == "there":
            yield Between("there", ours, theirs, there)
        else:
            yield Between("back", theirs, ours, back)


def test_what_comes_meanwhile_is_carried(database_path: Path, postgres: str) -> None:
    """Checkpoints, writes, threads; it ends when a pass finds nothing to do."""
    with SqliteSaver(database_path) as saver:
        chain(saver, 3)
        done = to_postgres(
            database_path,
            postgres,
            follow=True,
            progress=During(
                lambda: chain(saver, 2, start=4),
                lambda: saver.put_writes(place(2), [("list", [1])], "task"),
                lambda: chain(saver, 1, thread="new"),
            ),
        )
    assert (done.checkpoints, done.writes, done.already_there, done.threads) == (6, 1, 0, 2)
    ours, theirs = both(database_path, postgres)
    assert ours == theirs


def test_what_is_deleted_meanwhile_is_deleted(database_path: Path, postgres: str) -> None:
    """Threads, runs and old checkpoints, with their blobs and writes; children get new parents."""
    with SqliteSaver(database_path) as saver:
        for name in ("gone", "pruned", "stays"):
            chain(saver, 4, thread=name)
            saver.put_writes(place(2, name), [("list", [1])], "task")
        done = to_postgres(
            database_path,
            postgres,
            follow=True,
            progress=During(
                lambda: saver.delete_thread("gone"),
                lambda: saver.prune(["pruned"], keep_last=2),
            ),
        )
    assert done.deleted == 6
    ours, theirs = both(database_path, postgres)
    assert len(ours) == 6
    assert ours == theirs
    assert orphans(postgres) == []


def test_values_that_remaining_checkpoints_share_stay(database_path: Path, postgres: str) -> None:
    """Deleting goes by what no checkpoint uses."""
    with SqliteSaver(database_path) as saver:
        for number in (1, 2):
            values = {"shared": [1], "own": [number]}
            save(saver, number, values, versions={"shared": "1", "own": str(number)},
                 parent=number - 1 or None)  # fmt: skip
        to_postgres(
            database_path, postgres, follow=True, progress=During(lambda: saver.prune(["t"]))
        )
    ours, theirs = both(database_path, postgres)
    assert ours == theirs
    assert orphans(postgres) == []


@pytest.mark.parametrize("follow", [False, True])
def test_nothing_is_deleted_that_the_run_has_not_seen_in_the_file(
    database_path: Path, postgres: str, follow: bool
) -> None:
    """Other threads, and what was saved in these under PostgresSaver, are never touched."""
    with SqliteSaver(database_path) as saver:
        chain(saver, 2)
        to_postgres(database_path, postgres)
        with postgres_saver(postgres) as theirs:
            save(theirs, 9, {"list": ["newer"]}, parent=2)
            chain(theirs, 2, thread="other")
            before = everything(theirs)
        chain(saver, 1, thread="more")
        to_postgres(database_path, postgres, follow=follow)
    _, after = both(database_path, postgres)
    assert {key: after[key] for key in before} == before
    assert len(after) == len(before) + 1


def test_without_follow_nothing_is_deleted(database_path: Path, postgres: str) -> None:
    """Whatever happens meanwhile."""
    with SqliteSaver(database_path) as saver:
        chain(saver, 4)
        moved = During(lambda: saver.delete_thread("t"))
        assert to_postgres(database_path, postgres, progress=moved).deleted == 0
    assert len(both(database_path, postgres)[1]) == 4


def test_writers_go_on_while_it_is_moved(database_path: Path, postgres: str) -> None:
    """Several threads save, prune and delete; once they pause, both sides are the same."""
    stop = threading.Event()
    saved = threading.Semaphore(0)
    failed: list[BaseException] = []

    def serve(name: str) -> None:
        try:
            with SqliteSaver(database_path) as saver:
                for number in range(1, 10_000):
                    chain(saver, 1, start=number, thread=f"{name}-{number % 5}")
                    saver.put_writes(place(number, f"{name}-{number % 5}"), [("list", [0])], "t")
                    if number % 17 == 0:
                        saver.prune([f"{name}-{number % 5}"], keep_last=2)
                    if number % 41 == 0:
                        saver.delete_thread(f"{name}-{number % 5}")
                    saved.release()
                    if stop.is_set():
                        return
        except BaseException as error:
            failed.append(error)
            saved.release(100)  # nobody waits for it

    with SqliteSaver(database_path) as saver:
        for name in "abc":
            chain(saver, 200, thread=f"old-{name}")
    servers = [threading.Thread(target=serve, args=(name,)) for name in ("x", "y")]
    for server in servers:
        server.start()
    passes = []

    def pause(done: int, total: int) -> None:
        if done == total:
            passes.append(total)
        if len(passes) < 4:  # until both have saved again: the next pass has something to do
            while saved.acquire(blocking=False):
                pass
            for _ in range(len(servers) + 1):
                saved.acquire()
        if len(passes) == 4:
            stop.set()
            for server in servers:
                server.join()

    try:
        to_postgres(database_path, postgres, follow=True, progress=pause)
    finally:
        stop.set()
        for server in servers:
            server.join()
    assert failed == []
    assert len(passes) > 4
    ours, theirs = both(database_path, postgres)
    assert ours == theirs
    assert orphans(postgres) == []


def test_following_postgres_brings_and_deletes_too(database_path: Path, postgres: str) -> None:
    """The same the other way round, prune's new parents included."""
    with postgres_saver(postgres) as theirs:
        theirs.setup()
        for name in ("gone", "pruned", "stays"):
            chain(theirs, 4, thread=name)
            theirs.put_writes(place(2, name), [("list", [1])], "task")
        theirs.put_writes(place(4, "stays"), [("__resume__", 1)], "task")
        done = from_postgres(
            postgres,
            database_path,
            follow=True,
            progress=During(
                lambda: theirs.delete_thread("gone"),
                lambda: theirs.prune(["pruned"]),
                lambda: chain(theirs, 2, start=5, thread="stays"),
                lambda: theirs.put_writes(place(4, "stays"), [("__resume__", 2)], "task"),
            ),
        )
    assert done.deleted == 7
    ours, there = both(database_path, postgres)
    assert len(ours) == 7
    assert ours == there
    with SqliteSaver(database_path) as saver:
        assert saver.check() == []


def test_nothing_is_deleted_in_the_file_that_was_not_seen(
    database_path: Path, postgres: str
) -> None:
    """What was saved in the file since stays."""
    with postgres_saver(postgres) as theirs:
        theirs.setup()
        chain(theirs, 2)
        from_postgres(postgres, database_path)
        with SqliteSaver(database_path) as saver:
            save(saver, 9, {"list": ["newer"]}, parent=2)
            chain(saver, 2, thread="other")
            before = everything(saver)
        from_postgres(postgres, database_path, follow=True)
    assert both(database_path, postgres)[0] == before


def test_what_was_deleted_between_two_calls_is_deleted(between: Between, postgres: str) -> None:
    """Of threads that go on at the source: what is older than their newest, with blobs and writes.

    What the target has of its own stays: newer checkpoints, threads, one of the same name.
    """
    source, target, move = between.source, between.target, between.move
    chain(source, 5, thread="pruned")
    source.put_writes(place(2, "pruned"), [("list", [1])], "task")
    chain(source, 3, thread="same name", start=7)
    move()
    source.prune(["pruned"])
    chain(source, 1, thread="pruned", start=6)
    save(target, 9, {"list": ["newer"]}, thread="pruned")
    chain(target, 2, thread="own")
    target.delete_thread("same name")
    chain(target, 3, thread="same name")
    done = move()
    stored_again = between.way == "back"  # number 5, which has no parent now
    assert (done.deleted, done.checkpoints) == (4, 1 + 3 + stored_again)
    found = everything(target)
    names = [(thread_id, checkpoint_id) for thread_id, _, checkpoint_id in found]
    numbered = [(thread_id, int(checkpoint_id)) for thread_id, checkpoint_id in names]
    assert sorted(numbered) == [
    ("own", 1), ("own", 2), *(("pruned", number) for number in (5, 6, 9)),
    *(("same name", number) for number in (1, 2, 3, 7, 8, 9)),
    ]  # fmt: skip
    assert orphans(postgres) == []


def test_what_was_made_at_the_target_stays_however_old_its_id_is(between: Between) -> None:
    """Made by a clock that is behind, where both sides went on, or under ids that are no times."""
    source, target, move = between.source, between.target, between.move
    for number in (10, 20, 30):
        save(source, number, {"list": [number]}, parent=number - 10 or None)
    move()
    for number, parent in ((5, None), (15, 30), (25, 15), (26, 10)):
        save(target, number, {"list": [number]}, parent=parent)
    before = everything(target)
    save(source, 40, {"list": [40]}, parent=30)
    done = move()
    assert (done.deleted, done.checkpoints) == (0, 1)
    after = everything(target)
    assert {key: after[key] for key in before} == before
    assert len(after) == len(before) + 1


@pytest.mark.parametrize("when", ["meanwhile", "before"])
def test_what_a_thread_has_gone_on_from_is_not_deleted(between: Between, when: str) -> None:
    """Values that were made at the target may rest on any of it; other threads are pruned."""
    source, target, move = between.source, between.target, between.move

    def go_on() -> None:
        save(target, 7, {"list": [7]}, parent=3, thread="used")
        for name in ("used", "pruned"):
            source.prune([name])
            save(source, 6, {"list": [6]}, parent=5, thread=name)

    for name in ("used", "pruned"):
        chain(source, 5, thread=name)
    if when == "meanwhile":
        done = move(go_on)
    else:
        move()
        go_on()
        done = move()
    found = sorted((name, int(number)) for name, _, number in everything(target))
    assert done.deleted == 4
    assert found == [("pruned", 5), ("pruned", 6), *(("used", number) for number in range(1, 8))]


def test_what_never_came_over_is_not_deleted_where_it_is(
    database_path: Path, postgres: str
) -> None:
    """A checkpoint that could not be brought from Postgres stays there on the way back."""
    with postgres_saver(postgres) as theirs:
        theirs.setup()
        chain(theirs, 4)
    execute(
        postgres,
        "UPDATE checkpoints SET checkpoint = jsonb_set(checkpoint, '{channel_versions}', "
        "'{\"list\": [1]}') WHERE checkpoint_id = '000003'",
    )
    with pytest.raises(TransferError, match="checkpoint 000003"):
        from_postgres(postgres, database_path)
    with SqliteSaver(database_path) as saver:
        assert {int(key[-1]) for key in everything(saver)} == {1, 2, 4}
        save(saver, 5, {"list": [5]}, parent=4)
    assert to_postgres(database_path, postgres, follow=True).deleted == 0
    assert len(query(postgres, "SELECT 1 FROM checkpoints")) == 5


@pytest.mark.parametrize("gone_on", ["write", "checkpoint"])
def test_an_answer_stays_where_the_thread_has_gone_on(between: Between, gone_on: str) -> None:
    """The one at the source is older, and not brought again."""
    source, target, move = between.source, between.target, between.move
    chain(source, 1)
    source.put_writes(place(1), [("__resume__", ["one"])], "task")
    move(follow=False)
    target.put_writes(place(1), [("__resume__", ["one", "two"])], "task")
    if gone_on == "write":
        target.put_writes(place(1), [("list", [2])], "task")
    else:
        save(target, 2, {"list": [2]}, parent=1)
    before = everything(target)
    assert move(follow=False).writes == 0
    assert everything(target) == before


@pytest.mark.parametrize("way", ["there", "back"])
def test_progress_goes_up_to_its_end(database_path: Path, postgres: str, way: str) -> None:
    """Within each pass, also where a part is deleted meanwhile, or has only writes."""
    with SqliteSaver(database_path) as ours, postgres_saver(postgres) as theirs:
        ours.setup()
        theirs.setup()
        source = ours if way == "there" else theirs
        for name in "abc":
            chain(source, 1_200, thread=name)
        source.put_writes(place(1, "d"), [("list", [1])], "task")
    told: list[tuple[int, int]] = []

    def tell(done: int, total: int) -> None:
        told.append((done, total))
        if len(told) == 1:
            with SqliteSaver(database_path) as ours, postgres_saver(postgres) as theirs:
                (ours if way == "there" else theirs).delete_thread("c")

    if way == "there":
        to_postgres(database_path, postgres, progress=tell, verify=True)
    else:
        from_postgres(postgres, database_path, progress=tell, verify=True)
    assert told == sorted(told)
    assert told[-1] == (3_600, 3_600)
