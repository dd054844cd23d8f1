"""How a move asks: every query of the file runs on an index."""

from __future__ import annotations

import re
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from langgraph_sqlite_saver import SqliteSaver
from langgraph_sqlite_saver.transfer import emptying, postgres_refusals

STATEMENTS = {
    name: text
    for module in (emptying, postgres_refusals)
    for name, text in vars(module).items()
    if name.isupper() and not name.startswith("_") and isinstance(text, str) and "SELECT" in text
}

# Reads the whole index, as it has to.
WHOLE_TABLE = {"COUNT"}

TABLES = {"checkpoints", "checkpoint_blobs", "checkpoint_writes", "c", "b", "w"}


@pytest.mark.parametrize("name", STATEMENTS)
def test_every_query_of_the_file_runs_on_an_index(database_path: Path, name: str) -> None:
    """SEARCH, not SCAN, but for those that are known to read whole tables."""
    text = re.sub(r":(thread|magic)", "?", STATEMENTS[name])
    parameters = ["{}"] * text.count("?")
    with SqliteSaver(database_path) as saver:
        saver.setup()
    with closing(sqlite3.connect(database_path)) as conn:
        found = conn.execute(f"EXPLAIN QUERY PLAN {text}", parameters)
        # SQLite 3.35 says "SCAN TABLE checkpoints AS c", later ones "SCAN c".
        plan = [re.sub(r"^(\w+) TABLE (?:\w+ AS )?", r"\1 ", row[-1]) for row in found]
    scans = [line for line in plan if line.startswith("SCAN") and line.split()[1] in TABLES]
    assert bool(scans) == (name in WHOLE_TABLE), plan
