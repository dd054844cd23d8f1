"""Backups: what is in them, what is refused, and that restoring leaves the old or the new whole."""

from __future__ import annotations

import errno
import gzip
import os
import random
import signal
import sqlite3
import stat
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from database.helpers import (
    check_integrity,
    create,
    in_thread,
    insert,
    numbers,
    outcome,
    outside,
    run_script,
    script,
    stored,
)

from langgraph_sqlite_saver.database import (
    CannotOpenError,
    Database,
    DatabaseFullError,
    DatabaseLockedError,
    InvalidInputError,
    InvalidTypeError,
    NotADatabaseError,
    UnknownSchemaError,
    archives,
)
from langgraph_sqlite_saver.relay import RelayStore
from langgraph_sqlite_saver.relay.backups import (
    check_backup,
    made_of,
    outdated,
    restore_backup,
    write_backup,
)
from langgraph_sqlite_saver.relay.schema import SCHEMA

NOON = datetime(2025, 1, 24, 12)
SOAK = os.environ.get("HYPOTHESIS_PROFILE") == "soak"
IMPORTS = "from langgraph_sqlite_saver.relay.backups import *\n"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the test's database is: alone in its directory."""
    (tmp_path / "data").mkdir()
    return tmp_path / "data" / "relay.db"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where the backups go; it is not there yet."""
    return tmp_path / "backups" / "sqlite"


@pytest.fixture
def db(path: Path) -> Iterator[Database]:
    """A database with the numbers 1 and 2."""
    with Database(path) as opened:
        opened.write(create)
        opened.write(insert, 1, 2)
        yield opened


@pytest.fixture
def archive(db: Database, folder: Path) -> Path:
    """A backup of 1 and 2; the database has gone on to 3 and is closed."""
    made = write_backup(db, folder, now=at(NOON))
    db.write(insert, 3)
    db.close()
    return made


def at(when: datetime) -> Callable[[], datetime]:
    return lambda: when


def names(directory: Path) -> list[str]:
    return sorted(each.name for each in directory.iterdir())


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def kept(path: Path) -> list[Path]:
    """What restoring has put aside."""
    return sorted(path.parent.glob(f"{path.name}.before-restore-*"))


def with_wal(path: Path) -> None:
    """Commit 4 into a -wal that stays, as a killed process leaves it."""
    run_script(
        """
        conn = sqlite3.connect(sys.argv[1])
        conn.execute("INSERT INTO numbers VALUES (4)")
        conn.commit()
        os._exit(0)
        """,
        path,
    )
    assert Path(f"{path}-wal").stat().st_size > 0


@contextmanager
def open_elsewhere(path: Path, how: str = "SELECT * FROM numbers") -> Iterator[None]:
    """Another process has the file open, idle."""
    code = """
        conn = sqlite3.connect(sys.argv[1])
        conn.execute(sys.argv[2]).fetchall()
        print(flush=True)
        sys.stdin.read()
        conn.close()
        """
    command = script(code, path, how)
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield
        process.communicate()


# Making one.


def test_a_backup_is_named_by_local_time_and_private(db: Database, folder: Path) -> None:
    """The file 0600, the directory, made for it, 0700; nothing else is in it."""
    made = write_backup(db, folder, now=at(NOON))
    assert made == folder / "sqlite_backup_20250124_120000.db.gz"
    assert (mode(made), mode(folder)) == (0o600, 0o700)
    assert names(folder) == [made.name]


def test_the_directory_s_mode_is_its_owner_s_choice(db: Database, folder: Path) -> None:
    """One that is there keeps it."""
    folder.mkdir(parents=True)
    folder.chmod(0o750)
    write_backup(db, folder)
    assert mode(folder) == 0o750


def test_two_in_a_second_have_names_of_their_own(db: Database, folder: Path) -> None:
    """As have two at the same time."""
    running = [in_thread(lambda: write_backup(db, folder, now=at(NOON))) for _ in range(4)]
    assert len({outcome(each) for each in running}) == 4
    numbers_of = ["", "_2", "_3", "_4"]
    assert names(folder) == sorted(
        f"sqlite_backup_20250124_120000{number}.db.gz" for number in numbers_of
    )


def test_the_same_database_gives_the_same_bytes(db: Database, folder: Path) -> None:
    """Whenever it is made."""
    first, second = (write_backup(db, folder, now=at(NOON + timedelta(hours=n))) for n in (1, 2))
    assert first.read_bytes() == second.read_bytes()


def test_gunzip_unpacks_it(db: Database, folder: Path) -> None:
    """The guide's way to restore."""
    made = write_backup(db, folder)
    subprocess.run(["gunzip", made], check=True)
    assert stored(made.with_suffix("")) == [1, 2]


def test_a_backup_is_one_snapshot_while_others_write(db: Database, folder: Path) -> None:
    """Two tables that every transaction changes together agree in it."""
    stop = threading.Event()

    def both(conn: sqlite3.Connection) -> None:
        for table in ("one", "two"):
            conn.execute(f"INSERT INTO {table} SELECT zeroblob(2000) FROM numbers")

    def go_on() -> None:
        while not stop.is_set():
            db.write(both)

    db.write(lambda conn: [conn.execute(f"CREATE TABLE {t} (data)") for t in ("one", "two")])
    db.write(lambda conn: [both(conn) for _ in range(2000)])
    writing = in_thread(go_on)
    made = [write_backup(db, folder) for _ in range(3)]
    stop.set()
    assert outcome(writing) is None
    rows = [check_backup(each).tables for each in made]
    assert all(each["one"] == each["two"] for each in rows)
    assert rows[0]["one"] < rows[1]["one"] < rows[2]["one"]


def test_progress_goes_from_nothing_to_all(db: Database, folder: Path) -> None:
    """Over copying and compressing, in bytes of both."""
    db.write(lambda conn: conn.execute("INSERT INTO numbers VALUES (randomblob(20000000))"))
    seen: list[tuple[int, int]] = []
    made = write_backup(db, folder, progress=lambda done, total: seen.append((done, total)))
    size = check_backup(made).bytes
    assert {total for _, total in seen} == {2 * size}
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})
    assert (seen[-1], len(seen) > 10) == ((2 * size, 2 * size), True)


# Keeping some days of them.


def test_backups_older_than_keep_days_are_removed(db: Database, folder: Path) -> None:
    """By the time in the name, whatever the file's; other files are not touched."""
    folder.mkdir(parents=True)
    old = ["sqlite_backup_20250117_115959.db.gz", "sqlite_backup_20240101_000000_2.db.gz"]
    young = ["sqlite_backup_20250117_120000.db.gz", "sqlite_backup_20250120_120000_3.db.gz"]
    others = [
        "mine_sqlite_backup_20240101_000000.db.gz",
        "sqlite_backup_20240101_000000.db",
        "sqlite_backup_20240101_000000.db.gz.txt",
        "sqlite_backup_20241332_000000.db.gz",
    ]
    for name in (*old, *young, *others):
        (folder / name).touch()
    os.utime(folder / young[0], (0, 0))
    made = write_backup(db, folder, now=at(NOON))
    assert names(folder) == sorted([*young, *others, made.name])


@pytest.mark.parametrize("keep_days", [0, 0.5, 10**12, float("inf")])
def test_the_newest_backup_stays(db: Database, folder: Path, keep_days: float) -> None:
    """However few days are kept."""
    made = write_backup(db, folder, keep_days=keep_days, now=lambda: NOON.replace(microsecond=9))
    assert names(folder) == [made.name]


def test_the_newest_stays_with_a_clock_that_is_wrong(db: Database, folder: Path) -> None:
    """One that was set back makes no backup that is removed at once, nor removes later ones."""
    later = write_backup(db, folder, now=at(NOON))
    now = write_backup(db, folder, keep_days=0, now=at(NOON - timedelta(days=5000)))
    assert names(folder) == sorted([now.name, later.name])


@pytest.fixture
def neighbour(tmp_path: Path) -> Iterator[Database]:
    """Another database, of the same name as the test's."""
    (tmp_path / "other").mkdir()
    with Database(tmp_path / "other" / "relay.db") as opened:
        opened.write(create)
        yield opened


def test_backups_of_another_file_are_left_alone(
    db: Database, neighbour: Database, folder: Path
) -> None:
    """In one directory each file's newest stays, however old, and goes with its own newer ones."""
    theirs = write_backup(neighbour, folder, now=at(NOON - timedelta(days=30)))
    mine = write_backup(db, folder, now=at(NOON - timedelta(days=20)))
    made = write_backup(db, folder, now=at(NOON))
    assert names(folder) == sorted([theirs.name, made.name]) and not mine.exists()
    assert (made_of(folder, db.path), made_of(folder, neighbour.path)) == ([made], [theirs])
    again = write_backup(neighbour, folder, now=at(NOON))
    assert names(folder) == sorted([made.name, again.name])


def test_a_file_s_backups_are_known_through_links_and_relative_paths(
    db: Database, path: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And by a name that no ASCII can write; the oldest comes first."""
    made = [write_backup(db, folder, now=at(NOON + timedelta(hours=n))) for n in (0, 1)]
    link = tmp_path / "\u7814\u7a76.db.gz"
    link.symlink_to(path)
    monkeypatch.chdir(path.parent)
    assert made_of(folder, link) == made_of(folder, "relay.db") == made
    with Database(tmp_path / "%2F \u7814.gz") as other:
        other.write(create)
        assert made_of(folder, other.path) == []
        its_own = write_backup(other, folder, now=at(NOON))
        assert made_of(folder, other.path) == [its_own]


def test_what_would_be_removed_can_be_asked_before(db: Database, path: Path, folder: Path) -> None:
    """It is what the next backup removes; without a directory it is nothing."""
    assert outdated(folder, path) == []
    old, older = (
        write_backup(db, folder, keep_days=10**6, now=at(NOON - timedelta(days=n))) for n in (8, 9)
    )
    assert outdated(folder, path, keep_days=3) == [older, old]
    assert outdated(folder, path, keep_days=10**6) == []
    write_backup(db, folder, keep_days=3)
    assert not old.exists() and not older.exists()


@pytest.mark.parametrize(("days", "error"), [(-1, InvalidInputError), ("7", InvalidTypeError)])
def test_keep_days_that_cannot_be_meant(db: Database, folder: Path, days: Any, error: Any) -> None:
    """Are refused before anything is done."""
    with pytest.raises(error, match="keep_days"):
        write_backup(db, folder, keep_days=days)
    assert not folder.exists()


# One that cannot be made.


class Refused(BaseException):
    """As KeyboardInterrupt: no Exception."""


def test_an_interrupted_backup_leaves_nothing(db: Database, folder: Path) -> None:
    """At any moment; and no older one is removed."""
    db.write(lambda conn: conn.execute("INSERT INTO numbers VALUES (randomblob(20000000))"))
    old = write_backup(db, folder, now=at(NOON))
    for moment in (0.1, 0.4, 0.6, 1):

        def interrupt(done: int, total: int, moment: float = moment) -> None:
            if done >= moment * total:
                raise Refused

        with pytest.raises(Refused):
            write_backup(db, folder, progress=interrupt)
        assert names(folder) == [old.name]


def test_a_full_disk_leaves_nothing(
    db: Database, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And no older one is removed."""
    old = write_backup(db, folder, now=at(NOON))

    def write(self: Any, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(gzip.GzipFile, "write", write)
    with pytest.raises(DatabaseFullError, match=r"sqlite_backup.*Free some space"):
        write_backup(db, folder)
    assert names(folder) == [old.name]


def test_what_the_disk_does_not_give_back_is_no_backup(
    db: Database, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file is read before it gets its name."""

    def spoil(handle: int) -> None:
        fsync(handle)
        target = Path(f"/proc/self/fd/{handle}").resolve()
        if target.suffix == ".gz":
            os.truncate(target, 100)

    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", spoil)
    with pytest.raises(CannotOpenError, match="does not give back"):
        write_backup(db, folder)
    assert names(folder) == []


def test_a_damaged_database_is_not_backed_up(path: Path, folder: Path) -> None:
    """An index that lacks a row is damage; older backups stay."""
    folder.mkdir(parents=True)
    (folder / "sqlite_backup_20200101_000000.db.gz").touch()
    with Database(path) as db:
        db.write(create)
        db.write(insert, *range(100))
        db.write(lambda conn: conn.execute("CREATE INDEX by_n ON numbers (n)"))
        db.write(unindex_a_row)
        with pytest.raises(NotADatabaseError, match=rf"{path} is damaged.*by_n.*earlier backup"):
            write_backup(db, folder)
    assert names(folder) == ["sqlite_backup_20200101_000000.db.gz"]


def unindex_a_row(conn: sqlite3.Connection) -> None:
    """As a fault would: the index forgets it, the table has it."""
    conn.execute("PRAGMA writable_schema = ON")
    entry = conn.execute("SELECT * FROM sqlite_master WHERE name = 'by_n'").fetchone()
    conn.execute("DELETE FROM sqlite_master WHERE name = 'by_n'")
    conn.execute("PRAGMA writable_schema = RESET")
    conn.execute("DELETE FROM numbers WHERE n = 50")
    conn.execute("PRAGMA writable_schema = ON")
    conn.execute("INSERT INTO sqlite_master VALUES (?, ?, ?, ?, ?)", entry)
    conn.execute("PRAGMA writable_schema = RESET")


@pytest.mark.skipif(os.getuid() != 0, reason="needs root, to become another user")
def test_a_directory_that_cannot_be_written_is_explained() -> None:
    """To a user without the right."""
    with tempfile.TemporaryDirectory() as place:
        Path(place).chmod(0o755)
        answer = run_script(
            IMPORTS
            + """
os.setgid(65534)
os.setuid(65534)
with Database(":memory:") as db:
    try:
        write_backup(db, sys.argv[1])
    except CannotOpenError as error:
        print(error)
""",
            f"{place}/backups",
        )
    assert "backups: Permission denied" in answer and "may read and write" in answer


def test_a_killed_run_s_leftovers_are_removed_later(db: Database, folder: Path) -> None:
    """An hour after the last write, and nothing that is not ours."""
    folder.mkdir(parents=True)
    for name in (".sqlite_backup_20250101_000000.partial", ".theirs.partial"):
        (folder / name).mkdir()
        (folder / name / "copy.db").touch()
        os.utime(folder / name, (0, 0))
    (folder / ".sqlite_backup_20250101_000001.partial").mkdir()
    (folder / ".sqlite_backup_file.partial").touch()
    old = ".sqlite_backup_20250101_000000.partial"
    made = write_backup(db, folder)  # the file in it is young
    assert old in names(folder)
    os.utime(folder / old / "copy.db", (0, 0))
    os.utime(folder / old, (0, 0))
    os.utime(folder / ".sqlite_backup_file.partial", (0, 0))
    made = write_backup(db, folder, keep_days=0, now=at(NOON + timedelta(days=10**4)))
    assert names(folder) == [
        ".sqlite_backup_20250101_000001.partial",
        ".sqlite_backup_file.partial",
        ".theirs.partial",
        made.name,
    ]


# Looking into one.


def test_check_tells_what_is_in_a_backup(db: Database, folder: Path) -> None:
    """Tables of any name, rows that a foreign key misses; and it leaves nothing."""
    db.write(lambda conn: conn.execute('CREATE TABLE "odd "" name" (n REFERENCES gone (n))'))
    db.write(lambda conn: conn.execute("CREATE VIRTUAL TABLE texts USING fts5 (text)"))
    with closing(sqlite3.connect(db.path or "")) as conn, conn:
        conn.execute('INSERT INTO "odd "" name" VALUES (1)')
    figures = check_backup(write_backup(db, folder, now=at(NOON)))
    assert figures.path == folder / "sqlite_backup_20250124_120000.db.gz"
    assert {name: n for name, n in figures.tables.items() if not name.startswith("texts")} == {
        "numbers": 2,
        'odd " name': 1,
    }
    assert (figures.dangling, figures.created) == (1, NOON)
    assert figures.bytes == len(gzip.decompress(figures.path.read_bytes()))
    assert names(folder) == [figures.path.name]


def test_check_unpacks_where_it_is_told_to(archive: Path, tmp_path: Path) -> None:
    """For a backup on a disk that cannot be written."""
    with pytest.raises(CannotOpenError, match="nowhere"):
        check_backup(archive, directory=tmp_path / "nowhere")
    assert check_backup(archive, directory=tmp_path).tables == {"numbers": 2}
    assert names(tmp_path) == ["backups", "data"]


@pytest.mark.parametrize("journal", ["WAL", "DELETE"])
def test_a_plain_file_is_a_backup_too(tmp_path: Path, journal: str) -> None:
    """Nothing is left beside it."""
    plain = tmp_path / "plain?#.db"
    outside(plain, f"PRAGMA journal_mode = {journal}")
    outside(plain, "CREATE TABLE numbers (n)")
    assert check_backup(plain).tables == {"numbers": 0}
    assert names(tmp_path) == [plain.name]


def test_a_plain_file_s_wal_is_part_of_it(db: Database, path: Path, tmp_path: Path) -> None:
    """Even while it is in use here, which goes on undisturbed."""
    target = tmp_path / "copy.db"
    assert restore_backup(path, target).tables == {"numbers": 2}
    with open_elsewhere(path):
        db.write(insert, 3)
    assert (stored(target), db.read(numbers)) == ([1, 2], [1, 2, 3])


def spoiled(kind: str, archive: Path) -> Path:
    """A backup that is none any more."""
    data = archive.read_bytes()
    middle = len(data) // 2
    contents = gzip.decompress(data)
    spoil: dict[str, bytes] = {
        "empty": b"",
        "truncated": data[:middle],
        "without its checksum": data[:-8],
        "with a wrong checksum": data[:-8] + b"1234" + data[-4:],
        "with a flipped bit": data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :],
        "followed by rubbish": data + b"rubbish",
        "no gzip": b"not a gzip file",
        "gzip of a text": gzip.compress(b"CREATE TABLE numbers (n);" * 100),
        "gzip of nothing": gzip.compress(b""),
        "gzip of half a database": gzip.compress(contents[: len(contents) // 2]),
        "gzip of another format": gzip.compress(contents[:44] + b"\0\0\0\x09" + contents[48:]),
        "gzip of damaged pages": gzip.compress(contents[:-2000] + b"\x55" * 2000),
    }
    target = archive.with_name("spoiled.db.gz")
    target.write_bytes(spoil[kind])
    return target


SPOILED = pytest.mark.parametrize(
    "kind",
    [
        "empty",
        "truncated",
        "without its checksum",
        "with a wrong checksum",
        "with a flipped bit",
        "followed by rubbish",
        "no gzip",
        "gzip of a text",
        "gzip of nothing",
        "gzip of half a database",
        "gzip of another format",
        "gzip of damaged pages",
    ],
)


@SPOILED
def test_what_is_no_backup_is_refused(archive: Path, path: Path, kind: str) -> None:
    """By name and with the remedy; the database is untouched, and nothing is left."""
    bad = spoiled(kind, archive)
    before = path.read_bytes()
    for refuse in (lambda: check_backup(bad), lambda: restore_backup(bad, path)):
        with pytest.raises(NotADatabaseError, match=rf"{bad}.*[Tt]ake another backup"):
            refuse()
    assert (path.read_bytes(), names(path.parent)) == (before, [path.name])
    assert names(archive.parent) == sorted([archive.name, bad.name])


@pytest.mark.parametrize("content", [b"", b"a text that is long enough" * 50])
def test_a_plain_file_that_is_no_database_is_refused(tmp_path: Path, content: bytes) -> None:
    """As a spoiled archive is."""
    plain = tmp_path / "plain.db"
    plain.write_bytes(content)
    with pytest.raises(NotADatabaseError, match=rf"{plain}.*ake another backup"):
        check_backup(plain)


def test_a_backup_of_a_newer_version_is_refused(archive: Path, path: Path, tmp_path: Path) -> None:
    """Before anything is put in place, with the remedy."""
    with RelayStore(tmp_path / "newer.db", None) as store:
        store.open()
        newer = f"INSERT INTO relay_migrations VALUES ({SCHEMA.newest + 1})"
        store.database.write(lambda conn: conn.execute(newer))
        made = store.backup(tmp_path / "newer")
    before = path.read_bytes()
    for refuse in (lambda: check_backup(made), lambda: restore_backup(made, path)):
        with pytest.raises(UnknownSchemaError, match=rf"{made}.*Upgrade langgraph-sqlite-saver"):
            refuse()
    assert (path.read_bytes(), names(path.parent)) == (before, [path.name])
    assert archive.exists()


@pytest.mark.parametrize("name", ["missing.db", "missing.db.gz"])
def test_a_backup_that_is_missing_is_named(tmp_path: Path, path: Path, name: str) -> None:
    """And nothing is made for it."""
    with pytest.raises(CannotOpenError, match=name):
        restore_backup(tmp_path / name, path)
    assert names(path.parent) == []


# Restoring.


def test_what_was_backed_up_is_restored(archive: Path, path: Path) -> None:
    """Every row; what was there is kept beside it, whole; both are private."""
    figures = restore_backup(archive, path)
    assert (figures.tables, figures.path) == ({"numbers": 2}, archive)
    (old,) = kept(path)
    assert (stored(path), stored(old)) == ([1, 2], [1, 2, 3])
    assert (mode(path), mode(old)) == (0o600, 0o600)
    assert names(path.parent) == [path.name, old.name]


def test_the_restored_file_is_the_one_that_was_backed_up(archive: Path, path: Path) -> None:
    """Byte by byte, and a database works on it."""
    restore_backup(archive, path)
    assert path.read_bytes() == gzip.decompress(archive.read_bytes())
    with Database(path) as db:
        db.write(insert, 9)
        assert db.read(numbers) == [1, 2, 9]


def test_a_missing_file_is_restored(archive: Path, path: Path) -> None:
    """Nothing is kept, there was nothing."""
    path.unlink()
    assert restore_backup(archive, path).kept is None
    assert (stored(path), names(path.parent)) == ([1, 2], [path.name])


def test_an_old_wal_is_not_applied_and_not_lost(archive: Path, path: Path) -> None:
    """What was committed in it is in the copy of what was there."""
    with_wal(path)
    old = restore_backup(archive, path).kept
    assert old is not None and kept(path) == [old]
    assert (stored(path), stored(old)) == ([1, 2], [1, 2, 3, 4])
    assert names(path.parent) == [path.name, old.name]


def test_a_wal_that_fits_the_backup_is_not_applied(path: Path, folder: Path) -> None:
    """It continues the very file that was backed up, so SQLite would take it for the new one's."""
    with Database(path) as db:
        db.write(create)
        db.write(insert, 1, 2)
    plain = folder.parent / "plain.db"
    folder.parent.mkdir()
    plain.write_bytes(path.read_bytes())
    with_wal(path)
    path.unlink()  # but not its -wal
    restore_backup(plain, path)
    (log,) = kept(path)
    assert stored(path) == [1, 2]
    assert log.name.endswith("-wal") and log.stat().st_size > 0


def test_an_old_journal_is_rolled_back_in_its_own_file(archive: Path, path: Path) -> None:
    """A transaction that a kill cut short is neither in the new file nor in the copy."""
    outside(path, "PRAGMA journal_mode = DELETE")
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
    assert Path(f"{path}-journal").stat().st_size > 0
    restore_backup(archive, path)
    (old,) = kept(path)
    assert (stored(path), stored(old)) == ([1, 2], [1, 2, 3])
    assert names(path.parent) == [path.name, old.name]


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "header": lambda data: b"\x55" * 100 + data[100:],
    "schema": lambda data: data[:100] + b"\x55" * 3996 + data[4096:],
    "version": lambda data: data[:18] + b"\x03" + data[19:],
    "schema's format": lambda data: data[:44] + b"\0\0\0\x09" + data[48:],
    "last page": lambda data: data[:-4096] + b"\x55" * 4096,
    "truncated": lambda data: data[:5000],
    "rubbish": lambda data: b"rubbish",
    "emptied": lambda data: b"",
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_is_replaced_and_kept(archive: Path, path: Path, damage: str) -> None:
    """With its -wal, from which something may be saved."""
    path.write_bytes(DAMAGE[damage](path.read_bytes()))
    Path(f"{path}-wal").write_bytes(b"what was a -wal")
    restore_backup(archive, path)
    assert stored(path) == [1, 2]
    check_integrity(path)
    assert kept(path)
    assert not Path(f"{path}-wal").exists()


def test_a_file_that_cannot_be_read_is_kept_byte_by_byte(archive: Path, path: Path) -> None:
    """Private, as all that is made here."""
    path.write_bytes(b"rubbish" * 100)
    Path(f"{path}-wal").write_bytes(b"a -wal")
    told = restore_backup(archive, path).kept
    old, log = kept(path)
    assert told == old
    assert (old.read_bytes(), log.read_bytes()) == (b"rubbish" * 100, b"a -wal")
    assert (mode(old), mode(log)) == (0o600, 0o600)


def test_a_link_is_followed(archive: Path, path: Path, tmp_path: Path) -> None:
    """The file it points to is replaced, where SQLite has its -wal."""
    link = tmp_path / "link.db"
    link.symlink_to(path)
    with_wal(path)
    restore_backup(archive, link)
    assert link.is_symlink()
    assert (stored(path), len(kept(path))) == ([1, 2], 1)


def test_two_restores_in_a_second_keep_both(archive: Path, path: Path) -> None:
    """Nothing that was kept is overwritten."""
    for _ in range(3):
        restore_backup(archive, path)
    assert sorted(stored(each) for each in kept(path)) == [[1, 2], [1, 2], [1, 2, 3]]


@pytest.mark.skipif(os.getuid() != 0, reason="needs root")
def test_the_file_s_owner_stays_its_owner(archive: Path, path: Path) -> None:
    """So that the service can open what root has restored."""
    os.chown(path, 65534, 65534)
    restore_backup(archive, path)
    assert (path.stat().st_uid, path.stat().st_gid, mode(path)) == (65534, 65534, 0o600)


def test_the_file_s_mode_stays(archive: Path, path: Path) -> None:
    """So that a sidecar can go on reading; what is kept of the old file is private."""
    path.chmod(0o640)
    restore_backup(archive, path)
    (old,) = kept(path)
    assert (mode(path), mode(old)) == (0o640, 0o600)


def test_a_directory_is_no_database(archive: Path, path: Path) -> None:
    """It is named, and nothing is made."""
    with pytest.raises(InvalidInputError, match="is a directory"):
        restore_backup(archive, path.parent)


def test_a_file_in_use_is_refused(archive: Path, path: Path) -> None:
    """Open in another process, or here; it is untouched and can be restored afterwards."""
    with open_elsewhere(path):
        with pytest.raises(DatabaseLockedError, match=rf"{path} is open.*stop the service"):
            restore_backup(archive, path)
    with Database(path) as db:
        db.read(numbers)
        with pytest.raises(DatabaseLockedError, match="stop the service"):
            restore_backup(archive, path)
        db.write(insert, 5)
    assert (stored(path), names(path.parent)) == ([1, 2, 3, 5], [path.name])
    restore_backup(archive, path)
    assert stored(path) == [1, 2]


def test_a_transaction_in_any_journal_mode_is_refused(archive: Path, path: Path) -> None:
    """Where an idle connection cannot be seen."""
    outside(path, "PRAGMA journal_mode = DELETE")
    with open_elsewhere(path, "BEGIN IMMEDIATE"):
        with pytest.raises(DatabaseLockedError, match="stop the service"):
            restore_backup(archive, path)


def test_a_damaged_file_in_use_is_refused(archive: Path, path: Path) -> None:
    """Though SQLite cannot read it."""
    with open_elsewhere(path):
        path.write_bytes(b"\x55" * 8192)
        with pytest.raises(DatabaseLockedError, match="stop the service"):
            restore_backup(archive, path)
    assert path.read_bytes() == b"\x55" * 8192
    assert kept(path) == []


def test_a_full_disk_leaves_the_old_file(
    archive: Path, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With its -wal's content."""
    with_wal(path)

    def fail(source: Path, target: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(archives, "_put", fail)
    with pytest.raises(DatabaseFullError, match=rf"{path}"):
        restore_backup(archive, path)
    assert stored(path) == [1, 2, 3, 4]
    assert not any(name.endswith(".partial") for name in names(path.parent))


def test_killed_at_any_moment_the_file_is_the_old_or_the_new(path: Path, folder: Path) -> None:
    """Whole, with all that was committed in the old one's -wal."""
    seed = random.SystemRandom().randrange(10**6)
    print(f"{seed=}")
    chance = random.Random(seed)
    with Database(path) as db:
        db.write(create)
        db.write(insert, *range(100_000))
        archive = write_backup(db, folder)
        db.write(insert, -1)
    old = path.read_bytes()
    new = list(range(100_000))
    code = (
        IMPORTS + "print(flush=True)\nrestore_backup(sys.argv[1], sys.argv[2])\nprint(flush=True)"
    )

    def restoring() -> subprocess.Popen[bytes]:
        for each in path.parent.iterdir():
            if each.is_file():
                each.unlink()
        path.write_bytes(old)
        with_wal(path)
        process = subprocess.Popen(script(code, archive, path), stdout=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.readline()
        return process

    with restoring() as process:
        assert process.stdout is not None
        began = time.monotonic()
        process.stdout.readline()
        takes = time.monotonic() - began
    found = []
    for _ in range(50 if SOAK else 8):
        with restoring() as process:
            time.sleep(chance.uniform(0, 1.1 * takes))
            process.send_signal(signal.SIGKILL)
        found.append(stored(path))
        check_integrity(path)
        assert found[-1] in (new, sorted([*new, -1, 4]))
        assert all(stored(each) == sorted([*new, -1, 4]) for each in kept(path))
    restore_backup(archive, path)
    assert stored(path) == new


STEPS = [
    "create_private",
    "_contents",
    "_give_to_owner",
    "_connected",
    "_is_locked",
    "_copy_aside",
    "_kept_name",
    "_put",
    "sync",
    "sync_names",
]


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("step", STEPS)
def test_killed_around_each_step_the_file_is_whole(
    archive: Path, path: Path, step: str, when: str
) -> None:
    """The old one with its -wal, or the new one; and restoring again completes it."""
    with_wal(path)
    code = """
        from langgraph_sqlite_saver.database import archives
        step, when, archive, path = sys.argv[1:]
        original = getattr(archives, step)

        def killed(*args):
            if when == "after":
                original(*args)
            os.kill(os.getpid(), signal.SIGKILL)

        setattr(archives, step, killed)
        archives.restore_backup(archive, path)
        """
    done = subprocess.run(script(code, step, when, archive, path), capture_output=True)
    assert done.returncode == -signal.SIGKILL
    assert stored(path) == ([1, 2] if (step, when) == ("_put", "after") else [1, 2, 3, 4])
    restore_backup(archive, path)
    assert stored(path) == [1, 2]


# How much memory.


def test_memory_stays_bounded(tmp_path: Path) -> None:
    """Of a 60 MB database, backed up and restored, a few MB are in memory at a time."""
    grown = run_script(
        IMPORTS
        + """
import resource
path, folder, target = sys.argv[1:]
with Database(path) as db:
    db.write(create)
    for _ in range(60):
        db.write(lambda conn: conn.execute("INSERT INTO numbers VALUES (randomblob(1000000))"))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    archive = write_backup(db, folder)
    restore_backup(archive, target)
    restore_backup(archive, target)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
""",
        tmp_path / "large.db",
        tmp_path / "backups",
        tmp_path / "restored.db",
    )
    assert int(grown) < 25_000  # kilobytes, on Linux
