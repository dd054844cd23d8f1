"""Deleting: threads, runs, and all but the newest checkpoints; no orphan is left behind.

Each function works on one thread, inside one transaction, on what is there then: a checkpoint
that was saved meanwhile stays, with all its blobs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from sqlite3 import Connection
from typing import Any

from langgraph.checkpoint.serde.types import TASKS

from ..database import InvalidInputError
from . import sql
from .config import checked_limit
from .contents import Contents
from .damage import in_any_text, is_key, load_metadata, try_document
from .delta import Ancestor, Seeds, ancestors
from .errors import DamagedError
from .history import Encoder
from .jsontext import parameter
from .overview import is_older_than
from .reading import SENDS_INSIDE, Row
from .rebasing import Key, delete_unreferenced
from .values import blob_keys


def delete_thread(conn: Connection, thread_id: str) -> None:
    """Delete a thread: every namespace, its writes and blobs. A missing one is no error."""
    for statement in sql.DELETE_THREAD:
        conn.execute(statement, (thread_id,))


@in_any_text
def expire_thread(conn: Connection, thread_id: str, moment: datetime) -> bool:
    """Delete a thread if its newest checkpoint was made before `moment`, which is looked up here:
    it may have moved on since it was chosen.
    """
    if not is_older_than(conn, thread_id, moment):
        return False
    delete_thread(conn, thread_id)
    return True


# --- delete_for_runs


@in_any_text
def checkpoints_of_runs(
    conn: Connection, run_ids: Sequence[str]
) -> dict[str, dict[str, dict[str, None]]]:
    """The checkpoints that runs made: thread id -> namespace -> checkpoint ids."""
    found: dict[str, dict[str, dict[str, None]]] = {}
    for thread_id, ns, checkpoint_id in conn.execute(
        sql.SELECT_RUNS_CHECKPOINTS, (parameter(run_ids),)
    ):
        if is_key(thread_id) and is_key(ns):
            found.setdefault(thread_id, {}).setdefault(ns, {})[checkpoint_id] = None
    return found


@in_any_text
def delete_runs_in_thread(
    conn: Connection, encoder: Encoder, thread_id: str, run_ids: Sequence[str]
) -> None:
    """Delete what the runs made in one thread, but for what remaining values are rebuilt from.

    A remaining checkpoint whose parent went gets the nearest ancestor that is left as its parent.
    """
    for ns, made in checkpoints_of_runs(conn, run_ids).get(thread_id, {}).items():
        remaining = (row for row in _newest(conn, thread_id, ns, -1) if row[2] not in made)
        needed = _needed(conn, encoder, thread_id, ns, remaining)
        doomed = [each for each in made if each not in needed and is_key(each)]
        freed = _blob_keys_of(conn.execute(sql.SELECT_SOME, (thread_id, ns, parameter(doomed))))
        _adopt_children(conn, thread_id, ns, doomed)
        _delete_checkpoints(conn, thread_id, ns, doomed)
        delete_unreferenced(conn, encoder, (thread_id, ns), freed)


def _adopt_children(conn: Connection, thread_id: str, ns: str, doomed: Sequence[str]) -> None:
    place = (thread_id, ns, parameter(doomed))
    parent_of = dict(conn.execute(sql.SELECT_PARENTS, place).fetchall())
    gone = set(doomed)
    for child, parent in conn.execute(sql.SELECT_CHILDREN, place).fetchall():
        if child in gone or not is_key(child):
            continue
        seen = set()
        while parent in gone and parent not in seen:
            seen.add(parent)
            parent = parent_of.get(parent)
        adopter = None if parent in gone or not is_key(parent) else parent
        conn.execute(sql.SET_PARENT, (adopter, thread_id, ns, child))


# --- prune


# The largest int that SQLite takes.
_LARGEST = 2**63 - 1


def checked_keep(strategy: str, keep_last: int | None) -> int:
    """How many checkpoints a strategy keeps for each namespace; 0 deletes the thread."""
    if strategy not in ("keep_latest", "delete"):
        raise InvalidInputError(
            f"unknown prune strategy {strategy!r}: use 'keep_latest' or 'delete'"
        )
    keep = checked_limit(keep_last, "keep_last")
    if strategy == "delete":
        if keep:
            raise InvalidInputError("strategy='delete' keeps nothing: leave keep_last out")
        return 0
    if keep == 0:
        raise InvalidInputError("keep_last must be 1 or more; strategy='delete' keeps nothing")
    return min(keep or 1, _LARGEST)


@in_any_text
def prune(conn: Connection, encoder: Encoder, thread_id: str, keep: int) -> None:
    """Keep the newest `keep` checkpoints of each namespace, and what their values need.

    That is: the ancestors a DeltaChannel's value is rebuilt from, and the parent that a checkpoint
    of format v < 4 has its pending sends from. A subgraph call's namespace (it has a ":") goes
    with the root checkpoint it started from, once that one is saved and pruned.

    Checkpoints that cannot be read count as others do. Whatever one that stays may need stays too.
    """
    found = conn.execute(sql.SELECT_NAMESPACES, (thread_id,)).fetchall()
    namespaces = [ns for (ns,) in found if is_key(ns)]
    newest = {ns: list(_newest(conn, thread_id, ns, keep)) for ns in namespaces}
    kept = {ns: _needed(conn, encoder, thread_id, ns, rows) for ns, rows in newest.items()}
    roots = kept.get("", set())
    calls = {ns for ns in namespaces if _is_finished_call(conn, thread_id, newest[ns][0], roots)}
    for ns in namespaces:
        if ns in calls:
            for statement in sql.DELETE_NAMESPACE:
                conn.execute(statement, (thread_id, ns))
        else:
            _keep_only(conn, encoder, thread_id, ns, kept[ns])


# A checkpoint's columns as they are stored, those of sql.COLUMNS; not all of them can be read.
Columns = tuple[Any, ...]


def _newest(conn: Connection, thread_id: str, ns: str, keep: int) -> Iterator[Columns]:
    """The newest checkpoints of a namespace; all of them for -1."""
    yield from conn.execute(sql.SELECT_NEWEST, (thread_id, ns, keep))


def _read(columns: Columns) -> Row | None:
    try:
        return Row.of(columns)
    except DamagedError:
        return None


def _needed(
    conn: Connection, encoder: Encoder, thread_id: str, ns: str, rows: Iterable[Columns]
) -> set[str]:
    needed: set[str] = set()
    # What counts as a DeltaChannel is known by its snapshots and its counters. LangGraph.js writes
    # no counters, but marks its threads.
    noted = {channel for (channel,) in conn.execute(sql.SELECT_NOTED_CHANNELS, (thread_id, ns))}
    from_js = conn.execute(sql.HAS_JS_DELTAS, (thread_id, ns)).fetchone() is not None
    seeds = Seeds(Contents(conn, encoder.serde, (thread_id, ns)))
    for columns in rows:
        needed.add(columns[2])
        if (row := _read(columns)) is None:
            continue
        if row.parent_id and _has_sends_of_parent(conn, row):
            needed.add(row.parent_id)
        channels = set(row.checkpoint["channel_versions"])
        if not from_js and (counted := _counted(row)) is not None:
            channels &= noted | counted
        needed.update(_delta_ancestors(conn, seeds, row, channels))
    return needed


def _metadata(row: Row) -> dict[str, Any] | None:
    try:
        return load_metadata(row[:3], row.metadata)
    except DamagedError:
        return None


def _counted(row: Row) -> set[str] | None:
    """The channels whose updates LangGraph counts since their last snapshot: DeltaChannels.

    None where the metadata cannot be read: any of them may be one.
    """
    if (metadata := _metadata(row)) is None:
        return None
    counters = metadata.get("counters_since_delta_snapshot")
    return set(counters) if isinstance(counters, dict) else set()


def _delta_ancestors(conn: Connection, seeds: Seeds, row: Row, channels: set[str]) -> Iterator[str]:
    """The ancestors up to the nearest stored value of each channel that has none at `row`."""
    here = Ancestor(row.checkpoint_id, row.checkpoint, row.notes)
    left = {channel for channel in channels if not seeds.holds(channel, here)}
    if not left:
        return
    for ancestor in ancestors(conn, *row[:3], past_damage=True):
        yield ancestor.checkpoint_id
        left = {channel for channel in left if not seeds.holds(channel, ancestor)}
        if not left:
            return


def _has_sends_of_parent(conn: Connection, row: Row) -> bool:
    if row.checkpoint.get("v", 1) >= SENDS_INSIDE:
        return False
    key = (row.thread_id, row.checkpoint_ns, row.parent_id, TASKS)
    return conn.execute(sql.SELECT_SENDS, key).fetchone() is not None


def _is_finished_call(
    conn: Connection, thread_id: str, columns: Columns, kept_roots: set[str]
) -> bool:
    """Whether a head is a subgraph call's whose root checkpoint is saved and goes now."""
    head = _read(columns)
    if head is None or ":" not in head.checkpoint_ns:
        return False
    parents = (_metadata(head) or {}).get("parents")
    root = parents.get("") if isinstance(parents, dict) else None
    if not is_key(root) or root in kept_roots:
        return False
    return conn.execute(sql.CHECKPOINT_EXISTS, (thread_id, "", root)).fetchone() is not None


def _keep_only(conn: Connection, encoder: Encoder, thread_id: str, ns: str, kept: set[str]) -> None:
    place = (thread_id, ns)
    ids = conn.execute(sql.SELECT_CHECKPOINT_IDS, place).fetchall()
    doomed = [each for (each,) in ids if each not in kept and is_key(each)]
    if not doomed:
        return
    for child, _ in conn.execute(sql.SELECT_CHILDREN, (*place, parameter(doomed))).fetchall():
        if child in kept and is_key(child):
            conn.execute(sql.SET_PARENT, (None, *place, child))
    _delete_checkpoints(conn, thread_id, ns, doomed)
    delete_unreferenced(conn, encoder, place, None)


def _delete_checkpoints(conn: Connection, thread_id: str, ns: str, doomed: Sequence[str]) -> None:
    """Writes go by the checkpoints deleted: others may have come before theirs is saved."""
    place = (thread_id, ns, parameter(doomed))
    conn.execute(sql.DELETE_WRITES_OF_CHECKPOINTS, place)
    conn.execute(sql.DELETE_CHECKPOINTS, place)


def _blob_keys_of(rows: Iterable[tuple[Any, Any]]) -> set[Key] | None:
    """The blobs that some checkpoints use; None, for any, where one of them cannot be read."""
    used: set[Key] = set()
    for text, notes in rows:
        if (document := try_document(text, notes)) is None:
            return None
        used.update(blob_keys(*document).items())
    return used
