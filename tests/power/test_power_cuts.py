"""After a power cut the file is whole, and holds what `synchronous` promises.

A workload runs under a recorder; the power is cut at random moments of the record, and each
directory that a cut could have left (`disk.py` says how) is opened and read. `make test` cuts a few
hundred times, `make power` and `make soak` some ten thousand times. POWER_SEED repeats a run; with
several workers the order of their commits differs all the same.
"""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing, suppress
from functools import cache, partial
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from properties.model import Model
from properties.rows import assert_sound
from stress import steps
from stress.outcomes import apply, expected, stored, threads_of
from stress.victim import Task, program

from langgraph_sqlite_saver import SqliteSaver, StorageError
from langgraph_sqlite_saver.checkpoints.restoring import check_backup

from . import workload
from .rig import SOAK, Cut, Rig, seed_of_this_run
from .workload import BACKUP_STEPS, RELAY, day_of, relay_schema

LEVELS = pytest.mark.parametrize("synchronous", ["FULL", "NORMAL"])
RUNS = 8 if SOAK else 1


def cuts(few: int, many: int) -> int:
    """How many cuts of each run, in `make test` and in the soak."""
    return many if SOAK else few


# Saving.


class Saves:
    """What the programs of a run make of its threads, operation by operation."""

    def __init__(self, seed: int, workers: int, operations: int) -> None:
        self.task = Task("sync", "", "", seed, workers)
        self.held: dict[str, list[Any]] = {}  # by thread: after 0, 1, 2 … operations
        for worker in range(workers):
            model, names = Model(), threads_of(self.task, worker)
            for name in names:
                self.held[name] = [expected(model, name)]
            for op in islice(program(self.task, worker), operations):
                apply(op, model)
                for name in names:
                    self.held[name].append(expected(model, name))

    def check(self, cut: Cut, full: bool) -> None:
        """The file is sound, and each thread holds its first operations.

        With FULL none that has returned is missing. An operation that began after another one
        returned is not there without that one.
        """
        path = cut.folder / "agent.db"
        with SqliteSaver(path) as saver:
            assert saver.check() == []
            found = {name: self._counts(cut, saver, name) for name in self.held}
            steps.save(saver, "after the cut", 0)
            steps.check(saver.get_tuple(steps.config_of("after the cut")), "after the cut", 0)
        assert_sound(path)
        if full:
            returned = {str(w): cut.count(f"done {w}") for w in range(self.task.workers)}
            self._check_present(found, returned)
        self._check_order(cut, found)

    def _counts(self, cut: Cut, saver: SqliteSaver, name: str) -> list[int]:
        """After how many of its worker's operations the thread looks as it does."""
        started, found = cut.count(f"start {_worker(name)}"), stored(saver, name)
        counts = [n for n in range(started + 1) if self.held[name][n] == found]
        assert counts, f"thread {name} holds what it never held"
        return counts

    def _check_present(self, found: dict[str, list[int]], returned: dict[str, int]) -> None:
        for name, counts in found.items():
            wanted = returned[_worker(name)]
            assert max(counts) >= wanted, f"thread {name} lost operation {wanted}: {counts}"

    def _check_order(self, cut: Cut, found: dict[str, list[int]]) -> None:
        """The last operation that is surely there needs all that returned before it began."""
        started = [dict.fromkeys(map(str, range(self.task.workers)), 0)]
        before = {worker: list(started) for worker in started[0]}
        done = started[0]
        for mark in cut.marks:
            what, worker = mark.split()
            if what == "done":
                done = {**done, worker: done[worker] + 1}
            else:
                before[worker].append(done)
        for name, counts in found.items():
            self._check_present(found, before[_worker(name)][min(counts)])


def _worker(thread: str) -> str:
    return thread.split()[1]


@LEVELS
@pytest.mark.parametrize("workers", [1, 3])
def test_saves(rig: Rig, synchronous: str, workers: int) -> None:
    """FULL loses nothing that returned; NORMAL only what came last. Neither damages the file.

    The -wal is copied, begun anew and cut meanwhile, the file shrinks and is rewritten, and one
    commit holds what several threads saved.
    """
    seed = seed_of_this_run()
    for number in range(RUNS):
        run, operations = seed + number, 24 // workers
        options = {"seed": run, "workers": workers, "operations": operations}
        recording = rig.record(rig.directory(), "saves", synchronous=synchronous, **options)
        saves = Saves(run, workers, 2 * operations)
        recording.check(
            run, cuts(25, 110), lambda cut, s=saves: s.check(cut, synchronous == "FULL")
        )


@LEVELS
def test_a_new_file(rig: Rig, synchronous: str) -> None:
    """Not there, empty, or with its tables; with FULL it is there once a save has returned."""
    seed = seed_of_this_run()
    for number in range(RUNS):
        run = seed + number
        options = {"seed": run, "workers": 1, "operations": 1, "sessions": 2}
        recording = rig.record(rig.directory(), "saves", synchronous=synchronous, **options)
        saves = Saves(run, 1, 2)
        recording.check(run, cuts(20, 70), lambda cut, s=saves: s.check(cut, synchronous == "FULL"))


# Migrations.


@cache
def _tables(version: int) -> tuple[Any, ...]:
    """What sqlite_master says of the relay's tables at a version."""
    with closing(sqlite3.connect(":memory:")) as conn:
        for _ in range(version):
            workload.migrations.apply_next(conn, relay_schema(version))
        return _schema(conn)


def _schema(conn: sqlite3.Connection) -> tuple[Any, ...]:
    return tuple(conn.execute("SELECT type, name, sql FROM sqlite_master ORDER BY 1, 2"))


@LEVELS
def test_migrations(rig: Rig, synchronous: str) -> None:
    """Each is there or not, and its version with it; with FULL it stays once it has returned."""
    seed = seed_of_this_run()

    def check(cut: Cut) -> None:
        versions = range(len(RELAY) + 1)
        first = max([v for v in versions if cut.count(f"done {v}")] or [0])
        last = max([v for v in versions if cut.count(f"start {v}")] or [0])
        with closing(sqlite3.connect(cut.folder / "relay.db")) as conn:
            assert conn.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            version = workload.migrations.applied_version(conn, relay_schema(len(RELAY)))
            assert _schema(conn) == _tables(version)
        assert version <= last
        assert synchronous != "FULL" or version >= first

    for number in range(RUNS):
        recording = rig.record(rig.directory(), "migrate", synchronous=synchronous)
        recording.check(seed + number, cuts(20, 60), check)


# Backups.


def _check_steps(path: Path, numbers: int) -> bool:
    """Whether the file holds exactly so many steps."""
    with SqliteSaver(path) as saver:
        found = list(saver.list(steps.config_of("thread")))
    if len(found) != numbers:
        return False
    steps.check_thread(found, "thread", range(numbers))
    return True


def _check_copy(cut: Cut) -> None:
    started, done = cut.count("start backup"), cut.count("done backup")
    copy = cut.folder / "copy.db"
    if not copy.exists():
        assert done == 0, "a backup is lost"
        return
    with closing(sqlite3.connect(copy)) as conn:
        assert conn.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    assert any(_check_steps(copy, n) for n in range(max(done, 1), started + 1))


def _check_archives(cut: Cut) -> None:
    folder, made = cut.folder / "backups" / "sqlite", range(2, BACKUP_STEPS, 3)
    names = {f"sqlite_backup_{day_of(n):%Y%m%d_%H%M%S}.db.gz": n for n in made}
    done = cut.count("done archive")
    if done:
        assert (folder / list(names)[done - 1]).exists(), "an archive is lost"
    for archive in folder.glob("*.db.gz"):
        figures = check_backup(archive, directory=cut.folder)
        assert figures.tables["checkpoints"] == names[archive.name] + 1


@LEVELS
def test_backups(rig: Rig, synchronous: str) -> None:
    """A backup or an archive is there once its call has returned, and is whole whenever it is."""
    seed = seed_of_this_run()

    def check(cut: Cut) -> None:
        _check_copy(cut)
        _check_archives(cut)

    for number in range(RUNS):
        recording = rig.record(rig.directory(), "backups", synchronous=synchronous)
        recording.check(seed + number, cuts(25, 70), check)


# Restoring.

OLD, NEW = 5, 3


def _prepare(watched: Path, state: str, backup: str) -> None:
    """A database in some state, and a backup of another one."""
    _make_old(watched, state)
    with SqliteSaver(watched / "other.db") as saver:
        for n in range(NEW):
            steps.save(saver, "thread", n)
        saver.backup(watched / "backup.db")
        if backup.endswith(".gz"):
            written = workload.write_backup(saver.database, watched)
            written.rename(watched / backup)
            (watched / "backup.db").unlink()
    (watched / "other.db").unlink()


def _make_old(watched: Path, state: str) -> None:
    if state == "missing":
        return
    with SqliteSaver(watched / "first.db") as saver:
        saver.setup()
        for n in range(OLD):
            steps.save(saver, "thread", n)
            if n == 1:
                saver.optimize()
        shutil.copyfile(watched / "first.db", watched / "agent.db")
        if state != "closed":
            shutil.copyfile(watched / "first.db-wal", watched / "agent.db-wal")
    if state == "closed":
        shutil.copyfile(watched / "first.db", watched / "agent.db")
    (watched / "first.db").unlink()
    if state == "damaged":
        with (watched / "agent.db").open("r+b") as file:
            file.write(b"no database at all")


def _check_restored(cut: Cut, before: dict[str, bytes], state: str, keep: bool) -> None:
    path = cut.folder / "agent.db"
    left = {each.name: each.read_bytes() for each in cut.folder.glob("agent.db*")}
    copies = [each for each in cut.folder.glob("agent.db.before-*") if "-wal" not in each.name]
    is_kept = any(_is_old(copy, before, state) for copy in copies)
    if _is_new(path):
        _check_new(path, cut)
        assert is_kept or not keep or state == "missing", "what was there is lost"
        return
    assert not cut.count("done restore"), "the restored file is lost"
    if state == "missing":
        assert "agent.db" not in left
    elif state == "damaged":
        # Its -wal goes before the new file comes, but for the copy's.
        assert left["agent.db"] == before["agent.db"]
        wal = left.get("agent.db-wal")
        assert wal == before["agent.db-wal"] or (wal is None and (is_kept or not keep))
    else:
        assert _is_old(path, before, state)


def _check_new(path: Path, cut: Cut) -> None:
    """It is sound, and a save that returned after restoring is there."""
    assert_sound(path)
    with SqliteSaver(path) as saver:
        found = saver.get_tuple(steps.config_of("later"))
    if found is not None or cut.count("done save"):
        steps.check(found, "later", 0, writes=bool(cut.count("done save")))


def _is_new(path: Path) -> bool:
    with suppress(StorageError):
        return path.exists() and _check_steps(path, NEW)
    return False


def _is_old(path: Path, before: dict[str, bytes], state: str) -> bool:
    """Whether the file, with its -wal, is what was there: of a damaged one, each byte."""
    if state == "damaged":
        names = {"": "agent.db", "-wal": "agent.db-wal"}
        parts = {suffix: Path(f"{path}{suffix}") for suffix in names}
        return all(
            part.exists() and part.read_bytes() == before[names[suffix]]
            for suffix, part in parts.items()
        )
    with suppress(StorageError):
        if path.exists() and _check_steps(path, OLD):
            assert_sound(path)
            return True
    return False


@pytest.mark.parametrize("state", ["closed", "died", "damaged", "missing"])
def test_restoring(rig: Rig, state: str) -> None:
    """The old database or the new one, whole, with what is its own; the new one, once returned."""
    seed = seed_of_this_run()
    for number in range(2 * RUNS if SOAK else 1):
        watched, run = rig.directory(), seed + number
        backup, keep = ("backup.db", "backup.db.gz")[run % 2], bool(run // 2 % 2)
        _prepare(watched, state, backup)
        before = {each.name: each.read_bytes() for each in watched.iterdir()}
        recording = rig.record(watched, "restore", backup=backup, keep=keep)
        check = partial(_check_restored, before=before, state=state, keep=keep)
        recording.check(run, cuts(15, 60), check)
