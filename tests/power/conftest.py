"""The recorder, compiled once for each process that runs tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from .rig import Rig, compile_recorder, why_not


@pytest.fixture(scope="session")
def recorder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library to preload; skips where there is none."""
    reason = why_not()
    if reason:
        pytest.skip(reason)
    return compile_recorder(tmp_path_factory.mktemp("recorder"))


@pytest.fixture
def rig(recorder: Path, tmp_path: Path) -> Rig:
    """Records workloads below the test's directory."""
    return Rig(recorder, tmp_path)
