"""Every round of a run as JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.benchmark import Result
from benchmarks.report import verdict


def write(path: Path, environment: dict[str, Any], results: Sequence[Result]) -> None:
    """Write what was measured, with what, and how it stands to the bars."""
    document = {**environment, "results": [_as_dict(result) for result in results]}
    path.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _as_dict(result: Result) -> dict[str, Any]:
    return {
        "benchmark": result.benchmark.name,
        "about": result.benchmark.about,
        "one_core": result.benchmark.one_core,
        "measured": result.metric.label,
        "more_is_better": result.metric.more_is_better,
        "summary": result.metric.summary,
        "values": result.values,
        "rounds": result.rounds,
        "bars": [
            {
                "ours": bar.ours,
                "against": bar.against,
                "bar": str(bar),
                "value": _finite(bar.value(result.values)),
                "verdict": verdict(bar, result),
            }
            for bar in result.metric.bars
        ],
    }


def _finite(value: float | None) -> float | None:
    """JSON knows no infinity."""
    return value if value is not None and math.isfinite(value) else None
