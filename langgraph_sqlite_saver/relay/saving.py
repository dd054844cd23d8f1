"""Saving and deleting records, and looking them up: operations on all their keys together.

Index keys that the relay's version does not have are not invented: an older relay cannot list its
keys with them.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from . import audit, commands, keys, layout, outbox, projection, records
from .commands import KeyState
from .layout import ACCOUNT_TYPES, Place, raw, text
from .outbox import Change
from .projection import fields_of
from .records import Membership, Record
from .times import Buckets
from .values import Member, Value


def keeps_indexes(
    conn: sqlite3.Connection, place: Place, has: Callable[[bytes], bool] | None = None
) -> bool:
    """Whether the relay whose data this is keeps indexes of such records; a new one does.

    `has` says whether it has keys that begin so.
    """
    has = has or partial(_any, conn)
    if keys.kind_of(conn, layout.INDEX_VERSION):
        return True
    if place.family == "account":
        kind = ACCOUNT_TYPES[place.account_type]
        if keys.kind_of(conn, kind.index):
            return True
        if keys.kind_of(conn, b"system:migrated:version"):
            return True
        if has(kind.prefix):
            return False
    return not has(layout.API_KEY)


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
    # A record that was unknown here: Redis may have one of its name, with places of its own.
    unknown: tuple[Place, bytes] | None = None
    # Any process may tell Redis of it.
    is_due: bool = False


def save(
    conn: sqlite3.Connection,
    record: Record,
    expires_at: int | None,
    actor: str,
    buckets: Buckets,
    finished: Sequence[int] = (),
    lease: int = outbox.LEASE,
) -> Saved:
    """Store a record whole, with its place in the indexes, and note it for Redis.

    `finished`: rows of the outbox that are done with. `lease`: for how long it is this call's to
    tell Redis.
    """
    outbox.discard(conn, finished)
    row = keys.row(conn, record.key)
    was = keys.value_of(conn, row) if row else None
    before = None if was is None else fields_of(record.place, was)
    changed, first = _places(conn, record, before, actor)
    states = [KeyState(record.key, record.value, expires_at), *first]
    changes: list[Change] = [*((state.key, None) for state in states), *changed]
    id = outbox.add(conn, changes, lease)
    for state in states:
        if state.value is not None:
            keys.put(conn, state.key, state.value, state.expires_at, id, written_here=True)
        else:
            keys.remove(conn, state.key)
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
    told = _told(id, changes, states, changed, record.key)
    return Saved(id, told, (record.place, record.key) if before is None else None, lease == 0)


def _places(
    conn: sqlite3.Connection, record: Record, before: Mapping[str, Any] | None, actor: str
) -> tuple[dict[Membership, Member | None], list[KeyState]]:
    """Where a record is a member no more, or newly; and what comes and goes with that."""
    found = _taken_lookup(conn, record, actor)
    if before is not None and records.stays(before, record.fields):
        return found, []
    indexed = keeps_indexes(conn, record.place)
    old = {} if before is None else records.memberships(_with(record, before), indexed)
    edits = records.edits(old, records.memberships(record, indexed))
    changed = _own(conn, record.place, edits) | found
    if before is None:
        return changed, _first_of_its_kind(conn, record.place, indexed)
    return changed, [KeyState(key, None) for key in _revoked(before, record.fields)]


def _taken_lookup(
    conn: sqlite3.Connection, record: Record, actor: str
) -> dict[Membership, Member | None]:
    """A record's place in hash_map, where another has it or none; it is taken from the other."""
    place = records.lookup(record)
    if place is None:
        return {}
    member = (place[1], raw(record.place.id))
    found = keys.member(conn, *place)
    if found == member:
        return {}
    if found is not None:
        _note_loss(conn, text(found[1] or b""), text(place[1]), actor)
    return {place: member}


def _note_loss(conn: sqlite3.Connection, id: str, hashed: str, actor: str) -> None:
    """Write down that a hash leads to this API key no more."""
    found = keys.row(conn, layout.API_KEY + raw(id))
    if found is not None and keys.value_of(conn, found).fields().get(b"apiKey") == raw(hashed):
        audit.note(conn, actor, "update", "api_key", id, {"apiKey": hashed}, {})


def _revoked(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[bytes]:
    """The older form of a lookup by a secret that has been changed."""
    hashed = before.get("apiKey")
    if not hashed or hashed == now.get("apiKey"):
        return []
    return [layout.OLD_HASH + raw(hashed)]


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


def delete(
    conn: sqlite3.Connection, place: Place, key: bytes, actor: str, lease: int = outbox.LEASE
) -> tuple[bool, Saved]:
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
    id = outbox.add(conn, changes, lease)
    keys.edit_members(conn, dict.fromkeys(indexes), id)
    projection.forget(conn, place)
    unplaced = "DELETE FROM usage_unplaced WHERE api_key_id = ?"
    conn.execute(unplaced, (layout.column(raw(place.id)),))
    if before is not None:
        audit.note(conn, actor, "delete", place.account_type or "api_key", place.id, before, None)
    outbox.bury(conn, changes)
    told = outbox.current(conn, changes)
    unknown = (place, key) if before is None else None
    return before is not None, Saved(id, told, unknown, lease == 0)


def leave(
    conn: sqlite3.Connection,
    place: Place,
    key: bytes,
    there: Mapping[str, Any],
    actor: str | None,
    statistics: Sequence[bytes] = (),
    named: Sequence[Change] = (),
) -> Saved | None:
    """Forget the places that a record had in Redis and has not by what is known here, and note
    for Redis those that it lacked; None if there are no such, or these are `named` already.

    A record that was deleted here leaves all of them, and `statistics`; `actor` is named for that.
    """
    now = fields(conn, place, key)
    if now is None and not outbox.is_buried(conn, key):  # it has expired
        return None
    was = {**there, "id": place.id}
    lacking: list[Membership] = []
    if now is None:
        whole = [*records.known_belongings(place, was), *statistics]
        left = records.all_memberships(place, was)
        if actor is not None:
            audit.note(conn, actor, "delete", place.account_type or "api_key", place.id, was)
    else:
        whole = _revoked(was, now) if place.family == "api_key" else []
        old, new = _all_places(place, key, was), _all_places(place, key, {**now, "id": place.id})
        left = [member for member in old if member not in new and member[0] != layout.TAGS]
        lacking = [m for m in new if old.get(m) != new[m] and keys.member(conn, *m) is not None]
    known = set(named)
    whole = [name for name in whole if (name, None) not in known]
    gone = [member for member in _own(conn, place, dict.fromkeys(left)) if member not in known]
    removed: list[Change] = [*((name, None) for name in whole), *gone]
    changes = removed + [member for member in lacking if member not in known]
    if not changes:
        return None
    for name in whole:
        keys.remove(conn, name)
    id = outbox.add(conn, changes)
    keys.edit_members(conn, dict.fromkeys(gone), id)
    outbox.bury(conn, removed)
    return Saved(id, outbox.current(conn, changes))


def _all_places(place: Place, key: bytes, fields: Mapping[str, Any]) -> dict[Membership, Member]:
    return records.memberships(Record(place, key, Value("hash", ()), fields), indexed=True)


def _belongings(conn: sqlite3.Connection, place: Place, fields: Mapping[str, Any]) -> list[bytes]:
    """Keys that go with a record."""
    found = records.known_belongings(place, fields)
    for key in records.statistics(place.id) if place.family == "api_key" else ():
        query = "SELECT key FROM redis_keys WHERE key >= ? AND key < ?"
        found += [name for (name,) in conn.execute(query, (key + b":", key + b";"))]
    return found


def put_back(conn: sqlite3.Connection, place: Place, key: bytes, *, whole: bool) -> Saved | None:
    """Note for Redis what is known of a record that it has lost; None if there is nothing.

    Nor while somebody follows that Redis: a record that it lacks was most likely deleted there.
    `whole`: the record too, and not its places alone.
    """
    found = fields(conn, place, key)
    if found is None or keys.is_followed(conn):
        return None
    changes: list[Change] = [(key, None)] if whole else []
    places = _all_places(place, key, {**found, "id": place.id})
    changes += [member for member in places if keys.member(conn, *member) is not None]
    if place.family == "account":
        changes.append((ACCOUNT_TYPES[place.account_type].empty_mark, None))
    if not changes:
        return None
    return Saved(outbox.add(conn, changes), outbox.current(conn, changes))


# What was saved before its Redis was seen for the first time: the layout was unknown then.


# Noted while the first meeting is under way: one that is interrupted is done again.
_MEETING = "meeting"


def is_meeting(conn: sqlite3.Connection) -> bool:
    """Whether the first meeting was begun and has not come to its end."""
    return bool(keys.state(conn, _MEETING))


def is_first_meeting(conn: sqlite3.Connection) -> bool:
    """Whether nothing was taken over from any Redis, and nothing that was saved told to one; or
    only by a first meeting that has not come to its end.
    """
    if is_meeting(conn):
        return True
    if keys.state(conn, "identity") is not None:
        return False
    waiting = outbox.named_keys(conn)
    saved = conn.execute("SELECT key FROM redis_keys WHERE written_here").fetchall()
    return all(key in waiting for (key,) in saved)


def set_places_aside(conn: sqlite3.Connection) -> bool:
    """Begin the first meeting: forget the places of what was saved, but for the lookup, for
    `settle` to decide them. False, and nothing is done, if there was one.

    Where one is under way, or was interrupted, what it has imported stays.
    """
    if not is_first_meeting(conn):
        return False
    was_begun = is_meeting(conn)
    keys.set_state(conn, _MEETING, "1")
    set_later_places_aside(conn)
    if not was_begun:
        _forget_places(conn)
    return True


def set_later_places_aside(conn: sqlite3.Connection) -> bool:
    """Have what waits for Redis name no places, so that indexes are imported as they are there.

    Whether the mark of complete indexes was a save's. Nothing is done when the meeting has ended.
    """
    if not is_meeting(conn):
        return False
    outbox.drop(conn, lambda key: key == layout.INDEX_VERSION or layout.is_index(key))
    query = "DELETE FROM redis_keys WHERE key = ? AND written_here"
    return conn.execute(query, (layout.INDEX_VERSION,)).rowcount > 0


def _forget_places(conn: sqlite3.Connection) -> None:
    places = "SELECT key FROM redis_keys WHERE value IS NULL AND key != ?"
    for (key,) in conn.execute(places, (layout.HASH_MAP,)).fetchall():
        if layout.is_index(key):
            keys.remove(conn, key)


def settle(conn: sqlite3.Connection, left: Sequence[bytes], identity: str = "") -> None:
    """End the first meeting: give what was saved before the import its places, as the layout of
    that Redis has them. Nothing is done if another process has ended it.

    `left`: keys that Redis has too, of which what was saved here counts. `identity`: of that Redis;
    none of one that came back without its keys.
    """
    if not is_meeting(conn):
        return
    keys.set_state(conn, _MEETING, "")
    keys.set_state(conn, "identity", identity)
    own = list(_saved_here(conn))
    theirs = partial(_has_of_theirs, conn, left)
    keeps = {kind: keeps_indexes(conn, record.place, theirs) for kind, record in _kinds(own)}
    for record in own:
        _settle(conn, record, keeps[record.kind])
    if keeps.get("api_key") and not keys.kind_of(conn, layout.INDEX_VERSION):
        id = outbox.add(conn, [(layout.INDEX_VERSION, None)], lease=0)
        keys.put(conn, layout.INDEX_VERSION, Value("string", (b"2",)), None, id, written_here=True)
    _remove_again(conn)


def _saved_here(conn: sqlite3.Connection) -> Iterator[Record]:
    now = keys.now_ms()
    query = "SELECT * FROM redis_keys WHERE written_here ORDER BY revision"
    for columns in conn.execute(query):
        row = keys.Row(*columns)
        place = layout.place(row.key)
        if place is None or place.family not in ("api_key", "account") or row.is_expired(now):
            continue
        value = keys.value_of(conn, row)
        yield Record(place, row.key, value, {**fields_of(place, value), "id": place.id})


def _kinds(found: Sequence[Record]) -> Iterator[tuple[str, Record]]:
    """One record of each kind."""
    yield from {record.kind: record for record in found}.items()


def _has_of_theirs(conn: sqlite3.Connection, left: Sequence[bytes], prefix: bytes) -> bool:
    """Whether a Redis that was imported has keys that begin so."""
    query = (
        "SELECT 1 FROM redis_keys WHERE key >= ? AND key < ? AND key != ? AND NOT written_here"
        " LIMIT 1"
    )
    found = conn.execute(query, (prefix, _end(prefix), layout.HASH_MAP)).fetchone()
    return found is not None or any(key.startswith(prefix) for key in left)


def _settle(conn: sqlite3.Connection, record: Record, indexed: bool) -> None:
    wanted = records.memberships(record, indexed)
    places = records.memberships(record, indexed=True)
    invented = {p: None for p in places if p not in wanted and p[0] != layout.TAGS}
    id = outbox.add(conn, [(record.key, None), *wanted], lease=0)
    keys.edit_members(conn, {**wanted, **invented}, id)
    outbox.unbury(conn, list(wanted))


def _remove_again(conn: sqlite3.Connection) -> None:
    """What was deleted here, or left a place, and has come along with the import."""
    members = [m for m in outbox.buried_members(conn) if not _is_anothers(conn, m)]
    whole = [
        name
        for key in outbox.buried_keys(conn)
        if (place := layout.place(key)) is not None and place.family == "api_key"
        for name in _belongings(conn, place, {"id": place.id})
    ]
    changes: list[Change] = [*members, *((name, None) for name in whole)]
    if not changes:
        return
    for name in whole:
        keys.remove(conn, name)
    id = outbox.add(conn, changes, lease=0)
    keys.edit_members(conn, dict.fromkeys(members), id)
    outbox.bury(conn, [(name, None) for name in whole])


def _is_anothers(conn: sqlite3.Connection, place: Membership) -> bool:
    """Whether a hash that left one API key here is another's there."""
    found = keys.member(conn, *place) if place[0] == layout.HASH_MAP else None
    if found is None:
        return False
    row = keys.row(conn, layout.API_KEY + (found[1] or b""))
    return row is not None and keys.value_of(conn, row).fields().get(b"apiKey") == place[1]


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
