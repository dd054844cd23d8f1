"""The vocabulary of these tests: operations, threads, processes, one face for sync and async."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import closing
from pathlib import Path
from typing import Any

from langgraph_sqlite_saver.database import AsyncDatabase, Database, Migration, Schema

# A deadlock fails its test after this long, in seconds.
DEADLOCK = 50


class Refused(Exception):
    """What an operation of a test raises."""


# Operations.


def create(conn: sqlite3.Connection) -> None:
    conn.execute("CREATE TABLE IF NOT EXISTS numbers (n INTEGER)")


def insert(conn: sqlite3.Connection, *numbers: int) -> None:
    conn.executemany("INSERT INTO numbers VALUES (?)", [(n,) for n in numbers])


def insert_and_fail(conn: sqlite3.Connection, *numbers: int) -> None:
    insert(conn, *numbers)
    raise Refused


def numbers(conn: sqlite3.Connection) -> list[int]:
    return [n for (n,) in conn.execute("SELECT n FROM numbers ORDER BY n")]


def pragma(conn: sqlite3.Connection, name: str) -> Any:
    return conn.execute(f"PRAGMA {name}").fetchone()[0]


def in_transaction(conn: sqlite3.Connection) -> bool:
    return conn.in_transaction


class Gate:
    """An operation that stays inside until it is opened."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self._open = threading.Event()

    def __call__(self, conn: sqlite3.Connection, *numbers: int) -> None:
        insert(conn, *numbers)
        self.wait(conn)

    def wait(self, conn: sqlite3.Connection) -> None:
        self.entered.set()
        assert self._open.wait(DEADLOCK)

    def open(self) -> None:
        self._open.set()


# Faces: the blocking database, and the awaitable one driven from threads.


class OnLoop:
    """An `AsyncDatabase` on an event loop of its own, called like a `Database`."""

    def __init__(self, new_loop: Callable[[], Any], target: Any, **options: Any) -> None:
        self.database = AsyncDatabase(target, **options)
        self._loop = new_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()

    def _wait(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(2 * DEADLOCK)

    def read(self, op: Any, *args: Any, **kwargs: Any) -> Any:
        return self._wait(self.database.read(op, *args, **kwargs))

    def read_first(self, op: Any, *args: Any, **kwargs: Any) -> Any:
        return self._wait(self.database.read_first(op, *args, **kwargs))

    def read_long(self, op: Any, *args: Any, **kwargs: Any) -> Any:
        return self._wait(self.database.read_long(op, *args, **kwargs))

    def write(self, op: Any, *args: Any, **kwargs: Any) -> Any:
        return self._wait(self.database.write(op, *args, **kwargs))

    def maintain(self, op: Any, *args: Any, **kwargs: Any) -> Any:
        return self._wait(self.database.maintain(op, *args, **kwargs))

    def close(self) -> None:
        self._wait(self.database.close())

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(DEADLOCK)
        self._loop.close()


def blocking(db: Any) -> Database:
    """The blocking database behind a face."""
    return db.database.database if isinstance(db, OnLoop) else db


def queued(db: Any) -> int:
    """How many operations wait for the one that is being run."""
    return len(blocking(db)._lane._queue)


# Threads.


def in_thread(function: Callable[..., Any], *args: Any) -> Future[Any]:
    """Run a function on a thread of its own."""
    future: Future[Any] = Future()

    def run() -> None:
        try:
            future.set_result(function(*args))
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future


def outcome(future: Future[Any]) -> Any:
    """What a thread's function returned, or the error that it raised."""
    return future.exception(DEADLOCK) or future.result()


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLOCK
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.001)


def write_together(db: Any, *writes: tuple[Any, ...]) -> list[Future[Any]]:
    """Writes that wait behind another one, and so share a transaction; answered when returned."""
    gate = Gate()
    first = in_thread(db.write, gate)
    assert gate.entered.wait(DEADLOCK)
    futures = []
    for write in writes:
        futures.append(in_thread(db.write, *write))
        wait_until(lambda: queued(db) == len(futures))
    gate.open()
    assert outcome(first) is None
    for future in futures:
        future.exception(DEADLOCK)
    return futures


# Other connections and processes.


def outside(path: Path, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
    """What a plain connection beside the library sees or does."""
    with closing(sqlite3.connect(path)) as conn, conn:
        return conn.execute(sql, parameters).fetchall()


def stored(path: Path) -> list[int]:
    """The numbers that are committed."""
    return [n for (n,) in outside(path, "SELECT n FROM numbers ORDER BY n")]


def check_integrity(path: Path) -> None:
    assert outside(path, "PRAGMA integrity_check") == [("ok",)]


def beside(path: Path) -> set[str]:
    """The names of the files in the database's directory, but for its own."""
    return {each.name for each in path.parent.iterdir()} - {path.name}


PRELUDE = f"""
import asyncio, os, signal, sqlite3, sys, threading, time
from pathlib import Path
sys.path.insert(0, {str(Path(__file__).parent.parent)!r})
from database.helpers import *
from langgraph_sqlite_saver.database import *
"""


def script(code: str, *args: Any) -> list[str]:
    """A command that runs code with these helpers, strict about warnings and unclosed files."""
    text = PRELUDE + textwrap.dedent(code)
    return [sys.executable, "-X", "dev", "-W", "error", "-c", text, *map(str, args)]


def run_script(code: str, *args: Any) -> str:
    """What the code printed, having ended well, in time, and without a warning."""
    done = subprocess.run(
        script(code, *args), capture_output=True, text=True, timeout=2 * DEADLOCK, cwd="/"
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.strip()


def as_nobody(code: str, *args: Any) -> str:
    """As `run_script`, with a user's rights instead of root's."""
    return run_script("os.setgid(65534); os.setuid(65534)\n" + textwrap.dedent(code), *args)


def forked(function: Callable[[], Any]) -> int:
    """Fork a child that runs the function and exits; its id. Success is exit code 0."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        function()
        code = 0
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def ended_well(pid: int) -> bool:
    """Whether the child ends, in time, with exit code 0."""
    deadline = time.monotonic() + DEADLOCK
    while True:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return status == 0
        if time.monotonic() > deadline:
            os.kill(pid, 9)
            os.waitpid(pid, 0)
            return False
        time.sleep(0.002)


# Schemas.


def schema(*statements: str, table: str = "own_migrations", **options: Any) -> Schema:
    """A component whose n-th migration is the n-th text."""
    migrations = (Migration(n, f"{n:04}_step.sql", sql) for n, sql in enumerate(statements, 1))
    return Schema(table, tuple(migrations), **options)


def versions(path: Path, table: str = "own_migrations") -> list[int]:
    """The versions recorded as applied."""
    return [v for (v,) in outside(path, f"SELECT v FROM {table} ORDER BY v")]


def all_ok(results: Sequence[Any]) -> bool:
    return all(each is None for each in results)
