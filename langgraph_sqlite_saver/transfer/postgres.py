"""Threads to Postgres, where they go on under `PostgresSaver`, and back."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace

from langgraph.checkpoint.serde.base import SerializerProtocol
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

from ..checkpoints.config import thread_keys
from ..database.files import StrPath
from ..saver import SqliteSaver
from . import emptying, postgres_tables
from .postgres_back import Returning
from .postgres_reading import Reading
from .postgres_tables import Tables
from .postgres_there import Moving
from .result import Progress, Transferred, size_on_disk
from .seen import Seen


def to_postgres(
    path: StrPath,
    uri: str,
    *,
    threads: Sequence[str] | None = None,
    serde: SerializerProtocol | None = None,
    verify: bool = False,
    follow: bool = False,
    progress: Progress | None = None,
) -> Transferred:
    """Copy threads of a file into the tables of `PostgresSaver`, which are made if need be.

    The file is only read, and may be in use; one of an older release is brought up to date first.
    A transaction there holds whole checkpoints, with
    their values and writes; stopped at any time, the next call goes on. A checkpoint that is there
    already is left as it is, but for its parent, and for pending writes that came since; an error,
    interrupt or resume that was replaced is replaced unless the thread has gone on there. The
    newest checkpoint of each thread and namespace is compared with what Postgres has before it is
    committed. Nothing is deleted there without `follow`.

    A thread with something that Postgres cannot hold, or has otherwise, is left out, and named in
    the error that is raised once all others are carried.

    Args:
        path: The file.
        uri: Where to: anything that `psycopg.connect` takes. It is in no error.
        threads: Their ids; all if None.
        serde: What the values were serialised with. Needed for threads that were encrypted with
            `EncryptedSerializer`: their differences cannot be undone without the key.
        verify: Compare every checkpoint, also those that are there already.
        follow: Go through the file again and again until there is nothing left to do, so that
            one more, short call is enough once the service has paused. What is deleted in
            the file is deleted in Postgres: what this call has seen there, and what an earlier
            call carried that checkpoints which remain came from. What was made in Postgres stays.
        progress: Called as `progress(checkpoints_done, checkpoints_total)`, anew for each time the
            file is gone through; may raise to stop.

    Raises:
        VerificationError: Postgres has another checkpoint than the file; names thread and id.
        TransferError: What else cannot be carried, or what Postgres says.
        StorageError: What can be wrong with the file; a subclass says what to do.
    """
    ids = None if threads is None else thread_keys(threads)
    serde = serde or JsonPlusSerializer()
    with emptying.opened(path) as database:
        postgres_tables.make(uri)
        with postgres_tables.connected(uri) as conn, closing(Seen()) as seen:
            reading, tables = Reading(conn), Tables(conn)
            moving = Moving(database, reading, tables, ids, serde, verify=verify, progress=progress)
            moving.run(seen if follow else None)
            return moving.result()


def from_postgres(
    uri: str,
    path: StrPath,
    *,
    threads: Sequence[str] | None = None,
    serde: SerializerProtocol | None = None,
    verify: bool = False,
    follow: bool = False,
    progress: Progress | None = None,
) -> Transferred:
    """Copy threads from the tables of `PostgresSaver` into a file, which is made if need be.

    As `to_postgres` the other way round: Postgres is only read, in short snapshots, and may be in
    use; a transaction of the file holds whole checkpoints, and stopped at any time, the next call
    goes on. What was saved under PostgresSaver is stored as `SqliteSaver` stores it, as
    differences above all. The newest checkpoints are compared once they are committed.

    Args:
        uri: Where from: anything that `psycopg.connect` takes. It is in no error.
        path: The file; threads that it has already are added to.
        threads: Their ids; all if None.
        serde: What the values were serialised with, and will be; for encrypted threads an
            `EncryptedSerializer` with their key.
        verify: Compare every checkpoint, also those that are there already.
        follow: Go through Postgres again and again until there is nothing left to do. What is
            deleted there is deleted in the file, as with `to_postgres`.
        progress: As with `to_postgres`.

    Raises:
        VerificationError: The file has another checkpoint than Postgres; names thread and id.
        TransferError: What else cannot be carried, or what Postgres says: without PostgresSaver's
            tables, say, or with those of another version.
        StorageError: What can be wrong with the file; a subclass says what to do.
    """
    ids = None if threads is None else thread_keys(threads)
    postgres_tables.check(uri)
    with (
        SqliteSaver(path, serde=serde or JsonPlusSerializer()) as saver,
        postgres_tables.connected(uri) as conn,
        closing(Seen()) as seen,
    ):
        saver.setup()
        reading = Reading(conn)
        returning = Returning(reading, Tables(conn), saver, ids, verify=verify, progress=progress)
        returning.run(seen if follow else None)
        done = returning.result()
    return replace(done, bytes_after=size_on_disk(str(saver.database.path)))
