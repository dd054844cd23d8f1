"""What a run depends on: versions, settings, the machine, and what its disk takes to commit."""

from __future__ import annotations

import os
import platform
import sqlite3
import statistics
from contextlib import closing
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir
from time import perf_counter
from typing import Any

PACKAGES = (
    "langgraph-sqlite-saver",
    "langgraph",
    "langgraph-checkpoint",
    "langgraph-checkpoint-sqlite",
    "aiosqlite",
    "ormsgpack",
)


def describe(*, quick: bool, rounds: int) -> dict[str, Any]:
    """Everything that is printed and stored beside the numbers."""
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "versions": {
            "python": platform.python_version(),
            "sqlite": sqlite3.sqlite_version,
            **{package: _version(package) for package in PACKAGES},
        },
        "machine": {
            "platform": platform.platform(),
            "cpus": os.cpu_count(),
            "load": os.getloadavg()[0],
            "folder": gettempdir(),
            "fsync_us": _fsync_us(),
        },
        "settings": {
            "quick": quick,
            "rounds": rounds,
            "synchronous": {
                "ours": "NORMAL unless FULL is asked for",
                "official": f"{_sqlite_default()} unless NORMAL is asked for",
            },
        },
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _sqlite_default() -> str:
    with closing(sqlite3.connect(":memory:")) as conn:
        level = conn.execute("PRAGMA synchronous").fetchone()[0]
    return ("OFF", "NORMAL", "FULL", "EXTRA")[level]


def _fsync_us() -> float:
    """The median microseconds to flush 8 KB: what `synchronous=FULL` pays at each commit."""
    times = []
    with TemporaryDirectory() as folder, (Path(folder) / "probe").open("wb", buffering=0) as file:
        for _ in range(50):
            file.write(b"\0" * 8192)
            start = perf_counter()
            os.fsync(file.fileno())
            times.append(perf_counter() - start)
    return round(statistics.median(times) * 1e6, 1)
