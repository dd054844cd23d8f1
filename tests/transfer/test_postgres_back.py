"""From Postgres: what SqliteSaver finds in the file is what PostgresSaver had."""

from __future__ import annotations

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
    fill,
    histories,
    place,
    postgres_saver,
    prose,
    save,
    serde,
)


def test_every_checkpoint_of_postgres_is_what_it_was(
    database_path: Path, postgres: str, encrypted: bool
) -> None:
    """By get_tuple, by list, and as a graph's history: forks, subgraphs, Sends, deltas, models."""
    key = serde(encrypted)
    with postgres_saver(postgres, key) as saver:
        saver.setup()
        fill(saver)
        theirs, told = everything(saver), histories(saver)
    done = from_postgres(postgres, database_path, serde=key, verify=True)
    with SqliteSaver(database_path, serde=key) as ours:
        assert everything(ours) == theirs
        assert histories(ours) == told
        assert ours.check() == []
    assert (done.threads, done.checkpoints, done.verified) == (3, len(theirs), len(theirs))


def test_there_and_back_again_is_as_before(
    database_path: Path, tmp_path: Path, postgres: str, encrypted: bool
) -> None:
    """Ours, Postgres, ours: checkpoint by checkpoint, and no larger than it was."""
    key = serde(encrypted)
    again = tmp_path / "again.db"
    with SqliteSaver(database_path, serde=key) as saver:
        fill(saver)
        ours, told, before = everything(saver), histories(saver), saver.stats()
    to_postgres(database_path, postgres, serde=key)
    from_postgres(postgres, again, serde=key)
    with SqliteSaver(again, serde=key) as saver:
        assert everything(saver) == ours
        assert histories(saver) == told
        after: Any = saver.stats()
    assert (after.checkpoints, after.blobs, after.writes) == (
        before.checkpoints,
        before.blobs,
        before.writes,
    )
    assert after.blob_bytes < before.blob_bytes * 1.1


def test_only_the_threads_that_are_named(database_path: Path, postgres: str) -> None:
    """The others stay where they are; one that is not there is told."""
    with postgres_saver(postgres) as theirs:
        theirs.setup()
        for name in "abc":
            chain(theirs, 2, thread=name)
    done = from_postgres(postgres, database_path, threads=["c"])
    assert (done.threads, done.checkpoints) == (1, 2)
    with pytest.raises(TransferError, match="no thread 'none'"):
        from_postgres(postgres, database_path, threads=["a", "none"])
    with SqliteSaver(database_path) as saver:
        assert {key[0] for key in everything(saver)} == {"a", "c"}


def test_what_is_there_is_left_and_what_is_new_is_added(
    database_path: Path, postgres: str, encrypted: bool
) -> None:
    """Writes that come before their checkpoint, too, and answers that replace others."""
    key = serde(encrypted)
    with postgres_saver(postgres, key) as theirs:
        theirs.setup()
        chain(theirs, 3)
        theirs.put_writes(place(4), [("list", ["early"])], "task")
        theirs.put_writes(place(3), [("__resume__", prose(9_000, 1))], "task")

        def move() -> tuple[int, int, int]:
            done = from_postgres(postgres, database_path, serde=key)
            return done.checkpoints, done.writes, done.already_there

        assert move() == (3, 2, 0)
        assert move() == (0, 0, 3)
        theirs.put_writes(place(3), [("list", ["late"])], "task")
        theirs.put_writes(place(3), [("__resume__", prose(9_000, 2))], "task")
        save(theirs, 4, {"list": [4]}, parent=3)
        assert move() == (1, 2, 3)
        assert move() == (0, 0, 4)
        with SqliteSaver(database_path, serde=key) as saver:
            assert everything(saver) == everything(theirs)


def test_a_move_that_was_stopped_goes_on(database_path: Path, postgres: str) -> None:
    """Whatever raised: what is there are whole checkpoints, and the next call brings the rest."""
    with postgres_saver(postgres) as theirs:
        theirs.setup()
        for name in "abcdefgh":
            chain(theirs, 100, thread=name)
        wanted = everything(theirs)

    def stop(done: int, total: int) -> None:
        if done > 300:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        from_postgres(postgres, database_path, progress=stop)
    with SqliteSaver(database_path) as saver:
        part = everything(saver)
        assert 0 < len(part) < len(wanted)
        assert part == {key: wanted[key] for key in part}
    rest = from_postgres(postgres, database_path)
    assert (rest.checkpoints, rest.already_there) == (len(wanted) - len(part), len(part))
    with SqliteSaver(database_path) as saver:
        assert everything(saver) == wanted


def test_a_large_thread_comes_in_many_pages_and_small(database_path: Path, postgres: str) -> None:
    """Values that are shared are fetched once; what changes little is stored as a difference."""
    words: list[str] = []
    with postgres_saver(postgres) as theirs:
        theirs.setup()
        for number in range(1, 40):
            words = [*words, prose(30_000, number)]
            save(
                theirs,
                number,
                {"document": [prose(400_000)], "words": words, "title": "long " * 200},
                versions={"document": "1", "words": f"{number:03}", "title": "1"},
                parent=number - 1 or None,
            )
        wanted = everything(theirs)
    done = from_postgres(postgres, database_path, verify=True)
    assert done.bytes_after == database_path.stat().st_size < done.bytes_before
    with SqliteSaver(database_path) as saver:
        assert everything(saver) == wanted
        stats = saver.stats()
    assert stats.blobs == 41
    assert stats.blob_bytes * 10 < stats.logical_blob_bytes


def test_values_that_postgres_marks_as_empty_are_none(database_path: Path, postgres: str) -> None:
    """As rows of older savers are: the channel has no value."""
    with postgres_saver(postgres) as theirs:
        theirs.setup()
        chain(theirs, 2)
        execute(postgres, "UPDATE checkpoint_blobs SET type = 'empty', blob = NULL")
        from_postgres(postgres, database_path, verify=True)
        with SqliteSaver(database_path) as saver:
            assert everything(saver) == everything(theirs)
