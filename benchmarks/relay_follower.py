"""A follower in a process of its own: `python -m benchmarks.relay_follower URL PATH`.

Goes through all keys twice, and prints as JSON the seconds of each pass and its peak memory.
"""

from __future__ import annotations

import json
import resource
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

from langgraph_sqlite_saver.relay import RelayStore
from langgraph_sqlite_saver.relay.follow import Follower


class Passes(Follower):
    """Goes through all keys twice, and notes how long that takes."""

    seconds: Sequence[float] = ()

    def _pass(self, **options: Any) -> None:
        start = perf_counter()
        super()._pass(**options)
        self.seconds = (*self.seconds, perf_counter() - start)
        if len(self.seconds) == 2:
            self._stop.set()


def follow(url: str, path: str) -> dict[str, float]:
    """The seconds of two passes, and the megabytes of memory at their peak."""
    with RelayStore(path, url, heal=False) as store:
        follower = Passes(store, scan_interval=0, report=to_stderr)
        follower.run(threading.Event())
    first, second = follower.seconds
    return {"first": first, "second": second, "peak": _peak()}


def _peak() -> float:
    """Megabytes: where Linux tells, of this program alone, without who started it."""
    status = Path("/proc/self/status")
    if status.exists():
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return int(lines["VmHWM"].split()[0]) * 1024 / 1e6
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def to_stderr(line: str) -> None:
    """What a follower has to say is no figure."""
    print(f"    follower: {line}", file=sys.stderr)


if __name__ == "__main__":
    print(json.dumps(follow(*sys.argv[1:])))
