"""API keys and accounts as records: which keys of Redis each is made of, and what it may hold.

A record is its own key and its place in the indexes that the relay's readers need.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import orjson

from ..database import InvalidInputError, InvalidTypeError
from . import commands, layout
from .layout import ACCOUNT_TYPES, AccountType, Place, raw
from .times import epoch_ms
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
    try:
        return of_pairs(
            "hash", zip(*(map(str.encode, p) for p in (fields, fields.values())), strict=True)
        )
    except (TypeError, UnicodeEncodeError):
        pass
    for name, value in fields.items():
        if not (isinstance(name, str) and isinstance(value, str)):
            _refuse(name, value)
    pairs = fields.items()
    return of_pairs(
        "hash", [(checked_bytes(n, "a field's name"), checked_bytes(v, n)) for n, v in pairs]
    )


# In which collections a record is a member, and with what value.

# The fields that decide it.
_PLACING = (
    "apiKey", "isDeleted", "createdAt", "lastUsedAt", "name", "isActive", "tags", "accountType",
)  # fmt: skip


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


def lookup(record: Record) -> Membership | None:
    """Where requests find it: its place in hash_map; None if they are not to."""
    hashed = record.fields.get("apiKey") if record.place.family == "api_key" else None
    if not hashed or record.fields.get("isDeleted") == "true":
        return None
    return layout.HASH_MAP, raw(hashed)


def stays(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    """Whether a record whose fields changed belongs where it did."""
    return all(old.get(name) == new.get(name) for name in _PLACING)


def edits(
    old: Mapping[Membership, Member], new: Mapping[Membership, Member]
) -> dict[Membership, Member | None]:
    """What has to change where a record's memberships changed; None: taken out.

    A tag stays among the tags when no key has it any more, as in the relay.
    """
    gone = {place: None for place in old if place not in new and place[0] != layout.TAGS}
    return gone | {place: member for place, member in new.items() if old.get(place) != member}


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
_WORDS = frozenset({
    "daily", "monthly", "hourly", "records", "cost", "opus", "model", "global", "keymodel", "index",
})  # fmt: skip


def statistics(id: str) -> list[bytes]:
    """An API key's counters, whose names may go on with a colon, a model and a time."""
    return [] if id in _WORDS else [prefix + raw(id) for prefix in STATISTICS]


def all_belongings(place: Place) -> list[bytes]:
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
