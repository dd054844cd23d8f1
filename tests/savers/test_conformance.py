"""The public conformance suite of LangGraph, which calls a saver's async methods."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from langgraph.checkpoint.conformance.initializer import checkpointer_test
from langgraph.checkpoint.conformance.report import ProgressCallbacks
from langgraph.checkpoint.conformance.validate import validate

from langgraph_sqlite_saver import AsyncSqliteSaver, SqliteSaver


@pytest.mark.parametrize("kind", [AsyncSqliteSaver, SqliteSaver])
def test_all_eight_capabilities_are_detected_and_pass(kind: Any, tmp_path: Path) -> None:
    """Each test of the suite gets a fresh file."""
    numbers = count()
    failures: list[str] = []

    @checkpointer_test(name=kind.__name__)
    async def fresh_saver() -> AsyncIterator[Any]:
        saver = kind(tmp_path / f"{next(numbers)}.db")
        yield saver
        await asyncio.to_thread(saver.close)

    def note(capability: str, test: str, passed: bool, error: str | None) -> None:
        if not passed:
            failures.append(f"{capability}: {test}: {error}")

    callbacks = ProgressCallbacks(on_test_result=note)
    report = asyncio.run(validate(fresh_saver, progress=callbacks))

    assert failures == []
    assert report.passed_all_base()
    assert len(report.results) == 8
    assert all(result.detected and result.passed for result in report.results.values())
