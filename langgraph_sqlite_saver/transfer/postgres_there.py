"""One run from our file to Postgres."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from sqlite3 import Connection

from langgraph.checkpoint.serde.base import SerializerProtocol

from ..checkpoints.history import Place
from ..checkpoints.values import Blob, unseal
from ..database import Database
from . import emptying, postgres_page, postgres_refusals
from .emptying import Entry, Key, Values
from .passes import Passes
from .postgres_comparing import Comparison
from .postgres_page import Rows, StoredKey, Wish
from .postgres_reading import Reading
from .postgres_tables import UNACCEPTABLE, Stored, StoredWrites, Tables, unacceptable
from .result import Progress, Transferred, size_on_disk


class Moving(Passes):
    """One call: passes over the file, each bringing what Postgres has not."""

    def __init__(
        self,
        database: Database,
        reading: Reading,
        tables: Tables,
        threads: Sequence[str] | None,
        serde: SerializerProtocol,
        *,
        verify: bool,
        progress: Progress | None,
    ) -> None:
        super().__init__(threads, verify=verify, progress=progress)
        self._database = database
        self._reading = reading
        self._tables = tables
        self._serde = serde
        self._comparison = Comparison(serde)
        self._stored = Stored(0, 0, 0)
        # What the page before has used is there, and need not be sent again.
        self._sent: set[StoredKey] = set()
        # The last thread that was looked through for what cannot be carried.
        self._checked: str | None = None

    def result(self) -> Transferred:
        """What was done."""
        return Transferred(
            threads=len(self._found_threads),
            checkpoints=self._stored.checkpoints,
            writes=self._stored.writes,
            already_there=self._already,
            deleted=self._deleted,
            verified=self._comparison.compared,
            bytes_before=size_on_disk(str(self._database.path)),
            bytes_after=self._tables.size(),
        )

    def _count(self) -> int:
        return self._database.read(emptying.count, self._threads)

    def _source(self) -> Iterator[list[Entry]]:
        self._sent, self._checked = set(), None
        return emptying.entries(self._database, self._threads)

    def _target(self, threads: Sequence[str] | None) -> Iterator[list[Entry]]:
        return self._reading.entries(threads)

    def _existing(self, keys: Sequence[Key]) -> set[Key]:
        return self._database.read(emptying.existing, keys)

    def _parents(self, keys: Sequence[Key]) -> Mapping[Key, str | None]:
        return self._database.read(emptying.parents, keys)

    def _newest(self, places: set[Place]) -> Mapping[Place, str]:
        return self._database.read(emptying.newest, places)

    def _newest_there(self, places: set[Place]) -> Mapping[Place, str]:
        return self._tables.newest(places)

    def _delete(self, keys: Sequence[Key]) -> int:
        return self._tables.delete(keys)

    def _bring(self, page: Sequence[Entry], heads: frozenset[Key]) -> None:
        """Bring what Postgres lacks of some keys."""
        parents = self._tables.parents([entry.key for entry in page if entry.is_saved])
        missing = {e.key for e in page if e.is_saved and e.key not in parents}
        whole = missing | {
            e.key for e in page if e.key in parents and e.parent_id != parents[e.key]
        }
        compared = missing & heads
        if self._verify:
            compared = whole | parents.keys() if self._is_first else whole
        if self._is_first:
            self._already += len(parents)
        self._refuse({key.thread_id for key in missing})
        written = self._with_other_writes([e.key for e in page if e.key not in whole])
        wish = Wish(whole, written, compared)
        self._carry([e.key for e in page if e.key in wish], wish)

    def _refuse(self, threads: set[str]) -> None:
        """Leave out what cannot be carried, before anything of it is; once for each thread."""
        if unchecked := sorted(threads - {self._checked}):
            self._failures.add(
                self._database.read(postgres_refusals.refused, self._serde, unchecked)
            )
            self._checked = unchecked[-1]

    def _carry(self, keys: Sequence[Key], wish: Wish) -> None:
        """Read and store keys, a page at a time."""
        self._found += len(keys)
        left = keys
        while left := [key for key in left if key.thread_id not in self._failures]:
            rows = self._database.read(postgres_page.take, self._serde, left, wish, self._sent)
            taken, left = left[: rows.taken], left[rows.taken :]
            self._failures.add(rows.refused)
            self._store(rows)
            self._advance(self._done + sum(wish.needs_row(key) for key in taken))

    def _store(self, rows: Rows) -> None:
        """Store a page, and compare it; if that fails, its threads one by one."""
        try:
            stored = self._tables.store(
                rows, lambda tables: self._comparison.with_postgres(tables, rows.contents)
            )
        except UNACCEPTABLE as error:
            self._sent = set()
            threads = rows.threads()
            if len(threads) > 1:
                for thread_id in threads:
                    self._store(rows.of_thread(thread_id))
            else:
                self._failures.add({threads[0]: unacceptable(threads[0], error)})
        else:
            self._stored = self._stored.plus(stored)
            self._sent = rows.used

    def _with_other_writes(self, keys: Sequence[Key]) -> frozenset[Key]:
        """Those of some keys with writes that Postgres has not, or has another value of; where
        Postgres has gone on, its own error, interrupt or resume is newer.
        """
        ours = self._database.read(emptying.keys_of_writes, keys)
        theirs = self._tables.writes(list(ours))
        none = StoredWrites(set(), {})
        other = {key for key, those in ours.items() if those - theirs.get(key, none).keys}
        special = {
            key: found.special
            for key, found in theirs.items()
            if key not in other and found.special and found.keys <= ours[key]
        }
        if special:
            replaced = self._database.read(self._with_other_special_writes, special)
            other |= self._not_gone_on(replaced)
        return frozenset(other)

    def _with_other_special_writes(
        self, conn: Connection, theirs: Mapping[Key, Mapping[tuple[str, int], Blob]]
    ) -> set[Key]:
        """An error, interrupt or resume may be replaced by another one."""
        values = Values(conn, self._serde)
        return {
            key
            for key, writes in values.writes(list(theirs), emptying.SPECIAL_WRITES).items()
            if any(
                (found := theirs[key].get((each.task_id, each.idx))) is not None
                and unseal(self._serde, each.channel, each.kind, each.blob)
                != unseal(self._serde, each.channel, *found)
                for each in writes
            )
        }
