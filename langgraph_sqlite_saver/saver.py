"""`SqliteSaver`: the blocking face. What it does is in `checkpoints`; where, in `database`."""

from __future__ import annotations

import asyncio
import contextvars
import sqlite3
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import (
    BaseCheckpointSaver,
    ChannelVersions,
    Checkpoint,
    CheckpointMetadata,
    CheckpointTuple,
    DeltaChannelHistory,
)
from langgraph.checkpoint.serde.base import SerializerProtocol
from typing_extensions import Self

from .checkpoints import (
    SCHEMA,
    checking,
    compacting,
    copying,
    delta,
    listing,
    orphans,
    overview,
    pending,
    reading,
    removal,
    retention,
    versions,
    walking,
    writing,
)
from .checkpoints.checking import Findings
from .checkpoints.compacting import Compaction
from .checkpoints.config import address_of, thread_key, thread_keys
from .checkpoints.errors import DamagedError
from .checkpoints.history import History, Mode
from .checkpoints.lineage import Lineage
from .checkpoints.overview import Stats, ThreadInfo
from .checkpoints.removal import Removal
from .database import Database, OnEvent, PragmaValue, StorageError, logs, upkeep
from .database.files import StrPath
from .database.upkeep import Left, Progress, Vacuum

T = TypeVar("T")

# How many checkpoints `alist` brings with one hop to a thread.
_CHUNK = 16


async def _on_a_thread(function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
    """As `asyncio.to_thread`; on this thread once the main thread has ended and none is started."""
    call = partial(contextvars.copy_context().run, function, *args, **kwargs)
    try:
        running = asyncio.get_running_loop().run_in_executor(None, call)
    except RuntimeError:
        return call()
    return await running


def _next(
    tuples: Iterator[CheckpointTuple],
) -> tuple[Sequence[CheckpointTuple], StorageError | None]:
    """Some more, and the error that ends them, if one does."""
    chunk: deque[CheckpointTuple] = deque()
    try:
        chunk.extend(islice(tuples, _CHUNK))
    except StorageError as error:
        return chunk, error
    return chunk, None


class SqliteSaver(BaseCheckpointSaver[str]):
    """Keeps the state of LangGraph graphs in one SQLite file.

    Safe to use from any thread and from many processes on one file; the tables are made at the
    first use. Drop-in for `langgraph.checkpoint.sqlite.SqliteSaver`. The async methods work too,
    on threads; `AsyncSqliteSaver` is made for event loops.

        graph = builder.compile(checkpointer=SqliteSaver("agent.db"))

    Args:
        conn: A path, an SQLite URI (`file:agent.db?mode=ro`), `":memory:"`, or a
            `sqlite3.Connection` (with `check_same_thread=False`), which stays yours, settings and
            all. What is saved is committed before a call returns, whatever uses the connection
            beside; a path is faster, and lets reads go on beside a write.
        serde: What values are serialised with; `EncryptedSerializer` keeps them secret. Metadata
            is stored in plain.
        history: `"compact"` stores large values as differences from older versions, at what
            changed; `"full"` stores them whole. Either reads what the other wrote. Some of the
            newest values are kept in memory for it, 32 MB at most.
        pragmas: Overrides, as `{"synchronous": "FULL"}` for commits that survive a power cut. The
            defaults are `langgraph_sqlite_saver.database.CONNECTION_PRAGMAS`.
        readers: How many connections may read at once.
        lock_timeout: How long to wait for other processes, in seconds.
        mode: The permissions of a new file and its -wal and -shm, such as 0o640; the umask does not
            change them. An existing file keeps its permissions.
        on_event: A function for metrics. It is called with an `Event` for each save, read, commit
            and wait for a lock, in the thread that did it. It must be fast and must not call the
            saver.

    Raises:
        StorageError: A subclass that says what to do, from every method.
    """

    def __init__(
        self,
        conn: StrPath | sqlite3.Connection,
        *,
        serde: SerializerProtocol | None = None,
        history: Mode = "compact",
        pragmas: Mapping[str, PragmaValue] | None = None,
        readers: int = 4,
        lock_timeout: float = 30.0,
        mode: int = 0o600,
        on_event: OnEvent | None = None,
    ) -> None:
        super().__init__(serde=serde)
        self.database = Database(
            conn,
            schemas=[SCHEMA],
            pragmas=pragmas,
            readers=readers,
            lock_timeout=lock_timeout,
            mode=mode,
            on_event=on_event,
        )
        self.history = History(history)
        self._lineage = Lineage(alone=self.database.path is not None)
        # For programs that use `conn` under it, as they do with the official saver.
        self.lock = self.database.lock
        self.is_setup = False

    @classmethod
    @contextmanager
    def from_conn_string(
        cls,
        conn_string: str,
        *,
        serde: SerializerProtocol | None = None,
        history: Mode = "compact",
        pragmas: Mapping[str, PragmaValue] | None = None,
        readers: int = 4,
        lock_timeout: float = 30.0,
        mode: int = 0o600,
        on_event: OnEvent | None = None,
    ) -> Iterator[Self]:
        """A saver for the time of a `with` block, from a path or `":memory:"`."""
        with cls(
            conn_string,
            serde=serde,
            history=history,
            pragmas=pragmas,
            readers=readers,
            lock_timeout=lock_timeout,
            mode=mode,
            on_event=on_event,
        ) as saver:
            yield saver

    @property
    def conn(self) -> sqlite3.Connection:
        """A connection for your own statements: the one that the saver was made with, or, for a
        saver made with a path, one more to its file, closed with the saver.
        """
        return self.database.connection

    @contextmanager
    def cursor(self, transaction: bool = True) -> Iterator[sqlite3.Cursor]:
        """A cursor of `conn`, under `lock`; at the end `conn` is committed if `transaction`."""
        with self.lock:
            self.setup()
            cursor = self.conn.cursor()
            try:
                yield cursor
            finally:
                if transaction:
                    self.conn.commit()
                cursor.close()

    def setup(self) -> None:
        """Open the file and make or migrate its tables now. Otherwise the first call does."""
        self.database.open()
        self.is_setup = True

    def close(self) -> None:
        """Complete what is under way and close the file; later calls raise. Yours stays open."""
        self.database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.database.description}>"

    # Saving and reading.

    def get_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """The checkpoint that `config` names, or the newest of its thread and namespace.

        Raises DamagedError if it cannot be read: it names the place, and what to do.
        """
        try:
            return self.database.read(reading.get_tuple, self, address_of(config))
        except DamagedError as error:
            logs.damage.error("%s", error)
            raise

    def list(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> Iterator[CheckpointTuple]:
        """Checkpoints, newest first, read page by page as you iterate; no lock is held meanwhile.

        A checkpoint that is damaged keeps nobody from the others: it is passed over, with a warning
        to the log, and when all others have come its DamagedError is raised (the first, of
        several; `check` finds all). It counts for `limit` as if it had come.

        Args:
            config: The thread, and the namespace if it names one; None for all threads.
            filter: Metadata that must be equal. Dots in a key lead into nested objects; None also
                matches a missing key.
            before: Only checkpoints with a smaller id than the one this config names.
            limit: The most to yield.
        """
        pages = listing.Pages(listing.prepare_list(config, filter, before, limit))
        return self._iterate(pages)

    def _iterate(self, pages: listing.Pages) -> Iterator[CheckpointTuple]:
        while not pages.done:
            page = self.database.read(
                listing.fetch_page, self, pages.query, pages.cursor, pages.size
            )
            yield from pages.take(page)

    def put(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        """Save a checkpoint; it is committed when this returns.

        Args:
            config: The thread and namespace; its `checkpoint_id` becomes the parent.
            checkpoint: What to save. One of the same id is replaced.
            metadata: Stored as JSON, with the config's metadata and configurable merged in. NaN and
                infinities become null, lone surrogates "?", NUL characters go, dates and the like
                become text; a `writes` key (of LangGraph before 1.0) is left out where JSON cannot
                hold it.
            new_versions: The channels that changed. A hint: others are saved too if they are not.

        Returns:
            The config that names the saved checkpoint.
        """
        request, saved = writing.prepare_put(self, config, checkpoint, metadata, new_versions)
        if not request.encoded:
            self.database.read_first(writing.find_bases, request)
        head = self.database.write(writing.put, request, self._lineage)
        self._lineage.remember(request.place, head)
        self.history.remember(request.place, request.learnt)
        if request.freed is None or request.freed:
            with suppress(StorageError):  # it is saved; what stays goes with the next prune
                self._remove(request.place[0], removal.plan_values, request.place, request.freed)
        return saved

    def put_writes(
        self,
        config: RunnableConfig,
        writes: Sequence[tuple[str, Any]],
        task_id: str,
        task_path: str = "",
    ) -> None:
        """Save a task's writes on the checkpoint that `config` names: all, or none on an error."""
        request = pending.prepare_writes(self, config, writes, task_id, task_path)
        self.database.write(pending.put_writes, request, self._lineage)

    def get_delta_channel_history(
        self, *, config: RunnableConfig, channels: Sequence[str]
    ) -> Mapping[str, DeltaChannelHistory]:
        """What DeltaChannels are rebuilt from: writes, oldest first, and the value before them."""
        if not (names := delta.checked_channels(channels)):
            return {}
        place = address_of(config)
        return self.database.read(delta.get_history, self, place, names)

    # Deleting and copying.

    def delete_thread(self, thread_id: str) -> None:
        """Delete a thread with all its namespaces; a missing one is no error."""
        key = thread_key(thread_id)
        self._delete(key, retention.delete_thread, key)

    def delete_for_runs(self, run_ids: Sequence[str]) -> None:
        """Delete the checkpoints that runs made (metadata `run_id`) and their writes.

        Those stay that values of remaining checkpoints are rebuilt from (a DeltaChannel's). A
        remaining checkpoint whose parent went gets the nearest ancestor left as its parent. One
        transaction for each thread.
        """
        ids = thread_keys(run_ids, "run_ids")
        found = self.database.read(retention.threads_of_runs, ids)
        for thread_id, runs in found.items():
            self._remove(thread_id, retention.plan_runs, thread_id, runs)

    def copy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        """Copy a thread under the same checkpoint ids; an existing target keeps what it has.

        What cannot be read is copied as it is, but for pending writes of checkpoints that the
        target has, which could not be read any more.
        """
        source, target = thread_key(source_thread_id), thread_key(target_thread_id)
        self.database.write(copying.copy_thread, self, source, target)

    def prune(
        self,
        thread_ids: Sequence[str],
        *,
        strategy: str = "keep_latest",
        keep_last: int | None = None,
    ) -> None:
        """Delete old checkpoints of threads, each thread in a transaction of its own.

        Values that rest on deleted ones are stored anew, for which an encrypted thread takes the
        saver's key; so do `delete_for_runs`, and `copy_thread` onto an existing thread. What cannot
        be read, for want of the key or for damage, stays as it is, with what it rests on. While a
        checkpoint that stays cannot be read, no value of its namespace is deleted.

        Args:
            thread_ids: The threads.
            strategy: `"keep_latest"` keeps each namespace's newest checkpoint, with what its
                values are rebuilt from (DeltaChannels included); `"delete"` keeps nothing.
            keep_last: With `"keep_latest"`: how many to keep for each namespace, 1 or more.
        """
        ids = thread_keys(thread_ids)
        keep = retention.checked_keep(strategy, keep_last)
        for thread_id in ids:
            if keep:
                self._remove(thread_id, retention.plan_prune, thread_id, keep)
            else:
                self._delete(thread_id, retention.delete_thread, thread_id)

    def expire(self, older_than: timedelta | datetime) -> Sequence[str]:
        """Delete the threads whose newest checkpoint is older; returns their ids.

        Pending writes whose checkpoint is not there go too, where the time in the checkpoint's id
        (LangGraph's are UUIDs of version 6) is older. Those under other ids stay: `delete_thread`
        deletes them.

        Args:
            older_than: An age, or a moment (a naive one is local time).
        """
        moment = overview.cutoff(older_than)
        candidates = self.database.read_long(overview.threads_older_than, moment)
        gone = [
            thread_id
            for thread_id in candidates
            if self._delete(thread_id, retention.expire_thread, thread_id, moment)
        ]
        for thread_id in self.database.read_long(orphans.threads_with_older, moment):
            self._delete(thread_id, orphans.expire, thread_id, moment)
        return gone

    def _remove(self, thread_id: str, plan: Callable[..., Sequence[Removal]], *args: Any) -> None:
        """Delete what a plan finds, which others' writes may make out of date."""
        for _ in range(removal.TRIES):
            removals = self.database.read(plan, self, *args)
            if not removals or self._delete(thread_id, removal.carry_out, removals):
                return
        self._delete(thread_id, removal.at_once, plan, self, *args)

    def _delete(self, thread_id: str, op: Callable[..., T], *args: Any) -> T:
        try:
            return self.database.write(op, *args)
        finally:
            self.history.forget(thread_id)

    # Looking after the file.

    def threads(self) -> Sequence[ThreadInfo]:
        """Every thread: id, namespaces, number of checkpoints, last time, bytes."""
        return self.database.read_long(overview.threads)

    def stats(self) -> Stats:
        """What the file holds, in figures. Reads the whole file."""
        counted = self.database.read_long(overview.count)
        figures = self.database.read(upkeep.file_figures, self.database.path)
        return Stats.of(self.database.path, figures, counted)

    def check(
        self, thread_ids: Sequence[str] | None = None, *, progress: Progress | None = None
    ) -> Findings:
        """Read every value, of all threads or some, and tell which cannot be read.

        Without `thread_ids` the file itself is checked too (PRAGMA quick_check), in one snapshot,
        behind which the -wal grows as long as it lasts; the values are read in short ones.

        Args:
            thread_ids: The threads; all if None.
            progress: Called as `progress(values_done, values_total)`; may raise to stop.

        Returns:
            A list of what cannot be read. Its `orphans` tell what is stored for checkpoints that
            are not there, which is no damage.
        """
        ids = None if thread_ids is None else thread_keys(thread_ids)
        checker = self.database.read_long(checking.begin, self, ids)
        while not checker.walk.done:
            checker.take(self.database.read_long(checker.step), progress)
        return checker.result()

    def compact(
        self, thread_ids: Sequence[str] | None = None, *, progress: Progress | None = None
    ) -> Compaction:
        """Store what is there as this saver would store it now, and give the freed space back.

        With `history="compact"` values become differences, with "full" they become whole; those
        that cannot be read stay as they are. It works in transactions of some 20 ms, while others
        write, and can be stopped at any time: what is done stays done, and the next call goes on.
        No space is given back through a borrowed connection.

        Args:
            thread_ids: The threads; all if None.
            progress: Called as `progress(values_done, values_total)`; may raise to stop.
        """
        ids = None if thread_ids is None else thread_keys(thread_ids)
        compactor = compacting.Compactor(self, self.database.read_long(walking.plan, ids))
        while not compactor.walk.done:
            compactor.take(self.database.write(compactor.step), progress)
        if self.database.borrowed is None:
            while self.database.maintain(upkeep.give_back):
                pass
            compactor.result.left = self.optimize()
        return compactor.result

    def optimize(self, *, vacuum: Vacuum | None = None) -> Left:
        """Refresh statistics, empty the -wal, and on request give free pages back to the disk.

        It waits for no reader. While somebody reads an older state (a backup, a replication, a
        transaction left open), what came after that stays in the -wal.

        Args:
            vacuum: `"incremental"` returns free pages; `"full"` rewrites the file, for which
                writers wait and as much disk again is needed.

        Returns:
            What is left: `wal_bytes` and `free_bytes`.
        """
        self.database.maintain(upkeep.optimize, vacuum)
        return self.database.maintain(self.database.shorten_wal)

    def backup(self, path: StrPath, *, progress: Progress | None = None) -> Path:
        """Write a snapshot of the file to `path` while others go on; it appears whole or not.

        Args:
            path: The backup; one that is there is replaced.
            progress: Called as `progress(pages_done, pages_total)`.

        Returns:
            The backup's path.
        """
        self.database.read_long(upkeep.backup, path, progress)
        return Path(path)

    # What LangGraph asks beside.

    def get_next_version(self, current: str | None, channel: None) -> str:
        """The version after `current`, which sorts behind it."""
        return versions.next_version(current)

    # The async twins: the methods above, on threads.

    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """Async `get_tuple`."""
        return await _on_a_thread(self.get_tuple, config)

    async def alist(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[CheckpointTuple]:
        """Async `list`."""
        tuples = self.list(config, filter=filter, before=before, limit=limit)
        error: StorageError | None = None
        while error is None:
            chunk, error = await _on_a_thread(_next, tuples)
            for each in chunk:
                yield each
            if not chunk:
                break
        if error is not None:
            raise error

    async def aput(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        """Async `put`."""
        return await _on_a_thread(self.put, config, checkpoint, metadata, new_versions)

    async def aput_writes(
        self,
        config: RunnableConfig,
        writes: Sequence[tuple[str, Any]],
        task_id: str,
        task_path: str = "",
    ) -> None:
        """Async `put_writes`."""
        await _on_a_thread(self.put_writes, config, writes, task_id, task_path)

    async def aget_delta_channel_history(
        self, *, config: RunnableConfig, channels: Sequence[str]
    ) -> Mapping[str, DeltaChannelHistory]:
        """Async `get_delta_channel_history`."""
        return await _on_a_thread(self.get_delta_channel_history, config=config, channels=channels)

    async def adelete_thread(self, thread_id: str) -> None:
        """Async `delete_thread`."""
        await _on_a_thread(self.delete_thread, thread_id)

    async def adelete_for_runs(self, run_ids: Sequence[str]) -> None:
        """Async `delete_for_runs`."""
        await _on_a_thread(self.delete_for_runs, run_ids)

    async def acopy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        """Async `copy_thread`."""
        await _on_a_thread(self.copy_thread, source_thread_id, target_thread_id)

    async def aprune(
        self,
        thread_ids: Sequence[str],
        *,
        strategy: str = "keep_latest",
        keep_last: int | None = None,
    ) -> None:
        """Async `prune`."""
        await _on_a_thread(self.prune, thread_ids, strategy=strategy, keep_last=keep_last)

    async def aexpire(self, older_than: timedelta | datetime) -> Sequence[str]:
        """Async `expire`."""
        return await _on_a_thread(self.expire, older_than)

    async def athreads(self) -> Sequence[ThreadInfo]:
        """Async `threads`."""
        return await _on_a_thread(self.threads)

    async def astats(self) -> Stats:
        """Async `stats`."""
        return await _on_a_thread(self.stats)

    async def acheck(
        self, thread_ids: Sequence[str] | None = None, *, progress: Progress | None = None
    ) -> Findings:
        """Async `check`."""
        return await _on_a_thread(self.check, thread_ids, progress=progress)

    async def acompact(
        self, thread_ids: Sequence[str] | None = None, *, progress: Progress | None = None
    ) -> Compaction:
        """Async `compact`."""
        return await _on_a_thread(self.compact, thread_ids, progress=progress)

    async def aoptimize(self, *, vacuum: Vacuum | None = None) -> Left:
        """Async `optimize`."""
        return await _on_a_thread(self.optimize, vacuum=vacuum)

    async def abackup(self, path: StrPath, *, progress: Progress | None = None) -> Path:
        """Async `backup`."""
        return await _on_a_thread(self.backup, path, progress=progress)
