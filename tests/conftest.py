"""Both savers, each through its blocking and its async methods, behind one set of names."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from langgraph_sqlite_saver import AsyncSqliteSaver, SqliteSaver

settings.register_profile(
    "default", max_examples=50, deadline=None, suppress_health_check=list(HealthCheck)
)
settings.register_profile("soak", parent=settings.get_profile("default"), max_examples=2000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))

# Started in the background of a shell, pytest and its children would ignore SIGINT.
signal.signal(signal.SIGINT, signal.default_int_handler)

# saver class, whether its async methods are called
MODES: dict[str, tuple[type[Any], bool]] = {
    "sync": (SqliteSaver, False),
    "async": (AsyncSqliteSaver, True),
    "sync-awaited": (SqliteSaver, True),
    "async-blocking": (AsyncSqliteSaver, False),
}


class Driver:
    """Calls a saver's methods by their blocking names, whichever way the mode says.

    `list` gives a list. What it has no word for is at `driver.saver`.
    """

    def __init__(self, saver: Any, *, awaited: bool) -> None:
        self.saver = saver
        self.awaited = awaited
        self._loop = asyncio.new_event_loop() if awaited else None

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if not self.awaited:
            return getattr(self.saver, name)
        return lambda *args, **kwargs: self.run(getattr(self.saver, f"a{name}")(*args, **kwargs))

    def run(self, awaitable: Any) -> Any:
        """The result of an awaitable of this saver's."""
        assert self._loop is not None
        return self._loop.run_until_complete(awaitable)

    def list(self, *args: Any, **kwargs: Any) -> list[Any]:
        """Everything the saver lists."""
        if not self.awaited:
            return list(self.saver.list(*args, **kwargs))

        async def collect() -> list[Any]:
            return [each async for each in self.saver.alist(*args, **kwargs)]

        return self.run(collect())

    def get_next_version(self, current: Any) -> Any:
        """The saver's next version (never awaited)."""
        return self.saver.get_next_version(current, None)

    def shut(self) -> None:
        """Close the saver and the loop."""
        self.saver.close()
        if self._loop is not None:
            self._loop.run_until_complete(self._loop.shutdown_default_executor())
            self._loop.close()


@pytest.fixture
def database_path(tmp_path: Path) -> Path:
    """Where the test's savers keep their file."""
    return tmp_path / "agent.db"


@pytest.fixture
def open_driver() -> Iterator[Callable[..., Driver]]:
    """Opens savers by mode, `open_driver("async", path, serde=…)`, and closes them at the end."""
    opened: list[Driver] = []

    def open_(mode: str, target: Any, /, **options: Any) -> Driver:
        kind, awaited = MODES[mode]
        opened.append(Driver(kind(target, **options), awaited=awaited))
        return opened[-1]

    yield open_
    for driver in opened:
        driver.shut()


@pytest.fixture(params=["sync", "async"])
def saver(
    request: pytest.FixtureRequest, open_driver: Callable[..., Driver], database_path: Path
) -> Driver:
    """A saver on a fresh file; a test that uses it runs on both classes."""
    return open_driver(request.param, database_path)


@pytest.fixture(params=list(MODES))
def every_saver(
    request: pytest.FixtureRequest, open_driver: Callable[..., Driver], database_path: Path
) -> Driver:
    """As `saver`, on both classes and both ways to call them."""
    return open_driver(request.param, database_path)
