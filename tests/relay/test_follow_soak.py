"""Followers that are killed at any moment, and followers of many keys."""

# ruff: noqa: F401, F811 - fixtures are imported

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from .following import (
    COST,
    KEY,
    RECORDS,
    TOTAL,
    Following,
    Process,
    assert_in_step,
    assert_soon,
    entry,
    path,
    quick,
    requests,
    start_following,
    stored,
    value,
)
from .sample import differences, dump, load
from .servers import Server, until
from .stores import lasting
from .test_follow import end_turn

SOAK = os.environ.get("HYPOTHESIS_PROFILE") == "soak"
ROUNDS = 10 if SOAK else 2


@pytest.fixture
def chance() -> random.Random:
    """Of the moments; CRASH_SEED repeats those of another run."""
    seed = int(os.environ.get("CRASH_SEED") or random.SystemRandom().randrange(10**6))
    print(f"CRASH_SEED={seed}")
    return random.Random(seed)


def fill(server: Server, count: int) -> None:
    """The sample and many keys before and behind it."""
    client = server.client()
    load(client)
    client.hset(TOTAL, "totalRequests", 10**6)
    client.set(COST, "100000")
    with client.pipeline(transaction=False) as pipe:
        for number in range(count):
            pipe.hset(f"{'az'[number % 2]}:{number}", mapping={"n": number, "text": "x" * 200})
        pipe.execute()


def test_import_that_was_killed_is_completed(
    redis_server: Server,
    start_following: Callable[..., Following],
    path: Path,
    chance: random.Random,
) -> None:
    """At any moment, with requests being served: records and counters are there once."""
    client = redis_server.client()
    fill(redis_server, 3000)
    recorded = client.llen(RECORDS)
    for round in range(ROUNDS):
        with Process(path, redis_server.url):
            until(path.exists, "the file")
            deadline = time.monotonic() + chance.random() * 0.8
            while time.monotonic() < deadline:
                client.hincrby(TOTAL, "totalRequests", 1)
                time.sleep(0.002)
            client.lpush(RECORDS, entry(round))
    start_following(redis_server).begun()
    assert_in_step(client, path)
    counted = "SELECT total_requests FROM api_keys WHERE id = ?"
    assert value(path, counted, KEY) == requests(client)
    used = "SELECT count(*) FROM usage_records WHERE api_key_id = ?"
    assert value(path, used, KEY) == recorded + ROUNDS
    assert value(path, "SELECT count(*) FROM trash") == 0


def test_restore_that_is_killed_counts_once(
    redis_server: Server,
    start_following: Callable[..., Following],
    path: Path,
    chance: random.Random,
) -> None:
    """At any moment, with counters being raised: in the end they are old and new."""
    client = redis_server.client()
    fill(redis_server, 3000)
    start_following(redis_server).begun().stop()
    expected, cost = requests(client), float(client.get(COST))
    for _ in range(ROUNDS):
        size = len(stored(path))  # Redis has short-lived keys too, which do not come back
        with client.pipeline(transaction=True) as pipe:
            pipe.flushall()
            pipe.hincrby(TOTAL, "totalRequests", 1)
            pipe.incrbyfloat(COST, 0.5)
            pipe.execute()
        expected, cost = expected + 1, cost + 0.5
        goal = chance.randrange(2, size)
        with Process(path, redis_server.url):
            until(lambda goal=goal: client.dbsize() >= goal, "a part of the restore")
            client.hincrby(TOTAL, "totalRequests", 1)
            expected += 1
        end_turn(path)
        follower = start_following(redis_server).begun()
        assert_soon(lambda: requests(client), expected)
        assert float(client.get(COST)) == cost
        assert_in_step(client, path)
        follower.stop()


_MEMORY = """
import resource, sys, threading
from langgraph_sqlite_saver.relay import Follower, RelayStore
resource_of = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
before, stop = resource_of(), threading.Event()
with RelayStore(sys.argv[1], sys.argv[2], heal=False) as store:
    Follower(store, report=lambda line: stop.set()).run(stop)
print(resource_of() - before)
"""


@pytest.mark.soak
@pytest.mark.timeout(300)
def test_many_keys_are_followed_in_little_memory(
    redis_server: Server, start_following: Callable[..., Following], path: Path
) -> None:
    """20,000 keys of 5 kB: far less than the 100 MB that they are; a change among them is found."""
    client = redis_server.client()
    for start in range(0, 20_000, 1000):
        with client.pipeline(transaction=False) as pipe:
            for number in range(start, start + 1000):
                pipe.hset(f"kept:{number:05}", mapping={"n": number, "text": "x" * 5000})
            pipe.execute()
    command = [sys.executable, "-c", _MEMORY, str(path), redis_server.url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=True)
    assert value(path, "SELECT count(*) FROM redis_keys") == 20_000
    assert int(done.stdout) < 60_000  # kB
    start_following(redis_server).begun()
    client.hset("kept:10000", "n", "changed")
    client.delete("kept:10001")
    assert_in_step(client, path, patience=60)
