"""`AsyncRelayStore`: a `RelayStore` for event loops."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from typing_extensions import Self

from ..database import Database
from ..database.upkeep import Left
from .audit import AuditEntry
from .comparing import Difference
from .losses import Restored
from .mirror import Taken
from .store import API_KEY_TTL, Progress, RelayStore
from .trash import TrashEntry
from .usage import Period, UsageRecord, UsageTotals

T = TypeVar("T")

# Calls that wait for Redis and SQLite at once.
_THREADS = 32


class AsyncRelayStore:
    """The awaitable face of a `RelayStore`, with its methods and arguments.

    A call runs on a thread, and once begun is carried out in full also if it is cancelled. So the
    store keeps no loop and no connection of one: it may be used from several loops, one after
    another or at once, and closed in any of them.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._store = RelayStore(*args, **kwargs)
        self._start()

    def _start(self) -> None:
        self._process = os.getpid()
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="langgraph-sqlite-relay")

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None, **overrides: Any) -> Self:
        """As `RelayStore.from_env`."""
        return cls(**RelayStore.arguments_of(environ, overrides))

    def __repr__(self) -> str:
        return repr(self._store).replace("<RelayStore", f"<{type(self).__name__}")

    @property
    def store(self) -> RelayStore:
        """The blocking face of the same store."""
        return self._store

    @property
    def database(self) -> Database:
        """As `RelayStore.database`."""
        return self._store.database

    async def open(self) -> None:
        """As `RelayStore.open`."""
        await self._thread(self._store.open)

    async def close(self) -> None:
        """As `RelayStore.close`."""
        # Not on the threads of the store: it waits for those.
        await asyncio.shield(asyncio.create_task(asyncio.to_thread(self._close)))

    def _close(self) -> None:
        self._store.begin_to_close()
        self._threads.shutdown()
        self._store.close()

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()

    async def _thread(self, call: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        if self._store.is_closed:
            self._store.open()  # says so
        if self._process != os.getpid():  # a child of the process that made them has no threads
            self._start()
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, partial(call, *args, **kwargs))

    async def save_api_key(
        self,
        fields: Mapping[str, str],
        *,
        ttl: timedelta | None = API_KEY_TTL,
        actor: str = "",
        strict: bool | None = None,
    ) -> None:
        """As `RelayStore.save_api_key`."""
        await self._thread(
            self._store.save_api_key, _copy(fields), ttl=ttl, actor=actor, strict=strict
        )

    async def get_api_key(self, id: str) -> dict[str, str] | None:
        """As `RelayStore.get_api_key`."""
        return await self._thread(self._store.get_api_key, id)

    async def find_api_key(self, hashed: str) -> dict[str, str] | None:
        """As `RelayStore.find_api_key`."""
        return await self._thread(self._store.find_api_key, hashed)

    async def list_api_keys(
        self, *, limit: int = 100, after: str | None = None
    ) -> list[dict[str, str]]:
        """As `RelayStore.list_api_keys`."""
        return await self._thread(self._store.list_api_keys, limit=limit, after=after)

    async def delete_api_key(self, id: str, *, actor: str = "", strict: bool | None = None) -> bool:
        """As `RelayStore.delete_api_key`."""
        return await self._thread(self._store.delete_api_key, id, actor=actor, strict=strict)

    async def save_account(
        self,
        account_type: str,
        fields: Mapping[str, Any] | str,
        *,
        actor: str = "",
        strict: bool | None = None,
    ) -> None:
        """As `RelayStore.save_account`."""
        await self._thread(
            self._store.save_account, account_type, _copy(fields), actor=actor, strict=strict
        )

    async def get_account(self, account_type: str, id: str) -> dict[str, Any] | None:
        """As `RelayStore.get_account`."""
        return await self._thread(self._store.get_account, account_type, id)

    async def list_accounts(
        self, account_type: str, *, limit: int = 100, after: str | None = None
    ) -> list[dict[str, Any]]:
        """As `RelayStore.list_accounts`."""
        return await self._thread(self._store.list_accounts, account_type, limit=limit, after=after)

    async def delete_account(
        self, account_type: str, id: str, *, actor: str = "", strict: bool | None = None
    ) -> bool:
        """As `RelayStore.delete_account`."""
        return await self._thread(
            self._store.delete_account, account_type, id, actor=actor, strict=strict
        )

    async def record_usage(self, record: UsageRecord, *, wait: bool = False) -> None:
        """As `RelayStore.record_usage`."""
        await self.record_usages((record,), wait=wait)

    async def record_usages(self, records: Sequence[UsageRecord], *, wait: bool = False) -> None:
        """As `RelayStore.record_usages`."""
        if wait or self._store.must_wait(len(records)):
            await self._thread(self._store.record_usages, records, wait=wait)
        else:
            self._store.record_usages(records)

    async def flush(self) -> None:
        """As `RelayStore.flush`."""
        await self._thread(self._store.flush)

    async def usage(
        self,
        *,
        api_key_id: str | None = None,
        account_id: str | None = None,
        model: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        limit: int = 100,
        after: int | None = None,
    ) -> list[UsageRecord]:
        """As `RelayStore.usage`."""
        return await self._thread(
            self._store.usage, api_key_id=api_key_id, account_id=account_id, model=model,
            since=since, until=until, limit=limit, after=after,
        )  # fmt: skip

    async def usage_totals(
        self,
        *,
        by: Period = "day",
        api_key_id: str | None = None,
        account_id: str | None = None,
        model: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
    ) -> list[UsageTotals]:
        """As `RelayStore.usage_totals`."""
        return await self._thread(
            self._store.usage_totals, by=by, api_key_id=api_key_id, account_id=account_id,
            model=model, since=since, until=until,
        )  # fmt: skip

    async def purge_usage(self, older_than: timedelta | datetime, *, dry_run: bool = False) -> int:
        """As `RelayStore.purge_usage`."""
        return await self._thread(self._store.purge_usage, older_than, dry_run=dry_run)

    async def audit(
        self,
        *,
        kind: str | None = None,
        record_id: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        limit: int = 100,
    ) -> list[AuditEntry]:
        """As `RelayStore.audit`."""
        return await self._thread(
            self._store.audit, kind=kind, record_id=record_id, since=since, until=until,
            limit=limit,
        )  # fmt: skip

    async def import_from_redis(
        self, *, progress: Progress | None = None, dry_run: bool = False
    ) -> Taken:
        """As `RelayStore.import_from_redis`; `progress` is called in a thread."""
        return await self._thread(self._store.import_from_redis, progress=progress, dry_run=dry_run)

    async def restore(self, *, progress: Progress | None = None, dry_run: bool = False) -> Restored:
        """As `RelayStore.restore`."""
        return await self._thread(self._store.restore, progress=progress, dry_run=dry_run)

    async def diff(
        self, *, limit: int | None = None, progress: Progress | None = None
    ) -> list[Difference]:
        """As `RelayStore.diff`."""
        return await self._thread(self._store.diff, limit=limit, progress=progress)

    async def reconcile(
        self,
        prefer: str = "sqlite",
        *,
        dry_run: bool = False,
        even_if_lost: bool = False,
        progress: Progress | None = None,
    ) -> list[Difference]:
        """As `RelayStore.reconcile`."""
        return await self._thread(
            self._store.reconcile,
            prefer,
            dry_run=dry_run,
            even_if_lost=even_if_lost,
            progress=progress,
        )

    async def trash(self, *, limit: int = 100, everything: bool = False) -> list[TrashEntry]:
        """As `RelayStore.trash`."""
        return await self._thread(self._store.trash, limit=limit, everything=everything)

    async def undelete_all(self, *, since: datetime | None = None, actor: str = "") -> int:
        """As `RelayStore.undelete_all`."""
        return await self._thread(self._store.undelete_all, since=since, actor=actor)

    async def undelete(self, id: str, *, actor: str = "") -> int:
        """As `RelayStore.undelete`."""
        return await self._thread(self._store.undelete, id, actor=actor)

    async def stats(self) -> dict[str, Any]:
        """As `RelayStore.stats`."""
        return await self._thread(self._store.stats)

    async def optimize(self, *, vacuum: Any = None) -> Left:
        """As `RelayStore.optimize`."""
        return await self._thread(self._store.optimize, vacuum=vacuum)

    async def backup(
        self,
        directory: Any = "backups/sqlite",
        *,
        keep_days: int = 7,
        progress: Progress | None = None,
    ) -> Path:
        """As `RelayStore.backup`."""
        return await self._thread(
            self._store.backup, directory, keep_days=keep_days, progress=progress
        )


def _copy(fields: T) -> T | dict[Any, Any]:
    """What they are at the time of the call."""
    return dict(fields) if isinstance(fields, Mapping) else fields
