"""Deleting: threads, runs, and all but the newest checkpoints; no orphan is left behind.

Each thread is a transaction of its own. What goes of runs and old checkpoints is looked up before
(`plan_…`, see removal.py): a checkpoint that is saved meanwhile stays, with all its blobs.
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
from .damage import in_any_text, is_key, load_metadata
from .delta import Ancestor, Seeds, ancestors
from .errors import DamagedError
from .history import Encoder, Place
from .jsontext import parameter
from .overview import is_older_than
from .reading import SENDS_INSIDE, Row
from .removal import Removal


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
def threads_of_runs(conn: Connection, run_ids: Sequence[str]) -> dict[str, list[str]]:
    """The threads in which runs made checkpoints, each with its runs."""
    found: dict[str, list[str]] = {}
    for thread_id, run_id in conn.execute(sql.SELECT_RUNS_THREADS, (parameter(run_ids),)):
        if is_key(thread_id):
            found.setdefault(thread_id, []).append(run_id)
    return found


@in_any_text
def plan_runs(
    conn: Connection, encoder: Encoder, thread_id: str, run_ids: Sequence[str]
) -> list[Removal]:
    """What the runs made in one thread, but for what remaining values are rebuilt from.

    A remaining checkpoint whose parent went gets the nearest ancestor that is left as its parent.
    """
    made: dict[str, set[str]] = {}
    found = conn.execute(sql.SELECT_RUNS_CHECKPOINTS, (parameter(run_ids), thread_id))
    for ns, checkpoint_id in found:
        if is_key(ns):
            made.setdefault(ns, set()).add(checkpoint_id)
    return [_plan_made(conn, encoder, (thread_id, ns), ids) for ns, ids in made.items()]


def _plan_made(conn: Connection, encoder: Encoder, place: Place, made: set[str]) -> Removal:
    deltas = _Deltas(conn, encoder, place)
    if deltas.possible:
        remaining = [row for row in _newest(conn, *place, -1) if row[2] not in made]
    else:  # only its children may need a checkpoint
        named = parameter([each for each in made if is_key(each)])
        found = conn.execute(sql.SELECT_CHILDREN_ROWS, (*place, named)).fetchall()
        remaining = [row for row in found if row[2] not in made]
    needed = _needed(conn, place, remaining, deltas)
    doomed = [each for each in made if each not in needed and is_key(each)]
    return Removal(
        conn,
        encoder,
        place,
        doomed=doomed,
        parents=_adopters(conn, place, doomed),
        has_deltas=deltas.possible,
    )


def _adopters(conn: Connection, place: Place, doomed: Sequence[str]) -> dict[str, str | None]:
    """The children that stay of checkpoints that go, each with the ancestor that is left."""
    some = (*place, parameter(doomed))
    parent_of = dict(conn.execute(sql.SELECT_PARENTS, some).fetchall())
    gone = set(doomed)
    adopters: dict[str, str | None] = {}
    for child, parent in conn.execute(sql.SELECT_CHILDREN, some).fetchall():
        if child in gone or not is_key(child):
            continue
        seen = set()
        while parent in gone and parent not in seen:
            seen.add(parent)
            parent = parent_of.get(parent)
        adopters[child] = None if parent in gone or not is_key(parent) else parent
    return adopters


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
def plan_prune(conn: Connection, encoder: Encoder, thread_id: str, keep: int) -> list[Removal]:
    """All but the newest `keep` checkpoints of each namespace, and what their values need.

    That is: the ancestors a DeltaChannel's value is rebuilt from, and the parent that a checkpoint
    of format v < 4 has its pending sends from. A subgraph call's namespace (it has a ":") goes
    with the root checkpoint it started from, once that one is saved and pruned.

    Checkpoints that cannot be read count as others do. Whatever one that stays may need stays too.
    """
    found = conn.execute(sql.SELECT_NAMESPACES, (thread_id,)).fetchall()
    places = [(thread_id, ns) for (ns,) in found if is_key(ns)]
    newest = {place: list(_newest(conn, *place, keep)) for place in places}
    deltas = {place: _Deltas(conn, encoder, place) for place in places}
    kept = {place: _needed(conn, place, newest[place], deltas[place]) for place in places}
    roots = kept.get((thread_id, ""), set())
    removals: list[Removal] = []
    for place in places:
        if _is_finished_call(conn, thread_id, newest[place][0], roots):
            removals.append(Removal(conn, encoder, place, whole=True))
        elif removal := _plan_others(conn, encoder, place, kept[place], deltas[place].possible):
            removals.append(removal)
    return removals


def _plan_others(
    conn: Connection, encoder: Encoder, place: Place, kept: set[str], has_deltas: bool
) -> Removal | None:
    ids = conn.execute(sql.SELECT_CHECKPOINT_IDS, place).fetchall()
    doomed = [each for each, _ in ids if each not in kept and is_key(each)]
    if not doomed:
        return None
    found = conn.execute(sql.SELECT_CHILDREN, (*place, parameter(doomed))).fetchall()
    orphaned = {child: None for child, _ in found if child in kept and is_key(child)}
    return Removal(
        conn,
        encoder,
        place,
        doomed=doomed,
        parents=orphaned,
        values=None,
        has_deltas=has_deltas,
    )


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


class _Deltas:
    """What counts as a DeltaChannel in a namespace: it is known by its snapshots and counters.

    LangGraph.js writes no counters, but marks its threads.
    """

    def __init__(self, conn: Connection, encoder: Encoder, place: Place) -> None:
        self.noted = {channel for (channel,) in conn.execute(sql.SELECT_NOTED_CHANNELS, place)}
        self.from_js = conn.execute(sql.HAS_JS_DELTAS, place).fetchone() is not None
        self.possible = bool(
            self.noted or self.from_js or conn.execute(sql.MAY_HAVE_COUNTERS, place).fetchone()
        )
        self.seeds = Seeds(Contents(conn, encoder.serde, place))


def _needed(conn: Connection, place: Place, rows: Iterable[Columns], deltas: _Deltas) -> set[str]:
    """The checkpoints of some rows, and those that they need."""
    needed: set[str] = set()
    for columns in rows:
        needed.add(columns[2])
        if (row := _read(columns)) is None:
            continue
        if row.parent_id and _has_sends_of_parent(conn, row):
            needed.add(row.parent_id)
        channels = set(row.checkpoint["channel_versions"])
        if not deltas.from_js and (counted := _counted(row)) is not None:
            channels &= deltas.noted | counted
        needed.update(_delta_ancestors(conn, deltas.seeds, row, channels))
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
