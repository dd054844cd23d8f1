"""Storing anew what rests on blobs that go."""

from __future__ import annotations

from collections.abc import Iterable
from sqlite3 import Connection
from typing import Any

from . import sql
from .contents import Contents, Stored, load_base
from .damage import is_key
from .encoding import Chain, Encoded
from .errors import SerializationError
from .history import Encoder, Place
from .values import inner

# (channel, version)
Key = tuple[str, str]

# Rows read, after so many, are let go of: a long channel's would fill the memory.
_FORGET = 256


class Rebasing:
    """How a namespace's values are to be stored once some of its blobs are gone.

    It reads and writes nothing but what it looks up: `carry_out` writes. Bytes that cannot be read
    stay as they are, and with them what they rest on: what is damaged may be repaired. A saver
    without a cipher cannot do it for encrypted values, and is told.

    Attributes:
        doomed: The blobs that go.
        blobs: Those that stay and are stored otherwise.
        writes: The same of pending writes: (checkpoint_id, task_id, idx), and their columns.
        blob_rows, write_rows: The rowids of those, and of the blobs that they rest on then.
    """

    def __init__(
        self, conn: Connection, encoder: Encoder, place: Place, doomed: Iterable[Key]
    ) -> None:
        self._conn, self._encoder, self._place = conn, encoder, place
        self.doomed = set(doomed)
        self.blobs: list[Stored] = []
        self.writes: list[tuple[tuple[str, str, int], Encoded]] = []
        self.blob_rows: set[int] = set()
        self.write_rows: set[int] = set()
        self._bases: dict[str, _Bases] = {}
        self._rowids: dict[Key, int] = {}
        if self.doomed:
            self._look_up_bases()
            self._free_writes()
            for channel, rests_on in self._bases.items():
                self._free_blobs(channel, rests_on)

    def carry_out(self, conn: Connection) -> None:
        """Store them anew and delete the blobs."""
        for anew in self.blobs:
            conn.execute(sql.REBASE_BLOB, (*anew[2:], *self._place, *anew[:2]))
        for key, encoded in self.writes:
            conn.execute(sql.REBASE_WRITE, (*encoded[:4], *self._place, *key))
        conn.executemany(sql.DELETE_BLOB, [(*self._place, *key) for key in self.doomed])

    def _look_up_bases(self) -> None:
        for channel in sorted({channel for channel, _ in self.doomed}):
            rests_on = self._bases[channel] = {}
            for version, base, rowid in self._conn.execute(
                sql.SELECT_BASES, (*self._place, channel)
            ):
                rests_on[version] = base
                self._rowids[channel, version] = rowid

    def _spare(self, key: Key) -> None:
        """Let a blob stay, with those that it rests on."""
        channel = key[0]
        version: Any = key[1]
        while (channel, version) in self.doomed:
            self.doomed.remove((channel, version))
            version = self._bases.get(channel, {}).get(version)

    def _free_blobs(self, channel: str, rests_on: _Bases) -> None:
        """Let a channel's versions that stay rest on the one before them that stays.

        Storing all of them whole would be simpler, and costs too much: on a chat of 200 turns four
        times the bytes after `prune(keep_last=20)`, up to 13 times after every other run was
        deleted.
        """
        contents = self._contents()
        made: list[Stored] = []
        before: str | None = None
        for number, (version, base) in enumerate(rests_on.items()):
            if (channel, version) in self.doomed or not is_key(version):
                continue
            if number % _FORGET == 0:
                contents = self._contents(made)
            if (channel, base) in self.doomed:
                if (anew := self._anew(contents, channel, version, before)) is None:
                    self._spare((channel, base))
                    continue
                contents.replace(anew)
                made.append(anew)
                self.blob_rows.add(self._rowids[channel, version])
                if anew.base is not None:
                    self.blob_rows.add(self._rowids[channel, anew.base])
            before = version
        self.blobs += made

    def _anew(
        self, contents: Contents, channel: str, version: str, before: str | None
    ) -> Stored | None:
        """A row as it is to be; None where it cannot be read."""
        row = contents.find(channel, version)
        value = contents.readable(row) if row else None
        if row is None or value is None:
            if row is not None and self._lacks_key(row.kind):
                contents.value(row)  # raises the error that says so
            return None
        chain = self._chain_before(contents, row, before)
        encoded, _ = self._encoder.history.encode(self._encoder.serde, value, chain)
        token = row.token if type(row.token) is int else encoded.token  # nothing rests on it
        return Stored(channel, version, *encoded[:4], token, encoded.number)

    def _contents(self, made: Iterable[Stored] = ()) -> Contents:
        """The namespace's values as they are to be."""
        contents = Contents(self._conn, self._encoder.serde, self._place)
        for anew in made:
            contents.replace(anew)
        return contents

    def _lacks_key(self, kind: Any) -> bool:
        """Whether a value is encrypted and the saver has no cipher at all: it needs the key."""
        return "+" in str(kind) and inner(self._encoder.serde) is self._encoder.serde

    def _chain_before(self, contents: Contents, row: Stored, before: str | None) -> Chain:
        """What a row may rest on: of the chain of the version before it what stays, if it can be
        read and does not rest on the row itself.
        """
        found = contents.find(row.channel, before) if before is not None else None
        if found is None or found.token is None:
            return ()
        try:
            chain = contents.chain(found)[1]
        except SerializationError:
            return ()
        if any(link.version == row.version for link in chain):
            return ()
        staying = tuple(link for link in chain if (row.channel, link.version) not in self.doomed)
        return contents.with_base(row.channel, staying)

    def _free_writes(self) -> None:
        """Store whole the pending writes that rest on a blob that goes."""
        contents = self._contents()
        found = self._conn.execute(sql.SELECT_BASES_OF_WRITES, self._place).fetchall()
        for rowid, *key, base in found:
            if not (needed := resting_on(base, self.doomed)):
                continue
            write = None
            try:
                write = self._conn.execute(sql.SELECT_WRITE, (*self._place, *key)).fetchone()
                value = contents.written(*write)
            except (SerializationError, UnicodeEncodeError):
                if write and self._lacks_key(write[1]):
                    raise
                for each in needed:
                    self._spare(each)
                continue
            encoded = self._encoder.history.alone(self._encoder.serde, value)
            checkpoint_id, task_id, idx = key
            self.writes.append(((checkpoint_id, task_id, idx), encoded))
            self.write_rows.add(rowid)


# What each version of a channel rests on, oldest first.
_Bases = dict[str, Any]


def resting_on(base: Any, doomed: set[Key]) -> set[Key]:
    """Which of some blobs a pending write with that `base` rests on; none where it cannot tell."""
    try:
        return doomed.intersection(load_base(base))
    except ValueError:
        return set()
