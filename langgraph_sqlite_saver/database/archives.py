"""Compressed backups of a database file, and the way back.

A backup is made, checked and packed in a directory of its own beside its place, and appears there
by one rename: whole or not at all. What a killed run leaves behind, a later one removes.
"""

from __future__ import annotations

import errno
import gzip
import os
import re
import shutil
import sqlite3
import stat
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from itertools import count
from pathlib import Path
from urllib.parse import quote

from . import fork, upkeep
from .core import Database
from .durable import flush, make_directory, sync, sync_names
from .errors import (
    CannotOpenError,
    DatabaseFullError,
    DatabaseLockedError,
    InvalidInputError,
    InvalidTypeError,
    NotADatabaseError,
    ReadOnlyError,
    UnknownSchemaError,
    is_busy,
    translate,
)
from .file_identity import is_open_here
from .files import StrPath, connect, create_private
from .migrations import Schema, applied_version
from .upkeep import Progress

_NAME = re.compile(r"sqlite_backup_(\d{8}_\d{6})(?:_([1-9]\d*))?\.db\.gz")
_STAMP = "%Y%m%d_%H%M%S"
_CHUNK = 1 << 20
# 73 MB of usage records: 18.3 MB in 0.9 s; with level 9, 17.8 MB in 2.1 s.
_LEVEL = 6
# A directory in which nothing was written for so long belongs to a run that was killed, in seconds.
_ABANDONED = 3600
# What SQLite keeps beside a file and applies to whatever has the file's name; the -shm is an index.
_LOGS = ("-wal", "-journal")


@dataclass(frozen=True)
class BackupFigures:
    """A backup in figures.

    `bytes` is the size of the database once unpacked; `tables` has the rows of each table;
    `dangling` counts rows whose foreign key names a row that is not there; `created` is local time,
    from the file's name, otherwise from its modification; `kept` is the file that it has replaced;
    `versions` has the version of each component's tables, by the table that records it.
    """

    path: Path
    bytes: int
    tables: dict[str, int]
    dangling: int
    created: datetime
    kept: Path | None = None
    versions: dict[str, int] = field(default_factory=dict)


def write_backup(
    database: Database,
    directory: StrPath = "backups/sqlite",
    *,
    keep_days: float = 7,
    progress: Progress | None = None,
    now: Callable[[], datetime] = datetime.now,
) -> Path:
    """The absolute path of a new backup of the database, made while others go on writing.

    It is `sqlite_backup_YYYYMMDD_HHMMSS.db.gz` of local time (`_2` and so on where the name is
    taken), with mode 0600; the directory is created with 0700 where it is missing. It is one
    snapshot, unpacks to a sound database, and is on the disk. Then backups of this file whose names
    tell a time more than `keep_days` days ago are removed, but never the newest.

    The same database gives the same bytes. `progress(done, total)` counts bytes copied and then
    compressed, of both together. It takes twice the database's size of disk meanwhile.

    Raises:
        NotADatabaseError: The database itself is damaged.
        DatabaseFullError: The disk is full.
        CannotOpenError: The directory cannot be written, or an old backup cannot be removed.

    But for the last, nothing of the new backup stays when something is raised, and none is removed.
    """
    _check_days(keep_days)
    folder, started = Path(directory).absolute(), now().replace(microsecond=0)
    with _explained(folder):
        make_directory(folder)
        _remove_abandoned(folder, ".sqlite_backup_")
    with _new_place(folder, started) as (work, target):
        copy, packed = work / "copy.db", work / target.name
        (page_size,) = database.read(_pragma, "page_size")
        database.read_long(upkeep.backup, copy, _copying(progress, page_size))
        _check_copy(copy, database.name)
        _pack(copy, packed, _owner(database.path), progress)
        with _explained(target):
            packed.replace(target)
            sync_names(folder)
    with _explained(folder):
        for each in _outdated(folder, database.path, started, keep_days):
            each.unlink(missing_ok=True)
    return target


def made_of(directory: StrPath, path: StrPath | None) -> list[Path]:
    """The backups of the database at `path` in a directory, the oldest first.

    Those that do not tell of which file they are, as other programs pack them, are taken for its.
    """
    return list(_found(Path(directory).absolute(), path).values())


def outdated(directory: StrPath, path: StrPath | None, *, keep_days: float = 7) -> list[Path]:
    """The backups of the database at `path` that one made now would remove."""
    _check_days(keep_days)
    folder = Path(directory).absolute()
    now = datetime.now().replace(microsecond=0)
    return _outdated(folder, path, now, keep_days)


def check_backup(
    archive: StrPath, schemas: Sequence[Schema] = (), *, directory: StrPath | None = None
) -> BackupFigures:
    """What a backup holds, once it was unpacked and found sound; nothing of that stays.

    It is gzip where its name ends in `.gz`, otherwise an SQLite file, of which a -wal is part. It
    is unpacked in `directory`, by default its own. `schemas` are the tables that it may hold, at
    a version that this release knows.

    Raises:
        NotADatabaseError: It is truncated, damaged, or no SQLite database.
        UnknownSchemaError: A newer version of this library wrote it, or another program did.
        DatabaseFullError: There is no room to unpack it.
        CannotOpenError: It cannot be read, or the directory cannot be written.
    """
    source = Path(archive).absolute()
    folder = source.parent if directory is None else Path(directory).absolute()
    with _private_place(folder, source.name) as work:
        return _unpack(source, work / "copy.db", schemas, None)


def restore_backup(
    archive: StrPath,
    path: StrPath,
    schemas: Sequence[Schema] = (),
    *,
    keep: bool = True,
    progress: Progress | None = None,
) -> BackupFigures:
    """Put a backup in the place of the database at `path`, and tell what it holds.

    The new file gets the owner and the mode of the old one; without one, mode 0600.

    It is checked first, as `check_backup` does. What was there, with its -wal, is kept beside it as
    `<path>.before-restore-YYYYMMDD_HHMMSS` (local time), which is for the caller to remove, unless
    `keep` is false. Killed at any moment, it leaves the old database or the new one, whole. It
    takes the sizes of both of disk besides. `progress(done, total)` counts bytes of the backup.

    Raises:
        DatabaseLockedError: Somebody has the database open: stop the service first. Another
            process that has it open in another mode than WAL, and is idle, cannot be seen.
        NotADatabaseError: The backup is truncated, damaged, or no SQLite database.
        UnknownSchemaError: A newer version of this library wrote it, or another program did.
        DatabaseFullError: The disk is full.
        CannotOpenError: The backup cannot be read, or the directory of `path` cannot be written.

    Whatever is raised, the database holds what it held.
    """
    # In this order, for a kill or a power cut between any two steps:
    # 1. The backup is unpacked, checked and synced in a directory of its own: `path` is untouched.
    # 2. The file is locked, and SQLite moves its -wal into it: the same database, in one file.
    # 3. A copy of it is kept under its own name.
    # 4. With the lock held, so that nobody begins a new -wal, what is left beside it is removed.
    # 5. One rename puts the new file in place: it never was without a file, nor beside an old -wal.
    # A damaged file, into which SQLite moves nothing, is kept byte by byte with its -wal at 3; a
    # kill between 4 and 5 leaves it without, but the copy has both.
    target = Path(os.path.realpath(path))  # SQLite's files lie beside what a link points to
    if target.is_dir():
        raise InvalidInputError(f"{target} is a directory: give the path of a file")
    with _private_place(target.parent, target.name) as work:
        figures = _unpack(Path(archive).absolute(), work / "new.db", schemas, progress)
        with _explained(target):
            _give_to_owner(work / "new.db", target)
            sync(work / "new.db")
            kept = _swap(work, target, keep)
    return replace(figures, kept=kept)


# Making a backup.


def _check_days(days: float) -> None:
    if isinstance(days, bool) or not isinstance(days, (int, float)):
        raise InvalidTypeError(f"keep_days is a number of days, not {days!r}")
    if not days >= 0:
        raise InvalidInputError(f"keep_days cannot be {days!r} days")


def _pragma(conn: sqlite3.Connection, name: str) -> tuple[int]:
    row: tuple[int] = conn.execute(f"PRAGMA {name}").fetchone()
    return row


def _bytes(progress: Progress | None, page_size: int) -> Progress | None:
    """For what counts pages."""
    if progress is None:
        return None
    return lambda done, total: progress(done * page_size, total * page_size)


def _copying(progress: Progress | None, page_size: int) -> Progress | None:
    """For the first half, which counts pages."""
    if progress is None:
        return None
    return lambda done, total: progress(done * page_size, 2 * total * page_size)


def _check_copy(copy: Path, name: str) -> None:
    try:
        _contents(copy, ())
    except _NOT_SOUND as error:
        raise NotADatabaseError(
            f"{name} is damaged, and was not backed up ({error}). Restore an earlier backup, or "
            "save what can be read with the sqlite3 shell's `.recover`."
        ) from error


def _pack(copy: Path, packed: Path, owner: str, progress: Progress | None) -> None:
    """Compress the copy, sync it, and read it back: a gzip ends with a checksum."""
    size = copy.stat().st_size
    for done in _compress(copy, packed, owner):
        if progress is not None:
            progress(size + done, 2 * size)
    try:
        for _ in _chunks(packed):
            pass
    except _NOT_GZIP as error:
        raise CannotOpenError(f"{packed}: the disk does not give back what was written") from error


def _compress(copy: Path, packed: Path, owner: str) -> Iterator[int]:
    """Bytes read so far, as it goes on."""
    with _explained(packed):
        create_private(packed)
        with copy.open("rb") as source, packed.open("wb") as raw:
            # No time in it: it depends on the database only, and on where that is.
            with gzip.GzipFile(owner, "wb", _LEVEL, raw, mtime=0) as target:
                while chunk := source.read(_CHUNK):
                    target.write(chunk)
                    yield source.tell()
            raw.flush()
            flush(raw.fileno())


@contextmanager
def _new_place(folder: Path, started: datetime) -> Iterator[tuple[Path, Path]]:
    """A directory to work in, and a free name for the backup, which its own name reserves."""
    stamp = started.strftime(_STAMP)
    for number in count(1):
        name = f"sqlite_backup_{stamp}{f'_{number}' if number > 1 else ''}"
        work, target = folder / f".{name}.partial", folder / f"{name}.db.gz"
        with _explained(folder):
            try:
                work.mkdir(mode=0o700)
            except FileExistsError:  # another run is making it
                continue
        with _removed_after(work):
            if not target.exists():
                yield work, target
                return


def _found(folder: Path, path: StrPath | None) -> dict[tuple[datetime, int], Path]:
    owner = _owner(path)
    with _explained(folder):
        files = folder.iterdir() if folder.exists() else ()
        named = [(key, each) for each in files if (key := _key(each.name))]
    return {key: each for key, each in sorted(named) if _is_of(each, owner)}


def _outdated(
    folder: Path, path: StrPath | None, started: datetime, keep_days: float
) -> list[Path]:
    """Backups that are older than the one that began then, or would, and are not the newest."""
    found = _found(folder, path)
    newest = max([(started, 0), *found])
    return [
        each
        for (when, number), each in found.items()
        if (when, number) != newest and (started - when) / timedelta(days=1) > keep_days
    ]


# A backup tells of which file it is where a gzip has the name of what it was made of: what lies in
# one directory under names that tell the time alone may be of several.


def _owner(path: StrPath | None) -> str:
    """A database's file in a gzip's header, which holds a name in Latin-1, and no path."""
    if path is None:
        return ""
    return quote(os.fsencode(os.path.realpath(path)), safe="").removesuffix(".gz")


def _is_of(archive: Path, owner: str) -> bool:
    """Whether a backup is of this file, or does not tell; not, if it cannot be read."""
    try:
        with archive.open("rb") as file:
            header = file.read(_HEADER)
    except OSError:
        return False
    if header[:3] != _GZIP or header[3:4] != _HAS_NAME:
        return True
    return header[10:].partition(b"\0")[0] == owner.encode()


# https://www.rfc-editor.org/rfc/rfc1952#page-5: the name begins after ten bytes and ends with a 0.
_GZIP, _HAS_NAME, _HEADER = b"\x1f\x8b\x08", b"\x08", 1 << 14


def _key(name: str) -> tuple[datetime, int] | None:
    """When a backup was made, and which one in that second; None for a file that is not ours."""
    match = _NAME.fullmatch(name)
    if match is None:
        return None
    try:
        return datetime.strptime(match[1], _STAMP), int(match[2] or 1)
    except ValueError:  # as 20261332
        return None


# Looking into a backup.


def _unpack(
    source: Path, target: Path, schemas: Sequence[Schema], progress: Progress | None
) -> BackupFigures:
    """Make a private SQLite file of a backup and check it."""
    try:
        if source.suffix == ".gz":
            _decompress(source, target, progress)
        else:
            _copy(source, target, progress)
        tables, dangling, versions = _contents(target, schemas)
    except (*_NOT_GZIP, *_NOT_SOUND) as error:
        raise NotADatabaseError(
            f"{source} is truncated, damaged, or no backup of an SQLite database ({error}). Take "
            "another backup, an earlier one or a copy kept elsewhere."
        ) from error
    except UnknownSchemaError as error:
        raise UnknownSchemaError(f"{source}: {error}") from None
    key = _key(source.name)
    created = key[0] if key else datetime.fromtimestamp(source.stat().st_mtime)
    size = target.stat().st_size
    return BackupFigures(source, size, tables, dangling, created, versions=versions)


def _decompress(source: Path, target: Path, progress: Progress | None) -> None:
    with _explained(target):
        create_private(target)
        with target.open("wb") as file:
            for chunk in _chunks(source, progress):
                # Before a small file that is none has filled the disk.
                if file.tell() == 0 and not chunk.startswith(_SQLITE):
                    raise NotADatabaseError("it does not begin as an SQLite file does")
                file.write(chunk)


_SQLITE = b"SQLite format 3\0"


def _copy(source: Path, target: Path, progress: Progress | None) -> None:
    """As a database: closing a plain file would drop the locks that a `Database` here has on it."""
    with _explained(source):
        _refuse_empty(source)
    in_use = any(Path(f"{source}{log}").exists() for log in _LOGS)
    option = "mode=ro" if in_use else "immutable=1"  # which leaves no -wal behind
    with Database(f"{source.as_uri()}?{option}") as database:
        (page_size,) = database.read(_pragma, "page_size")
        database.read_long(upkeep.backup, target, _bytes(progress, page_size))


def _refuse_empty(file: Path) -> None:
    if file.stat().st_size == 0:  # for SQLite, a database without tables
        raise NotADatabaseError("it is empty")


# BadGzipFile is an OSError, so this is caught before those are explained.
_NOT_GZIP = (gzip.BadGzipFile, EOFError, zlib.error)


def _chunks(packed: Path, progress: Progress | None = None) -> Iterator[bytes]:
    """What is in a gzip file; raises one of `_NOT_GZIP` at its end if the checksum is wrong."""
    with _explained(packed), packed.open("rb") as raw, gzip.open(raw) as file:
        total = packed.stat().st_size
        while chunk := file.read(_CHUNK):
            yield chunk
            if progress is not None:
                progress(raw.tell(), total)


# The second for what the database layer has no error for, as "unsupported file format".
_NOT_SOUND = (NotADatabaseError, sqlite3.Error)


def _contents(file: Path, schemas: Sequence[Schema]) -> tuple[dict[str, int], int, dict[str, int]]:
    """Rows by table, dangling rows, versions; raises one of `_NOT_SOUND` if damaged.

    Nobody else writes the file, so it is opened as immutable, which leaves nothing beside it.
    """
    _refuse_empty(file)
    with Database(f"{file.as_uri()}?immutable=1") as database:
        return database.read(_checked_rows, schemas)


def _checked_rows(
    conn: sqlite3.Connection, schemas: Sequence[Schema]
) -> tuple[dict[str, int], int, dict[str, int]]:
    # Not quick_check, which does not compare indexes with their tables: a lookup in a damaged index
    # silently finds nothing. Nobody waits for a copy (73 MB: 0.23 s, quick_check 0.04).
    (verdict,) = conn.execute("PRAGMA integrity_check(1)").fetchone()
    if verdict != "ok":
        raise NotADatabaseError(" ".join(verdict.split()))  # it may have lines
    # Rows that break a foreign key are as they were: a backup of them is better than none.
    (dangling,) = conn.execute("SELECT count(*) FROM pragma_foreign_key_check").fetchone()
    # Virtual tables have no page of their own, and need an extension to be read.
    names = conn.execute(
        "SELECT name FROM sqlite_master WHERE type = 'table' AND rootpage > 0 "
        "AND name NOT LIKE 'sqlite!_%' ESCAPE '!' ORDER BY name"
    ).fetchall()
    tables = {name: _rows(conn, name) for (name,) in names}
    return tables, dangling, {each.versions_table: _version(conn, each) for each in schemas}


def _version(conn: sqlite3.Connection, schema: Schema) -> int:
    schema.refuse(conn)
    version = applied_version(conn, schema)
    if version > schema.newest:
        raise UnknownSchemaError(
            f"it is of a newer version of this library: its {schema.versions_table} are at version "
            f"{version}, and this one knows {schema.newest}. Upgrade langgraph-sqlite-saver, then "
            "restore it. Nothing was changed."
        )
    return version


def _rows(conn: sqlite3.Connection, table: str) -> int:
    quoted = table.replace('"', '""')
    (rows,) = conn.execute(f'SELECT count(*) FROM "{quoted}"').fetchone()  # noqa: S608
    return int(rows)


# Putting it in place.


def _give_to_owner(new: Path, target: Path) -> None:
    """Give the new file the owner and mode of the old one: root may restore a service's file."""
    # Another user than root cannot give a file away.
    with suppress(FileNotFoundError, PermissionError):
        there = target.stat()
        os.chown(new, there.st_uid, there.st_gid)
        new.chmod(stat.S_IMODE(there.st_mode))


def _swap(work: Path, target: Path, keep: bool) -> Path | None:
    """Put the new file in place; where the old one is kept."""
    if not target.exists():
        if keep:
            _keep_bytes(target)  # logs without a file: of no use to SQLite, but not ours to lose
        _put(work, target)
        return None
    # In another mode than WAL an idle connection holds no lock; in this process it is seen so.
    if is_open_here(target):
        raise _in_use(target)
    # The mutex: no child may inherit this connection.
    with fork.mutex, closing(_connected(target)) as conn:
        if _is_locked(conn, target):
            kept = _copy_aside(conn, work, target) if keep else None
        else:
            _refuse_if_locked(target)
            kept = _keep_bytes(target) if keep else None
        _put(work, target)
    return kept


def _copy_aside(conn: sqlite3.Connection, work: Path, target: Path) -> Path:
    upkeep.backup(conn, work / "old.db")
    return (work / "old.db").replace(_kept_name(target))


def _put(work: Path, target: Path) -> None:
    sync_names(target.parent)  # what is kept, before what it is a copy of goes
    for suffix in (*_LOGS, "-shm"):
        Path(f"{target}{suffix}").unlink(missing_ok=True)
    sync_names(target.parent)  # or a power cut could leave the new file beside the old -wal
    (work / "new.db").replace(target)
    sync_names(target.parent)


def _connected(target: Path) -> sqlite3.Connection:
    try:
        return connect(f"{target.as_uri()}?mode=rw")
    except sqlite3.Error as error:
        raise translate(error, str(target)) from error


# What SQLite says of a damaged file: its header may tell of a version that it can only read.
_DAMAGED = (*_NOT_SOUND, ReadOnlyError)


def _is_locked(conn: sqlite3.Connection, target: Path) -> bool:
    """Lock the file for as long as the connection is open, and move its -wal into it.

    False for a damaged file; raises DatabaseLockedError if somebody has it open.
    """
    try:
        # SQLite can be built with another default, and fsync is not all on macOS.
        conn.execute("PRAGMA synchronous = FULL")
        conn.execute("PRAGMA fullfsync = ON")
        conn.execute("PRAGMA locking_mode = EXCLUSIVE")  # a lock once taken outlasts its COMMIT
        conn.execute("BEGIN EXCLUSIVE")
        conn.execute("COMMIT")
        conn.execute("PRAGMA journal_mode = DELETE")
        conn.execute("SELECT * FROM sqlite_master").fetchall()
    except sqlite3.Error as error:
        if is_busy(error):
            raise _in_use(target) from error
        explained = translate(error, str(target))
        if isinstance(explained, _DAMAGED):
            return False
        raise explained from error
    return True


def _in_use(target: Path) -> DatabaseLockedError:
    return DatabaseLockedError(
        f"{target} is open in another process, or elsewhere in this one: stop the service that "
        "uses it, and restore again. Nothing was changed."
    )


def _refuse_if_locked(target: Path) -> None:
    """Raise if another process has a damaged file open: SQLite looks at the file, then at locks.

    It opens the file, whose closing drops all locks that this process has on it: nobody else here
    has it open, and SQLite has none on a file that it cannot read.
    """
    import fcntl  # missing on Windows, where the module can be imported none the less

    with target.open("rb+") as file:
        try:
            # PENDING_BYTE to the end of the shared range, https://www.sqlite.org/src/file/src/os.h
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 512, 0x40000000)
        except OSError as error:
            raise _in_use(target) from error


def _keep_bytes(target: Path) -> Path:
    kept = _kept_name(target)
    for suffix in ("", *_LOGS):
        part = Path(f"{target}{suffix}")
        if part.exists():
            copy = Path(f"{kept}{suffix}")
            create_private(copy)
            shutil.copyfile(part, copy)
            sync(copy)
    return kept


def _kept_name(target: Path) -> Path:
    base = f"{target}.before-restore-{time.strftime(_STAMP)}"
    names = (Path(f"{base}_{number}" if number > 1 else base) for number in count(1))
    return next(
        name for name in names if not any(Path(f"{name}{s}").exists() for s in ("", *_LOGS))
    )


# Files.


@contextmanager
def _private_place(folder: Path, name: str) -> Iterator[Path]:
    """A directory to unpack in, beside what it is for."""
    with _explained(folder):
        _remove_abandoned(folder, f".{name}.unpacked-")
        work = Path(tempfile.mkdtemp(".partial", f".{name}.unpacked-", folder))
    with _removed_after(work):
        yield work


@contextmanager
def _removed_after(work: Path) -> Iterator[None]:
    try:
        yield
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _remove_abandoned(folder: Path, prefix: str) -> None:
    for each in folder.iterdir():
        ours = each.name.startswith(prefix) and each.name.endswith(".partial") and each.is_dir()
        if ours and time.time() - _last_written(each) > _ABANDONED:
            shutil.rmtree(each, ignore_errors=True)


def _last_written(work: Path) -> float:
    try:
        return max(each.stat().st_mtime for each in (work, *work.iterdir()))
    except FileNotFoundError:  # it is being worked in, or removed
        return time.time()


@contextmanager
def _explained(where: Path) -> Iterator[None]:
    try:
        yield
    except gzip.BadGzipFile:
        raise
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DatabaseFullError(
                f"{where}: the disk is full. Free some space and call again."
            ) from error
        raise CannotOpenError(
            f"{where}: {error.strerror or error}. Give a place that exists, and where this user "
            "may read and write."
        ) from error
