"""Erasing a thread: what docs/operating.md says leaves no byte of it in the file or beside it."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from langgraph_sqlite_saver import SqliteSaver

from .helpers import get, save

GONE, KEPT = "[of the erased]", "[of the others]"


@pytest.fixture(params=["sync", "async"])
def open_(request: Any, open_driver: Any, database_path: Path) -> Callable[..., Any]:
    """Opens savers of one class on the test's file, with SQLite's setting."""
    return lambda setting: open_driver(
        request.param, database_path, pragmas={"secure_delete": setting}
    )


def fill(saver: Any, start: int = 1, stop: int = 25) -> None:
    """Threads side by side on the same pages, with values of all sizes, writes and metadata."""
    noise = random.Random(start)

    def text(mark: str, most: int) -> str:
        return mark + noise.randbytes(noise.randrange(most)).hex()

    for number in range(start, stop):
        for mark in (GONE, KEPT):
            made = save(
                saver,
                number,
                {"short": text(mark, 30), "blob": [text(mark, 1500)], "pages": [text(mark, 9000)]},
                thread=f"thread {mark}",
                metadata={"who": text(mark, 100), "run_id": f"{number} {mark}"},
                parent=number - 1 or None,
            )
            saver.put_writes(made, [("short", text(mark, 300))], f"task {mark}")


COUNT = """
import json, pathlib, sys
files = [each for each in pathlib.Path(sys.argv[1]).iterdir() if each.is_file()]
found = {each.name: each.read_bytes().count(sys.argv[2].encode()) for each in files}
print(json.dumps({name: count for name, count in found.items() if count}))
"""


def traces(directory: Path, mark: str = GONE) -> dict[str, int]:
    """How often a text is found in each file, whatever SQLite takes that place for.

    By another process: a file that is open here is opened by SQLite only, for its locks' sake.
    """
    found = subprocess.check_output([sys.executable, "-c", COUNT, directory, mark], text=True)
    counts: dict[str, int] = json.loads(found)
    return counts


def test_a_thread_is_erased_with_secure_delete(open_: Any, database_path: Path) -> None:
    """In the file and in the -wal, after pruning, copying and compacting too; the others stay."""
    saver, thread = open_("ON"), f"thread {GONE}"
    fill(saver)
    assert traces(database_path.parent)
    saver.prune([thread], keep_last=5)
    saver.copy_thread(thread, f"{thread}, copied")
    saver.compact()
    fill(saver, 25, 35)
    saver.delete_thread(thread)
    saver.delete_thread(f"{thread}, copied")
    saver.optimize()
    assert saver.stats().wal_bytes < 10_000  # a page
    assert traces(database_path.parent) == {}
    assert traces(database_path.parent, KEPT)
    assert get(saver, 34, thread=f"thread {KEPT}") is not None
    assert saver.check() == []


def test_what_was_deleted_before_is_erased_by_writing_the_file_anew(
    open_: Any, database_path: Path
) -> None:
    """Without the setting a deleted thread's text stays until something takes its place."""
    saver = open_("OFF")
    fill(saver)
    saver.delete_thread(f"thread {GONE}")
    saver.optimize()
    assert traces(database_path.parent)
    saver.optimize(vacuum="full")
    assert saver.stats().wal_bytes < 10_000  # a page
    assert traces(database_path.parent) == {}


def test_backups_hold_what_the_file_held(open_: Any, database_path: Path) -> None:
    """Those from before have the thread; those from afterwards no trace of it."""
    saver = open_("ON")
    fill(saver)
    for name in ("before.db", "after.db"):
        (database_path.parent / name).mkdir()
        saver.backup(database_path.parent / name / "backup.db")
        saver.delete_thread(f"thread {GONE}")
    assert traces(database_path.parent / "before.db")
    assert traces(database_path.parent / "after.db") == {}


def test_a_misspelt_setting_is_refused(database_path: Path) -> None:
    """SQLite would take it for OFF, in silence."""
    for wrong in ("ONN", "always", 3):
        with pytest.raises(ValueError, match="secure_delete"):
            SqliteSaver(database_path, pragmas={"secure_delete": wrong})
    for right in ("on", True, "FAST", 0):
        SqliteSaver(database_path, pragmas={"secure_delete": right})
