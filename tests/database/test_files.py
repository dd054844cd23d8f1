"""The files: who may read them, where they are, and what is left when all is closed."""

from __future__ import annotations

import gc
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest

from langgraph_sqlite_saver.database import CannotOpenError, Database

from .helpers import (
    DEADLOCK,
    beside,
    create,
    insert,
    numbers,
    outside,
    run_script,
    script,
    stored,
)


def test_files_are_private(db: Any, path: Path) -> None:
    """The database, its -wal and its -shm, whatever the umask."""
    db.write(insert, 1)
    modes = {each.name: stat.S_IMODE(each.stat().st_mode) for each in path.parent.iterdir()}
    assert modes == {f"test.db{suffix}": 0o600 for suffix in ("", "-wal", "-shm")}


def test_an_existing_file_keeps_its_mode(path: Path) -> None:
    """It may be shared on purpose."""
    outside(path, "CREATE TABLE theirs (a)")
    path.chmod(0o640)
    with Database(path) as db:
        db.write(create)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_the_last_to_close_leaves_one_file(open_database: Any, path: Path) -> None:
    """Reads and writes through two databases; the -wal goes with the second."""
    first, second = open_database(path), open_database(path)
    for db in (first, second):
        db.write(create)
        db.write(insert, 1)
        db.read(numbers)
    first.close()
    assert beside(path) == {"test.db-wal", "test.db-shm"}
    second.close()
    assert beside(path) == set()
    assert stored(path) == [1, 1]


def test_a_database_that_nobody_closed_closes_itself(path: Path) -> None:
    """When it is collected; a ResourceWarning would be an error here."""
    db = Database(path)
    db.write(create)
    db.read(numbers)
    del db
    gc.collect()
    assert beside(path) == set()


def test_a_database_never_used_makes_no_file(open_database: Any, path: Path) -> None:
    """Closing it included."""
    open_database(path).close()
    assert not path.exists()


@pytest.mark.parametrize(
    "ending",
    ["pass", "sys.exit()", "del db", "raise SystemExit"],
)
def test_a_process_may_end_without_closing(path: Path, ending: str) -> None:
    """It ends at once, without a warning, and leaves one file."""
    code = f"""
        db = Database(sys.argv[1])
        db.write(create)
        db.write(insert, 1)
        db.read(numbers)
        {ending}
    """
    assert run_script(code, path) == ""
    assert (beside(path), stored(path)) == (set(), [1])


def test_a_process_may_end_without_closing_an_awaited_database(path: Path) -> None:
    """Its threads don't keep the process alive; a write under way is completed."""
    code = """
        db = AsyncDatabase(sys.argv[1])

        def slow(conn):
            time.sleep(0.3)
            insert(conn, 2)

        async def main():
            await db.write(create)
            await db.write(insert, 1)
            await db.read(numbers)
            asyncio.ensure_future(db.write(slow))
            asyncio.ensure_future(db.write(insert, 3))
            await asyncio.sleep(0.1)

        asyncio.run(main())
    """
    assert run_script(code, path) == ""
    assert (beside(path), stored(path)) == (set(), [1, 2, 3])


def test_a_killed_process_leaves_its_commits(path: Path) -> None:
    """And the next one to open the file clears up."""
    code = """
        db = Database(sys.argv[1])
        db.write(create)
        db.write(insert, 1)
        os.kill(os.getpid(), signal.SIGKILL)
    """
    subprocess.run(script(code, path), timeout=DEADLOCK)
    assert "test.db-wal" in beside(path)
    with Database(path) as db:
        assert db.read(numbers) == [1]
    assert beside(path) == set()


@pytest.mark.parametrize("name", ["a b.db", "100%.db", "a?b#c.db", "é&=;.db", "a%41.db"])
def test_any_file_name_will_do(path: Path, name: str) -> None:
    """Nothing in it is taken for a part of a URI."""
    odd = path.with_name(name)
    with Database(odd) as db:
        db.write(create)
        assert db.read(numbers) == []
        assert db.path == odd
    assert [each.name for each in path.parent.iterdir()] == [name]


def test_uris_are_understood(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Absolute, relative, escaped."""
    monkeypatch.chdir(path.parent)
    for uri in (f"file:{path}", f"file://{path}", "file:test.db", "file:%74est.db?mode=rwc"):
        with Database(uri) as db:
            db.write(create)
            assert db.path == path
    with Database("file:missing.db?mode=rw") as db, pytest.raises(CannotOpenError, match="exist"):
        db.open()


def test_a_relative_path_stays_where_it_was(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the process changes its directory between two openings."""
    monkeypatch.chdir(path.parent)
    with Database("test.db") as db:
        monkeypatch.chdir("/")
        db.write(create)
    assert path.exists()
