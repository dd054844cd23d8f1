"""ENABLE_SQLITE=false: the same operations on Redis alone, as the relay has always done them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from itertools import islice
from math import fsum
from typing import Any

import redis
from redis.cluster import RedisCluster

from . import commands, layout, records, server, usage
from .asking import REDIS_ERRORS, Ask, ask, explained
from .batching import PartlyStored
from .commands import Command, KeyState
from .errors import RedisUnavailableError, SqliteDisabledError
from .layout import ACCOUNT_TYPES, Place, raw, text
from .logic import fields_of_reply
from .records import Record
from .server import Clients
from .times import Buckets, utc_text
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


# Usage. An API key's part of a batch is carried out whole, or not at all; on a cluster, command by
# command.

# API keys in one transaction: it holds others up.
_AT_ONCE = 200

_Parts = dict[str, list[UsageRecord]]


def store_usage(client: redis.Redis, batch: Sequence[UsageRecord]) -> None:
    """Push usage records onto the relay's lists and raise its totals.

    Counted at most once: `client` is one that sends nothing twice, and where Redis does not say
    whether it has counted what it was sent, that is given up. So is what it cannot count, as
    because a key has another type. Raises PartlyStored: for those, and for what it has surely not
    counted, which is left to be sent again.
    """
    todo = _Batch(batch)
    failure = None
    try:
        todo.give_up(_misfits(client, todo.waiting))
        while todo.waiting:
            _store_some(client, todo)
    except RedisUnavailableError as error:
        failure = error
    todo.check_all_stored(failure)


class _Batch:
    """A batch by API key: what waits, and what was given up."""

    def __init__(self, batch: Sequence[UsageRecord]) -> None:
        self.waiting: _Parts = {}
        for record in batch:
            self.waiting.setdefault(record.api_key_id, []).append(record)
        self._given_up = 0
        self._why = ""

    def finish(self, ids: Iterable[str]) -> None:
        """These are counted."""
        for id in ids:
            self.waiting.pop(id, None)

    def give_up(self, reasons: Mapping[str, str]) -> None:
        """These never will be."""
        for id, self._why in reasons.items():
            self._given_up += len(self.waiting.pop(id))

    def check_all_stored(self, failure: Exception | None) -> None:
        """Raises PartlyStored if they are not."""
        left = [record for records in self.waiting.values() for record in records]
        if left or self._given_up:
            raise PartlyStored(left, failure if left else None, self._given_up, self._why)


class _Unknown(Exception):
    """Redis did not say whether it has counted what it was sent."""

    def __init__(self, failure: RedisUnavailableError) -> None:
        super().__init__(f"it is not known whether Redis has counted them. {failure}")
        self.failure = failure


def _store_some(client: redis.Redis, batch: _Batch) -> None:
    on_cluster = isinstance(client, RedisCluster)
    part = {id: batch.waiting[id] for id in islice(batch.waiting, 1 if on_cluster else _AT_ONCE)}
    try:
        refused = (_count_one_by_one if on_cluster else _count_together)(client, part)
    except _Unknown as unknown:
        batch.give_up(dict.fromkeys(part, str(unknown)))
        raise unknown.failure from None
    batch.give_up(refused)
    batch.finish(part)


def _keys(id: str) -> dict[bytes, bytes]:
    """Where the usage of an API key is counted, and the types of these keys."""
    name = raw(id)
    return {
        layout.RECORDS + name: b"list",
        b"usage:" + name: b"hash",
        layout.COST_TOTAL + name: b"string",
    }


def _misfits(client: redis.Redis, ids: Iterable[str]) -> dict[str, str]:
    """API keys whose usage cannot be counted, and why."""
    wanted = [(id, key, kind) for id in ids for key, kind in _keys(id).items()]
    asked = Ask([("TYPE", key) for _, key, _ in wanted])
    try:
        types = ask(client, asked)
    except RedisUnavailableError as error:
        if error.answered:
            raise
        types = ask(client, asked)  # a connection that lay idle may have been broken
    return {
        id: f"Redis has a {found.decode()} in {text(key)}, where a {kind.decode()} belongs"
        for (id, key, kind), found in zip(wanted, types, strict=True)
        if found not in (kind, b"none")
    }


def _count_together(client: redis.Redis, parts: _Parts) -> dict[str, str]:
    """Count the usage of some API keys in one transaction; those that Redis refused, and why."""
    told = _told(parts)
    pipe = client.pipeline(transaction=True)
    for _, command in told:
        pipe.execute_command(*command)  # type: ignore[no-untyped-call]
    try:
        replies = pipe.execute(raise_on_error=False)
    except redis.ResponseError as error:  # it has carried out none
        failure = explained(error, told[0][1])
    except REDIS_ERRORS as error:
        raise _Unknown(explained(error, ("EXEC",))) from None
    else:
        return {
            id: str(explained(reply, command))
            for (id, command), reply in zip(told, replies, strict=True)
            if isinstance(reply, Exception)
        }
    raise failure


def _count_one_by_one(client: redis.Redis, parts: _Parts) -> dict[str, str]:
    """On a cluster, where a transaction has to do with one server: as `_count_together`."""
    for position, (id, command) in enumerate(_told(parts)):
        try:
            client.execute_command(*command)  # type: ignore[no-untyped-call]
            continue
        except redis.ResponseError as error:
            failure = explained(error, command)
        except REDIS_ERRORS as error:
            raise _Unknown(explained(error, command)) from None
        if position > 0:
            return {id: str(failure)}
        raise failure  # it has carried out none
    return {}


def _told(parts: _Parts) -> list[tuple[str, Command]]:
    return [(id, command) for id, records in parts.items() for command in _commands(id, records)]


def _commands(api_key_id: str, records: Sequence[UsageRecord]) -> Iterator[Command]:
    id = raw(api_key_id)
    kept = records[-_KEPT:]
    yield ("LPUSH", layout.RECORDS + id, *map(usage.as_entry, kept))
    yield ("LTRIM", layout.RECORDS + id, 0, _KEPT - 1)
    yield ("EXPIRE", layout.RECORDS + id, _SECONDS)
    inward = sum(record.input_tokens for record in records)
    outward = sum(record.output_tokens for record in records)
    created = sum(record.cache_create_tokens for record in records)
    read = sum(record.cache_read_tokens for record in records)
    for name, step in (
        ("totalRequests", len(records)),
        ("totalTokens", inward + outward),
        ("totalInputTokens", inward),
        ("totalOutputTokens", outward),
        ("totalCacheCreateTokens", created),
        ("totalCacheReadTokens", read),
        ("totalAllTokens", inward + outward + created + read),
    ):
        yield ("HINCRBY", b"usage:" + id, name, step)
    yield ("INCRBYFLOAT", layout.COST_TOTAL + id, repr(fsum(record.cost for record in records)))


def usage_of(
    client: redis.Redis,
    api_key_id: str,
    limit: int,
    buckets: Buckets,
    *,
    account_id: str | None = None,
    model: str | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    after: int | None = None,
) -> list[UsageRecord]:
    """The newest usage records of an API key that match, of those that its list has."""
    if after is not None:
        raise SqliteDisabledError(
            "ENABLE_SQLITE is false: pages of usage (after) need the SQLite file, for records in "
            "Redis have no ids. Set it to true, or ask for all 200 with limit"
        )
    begin, end = (None if when is None else utc_text(when) for when in (since, until))
    key = layout.RECORDS + raw(api_key_id)
    (entries,) = ask(client, Ask([("LRANGE", key, 0, -1)]))
    found = [
        _without_total(record)
        for record in (usage.of_entry(api_key_id, entry, buckets) for entry in entries)
        if record is not None
        and (account_id is None or record.account_id == account_id)
        and (model is None or record.model == model)
        and (begin is None or _time(record) >= begin)
        and (end is None or _time(record) < end)
    ]
    return sorted(found, key=_time, reverse=True)[:limit]


def _time(record: UsageRecord) -> str:
    return record.timestamp or ""


def _without_total(record: UsageRecord) -> UsageRecord:
    """What the relay's entries tell twice is left out."""
    if record.extra is None or record.extra.get("totalTokens") != usage.all_tokens(record):
        return record
    extra = {name: value for name, value in record.extra.items() if name != "totalTokens"}
    return replace(record, extra=extra or None)
