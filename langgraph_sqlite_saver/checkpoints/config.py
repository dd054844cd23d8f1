"""Reading a RunnableConfig: which thread, which namespace, which checkpoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple
from uuid import UUID

from langchain_core.runnables import RunnableConfig

from ..database import InvalidInputError, InvalidTypeError
from .errors import InvalidConfigError
from .jsontext import is_text


class Address(NamedTuple):
    """A checkpoint's place; without an id, the newest of its namespace."""

    thread_id: str
    checkpoint_ns: str
    checkpoint_id: str | None

    def config(self, checkpoint_id: str | None = None) -> RunnableConfig:
        """The config that names this place."""
        return {
            "configurable": {
                "thread_id": self.thread_id,
                "checkpoint_ns": self.checkpoint_ns,
                "checkpoint_id": checkpoint_id or self.checkpoint_id,
            }
        }


def configurable(config: RunnableConfig) -> Mapping[str, Any]:
    """The `configurable` part of a config; raises InvalidConfigError with an example."""
    try:
        found = config["configurable"]
        found["thread_id"]
    except (KeyError, TypeError):
        raise InvalidConfigError(
            "the config names no thread: pass "
            '{"configurable": {"thread_id": "…", "checkpoint_ns": ""}}'
        ) from None
    return found


def thread_key(thread_id: Any, what: str = "thread_id") -> str:
    """A thread id as it is stored. Text, UUIDs and ints are ids; nothing else can be meant."""
    if isinstance(thread_id, str):
        return stored_text(str(thread_id), what)
    if isinstance(thread_id, (int, UUID)):
        return str(thread_id)
    raise InvalidTypeError(f"{what} must be a str, a UUID or an int, not {thread_id!r}")


def stored_text(text: str, what: str) -> str:
    """The text itself; raises InvalidInputError for what no file can hold."""
    if (text.isascii() and "\0" not in text) or is_text(text):
        return text
    raise InvalidInputError(
        f"{what} {text!r} holds a lone surrogate or a NUL character, which cannot be stored: "
        "clean it with text.encode('utf-8', 'replace').decode().replace('\\0', '')"
    )


def check_channel(channel: Any) -> None:
    """Raise for a channel's name that is no text, or none that a file can hold."""
    if not isinstance(channel, str):
        raise InvalidTypeError(f"a channel's name, in values and writes, is a str, not {channel!r}")
    stored_text(channel, "channel")


def thread_keys(thread_ids: Sequence[Any], what: str = "thread_ids") -> list[str]:
    """Several ids; a bare string, whose letters would be taken for ids, is refused."""
    if isinstance(thread_ids, (str, bytes)):
        raise InvalidTypeError(
            f"{what} must be a sequence of ids, not a single one: [{thread_ids!r}]"
        )
    try:
        ids = list(thread_ids)
    except TypeError:
        raise InvalidTypeError(f"{what} must be a sequence of ids, not {thread_ids!r}") from None
    return [thread_key(each, what[:-1]) for each in ids]


def address_of(config: RunnableConfig) -> Address:
    """The place a config names; without a namespace, the root graph's."""
    place = configurable(config)
    return Address(
        thread_key(place["thread_id"]),
        _text(place.get("checkpoint_ns"), "checkpoint_ns") or "",
        _text(place.get("checkpoint_id"), "checkpoint_id") or None,
    )


def full_address_of(config: RunnableConfig) -> tuple[str, str, str]:
    """The place of a checkpoint that the config must name by its id."""
    address = address_of(config)
    if address.checkpoint_id is None:
        raise InvalidConfigError(
            "the config names no checkpoint_id: writes belong to a checkpoint, "
            "pass the config that put() returned"
        )
    return address.thread_id, address.checkpoint_ns, address.checkpoint_id


def checkpoint_id_of(config: RunnableConfig | None) -> str | None:
    """The checkpoint a `before` config names, if any."""
    if not config:
        return None
    try:
        value = (config.get("configurable") or {}).get("checkpoint_id")
    except AttributeError:
        raise InvalidConfigError(
            f'before must be a config, as {{"configurable": {{"checkpoint_id": "…"}}}}, '
            f"not {config!r}"
        ) from None
    return _text(value, "checkpoint_id")


def checked_limit(limit: int | None, name: str = "limit") -> int | None:
    """A number of results: None for all, or an int that is not negative."""
    if limit is None:
        return None
    if isinstance(limit, bool) or not isinstance(limit, int):
        raise InvalidTypeError(f"{name} must be an int or None, not {limit!r}")
    if limit < 0:
        raise InvalidInputError(f"{name} must not be negative, and is {limit}")
    return int(limit)


def _text(value: Any, name: str) -> str | None:
    if value is None:
        return None
    if isinstance(value, str):
        return stored_text(value, name)
    if isinstance(value, UUID):
        return str(value)
    raise InvalidTypeError(f"{name} must be a str, not {value!r}")
