"""The keys of Redis as rows: operations on redis_keys, redis_members and what became of them.

Plain functions of a connection, for `Database.read` and `Database.write`.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

from ..database import InvalidTypeError
from . import layout
from .commands import KeyState
from .values import Member, Value, of_members, pack, unpack

# Parameters in one statement; SQLite allows 32,766.
_AT_ONCE = 500

_INSERT = """
INSERT INTO redis_keys (key, type, value, expires_at, revision, written_here)
VALUES (?, ?, ?, ?, ?, ?)
ON CONFLICT (key) DO UPDATE SET type = excluded.type, value = excluded.value,
  expires_at = excluded.expires_at, revision = excluded.revision,
  written_here = excluded.written_here
"""


@dataclass(frozen=True, repr=False)  # it may hold secrets
class Row:
    """A row of redis_keys, not unpacked."""

    key: bytes
    type: str
    blob: bytes | None
    expires_at: int | None
    revision: int
    written_here: int

    def is_expired(self, now: int) -> bool:
        """Whether Redis would have dropped it by then."""
        return self.expires_at is not None and self.expires_at <= now


def now_ms() -> int:
    """The time as Redis counts it: milliseconds since 1970."""
    return time.time_ns() // 1_000_000


def expiry(ttl: timedelta | None) -> int | None:
    """When something that is saved now expires."""
    if ttl is None:
        return None
    if not isinstance(ttl, timedelta):
        raise InvalidTypeError(f"ttl is a timedelta or None, not {ttl!r}")
    return now_ms() + ttl // timedelta(milliseconds=1)


def next_revision(conn: sqlite3.Connection) -> int:
    """A number that no change before had."""
    (number,) = conn.execute(
        "UPDATE sqlite_sequence SET seq = seq + 1 WHERE name = 'outbox' RETURNING seq"
    ).fetchone()
    return int(number)


def revision(conn: sqlite3.Connection) -> int:
    """The number of the last change."""
    (number,) = conn.execute("SELECT seq FROM sqlite_sequence WHERE name = 'outbox'").fetchone()
    return int(number)


def state(conn: sqlite3.Connection, name: str) -> str | None:
    """A note of ours, as the run id of the Redis that was seen last."""
    found = conn.execute("SELECT value FROM relay_state WHERE name = ?", (name,)).fetchone()
    return str(found[0]) if found else None


def set_state(conn: sqlite3.Connection, name: str, value: str) -> None:
    """Note something under a name."""
    conn.execute("INSERT OR REPLACE INTO relay_state (name, value) VALUES (?, ?)", (name, value))


# A follower that has not said so for this long has ended, in milliseconds.
_FOLLOWED = 30_000


def is_followed(conn: sqlite3.Connection) -> bool:
    """Whether a follower mirrors what happens to Redis."""
    return now_ms() - int(state(conn, "followed_at") or 0) < _FOLLOWED


def rows(conn: sqlite3.Connection, keys: Sequence[bytes]) -> dict[bytes, Row]:
    """The rows of these keys, expired ones among them."""
    found: dict[bytes, Row] = {}
    for start in range(0, len(keys), _AT_ONCE):
        part = keys[start : start + _AT_ONCE]
        marks = ",".join("?" * len(part))
        query = f"SELECT * FROM redis_keys WHERE key IN ({marks})"  # noqa: S608
        found.update((row[0], Row(*row)) for row in conn.execute(query, part))
    return found


def unknown(conn: sqlite3.Connection, names: Sequence[bytes]) -> list[bytes]:
    """Those keys that have no row."""
    known = rows(conn, names)
    return [name for name in names if name not in known]


def row(conn: sqlite3.Connection, key: bytes) -> Row | None:
    """The row of a key, expired or not."""
    found = conn.execute("SELECT * FROM redis_keys WHERE key = ?", (key,)).fetchone()
    return Row(*found) if found else None


def page(conn: sqlite3.Connection, after: bytes, limit: int) -> list[Row]:
    """Rows in the order of their keys, those behind `after`."""
    query = "SELECT * FROM redis_keys WHERE key > ? ORDER BY key LIMIT ?"
    return [Row(*found) for found in conn.execute(query, (after, limit))]


def members(conn: sqlite3.Connection, key: bytes) -> list[Member]:
    """All members of a collection that is kept member by member."""
    return members_of(conn, [key])[key]


def members_of(conn: sqlite3.Connection, names: Sequence[bytes]) -> dict[bytes, list[Member]]:
    """The members of several such collections, from one look through the table."""
    found: dict[bytes, list[Member]] = {name: [] for name in names}
    marks = ",".join("?" * len(names))
    query = f"SELECT key, member, value FROM redis_members WHERE key IN ({marks})"  # noqa: S608
    for key, name, value in conn.execute(query, tuple(names)):
        found[key].append((name, value))
    return found


def entries(conn: sqlite3.Connection, key: bytes) -> list[Member]:
    """A stream's entries, in order."""
    query = "SELECT id, fields FROM redis_entries WHERE key = ? ORDER BY id"
    return conn.execute(query, (key,)).fetchall()


def count_entries(conn: sqlite3.Connection, key: bytes) -> int:
    """How many entries of a stream are kept."""
    query = "SELECT count(*) FROM redis_entries WHERE key = ?"
    return int(conn.execute(query, (key,)).fetchone()[0])


def values_of(conn: sqlite3.Connection, found: Sequence[Row]) -> list[Value]:
    """What rows' keys hold; streams without their entries."""
    apart = [row.key for row in found if row.blob is None]
    lists = members_of(conn, apart) if apart else {}
    return [
        of_members(row.type, lists[row.key]) if row.blob is None else unpack(row.type, row.blob)
        for row in found
    ]


def value_of(conn: sqlite3.Connection, found: Row) -> Value:
    """What a row's key holds; a stream without its entries."""
    return values_of(conn, [found])[0]


def states(conn: sqlite3.Connection, names: Sequence[bytes]) -> list[KeyState]:
    """Keys as they have to be in Redis now; expired or unknown: not at all."""
    now = now_ms()
    known = {key: row for key, row in rows(conn, names).items() if not row.is_expired(now)}
    values = dict(zip(known, values_of(conn, list(known.values())), strict=True))
    return [
        KeyState(
            name,
            values[name],
            known[name].expires_at,
            tuple(entries(conn, name)) if known[name].type == "stream" else (),
        )
        if name in known
        else KeyState(name, None)
        for name in names
    ]


def member(conn: sqlite3.Connection, key: bytes, name: bytes) -> Member | None:
    """One member of a collection that is kept member by member."""
    query = "SELECT member, value FROM redis_members WHERE member = ? AND key = ?"
    found: Member | None = conn.execute(query, (name, key)).fetchone()
    return found


def put(
    conn: sqlite3.Connection,
    key: bytes,
    value: Value,
    expires_at: int | None,
    revision: int,
    *,
    written_here: bool = False,
    known: Sequence[Member] = (),
) -> None:
    """Store a key as it is now; `known` are the members that an index had.

    A stream's entries come by `put_entries`.
    """
    apart = layout.is_index(key) and value.type in ("hash", "set", "zset")
    blob = None if apart else pack(value)
    conn.execute(_INSERT, (key, value.type, blob, expires_at, revision, written_here))
    if apart:
        _replace_members(conn, key, known, value.members())


def _replace_members(
    conn: sqlite3.Connection, key: bytes, known: Sequence[Member], now: Sequence[Member]
) -> None:
    """Store a collection's members, touching those that changed only."""
    old, new = dict(known), dict(now)
    conn.executemany(_REMOVE_MEMBER, [(name, key) for name in old.keys() - new.keys()])
    put_members(conn, key, [m for m in now if m[0] not in old or old[m[0]] != m[1]])


_PUT_MEMBER = """
INSERT INTO redis_members (key, member, value) VALUES (?, ?, ?)
ON CONFLICT DO UPDATE SET value = excluded.value WHERE value IS NOT excluded.value
"""
_REMOVE_MEMBER = "DELETE FROM redis_members WHERE member = ? AND key = ?"


def put_members(conn: sqlite3.Connection, key: bytes, changed: Iterable[Member]) -> None:
    """Store members of a collection."""
    conn.executemany(_PUT_MEMBER, [(key, name, value) for name, value in changed])


def put_entries(conn: sqlite3.Connection, key: bytes, new: Iterable[Member]) -> None:
    """Store entries of a stream."""
    conn.executemany(
        "INSERT OR REPLACE INTO redis_entries (key, id, fields) VALUES (?, ?, ?)",
        [(key, id, fields) for id, fields in new],
    )


def remove(conn: sqlite3.Connection, key: bytes) -> None:
    """Forget a key."""
    row = conn.execute("DELETE FROM redis_keys WHERE key = ? RETURNING type, value", (key,))
    for kind, blob in row.fetchall():
        if blob is None:
            conn.execute("DELETE FROM redis_members WHERE key = ?", (key,))
        elif kind == "stream":
            conn.execute("DELETE FROM redis_entries WHERE key = ?", (key,))


def _make_collections(conn: sqlite3.Connection, names: Sequence[bytes], revision: int) -> None:
    marks = ",".join("?" * len(names))
    query = f"SELECT key FROM redis_keys WHERE key IN ({marks})"  # noqa: S608
    known = {key for (key,) in conn.execute(query, names)}
    conn.executemany(
        "INSERT INTO redis_keys (key, type, revision) VALUES (?, ?, ?)",
        [(k, layout.INDEX_TYPES.get(k, "set"), revision) for k in names if k not in known],
    )


def count(conn: sqlite3.Connection) -> int:
    """How many keys are known that have not expired."""
    query = "SELECT count(*) FROM redis_keys WHERE expires_at IS NULL OR expires_at > ?"
    return int(conn.execute(query, (now_ms(),)).fetchone()[0])


def edit_members(
    conn: sqlite3.Connection, edits: Mapping[tuple[bytes, bytes], Member | None], revision: int
) -> None:
    """Add, change or remove (None) members of shared collections.

    A collection exists with its first member and goes with its last, as in Redis.
    """
    if not edits:
        return
    added = [(key, *member) for (key, _), member in edits.items() if member is not None]
    _make_collections(conn, list({key for key, _, _ in added}), revision)
    conn.executemany(_PUT_MEMBER, added)
    removed = [place for place, member in edits.items() if member is None]
    conn.executemany(_REMOVE_MEMBER, [(name, key) for key, name in removed])
    for key in {key for key, _ in removed}:
        query = "SELECT 1 FROM redis_members WHERE key = ? LIMIT 1"
        if layout.is_index(key) and not conn.execute(query, (key,)).fetchone():
            conn.execute("DELETE FROM redis_keys WHERE key = ? AND value IS NULL", (key,))


def kind_of(conn: sqlite3.Connection, key: bytes) -> str | None:
    """The type of a key, if it is known."""
    found = conn.execute("SELECT type FROM redis_keys WHERE key = ?", (key,)).fetchone()
    return found[0] if found else None


def drop_expired(conn: sqlite3.Connection, now: int, limit: int = 1000) -> int:
    """Forget keys that have expired, as Redis has; how many. API keys and accounts stay."""
    query = "SELECT key FROM redis_keys WHERE expires_at IS NOT NULL AND expires_at <= ?"
    expired = (key for (key,) in conn.execute(query, (now,)).fetchall())
    places = ((key, layout.place(key)) for key in expired)
    records = ("api_key", "account")
    gone = [key for key, place in places if place is None or place.family not in records][:limit]
    for key in gone:
        remove(conn, key)
    return len(gone)
