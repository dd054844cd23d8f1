"""A database file per test, and the two faces of the layer behind one fixture."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from langgraph_sqlite_saver.database import Database

from .helpers import OnLoop, create

FACES = ["threads", "asyncio", "uvloop"]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the test's database is, or will be: alone in its directory."""
    directory = tmp_path / "data"
    directory.mkdir()
    return directory / "test.db"


@pytest.fixture
def public_path() -> Iterator[Path]:
    """As `path`, in a directory of root's that other users may look into."""
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o755)
        yield Path(directory) / "test.db"


def _new_loop(face: str) -> Callable[[], Any]:
    if face == "uvloop":
        return pytest.importorskip("uvloop").new_event_loop
    return asyncio.new_event_loop


@pytest.fixture(params=FACES)
def open_database(request: pytest.FixtureRequest) -> Iterator[Callable[..., Any]]:
    """Opens databases, blocking and awaitable ones in turn, and closes them after the test."""
    opened: list[Any] = []

    def open_one(target: Any, **options: Any) -> Any:
        if request.param == "threads":
            opened.append(Database(target, **options))
        else:
            opened.append(OnLoop(_new_loop(request.param), target, **options))
        return opened[-1]

    yield open_one
    for each in opened:
        each.close()
        if isinstance(each, OnLoop):
            each.stop()


@pytest.fixture
def db(open_database: Callable[..., Any], path: Path) -> Any:
    """A database with a table `numbers`."""
    opened = open_database(path)
    opened.write(create)
    return opened


@pytest.fixture
def shared(path: Path) -> Iterator[Database]:
    """A `Database` with a table `numbers`, where the face does not matter."""
    with Database(path) as opened:
        opened.write(create)
        yield opened
