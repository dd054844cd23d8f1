"""`RelayStore`: API keys, accounts and usage of a Claude relay service, in SQLite beside Redis."""

from __future__ import annotations

import atexit
import logging
import os
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from redis import Redis
from typing_extensions import Self

from ..database import (
    Database,
    InvalidInputError,
    PragmaValue,
    StorageError,
    upkeep,
)
from . import (
    audit,
    backups,
    figures,
    history,
    keys,
    outbox,
    records,
    redis_only,
    saving,
    server,
    settings,
    times,
    trash,
    usage,
)
from .audit import AuditEntry
from .batching import UsageQueue
from .comparing import Comparison, Difference
from .errors import (
    RedisLostKeysError,
    RedisUnavailableError,
    SqliteDisabledError,
    UsageNotStoredError,
    where,
)
from .healing import Healer, closed
from .health import Health
from .logic import Logic
from .losses import Restored
from .mirror import Taken
from .redis_only import RedisOnly
from .schema import SCHEMA
from .server import Clients, Target
from .times import Buckets, cutoff, utc_text
from .trash import TrashEntry
from .usage import Period, UsageRecord, UsageTotals

Progress = Callable[[int, int], None]

# How long an API key stays in Redis after it was saved, as in the relay.
API_KEY_TTL = timedelta(days=365)
# How often the store looks whether Redis is still the one it was, in seconds.
_WATCH = 1.0
_PURGED_AT_ONCE = 5000

_log = logging.getLogger(__name__)

_stores: weakref.WeakSet[RelayStore] = weakref.WeakSet()


def _after_fork() -> None:
    for store in list(_stores):
        store._after_fork()


@atexit.register
def _at_exit() -> None:
    for store in list(_stores):
        try:
            store._queue.close()
        except StorageError as error:
            _log.error("%s", error)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


class RelayStore:
    """Keeps a relay's data in SQLite and in Redis, so that losing Redis loses nothing.

    A change is committed in SQLite and then told to Redis; where Redis is down or refuses, the
    call succeeds all the same and Redis is told as soon as it answers. Reads are answered by
    Redis, and by SQLite what Redis has lost, which is then put back. A Redis that comes back empty
    is filled again. It may be used from any thread and from many processes on one file.

    Text is stored as given; nothing is coerced. Credentials stay as they were encrypted, and
    appear in no log, error or audit entry.

    Args:
        path: The SQLite file, created with mode 0600 (and its directory) where it is missing; None
            keeps everything in Redis alone (ENABLE_SQLITE=false), where only saving, reading,
            listing and deleting work.
        redis_url: As redis://:password@host:6379/0, rediss:// or unix://; None: no Redis.
        cluster: The URL is that of a node of a Redis Cluster.
        strict: Raise RedisUnavailableError where Redis does not take a change. The change is
            committed all the same.
        heal: Bring to Redis what waits and what it has lost: at the start, and in the background.
            False for a store that only looks.
        timezone_offset: Hours by which the relay's days and hours are ahead of UTC.
        pragmas, lock_timeout: As for `Database`.
        flush_interval: Seconds that usage records may wait for the disk: what a crash can lose.
        queue_size: How many usage records may wait; callers wait when there are more.
        socket_timeout: Seconds to wait for Redis.

    Raises:
        StorageError: A subclass that says what to do, from here and from every method.
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | None = settings.DEFAULT_PATH,
        redis_url: str | None = "redis://localhost:6379/0",
        *,
        cluster: bool = False,
        strict: bool = False,
        heal: bool = True,
        timezone_offset: float = 8.0,
        pragmas: Mapping[str, PragmaValue] | None = None,
        lock_timeout: float = 30.0,
        flush_interval: float = 0.2,
        queue_size: int = 20_000,
        socket_timeout: float = 5.0,
    ) -> None:
        if path is None and redis_url is None:
            raise InvalidInputError("a store needs a path, or a Redis, or both")
        self._heals = heal
        self._health = Health(logs=redis_url is not None)
        self._closed = threading.Event()
        self.path = path
        self.target: Target | None = None
        if redis_url is not None:
            watched = self._health.connected if heal and path is not None else None
            self.target = Target(redis_url, cluster, socket_timeout, watched)
        self._clients = Clients(self.target)
        if self.target is not None and not cluster:
            _ = self._clients.raw  # a URL that cannot be read is told of at once
        self._buckets = Buckets(timezone_offset)
        self._database: Database | None = None
        self._healer: Healer | None = None
        self._records: Logic | RedisOnly = RedisOnly(self._clients)
        if path is not None:
            self._database = Database(
                path, schemas=[SCHEMA], pragmas=pragmas, lock_timeout=lock_timeout
            )
            self._records = logic = Logic(
                self._database,
                self._clients,
                self._health,
                self._buckets,
                strict=strict,
                watched=heal,
                is_known=lambda: self.healer.is_known(),
            )
            self._healer = Healer(
                self._database, self._clients, logic, self._buckets, self._closed.is_set
            )
            if self._database.path is not None:
                self._database.path.parent.mkdir(parents=True, exist_ok=True)
        self._queue = UsageQueue(self._store_usage, flush_interval, queue_size)
        # A signal's handler may close the store while its thread opens it.
        self._opening = threading.RLock()
        self._opener: int | None = None
        self._ends_after_opening = False
        # The process that did: a child of it has no threads.
        self._opened_by: int | None = None
        self._watcher: threading.Thread | None = None
        _stores.add(self)

    def _after_fork(self) -> None:
        """In a child process: threads that held these are not here."""
        self._opening = threading.RLock()
        self._opener = None
        self._health.renew()
        self._clients.renew_lock()

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None, **overrides: Any) -> Self:
        """A store with the settings of the relay's `.env`.

        ENABLE_SQLITE (default true), SQLITE_DB_PATH (./data/relay-service.db), REDIS_URL or
        REDIS_HOST, REDIS_PORT, REDIS_PASSWORD, REDIS_DB, REDIS_ENABLE_TLS; TIMEZONE_OFFSET (8).

        Args:
            environ: The variables; those of the process if it is None.
            overrides: Arguments of the class, which count more.
        """
        return cls(**cls.arguments_of(environ, overrides))

    @staticmethod
    def arguments_of(
        environ: Mapping[str, str] | None, overrides: Mapping[str, Any]
    ) -> dict[str, Any]:
        """The arguments that `from_env` makes a store with."""
        found = settings.from_environment(os.environ if environ is None else environ)
        return {**found, **overrides}

    def __repr__(self) -> str:
        place = "Redis alone" if self._database is None else self._database.name
        return f"<{type(self).__name__} {place}>"

    @property
    def database(self) -> Database:
        """The SQLite file, for queries of one's own; raises SqliteDisabledError without one."""
        if self._database is None:
            raise self.without_sqlite()
        return self._database

    @staticmethod
    def without_sqlite() -> SqliteDisabledError:
        """The error for what only SQLite can do."""
        return SqliteDisabledError(
            "ENABLE_SQLITE is false: this needs the SQLite file. Set it to true, or give a path"
        )

    @property
    def redis(self) -> Redis:
        """The Redis client; raises RedisUnavailableError without one."""
        return self._clients.raw

    # Opening and closing.

    def open(self) -> None:
        """Open the file, bring to Redis what waits, and restore a Redis that has lost its keys.

        The first call of any method does it else. A Redis that is down is waited for in the
        background. Raises DatabaseClosedError after `close`.
        """
        if self._closed.is_set():
            raise closed()
        with self._opening:
            if self._opened_by == os.getpid() or self._opener == threading.get_ident():
                return
            self._opener = threading.get_ident()
            try:
                self._open()
            finally:
                self._opener = None
                if self._ends_after_opening:
                    self._end()
        if self._closed.is_set():
            raise closed()

    def _open(self) -> None:
        if self._database is not None:
            self._database.open()
        if self._database is not None and self._heals and self.target is not None:
            self._health.is_unmet = self._database.read(saving.is_first_meeting)
            self._health.connected()
            self.healer.heal()
            if not self._closed.is_set():
                self._watch()
        self._opened_by = os.getpid()

    def _watch(self) -> None:
        self._watcher = threading.Thread(
            target=_watch,
            args=(weakref.ref(self), self._closed, self._health.wake),
            name="langgraph-sqlite-relay",
            daemon=True,
        )
        self._watcher.start()

    @property
    def is_closed(self) -> bool:
        """Whether calls are refused."""
        return self._closed.is_set()

    def begin_to_close(self) -> None:
        """Refuse calls that have not begun, and have a restore give up."""
        self._closed.set()
        self._health.look()

    def close(self) -> None:
        """Store what usage waits, and close the file and the connections.

        From a signal's handler that interrupts `open`, that gives up and does it at its end.
        Raises UsageNotStoredError for usage that SQLite refused.
        """
        self.begin_to_close()
        if self._opener == threading.get_ident():
            self._ends_after_opening = True
            return
        with self._opening:  # whoever opens it gives up, and lets others restore
            pass
        self._end()

    def _end(self) -> None:
        try:
            self._queue.close()
        finally:
            watcher = self._watcher
            if watcher is not None and watcher is not threading.current_thread():
                watcher.join()
            if self._database is not None:
                with suppress(StorageError):  # what stays in the outbox is told again
                    self._logic.sweep()
                self._database.close()
            self._clients.close()

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    @property
    def _logic(self) -> Logic:
        if not isinstance(self._records, Logic):
            raise self.without_sqlite()
        return self._records

    def _ready(self) -> Logic | RedisOnly:
        """What works on records, once the store is open."""
        if self._opened_by != os.getpid() or self._closed.is_set():
            self.open()
        return self._records

    @property
    def healer(self) -> Healer:
        """What brings SQLite and Redis together."""
        if self._healer is None:
            raise self.without_sqlite()
        return self._healer

    def connect(self, *, retries: int) -> Redis:
        """One more client, for its caller to close."""
        if self.target is None:
            raise RedisUnavailableError("the store was opened without a Redis")
        return self.target.connect(retries=retries)

    def drain(self) -> int:
        """Bring to Redis what waits in the outbox and is due; how many changes that were."""
        return self._logic.drain()

    # API keys.

    def save_api_key(
        self,
        fields: Mapping[str, str],
        *,
        ttl: timedelta | None = API_KEY_TTL,
        actor: str = "",
        strict: bool | None = None,
    ) -> None:
        """Store an API key whole, as `fields` have it, with its place in the relay's indexes.

        Args:
            fields: Its fields, `id` among them, as the relay names and writes them; `apiKey` is
                the hash by which requests find it.
            ttl: How long it stays in Redis; None for ever.
            actor: Who changes it, for the audit log.
            strict: Overrides the store's.
        """
        record = records.api_key(fields)
        self._ready().save(record, keys.expiry(ttl), _checked(actor), strict)

    def get_api_key(self, id: str) -> dict[str, str] | None:
        """An API key's fields; None if there is none."""
        return self._ready().get(*records.api_key_place(id))

    def find_api_key(self, hashed: str) -> dict[str, str] | None:
        """The API key that has this hash, which the relay looks up at every request."""
        return self._ready().find(hashed)

    def list_api_keys(self, *, limit: int = 100, after: str | None = None) -> list[dict[str, str]]:
        """A page of API keys in the order of their ids; `after`: the last id of the one before."""
        return self._page(b"apikey:", after, limit)

    def _page(self, prefix: bytes, after: str | None, limit: int) -> list[dict[str, Any]]:
        _check(limit)
        self.open()
        if self._database is None:
            return redis_only.page(self.redis, prefix, after, limit)
        return self._database.read(saving.page, prefix, after, limit)

    def delete_api_key(self, id: str, *, actor: str = "", strict: bool | None = None) -> bool:
        """Delete an API key for good, with its usage records and counters; False if unknown."""
        place, key = records.api_key_place(id)
        ready = self._ready()
        with suppress(UsageNotStoredError):  # what waits is its own: another of its id starts anew
            self._queue.settle()
        return ready.delete(place, key, _checked(actor), strict)

    # Accounts.

    def save_account(
        self,
        account_type: str,
        fields: Mapping[str, Any] | str,
        *,
        actor: str = "",
        strict: bool | None = None,
    ) -> None:
        """Store an account whole, as `fields` have it, with its place in the relay's indexes.

        Args:
            account_type: One of ACCOUNT_TYPES.
            fields: Text by name, `id` among them, credentials encrypted; for "bedrock", which the
                relay keeps as JSON, what JSON can hold, or the JSON itself.
            actor, strict: As for `save_api_key`.
        """
        record = records.account(account_type, fields)
        self._ready().save(record, None, _checked(actor), strict)

    def get_account(self, account_type: str, id: str) -> dict[str, Any] | None:
        """An account's fields; None if there is none."""
        return self._ready().get(*records.account_place(account_type, id))

    def list_accounts(
        self, account_type: str, *, limit: int = 100, after: str | None = None
    ) -> list[dict[str, Any]]:
        """A page of accounts of a type, as `list_api_keys`."""
        prefix = records.account_type(account_type).prefix
        return self._page(prefix, after, limit)

    def delete_account(
        self, account_type: str, id: str, *, actor: str = "", strict: bool | None = None
    ) -> bool:
        """Delete an account for good; False if unknown."""
        place, key = records.account_place(account_type, id)
        return self._ready().delete(place, key, _checked(actor), strict)

    # Usage.

    def record_usage(self, record: UsageRecord, *, wait: bool = False) -> None:
        """Record what a request used, and raise the totals of its key, its account and its time.

        Returns at once: the record is on disk `flush_interval` seconds later, or after `flush()`.

        Args:
            record: Of a key that is unknown it is kept until the key is saved.
            wait: Return when it is on disk.

        Raises:
            UsageNotStoredError: SQLite or Redis refuses what waits; nothing of it is lost until
                the process ends. Or, without SQLite, records were given up.
        """
        self.record_usages((record,), wait=wait)

    def record_usages(self, records: Sequence[UsageRecord], *, wait: bool = False) -> None:
        """As `record_usage`, for many."""
        self.open()
        ticket = self._queue.put([usage.checked(record, self._buckets) for record in records])
        if wait:
            self._queue.wait(ticket)

    def flush(self) -> None:
        """Wait until all usage that was recorded is on disk."""
        self._queue.wait()

    def must_wait(self, count: int) -> bool:
        """Whether recording so many usage records would wait: to open, or for the queue."""
        return self._opened_by != os.getpid() or self._queue.is_full_for(count)

    def _store_usage(self, batch: Sequence[UsageRecord]) -> None:
        if self._database is None:
            redis_only.store_usage(self._clients.once, batch)
        else:
            self._database.write(usage.store, batch, self._buckets)

    def usage(
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
        """The newest usage records that match, newest first, those that wait not among them.

        Args:
            since, until: From this time on, and before that; without a zone local time.
            after: `record_id` of the last record of the page before; if that was deleted meanwhile,
                the page goes on with smaller ids. Without SQLite it is refused.
        """
        wanted = {"api_key_id": api_key_id, "account_id": account_id, "model": model}
        _check(limit)
        self.open()
        if self._database is None and api_key_id is not None:
            return redis_only.usage_of(
                self.redis,
                api_key_id,
                limit,
                self._buckets,
                account_id=account_id,
                model=model,
                since=since,
                until=until,
                after=after,
            )
        return self.database.read(history.records, wanted, since, until, limit, after)

    def usage_totals(
        self,
        *,
        by: Period = "day",
        api_key_id: str | None = None,
        account_id: str | None = None,
        model: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
    ) -> list[UsageTotals]:
        """Requests, tokens and cost by hour, day or month, of all periods that the range touches.

        Periods are whole: those that began before `until` and end after `since`.
        They are kept apart from the records, and stay when those are purged; imported statistics
        of the relay are among them. An API key and an account together are summed from records.
        """
        if by not in usage.PERIODS:
            raise InvalidInputError(f"by is 'hour', 'day' or 'month', not {by!r}")
        wanted = {"api_key_id": api_key_id, "account_id": account_id, "model": model}
        self.open()
        return self.database.read(history.totals, by, wanted, since, until, self._buckets)

    def purge_usage(self, older_than: timedelta | datetime, *, dry_run: bool = False) -> int:
        """Delete usage records older than that, those that wait for their key too; how many.

        Totals stay.
        """
        before = utc_text(cutoff(older_than))
        self.open()
        if dry_run:
            return self.database.read(history.count_older, before)
        purged = 0
        while count := self.database.write(history.purge, before, _PURGED_AT_ONCE):
            purged += count
        return purged

    def audit(
        self,
        *,
        kind: str | None = None,
        record_id: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        limit: int = 100,
    ) -> list[AuditEntry]:
        """The newest entries of the audit log that match, newest first; never a credential.

        Args:
            kind: "api_key", or a type of account.
        """
        _check(limit)
        self.open()
        return self.database.read(audit.entries, kind, record_id, since, until, limit)

    # Redis and SQLite as a whole.

    def import_from_redis(
        self, *, progress: Progress | None = None, dry_run: bool = False
    ) -> Taken:
        """Take over every lasting key of Redis, with the tables that are filled from them.

        Nothing in Redis is changed, and nothing that only SQLite has. Doing it again takes over
        what changed since. From a Redis that has lost keys only what SQLite lacks is taken:
        `restore()` brings the rest together.
        """
        self.open()
        return self.healer.take_over(server.info(self.redis), progress, dry_run=dry_run)

    def restore(self, *, progress: Progress | None = None, dry_run: bool = False) -> Restored:
        """Write to Redis what it has lost; keys that it has stay as they are.

        Where a relay went on with an empty Redis, its new counts are added to the old ones. With
        an older copy of Redis, what SQLite holds counts. Deleted records are removed.
        """
        self.open()
        about = server.info(self.redis)
        if not dry_run and self.healer.meet(about):
            self.drain()
        restored = self.healer.restorer.restore(progress=progress, dry_run=dry_run)
        if not dry_run:
            self.healer.note_source(about)
        return restored

    def diff(
        self, *, limit: int | None = None, progress: Progress | None = None
    ) -> list[Difference]:
        """Where SQLite and Redis differ, at most `limit` keys; nothing is changed."""
        if limit is not None:
            _check(limit)
        self.open()
        found = []
        for difference in self._comparison().differences(progress):
            found.append(difference)
            if limit is not None and len(found) >= limit:
                break
        return found

    def reconcile(
        self,
        prefer: str = "sqlite",
        *,
        dry_run: bool = False,
        even_if_lost: bool = False,
        progress: Progress | None = None,
    ) -> list[Difference]:
        """Put SQLite and Redis in step; what differed.

        Args:
            prefer: Whose state counts where they differ, "sqlite" or "redis". What only Redis has
                is taken over, unless it was deleted here; what only SQLite has is restored, or
                with "redis" moved to the trash.
            even_if_lost: With "redis", also where that Redis has lost keys.

        Raises:
            RedisLostKeysError: Redis is preferred, but has no record any more, or was restarted or
                flushed and lacks keys: they were not deleted.
        """
        if prefer not in ("sqlite", "redis"):
            raise InvalidInputError(f"prefer is 'sqlite' or 'redis', not {prefer!r}")
        self.open()
        if prefer == "redis" and not even_if_lost:
            self._refuse_what_has_lost_keys()
        if not dry_run and self.healer.meet(server.info(self.redis)) and prefer == "sqlite":
            self.drain()
        found = self.diff(progress=progress)
        if not dry_run:
            about = server.info(self.redis)
            self._comparison().reconcile(prefer, found)
            self.healer.note_source(about)
        return found

    def _refuse_what_has_lost_keys(self) -> None:
        found = self.healer.restorer.assess()
        known = self.healer.knows(server.info(self.redis))
        if found.loss == "total" or (found.loss != "none" and not known):
            raise RedisLostKeysError(
                f"Redis lacks {found.keys:,} keys, and was emptied or restarted: they are lost, "
                "not deleted. Restore them first (relay restore-redis), or say that SQLite is to "
                "lose them too (even_if_lost)"
            )

    def _comparison(self) -> Comparison:
        self._logic.sweep()
        return Comparison(self.database, self.redis, self._logic, self.healer.mirror)

    def trash(self, *, limit: int = 100, everything: bool = False) -> list[TrashEntry]:
        """Records whose deletion in Redis was mirrored, the last one first; kept for 30 days.

        Args:
            everything: Also keys that are no API key and no account.
        """
        _check(limit)
        self.open()
        return self.database.read(trash.entries, limit, everything)

    def undelete_all(self, *, since: datetime | None = None, actor: str = "") -> int:
        """Bring back all that was deleted since then, as `undelete`; how many keys."""
        start = 0 if since is None else times.epoch_ms(utc_text(since))
        _checked(actor)
        self.open()
        count = 0
        for name in self.database.read(trash.names, start):
            with suppress(InvalidInputError):  # it is there by now
                count += self.undelete(name, actor=actor)
        return count

    def undelete(self, id: str, *, actor: str = "") -> int:
        """Bring a record back from the trash, with its usage, here and in Redis; how many keys.

        Args:
            id: Of an API key or an account; or the name of a key.

        Raises:
            InvalidInputError: The trash does not have it, or it is there again.
        """
        _checked(actor)
        self.open()
        count, saved = self.database.write(trash.undelete, id, actor, self._buckets)
        self._logic.tell(saved)
        return count

    def stats(self) -> dict[str, Any]:
        """The store in figures: apiKeysCount, accountsCount, usageRecordsCount, dbSize, dbPath …"""
        self.open()
        if self._database is not None:
            self._logic.sweep()
        try:
            about = server.info(self.redis)
            there = {"redisUp": True, "redisVersion": about.version, "redisKeys": about.keys}
        except RedisUnavailableError:
            there = {"redisUp": False}
        if self._database is None:
            return {**redis_only.count(self.redis), **there}
        return {**self._database.read(figures.figures, self._database.path), **there}

    def optimize(self, *, vacuum: upkeep.Vacuum | None = None) -> upkeep.Left:
        """Keep the file in shape; worth doing weekly.

        Drops what expired and what was deleted more than 30 days ago, refreshes the planner's
        statistics and empties the -wal.

        Args:
            vacuum: "incremental" gives free pages back, "full" rewrites the file, while writers
                wait.
        """
        self.open()
        while self.database.write(keys.drop_expired, keys.now_ms()):
            pass
        self.database.write(trash.empty)
        self.database.write(outbox.forget_old)
        self.database.maintain(upkeep.optimize, vacuum)
        return self.database.maintain(self.database.shorten_wal)

    def backup(
        self,
        directory: str | os.PathLike[str] = "backups/sqlite",
        *,
        keep_days: int = 7,
        progress: Progress | None = None,
    ) -> Path:
        """Write a compressed copy of the file while it is in use; where it is.

        Args:
            directory: Made where it is missing; the file is sqlite_backup_YYYYMMDD_HHMMSS.db.gz.
            keep_days: Backups older than this are removed; never the newest.
            progress: Called with how much is done, and of how much.
        """
        self.open()
        self.flush()
        return backups.write_backup(
            self.database, directory, keep_days=keep_days, progress=progress
        )


def _checked(actor: str) -> str:
    records.checked_bytes(actor, "the actor")
    return actor


def _check(limit: int) -> None:
    if limit < 1:
        raise InvalidInputError(f"limit is a number from 1 on, not {limit!r}")


def _watch(
    store: weakref.ref[RelayStore], closed: threading.Event, wake: SimpleQueue[None]
) -> None:
    while not closed.is_set():
        with suppress(Empty):
            wake.get(timeout=_WATCH)
        alive = store()
        if alive is None or closed.is_set():
            return
        try:
            alive.healer.tick()
        except StorageError:
            pass  # the next call meets it too, and has a caller to tell
        except Exception as error:  # the others go on
            _log.error("looking after Redis failed: %s in %s", type(error).__name__, where(error))
        if not alive._health.may_answer:  # it fails: not at once again
            closed.wait(_WATCH)
        del alive
