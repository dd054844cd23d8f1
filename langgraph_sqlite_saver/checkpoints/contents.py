"""Bringing stored values back: out of their frames, along the chain of what they rest on."""

from __future__ import annotations

import sqlite3
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from sqlite3 import Connection
from typing import Any, NamedTuple

import orjson
from langgraph.checkpoint.serde.base import SerializerProtocol

from ..database import StorageError
from ..database.interruptions import is_from_outside
from . import sql
from .damage import is_key
from .differences import PREFACE, Difference, parse
from .encoding import DIFFERENCE, FRAME, SAMPLES, Chain, Link, base_of_next, mark_of
from .errors import DamagedError, SerializationError
from .frames import MAGIC, MOST_BYTES, FrameError, check_bytes, decompress
from .history import History, Place
from .jsontext import parameter
from .values import Blob, unseal

# What is kept decoded of one namespace's values, in bytes: bases that several of them share.
_KEPT_BYTES = 32_000_000

# What the differences of a chain may hold at once, in bytes.
_HELD_BYTES = 64_000_000

_OTHER_THINGS = "its columns hold other things than they should"

# One that is much longer than those that are made was not made by us, and may have no end.
_LONGEST_CHAIN = 100


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

    def __init__(
        self,
        conn: Connection,
        serde: SerializerProtocol,
        place: Place,
        history: History | None = None,
    ) -> None:
        self._conn = conn
        self._history = history  # what is at hand already
        self._serde = serde
        self.place = place
        self._rows: dict[tuple[str, str], Stored] = {}
        self._decoded: OrderedDict[tuple[str, str], Blob] = OrderedDict()
        self._bytes = 0

    def load(self, row: Stored, *, newest: bool) -> Blob:
        """A row's value, for reading a checkpoint.

        The history learns its chain: always if it is the `newest` one's, else where it knows none.
        """
        known = self._history is not None and self._history.chain(self.place, row.channel)
        return self.learn(row) if newest or not known else self.value(row)

    def learn(self, row: Stored) -> Blob:
        """A row's value, whose chain the history then knows."""
        if row.token is None:
            return self.value(row)
        if value := self._known(row):
            return value
        value, chain = self.chain(row)
        if self._history is not None:
            self._history.remember(self.place, {row.channel: chain})
        return value

    def _known(self, row: Stored) -> Blob | None:
        """A row's value, if the history has it at hand."""
        if self._history is None or row.token is None:
            return None
        for link in self._history.chain(self.place, row.channel) or ():
            if link.token == row.token and link.data is not None:
                return link.kind, link.data
        return None

    def _select(self, statement: str, keys: object, *more: str) -> Iterable[Any]:
        return self._conn.execute(statement, (parameter(keys), *self.place, *more)).fetchall()

    def find(self, channel: str, version: str) -> Stored | None:
        """The row of a version, if there is one."""
        row = self._rows.get((channel, version))
        if row is None:
            key = (*self.place, channel, version)
            columns = self._conn.execute(sql.SELECT_BLOB, key).fetchone()
            if columns is None:
                return None
            self._rows[channel, version] = row = Stored._make(columns)
        return row

    def replace(self, row: Stored) -> None:
        """Note that a row was stored otherwise; its value is the same."""
        self._rows[row.channel, row.version] = row

    def value(self, row: Stored) -> Blob:
        """A row's value: its type and bytes. Raises SerializationError, and nothing else for
        whatever the row and those it rests on may hold.
        """
        if row.size is None:
            return self.open(row)
        value = self.decoded(row)
        if value is None:
            with self._naming(row):
                value = self._known(row) or Layers(self, self._rows_down_from(row)).value()
            self._keep(row, value)
        return value

    def readable(self, row: Stored) -> Blob | None:
        """A row's value; None where it cannot be read, and has to stay as it is."""
        try:
            return self.value(row)
        except SerializationError:
            return None

    @contextmanager
    def _naming(self, row: Stored) -> Iterator[None]:
        """Columns may hold anything: what that leads to is damage, at this row."""
        try:
            yield
        except (StorageError, sqlite3.Error):  # says what it is, or nothing of the row
            raise
        except FrameError as error:
            raise self.damaged(row, str(error)) from error
        except Exception as error:
            if is_from_outside(error):
                raise
            raise self.damaged(row, f"{type(error).__name__}: {error}") from error

    def chain(self, row: Stored) -> tuple[Blob, Chain]:
        """A row's value, and what a next version may rest on: nothing where the row has no token.

        Of the chain's values only this one's bytes are at hand.
        """
        with self._naming(row):
            rows = self._rows_down_from(row)
            value = self._known(row) or Layers(self, rows).value()
        if type(row.token) is not int or "+" in value[0]:  # enciphered, and we have not the key
            return value, ()
        links = [Link(each.version, each.token or 0, _number(each), "", None) for each in rows]
        links[0] = links[0]._replace(kind=value[0], data=value[1])
        return value, tuple(links)

    def with_base(self, channel: str, chain: Chain) -> Chain:
        """A chain, with the bytes at hand that the version after it rests on."""
        if not chain:
            return chain
        base = chain[base_of_next(chain)]
        if base.data is not None:
            return chain
        row = self.find(channel, base.version)
        if row is None or row.token != base.token or (value := self.readable(row)) is None:
            return ()
        kind, data = value
        full = base._replace(kind=kind, data=data)
        return tuple(full if link is base else link for link in chain)

    def newest_chains(self, channels: Sequence[str]) -> dict[str, Chain]:
        """The chains of the newest versions; empty where there is none, or it cannot be read."""
        chains: dict[str, Chain] = dict.fromkeys(channels, ())
        for row in map(Stored._make, self._select(sql.SELECT_NEWEST_BLOBS, channels, *self.place)):
            if row.token is None:
                continue
            with suppress(SerializationError):
                chains[row.channel] = self.with_base(row.channel, self.chain(row)[1])
        return chains

    def _rows_down_from(self, row: Stored) -> list[Stored]:
        """A row and those it rests on, down to the whole one."""
        rows, seen = [row], {row.version}
        while (base := rows[-1].base) is not None and rows[-1].size is not None:
            if not is_key(base):
                raise self.damaged(rows[-1], "what its base is called is not text")
            found = self.find(row.channel, base)
            if found is None:
                raise self.damaged(rows[-1], f"its base, version {base}, is missing")
            if found.version in seen or len(rows) > _LONGEST_CHAIN:
                raise self.damaged(found, "what it rests on comes to no end")
            seen.add(found.version)
            rows.append(found)
        return rows

    def decoded(self, row: Stored) -> Blob | None:
        """A row's value, if it was decoded before and is still at hand."""
        key = (row.channel, row.version)
        if key not in self._decoded:
            return None
        self._decoded.move_to_end(key)
        return self._decoded[key]

    def _keep(self, row: Stored, value: Blob) -> None:
        self._decoded[row.channel, row.version] = value
        self._bytes += len(value[1])
        while self._bytes > _KEPT_BYTES:
            _, (_, dropped) = self._decoded.popitem(last=False)
            self._bytes -= len(dropped)

    def open(self, row: Stored) -> Blob:
        """What a row holds, deciphered; its type without what says how it is stored."""
        if not is_key(row.kind) or not isinstance(row.blob, bytes):
            raise self.damaged(row, _OTHER_THINGS)
        if not (row.size is None or type(row.size) is int):
            raise self.damaged(row, _OTHER_THINGS)
        kind, data = unseal(self._serde, row.channel, row.kind, row.blob)
        if row.size is None:
            return kind, data
        if "+" in kind and not data.startswith(MAGIC, 0 if row.base is None else PREFACE):
            raise SerializationError(
                f"the stored value of channel {row.channel!r} ({row.kind}) is enciphered. "
                "Give the serde, and the key, that it was saved with."
            )
        mark = FRAME if row.base is None else DIFFERENCE
        if not kind.startswith(mark):
            raise self.damaged(row, f"its type, {kind}, does not begin with {mark}")
        return kind[len(mark) :], data

    def damaged(self, row: Stored, reason: str) -> DamagedError:
        """The error that names a row."""
        return DamagedError(*self.place, row.channel, row.version, reason)

    def written(
        self, channel: str, kind: str, blob: bytes, base: str | None, size: int | None
    ) -> Blob:
        """A pending write's value: its type and bytes."""
        if is_plain(kind, blob, size):
            return kind, blob
        row = Stored(channel, "of a pending write", kind, blob, base, size, None, None)
        kind, data = self.open(row)
        try:
            if size is None:
                return kind, data
            with self._naming(row):
                if base is None:
                    data = decompress(data, check_bytes(size, len(data)))
                else:
                    data = self._undone(data, size, base)
            check_size(len(data), size)
            return kind, data
        except SerializationError:  # of what it rests on
            raise
        except FrameError as error:
            raise self.damaged(row, str(error)) from error
        except MemoryError as error:
            raise self.too_large(row) from error

    def too_large(self, row: Stored) -> SerializationError:
        """The error for a row whose value takes more memory than there is."""
        return SerializationError(
            f"the stored value of channel {row.channel!r} takes {row.size!r:.40} bytes, for which "
            "there is not enough memory"
        )

    def damaged_write(self, channel: Any) -> DamagedError:
        """The error for a pending write whose task or channel is not text."""
        reason = "its task's id, or the name of its channel, is not text"
        return DamagedError(*self.place, str(channel), "of a pending write", reason)

    def _undone(self, blob: bytes, size: int, base: str) -> bytes:
        keys = load_base(base)
        carried = self.carried(keys)
        check_bytes(size, len(blob), len(carried))
        found = parse(blob, size, lambda start, stop: carried[start:stop], len(carried))
        if found.mark != self.mark(keys):
            raise FrameError("what it rests on is not what it was")
        head, rest = found.rest[: found.head], found.rest[found.head :]
        return b"".join((head, carried[found.start : found.stop], rest, carried[found.resume :]))

    def carried(self, keys: Iterable[tuple[str, str]]) -> bytes:
        """The bytes of the values under `keys`, (channel, version), one after the other."""
        pieces: list[bytes] = []
        for key in keys:
            pieces.append(self.value(self._found(*key))[1])
            if sum(map(len, pieces)) > MOST_BYTES:
                raise FrameError(f"it rests on more than {MOST_BYTES:,} bytes")
        return b"".join(pieces)

    def mark(self, keys: Iterable[tuple[str, str]]) -> int:
        """The mark of those values together."""
        return mark_of(self._found(*key).token or 0 for key in keys)

    def _found(self, channel: str, version: str) -> Stored:
        row = self.find(channel, version)
        if row is None or type(row.token) is not int:
            reason = "it is missing, and a pending write rests on it"
            raise DamagedError(*self.place, channel, version, reason)
        return row


class Layers:
    """A value and those it rests on, taken apart: its bytes come back without theirs."""

    def __init__(self, contents: Contents, rows: Sequence[Stored]) -> None:
        self._contents = contents
        self._rows = rows
        self._whole: dict[int, bytes] = {}
        self._kinds: dict[int, str] = {}
        self._differences: dict[int, Difference] = {}
        self._held = 0

    def value(self) -> Blob:
        """The value: its type and bytes."""
        for position in reversed(range(self._needed())):
            self._open(position)
        return self._kinds[0], self._bytes(0, 0, self._size(0))

    def _needed(self) -> int:
        """How many of the rows it takes, down to a value that is at hand or whole."""
        for position, row in enumerate(self._rows):
            if self._contents.decoded(row) is not None:
                return position + 1
        return len(self._rows)

    def _size(self, position: int) -> int:
        size = self._rows[position].size
        return len(self._whole[position]) if size is None else size

    def _bytes(self, position: int, start: int, stop: int) -> bytes:
        pieces: list[memoryview] = []
        self._collect(position, start, stop, pieces)
        return b"".join(pieces)

    def _collect(self, position: int, start: int, stop: int, pieces: list[memoryview]) -> None:
        """Add where the bytes from `start` to `stop` of the value at a position are."""
        if (whole := self._whole.get(position)) is not None:
            pieces.append(memoryview(whole)[start:stop])
            return
        found = self._differences[position]
        at = 0
        for is_rest, begin, end in (
            (True, 0, found.head),
            (False, found.start, found.stop),
            (True, found.head, len(found.rest)),
            (False, found.resume, self._size(position + 1)),
        ):
            first, last = max(start, at) - at + begin, min(stop, at + end - begin) - at + begin
            at += end - begin
            if first >= last:
                continue
            if is_rest:
                pieces.append(memoryview(found.rest)[first:last])
            else:
                self._collect(position + 1, first, last, pieces)

    def _open(self, position: int) -> None:
        """Take a row apart; those that it rests on are already."""
        row = self._rows[position]
        if decoded := self._contents.decoded(row):
            self._kinds[position], self._whole[position] = decoded
            return
        self._kinds[position], data = self._contents.open(row)
        try:
            if row.size is None:
                self._whole[position] = data
            elif row.base is None:
                self._whole[position] = decompress(data, check_bytes(row.size, len(data)))
                check_size(len(self._whole[position]), row.size)
            else:
                self._take_apart(position, data, row.size)
        except (FrameError, TypeError, ValueError, IndexError) as error:
            raise self._contents.damaged(row, str(error)) from error
        except MemoryError as error:
            raise self._contents.too_large(row) from error

    def _take_apart(self, position: int, blob: bytes, size: int) -> None:
        base = self._rows[position + 1]
        base_size = self._size(position + 1)
        check_bytes(size, len(blob), base_size)
        found = parse(
            blob, size, lambda start, stop: self._bytes(position + 1, start, stop), base_size
        )
        if base.token != found.mark:
            raise FrameError(f"its base, version {base.version}, is not what it was")
        common = found.stop - found.start + base_size - found.resume
        check_size(len(found.rest) + common, size)
        self._differences[position] = found
        self._held += len(found.rest)
        if self._held > _HELD_BYTES:
            self._put_together(position, size)

    def _put_together(self, position: int, size: int) -> None:
        """Let go of what a value rests on: nothing above it needs more than its own bytes."""
        whole = self._bytes(position, 0, size)
        self._differences.clear()
        self._whole.clear()
        self._whole[position] = whole
        self._held = 0


def is_plain(kind: Any, blob: Any, size: int | None) -> bool:
    """Whether columns hold a value as it is, with nothing to be undone."""
    return size is None and type(blob) is bytes and type(kind) is str and "+" not in kind


def _number(row: Stored) -> int:
    """Which of its chain's numbers a row has: 0, as a whole one, where it is not a number."""
    return row.number if type(row.number) is int else 0


def check_size(found: int, size: int) -> None:
    """Raise FrameError for a value that has not the bytes that its row says."""
    if found != size:
        raise FrameError(f"it has {found} bytes and not {size}")


def load_base(base: Any) -> list[tuple[str, str]]:
    """The (channel, version) that a pending write rests on; ValueError if that is damaged."""
    found = orjson.loads(base)
    if type(found) is not list or not all(type(each) is list and len(each) == 2 for each in found):
        raise ValueError("what it rests on is damaged")
    if not all(is_key(channel) and is_key(version) for channel, version in found):
        raise ValueError("what it rests on is damaged")
    if len({channel for channel, _ in found}) != len(found):  # each would come again
        raise ValueError("it rests on a channel twice")
    if len(found) > SAMPLES:
        raise ValueError("it rests on more channels than a pending write can")
    return [(channel, version) for channel, version in found]


def holds(conn: Connection, place: Place, channel: str, link: Link) -> bool:
    """Whether a version is in the file, and with the value that it is known to have."""
    found = conn.execute(sql.SELECT_TOKEN, (*place, channel, link.version)).fetchone()
    return found is not None and found[0] == link.token
