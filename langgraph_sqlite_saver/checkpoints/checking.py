"""check(): reading every stored value, and telling which cannot be read."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from sqlite3 import Connection
from typing import NamedTuple

from langgraph.checkpoint.serde.base import SerializerProtocol

from . import sql
from .compacting import Progress
from .contents import Contents
from .errors import DamagedError, SerializationError
from .values import EMPTY, loads
from .walking import BlobKey, Step, Walk, WriteKey


@dataclass(frozen=True)
class Damage:
    """Something that cannot be read.

    Attributes:
        reason: What is wrong.
        thread_id, checkpoint_ns: Where; None for damage to the file itself.
        channel: Whose value it is; None where it is a checkpoint.
        version: The value's version; None for a pending write or a checkpoint.
        checkpoint_id: The checkpoint, or the one that the pending write belongs to.
    """

    reason: str
    thread_id: str | None = None
    checkpoint_ns: str | None = None
    channel: str | None = None
    version: str | None = None
    checkpoint_id: str | None = None


class Checked(NamedTuple):
    """What a step read, and found."""

    step: Step
    damages: list[Damage]


class Checker:
    """Reads the values of a walk, in snapshots of some milliseconds each."""

    def __init__(self, serde: SerializerProtocol, walk: Walk, damages: list[Damage]) -> None:
        self._serde = serde
        self.walk = walk
        self.damages = damages

    def take(self, checked: Checked, progress: Progress | None) -> None:
        """Note what a step found, and tell."""
        self.walk.take(checked.step)
        self.damages += checked.damages
        if progress is not None:
            progress(self.walk.done_rows, self.walk.total_rows)

    def step(self, conn: Connection) -> Checked:
        """Read some values."""
        thread_id = self.walk.thread_id
        contents: dict[str, Contents] = {}
        damages: list[Damage] = []
        last, rows = None, 0
        for last in self.walk.rows(conn):
            rows += 1
            ns = last.checkpoint_ns
            if ns not in contents:
                contents = {ns: Contents(conn, self._serde, (thread_id, ns))}
            if isinstance(last, BlobKey):
                damage = self._blob(contents[ns], thread_id, last)
            else:
                damage = self._write(conn, contents[ns], thread_id, last)
            if damage is not None:
                damages.append(damage)
        return Checked(Step(last, rows), damages)

    def _blob(self, contents: Contents, thread_id: str, key: BlobKey) -> Damage | None:
        try:
            row = contents.find(key.channel, key.version)
            if row is not None and row.kind != EMPTY:
                loads(self._serde, key.channel, *contents.value(row))
        except (SerializationError, sqlite3.DatabaseError) as error:
            return Damage(_reason(error), thread_id, *key)
        return None

    def _write(
        self, conn: Connection, contents: Contents, thread_id: str, key: WriteKey
    ) -> Damage | None:
        channel = None
        try:
            row = conn.execute(
                sql.SELECT_WRITE, (thread_id, key.checkpoint_ns, *key[1:])
            ).fetchone()
            if row is not None:
                channel = row[0]
                loads(self._serde, channel, *contents.written(*row))
        except (SerializationError, sqlite3.DatabaseError) as error:
            return Damage(
                _reason(error), thread_id, key.checkpoint_ns, channel, None, key.checkpoint_id
            )
        return None


def _reason(error: Exception) -> str:
    return error.reason if isinstance(error, DamagedError) else str(error)


def check_file(conn: Connection) -> list[Damage]:
    """What is wrong with the file as SQLite sees it, and with the JSON of checkpoints."""
    found = [Damage(text) for (text,) in conn.execute("PRAGMA quick_check") if text != "ok"]
    for thread_id, ns, checkpoint_id in conn.execute(sql.SELECT_NO_JSON):
        reason = "the JSON of the checkpoint or its metadata is damaged"
        found.append(Damage(reason, thread_id, ns, checkpoint_id=checkpoint_id))
    return found
