"""One run from Postgres to our file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from sqlite3 import Connection
from typing import Any

from langgraph.checkpoint.serde.base import SerializerProtocol

from ..checkpoints import sql
from ..checkpoints.config import Address
from ..checkpoints.errors import SerializationError
from ..checkpoints.history import Encoder, Place
from ..checkpoints.jsontext import load_checkpoint, parameter
from ..checkpoints.pending import CarriedWrite
from ..checkpoints.reading import Row
from ..checkpoints.removal import delete_unreferenced
from ..checkpoints.values import Blob, Raw, blob_keys, inlines, load_notes, unseal
from ..saver import SqliteSaver
from . import emptying
from .emptying import BlobKey, Entry, Key, Values, Write
from .errors import TransferError, VerificationError
from .filling import Carried, Filling
from .passes import Passes
from .postgres_comparing import Comparison
from .postgres_page import refusal
from .postgres_reading import Found, Reading, Snapshot
from .postgres_tables import Tables
from .result import Progress, Transferred


class Returning(Passes):
    """One call: passes over Postgres, each bringing what the file has not."""

    def __init__(
        self,
        reading: Reading,
        tables: Tables,
        saver: SqliteSaver,
        threads: Sequence[str] | None,
        *,
        verify: bool,
        progress: Progress | None,
    ) -> None:
        super().__init__(threads, verify=verify, progress=progress)
        self._reading = reading
        self._tables = tables
        self._saver = saver
        self._serde: SerializerProtocol = saver.serde
        self._database = saver.database
        self._filling = Filling(saver)
        self._comparison = Comparison(self._serde)
        # The values of the page before: most are needed again.
        self._kept: Mapping[BlobKey, Blob] = {}
        # Which versions of channels were given to be stored.
        self._filled: set[tuple[str, str, str, str]] = set()

    def result(self) -> Transferred:
        """What was done; how large the file is shows when it is closed."""
        return Transferred(
            threads=len(self._found_threads),
            checkpoints=self._filling.checkpoints,
            writes=self._filling.writes,
            already_there=self._already,
            deleted=self._deleted,
            verified=self._comparison.compared,
            bytes_before=self._tables.size(),
        )

    def _count(self) -> int:
        return self._reading.count(self._threads)

    def _source(self) -> Iterator[list[Entry]]:
        return self._reading.entries(self._threads)

    def _target(self, threads: Sequence[str] | None) -> Iterator[list[Entry]]:
        return emptying.entries(self._database, threads)

    def _existing(self, keys: Sequence[Key]) -> set[Key]:
        return self._tables.parents(keys).keys() | self._tables.writes(keys).keys()

    def _parents(self, keys: Sequence[Key]) -> Mapping[Key, str | None]:
        return self._tables.parents(keys)

    def _newest(self, places: set[Place]) -> Mapping[Place, str]:
        return self._tables.newest(places)

    def _newest_there(self, places: set[Place]) -> Mapping[Place, str]:
        return self._database.read(emptying.newest, places)

    def _delete(self, keys: Sequence[Key]) -> int:
        places: dict[Place, list[str]] = {}
        for key in keys:
            places.setdefault(key.place, []).append(key.checkpoint_id)
        deleted = 0
        for place, ids in places.items():
            deleted += self._database.write(_delete, self._saver, place, ids)
            self._saver.history.forget(place[0])
        return deleted

    def _bring(self, page: Sequence[Entry], heads: frozenset[Key]) -> None:
        """Bring what the file lacks of some keys."""
        saved = [entry.key for entry in page if entry.is_saved]
        parents = self._database.read(emptying.parents, saved)
        missing = {e.key for e in page if e.is_saved and e.key not in parents}
        other = {e.key for e in page if e.key in parents and e.parent_id != parents[e.key]}
        again = set(parents) if self._verify and self._is_first else set()
        if self._is_first:
            self._already += len(parents)
        theirs = self._tables.writes([e.key for e in page if e.key not in missing])
        ours = self._database.read(emptying.keys_of_writes, list(theirs))
        none: set[tuple[str, int]] = set()
        written = {key for key, found in theirs.items() if found.keys - ours.get(key, none)}
        self._replace_special(
            {k: found.special for k, found in theirs.items() if ours.get(k, none) <= found.keys}
        )
        self._carry(
            [e.key for e in page if e.key in missing | other | again | written],
            store=missing | other,
            compared=missing | other | again if self._verify else missing & heads,
            only_writes=frozenset(written - again - other),
        )

    def _carry(
        self, keys: Sequence[Key], *, store: set[Key], compared: set[Key],
        only_writes: frozenset[Key],
    ) -> None:  # fmt: skip
        """Read and store keys, a page at a time."""
        self._found += len(keys)
        left = keys
        while left := [key for key in left if key.thread_id not in self._failures]:
            snapshot = self._reading.take(left, only_writes, self._kept)
            taken, left = left[: snapshot.taken], left[snapshot.taken :]
            self._kept = snapshot.values
            self._fill(snapshot, taken, store)
            self._compare(snapshot, compared)
            self._advance(self._done + sum(key not in only_writes for key in taken))

    def _fill(self, snapshot: Snapshot, keys: Sequence[Key], store: set[Key]) -> None:
        found = {each.key: each for each in snapshot.found}
        self._filled = set()
        for key in keys:
            each = found.get(key) if key in store else None
            if key.thread_id in self._failures:
                continue
            try:
                self._filling.add(self._carried(snapshot, key, each))
            except (TransferError, SerializationError) as error:
                self._failures.add({key.thread_id: refusal(key, error)})
        self._filling.flush()
        for address, reason in self._filling.failed.items():
            key = Key(address.thread_id, address.checkpoint_ns, str(address.checkpoint_id))
            self._failures.add({key.thread_id: refusal(key, TransferError(reason))})

    def _carried(self, snapshot: Snapshot, key: Key, found: Found | None) -> Carried:
        address = Address(*key)
        writes = [self._opened_write(each) for each in snapshot.writes.get(key, ())]
        if found is None:
            return Carried(address, writes, snapshot.sizes[key])
        versions, inline = found.checkpoint["channel_versions"], found.checkpoint["channel_values"]
        values = dict(inline)
        for channel, blob in found.blobs.items():
            # Beside a DeltaChannel's snapshot, and nothing else, PostgresSaver leaves a `true`.
            values[channel] = Raw(
                *self._opened(channel, snapshot.values[blob]), inline.get(channel) is True
            )
        return Carried(
            address,
            writes,
            snapshot.sizes[key] + len(str(found.checkpoint["versions_seen"])),
            {**found.checkpoint, "channel_values": values},
            found.parent_id,
            found.metadata,
            self._new_versions(key, values, versions),
        )

    def _new_versions(
        self, key: Key, values: Mapping[str, Any], versions: Mapping[str, Any]
    ) -> dict[str, Any]:
        """The channels whose values may not be stored yet; others are looked for first."""
        new = {}
        for channel in values.keys() & versions.keys():
            at = (*key.place, channel, str(versions[channel]))
            if at not in self._filled:
                new[channel] = versions[channel]
                self._filled.add(at)
        return new

    def _opened(self, channel: str, blob: Blob) -> Blob:
        """A value's bytes, deciphered; they are enciphered again in the file."""
        kind, data = unseal(self._serde, channel, *blob)
        if "+" in kind and inlines(self._serde):  # the usual serialiser has no such types
            raise TransferError(
                f"channel {channel!r}: it is enciphered ({kind}). "
                "Give the serde, and the key, that it was saved with."
            )
        return kind, data

    def _opened_write(self, write: Write) -> CarriedWrite:
        value = self._opened(write.channel, (write.kind, write.blob))
        about = write.task_id, write.task_path, write.idx, write.channel
        return *about, value

    def _compare(self, snapshot: Snapshot, compared: set[Key]) -> None:
        wanted = [
            each
            for each in snapshot.found
            if each.key in compared and each.key.thread_id not in self._failures
        ]
        if wanted:
            stored = self._database.read(_stored, self._serde, [each.key for each in wanted])
            for thread_id, those in groupby(wanted, lambda each: each.key.thread_id):
                try:
                    self._comparison.with_file(snapshot, those, stored)
                except VerificationError as error:
                    self._failures.add({thread_id: error})

    def _replace_special(self, theirs: Mapping[Key, Mapping[tuple[str, int], Blob]]) -> None:
        """An error, interrupt or resume may have been replaced by another one; where the file has
        gone on, its own is newer.
        """
        if special := {key: found for key, found in theirs.items() if found}:
            other = self._database.read(self._other_special_writes, special)
            for key in self._not_gone_on(other):
                size = sum(len(value[1]) for *_, value in other[key])
                self._filling.add(Carried(Address(*key), other[key], size, replacing=True))
                self._found += len(other[key])
            self._filling.flush()

    def _other_special_writes(
        self, conn: Connection, theirs: Mapping[Key, Mapping[tuple[str, int], Blob]]
    ) -> dict[Key, list[CarriedWrite]]:
        """What the file has of them with another value, as Postgres has it."""
        other: dict[Key, list[CarriedWrite]] = {}
        ours = Values(conn, self._serde).writes(list(theirs), emptying.SPECIAL_WRITES)
        for key, writes in ours.items():
            for each in writes:
                blob = theirs[key].get((each.task_id, each.idx))
                if blob is None:
                    continue
                there = self._opened_write(each._replace(kind=blob[0], blob=blob[1]))
                if there != self._opened_write(each):
                    other.setdefault(key, []).append(there)
        return other


def _stored(
    conn: Connection, serde: SerializerProtocol, keys: Sequence[Key]
) -> dict[Key, tuple[Row, dict[str, Blob], list[Write]]]:
    """Some checkpoints of the file, with their values and writes as they were serialised."""
    values = Values(conn, serde)
    rows = {Key(*row[:3]): row for row in emptying.rows(conn, keys)}
    homes = {
        key: {c: BlobKey(key.place, c, version) for c, version in row.blob_keys().items()}
        for key, row in rows.items()
    }
    blobs = values.blobs({blob for each in homes.values() for blob in each.values()})
    writes = values.writes(list(rows))
    return {
        key: (
            row,
            {channel: blobs[blob] for channel, blob in homes[key].items() if blob in blobs},
            writes.get(key, []),
        )
        for key, row in rows.items()
    }


def _delete(conn: Connection, encoder: Encoder, place: Place, ids: Sequence[str]) -> int:
    """Delete checkpoints, their writes, and the blobs that no other checkpoint uses."""
    some = (*place, parameter(ids))
    freed: set[tuple[str, str]] = set()
    for text, notes in conn.execute(sql.SELECT_SOME, some).fetchall():
        freed.update(blob_keys(load_checkpoint(text), load_notes(notes)).items())
    conn.execute(sql.DELETE_WRITES_OF_CHECKPOINTS, some)
    deleted = conn.execute(sql.DELETE_CHECKPOINTS, some).rowcount
    delete_unreferenced(conn, encoder, place, freed)
    return int(deleted)
