"""The files: who may read them, where they are, and what is left when all is closed."""

from __future__ import annotations

import gc
import os
import sqlite3
import stat
import subprocess
from contextlib import closing
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from langgraph_sqlite_saver.database import (
    CannotOpenError,
    Database,
    InvalidInputError,
    InvalidTypeError,
    Migration,
    Schema,
)

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


@pytest.mark.parametrize("umask", [0o022, 0o077])
@pytest.mark.parametrize("mode", [0o640, 0o666, 0o600])
def test_the_mode_of_new_files_can_be_chosen(
    open_database: Any, path: Path, mode: int, umask: int
) -> None:
    """No umask cuts it; SQLite gives it to the -wal and the -shm as well."""
    before = os.umask(umask)
    try:
        db = open_database(path, mode=mode)
        db.write(create)
        db.write(insert, 1)
        db.read(numbers)
    finally:
        os.umask(before)
    modes = {each.name: stat.S_IMODE(each.stat().st_mode) for each in path.parent.iterdir()}
    assert modes == {f"test.db{suffix}": mode for suffix in ("", "-wal", "-shm")}


@pytest.mark.parametrize("mode", [644, 640, 0o1640, 0o440, 0, -1, "0640", 6.4, True, None])
def test_a_mode_that_cannot_be_meant_is_refused(open_database: Any, path: Path, mode: Any) -> None:
    """Above all a decimal number."""
    with pytest.raises(InvalidInputError if type(mode) is int else InvalidTypeError, match="0o640"):
        open_database(path, mode=mode)
    assert not path.exists()


SIDECAR = """
    db = Database(sys.argv[1])
    print("ready", flush=True)
    for expected in ([1], [1, 2], [1, 2]):
        sys.stdin.readline()
        assert db.read(numbers) == expected, db.read(numbers)
        print("read", flush=True)
    db.close()
"""


def test_another_user_reads_beside_the_service(public_path: Path) -> None:
    """What a sidecar that exports figures does: while the service writes, and when it has ended."""
    code = "os.setgid(65534); os.setuid(65534)\n" + dedent(SIDECAR)
    with Database(public_path, mode=0o644) as db:
        db.write(create)
        with subprocess.Popen(
            script(code, public_path),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd="/",
        ) as sidecar:
            assert sidecar.stdin and sidecar.stdout
            assert sidecar.stdout.readline() == "ready\n"
            for step in (lambda: db.write(insert, 1), lambda: db.write(insert, 2), db.close):
                step()
                sidecar.stdin.write("\n")
                sidecar.stdin.flush()
                assert sidecar.stdout.readline() == "read\n"
        assert sidecar.returncode == 0


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
        begun = threading.Event()

        def slow(conn):
            begun.set()
            time.sleep(0.3)
            insert(conn, 2)

        async def main():
            await db.write(create)
            await db.write(insert, 1)
            await db.read(numbers)
            asyncio.ensure_future(db.write(slow))
            asyncio.ensure_future(db.write(insert, 3))
            await asyncio.to_thread(begun.wait)

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


def test_a_journal_that_a_crash_left_is_rolled_back(path: Path) -> None:
    """Before that nobody can read the file, to see whose it is."""
    outside(path, "CREATE TABLE theirs (a)")
    run_script(
        """
        conn = sqlite3.connect(sys.argv[1], isolation_level=None)
        conn.execute("PRAGMA cache_size = 1")
        conn.execute("BEGIN")
        conn.execute("CREATE TABLE t AS SELECT randomblob(1000000)")
        os._exit(0)
        """,
        path,
    )
    assert beside(path) == {"test.db-journal"}
    ours = Schema("test_migrations", (Migration(1, "0001_ours.sql", "CREATE TABLE ours (a);"),))
    with Database(path, schemas=[ours]) as db:
        db.open()
    names = "SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY 1"
    assert outside(path, names) == [("ours",), ("test_migrations",), ("theirs",)]


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


# What programs keep in a setting named after a database, and what the error says to pass.
NO_PATHS = {
    "sqlite:///agent.db": "'agent.db'",
    "sqlite:////srv/agent.db": "'/srv/agent.db'",
    "sqlite+aiosqlite:///data/agent.db?timeout=5": "'data/agent.db'",
    "sqlite://": "':memory:'",
    "sqlite:agent.db": "'agent.db'",
    "postgresql://ann:secret@host/agents": "a PostgreSQL server: pass the path of an SQLite file",
    "postgresql+psycopg://ann:secret@host/agents": "a PostgreSQL server",
    "redis://:secret@host:6379/0": "a Redis server",
    "https://host/agent.db": "a URL",
    "~/agent.db": "'/home/ann/agent.db'",
    "~": "'/home/ann'",
    "$HOME/agent.db": "'/home/ann/agent.db'",
    "file://server/share/agent.db": "a host.*mounted",
    "file://agent.db": "a host.*file:agent.db",
    "file://[agent.db": "not a URI",
    "file:///C:/data/agent.db": "a path of Windows",
    "C:\\data\\agent.db": "a path of Windows",
}


@pytest.mark.parametrize("text", NO_PATHS)
def test_what_is_not_meant_as_a_path_is_named(
    text: str, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With what to pass instead, without a password, and nothing is made."""
    monkeypatch.chdir(path.parent)
    monkeypatch.setenv("HOME", "/home/ann")
    with pytest.raises(InvalidInputError, match=NO_PATHS[text]) as raised:
        Database(text).open()
    assert "secret" not in str(raised.value)
    assert list(path.parent.iterdir()) == []


def test_a_path_object_made_of_a_url_is_named_too(path: Path) -> None:
    """It has lost a slash."""
    with pytest.raises(InvalidInputError, match=r"'agent\.db'"):
        Database(Path("sqlite:///agent.db"))


@pytest.mark.parametrize("name", ["~agent.db", "a:b", "redis:cache", "./~/agent.db", "100$", "$x"])
def test_names_that_only_look_alike_are_paths(
    name: str, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The files are made as they are named."""
    monkeypatch.chdir(path.parent)
    Path("~").mkdir()
    with Database(name) as db:
        db.write(create)
    assert Path(name).is_file()


def test_uris_name_the_file_that_sqlite_takes(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytes that are no UTF-8, a "+", the local host: as SQLite reads them."""
    monkeypatch.chdir(path.parent)
    for number, uri in enumerate(("file:caf%E9.db", "file:a+b.db?psow=1", "file:50%.db"), 1):
        with closing(sqlite3.connect(uri, uri=True)) as conn, conn:
            conn.execute("CREATE TABLE numbers (n)")
            conn.execute("INSERT INTO numbers VALUES (?)", (number,))
        with Database(uri) as db:
            assert db.read(numbers) == [number]
    with Database(f"file://localhost{path}") as db:
        db.write(create)
    assert path.is_file()
