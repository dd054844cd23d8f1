"""What docs/moving.md shows works when pasted, and the pages of docs/ have no dead links."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from langgraph.checkpoint.base import empty_checkpoint
from langgraph.checkpoint.sqlite import SqliteSaver as OfficialSaver
from savers.helpers import chain, place
from transfer.postgres_server import PostgresServer

from langgraph_sqlite_saver import SqliteSaver

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


def test_sql_that_is_said_to_work_works(tmp_path: Path) -> None:
    """And the thread whose rows a program deleted goes on empty."""
    with SqliteSaver(tmp_path / "agent.db") as saver:
        chain(saver, 3)
        conn = saver.conn
        (metadata,) = conn.execute(
            "SELECT max(json_extract(metadata, '$.step')) FROM checkpoints GROUP BY thread_id"
        ).fetchone()
        assert metadata == 3
        conn.execute("DELETE FROM checkpoints WHERE thread_id = ?", ("t",))
        conn.commit()
        assert saver.get_tuple(place()) is None
        chain(saver, 2)
        assert saver.get_tuple(place()).checkpoint["channel_values"] == {"list": [2]}
        saver.delete_thread("t")
        assert conn.execute("SELECT count(*) FROM checkpoint_blobs").fetchone() == (0,)
