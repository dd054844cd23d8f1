"""Running servers: a tidied one per test, or one of its own for a test that ends it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import NamedTuple

import pytest
import redis

from .sample import load
from .servers import FLAVOURS, Cluster, Server


def _need(flavour: str) -> None:
    if flavour not in FLAVOURS:
        pytest.skip(f"no {flavour} server in this environment")


class Standing(NamedTuple):
    """A server as it was when it started."""

    server: Server
    pid: int | None
    settings: dict[str, str]

    def tidied(self) -> bool:
        """Whether it is as it was again; not, when a test ended it or shut us out."""
        self.server.resume()
        if self.server.pid is None or self.server.pid != self.pid:
            return False
        try:
            self.server.tidy(self.settings)
        except redis.RedisError:
            return False
        return True


class Lender:
    """Keeps a server of each flavour running, and lends it tidied; replaces what tests broke."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._standing: dict[str, Standing] = {}
        self._numbers = count()

    def lend(self, flavour: str) -> Server:
        """A server that is empty and has its usual settings."""
        _need(flavour)
        standing = self._standing.get(flavour)
        if standing is None or not standing.tidied():
            standing = self._start(flavour)
        return standing.server

    def close(self) -> None:
        """No server is left."""
        for standing in self._standing.values():
            standing.server.close()

    def _start(self, flavour: str) -> Standing:
        if flavour in self._standing:
            self._standing.pop(flavour).server.close()
        server = Server(self._directory / f"{flavour}-{next(self._numbers)}", flavour).start()
        self._standing[flavour] = Standing(server, server.pid, server.settings())
        return self._standing[flavour]


@pytest.fixture(scope="session")
def lender(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lender]:
    """The servers that stay between tests."""
    lender = Lender(tmp_path_factory.mktemp("standing"))
    yield lender
    lender.close()


@pytest.fixture
def redis_server(lender: Lender) -> Iterator[Server]:
    """An empty server."""
    server = lender.lend("valkey")
    yield server
    server.close_clients()


@pytest.fixture(params=list(FLAVOURS))
def any_server(request: pytest.FixtureRequest, lender: Lender) -> Iterator[Server]:
    """An empty server; a test that uses it runs on each flavour."""
    server = lender.lend(request.param)
    yield server
    server.close_clients()


@pytest.fixture
def loaded(redis_server: Server) -> Server:
    """A server that holds the sample."""
    load(redis_server.client())
    return redis_server


@pytest.fixture
def start_server(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Starts servers, `start_server("redis", appendonly="yes")`, that end with the test."""
    servers: list[Server] = []

    def start(flavour: str = "valkey", **config: str) -> Server:
        _need(flavour)
        directory = tmp_path / "servers" / str(len(servers))
        servers.append(Server(directory, flavour, **config))
        return servers[-1].start()

    yield start
    for server in servers:
        server.close()


@pytest.fixture
def fresh_server(start_server: Callable[..., Server]) -> Server:
    """A server for this test alone, which may kill it."""
    return start_server()


@pytest.fixture(params=list(FLAVOURS))
def any_fresh_server(request: pytest.FixtureRequest, start_server: Callable[..., Server]) -> Server:
    """As `fresh_server`; a test that uses it runs on each flavour."""
    return start_server(request.param)


@pytest.fixture(scope="session")
def standing_clusters(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Cluster]]:
    """The cluster that stays between tests, last, after those that tests broke."""
    clusters: list[Cluster] = []
    yield clusters
    for cluster in clusters:
        cluster.stop()


@pytest.fixture
def redis_cluster(
    standing_clusters: list[Cluster], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Cluster]:
    """An empty cluster of three."""
    _need("valkey")
    if not (standing_clusters and standing_clusters[-1].is_healthy()):
        standing_clusters.append(Cluster(tmp_path_factory.mktemp("cluster")))
        standing_clusters[-1].start()
    cluster = standing_clusters[-1]
    cluster.flush()
    yield cluster
    cluster.close_clients()
