"""The PRAGMAs every connection of ours is opened with: one place, each overridable.

The figures beside them are microseconds that `python -m benchmarks.pragmas` printed on 2 cores,
Python 3.11, SQLite 3.40, an fsync of 57 µs: a pair of put and put_writes, a read, a 1 MB state.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Mapping
from contextlib import closing

from . import fork
from .errors import InvalidInputError, InvalidTypeError

PragmaValue = str | int | bool

# Before the first table, and before WAL: both are properties of the file.
FILE_PRAGMAS: dict[str, PragmaValue] = {
    # Lets `optimize(vacuum="incremental")` give freed pages back without rewriting the file; saves
    # cost the same without it (a pair: 75.5 with, 75.0 without).
    "auto_vacuum": "INCREMENTAL",
    "journal_mode": "WAL",
}

CONNECTION_PRAGMAS: dict[str, PragmaValue] = {
    # A crash of the process loses nothing; a power cut may lose the last commits and never
    # corrupts. FULL makes every commit wait for the disk (a pair: 75.5, with FULL 147).
    "synchronous": "NORMAL",
    # For macOS, where fsync leaves data in the drive's cache: what is copied from the -wal into the
    # file is on the drive before the -wal is used again. No effect elsewhere. `fullfsync`, the same
    # for commits, follows `synchronous`: on with FULL and EXTRA.
    "checkpoint_fullfsync": True,
    # SQLite's own 2 MB for each connection: with 64 MB, large states keep taking fresh memory
    # (1 MB saved: 957, with -64000 1,533; read: 1,871 and 2,190), and small ones gain nothing.
    "cache_size": -2000,
    # MEMORY has VACUUM hold the whole file in memory (175 MB: the process grew by 188 MB, with FILE
    # by 1), and gains little: 57,564 for 11 MB, with FILE 62,239; a pair 75.5 and 76.3.
    "temp_store": "FILE",
    # Off: after another connection's commit the mapping is made anew (a read then: 37, with
    # 256 MB mapped 57).
    "mmap_size": 0,
    "foreign_keys": True,
    # A file may come from anybody: no trigger or index of its own calls a function that does more
    # than compute. Costs nothing but this statement when a connection is opened.
    "trusted_schema": False,
    # Pages in the -wal before it is copied into the file: a page that changed often is copied once
    # (1 MB saved: 3,713, with SQLite's 1000 pages 4,469, with 4000 3,745; a pair: 184, 183, 180 on
    # a slower disk). Nobody can commit meanwhile: with four processes a copy takes 7 ms and the
    # slowest save 23-30, with 4000 pages 15 and 29-35. Copying is ours (see wal.py); SQLite's own
    # is switched off. `journal_size_limit`, to which the -wal is cut after it was copied, is as
    # much, in bytes: one huge write does not stay.
    "wal_autocheckpoint": 2000,
    # Waiting is ours (see busy.py): SQLite's own handler is unfair.
    "busy_timeout": 0,
}

# SQLite takes any other word for one of these, in silence: a misspelt FULL for NORMAL.
_VALUES: dict[str, tuple[str, ...]] = {
    "synchronous": ("OFF", "NORMAL", "FULL", "EXTRA", "0", "1", "2", "3"),
    "journal_mode": ("WAL", "DELETE", "TRUNCATE", "PERSIST", "MEMORY", "OFF"),
    "auto_vacuum": ("NONE", "FULL", "INCREMENTAL", "0", "1", "2"),
    "temp_store": ("DEFAULT", "FILE", "MEMORY", "0", "1", "2"),
    "secure_delete": ("ON", "OFF", "FAST", "TRUE", "FALSE", "YES", "NO", "0", "1", "2"),
    "locking_mode": ("NORMAL", "EXCLUSIVE"),
}

_NORMAL = ("NORMAL", "1")
_FULL = ("FULL", "EXTRA", "2", "3")

_NAME = re.compile(r"[a-z_]+\Z")
_VALUE = re.compile(r"-?[A-Za-z0-9_.]+\Z")


def checked(pragmas: Mapping[str, PragmaValue] | None) -> dict[str, PragmaValue]:
    """The caller's overrides, names in lower case; raises InvalidInputError for what is none.

    A misspelt PRAGMA is silently ignored by SQLite, so names are compared with the list it gives.
    """
    if pragmas is not None and not isinstance(pragmas, Mapping):
        raise InvalidTypeError(f"pragmas is a mapping of names to values, not {pragmas!r}")
    known = _known_pragmas() if pragmas else frozenset()
    result: dict[str, PragmaValue] = {}
    for name, value in (pragmas or {}).items():
        lower = str(name).lower()
        if not _NAME.match(lower) or (known and lower not in known):
            raise InvalidInputError(
                f"unknown PRAGMA {name!r}: see https://www.sqlite.org/pragma.html for the names"
            )
        if not isinstance(value, (str, int)) or not _VALUE.match(str(value)):
            raise InvalidInputError(f"PRAGMA {name} cannot have the value {value!r}")
        allowed = _VALUES.get(lower)
        if allowed and _text(value).upper() not in allowed:
            raise InvalidInputError(
                f"PRAGMA {name} cannot have the value {value!r}: it is {', '.join(allowed)}"
            )
        result[lower] = value
    return result


def _known_pragmas() -> frozenset[str]:
    with fork.mutex, closing(sqlite3.connect(":memory:")) as conn:
        return frozenset(row[0] for row in conn.execute("PRAGMA pragma_list"))


def set_file_pragmas(conn: sqlite3.Connection, overrides: Mapping[str, PragmaValue]) -> None:
    """Set what belongs to the file; connection PRAGMAs, a page size among them, come before.

    auto_vacuum is left alone on a file that has tables: it would take effect at a VACUUM that
    nobody asked for.
    """
    (pages,) = conn.execute("PRAGMA page_count").fetchone()
    level = _text(overrides.get("synchronous", CONNECTION_PRAGMAS["synchronous"])).upper()
    # Switching a file to WAL goes through a rollback journal, which a power cut can tear under
    # NORMAL: at one moment 2 of 500 simulated cuts left a file that is not a database. One fsync
    # more, once.
    if level in _NORMAL:
        _set_synchronous(conn, "FULL", overrides)
    for name, default in FILE_PRAGMAS.items():
        if name in overrides or name != "auto_vacuum" or pages == 0:
            _set(conn, name, overrides.get(name, default))
    if level in _NORMAL:
        _set_synchronous(conn, level, overrides)


def set_connection_pragmas(conn: sqlite3.Connection, overrides: Mapping[str, PragmaValue]) -> None:
    """Set what belongs to the connection: the defaults, then whatever else the caller wants."""
    own = {k: v for k, v in overrides.items() if k not in FILE_PRAGMAS}
    settings = {**CONNECTION_PRAGMAS, **own, "wal_autocheckpoint": 0}
    for name, value in settings.items():
        if name != "synchronous":
            _set(conn, name, value)
    _set_synchronous(conn, _text(settings["synchronous"]), overrides)


def _set_synchronous(
    conn: sqlite3.Connection, level: str, overrides: Mapping[str, PragmaValue]
) -> None:
    _set(conn, "synchronous", level)
    if "fullfsync" not in overrides:
        _set(conn, "fullfsync", level.upper() in _FULL)


def _set(conn: sqlite3.Connection, name: str, value: PragmaValue) -> None:
    conn.execute(f"PRAGMA {name} = {_text(value)}").close()


def _text(value: PragmaValue) -> str:
    return str(int(value) if isinstance(value, bool) else value)
