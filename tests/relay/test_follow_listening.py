"""A follower that may not hear of changes goes through all keys; and it ends when it is told to."""

# ruff: noqa: F401, F811 - fixtures are imported

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
import redis
from database.helpers import check_integrity, in_thread, outcome

from langgraph_sqlite_saver.database import FileReplacedError, InvalidInputError
from langgraph_sqlite_saver.relay import Follower, RedisUnavailableError, RelayStore, follow, server

from .following import (
    SOON,
    Following,
    assert_in_step,
    assert_soon,
    path,
    quick,
    start_following,
    stored,
)
from .sample import SAMPLE, dump, load
from .servers import Cluster, Server, until

Start = Callable[..., Following]

SETTING = "notify-keyspace-events"
SECRET = "geheim-12"
ALL_RIGHTS = ("~*", "&*", "+@all")


@pytest.fixture
def quick_beat(monkeypatch: pytest.MonkeyPatch) -> None:
    """It looks often whether it still can follow as it does."""
    monkeypatch.setattr(follow, "_BEAT", 0.1)


def let_in(server: Server, *rules: str) -> str:
    """The URL of a user with these rights alone."""
    user = ("ACL", "SETUSER", "mirror", "reset", "on", f">{SECRET}", *rules)
    server.client().execute_command(*user)
    return server.url.replace("redis://", f"redis://mirror:{SECRET}@")


def listeners(client: redis.Redis) -> int:
    """How many subscriptions Redis has."""
    return int(client.pubsub_numpat())


def said(follower: Following, text: str) -> int:
    """How many lines have this in them."""
    return sum(text in line for line in follower.lines)


# What Redis does not allow.

# what is refused -> the user's rights; what Redis is set to; what the report names
REFUSED = {
    "channels": (("~*", "resetchannels", "+@all"), "KEA", "&__keyevent@0__:*"),
    "PSUBSCRIBE": ((*ALL_RIGHTS, "-psubscribe"), "KEA", "+psubscribe"),
    "CONFIG SET": ((*ALL_RIGHTS, "-config", "+config|get"), "", f"{SETTING} to KEA"),
    "CONFIG": ((*ALL_RIGHTS, "-config"), "KEA", "+config|get"),
}


@pytest.mark.parametrize("refused", REFUSED)
def test_without_the_right_to_hear_of_changes_all_keys_are_gone_through(
    any_fresh_server: Server, start_following: Start, path: Path, refused: str
) -> None:
    """All of them, again and again, as often as it was told; why is said once, and what to do."""
    rules, setting, remedy = REFUSED[refused]
    client = any_fresh_server.client()
    load(client)
    client.mset({f"setting:{number:04}": "1" for number in range(1500)})
    client.config_set(SETTING, setting)
    url = let_in(any_fresh_server, *rules)
    options = {"redis_url": url, "enable_notifications": True}
    follower = start_following(any_fresh_server, **options).begun()
    assert_in_step(client, path)
    client.set("setting:1499", "2")
    client.delete("setting:1234")
    assert_in_step(client, path)
    follower.pass_by()
    assert (follower.way, said(follower, "all keys are gone through")) == ("scanning", 1)
    assert (said(follower, remedy), said(follower, SECRET), len(follower.lines)) == (1, 0, 2)
    assert follower.stop() == 0


def test_granted_channels_are_heard_at_the_next_start(
    fresh_server: Server, start_following: Start, path: Path
) -> None:
    """Those that the report names are enough."""
    client = fresh_server.client()
    url = let_in(fresh_server, "~*", "resetchannels", "+@all")
    follower = start_following(fresh_server, "notified", redis_url=url)
    until(lambda: follower.reported("ACL SETUSER"), "the report")
    follower.stop()
    (report,) = (line for line in follower.lines if "ACL SETUSER <name>" in line)
    granted = report.partition("<name>")[2].partition(")")[0].split()
    client.execute_command("ACL", "SETUSER", "mirror", *granted)
    follower = start_following(fresh_server, "notified", redis_url=url).begun()
    assert (follower.way, listeners(client)) == ("notified", 1)


def test_rights_withdrawn_under_way_are_noticed(
    fresh_server: Server, start_following: Start, path: Path
) -> None:
    """Redis hangs up then: changes are found by looking."""
    client = fresh_server.client()
    url = let_in(fresh_server, *ALL_RIGHTS)
    follower = start_following(fresh_server, "notified", redis_url=url).begun()
    client.execute_command("ACL", "SETUSER", "mirror", "resetchannels")
    until(lambda: follower.reported("&__keyevent@0__:*"), "the report")
    client.set("late", "1")
    assert_in_step(client, path)


# What is set otherwise under way.


def test_notifications_switched_off_are_missed_at_once(
    loaded: Server, start_following: Start, path: Path, quick_beat: None
) -> None:
    """Not after the minutes until the next look through all keys; and heard when they are back."""
    client = loaded.client()
    start_following(loaded, "notified").begun()
    assert listeners(client) == 1
    client.config_set(SETTING, "")
    client.set("late", "1")
    client.delete("apikey:hash_map")
    assert_in_step(client, path)
    assert listeners(client) == 0
    client.config_set(SETTING, "KEA")
    until(lambda: listeners(client) == 1, "it to listen again")
    client.set("late", "2")
    assert_in_step(client, path)


def test_notifications_that_it_may_set_are_set_again(
    loaded: Server, start_following: Start, quick_beat: None
) -> None:
    """Somebody switched them off, or Redis was started anew."""
    client = loaded.client()
    client.config_set(SETTING, "")
    start_following(loaded, enable_notifications=True).begun()
    client.config_set(SETTING, "")
    until(lambda: "E" in client.config_get(SETTING)[SETTING], "the setting")
    until(lambda: listeners(client) == 1, "it to listen again")


# The file.


@contextmanager
def running(server: Server, path: Path) -> Iterator[Future[int]]:
    """A follower that has taken everything over, and may end in any way."""
    stop, lines = threading.Event(), list[str]()
    with RelayStore(path, server.url, heal=False) as store:
        run = in_thread(Follower(store, scan_interval=0.1, report=lines.append).run, stop)
        until(lambda: run.done() or bool(lines), "the first look")
        try:
            yield run
        finally:
            stop.set()
            until(run.done, "it to end")


def test_follower_whose_file_is_deleted_ends(
    loaded: Server, path: Path, quick: None, quick_beat: None
) -> None:
    """It would go on into a file that nobody finds; the next start makes one of what Redis has."""
    with running(loaded, path) as run:
        for each in path.parent.iterdir():
            each.unlink()
        with pytest.raises(FileReplacedError, match=f"{path} was deleted.*restore-backup"):
            run.result(SOON)
    assert not path.exists()
    with running(loaded, path):
        assert_in_step(loaded.client(), path)


def test_follower_whose_file_is_replaced_ends(
    loaded: Server, path: Path, quick: None, quick_beat: None
) -> None:
    """What is there then stays as it was put; the next start goes on with it."""
    other = path.with_name("other.db")
    with running(loaded, path):
        assert_in_step(loaded.client(), path)
    with closing(sqlite3.connect(path)) as conn:
        conn.execute("VACUUM INTO ?", (str(other),))
    before = other.read_bytes()
    with running(loaded, path) as run:
        other.replace(path)
        with pytest.raises(FileReplacedError, match=f"{path} was replaced"):
            run.result(SOON)
    assert path.read_bytes() == before
    check_integrity(path)
    loaded.client().set("late", "1")
    with running(loaded, path):
        assert_in_step(loaded.client(), path)


# The end.


def test_follower_that_is_told_to_end_before_it_begins_ends(loaded: Server, path: Path) -> None:
    """Nothing is left to store."""
    stop = threading.Event()
    stop.set()
    with RelayStore(path, loaded.url, heal=False) as store:
        assert Follower(store).run(stop) == 0


@pytest.mark.parametrize("heard", [False, True], ids=["idle", "heard of a change"])
def test_end_waits_for_a_hanging_redis_once(
    fresh_server: Server, start_following: Start, heard: bool
) -> None:
    """As long as `socket_timeout` says, whatever there is to store; it says what is left."""
    client = fresh_server.client()
    load(client)
    follower = start_following(fresh_server, "notified", socket_timeout=3).begun()
    if heard:
        client.set("late", "1")
    fresh_server.pause()
    ended = in_thread(follower.stop)
    until(ended.done, "the end", patience=5.8)
    assert outcome(ended) == 0
    assert said(follower, "the next start finds what was not stored") == 1


def test_end_waits_for_a_locked_file_once(
    loaded: Server, start_following: Start, path: Path
) -> None:
    """As long as `lock_timeout` says; the next start finds what was not stored."""
    client = loaded.client()
    follower = start_following(loaded, "notified", lock_timeout=3).begun()
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        client.set("late", "1")
        ended = in_thread(follower.stop)
        until(ended.done, "the end", patience=5.8)
        assert outcome(ended) == 0
        other.execute("ROLLBACK")
    assert said(follower, "the next start finds what was not stored") == 1
    start_following(loaded).begun()
    assert stored(path)[b"late"] == dump(client)[b"late"]


# Reports.


def calls(client: redis.Redis, command: str) -> int:
    """How often Redis was asked to carry out a command."""
    stats = client.info("commandstats").get(f"cmdstat_{command}", {})
    return sum(int(stats.get(name, 0)) for name in ("calls", "rejected_calls"))


def test_restore_that_redis_refuses_is_told_of_once_a_minute(
    any_fresh_server: Server, start_following: Start
) -> None:
    """However often it is tried: that keys are lost, and that Redis has no memory for them."""
    client = any_fresh_server.client()
    load(client)
    follower = start_following(any_fresh_server).begun()
    with client.pipeline(transaction=True) as pipe:
        pipe.config_set("maxmemory", 1)
        pipe.flushall()
        pipe.execute()
    until(lambda: follower.reported("Redis refused EVAL"), "the report")
    tried = calls(client, "eval")
    until(lambda: calls(client, "eval") > tried + 5 * len(SAMPLE), "it to try again")
    told = [said(follower, text) for text in (": restoring", "Redis refused EVAL")]
    assert (told, len(follower.lines)) == ([1, 1], 3)
    client.config_set("maxmemory", 0)
    assert_soon(lambda: client.exists("apikey:idx:all", "apikey:hash_map"), 2)


def test_loss_that_changes_is_told_of_once_a_minute(
    loaded: Server, start_following: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The relay that goes on makes some of the keys again."""
    client = loaded.client()
    follower = start_following(loaded, restore=False).begun()
    monkeypatch.setattr(follow, "_LOOK", 0.02)
    client.flushall()
    until(lambda: follower.reported("has lost"), "the report")
    for name in [name for name, content in SAMPLE.items() if content["type"] == "hash"][:2]:
        client.hset(name, "f", "1")
        looked = calls(client, "dbsize")
        until(lambda looked=looked: calls(client, "dbsize") > looked + 2, "it to look again")
    assert said(follower, "has lost") == 1


def test_cluster_that_does_not_answer_is_waited_for(
    fresh_server: Server, start_following: Start
) -> None:
    """As any other Redis is; it says what is wrong."""
    fresh_server.stop()
    follower = start_following(fresh_server, cluster=True)
    until(lambda: follower.reported("waiting: Redis does not answer"), "the report")
    fresh_server.start()
    until(lambda: follower.reported("waiting: This Redis is no cluster"), "the report")
    assert follower.stop() == 0


# What is said of errors.


def refusal(url: str, *, cluster: bool = False) -> str:
    """What the error says."""
    with RelayStore(None, url, cluster=cluster) as store:
        with pytest.raises(RedisUnavailableError) as caught:
            server.info(store.redis)
    return str(caught.value)


def test_database_out_of_range_is_explained(redis_server: Server) -> None:
    """With the settings that say which."""
    text = refusal(redis_server.url.removesuffix("/0") + "/99")
    assert "out of range" in text and "REDIS_DB" in text and "URL" in text


def test_server_that_is_no_cluster_is_explained(redis_server: Server) -> None:
    """With the option to leave out; one that is down stays one that does not answer."""
    assert "leave out cluster=True (--cluster)" in refusal(redis_server.url, cluster=True)


def test_cluster_that_is_down_does_not_answer(fresh_server: Server) -> None:
    """Whether it is one is not known then."""
    fresh_server.stop()
    assert "does not answer" in refusal(fresh_server.url, cluster=True)


def test_cluster_with_a_database_of_another_number_is_explained(redis_cluster: Cluster) -> None:
    """It has one."""
    url = redis_cluster.url.removesuffix("/0") + "/1"
    assert "one database, 0" in refusal(url, cluster=True)


@pytest.mark.parametrize("ending", ["relay", "0x", "-1", "1/2", "%30x"])
def test_url_whose_database_is_no_number_is_refused(redis_server: Server, ending: str) -> None:
    """It would be taken for database 0."""
    url = redis_server.url.removesuffix("0") + ending
    with pytest.raises(InvalidInputError, match="the Redis URL cannot be read"):
        RelayStore(None, url)


def test_what_was_saved_is_spoken_of_where_something_was_to_be_written(
    fresh_server: Server, path: Path
) -> None:
    """Of a look that Redis refuses it says nothing."""
    url = let_in(fresh_server, *ALL_RIGHTS, "-scan", "-eval")
    with RelayStore(path, url, heal=False, strict=True) as store:
        with pytest.raises(RedisUnavailableError) as looking:
            store.import_from_redis()
        with pytest.raises(RedisUnavailableError) as saving:
            store.save_api_key({"id": "k", "apiKey": "h", "name": "n"})
    assert "Redis refused SCAN" in str(looking.value) and "SQLite" not in str(looking.value)
    assert "Redis refused EVAL" in str(saving.value) and "SQLite" in str(saving.value)
