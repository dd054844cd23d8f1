"""The outbox: changes that are committed here and may not have reached Redis yet.

A row names what one call changed, and stays until the call has seen Redis take it. What is written
to Redis is what SQLite holds for those keys now, and again if it moved meanwhile: so whoever wrote
last to Redis has looked here after it, and two processes cannot leave it with the older state. A
row of a call that died is taken up when it is due, and at the next start.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from . import keys, layout
from .commands import Command, write, write_member
from .values import pack_list, unpack_list

# A key, and the member that changed; None: all of it.
Change = tuple[bytes, "bytes | None"]

# A call that has not finished after this has died, in milliseconds; longer than any timeout.
LEASE = 60_000
# How long a deletion is remembered, against older copies of Redis, in milliseconds.
REMEMBERED = 30 * 24 * 3600 * 1000


@dataclass(frozen=True, repr=False)  # it may hold secrets
class Current:
    """What SQLite holds for some changes: the commands that say so to Redis, and when it was."""

    revision: int
    changes: tuple[Change, ...]
    states: tuple[object, ...]
    commands: tuple[Command, ...]
    # A record whose every change raises its key's revision: if that stands, all of it does.
    record: bytes | None = None


def add(conn: sqlite3.Connection, changes: Sequence[Change], lease: int = LEASE) -> int:
    """Note changes in the transaction that makes them; the row's id."""
    blob = pack_list([list(change) for change in changes])
    row = conn.execute(
        "INSERT INTO outbox (changes, due_at) VALUES (?, ?)", (blob, keys.now_ms() + lease)
    )
    assert row.lastrowid is not None
    return row.lastrowid


def current(conn: sqlite3.Connection, changes: Sequence[Change]) -> Current:
    """What has to be in Redis for these keys and members now."""
    whole = [key for key, name in changes if name is None]
    wholes = dict(zip(whole, keys.states(conn, whole), strict=True))
    found: list[object] = []
    commands: list[Command] = []
    for key, name in changes:
        if name is None:
            found.append(wholes[key])
            commands += write(wholes[key], "replace")
        else:
            member = keys.member(conn, key, name)
            kind = layout.INDEX_TYPES.get(key) or keys.kind_of(conn, key) or "set"
            found.append(member)
            commands.append(write_member(key, kind, name, member))
    return Current(keys.revision(conn), tuple(changes), tuple(found), tuple(commands))


def moved(conn: sqlite3.Connection, seen: Current) -> Current | None:
    """What Redis has to be told now; None if what it was told is still so."""
    if keys.revision(conn) == seen.revision:
        return None
    if seen.record is not None:
        query = "SELECT revision FROM redis_keys WHERE key = ?"
        stands = conn.execute(query, (seen.record,)).fetchone() == (seen.revision,)
        if stands and _hashes_stand(conn, seen):
            return None
    now = current(conn, seen.changes)
    return now if now.states != seen.states else None


def _hashes_stand(conn: sqlite3.Connection, seen: Current) -> bool:
    """Whether hash_map, the one index where records share members, is as it was told."""
    return all(
        keys.member(conn, change[0], change[1]) == state
        for change, state in zip(seen.changes, seen.states, strict=True)
        if change[0] == layout.HASH_MAP and change[1] is not None
    )


def discard(conn: sqlite3.Connection, ids: Sequence[int]) -> None:
    """Take rows out."""
    if ids:
        conn.executemany("DELETE FROM outbox WHERE id = ?", [(id,) for id in ids])


@dataclass(frozen=True)
class Row:
    """What one call changed; `is_due` if it has died or given up."""

    id: int
    changes: tuple[Change, ...]
    is_due: bool


def waiting(
    conn: sqlite3.Connection,
    failed: Sequence[int],
    untaken: Sequence[int],
    everything: bool,
    after: int,
    limit: int = 200,
) -> tuple[Row, ...]:
    """Rows of calls that died or failed, and those that Redis did not take before; or all, also of
    calls that may be at work.
    """
    now, own, again, found = keys.now_ms(), set(failed), set(untaken), []
    query = "SELECT id, changes, due_at FROM outbox WHERE id > ? ORDER BY id"
    for id, blob, due_at in conn.execute(query, (after,)):
        is_due = id in own or due_at <= now
        if is_due or everything or id in again:
            changes = tuple((key, name) for key, name in unpack_list(blob))
            found.append(Row(id, changes, is_due))
        if len(found) == limit:
            break
    return tuple(found)


def make_due(conn: sqlite3.Connection, id: int) -> None:
    """Let any process take a row up: the call that made it gave up."""
    conn.execute("UPDATE outbox SET due_at = 0 WHERE id = ?", (id,))


def missing(conn: sqlite3.Connection, ids: Sequence[int]) -> list[int]:
    """Rows that somebody else has brought to Redis."""
    known = {id for (id,) in conn.execute("SELECT id FROM outbox")}
    return [id for id in ids if id not in known]


def count(conn: sqlite3.Connection) -> int:
    """How many calls' changes may not have reached Redis."""
    return int(conn.execute("SELECT count(*) FROM outbox").fetchone()[0])


def named_keys(conn: sqlite3.Connection) -> set[bytes]:
    """The keys that Redis may have an older state of."""
    rows = conn.execute("SELECT changes FROM outbox")
    return {key for (blob,) in rows for key, _ in unpack_list(blob)}


def bury(conn: sqlite3.Connection, changes: Sequence[Change]) -> None:
    """Remember what was deleted here."""
    if not changes:
        return
    now = keys.now_ms()
    conn.executemany(
        "INSERT OR REPLACE INTO tombstones (key, member, removed_at) VALUES (?, ?, ?)",
        [(key, name or b"", now) for key, name in changes],
    )


def unbury(conn: sqlite3.Connection, changes: Sequence[Change]) -> None:
    """Forget that something was deleted: it is back."""
    if conn.execute("SELECT 1 FROM tombstones LIMIT 1").fetchone() is None:
        return
    conn.executemany(
        "DELETE FROM tombstones WHERE key = ? AND member = ?",
        [(key, name or b"") for key, name in changes],
    )


def unbury_all(conn: sqlite3.Connection, prefixes: Sequence[bytes]) -> None:
    """Forget that these keys, and those that go on with a colon, were deleted."""
    if conn.execute("SELECT 1 FROM tombstones LIMIT 1").fetchone() is None:
        return
    conn.executemany(
        "DELETE FROM tombstones WHERE key = ? OR (key >= ? AND key < ?)",
        [(prefix, prefix + b":", prefix + b";") for prefix in prefixes],
    )


def buried(conn: sqlite3.Connection, after: Change, limit: int) -> list[Change]:
    """Deleted keys and members in order, those behind `after`."""
    rows = conn.execute(
        "SELECT key, member FROM tombstones WHERE (key, member) > (?, ?)"
        " ORDER BY key, member LIMIT ?",
        (after[0], after[1] or b"", limit),
    )
    return [(key, name or None) for key, name in rows]


def is_buried(conn: sqlite3.Connection, key: bytes) -> bool:
    """Whether this key was deleted here."""
    query = "SELECT 1 FROM tombstones WHERE key = ? AND member = x''"
    return conn.execute(query, (key,)).fetchone() is not None


def buried_keys(conn: sqlite3.Connection) -> set[bytes]:
    """Every key that was deleted here as a whole."""
    return {key for (key,) in conn.execute("SELECT key FROM tombstones WHERE member = x''")}


def forget_old(conn: sqlite3.Connection) -> None:
    """Forget deletions that no copy of Redis can be older than."""
    conn.execute("DELETE FROM tombstones WHERE removed_at < ?", (keys.now_ms() - REMEMBERED,))


def give_up(conn: sqlite3.Connection, names: Sequence[bytes]) -> None:
    """Let Redis' state of these keys hold: forget what waits, and that they were deleted."""
    given = set(names)
    drop(conn, lambda key: key in given)
    unbury(conn, [(name, None) for name in given])


def drop(conn: sqlite3.Connection, is_dropped: Callable[[bytes], bool]) -> None:
    """Forget what waits for some keys."""
    rows = conn.execute("SELECT id, changes FROM outbox").fetchall()
    for id, blob in rows:
        changes = unpack_list(blob)
        left = [change for change in changes if not is_dropped(change[0])]
        if not left:
            discard(conn, (id,))
        elif len(left) < len(changes):
            conn.execute("UPDATE outbox SET changes = ? WHERE id = ?", (pack_list(left), id))


def buried_members(conn: sqlite3.Connection) -> list[tuple[bytes, bytes]]:
    """Every member that was taken out of a collection here."""
    return conn.execute("SELECT key, member FROM tombstones WHERE member != x''").fetchall()
