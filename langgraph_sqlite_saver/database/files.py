"""Opening a database file: what it is, whether it can be written, and the connections to it.

What kind of file it is gets looked up read-only, before any PRAGMA is set and before SQLite could
recover or checkpoint a foreign file's -wal.
"""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Union
from urllib.parse import SplitResult, parse_qsl, quote, unquote, urlencode, urlsplit
from urllib.request import url2pathname

from . import migrations
from .busy import retry_while_busy
from .errors import (
    CannotOpenError,
    DatabaseFullError,
    InvalidInputError,
    InvalidTypeError,
    NotADatabaseError,
    ReadOnlyError,
    StorageError,
    UnknownSchemaError,
    is_busy,
    translate,
    translated,
)
from .file_identity import FileIdentity
from .migrations import Schema
from .names import check_path, check_uri
from .pragmas import PragmaValue, set_connection_pragmas, set_file_pragmas

OLDEST_SQLITE = (3, 35, 0)

StrPath = Union[str, "os.PathLike[str]"]


@dataclass(frozen=True)
class Location:
    """Where a database lives: a file (its path without links, as SQLite has it), or memory."""

    name: str
    path: str | None
    query: tuple[tuple[str, str], ...] = ()
    read_only: bool = False
    must_exist: bool = False
    given: str | None = None  # as `path`, with its links

    @classmethod
    def of(cls, target: StrPath) -> Location:
        """From a path, ":memory:", or an SQLite URI (`file:agent.db?mode=ro`)."""
        if not isinstance(target, (str, os.PathLike)):
            kind = type(target)
            raise InvalidTypeError(
                "a path, ':memory:' or a connection of sqlite3 is expected, not "
                f"{kind.__module__}.{kind.__qualname__}"
            )
        text = os.fsdecode(target)
        if "\0" in (unquote(text) if text.startswith("file:") else text):
            raise InvalidInputError(f"a path cannot hold a NUL character: {text!r}")
        if text.startswith("file:"):
            return cls._of_uri(text)
        if text in ("", ":memory:"):
            return cls(text or "a temporary database", None)
        check_path(text)
        return cls(text, os.path.realpath(text), given=_absolute(text))

    @classmethod
    def _of_uri(cls, uri: str) -> Location:
        parts = _parts(uri)
        # As SQLite reads it: a "+" is one.
        query = tuple(parse_qsl(parts.query.replace("+", "%2B"), keep_blank_values=True))
        options = dict(query)
        if options.get("mode", "rwc") not in ("ro", "rw", "rwc", "memory"):
            raise InvalidInputError(f"{uri}: mode is ro, rw, rwc or memory")
        path = unquote(parts.path, errors="surrogateescape")  # bytes that are no UTF-8 stay
        check_uri(uri, parts.netloc, path)
        if options.get("mode") == "memory" or path in ("", ":memory:"):
            return cls(uri, None, query)
        read_only = options.get("mode") == "ro" or options.get("immutable") == "1"
        kept = tuple((k, v) for k, v in query if k not in ("mode", "cache"))
        must_exist = options.get("mode") == "rw"
        given = path if os.name != "nt" else url2pathname(parts.path)
        path = os.path.realpath(given)
        return cls(uri, path, kept, read_only, must_exist, _absolute(given))

    @property
    def wal(self) -> Path:
        """The write-ahead log beside the file."""
        return Path(f"{self.path}-wal")

    @property
    def journal(self) -> Path:
        """The rollback journal beside the file, in journal modes other than WAL."""
        return Path(f"{self.path}-journal")

    def uri(self, **options: str) -> str:
        """The URI to open it with."""
        if self.path is None:
            return self.name if self.name.startswith("file:") else ":memory:"
        query = urlencode((*self.query, *options.items()), quote_via=quote)
        return f"{Path(self.path).as_uri()}?{query}"


def _parts(uri: str) -> SplitResult:
    try:
        return urlsplit(uri)
    except ValueError as error:  # a host that none can be
        raise InvalidInputError(f"{uri} is not a URI of a file: {error}") from error


def _absolute(path: str) -> str:
    # Not os.path.abspath, which takes `link/..` for the directory that the link is in.
    return os.path.join(os.getcwd(), path)  # noqa: PTH109, PTH118


def connect(uri: str) -> sqlite3.Connection:
    """A connection of ours: no implicit transactions, usable from any thread, no waiting.

    It copies no -wal by itself (see wal.py).
    """
    conn = sqlite3.connect(
        uri,
        uri=uri.startswith("file:"),
        timeout=0,
        isolation_level=None,
        check_same_thread=False,
        cached_statements=256,
    )
    conn.execute("PRAGMA wal_autocheckpoint = 0").close()
    return conn


def check_sqlite_version() -> None:
    """Raise CannotOpenError where the interpreter's SQLite is too old for what is used here."""
    if sqlite3.sqlite_version_info < OLDEST_SQLITE:
        raise CannotOpenError(
            f"SQLite {sqlite3.sqlite_version} is older than "
            f"{'.'.join(map(str, OLDEST_SQLITE))}: use a newer Python build"
        )


class DatabaseFile:
    """One file and what its connections need; knows nothing of pools and threads."""

    def __init__(
        self,
        location: Location,
        schemas: Sequence[Schema],
        pragmas: Mapping[str, PragmaValue],
        lock_timeout: float,
        on_wait: Callable[[float], None] | None = None,
        mode: int = 0o600,
    ) -> None:
        self.location = location
        self.read_only = location.read_only
        self._schemas = schemas
        self._pragmas = pragmas
        self._lock_timeout = lock_timeout
        self._on_wait = on_wait
        self._mode = mode
        # What the file looked like when it was opened as one that nobody writes.
        self._immutable: tuple[int, ...] | None = None
        path = location.path or ""
        self._identity = FileIdentity(location.name, location.given or path, path)
        self.check_identity = self._identity.check

    def open_writer(self) -> sqlite3.Connection | None:
        """Create the file where it is missing, check it, migrate it, and return the writer.

        None where the file can only be read.
        """
        check_sqlite_version()
        location = self.location
        self._identity.check_now()
        with translated(location.name):
            if not (location.read_only or location.must_exist):
                _create_missing(location, self._mode)
            self._refuse_foreign()
            self.read_only = location.read_only or not _can_write(location)
            if not self.read_only:
                try:
                    return self._open(self._connect_writer)
                except sqlite3.OperationalError as error:
                    if not _is_refusal(error):
                        raise
                # Allowed by permissions, refused by SELinux or a network file system.
                self.read_only = True
            self._check_readable_schema()
            return None

    def open_reader(self) -> sqlite3.Connection:
        """One more connection for reading; it cannot write."""
        with translated(self.location.name):
            return self._open(self._connect_reader)

    def _open(self, connect: Callable[[], sqlite3.Connection]) -> sqlite3.Connection:
        return retry_while_busy(
            lambda: self._identity.open(connect),
            limit=self._lock_timeout,
            where=self.location.name,
            on_wait=self._on_wait,
        )

    def open_beside(self) -> sqlite3.Connection:
        """One more connection, as sqlite3.connect() makes them, for somebody else's statements."""
        uri = self.location.uri(mode="ro" if self.read_only else "rw")
        waiting = {"busy_timeout": int(self._lock_timeout * 1000)}

        def attempt() -> sqlite3.Connection:
            conn = sqlite3.connect(uri, uri=True, check_same_thread=False)
            set_connection_pragmas(conn, {**self._pragmas, **waiting})
            return conn

        with translated(self.location.name):
            return self._open(attempt)

    def is_stale(self) -> bool:
        """Whether connections opened as immutable must be renewed: somebody writes again."""
        return self._immutable is not None and (
            self.location.wal.exists() or self._immutable != self._looks()
        )

    def renew(self) -> None:
        """Look at the file afresh at the next `open_reader`."""
        self._immutable = None

    def _looks(self) -> tuple[int, ...]:
        stat = os.stat(self.location.path or "")  # noqa: PTH116
        return stat.st_ino, stat.st_size, stat.st_mtime_ns

    def _refuse_foreign(self) -> None:
        """Raise for a file that must not be touched, having touched nothing."""
        path = Path(self.location.path or "")
        # os.path answers False where pathlib raises PermissionError.
        if os.path.isdir(path):  # noqa: PTH112
            raise CannotOpenError(f"{self.location.name} is a directory: give the path of a file")
        if not os.path.exists(path):  # noqa: PTH110
            raise CannotOpenError(f"{self.location.name} does not exist and cannot be created here")
        if path.stat().st_size == 0:
            return
        # Without a -wal and a journal the main file is all there is, and an immutable connection
        # leaves no -shm behind. A torn read (someone is writing) is looked at again under a lock.
        if not (self.location.wal.exists() or self.location.journal.exists()):
            try:
                self._inspect(immutable="1")
                return
            except (sqlite3.DatabaseError, NotADatabaseError):
                pass
        retry_while_busy(self._inspect_locked, limit=self._lock_timeout, where=self.location.name)

    def _inspect_locked(self) -> None:
        try:
            self._inspect(mode="ro")
        except sqlite3.OperationalError as error:
            needs_writing = isinstance(translate(error, ""), ReadOnlyError)
            if not needs_writing or self.location.read_only or not _can_write(self.location):
                raise
            # A crash left the file in the middle of a transaction: only once its journal is rolled
            # back can anybody read it.
            self._inspect(mode="rw")

    def _inspect(self, **options: str) -> None:
        with closing(connect(self.location.uri(**options))) as conn:
            for schema in self._schemas:
                try:
                    schema.refuse(conn)
                    migrations.pending(conn, schema)
                except UnknownSchemaError as error:
                    raise UnknownSchemaError(f"{self.location.name}: {error}") from None

    def _check_readable_schema(self) -> None:
        with closing(self.open_reader()) as conn:
            for schema in self._schemas:
                if migrations.pending(conn, schema):
                    raise ReadOnlyError(
                        f"{self.location.name} cannot be written and its tables are at version "
                        f"{migrations.applied_version(conn, schema)} of {schema.newest}: open it "
                        "once where it can be written, then it can be read here"
                    )

    def _connect_writer(self) -> sqlite3.Connection:
        conn = connect(self.location.uri(mode="rw"))
        try:
            set_connection_pragmas(conn, self._pragmas)
            set_file_pragmas(conn, self._pragmas)
            for schema in self._schemas:
                migrate(conn, schema, self.location.name)
            # As for a reader: from now on its -wal is there, and no longer changes.
            conn.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone()
        except BaseException:
            conn.close()
            raise
        return conn

    def _connect_reader(self) -> sqlite3.Connection:
        if not self.read_only:
            return self._reader(mode="rw")
        try:
            return self._reader(mode="ro")
        except sqlite3.OperationalError as error:
            # WAL needs a -shm beside the file; where none can be made and nobody writes, the
            # file is as good as immutable.
            if is_busy(error) or self.location.wal.exists() or self.location.journal.exists():
                raise
            self._immutable = self._immutable or self._looks()
            return self._reader(immutable="1")

    def _reader(self, **options: str) -> sqlite3.Connection:
        conn = connect(self.location.uri(**options))
        try:
            set_connection_pragmas(conn, self._pragmas)
            conn.execute("PRAGMA query_only = 1")
            conn.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone()
        except BaseException:
            conn.close()
            raise
        return conn


def take_empty_wal_away(location: Location) -> None:
    """Reading makes one where its owner has left none; SQLite itself takes it away again."""
    with suppress(OSError, sqlite3.Error):
        if location.wal.exists() and location.wal.stat().st_size == 0:
            with closing(connect(location.uri(mode="rw"))) as conn:
                conn.execute("SELECT 1 FROM sqlite_master").fetchone()


def migrate(conn: sqlite3.Connection, schema: Schema, where: str) -> None:
    """Bring a component's tables to the newest version, one transaction for each migration.

    `where` names the file in the log.
    """
    while migrations.pending(conn, schema):
        conn.execute("BEGIN IMMEDIATE")
        try:
            applied = migrations.apply_next(conn, schema)
            conn.execute("COMMIT")
        except BaseException:
            if conn.in_transaction:
                conn.execute("ROLLBACK")
            raise
        migrations.tell_applied(where, schema, applied)


def create_private(path: StrPath, mode: int = 0o600) -> None:
    """Create an empty file with this mode; raises FileExistsError."""
    handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
    try:
        if mode != 0o600 and hasattr(os, "fchmod"):  # the umask does not apply to it
            os.fchmod(handle, mode)
    finally:
        os.close(handle)


def checked_mode(mode: int) -> int:
    """Returns the mode for new files; raises for a value that cannot be meant."""
    if isinstance(mode, bool) or not isinstance(mode, int):
        raise InvalidTypeError(f"mode is a number, as 0o640, not {mode!r}")
    if not 0 <= mode <= 0o777 or mode & 0o600 != 0o600:
        raise InvalidInputError(
            f"mode cannot be {mode} ({mode:#o}): it is an octal number, as 0o640, by which the "
            "owner can read and write"
        )
    return mode


def _create_missing(location: Location, mode: int) -> None:
    assert location.path is not None
    if os.path.exists(location.path):  # noqa: PTH110
        return
    try:
        create_private(location.path, mode)
    except FileExistsError:  # another process was faster
        pass
    except OSError as error:
        raise _cannot_create(location, error) from error


def _cannot_create(location: Location, error: OSError) -> StorageError:
    directory = Path(location.path or "").parent
    if error.errno == errno.ENOSPC:
        return DatabaseFullError(f"{location.name}: the disk is full. Free some space.")
    if error.errno == errno.ENOENT:
        return CannotOpenError(f"{location.name}: create the directory {directory} first")
    return CannotOpenError(
        f"{location.name}: cannot create it in {directory} ({error.strerror}). "
        "Choose a directory that this user may write to."
    )


def _can_write(location: Location) -> bool:
    path = Path(location.path or "")
    return _may_write(path) and (_may_write(path.parent) or location.wal.exists())


def _may_write(path: Path) -> bool:
    # Files are opened as the effective user; access() checks the real one unless told otherwise.
    return os.access(path, os.W_OK, effective_ids=os.access in os.supports_effective_ids)


def _is_refusal(error: sqlite3.OperationalError) -> bool:
    """Whether SQLite could not write the file, or could not create files beside it."""
    return any(each in str(error) for each in ("readonly database", "unable to open database"))
