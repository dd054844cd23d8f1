"""Channel versions, as the official savers make them."""

from __future__ import annotations

import random
import re
from typing import Any

# Not the `random` module's own generator: seeded in a node, it would give the branches of a fork
# the same versions.
_random = random.SystemRandom()

_UNIQUE = re.compile(r"\d{32}\..{16,}\Z")


def next_version(current: str | int | float | None) -> str:
    """The version after `current`: text that sorts by number, with a random part that tells the
    branches of a fork apart (langgraph-checkpoint-postgres, `BasePostgresSaver.get_next_version`).
    """
    number = 0 if current is None else int(str(current).split(".")[0])
    return f"{number + 1:032}.{_random.random():016}"


def is_unique(version: Any) -> bool:
    """Whether a version has the random part, so that no other branch uses it for other values.

    Ints, floats and text of other kinds may come up again after a fork.
    """
    return type(version) is str and version[32:33] == "." and _UNIQUE.match(version) is not None
