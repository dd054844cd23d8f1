"""Listening to a Redis that somebody else writes: what its keyspace notifications tell.

https://redis.io/docs/latest/develop/pubsub/keyspace-notifications/
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import redis
from redis.cluster import RedisCluster

from . import server
from .asking import REDIS_ERRORS, Ask, ask, explained
from .errors import RedisUnavailableError
from .store import RelayStore

# Together all that notify-keyspace-events can ask for by event.
_EVERY_EVENT = "g$lshzxet"
_SETTING = "notify-keyspace-events"


class Subscription:
    """The keyspace events of a database, all of them from when it was made on.

    Raises RedisUnavailableError, also where Redis does not let this user hear of them.
    """

    def __init__(self, client: redis.Redis) -> None:
        self._client = client
        self._pubsub: Any = client.pubsub()  # type: ignore[no-untyped-call]
        try:
            pattern = _pattern(client)
            server.attempt(lambda: self._pubsub.psubscribe(pattern), "PSUBSCRIBE")
            self._await_confirmation()
        except BaseException:
            self.close()
            raise

    def _await_confirmation(self) -> None:
        """A refusal comes as the reply, which subscribing does not wait for."""
        patience = self._client.connection_pool.connection_kwargs["socket_timeout"]
        if self._next(patience) is None:
            raise explained(redis.TimeoutError(), ("PSUBSCRIBE",))

    def events(self, patience: float) -> Iterator[tuple[bytes, bytes]]:
        """Keys and what happened to each; waits for the first one if none has come."""
        message = self._next(patience)
        while message is not None:
            yield message["data"], message["channel"].rpartition(b":")[2]
            message = self._next(0)

    def _next(self, patience: float) -> dict[str, Any] | None:
        found: dict[str, Any] | None = server.attempt(
            lambda: self._pubsub.get_message(timeout=patience), "PSUBSCRIBE"
        )
        return found

    def close(self) -> None:
        """End it, and its client."""
        with suppress(*REDIS_ERRORS):
            self._pubsub.close()
        self._client.close()


class Listener:
    """Listens where Redis tells of every change.

    Args:
        enables: Have Redis tell of them where it does not, if it allows that.
        say: Called with a line for people where something is in the way.
    """

    def __init__(self, store: RelayStore, *, enables: bool, say: Callable[[str], object]) -> None:
        self._store = store
        self._enables = enables
        self._say = say
        self._told: bool | None = None

    def begin(self) -> Subscription | None:
        """What tells of changes from now on; None where all keys have to be gone through."""
        client = self._store.redis
        if isinstance(client, RedisCluster):  # each node tells of its own keys
            return None
        self._told = is_told(client)
        if self._told is None:
            self._say(
                "Redis refused CONFIG GET, and so does not say whether it tells of changes: all "
                "keys are gone through. Allow this user to (ACL SETUSER <name> +config|get), and "
                "start follow again"
            )
        elif self._enables and not self._told:
            self._enable(client)
        return self._subscribe() if self._told else None

    def has_changed(self) -> bool:
        """Whether Redis tells of changes now and did not at the beginning, or no longer does."""
        client = self._store.redis
        return not isinstance(client, RedisCluster) and is_told(client) != self._told

    def _enable(self, client: redis.Redis) -> None:
        flags = _flags(client) or ""
        wanted = ("CONFIG", "SET", _SETTING, flags.replace("A", "") + "EA")
        (answer,) = ask(client, Ask([wanted], tolerant=True))
        self._told = is_told(client)
        if isinstance(answer, Exception):
            self._say(
                "notifications cannot be enabled, for Redis refused CONFIG SET: all keys are gone "
                f"through. Set {_SETTING} to KEA in the server's configuration, or allow this "
                "user to (ACL SETUSER <name> +config|set) and start follow again"
            )

    def _subscribe(self) -> Subscription | None:
        # A client that connects again by itself would miss what is told meanwhile, and not say so.
        client = self._store.connect(retries=0)
        try:
            return Subscription(client)
        except RedisUnavailableError as error:
            if not error.answered:
                raise
        self._say(
            "Redis tells of changes, but does not let this user hear of them: all keys are gone "
            "through. Grant it their channels (ACL SETUSER <name> +psubscribe "
            f"&{_pattern(client)}), and start follow again"
        )
        return None


def _pattern(client: redis.Redis) -> str:
    return f"__keyevent@{client.connection_pool.connection_kwargs.get('db', 0)}__:*"


def is_told(client: redis.Redis) -> bool | None:
    """Whether Redis tells of every change; None if it does not let that be known."""
    flags = _flags(client)
    if flags is None:
        return None
    return "E" in flags and ("A" in flags or set(_EVERY_EVENT) <= set(flags))


def _flags(client: redis.Redis) -> str | None:
    """What notify-keyspace-events is set to; None where CONFIG is refused, as hosted Redis does."""
    (reply,) = ask(client, Ask([("CONFIG", "GET", _SETTING)], tolerant=True))
    if isinstance(reply, Exception):
        return None
    values = list(reply.values()) if isinstance(reply, dict) else list(reply)[1:]
    value = values[0] if values else b""
    return value.decode() if isinstance(value, bytes) else str(value)
