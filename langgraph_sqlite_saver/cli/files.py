"""Opening a checkpoint file: for looking, which leaves it and its directory as they are."""

from __future__ import annotations

import os
import sqlite3
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ..checkpoints.schema import SCHEMA
from ..database import (
    CannotOpenError,
    Database,
    NotADatabaseError,
    ReadOnlyError,
    StorageError,
    UnknownSchemaError,
)
from ..database.migrations import applied_version, pending
from ..database.names import check_path
from ..saver import SqliteSaver
from .options import USAGE, fail, is_at_rest, read_only, typed
from .plain import PlainSerializer

if TYPE_CHECKING:
    from langgraph.checkpoint.serde.base import SerializerProtocol

T = TypeVar("T")

# A file that is looked at may be damaged: what a page says of itself is compared first.
_CAREFUL = {"cell_size_check": True}

# How often a file is read as one that nobody writes, before it is read as any other.
_ATTEMPTS = 3


def look(path: Path, gather: Callable[[SqliteSaver], T], serde: SerializerProtocol | None) -> T:
    """What `gather(saver)` returns, on a file that is only read; others may write meanwhile.

    It is called again where what it read was written meanwhile. Raises StorageError, with the
    remedy, for files that hold no checkpoints.
    """
    check_file(path)
    left = _ATTEMPTS
    while True:
        seen = _at_rest(path) if left > 0 else None
        left -= 1
        uri = read_only(path, at_rest=seen is not None)
        try:
            with _explained(path), SqliteSaver(uri, serde=serde, pragmas=_CAREFUL) as saver:
                saver.database.read(_take_any_text)
                found = gather(saver)
        except StorageError:
            if seen == _at_rest(path) or left < 0:
                raise
        else:
            # Read as one that nobody writes: if somebody did, it may be half of each.
            if seen is None or seen == _at_rest(path):
                return found


def _take_any_text(conn: sqlite3.Connection) -> None:
    """Have text that is no UTF-8 read as text, and not raise: its value is then found damaged."""
    conn.text_factory = lambda data: data.decode("utf-8", "replace")


@contextmanager
def change(
    path: Path, serde: SerializerProtocol | None = None, **options: Any
) -> Iterator[SqliteSaver]:
    """A saver that writes; tables of an older version are brought up to date at its first use."""
    check_file(path, current=False)
    with (
        _explained(path),
        SqliteSaver(path, serde=serde or PlainSerializer(), **options) as saver,
    ):
        yield saver


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """What is stumbled over in a damaged file, as our error; as it is, it can hold stored text."""
    try:
        yield
    except StorageError:
        raise
    except UnicodeDecodeError as error:  # sqlite3's, over SQLite's own message
        raise NotADatabaseError(f"{path}: the file is damaged: restore a backup.") from error
    except MemoryError as error:
        raise StorageError(
            f"{path}: this takes more memory than there is. Give --limit, or one checkpoint."
        ) from error
    except RecursionError as error:
        raise StorageError(f"{path}: something in it is nested too deeply to be shown.") from error
    except (sqlite3.Error, ValueError, TypeError, LookupError, AttributeError) as error:
        found = str(error)[:80].strip()
        raise StorageError(
            f"{path}: {found} ({type(error).__name__}). To see whether the file is damaged: "
            f"{typed('check', path)}"
        ) from error


def _at_rest(path: Path) -> tuple[int, ...] | None:
    """What a file looks like that nobody has open; None where it has a -wal."""
    if not is_at_rest(path):
        return None
    found = path.stat()
    return found.st_ino, found.st_size, found.st_mtime_ns


def check_file(path: Path, *, current: bool = True, newer: bool = False) -> int:
    """The version of a file's checkpoint tables; raises, with the remedy, where there are none.

    Raises also where the tables are older than this release reads, unless `current` is false, and
    where they are newer, unless `newer` is true.
    """
    if str(path).startswith(("file:", ":memory:")):
        fail("FILE is the path of a file", USAGE)
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        check_path(str(path))
        raise CannotOpenError(
            f"{path} does not exist. Name the file that the saver was given: its directory has "
            f"{_neighbours(path)}."
        ) from None
    if not stat.S_ISREG(mode):  # opening a named pipe would wait for somebody to write to it
        what = "a directory" if stat.S_ISDIR(mode) else "no regular file"
        raise CannotOpenError(f"{path} is {what}: give the path of a file")
    uri = read_only(path, at_rest=is_at_rest(path))
    with _explained(path), Database(uri) as database:
        version, names = database.read(_inspect, path, newer)
    if version == 0:
        raise CannotOpenError(_no_checkpoints(path, names))
    if current and version < SCHEMA.newest:
        raise ReadOnlyError(
            f"{path}: its tables are at version {version} of {SCHEMA.newest}, and looking changes "
            f"nothing. To bring them up to date: {typed('migrations', path)} --apply"
        )
    return version


def _neighbours(path: Path) -> str:
    found = sorted(each.name for each in path.absolute().parent.glob("*.db"))
    return ", ".join(found[:5]) + (", …" if len(found) > 5 else "") if found else "no *.db file"


def _inspect(conn: sqlite3.Connection, path: Path, newer: bool) -> tuple[int, set[str]]:
    names = {name for (name,) in conn.execute("SELECT name FROM sqlite_master")}
    try:
        SCHEMA.refuse(conn)
        version = applied_version(conn, SCHEMA)
        if not (newer and version > SCHEMA.newest):
            pending(conn, SCHEMA)
    except UnknownSchemaError as error:
        if "checkpoint_migrations" not in names and "writes" in names:
            raise UnknownSchemaError(
                f"{path} is a file of langgraph-checkpoint-sqlite. To take its threads over into a "
                f"new one: {typed('import', path)} NEW"
            ) from None
        raise UnknownSchemaError(f"{path}: {error}") from None
    return version, names


def _no_checkpoints(path: Path, names: set[str]) -> str:
    if "relay_migrations" in names:
        return f"{path} holds a relay's data and no checkpoints: see langgraph-sqlite relay --help"
    return f"{path} holds no checkpoints: name the file that the saver was given"


def reader(key_env: str | None, *, strict: bool = False) -> SerializerProtocol:
    """What values are read with: as plain data, deciphered with a key from the environment."""
    plain = PlainSerializer(strict=strict)
    return plain if key_env is None else encrypted(key_env, plain)


def encrypted(key_env: str, serde: SerializerProtocol | None = None) -> SerializerProtocol:
    """LangGraph's EncryptedSerializer with the key that a variable of the environment holds."""
    from langgraph.checkpoint.serde.encrypted import EncryptedSerializer
    from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

    key = os.fsencode(os.environ.get(key_env, ""))
    if len(key) not in (16, 24, 32):
        if not key:
            fail(f"--key-env: the variable {key_env} is not set", USAGE)
        fail(f"--key-env {key_env}: an AES key has 16, 24 or 32 bytes, not {len(key)}", USAGE)
    try:
        return EncryptedSerializer.from_pycryptodome_aes(serde or JsonPlusSerializer(), key=key)
    except ImportError:
        fail("--key-env needs a cipher: pip install pycryptodome", USAGE)
