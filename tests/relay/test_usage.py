"""Usage: recorded without waiting, summed in the same transaction, read by page and by period."""

# ruff: noqa: F401, F811 - fixtures are imported

from __future__ import annotations

import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from langgraph_sqlite_saver.database import InvalidInputError, InvalidTypeError
from langgraph_sqlite_saver.relay import (
    RelayStore,
    SqliteDisabledError,
    UsageNotStoredError,
    UsageRecord,
)

from .servers import Server, until
from .stores import Face, api_key, at_once, face, open_store, path, query

NOON = "2026-11-21T12:00:00.000Z"
UTC = timezone.utc


@pytest.fixture
def store(open_store: Callable[..., Face], face: str) -> Face:
    """A store without Redis that knows key-1 and two accounts, by each face."""
    store = open_store(None, face)
    store.save_api_key(api_key())
    store.save_account("claude", {"id": "acc-1", "name": "One"})
    store.save_account("ccr", {"id": "acc-2", "name": "Two"})
    return store


def used(id: str = "key-1", model: str = "m", timestamp: str = NOON, **fields: Any) -> UsageRecord:
    return UsageRecord(id, model, timestamp=timestamp, **fields)


def costs(found: list[UsageRecord]) -> list[float]:
    return [record.cost for record in found]


@contextmanager
def locked(path: Any) -> Iterator[None]:
    """Another program holds the file's write lock."""
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield


# Recording.


def test_recorded_usage_is_read_as_it_was_given(store: Face) -> None:
    """Every field, extra ones of any depth among them."""
    record = used(
        account_id="acc-1", input_tokens=1, output_tokens=2, cache_create_tokens=3,
        cache_read_tokens=4, cost=0.5, request_duration_ms=17, status="200",
        error_message="none", extra={"realCost": 0.25, "costBreakdown": {"a": [1, None]}},
    )  # fmt: skip
    store.record_usage(record, wait=True)
    (found,) = store.usage()
    assert found == UsageRecord(
        **{name: getattr(record, name) for name in record.__slots__}
        | {"record_id": found.record_id}
    )
    assert found.record_id is not None


def test_usage_without_a_time_has_that_of_recording(store: Face) -> None:
    """In UTC with milliseconds, as the relay writes it."""
    before = datetime.now(UTC)
    store.record_usage(UsageRecord("key-1", "m"), wait=True)
    (found,) = store.usage()
    assert found.timestamp is not None and found.timestamp.endswith("Z")
    when = datetime.fromisoformat(found.timestamp[:-1] + "+00:00")
    assert before - timedelta(seconds=1) < when <= datetime.now(UTC)


def test_flush_puts_all_on_disk(open_store: Callable[..., Face], face: str) -> None:
    """Before it nothing needs to be there, after it everything is."""
    store = open_store(None, face, flush_interval=60)
    store.save_api_key(api_key())
    store.record_usages([used(cost=n) for n in range(5)])
    store.record_usage(used(cost=5))
    assert store.query("SELECT count(*) FROM usage_records") == [(0,)]
    store.flush()
    assert costs(store.usage()) == [5, 4, 3, 2, 1, 0]


def test_usage_reaches_the_disk_by_itself(store: Face) -> None:
    """After the interval."""
    store.record_usage(used())
    until(lambda: store.query("SELECT count(*) FROM usage_records") == [(1,)], "the record")


def test_closing_stores_what_waits(open_store: Callable[..., Face], face: str) -> None:
    """Nothing that was recorded is lost."""
    store = open_store(None, face, flush_interval=60)
    store.save_api_key(api_key())
    store.record_usages([used()] * 7)
    store.shut()
    assert store.query("SELECT count(*) FROM usage_records") == [(7,)]


def test_many_callers_lose_nothing(store: Face) -> None:
    """Records of all of them are there, and counted once."""
    at_once(8, lambda n: [store.record_usage(used(cost=1)) for _ in range(50)])
    store.flush()
    assert store.query("SELECT count(*), sum(cost) FROM usage_records") == [(400, 400.0)]
    assert store.query("SELECT total_requests, total_cost FROM api_keys") == [(400, 400.0)]


@pytest.mark.parametrize(
    "record",
    [
        used(input_tokens=1.5),
        used(input_tokens="1"),
        used(output_tokens=True),
        used(cache_read_tokens=2**53 + 1),
        used(cost=float("nan")),
        used(cost=float("inf")),
        used(cost="1"),
        used(timestamp="yesterday"),
        used(timestamp="yesterdayZ"),
        used(model=""),
        used(id=""),
        used(model=None),
        used(model="\ud800"),
        used(extra={"a": object, "\ud800": 1}),
        "no record",
    ],
)
def test_record_that_cannot_be_stored_is_refused(store: Face, record: Any) -> None:
    """At once, and those beside it stay out too."""
    with pytest.raises((InvalidInputError, InvalidTypeError)):
        store.record_usages([used(), record])
    store.flush()
    assert store.usage() == []


def test_usage_of_an_unknown_key_waits_for_it(store: Face) -> None:
    """It raises the totals once the key is saved, and sums at once."""
    store.record_usage(used("later", cost=2, input_tokens=3, extra={"a": 1}), wait=True)
    assert store.usage() == []
    assert costs_of_day(store) == [2]
    store.save_api_key(api_key("later"))
    (found,) = store.usage(api_key_id="later")
    assert (found.cost, found.extra and found.extra["a"]) == (2, 1)
    read = "SELECT total_requests, total_input_tokens, total_cost FROM api_keys WHERE id = 'later'"
    assert store.query(read) == [(1, 3, 2.0)]
    assert costs_of_day(store) == [2]
    assert store.stats()["unplacedUsageCount"] == 0


@pytest.mark.parametrize(
    "extra",
    [
        {"cost": 99.0, "inputTokens": 7, "model": "other", "note": "n"},
        {"timestamp": None, "outputTokens": "12", "statusCode": 500},
        {"timestamp": "some time", "accountId": "acc-2", "totalTokens": 1},
        {"model": "", "extra": {"cost": 2}, "errorMessage": "none"},
        {"api_key_id": "key-1", "durationMs": None},
        None,
    ],
)
def test_usage_of_an_unknown_key_stays_what_it_is(store: Face, extra: Any) -> None:
    """Whatever extra names, and as with a key that is known."""
    for id in ("key-1", "later"):
        store.record_usage(used(id, cost=1.5, input_tokens=5, extra=extra), wait=True)
    store.save_api_key(api_key("later"))
    for id in ("key-1", "later"):
        (found,) = store.usage(api_key_id=id)
        assert found == used(id, cost=1.5, input_tokens=5, extra=extra, record_id=found.record_id)
    read = "SELECT total_requests, total_cost, total_input_tokens FROM api_keys ORDER BY id"
    assert store.query(read) == [(1, 1.5, 5)] * 2


def costs_of_day(store: Face) -> list[float]:
    return [each.cost for each in store.usage_totals(by="day")]


def test_usage_of_a_forked_child_is_stored_once(path: Any) -> None:
    """The child stores what it recorded, and the parent what waited before."""
    code = """
        import os, sys
        from langgraph_sqlite_saver.relay import RelayStore, UsageRecord
        store = RelayStore(sys.argv[1], None, flush_interval=60)
        store.save_api_key({"id": "key-1", "name": "n"})
        store.record_usages([UsageRecord("key-1", "parent")] * 3)
        child = os.fork()
        store.record_usage(UsageRecord("key-1", "parent" if child else "child"))
        if child:
            os.waitpid(child, 0)
            store.close()
        else:
            store.flush()
        """
    lines = [line[8:] for line in code.splitlines()]
    command = [sys.executable, "-W", "ignore", "-c", "\n".join(lines), str(path)]
    subprocess.run(command, check=True, timeout=60)
    read = "SELECT model, count(*) FROM usage_records GROUP BY model ORDER BY model"
    assert query(path, read) == [("child", 1), ("parent", 4)]


# A queue that is full, and a file that refuses.


def test_full_queue_makes_callers_wait(open_store: Callable[..., Face], face: str) -> None:
    """While the file is locked no more than its size is taken; then all is stored."""
    store = open_store(None, face, queue_size=10)
    store.save_api_key(api_key())
    taken: list[int] = []

    def record() -> None:
        for n in range(25):
            store.record_usage(used(cost=n))
            taken.append(n)

    caller = threading.Thread(target=record)
    with locked(store.path):
        caller.start()
        until(lambda: len(taken) >= 10, "the queue to fill")
        time.sleep(0.1)
        assert len(taken) == 10
    caller.join(30)
    store.flush()
    assert store.query("SELECT count(*), sum(cost) FROM usage_records") == [(25, 300.0)]


def test_refused_usage_is_told_and_kept(open_store: Callable[..., Face], face: str) -> None:
    """Those who wait for it are told why; once the file works again it is all there."""
    store = open_store(None, face, lock_timeout=0.05, queue_size=3)
    store.save_api_key(api_key())
    with locked(store.path):
        with pytest.raises(UsageNotStoredError, match="lock"):
            store.record_usage(used(cost=1), wait=True)
        store.record_usages([used(cost=2), used(cost=4)])
        with pytest.raises(UsageNotStoredError):
            store.flush()
        with pytest.raises(UsageNotStoredError):
            store.record_usage(used(cost=8))
    store.flush()
    assert costs(store.usage()) == [4, 2, 1]
    assert store.query("SELECT total_requests, total_cost FROM api_keys") == [(3, 7.0)]


def test_closing_tells_what_could_not_be_stored(path: Any) -> None:
    """The error says how many records that are."""
    store = RelayStore(path, None, lock_timeout=0.05)
    store.open()
    with locked(path):
        store.record_usages([used()] * 3)
        with pytest.raises(UsageNotStoredError, match="3 usage records"):
            store.close()


# Reading.


def test_usage_is_filtered(store: Face) -> None:
    """By key, account, model and time, and by several of them."""
    store.save_api_key(api_key("key-2"))
    store.record_usages(
        [
            used(cost=1, account_id="acc-1", timestamp="2026-11-20T00:00:00.000Z"),
            used(cost=2, account_id="acc-2", timestamp="2026-11-21T00:00:00.000Z"),
            used("key-2", "n", cost=3, account_id="acc-1", timestamp="2026-11-22T00:00:00.000Z"),
            used("key-2", cost=4, timestamp="2026-11-23T00:00:00.000Z"),
        ],
        wait=True,
    )
    second, third = (datetime(2026, 11, day, tzinfo=UTC) for day in (21, 22))
    assert costs(store.usage()) == [4, 3, 2, 1]
    assert costs(store.usage(api_key_id="key-2")) == [4, 3]
    assert costs(store.usage(account_id="acc-1")) == [3, 1]
    assert costs(store.usage(model="n")) == [3]
    assert costs(store.usage(since=second)) == [4, 3, 2]
    assert costs(store.usage(until=third)) == [2, 1]
    assert costs(store.usage(since=second, until=third)) == [2]
    assert costs(store.usage(account_id="acc-1", model="m", until=third)) == [1]
    assert store.usage(api_key_id="nobody") == []


def test_range_holds_for_times_of_any_zone(store: Face) -> None:
    """A time is what it stands for, not its text."""
    store.record_usage(used(timestamp="2026-11-21T20:00:00.000+08:00"), wait=True)  # noon, UTC
    noon = datetime(2026, 11, 21, 12, tzinfo=UTC)
    assert len(store.usage(since=noon, until=noon + timedelta(hours=1))) == 1
    assert store.usage(since=noon + timedelta(hours=1)) == []
    assert [each.start for each in store.usage_totals(by="hour")] == ["2026-11-21T20"]
    assert store.purge_usage(noon + timedelta(hours=1), dry_run=True) == 1


@pytest.mark.parametrize(
    "timestamp", ["2026-11-21T20:99:99 no time Z", "2026-11-21T20:00:60.000Z", "2026-11-21T20Z\n"]
)
def test_time_that_begins_like_a_known_one_is_looked_at(store: Face, timestamp: str) -> None:
    """All of it, and not its hour alone."""
    store.record_usage(used(timestamp="2026-11-21T20:00:00.000Z"), wait=True)
    with pytest.raises(InvalidInputError, match="ISO 8601"):
        store.record_usage(used(timestamp=timestamp))


@pytest.mark.parametrize(
    "timestamp",
    [
        "2026-11-21T12:00:00Z",
        "2026-11-21T12:00:00.000000Z",
        "2026-11-21T12:00:00",
        "2026-11-21 12:00Z",
    ],
)
def test_times_are_stored_as_the_relay_writes_them(store: Face, timestamp: str) -> None:
    """So that they can be compared as text."""
    store.record_usage(used(timestamp=timestamp), wait=True)
    assert [record.timestamp for record in store.usage()] == [NOON]


def test_page_goes_on_where_a_deleted_record_was(store: Face) -> None:
    """The records behind it are there, each once."""
    store.save_api_key(api_key("key-2"))
    ids = ["key-1", "key-2"] * 3
    times = [f"2026-11-21T10:0{n}:00.000Z" for n in range(6)]
    store.record_usages([used(id, timestamp=t) for id, t in zip(ids, times, strict=True)])
    store.flush()
    cursor = store.usage(limit=2)[-1]
    assert cursor.timestamp == times[4]
    store.delete_api_key(cursor.api_key_id)
    page = store.usage(after=cursor.record_id)
    assert [record.timestamp for record in page] == [times[3], times[1]]


def test_pages_have_no_gap_and_no_repeat(store: Face) -> None:
    """Newest first, also among equal times and where records come in between."""
    times = [f"2026-11-21T00:00:{n % 3:02}.000Z" for n in range(23)]
    store.record_usages([used(timestamp=t, cost=n) for n, t in enumerate(times)], wait=True)
    found: list[UsageRecord] = []
    while page := store.usage(limit=5, after=found[-1].record_id if found else None):
        found += page
        newer = used(timestamp="2026-11-22T00:00:00.000Z", cost=99)
        store.record_usage(newer, wait=True)
    assert costs(found) == sorted(range(23), key=lambda n: (times[n], n), reverse=True)


def test_totals_by_period_are_in_the_relays_zone(
    open_store: Callable[..., Face], face: str
) -> None:
    """A request late in the day UTC is one of the next day at +8."""
    store = open_store(None, face, timezone_offset=8)
    store.save_api_key(api_key())
    for when in ("2026-10-31T15:59:59.999Z", "2026-10-31T16:00:00.000Z", "2026-10-31T17:00:00Z"):
        store.record_usage(used(timestamp=when, cost=1, input_tokens=2, cache_read_tokens=3))
    store.flush()

    def starts(by: str) -> list[tuple[str, int]]:
        return [(each.start, each.requests) for each in store.usage_totals(by=by)]

    assert starts("hour") == [("2026-10-31T23", 1), ("2026-11-01T00", 1), ("2026-11-01T01", 1)]
    assert starts("day") == [("2026-10-31", 1), ("2026-11-01", 2)]
    assert starts("month") == [("2026-10", 1), ("2026-11", 2)]
    (_, last) = store.usage_totals(by="month")
    assert (last.input_tokens, last.cache_read_tokens, last.all_tokens, last.cost) == (4, 6, 10, 2)


def test_zone_may_be_half_an_hour_off(open_store: Callable[..., Face]) -> None:
    """As India's."""
    store = open_store(None, timezone_offset=5.5)
    store.save_api_key(api_key())
    for when in ("2026-11-21T18:29:59.000Z", "2026-11-21T18:30:00.000Z"):
        store.record_usage(used(timestamp=when), wait=True)
    days = store.usage_totals(by="day")
    assert [each.start for each in days] == ["2026-11-21", "2026-11-22"]


def test_totals_are_filtered(store: Face) -> None:
    """By key, account, both, model, and the periods that a range touches."""
    store.save_api_key(api_key("key-2"))
    store.record_usages(
        [
            used(cost=1, account_id="acc-1", timestamp="2026-11-20T00:00:00.000Z"),
            used(cost=2, account_id="acc-2", timestamp="2026-11-21T00:00:00.000Z"),
            used("key-2", "n", cost=4, account_id="acc-1", timestamp="2026-11-21T00:00:00.000Z"),
        ],
        wait=True,
    )

    def sums(**wanted: Any) -> list[float]:
        return [each.cost for each in store.usage_totals(**wanted)]

    assert sums() == [1, 6]
    assert sums(api_key_id="key-1") == [1, 2]
    assert sums(account_id="acc-1") == [1, 4]
    assert sums(api_key_id="key-1", account_id="acc-1") == [1]
    assert sums(model="n") == [4]
    assert sums(since=datetime(2026, 11, 21, tzinfo=UTC)) == [6]
    assert sums(until=datetime(2026, 11, 20, 16, tzinfo=UTC)) == [1]
    assert sums(until=datetime(2026, 11, 20, 16, 0, 1, tzinfo=UTC)) == [1, 6]
    with pytest.raises(InvalidInputError, match="'hour', 'day' or 'month'"):
        store.usage_totals(by="year")


@pytest.mark.parametrize("by", ["hour", "day", "month"])
def test_totals_up_to_now_have_the_period_that_lasts(store: Face, by: str) -> None:
    """Also those of a key and an account together."""
    store.record_usage(
        used(timestamp="2026-11-21T10:10:00.000Z", cost=1, account_id="acc-1"), wait=True
    )
    month, now = datetime(2026, 11, 1, tzinfo=UTC), datetime(2026, 11, 21, 10, 30, tzinfo=UTC)
    for account in ({}, {"account_id": "acc-1"}):
        wanted = {"api_key_id": "key-1", **account}
        for since in (month, now - timedelta(minutes=5), None):
            (found,) = store.usage_totals(by=by, since=since, until=now, **wanted)
            assert found.requests == 1


@pytest.mark.parametrize("offset", [8, 5.5, -3])
def test_totals_have_whole_periods_however_they_are_summed(
    open_store: Callable[..., Face], offset: float
) -> None:
    """Those that began before the range ends and end after it begins."""
    store = open_store(None, timezone_offset=offset)
    store.save_api_key(api_key())
    begin, minute = datetime(2026, 10, 31, 12, tzinfo=UTC), timedelta(minutes=1)
    zone = timezone(timedelta(hours=offset))
    names = [(begin + n * minute).astimezone(zone).isoformat() for n in range(2000)]
    for n in range(0, 2000, 25):
        when = (begin + n * minute).isoformat()
        store.record_usage(used(timestamp=when, account_id="acc", input_tokens=n))
    store.flush()
    for first, last in [(0, 1976), (0, 1), (90, 130), (200, 230), (240, 480), (700, 1975)]:
        wanted = {"since": begin + first * minute, "until": begin + last * minute}
        for by, length in (("hour", 13), ("day", 10), ("month", 7)):
            kept = store.usage_totals(by=by, api_key_id="key-1", **wanted)
            assert kept == store.usage_totals(by=by, api_key_id="key-1", account_id="acc", **wanted)
            touched = {name[:length] for name in names[first:last]}
            assert [each.start for each in kept] == sorted(touched)


def test_range_that_time_cannot_tell_is_refused(store: Face) -> None:
    """By an error that says so."""
    for account in ({}, {"account_id": "acc-1"}):
        for edge in ({"since": datetime.min}, {"until": datetime.min.replace(tzinfo=UTC)}):
            zone = {
                name: when.replace(tzinfo=timezone(timedelta(hours=9)))
                for name, when in edge.items()
            }
            with pytest.raises(InvalidInputError, match="time of this age"):
                store.usage_totals(api_key_id="key-1", **account, **zone)


def test_old_usage_is_purged_and_totals_stay(store: Face) -> None:
    """What is older than a time or an age, counted by a dry run."""
    store.record_usages([used(cost=1, timestamp="2020-01-01T00:00:00.000Z", extra={"a": 1})] * 3)
    store.record_usage(used(cost=1, timestamp="2021-01-01T00:00:00.000Z"))
    store.record_usage(UsageRecord("key-1", "m", cost=1), wait=True)
    assert store.purge_usage(datetime(2020, 6, 1, tzinfo=UTC), dry_run=True) == 3
    assert len(store.usage()) == 5
    assert store.purge_usage(datetime(2020, 6, 1, tzinfo=UTC)) == 3
    assert store.query("SELECT count(*) FROM usage_extra") == [(0,)]
    assert store.purge_usage(timedelta(days=30)) == 1
    assert store.purge_usage(timedelta(days=30)) == 0
    assert len(store.usage()) == 1
    assert store.query("SELECT total_requests, total_cost FROM api_keys") == [(5, 5.0)]
    assert sum(each.requests for each in store.usage_totals(by="month")) == 5


def test_old_usage_without_a_place_is_purged_too(
    open_store: Callable[..., Face], redis_server: Server
) -> None:
    """By the time that it tells; what tells none stays."""
    old = "2020-01-01T00:00:00.000Z"
    entries = ["no JSON", "{}", f'{{"timestamp": "{old}"}}', f'{{"timestamp": "{NOON}"}}']
    redis_server.client().rpush("usage:records:gone", *entries)
    store = open_store(redis_server)
    store.import_from_redis()
    store.record_usages([used("gone", timestamp=old), used("gone")], wait=True)
    store.save_api_key(api_key())
    store.record_usage(used(timestamp=old), wait=True)
    limit = datetime(2021, 1, 1, tzinfo=UTC)
    assert store.purge_usage(limit, dry_run=True) == 3
    assert store.purge_usage(limit) == 3
    assert store.purge_usage(limit) == 0
    left = store.query("SELECT entry FROM usage_unplaced ORDER BY entry")
    assert [entry[:28] for (entry,) in left] == [
        *sorted(["no JSON", "{}", entries[3][:28], f'{{"timestamp":"{NOON}"}}'[:28]])
    ]


@pytest.mark.parametrize("age", [timedelta(seconds=-1), 30, "2020"])
def test_purge_needs_an_age_or_a_time(store: Face, age: Any) -> None:
    """Nothing is deleted by mistake."""
    with pytest.raises((InvalidInputError, InvalidTypeError)):
        store.purge_usage(age)


# Sums and records agree.

COUNTS = st.integers(0, 1000)
RECORDS = st.builds(
    UsageRecord,
    st.sampled_from(["key-1", "key-2", "later"]),
    st.sampled_from(["m", "n:1[1m]"]),
    timestamp=st.datetimes(datetime(2026, 10, 30), datetime(2026, 11, 2)).map(
        lambda when: when.isoformat(timespec="milliseconds") + "Z"
    ),
    account_id=st.sampled_from([None, "acc-1", "unknown"]),
    input_tokens=COUNTS,
    output_tokens=COUNTS,
    cache_create_tokens=COUNTS,
    cache_read_tokens=COUNTS,
    cost=st.integers(0, 1000).map(lambda n: n / 4),
    extra=st.none() | st.just({"a": 1}),
)
SUMS = "count(*), sum(input_tokens), sum(output_tokens), sum(cost)"


@settings(max_examples=25)
@given(batches=st.lists(st.lists(RECORDS, max_size=12), min_size=1, max_size=3), later=st.data())
def test_sums_agree_with_the_records(
    tmp_path_factory: pytest.TempPathFactory, batches: list[list[UsageRecord]], later: Any
) -> None:
    """Of keys, accounts and every period, whatever is recorded, and whenever a key comes."""
    path = tmp_path_factory.mktemp("sums") / "relay.db"
    with RelayStore(path, None) as store:
        store.save_account("claude", {"id": "acc-1", "name": ""})
        for id in ("key-1", "key-2"):
            store.save_api_key(api_key(id))
        for batch in batches:
            store.record_usages(batch, wait=True)
            if later.draw(st.booleans()):
                store.save_api_key(api_key("later"))
        store.save_api_key(api_key("later"))
        hours = [each.requests for each in store.usage_totals(by="hour")]
    everything = [record for batch in batches for record in batch]
    assert query(path, "SELECT count(*) FROM usage_records") == [(len(everything),)]
    assert sum(hours) == len(everything)
    for table, column in (("api_keys", "api_key_id"), ("accounts", "account_id")):
        totals = "total_requests, total_input_tokens, total_output_tokens, total_cost"
        rows = query(path, f"SELECT id, {totals} FROM {table} WHERE total_requests ORDER BY id")
        wanted = f"SELECT {column}, {SUMS} FROM usage_records WHERE {column} IS NOT NULL"
        known = f" AND {column} IN (SELECT id FROM {table}) GROUP BY 1 ORDER BY 1"
        assert rows == query(path, wanted + known)
    for scope, column in (("key", "api_key_id"), ("account", "account_id")):
        for period in ("hour", "day", "month"):
            found = query(
                path,
                "SELECT id, model, sum(requests), sum(input_tokens), sum(output_tokens), sum(cost)"
                " FROM usage_stats WHERE scope = ? AND period = ? GROUP BY 1, 2 ORDER BY 1, 2",
                scope,
                period,
            )
            wanted = f"SELECT {column}, model, {SUMS} FROM usage_records"
            assert found == query(path, f"{wanted} WHERE {column} NOT NULL GROUP BY 1, 2")
