"""Threads, tasks and processes on one file and one Redis, which end with the same."""

from __future__ import annotations

import asyncio
import gc
import os
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from database.helpers import check_integrity, in_thread, outcome, outside, run_script

from langgraph_sqlite_saver.relay import AsyncRelayStore, RelayStore, UsageRecord
from langgraph_sqlite_saver.relay import store as relay_store
from langgraph_sqlite_saver.relay.mirror import Mirror

from .servers import Server, until
from .worker import (
    ACCOUNT,
    CONTENDED,
    GO_ON,
    KEY,
    STOPPED,
    Crew,
    Model,
    Place,
    Task,
    apply,
    assert_in_step,
    delete,
    fields_at,
    program,
    records_in_redis,
    records_in_sqlite,
    save,
    secret,
    waiting,
)

SOAK = os.environ.get("HYPOTHESIS_PROFILE") == "soak"
SCALE = 10 if SOAK else 1


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the relay's file is: alone in its directory."""
    (tmp_path / "data").mkdir()
    return tmp_path / "data" / "relay.db"


@pytest.fixture(scope="module")
def crew() -> Iterator[Crew]:
    """Starts the processes."""
    with Crew() as crew:
        yield crew


@pytest.fixture
def task(path: Path, redis_server: Server, tmp_path: Path) -> Callable[..., Task]:
    """Makes tasks on the test's file and server, all with the same notes."""

    def make(job: str, **options: Any) -> Task:
        return Task(job, str(path), redis_server.url, str(tmp_path / "notes"), **options)

    return make


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """A store looks at Redis often, so that nobody waits for it here."""
    monkeypatch.setattr(relay_store, "_WATCH", 0.02)


def assert_each_is_of_one_save(found: Model) -> None:
    """No record is a mixture: its name says which save it is of, and all of it is of that."""
    for place, fields in found.items():
        n = int(fields["name"].split()[1])
        assert fields == fields_at(place, n)


# Processes.


@pytest.mark.parametrize("processes", [2, 4])
def test_processes_that_save_the_same_records_leave_sqlite_and_redis_with_the_same(
    processes: int, crew: Crew, task: Callable[..., Task], path: Path, redis_server: Server
) -> None:
    """They save, delete and read, half of them awaiting; each record is whole, of one save."""
    rounds = 400 // processes * SCALE
    pids = [
        crew.start(task("contend", seed=n + 1, awaited=n % 2 == 1, rounds=rounds))
        for n in range(processes)
    ]
    assert [crew.ended(pid) for pid in pids] == [0] * processes
    assert waiting(path) == 0
    with RelayStore(path, redis_server.url, heal=False) as store:
        found = records_in_sqlite(store)
        assert_each_is_of_one_save(found)
        assert_in_step(store, redis_server.client(), found)
    check_integrity(path)


def test_a_deleted_record_is_not_brought_back_by_those_that_read_it(
    crew: Crew, task: Callable[..., Task], path: Path, redis_server: Server
) -> None:
    """Redis loses records all the time, and readers in other processes put them back."""
    rounds, client = 30 * SCALE, redis_server.client()
    with RelayStore(path, redis_server.url) as store:
        pids = [crew.start(task("read_repair", seed=n, awaited=n == 1)) for n in range(2)]
        for n in range(rounds):
            for place in CONTENDED:
                getattr(store, "save_api_key" if place[0] == "api_key" else "save_account")(
                    *save(place, fields_at(place, n)).arguments
                )
            for place in CONTENDED:
                op = delete(place)
                assert getattr(store, op.name)(*op.arguments)
        Path(task("").notes + GO_ON).touch()
        assert [crew.ended(pid) for pid in pids] == [0, 0]
        assert records_in_redis(client, CONTENDED) == {}
    assert waiting(path) == 0
    with RelayStore(path, redis_server.url, heal=False) as store:
        assert_in_step(store, client, {})


# Records that share a place.


def test_a_secret_that_moved_to_another_key_stays_there(path: Path, redis_server: Server) -> None:
    """Though the key that had it is changed, or deleted, later."""
    shared = secret("shared", 1)
    with RelayStore(path, redis_server.url) as store:
        for n, end in enumerate(["changed", "soft deleted", "deleted"]):
            old, new = f"old {n}", f"new {n}"
            store.save_api_key(fields_at(("api_key", old), 1, apiKey=shared))
            store.save_api_key(fields_at(("api_key", new), 1, apiKey=shared))
            if end == "changed":
                store.save_api_key(fields_at(("api_key", old), 2))
            elif end == "soft deleted":
                store.save_api_key(fields_at(("api_key", old), 1, apiKey=shared, isDeleted="true"))
            else:
                store.delete_api_key(old)
            found = store.find_api_key(shared)
            assert found is not None and found["id"] == new, end
            assert store.diff() == []


@pytest.mark.parametrize("end", ["saved", "deleted"])
def test_a_late_process_does_not_take_a_secret_back(
    end: str, crew: Crew, task: Callable[..., Task], path: Path, redis_server: Server
) -> None:
    """Another key has got it, or had it and is deleted, before Redis is told of the first."""
    other: Place = ("api_key", "another key")
    moved = fields_at(KEY, 11)["apiKey"]
    late = task("step", op="a new key", point="committed", then="stop")
    pid = crew.start(late)
    until(Path(late.notes + STOPPED).exists, "the process to stop")
    with RelayStore(path, redis_server.url, heal=False) as store:
        store.save_api_key(fields_at(other, 1, apiKey=moved))
        if end == "deleted":
            store.delete_api_key(other[1])
    Path(late.notes + GO_ON).touch()
    assert crew.ended(pid) == 0
    with RelayStore(path, redis_server.url, heal=False) as store:
        assert store.diff() == []


# What is saved while everything is looked at.


def test_an_import_takes_nothing_back_that_is_saved_meanwhile(
    path: Path, redis_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Saved after the import has read it in Redis, and before it stores what it read."""
    model: Model = {}
    look = Mirror.look

    def looking(self: Mirror, names: Any) -> Any:
        found = look(self, names)
        with RelayStore(path, redis_server.url, heal=False) as another:
            for place in (KEY, ACCOUNT):
                op = save(place, fields_at(place, 2))
                getattr(another, op.name)(*op.arguments)
                apply(op, model)
            op = save(("api_key", "a new key"), fields_at(("api_key", "a new key"), 1))
            another.save_api_key(*op.arguments)
            apply(op, model)
        monkeypatch.undo()
        return found

    with RelayStore(path, redis_server.url) as store:
        store.save_api_key(fields_at(KEY, 1))
        store.save_account("openai", fields_at(ACCOUNT, 1))
    with RelayStore(path, redis_server.url, heal=False) as store:
        monkeypatch.setattr(Mirror, "look", looking)
        store.import_from_redis()
        assert model
        assert_in_step(store, redis_server.client(), model)


def test_an_import_from_a_redis_that_lost_keys_takes_nothing_from_sqlite(
    path: Path, redis_server: Server
) -> None:
    """Redis has begun its indexes anew; what only SQLite has of them stays."""
    model: Model = {}
    with RelayStore(path, redis_server.url, heal=False) as store:
        for n in range(3):
            op = save(("api_key", f"key {n}"), fields_at(("api_key", f"key {n}"), n + 1))
            store.save_api_key(*op.arguments)
            apply(op, model)
        redis_server.client().flushall()
        op = save(("api_key", "a new key"), fields_at(("api_key", "a new key"), 4))
        store.save_api_key(*op.arguments)
        apply(op, model)
    with RelayStore(path, redis_server.url, heal=False) as store:
        store.import_from_redis()
    with RelayStore(path, redis_server.url) as store:  # gives Redis what it has lost
        for (_, id), fields in model.items():
            assert store.find_api_key(fields["apiKey"]) == store.get_api_key(id) == fields
        assert_in_step(store, redis_server.client(), model)


def test_a_restore_leaves_what_a_relay_counts_for_a_key_that_came_back(
    path: Path, redis_server: Server
) -> None:
    """Deleted once and saved again: what was deleted with it then is not deleted now."""
    client = redis_server.client()
    with RelayStore(path, redis_server.url) as store:
        store.save_api_key(fields_at(KEY, 1))
        store.delete_api_key(KEY[1])
        store.save_api_key(fields_at(KEY, 2))
        client.hincrby(f"usage:{KEY[1]}", "totalRequests", 7)
        store.import_from_redis()
        store.restore()
        assert client.hgetall(f"usage:{KEY[1]}") == {b"totalRequests": b"7"}
        assert store.diff() == []


# Threads.


@pytest.mark.parametrize("alone", [True, False], ids=["alone", "looked after"])
def test_sixteen_threads_use_one_store(alone: bool, path: Path, redis_server: Server) -> None:
    """Each finds what it has saved; nothing is lost where another restores and compares meanwhile.

    Restoring may bring an older state to Redis for a moment, until it is noticed.
    """
    stop = threading.Event()

    def work(number: int) -> Model:
        model: Model = {}
        ops = program(3, number)
        for n in range(40 * SCALE):
            op = next(ops)
            found = getattr(store, op.name)(*op.arguments, **op.options)
            if op.name.startswith("get") and alone:
                assert found == model.get(op.place)
            apply(op, model)
            store.record_usage(UsageRecord(f"3-{number}-0", "model", input_tokens=n))
        return model

    def look_after() -> None:
        while not stop.is_set():
            store.restore()
            store.diff()
            store.optimize()
            store.reconcile("sqlite")

    with RelayStore(path, redis_server.url) as store:
        looking = None if alone else in_thread(look_after)
        futures = [in_thread(work, number) for number in range(16 if alone else 15)]
        model: Model = {}
        for future in futures:
            found = outcome(future)
            assert isinstance(found, dict), found
            model |= found
        stop.set()
        assert looking is None or outcome(looking) is None
        store.flush()
        until(lambda: waiting(path) == 0, "the outbox to empty")
        assert_in_step(store, redis_server.client(), model)
        (total,) = outside(path, "SELECT sum(requests) FROM usage_stats WHERE period = 'month'")
        assert total == (len(futures) * 40 * SCALE,)
    check_integrity(path)


# Event loops.


def test_calls_cancelled_at_any_moment_leave_the_store_usable(
    path: Path, redis_server: Server
) -> None:
    """Each was carried out or not; the others are unharmed, and Redis comes to agree."""
    chance = random.Random(5)

    async def work(store: AsyncRelayStore, number: int) -> Any:
        for op in program(5, number):
            await getattr(store, op.name)(*op.arguments, **op.options)

    async def main() -> None:
        async with AsyncRelayStore(path, redis_server.url) as store:
            for _ in range(3 * SCALE):
                tasks = [asyncio.create_task(work(store, number)) for number in range(100)]
                await asyncio.sleep(0.2)
                for each in tasks:
                    await asyncio.sleep(chance.uniform(0, 0.002))
                    each.cancel()
                    while not each.done():  # that once is enough is another test's
                        await asyncio.wait([each], timeout=0.05)
                        each.cancel()
                ends = await asyncio.gather(*tasks, return_exceptions=True)
                assert all(isinstance(each, asyncio.CancelledError) for each in ends), ends
                del tasks, ends
            await store.save_api_key(fields_at(KEY, 1))
            assert await store.get_api_key(KEY[1]) == fields_at(KEY, 1)
            outside(path, "UPDATE outbox SET due_at = 0")  # as if much time had passed
            await asyncio.to_thread(until, lambda: waiting(path) == 0, "the outbox to empty")
            assert await store.diff() == []
            found = records_in_sqlite(store.store)
            assert_in_step(store.store, redis_server.client(), found)

    asyncio.run(main())
    gc.collect()  # what was left open would be told of now
    check_integrity(path)


def test_a_cancelled_call_ends(path: Path, redis_server: Server) -> None:
    """Being cancelled once is enough, wherever the call is."""

    async def main() -> None:
        async with AsyncRelayStore(path, redis_server.url) as store:

            async def work(number: int) -> None:
                for op in program(6, number):
                    await getattr(store, op.name)(*op.arguments, **op.options)

            tasks = [asyncio.create_task(work(number)) for number in range(100)]
            await asyncio.sleep(0.3)
            for each in tasks:
                each.cancel()
                await asyncio.sleep(0.001)
            _, going_on = await asyncio.wait(tasks, timeout=30)
            while any(not each.done() for each in tasks):
                for each in tasks:
                    each.cancel()
                await asyncio.sleep(0.01)
            assert len(going_on) == 0

    asyncio.run(main())
    gc.collect()


@pytest.mark.parametrize("name", ["save", "delete"])
def test_redis_is_told_of_a_cancelled_call_that_was_carried_out(
    name: str, path: Path, redis_server: Server
) -> None:
    """Soon, and not when the call can no longer be at work, a minute later."""

    async def main() -> None:
        async with AsyncRelayStore(path, redis_server.url) as store:
            await store.save_api_key(fields_at(KEY, 1))
            op = save(KEY, fields_at(KEY, 2)) if name == "save" else delete(KEY)
            call = asyncio.create_task(getattr(store, op.name)(*op.arguments))
            await asyncio.sleep(0)  # it is on its way to SQLite, which completes what it has begun
            call.cancel()
            with suppress(asyncio.CancelledError):
                await call
            await asyncio.to_thread(until, lambda: store.store.diff() == [], "Redis to be told")

    asyncio.run(main())


def test_a_store_serves_one_event_loop_after_another(path: Path, redis_server: Server) -> None:
    """The loops are closed in between; connections that the first one left harm nobody."""
    store = AsyncRelayStore(path, redis_server.url)

    async def work(n: int) -> None:
        found = await store.get_api_key(KEY[1])
        assert found == (fields_at(KEY, n - 1) if n else None)
        await asyncio.gather(
            store.save_api_key(fields_at(KEY, n)),
            *(store.save_account("openai", fields_at(("openai", f"{i}"), n)) for i in range(5)),
        )
        assert await store.get_api_key(KEY[1]) == fields_at(KEY, n)
        await store.record_usage(UsageRecord(KEY[1], "model"), wait=True)

    for n in range(3):
        asyncio.run(work(n))
    asyncio.run(store.close())
    gc.collect()  # what was left open would be told of now
    model: Model = {("openai", f"{i}"): fields_at(("openai", f"{i}"), 2) for i in range(5)}
    model[KEY] = fields_at(KEY, 2)
    with RelayStore(path, redis_server.url, heal=False) as blocking:
        assert_in_step(blocking, redis_server.client(), model)
    assert outside(path, "SELECT count(*) FROM usage_records") == [(3,)]


# fork().


FORKING = """
    import warnings  # 3.12 warns of a fork beside threads: that it happens is the point here
    warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
    from langgraph_sqlite_saver.relay import *
    from relay.worker import *
    from relay.servers import until
    path, url = sys.argv[1:]
"""


def test_a_child_works_with_the_store_that_its_parent_opened(
    path: Path, redis_server: Server
) -> None:
    """Both go on, and usage that waits at the fork is stored once, by the parent."""
    code = f"""
        {FORKING.strip().replace(chr(10), chr(10) + "    ")}
        store = RelayStore(path, url, flush_interval=0.5)
        store.save_api_key(fields_at(KEY, 1))
        store.record_usages([UsageRecord(KEY[1], "model")] * 10)

        def child():
            assert store.get_api_key(KEY[1]) == fields_at(KEY, 1)
            store.save_api_key(fields_at(("api_key", "of the child"), 1))
            store.record_usage(UsageRecord(KEY[1], "model"), wait=True)
            store.close()

        assert ended_well(forked(child))
        store.save_api_key(fields_at(("api_key", "of the parent"), 1))
        store.record_usage(UsageRecord(KEY[1], "model"))
        store.close()
    """
    run_script(code, path, redis_server.url)
    places: list[Place] = [KEY, ("api_key", "of the child"), ("api_key", "of the parent")]
    with RelayStore(path, redis_server.url, heal=False) as store:
        model: Model = {place: fields_at(place, 1) for place in places}
        assert_in_step(store, redis_server.client(), model)
    assert outside(path, "SELECT count(*) FROM usage_records") == [(12,)]


def test_a_child_brings_to_redis_what_it_refused(path: Path, redis_server: Server) -> None:
    """By itself, as its parent does, and with a store that its parent opened."""
    code = f"""
        {FORKING.strip().replace(chr(10), chr(10) + "    ")}
        import logging
        logging.disable()  # the outage is told of
        store = RelayStore(path, url)
        store.save_api_key(fields_at(KEY, 1))

        def child():
            client = redis.Redis.from_url(url)
            client.config_set("maxmemory", 1)
            store.save_api_key(fields_at(KEY, 2))
            client.config_set("maxmemory", 0)
            until(lambda: records_in_redis(client, [KEY]) == {{KEY: fields_at(KEY, 2)}}, "it", 10)
            client.close()
            store.close()

        assert ended_well(forked(child))
        store.close()
    """
    run_script(code, path, redis_server.url)
