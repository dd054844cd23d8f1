"""Processes and servers that die between the two commits: SQLite and Redis agree again.

A kill is not a power cut: what was written is in the operating system's hands, which keeps it.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from database.helpers import check_integrity, in_thread, outcome, outside, wait_until

from langgraph_sqlite_saver.relay import RelayStore
from langgraph_sqlite_saver.relay import store as relay_store

from .servers import Server, until
from .worker import (
    ACCOUNT,
    GO_ON,
    KEY,
    POINTS,
    STEPS,
    STOPPED,
    WORKERS,
    Crew,
    Model,
    Op,
    Task,
    apply,
    assert_in_step,
    delete,
    fields_at,
    program,
    records_in_redis,
    records_in_sqlite,
    redis_key,
    save,
    waiting,
)

SOAK = os.environ.get("HYPOTHESIS_PROFILE") == "soak"
KILLS = 500 if SOAK else 50
SIGKILLED = -9
FACES = pytest.mark.parametrize("awaited", [False, True], ids=["sync", "async"])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the relay's file is: alone in its directory."""
    (tmp_path / "data").mkdir()
    return tmp_path / "data" / "relay.db"


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """A store looks at Redis often, so that nobody waits for it here."""
    monkeypatch.setattr(relay_store, "_WATCH", 0.02)


@pytest.fixture(scope="module")
def crew() -> Iterator[Crew]:
    """Starts the processes."""
    with Crew() as crew:
        yield crew


@pytest.fixture
def task(path: Path, redis_server: Server, tmp_path: Path) -> Callable[..., Task]:
    """Makes tasks on the test's file and server, each with notes of its own."""
    numbers = iter(range(10**6))

    def make(job: str, **options: Any) -> Task:
        notes = str(tmp_path / f"notes {next(numbers)}")
        return Task(job, str(path), redis_server.url, notes, **options)

    return make


def chance_of_this_run() -> tuple[random.Random, int]:
    """Of the programs and the moments; CRASH_SEED repeats those of another run."""
    seed = int(os.environ.get("CRASH_SEED") or random.SystemRandom().randrange(10**6))
    print(f"CRASH_SEED={seed}")
    return random.Random(seed), seed


def noted(task: Task) -> list[int]:
    """The workers whose operations returned, in order."""
    notes = Path(task.notes)
    return list(notes.read_bytes()) if notes.exists() else []


def assume_the_dead(path: Path) -> None:
    """As if so much time had passed that no call can still be at work."""
    outside(path, "UPDATE outbox SET due_at = 0")


# Killed at any moment.


def kill_after(crew: Crew, task: Task, operations: int, seconds: float) -> None:
    """Start a process, and kill it some seconds after so many of its operations have returned.

    Operations are counted and not time: on a busy machine it gets little done in a moment.
    """
    pid = crew.start(task)
    wait_until(lambda: len(noted(task)) >= operations)
    time.sleep(seconds)
    assert crew.kill(pid) == SIGKILLED


def whole_or_absent(task: Task, found: Model) -> Model:
    """What returned is found, and of the one call under way all or nothing; what it comes to."""
    model: Model = {}
    returned = noted(task)
    for number in range(WORKERS):
        ops = program(task.seed, number)
        own: Model = {}
        for op in islice(ops, returned.count(number)):
            apply(op, own)
        under_way = next(ops)
        seen = {p: fields for p, fields in found.items() if own_to(task, number, p)}
        if seen != own:
            apply(under_way, own)
            assert seen == own, (number, returned.count(number), under_way)
        model |= own
    return model


def own_to(task: Task, number: int, place: tuple[str, str]) -> bool:
    return place[1].startswith(f"{task.seed}-{number}-")


@FACES
def test_a_killed_process_leaves_sqlite_and_redis_in_step_for_the_next_one(
    awaited: bool, crew: Crew, task: Callable[..., Task], path: Path, redis_server: Server
) -> None:
    """Again and again on one file: what returned is in both, what was deleted in neither."""
    chance, seed = chance_of_this_run()
    model: Model = {}
    client = redis_server.client()
    with RelayStore(path, redis_server.url):
        pass
    for number in range(KILLS // 2):
        doomed = task("work", seed=seed + number, awaited=awaited)
        kill_after(crew, doomed, chance.randrange(1, 40), chance.uniform(0, 0.005))
        with RelayStore(path, redis_server.url) as store:
            model |= whole_or_absent(doomed, records_in_sqlite(store))
            assert_in_step(store, client, model)
        check_integrity(path)
    assume_the_dead(path)
    with RelayStore(path, redis_server.url) as store:
        wait_until(lambda: waiting(path) == 0)
        assert_in_step(store, client, model)


# Killed at a point.


def prepare(name: str, path: Path, server: Server) -> tuple[Model, Op]:
    """What is there before a step, as stored; and the step."""
    before, op = STEPS[name]
    model: Model = {}
    with RelayStore(path, server.url) as store:
        for each in before:
            getattr(store, each.name)(*each.arguments, **each.options)
            apply(each, model)
    if op.name.startswith("get"):
        server.client().delete(redis_key(op.place))
    return model, op


@FACES
@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("name", STEPS)
def test_what_was_committed_reaches_redis_though_its_process_died(
    name: str,
    point: str,
    awaited: bool,
    crew: Crew,
    task: Callable[..., Task],
    path: Path,
    redis_server: Server,
) -> None:
    """Before Redis was told of it, in the middle, or before that was noted: at the next start."""
    model, op = prepare(name, path, redis_server)
    pid = crew.start(task("step", op=name, point=point, then="die", awaited=awaited))
    assert crew.ended(pid) == SIGKILLED
    assert waiting(path) == 1
    apply(op, model)
    with RelayStore(path, redis_server.url) as store:
        assert_in_step(store, redis_server.client(), model)
        assume_the_dead(path)
        wait_until(lambda: waiting(path) == 0)
        assert_in_step(store, redis_server.client(), model)
    check_integrity(path)


@pytest.mark.parametrize("name", ["a changed key", "a deleted key", "a key put back"])
def test_a_running_process_takes_over_what_a_dead_one_left(
    name: str, crew: Crew, task: Callable[..., Task], path: Path, redis_server: Server
) -> None:
    """Once the dead one's call can no longer be at work; nobody needs to start or to call."""
    model, op = prepare(name, path, redis_server)
    with RelayStore(path, redis_server.url) as store:
        pid = crew.start(task("step", op=name, point="committed", then="die"))
        assert crew.ended(pid) == SIGKILLED
        assume_the_dead(path)
        wait_until(lambda: waiting(path) == 0)
        apply(op, model)
        assert_in_step(store, redis_server.client(), model)


def test_a_change_that_a_call_is_at_work_on_is_not_taken_for_left_over(
    crew: Crew, task: Callable[..., Task], path: Path, redis_server: Server
) -> None:
    """Another process that starts tells Redis of it, and leaves the note to the call."""
    model, op = prepare("a changed key", path, redis_server)
    slow = task("step", op="a changed key", point="committed", then="stop")
    pid = crew.start(slow)
    wait_until(Path(slow.notes + STOPPED).exists)
    apply(op, model)
    with RelayStore(path, redis_server.url) as store:
        assert_in_step(store, redis_server.client(), model)
        assert waiting(path) == 1
    Path(slow.notes + GO_ON).touch()
    assert crew.ended(pid) == 0
    assert waiting(path) == 0


def test_all_that_waits_reaches_redis_at_the_start(path: Path, redis_server: Server) -> None:
    """However much a process left, of which none is old enough to be taken for left over."""
    model: Model = {}
    with RelayStore(path, redis_server.url) as store:
        for n in range(450):
            place = ("api_key", f"key {n:03}")
            store.save_api_key(fields_at(place, 1))
    with RelayStore(path, None, heal=False) as store:  # it does not reach Redis
        for n in range(450):
            op = save(("api_key", f"key {n:03}"), fields_at(("api_key", f"key {n:03}"), 2))
            store.save_api_key(*op.arguments)
            apply(op, model)
    assert waiting(path) == 450
    with RelayStore(path, redis_server.url) as store:
        assert store.get_api_key("key 449") == model["api_key", "key 449"]
        assert_in_step(store, redis_server.client(), model)


def test_what_an_earlier_process_left_reaches_a_redis_that_hung_at_the_start(
    path: Path, redis_server: Server
) -> None:
    """As soon as it answers, however young; until then nobody reads the older state there."""
    with RelayStore(path, redis_server.url) as store:
        store.save_api_key(fields_at(KEY, 1))
    redis_server.pause()
    with RelayStore(path, redis_server.url, socket_timeout=0.1) as store:
        store.save_api_key(fields_at(KEY, 2))
    with RelayStore(path, redis_server.url, socket_timeout=0.1) as store:
        assert store.get_api_key(KEY[1]) == fields_at(KEY, 2)
        redis_server.resume()
        until(lambda: store.diff() == [], "Redis to be told", 10)
        assert store.get_api_key(KEY[1]) == fields_at(KEY, 2)
        assert_in_step(store, redis_server.client(), {KEY: fields_at(KEY, 2)})


# The order of two processes.


@FACES
@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("end", ["goes on", "dies"])
@pytest.mark.parametrize(
    ("slow", "quick"),
    [
        ("a changed key", save(KEY, fields_at(KEY, 14))),
        ("a changed key", delete(KEY)),
        ("a new key", save(KEY, fields_at(KEY, 14, isDeleted="true", isActive="false"))),
        ("a deleted key", save(KEY, fields_at(KEY, 14))),
        ("a key put back", delete(KEY)),
        ("a key put back", save(KEY, fields_at(KEY, 14))),
        ("a changed account", save(ACCOUNT, fields_at(ACCOUNT, 13))),
        ("a deleted account", save(ACCOUNT, fields_at(ACCOUNT, 13))),
    ],
)
def test_redis_ends_with_the_change_that_was_committed_last(
    slow: str,
    quick: Op,
    end: str,
    point: str,
    awaited: bool,
    crew: Crew,
    task: Callable[..., Task],
    path: Path,
    redis_server: Server,
) -> None:
    """Though a process that committed before tells Redis later, or dies having told it."""
    model, op = prepare(slow, path, redis_server)
    late = task("step", op=slow, point=point, then="stop", awaited=awaited)
    pid = crew.start(late)
    wait_until(Path(late.notes + STOPPED).exists)
    apply(op, model)
    with RelayStore(path, redis_server.url, heal=False) as store:
        getattr(store, quick.name)(*quick.arguments)
    apply(quick, model)
    if end == "goes on":
        Path(late.notes + GO_ON).touch()
        assert crew.ended(pid) == 0
        assert waiting(path) == 0
    else:
        assert crew.kill(pid) == SIGKILLED
    with RelayStore(path, redis_server.url, heal=end == "dies") as store:
        assert_in_step(store, redis_server.client(), model)


# Redis dies.


def test_a_redis_that_dies_under_load_is_given_all_of_it_when_it_is_back(
    path: Path, fresh_server: Server
) -> None:
    """Every call succeeds, and without a further one the empty Redis comes to have everything."""
    stop = threading.Event()

    def keep_working(store: RelayStore, number: int) -> Model:
        model: Model = {}
        for op in program(7, number):
            if stop.is_set():
                return model
            getattr(store, op.name)(*op.arguments, **op.options)
            apply(op, model)
        raise AssertionError

    with RelayStore(path, fresh_server.url) as store:
        futures = [in_thread(keep_working, store, number) for number in range(4)]
        for _ in range(2):
            time.sleep(0.3)
            fresh_server.kill()
            time.sleep(0.3)
            fresh_server.start()
        time.sleep(0.1)
        stop.set()
        model: Model = {}
        for future in futures:
            found = outcome(future)
            assert isinstance(found, dict), found
            model |= found
        client = fresh_server.client()
        wait_until(lambda: records_in_redis(client, model) == model and waiting(path) == 0)
        wait_until(lambda: store.diff() == [])
        assert_in_step(store, client, model)
    check_integrity(path)


def test_a_redis_that_was_emptied_is_filled_though_something_was_saved_since(
    path: Path, redis_server: Server
) -> None:
    """It is not empty any more when the store looks at it next."""
    model: Model = {}
    with RelayStore(path, redis_server.url) as store:
        for n in range(5):
            op = save(("api_key", f"key {n}"), fields_at(("api_key", f"key {n}"), n))
            store.save_api_key(*op.arguments)
            apply(op, model)
        client = redis_server.client()
        client.flushall()
        op = save(ACCOUNT, fields_at(ACCOUNT, 1))
        store.save_account(*op.arguments)
        apply(op, model)
        wait_until(lambda: records_in_redis(client, model) == model)
        wait_until(lambda: store.diff() == [])
        assert_in_step(store, client, model)


# Usage.


def test_usage_that_was_waited_for_outlives_its_process(
    crew: Crew, task: Callable[..., Task], path: Path, redis_server: Server
) -> None:
    """Killed again and again: it is there, and every sum is exactly that of the records."""
    chance, _ = chance_of_this_run()
    with RelayStore(path, redis_server.url) as store:
        store.save_api_key(fields_at(("api_key", "used"), 1))  # the other one is not known
        store.save_account("openai", fields_at(("openai", "an account"), 1))
    flushed: dict[str, int] = {}
    for seed in range(KILLS // 5):
        doomed = task("use", seed=seed)
        kill_after(crew, doomed, chance.randrange(1, 40), chance.uniform(0, 0.005))
        check_integrity(path)
        assert_sums(path)
        for number in range(WORKERS):
            flushed[f"{seed} {number}"] = 10 * noted(doomed).count(number)
    with RelayStore(path, redis_server.url) as store:
        store.save_api_key(fields_at(("api_key", "also used"), 1))
    assert outside(path, "SELECT count(*) FROM usage_unplaced") == [(0,)]
    assert_sums(path)
    found: dict[str, list[int]] = {}
    for (text,) in outside(path, "SELECT extra ->> 'number' FROM usage_extra"):
        worker, n = text.rsplit(" ", 1)
        found.setdefault(worker, []).append(int(n))
    for worker, count in flushed.items():
        own = sorted(found.get(worker, []))
        assert own == list(range(len(own)))
        assert len(own) >= count


def assert_sums(path: Path) -> None:
    """What is summed up is what the records come to."""
    kinds = "input_tokens", "output_tokens", "cache_read_tokens", "cost"
    columns = ", ".join(f"sum({kind})" for kind in kinds)
    placed = outside(path, f"SELECT api_key_id, count(*), {columns} FROM usage_records GROUP BY 1")
    names = "inputTokens", "outputTokens", "cacheReadTokens", "cost"
    columns = ", ".join(f"sum(entry ->> '{name}')" for name in names)
    unplaced = outside(
        path, f"SELECT api_key_id, count(*), {columns} FROM usage_unplaced GROUP BY 1"
    )
    totals = outside(
        path,
        "SELECT id, total_requests, total_input_tokens, total_output_tokens,"
        " total_cache_read_tokens, total_cost FROM api_keys WHERE total_requests > 0",
    )
    assert sorted(totals) == sorted(placed)
    columns = ", ".join(f"sum({kind})" for kind in kinds)
    expected = sorted([*placed, *unplaced])
    for period in ("hour", "day", "month"):
        query = (
            f"SELECT id, sum(requests), {columns} FROM usage_stats"
            f" WHERE scope = 'key' AND period = '{period}' GROUP BY id ORDER BY id"
        )
        assert outside(path, query) == expected, period
    whole = tuple(map(sum, zip(*(row[1:] for row in expected), strict=True)))
    account = outside(
        path,
        "SELECT total_requests, total_input_tokens, total_output_tokens, total_cost FROM accounts",
    )
    assert account == ([(*whole[:3], whole[4])] if whole else [(0, 0, 0, 0)])
