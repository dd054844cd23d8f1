"""The -wal is copied in time, never beside a commit, and no writer waits for a reader."""

from __future__ import annotations

import logging
import sqlite3
import subprocess
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from langgraph_sqlite_saver.database import Database, wal
from langgraph_sqlite_saver.database.wal import WalKeeper

from .helpers import (
    DEADLOCK,
    Gate,
    blocking,
    check_integrity,
    create,
    in_thread,
    insert,
    numbers,
    outcome,
    pragma,
    script,
    stored,
    wait_until,
)

PAGE = 4096
# A limit of 50 pages: some 200 KB.
SMALL = {"wal_autocheckpoint": 50}
LIMIT = 32 + 50 * (PAGE + 24)


def fill(conn: sqlite3.Connection, pages: int = 10) -> None:
    """Commit some pages."""
    conn.execute("INSERT INTO numbers SELECT zeroblob(?)", (pages * PAGE,))


def size(path: Path) -> int:
    return path.with_name(f"{path.name}-wal").stat().st_size


@contextmanager
def reading(path: Path) -> Iterator[sqlite3.Connection]:
    """Another connection holds a snapshot."""
    with closing(sqlite3.connect(path, isolation_level=None)) as conn:
        conn.execute("BEGIN")
        conn.execute("SELECT count(*) FROM numbers").fetchall()
        yield conn


@pytest.fixture
def small(open_database: Any, path: Path) -> Any:
    """A database whose -wal has a small limit, on either face."""
    db = open_database(path, pragmas=SMALL)
    db.write(create)
    return db


def test_the_wal_stays_within_its_limit(small: Any, path: Path) -> None:
    """It is begun anew, and what was in it is in the file."""
    for _ in range(100):
        small.write(fill)
    wait_until(lambda: small.write(fill) is None and size(path) <= LIMIT)
    assert path.stat().st_size > 50 * 10 * PAGE


def test_one_large_write_does_not_stay_in_the_wal(small: Any, path: Path) -> None:
    """It is cut soon after."""
    small.write(fill, 1000)
    wait_until(lambda: small.write(fill, 1) is None and size(path) <= LIMIT)


def test_no_connection_of_ours_copies_by_itself(open_database: Any, path: Path) -> None:
    """Nor does the one that is there for the caller's own statements."""
    db = open_database(path)
    db.write(create)
    for read in (db.read, db.read_first, db.read_long):
        assert read(pragma, "wal_autocheckpoint") == 0
    assert db.write(pragma, "wal_autocheckpoint") == 0
    assert blocking(db).connection.execute("PRAGMA wal_autocheckpoint").fetchone() == (0,)


def test_nobody_can_commit_while_the_wal_is_copied(
    small: Any, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither this process nor another one, at the very statement that copies."""
    seen: list[str] = []
    connect = blocking(small)._file.open_reader

    def watched() -> sqlite3.Connection:
        conn = connect()

        def note(sql: str) -> None:
            if "checkpoint" in sql:
                with closing(sqlite3.connect(path, timeout=0, isolation_level=None)) as other:
                    try:
                        other.execute("BEGIN IMMEDIATE")
                        seen.append("could have committed")
                    except sqlite3.OperationalError as error:
                        seen.append(str(error))

        conn.set_trace_callback(note)
        return conn

    small.write(insert, 1)
    monkeypatch.setattr(blocking(small)._lane.runner.wal, "_connect", watched)
    for _ in range(30):
        small.write(fill)
    small.maintain(blocking(small).shorten_wal)
    assert len(seen) > 2
    assert set(seen) == {"database is locked"}


def test_optimizing_waits_for_no_reader(small: Any, path: Path) -> None:
    """What the reader keeps in the -wal is told; it goes when the reader has gone."""
    small.write(insert, 1)
    with reading(path):
        small.write(fill, 20)
        left = small.maintain(blocking(small).shorten_wal)
        assert left.wal_bytes == size(path) > 20 * PAGE
        small.write(insert, 2)
    left = small.maintain(blocking(small).shorten_wal)
    assert left.wal_bytes == size(path) < 3 * PAGE
    check_integrity(path)


def test_a_reader_that_stays_keeps_no_writer_waiting(
    open_database: Any, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """However long the -wal becomes, which the log tells once."""
    db = open_database(path, pragmas=SMALL, lock_timeout=0)
    db.write(create)
    with reading(path), caplog.at_level(logging.WARNING):
        for _ in range(200):
            db.write(fill)
        assert size(path) > 4 * LIMIT
    told = [each for each in caplog.messages if "its limit is" in each]
    assert len(told) == 1
    assert str(path) in told[0]
    wait_until(lambda: db.write(fill, 1) is None and size(path) <= LIMIT)


def test_reads_that_overlap_keep_the_wal_within_four_times_its_limit(
    small: Any, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a pause between them, as long as each is short: here, than a test may take."""
    monkeypatch.setattr(wal, "_FOR_READERS", DEADLOCK)
    stop = threading.Event()

    def keep_reading() -> None:
        while not stop.is_set():
            small.read(lambda conn: conn.execute("SELECT count(*) FROM numbers").fetchone())

    reading = [in_thread(keep_reading) for _ in range(3)]
    largest = 0
    for _ in range(60):
        small.write(fill)
        largest = max(largest, size(path))
    stop.set()
    assert [outcome(each) for each in reading] == [None] * 3
    assert largest <= 4 * LIMIT
    wait_until(lambda: small.write(fill, 1) is None and size(path) <= LIMIT)


def test_a_read_under_way_is_not_waited_for_long(small: Any, path: Path) -> None:
    """A writer goes on, and so do other reads."""
    gate = Gate()

    def hold(conn: sqlite3.Connection) -> None:
        numbers(conn)
        gate.wait(conn)

    holding = in_thread(small.read, hold)
    assert gate.entered.wait(DEADLOCK)
    for _ in range(60):
        small.write(fill)
        small.read(lambda conn: conn.execute("SELECT 1").fetchone())
    assert size(path) > 2 * LIMIT
    gate.open()
    assert outcome(holding) is None
    wait_until(lambda: small.write(fill, 1) is None and size(path) <= LIMIT)


def test_a_limit_of_nothing_leaves_the_wal_to_others(open_database: Any, path: Path) -> None:
    """As it is said for programs that replicate it."""
    db = open_database(path, pragmas={"wal_autocheckpoint": 0})
    db.write(create)
    for _ in range(50):
        db.write(fill, 100)
    assert size(path) > 50 * 100 * PAGE


def test_what_keeps_the_wal_from_being_copied_fails_no_write(
    small: Any, path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It was committed; the log says why."""

    def fail(_: WalKeeper) -> bool:
        raise sqlite3.OperationalError("disk I/O error")

    monkeypatch.setattr(WalKeeper, "_copy", fail)
    with caplog.at_level(logging.WARNING):
        for number in range(30):
            small.write(fill)
            small.write(insert, number)
    assert "disk I/O error" in caplog.text
    assert [n for n in stored(path) if isinstance(n, int)] == list(range(30))


WRITER = """
    db = Database(sys.argv[1], pragmas={"wal_autocheckpoint": 20})
    print("ready", flush=True)
    sys.stdin.readline()
    start = int(sys.argv[2])
    for n in range(start, start + 200):
        db.write(insert, n)
        if n % 50 == 0:
            db.maintain(db.shorten_wal)
    db.close()
"""


def test_processes_that_copy_and_commit_beside_each_other_lose_nothing(path: Path) -> None:
    """Each with a limit that has it copy all the time."""
    with Database(path) as db:
        db.write(create)
    writers = [
        subprocess.Popen(
            script(WRITER, path, start), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for start in (0, 1000, 2000)
    ]
    for each in writers:
        assert each.stdout is not None
        assert each.stdout.readline() == "ready\n"
    for each in writers:
        each.communicate("go\n", timeout=2 * DEADLOCK)
        assert each.returncode == 0
    expected = sorted(start + n for start in (0, 1000, 2000) for n in range(200))
    assert stored(path) == expected
    check_integrity(path)
