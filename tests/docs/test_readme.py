"""What the README shows works when pasted."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SNIPPETS = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)


def test_readme_has_snippets() -> None:
    """The test below has something to run."""
    assert len(SNIPPETS) >= 4


@pytest.mark.parametrize("snippet", SNIPPETS, ids=range(len(SNIPPETS)))
def test_snippet_runs_when_pasted(snippet: str, tmp_path: Path) -> None:
    """Each snippet runs alone, in an empty directory, without a warning of ours."""
    done = subprocess.run(
        [sys.executable, "-W", "error::ResourceWarning", "-c", snippet],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr


def test_files_that_the_readme_links_to_exist() -> None:
    """No dead link to a file of the repository."""
    links = re.findall(r"\]\((?!http)([^)#]+)\)", (ROOT / "README.md").read_text())
    assert links
    assert all((ROOT / link).exists() for link in links)
