"""Deletions that were seen in Redis: kept for 30 days, with their usage, and undone on request.

Requests that are under way when a record is deleted, or expires, write to its keys afterwards:
single fields of the record, counts that begin anew. What was deleted and what was written since are
brought together when the deletion is undone.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from ..database import InvalidInputError
from . import audit, commands, history, keys, layout, outbox, projection, records, saving
from .commands import KeyState
from .layout import ACCOUNT_TYPES, Place, column, raw, text
from .outbox import Change
from .projection import fields_of, is_whole
from .records import Membership, Record
from .saving import Saved
from .times import Buckets
from .values import Member, Value, of_pairs, pack, pack_list, unpack, unpack_list

# How long a deletion can be undone, in milliseconds.
KEPT = 30 * 24 * 3600 * 1000
# What was deleted so long before its record, in milliseconds, was deleted along with it.
_TOGETHER = 10 * 60 * 1000
# A record that should have expired so long ago, in milliseconds, has: nobody gave it more time.
_OVERDUE = 10 * 60 * 1000
# How many records the relay keeps in an API key's list of usage.
_LISTED = 200


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
        if row is not None:
            put(conn, row, keys.value_of(conn, row), actor, now, expired=row.is_expired(now))
            moved.append(key)
    if moved:
        keys.next_revision(conn)
    return moved


def put(
    conn: sqlite3.Connection,
    row: keys.Row,
    value: Value,
    actor: str,
    now: int,
    *,
    expired: bool = False,
) -> None:
    """Move a key into the trash, a record with its usage.

    Where an API key has expired its row stays, as one that is not active, with its usage records.
    All that goes together has one time: by it `undelete` tells a deletion from the one before.
    """
    keep(conn, row, value, now)
    keys.remove(conn, row.key)
    place = layout.place(row.key)
    if place is None or not is_whole(place, value):
        return
    if place.family == "api_key" and expired:
        projection.retire(conn, place)
    else:
        _forget(conn, place, now)
    kind, action = place.account_type or "api_key", "expire" if expired else "delete"
    audit.note(conn, actor, action, kind, place.id, fields_of(place, value), None)


def keep(conn: sqlite3.Connection, row: keys.Row, value: Value, now: int) -> None:
    """Have a copy of a key in the trash."""
    conn.execute(
        "INSERT INTO trash (removed_at, key, type, value, expires_at) VALUES (?, ?, ?, ?, ?)",
        (now, row.key, row.type, _whole(conn, row.key, value), row.expires_at),
    )


def _forget(conn: sqlite3.Connection, place: Place, now: int) -> None:
    if place.family == "api_key":
        history.to_trash(conn, column(raw(place.id)), now)
    projection.forget(conn, place)


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


def forget_expired(
    conn: sqlite3.Connection, names: Sequence[bytes], before: int | None = None
) -> int:
    """Forget keys that expired in Redis; records go to the trash. How many."""
    known, now = keys.rows(conn, settled(conn, names, before)), keys.now_ms()
    for row in known.values():
        place, value = layout.place(row.key), keys.value_of(conn, row)
        if place is not None and is_whole(place, value):
            put(conn, row, value, "redis", now, expired=True)
        else:
            keys.remove(conn, row.key)
    return len(known)


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
    if place is None or not is_whole(place, unpack(kind, blob)):
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


def holds(conn: sqlite3.Connection, key: bytes, value: Value) -> bool:
    """Whether a key was deleted as it is now; of streams nobody knows."""
    return any(each.value == value and value.type != "stream" for each in _thrown(conn, key, 0))


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
    if _is_there(conn, own[0].key):
        raise InvalidInputError(f"{id!r} is there: it was not deleted, or is back already")
    changes: list[Change] = []
    before = _deleted_before(conn, own[0].key)
    number = keys.next_revision(conn)
    for each in own:
        changes += _bring_back(conn, each, number, before > 0)
    place, row = layout.place(own[0].key), keys.row(conn, own[0].key)
    if place is not None and row is not None and is_whole(place, own[0].value):
        changes += _bring_record_back(conn, place, row, number, actor, buckets, before)
        changes += _groups_back(conn, place, own, number)
    changes = list(dict.fromkeys(changes))
    outbox.unbury(conn, changes)
    return len({each.key for each in own}), Saved(
        outbox.add(conn, changes), outbox.current(conn, changes)
    )


def _is_there(conn: sqlite3.Connection, key: bytes) -> bool:
    """Whether a key is known; single fields of a record are not the record."""
    row, place = keys.row(conn, key), layout.place(key)
    if row is None or place is None or not _is_records_key(key):
        return row is not None
    return is_whole(place, keys.value_of(conn, row))


def _bring_record_back(
    conn: sqlite3.Connection,
    place: Place,
    row: keys.Row,
    number: int,
    actor: str,
    buckets: Buckets,
    before: int,
) -> list[Change]:
    value = keys.value_of(conn, row)
    projection.project(conn, place, None, value, buckets)
    if place.family == "api_key":
        history.from_trash(conn, column(raw(place.id)), before)
    kind = place.account_type or "api_key"
    audit.note(conn, actor, "undelete", kind, place.id, None, fields_of(place, value))
    changes = _memberships(conn, place, row.key, value, number)
    if place.family == "account":  # while it is there, the relay sees no account of the type
        changes.append((ACCOUNT_TYPES[place.account_type].empty_mark, None))
    return changes


@dataclass(frozen=True, repr=False)  # it may hold secrets
class _Thrown:
    """A key in the trash; a stream's entries come apart."""

    row_id: int
    removed_at: int
    key: bytes
    value: Value
    entries: Sequence[Member]
    expires_at: int | None


def _record_keys(conn: sqlite3.Connection, id: str) -> list[_Thrown]:
    """What the trash has of a record, its own key first; or of the key of this name."""
    prefixes = [layout.API_KEY, *(kind.prefix for kind in ACCOUNT_TYPES.values())]
    records_of = (_last(conn, prefix + raw(id)) for prefix in prefixes)
    own = next((found for found in records_of if found), None) or _last(conn, raw(id))
    place = layout.place(own.key) if own else None
    if own is None or place is None or not is_whole(place, own.value):
        return [own] if own else []
    since = max(own.removed_at - _TOGETHER, _deleted_before(conn, own.key) + 1)
    names = dict.fromkeys(_belongings(conn, place, own.value))
    return [own, *(each for name in names for each in _thrown(conn, name, since))]


def _deleted_before(conn: sqlite3.Connection, key: bytes) -> int:
    """When a record was deleted before its last deletion: what went then was back in between."""
    place = layout.place(key)
    if place is None:
        return 0
    whole = [each.removed_at for each in _thrown(conn, key, 0) if is_whole(place, each.value)]
    return whole[1] if len(whole) > 1 else 0


def _belongings(conn: sqlite3.Connection, place: Place, value: Value) -> Iterator[bytes]:
    """The names of keys in the trash that go with a record."""
    starts = records.known_belongings(place, fields_of(place, value))
    if place.family == "account":
        starts += _account_statistics(place.id)
    for start in starts:
        query = (
            "SELECT DISTINCT key FROM trash WHERE key = ? OR (key >= ? AND key < ?) ORDER BY key"
        )
        yield from (key for (key,) in conn.execute(query, (start, start + b":", start + b";")))
    if place.family == "account":
        yield from _group_lists(conn, place)


def _account_statistics(id: str) -> list[bytes]:
    if not records.statistics(id):  # a word that many keys' names go on with
        return []
    times = [f"{scope}{period}:" for scope in ("", "model:") for period in _PERIODS]
    return [f"account_usage:{part}".encode() + raw(id) for part in ("", *times)]


_PERIODS = ("hourly", "daily", "monthly")
_GROUP, _GROUP_MEMBERS = b"account_group:", b"account_group_members:"
_GROUPS_OF = b"account_groups_reverse:"


def _group_lists(conn: sqlite3.Connection, place: Place) -> list[bytes]:
    """The keys in the trash that say which groups an account was in."""
    query = "SELECT DISTINCT key FROM trash WHERE key >= ? AND key < ?"
    names = conn.execute(query, (_GROUPS_OF, _GROUPS_OF[:-1] + b";"))
    return [name for (name,) in names if name.endswith(b":" + raw(place.id))]


def _groups_back(
    conn: sqlite3.Connection, place: Place, own: Sequence[_Thrown], number: int
) -> list[Change]:
    """Put an account back into its groups, of those that are still there."""
    listed = [each.value for each in own if each.key.startswith(_GROUPS_OF)]
    changes: list[Change] = []
    for group in {name for value in listed if value.type == "set" for name in value.data}:
        if keys.row(conn, _GROUP + group) is None:
            continue
        key = _GROUP_MEMBERS + group
        row = keys.row(conn, key)
        value = keys.value_of(conn, row) if row is not None else Value("set", ())
        if value.type == "set":
            members = Value("set", tuple(sorted({*value.data, raw(place.id)})))
            keys.put(conn, key, members, row.expires_at if row is not None else None, number)
            changes.append((key, None))
    return changes


def _last(conn: sqlite3.Connection, key: bytes) -> _Thrown | None:
    """What was deleted last of a key; of a record, when it was whole."""
    found, place = _thrown(conn, key, 0), layout.place(key)
    whole = (each for each in found if place is not None and is_whole(place, each.value))
    return next(whole, found[0] if found else None)


def _thrown(conn: sqlite3.Connection, key: bytes, since: int) -> list[_Thrown]:
    """What the trash has of a key since then, the last first."""
    query = (
        "SELECT id, removed_at, type, value, expires_at FROM trash"
        " WHERE key = ? AND removed_at >= ? ORDER BY id DESC"
    )
    found = []
    for id, removed_at, kind, blob, expires_at in conn.execute(query, (key, since)):
        value, entries = _unpacked(kind, blob)
        found.append(_Thrown(id, removed_at, key, value, entries, expires_at))
    return found


def _unpacked(kind: str, blob: bytes) -> tuple[Value, Sequence[Member]]:
    if kind != "stream":
        return unpack(kind, blob), ()
    data, members = unpack_list(blob)
    return Value(kind, tuple(data)), [tuple(member) for member in members]


def _bring_back(
    conn: sqlite3.Connection, thrown: _Thrown, number: int, was_back: bool
) -> list[Change]:
    key, value, expires_at = thrown.key, thrown.value, thrown.expires_at
    row, place = keys.row(conn, key), layout.place(key)
    is_record = place is not None and is_whole(place, value)
    if expires_at is not None and expires_at <= keys.now_ms():
        if not is_record:
            conn.execute("DELETE FROM trash WHERE id = ?", (thrown.row_id,))
            return []
        expires_at = None  # a record is not to be lost again because it lay here
    if row is not None:
        both = _together(key, value, keys.value_of(conn, row), is_record, was_back)
        if both is None:
            return []
        value, expires_at = both, expires_at if is_record else row.expires_at
        keys.remove(conn, key)
    conn.execute("DELETE FROM trash WHERE id = ?", (thrown.row_id,))
    keys.put(conn, key, value, expires_at, number)
    keys.put_entries(conn, key, thrown.entries)
    return [(key, None)]


def _together(key: bytes, old: Value, new: Value, is_record: bool, was_back: bool) -> Value | None:
    """What was deleted and what was written since; None where that is all there is to have.

    `was_back`: its record was deleted twice, and may have been back with its counts in between.
    """
    if is_record:
        if (old.type, new.type) != ("hash", "hash"):
            return old
        return of_pairs("hash", (old.fields() | new.fields()).items())
    if old.type != new.type:
        return None
    if key.startswith(layout.RECORDS) and old.type == "list":
        if was_back and old.data[0] in new.data:
            return None
        return Value("list", (*new.data, *old.data)[:_LISTED])
    if commands.is_counter(KeyState(key, old)):
        return _sums(key, old, new, was_back)
    return None


def _sums(key: bytes, old: Value, new: Value, was_back: bool) -> Value:
    """Counts as a restore adds them."""
    there = new.data[0] if new.type == "string" else new.fields()
    command = commands.add(KeyState(key, old), there, None, only_if_below=was_back) or ()
    sums = dict(zip(command[4::3], command[5::3], strict=True))
    if new.type == "string":
        return Value("string", (sums.get(b"", new.data[0]),))
    return of_pairs("hash", (new.fields() | sums).items())


def _memberships(
    conn: sqlite3.Connection, place: Place, key: bytes, value: Value, number: int
) -> list[Change]:
    record = Record(place, key, value, {**fields_of(place, value), "id": place.id})
    wanted = records.memberships(record, saving.keeps_indexes(conn, place))
    wanted |= _kept_before(conn, records.memberships(record, indexed=True))
    keys.edit_members(conn, dict(wanted), number)
    return list(wanted)


def _kept_before(
    conn: sqlite3.Connection, possible: dict[Membership, Member]
) -> dict[Membership, Member]:
    """Those in collections that are there, or went with their last member."""
    there = {key for key, _ in possible if keys.kind_of(conn, key) or _last(conn, key)}
    return {place: member for place, member in possible.items() if place[0] in there}


def empty(conn: sqlite3.Connection) -> None:
    """Let go of what was deleted too long ago; take in records that have expired."""
    query = "SELECT key FROM redis_keys WHERE expires_at IS NOT NULL AND expires_at <= ?"
    overdue = [key for (key,) in conn.execute(query, (keys.now_ms() - _OVERDUE,))]
    forget_expired(conn, [key for key in overdue if _is_records_key(key)])
    before = keys.now_ms() - KEPT
    conn.execute("DELETE FROM trash WHERE removed_at < ?", (before,))
    conn.execute("DELETE FROM trash_usage WHERE removed_at < ?", (before,))


def _is_records_key(key: bytes) -> bool:
    place = layout.place(key)
    return place is not None and place.family in ("api_key", "account")
