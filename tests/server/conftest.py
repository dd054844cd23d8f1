"""Servers for the tests: ended in every case, and looked at for what their logs complain of."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import count
from pathlib import Path

import pytest

from .running import LangGraphServer


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LangGraphServer]:
    """The server that the module's tests share; at its end its log must be without complaint."""
    server = LangGraphServer(tmp_path_factory.mktemp("server"))
    try:
        yield server.start()
    finally:
        server.stop()
    assert server.problems() == []


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., LangGraphServer]]:
    """Starts servers of the test's own, each in a directory of its own, with these variables."""
    numbers = count(1)
    with ExitStack() as stack:

        def start(**variables: str) -> LangGraphServer:
            folder = tmp_path / f"server {next(numbers)}"
            folder.mkdir()
            server = LangGraphServer(folder, **variables)
            stack.callback(server.stop)
            return server.start()

        yield start
