"""Deletions that were seen in Redis: kept for 30 days, with their usage, and undone on request."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

from ..database import InvalidInputError
from . import audit, history, keys, layout, outbox, projection, records, saving
from .layout import ACCOUNT_TYPES, Place, column, raw, text
from .outbox import Change
from .projection import fields_of
from .records import Record
from .saving import Saved
from .times import Buckets
from .values import Value, pack, pack_list, unpack, unpack_list

# How long a deletion can be undone, in milliseconds.
KEPT = 30 * 24 * 3600 * 1000


@dataclass(frozen=True)
class TrashEntry:
    """A record that was deleted in Redis: `removed_at` in ms since 1970.

    Of a key that is no record the kind is "key", and the id its name.
    """

    removed_at: int
    kind: str
    id: str
    name: str


def discard(
    conn: sqlite3.Connection, gone: Sequence[bytes], actor: str, before: int | None = None
) -> list[bytes]:
    """Move keys that Redis deleted into the trash, records with their usage; those that were moved.

    Not what waits for Redis, or was saved since revision `before`: Redis does not have that yet.
    """
    now, moved = keys.now_ms(), []
    for key in settled(conn, gone, before):
        row = keys.row(conn, key)
        if row is None:
            continue
        value = keys.value_of(conn, row)
        conn.execute(
            "INSERT INTO trash (removed_at, key, type, value, expires_at) VALUES (?, ?, ?, ?, ?)",
            (now, key, row.type, _whole(conn, key, value), row.expires_at),
        )
        keys.remove(conn, key)
        moved.append(key)
        place = layout.place(key)
        if place is not None and place.family in ("api_key", "account"):
            _discard_record(conn, place, value, actor, now)
    if moved:
        keys.next_revision(conn)
    return moved


def settled(conn: sqlite3.Connection, names: Sequence[bytes], before: int | None) -> list[bytes]:
    """Those keys of which Redis has had what is known of them."""
    waiting = outbox.named_keys(conn)
    has_moved = before is not None and keys.revision(conn) != before
    known = keys.rows(conn, names) if has_moved else {}
    return [
        name
        for name in names
        if name not in waiting
        and not (has_moved and (layout.is_index(name) or _is_newer(known.get(name), before)))
    ]


def _is_newer(row: keys.Row | None, before: int | None) -> bool:
    return row is not None and before is not None and row.revision > before


def forget_expired(conn: sqlite3.Connection, names: Sequence[bytes], before: int) -> int:
    """Forget keys that expired in Redis; how many."""
    return keys.remove_all(conn, settled(conn, names, before))


def _discard_record(
    conn: sqlite3.Connection, place: Place, value: Value, actor: str, now: int
) -> None:
    if place.family == "api_key":
        history.to_trash(conn, column(raw(place.id)), now)
    projection.forget(conn, place)
    kind = place.account_type or "api_key"
    audit.note(conn, actor, "delete", kind, place.id, fields_of(place, value), None)


def _whole(conn: sqlite3.Connection, key: bytes, value: Value) -> bytes:
    """A value as one blob; a stream with its entries."""
    if value.type != "stream":
        return pack(value)
    entries = [list(entry) for entry in keys.entries(conn, key)]
    return pack_list([list(value.data), entries])


def entries(conn: sqlite3.Connection, limit: int, everything: bool) -> list[TrashEntry]:
    """Records in the trash, or all keys, the last deleted first."""
    query = "SELECT removed_at, key, type, value FROM trash ORDER BY id DESC"
    found = (_entry(row, everything) for row in conn.execute(query))
    return list(islice((entry for entry in found if entry is not None), limit))


def _entry(row: tuple[int, bytes, str, bytes], everything: bool) -> TrashEntry | None:
    removed_at, key, kind, blob = row
    place = layout.place(key)
    if place is None or place.family not in ("api_key", "account"):
        return TrashEntry(removed_at, "key", text(key), "") if everything else None
    name = fields_of(place, unpack(kind, blob)).get("name", "")
    return TrashEntry(removed_at, place.account_type or "api_key", place.id, str(name))


def names(conn: sqlite3.Connection, since: int) -> list[str]:
    """Keys that were deleted since then (ms since 1970), in the order to bring them back.

    Indexes come before the records that are members of them, and records before their statistics.
    """
    query = "SELECT DISTINCT key FROM trash WHERE removed_at >= ? ORDER BY key"
    found = [key for (key,) in conn.execute(query, (since,))]
    return [text(key) for key in sorted(found, key=_rank)]


def _rank(key: bytes) -> int:
    if layout.is_index(key):
        return 0
    place = layout.place(key)
    return 1 if place is not None and place.family in ("api_key", "account") else 2


def undelete(conn: sqlite3.Connection, id: str, actor: str, buckets: Buckets) -> tuple[int, Saved]:
    """Bring a record back with its keys and its usage, or the key of this name; how many keys.

    Raises InvalidInputError if the trash has no such record, or it is there again.
    """
    own = _record_keys(conn, id)
    if not own:
        raise InvalidInputError(f"the trash holds no API key, no account and no key {id!r}")
    if keys.row(conn, own[0]) is not None:
        raise InvalidInputError(f"{id!r} is there: it was not deleted, or is back already")
    changes: list[Change] = []
    number = keys.next_revision(conn)
    for key in own:
        changes += _bring_back(conn, key, number)
    place, row = layout.place(own[0]), keys.row(conn, own[0])
    if place is not None and row is not None and place.family in ("api_key", "account"):
        changes += _bring_record_back(conn, place, row, number, actor, buckets)
    outbox.unbury(conn, changes)
    return len(own), Saved(outbox.add(conn, changes), outbox.current(conn, changes))


def _bring_record_back(
    conn: sqlite3.Connection,
    place: Place,
    row: keys.Row,
    number: int,
    actor: str,
    buckets: Buckets,
) -> list[Change]:
    value = keys.value_of(conn, row)
    projection.project(conn, place, None, value, buckets)
    if place.family == "api_key":
        history.from_trash(conn, column(raw(place.id)))
    kind = place.account_type or "api_key"
    audit.note(conn, actor, "undelete", kind, place.id, None, fields_of(place, value))
    return _memberships(conn, place, row.key, value, number)


def _record_keys(conn: sqlite3.Connection, id: str) -> list[bytes]:
    """The keys of a record in the trash, its own first."""
    prefixes = [layout.API_KEY, *(kind.prefix for kind in ACCOUNT_TYPES.values()), b""]
    own = [name for name in (prefix + raw(id) for prefix in prefixes) if _last(conn, name)]
    place = layout.place(own[0]) if own else None
    if place is None or place.family != "api_key":
        return own[:1]
    found = [own[0]]
    for start in records.statistics(place.id):
        query = (
            "SELECT DISTINCT key FROM trash WHERE key = ? OR (key >= ? AND key < ?) ORDER BY key"
        )
        found += [key for (key,) in conn.execute(query, (start, start + b":", start + b";"))]
    return list(dict.fromkeys(found))


def _last(conn: sqlite3.Connection, key: bytes) -> tuple[int, str, bytes, int | None] | None:
    query = "SELECT id, type, value, expires_at FROM trash WHERE key = ? ORDER BY id DESC LIMIT 1"
    found: tuple[int, str, bytes, int | None] | None = conn.execute(query, (key,)).fetchone()
    return found


def _bring_back(conn: sqlite3.Connection, key: bytes, number: int) -> list[Change]:
    found = _last(conn, key)
    if found is None or keys.row(conn, key) is not None:
        return []
    id, kind, blob, expires_at = found
    conn.execute("DELETE FROM trash WHERE id = ?", (id,))
    if expires_at is not None and expires_at <= keys.now_ms():
        place = layout.place(key)
        if place is None or place.family not in ("api_key", "account"):
            return []
        expires_at = None  # a record is not to be lost again because it lay here
    if kind == "stream":
        data, members = unpack_list(blob)
        keys.put(conn, key, Value(kind, tuple(data)), expires_at, number)
        keys.put_entries(conn, key, [tuple(member) for member in members])
    else:
        keys.put(conn, key, unpack(kind, blob), expires_at, number)
    return [(key, None)]


def _memberships(
    conn: sqlite3.Connection, place: Place, key: bytes, value: Value, number: int
) -> list[Change]:
    record = Record(place, key, value, {**fields_of(place, value), "id": place.id})
    wanted = records.memberships(record, saving.keeps_indexes(conn, place))
    keys.edit_members(conn, dict(wanted), number)
    return list(wanted)


def empty(conn: sqlite3.Connection) -> None:
    """Let go of what was deleted too long ago."""
    before = keys.now_ms() - KEPT
    conn.execute("DELETE FROM trash WHERE removed_at < ?", (before,))
    conn.execute("DELETE FROM trash_usage WHERE removed_at < ?", (before,))
