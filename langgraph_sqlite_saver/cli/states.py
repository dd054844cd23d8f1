"""A thread as its file holds it: its checkpoints, and the state at one of them.

Values are read one by one, so that one that is damaged or enciphered is shown as such and does not
hide the others. All functions are operations of a connection.
"""

from __future__ import annotations

import sqlite3
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from sqlite3 import Connection
from typing import Any

from langgraph.checkpoint.serde.base import SerializerProtocol
from langgraph.checkpoint.serde.types import ERROR, INTERRUPT, RESUME, TASKS

from ..checkpoints import jsontext, sql
from ..checkpoints.contents import Contents
from ..checkpoints.jsontext import parameter
from ..checkpoints.reading import SENDS_INSIDE, Row
from ..checkpoints.values import EXTRAS, inner
from ..database import InvalidInputError, StorageError
from .finding import moment
from .plain import Opaque, Plain, bounded

# Channels that LangGraph makes for itself: where the graph goes next.
_BRANCH = "branch:to:"
_JOIN = "join:"
_INTERNAL = (_BRANCH, _JOIN, "__", "start:")

# The formats in which a checkpoint's Sends are among its parent's writes.
_SENDS_OUTSIDE = range(1, SENDS_INSIDE)

# What a checkpoint has, whatever its version.
_DICTS = ("channel_values", "channel_versions")

# Whose write an answer to an interrupt is.
_NO_TASK = "00000000-0000-0000-0000-000000000000"

_COUNT = "SELECT count(*) FROM checkpoints WHERE thread_id = ? AND checkpoint_ns = ?"

_CALLS = """
SELECT checkpoint_ns, count(*), min(checkpoint_id) FROM checkpoints
WHERE thread_id = ? AND checkpoint_ns <> '' GROUP BY checkpoint_ns
"""

_METADATA = """
SELECT metadata FROM checkpoints
WHERE thread_id = ? AND checkpoint_ns = ? AND checkpoint_id = ?
"""

# The last parameter: [checkpoint_id, …]; in the order in which writes are applied.
_WRITES = """
SELECT w.checkpoint_id, w.task_id, w.task_path, w.channel, length(w.blob), CASE
    WHEN w.channel IN ('__interrupt__', '__error__', '__resume__') THEN w.rowid END
FROM checkpoint_writes AS w
WHERE w.thread_id = ? AND w.checkpoint_ns = ?
AND w.checkpoint_id IN (SELECT value FROM json_each(?))
ORDER BY w.checkpoint_id, w.task_path, w.task_id, w.idx
"""

_WRITE = "SELECT channel, type, blob, base, size FROM checkpoint_writes WHERE rowid = ?"

_WRITES_OF_CHECKPOINT = """
SELECT task_id, task_path, channel, type, blob, base, size FROM checkpoint_writes
WHERE thread_id = ? AND checkpoint_ns = ? AND checkpoint_id = ?
ORDER BY task_path, task_id, idx
"""

# The first parameter: [[number, channel, version], …]
_SIZES = """
SELECT json_extract(wanted.value, '$[0]'), sum(length(b.blob)) FROM json_each(?) AS wanted
CROSS JOIN checkpoint_blobs AS b
WHERE b.thread_id = ? AND b.checkpoint_ns = ?
AND b.channel = json_extract(wanted.value, '$[1]')
AND b.version = json_extract(wanted.value, '$[2]')
GROUP BY 1
"""


@dataclass
class Task:
    """What a task has written at a checkpoint, beyond it."""

    task_id: str
    node: str
    writes: list[tuple[str, Any]] = field(default_factory=list)
    interrupts: list[Any] = field(default_factory=list)
    resumed: bool = False  # whether its interrupts were answered
    answers: bool = False  # whether an answer is stored, perhaps to an earlier interrupt
    done: bool = False  # whether the task has written its result
    error: Any = None


@dataclass
class Step:
    """A checkpoint in a thread's history."""

    checkpoint_id: str
    checkpoint_ns: str
    parent_id: str | None
    number: int | None  # LangGraph's step, -1 for the input
    source: str
    time: datetime | None
    ran: list[str] = field(default_factory=list)
    next: list[str] = field(default_factory=list)
    bytes: int = 0
    tasks: list[Task] = field(default_factory=list)
    calls: list[tuple[str, int]] = field(default_factory=list)  # subgraphs' namespaces
    damaged: bool = False


@dataclass
class History:
    """The newest steps of a namespace, oldest first, and how many there are in all."""

    thread_id: str
    checkpoint_ns: str
    steps: list[Step]
    total: int


@dataclass
class State:
    """The state at a checkpoint."""

    thread_id: str
    step: Step
    metadata: Any
    values: dict[str, Any]
    internal: dict[str, Any]


# Reading.


class Reader:
    """Reads one namespace of a thread."""

    def __init__(
        self, conn: Connection, serde: SerializerProtocol, thread_id: str, ns: str
    ) -> None:
        self._conn, self._serde = conn, serde
        self._place = (thread_id, ns)
        self._contents = Contents(conn, serde, self._place)
        self._sends: dict[str, list[str]] = {}

    def rows(self, limit: int) -> list[tuple[Step, Row | None]]:
        """The newest steps, oldest first, with what is stored of them; -1 for all."""
        found = self._conn.execute(sql.SELECT_NEWEST, (*self._place, limit)).fetchall()
        return [self._row(columns) for columns in reversed(found)]

    def row(self, checkpoint_id: str) -> tuple[Step, Row | None] | None:
        """One step; None where there is no such checkpoint."""
        key = (*self._place, checkpoint_id)
        columns = self._conn.execute(sql.SELECT_CHECKPOINT, key).fetchone()
        return columns and self._row(columns)

    def _row(self, columns: Sequence[Any]) -> tuple[Step, Row | None]:
        _, ns, checkpoint_id, parent_id, *_ = columns
        step = Step(str(checkpoint_id), ns, parent_id, None, "", None)
        try:
            row = Row.of(columns)
            metadata = _mapping(bounded(jsontext.load_metadata(row.metadata)))
            if not all(isinstance(row.checkpoint[key], dict) for key in _DICTS):
                raise TypeError("no checkpoint of LangGraph's")
            row.blob_keys()
        except Exception:  # whatever is wrong with it, the others can be shown
            step.damaged = True
            return step, None
        number, source = metadata.get("step"), metadata.get("source")
        step.number = number if isinstance(number, int) else None
        step.source = str(source or "")
        step.time = moment(row.checkpoint.get("ts"))
        step.bytes = len(columns[4]) + len(columns[5])
        return step, row

    def value(self, channel: str, version: str) -> Any:
        """A stored value; `ABSENT` where there is none."""
        row = self._contents.find(channel, version)
        if row is None or row.blob is None:
            return ABSENT
        return self._loaded(row.kind, row.blob, lambda: self._contents.value(row))

    def has(self, channel: str, version: str) -> bool:
        """Whether a value is stored, whatever it is."""
        row = self._contents.find(channel, version)
        return row is not None and row.blob is not None

    def write(self, channel: str, kind: str, blob: Any, base: Any, size: Any) -> Any:
        """A task's write."""
        return self._loaded(
            kind, blob, lambda: self._contents.written(channel, kind, blob, base, size)
        )

    def _loaded(self, kind: Any, blob: Any, open_: Callable[[], Any]) -> Any:
        try:
            return inner(self._serde).loads_typed(open_())
        except (sqlite3.OperationalError, MemoryError):
            raise
        except Exception as error:
            if isinstance(kind, str) and "+" in kind:
                other = ", another key" if inner(self._serde) is not self._serde else ""
                return Opaque.of(f"enciphered ({kind.partition('+')[2]}{other})", blob)
            reason = getattr(error, "reason", None) or str(error)
            return Opaque.of(f"damaged: {reason}", blob)

    def written(self, rows: Mapping[str, Row]) -> dict[str, Written]:
        """What was written at checkpoints, but for the values of ordinary writes."""
        found: dict[str, Written] = {}
        wanted = (*self._place, parameter(list(rows)))
        for checkpoint_id, *columns in self._conn.execute(_WRITES, wanted).fetchall():
            task_id, path, channel, size, rowid = columns
            written = found.setdefault(checkpoint_id, Written())
            written.bytes += size or 0
            row = rows.get(checkpoint_id)  # a damaged index has other ids than it was asked for
            task = written.task(str(task_id), self.node_of(str(path), row) if row else "")
            if rowid is not None:
                self._note(task, channel, rowid)
            else:
                task.done = True
            task.resumed = task.done and task.answers and bool(task.interrupts)
        return found

    def _note(self, task: Task, channel: str, rowid: int) -> None:
        if channel == RESUME:
            task.answers = True
            return
        columns = self._conn.execute(_WRITE, (rowid,)).fetchone()
        value = self.write(*columns)
        if channel == ERROR:
            task.error = value
        else:
            task.interrupts += value if isinstance(value, list) else [value]

    def node_of(self, path: str, row: Row) -> str:
        """The node of a task: its path names it, or which of the Sends it was."""
        kind, *others = path.lstrip("~").split(", ")
        if kind == "__pregel_pull" and others:
            return ", ".join(others)
        if kind == "__pregel_push" and others:
            sends = self.sends(row)
            with suppress(ValueError, IndexError):
                return sends[int(others[0])]
        return ""

    def sends(self, row: Row) -> list[str]:
        """The nodes that a checkpoint's Sends lead to."""
        version = row.blob_keys().get(TASKS)
        if row.checkpoint.get("v") in _SENDS_OUTSIDE and row.parent_id:
            return self._sends_of_parent(row.parent_id)
        if version is None:
            return []
        if version not in self._sends:
            self._sends[version] = _nodes(self.value(TASKS, version))
        return self._sends[version]

    def _sends_of_parent(self, parent_id: str) -> list[str]:
        """Those of a checkpoint of an old format: its parent's writes."""
        writes = self._conn.execute(_WRITES_OF_CHECKPOINT, (*self._place, parent_id)).fetchall()
        sends = [self.write(*columns) for _, _, *columns in writes if columns[0] == TASKS]
        return _nodes(sends)

    def next(self, row: Row) -> list[str]:
        """The nodes that run after a checkpoint, as far as their names are in the file."""
        keys = row.blob_keys()
        channels = [*row.checkpoint["channel_values"], *keys]
        due = (_target(channel) for channel in channels if self._is_due(channel, row, keys))
        return sorted([*self.sends(row), *due])

    def _is_due(self, channel: str, row: Row, keys: Mapping[str, str]) -> bool:
        """Whether a channel holds something that the node it leads to has not seen."""
        node, version = _target(channel), row.checkpoint["channel_versions"].get(channel)
        seen = _mapping(row.checkpoint.get("versions_seen"))
        if not node or version is None or _mapping(seen.get(node)).get(channel) == version:
            return False
        if channel.startswith(_JOIN):
            return self._is_complete(channel, row)
        return channel not in keys or self.has(channel, keys[channel])

    def _is_complete(self, channel: str, row: Row) -> bool:
        """Whether all that a node waits for have run."""
        waits = channel[len(_JOIN) :].rpartition(":")[0].split("+")
        value = self.value(channel, row.blob_keys().get(channel, ""))
        content = value.arguments[0] if isinstance(value, Plain) and value.arguments else value
        return isinstance(content, list) and set(waits) <= {str(each) for each in content}

    def sizes(self, new: Mapping[int, Mapping[str, str]]) -> dict[int, int]:
        """The stored bytes of versions, by number."""
        wanted = [[n, channel, key] for n, keys in new.items() for channel, key in keys.items()]
        return dict(self._conn.execute(_SIZES, (parameter(wanted), *self._place)).fetchall())


class _Absent:
    """Stands for: no value."""


ABSENT = _Absent()


@dataclass
class Written:
    """What was written at a checkpoint."""

    bytes: int = 0
    tasks: dict[str, Task] = field(default_factory=dict)

    def task(self, task_id: str, node: str) -> Task:
        """A task; one that is no task's own (a resume's) has no node."""
        return self.tasks.setdefault(task_id, Task(task_id, node))

    @property
    def nodes(self) -> list[str]:
        """The nodes of the tasks, in their order."""
        return [task.node for task in self.tasks.values() if task.node]


def _target(channel: str) -> str:
    """The node that a channel of LangGraph's own leads to."""
    if channel == "__start__":
        return "__start__"
    if channel.startswith(_BRANCH):
        return channel[len(_BRANCH) :]
    if channel.startswith(_JOIN):
        return channel.rpartition(":")[2]
    return ""


def _nodes(sends: Any) -> list[str]:
    """The nodes that Sends lead to."""
    found = (each for each in sends if isinstance(each, Plain)) if isinstance(sends, list) else ()
    return [str(each.arguments[0]) for each in found if each.name == "Send" and each.arguments]


def is_internal(channel: str) -> bool:
    """Whether a channel is one that LangGraph makes for itself."""
    return channel.startswith(_INTERNAL)


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def history(
    conn: Connection, serde: SerializerProtocol, thread_id: str, ns: str, limit: int
) -> History:
    """The newest steps of a namespace, each with what ran, what is next, and what it stores.

    0 is no limit.
    """
    reader = Reader(conn, serde, thread_id, ns)
    found = reader.rows(min(limit, sys.maxsize) or -1)
    (total,) = conn.execute(_COUNT, (thread_id, ns)).fetchone()
    rows = {step.checkpoint_id: row for step, row in found if row is not None}
    for step, _ in found:  # the parents of the oldest ones
        if step.parent_id and step.parent_id not in rows:
            parent = reader.row(step.parent_id)
            if parent is not None and parent[1] is not None:
                rows[step.parent_id] = parent[1]
    written = reader.written(rows)
    new: dict[int, dict[str, str]] = {}
    for number, (step, row) in enumerate(found):
        if row is not None:
            above = rows.get(step.parent_id or "")
            new[number] = _new_keys(row, above)
            _complete(reader, step, row, above, written)
    for number, size in reader.sizes(new).items():
        found[number][0].bytes += size or 0
    steps = [step for step, _ in found]
    _note_answers(steps)
    if ns == "":
        _add_calls(conn, thread_id, steps)
    return History(thread_id, ns, steps, total)


def _note_answers(steps: Sequence[Step]) -> None:
    """What has gone on was answered; a subgraph has its answer in its own namespace."""
    gone_on = {step.parent_id for step in steps if step.source == "loop"}
    for step in steps:
        if step.checkpoint_id in gone_on:
            for task in step.tasks:
                task.resumed = bool(task.interrupts)


def _complete(
    reader: Reader, step: Step, row: Row, above: Row | None, written: Mapping[str, Written]
) -> None:
    """Add what ran before a checkpoint, and what was written at it."""
    here = written.get(step.checkpoint_id, Written())
    step.next = reader.next(row)
    step.bytes += here.bytes
    step.tasks = [task for task_id, task in here.tasks.items() if task_id != _NO_TASK]
    before = written.get(step.parent_id or "", Written())
    if step.source != "input":  # what was under way at the parent is given up
        step.ran = _ran(row, above, before.nodes if step.source == "loop" else [])


def _ran(row: Row, above: Row | None, wrote: Sequence[str]) -> list[str]:
    """The nodes that made a checkpoint of its parent: those that saw newer versions than before.

    Where the parent is gone, nobody knows.
    """
    if above is None:
        return []
    seen = _mapping(row.checkpoint.get("versions_seen"))
    before = _mapping(above.checkpoint.get("versions_seen"))
    ran = [n for n, each in seen.items() if each != before.get(n) and not n.startswith("__i")]
    ran = [node for node in ran if node not in wrote] + list(wrote)
    return sorted(ran)


def _new_keys(row: Row, above: Row | None) -> dict[str, str]:
    before = above.blob_keys() if above else {}
    return {ch: key for ch, key in row.blob_keys().items() if before.get(ch) != key}


def _add_calls(conn: Connection, thread_id: str, steps: Sequence[Step]) -> None:
    """Note at each checkpoint which subgraphs ran from it."""
    by_id = {step.checkpoint_id: step for step in steps}
    for ns, count, first in conn.execute(_CALLS, (thread_id,)).fetchall():
        metadata: Any = {}
        with suppress(ValueError, TypeError):
            (text,) = conn.execute(_METADATA, (thread_id, ns, first)).fetchone()
            metadata = jsontext.load_metadata(text)
        step = by_id.get(str(_mapping(_mapping(metadata).get("parents")).get("")))
        if step is not None:
            step.calls.append((str(ns), count))


def state(
    conn: Connection, serde: SerializerProtocol, thread_id: str, ns: str, checkpoint_id: str
) -> State:
    """The state at a checkpoint, value by value."""
    reader = Reader(conn, serde, thread_id, ns)
    found = reader.row(checkpoint_id)
    if found is None:
        raise InvalidInputError(f"the thread has no checkpoint {checkpoint_id!r}")
    step, row = found
    if row is None:
        raise StorageError(
            f"the checkpoint {checkpoint_id} is damaged: its JSON, or that of its metadata. "
            "langgraph-sqlite check lists all such places."
        )
    above = reader.row(step.parent_id) if step.parent_id else None
    rows = {checkpoint_id: row}
    if above and above[1]:
        rows[above[0].checkpoint_id] = above[1]
    _complete(reader, step, row, above[1] if above else None, reader.written(rows))
    _add_writes(conn, reader, step, row)
    values = {ch: bounded(each) for ch, each in row.checkpoint["channel_values"].items()}
    for channel, version in row.blob_keys().items():
        value = reader.value(channel, version)
        if value is not ABSENT:
            values[channel] = value
    metadata = bounded(jsontext.load_metadata(row.metadata))
    for channel in _mapping(_mapping(metadata).get("counters_since_delta_snapshot")):
        if channel not in values or values[channel] is True:
            values[channel] = _rebuilt(row.checkpoint["channel_versions"].get(channel))
    values.pop(EXTRAS, None)
    own = {each for each in values if not is_internal(each)}
    return State(
        thread_id,
        step,
        metadata,
        {channel: each for channel, each in sorted(values.items()) if channel in own},
        {channel: each for channel, each in sorted(values.items()) if channel not in own},
    )


def _rebuilt(version: Any) -> Opaque:
    """Stands for the value of a DeltaChannel without a snapshot; two versions are two values."""
    what = "a DeltaChannel's, which LangGraph rebuilds from writes"
    return Opaque(what, 0, repr(version).encode())


def _add_writes(conn: Connection, reader: Reader, step: Step, row: Row) -> None:
    """Read what tasks have written at a checkpoint."""
    tasks = {task.task_id: task for task in step.tasks}
    key = (row.thread_id, row.checkpoint_ns, row.checkpoint_id)
    for task_id, _, channel, *columns in conn.execute(_WRITES_OF_CHECKPOINT, key).fetchall():
        if str(task_id) in tasks and channel not in (INTERRUPT, ERROR, RESUME):
            tasks[str(task_id)].writes.append((str(channel), reader.write(channel, *columns)))
