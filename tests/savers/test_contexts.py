"""Ciphers and serializers run in their caller's context; what strikes them reaches the caller."""

from __future__ import annotations

import asyncio
import contextvars
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from langgraph.checkpoint.serde.encrypted import EncryptedSerializer
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

from langgraph_sqlite_saver import AsyncSqliteSaver

from .helpers import chain, checkpoint, get, place, save, values

TENANT: contextvars.ContextVar[int] = contextvars.ContextVar("TENANT")


class Tenants:
    """A cipher that takes the key from its caller's context, and has none without one."""

    def encrypt(self, text: bytes) -> tuple[str, bytes]:
        return "tenants", bytes(each ^ TENANT.get() for each in text)

    def decrypt(self, _: str, text: bytes) -> bytes:
        return bytes(each ^ TENANT.get() for each in text)


def of_tenant(key: int, function: Callable[..., Any], *args: Any) -> Any:
    def run() -> Any:
        TENANT.set(key)
        return function(*args)

    return contextvars.Context().run(run)


@pytest.mark.parametrize("mode", ["sync", "async", "sync-awaited", "async-blocking"])
def test_each_tenant_s_values_are_under_its_own_key(
    open_driver: Any, database_path: Path, mode: str
) -> None:
    """Through every way in which values are encrypted and decrypted."""
    saver = open_driver(mode, database_path, serde=EncryptedSerializer(Tenants()))
    for key in (1, 2):
        thread = f"tenant {key}"
        of_tenant(key, chain, saver, 20)
        of_tenant(key, saver.put_writes, place(20), [("c", ["x" * 500])], "task")
        assert of_tenant(key, lambda: [each.checkpoint["id"] for each in saver.list(place())])
        of_tenant(key, saver.copy_thread, "t", thread)
        of_tenant(key, saver.prune, [thread])
        assert of_tenant(key, saver.check, [thread]) == []
        of_tenant(key, saver.delete_thread, "t")
    for key in (1, 2):
        found = of_tenant(key, get, saver, None, f"tenant {key}")
        assert (found.checkpoint["channel_values"], len(found.pending_writes)) == (
            {"list": [20]},
            1,
        )


def test_tasks_of_several_tenants_share_a_saver(tmp_path: Path) -> None:
    """At once: their operations share transactions and threads."""
    found = asyncio.run(_tenants(tmp_path / "a.db"))
    assert found == [f"{key} 5" for key in range(1, 30)]


async def _tenants(path: Path) -> list[Any]:
    async with AsyncSqliteSaver(path, serde=EncryptedSerializer(Tenants())) as saver:

        async def tenant(key: int) -> Any:
            TENANT.set(key)
            for number in range(1, 6):
                value = {"m": [f"{key} {number}"] * 30}
                config = place(number - 1 or None, thread=key)
                await saver.aput(config, checkpoint(number, value), {}, {"m": str(number)})
            found = await saver.aget_tuple(place(thread=key))
            return found and found.checkpoint["channel_values"]["m"][0]

        return await asyncio.gather(*[tenant(key) for key in range(1, 30)])


class TimeLimit(Exception):
    """What a signal's handler raises, as Celery's SoftTimeLimitExceeded."""


class Struck(JsonPlusSerializer):
    """Reads values until `strike` says what happens in the middle of it."""

    strike: Callable[[], None] | None = None

    def loads_typed(self, data: tuple[str, bytes]) -> Any:
        if self.strike is not None:
            self.strike()
        return super().loads_typed(data)


@pytest.fixture
def time_is_up() -> Iterator[Callable[[], None]]:
    """Has a signal's handler raise TimeLimit."""

    def handler(*_: Any) -> None:
        raise TimeLimit

    before = signal.signal(signal.SIGUSR1, handler)
    yield lambda: signal.raise_signal(signal.SIGUSR1)
    signal.signal(signal.SIGUSR1, before)


def no_memory() -> None:
    raise MemoryError


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGUSR1")
@pytest.mark.parametrize(
    "call",
    [
        lambda saver: saver.get_tuple(place()),
        lambda saver: list(saver.list(None)),
        lambda saver: saver.check(),
    ],
    ids=["get_tuple", "list", "check"],
)
@pytest.mark.parametrize("what", [TimeLimit, MemoryError])
def test_what_strikes_a_read_is_no_damage(
    open_driver: Any,
    database_path: Path,
    time_is_up: Callable[[], None],
    call: Callable[[Any], Any],
    what: type[Exception],
) -> None:
    """It reaches the caller as it is, and says nothing of the file."""
    serde = Struck()
    saver = open_driver("sync", database_path, serde=serde)
    save(saver, 1, {"m": ["x"]})
    serde.strike = time_is_up if what is TimeLimit else no_memory
    with pytest.raises(what) as caught:
        call(saver)
    assert type(caught.value) is what
    serde.strike = None
    assert values(saver) == {"m": ["x"]}
    assert saver.check() == []
