"""What docs/moving.md shows works when pasted, and the pages of docs/ have no dead links."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from langgraph.checkpoint.base import empty_checkpoint
from langgraph.checkpoint.sqlite import SqliteSaver as OfficialSaver
from savers.helpers import place
from transfer.postgres_server import PostgresServer

DOCS = Path(__file__).parents[2] / "docs"
PAGES = sorted(DOCS.glob("*.md"))


def test_the_snippets_move_a_file_in_and_out(tmp_path: Path) -> None:
    """One after the other, with a real server's address in place of the one that is shown."""
    with OfficialSaver.from_conn_string(str(tmp_path / "old.db")) as saver:
        saver.put(place(), empty_checkpoint(), {}, {})
    shown = re.findall(r"```python\n(.*?)```", (DOCS / "moving.md").read_text(), re.DOTALL)
    assert len(shown) == 2
    server = PostgresServer()
    try:
        uri = server.new_database()
        said = [
            run(each.replace("postgresql://user@host/database", uri), tmp_path) for each in shown
        ]
    finally:
        server.close()
    assert [each.partition(" ")[0] for each in said] == ["1", "1"]


def run(snippet: str, folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-c", snippet], cwd=folder, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_a_page_links_to_exist(page: Path) -> None:
    """No dead link to a file of the repository."""
    links = re.findall(r"\]\((?!http)([^)#]+)\)", page.read_text())
    assert all((DOCS / link).exists() for link in links)
