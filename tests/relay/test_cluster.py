"""A Redis Cluster of three: keys lie on different servers, and all of it works the same."""

# ruff: noqa: F401, F811 - fixtures are imported

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from langgraph_sqlite_saver.relay import ACCOUNT_TYPES, RedisUnavailableError

from .sample import SAMPLE, differences, dump, load
from .servers import Cluster
from .stores import Face, api_key, face, lasting, open_store, path, sample_account, sample_ids


@pytest.fixture
def store(open_store: Callable[..., Face], redis_cluster: Cluster, face: str) -> Face:
    """A store beside an empty cluster, by each face."""
    return open_store(redis_cluster, face)


def test_records_are_saved_read_and_deleted(store: Face, redis_cluster: Cluster) -> None:
    """With their indexes, and again after their loss."""
    client = redis_cluster.client()
    for n in range(6):
        store.save_api_key(api_key(f"k{n}", tags='["t"]'), strict=True)
    for name in ACCOUNT_TYPES:
        value = sample_account(name)[1]
        fields = json.loads(value) if ACCOUNT_TYPES[name].is_json else value
        store.save_account(name, fields, strict=True)
        assert store.get_account(name, fields["id"]) == fields
    assert client.smembers("apikey:tag:t") == {b"k%d" % n for n in range(6)}
    assert store.find_api_key("hash-of-k3") == api_key("k3", tags='["t"]')
    client.delete("apikey:k3")
    client.hdel("apikey:hash_map", "hash-of-k3")
    assert store.find_api_key("hash-of-k3") == api_key("k3", tags='["t"]')
    assert client.exists("apikey:k3")
    assert client.hget("apikey:hash_map", "hash-of-k3") == b"k3"
    for n in range(6):
        assert store.delete_api_key(f"k{n}", strict=True) is True
    for name in ACCOUNT_TYPES:
        assert store.delete_account(name, sample_account(name)[0], strict=True) is True
    assert set(dump(client)) == {b"apikey:index:version", b"apikey:tags:all"}


def test_sample_survives_the_loss_of_the_cluster(
    open_store: Callable[..., Face], redis_cluster: Cluster, face: str
) -> None:
    """Imported from all servers and restored to all."""
    client = redis_cluster.client()
    load(client)
    before = lasting(dump(client))
    store = open_store(redis_cluster, face, heal=False)
    assert store.import_from_redis().changed == len(before)
    assert store.import_from_redis().changed == 0
    assert store.diff() == []
    redis_cluster.flush()
    assert len(store.diff()) == len(before)
    assert store.restore().keys == len(before)
    assert differences(before, dump(client)) == []
    assert store.diff() == []


def test_emptied_cluster_is_restored_at_open(
    open_store: Callable[..., Face], redis_cluster: Cluster, face: str
) -> None:
    """As a single server is."""
    first = open_store(redis_cluster, face)
    first.save_api_key(api_key(), strict=True)
    first.shut()
    client = redis_cluster.client()
    before = dump(client)
    redis_cluster.flush()
    second = open_store(redis_cluster, face)
    assert differences(before, dump(client)) == []
    assert second.stats()["redisKeys"] == len(before)


def test_differences_are_put_in_step(
    open_store: Callable[..., Face], redis_cluster: Cluster, face: str
) -> None:
    """Lost, new and changed keys, on whichever server."""
    client = redis_cluster.client()
    load(client)
    store = open_store(redis_cluster, face, heal=False)
    store.import_from_redis()
    client.delete("user:index")
    client.set("new", "1")
    client.hset(f"apikey:{sample_ids()[0]}", "name", "changed")
    kinds = {each.key: each.kind for each in store.diff()}
    assert kinds == {
        b"user:index": "missing in Redis",
        b"new": "missing in SQLite",
        f"apikey:{sample_ids()[0]}".encode(): "differs",
    }
    store.reconcile()
    assert store.diff() == []
    assert client.exists("user:index", "new") == 2
    name = SAMPLE[f"apikey:{sample_ids()[0]}"]["value"]["name"]
    assert client.hget(f"apikey:{sample_ids()[0]}", "name") == name.encode()


def test_node_of_a_cluster_is_not_taken_for_all_of_it(
    open_store: Callable[..., Face], redis_cluster: Cluster, face: str
) -> None:
    """It has a part of the keys; the error says how to have them all."""
    store = open_store(redis_cluster, face, cluster=False, heal=False)
    with pytest.raises(RedisUnavailableError, match="--cluster"):
        store.import_from_redis()


def test_cluster_alone_keeps_records(
    open_store: Callable[..., Face], redis_cluster: Cluster, face: str
) -> None:
    """Without SQLite too."""
    store = open_store(redis_cluster, face, path=None)
    for n in range(6):
        store.save_api_key(api_key(f"k{n}"))
    assert [each["id"] for each in store.list_api_keys()] == [f"k{n}" for n in range(6)]
    assert store.find_api_key("hash-of-k5") == api_key("k5")
    assert store.delete_api_key("k5") is True
    assert store.find_api_key("hash-of-k5") is None
