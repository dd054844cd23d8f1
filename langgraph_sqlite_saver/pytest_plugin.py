"""A pytest plugin: a fresh checkpoint database for each test.

It is found by itself once the library is installed:

    def test_agent(sqlite_saver):
        graph = builder.compile(checkpointer=sqlite_saver)
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from .aio import AsyncSqliteSaver
    from .saver import SqliteSaver


@pytest.fixture
def sqlite_saver(tmp_path: Path) -> Iterator[SqliteSaver]:
    """A `SqliteSaver` on a file of its own."""
    from .saver import SqliteSaver

    with SqliteSaver(tmp_path / "checkpoints.db") as saver:
        yield saver


@pytest.fixture
def async_sqlite_saver(tmp_path: Path) -> Iterator[AsyncSqliteSaver]:
    """An `AsyncSqliteSaver` on a file of its own, for whatever loop the test runs on."""
    from .aio import AsyncSqliteSaver

    saver = AsyncSqliteSaver(tmp_path / "async_checkpoints.db")
    yield saver
    saver.close()
