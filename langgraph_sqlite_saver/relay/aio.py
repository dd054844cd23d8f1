"""`AsyncRelayStore`: a `RelayStore` for event loops."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from redis.asyncio import Redis
from typing_extensions import ParamSpec, Self

from ..database import AsyncDatabase
from . import keys, records
from .audit import AuditEntry
from .comparing import Difference
from .mirror import Taken
from .restoring import Restored
from .steps import Steps, take_async
from .store import API_KEY_TTL, Progress, RelayStore
from .trash import TrashEntry
from .usage import Period, UsageRecord, UsageTotals

T = TypeVar("T")
P = ParamSpec("P")
_Clients = tuple[Redis | None, Redis | None]


class AsyncRelayStore:
    """The awaitable face of a `RelayStore`, with its methods and arguments.

    Saving, reading and deleting wait for Redis and SQLite without holding up the loop; what looks
    at everything (imports, restores, comparisons, backups) runs in a thread. It may be used from
    several loops, and closed in any of them.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._store = RelayStore(*args, **kwargs)
        self._database = None if self._store.path is None else AsyncDatabase(self._store.database)
        # Connections belong to the loop that made them.
        self._clients: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Clients] = (
            weakref.WeakKeyDictionary()
        )
        self._opened = False

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
    def database(self) -> AsyncDatabase:
        """As `RelayStore.database`."""
        if self._database is None:
            raise self._store.without_sqlite()
        return self._database

    @property
    def redis(self) -> Redis | None:
        """The client for the loop that runs; None without Redis."""
        return self._here()[0]

    def _here(self) -> _Clients:
        """The clients for the loop that runs: for bytes, and for text."""
        loop = asyncio.get_running_loop()
        clients = self._clients.get(loop)
        if clients is None:
            target = self._store.target
            clients = (None, None)
            if target is not None:
                clients = (target.connect_async(), target.connect_async(as_text=True))
            self._clients[loop] = clients
        return clients

    async def open(self) -> None:
        """As `RelayStore.open`."""
        if not self._opened:
            await asyncio.to_thread(self._store.open)
            self._opened = True

    async def close(self) -> None:
        """As `RelayStore.close`."""
        for client in self._clients.pop(asyncio.get_running_loop(), ()):
            if client is not None:
                await client.aclose()
        await asyncio.shield(asyncio.create_task(asyncio.to_thread(self._store.close)))
        if self._database is not None:
            await self._database.close()

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()

    async def _run(self, steps: Steps[T]) -> T:
        await self.open()
        return await take_async(steps, self._database, *self._here())

    async def _thread(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await asyncio.to_thread(partial(call, *args, **kwargs))

    async def save_api_key(
        self,
        fields: Mapping[str, str],
        *,
        ttl: timedelta | None = API_KEY_TTL,
        actor: str = "",
        strict: bool | None = None,
    ) -> None:
        """As `RelayStore.save_api_key`."""
        record = records.api_key(fields)
        await self._run(self._store.logic.save(record, keys.expiry(ttl), actor, strict))

    async def get_api_key(self, id: str) -> dict[str, str] | None:
        """As `RelayStore.get_api_key`."""
        return await self._run(self._store.logic.get(*records.api_key_place(id)))

    async def find_api_key(self, hashed: str) -> dict[str, str] | None:
        """As `RelayStore.find_api_key`."""
        return await self._run(self._store.logic.find(hashed))

    async def list_api_keys(
        self, *, limit: int = 100, after: str | None = None
    ) -> list[dict[str, str]]:
        """As `RelayStore.list_api_keys`."""
        return await self._thread(self._store.list_api_keys, limit=limit, after=after)

    async def delete_api_key(self, id: str, *, actor: str = "", strict: bool | None = None) -> bool:
        """As `RelayStore.delete_api_key`."""
        place, key = records.api_key_place(id)
        return await self._run(self._store.logic.delete(place, key, actor, strict))

    async def save_account(
        self,
        account_type: str,
        fields: Mapping[str, Any] | str,
        *,
        actor: str = "",
        strict: bool | None = None,
    ) -> None:
        """As `RelayStore.save_account`."""
        record = records.account(account_type, fields)
        await self._run(self._store.logic.save(record, None, actor, strict))

    async def get_account(self, account_type: str, id: str) -> dict[str, Any] | None:
        """As `RelayStore.get_account`."""
        return await self._run(self._store.logic.get(*records.account_place(account_type, id)))

    async def list_accounts(
        self, account_type: str, *, limit: int = 100, after: str | None = None
    ) -> list[dict[str, Any]]:
        """As `RelayStore.list_accounts`."""
        return await self._thread(self._store.list_accounts, account_type, limit=limit, after=after)

    async def delete_account(
        self, account_type: str, id: str, *, actor: str = "", strict: bool | None = None
    ) -> bool:
        """As `RelayStore.delete_account`."""
        place, key = records.account_place(account_type, id)
        return await self._run(self._store.logic.delete(place, key, actor, strict))

    async def record_usage(self, record: UsageRecord, *, wait: bool = False) -> None:
        """As `RelayStore.record_usage`."""
        await self.record_usages((record,), wait=wait)

    async def record_usages(self, records: Sequence[UsageRecord], *, wait: bool = False) -> None:
        """As `RelayStore.record_usages`."""
        await self.open()
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
        self, prefer: str = "sqlite", *, dry_run: bool = False, progress: Progress | None = None
    ) -> list[Difference]:
        """As `RelayStore.reconcile`."""
        return await self._thread(self._store.reconcile, prefer, dry_run=dry_run, progress=progress)

    async def trash(self, *, limit: int = 100) -> list[TrashEntry]:
        """As `RelayStore.trash`."""
        return await self._thread(self._store.trash, limit=limit)

    async def undelete(self, id: str, *, actor: str = "") -> int:
        """As `RelayStore.undelete`."""
        return await self._thread(self._store.undelete, id, actor=actor)

    async def stats(self) -> dict[str, Any]:
        """As `RelayStore.stats`."""
        return await self._thread(self._store.stats)

    async def optimize(self, *, vacuum: Any = None) -> None:
        """As `RelayStore.optimize`."""
        await self._thread(self._store.optimize, vacuum=vacuum)

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
