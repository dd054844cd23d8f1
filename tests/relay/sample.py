"""A small relay's keys, put into a server and read back exactly."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from fnmatch import fnmatchcase
from itertools import islice, zip_longest
from pathlib import Path
from typing import Any, NamedTuple

import redis
from redis.cluster import RedisCluster

# key -> {"type", "value", "ttl" in seconds, -1 for none}
SAMPLE: dict[str, dict[str, Any]] = json.loads(
    Path(__file__).with_name("sample.json").read_text(encoding="utf-8")
)

Client = redis.Redis | RedisCluster


class Entry(NamedTuple):
    """What a server holds under a key; `expires` in ms since 1970."""

    type: str
    value: Any
    expires: int | None


# Loading.


def raw(text: str) -> bytes:
    """The bytes that a text of a sample stands for."""
    return text.encode("utf-8", "surrogateescape")


def load(client: Client, sample: Mapping[str, Mapping[str, Any]] = SAMPLE) -> None:
    """The server holds these keys exactly so, and its others as before."""
    with client.pipeline(transaction=False) as pipeline:
        for key, content in sample.items():
            pipeline.delete(raw(key))
            _LOAD[content["type"]](pipeline, raw(key), content["value"])
            if content["ttl"] >= 0:
                pipeline.expire(raw(key), content["ttl"])
        pipeline.execute()


def _load_hash(pipeline: Any, key: bytes, value: dict[str, str]) -> None:
    pipeline.hset(key, mapping={raw(name): raw(text) for name, text in value.items()})


def _load_string(pipeline: Any, key: bytes, value: str) -> None:
    pipeline.set(key, raw(value))


def _load_list(pipeline: Any, key: bytes, value: list[str]) -> None:
    pipeline.rpush(key, *map(raw, value))


def _load_set(pipeline: Any, key: bytes, value: list[str]) -> None:
    pipeline.sadd(key, *map(raw, value))


def _load_zset(pipeline: Any, key: bytes, value: list[tuple[str, float]]) -> None:
    pipeline.zadd(key, {raw(member): score for member, score in value})


def _load_stream(pipeline: Any, key: bytes, value: list[tuple[str, dict[str, str]]]) -> None:
    for entry, fields in value:
        pipeline.xadd(key, {raw(name): raw(text) for name, text in fields.items()}, id=entry)


_LOAD: dict[str, Callable[[Any, bytes, Any], None]] = {
    "hash": _load_hash,
    "string": _load_string,
    "list": _load_list,
    "set": _load_set,
    "zset": _load_zset,
    "stream": _load_stream,
}


# Dumping.


def dump(client: Client) -> dict[bytes, Entry]:
    """Everything in the client's database, on all primaries of a cluster, as the server tells it.

    Values are bytes: a hash as a dict, a list as a list, a set as a frozenset, a zset as a dict of
    members to the text of their scores, a stream as pairs of an id and its pairs of fields.
    """
    held: dict[bytes, Entry] = {}
    for server in _servers(client):
        with _Line(server) as line:
            for keys in _batches(line.scan()):
                held.update(_entries(line, keys))
    return held


def _servers(client: Client) -> list[redis.Redis]:
    if isinstance(client, RedisCluster):
        return [client.get_redis_connection(node) for node in client.get_primaries()]
    return [client]


class _Line:
    """A connection like a client's own, on which replies come as they are."""

    def __init__(self, client: redis.Redis) -> None:
        pool = client.connection_pool
        options = {**pool.connection_kwargs, "protocol": 2, "decode_responses": False}
        self._connection = pool.connection_class(**options)

    def __enter__(self) -> _Line:
        self._connection.connect()
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.disconnect()

    def ask(self, commands: list[tuple[Any, ...]]) -> list[Any]:
        """The replies to commands that are sent together."""
        packed = self._connection.pack_commands(commands)
        self._connection.send_packed_command(packed)
        return [self._connection.read_response() for _ in commands]

    def scan(self) -> Iterator[bytes]:
        cursor: Any = b"0"
        while True:
            [[cursor, keys]] = self.ask([("SCAN", cursor, "COUNT", 1000)])
            yield from keys
            if cursor == b"0":
                return


def _batches(keys: Iterable[bytes], size: int = 1000) -> Iterator[list[bytes]]:
    keys = iter(keys)
    while batch := list(islice(keys, size)):
        yield batch


def _entries(line: _Line, keys: list[bytes]) -> Iterator[tuple[bytes, Entry]]:
    types = [reply.decode() for reply in line.ask([("TYPE", key) for key in keys])]
    present = [(key, kind) for key, kind in zip(keys, types, strict=True) if kind != "none"]
    values = line.ask([_READ[kind](key) for key, kind in present])
    for (key, kind), value, expires in zip(present, values, _expiries(line, present), strict=True):
        yield key, Entry(kind, _CANONICAL.get(kind, bytes)(value), expires)


def _expiries(line: _Line, present: list[tuple[bytes, str]]) -> list[int | None]:
    """When keys end, by the server's own clock."""
    (seconds, micros), *left = line.ask([("TIME",), *(("PTTL", key) for key, _ in present)])
    now = int(seconds) * 1000 + int(micros) // 1000
    return [now + ms if ms >= 0 else None for ms in left]


def _pairs(flat: list[bytes]) -> Iterator[tuple[bytes, bytes]]:
    return zip(flat[::2], flat[1::2], strict=True)


_READ: dict[str, Callable[[bytes], tuple[Any, ...]]] = {
    "hash": lambda key: ("HGETALL", key),
    "string": lambda key: ("GET", key),
    "list": lambda key: ("LRANGE", key, 0, -1),
    "set": lambda key: ("SMEMBERS", key),
    "zset": lambda key: ("ZRANGE", key, 0, -1, "WITHSCORES"),
    "stream": lambda key: ("XRANGE", key, "-", "+"),
}
_CANONICAL: dict[str, Callable[[Any], Any]] = {
    "hash": lambda flat: dict(_pairs(flat)),
    "list": list,
    "set": frozenset,
    "zset": lambda flat: dict(_pairs(flat)),
    "stream": lambda entries: tuple((name, tuple(_pairs(flat))) for name, flat in entries),
}


# Judging.

# What is short-lived and worthless after a restore, as globs.
_FLEETING = [
    "concurrency:*",
    "rate_limit:*",
    "session:*",
    "user_session:*",
    "sticky_session:*",
    "*_session*_mapping:*",
    "*_account_sessions:*",
    "oauth:*",
    "oauth_session:*",
    "temp_unavailable:*",
    "error_history:*",
    "system:metrics:minute:*",
    "account_balance:*",
    "account_balance_local:*",
    "account:overload:*",
    "account:last_test:*",
    "user_msg_queue_*",
    "cost_rank_lock:*",
    "token_refresh_lock:*",
    "lock:*",
    "init:*",
    "*:empty",
    "apikey:tmp:*",
]
# Families whose names hold what people chose: a tag or a model may be called "empty".
_CHOSEN = re.compile(
    rb"apikey:[^:]*|(apikey:tag|username|usage|account_usage|account_group\w*):.*", re.DOTALL
)
# The mark beside an index of usage, as in "usage:daily:index:2026-11-21:empty".
_MARK = re.compile(rb"(account_)?usage:[a-z:]+:index:[0-9:-]+:empty")


def is_lasting(key: bytes) -> bool:
    """Whether a key of the relay's is worth keeping over a loss of Redis."""
    if _CHOSEN.fullmatch(key):
        return not _MARK.fullmatch(key)
    name = key.decode("latin-1")
    return not any(fnmatchcase(name, pattern) for pattern in _FLEETING)


# Comparing.


def differences(
    before: Mapping[bytes, Entry], after: Mapping[bytes, Entry], slack_ms: int = 2000
) -> list[str]:
    """What differs, a line each, ordered by key; expiries up to the slack apart are the same."""
    return [
        f"{_text(key)}: {line}"
        for key in sorted(before.keys() | after.keys())
        for line in _compare(before.get(key), after.get(key), slack_ms)
    ]


def _compare(before: Entry | None, after: Entry | None, slack_ms: int) -> Iterator[str]:
    if before is None or after is None:
        yield "missing before" if before is None else "missing after"
    elif before.type != after.type:
        yield f"{before.type} became {after.type}"
    else:
        yield from _compare_values(_scored(before), _scored(after))
        yield from _compare_expiries(before.expires, after.expires, slack_ms)


def _scored(entry: Entry) -> Any:
    """The value; of a zset with scores as numbers, whose text differs between servers."""
    if entry.type != "zset":
        return entry.value
    return {member: float(score) for member, score in entry.value.items()}


def _compare_values(before: Any, after: Any) -> Iterator[str]:
    if isinstance(before, dict):
        yield from _compare_fields(before, after)
    elif isinstance(before, frozenset):
        yield from (f"member {_text(each)} is gone" for each in sorted(before - after))
        yield from (f"member {_text(each)} is new" for each in sorted(after - before))
    elif isinstance(before, bytes):
        if before != after:
            yield f"{_text(before)} became {_text(after)}"
    else:
        pairs = enumerate(zip_longest(before, after))
        yield from (f"entry {n}: {_text(a)} became {_text(b)}" for n, (a, b) in pairs if a != b)


def _compare_fields(before: dict[bytes, Any], after: dict[bytes, Any]) -> Iterator[str]:
    for name in sorted(before.keys() | after.keys()):
        old, new = before.get(name), after.get(name)
        if old != new:
            yield f"{_text(name)}: {_text(old)} became {_text(new)}"


def _compare_expiries(before: int | None, after: int | None, slack_ms: int) -> Iterator[str]:
    if before is None or after is None:
        if before != after:
            yield f"expires at {before} became {after}"
    elif abs(after - before) > slack_ms:
        yield f"expires {after - before:+d} ms"


def _text(value: Any, longest: int = 120) -> str:
    """A value for a reader, cut when it is long."""
    text = value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else value
    shown = "nothing" if value is None else repr(text)
    return shown if len(shown) <= longest else f"{shown[:longest]}… ({len(shown)} characters)"
