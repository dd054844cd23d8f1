"""The relational tables, filled from the keys: what people and programs query.

Totals in Redis are the start that the tables' totals rise from: a changed counter moves them by
its difference, and usage that is recorded here moves them too.
"""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import orjson

from . import keys, layout, usage
from .commands import KeyState, is_counter
from .layout import ACCOUNT_TYPES, Place, column, texts
from .times import Buckets
from .values import Value

Fields = Mapping[str, Any]


def fields_of(place: Place, value: Value) -> dict[str, Any]:
    """A record's fields as text; those of an account that is kept as JSON as JSON has them."""
    if value.type == "hash":
        parts = texts(value.data)
        return dict(zip(parts[::2], parts[1::2], strict=True))
    if value.type == "string" and place.family == "account":
        try:
            fields = _loaded(value.data[0])
        except ValueError:
            return {}
        return fields if isinstance(fields, dict) else {}
    return {}


def is_whole(place: Place, value: Value) -> bool:
    """Whether a key holds an API key or an account: one that has its id.

    A request that ends when its record was deleted, or evicted, writes single fields of it anew.
    """
    if place.family not in ("api_key", "account"):
        return False
    if value.type == "hash":
        return b"id" in value.data[::2]
    return "id" in fields_of(place, value)


def _loaded(written: bytes) -> Any:
    try:
        return orjson.loads(written)
    except orjson.JSONDecodeError:  # or halves of characters, which JavaScript can write
        text = json.dumps(json.loads(written), ensure_ascii=False)
        return orjson.loads(text.encode("utf-8", "replace"))


def project(
    conn: sqlite3.Connection,
    place: Place,
    old: Value | None,
    new: Value,
    buckets: Buckets,
    fields: Fields | None = None,
) -> None:
    """Bring the tables up to date with a key that changed; `fields`: a record's, where known."""
    if place.family == "api_key":
        _api_key(conn, place, _Columns(fields or fields_of(place, new)), buckets)
    elif place.family == "account":
        _account(conn, place, _Columns(fields or fields_of(place, new)))
    elif place.family == "records":
        _records(conn, place.id, old, new, buckets)
    elif place.family == "stats":
        _stats(conn, place, old, new)
    elif place.family == "key_cost":
        _move(conn, "api_keys", place.id, {"total_cost": _number(new) - _number(old)})
    elif place.family == "key_totals":
        _move(conn, "api_keys", place.id, _differences(_KEY_TOTALS, old, new))
    else:
        _move(conn, "accounts", place.id, _differences(_ACCOUNT_TOTALS, old, new))


_ACCOUNT_TOTALS = {
    b"totalRequests": "total_requests",
    b"totalTokens": "total_tokens",
    b"totalInputTokens": "total_input_tokens",
    b"totalOutputTokens": "total_output_tokens",
}
_KEY_TOTALS = _ACCOUNT_TOTALS | {
    b"totalCacheCreateTokens": "total_cache_create_tokens",
    b"totalCacheReadTokens": "total_cache_read_tokens",
}


def _differences(columns: Mapping[bytes, str], old: Value | None, new: Value) -> dict[str, int]:
    before, after = _counters(old), _counters(new)
    return {
        name: _int(after.get(field)) - _int(before.get(field)) for field, name in columns.items()
    }


def _counters(value: Value | None) -> Mapping[bytes, bytes]:
    return value.fields() if value is not None and value.type == "hash" else {}


def _int(value: Any) -> int:
    """A counter's number; what is none, or more than a column holds, counts nothing."""
    try:
        number = int(value)
    except (TypeError, ValueError):
        return 0
    return number if abs(number) < 2**62 else 0


def _number(value: Value | None) -> float:
    try:
        number = float(value.data[0]) if value is not None else 0.0
    except ValueError:
        return 0.0
    return number if abs(number) < float("inf") else 0.0


def _move(conn: sqlite3.Connection, table: str, id: str, by: Mapping[str, float]) -> None:
    changed = {name: step for name, step in by.items() if step}
    if changed:
        assignments = ", ".join(f"{name} = {name} + ?" for name in changed)
        query = f"UPDATE {table} SET {assignments} WHERE id = ?"  # noqa: S608
        conn.execute(query, (*changed.values(), column(layout.raw(id))))


def _upsert(conn: sqlite3.Connection, table: str, row: Mapping[str, Any], guard: str = "") -> None:
    """Insert or update a row by its id."""
    conn.execute(_upserting(table, tuple(row), guard), tuple(row.values()))


@cache
def _upserting(table: str, names: tuple[str, ...], guard: str) -> str:
    updates = ", ".join(f"{name} = excluded.{name}" for name in names[1:])
    marks = ", ".join("?" * len(names))
    return (
        f"INSERT INTO {table} ({', '.join(names)}) VALUES ({marks})"  # noqa: S608
        f" ON CONFLICT (id) DO UPDATE SET {updates} {guard}"
    )


def _api_key(conn: sqlite3.Connection, place: Place, fields: _Columns, buckets: Buckets) -> None:
    id = column(layout.raw(place.id))
    hashed = fields.text("apiKey") or None
    known = conn.execute("SELECT api_key_hash FROM api_keys WHERE id = ?", (id,)).fetchone()
    if known != (hashed,):
        # The index is unique; a hash that moved to another record is that one's now.
        conn.execute("UPDATE api_keys SET api_key_hash = NULL WHERE api_key_hash = ?", (hashed,))
    _upsert(
        conn,
        "api_keys",
        {
            "id": id,
            "api_key_hash": hashed,
            "name": fields.text("name"),
            "description": fields.text("description"),
            "token_limit": fields.integer("tokenLimit"),
            "is_active": fields.flag("isActive"),
            "created_at": fields.time("createdAt"),
            "updated_at": fields.time("updatedAt"),
            "last_used_at": fields.time("lastUsedAt"),
            "expires_at": fields.time("expiresAt"),
            "permissions": fields.text("permissions"),
            "blacklist_models": fields.text("restrictedModels"),
            "allowed_clients": fields.text("allowedClients"),
        },
    )
    if known is None:
        _start(conn, layout.raw(place.id), id)
        usage.place_again(conn, id, buckets)


def _start(conn: sqlite3.Connection, raw_id: bytes, id: str) -> None:
    """Totals of a key that is new here, whose counters may have come before it."""
    totals = _stored(conn, b"usage:" + raw_id)
    cost = _stored(conn, layout.COST_TOTAL + raw_id)
    if totals is not None:
        _move(conn, "api_keys", id, _differences(_KEY_TOTALS, None, totals))
    if cost is not None:
        _move(conn, "api_keys", id, {"total_cost": _number(cost)})


def _stored(conn: sqlite3.Connection, key: bytes) -> Value | None:
    found = keys.row(conn, key)
    return keys.value_of(conn, found) if found else None


def _account(conn: sqlite3.Connection, place: Place, fields: _Columns) -> None:
    kind = ACCOUNT_TYPES[place.account_type]
    id = column(layout.raw(place.id))
    secrets = {name: fields.raw[name] for name in kind.credentials if name in fields.raw}
    known = conn.execute("SELECT 1 FROM accounts WHERE id = ?", (id,)).fetchone()
    _upsert(
        conn,
        "accounts",
        {
            "id": id,
            "account_type": kind.name,
            "name": fields.text("name") or "",
            "description": fields.text("description"),
            "email": fields.text("email"),
            "is_active": fields.flag("isActive"),
            "status": fields.text("status"),
            "created_at": fields.time("createdAt"),
            "updated_at": fields.time("updatedAt"),
            "last_used_at": fields.time("lastUsedAt"),
            "expires_at": fields.time("expiresAt"),
            "proxy_config": fields.text("proxy"),
            "encrypted_credentials": _json(secrets),
        },
        # Two types may, in theory, use one id, of which the guide's table holds one.
        "WHERE account_type = excluded.account_type",
    )
    if known is None:
        totals = _stored(conn, b"account_usage:" + layout.raw(place.id))
        if totals is not None:
            _move(conn, "accounts", id, _differences(_ACCOUNT_TOTALS, None, totals))


def _json(value: Any) -> str:
    """JSON for a column; what is no UTF-8 is kept in redis_keys only."""
    try:
        return orjson.dumps(value).decode()
    except TypeError:
        cleaned = {name: column(layout.raw(text)) for name, text in value.items()}
        return orjson.dumps(cleaned).decode()


class _Columns:
    """A record's fields as the columns want them; a field that is missing is NULL."""

    def __init__(self, raw: Fields) -> None:
        self.raw = raw

    def text(self, name: str) -> str | None:
        value = self.raw.get(name)
        if value is None or isinstance(value, str):
            return value if not value or value.isascii() else column(layout.raw(value))
        return orjson.dumps(value).decode()

    def time(self, name: str) -> str | None:
        return self.text(name) or None

    def integer(self, name: str) -> int | None:
        value = self.text(name)
        try:
            number = int(value) if value else None
        except ValueError:
            return None
        return number if number is None or abs(number) < 2**63 else None

    def flag(self, name: str) -> bool | None:
        value = self.text(name)
        return None if value not in ("true", "false") else value == "true"


def new_entries(old: Sequence[bytes], new: Sequence[bytes]) -> list[bytes]:
    """What was pushed in front of a list since, oldest first; the end may have been cut off.

    Equal entries count each. A list that does not go on from the old one was written anew: what
    the old one has is known already then.
    """
    for pushed in range(len(new)):
        kept = new[pushed:]
        if kept == old[: len(kept)]:
            return list(reversed(new[:pushed]))
    known = Counter(old)
    fresh = []
    for entry in new:
        if known[entry] > 0:
            known[entry] -= 1
        else:
            fresh.append(entry)
    return fresh[::-1]


def begins_anew(key: bytes, old: Value, new: Value) -> bool:
    """Whether usage was deleted and counted from nothing since: counts only rise."""
    if old.type != new.type:
        return False
    if key.startswith(layout.RECORDS) and old.type == "list":
        return len(new.data) < len(old.data) and new.data[-1] not in old.data
    if not is_counter(KeyState(key, old)):
        return False
    if old.type == "string":
        return _number(new) < _number(old)
    counts = _counters(new)
    return any(_int(counts.get(name)) < _int(count) for name, count in _counters(old).items())


def _records(
    conn: sqlite3.Connection, raw_id: str, old: Value | None, new: Value, buckets: Buckets
) -> None:
    if new.type != "list":
        return
    id = column(layout.raw(raw_id))
    before = old.data if old is not None and old.type == "list" else ()
    entries = new_entries(before, new.data)
    if not entries:
        return
    known = conn.execute("SELECT 1 FROM api_keys WHERE id = ?", (id,)).fetchone()
    records = [(entry, usage.of_entry(id, entry, buckets) if known else None) for entry in entries]
    usage.insert(conn, [record for _, record in records if record is not None])
    unplaced = [(id, column(entry)) for entry, record in records if record is None]
    usage.keep_unplaced(conn, unplaced, raises_totals=False)


_STATS = (
    b"requests",
    b"inputTokens",
    b"outputTokens",
    b"cacheCreateTokens",
    b"cacheReadTokens",
    b"allTokens",
)


def _stats(conn: sqlite3.Connection, place: Place, old: Value | None, new: Value) -> None:
    before, after = _counters(old), _counters(new)
    steps: list[float] = [_int(after.get(n)) - _int(before.get(n)) for n in _STATS]
    micro = _int(after.get(b"ratedCostMicro")) - _int(before.get(b"ratedCostMicro"))
    if not (any(steps) or micro):
        return
    of = [column(layout.raw(part)) for part in (place.id, place.model)]
    conn.execute(
        usage.RAISE_STATS,
        (place.scope, of[0], place.period, place.start, of[1], *steps, micro / 1_000_000),
    )


def retire(conn: sqlite3.Connection, place: Place) -> None:
    """Mark the row of an API key that has expired; its usage records, which need it, stay."""
    conn.execute("UPDATE api_keys SET is_active = 0 WHERE id = ?", (column(layout.raw(place.id)),))


def forget(conn: sqlite3.Connection, place: Place) -> None:
    """Remove a record's row, and with an API key its usage records; sums of times stay."""
    if place.family == "api_key":
        id = column(layout.raw(place.id))
        conn.execute("DELETE FROM api_keys WHERE id = ?", (id,))
    elif place.family == "account":
        conn.execute(
            "DELETE FROM accounts WHERE id = ? AND account_type = ?",
            (column(layout.raw(place.id)), place.account_type),
        )
