"""A follower in a process of its own: `python -m benchmarks.relay_follower URL PATH`.

Goes through all keys twice, and prints as JSON the seconds of each pass and its peak memory.
"""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Sequence
from time import perf_counter
from typing import Any

from benchmarks.memory import peak_megabytes
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
    return {"first": first, "second": second, "peak": peak_megabytes()}


def to_stderr(line: str) -> None:
    """What a follower has to say is no figure."""
    print(f"    follower: {line}", file=sys.stderr)


if __name__ == "__main__":
    print(json.dumps(follow(*sys.argv[1:])))
