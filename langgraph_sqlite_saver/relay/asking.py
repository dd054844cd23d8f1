"""Asking Redis: commands in one round trip, and its errors as ours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import hiredis
import redis
from redis.cluster import RedisCluster

from .commands import ADD, WRITE, Command
from .errors import RedisUnavailableError

# redis-py derives what its cluster client raises from Exception alone.
REDIS_ERRORS = (redis.RedisError, redis.exceptions.RedisClusterException)


@dataclass(slots=True, repr=False)  # it may hold secrets
class Ask:
    """Commands for Redis, in one round trip; their replies.

    Raises RedisUnavailableError if one fails; `tolerant`: errors that Redis answers with are among
    the replies.
    """

    commands: Sequence[Command]
    tolerant: bool = False


def ask(client: redis.Redis, step: Ask) -> list[Any]:
    """Redis' replies to some commands."""
    try:
        if len(step.commands) == 1:
            return [client.execute_command(*step.commands[0])]  # type: ignore[no-untyped-call]
        pipe = client.pipeline(transaction=False)
        for command in step.commands:
            pipe.execute_command(*command)  # type: ignore[no-untyped-call]
        replies = pipe.execute(raise_on_error=False)
    except REDIS_ERRORS as error:
        failure = error
    else:
        return checked(step, replies)
    return refused(step, failure)


def tell(client: redis.Redis, commands: Sequence[Command], heard: int = 0) -> list[Any]:
    """Have Redis carry out commands in one round trip; raises if one fails.

    As `ask`, and past redis-py's pipeline, which takes longer over a save than Redis does. Of the
    first `heard` commands errors are among the replies.
    """
    if isinstance(client, RedisCluster):
        replies = ask(client, Ask(commands, tolerant=True))
    else:
        replies = _told(client, commands)
    checked(Ask(commands[heard:]), replies[heard:])
    return replies


def _told(client: redis.Redis, commands: Sequence[Command]) -> list[Any]:
    try:
        return _on_a_connection(client.connection_pool, commands)
    except REDIS_ERRORS as error:
        failure = error
    return refused(Ask(commands), failure)


def _on_a_connection(pool: Any, commands: Sequence[Command]) -> list[Any]:
    connection = None
    try:
        connection = pool.get_connection()
        replies: list[Any] = connection.retry.call_with_retry(
            lambda: _round_trip(connection, commands), lambda _: connection.disconnect()
        )
        return replies
    except BaseException:
        if connection is not None:
            connection.disconnect()  # replies may be unread
        raise
    finally:
        if connection is not None:
            pool.release(connection)


def _round_trip(connection: Any, commands: Sequence[Command]) -> list[Any]:
    connection.send_packed_command([b"".join(map(hiredis.pack_command, commands))])
    return [_reply(connection) for _ in commands]


def _reply(connection: Any) -> Any:
    try:
        return connection.read_response()
    except redis.ResponseError as error:
        return error


def checked(step: Ask, replies: list[Any]) -> list[Any]:
    """The replies, unless one of them says that Redis refused."""
    if not step.tolerant:
        for command, reply in zip(step.commands, replies, strict=True):
            if isinstance(reply, Exception):
                raise explained(reply, command)
    return replies


def refused(step: Ask, error: Exception) -> list[Any]:
    """What an error means: a reply, where those are wanted, or that Redis cannot be had."""
    answered = isinstance(error, redis.ResponseError) and len(step.commands) == 1
    if step.tolerant and answered:
        return [error]
    raise explained(error, step.commands[0])


def explained(error: Exception, command: Command) -> RedisUnavailableError:
    """Our error for one of Redis'. Its text may repeat what was sent: only its first word is ours.

    For the same reason ours is not raised while that one is handled: it would be its context.
    """
    text, name = str(error), type(error).__name__
    for words, fault in _FAULTS.items():
        if words in text:
            return RedisUnavailableError(fault, answered=True)
    if isinstance(error, redis.exceptions.MovedError):
        return RedisUnavailableError(
            "This Redis is a cluster: say so, with cluster=True (--cluster).", answered=True
        )
    if not isinstance(error, redis.ResponseError):
        return RedisUnavailableError(
            f"Redis does not answer ({name}). Check REDIS_HOST, REDIS_PORT and REDIS_PASSWORD or "
            "REDIS_URL, and that it runs."
        )
    code = text.split(" ", 1)[0].rstrip(_MARKS)
    refusal = f"Redis refused {command[0]} ({name}: {code})."
    if _writes(command):
        remedy = (
            "Nothing that SQLite has is lost: it is written to Redis as soon as that takes it; see "
            "its log, its maxmemory and the rights of this user."
        )
    else:
        remedy = "See its log and the rights of this user."
    return RedisUnavailableError(
        f"{refusal} {remedy}",
        answered=True,
        refuses_all=isinstance(error, _GENERAL) or code in _GENERAL_CODES,
    )


# Redis is full, a replica, cannot save: whatever is written to it.
_GENERAL = (redis.exceptions.OutOfMemoryError, redis.exceptions.ReadOnlyError)
_GENERAL_CODES = {"MISCONF", "NOREPLICAS", "MASTERDOWN", "CLUSTERDOWN", "NOAUTH"}
_MARKS = ":,'"

_ONE_DATABASE = (
    "A Redis Cluster has one database, 0: set REDIS_DB, or the number that the Redis URL ends in, "
    "to 0."
)
# Settings that are at fault, by what the error says.
_FAULTS = {
    "DB index is out of range": "Redis has no database of this number: REDIS_DB, or the number "
    "that the Redis URL ends in, is out of range (its setting `databases` says how many it has).",
    "SELECT is not allowed in cluster mode": _ONE_DATABASE,
    "can only be 0 in cluster mode": _ONE_DATABASE,
    "Cluster mode is not enabled": "This Redis is no cluster: leave out cluster=True (--cluster).",
}

_WRITES = frozenset({"SET", "HSET", "SADD", "ZADD", "DEL", "HDEL", "SREM", "ZREM"})


def _writes(command: Command) -> bool:
    """Whether it was to change something in Redis."""
    return command[0] in _WRITES or (command[0] == "EVAL" and command[1] in (WRITE, ADD))
