"""Out of our file: keys in order, and whole checkpoints with values as they were serialised."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from sqlite3 import Connection
from typing import Any, NamedTuple

from langgraph.checkpoint.serde.base import SerializerProtocol

from ..checkpoints import SCHEMA
from ..checkpoints.contents import Contents, Stored, is_plain
from ..checkpoints.history import Place
from ..checkpoints.jsontext import parameter
from ..checkpoints.reading import Row
from ..checkpoints.sql import BLOB_COLUMNS, COLUMNS
from ..checkpoints.values import Blob, seal
from ..database import CannotOpenError, Database, ReadOnlyError, migrations
from ..database.files import Location, StrPath, take_empty_wal_away
from ..database.names import check_path

PAGE = 1_000

# What one page of whole checkpoints may hold; a checkpoint that is larger is a page of its own.
MOST_CHECKPOINTS = 500
MOST_BYTES = 8_000_000

_FIRST = ("", "", "")


class Key(NamedTuple):
    """A checkpoint's primary key."""

    thread_id: str
    checkpoint_ns: str
    checkpoint_id: str

    @property
    def place(self) -> Place:
        """Its thread and namespace."""
        return self[:2]


class Entry(NamedTuple):
    """A key that the file has: of a checkpoint, or only of pending writes that came before it."""

    key: Key
    is_saved: bool
    parent_id: str | None

    @property
    def parent(self) -> Key | None:
        """Its parent's key."""
        return self.key._replace(checkpoint_id=self.parent_id) if self.parent_id else None


class BlobKey(NamedTuple):
    """A row of `checkpoint_blobs`."""

    place: Place
    channel: str
    version: str


class Write(NamedTuple):
    """A pending write, its value serialised, and enciphered if it was."""

    task_id: str
    task_path: str
    idx: int
    channel: str
    kind: str
    blob: bytes


@dataclass
class Page:
    """Some checkpoints as one snapshot has them."""

    rows: list[Row] = field(default_factory=list)
    # Keys of which only pending writes are wanted, or there.
    keys: list[Key] = field(default_factory=list)
    writes: dict[Key, list[Write]] = field(default_factory=dict)
    # Which of the blobs that were asked for are there.
    blobs: set[BlobKey] = field(default_factory=set)
    values: dict[BlobKey, Blob] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """How many of the keys asked for it has."""
        return len(self.rows) + len(self.keys)


# Of both tables: writes may come before their checkpoint.
_KEYS = """
SELECT k.thread_id, k.checkpoint_ns, k.checkpoint_id, c.checkpoint_id IS NOT NULL,
    c.parent_checkpoint_id
FROM (
    SELECT thread_id, checkpoint_ns, checkpoint_id FROM checkpoints WHERE {condition}
    UNION
    SELECT thread_id, checkpoint_ns, checkpoint_id FROM checkpoint_writes WHERE {condition}
    ORDER BY 1, 2, 3 LIMIT ?
) AS k
LEFT JOIN checkpoints AS c ON c.thread_id = k.thread_id AND c.checkpoint_ns = k.checkpoint_ns
AND c.checkpoint_id = k.checkpoint_id
ORDER BY 1, 2, 3
"""

KEYS = _KEYS.format(condition="(thread_id, checkpoint_ns, checkpoint_id) > (?, ?, ?)")

KEYS_OF_THREAD = _KEYS.format(condition="thread_id = ? AND (checkpoint_ns, checkpoint_id) > (?, ?)")

NEWEST = "SELECT max(checkpoint_id) FROM checkpoints WHERE thread_id = ? AND checkpoint_ns = ?"

COUNT = "SELECT count(*) FROM checkpoints"

COUNT_OF_THREADS = """
SELECT count(*) FROM json_each(?) AS wanted
CROSS JOIN checkpoints WHERE thread_id = wanted.value
"""

# {thread_id: {checkpoint_ns: [checkpoint_id, …]}}
ROWS = f"""
SELECT {", ".join("c." + column for column in COLUMNS.split(", "))}
FROM json_each(?) AS thread, json_each(thread.value) AS ns, json_each(ns.value) AS id
CROSS JOIN checkpoints AS c
WHERE c.thread_id = thread.key AND c.checkpoint_ns = ns.key AND c.checkpoint_id = id.value
"""  # noqa: S608

# {thread_id: {checkpoint_ns: {number: checkpoint_id}}}
PARENTS = """
SELECT number.key, c.parent_checkpoint_id
FROM json_each(?) AS thread, json_each(thread.value) AS ns, json_each(ns.value) AS number
CROSS JOIN checkpoints AS c
WHERE c.thread_id = thread.key AND c.checkpoint_ns = ns.key AND c.checkpoint_id = number.value
"""

# {thread_id: {checkpoint_ns: {channel: {number: version}}}}
_BLOBS = """
SELECT number.key, {columns}
FROM json_each(?) AS thread, json_each(thread.value) AS ns, json_each(ns.value) AS channel,
    json_each(channel.value) AS number
CROSS JOIN checkpoint_blobs AS b
WHERE b.thread_id = thread.key AND b.checkpoint_ns = ns.key AND b.channel = channel.key
AND b.version = number.value
"""

SIZES_OF_BLOBS = _BLOBS.format(columns="coalesce(b.size, length(b.blob), 0)")
BLOBS = _BLOBS.format(columns=BLOB_COLUMNS)

# {thread_id: {checkpoint_ns: {number: checkpoint_id}}}
_WRITES = """
SELECT number.key, {columns}
FROM json_each(?) AS thread, json_each(thread.value) AS ns, json_each(ns.value) AS number
CROSS JOIN checkpoint_writes AS w
WHERE w.thread_id = thread.key AND w.checkpoint_ns = ns.key AND w.checkpoint_id = number.value
"""

SIZES_OF_WRITES = _WRITES.format(columns="coalesce(w.size, length(w.blob))")
KEYS_OF_WRITES = _WRITES.format(columns="w.task_id, w.idx")
_WRITE_COLUMNS = "w.task_id, w.task_path, w.idx, w.channel, w.type, w.blob, w.base, w.size"
WRITES = _WRITES.format(columns=_WRITE_COLUMNS)
SPECIAL_WRITES = WRITES + "AND w.idx < 0"


@contextmanager
def opened(path: StrPath) -> Iterator[Database]:
    """A file for reading only; one of an older release is brought up to date first."""
    if not Path(path).exists():
        check_path(str(path))
        raise CannotOpenError(f"there is no file {path}")
    location = Location.of(Path(path))
    had_wal = location.wal.exists()
    try:
        with Database(location.uri(mode="ro"), schemas=[SCHEMA]) as database:
            _bring_up_to_date(database, path)
            yield database
    finally:
        if not had_wal:
            take_empty_wal_away(location)


def _bring_up_to_date(database: Database, path: StrPath) -> None:
    try:
        database.open()
    except ReadOnlyError:
        with Database(database.name) as any_file:
            if not any_file.read(migrations.applied_version, SCHEMA):
                raise CannotOpenError(f"{path} has no tables of SqliteSaver's") from None
        with Database(path, schemas=[SCHEMA]) as writable:
            writable.open()


def entries(
    database: Database, threads: Sequence[str] | None, size: int = PAGE
) -> Iterator[list[Entry]]:
    """Every key of the file, or of some threads, in order and in lists; each from a short read."""
    found = _all(database) if threads is None else _of_threads(database, threads)
    yield from in_pages(found, size)


def in_pages(entries: Iterator[Entry], size: int) -> Iterator[list[Entry]]:
    """The same in lists of `size`."""
    while page := list(islice(entries, size)):
        yield page


def _all(database: Database) -> Iterator[Entry]:
    last: tuple[str, ...] = _FIRST
    while page := database.read(_entries, KEYS, last):
        yield from page
        last = page[-1].key


def _of_threads(database: Database, threads: Sequence[str]) -> Iterator[Entry]:
    for thread_id in sorted(set(threads)):
        last: tuple[str, ...] = (thread_id, "", "")
        while page := database.read(_entries, KEYS_OF_THREAD, last):
            yield from page
            last = page[-1].key


def _entries(conn: Connection, statement: str, last: tuple[str, ...]) -> list[Entry]:
    found = conn.execute(statement, (*last, *last, PAGE))
    return [Entry(Key(*key), bool(saved), parent) for *key, saved, parent in found]


def count(conn: Connection, threads: Sequence[str] | None) -> int:
    """How many checkpoints there are."""
    if threads is None:
        found = conn.execute(COUNT)
    else:
        found = conn.execute(COUNT_OF_THREADS, (parameter(sorted(set(threads))),))
    return int(found.fetchone()[0])


def begin_page(conn: Connection, keys: Sequence[Key], needs_row: Callable[[Key], bool]) -> Page:
    """The rows, and which blobs they may need, of as many of the keys as fit into a page.

    Of keys that need no row only the pending writes are taken.
    """
    some = keys[:MOST_CHECKPOINTS]
    found = {Key(*row[:3]): row for row in rows(conn, [key for key in some if needs_row(key)])}
    sizes = _sizes_of_blobs(conn, found.values())
    of_writes = _sizes_of_writes(conn, some)
    page, total = Page(), 0
    for key in some:
        row = found.get(key)
        needed = candidates(row) if row else []
        new = {blob for blob in needed if blob in sizes} - page.blobs
        total += sum(sizes[blob] for blob in new) + of_writes.get(key, 0)
        if total > MOST_BYTES and page.size:
            break
        page.blobs |= new
        if row:
            page.rows.append(row)
        else:
            page.keys.append(key)
    return page


def candidates(row: Row) -> list[BlobKey]:
    """Every blob that a checkpoint may need, and that Postgres might take for its own."""
    place = (row.thread_id, row.checkpoint_ns)
    keys = [
        BlobKey(place, channel, str(version))
        for channel, version in row.checkpoint["channel_versions"].items()
    ]
    keys += (BlobKey(place, channel, key) for channel, key in row.notes.items())
    return keys


def rows(conn: Connection, keys: Sequence[Key]) -> Iterator[Row]:
    """The rows of some checkpoints."""
    wanted: dict[str, dict[str, list[str]]] = {}
    for thread_id, ns, checkpoint_id in keys:
        wanted.setdefault(thread_id, {}).setdefault(ns, []).append(checkpoint_id)
    return map(Row.of, conn.execute(ROWS, (parameter(wanted),)))


def _sizes_of_blobs(conn: Connection, rows: Iterable[Row]) -> dict[BlobKey, int]:
    wanted = list(dict.fromkeys(blob for row in rows for blob in candidates(row)))
    found = conn.execute(SIZES_OF_BLOBS, (_numbered_blobs(wanted),))
    return {wanted[int(number)]: size for number, size in found}


def _sizes_of_writes(conn: Connection, keys: Sequence[Key]) -> dict[Key, int]:
    sizes: dict[Key, int] = {}
    for number, size in conn.execute(SIZES_OF_WRITES, (_numbered(keys),)):
        key = keys[int(number)]
        sizes[key] = sizes.get(key, 0) + size
    return sizes


def _numbered_blobs(blobs: Sequence[BlobKey]) -> str:
    wanted: dict[str, dict[str, dict[str, dict[str, str]]]] = {}
    for number, ((thread_id, ns), channel, version) in enumerate(blobs):
        channels = wanted.setdefault(thread_id, {}).setdefault(ns, {})
        channels.setdefault(channel, {})[str(number)] = version
    return parameter(wanted)


def _numbered(keys: Sequence[Key]) -> str:
    wanted: dict[str, dict[str, dict[str, str]]] = {}
    for number, (thread_id, ns, checkpoint_id) in enumerate(keys):
        wanted.setdefault(thread_id, {}).setdefault(ns, {})[str(number)] = checkpoint_id
    return parameter(wanted)


class Values:
    """Stored values as their serialiser made them, in one snapshot: differences are undone.

    What was enciphered comes enciphered: as it lies there, or enciphered anew.
    """

    def __init__(self, conn: Connection, serde: SerializerProtocol) -> None:
        self._conn, self._serde = conn, serde
        self._contents: dict[Place, Contents] = {}

    def at(self, place: Place) -> Contents:
        """The contents of a place."""
        if place not in self._contents:
            self._contents[place] = Contents(self._conn, self._serde, place)
        return self._contents[place]

    def blobs(self, keys: Iterable[BlobKey]) -> dict[BlobKey, Blob]:
        """The values of some blobs; those without a value are left out."""
        wanted = sorted(keys)  # oldest first: newer versions rest on them
        values: dict[BlobKey, Blob] = {}
        resting: dict[BlobKey, Stored] = {}
        for number, *columns in self._conn.execute(BLOBS, (_numbered_blobs(wanted),)):
            row = Stored._make(columns)
            if row.size is not None:
                resting[wanted[int(number)]] = row
            elif row.blob is not None:
                values[wanted[int(number)]] = row.kind, row.blob
        for key in sorted(resting):
            row = resting[key]
            values[key] = self._sealed(row.kind, self.at(key.place).value(row))
        return values

    def writes(self, keys: Sequence[Key], statement: str = WRITES) -> dict[Key, list[Write]]:
        """The pending writes of some checkpoints."""
        found: dict[Key, list[Write]] = {}
        for number, *columns in self._conn.execute(statement, (_numbered(keys),)).fetchall():
            key = keys[int(number)]
            found.setdefault(key, []).append(self._write(key.place, *columns))
        return found

    def _write(self, place: Place, *columns: Any) -> Write:
        task_id, task_path, idx, channel, kind, data, base, size = columns
        if size is not None and not is_plain(kind, data, size):
            value = self.at(place).written(channel, kind, data, base, size)
            kind, data = self._sealed(kind, value)
        return Write(task_id, task_path, idx, channel, kind, data)

    def _sealed(self, kind: str, value: Blob) -> Blob:
        return seal(self._serde, *value) if "+" in kind else value


def keys_of_writes(conn: Connection, keys: Sequence[Key]) -> dict[Key, set[tuple[str, int]]]:
    """The task and number of every pending write of some checkpoints."""
    found: dict[Key, set[tuple[str, int]]] = {}
    for number, task_id, idx in conn.execute(KEYS_OF_WRITES, (_numbered(keys),)):
        found.setdefault(keys[int(number)], set()).add((task_id, idx))
    return found


def parents(conn: Connection, keys: Sequence[Key]) -> dict[Key, str | None]:
    """Those of some checkpoints that are there, and their parents."""
    found = conn.execute(PARENTS, (_numbered(keys),))
    return {keys[int(number)]: parent for number, parent in found}


def existing(conn: Connection, keys: Sequence[Key]) -> set[Key]:
    """Those of some keys that the file has, as checkpoints or only as pending writes."""
    return parents(conn, keys).keys() | keys_of_writes(conn, keys).keys()


def newest(conn: Connection, places: Iterable[Place]) -> dict[Place, str]:
    """The newest checkpoint of each of some places that there are."""
    found = {place: conn.execute(NEWEST, place).fetchone()[0] for place in places}
    return {place: checkpoint_id for place, checkpoint_id in found.items() if checkpoint_id}


def with_heads(
    pages: Iterator[list[Entry]],
) -> Iterator[tuple[list[Entry], frozenset[Key]]]:
    """Pages, and which of their keys are the newest of their thread and namespace."""
    page = next(pages, None)
    while page is not None:
        following = next(pages, None)
        places = {following[0].key.place} if following else set()
        heads = set()
        for entry in reversed(page):
            if entry.is_saved and entry.key.place not in places:
                places.add(entry.key.place)
                heads.add(entry.key)
        yield page, frozenset(heads)
        page = following
