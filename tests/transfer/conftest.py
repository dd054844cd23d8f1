"""A running PostgreSQL for each worker, and an empty database for each test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .postgres_server import PostgresServer


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """The server of this worker."""
    server = PostgresServer()
    yield server
    server.close()


@pytest.fixture
def postgres(postgres_server: PostgresServer) -> str:
    """How to connect to an empty database."""
    return postgres_server.new_database()


@pytest.fixture(params=[False, True], ids=["plain", "encrypted"])
def encrypted(request: pytest.FixtureRequest) -> bool:
    """Whether the threads are encrypted."""
    return bool(request.param)
