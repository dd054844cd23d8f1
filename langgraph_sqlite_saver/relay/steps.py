"""One source for sync and async: what has to be done, in steps, and two ways to take them.

An operation of the store is a generator that yields steps, each a read or a write of SQLite or
commands for Redis, and is sent what came of them. It is run by `take`, which blocks, or by
`take_async`, which awaits.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import redis
import redis.asyncio

from ..database import AsyncDatabase, Database
from .commands import Command
from .errors import RedisUnavailableError

T = TypeVar("T")

# redis-py derives what its cluster client raises from Exception alone.
REDIS_ERRORS = (redis.RedisError, redis.exceptions.RedisClusterException)


@dataclass(slots=True)
class Read:
    """`op(conn, *args)` on one snapshot of SQLite."""

    op: Callable[..., Any]
    args: tuple[Any, ...]


@dataclass(slots=True)
class Write:
    """`op(conn, *args)` in a transaction of SQLite."""

    op: Callable[..., Any]
    args: tuple[Any, ...]


@dataclass(slots=True)
class Ask:
    """Commands for Redis, in one round trip; their replies.

    Raises RedisUnavailableError if one fails; `tolerant`: errors that Redis answers with are among
    the replies. `as_text`: replies may come decoded, which the client does faster than we can.
    """

    commands: Sequence[Command]
    tolerant: bool = False
    as_text: bool = False


Step = Read | Write | Ask
Steps = Generator[Step, Any, T]


def read(op: Callable[..., Any], *args: Any) -> Read:
    """A step that reads SQLite."""
    return Read(op, args)


def write(op: Callable[..., Any], *args: Any) -> Write:
    """A step that writes SQLite."""
    return Write(op, args)


def take(
    steps: Steps[T],
    database: Database | None,
    client: redis.Redis | None,
    texts: redis.Redis | None = None,
) -> T:
    """Take the steps one by one and return what they come to; `texts` is a client that decodes."""
    outcome: Any = None
    failure: Exception | None = None
    while True:
        try:
            step = steps.send(outcome) if failure is None else steps.throw(failure)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]
        outcome, failure = None, None
        try:
            if isinstance(step, Ask):
                outcome = ask(texts if step.as_text and texts else client, step)
            else:
                assert database is not None
                run = database.read if isinstance(step, Read) else database.write
                outcome = run(step.op, *step.args)
        except Exception as error:
            failure = error


async def take_async(
    steps: Steps[T],
    database: AsyncDatabase | None,
    client: redis.asyncio.Redis | None,
    texts: redis.asyncio.Redis | None = None,
) -> T:
    """As `take`, for an event loop."""
    outcome: Any = None
    failure: Exception | None = None
    while True:
        try:
            step = steps.send(outcome) if failure is None else steps.throw(failure)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]
        outcome, failure = None, None
        try:
            if isinstance(step, Ask):
                outcome = await ask_async(texts if step.as_text and texts else client, step)
            else:
                assert database is not None
                run = database.read if isinstance(step, Read) else database.write
                outcome = await run(step.op, *step.args)
        except Exception as error:
            failure = error


NO_REDIS = "the store was opened without a Redis: changes wait in the outbox"


def ask(client: redis.Redis | None, step: Ask) -> list[Any]:
    """Redis' replies to some commands."""
    if client is None:
        raise RedisUnavailableError(NO_REDIS)
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


async def ask_async(client: redis.asyncio.Redis | None, step: Ask) -> list[Any]:
    """As `ask`, for an event loop."""
    if client is None:
        raise RedisUnavailableError(NO_REDIS)
    try:
        if len(step.commands) == 1:
            return [await client.execute_command(*step.commands[0])]  # type: ignore[no-untyped-call]
        pipe = client.pipeline(transaction=False)
        for command in step.commands:
            pipe.execute_command(*command)
        replies = await pipe.execute(raise_on_error=False)
    except REDIS_ERRORS as error:
        failure = error
    else:
        return checked(step, replies)
    return refused(step, failure)


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
    if isinstance(error, redis.ResponseError):
        code = str(error).split(" ", 1)[0].rstrip(":,'")
        return RedisUnavailableError(
            f"Redis refused {command[0]} ({type(error).__name__}: {code}). What was saved is safe "
            "in SQLite and is written to Redis as soon as it takes it; see its log, its maxmemory "
            "and the rights of this user.",
            answered=True,
        )
    return RedisUnavailableError(
        f"Redis does not answer ({type(error).__name__}). Check REDIS_HOST, REDIS_PORT and "
        "REDIS_PASSWORD or REDIS_URL, and that it runs."
    )
