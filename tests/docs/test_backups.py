"""docs/backups.md: its commands and its program work, one after the other."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

from langgraph_sqlite_saver import SqliteSaver

PAGE = (Path(__file__).parents[2] / "docs" / "backups.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(sh|python)\n(.*?)```", PAGE, re.DOTALL)


def test_what_the_page_shows_works(tmp_path: Path) -> None:
    """A backup, a compressed one, and the way back."""
    with SqliteSaver(tmp_path / "agent.db") as saver:
        saver.setup()
    assert [kind for kind, _ in BLOCKS] == ["sh", "python", "sh", "python"]
    for kind, text in BLOCKS:
        if kind == "python":
            command = ["-c", text]
        else:
            name, *args = shlex.split(text)
            assert name == "langgraph-sqlite"
            command = ["-m", "langgraph_sqlite_saver.cli", *args]
        done = subprocess.run(
            [sys.executable, *command], cwd=tmp_path, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, done.stderr
    assert len(list(tmp_path.glob("agent.db.before-restore-*"))) == 1
    assert len(list(tmp_path.glob("backups/*.db.gz"))) == 1
