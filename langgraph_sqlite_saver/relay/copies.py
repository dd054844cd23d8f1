"""Whether a Redis that was restarted came up with an older copy of its keys.

Without an append-only file it starts from its last snapshot, and nothing that it says tells of
that. What was followed until it stopped tells: a key whose state Redis cannot have come to from the
one that was followed is older.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from . import commands, keys, layout, losses, trash
from .asking import Ask, ask
from .commands import KeyState
from .keys import Row
from .layout import raw
from .mirror import Found
from .store import RelayStore
from .values import Value

# It must have been followed until so shortly before it started, and have started so shortly before
# now, in milliseconds: in between nobody could change much that is not known of.
_GAP = 60_000

# What begins so, requests add to.
_COUNTED = (b"usage:", b"account_usage:")
_TIMES = (b"updatedAt", b"lastRefreshAt")
_USE = b"lastUsedAt"


def is_older_copy(store: RelayStore, started_at: int, followed_at: int) -> bool:
    """Whether the store's Redis started a moment ago, from an older state than was followed.

    `followed_at`: until when it was; both in ms since 1970.
    """
    if started_at - followed_at > _GAP or keys.now_ms() - started_at > _GAP:
        return False
    return _has_back_what_was_deleted(store) or any(
        _is_older(row, value, there)
        for page in losses.pages(store.database)
        for row, value, there in _side_by_side(store, page)
    )


def what_was_deleted(store: RelayStore) -> list[bytes]:
    """Keys whose deletion was followed, and which Redis has."""
    found: list[bytes] = []
    names = [raw(name) for name in store.database.read(trash.names, 0)]
    for start in range(0, len(names), losses.PAGE):
        part = names[start : start + losses.PAGE]
        known = store.database.read(keys.rows, part)
        there = ask(store.redis, Ask([("EXISTS", name) for name in part]))
        found += [n for n, exists in zip(part, there, strict=True) if exists and n not in known]
    return found


def _has_back_what_was_deleted(store: RelayStore) -> bool:
    return any(losses.is_record(name) for name in what_was_deleted(store))


def _side_by_side(store: RelayStore, page: Sequence[Row]) -> list[tuple[Row, Value, Found]]:
    held = store.database.read(keys.values_of, page)
    there = store.healer.mirror.look([row.key for row in page])
    return list(zip(page, held, there, strict=True))


def _is_older(row: Row, held: Value, found: Found) -> bool:
    there = found.value
    if there is None or there == held or row.type in ("list", "stream"):
        return False
    if there.type != held.type:
        return True
    if commands.is_counter(KeyState(row.key, held)):  # a lower one is seen elsewhere
        return False
    if held.type == "string":
        return True
    if held.type == "hash" and losses.is_record(row.key):
        return _is_older_record(held.fields(), there.fields())
    if layout.is_index(row.key) or row.key.startswith(_COUNTED):
        return not _has_grown(dict(held.members()), dict(there.members()), held.type)
    return True


def _is_older_record(held: Mapping[bytes, bytes], there: Mapping[bytes, bytes]) -> bool:
    """Whether it lacks a change, which a relay's later one would have come with a time of."""
    if any(there.get(name, b"") > held.get(name, b"") for name in _TIMES):
        return False
    return any(held[name] != there.get(name) for name in held.keys() - {_USE})


def _has_grown(
    held: Mapping[bytes, bytes | None], there: Mapping[bytes, bytes | None], kind: str
) -> bool:
    """Whether all that was held is there, with the same values, or higher scores."""
    if kind != "zset":
        return held.items() <= there.items()
    return all(
        name in there and float(there[name] or 0) >= float(score or 0)
        for name, score in held.items()
    )
