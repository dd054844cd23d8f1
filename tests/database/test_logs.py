"""What the log is told: long waits, migrations, damage, replaced files; nothing by itself."""

from __future__ import annotations

import logging
import re
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from langgraph_sqlite_saver.database import (
    Database,
    DatabaseLockedError,
    FileReplacedError,
    MigrationError,
    NotADatabaseError,
    busy,
    logs,
)

from .helpers import (
    DEADLOCK,
    create,
    in_thread,
    insert,
    numbers,
    outcome,
    run_script,
    schema,
    script,
    stored,
)


class Told(logging.Handler):
    """What the library's loggers were told, and when the next comes."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []
        self.came = threading.Event()

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(f"{record.levelname} {record.name}: {record.getMessage()}")
        self.came.set()

    def take(self) -> list[str]:
        """What came since the last look."""
        lines, self.lines = self.lines, []
        return lines


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Iterator[Told]:
    """The log, at INFO; waits are told at once."""
    monkeypatch.setattr(busy, "_LONG", 0.0)
    logger, handler = logging.getLogger(logs.NAME), Told()
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield handler
    logger.removeHandler(handler)
    logger.setLevel(level)


HOLDER = """
    conn = sqlite3.connect(sys.argv[1], isolation_level=None)
    conn.execute("BEGIN IMMEDIATE")
    print("locked", flush=True)
    sys.stdin.readline()
    conn.execute("COMMIT")
    conn.close()
"""


def test_a_long_wait_for_a_lock_is_told_once_with_the_file_and_who_has_it(
    open_database: Any, path: Path, told: Told
) -> None:
    """Once a wait; Linux tells the process that has the lock."""
    db = open_database(path)
    db.write(create)
    told.take()
    for number in (1, 2):
        told.came.clear()
        with subprocess.Popen(
            script(HOLDER, path), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as holder:
            assert holder.stdin and holder.stdout
            assert holder.stdout.readline() == "locked\n"
            write = in_thread(db.write, insert, number)
            assert told.came.wait(DEADLOCK)
            holder.stdin.write("\n")
            holder.stdin.flush()
            assert outcome(write) is None
        (line,) = told.take()
        who = f"process {holder.pid}" if sys.platform == "linux" else "another connection"
        assert line == (
            f"WARNING langgraph_sqlite_saver.locks: {path}: waiting for a lock of {who}, "
            "for at most 30 s"
        )
    assert stored(path) == [1, 2]


def test_a_short_wait_is_not_told(path: Path, told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    """Below a second: processes that write in turn wait all the time."""
    monkeypatch.undo()
    assert busy._LONG == 1.0
    with Database(path, lock_timeout=0.05) as db:
        db.write(create)
        told.take()
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(DatabaseLockedError, match=r"this process|another connection"):
                db.write(insert, 1)
    assert told.take() == []


@pytest.mark.parametrize("borrowed", [False, True])
def test_migrations_are_told_with_file_and_versions(path: Path, told: Told, borrowed: bool) -> None:
    """Once they are committed; a file that is up to date is not mentioned."""
    steps = ["CREATE TABLE a (b);", "CREATE TABLE c (d);", "CREATE TABLE e (f);"]
    for known, applied in ((1, [(0, 1)]), (3, [(1, 2), (2, 3)]), (3, [])):
        with closing(sqlite3.connect(path, check_same_thread=False)) as conn:
            with Database(conn if borrowed else path, schemas=[schema(*steps[:known])]) as db:
                db.open()
        name = f"INFO langgraph_sqlite_saver.migrations: {path}: own_migrations"
        assert told.take() == [f"{name} from version {old} to {new}" for old, new in applied]


def test_a_migration_that_fails_is_not_told_as_applied(path: Path, told: Told) -> None:
    """The one before it is: the file is at that version."""
    with Database(path, schemas=[schema("CREATE TABLE a (b);", "nonsense;")]) as db:
        with pytest.raises(MigrationError):
            db.open()
    assert [line.partition("own_migrations ")[2] for line in told.take()] == ["from version 0 to 1"]


@pytest.mark.parametrize("gone", [True, False])
def test_a_file_that_is_replaced_or_gone_is_told_once(path: Path, told: Told, gone: bool) -> None:
    """However many calls are refused for it."""
    with Database(path) as db:
        db.write(create)
        path.rename(path.with_name("away"))
        if not gone:
            Database(path).write(create)
        for _ in range(3):
            with pytest.raises(FileReplacedError):
                db.read(numbers)
        what = "was deleted or moved" if gone else "was replaced"
        (line,) = told.take()
        assert line.startswith(f"ERROR langgraph_sqlite_saver.files: {path} {what}")
        path.with_name("away").replace(path)


def test_a_damaged_file_is_told(path: Path, told: Told) -> None:
    """What SQLite says of it, beside the error."""
    with Database(path) as db:
        db.write(create)
        db.write(insert, *range(5000))
    content = path.read_bytes()
    path.write_bytes(content[:8192] + b"\xff" * (len(content) - 8192))
    with Database(path) as db, pytest.raises(NotADatabaseError, match="malformed"):
        db.read(numbers)
    assert re.match(rf"ERROR langgraph_sqlite_saver.damage: {path}: .*malformed", told.take()[-1])


SILENT = """
    import logging
    from langgraph_sqlite_saver.database import logs
    logs.damage.error("nobody has asked")
    assert all(type(each) is logging.NullHandler for each in logging.getLogger(logs.NAME).handlers)
"""


def test_a_program_that_has_no_log_is_told_nothing() -> None:
    """Nothing is written to stderr by the library itself, and no level is set."""
    assert run_script(SILENT) == ""
    assert logging.getLogger(logs.NAME).level == logging.NOTSET
