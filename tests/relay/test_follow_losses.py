"""What a follower takes for a loss, what for an older copy, and what for neither."""

# ruff: noqa: F401, F811 - fixtures are imported

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import redis

from .following import (
    ACCOUNT,
    COST,
    KEY,
    TOTAL,
    Following,
    assert_in_step,
    assert_soon,
    held,
    path,
    quick,
    requests,
    serve,
    start_following,
    stored,
    value,
)
from .sample import SAMPLE, differences, dump, load
from .servers import Server, until
from .stores import api_key, hash_of, lasting
from .test_follow import API_KEY, Start, StartServer, evict, way

SEAT = f"claude:account:{ACCOUNT}"
HASH = SAMPLE[API_KEY]["value"]["apiKey"]
LATER, LAST = "2027-01-01T08:00:00.000Z", "2027-01-01T09:00:00.000Z"
RATES = "system:service_rates"


@pytest.fixture
def saving_server(start_server: StartServer) -> Server:
    """It starts again from what it saved last."""
    return start_server(dbfilename="dump.rdb")


def crash(server: Server, client: redis.Redis, path: Path) -> None:
    """All is on disk in SQLite when the server dies; it comes up with its older copy."""
    assert_in_step(client, path)
    server.kill()
    server.start()


# An older copy.


def rotate(client: redis.Redis, new: str) -> None:
    """A key gets another secret and is disabled, as the relay does it."""
    client.hdel("apikey:hash_map", HASH)
    client.hset("apikey:hash_map", new, KEY)
    changed = {"apiKey": new, "isActive": "false", "updatedAt": LATER, "lastUsedAt": LATER}
    client.hset(API_KEY, mapping=changed)


def test_request_after_a_crash_does_not_make_an_older_record_the_later_one(
    saving_server: Server, start_following: Start, way: str, path: Path
) -> None:
    """Tokens that were refreshed and secrets that were changed stay so; its use is noted."""
    client = saving_server.client()
    load(client)
    client.save()
    start_following(saving_server, way).begun()
    rotate(client, "rotated")
    client.hset(SEAT, mapping={"accessToken": "new", "lastRefreshAt": LATER, "lastUsedAt": LATER})
    crash(saving_server, client, path)
    client.hset(API_KEY, "lastUsedAt", LAST)
    client.hset(SEAT, "lastUsedAt", LAST)
    wanted = ["rotated", "false", LATER, LAST]
    names = ["apiKey", "isActive", "updatedAt", "lastUsedAt"]
    assert_soon(lambda: client.hmget(API_KEY, names), [each.encode() for each in wanted])
    assert_soon(lambda: client.hmget(SEAT, ["accessToken", "lastUsedAt"]), [b"new", LAST.encode()])
    assert client.hget("apikey:hash_map", HASH) is None
    assert client.hget("apikey:hash_map", "rotated") == KEY.encode()
    assert_in_step(client, path)


def test_change_that_the_relay_makes_after_a_crash_counts(
    saving_server: Server, start_following: Start, path: Path
) -> None:
    """One that says when it was made, of a record."""
    client = saving_server.client()
    load(client)
    client.save()
    start_following(saving_server).begun()
    client.hset(API_KEY, mapping={"name": "followed", "updatedAt": LATER})
    assert_in_step(client, path)
    saving_server.kill()
    saving_server.start()
    client.hset(API_KEY, mapping={"name": "since", "updatedAt": LAST})
    assert_in_step(client, path)
    assert client.hget(API_KEY, "name") == b"since"


def delete(client: redis.Redis) -> None:
    """As the relay deletes an API key."""
    client.delete(API_KEY)
    client.hdel("apikey:hash_map", HASH)


def test_deleted_key_that_comes_back_tells_of_an_older_copy(
    saving_server: Server, start_following: Start, way: str, path: Path
) -> None:
    """Though nothing was counted since: it goes again, and all else is as it was."""
    client = saving_server.client()
    load(client)
    client.sadd("account_group_members:g1", "a1", "a2")
    client.save()
    follower = start_following(saving_server, way).begun()
    delete(client)
    client.set(RATES, "changed")
    client.srem("account_group_members:g1", "a1")
    assert_in_step(client, path)
    before = lasting(dump(client))
    saving_server.kill()
    saving_server.start()
    assert_soon(lambda: differences(before, lasting(held(client))), [])
    assert_in_step(client, path)
    assert follower.reported("older copy")


def test_older_copy_is_only_reported_on_request(
    saving_server: Server, start_following: Start, path: Path
) -> None:
    """Until somebody has put it right."""
    client = saving_server.client()
    load(client)
    client.save()
    follower = start_following(saving_server, restore=False).begun()
    delete(client)
    crash(saving_server, client, path)
    until(lambda: follower.reported("relay reconcile"), "the report")
    assert client.exists(API_KEY)
    assert API_KEY.encode() not in stored(path)


WRITES: dict[str, Callable[[redis.Redis], object]] = {
    "status of an account": lambda c: c.hset(SEAT, "status", "blocked"),
    "text": lambda c: c.set(RATES, "changed"),
    "secret": lambda c: rotate(c, "rotated"),
    "new key": lambda c: (
        c.hset("apikey:new", mapping=api_key("new")),
        c.hset("apikey:hash_map", "hash-of-new", "new"),
    ),
    "deleted key, made anew": lambda c: c.hset("apikey:gone", mapping=api_key("gone", name="anew")),
    "single field of a deleted key": lambda c: c.hset("apikey:gone", "lastUsedAt", LAST),
}


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("write", WRITES)
def test_restart_that_lost_nothing_changes_nothing(
    saving_server: Server, start_following: Start, way: str, path: Path, write: str, when: str
) -> None:
    """What the relay wrote a moment before it, or after, stays, in Redis and in SQLite."""
    client = saving_server.client()
    load(client)
    client.hset("apikey:gone", mapping=api_key("gone"))
    follower = start_following(saving_server, way).begun()
    client.delete("apikey:gone")
    assert_in_step(client, path)
    if when == "before":
        WRITES[write](client)
    client.save()
    saving_server.kill()
    saving_server.start()
    if when == "after":
        WRITES[write](client)
    serve(client, 1)
    after = lasting(dump(client))
    assert_in_step(client, path)
    assert differences(after, lasting(dump(client))) == []
    assert not follower.reported("restoring")


# What is no loss.


def purge(client: redis.Redis) -> None:
    """As the relay does it."""
    other = next(n for n in SAMPLE if n.startswith("apikey:") and len(n) == 43 and n != API_KEY)
    client.delete(other)
    client.hdel("apikey:hash_map", SAMPLE[other]["value"]["apiKey"])
    rotate(client, "rotated")


@pytest.mark.parametrize("harm", ["another database was flushed", "figures were reset"])
def test_what_leaves_the_keys_alone_is_no_loss(
    redis_server: Server, start_following: Start, way: str, path: Path, harm: str
) -> None:
    """What was deleted stays deleted, and a secret that was changed lets nobody in."""
    client = redis_server.client()
    redis_server.client(db=3).flushdb()
    load(client)
    start_following(redis_server, way).begun().stop()
    purge(client)
    after = lasting(dump(client))
    if harm == "figures were reset":
        client.config_resetstat()
    else:
        redis_server.client(db=3).flushdb()
    follower = start_following(redis_server, way).begun()
    assert differences(after, lasting(dump(client))) == []
    assert_in_step(client, path)
    assert not follower.reported("restoring")
    assert [found.kind for found in follower.store.trash()] == ["api_key"]


def test_replica_that_leaves_is_no_loss(
    start_server: StartServer, start_following: Start, path: Path
) -> None:
    """Redis then calls its history by another name."""
    server, replica = start_server(repl_backlog_ttl="1"), start_server()
    client = server.client()
    load(client)
    replica.client().replicaof("127.0.0.1", server.port)
    until(lambda: replica.info("replication")["master_link_status"] == "up", "the replica")
    start_following(server).begun().stop()
    known = server.info("replication")["master_replid"]
    purge(client)
    after = lasting(dump(client))
    replica.kill()
    until(lambda: server.info("replication")["master_replid"] != known, "another name")
    follower = start_following(server).begun()
    assert differences(after, lasting(dump(client))) == []
    assert_in_step(client, path)
    assert not follower.reported("restoring")


def test_restore_of_missing_keys_lets_no_old_secret_in(
    start_server: StartServer, start_following: Start, path: Path
) -> None:
    """Records that are there are in the indexes as they are now, not as they were."""
    server = start_server(appendonly="yes", appendfsync="always")
    client = server.client()
    load(client)
    start_following(server).begun().stop()
    rotate(client, "rotated")
    client.srem("apikey:set:active", KEY)
    client.delete(RATES)
    server.kill()
    server.start()
    follower = start_following(server).begun()
    assert follower.reported("(missing): restoring")
    assert client.exists(RATES)
    assert client.hget("apikey:hash_map", HASH) is None
    assert client.hget("apikey:hash_map", "rotated") == KEY.encode()
    assert not client.sismember("apikey:set:active", KEY)
    assert_in_step(client, path)


def test_index_that_was_lost_comes_back(
    start_server: StartServer, start_following: Start, path: Path
) -> None:
    """With what the records that are there stand in it for; also single members."""
    server = start_server(appendonly="yes", appendfsync="always")
    client = server.client()
    load(client)
    start_following(server).begun().stop()
    before = lasting(dump(client))
    client.delete("apikey:hash_map", "apikey:idx:all")
    client.zrem("apikey:idx:createdAt", KEY)
    server.kill()
    server.start()
    start_following(server).begun()
    assert differences(before, lasting(dump(client))) == []


def test_deletion_that_was_just_told_of_survives_a_restart(
    start_server: StartServer, start_following: Start, path: Path
) -> None:
    """It is not restored as lost."""
    server = start_server(appendonly="yes", appendfsync="always")
    client = server.client()
    load(client)
    follower = start_following(server, "notified").begun()
    server._config["notify_keyspace_events"] = "KEA"
    client.set("mark", "1")
    until(lambda: b"mark" in follower._follower._events, "the notification")
    client.delete(API_KEY)
    until(lambda: API_KEY.encode() in follower._follower._events, "the notification")
    server.kill()
    server.start()
    assert_soon(lambda: value(path, "SELECT count(*) FROM api_keys WHERE id = ?", KEY), 0)
    assert not client.exists(API_KEY)
    assert [found.id for found in follower.store.trash()] == [KEY]


def test_deletion_that_was_taken_back_is_none(
    start_server: StartServer, start_following: Start, path: Path
) -> None:
    """A key that was deleted and written again, just before everything was lost, is restored."""
    server = start_server(notify_keyspace_events="KEA")
    client = server.client()
    load(client)
    follower = start_following(server, "notified").begun()
    assert_in_step(client, path)
    fields = client.hgetall(API_KEY)
    with client.pipeline(transaction=True) as pipe:
        pipe.delete(API_KEY)
        pipe.hset(API_KEY, mapping=fields)
        pipe.execute()
    until(lambda: API_KEY.encode() in follower._follower._events, "the notification")
    server.kill()
    server.start()
    assert_soon(lambda: client.exists(API_KEY), 1)
    assert_in_step(client, path)
    assert follower.store.trash() == []


def test_deleted_indexes_are_known_under_traffic(
    redis_server: Server, start_following: Start, path: Path
) -> None:
    """Though something is stored all the time."""
    client = redis_server.client()
    load(client)
    start_following(redis_server, "notified").begun()
    done = threading.Event()

    def relay() -> None:
        while not done.wait(0.01):
            client.hincrby(TOTAL, "totalRequests", 1)

    busy = threading.Thread(target=relay)
    busy.start()
    try:
        client.delete("claude:account:index")
        until(lambda: b"claude:account:index" not in stored(path), "the deletion")
    finally:
        done.set()
        busy.join()


def test_loss_of_a_server_that_was_a_replica_is_one(
    start_server: StartServer, start_following: Start, path: Path
) -> None:
    """It took over the keys of one that lagged behind, without being started anew."""
    server, lagging = start_server(), start_server()
    client = server.client()
    load(client)
    load(lagging.client())
    for number in range(3):
        client.hset(f"apikey:new-{number}", mapping=api_key(f"new-{number}"))
    start_following(server).begun().stop()
    before = lasting(dump(client))
    client.replicaof("127.0.0.1", lagging.port)
    until(lambda: server.info("replication").get("master_link_status") == "up", "the sync")
    client.replicaof("NO", "ONE")
    assert not client.exists("apikey:new-0")
    start_following(server).begun()
    assert differences(before, lasting(dump(client))) == []


# How much was lost.


def test_requests_to_every_key_do_not_make_a_total_loss_smaller(
    redis_server: Server, start_following: Start, way: str, path: Path
) -> None:
    """Each leaves a field of a record; counts are added to the old ones all the same."""
    client = redis_server.client()
    ids = [f"key-{number}" for number in range(5)]
    for id in ids:
        client.hset(f"apikey:{id}", mapping=api_key(id))
        client.hset(f"usage:{id}", "totalRequests", 50)
    start_following(redis_server, way).begun().stop()
    with client.pipeline(transaction=True) as pipe:
        pipe.flushall()
        for id in ids:
            pipe.hset(f"apikey:{id}", "lastUsedAt", LAST)
            pipe.hincrby(f"usage:{id}", "totalRequests", 30)
        pipe.execute()
    start_following(redis_server, way).begun()
    for id in ids:
        assert requests(client, id) == 80
        assert hash_of(client, f"apikey:{id}") == {**api_key(id), "lastUsedAt": LAST}
    assert_in_step(client, path)


def test_counts_are_not_doubled_where_most_keys_were_evicted(
    redis_server: Server, start_following: Start, way: str, path: Path
) -> None:
    """Only what expires is evicted; the totals stayed, and nothing is restored."""
    client = redis_server.client()
    for number in range(60):
        client.hset(f"apikey:key-{number}", mapping=api_key(f"key-{number}"))
        client.expire(f"apikey:key-{number}", 10_000)
    client.hset(TOTAL, "totalRequests", 10)
    client.set(COST, "2.5")
    client.hset(API_KEY, mapping=api_key(KEY))
    client.expire(API_KEY, 10_000)
    follower = start_following(redis_server, way).begun()
    evict(redis_server, "volatile-lru", 1)
    follower.pass_by()
    follower.stop()
    follower = start_following(redis_server, way).begun()
    assert (requests(client), float(client.get(COST))) == (10, 2.5)
    assert not follower.reported("restoring")
    assert value(path, "SELECT count(*) FROM api_keys") == 61


def test_counts_are_not_doubled_where_most_keys_were_deleted(
    redis_server: Server, start_following: Start, path: Path
) -> None:
    """They come back, since nobody deletes that many at once; totals that stayed are left alone."""
    client = redis_server.client()
    for number in range(60):
        client.hset(f"apikey:key-{number}", mapping=api_key(f"key-{number}"))
    client.hset(TOTAL, "totalRequests", 10)
    client.set(COST, "2.5")
    start_following(redis_server).begun()
    client.delete(*(f"apikey:key-{number}" for number in range(60)))
    assert_soon(lambda: client.exists("apikey:key-0", "apikey:key-59"), 2)
    assert_in_step(client, path)
    assert (requests(client), float(client.get(COST))) == (10, 2.5)
