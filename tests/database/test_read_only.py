"""Files that cannot be written still serve reads."""

from __future__ import annotations

import subprocess
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from langgraph_sqlite_saver.database import CannotOpenError, Database, ReadOnlyError

from .helpers import (
    as_nobody,
    beside,
    create,
    insert,
    numbers,
    outside,
    run_script,
    schema,
    script,
)


@pytest.fixture
def written(public_path: Path) -> Path:
    """A database of root's that holds 1, in a directory that others may look into."""
    path = public_path
    with Database(path) as db:
        db.write(create)
        db.write(insert, 1)
    path.chmod(0o644)
    return path


def test_mode_ro_reads_and_refuses_to_write(open_database: Any, written: Path) -> None:
    """Maintenance included; the file does not change."""
    before = written.read_bytes()
    db = open_database(f"file:{written}?mode=ro")
    assert db.read(numbers) == [1]
    for call in (db.write, db.maintain):
        with pytest.raises(ReadOnlyError, match=str(written)):
            call(insert, 2)
    with pytest.raises(ReadOnlyError):
        db.maintain(lambda conn: conn.backup(None))
    db.close()
    assert written.read_bytes() == before


def test_mode_ro_sees_what_others_write(open_database: Any, written: Path) -> None:
    """While both have it open, and after the other has closed."""
    db = open_database(f"file:{written}?mode=ro")
    assert db.read(numbers) == [1]
    with Database(written) as writer:
        writer.write(insert, 2)
        assert db.read(numbers) == [1, 2]
        writer.write(insert, 3)
    assert db.read(numbers) == [1, 2, 3]


def test_mode_ro_of_a_missing_file_is_an_error(path: Path) -> None:
    """No file is made."""
    with Database(f"file:{path}?mode=ro") as db, pytest.raises(CannotOpenError):
        db.read(numbers)
    assert not path.exists()


NOBODY = """
    db = Database(sys.argv[1])
    assert db.read(numbers) == [1]
    assert db.is_read_only
    try:
        db.write(insert, 2)
    except ReadOnlyError:
        print("refused")
    db.close()
"""


def test_a_file_without_write_permission_can_be_read(written: Path) -> None:
    """By another user, in a directory he cannot write to: as immutable, without a -wal."""
    assert as_nobody(NOBODY, written) == "refused"
    assert beside(written) == set()


def test_what_the_effective_user_may_do_counts(written: Path) -> None:
    """A service that root started, and that has given its rights up for the time being."""
    assert (
        run_script("os.setegid(65534); os.seteuid(65534)\n" + dedent(NOBODY), written) == "refused"
    )


MISTAKEN = """
    from langgraph_sqlite_saver.database import files
    files._can_write = lambda location: True
"""


@pytest.mark.parametrize("mode", [0o444, 0o666])
def test_a_file_that_the_system_wrongly_calls_writable_can_be_read(
    written: Path, mode: int
) -> None:
    """Rules beyond permissions (SELinux, a network file system) show only when SQLite writes."""
    written.chmod(mode)
    assert as_nobody(dedent(MISTAKEN) + dedent(NOBODY), written) == "refused"


def test_a_directory_without_write_permission_makes_a_file_read_only(written: Path) -> None:
    """The file itself could be written, its -wal could not be made."""
    written.chmod(0o666)
    assert as_nobody(NOBODY, written) == "refused"


RENEWED = """
    db = Database(sys.argv[1])
    assert db.read(numbers) == [1]
    for expected in ([1, 2], [1, 2, 3], [1, 2, 3, 4]):
        print("ready", flush=True)
        sys.stdin.readline()
        assert db.read(numbers) == expected, db.read(numbers)
    db.close()
    print("done")
"""


def test_what_was_immutable_is_looked_at_again_once_somebody_writes(written: Path) -> None:
    """While he has it open, and also when he came and went between two reads."""
    code = "os.setgid(65534); os.setuid(65534)\n" + RENEWED.replace("\n    ", "\n")
    child = subprocess.Popen(
        script(code, written), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd="/"
    )
    assert child.stdin and child.stdout
    with child:
        assert child.stdout.readline() == "ready\n"
        outside(written, "INSERT INTO numbers VALUES (2)")  # came and went
        child.stdin.write("\n")
        child.stdin.flush()
        assert child.stdout.readline() == "ready\n"
        with Database(written) as writer:
            writer.write(insert, 3)
            for suffix in ("-wal", "-shm"):
                written.with_name(f"test.db{suffix}").chmod(0o644)
            child.stdin.write("\n")
            child.stdin.flush()
            assert child.stdout.readline() == "ready\n"
            writer.write(insert, 4)
            child.stdin.write("\n")
            child.stdin.flush()
            assert child.stdout.readline() == "done\n"
    assert child.returncode == 0


def test_tables_of_an_older_release_are_refused_clearly(path: Path) -> None:
    """They would have to be migrated, and cannot be."""
    first, second = "CREATE TABLE numbers (n INTEGER);", "CREATE TABLE more (m);"
    with Database(path, schemas=[schema(first)]) as db:
        db.open()
    for known in (schema(first, second), schema(first, table="another_table")):
        with Database(f"file:{path}?mode=ro", schemas=[known]) as db:
            with pytest.raises(ReadOnlyError, match=r"version \d of \d.*where it can be written"):
                db.read(numbers)
    with Database(f"file:{path}?mode=ro", schemas=[schema(first)]) as db:
        assert db.read(numbers) == []


def test_an_empty_file_that_cannot_be_written_is_refused_clearly(path: Path) -> None:
    """Its tables cannot be made."""
    path.touch()
    with Database(f"file:{path}?mode=ro", schemas=[schema("CREATE TABLE a (b);")]) as db:
        with pytest.raises(ReadOnlyError, match="version 0 of 1"):
            db.read(numbers)


SEEN_BY_ANOTHER = """
    db = Database(sys.argv[1])
    assert db.read(numbers) == [1]
    first, second = Gate(), Gate()

    def look(conn, gate):
        found = numbers(conn)
        gate.wait(conn)
        return found

    reads = [in_thread(db.read, look, gate) for gate in (first, second)]
    assert first.entered.wait(DEADLOCK) and second.entered.wait(DEADLOCK)
    print("ready", flush=True)
    sys.stdin.readline()
    for gate, read in zip((first, second), reads):
        gate.open()
        assert outcome(read) == [1, 2], outcome(read)
    db.close()
    print("done")
"""


def test_each_read_of_what_was_immutable_is_looked_at_again(written: Path) -> None:
    """Also one that ends after another thread has seen that somebody writes."""
    code = "os.setgid(65534); os.setuid(65534)\n" + SEEN_BY_ANOTHER.replace("\n    ", "\n")
    child = subprocess.Popen(
        script(code, written), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd="/"
    )
    assert child.stdin and child.stdout
    with child:
        assert child.stdout.readline() == "ready\n"
        outside(written, "INSERT INTO numbers VALUES (2)")
        child.stdin.write("\n")
        child.stdin.flush()
        assert child.stdout.readline() == "done\n"
    assert child.returncode == 0
