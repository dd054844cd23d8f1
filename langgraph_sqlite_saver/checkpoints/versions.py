"""Channel versions, as the official savers make them."""

from __future__ import annotations

import random


def next_version(current: str | int | float | None) -> str:
    """The version after `current`: text that sorts by number, with a random part that tells the
    branches of a fork apart (langgraph-checkpoint-postgres, `BasePostgresSaver.get_next_version`).
    """
    number = 0 if current is None else int(str(current).split(".")[0])
    return f"{number + 1:032}.{random.random():016}"
