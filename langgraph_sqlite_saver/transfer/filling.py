"""Into our file: another saver's checkpoints, saved as `put` and `put_writes` save them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from sqlite3 import Connection
from typing import Any, cast

from langgraph.checkpoint.base import Checkpoint, CheckpointMetadata

from ..checkpoints import pending, removal, writing
from ..checkpoints.config import Address
from ..checkpoints.errors import SerializationError
from ..checkpoints.lineage import Lineage
from ..checkpoints.pending import CarriedWrite
from ..database import InvalidInputError, InvalidTypeError
from ..saver import SqliteSaver

# A transaction's worth: what others who write into the file wait for.
_MOST_BYTES = 8_000_000
_MOST_CHECKPOINTS = 256

# What is wrong with a checkpoint, and not with the file.
_ITS_OWN = (SerializationError, InvalidInputError, InvalidTypeError)


@dataclass(frozen=True)
class Carried:
    """A checkpoint on its way, with its pending writes.

    Attributes:
        address: Its thread, namespace and id.
        writes: Its pending writes.
        size: About how many bytes it has.
        checkpoint: Values that are serialised already stand in it as `Raw`; None where only the
            writes are carried.
        parent_id: Its parent.
        metadata: As the other saver returns it.
        new_versions: The channels whose values may not be stored yet; the parent has the others.
        replacing: Whether writes that are there are to be replaced.
    """

    address: Address
    writes: Sequence[CarriedWrite]
    size: int
    checkpoint: Mapping[str, Any] | None = None
    parent_id: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    new_versions: Mapping[str, Any] = field(default_factory=dict)
    replacing: bool = False


class Filling:
    """Stores carried checkpoints in a saver's file, several in one transaction, each with its
    writes. They come oldest first, so that values rest on older ones.

    Attributes:
        checkpoints, writes: How many were stored.
        failed: The checkpoints that cannot be stored, and why.
    """

    def __init__(self, saver: SqliteSaver) -> None:
        self.checkpoints = 0
        self.writes = 0
        self.failed: dict[Address, str] = {}
        self._saver = saver
        self._batch: list[Carried] = []
        self._bytes = 0
        self._lineage = Lineage()

    def add(self, carried: Carried) -> None:
        """Take a checkpoint; it is stored at the latest with the next `flush`."""
        self._batch.append(carried)
        self._bytes += carried.size
        if self._bytes >= _MOST_BYTES or len(self._batch) >= _MOST_CHECKPOINTS:
            self.flush()

    def flush(self) -> None:
        """Store what was taken."""
        batch, self._batch, self._bytes = self._batch, [], 0
        try:
            self._write(batch)
        except _ITS_OWN:
            for each in batch:
                try:
                    self._write([each])
                except _ITS_OWN as error:
                    self.failed[each.address] = str(error)

    def _write(self, batch: Sequence[Carried]) -> None:
        if batch:
            checkpoints, writes = self._saver.database.write(self._store, batch)
            self.checkpoints += checkpoints
            self.writes += writes

    def _store(self, conn: Connection, batch: Sequence[Carried]) -> tuple[int, int]:
        self._lineage.forget()  # an attempt before this one may have been rolled back
        checkpoints = writes = 0
        for each in batch:
            if each.checkpoint is not None:
                self._put(conn, each, each.checkpoint)
                checkpoints += 1
            if each.writes:
                before = conn.total_changes
                request = pending.carried_writes(
                    self._saver, each.address, each.writes, replacing=each.replacing
                )
                pending.encode(conn, request)
                pending.put_writes(conn, request, self._lineage)
                writes += conn.total_changes - before
        return checkpoints, writes

    def _put(self, conn: Connection, each: Carried, checkpoint: Mapping[str, Any]) -> None:
        request, _ = writing.prepare_put(
            self._saver,
            each.address._replace(checkpoint_id=each.parent_id).config(),
            cast(Checkpoint, checkpoint),
            cast(CheckpointMetadata, each.metadata),
            dict(each.new_versions),
        )
        if not request.encoded:
            writing.find_bases(conn, request)
        head = writing.put(conn, request, self._lineage)
        if request.freed is None or request.freed:
            removal.delete_unreferenced(conn, self._saver, request.place, request.freed)
        # Before the commit: what rests on the history's chains looks whether they are in the file.
        self._lineage.remember(request.place, head)
        self._saver.history.remember(request.place, request.learnt)
