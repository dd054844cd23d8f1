"""ENABLE_SQLITE=false: the same operations on Redis alone, as the relay has always done them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import redis

from . import commands, layout, records, server, usage
from .asking import Ask, ask
from .commands import Command, KeyState
from .layout import ACCOUNT_TYPES, Place, raw, text
from .logic import fields_of_reply
from .records import Record
from .server import Clients
from .times import Buckets
from .usage import UsageRecord
from .values import Member

# As the relay cuts and keeps its lists of usage records.
_KEPT, _SECONDS = 200, 90 * 24 * 3600


class RedisOnly:
    """The store's operations without SQLite: what Redis refuses is an error."""

    def __init__(self, clients: Clients) -> None:
        self._clients = clients

    def save(self, record: Record, expires_at: int | None, actor: str, strict: bool | None) -> None:
        """Store a record with its place in the indexes."""
        before = self.get(record.place, record.key)
        indexed = self._keeps_indexes(record.place)
        old = {} if before is None else self._memberships(record, before, indexed)
        told = list(commands.write(KeyState(record.key, record.value, expires_at), "replace"))
        if record.place.family == "account":
            told.append(("DEL", ACCOUNT_TYPES[record.place.account_type].empty_mark))
        elif indexed:
            told.append(("SET", layout.INDEX_VERSION, "2", "NX"))
        told += _edits(records.edits(old, records.memberships(record, indexed)))
        ask(self._clients.raw, Ask(told))

    def delete(self, place: Place, key: bytes, actor: str, strict: bool | None) -> bool:
        """Delete a record, an API key with its statistics."""
        before = self.get(place, key)
        fields = {**(before or {}), "id": place.id}
        told: list[Command] = [("DEL", key)]
        told += _edits(dict.fromkeys(records.all_memberships(place, fields)))
        told += [("DEL", name) for name in records.known_belongings(place, fields)]
        ask(self._clients.raw, Ask(told))
        if place.family == "api_key":
            _delete_statistics(self._clients.raw, place.id)
        return before is not None

    def get(self, place: Place, key: bytes) -> dict[str, Any] | None:
        """A record's fields."""
        (reply,) = ask(self._clients.text, Ask([records.ask_for(place, key)]))
        return fields_of_reply(place, reply)

    def find(self, hashed: str) -> dict[str, Any] | None:
        """The API key that a hash stands for."""
        records.checked_bytes(hashed, "the hash")
        asked = [
            ("HGET", layout.HASH_MAP, raw(hashed)),
            ("HGET", layout.OLD_HASH + raw(hashed), b"id"),
        ]
        id, old = ask(self._clients.raw, Ask(asked))
        id = id or old
        if not id:
            return None
        found = self.get(*records.api_key_place(text(id)))
        return found if found is not None and found.get("apiKey") == hashed else None

    def _memberships(
        self, record: Record, fields: Mapping[str, Any], indexed: bool
    ) -> dict[records.Membership, Member]:
        known = Record(record.place, record.key, record.value, {**fields, "id": record.place.id})
        return records.memberships(known, indexed)

    def _keeps_indexes(self, place: Place) -> bool:
        """As `saving.keeps_indexes`."""
        asked = [layout.INDEX_VERSION, b"system:migrated:version", layout.HASH_MAP]
        if place.family == "account":
            asked.append(ACCOUNT_TYPES[place.account_type].index)
        there = ask(self._clients.raw, Ask([("EXISTS", key) for key in asked]))
        complete, migrated, has_keys, *index = there
        if place.family == "account":
            return bool(complete or migrated or index[0] or not has_keys)
        return bool(complete or not has_keys)


def _delete_statistics(client: redis.Redis, id: str) -> None:
    """Delete an API key's counters, whatever their model and time, as the relay does."""
    own = records.statistics(id)
    later = tuple(key + b":" for key in own)
    for found in server.scan(client, b"usage:*" + server.literally(raw(id)) + b"*"):
        gone = [key for key in found if key in own or key.startswith(later)]
        if gone:
            ask(client, Ask([("DEL", key) for key in gone]))


def _edits(changed: Mapping[records.Membership, Member | None]) -> list[Command]:
    return [
        commands.write_member(key, layout.INDEX_TYPES.get(key, "set"), name, member)
        for (key, name), member in changed.items()
    ]


def page(client: redis.Redis, prefix: bytes, after: str | None, limit: int) -> list[dict[str, Any]]:
    """Records in the order of their ids, those behind `after`."""
    found = sorted(key for key in _records(client, prefix) if key > prefix + raw(after or ""))
    shown = []
    for key in islice(found, limit):
        place = layout.place(key)
        assert place is not None
        (reply,) = ask(client, Ask([records.ask_for(place, key)]))
        fields = fields_of_reply(place, reply)
        if fields is not None:
            shown.append({"id": place.id, **fields})
    return shown


def _records(client: redis.Redis, prefix: bytes) -> Iterator[bytes]:
    for keys in server.scan(client, prefix + b"*"):
        for key in keys:
            place = layout.place(key)
            if place is not None and place.family in ("api_key", "account"):
                yield key


def count(client: redis.Redis) -> dict[str, Any]:
    """How many records there are."""
    api_keys, accounts = set(), set()
    for keys in server.scan(client):
        for key in keys:
            place = layout.place(key)
            if place is not None and place.family == "api_key":
                api_keys.add(key)
            elif place is not None and place.family == "account":
                accounts.add(key)
    return {
        "apiKeysCount": len(api_keys),
        "accountsCount": len(accounts),
        "usageRecordsCount": 0,
        "dbSize": 0,
        "dbPath": None,
    }


def store_usage(client: redis.Redis, batch: Sequence[UsageRecord]) -> None:
    """Push usage records onto the relay's lists and raise its totals."""
    told: list[Command] = []
    for record in batch:
        told += _usage(record)
    ask(client, Ask(told))


def _usage(record: UsageRecord) -> Iterable[Command]:
    id = raw(record.api_key_id)
    yield ("LPUSH", layout.RECORDS + id, usage.as_entry(record))
    yield ("LTRIM", layout.RECORDS + id, 0, _KEPT - 1)
    yield ("EXPIRE", layout.RECORDS + id, _SECONDS)
    tokens = record.input_tokens + record.output_tokens
    every = tokens + record.cache_create_tokens + record.cache_read_tokens
    for name, step in (
        ("totalRequests", 1),
        ("totalTokens", tokens),
        ("totalInputTokens", record.input_tokens),
        ("totalOutputTokens", record.output_tokens),
        ("totalCacheCreateTokens", record.cache_create_tokens),
        ("totalCacheReadTokens", record.cache_read_tokens),
        ("totalAllTokens", every),
    ):
        yield ("HINCRBY", b"usage:" + id, name, step)
    yield ("INCRBYFLOAT", layout.COST_TOTAL + id, repr(float(record.cost)))


def usage_of(
    client: redis.Redis, api_key_id: str, limit: int, buckets: Buckets
) -> list[UsageRecord]:
    """The newest usage records of an API key, as its list has them."""
    key = layout.RECORDS + raw(api_key_id)
    (entries,) = ask(client, Ask([("LRANGE", key, 0, limit - 1)]))
    found = (usage.of_entry(api_key_id, entry, buckets) for entry in entries)
    return [record for record in found if record is not None]
