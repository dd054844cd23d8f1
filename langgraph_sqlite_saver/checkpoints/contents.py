"""Bringing stored values back: out of their frames, along the chain of what they rest on."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from sqlite3 import Connection
from typing import Any, NamedTuple

import orjson
from langgraph.checkpoint.serde.base import SerializerProtocol

from . import sql
from .errors import DamagedError, SerializationError
from .frames import FrameError, decompress
from .history import FRAME, Chain, History, Link, Place, base_of_next
from .jsontext import parameter
from .values import EMPTY, Blob, unseal

# What is kept decoded of one namespace's values, in bytes: bases that several of them share.
_KEPT_BYTES = 32_000_000


class Stored(NamedTuple):
    """A row of `checkpoint_blobs`, its columns as in sql.BLOB_COLUMNS."""

    channel: str
    version: str
    kind: str
    blob: bytes
    base: str | None
    size: int | None
    token: int | None
    number: int | None


class Contents:
    """The values of one thread and namespace, in one snapshot."""

    def __init__(self, conn: Connection, serde: SerializerProtocol, place: Place) -> None:
        self._conn = conn
        self._serde = serde
        self._place = place
        self._rows: dict[tuple[str, str], Stored] = {}
        self._decoded: OrderedDict[tuple[str, str], bytes] = OrderedDict()
        self._bytes = 0

    def load(
        self, keys: Mapping[str, str], history: History, *, newest: bool
    ) -> Iterator[tuple[str, str, bytes]]:
        """The values under `keys`, channel -> version, as (channel, type, bytes).

        What `history` has at hand is not decoded again. It learns the others' chains: always if
        they are the `newest`, else where it knows none.
        """
        rows = [Stored._make(row) for row in self._select(sql.SELECT_BLOBS, keys)]
        known = {row.channel: self._known(row, history) for row in rows if row.token is not None}
        self.fetch([row for row in rows if row.base is not None and not known[row.channel]])
        learnt: dict[str, Chain] = {}
        for row in rows:
            if row.kind == EMPTY:
                continue
            if link := known.get(row.channel):
                yield row.channel, link.kind, link.data or b""
                continue
            if row.token is None or (history.chain(self._place, row.channel) and not newest):
                yield row.channel, *self.value(row)
                continue
            value, learnt[row.channel] = self.chain(row)
            yield row.channel, *value
        history.remember(self._place, learnt)

    def _select(self, statement: str, keys: object) -> Iterable[Any]:
        return self._conn.execute(statement, (parameter(keys), *self._place)).fetchall()

    def _known(self, row: Stored, history: History) -> Link | None:
        for link in history.chain(self._place, row.channel) or ():
            if link.token == row.token and link.data is not None:
                return link
        return None

    def fetch(self, rows: Iterable[Stored]) -> None:
        """Bring the rows that these rest on, in one statement; else each is looked up alone."""
        wanted = [(row.channel, row.base) for row in rows if row.base is not None]
        if wanted:
            for columns in self._select(sql.SELECT_CHAINS, wanted):
                row = Stored._make(columns)
                self._rows[row.channel, row.version] = row

    def find(self, channel: str, version: str) -> Stored | None:
        """The row of a version, if there is one."""
        row = self._rows.get((channel, version))
        if row is None:
            key = (*self._place, channel, version)
            columns = self._conn.execute(sql.SELECT_BLOB, key).fetchone()
            if columns is None:
                return None
            self._rows[channel, version] = row = Stored._make(columns)
        return row

    def replace(self, row: Stored) -> None:
        """Note that a row was stored otherwise; its value is the same."""
        self._rows[row.channel, row.version] = row

    def value(self, row: Stored) -> Blob:
        """A row's value: its type and bytes."""
        if row.base is None:
            return self._open(row, b"")
        path = self._path(row)
        data = b""
        for each in reversed(path):
            key = (each.channel, each.version)
            if each is row:
                return self._open(each, data)
            if (decoded := self._decoded.get(key)) is not None:
                self._decoded.move_to_end(key)
                data = decoded
            else:
                data = self._open(each, data)[1]
                self._keep(key, data)
        raise AssertionError("a path ends with its row")

    def chain(self, row: Stored) -> tuple[Blob, Chain]:
        """A row's value, and what a next version may rest on: nothing where the row has no token.

        Of very large values only the bytes that the next version needs are kept.
        """
        path = self._path(row)
        links = [Link(r.version, r.token or 0, r.number or 0, "", None) for r in path]
        needed = base_of_next(tuple(links))
        kind, data, left = "", b"", _KEPT_BYTES
        for position in reversed(range(len(path))):
            kind, data = self._open(path[position], data)
            left -= len(data)
            if left >= 0 or position == needed:
                links[position] = links[position]._replace(kind=kind, data=data)
        return (kind, data), tuple(links) if row.token is not None else ()

    def newest_chains(self, channels: Sequence[str]) -> dict[str, Chain]:
        """The chains of the newest versions; empty where there is none, or it cannot be read."""
        chains: dict[str, Chain] = dict.fromkeys(channels, ())
        rows = [Stored._make(row) for row in self._select(sql.SELECT_NEWEST_BLOBS, channels)]
        rows = [row for row in rows if row.token is not None]
        self.fetch(rows)
        for row in rows:
            with suppress(DamagedError):
                chains[row.channel] = self.chain(row)[1]
        return chains

    def _path(self, row: Stored) -> list[Stored]:
        """A row and those it rests on, down to the whole one."""
        path, seen = [row], {row.version}
        while (base := path[-1].base) is not None:
            found = self.find(row.channel, base)
            if found is None:
                raise self._damaged(path[-1], f"its base, version {base}, is missing")
            if found.version in seen:
                raise self._damaged(row, "it rests on itself")
            seen.add(found.version)
            path.append(found)
        return path

    def _open(self, row: Stored, base: bytes) -> Blob:
        try:
            return opened(self._serde, row.channel, row.kind, row.blob, base)
        except (FrameError, SerializationError) as error:
            raise self._damaged(row, str(error)) from error

    def _keep(self, key: tuple[str, str], data: bytes) -> None:
        self._decoded[key] = data
        self._bytes += len(data)
        while self._bytes > _KEPT_BYTES:
            _, dropped = self._decoded.popitem(last=False)
            self._bytes -= len(dropped)

    def _damaged(self, row: Stored, reason: str) -> DamagedError:
        return DamagedError(*self._place, row.channel, row.version, reason)

    def written(self, channel: str, kind: str, blob: bytes, base: str | None) -> Blob:
        """A pending write's value: its type and bytes."""
        carried = self.carried(orjson.loads(base)) if base else b""
        try:
            return opened(self._serde, channel, kind, blob, carried)
        except (FrameError, SerializationError) as error:
            raise DamagedError(*self._place, channel, "of a pending write", str(error)) from error

    def carried(self, keys: Mapping[str, str]) -> bytes:
        """The bytes of the values under `keys`, channel -> version, one after the other."""
        return b"".join(self._bytes_of(*key) for key in keys.items())

    def _bytes_of(self, channel: str, version: str) -> bytes:
        if (decoded := self._decoded.get((channel, version))) is not None:
            return decoded
        row = self.find(channel, version)
        if row is None:
            reason = "it is missing, and a pending write rests on it"
            raise DamagedError(*self._place, channel, version, reason)
        data = self.value(row)[1]
        self._keep((channel, version), data)
        return data


def opened(serde: SerializerProtocol, channel: str, kind: str, blob: bytes, base: bytes) -> Blob:
    """Deciphered and out of the frame; raises FrameError for a damaged one."""
    kind, data = unseal(serde, channel, kind, blob)
    if kind.startswith(FRAME):
        return kind[len(FRAME) :], decompress(data, base)
    return kind, data


def holds(conn: Connection, place: Place, channel: str, link: Link) -> bool:
    """Whether a version is in the file, and with the value that it is known to have."""
    found = conn.execute(sql.SELECT_TOKEN, (*place, channel, link.version)).fetchone()
    return found is not None and found[0] == link.token
