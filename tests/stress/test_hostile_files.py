"""What somebody else's file can make of a saver and of the command line: a value, or an error."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SEED = int(os.environ.get("HOSTILE_SEED") or 0)


def look_at(first: int, count: int, timeout: float) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.stress.hostile", str(first), str(count)],
        capture_output=True, text=True, timeout=timeout, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]


@pytest.mark.skipif(sys.platform != "linux", reason="memory is limited as Linux does it")
def test_a_changed_file_gives_values_or_errors() -> None:
    """Bytes and columns changed: within 1 GB and 10 s a step, and no other exception."""
    look_at(SEED, 30, timeout=110)


@pytest.mark.soak
@pytest.mark.skipif(sys.platform != "linux", reason="memory is limited as Linux does it")
def test_thousands_of_changed_files_give_values_or_errors() -> None:
    """As above, for some minutes."""
    look_at(SEED + 1_000_000, 1500, timeout=1700)
