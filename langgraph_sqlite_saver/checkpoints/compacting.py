"""compact(): storing what is there as the saver would store it now."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass, field
from sqlite3 import Connection
from typing import NamedTuple

from ..database.interruptions import is_from_outside
from ..database.upkeep import Left, Progress
from . import sql
from .contents import Contents, Stored
from .damage import in_any_text, try_document
from .encoding import (
    SMALL,
    Chain,
    Encoded,
    Link,
    encode,
    encode_write,
    largest_base,
    plain,
)
from .errors import SerializationError
from .history import Encoder
from .values import blob_keys
from .walking import BlobKey, Step, Walk, WriteKey


@dataclass
class Compaction:
    """What `compact` did.

    Attributes:
        values: How many values it looked at.
        rewritten: How many of them are stored otherwise now.
        bytes_before, bytes_after: The stored bytes of those, before and after.
        unreadable: How many stayed as they are because they are damaged, or the saver has not
            their key.
        left: What could not be given back; None on a borrowed connection, where nothing is.
    """

    values: int = 0
    rewritten: int = 0
    bytes_before: int = 0
    bytes_after: int = 0
    unreadable: int = 0
    left: Left | None = field(default=None, compare=False)


class Changed(NamedTuple):
    """What a step rewrote."""

    step: Step
    rewritten: int
    before: int
    after: int
    unreadable: int


class Compactor:
    """Rewrites the values of a walk, in transactions of some milliseconds each."""

    def __init__(self, encoder: Encoder, walk: Walk) -> None:
        self._encoder = encoder
        self.walk = walk
        self.result = Compaction()

    def take(self, changed: Changed, progress: Progress | None) -> None:
        """Count what a step did, and tell."""
        self.walk.take(changed.step)
        self.result.values += changed.step.rows
        self.result.rewritten += changed.rewritten
        self.result.bytes_before += changed.before
        self.result.bytes_after += changed.after
        self.result.unreadable += changed.unreadable
        if progress is not None:
            progress(self.walk.done_rows, self.walk.total_rows)

    def step(self, conn: Connection) -> Changed:
        """Rewrite some values; others may write before the next step."""
        return in_any_text(self._step)(conn)

    def _step(self, conn: Connection) -> Changed:
        rewriting = _Rewriting(conn, self._encoder, self.walk.thread_id)
        last, rows = None, 0
        for last in self.walk.rows(conn):
            rows += 1
            try:
                if isinstance(last, BlobKey):
                    rewriting.blob(last)
                else:
                    rewriting.write(last)
            except sqlite3.Error:  # says nothing of the value
                raise
            except Exception as error:  # it stays as it is: see check()
                if is_from_outside(error):
                    raise
                rewriting.unreadable += 1
        return Changed(Step(last, rows), *rewriting.figures())


class _Rewriting:
    """One transaction's work. Versions come in their order, each to rest on those before."""

    def __init__(self, conn: Connection, encoder: Encoder, thread_id: str) -> None:
        self.count = self.before = self.after = self.unreadable = 0
        self._conn, self._encoder = conn, encoder
        self._place = (thread_id, "")
        self._contents = Contents(conn, encoder.serde, self._place)
        # The chain of the channel's version before, where it has just been made.
        self._chain: tuple[str, Chain] = ("", ())

    def figures(self) -> tuple[int, int, int, int]:
        """What Changed counts."""
        return self.count, self.before, self.after, self.unreadable

    def _go_to(self, ns: str) -> None:
        if self._place[1] != ns:
            self._place = (self._place[0], ns)
            self._contents = Contents(self._conn, self._encoder.serde, self._place)
            self._chain = ("", ())

    def blob(self, key: BlobKey) -> None:
        """Store a blob as a difference from those before it, or whole, as the history is set."""
        self._go_to(key.checkpoint_ns)
        row = self._contents.find(key.channel, key.version)
        if row is None or row.blob is None:
            return
        if self._encoder.history.full:
            if row.size is not None:
                encoded = plain(self._encoder.serde, self._contents.value(row))
                self._rewrite(row, encoded)
        elif row.base is None and (row.size or len(row.blob)) >= SMALL:
            self._difference(row)
        else:
            self._chain = ("", ())

    def _difference(self, row: Stored) -> None:
        value = self._contents.value(row)
        if len(value[1]) < SMALL:  # its cipher made it look larger
            self._chain = ("", ())
            return
        chain = self._chain_before(row)
        if any(link.version == row.version for link in chain):
            chain = ()  # what came before rests on this one
        encoded, rest = encode(self._encoder.serde, value, chain)
        if row.token is None or len(encoded.blob) < len(row.blob):
            row = self._rewrite(row, encoded)
        else:
            rest = ()
        if row.token is not None:
            link = Link(row.version, row.token, row.number or 0, *value)
            self._chain = (row.channel, (link, *rest))

    def _chain_before(self, row: Stored) -> Chain:
        """The chain of the version before, with the base of this one at hand."""
        channel, chain = self._chain
        if channel != row.channel or not chain:
            key = (*self._place, row.channel, row.version)
            (version,) = self._conn.execute(sql.VERSION_BEFORE, key).fetchone()
            before = self._contents.find(row.channel, version) if version else None
            chain = self._chain_of(before) if before and before.token else ()
        return self._contents.with_base(row.channel, chain)

    def _chain_of(self, row: Stored) -> Chain:
        try:
            return self._contents.chain(row)[1]
        except SerializationError:  # nothing rests on what cannot be read
            return ()

    def _rewrite(self, row: Stored, encoded: Encoded) -> Stored:
        token = row.token if type(row.token) is int else encoded.token
        anew = Stored(row.channel, row.version, *encoded[:4], token, encoded.number)
        self._conn.execute(sql.REBASE_BLOB, (*anew[2:], *self._place, *anew[:2]))
        self._contents.replace(anew)
        self._count(row.blob, anew.blob)
        return anew

    def _count(self, before: bytes, after: bytes) -> None:
        self.count += 1
        self.before += len(before)
        self.after += len(after)

    def write(self, key: WriteKey) -> None:
        """Let a pending write rest on its checkpoint's values, or store it whole."""
        self._go_to(key.checkpoint_ns)
        write = self._conn.execute(sql.SELECT_WRITE, (*self._place, *key[1:])).fetchone()
        if write is None:
            return
        channel, _, blob, base, size = write
        full, serde = self._encoder.history.full, self._encoder.serde
        if size is None if full else (base is not None or (size or len(blob)) < SMALL):
            return
        value = self._contents.written(*write)
        if full:
            encoded = plain(serde, value)
        else:
            links = self._links(key, len(value[1]))
            encoded, _ = encode_write(serde, channel, value, links)
        if full or len(encoded.blob) < len(blob):
            self._conn.execute(sql.REBASE_WRITE, (*encoded[:4], *self._place, *key[1:]))
            self._count(blob, encoded.blob)

    def _links(self, key: WriteKey, size: int) -> dict[str, Link]:
        """The values of a write's checkpoint that it may have something in common with."""
        address = (*self._place, key.checkpoint_id)
        found = self._conn.execute(sql.SELECT_LINEAGE, address).fetchone()
        links: dict[str, Link] = {}
        document = try_document(*found) if found else None
        if document is None:
            return links
        for channel, version in blob_keys(*document).items():
            row = self._contents.find(channel, version)
            if not row or type(row.token) is not int or type(row.blob) is not bytes:
                continue
            large = row.size if type(row.size) is int else len(row.blob)
            if large <= largest_base(size) and (value := self._contents.readable(row)):
                links[channel] = Link(version, row.token, 0, *value)
        return links
