"""threads, stats, optimize, backup: what the file holds, and keeping it in shape."""

from __future__ import annotations

import asyncio
import copy
import os
import sqlite3
import threading
from contextlib import closing
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import aiosqlite
import pytest

from langgraph_sqlite_saver import (
    AsyncSqliteSaver,
    Event,
    InvalidInputError,
    SqliteSaver,
    Stats,
    StorageError,
    ThreadInfo,
)

from .helpers import LIST, chain, count, dump, names, numbers, orphans, place, rows, save, values


def moment(*parts: int) -> datetime:
    return datetime(*parts, tzinfo=timezone.utc)  # type: ignore[arg-type,misc]


# --- threads


def test_threads_tells_what_each_thread_has(every_saver: Any, database_path: Path) -> None:
    """Id, namespaces, checkpoints, the newest's time, and its bytes."""
    for number in (1, 2, 3):
        save(every_saver, number, {"a": [number]}, thread="b", ts=f"2026-01-0{number}T10:00:00Z")
    save(every_saver, 1, thread="b", ns="child", ts="2026-02-01T00:00:00+02:00")
    save(every_saver, 1, thread="a", ts="no time")
    save(every_saver, 1, {"a": "x" * 5000}, thread="c", ts="2026-01-01T00:00:00.500")
    a, b, c = every_saver.threads()
    assert isinstance(a, ThreadInfo)
    assert (a.thread_id, a.namespaces, a.checkpoints, a.last_ts) == ("a", [""], 1, None)
    assert (b.thread_id, b.namespaces, b.checkpoints) == ("b", ["", "child"], 4)
    assert b.last_ts == moment(2026, 1, 31, 22)
    assert c.last_ts == datetime(2026, 1, 1, 0, 0, 0, 500_000, timezone.utc)
    assert c.bytes < 200 < 5000 < c.logical_bytes < 6000


def test_the_bytes_of_threads_add_up_to_the_files(saver: Any) -> None:
    """Checkpoints with their metadata, blobs and writes."""
    for thread in "abc":
        chain(saver, 5, thread=thread)
        saver.put_writes(place(5, thread), [("c", "ü" * 100), ("d", None)], "task")
    stats = saver.stats()
    total = sum(thread.bytes for thread in saver.threads())
    assert total == stats.checkpoint_bytes + stats.blob_bytes + stats.write_bytes > 300


def test_an_empty_file_has_no_threads(saver: Any) -> None:
    """Nor one whose only thread was deleted; waiting writes make none."""
    assert saver.threads() == []
    chain(saver, 1)
    saver.delete_thread("t")
    saver.put_writes(place(1), [("c", 1)], "task")
    assert saver.threads() == []


# --- stats


def test_stats_counts_and_weighs(every_saver: Any, database_path: Path) -> None:
    """What the tables hold, what the disk holds, and how it is written."""
    chain(every_saver, 5)
    every_saver.put_writes(place(5), [("c", b"x" * 1000), ("d", 1)], "task")
    stats = every_saver.stats()
    assert isinstance(stats, Stats)
    assert stats.path == str(database_path)
    assert (stats.threads, stats.checkpoints, stats.blobs, stats.writes) == (1, 5, 5, 2)
    assert 1000 < stats.write_bytes < 1100
    assert stats.file_bytes == database_path.stat().st_size
    assert stats.wal_bytes == Path(f"{database_path}-wal").stat().st_size
    assert (stats.journal_mode, stats.synchronous) == ("wal", "NORMAL")
    assert stats.sqlite_version == sqlite3.sqlite_version
    assert stats.schema_version == 10
    assert stats.as_dict()["checkpoints"] == 5


def test_stats_shows_the_settings_in_use(open_driver: Any, database_path: Path) -> None:
    """Overridden PRAGMAs too."""
    driver = open_driver("sync", database_path, pragmas={"synchronous": "FULL"})
    assert driver.stats().synchronous == "FULL"


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_everything_works_in_memory(open_driver: Any, tmp_path: Path, mode: str) -> None:
    """Where there is no file, and one connection."""
    driver = open_driver(mode, ":memory:")
    chain(driver, 5)
    assert driver.stats().path is None
    assert driver.stats().file_bytes > 0
    assert [thread.checkpoints for thread in driver.threads()] == [5]
    driver.prune(["t"])
    driver.optimize(vacuum="full")
    assert count(driver.backup(tmp_path / "backup.db"), "checkpoints") == 1
    assert values(driver) == {"list": [5]}


# --- optimize


def fill(saver: Any, threads: int = 5) -> None:
    for thread in range(threads):
        for number in range(1, 20):
            save(saver, number, {"a": os.urandom(10_000)}, thread=thread)


@pytest.mark.parametrize("vacuum", [None, "incremental", "full"])
def test_optimize_gives_free_pages_back_on_request(
    every_saver: Any, database_path: Path, vacuum: Any
) -> None:
    """`incremental` and `full` shrink the file; the -wal is a page long afterwards in any case."""
    fill(every_saver)
    for thread in range(4):
        every_saver.delete_thread(thread)
    every_saver.optimize()
    before = every_saver.stats()
    assert before.free_bytes > before.file_bytes / 2
    every_saver.optimize(vacuum=vacuum)
    after = every_saver.stats()
    assert after.wal_bytes < 10_000  # a page
    if vacuum is None:
        assert (after.file_bytes, after.free_bytes) == (before.file_bytes, before.free_bytes)
    else:
        assert after.free_bytes == 0
        assert after.file_bytes < before.file_bytes / 2
    assert len(every_saver.list(None)) == 19
    assert rows(database_path, "PRAGMA integrity_check") == [("ok",)]


@pytest.mark.parametrize("vacuum", ["all", True, ""])
def test_a_vacuum_that_is_none_is_refused(saver: Any, vacuum: Any) -> None:
    """The error names the two there are."""
    with pytest.raises(InvalidInputError, match="incremental"):
        saver.optimize(vacuum=vacuum)


def test_listing_goes_on_across_a_vacuum(open_driver: Any, database_path: Path) -> None:
    """Which renumbers rows: a page's end is its key."""
    saver = open_driver("sync", database_path).saver
    chain(saver, 30, thread="gone")
    chain(saver, 60)
    listing = saver.list(None)
    first = [next(listing) for _ in range(10)]
    saver.delete_thread("gone")
    saver.optimize(vacuum="full")
    seen = [each for each in [*first, *listing] if each.config["configurable"]["thread_id"] == "t"]
    assert numbers(seen) == list(range(60, 0, -1))


# --- backup


def test_a_backup_holds_everything(every_saver: Any, tmp_path: Path, open_driver: Any) -> None:
    """It is a file that a saver opens; only its owner may read it; the path comes back."""
    chain(every_saver, 5)
    every_saver.put_writes(place(5), [("c", LIST)], "task")
    target = tmp_path / "backups" / "agent.db"
    target.parent.mkdir()
    assert every_saver.backup(str(target)) == target
    assert names(target.parent) == ["agent.db"]
    assert target.stat().st_mode & 0o777 == 0o600
    assert dump(open_driver("sync", target)) == dump(every_saver)


def test_a_backup_replaces_an_older_one(saver: Any, tmp_path: Path) -> None:
    """Which stays until the new one is whole."""
    target = tmp_path / "backup.db"
    for length in (1, 2):
        chain(saver, length)
        saver.backup(target)
        assert count(target, "checkpoints") == length


def test_progress_is_told_in_pages(saver: Any, tmp_path: Path) -> None:
    """Growing up to the total."""
    fill(saver, 60)
    told: list[tuple[int, int]] = []
    saver.backup(tmp_path / "backup.db", progress=lambda done, total: told.append((done, total)))
    assert len(told) > 1
    assert told == sorted(told)
    assert told[-1][0] == told[-1][1] > 0


def test_a_backup_that_fails_leaves_nothing_and_the_older_one(saver: Any, tmp_path: Path) -> None:
    """It appears whole or not at all."""
    target = tmp_path / "backups" / "agent.db"
    target.parent.mkdir()
    chain(saver, 1)
    saver.backup(target)
    before = target.read_bytes()
    fill(saver)

    def stop(done: int, total: int) -> None:
        raise KeyError("stopped")

    with pytest.raises(KeyError, match="stopped"):
        saver.backup(target, progress=stop)
    assert names(target.parent) == ["agent.db"]
    assert target.read_bytes() == before
    chain(saver, 1, thread="still works")


@pytest.mark.parametrize("how", ["same", "dots", "symlink", "hardlink", "relative"])
def test_a_backup_onto_the_database_itself_is_refused(
    saver: Any, database_path: Path, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However its path is written."""
    chain(saver, 3)
    monkeypatch.chdir(database_path.parent)
    targets = {
        "same": database_path,
        "dots": database_path.parent / "x" / ".." / database_path.name,
        "relative": Path(database_path.name),
        "symlink": database_path.with_name("symlink.db"),
        "hardlink": database_path.with_name("hardlink.db"),
    }
    (database_path.parent / "x").mkdir()
    if how == "symlink":
        targets[how].symlink_to(database_path)
    if how == "hardlink":
        targets[how].hardlink_to(database_path)
    with pytest.raises(InvalidInputError, match="itself"):
        saver.backup(targets[how])
    assert len(saver.list(None)) == 3


@pytest.mark.parametrize("target", ["missing/backup.db", "", "directory", None, 7])
def test_a_backup_that_cannot_be_written_is_an_error_of_ours(
    saver: Any, tmp_path: Path, target: Any
) -> None:
    """Into a directory that is not there, onto one, or onto nothing."""
    chain(saver, 1)
    (tmp_path / "directory").mkdir()
    before = names(tmp_path)
    with pytest.raises(StorageError):
        saver.backup(tmp_path / target if isinstance(target, str) else target)
    assert names(tmp_path) == before


def test_a_backup_is_a_snapshot_while_a_thread_writes(
    open_driver: Any, database_path: Path, tmp_path: Path
) -> None:
    """Whole checkpoints, everything from before its start, no waiting for the writer to stop."""
    saver = open_driver("sync", database_path).saver
    fill(saver, 60)
    stop = threading.Event()
    totals: set[tuple[int, int]] = set()
    written: list[int] = []

    def write() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            save(saver, number, {"a": os.urandom(5000), "b": [number]}, thread="writer")
            written.append(number)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for turn in range(3):
            at_least = len(written)
            target = saver.backup(
                tmp_path / f"backup{turn}.db", progress=lambda _, n, t=turn: totals.add((t, n))
            )
            with SqliteSaver(target) as copy:
                found = numbers(list(copy.list(place(thread="writer"))))
                assert found == list(range(len(found), 0, -1))
                assert len(found) >= at_least
                for each in copy.list(place(thread="writer")):
                    assert set(each.checkpoint["channel_values"]) == {"a", "b"}
            assert rows(target, "PRAGMA integrity_check") == [("ok",)]
            assert orphans(target) == []
    finally:
        stop.set()
        writer.join()
    assert len(totals) == 3  # no commit made a backup start anew


@pytest.mark.parametrize("wal", [True, False])
def test_a_backup_over_a_database_that_died_is_not_mixed_with_its_wal(
    saver: Any, tmp_path: Path, wal: bool
) -> None:
    """What lay beside the old file is no part of the new one."""
    target = tmp_path / "old.db"
    with closing(sqlite3.connect(target)) as conn:
        conn.execute(f"PRAGMA journal_mode = {'WAL' if wal else 'DELETE'}")
        conn.execute("CREATE TABLE old (x)")
        conn.commit()
        left = {each: each.read_bytes() for each in tmp_path.glob("old.db?*")}
    for path, content in left.items():
        path.write_bytes(content)
    assert bool(left) is wal
    chain(saver, 3)
    try:
        saver.backup(target)
    except StorageError:
        return
    assert count(target, "checkpoints") == 3
    assert rows(target, "PRAGMA integrity_check") == [("ok",)]


def test_a_backup_of_a_borrowed_connection(database_path: Path, tmp_path: Path) -> None:
    """Of what its owner has committed; onto his own file it is refused."""
    with closing(sqlite3.connect(database_path, check_same_thread=False)) as conn:
        saver = SqliteSaver(conn)
        chain(saver, 2)
        assert count(saver.backup(tmp_path / "backup.db"), "checkpoints") == 2
        with pytest.raises(StorageError):
            saver.backup(database_path)
        assert len(list(saver.list(None))) == 2


# --- new files


def test_new_files_are_private(saver: Any, database_path: Path) -> None:
    """The database, and what lies beside it."""
    chain(saver, 1)
    modes = {each.stat().st_mode & 0o777 for each in database_path.parent.iterdir()}
    assert modes == {0o600}


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_new_files_can_be_for_others_too(open_driver: Any, database_path: Path, mode: str) -> None:
    """Backups stay private: they are mostly kept elsewhere."""
    saver = open_driver(mode, database_path, mode=0o644)
    chain(saver, 1)
    assert {each.stat().st_mode & 0o777 for each in database_path.parent.iterdir()} == {0o644}
    made = saver.backup(database_path.with_name("backup.db"))
    assert made.stat().st_mode & 0o777 == 0o600


def test_a_closed_file_is_alone(every_saver: Any, database_path: Path) -> None:
    """The last to close leaves no -wal."""
    chain(every_saver, 2)
    every_saver.saver.close()
    assert names(database_path.parent) == ["agent.db"]


# --- events


@pytest.mark.parametrize("mode", ["sync", "async", "sync-awaited", "async-blocking"])
@pytest.mark.parametrize("borrowed", [False, True])
def test_on_event_is_told_of_saves_and_reads(
    open_driver: Any, database_path: Path, mode: str, borrowed: bool
) -> None:
    """By the names of the methods; also by the copies that compile() makes of a saver."""
    told: list[Event] = []
    conn = sqlite3.connect(database_path, check_same_thread=False)
    saver = open_driver(mode, conn if borrowed else database_path, on_event=told.append)
    save(saver, 1, {"a": LIST})
    saver.put_writes(place(1), [("a", LIST)], "task")
    saver.get_tuple(place())
    done = {(each.kind, each.operation) for each in told if each.error is None}
    assert {("write", "put"), ("write", "put_writes"), ("read", "get_tuple")} <= done
    assert sum(each.operations for each in told if each.kind == "commit") == (0 if borrowed else 2)
    told.clear()
    again = copy.copy(saver.saver)
    assert again.database is saver.saver.database
    saver.list(None)
    assert [each.kind for each in told] == ["read"]
    conn.close()


def test_on_event_is_told_of_an_aiosqlite_connection(database_path: Path) -> None:
    """Its operations; it commits each by itself."""
    told: list[Event] = []

    async def scenario() -> None:
        async with aiosqlite.connect(database_path) as conn:
            saver = AsyncSqliteSaver(conn, on_event=told.append)
            await saver.adelete_thread("none")
            assert await saver.aget_tuple(place()) is None

    asyncio.run(scenario())
    assert [each.kind for each in told] == ["write", "read"]
