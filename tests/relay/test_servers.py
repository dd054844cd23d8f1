"""The ground that the other tests stand on: the servers, the sample, and what servers tell."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import redis
from redis.backoff import NoBackoff
from redis.client import PubSub
from redis.exceptions import CrossSlotTransactionError
from redis.retry import Retry

from .conftest import Lender
from .sample import SAMPLE, Entry, differences, dump, is_lasting, load, raw
from .servers import PATIENCE, Cluster, Server, ServerFailed, until

# The sample.


def test_sample_comes_back_as_it_was_loaded(any_server: Server) -> None:
    """Every type, every byte, every expiry."""
    client = any_server.client()
    load(client)
    held = dump(client)
    assert held.keys() == {raw(key) for key in SAMPLE}
    assert {raw(key): content["type"] for key, content in SAMPLE.items()} == {
        key: entry.type for key, entry in held.items()
    }
    assert {raw(key): content["ttl"] >= 0 for key, content in SAMPLE.items()} == {
        key: entry.expires is not None for key, entry in held.items()
    }


@pytest.mark.parametrize(
    ("kind", "value", "dumped"),
    [
        ("hash", {"cost": "0.00482500000000000018"}, {b"cost": b"0.00482500000000000018"}),
        ("string", "né \udcff", b"n\xc3\xa9 \xff"),
        ("list", ["b", "a", "a"], [b"b", b"a", b"a"]),
        ("set", ["b", "a"], frozenset({b"a", b"b"})),
        (
            "zset",
            [["a\x00b", 1723198272013.0], ["c", 0.5]],
            {b"a\0b": b"1723198272013", b"c": b"0.5"},
        ),
        ("stream", [["7-1", {"data": "{}"}]], ((b"7-1", ((b"data", b"{}"),)),)),
    ],
)
def test_dump_gives_bytes(any_server: Server, kind: str, value: Any, dumped: Any) -> None:
    """Values are what the server says, also to a client that decodes."""
    load(any_server.client(), {"k": {"type": kind, "value": value, "ttl": -1}})
    assert dump(any_server.client()) == {b"k": Entry(kind, dumped, None)}
    assert dump(any_server.client(decode_responses=True, protocol=3)) == dump(any_server.client())


def test_scores_are_compared_as_numbers() -> None:
    """A score of 0.1 is the same on servers that write it with more digits or fewer."""
    held = [
        {b"k": Entry("zset", {b"a": text}, None)} for text in (b"0.1", b"0.10000000000000001", b"1")
    ]
    assert differences(held[0], held[1]) == []
    assert differences(held[0], held[2]) == ["'k': 'a': 0.1 became 1.0"]


def test_loading_twice_changes_nothing(redis_server: Server) -> None:
    """A load replaces the keys it names; lists and streams do not grow."""
    client = redis_server.client()
    load(client)
    before = dump(client)
    load(client)
    assert differences(before, dump(client)) == []


def test_dump_takes_more_keys_than_one_scan(redis_server: Server) -> None:
    """A database of several thousand keys is read whole."""
    client = redis_server.client()
    client.mset({f"n:{n}": n for n in range(5000)})
    assert len(dump(client)) == 5000


HELD = {
    b"hash": Entry("hash", {b"a": b"1"}, None),
    b"list": Entry("list", [b"p", b"q"], None),
    b"set": Entry("set", frozenset({b"w", b"x"}), None),
    b"text": Entry("string", b"1.5", 4_000_000_000_000),
}
# key, what it holds afterwards, what is said
CHANGES: dict[str, tuple[bytes, Entry | None, list[str]]] = {
    "fields": (
        b"hash",
        Entry("hash", {b"a": b"2", b"b": b""}, None),
        ["'hash': 'a': '1' became '2'", "'hash': 'b': nothing became ''"],
    ),
    "members": (
        b"set",
        Entry("set", frozenset({b"w", b"y"}), None),
        ["'set': member 'x' is gone", "'set': member 'y' is new"],
    ),
    "entries": (
        b"list",
        Entry("list", [b"q", b"q", b"q"], None),
        ["'list': entry 0: 'p' became 'q'", "'list': entry 2: nothing became 'q'"],
    ),
    "type": (b"hash", Entry("list", [b"a"], None), ["'hash': hash became list"]),
    "text": (
        b"text",
        Entry("string", b"1.50", 4_000_000_000_000),
        ["'text': '1.5' became '1.50'"],
    ),
    "gone": (b"text", None, ["'text': missing after"]),
    "new": (b"more", Entry("string", b"", None), ["'more': missing before"]),
    "later": (b"text", Entry("string", b"1.5", 4_000_000_009_000), ["'text': expires +9000 ms"]),
    "jitter": (b"text", Entry("string", b"1.5", 3_999_999_998_500), []),
    "for good": (
        b"text",
        Entry("string", b"1.5", None),
        ["'text': expires at 4000000000000 became None"],
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_differences_name_what_differs(change: str) -> None:
    """A line for each thing, and none for an expiry that moved a little."""
    key, entry, lines = CHANGES[change]
    after = {name: held for name, held in {**HELD, key: entry}.items() if held is not None}
    assert differences(HELD, after) == lines
    assert differences(HELD, HELD) == []


def test_short_lived_keys_are_not_lasting() -> None:
    """Of the sample, what the relay forgets by itself; a tag called "empty" is no marker."""
    fleeting = {key.split(":")[0] for key in SAMPLE if not is_lasting(raw(key))}
    assert fleeting == {"concurrency", "rate_limit", "sticky_session"}
    assert not is_lasting(b"claude:account:index:empty")
    assert not is_lasting(b"unified_claude_session_mapping:\xff\n")
    assert not is_lasting(b"usage:model:daily:index:2026-11-21:empty")
    assert is_lasting(b"usage:1:model:alltime:some:empty")
    assert is_lasting(b"apikey:tag:empty")
    assert is_lasting(b"account_balance_script:claude:1")


# The servers.


def test_killed_server_comes_back_empty_on_its_port(any_fresh_server: Server) -> None:
    """Another run, by its id, with nothing of the first; a client goes on by itself."""
    client = any_fresh_server.client()
    client.set("k", "v")
    port, run = any_fresh_server.port, any_fresh_server.run_id()
    any_fresh_server.kill()
    with pytest.raises(redis.ConnectionError):
        any_fresh_server.client(retry=_once()).ping()
    any_fresh_server.start()
    assert (any_fresh_server.port, client.dbsize()) == (port, 0)
    assert any_fresh_server.run_id() != run


def test_restart_keeps_what_is_stored_on_disk(start_server: Callable[..., Server]) -> None:
    """With an append-only file the data outlives the process, and the settings hold on."""
    server = start_server(appendonly="yes", appendfsync="always")
    server.client().set("k", "v")
    run = server.run_id()
    server.restart()
    assert server.client().get("k") == b"v"
    assert server.run_id() != run


def test_paused_server_times_out_and_goes_on(any_fresh_server: Server) -> None:
    """It takes a connection and does not answer until it is resumed."""
    client = any_fresh_server.client(socket_timeout=0.2, retry=_once())
    client.set("k", "v")
    any_fresh_server.pause()
    started = time.monotonic()
    with pytest.raises(redis.TimeoutError):
        client.get("k")
    assert 0.1 < time.monotonic() - started < 5
    any_fresh_server.resume()
    assert any_fresh_server.client().get("k") == b"v"


def test_password_is_part_of_the_url(start_server: Callable[..., Server]) -> None:
    """A server with a password is started, asked and stopped like another."""
    server = start_server(requirepass="p@ss/word")
    assert server.client().ping()
    with pytest.raises(redis.AuthenticationError):
        server.client(password="another", retry=_once()).ping()
    server.stop()
    assert server.pid is None


def test_wrong_setting_is_reported_with_the_log(start_server: Callable[..., Server]) -> None:
    """A server that ends at its start is not waited for."""
    with pytest.raises(ServerFailed, match="no-such-setting"):
        start_server(no_such_setting="1")


def test_first_start_leaves_a_taken_port(any_server: Server, start_server: Any) -> None:
    """Another server on the port is not mistaken for this one."""
    server = start_server()
    server.stop()
    server.port, server._started = any_server.port, False
    server.start()
    assert server.port != any_server.port
    assert server.info("server")["process_id"] == server.pid


def test_lent_server_is_as_new(lender: Lender) -> None:
    """Data and settings of the test before are gone, the process stays."""
    server = lender.lend("valkey")
    pid, policy = server.pid, server.settings()["maxmemory-policy"]
    server.client().set("k", "v")
    server.config("maxmemory-policy", "allkeys-lru")
    server.pause()
    again = lender.lend("valkey")
    assert (again.pid, again.client().dbsize()) == (pid, 0)
    assert again.settings()["maxmemory-policy"] == policy
    again.close_clients()


@pytest.mark.parametrize("harm", ["kill", "stop", "restart", "password"])
def test_lent_server_is_replaced_after_harm(lender: Lender, harm: str) -> None:
    """What a test ended, changed for good or locked is not lent again."""
    server = lender.lend("valkey")
    if harm == "password":
        server.config("requirepass", "secret")
    else:
        getattr(server, harm)()
    another = lender.lend("valkey")
    assert another is not server
    assert server.pid is None
    assert another.client().ping()
    another.close_clients()


def test_cluster_finds_keys_of_all_its_servers(redis_cluster: Cluster) -> None:
    """Each of three primaries holds a part; together they hold the sample."""
    client = redis_cluster.client()
    load(client)
    parts = [dump(server.client()) for server in redis_cluster.servers]
    for server in redis_cluster.servers:
        server.close_clients()
    assert all(parts)
    assert sum(map(len, parts)) == len(SAMPLE)
    assert dump(client).keys() == {raw(key) for key in SAMPLE}
    assert client.get("apikey:index:version") == b"2"


def test_cluster_is_empty_for_the_next_test(redis_cluster: Cluster) -> None:
    """Nothing is left of what other tests stored."""
    assert dump(redis_cluster.client()) == {}


def test_cluster_refuses_a_transaction_over_slots(redis_cluster: Cluster) -> None:
    """Keys of one slot can change together, keys of two cannot."""
    client = redis_cluster.client()
    with client.pipeline(transaction=True) as pipeline:
        pipeline.set("{a}1", "1").set("{a}2", "2")
        assert len(pipeline.execute()) == 2
    refused = pytest.raises(CrossSlotTransactionError)
    with client.pipeline(transaction=True) as pipeline, refused:
        pipeline.set("a", "1").set("b", "2")
        pipeline.execute()


# What servers tell about changes.

Command = tuple[Any, ...]
Event = tuple[str, str]


@contextmanager
def listening(server: Server) -> Iterator[PubSub]:
    """A subscription to all events of database 0."""
    server.config("notify-keyspace-events", "KEA")
    with server.client().pubsub() as events:
        events.psubscribe("__keyevent@0__:*")
        events.get_message(timeout=PATIENCE)
        yield events


def told(server: Server, events: PubSub) -> list[Event]:
    """The events (name, key) up to now."""
    server.client().set("the end", "")
    found: list[Event] = []
    while not found or found[-1] != ("set", "the end"):
        message = events.get_message(timeout=PATIENCE)
        assert message is not None, found
        name = message["channel"].decode().partition(":")[2]
        found.append((name, message["data"].decode()))
    return found[:-1]


def events_of(server: Server, *commands: Command, before: tuple[Command, ...] = ()) -> list[Event]:
    """What is told about commands, given to a server that holds what `before` stores."""
    client = server.client()
    for command in before:
        client.execute_command(*command)
    with listening(server) as events:
        for command in commands:
            client.execute_command(*command)
        return told(server, events)


STRING = ("SET", "k", "v")
HASH = ("HSET", "k", "f", "1")
SET = ("SADD", "k", "a")
ZSET = ("ZADD", "k", 1, "a")
LIST = ("RPUSH", "k", "a")

# what is there, the command, the events' names about k (about another key: with it)
TOLD: list[tuple[Command, Command, list[str]]] = [
    (STRING, ("DEL", "k"), ["del"]),
    (STRING, ("UNLINK", "k"), ["del"]),
    (STRING, ("GETDEL", "k"), ["del"]),
    (STRING, ("DEL", "none"), []),
    (STRING, ("EVAL", "redis.call('del', KEYS[1])", 1, "k"), ["del"]),
    (HASH, ("HDEL", "k", "f"), ["hdel", "del"]),
    (SET, ("SREM", "k", "a"), ["srem", "del"]),
    (SET, ("SPOP", "k"), ["spop", "del"]),
    (SET, ("SMOVE", "k", "to", "a"), ["srem", "del", "sadd to"]),
    (SET, ("SUNIONSTORE", "k", "none"), ["del"]),
    (ZSET, ("ZREM", "k", "a"), ["zrem", "del"]),
    (LIST, ("LPOP", "k"), ["lpop", "del"]),
    (LIST, ("LREM", "k", 0, "a"), ["lrem", "del"]),
    (LIST, ("LTRIM", "k", 1, 0), ["ltrim", "del"]),
    # An empty stream is there.
    (("XADD", "k", "1-0", "f", "v"), ("XDEL", "k", "1-0"), ["xdel"]),
    (STRING, ("RENAME", "k", "to"), ["rename_from", "rename_to to"]),
    (STRING, ("COPY", "k", "to"), ["copy_to to"]),
    (STRING, ("MOVE", "k", 1), ["move_from"]),
    # Nothing is told about the value that goes.
    (HASH, ("SET", "k", "v"), ["set"]),
    (STRING, ("SET", "k", "w", "EX", 10), ["set", "expire"]),
    (STRING, ("SETEX", "k", 10, "w"), ["set", "expire"]),
    (STRING, ("EXPIRE", "k", 10), ["expire"]),
    (("SET", "k", "v", "EX", 10), ("PERSIST", "k"), ["persist"]),
    (STRING, ("FLUSHALL",), []),
    (STRING, ("FLUSHDB",), []),
    (STRING, ("SWAPDB", 0, 1), []),
    (HASH, ("HINCRBY", "k", "f", 1), ["hincrby"]),
    (HASH, ("HINCRBYFLOAT", "k", "f", "1.5"), ["hincrbyfloat"]),
    (ZSET, ("ZINCRBY", "k", 1, "a"), ["zincr"]),
    (("SET", "k", "1"), ("INCRBYFLOAT", "k", "1.5"), ["incrbyfloat"]),
    (LIST, ("LPUSH", "k", "b"), ["lpush"]),
    (("MSET", "k", "1"), ("MSET", "k", "2", "to", "3"), ["set", "set to"]),
]


@pytest.mark.parametrize(
    ("held", "command", "names"), TOLD, ids=[f"{held[0]}-{act[0]}" for held, act, _ in TOLD]
)
def test_names_of_events(
    any_server: Server, held: Command, command: Command, names: list[str]
) -> None:
    """All flavours tell of a change, and of no removal by a flush, under these names."""
    found = events_of(any_server, command, before=(held,))
    expected = [name.split(" ") if " " in name else [name, "k"] for name in names]
    assert found == [tuple(each) for each in expected]


@pytest.mark.parametrize("command", [("EXPIRE", "k", -1), ("PEXPIREAT", "k", 1)])
def test_expiry_in_the_past_has_two_names(any_server: Server, command: Command) -> None:
    """A key that is told to have expired already is deleted: Valkey calls it expired."""
    name = {"valkey": "expired", "redis": "del"}[any_server.flavour]
    assert events_of(any_server, command, before=(STRING,)) == [(name, "k")]


@pytest.mark.parametrize("asked", [False, True])
def test_expired_key_is_told(any_server: Server, asked: bool) -> None:
    """By itself, with a delay, or when somebody asks for it."""
    client = any_server.client()
    client.execute_command(*STRING)
    with listening(any_server) as events:
        client.pexpire("k", 30)
        until(lambda: not (client.exists("k") if asked else client.dbsize()), "the expiry")
        assert told(any_server, events) == [("expire", "k"), ("expired", "k")]


def test_evicted_key_is_told(any_server: Server) -> None:
    """A key that went for want of memory has an event of its own, and no `del`."""
    client = any_server.client()
    client.execute_command(*STRING)
    with listening(any_server) as events:
        any_server.config("maxmemory-policy", "allkeys-lru")
        any_server.config("maxmemory", "1")
        until(lambda: client.dbsize() == 0, "the eviction")
        any_server.config("maxmemory", "0")
        assert told(any_server, events) == [("evicted", "k")]


def test_flush_is_told_to_those_who_track_keys(any_server: Server) -> None:
    """A tracking client hears of a flush as nothing in place of keys."""
    client, tracker = any_server.client(), any_server.client(single_connection_client=True)
    with client.pubsub() as told_:
        told_.subscribe("__redis__:invalidate")
        told_.get_message(timeout=PATIENCE)
        [listener] = client.client_list(_type="pubsub")
        tracker.execute_command("CLIENT", "TRACKING", "ON", "REDIRECT", listener["id"], "BCAST")
        client.set("k", "v")
        client.flushall()
        messages = [told_.get_message(timeout=PATIENCE) for _ in range(2)]
    assert [message["data"] for message in messages if message] == [[b"k"], None]


def _once() -> Retry:
    return Retry(NoBackoff(), 0)
