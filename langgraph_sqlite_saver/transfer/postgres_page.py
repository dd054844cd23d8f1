"""Whole checkpoints from our file, read in one snapshot, as rows of Postgres' tables."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass, field
from sqlite3 import Connection
from typing import Any, NamedTuple

from langgraph.checkpoint.serde.base import SerializerProtocol
from langgraph.checkpoint.serde.types import TASKS

from ..checkpoints.errors import SerializationError
from ..checkpoints.reading import SENDS_INSIDE, Row
from ..checkpoints.values import EXTRAS, Blob, seal, unseal
from .emptying import BlobKey, Key, Page, Values, Write, begin_page, candidates
from .errors import TransferError
from .postgres_spelling import Spelled, array_of, sends_in, spelled

# thread_id, checkpoint_ns, channel, version
StoredKey = tuple[str, str, str, str]


@dataclass(frozen=True)
class Wish:
    """What is wanted of some checkpoints; a key may be in several.

    Attributes:
        whole: To be stored, with their values and writes.
        writes: To have their writes stored.
        compared: To be compared with what Postgres has.
    """

    whole: Set[Key]
    writes: Set[Key]
    compared: Set[Key]

    def __contains__(self, key: object) -> bool:
        return key in self.whole or key in self.writes or key in self.compared

    def needs_row(self, key: Key) -> bool:
        """Whether its writes alone do not do."""
        return key in self.whole or key in self.compared


class Content(NamedTuple):
    """What a checkpoint has, by our file's own rules: to compare with what Postgres has."""

    key: Key
    parent_id: str | None
    spelled: Spelled
    # Values that do not lie inline, by channel, as they were serialised.
    values: dict[str, Blob]
    writes: list[Write]


@dataclass
class Rows:
    """What goes to Postgres in one transaction: whole checkpoints."""

    # How many of the keys asked for are dealt with.
    taken: int = 0
    checkpoints: list[tuple[Any, ...]] = field(default_factory=list)
    blobs: dict[StoredKey, Blob] = field(default_factory=dict)
    writes: list[tuple[Any, ...]] = field(default_factory=list)
    # Every blob that these checkpoints use, whether it is sent here or was before.
    used: set[StoredKey] = field(default_factory=set)
    # Of those that are to be compared.
    contents: list[Content] = field(default_factory=list)
    # Threads of which something cannot be carried: why.
    refused: dict[str, TransferError] = field(default_factory=dict)

    def threads(self) -> list[str]:
        """Whose they are."""
        of_contents = (each.key for each in self.contents)
        return sorted({key[0] for key in (*self.checkpoints, *self.writes, *of_contents)})

    def of_thread(self, thread_id: str) -> Rows:
        """Those of one thread."""
        return Rows(
            checkpoints=[row for row in self.checkpoints if row[0] == thread_id],
            blobs={key: blob for key, blob in self.blobs.items() if key[0] == thread_id},
            writes=[row for row in self.writes if row[0] == thread_id],
            used={key for key in self.used if key[0] == thread_id},
            contents=[each for each in self.contents if each.key.thread_id == thread_id],
        )

    def without(self, threads: Collection[str]) -> None:
        """Take nothing of some threads."""
        self.checkpoints = [row for row in self.checkpoints if row[0] not in threads]
        self.writes = [row for row in self.writes if row[0] not in threads]
        self.blobs = {key: each for key, each in self.blobs.items() if key[0] not in threads}
        self.used = {key for key in self.used if key[0] not in threads}
        self.contents = [each for each in self.contents if each.key.thread_id not in threads]


def take(
    conn: Connection,
    serde: SerializerProtocol,
    keys: Sequence[Key],
    wish: Wish,
    sent: Collection[StoredKey],
) -> Rows:
    """As many of the keys as fit into a page, with all that belongs to them; values that were
    `sent` are there.
    """
    page = begin_page(conn, keys, wish.needs_row)
    return Taking(conn, serde, page, wish, sent).rows()


class Taking:
    """Reads the values of a page; what cannot be read refuses its thread, and no other."""

    def __init__(
        self,
        conn: Connection,
        serde: SerializerProtocol,
        page: Page,
        wish: Wish,
        sent: Collection[StoredKey] = (),
    ) -> None:
        self._serde = serde
        self._page = page
        self._wish = wish
        self._sent = sent
        self._values = Values(conn, serde)
        self._found = Rows(taken=page.size)

    def rows(self) -> Rows:
        """All of it."""
        page, found = self._page, self._found
        spelled_rows = [each for row in page.rows if (each := self._spelled(row))]
        page.values = self._all_blobs(spelled_rows)
        keys = [Key(*row[:3]) for row in page.rows] + page.keys
        page.writes = self._all_writes(keys)
        for each in spelled_rows:
            if each.row.thread_id not in found.refused:
                with naming(found, Key(*each.row[:3])):
                    self._add(each)
        for key in keys:
            if key in self._wish.whole or key in self._wish.writes:
                found.writes += ((*key, *write) for write in page.writes.get(key, ()))
        found.without(found.refused)
        return found

    def _spelled(self, row: Row) -> Spelled | None:
        with naming(self._found, Key(*row[:3])):
            return spelled(row, self._page.blobs.__contains__)
        return None

    def _all_blobs(self, rows: Sequence[Spelled]) -> dict[BlobKey, Blob]:
        wanted: dict[BlobKey, Key] = {}
        for each in rows:
            key = Key(*each.row[:3])
            for blob in self._wanted(each, key):
                wanted.setdefault(blob, key)
        try:
            return self._values.blobs(wanted)
        except SerializationError:  # one of them: which?
            return self._one_by_one(wanted)

    def _wanted(self, each: Spelled, key: Key) -> Iterable[BlobKey]:
        if key in self._wish.whole:
            for (channel, version), blob in each.stored.items():
                if (*key.place, channel, version) not in self._sent:
                    yield blob
        if each.extras is not None:
            yield each.extras
        if key in self._wish.compared:
            yield from (blob for blob in candidates(each.row) if blob in self._page.blobs)

    def _one_by_one(self, wanted: dict[BlobKey, Key]) -> dict[BlobKey, Blob]:
        values: dict[BlobKey, Blob] = {}
        for blob, key in wanted.items():
            if key.thread_id not in self._found.refused:
                with naming(self._found, key):
                    values |= self._values.blobs([blob])
        return values

    def _all_writes(self, keys: Sequence[Key]) -> dict[Key, list[Write]]:
        try:
            return self._values.writes(keys)
        except SerializationError:
            writes: dict[Key, list[Write]] = {}
            for key in keys:
                with naming(self._found, key):
                    writes |= self._values.writes([key])
            return writes

    def _add(self, each: Spelled) -> None:
        key = Key(*each.row[:3])
        if key in self._wish.whole:
            self._add_rows(each)
        if key in self._wish.compared:
            self._found.contents.append(self._content(each))

    def _add_rows(self, each: Spelled) -> None:
        found, row = self._found, each.row
        place = (row.thread_id, row.checkpoint_ns)
        blobs = dict(each.made)
        if each.extras is not None:
            blobs[TASKS, str(each.sends_version)] = self.sends(each, each.extras)
        for (channel, version), key in each.stored.items():
            found.used.add((*place, channel, version))
            if (*place, channel, version) not in self._sent and key in self._page.values:
                blobs[channel, version] = self._page.values[key]
        for (channel, version), blob in blobs.items():
            found.blobs[(*place, channel, version)] = blob
        found.checkpoints.append((*row[:3], row.parent_id, each.text, row.metadata))

    def sends(self, each: Spelled, key: BlobKey) -> Blob:
        """The pending sends of an old format, which Postgres looks for among the channels, and for
        some checkpoints among the parent's writes first.
        """
        kind, data = self._page.values[key]
        plain, opened = unseal(self._serde, EXTRAS, kind, data)
        if plain != "msgpack":
            raise TransferError(f"its pending sends are {plain}, which cannot be taken apart")
        sends = sends_in(opened)
        if each.row.parent_id and each.row.checkpoint.get("v", 1) < SENDS_INSIDE:
            self._check_parents(Key(*key.place, each.row.parent_id), sends)
        return seal(self._serde, plain, sends) if "+" in kind else (plain, sends)

    def _check_parents(self, parent: Key, sends: bytes) -> None:
        written = sorted(
            (write.task_path, write.task_id, write.idx, write)
            for write in self._values.writes([parent]).get(parent, ())
            if write.channel == TASKS
        )
        if not written:
            return
        opened = [unseal(self._serde, TASKS, each[3].kind, each[3].blob)[1] for each in written]
        if sends != array_of(opened):
            raise TransferError(
                f"channel {TASKS!r}: its pending sends are not those that its parent's tasks "
                "wrote, which PostgresSaver takes"
            )

    def _content(self, each: Spelled) -> Content:
        row = each.row
        key = Key(*row[:3])
        values = {
            channel: self._page.values[blob]
            for channel, version in row.blob_keys().items()
            if (blob := BlobKey(key.place, channel, version)) in self._page.values
        }
        return Content(key, row.parent_id, each, values, self._page.writes.get(key, []))


@contextmanager
def naming(found: Rows, key: Key) -> Iterator[None]:
    """What goes wrong with a checkpoint refuses its thread, and names the checkpoint."""
    try:
        yield
    except (TransferError, SerializationError) as error:
        found.refused.setdefault(key.thread_id, refusal(key, error))


def refusal(key: Key, error: Exception) -> TransferError:
    """The error that names a checkpoint which cannot be carried."""
    named = TransferError(
        f"thread {key.thread_id!r}, namespace {key.checkpoint_ns!r}, checkpoint "
        f"{key.checkpoint_id}: {error}"
    )
    named.__cause__ = error
    return named
