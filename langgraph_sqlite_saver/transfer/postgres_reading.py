"""Out of Postgres: keys in order, and whole checkpoints as PostgresSaver would find them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import psycopg

from ..checkpoints import jsontext
from ..checkpoints.values import EMPTY, Blob
from .emptying import MOST_BYTES, MOST_CHECKPOINTS, PAGE, BlobKey, Entry, Key, Write
from .postgres_spelling import in_postgres
from .postgres_tables import columns

_FIRST = ("", "", "")

# In the order of the database's own collation, which its indexes have.
_KEYS = """
SELECT k.*, c.checkpoint_id IS NOT NULL, c.parent_checkpoint_id
FROM (
    (
        SELECT thread_id, checkpoint_ns, checkpoint_id FROM checkpoints WHERE {condition}
        ORDER BY thread_id, checkpoint_ns, checkpoint_id LIMIT %(size)s
    )
    UNION
    (
        SELECT DISTINCT thread_id, checkpoint_ns, checkpoint_id FROM checkpoint_writes
        WHERE {condition} ORDER BY thread_id, checkpoint_ns, checkpoint_id LIMIT %(size)s
    )
) AS k
LEFT JOIN LATERAL (
    SELECT checkpoint_id, parent_checkpoint_id FROM checkpoints
    WHERE thread_id = k.thread_id AND checkpoint_ns = k.checkpoint_ns
    AND checkpoint_id = k.checkpoint_id
    OFFSET 0
) AS c ON true
ORDER BY k.thread_id, k.checkpoint_ns, k.checkpoint_id LIMIT %(size)s
"""

_KEYS_OF_ALL = _KEYS.format(
    condition="(thread_id, checkpoint_ns, checkpoint_id) > (%(thread)s, %(ns)s, %(id)s)"
)

_KEYS_OF_THREAD = _KEYS.format(
    condition="thread_id = %(thread)s AND (checkpoint_ns, checkpoint_id) > (%(ns)s, %(id)s)"
)

# Without statistics Postgres would rather sort a whole thread for each page of it.
_IN_ORDER = """
SET LOCAL enable_seqscan = off; SET LOCAL enable_bitmapscan = off; SET LOCAL enable_sort = off;
SET LOCAL jit = off
"""

_COUNT = "SELECT count(*) FROM checkpoints WHERE %(all)s OR thread_id = ANY(%(threads)s)"

_WANTED = """
SELECT k.number, found.*
FROM unnest(%s::text[], %s::text[], %s::text[]) WITH ORDINALITY AS k (t, n, i, number)
CROSS JOIN LATERAL ({found} OFFSET 0) AS found
"""

_ROWS = _WANTED.format(
    found="""
SELECT parent_checkpoint_id, checkpoint::text, metadata::text FROM checkpoints
WHERE thread_id = k.t AND checkpoint_ns = k.n AND checkpoint_id = k.i
"""
)

_SIZES_OF_WRITES = _WANTED.format(
    found="""
SELECT sum(octet_length(blob))::bigint FROM checkpoint_writes
WHERE thread_id = k.t AND checkpoint_ns = k.n AND checkpoint_id = k.i
"""
)

_WRITES = _WANTED.format(
    found="""
SELECT task_id, task_path, idx, channel, type, blob FROM checkpoint_writes
WHERE thread_id = k.t AND checkpoint_ns = k.n AND checkpoint_id = k.i
"""
)

_BLOBS = """
SELECT k.number, found.*
FROM unnest(%s::text[], %s::text[], %s::text[], %s::text[])
    WITH ORDINALITY AS k (t, n, channel, version, number)
CROSS JOIN LATERAL (
    SELECT {found} FROM checkpoint_blobs AS b
    WHERE thread_id = k.t AND checkpoint_ns = k.n AND b.channel = k.channel
    AND b.version = k.version
    OFFSET 0
) AS found
"""

_SIZES_OF_BLOBS = _BLOBS.format(found="type, octet_length(blob)")
_BLOBS_THEMSELVES = _BLOBS.format(found="type, blob")


class Found(NamedTuple):
    """A checkpoint in Postgres."""

    key: Key
    parent_id: str | None
    checkpoint: dict[str, Any]
    metadata: dict[str, Any]
    # Where its values lie that are blobs, by channel.
    blobs: dict[str, BlobKey]


@dataclass
class Snapshot:
    """Some checkpoints, and all that belongs to them, at one moment."""

    taken: int = 0
    found: list[Found] = field(default_factory=list)
    values: dict[BlobKey, Blob] = field(default_factory=dict)
    writes: dict[Key, list[Write]] = field(default_factory=dict)
    # About how many bytes each of the keys has.
    sizes: dict[Key, int] = field(default_factory=dict)


class Reading:
    """Reads Postgres in short snapshots."""

    def __init__(self, conn: psycopg.Connection[tuple[Any, ...]]) -> None:
        self._conn = conn

    def count(self, threads: Sequence[str] | None) -> int:
        """How many checkpoints there are."""
        wanted = {"all": threads is None, "threads": list(threads or ())}
        row = self._conn.execute(_COUNT, wanted).fetchone()
        return int(row[0]) if row else 0

    def entries(self, threads: Sequence[str] | None) -> Iterator[list[Entry]]:
        """Every key, or those of some threads, in order and in lists."""
        if threads is None:
            yield from self._entries(_KEYS_OF_ALL, _FIRST)
        else:
            for thread_id in sorted(set(threads)):
                yield from self._entries(_KEYS_OF_THREAD, (thread_id, "", ""))

    def _entries(self, statement: str, last: tuple[str, ...]) -> Iterator[list[Entry]]:
        while True:
            behind = {**dict(zip(("thread", "ns", "id"), last, strict=True)), "size": PAGE}
            with self._conn.transaction():
                self._conn.execute(_IN_ORDER)
                rows = self._conn.execute(statement, behind).fetchall()
            if not rows:
                return
            yield [Entry(Key(*key), saved, parent) for *key, saved, parent in rows]
            last = rows[-1][:3]

    def take(
        self, keys: Sequence[Key], only_writes: frozenset[Key], kept: Mapping[BlobKey, Blob]
    ) -> Snapshot:
        """As many of the keys as fit into a page; values that are `kept` are not read again."""
        some = keys[:MOST_CHECKPOINTS]
        with self._conn.transaction():
            self._conn.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
            return self._take(some, only_writes, kept)

    def _take(
        self, keys: Sequence[Key], only_writes: frozenset[Key], kept: Mapping[BlobKey, Blob]
    ) -> Snapshot:
        rows = self._rows([key for key in keys if key not in only_writes])
        needed = {key: _blobs_of(key, row[1]) for key, row in rows.items()}
        sizes = self._sizes_of_blobs(dict.fromkeys(b for each in needed.values() for b in each))
        of_writes = dict(self._sizes_of_writes(keys))
        page, used, total = Snapshot(), set(kept), 0
        for key in keys:
            here = {blob for blob in needed.get(key, ()) if blob in sizes}
            size = sum(sizes[blob] for blob in here - used) + of_writes.get(key, 0)
            if total + size > MOST_BYTES and page.taken:
                break
            total += size
            used |= here
            page.taken += 1
            page.sizes[key] = size
            if key in rows:
                parent_id, checkpoint, metadata = rows[key]
                blobs = {blob.channel: blob for blob in here}
                page.found.append(Found(key, parent_id, checkpoint, metadata, blobs))
        wanted = {blob for each in page.found for blob in each.blobs.values()}
        page.values = {blob: kept[blob] for blob in wanted & kept.keys()}
        page.values |= self._values(list(wanted - kept.keys()))
        page.writes = self._writes(keys[: page.taken])
        return page

    def _select(self, statement: str, keys: Sequence[Key]) -> Iterable[Any]:
        return self._conn.cursor(binary=True).execute(statement, columns(keys, 3))

    def _rows(self, keys: Sequence[Key]) -> dict[Key, tuple[str | None, Any, Any]]:
        return {
            keys[number - 1]: (parent, _document(checkpoint), jsontext.load_metadata(metadata))
            for number, parent, checkpoint, metadata in self._select(_ROWS, keys)
        }

    def _sizes_of_writes(self, keys: Sequence[Key]) -> Iterator[tuple[Key, int]]:
        for number, size in self._select(_SIZES_OF_WRITES, keys):
            yield keys[number - 1], size or 0

    def _sizes_of_blobs(self, blobs: Iterable[BlobKey]) -> dict[BlobKey, int]:
        wanted = list(blobs)
        found = self._conn.execute(_SIZES_OF_BLOBS, _places(wanted))
        return {
            wanted[number - 1]: size for number, kind, size in found
            if kind != EMPTY and size is not None
        }  # fmt: skip

    def _values(self, blobs: Sequence[BlobKey]) -> dict[BlobKey, Blob]:
        cursor = self._conn.cursor(binary=True)
        found = cursor.execute(_BLOBS_THEMSELVES, _places(blobs))
        return {blobs[number - 1]: (kind, bytes(blob)) for number, kind, blob in found}

    def _writes(self, keys: Sequence[Key]) -> dict[Key, list[Write]]:
        writes: dict[Key, list[Write]] = {}
        for number, *columns_ in self._select(_WRITES, keys):
            writes.setdefault(keys[number - 1], []).append(Write(*columns_))
        return writes


def _document(text: str) -> dict[str, Any]:
    """A checkpoint's JSON, ints of any size among it."""
    document: dict[str, Any] = jsontext.load_metadata(text)
    for part in ("channel_values", "channel_versions", "versions_seen"):
        if document.get(part) is None:
            document[part] = {}
    return document


def _blobs_of(key: Key, checkpoint: Mapping[str, Any]) -> list[BlobKey]:
    return [
        BlobKey(key.place, channel, in_postgres(version))
        for channel, version in checkpoint["channel_versions"].items()
        if version is not None
    ]


def _places(blobs: Sequence[BlobKey]) -> list[list[Any]]:
    return columns([(*blob.place, blob.channel, blob.version) for blob in blobs], 4)
