"""What a stream gains, and what is cut off it, costs no more than it is."""

# ruff: noqa: F401, F811 - fixtures are imported

from __future__ import annotations

from collections.abc import Callable

import pytest

from .sample import differences, dump
from .servers import Server
from .stores import Face, commands_run, lasting, open_store, path

EVENTS = "billing:events"
# More than come in one page.
MANY = 2600


@pytest.fixture
def store(redis_server: Server, open_store: Callable[..., Face]) -> Face:
    """A store that has taken over a stream of many entries."""
    add(redis_server, range(1, MANY + 1))
    store = open_store(redis_server, heal=False)
    store.import_from_redis()
    return store


def add(server: Server, numbers: range) -> None:
    """The stream has entries of these numbers too."""
    with server.client().pipeline(transaction=False) as pipe:
        for number in numbers:
            pipe.xadd(EVENTS, {"data": str(number)}, id=f"{number}-0")
        pipe.execute()


def assert_exact(store: Face, server: Server) -> None:
    """What SQLite holds of the stream is what Redis has, entry by entry."""
    client = server.client()
    before = lasting(dump(client))
    client.flushall()
    store.restore()
    assert differences(before, dump(client)) == []


def pages_read(store: Face, server: Server) -> int:
    """How many scripts looking at the stream once more takes: each page of entries is one."""
    server.client().config_resetstat()
    store.import_from_redis()
    return commands_run(server, "eval")


def test_cut_stream_is_not_read_again(store: Face, redis_server: Server) -> None:
    """New entries are, and those that the relay cut off are cut off here."""
    add(redis_server, range(MANY + 1, MANY + 101))
    redis_server.client().xtrim(EVENTS, maxlen=MANY, approximate=False)
    assert pages_read(store, redis_server) <= 5  # its end, its groups, two pages, its first entry
    assert store.query("SELECT count(*) FROM redis_entries") == [(MANY,)]
    assert_exact(store, redis_server)


@pytest.mark.parametrize("cut", [0, 50])
def test_entries_that_were_deleted_in_the_middle_are_found(
    store: Face, redis_server: Server, cut: int
) -> None:
    """Also where the end was cut, and new ones came, at the same time."""
    client = redis_server.client()
    client.xdel(EVENTS, "1000-0", "2000-0")
    add(redis_server, range(MANY + 1, MANY + 1 + cut))
    client.xtrim(EVENTS, maxlen=MANY - cut, approximate=False)
    store.import_from_redis()
    assert_exact(store, redis_server)


def test_stream_that_lost_all_its_entries_is_empty(store: Face, redis_server: Server) -> None:
    """And goes on with the ids it had."""
    client = redis_server.client()
    client.xtrim(EVENTS, maxlen=0, approximate=False)
    store.import_from_redis()
    assert store.query("SELECT count(*) FROM redis_entries") == [(0,)]
    add(redis_server, range(MANY + 1, MANY + 3))
    store.import_from_redis()
    assert_exact(store, redis_server)
