"""Looking back at usage: records and sums of a time, purging, and what the trash keeps of it."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import orjson

from .times import Buckets, utc_text
from .usage import COLUMNS, PERIODS, Period, UsageRecord, UsageTotals, grouped, sums_of


def records(
    conn: sqlite3.Connection,
    wanted: Mapping[str, Any],
    since: datetime | None,
    until: datetime | None,
    limit: int,
    after: int | None,
) -> list[UsageRecord]:
    """The newest records that match, newest first; `after` is the last one of the page before."""
    terms = {f"{column} = ?": value for column, value in wanted.items() if value is not None}
    if since is not None:
        terms["timestamp >= ?"] = utc_text(since)
    if until is not None:
        terms["timestamp < ?"] = utc_text(until)
    where = " AND ".join(terms) or "1"
    values: list[Any] = list(terms.values())
    if after is not None:
        place, key = _behind(conn, after)
        where += f" AND {place}"
        values += key
    query = (
        f"SELECT {COLUMNS}, extra, id FROM usage_records"  # noqa: S608
        f" LEFT JOIN usage_extra ON usage_id = id WHERE {where}"
        " ORDER BY timestamp DESC, id DESC LIMIT ?"
    )
    return [_of_row(row) for row in conn.execute(query, (*values, limit))]


def _behind(conn: sqlite3.Connection, after: int) -> tuple[str, list[Any]]:
    """What comes behind a record: by its time, and once it is deleted by its id, for ids rise."""
    query = "SELECT timestamp FROM usage_records WHERE id = ?"
    found = conn.execute(query, (after,)).fetchone()
    if found is None:
        return "id < ?", [after]
    return "(timestamp, id) < (?, ?)", [found[0], after]


def _of_row(row: tuple[Any, ...]) -> UsageRecord:
    api_key_id, account_id, timestamp, model, *rest = row
    rest[8] = None if rest[8] is None else orjson.loads(rest[8])
    return UsageRecord(api_key_id, model, timestamp, account_id, *rest)


def totals(
    conn: sqlite3.Connection,
    by: Period,
    wanted: Mapping[str, Any],
    since: datetime | None,
    until: datetime | None,
    buckets: Buckets,
) -> list[UsageTotals]:
    """Sums by period, oldest first, of all periods that a time range touches, whole.

    From the sums that are kept, whose records may be gone; an API key and an account together are
    summed from the records, for no such sums are kept.
    """
    if wanted["api_key_id"] is not None and wanted["account_id"] is not None:
        return _summed_records(conn, by, wanted, since, until, buckets)
    scope = "key" if wanted["account_id"] is None else "account"
    terms = {
        "scope = ?": scope,
        "period = ?": by,
        "id = ?": wanted["api_key_id"] or wanted["account_id"],
        "model = ?": wanted["model"],
        "start >= ?": None if since is None else buckets.name(since, by),
        "start <= ?": None if until is None else buckets.name(buckets.last_begin(until, by), by),
    }
    terms = {term: value for term, value in terms.items() if value is not None}
    query = (
        "SELECT start, sum(requests), sum(input_tokens), sum(output_tokens),"  # noqa: S608
        " sum(cache_create_tokens), sum(cache_read_tokens), sum(all_tokens), sum(cost)"
        f" FROM usage_stats WHERE {' AND '.join(terms)} GROUP BY start ORDER BY start"
    )
    return [UsageTotals(*row) for row in conn.execute(query, tuple(terms.values()))]


def _summed_records(
    conn: sqlite3.Connection,
    by: Period,
    wanted: Mapping[str, Any],
    since: datetime | None,
    until: datetime | None,
    buckets: Buckets,
) -> list[UsageTotals]:
    begin = None if since is None else buckets.begin(since, by)
    end = None if until is None else buckets.end(buckets.last_begin(until, by), by)
    found = records(conn, wanted, begin, end, -1, None)
    position = PERIODS.index(by)
    sums = grouped(sums_of(found, buckets), lambda group: group[3][position])
    return [
        UsageTotals(start, n, i, o, c, r, i + o + c + r, cost)
        for start, (n, i, o, c, r, cost) in sorted(sums.items())
    ]


def purge(conn: sqlite3.Connection, before: str, limit: int) -> int:
    """Delete some of the records older than a time, then of those without a place; how many."""
    query = (
        "DELETE FROM usage_records WHERE id IN"
        " (SELECT id FROM usage_records WHERE timestamp < ? LIMIT ?)"
    )
    count = conn.execute(query, (before, limit)).rowcount
    if count < limit:
        query = (
            "DELETE FROM usage_unplaced WHERE id IN"  # noqa: S608
            f" (SELECT id FROM usage_unplaced WHERE {_UNPLACED_TIME} < ? LIMIT ?)"
        )
        count += conn.execute(query, (before, limit - count)).rowcount
    return count


# In UTC, as `utc_text` writes it; nothing for what is no JSON or tells no time.
_UNPLACED_TIME = (
    "strftime('%Y-%m-%dT%H:%M:%fZ',"
    " CASE WHEN json_valid(entry) THEN json_extract(entry, '$.timestamp') END)"
)


def count_older(conn: sqlite3.Connection, before: str) -> int:
    """How many records `purge` would delete."""
    query = (
        "SELECT (SELECT count(*) FROM usage_records WHERE timestamp < :before)"  # noqa: S608
        f" + (SELECT count(*) FROM usage_unplaced WHERE {_UNPLACED_TIME} < :before)"
    )
    return int(conn.execute(query, {"before": before}).fetchone()[0])


def to_trash(conn: sqlite3.Connection, api_key_id: str, now: int) -> None:
    """Copy an API key's records into the trash; deleting the key deletes them."""
    conn.execute(
        f"INSERT INTO trash_usage (removed_at, id, {COLUMNS}, created_at, extra)"  # noqa: S608
        f" SELECT ?, id, {COLUMNS}, created_at, extra FROM usage_records"
        " LEFT JOIN usage_extra ON usage_id = id WHERE api_key_id = ?",
        (now, api_key_id),
    )


def from_trash(conn: sqlite3.Connection, api_key_id: str, after: int) -> None:
    """Bring an API key's records back, under the ids they had: those deleted after then (ms)."""
    both, which = f"id, {COLUMNS}, created_at", "api_key_id = ? AND removed_at > ?"
    conn.execute(
        f"INSERT INTO usage_records ({both})"  # noqa: S608
        f" SELECT {both} FROM trash_usage WHERE {which}",
        (api_key_id, after),
    )
    conn.execute(
        "INSERT INTO usage_extra (usage_id, extra) SELECT id, extra FROM trash_usage"  # noqa: S608
        f" WHERE {which} AND extra IS NOT NULL",
        (api_key_id, after),
    )
    conn.execute(f"DELETE FROM trash_usage WHERE {which}", (api_key_id, after))  # noqa: S608
