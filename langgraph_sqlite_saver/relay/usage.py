"""Usage records: what one request cost, and the sums that it raises. SQLite only."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import orjson

from ..database import InvalidInputError, InvalidTypeError
from .times import Buckets, in_utc, is_exact, utc_now

Period = Literal["hour", "day", "month"]
PERIODS: tuple[Period, ...] = ("hour", "day", "month")

COLUMNS = (
    "api_key_id, account_id, timestamp, model, input_tokens, output_tokens, cache_create_tokens,"
    " cache_read_tokens, cost, request_duration_ms, status, error_message"
)
_INSERT = f"INSERT INTO usage_records ({COLUMNS}) VALUES (?,?,?,?,?,?,?,?,?,?,?,?)"  # noqa: S608

# The relay's names for a record's columns.
_ENTRY = {
    "timestamp": "timestamp",
    "model": "model",
    "accountId": "account_id",
    "inputTokens": "input_tokens",
    "outputTokens": "output_tokens",
    "cacheCreateTokens": "cache_create_tokens",
    "cacheReadTokens": "cache_read_tokens",
    "cost": "cost",
    "durationMs": "request_duration_ms",
    "statusCode": "status",
    "errorMessage": "error_message",
}
_COUNTS = ("input_tokens", "output_tokens", "cache_create_tokens", "cache_read_tokens")


@dataclass(frozen=True, slots=True)
class UsageRecord:
    """What one request used.

    Args:
        api_key_id: The API key's id.
        model: The model's name.
        timestamp: ISO 8601 text, UTC unless it names a zone, and stored as UTC with milliseconds;
            None: the time of recording.
        account_id: The account that served it.
        input_tokens, output_tokens, cache_create_tokens, cache_read_tokens: Counts.
        cost: In dollars, after rates.
        request_duration_ms: Milliseconds.
        status: Text, as the HTTP status.
        error_message: What went wrong, if something did.
        extra: Whatever else is to be kept, as JSON can hold it, as it is when it is recorded.
        record_id: Set where a record is read; the cursor for the next page.
    """

    api_key_id: str
    model: str
    timestamp: str | None = None
    account_id: str | None = None
    input_tokens: int = 0
    output_tokens: int = 0
    cache_create_tokens: int = 0
    cache_read_tokens: int = 0
    cost: float = 0.0
    request_duration_ms: int | None = None
    status: str | None = None
    error_message: str | None = None
    extra: Mapping[str, Any] | None = None
    record_id: int | None = None


@dataclass(frozen=True, slots=True)
class UsageTotals:
    """Sums over an hour, a day or a month, which `start` names in the relay's time zone.

    `all_tokens` counts tokens of every kind, those of the cache among them.
    """

    start: str
    requests: int
    input_tokens: int
    output_tokens: int
    cache_create_tokens: int
    cache_read_tokens: int
    all_tokens: int
    cost: float


_LARGEST = 2**53


def checked(record: UsageRecord, buckets: Buckets) -> UsageRecord:
    """The record as it is now; raises for what the tables could not hold or add up."""
    _check(record)
    timestamp = _time(record, buckets)
    if record.extra is None:
        return _at(record, timestamp)
    # What its caller changes later is not meant.
    return replace(record, timestamp=timestamp, extra=_Written(_json(record.extra)))


def _at(record: UsageRecord, timestamp: str) -> UsageRecord:
    return record if timestamp == record.timestamp else replace(record, timestamp=timestamp)


def _time(record: UsageRecord, buckets: Buckets) -> str:
    """As times are stored, which are compared as text."""
    timestamp = record.timestamp
    if timestamp is None:
        return utc_now()
    buckets.of(timestamp)
    return timestamp if is_exact(timestamp) else in_utc(timestamp)


def _check(record: UsageRecord) -> None:
    if not isinstance(record, UsageRecord):
        raise InvalidTypeError(f"a UsageRecord is expected, not {type(record).__name__}")
    for name in _COUNTS:
        count = getattr(record, name)
        if type(count) is not int or not -_LARGEST <= count <= _LARGEST:
            raise InvalidTypeError(f"{name} is a whole number below 2**53, not {count!r:.40}")
    if type(record.cost) not in (int, float) or not abs(record.cost) < _LARGEST:
        raise InvalidInputError(f"cost is a number of dollars, not {record.cost!r:.40}")
    if not record.model or not record.api_key_id:
        raise InvalidInputError("a usage record needs the id of an API key and a model")
    for name in _TEXTS:
        _check_text(name, getattr(record, name))
    duration = record.request_duration_ms
    if duration is not None and (type(duration) is not int or abs(duration) > _LARGEST):
        raise InvalidTypeError(f"request_duration_ms is a whole number, not {duration!r:.40}")


class _Written(Mapping[str, Any]):
    """What extra held when it was recorded, as JSON, which is read when it is looked into."""

    __slots__ = ("json",)

    def __init__(self, json: str) -> None:
        self.json = json

    def __getitem__(self, name: str) -> Any:
        return orjson.loads(self.json)[name]

    def __iter__(self) -> Iterator[str]:
        return iter(orjson.loads(self.json))

    def __len__(self) -> int:
        return len(orjson.loads(self.json))


_TEXTS = ("api_key_id", "model", "timestamp", "account_id", "status", "error_message")


def _check_text(name: str, value: Any) -> None:
    if value is None:
        return
    if type(value) is not str:
        raise InvalidTypeError(f"{name} is text, not {type(value).__name__}")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise InvalidInputError(f"{name} holds a lone surrogate, which no text does") from None


def _json(extra: Mapping[str, Any]) -> str:
    if type(extra) is _Written:
        return extra.json
    try:
        return orjson.dumps(dict(extra), default=str).decode()
    except (TypeError, ValueError) as error:
        raise InvalidTypeError(f"extra is what JSON can hold: {error}") from None


def of_entry(api_key_id: str, entry: bytes, buckets: Buckets) -> UsageRecord | None:
    """A record from the relay's JSON; None if it is none, or lacks what the table demands."""
    try:
        fields = orjson.loads(entry)
        known = {column: fields.pop(name) for name, column in _ENTRY.items() if name in fields}
        known = {column: value for column, value in known.items() if value is not None}
        if "status" in known:
            known["status"] = str(known["status"])
        if "timestamp" not in known:  # the time of recording is not known here
            return None
        record = UsageRecord(api_key_id, extra=fields or None, **known)
        _check(record)
        return _at(record, _time(record, buckets))
    except (orjson.JSONDecodeError, AttributeError, TypeError, ValueError):
        return None


def as_entry(record: UsageRecord) -> str:
    """A record as JSON, as the relay would write it; its own fields count, whatever extra says."""
    extra = orjson.loads(_json(record.extra or {}))
    extra = {name: value for name, value in extra.items() if name not in _ENTRY}
    total = {"totalTokens": all_tokens(record)}
    return orjson.dumps({**extra, **_own_fields(record), **total}).decode()


def all_tokens(record: UsageRecord) -> int:
    """Tokens of every kind."""
    return sum(getattr(record, name) for name in _COUNTS)


def _own_fields(record: UsageRecord) -> dict[str, Any]:
    fields = {name: getattr(record, column) for name, column in _ENTRY.items()}
    return {name: value for name, value in fields.items() if value is not None}


def _as_kept(record: UsageRecord) -> str:
    """A record as JSON from which it can be had back as it is: extra is apart."""
    extra = None if record.extra is None else orjson.Fragment(_json(record.extra))
    return orjson.dumps({**_own_fields(record), "extra": extra}).decode()


def _of_kept(api_key_id: str, entry: bytes) -> UsageRecord:
    fields = orjson.loads(entry)
    own = {column: fields[name] for name, column in _ENTRY.items() if name in fields}
    return UsageRecord(api_key_id, extra=fields["extra"], **own)


def insert(conn: sqlite3.Connection, records: Iterable[UsageRecord]) -> None:
    """Store records of API keys that the table has."""
    plain: list[tuple[Any, ...]] = []
    for r in records:
        row = (
            r.api_key_id, r.account_id, r.timestamp, r.model, r.input_tokens, r.output_tokens,
            r.cache_create_tokens, r.cache_read_tokens, r.cost, r.request_duration_ms, r.status,
            r.error_message,
        )  # fmt: skip
        if r.extra is not None and (extra := _json(r.extra)) != "{}":
            id = conn.execute(_INSERT, row).lastrowid
            query = "INSERT INTO usage_extra (usage_id, extra) VALUES (?, ?)"
            conn.execute(query, (id, extra))
        else:
            plain.append(row)
    conn.executemany(_INSERT, plain)


def keep_unplaced(
    conn: sqlite3.Connection, entries: Iterable[tuple[str, str]], *, raises_totals: bool
) -> None:
    """Keep entries that the table refuses: (id of the API key, JSON).

    `raises_totals` says whether the key's totals have yet to rise by them: those that were recorded
    here, and are no entries of the relay's.
    """
    conn.executemany(
        "INSERT INTO usage_unplaced (api_key_id, entry, raises_totals) VALUES (?, ?, ?)",
        [(id, entry, raises_totals) for id, entry in entries],
    )


def place_again(conn: sqlite3.Connection, api_key_id: str, buckets: Buckets) -> None:
    """Move into the table what waited for this API key to be known."""
    query = "SELECT id, entry, raises_totals FROM usage_unplaced WHERE api_key_id = ? ORDER BY id"
    for id, entry, raises_totals in conn.execute(query, (api_key_id,)).fetchall():
        raw = entry.encode()
        record = _of_kept(api_key_id, raw) if raises_totals else of_entry(api_key_id, raw, buckets)
        if record is None:
            continue
        insert(conn, [record])
        if raises_totals:
            _raise_keys(conn, sums_of([record], buckets))
        conn.execute("DELETE FROM usage_unplaced WHERE id = ?", (id,))


# One batch of requests: the records, and every sum they raise, in one transaction.


def store(conn: sqlite3.Connection, records: Sequence[UsageRecord], buckets: Buckets) -> None:
    """Store a batch of new records and raise the totals of keys, accounts and times."""
    ids = {r.api_key_id for r in records}
    known = _known_keys(conn, ids)
    if len(known) == len(ids):
        insert(conn, records)
    else:
        insert(conn, [r for r in records if r.api_key_id in known])
        unknown = [(r.api_key_id, _as_kept(r)) for r in records if r.api_key_id not in known]
        keep_unplaced(conn, unknown, raises_totals=True)
    sums = sums_of(records, buckets)
    _raise_keys(conn, sums)
    _raise_accounts(conn, sums)
    _raise_stats(conn, sums)


def _known_keys(conn: sqlite3.Connection, ids: set[str]) -> set[str]:
    one = "SELECT 1 FROM api_keys WHERE id = ?"
    return {id for id in ids if conn.execute(one, (id,)).fetchone()}


# (API key, account, model, hour) -> requests, four kinds of tokens, cost
_Sums = dict[tuple[str, "str | None", str, tuple[str, str, str]], list[Any]]


def sums_of(records: Sequence[UsageRecord], buckets: Buckets) -> _Sums:
    sums: _Sums = {}
    of = buckets.of_exact
    for r in records:
        group = (r.api_key_id, r.account_id, r.model, of(r.timestamp or ""))
        known = sums.get(group)
        if known is None:
            sums[group] = known = [0, 0, 0, 0, 0, 0.0]
        known[0] += 1
        known[1] += r.input_tokens
        known[2] += r.output_tokens
        known[3] += r.cache_create_tokens
        known[4] += r.cache_read_tokens
        known[5] += r.cost
    return sums


def grouped(sums: _Sums, group: Any) -> dict[Any, list[Any]]:
    """The sums of coarser groups; those that `group` gives None for are left out."""
    coarse: dict[Any, list[Any]] = {}
    for key, values in sums.items():
        name = group(key)
        if name is not None:
            known = coarse.get(name, _NOTHING)
            coarse[name] = [a + b for a, b in zip(known, values, strict=True)]
    return coarse


_NOTHING = (0, 0, 0, 0, 0, 0.0)


def _raise_keys(conn: sqlite3.Connection, sums: _Sums) -> None:
    conn.executemany(
        "UPDATE api_keys SET total_requests = total_requests + ?,"
        " total_tokens = total_tokens + ?, total_input_tokens = total_input_tokens + ?,"
        " total_output_tokens = total_output_tokens + ?,"
        " total_cache_create_tokens = total_cache_create_tokens + ?,"
        " total_cache_read_tokens = total_cache_read_tokens + ?, total_cost = total_cost + ?"
        " WHERE id = ?",
        [
            (n, i + o, i, o, c, r, cost, id)
            for id, (n, i, o, c, r, cost) in grouped(sums, lambda group: group[0]).items()
        ],
    )


def _raise_accounts(conn: sqlite3.Connection, sums: _Sums) -> None:
    conn.executemany(
        "UPDATE accounts SET total_requests = total_requests + ?,"
        " total_tokens = total_tokens + ?, total_input_tokens = total_input_tokens + ?,"
        " total_output_tokens = total_output_tokens + ?, total_cost = total_cost + ?"
        " WHERE id = ?",
        [
            (n, i + o, i, o, cost, id)
            for id, (n, i, o, _, _, cost) in grouped(sums, lambda group: group[1]).items()
        ],
    )


RAISE_STATS = """
INSERT INTO usage_stats (scope, id, period, start, model, requests, input_tokens, output_tokens,
  cache_create_tokens, cache_read_tokens, all_tokens, cost)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT DO UPDATE SET requests = requests + excluded.requests,
  input_tokens = input_tokens + excluded.input_tokens,
  output_tokens = output_tokens + excluded.output_tokens,
  cache_create_tokens = cache_create_tokens + excluded.cache_create_tokens,
  cache_read_tokens = cache_read_tokens + excluded.cache_read_tokens,
  all_tokens = all_tokens + excluded.all_tokens, cost = cost + excluded.cost
"""


def _raise_stats(conn: sqlite3.Connection, sums: _Sums) -> None:
    rows = []
    for scope, which in (("key", 0), ("account", 1)):
        for position, period in enumerate(PERIODS):

            def group(g: Any, which: int = which, position: int = position) -> Any:
                return None if g[which] is None else (g[which], g[3][position], g[2])

            rows += [
                (scope, id, period, start, model, n, i, o, c, r, i + o + c + r, cost)
                for (id, start, model), (n, i, o, c, r, cost) in grouped(sums, group).items()
            ]
    conn.executemany(RAISE_STATS, rows)
