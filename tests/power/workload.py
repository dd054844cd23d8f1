"""What runs under the recorder: each function is a workload, in a directory of its own.

    python tests/power/workload.py NAME DIRECTORY OPTIONS

A workload tells the record what begins and what has returned: the order of these marks and of what
was written is the order in which things happened.
"""

from __future__ import annotations

import json
import random
import sys
import threading
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from stress import steps
from stress.victim import Op, Task, program

from langgraph_sqlite_saver import SqliteSaver, restore_backup
from langgraph_sqlite_saver.database import Database, migrations
from langgraph_sqlite_saver.database.archives import write_backup
from langgraph_sqlite_saver.database.migrations import Schema
from power.mistakes import mark

# The -wal is copied into the file, begun anew and cut every few commits.
RESTLESS = {"wal_autocheckpoint": 12, "journal_size_limit": 20000}
FIRST_DAY = datetime(2026, 1, 1)
DAYS_BETWEEN, DAYS_KEPT = 3, 4
BACKUP_STEPS = 12


# Saving.


def saves(
    folder: Path, *, seed: int, synchronous: str, workers: int, operations: int, sessions: int = 2
) -> None:
    """Workers on one saver, each with its own program; it is closed and opened anew in between."""
    task = Task("sync", "", "", seed, workers)
    programs = [program(task, worker) for worker in range(workers)]
    pragmas = {**RESTLESS, "synchronous": synchronous}
    for _ in range(sessions):
        with SqliteSaver(folder / "agent.db", history=task.history, pragmas=pragmas) as saver:
            threads = [
                threading.Thread(target=_save, args=(saver, seed, worker, ops, operations))
                for worker, ops in enumerate(programs)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()


def _save(saver: SqliteSaver, seed: int, worker: int, ops: Iterator[Op], count: int) -> None:
    chance = random.Random(f"upkeep {seed} {worker}")
    for _ in range(count):
        op = next(ops)
        mark(f"start {worker}")
        getattr(saver, op.name)(*op.arguments, **op.options)
        mark(f"done {worker}")
        if worker == 0 and chance.random() < 0.15:
            saver.optimize(vacuum=chance.choice((None, "incremental", "incremental", "full")))


# Backups.


def backups(folder: Path, *, synchronous: str) -> None:
    """One backup that is replaced again and again, and archives of which old ones are removed."""
    pragmas = {**RESTLESS, "synchronous": synchronous}
    with SqliteSaver(folder / "agent.db", pragmas=pragmas) as saver:
        for n in range(BACKUP_STEPS):
            steps.save(saver, "thread", n)
            mark("start backup")
            saver.backup(folder / "copy.db")
            mark("done backup")
            if n % 3 == 2:
                _archive(saver, folder, n)


def day_of(n: int) -> datetime:
    """When the archive of a step was made."""
    return FIRST_DAY + timedelta(days=n // 3 * DAYS_BETWEEN)


def _archive(saver: SqliteSaver, folder: Path, n: int) -> None:
    mark("start archive")
    target = folder / "backups" / "sqlite"
    write_backup(saver.database, target, keep_days=DAYS_KEPT, now=lambda: day_of(n))
    mark("done archive")


# Restoring.


def restore(folder: Path, *, backup: str, keep: bool) -> None:
    """A backup takes the place of agent.db, and is used then."""
    mark("start restore")
    restore_backup(folder / backup, folder / "agent.db", keep=keep)
    mark("done restore")
    with SqliteSaver(folder / "agent.db", pragmas={"synchronous": "FULL"}) as saver:
        steps.save(saver, "later", 0)
        mark("done save")


# Migrations.

RELAY = migrations.load_migrations("langgraph_sqlite_saver.migrations", "relay")


def relay_schema(version: int) -> Schema:
    """The relay's tables as of a version."""
    return Schema("relay_migrations", RELAY[:version])


def migrate(folder: Path, *, synchronous: str) -> None:
    """Another component's tables, one version after the other."""
    for version in range(1, len(RELAY) + 1):
        pragmas = {"synchronous": synchronous}
        with Database(
            folder / "relay.db", schemas=[relay_schema(version)], pragmas=pragmas
        ) as database:
            mark(f"start {version}")
            database.open()
            mark(f"done {version}")


if __name__ == "__main__":
    options: dict[str, Any] = json.loads(sys.argv[3])
    globals()[sys.argv[1]](Path(sys.argv[2]), **options)
