"""From the official saver: the checkpoints of a langgraph-checkpoint-sqlite file, 2.x or 3.x."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence, Set
from contextlib import closing
from pathlib import Path
from sqlite3 import Connection
from typing import Any, NamedTuple, TypeVar

from langgraph.checkpoint.serde.base import SerializerProtocol

from ..checkpoints.config import Address, stored_text
from ..checkpoints.contents import Contents
from ..checkpoints.errors import SerializationError
from ..checkpoints.history import Mode, Place
from ..checkpoints.pending import CarriedWrite
from ..checkpoints.values import Blob, Raw, is_delta
from ..database import InvalidInputError
from ..database.files import StrPath
from ..saver import SqliteSaver
from .comparing import Expected, difference, plain_reader
from .cutting import KINDS, KINDS_OF_VALUES, cut, cut_write, deciphered
from .errors import TransferError, VerificationError
from .filling import Carried, Filling
from .official_file import OfficialFile, OldCheckpoint, WriteKey
from .result import Progress, Transferred, size_on_disk

_T = TypeVar("_T")

# How many checkpoints are named in an error.
_NAMED = 5

# Of how many checkpoints the writes are looked up at once.
_PAGE = 500


def import_official(
    old: StrPath,
    new: StrPath,
    *,
    serde: SerializerProtocol | None = None,
    history: Mode = "compact",
    verify: bool = False,
    progress: Progress | None = None,
) -> Transferred:
    """Bring everything that the official `SqliteSaver` stored in a file into a file of ours.

    The old file is opened for reading only, and one state of it is read, whoever writes to it
    meanwhile. It takes no more memory than a few of its checkpoints. It can be stopped at any time
    and called again: it goes on where it was, and brings what came since. A checkpoint that is
    there already is left as it is; pending writes are added to it, and an interrupt that has been
    replaced by another one is replaced unless the thread has gone on in the new file. In the end
    the newest checkpoint of each thread and namespace is compared with what the official saver
    returns for it. Other tables, LangGraph's store among them, are not copied; the result names
    them.

    Args:
        old: The file of `langgraph-checkpoint-sqlite`, 2.x or 3.x.
        new: Our file; made where it is missing, added to where it is there.
        serde: What the values were serialised with, and will be in the new file: for an encrypted
            file, an `EncryptedSerializer` with its key.
        history: How the new file stores values; see `SqliteSaver`.
        verify: Compare every checkpoint, not only the newest ones.
        progress: Called as `progress(bytes_read, bytes_total)`; may raise to stop.

    Raises:
        TransferError: Some checkpoints cannot be carried, and are named; all others were.
        VerificationError: A checkpoint came out otherwise than it went in.
        StorageError: What else can be wrong with a file; a subclass says what to do.
    """
    with closing(OfficialFile(old)) as source:
        if Path(new).exists() and Path(new).samefile(old):
            raise TransferError(f"{new} is the old file: give the new one another name")
        if serde is None:
            _check_kinds(source)
        else:
            _check_key(source, serde)
        size, tables_left = source.size, source.other_tables()
        with SqliteSaver(new, serde=serde, history=history) as saver:
            saver.setup()
            run = _Import(source, saver, _Meter(progress, size * (2 if verify else 1)))
            run.carry()
            run.compare(everything=verify)
            source.check_unchanged()
            run.raise_for_failures()
    return Transferred(
        threads=run.threads,
        checkpoints=run.filling.checkpoints,
        writes=run.filling.writes,
        already_there=run.already_there,
        verified=run.verified,
        bytes_before=size,
        bytes_after=size_on_disk(new),
        tables_left=tables_left,
    )


def _check_kinds(source: OfficialFile) -> None:
    """Raise for what the default serializer will not read, before anything is carried."""
    for table, kind in sorted(source.kinds()):
        plain, _, cipher = kind.partition("+")
        if cipher:
            raise TransferError(
                f"{source.name} is encrypted ({kind}): give its key, with --key-env on the command "
                "line, or as serde=EncryptedSerializer.from_pycryptodome_aes(key=…)"
            )
        if plain not in KINDS and (table == "checkpoints" or plain not in KINDS_OF_VALUES):
            raise TransferError(
                f"{source.name} has {table} that were serialised as {kind!r}, which only the "
                "serializer that wrote them can read: import_official(…, serde=that serializer)"
            )


def _check_key(source: OfficialFile, serde: SerializerProtocol) -> None:
    """Raise for another key than the file's, before anything is made."""
    if enciphered := source.enciphered():
        try:
            deciphered(serde, *enciphered)
        except (TransferError, SerializationError) as error:
            reason = error.__cause__ or error
            raise TransferError(
                f"{source.name} needs the key that it was encrypted with: {reason}"
            ) from error


class _Meter:
    """Tells how many bytes were read."""

    def __init__(self, progress: Progress | None, total: int) -> None:
        self._progress = progress
        self._total = total
        self._read = 0

    def advance(self, size: int) -> None:
        self._read += size
        if self._progress is not None:
            self._progress(min(self._read, self._total), self._total)

    def complete(self) -> None:
        """What is left are keys and free space."""
        self.advance(self._total)


class _Cut(NamedTuple):
    """What was carried last: the values of its child are mostly its own."""

    checkpoint_id: str | None
    versions: Mapping[str, Any]
    values: Mapping[str, Any]

    def changed(self, versions: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
        """Those of a child's versions whose values are not this one's."""
        return {
            channel: version
            for channel, version in versions.items()
            if (channel, version) not in self.versions.items()
            or not _is_same(values.get(channel, _NO_VALUE), self._inherited(channel, values))
        }

    def _inherited(self, channel: str, values: Mapping[str, Any]) -> Any:
        value = self.values.get(channel, _NO_VALUE)
        # A DeltaChannel's snapshot stands in one checkpoint, and is its children's as well.
        return _NO_VALUE if channel not in values and is_delta(value) else value


def _is_same(value: Any, other: Any) -> bool:
    """Whether nothing tells them apart: 1 is not True. Objects of any class may have changed."""
    kind = type(value)
    return value is other or (kind is type(other) and kind in (Raw, str, int) and value == other)


_NO_VALUE = object()
_NOTHING = _Cut(None, {}, {})


class _Import:
    """One run of an import."""

    def __init__(self, source: OfficialFile, saver: SqliteSaver, meter: _Meter) -> None:
        self.filling = Filling(saver)
        self.threads = self.already_there = self.verified = 0
        self._source = source
        self._saver = saver
        self._meter = meter
        # What cannot be carried, and why.
        self._failed: dict[Address, str] = {}
        # What came out otherwise, and how.
        self._wrong: dict[Address, str] = {}

    def raise_for_failures(self) -> None:
        """Name what could not be carried, and what is not what it was."""
        failed = {**self._failed, **self.filling.failed}
        problems = []
        if failed:
            problems.append(
                f"{len(failed)} of the checkpoints in {self._source.name} cannot be carried over; "
                f"all others were: {_named(failed)}"
            )
        if self._wrong:
            problems.append(
                f"{len(self._wrong)} of {self.verified} checkpoints are not what they were in "
                f"{self._source.name}: {_named(self._wrong)}"
            )
        if problems:
            raise (VerificationError if self._wrong else TransferError)(". ".join(problems))

    # Carrying.

    def carry(self) -> None:
        """Bring over what is not there yet."""
        thread_id = None
        for place in self._source.places():
            self.threads += place[0] != thread_id
            thread_id = place[0]
            self._carry_place(place)
        self.filling.flush()

    def _carry_place(self, place: Place) -> None:
        ids = self._source.checkpoint_ids(place)
        there = self._saver.database.read(_stored_ids, place)
        self._carry_writes_alone(
            place, set(ids) - there, has_gone_on=max(there, default="") > max(ids, default="")
        )
        before = _NOTHING
        for checkpoint_id in ids:
            if checkpoint_id in there:
                self.already_there += 1
            else:
                before = self._carry_checkpoint(Address(*place, checkpoint_id), before)

    def _carry_writes_alone(self, place: Place, carried: Set[str], *, has_gone_on: bool) -> None:
        """The missing writes of checkpoints that are there already, or are in neither file."""
        ids = self._source.ids_of_writes(place)
        for start in range(0, len(ids), _PAGE):
            page = ids[start : start + _PAGE]
            if carried >= set(page):
                continue
            old = self._source.write_keys(place, page[0], page[-1])
            new = self._saver.database.read(_stored_writes, place, page[0], page[-1])
            gone_on = set(page) if has_gone_on else {each[0] for each in new - old}
            special = {key for key in old & new if key[2] < 0 and key[0] not in gone_on}
            for checkpoint_id in sorted({each[0] for each in (old - new) | special} - carried):
                self._noting_failure(
                    Address(*place, checkpoint_id), self._carry_writes, new, special
                )

    def _carry_writes(self, address: Address, there: Set[WriteKey], special: Set[WriteKey]) -> None:
        """Those that are not there; of special ones those that the task has replaced since."""
        found: dict[WriteKey, Blob] = {}
        if any(key[0] == address.checkpoint_id for key in special):
            found = self._saver.database.read(_special_writes, self._saver.serde, address)
        writes = []
        for write in self._writes(address):
            key = str(address.checkpoint_id), write[0], write[2]
            if key not in there or (key in special and found.get(key) != write[-1]):
                writes.append(write)
        if writes:
            self._add(address, writes, replacing=True)

    def _carry_checkpoint(self, address: Address, before: _Cut) -> _Cut:
        return self._noting_failure(address, self._carry_whole, before) or _NOTHING

    def _carry_whole(self, address: Address, before: _Cut) -> _Cut:
        row = self._source.checkpoint(address)
        found = cut(self._saver.serde, row.kind, row.data)
        if found.get("id") != address.checkpoint_id:
            raise TransferError(f"it holds the checkpoint {found.get('id')!r}")
        versions, values = found.get("channel_versions") or {}, found.get("channel_values") or {}
        if before.checkpoint_id != row.parent_id:
            before = _NOTHING
        self._add(
            address,
            self._writes(address),
            len(row.data),
            checkpoint=found,
            parent_id=row.parent_id or None,
            metadata=_metadata(row),
            new_versions=before.changed(versions, values),
        )
        return _Cut(address.checkpoint_id, versions, values)

    def _add(
        self, address: Address, writes: Sequence[CarriedWrite], size: int = 0, **parts: Any
    ) -> None:
        size += sum(len(write[-1][1]) for write in writes)
        self._meter.advance(size)
        self.filling.add(Carried(address, writes, size, **parts))

    def _writes(self, address: Address) -> list[CarriedWrite]:
        for name in address:
            _name(str(name))
        return [
            (
                *(_name(each.task_id), _name(each.task_path), each.idx, _name(each.channel)),
                cut_write(self._saver.serde, each.kind, each.data),
            )
            for each in self._source.writes(address)
        ]

    def _noting_failure(self, address: Address, carry: Callable[..., _T], *args: Any) -> _T | None:
        try:
            return carry(address, *args)
        except (TransferError, SerializationError, InvalidInputError) as error:
            self._failed[address] = str(error)
            return None

    # Comparing.

    def compare(self, *, everything: bool) -> None:
        """Read what was carried from both files, as their savers read it."""
        reader = plain_reader(self._saver)
        for place in self._source.places():
            ids = self._source.checkpoint_ids(place)
            for checkpoint_id in ids if everything else ids[-1:]:
                address = Address(*place, checkpoint_id)
                if address in self._failed or address in self.filling.failed:
                    continue
                expected = self._noting_failure(address, self._expected, reader)
                if expected is None:
                    continue
                self.verified += 1
                found = difference(reader, address, expected)
                if found is not None:
                    self._wrong[address] = found
        self._meter.complete()

    def _expected(self, address: Address, reader: SqliteSaver) -> Expected:
        """As the official saver's `get_tuple` reads it."""
        row = self._source.checkpoint(address)
        writes = self._source.writes(address)
        try:
            checkpoint = reader.serde.loads_typed((row.kind, row.data))
            values = [reader.serde.loads_typed((each.kind, each.data)) for each in writes]
        except Exception as error:
            raise TransferError(f"it cannot be read: {error}") from error
        self._meter.advance(len(row.data))
        written = [
            (each.task_id, each.channel, value) for each, value in zip(writes, values, strict=True)
        ]
        return Expected(row.parent_id or None, checkpoint, _metadata(row), written)


def _stored_ids(conn: Connection, place: Place) -> set[str]:
    """The checkpoints that a file has of a thread and namespace."""
    query = "SELECT checkpoint_id FROM checkpoints WHERE thread_id = ? AND checkpoint_ns = ?"
    return {checkpoint_id for (checkpoint_id,) in conn.execute(query, place)}


def _stored_writes(conn: Connection, place: Place, first: str, last: str) -> set[WriteKey]:
    """The keys of the pending writes that our file has, of checkpoints `first` to `last`."""
    query = """
        SELECT checkpoint_id, task_id, idx FROM checkpoint_writes
        WHERE thread_id = ? AND checkpoint_ns = ? AND checkpoint_id BETWEEN ? AND ?
    """
    return set(conn.execute(query, (*place, first, last)))


def _special_writes(
    conn: Connection, serde: SerializerProtocol, address: Address
) -> dict[WriteKey, Blob]:
    """The writes of a checkpoint in our file that a task replaces: interrupts, errors, resumes."""
    query = """
        SELECT checkpoint_id, task_id, idx, channel, type, blob, base, size FROM checkpoint_writes
        WHERE thread_id = ? AND checkpoint_ns = ? AND checkpoint_id = ? AND idx < 0
    """
    contents = Contents(conn, serde, address[:2])
    rows = conn.execute(query, address).fetchall()
    return {row[:3]: contents.written(*row[3:]) for row in rows}


def _name(text: str) -> str:
    return stored_text(text, "an id or a channel")


def _metadata(row: OldCheckpoint) -> dict[str, Any]:
    try:
        found = json.loads(row.metadata) if row.metadata else {}
    except (TypeError, ValueError, RecursionError) as error:
        raise TransferError(f"its metadata is no JSON: {error}") from error
    if not isinstance(found, dict):
        raise TransferError("its metadata is no JSON object")
    return found


def _named(reasons: Mapping[Address, str]) -> str:
    named = [
        f"thread {address.thread_id!r}, namespace {address.checkpoint_ns!r}, checkpoint "
        f"{address.checkpoint_id!r}: {reason}"
        for address, reason in list(reasons.items())[:_NAMED]
    ]
    return "; ".join([*named, "…"] if len(reasons) > _NAMED else named)
