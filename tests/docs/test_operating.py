"""docs/operating.md: its programs work when pasted."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from langgraph.checkpoint.serde.encrypted import EncryptedSerializer
from savers.helpers import converse, expect, get, place, rows, save

PAGE = (Path(__file__).parents[2] / "docs" / "operating.md").read_text(encoding="utf-8")
OLD, NEW = "an old key of 16", "a new key, of 16"
PROGRAMS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


@pytest.mark.parametrize("program", PROGRAMS, ids=range(len(PROGRAMS)))
def test_what_the_page_shows_works(program: str, tmp_path: Path) -> None:
    """Each program runs alone, in an empty directory, without a warning."""
    for module in ("opentelemetry", "prometheus_client"):
        if f"from {module}" in program:
            pytest.importorskip(module)
    run(program, tmp_path)


def run(program: str, directory: Path) -> str:
    """What a program prints."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "OLD_KEY": OLD, "NEW_KEY": NEW},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_the_key_is_changed_as_the_page_says(open_driver: Any, tmp_path: Path, mode: str) -> None:
    """Of whole values, differences and writes; twice does no harm. Then the old key reads nothing,
    and the new one everything.
    """
    (program,) = (each for each in PROGRAMS if "change_key" in each)
    path, first, second = tmp_path / "agent.db", serializer(OLD), serializer(NEW)
    with closing(open_driver(mode, path, serde=first).saver) as saver:
        converse(saver, 60)
        save(saver, 1, {"n": 1, "short": "text", "list": [1]}, thread="other")
        saver.put_writes(place(1, "other"), [("list", ["written"])], "task")
    assert run(program, tmp_path) == "0 values that the new key does not read\n"
    before = path.stat().st_size
    assert run(program, tmp_path) == "0 values that the new key does not read\n"
    assert path.stat().st_size == before
    saver = open_driver(mode, path, serde=second)
    expect(saver, 60)
    assert get(saver, 1, "other").pending_writes == [("task", "list", ["written"])]
    converse(saver, 62, start=61)  # rests on what was enciphered anew
    expect(saver, 62)
    values = len(rows(path, "SELECT 1 FROM checkpoint_blobs WHERE blob IS NOT NULL"))
    writes = len(rows(path, "SELECT 1 FROM checkpoint_writes"))
    saver = open_driver(mode, path, serde=first)
    assert len(saver.check()) == values + writes


def serializer(key: str) -> EncryptedSerializer:
    return EncryptedSerializer.from_pycryptodome_aes(key=key.encode())
