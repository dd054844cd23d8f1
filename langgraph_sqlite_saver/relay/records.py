"""Saving and deleting API keys and accounts: which keys of Redis each of them is made of.

A record is its own key and its place in the indexes that the relay's readers need. Index keys that
the relay's version does not have are not invented: an older relay cannot list its keys with them.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import orjson

from ..database import InvalidInputError, InvalidTypeError
from . import audit, commands, keys, layout, outbox, projection
from .commands import KeyState
from .layout import ACCOUNT_TYPES, AccountType, Place, raw, text
from .outbox import Change
from .projection import fields_of
from .times import Buckets, epoch_ms
from .values import Member, Value, of_pairs

# A member of a collection that many records share.
Membership = tuple[bytes, bytes]


@dataclass(frozen=True, repr=False)  # it may hold secrets
class Record:
    """An API key or an account, as it is to be stored."""

    place: Place
    key: bytes
    value: Value
    fields: Mapping[str, Any]

    @property
    def kind(self) -> str:
        """What the audit log calls it."""
        return self.place.account_type or "api_key"


@lru_cache(maxsize=4096)
def api_key_place(id: str) -> tuple[Place, bytes]:
    """Where an API key of this id is kept; raises InvalidInputError for what is no id."""
    key = layout.API_KEY + _checked_id(id)
    place = layout.place(key)
    if place is None or place.family != "api_key":
        raise InvalidInputError(f"an API key cannot have the id {id!r}")
    return place, key


def account_type(name: str) -> AccountType:
    """The type of this name; raises InvalidInputError for one that the relay does not have."""
    if name not in ACCOUNT_TYPES:
        raise InvalidInputError(
            f"unknown account type {name!r}: it is one of {', '.join(ACCOUNT_TYPES)}"
        )
    return ACCOUNT_TYPES[name]


@lru_cache(maxsize=4096)
def account_place(type_name: str, id: str) -> tuple[Place, bytes]:
    """Where an account of this type and id is kept."""
    key = account_type(type_name).prefix + _checked_id(id)
    place = layout.place(key)
    if place is None or place.family != "account":
        raise InvalidInputError(f"an account cannot have the id {id!r}")
    return place, key


def ask_for(place: Place, key: bytes) -> commands.Command:
    """The command that reads a record."""
    if place.account_type and ACCOUNT_TYPES[place.account_type].is_json:
        return ("GET", key)
    return ("HGETALL", key)


def _checked_id(id: str) -> bytes:
    if not isinstance(id, str) or not id:
        raise InvalidTypeError(f"an id is text, not {id!r}")
    return checked_bytes(id, "the id")


def checked_bytes(value: str, what: str) -> bytes:
    """The bytes of a text; raises InvalidInputError for one that has none, and never shows it."""
    if not isinstance(value, str):
        raise InvalidTypeError(f"{what} is text, not {type(value).__name__}")
    try:
        return raw(value)
    except UnicodeEncodeError:
        pass  # what is raised here would have it, and the text, as its context
    raise InvalidInputError(f"{what} holds a lone surrogate, which no text does")


def api_key(fields: Mapping[str, str]) -> Record:
    """An API key from its fields, `id` among them."""
    place, key = api_key_place(_id(fields))
    return Record(place, key, _hash(fields), fields)


def account(type_name: str, fields: Mapping[str, Any] | str) -> Record:
    """An account from its fields; of a type that is kept as JSON also from that text."""
    kind = account_type(type_name)
    if not kind.is_json:
        if not isinstance(fields, Mapping):
            raise InvalidTypeError(
                f"fields are a mapping of text to text, not {type(fields).__name__}"
            )
        place, key = account_place(type_name, _id(fields))
        return Record(place, key, _hash(fields), fields)
    written = fields if isinstance(fields, str) else _json(fields)
    try:
        parsed = orjson.loads(written)
    except orjson.JSONDecodeError:
        raise InvalidInputError(f"a {type_name} account is a JSON object") from None
    if not isinstance(parsed, dict):
        raise InvalidInputError(f"a {type_name} account is a JSON object")
    place, key = account_place(type_name, _id(parsed))
    return Record(place, key, Value("string", (checked_bytes(written, "the JSON"),)), parsed)


def _json(fields: Mapping[str, Any]) -> str:
    try:
        return orjson.dumps(dict(fields)).decode()
    except TypeError as error:
        raise InvalidTypeError(f"fields are what JSON can hold: {error}") from None


def _id(fields: Mapping[str, Any]) -> str:
    if not isinstance(fields, Mapping):
        raise InvalidTypeError("fields are a mapping of text to text")
    if "id" not in fields:
        raise InvalidInputError("the fields lack 'id', which names the record")
    return str(fields["id"]) if isinstance(fields["id"], str) else _refuse("id", fields["id"])


def _refuse(name: Any, value: Any) -> str:
    raise InvalidTypeError(
        f"field {name!r} is {type(value).__name__}: the relay keeps text, as 'true' or '0'"
    )


def _hash(fields: Mapping[str, str]) -> Value:
    for name, value in fields.items():
        if type(name) is not str or type(value) is not str:
            _refuse(name, value)
    pairs = fields.items()
    try:
        return of_pairs("hash", [(n.encode(), v.encode()) for n, v in pairs])
    except UnicodeEncodeError:
        pass
    return of_pairs(
        "hash", [(checked_bytes(n, "a field's name"), checked_bytes(v, n)) for n, v in pairs]
    )


# In which collections a record is a member, and with what value.


def api_key_memberships(fields: Mapping[str, str], indexed: bool) -> dict[Membership, Member]:
    """Where an API key belongs; to hash_map alone if the relay keeps no indexes."""
    id = raw(fields["id"])
    deleted = fields.get("isDeleted") == "true"
    found: dict[Membership, Member] = {}

    def add(key: bytes, member: bytes, value: bytes | None = None) -> None:
        found[key, member] = (member, value)

    if fields.get("apiKey") and not deleted:
        add(layout.HASH_MAP, raw(fields["apiKey"]), id)
    if not indexed:
        return found
    add(layout.ALL, id)
    add(layout.CREATED_AT, id, b"%d" % epoch_ms(fields.get("createdAt", "")))
    add(layout.LAST_USED_AT, id, b"%d" % epoch_ms(fields.get("lastUsedAt", "")))
    add(layout.NAME, raw(fields.get("name", "").lower()) + b"\0" + id, b"0")
    if deleted:
        add(layout.DELETED, id)
    elif fields.get("isActive") == "true":
        add(layout.ACTIVE, id)
    for tag in _tags(fields.get("tags", "")):
        add(layout.TAG + tag, id)
        add(layout.TAGS, tag)
    return found


def _tags(written: str) -> list[bytes]:
    try:
        tags = orjson.loads(written)
    except orjson.JSONDecodeError:
        return []
    return [raw(tag) for tag in tags if isinstance(tag, str)] if isinstance(tags, list) else []


def account_memberships(
    kind: AccountType, fields: Mapping[str, Any], indexed: bool
) -> dict[Membership, Member]:
    """Where an account belongs."""
    id = raw(fields["id"])
    found: dict[Membership, Member] = {}
    if indexed:
        found[kind.index, id] = (id, None)
    if kind.shared and fields.get("accountType") == "shared":
        found[kind.shared, id] = (id, None)
    return found


def memberships(record: Record, indexed: bool) -> dict[Membership, Member]:
    """Where a record belongs."""
    if record.place.family == "api_key":
        return api_key_memberships(record.fields, indexed)
    return account_memberships(ACCOUNT_TYPES[record.place.account_type], record.fields, indexed)


def edits(
    old: Mapping[Membership, Member], new: Mapping[Membership, Member]
) -> dict[Membership, Member | None]:
    """What has to change where a record's memberships changed; None: taken out.

    A tag stays among the tags when no key has it any more, as in the relay.
    """
    gone = {place: None for place in old if place not in new and place[0] != layout.TAGS}
    return gone | {place: member for place, member in new.items() if old.get(place) != member}


# Operations.


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
    indexed = keeps_indexes(conn, record.place)
    old = {} if before is None else memberships(_with(record, before), indexed)
    changed = _own(conn, record.place, edits(old, memberships(record, indexed)))
    first = [] if before is not None else _first_of_its_kind(conn, record.place, indexed)
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
        outbox.unbury_all(conn, _belongings_prefixes(record.place))
    outbox.bury(conn, [place for place, member in changed.items() if member is None])
    return Saved(id, _told(id, changes, states, changed, record.key))


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
    indexes = list(_own(conn, place, dict.fromkeys(all_memberships(place, fields))))
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


def all_memberships(place: Place, fields: Mapping[str, Any]) -> list[Membership]:
    """Where a record may be a member, whatever its state is said to be."""
    id = raw(place.id)
    if place.family == "account":
        kind = ACCOUNT_TYPES[place.account_type]
        return [(key, id) for key in (kind.index, kind.shared) if key]
    # As if it were live: a relay's start leaves some that are deleted in hash_map.
    live = {**fields, "isDeleted": "false"}
    found = [m for m in api_key_memberships(live, indexed=True) if m[0] != layout.TAGS]
    return [*dict.fromkeys([*found, (layout.ACTIVE, id), (layout.DELETED, id)])]


# Statistics of an API key are keys of their own: these and their id, alone or with a time.
STATISTICS = [
    f"usage:{kind}".encode()
    for kind in (
        "", "daily:", "monthly:", "hourly:", "records:", "cost:total:", "cost:real:total:",
        "cost:daily:", "cost:real:daily:", "cost:monthly:", "cost:hourly:", "opus:total:",
        "opus:real:total:", "opus:weekly:", "opus:real:weekly:",
    )
]  # fmt: skip


# An id that is one of the words in those keys would be taken for all that begin with it.
_WORDS = frozenset(
    {"daily", "monthly", "hourly", "records", "cost", "opus", "model", "global", "keymodel"}
)


def statistics(id: str) -> list[bytes]:
    """An API key's counters, whose names may go on with a colon, a model and a time."""
    return [] if id in _WORDS else [prefix + raw(id) for prefix in STATISTICS]


def _belongings_prefixes(place: Place) -> list[bytes]:
    """What the keys begin with that were deleted along with an earlier record of this id."""
    return statistics(place.id) if place.family == "api_key" else _account_belongings(place)


def _account_belongings(place: Place) -> list[bytes]:
    name, id = place.account_type.encode(), raw(place.id)
    return [
        b"account:test_config:%s:%s" % (name, id),
        b"account:test_history:%s:%s" % (name, id),
        b"account_balance_script:%s:%s" % (name, id),
    ]


def known_belongings(place: Place, fields: Mapping[str, Any]) -> list[bytes]:
    """Keys that go with a record, but for the counters of a model or a time."""
    if place.family != "api_key":
        return _account_belongings(place)
    hashed = fields.get("apiKey")
    return [*statistics(place.id), *([layout.OLD_HASH + raw(hashed)] if hashed else [])]


def _belongings(conn: sqlite3.Connection, place: Place, fields: Mapping[str, Any]) -> list[bytes]:
    """Keys that go with a record."""
    found = known_belongings(place, fields)
    for key in statistics(place.id) if place.family == "api_key" else ():
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
    changes += [m for m in memberships(record, indexed=True) if keys.member(conn, *m) is not None]
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
