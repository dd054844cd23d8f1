"""check(): reading every stored value, and telling which cannot be read."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from sqlite3 import Connection
from typing import NamedTuple

from langgraph.checkpoint.serde.base import SerializerProtocol

from ..database import logs
from ..database.interruptions import is_from_outside
from ..database.upkeep import Progress
from . import sql
from .config import Address
from .contents import Contents
from .damage import in_any_text, is_key, load_metadata
from .errors import DamagedError, SerializationError
from .history import Place
from .orphans import Orphans, find_readable
from .reading import SENDS_INSIDE, Decoder, Row, get_tuple
from .values import EXTRAS, inner, loads
from .walking import BlobKey, Step, Walk, WriteKey, plan


@dataclass(frozen=True)
class Damage:
    """Something that cannot be read.

    Attributes:
        reason: What is wrong.
        thread_id, checkpoint_ns: Where; None for damage to the file itself.
        channel, version: Which value; None for a pending write or a checkpoint.
        checkpoint_id: The checkpoint, or the one that the pending write belongs to.
        task_id: The task whose pending write it is.
    """

    reason: str
    thread_id: str | None = None
    checkpoint_ns: str | None = None
    channel: str | None = None
    version: str | None = None
    checkpoint_id: str | None = None
    task_id: str | None = None


class Findings(list[Damage]):
    """The damages that a check found; empty if all can be read.

    Attributes:
        orphans: What is stored for checkpoints that are not there. No damage: `expire` deletes what
            is old, `delete_thread` all of a thread.
    """

    orphans: Sequence[Orphans] = ()


class Checked(NamedTuple):
    """What a step read, and found."""

    step: Step
    damages: list[Damage]


class Checker:
    """Reads the values of a walk, in snapshots of some milliseconds each."""

    def __init__(self, serde: SerializerProtocol, walk: Walk, damages: Findings) -> None:
        self._serde = serde
        self.walk = walk
        self.damages = damages

    def take(self, checked: Checked, progress: Progress | None) -> None:
        """Note what a step found, and tell."""
        self.walk.take(checked.step)
        self.damages += checked.damages
        if progress is not None:
            progress(self.walk.done_rows, self.walk.total_rows)

    def result(self) -> Findings:
        """Returns what was found, and logs how much there is."""
        if self.damages:
            first = self.damages[0]
            logs.damage.error("check() found %d damages; the first: %s", len(self.damages), first)
        return self.damages

    def step(self, conn: Connection) -> Checked:
        """Read some values."""
        return in_any_text(self._step)(conn)

    def _step(self, conn: Connection) -> Checked:
        thread_id = self.walk.thread_id
        contents = Contents(conn, self._serde, (thread_id, ""))
        damages: list[Damage] = []
        last, rows = None, 0
        try:
            for last in self.walk.rows(conn):
                rows += 1
                if contents.place[1] != last.checkpoint_ns:
                    contents = Contents(conn, self._serde, (thread_id, last.checkpoint_ns))
                damages += self._damages_at(conn, contents, last)
        except sqlite3.OperationalError:
            raise
        except sqlite3.DatabaseError as error:  # not even the keys can be read: go on behind them
            return Checked(Step(None, rows), [*damages, Damage(str(error), thread_id)])
        damages += [_nameless(thread_id, key) for key in self.walk.nameless]
        return Checked(Step(last, rows), damages)

    def _damages_at(
        self, conn: Connection, contents: Contents, key: BlobKey | WriteKey
    ) -> Iterator[Damage]:
        try:
            if isinstance(key, BlobKey):
                self._read_blob(contents, key)
            else:
                self._read_write(conn, contents, key)
        except sqlite3.OperationalError:  # says nothing of the value
            raise
        except Exception as error:
            if is_from_outside(error):
                raise
            reason = error.reason if isinstance(error, DamagedError) else str(error)
            yield _damage(conn, reason, contents.place, key)

    def _read_blob(self, contents: Contents, key: BlobKey) -> None:
        row = contents.find(key.channel, key.version)
        if row is not None and row.blob is not None:
            loads(inner(self._serde), key.channel, *contents.value(row))

    def _read_write(self, conn: Connection, contents: Contents, key: WriteKey) -> None:
        row = conn.execute(sql.SELECT_WRITE, (*contents.place, *key[1:])).fetchone()
        if row is not None:
            if not is_key(row[0]):
                raise contents.damaged_write(row[0])
            loads(inner(self._serde), row[0], *contents.written(*row))


def _damage(conn: Connection, reason: str, place: Place, key: BlobKey | WriteKey) -> Damage:
    if isinstance(key, BlobKey):
        return Damage(reason, *place, key.channel, key.version)
    channel = None
    with suppress(sqlite3.DatabaseError):
        channel, *_ = conn.execute(sql.SELECT_WRITE, (*place, *key[1:])).fetchone()
    return Damage(reason, *place, channel, checkpoint_id=key.checkpoint_id, task_id=key.task_id)


def _nameless(thread_id: str, key: BlobKey | WriteKey) -> Damage:
    """A row that no call can name: another one is missed where it should be."""
    table = "checkpoint_blobs" if isinstance(key, BlobKey) else "checkpoint_writes"
    named = ", ".join(repr(each) for each in key)
    return Damage(f"a row of {table} has a key that is not text: {named}", thread_id)


@in_any_text
def begin(conn: Connection, decoder: Decoder, thread_ids: Sequence[str] | None) -> Checker:
    """Look at the file as SQLite sees it, and at the rows of checkpoints; then values can be read.

    Only the threads' rows where some are named.
    """
    serde = decoder.serde
    damages = Findings()
    damages.orphans = find_readable(conn, thread_ids)
    try:
        if thread_ids is None:
            found = [text for (text,) in conn.execute("PRAGMA quick_check")]
            damages += [Damage(text) for text in found if text != "ok"]
        for thread_id in [None] if thread_ids is None else thread_ids:
            damages += _damaged_checkpoints(conn, decoder, thread_id)
        return Checker(serde, plan(conn, thread_ids), damages)
    except sqlite3.OperationalError:
        raise
    except sqlite3.DatabaseError as error:
        damages.append(Damage(str(error)))
        return Checker(serde, Walk([], 0, (0, 0)), damages)


def _damaged_checkpoints(
    conn: Connection, decoder: Decoder, thread_id: str | None
) -> Iterator[Damage]:
    """The checkpoints whose rows cannot be read; their values are looked at by the walk."""
    every = conn.execute(sql.CHECKPOINTS) if thread_id is None else None
    for columns in every or conn.execute(sql.CHECKPOINTS_OF_THREAD, (thread_id,)):
        try:
            row = Row.of(columns)
            load_metadata(row[:3], row.metadata)
            if EXTRAS in row.notes or row.checkpoint.get("v", 1) < SENDS_INSIDE:
                get_tuple(conn, decoder, Address(*row[:3]))
        except DamagedError as error:
            if error.channel is None:
                thread, ns, checkpoint_id = columns[:3]
                yield Damage(error.reason, thread, ns, checkpoint_id=checkpoint_id)
        except SerializationError:  # of a value
            pass
