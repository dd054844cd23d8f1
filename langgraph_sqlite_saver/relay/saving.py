"""Saving and deleting records, and looking them up: operations on all their keys together.

Index keys that the relay's version does not have are not invented: an older relay cannot list its
keys with them.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from . import audit, commands, keys, layout, outbox, projection, records
from .commands import KeyState
from .layout import ACCOUNT_TYPES, Place, raw, text
from .outbox import Change
from .projection import fields_of
from .records import Membership, Record
from .times import Buckets
from .values import Member, Value


def keeps_indexes(conn: sqlite3.Connection, place: Place) -> bool:
    """Whether the relay whose data this is keeps indexes of such records; a new one does."""
    if keys.kind_of(conn, layout.INDEX_VERSION):
        return True
    if place.family == "account":
        kind = ACCOUNT_TYPES[place.account_type]
        if keys.kind_of(conn, kind.index):
            return True
        if keys.kind_of(conn, b"system:migrated:version"):
            return True
        if _any(conn, kind.prefix):
            return False
    return not _any(conn, layout.API_KEY)


def _any(conn: sqlite3.Connection, prefix: bytes) -> bool:
    query = "SELECT 1 FROM redis_keys WHERE key >= ? AND key < ? LIMIT 1"
    return conn.execute(query, (prefix, _end(prefix))).fetchone() is not None


def _end(prefix: bytes) -> bytes:
    """What sorts behind everything that begins with a prefix."""
    return prefix[:-1] + bytes([prefix[-1] + 1])


@dataclass(frozen=True, repr=False)  # it may hold secrets
class Saved:
    """What a call committed: the outbox row that stands for it, and what Redis must be told."""

    outbox_id: int
    seen: outbox.Current


def save(
    conn: sqlite3.Connection,
    record: Record,
    expires_at: int | None,
    actor: str,
    buckets: Buckets,
    finished: Sequence[int] = (),
) -> Saved:
    """Store a record whole, with its place in the indexes, and note it for Redis.

    `finished`: rows of the outbox that are done with.
    """
    outbox.discard(conn, finished)
    row = keys.row(conn, record.key)
    was = keys.value_of(conn, row) if row else None
    before = None if was is None else fields_of(record.place, was)
    changed, first = _places(conn, record, before)
    states = [KeyState(record.key, record.value, expires_at), *first]
    changes: list[Change] = [*((state.key, None) for state in states), *changed]
    id = outbox.add(conn, changes)
    for state in states:
        if state.value is not None:
            keys.put(conn, state.key, state.value, state.expires_at, id, written_here=True)
    keys.edit_members(conn, changed, id)
    projection.project(conn, record.place, was, record.value, buckets, record.fields)
    audit.note(
        conn, actor, "create" if before is None else "update", record.kind, record.place.id,
        before, record.fields,
    )  # fmt: skip
    outbox.unbury(conn, [(record.key, None), *(p for p, member in changed.items() if member)])
    if before is None:
        outbox.unbury_all(conn, records.all_belongings(record.place))
    outbox.bury(conn, [place for place, member in changed.items() if member is None])
    return Saved(id, _told(id, changes, states, changed, record.key))


def _places(
    conn: sqlite3.Connection, record: Record, before: Mapping[str, Any] | None
) -> tuple[dict[Membership, Member | None], list[KeyState]]:
    """Where a record is a member no more, or newly; and what comes with the first of its kind."""
    if before is not None and records.stays(before, record.fields):
        return {}, []
    indexed = keeps_indexes(conn, record.place)
    old = {} if before is None else records.memberships(_with(record, before), indexed)
    changed = _own(conn, record.place, records.edits(old, records.memberships(record, indexed)))
    return changed, [] if before is not None else _first_of_its_kind(conn, record.place, indexed)


def _own(
    conn: sqlite3.Connection, place: Place, changed: Mapping[Membership, Member | None]
) -> dict[Membership, Member | None]:
    """Without what is another record's by now: a hash that has moved to it."""
    return {
        (key, name): member
        for (key, name), member in changed.items()
        if member is not None or key != layout.HASH_MAP or _has_hash(conn, place, name)
    }


def _has_hash(conn: sqlite3.Connection, place: Place, hashed: bytes) -> bool:
    found = keys.member(conn, layout.HASH_MAP, hashed)
    return found is None or found[1] == raw(place.id)


def _told(
    id: int,
    changes: Sequence[Change],
    states: Sequence[KeyState],
    changed: Mapping[Membership, Member | None],
    record: bytes,
) -> outbox.Current:
    """What Redis has to be told of a save, without looking again."""
    told = commands.flat(commands.write(state, "replace") for state in states)
    for (key, name), member in changed.items():
        kind = layout.INDEX_TYPES.get(key, "set")
        told.append(commands.write_member(key, kind, name, member))
    return outbox.Current(id, tuple(changes), (*states, *changed.values()), tuple(told), record)


def _first_of_its_kind(conn: sqlite3.Connection, place: Place, indexed: bool) -> list[KeyState]:
    """Says that the indexes are complete, where they begin; and that there are accounts now."""
    if place.family == "account":
        return [KeyState(ACCOUNT_TYPES[place.account_type].empty_mark, None)]
    if indexed and not keys.kind_of(conn, layout.INDEX_VERSION):
        return [KeyState(layout.INDEX_VERSION, Value("string", (b"2",)))]
    return []


def _with(record: Record, fields: Mapping[str, Any]) -> Record:
    return Record(record.place, record.key, record.value, {**fields, "id": record.place.id})


def _known_fields(conn: sqlite3.Connection, place: Place, key: bytes) -> dict[str, Any] | None:
    found = keys.row(conn, key)
    if found is None:
        return None
    return fields_of(place, keys.value_of(conn, found))


def delete(conn: sqlite3.Connection, place: Place, key: bytes, actor: str) -> tuple[bool, Saved]:
    """Forget a record, all that belongs to it, and that it could be had back; whether it was there.

    What Redis may hold of it beyond what is known here is named for removal too.
    """
    before = _known_fields(conn, place, key)
    fields = {**(before or {}), "id": place.id}
    indexes = list(_own(conn, place, dict.fromkeys(records.all_memberships(place, fields))))
    own = [key, *_belongings(conn, place, fields)]
    for name in own:
        keys.remove(conn, name)
    changes: list[Change] = [*((name, None) for name in own), *indexes]
    id = outbox.add(conn, changes)
    keys.edit_members(conn, dict.fromkeys(indexes), id)
    projection.forget(conn, place)
    unplaced = "DELETE FROM usage_unplaced WHERE api_key_id = ?"
    conn.execute(unplaced, (layout.column(raw(place.id)),))
    if before is not None:
        audit.note(conn, actor, "delete", place.account_type or "api_key", place.id, before, None)
    outbox.bury(conn, changes)
    return before is not None, Saved(id, outbox.current(conn, changes))


def _belongings(conn: sqlite3.Connection, place: Place, fields: Mapping[str, Any]) -> list[bytes]:
    """Keys that go with a record."""
    found = records.known_belongings(place, fields)
    for key in records.statistics(place.id) if place.family == "api_key" else ():
        query = "SELECT key FROM redis_keys WHERE key >= ? AND key < ?"
        found += [name for (name,) in conn.execute(query, (key + b":", key + b";"))]
    return found


def put_back(conn: sqlite3.Connection, place: Place, key: bytes) -> Saved | None:
    """Note for Redis what is known of a record that it has lost; None if there is nothing.

    Nor while somebody follows that Redis: a record that it lacks was most likely deleted there.
    """
    found = fields(conn, place, key)
    if found is None or keys.is_followed(conn):
        return None
    record = Record(place, key, Value("hash", ()), {**found, "id": place.id})
    changes: list[Change] = [(key, None)]
    changes += [
        m for m in records.memberships(record, indexed=True) if keys.member(conn, *m) is not None
    ]
    if place.family == "account":
        changes.append((ACCOUNT_TYPES[place.account_type].empty_mark, None))
    return Saved(outbox.add(conn, changes), outbox.current(conn, changes))


# Looking records up.


def fields(conn: sqlite3.Connection, place: Place, key: bytes) -> dict[str, Any] | None:
    """A record's fields, unless it has expired."""
    found = keys.row(conn, key)
    if found is None or found.is_expired(keys.now_ms()):
        return None
    return fields_of(place, keys.value_of(conn, found))


def id_of_hash(conn: sqlite3.Connection, hashed: str) -> str | None:
    """The id of the API key that a hash stands for, as the relay looks it up."""
    found = keys.member(conn, layout.HASH_MAP, raw(hashed))
    if found is not None:
        return text(found[1] or b"")
    old = keys.row(conn, layout.OLD_HASH + raw(hashed))
    if old is None or old.type != "hash":
        return None
    return text(keys.value_of(conn, old).fields().get(b"id", b"")) or None


def page(
    conn: sqlite3.Connection, prefix: bytes, after: str | None, limit: int
) -> list[dict[str, Any]]:
    """Records in the order of their ids, those behind `after`."""
    start = prefix + raw(after or "")
    query = "SELECT * FROM redis_keys WHERE key > ? AND key < ? ORDER BY key"
    now, found = keys.now_ms(), []
    for columns in conn.execute(query, (start, _end(prefix))):
        row = keys.Row(*columns)
        place = layout.place(row.key)
        if place is None or place.family not in ("api_key", "account") or row.is_expired(now):
            continue
        found.append({"id": place.id, **fields_of(place, keys.value_of(conn, row))})
        if len(found) == limit:
            break
    return found
