"""docs/operating.md: its programs work when pasted."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = (Path(__file__).parents[2] / "docs" / "operating.md").read_text(encoding="utf-8")
PROGRAMS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


@pytest.mark.parametrize("program", PROGRAMS, ids=range(len(PROGRAMS)))
def test_what_the_page_shows_works(program: str, tmp_path: Path) -> None:
    """Each program runs alone, in an empty directory, without a warning."""
    for module in ("opentelemetry", "prometheus_client"):
        if f"from {module}" in program:
            pytest.importorskip(module)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
