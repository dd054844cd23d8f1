"""PostgresSaver's tables: connecting to them, what they hold, storing and deleting."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar

import psycopg
from langgraph.checkpoint.postgres import PostgresSaver
from psycopg.rows import BaseRowFactory, DictRow, dict_row, tuple_row

from ..checkpoints.history import Place
from ..checkpoints.jsontext import load_metadata
from ..checkpoints.values import Blob
from .emptying import Key, Write
from .errors import TransferError, VerificationError
from .postgres_page import Rows

_Row = TypeVar("_Row")

# The tables' version, as PostgresSaver counts: the position of its newest migration.
VERSION = len(PostgresSaver.MIGRATIONS) - 1

TABLES = ("checkpoints", "checkpoint_blobs", "checkpoint_writes")

# Rows come in by COPY, which knows no ON CONFLICT, into tables that are empty after each
# transaction. They are asked for in each: a pooler may have given it another connection.
# (jit: compiling a statement takes longer than running it.)
_STAGE = """
SET LOCAL jit = off;
CREATE TEMP TABLE IF NOT EXISTS carried_checkpoints (
    thread_id text, checkpoint_ns text, checkpoint_id text, parent_checkpoint_id text,
    checkpoint text, metadata text
) ON COMMIT DELETE ROWS;
CREATE TEMP TABLE IF NOT EXISTS carried_blobs (
    thread_id text, checkpoint_ns text, channel text, version text, type text, blob bytea
) ON COMMIT DELETE ROWS;
CREATE TEMP TABLE IF NOT EXISTS carried_writes (
    thread_id text, checkpoint_ns text, checkpoint_id text, task_id text, task_path text,
    idx integer, channel text, type text, blob bytea
) ON COMMIT DELETE ROWS
"""

_STAGED = {
    "carried_checkpoints": ["text"] * 6,
    "carried_blobs": [*["text"] * 5, "bytea"],
    "carried_writes": [*["text"] * 5, "int4", "text", "text", "bytea"],
}

# One that is there stays, but for its parent: deleting checkpoints gives others another one.
# (xmax: whether the row is new.)
_STORE_CHECKPOINTS = """
INSERT INTO checkpoints AS c (
    thread_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id, checkpoint, metadata
)
SELECT thread_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id, checkpoint::jsonb,
    metadata::jsonb
FROM carried_checkpoints
ON CONFLICT (thread_id, checkpoint_ns, checkpoint_id) DO UPDATE
SET parent_checkpoint_id = excluded.parent_checkpoint_id
WHERE c.parent_checkpoint_id IS DISTINCT FROM excluded.parent_checkpoint_id
RETURNING xmax = 0
"""

_STORE_BLOBS = """
INSERT INTO checkpoint_blobs (thread_id, checkpoint_ns, channel, version, type, blob)
SELECT thread_id, checkpoint_ns, channel, version, type, blob FROM carried_blobs
ON CONFLICT DO NOTHING
"""

# An error, an interrupt or a resume (idx < 0) replaces the one before it; other writes stay.
_STORE_WRITES = """
INSERT INTO checkpoint_writes AS w (
    thread_id, checkpoint_ns, checkpoint_id, task_id, task_path, idx, channel, type, blob
)
SELECT thread_id, checkpoint_ns, checkpoint_id, task_id, task_path, idx, channel, type, blob
FROM carried_writes
ON CONFLICT (thread_id, checkpoint_ns, checkpoint_id, task_id, idx) DO UPDATE
SET task_path = excluded.task_path, channel = excluded.channel, type = excluded.type,
    blob = excluded.blob
WHERE excluded.idx < 0 AND (w.type, w.blob) IS DISTINCT FROM (excluded.type, excluded.blob)
"""

# What was enciphered anew is never the same bytes.
_OTHER_BLOBS = """
SELECT b.thread_id, b.checkpoint_ns, b.channel, b.version
FROM carried_blobs AS c
CROSS JOIN LATERAL (
    SELECT * FROM checkpoint_blobs
    WHERE thread_id = c.thread_id AND checkpoint_ns = c.checkpoint_ns
    AND channel = c.channel AND version = c.version
    OFFSET 0
) AS b
WHERE (b.type, b.blob) IS DISTINCT FROM (c.type, c.blob)
AND (position('+' IN c.type) = 0 OR b.type <> c.type)
LIMIT 1
"""

# OFFSET 0 keeps each key's rows a look-up in the index. Without statistics, as just after the first
# rows, Postgres would rather walk through whole tables or threads.
_KEYS = """
SELECT k.t, k.n, k.i, found.* FROM unnest(%s::text[], %s::text[], %s::text[]) AS k (t, n, i)
CROSS JOIN LATERAL ({found} OFFSET 0) AS found
"""

_PARENTS = _KEYS.format(
    found="""
SELECT parent_checkpoint_id FROM checkpoints
WHERE thread_id = k.t AND checkpoint_ns = k.n AND checkpoint_id = k.i
"""
)

_KEYS_OF_WRITES = _KEYS.format(
    found="""
SELECT task_id, idx, CASE WHEN idx < 0 THEN type END, CASE WHEN idx < 0 THEN blob END
FROM checkpoint_writes
WHERE thread_id = k.t AND checkpoint_ns = k.n AND checkpoint_id = k.i
"""
)

_ROWS = _KEYS.format(
    found="""
SELECT parent_checkpoint_id, checkpoint::text, metadata::text FROM checkpoints
WHERE thread_id = k.t AND checkpoint_ns = k.n AND checkpoint_id = k.i
"""
)

_BLOBS_OF_ROWS = _KEYS.format(
    found="""
SELECT version.key, b.type, b.blob FROM checkpoints AS c
CROSS JOIN LATERAL jsonb_each_text(c.checkpoint -> 'channel_versions') AS version
CROSS JOIN LATERAL (
    SELECT type, blob FROM checkpoint_blobs
    WHERE thread_id = k.t AND checkpoint_ns = k.n AND channel = version.key
    AND checkpoint_blobs.version = version.value AND type <> 'empty'
    OFFSET 0
) AS b
WHERE c.thread_id = k.t AND c.checkpoint_ns = k.n AND c.checkpoint_id = k.i
"""
)

_WRITES = _KEYS.format(
    found="""
SELECT task_id, task_path, idx, channel, type, blob FROM checkpoint_writes
WHERE thread_id = k.t AND checkpoint_ns = k.n AND checkpoint_id = k.i
"""
)

_NEWEST = """
SELECT k.t, k.n, max(checkpoint_id COLLATE "C")
FROM unnest(%s::text[], %s::text[]) AS k (t, n)
JOIN checkpoints ON thread_id = k.t AND checkpoint_ns = k.n
GROUP BY k.t, k.n
"""

_DELETE_CHECKPOINTS = """
WITH deleted AS (
    DELETE FROM checkpoints
    WHERE thread_id = %s AND checkpoint_ns = %s AND checkpoint_id = ANY(%s)
    RETURNING checkpoint -> 'channel_versions' AS versions
)
SELECT v.key, v.value, (SELECT count(*) FROM deleted)
FROM deleted LEFT JOIN LATERAL jsonb_each_text(deleted.versions) AS v ON true
"""

_DELETE_WRITES = """
DELETE FROM checkpoint_writes
WHERE thread_id = %s AND checkpoint_ns = %s AND checkpoint_id = ANY(%s)
"""

_DELETE_UNUSED_BLOBS = """
WITH unused AS (
    SELECT * FROM unnest(%(channels)s::text[], %(versions)s::text[]) AS freed (channel, version)
    EXCEPT
    SELECT v.key, v.value FROM checkpoints AS c
    CROSS JOIN LATERAL jsonb_each_text(c.checkpoint -> 'channel_versions') AS v
    WHERE c.thread_id = %(thread_id)s AND c.checkpoint_ns = %(checkpoint_ns)s
)
DELETE FROM checkpoint_blobs AS b USING unused
WHERE b.thread_id = %(thread_id)s AND b.checkpoint_ns = %(checkpoint_ns)s
AND b.channel = unused.channel AND b.version = unused.version
"""

_SIZE = "SELECT sum(pg_total_relation_size(name::regclass))::bigint FROM unnest(%s::text[]) AS name"


class StoredWrites(NamedTuple):
    """Of a checkpoint: its writes' task and number, and the values of those that are replaced."""

    keys: set[tuple[str, int]]
    special: dict[tuple[str, int], Blob]


class Loaded(NamedTuple):
    """A checkpoint in Postgres, its values as they were serialised."""

    parent_id: str | None
    checkpoint: dict[str, Any]
    metadata: dict[str, Any]
    blobs: dict[str, Blob]
    writes: list[Write]


class Stored(NamedTuple):
    """What was stored; `parents` counts those of checkpoints that were there before."""

    checkpoints: int
    writes: int
    parents: int

    def plus(self, other: Stored) -> Stored:
        """Both together."""
        return Stored(*(one + another for one, another in zip(self, other, strict=True)))


@contextmanager
def connected(uri: str) -> Iterator[psycopg.Connection[tuple[Any, ...]]]:
    """A connection for the time of a `with` block; errors of Postgres become TransferErrors.

    Nothing of `uri` is in one of them, but for host, port and database.
    """
    with _explained(), _connect(uri, tuple_row) as conn:
        yield conn


def _connect(uri: str, row_factory: BaseRowFactory[_Row]) -> psycopg.Connection[_Row]:
    try:
        # Nothing is kept from one transaction to the next, so that a pooler may stand between.
        return psycopg.Connection[_Row].connect(
            uri,
            autocommit=True,
            prepare_threshold=None,
            application_name="langgraph-sqlite",
            row_factory=row_factory,
        )
    except (psycopg.ProgrammingError, UnicodeError):  # they repeat what cannot be read
        problem = "this is no connection string of Postgres: write postgresql://user@host/database"
    except psycopg.Error as error:
        problem = f"Postgres: {_one_line(error)}"
        if _may_cut_password(uri):
            problem = (
                "Postgres cannot be reached. What it says is not shown, since it may hold a part "
                "of the password: write / as %2F, @ as %40, # as %23 and ? as %3F there"
            )
    raise TransferError(problem)  # out here, so that psycopg's error is not in its context


def _may_cut_password(uri: str) -> bool:
    """Whether something in a password may have been taken for its end."""
    before, at, _ = uri.partition("://")[2].rpartition("@")
    return bool(at) and any(mark in before for mark in "/@#?")


@contextmanager
def _explained() -> Iterator[None]:
    """Turn Postgres' errors into ours."""
    try:
        yield
    except psycopg.Error as error:
        raise TransferError(f"Postgres: {_one_line(error)}") from error


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def make(uri: str) -> None:
    """Make PostgresSaver's tables, or bring them up to date."""
    with _explained(), _connect(uri, dict_row) as conn:
        found = _version(conn)
        if found is None or found < VERSION:
            PostgresSaver(conn).setup()
        else:
            _check(found)


def check(uri: str) -> None:
    """Raise TransferError unless the tables are there, at the version that is known here."""
    with _explained(), _connect(uri, dict_row) as conn:
        _check(_version(conn))


def _version(conn: psycopg.Connection[DictRow]) -> int | None:
    row = conn.execute("SELECT to_regclass('checkpoint_migrations') AS found").fetchone()
    if row is None or row["found"] is None:
        return None
    row = conn.execute("SELECT max(v) AS v FROM checkpoint_migrations").fetchone()
    return row["v"] if row else None


def _check(found: int | None) -> None:
    if found is None:
        raise TransferError(
            "this database has no tables of PostgresSaver's: look whether it is the right one, "
            "and the right search_path"
        )
    if found != VERSION:
        older = found < VERSION
        remedy = (
            "call PostgresSaver.setup()" if older else "update langgraph-checkpoint-postgres here"
        )
        raise TransferError(
            f"the tables in Postgres are at version {found}, and version {VERSION} is known here: "
            f"{remedy}"
        )


class Tables:
    """What the tables hold, and changing it: each change is one transaction."""

    def __init__(self, conn: psycopg.Connection[tuple[Any, ...]]) -> None:
        self._conn = conn

    def size(self) -> int:
        """The bytes of the tables, with their indexes."""
        row = self._conn.execute(_SIZE, (list(TABLES),)).fetchone()
        return int(row[0]) if row else 0

    def parents(self, keys: Sequence[Key]) -> dict[Key, str | None]:
        """Which of some checkpoints are there, and their parents."""
        found = self._conn.execute(_PARENTS, columns(keys, 3))
        return {Key(*key): parent for *key, parent in found}

    def newest(self, places: Iterable[Place]) -> dict[Place, str]:
        """The newest checkpoint of each of some threads and namespaces that there are."""
        found = self._conn.execute(_NEWEST, columns(list(places), 2))
        return {(thread_id, ns): checkpoint_id for thread_id, ns, checkpoint_id in found}

    def writes(self, keys: Sequence[Key]) -> dict[Key, StoredWrites]:
        """Which writes some checkpoints have."""
        found: dict[Key, StoredWrites] = {}
        cursor = self._conn.cursor(binary=True)
        for *key, task_id, idx, kind, blob in cursor.execute(_KEYS_OF_WRITES, columns(keys, 3)):
            of_key = found.setdefault(Key(*key), StoredWrites(set(), {}))
            of_key.keys.add((task_id, idx))
            if idx < 0:
                of_key.special[task_id, idx] = kind, blob
        return found

    def store(self, rows: Rows, compare: Callable[[Tables], None]) -> Stored:
        """Store whole checkpoints; `compare` may look at them before they are committed."""
        with self._conn.transaction():
            self._conn.execute(_STAGE)
            self._copy("carried_checkpoints", rows.checkpoints)
            self._copy("carried_blobs", ((*key, *blob) for key, blob in rows.blobs.items()))
            self._copy("carried_writes", rows.writes)
            if self._conn.execute(_STORE_BLOBS).rowcount < len(rows.blobs):
                self._refuse_other_blobs()
            made = [is_new for (is_new,) in self._conn.execute(_STORE_CHECKPOINTS)]
            writes = self._conn.execute(_STORE_WRITES).rowcount
            compare(self)
        return Stored(sum(made), writes, len(made) - sum(made))

    def _copy(self, table: str, rows: Iterable[tuple[Any, ...]]) -> None:
        statement = f"COPY {table} FROM STDIN (FORMAT BINARY)"
        with self._conn.cursor() as cursor, cursor.copy(statement) as copy:
            copy.set_types(_STAGED[table])
            for row in rows:
                copy.write_row(row)

    def _refuse_other_blobs(self) -> None:
        row = self._conn.execute(_OTHER_BLOBS).fetchone()
        if row is not None:
            thread_id, ns, channel, version = row
            raise OtherContentError(
                f"thread {thread_id!r}, namespace {ns!r}, channel {channel!r}: Postgres has "
                f"another value under version {version}, from a thread of the same name. Delete "
                "the one or the other"
            )

    def loaded(self, keys: Sequence[Key]) -> dict[Key, Loaded]:
        """Some checkpoints as PostgresSaver would find them: its SELECT, in three."""
        wanted = columns(keys, 3)
        cursor = self._conn.cursor(binary=True)
        found = {
            Key(*key): Loaded(parent, load_metadata(checkpoint), load_metadata(metadata), {}, [])
            for *key, parent, checkpoint, metadata in cursor.execute(_ROWS, wanted)
        }
        for *key, channel, kind, blob in cursor.execute(_BLOBS_OF_ROWS, wanted):
            found[Key(*key)].blobs[channel] = kind, blob
        for *key, task_id, path, idx, channel, kind, blob in cursor.execute(_WRITES, wanted):
            if loaded := found.get(Key(*key)):
                loaded.writes.append(Write(task_id, path, idx, channel, kind, blob))
        return found

    def delete(self, keys: Sequence[Key]) -> int:
        """Delete checkpoints, their writes, and the blobs that no other checkpoint uses."""
        places: dict[tuple[str, str], list[str]] = {}
        for key in keys:
            places.setdefault(key.place, []).append(key.checkpoint_id)
        return sum(self._delete_at(*place, ids) for place, ids in places.items())

    def _delete_at(self, thread_id: str, ns: str, ids: list[str]) -> int:
        with self._conn.transaction():
            found = self._conn.execute(_DELETE_CHECKPOINTS, (thread_id, ns, ids)).fetchall()
            self._conn.execute(_DELETE_WRITES, (thread_id, ns, ids))
            freed = {(channel, version) for channel, version, _ in found if channel is not None}
            if freed:
                channels, versions = columns(sorted(freed), 2)
                place = {"thread_id": thread_id, "checkpoint_ns": ns}
                self._conn.execute(
                    _DELETE_UNUSED_BLOBS, {"channels": channels, "versions": versions, **place}
                )
        return int(found[0][2]) if found else 0


class OtherContentError(TransferError):
    """The target has something else under a key that is to be carried."""


# What a page raises that Postgres does not take, or not as it is, for one of its threads.
UNACCEPTABLE = (
    psycopg.DataError, psycopg.errors.ProgramLimitExceeded, OtherContentError, VerificationError,
)  # fmt: skip


def unacceptable(thread_id: str, error: Exception) -> TransferError:
    """The error that names the thread."""
    if isinstance(error, TransferError):
        return error
    return TransferError(f"thread {thread_id!r}: Postgres does not take it: {_one_line(error)}")


def columns(rows: Sequence[Sequence[Any]], number: int) -> list[list[Any]]:
    """Rows as columns, for unnest()."""
    return [[row[column] for row in rows] for column in range(number)]
