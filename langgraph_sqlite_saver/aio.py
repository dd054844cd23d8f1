"""`AsyncSqliteSaver`: the face for event loops; the same operations, awaited."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import aiosqlite
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
from .database import (
    AiosqliteDatabase,
    AsyncDatabase,
    EventLoopError,
    OnEvent,
    PragmaValue,
    StorageError,
    logs,
    upkeep,
)
from .database.files import StrPath
from .database.upkeep import Left, Progress, Vacuum

T = TypeVar("T")

# Up to so many bytes of large values are compressed in the event loop, about two milliseconds'
# work at worst; more in a thread.
_IN_THE_LOOP = 256_000


class AsyncSqliteSaver(BaseCheckpointSaver[str]):
    """Keeps the state of LangGraph graphs in one SQLite file, for event loops.

    As `SqliteSaver`, and drop-in for `langgraph.checkpoint.sqlite.aio.AsyncSqliteSaver`. It opens
    at the first call, serves any number of event loops, and does not keep the process alive. The
    blocking methods work in threads that run no event loop. A cancelled call leaves the file and
    the saver usable; what it was saving may be saved all the same.

        async with AsyncSqliteSaver("agent.db") as saver:
            graph = builder.compile(checkpointer=saver)

    Args:
        conn: As for `SqliteSaver`; or an `aiosqlite.Connection`, which stays yours and has one
            operation run at a time.
        serde, history, pragmas, readers, lock_timeout, mode: As for `SqliteSaver`.
        on_event: As for `SqliteSaver`; for saves and reads it is called in the event loop.

    Raises:
        StorageError: A subclass that says what to do, from every method.
    """

    def __init__(
        self,
        conn: StrPath | aiosqlite.Connection | sqlite3.Connection,
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
        self.database: AsyncDatabase | AiosqliteDatabase
        if isinstance(conn, aiosqlite.Connection):
            self.database = AiosqliteDatabase(
                conn,
                schemas=[SCHEMA],
                pragmas=pragmas,
                lock_timeout=lock_timeout,
                on_event=on_event,
            )
        else:
            self.database = AsyncDatabase(
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
        self.lock = asyncio.Lock()
        self.is_setup = False

    @classmethod
    @asynccontextmanager
    async def from_conn_string(
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
    ) -> AsyncIterator[Self]:
        """A saver for the time of an `async with` block, from a path or `":memory:"`."""
        async with cls(
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
    def conn(self) -> aiosqlite.Connection | sqlite3.Connection:
        """A connection for your own statements: the one that the saver was made with, or, for a
        saver made with a path, one more to its file, closed with the saver.
        """
        return self.database.connection

    async def setup(self) -> None:
        """Open the file and make or migrate its tables now. Otherwise the first call does."""
        await self.database.open()
        self.is_setup = True

    async def aclose(self) -> None:
        """Complete what is under way and close the file; later calls raise. Yours stays open."""
        await self.database.close()

    async def __aenter__(self) -> Self:
        await self.setup()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.aclose()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.database.description}>"

    # Saving and reading.

    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """Async `SqliteSaver.get_tuple`."""
        try:
            return await self.database.read(reading.get_tuple, self, address_of(config))
        except DamagedError as error:
            logs.damage.error("%s", error)
            raise

    def alist(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[CheckpointTuple]:
        """Async `SqliteSaver.list`; each page is read and decoded in a thread."""
        return self._aiterate(listing.Pages(listing.prepare_list(config, filter, before, limit)))

    async def _aiterate(self, pages: listing.Pages) -> AsyncIterator[CheckpointTuple]:
        while not pages.done:
            for each in pages.take(await self._fetch(pages)):
                yield each

    async def _fetch(self, pages: listing.Pages) -> listing.Page:
        return await self.database.read(
            listing.fetch_page, self, pages.query, pages.cursor, pages.size
        )

    async def aput(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        """Async `SqliteSaver.put`."""
        request, saved = writing.prepare_put(
            self, config, checkpoint, metadata, new_versions, at_once=_IN_THE_LOOP
        )
        if not request.encoded:
            await self.database.read_first(writing.find_bases, request)
        head = await self.database.write(writing.put, request, self._lineage)
        self._lineage.remember(request.place, head)
        self.history.remember(request.place, request.learnt)
        if request.freed is None or request.freed:
            with suppress(StorageError):  # it is saved; what stays goes with the next prune
                await self._remove(
                    request.place[0], removal.plan_values, request.place, request.freed
                )
        return saved

    async def aput_writes(
        self,
        config: RunnableConfig,
        writes: Sequence[tuple[str, Any]],
        task_id: str,
        task_path: str = "",
    ) -> None:
        """Async `SqliteSaver.put_writes`."""
        request = pending.prepare_writes(
            self, config, writes, task_id, task_path, at_once=_IN_THE_LOOP
        )
        if not request.encoded:
            await self.database.read_first(pending.encode, request)
        await self.database.write(pending.put_writes, request, self._lineage)

    async def aget_delta_channel_history(
        self, *, config: RunnableConfig, channels: Sequence[str]
    ) -> Mapping[str, DeltaChannelHistory]:
        """Async `SqliteSaver.get_delta_channel_history`."""
        if not (names := delta.checked_channels(channels)):
            return {}
        place = address_of(config)
        return await self.database.read(delta.get_history, self, place, names)

    # Deleting and copying.

    async def adelete_thread(self, thread_id: str) -> None:
        """Async `SqliteSaver.delete_thread`."""
        key = thread_key(thread_id)
        await self._delete(key, retention.delete_thread, key)

    async def adelete_for_runs(self, run_ids: Sequence[str]) -> None:
        """Async `SqliteSaver.delete_for_runs`."""
        ids = thread_keys(run_ids, "run_ids")
        found = await self.database.read(retention.threads_of_runs, ids)
        for thread_id, runs in found.items():
            await self._remove(thread_id, retention.plan_runs, thread_id, runs)

    async def acopy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        """Async `SqliteSaver.copy_thread`."""
        source, target = thread_key(source_thread_id), thread_key(target_thread_id)
        await self.database.write(copying.copy_thread, self, source, target)

    async def aprune(
        self,
        thread_ids: Sequence[str],
        *,
        strategy: str = "keep_latest",
        keep_last: int | None = None,
    ) -> None:
        """Async `SqliteSaver.prune`."""
        ids = thread_keys(thread_ids)
        keep = retention.checked_keep(strategy, keep_last)
        for thread_id in ids:
            if keep:
                await self._remove(thread_id, retention.plan_prune, thread_id, keep)
            else:
                await self._delete(thread_id, retention.delete_thread, thread_id)

    async def aexpire(self, older_than: timedelta | datetime) -> Sequence[str]:
        """Async `SqliteSaver.expire`."""
        moment = overview.cutoff(older_than)
        candidates = await self.database.read_long(overview.threads_older_than, moment)
        gone = [
            thread_id
            for thread_id in candidates
            if await self._delete(thread_id, retention.expire_thread, thread_id, moment)
        ]
        for thread_id in await self.database.read_long(orphans.threads_with_older, moment):
            await self._delete(thread_id, orphans.expire, thread_id, moment)
        return gone

    async def _remove(
        self, thread_id: str, plan: Callable[..., Sequence[Removal]], *args: Any
    ) -> None:
        """Delete what a plan finds, which others' writes may make out of date."""
        for _ in range(removal.TRIES):
            removals = await self.database.read(plan, self, *args)
            if not removals or await self._delete(thread_id, removal.carry_out, removals):
                return
        await self._delete(thread_id, removal.at_once, plan, self, *args)

    async def _delete(self, thread_id: str, op: Callable[..., T], *args: Any) -> T:
        try:
            return await self.database.write(op, *args)
        finally:
            self.history.forget(thread_id)

    # Looking after the file.

    async def athreads(self) -> Sequence[ThreadInfo]:
        """Async `SqliteSaver.threads`."""
        return await self.database.read_long(overview.threads)

    async def astats(self) -> Stats:
        """Async `SqliteSaver.stats`."""
        counted = await self.database.read_long(overview.count)
        figures = await self.database.read(upkeep.file_figures, self.database.path)
        return Stats.of(self.database.path, figures, counted)

    async def acheck(
        self, thread_ids: Sequence[str] | None = None, *, progress: Progress | None = None
    ) -> Findings:
        """Async `SqliteSaver.check`; `progress` is called in the loop."""
        ids = None if thread_ids is None else thread_keys(thread_ids)
        checker = await self.database.read_long(checking.begin, self, ids)
        while not checker.walk.done:
            checker.take(await self.database.read_long(checker.step), progress)
        return checker.result()

    async def acompact(
        self, thread_ids: Sequence[str] | None = None, *, progress: Progress | None = None
    ) -> Compaction:
        """Async `SqliteSaver.compact`; `progress` is called in the loop."""
        ids = None if thread_ids is None else thread_keys(thread_ids)
        compactor = compacting.Compactor(self, await self.database.read_long(walking.plan, ids))
        while not compactor.walk.done:
            compactor.take(await self.database.write(compactor.step), progress)
        if self.database.borrowed is None:
            while await self.database.maintain(upkeep.give_back):
                pass
            compactor.result.left = await self.aoptimize()
        return compactor.result

    async def aoptimize(self, *, vacuum: Vacuum | None = None) -> Left:
        """Async `SqliteSaver.optimize`."""
        await self.database.maintain(upkeep.optimize, vacuum)
        return await self.database.maintain(self.database.shorten_wal)

    async def abackup(self, path: StrPath, *, progress: Progress | None = None) -> Path:
        """Async `SqliteSaver.backup`; `progress` is called in a thread."""
        await self.database.read_long(upkeep.backup, path, progress)
        return Path(path)

    # What LangGraph asks beside.

    def get_next_version(self, current: str | None, channel: None) -> str:
        """As `SqliteSaver.get_next_version`."""
        return versions.next_version(current)

    # The blocking twins, for threads without an event loop: the methods above, run on a loop of
    # their own (the database keeps none).

    def _wait_for(self, awaitable: Coroutine[Any, Any, T]) -> T:
        try:
            _refuse_in_event_loop()
        except EventLoopError:
            awaitable.close()
            raise
        loop = asyncio.new_event_loop()
        try:
            return loop.run_until_complete(awaitable)
        finally:
            loop.close()

    def get_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """Blocking `aget_tuple`."""
        return self._wait_for(self.aget_tuple(config))

    def list(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> Iterator[CheckpointTuple]:
        """Blocking `alist`."""
        _refuse_in_event_loop()
        return self._iterate(listing.Pages(listing.prepare_list(config, filter, before, limit)))

    def _iterate(self, pages: listing.Pages) -> Iterator[CheckpointTuple]:
        while not pages.done:
            yield from pages.take(self._wait_for(self._fetch(pages)))

    def put(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        """Blocking `aput`."""
        return self._wait_for(self.aput(config, checkpoint, metadata, new_versions))

    def put_writes(
        self,
        config: RunnableConfig,
        writes: Sequence[tuple[str, Any]],
        task_id: str,
        task_path: str = "",
    ) -> None:
        """Blocking `aput_writes`."""
        self._wait_for(self.aput_writes(config, writes, task_id, task_path))

    def get_delta_channel_history(
        self, *, config: RunnableConfig, channels: Sequence[str]
    ) -> Mapping[str, DeltaChannelHistory]:
        """Blocking `aget_delta_channel_history`."""
        return self._wait_for(self.aget_delta_channel_history(config=config, channels=channels))

    def delete_thread(self, thread_id: str) -> None:
        """Blocking `adelete_thread`."""
        self._wait_for(self.adelete_thread(thread_id))

    def delete_for_runs(self, run_ids: Sequence[str]) -> None:
        """Blocking `adelete_for_runs`."""
        self._wait_for(self.adelete_for_runs(run_ids))

    def copy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        """Blocking `acopy_thread`."""
        self._wait_for(self.acopy_thread(source_thread_id, target_thread_id))

    def prune(
        self,
        thread_ids: Sequence[str],
        *,
        strategy: str = "keep_latest",
        keep_last: int | None = None,
    ) -> None:
        """Blocking `aprune`."""
        self._wait_for(self.aprune(thread_ids, strategy=strategy, keep_last=keep_last))

    def expire(self, older_than: timedelta | datetime) -> Sequence[str]:
        """Blocking `aexpire`."""
        return self._wait_for(self.aexpire(older_than))

    def threads(self) -> Sequence[ThreadInfo]:
        """Blocking `athreads`."""
        return self._wait_for(self.athreads())

    def stats(self) -> Stats:
        """Blocking `astats`."""
        return self._wait_for(self.astats())

    def check(
        self, thread_ids: Sequence[str] | None = None, *, progress: Progress | None = None
    ) -> Findings:
        """Blocking `acheck`."""
        return self._wait_for(self.acheck(thread_ids, progress=progress))

    def compact(
        self, thread_ids: Sequence[str] | None = None, *, progress: Progress | None = None
    ) -> Compaction:
        """Blocking `acompact`."""
        return self._wait_for(self.acompact(thread_ids, progress=progress))

    def optimize(self, *, vacuum: Vacuum | None = None) -> Left:
        """Blocking `aoptimize`."""
        return self._wait_for(self.aoptimize(vacuum=vacuum))

    def backup(self, path: StrPath, *, progress: Progress | None = None) -> Path:
        """Blocking `abackup`."""
        return self._wait_for(self.abackup(path, progress=progress))

    def close(self) -> None:
        """Blocking `aclose`."""
        self._wait_for(self.aclose())


def _refuse_in_event_loop() -> None:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    raise EventLoopError(
        "a blocking call on AsyncSqliteSaver in a thread that runs an event loop would stop the "
        "loop: await the method whose name starts with 'a', as `await saver.aget_tuple(…)` or "
        "`await graph.ainvoke(…)`, or use SqliteSaver"
    )
