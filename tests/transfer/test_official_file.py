"""The official saver's file is read, whatever its owner does, and never changed."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from subprocess import PIPE
from typing import Any, NamedTuple

import pytest
from langgraph.store.sqlite import SqliteStore
from savers.helpers import execute, get, numbers, place, prose, rows, save

from langgraph_sqlite_saver import SqliteSaver, StorageError, UnknownSchemaError
from langgraph_sqlite_saver.database import CannotOpenError, NotADatabaseError
from langgraph_sqlite_saver.transfer import TransferError, import_official

from .official import (
    contents,
    expect_all,
    official_saver,
    without_task_path,
)


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """The official saver's file, alone in its directory."""
    (tmp_path / "old").mkdir()
    return tmp_path / "old" / "official.db"


@pytest.fixture
def new(tmp_path: Path) -> Path:
    return tmp_path / "new.db"


def fill(saver: Any, *, start: int = 1, stop: int = 6) -> None:
    for number in range(start, stop):
        config = save(saver, number, {"a": [prose(300, number)]}, parent=number - 1 or None)
        saver.put_writes(config, [("a", number)], "task")


def test_tables_that_are_not_the_savers_are_named(old: Path, new: Path) -> None:
    """LangGraph's store may be in the same file; neither it nor an index of it is carried."""
    with official_saver(old) as saver:
        fill(saver)
    assert import_official(old, new).tables_left == ()
    with SqliteStore.from_conn_string(str(old)) as store:
        store.setup()
        store.put(("user",), "key", {"v": 1})
    assert import_official(old, new).tables_left == ("store", "store_migrations")
    assert not rows(new, "SELECT name FROM sqlite_master WHERE name LIKE '%store%'")


# --- what its owner left


@contextmanager
def closed(path: Path) -> Iterator[None]:
    """As the saver leaves it: no -wal."""
    with official_saver(path) as saver:
        fill(saver)
    yield


@contextmanager
def version_two(path: Path) -> Iterator[None]:
    """From before `writes` had a task_path."""
    with closed(path):
        without_task_path(path)
        yield


@contextmanager
def without_wal_mode(path: Path) -> Iterator[None]:
    """In another journal mode, as a VACUUM INTO leaves a copy."""
    with closed(path), closing(sqlite3.connect(path)) as conn:
        conn.execute("PRAGMA journal_mode = DELETE")
    yield


@contextmanager
def in_use(path: Path) -> Iterator[None]:
    """Its owner has it open; some of it is in the -wal alone."""
    with official_saver(path) as saver:
        fill(saver)
        assert Path(f"{path}-wal").stat().st_size > 0
        yield


@contextmanager
def killed(path: Path) -> Iterator[None]:
    """Its owner is gone; some of it is in the -wal alone."""
    program = """
import os, signal, sys
sys.path[:0] = sys.argv[2:]
from transfer.official import official_saver
from transfer.test_official_file import fill
with official_saver(sys.argv[1]) as saver:
    fill(saver)
    os.kill(os.getpid(), signal.SIGKILL)
"""
    tests = str(Path(__file__).parents[1])
    ended = subprocess.run([sys.executable, "-c", program, str(path), tests], check=False)
    assert ended.returncode == -signal.SIGKILL
    assert Path(f"{path}-wal").stat().st_size > 0
    yield


@contextmanager
def copied_without_shm(path: Path) -> Iterator[None]:
    """The file and its -wal, copied elsewhere while it was in use."""
    with in_use(path.with_name("other.db")):
        for suffix in ("", "-wal"):
            shutil.copyfile(path.with_name(f"other.db{suffix}"), f"{path}{suffix}")
    path.with_name("other.db").unlink()
    yield


STATES = {each.__name__: each for each in (closed, version_two, without_wal_mode, in_use, killed,
                                           copied_without_shm)}  # fmt: skip


@pytest.mark.parametrize("state", STATES.values(), ids=STATES)
def test_the_old_file_is_not_changed(state: Any, old: Path, new: Path) -> None:
    """Nor the files beside it; none is left that was not there.

    But for the -shm that belongs to a -wal: only the -wal's owner can tell when nobody needs it.
    """
    with state(old):
        before, changed = contents(old.parent), old.stat().st_mtime_ns
        if f"{old.name}-wal" in before:
            before[f"{old.name}-shm"] = None
        done = import_official(old, new, verify=True)
        assert (done.checkpoints, done.writes, done.verified) == (5, 5, 5)
        assert contents(old.parent) == before
        assert old.stat().st_mtime_ns == changed
        shutil.copytree(old.parent, copy := old.parent.with_name("copy"))
        expect_all(copy / old.name, new)


def test_an_import_that_fails_leaves_nothing_beside_the_file(old: Path, new: Path) -> None:
    """Whether it was refused or stopped."""
    with official_saver(old) as saver:
        fill(saver)
    before = contents(old.parent)

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        import_official(old, new, progress=stop)
    assert contents(old.parent) == before
    execute(old, "UPDATE checkpoints SET type = 'odd'")
    before = contents(old.parent)
    with pytest.raises(TransferError, match="odd"):
        import_official(old, new)
    execute(old, "DROP TABLE writes")
    before = contents(old.parent)
    with pytest.raises(UnknownSchemaError, match="writes"):
        import_official(old, new)
    assert contents(old.parent) == before


def test_one_state_is_read_while_its_owner_writes(old: Path, new: Path) -> None:
    """What he changes, adds and deletes meanwhile is not in it; the next import brings that."""
    with official_saver(old) as saver:
        fill(saver)
        fill(saver, start=1, stop=3)
        copy = old.with_name("copy.db")
        with closing(sqlite3.connect(copy)) as target:
            saver.conn.backup(target)
        reported = []

        def write(done: int, total: int) -> None:
            if not reported:
                saver.delete_thread("gone")
                save(saver, 5, {"a": ["replaced"]}, parent=4)
                fill(saver, start=6, stop=8)
                save(saver, 1, thread="another")
                saver.put_writes(place(1), [("b", "more")], "another task")
                saver.conn.execute("PRAGMA wal_checkpoint(PASSIVE)")
            reported.append((done, total))

        save(saver, 1, thread="gone")
        with closing(sqlite3.connect(copy)) as target:
            saver.conn.backup(target)
        assert import_official(old, new, verify=True, progress=write).threads == 2
        expect_all(copy, new)
        saver.delete_thread("gone")
        save(saver, 5, {"a": [prose(300, 5)]}, parent=4)  # as it was
        done = import_official(old, new, verify=True)
        assert (done.checkpoints, done.already_there) == (3, 5)
        with SqliteSaver(new) as ours:
            assert numbers(list(ours.list(place()))) == [7, 6, 5, 4, 3, 2, 1]
            assert get(ours, 1).pending_writes[0] == ("another task", "b", "more")
    assert reported == sorted(reported)
    assert reported[-1][0] == reported[-1][1]


def test_progress_goes_from_none_to_all(old: Path, new: Path) -> None:
    """Never back, never beyond the total."""
    with official_saver(old) as saver:
        fill(saver, stop=60)
    for verify in (True, False):  # the second time it is there already
        seen: list[tuple[int, int]] = []
        import_official(
            old, new, verify=verify, progress=lambda *each, seen=seen: seen.append(each)
        )
        assert seen == sorted(seen)
        assert {total for _, total in seen} == {old.stat().st_size * (1 + verify)}
        assert seen[-1][0] == seen[-1][1]


# --- where nothing can be written

AS_NOBODY = """
import os, sys
sys.path[:0] = [sys.argv[3]]
from langgraph_sqlite_saver.transfer import import_official
os.setgid(65534)
os.setuid(65534)
told = []

def wait(done, total):
    if not told:
        told.append(print("reading", flush=True))
        sys.stdin.readline()

done = import_official(sys.argv[1], sys.argv[2], verify=True, progress=wait)
print(done.checkpoints, done.writes, done.verified)
"""


class AsNobody(NamedTuple):
    """An import by another user: what it printed, what it said in the end, and into which file."""

    printed: str
    error: str
    new: Path


def import_as_nobody(old: Path, meanwhile: Callable[[], object] = lambda: None) -> AsNobody:
    """Into a directory of nobody's, from a file that he may only read."""
    new = old.parents[1] / "nobody" / "new.db"
    new.parent.mkdir(exist_ok=True)
    os.chown(new.parent, 65534, 65534)
    for each in old.parent.iterdir():
        each.chmod(0o644)
    old.parent.chmod(0o755)
    package = Path(__file__).parents[2]
    child = subprocess.Popen(
        [sys.executable, "-c", AS_NOBODY, str(old), str(new), str(package)],
        cwd="/", stdin=PIPE, stdout=PIPE, stderr=PIPE, text=True,
    )  # fmt: skip
    with child:
        assert child.stdout is not None
        if child.stdout.readline() == "reading\n":
            meanwhile()
        printed, errors = child.communicate("\n")
    return AsNobody(printed.strip(), errors.strip().splitlines()[-1] if errors else "", new)


@pytest.fixture
def public() -> Iterator[Path]:
    """As `old`, where other users may look."""
    if os.geteuid() != 0:
        pytest.skip("only root can be another user")
    with tempfile.TemporaryDirectory() as directory:
        (inside := Path(directory) / "old").mkdir()
        Path(directory).chmod(0o755)
        yield inside / "official.db"


@pytest.mark.parametrize("own_directory", [False, True])
@pytest.mark.parametrize("state", [closed, without_wal_mode, in_use, killed])
def test_a_file_that_cannot_be_written_is_read(
    state: Any, own_directory: bool, public: Path
) -> None:
    """On media, or in a directory, that can only be read; a read-only file in one's own as well.

    Nothing stays beside it that this user could not take away again.
    """
    with state(public):
        if own_directory:
            os.chown(public.parent, 65534, 65534)
        before = contents(public.parent)
        done = import_as_nobody(public)
        assert (done.printed, done.error) == ("5 5 5", "")
        assert contents(public.parent) == before
        expect_all(public, done.new)


@pytest.mark.parametrize("own_directory", [False, True])
def test_a_file_that_somebody_else_begins_to_write_is_told(
    own_directory: bool, public: Path
) -> None:
    """Then one state of it cannot be had; the next import brings what is missing."""

    def write() -> None:
        with official_saver(public) as saver:
            fill(saver, start=6, stop=9)

    with closed(public):
        if own_directory:
            os.chown(public.parent, 65534, 65534)
        done = import_as_nobody(public, meanwhile=write)
        assert "TransferError" in done.error
        assert "was written to while it was read" in done.error
        assert import_as_nobody(public).error == ""
        expect_all(public, done.new)


def test_a_wal_that_cannot_be_read_is_never_left_out(public: Path) -> None:
    """Without its -shm, where none can be made: an error, and nothing is carried."""
    with copied_without_shm(public):
        before = contents(public.parent)
        done = import_as_nobody(public)
        assert "CannotOpenError" in done.error
        assert "official.db" in done.error
        assert not done.new.exists()
        assert contents(public.parent) == before


# --- what is no such file


def no_file(path: Path) -> None:
    """There is none."""


def directory(path: Path) -> None:
    path.mkdir()


def empty(path: Path) -> None:
    path.touch()


def text(path: Path) -> None:
    path.write_text("This is no database. " * 100)


def nearly(path: Path) -> None:
    """It begins as one."""
    path.write_bytes(b"SQLite format 3\0" + b"\xff" * 5_000)


def no_tables(path: Path) -> None:
    with closing(sqlite3.connect(path)) as conn:
        conn.execute("CREATE TABLE something (else_ TEXT)")


def other_tables(path: Path) -> None:
    """Of the same names, somebody else's."""
    with closing(sqlite3.connect(path)) as conn:
        conn.execute("CREATE TABLE checkpoints (id INTEGER)")
        conn.execute("CREATE TABLE writes (id INTEGER)")


def half(path: Path) -> None:
    """One of the two tables."""
    with official_saver(path) as saver:
        saver.setup()
    execute(path, "DROP TABLE checkpoints")


def ours(path: Path) -> None:
    with SqliteSaver(path) as saver:
        save(saver, 1)


NO_FILES = {
    no_file: (CannotOpenError, "there is no file"),
    directory: (CannotOpenError, "directory"),
    empty: (CannotOpenError, "is empty"),
    text: (NotADatabaseError, "database"),
    nearly: (StorageError, "."),
    no_tables: (UnknownSchemaError, "not written by langgraph-checkpoint-sqlite"),
    other_tables: (UnknownSchemaError, "lacks"),
    half: (UnknownSchemaError, "checkpoints"),
    ours: (UnknownSchemaError, "langgraph-sqlite-saver already"),
}


@pytest.mark.parametrize("made", NO_FILES, ids=lambda each: each.__name__)
@pytest.mark.parametrize("target", ["missing", "there"])
def test_what_is_no_file_of_the_official_saver_is_refused(
    made: Any, target: str, old: Path, new: Path
) -> None:
    """The error names the file; neither it nor the target is changed or made."""
    made(old)
    if target == "there":
        with SqliteSaver(new) as saver:
            save(saver, 7, {"a": [1]})
    before, target_before = contents_or_none(old), contents(new.parent)
    kind, reason = NO_FILES[made]
    with pytest.raises(kind, match=reason) as raised:
        import_official(old, new)
    assert str(old) in str(raised.value)
    assert contents_or_none(old) == before
    assert contents(new.parent) == target_before


def contents_or_none(path: Path) -> Any:
    return contents(path if path.is_dir() else path.parent)


def test_a_file_of_the_official_saver_is_no_target(old: Path, tmp_path: Path) -> None:
    """Another one, nor the source itself; nothing in it is changed."""
    other = tmp_path / "other.db"
    for path in (old, other):
        with official_saver(path) as saver:
            fill(saver)
    for target, kind, reason in (
        (other, UnknownSchemaError, "langgraph-checkpoint-sqlite"),
        (old, TransferError, "is the old file"),
    ):
        before = target.read_bytes()
        with pytest.raises(kind, match=reason):
            import_official(old, target)
        assert target.read_bytes() == before


def test_a_target_that_cannot_be_made_is_an_error(old: Path, tmp_path: Path) -> None:
    """Where there is no directory."""
    with official_saver(old) as saver:
        fill(saver)
    before = contents(old.parent)
    with pytest.raises(CannotOpenError, match="nowhere"):
        import_official(old, tmp_path / "nowhere" / "new.db")
    assert contents(old.parent) == before


def test_a_file_without_a_checkpoint_brings_nothing(old: Path, new: Path) -> None:
    """And is no error."""
    with official_saver(old) as saver:
        saver.setup()
    done = import_official(old, new, verify=True)
    assert (done.threads, done.checkpoints, done.writes, done.verified) == (0, 0, 0, 0)
    assert rows(new, "SELECT * FROM checkpoints") == []


def test_names_with_signs_of_a_uri_are_paths(tmp_path: Path) -> None:
    """Whatever the file is called."""
    old, new = tmp_path / "a b%20?mode=rw#é.db", tmp_path / "new.db"
    with official_saver(old) as saver:
        fill(saver)
    assert import_official(str(old), str(new), verify=True).checkpoints == 5
    expect_all(old, new)
