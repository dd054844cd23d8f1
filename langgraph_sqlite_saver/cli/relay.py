"""`langgraph-sqlite relay`: a relay's SQLite file and its Redis, from a terminal or from cron."""

from __future__ import annotations

import re
import signal
import threading
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from datetime import datetime, timedelta, timezone
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

from ..database import NotADatabaseError
from ..relay import (
    Difference,
    Follower,
    RedisUnavailableError,
    RelayStore,
    TrashEntry,
    backups,
    layout,
    server,
)
from . import NAME, output
from .doctor import Diagnosis, examine, privacy
from .options import PROBLEM, USAGE, DryRun, Vacuum, Yes, fail, size_on_disk
from .place import Place, command

group = typer.Typer(
    help="A Claude relay's data: SQLite beside Redis.",
    epilog="\b\nExample:\n  langgraph-sqlite relay import-redis --redis-url redis://localhost:6379/0",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Limit = Annotated[
    int, typer.Option("--limit", metavar="N", min=1, help="How many, the newest first.")
]
Since = Annotated[
    str | None,
    typer.Option("--since", metavar="TIME", help="From this time on, as 2026-11-21 or ISO 8601."),
]
Until = Annotated[str | None, typer.Option("--until", metavar="TIME", help="Before this time.")]

# Where backups are, from where the settings are.
_BACKUPS = "backups/sqlite"


class Side(str, Enum):
    """Whose state counts."""

    sqlite = "sqlite"
    redis = "redis"


class Period(str, Enum):
    """What usage is summed by."""

    hour = "hour"
    day = "day"
    month = "month"


# From Redis to SQLite.


@command(group, "import-redis", "langgraph-sqlite relay import-redis --db data/relay-service.db")
def import_redis(place: Place, dry_run: DryRun = False) -> None:
    """Take over every lasting key of Redis into SQLite.

    Redis is not changed. Doing it again takes over what changed since.
    """
    is_new = not place.path.exists()
    _warn_if_exposed(place)
    # Into memory, what a file that is missing would be given can be counted and none is made.
    store = place.store(path=":memory:") if dry_run and is_new else place.store()
    with store, output.progress("importing", quiet=place.json) as report:
        taken = store.import_from_redis(progress=report, dry_run=dry_run)
    figures = {
        "apiKeysCount": taken.api_keys,
        "accountsCount": taken.accounts,
        "keys": taken.keys,
        "changed": taken.changed,
        "skipped": taken.skipped,
        "dbSize": size_on_disk(place.path),
        "dbPath": str(place.path.absolute()),
        "dryRun": dry_run,
    }
    if place.json:
        output.document(figures)
    else:
        _show_import(figures, is_new)


def _warn_if_exposed(place: Place) -> None:
    """Say so where others may read a file that was there before."""
    if place.path.is_file() and (found := privacy(place.path)).state != "ok":
        output.remark(f"{place.path}: {found.text}. To change that: {found.remedy}")


def _show_import(figures: dict[str, Any], is_new: bool) -> None:
    would = "would be taken over" if figures["dryRun"] else "taken over"
    rows: list[tuple[str, object]] = [
        ("API keys", figures["apiKeysCount"]),
        ("accounts", figures["accountsCount"]),
        ("keys in all", figures["keys"]),
        (f"changed, {would}", figures["changed"]),
        ("database", output.size(figures["dbSize"])),
    ]
    if figures["skipped"]:
        rows.append(("left alone: deleted here, or newer here", figures["skipped"]))
    output.table(("in Redis", "count"), rows, " r")
    if figures["dryRun"] and is_new:
        output.remark(f"{figures['dbPath']} does not exist yet.")


@command(
    group, "follow", "langgraph-sqlite relay follow --env-file /srv/relay/.env", json=False
)  # fmt: skip
def follow(
    place: Place,
    no_restore: Annotated[
        bool, typer.Option("--no-restore", help="Report keys that Redis has lost, and wait.")
    ] = False,
    enable_notifications: Annotated[
        bool, typer.Option("--enable-notifications", help="Let Redis tell of changes.")
    ] = False,
    scan_interval: Annotated[
        float,
        typer.Option(
            metavar="SECONDS",
            min=0.1,
            help="Seconds between looks through all keys, if it does not.",
        ),
    ] = 30.0,
) -> None:
    """Keep SQLite up to date with a Redis that a relay writes.

    A Redis that has lost keys gets them back. It runs until Ctrl-C or SIGTERM.
    """
    stop = threading.Event()
    _warn_if_exposed(place)
    _stop_on_signals(stop)
    # SIGTERM waits for either once.
    with place.store(socket_timeout=4.0, lock_timeout=4.0) as store, ThreadPoolExecutor(1) as pool:
        follower = Follower(
            store,
            restore=not no_restore,
            enable_notifications=enable_notifications,
            scan_interval=scan_interval,
            report=output.say,
        )
        # In a thread: a handler must not set an event that its own thread is waiting for.
        status = pool.submit(follower.run, stop).result()
    raise typer.Exit(status)


def _stop_on_signals(stop: threading.Event) -> None:
    """SIGTERM and SIGINT ask for an orderly end; another SIGINT ends the process at once."""

    def end(number: int, frame: object) -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)


# From SQLite to Redis.


@command(group, "restore-redis", "langgraph-sqlite relay restore-redis --dry-run")
def restore_redis(place: Place, dry_run: DryRun = False) -> None:
    """Write to Redis what it has lost; keys that it has stay."""
    with place.existing() as store, output.progress("restoring", quiet=place.json) as report:
        about = server.info(store.redis)
        if not dry_run:
            store.drain()
        found = store.restore(progress=report, dry_run=dry_run)
        if not dry_run:
            store.healer.note_source(about)
    if place.json:
        figures = {"apiKeysCount": found.api_keys, "accountsCount": found.accounts}
        counts = {"keys": found.keys, "present": found.present, "loss": found.loss}
        output.document({**figures, **counts, "dryRun": dry_run})
        return
    rows = [
        ("keys", found.keys),
        ("of them API keys", found.api_keys),
        ("of them accounts", found.accounts),
        ("keys that were there", found.present),
    ]
    output.table(("would be restored" if dry_run else "restored", "count"), rows, " r")


@command(group, "diff", "langgraph-sqlite relay diff --json > differences.json")
def diff(
    place: Place,
    limit: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Stop after so many keys.")
    ] = None,
) -> None:
    """Show the keys on which SQLite and Redis differ.

    The exit status is 1 if there are any.
    """
    with place.existing() as store, output.progress("comparing", quiet=place.json) as report:
        found = store.diff(limit=limit and limit + 1, progress=report)
    more = limit is not None and len(found) > limit
    found = found[:limit]
    _show_differences(place, found, more)
    if not place.json:
        differ = f"SQLite and Redis differ in {'at least ' if more else ''}{_keys(found)}."
        output.say(differ if found else "SQLite and Redis agree.")
    if found:
        raise typer.Exit(PROBLEM)


@command(group, "reconcile", "langgraph-sqlite relay reconcile --prefer sqlite --dry-run")
def reconcile(
    place: Place,
    prefer: Annotated[Side, typer.Option(help="Whose state counts.")] = Side.sqlite,
    even_if_lost: Annotated[
        bool,
        typer.Option("--even-if-lost", help="Prefer a Redis that was emptied or restarted, too."),
    ] = False,
    dry_run: DryRun = False,
    yes: Yes = False,
) -> None:
    """Put SQLite and Redis in step.

    What only Redis has is taken over; what only SQLite has is restored, or with --prefer redis
    moved to the trash. A Redis that has lost keys is not preferred: restore-redis restores it.
    """
    if even_if_lost and prefer is not Side.redis:
        fail("--even-if-lost is for --prefer redis", USAGE)
    if not dry_run:
        place.need_yes(yes)
    with place.existing() as store:
        found = _compared(place, store, prefer, even_if_lost)
        if not place.json:
            _show_differences(place, found)
        if found and not dry_run:
            place.ask(f"Put {_keys(found)} in step, as {prefer.value} has them?", yes)
            found = _reconciled(place, store, prefer, even_if_lost)
    if place.json:
        _show_differences(place, found)
    else:
        output.say(f"{_keys(found)} {'to be put' if dry_run else 'put'} in step.")


def _compared(
    place: Place, store: RelayStore, prefer: Side, even_if_lost: bool
) -> list[Difference]:
    with output.progress("comparing", quiet=place.json) as report:
        return store.reconcile(
            prefer.value, dry_run=True, even_if_lost=even_if_lost, progress=report
        )


def _reconciled(
    place: Place, store: RelayStore, prefer: Side, even_if_lost: bool
) -> list[Difference]:
    about = server.info(store.redis)
    if prefer is Side.sqlite:
        store.drain()
    with output.progress("putting in step", quiet=place.json) as report:
        found = store.reconcile(prefer.value, even_if_lost=even_if_lost, progress=report)
    store.healer.note_source(about)
    return found


# As an API key's hash, by which requests find it.
_HASH = re.compile(r"[0-9a-fA-F]{64,}")


def _difference(found: Difference) -> dict[str, str]:
    """A difference as it may be shown: without hashes."""
    detail = found.detail
    if found.key == layout.HASH_MAP:  # its fields' names are hashes
        detail = re.sub("fields .*?(?=;|$)", "its fields", detail)
    return {
        "key": _without_hash(layout.column(found.key)),
        "kind": found.kind,
        "detail": _HASH.sub("(hidden)", detail),
    }


def _without_hash(key: str) -> str:
    """A key's name as it may be shown."""
    start = layout.column(layout.OLD_HASH)
    return f"{start}(hidden)" if key.startswith(start) else _HASH.sub("(hidden)", key)


def _show_differences(place: Place, found: Sequence[Difference], more: bool = False) -> None:
    """Differences; `more`: there are others."""
    shown = [_difference(each) for each in found]
    if place.json:
        output.document({"count": len(shown), "atLeast": more, "differences": shown})
    elif shown:
        rows = [(each["kind"], each["detail"], each["key"]) for each in shown]
        output.table(("difference", "in", "key"), rows, whole=True)


def _keys(found: Sequence[Difference]) -> str:
    return output.counted(len(found), "key")


# Looking.


@command(group, "stats", "langgraph-sqlite relay stats --json")
def stats(place: Place) -> None:
    """Show how many records there are, and the file's size."""
    with place.existing() as store:
        figures = store.stats()
        if not figures["redisUp"]:
            _say_why(place, store)
    if place.json:
        output.document(figures)
        return
    rows = [(name, _figure(name, value)) for name, value in figures.items()]
    output.table(("figure", "value"), rows)


def _say_why(place: Place, store: RelayStore) -> None:
    """Why Redis cannot be had."""
    try:
        server.info(store.redis)
    except RedisUnavailableError as error:
        output.remark(f"{error} ({place.redis_name})")


def _figure(name: str, value: object) -> str:
    if name.endswith("Size") and isinstance(value, int):
        return f"{value:,} ({output.size(value)})"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return output.number(value)


@command(
    group, "usage", "langgraph-sqlite relay usage --by month --since 2026-01-01", redis=False
)  # fmt: skip
def usage(
    place: Place,
    api_key: Annotated[str | None, typer.Option(metavar="ID", help="Of this API key.")] = None,
    account: Annotated[str | None, typer.Option(metavar="ID", help="Of this account.")] = None,
    model: Annotated[str | None, typer.Option(metavar="NAME", help="Of this model.")] = None,
    since: Since = None,
    until: Until = None,
    by: Annotated[Period | None, typer.Option(help="Sum by this.  [default: day]")] = None,
    records: Annotated[bool, typer.Option("--records", help="Show single records.")] = False,
    limit: Annotated[
        int | None,
        typer.Option(
            metavar="N", min=1, help="How many, the newest ones.  [default: all sums, 100 records]"
        ),
    ] = None,
    purge_older_than: Annotated[
        float | None,
        typer.Option(metavar="DAYS", min=0, help="Delete records older than this; sums stay."),
    ] = None,
    dry_run: DryRun = False,
    yes: Yes = False,
) -> None:
    """Show what was used, in sums or record by record.

    Days and hours are those of the relay's time zone. With --purge-older-than, delete old records.

    Sums are those that the relay keeps and that rise with every request. Of an API key and an
    account together there are none: they are summed from the single records that there are.
    """
    wanted: dict[str, Any] = {
        "api_key_id": api_key,
        "account_id": account,
        "model": model,
        "since": place.time(since),
        "until": place.time(until),
    }
    if purge_older_than is not None:
        others = (by, limit, records or None, *wanted.values())
        if any(value is not None for value in others):
            fail("--purge-older-than deletes records of every kind: leave the filters out", USAGE)
        _purge(place, purge_older_than, dry_run, yes)
    elif dry_run or yes:
        fail("--dry-run and --yes are for --purge-older-than", USAGE)
    elif records and by is not None:
        fail("--by is for sums: leave it out, or --records", USAGE)
    elif records:
        _show_records(place, wanted, limit or 100)
    else:
        _show_totals(place, wanted, by or Period.day, limit)


def _show_totals(place: Place, wanted: dict[str, Any], by: Period, limit: int | None) -> None:
    with place.existing(redis_url=None) as store:
        found = store.usage_totals(by=by.value, **wanted)
    totals = [_named(each) for each in (found if limit is None else found[-limit:])]
    of_records = wanted["api_key_id"] is not None and wanted["account_id"] is not None
    if of_records:
        output.remark(_OF_RECORDS)
    if place.json:
        output.document({"totals": totals, "from": "records" if of_records else "totals"})
        return
    headings = (by.value, "requests", "input", "output", "cache made", "cache read", "all", "cost")
    output.table(headings, [tuple(each.values()) for each in totals], " rrrrrrr")


_OF_RECORDS = "Summed from single records: totals are kept for --api-key and --account each alone."


def _named(found: Any) -> dict[str, Any]:
    """A record's fields with the names that JSON has here, as the relay's own: apiKeyId."""
    return {
        re.sub("_(.)", lambda match: match[1].upper(), name): value
        for name, value in asdict(found).items()
    }


def _show_records(place: Place, wanted: dict[str, Any], limit: int) -> None:
    with place.existing(redis_url=None) as store:
        found = [_named(each) for each in store.usage(**wanted, limit=limit)]
    names = {
        "timestamp": "time", "apiKeyId": "API key", "accountId": "account", "model": "model",
        "inputTokens": "input", "outputTokens": "output", "cacheCreateTokens": "cache made",
        "cacheReadTokens": "cache read", "cost": "cost", "status": "status",
    }  # fmt: skip
    if place.json:
        output.document({"records": found})
    else:
        rows = [[each[name] for name in names] for each in found]
        output.table(tuple(names.values()), rows, "    rrrrr ")


def _purge(place: Place, days: float, dry_run: bool, yes: bool) -> None:
    if not dry_run:
        place.need_yes(yes)
    try:
        before = datetime.now(timezone.utc) - timedelta(days=days)
    except OverflowError:
        fail("--purge-older-than: so many days ago there was no calendar", USAGE)
    with place.existing(redis_url=None) as store:
        count = store.purge_usage(before, dry_run=True)
        if count and not dry_run:
            place.ask(f"Delete {output.counted(count, 'usage record')}?", yes)
            count = store.purge_usage(before)
    if place.json:
        output.document({"purged": count, "dryRun": dry_run})
    else:
        would = "would be deleted" if dry_run else "deleted"
        output.say(f"{output.counted(count, 'usage record')} {would}.")


@command(
    group, "audit", "langgraph-sqlite relay audit --kind api_key --since 2026-11-21", redis=False
)  # fmt: skip
def audit(
    place: Place,
    kind: Annotated[
        str | None, typer.Option(help="api_key, or a type of account, as claude.")
    ] = None,
    record: Annotated[str | None, typer.Option(metavar="ID", help="Of this record.")] = None,
    since: Since = None,
    until: Until = None,
    limit: Limit = 100,
) -> None:
    """Show which records were changed, when and by whom.

    Of credentials it tells only that they were changed.
    """
    with place.existing(redis_url=None) as store:
        found = store.audit(
            kind=kind,
            record_id=record,
            since=place.time(since),
            until=place.time(until),
            limit=limit,
        )
    if place.json:
        output.document({"entries": [_named(each) for each in found]})
        return
    rows = [
        (e.at, e.actor, e.action, e.kind, e.record_id, _names((e.before, e.after))) for e in found
    ]
    output.table(("time (UTC)", "by", "action", "kind", "id", "fields"), rows)


def _names(sides: Iterable[dict[str, Any] | None]) -> str:
    return ", ".join(sorted({name for side in sides for name in side or ()}))


@command(group, "trash", "langgraph-sqlite relay trash --limit 20", redis=False)
def trash(
    place: Place,
    everything: Annotated[
        bool, typer.Option("--all", help="Also keys that are none of these, by name.")
    ] = False,
    limit: Limit = 100,
) -> None:
    """Show API keys and accounts that were deleted in Redis.

    They are kept for 30 days.
    """
    with place.existing(redis_url=None) as store:
        found = store.trash(limit=limit, everything=everything)
    _show_trash(place, found)


def _show_trash(place: Place, found: Sequence[TrashEntry], **more: object) -> None:
    entries = [
        {
            "removedAt": _utc(each.removed_at),
            "kind": each.kind,
            "id": _without_hash(each.id) if each.kind == "key" else each.id,
            "name": each.name,
        }
        for each in found
    ]
    if place.json:
        output.document({"entries": entries, **more})
    else:
        rows = [tuple(each.values()) for each in entries]
        output.table(("deleted (UTC)", "kind", "id", "name"), rows, whole=True)


def _utc(ms: int) -> str:
    when = datetime.fromtimestamp(ms / 1000, timezone.utc)
    return when.isoformat(timespec="seconds").replace("+00:00", "Z")


@command(group, "undelete", "langgraph-sqlite relay undelete 63ef13b7-e21a-4556-8019-49c03642bfdd")
def undelete(
    place: Place,
    id: Annotated[
        str | None,
        typer.Argument(
            metavar="ID",
            help="Of an API key or an account, or a key's name, as `trash --all` shows it.",
        ),
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="All that was deleted, instead of one ID.")
    ] = False,
    since: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="With --all: what was deleted from this time on."),
    ] = None,
    actor: Annotated[str, typer.Option(help="Who does it, for the audit log.")] = "cli",
    dry_run: DryRun = False,
) -> None:
    """Bring an API key or an account back from the trash.

    It comes back to SQLite and to Redis, with its usage. Also any other key, and all at once.
    """
    if (id is None) is not everything:
        fail("give an ID, or --all", USAGE)
    if since is not None and not everything:
        fail("--since is for --all", USAGE)
    start = place.time(since)
    if dry_run:
        _show_deleted(place, id, start)
        return
    with place.existing(strict=True) as store:
        count = _brought_back(store, id, start, actor)
    if place.json:
        output.document({"keys": count, "dryRun": False})
    else:
        output.say(f"{output.counted(count, 'key')} brought back.")


def _brought_back(store: RelayStore, id: str | None, since: datetime | None, actor: str) -> int:
    try:
        if id is None:
            return store.undelete_all(since=since, actor=actor)
        return store.undelete(id, actor=actor)
    except RedisUnavailableError:
        again = f"When Redis answers: {NAME} relay restore-redis"
        again += ", and this command again" if id is None else ""
        output.remark(f"{id or 'What was brought back'} is back in SQLite. {again}")
        raise


def _show_deleted(place: Place, id: str | None, since: datetime | None) -> None:
    """What `undelete` would bring back; an API key's statistics come with it."""
    with place.existing(redis_url=None) as store:
        found = store.trash(limit=_ALL, everything=True)
    start = 0.0 if since is None else since.timestamp() * 1000
    found = [each for each in found if each.id == (id or each.id) and each.removed_at >= start]
    if id is not None and not found:
        fail(f"the trash holds no API key, no account and no key {id!r}", PROBLEM)
    _show_trash(place, found, dryRun=True)


_ALL = 2**62


@command(group, "doctor", "langgraph-sqlite relay doctor --directory /srv/backups")
def doctor(
    place: Place,
    directory: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help=f"Where the backups are.  [default: {_BACKUPS}]"),
    ] = None,
) -> None:
    """Look the file and Redis over, and say what to do.

    Nothing is changed. Beside a running `follow` it waits for what is under way: some seconds, or a
    minute without notifications. The exit status is 1 if there is a problem.
    """
    with output.progress("comparing", quiet=place.json) as report:
        found = examine(place, directory or place.base / _BACKUPS, report)
    problem = any(each.state == "problem" for each in found.findings)
    if place.json:
        findings = [asdict(each) for each in found.findings]
        output.document({"ok": not problem, "agree": found.agree, "findings": findings})
    else:
        _show_diagnosis(found)
    if problem:
        raise typer.Exit(PROBLEM)


def _show_diagnosis(found: Diagnosis) -> None:
    rows = [(each.state, each.subject, each.text) for each in found.findings]
    output.table(("", "looked at", "found"), rows)
    for each in found.findings:
        if each.remedy:
            output.say(f"{each.subject}: {each.remedy}")
    output.say(found.verdict)


# Upkeep.


@command(group, "backup", "langgraph-sqlite relay backup --keep-days 14", redis=False)
def backup(
    place: Place,
    directory: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help=f"Where backups go; made where it is missing.  [default: {_BACKUPS}]",
        ),
    ] = None,
    keep_days: Annotated[
        int,
        typer.Option(
            metavar="DAYS", min=0, help="Older ones of this file are removed, never the newest."
        ),
    ] = 7,
    dry_run: DryRun = False,
) -> None:
    """Write a compressed backup of the file while it is used.

    It is meant for cron, daily.
    """
    folder = directory or place.base / _BACKUPS
    with place.existing(redis_url=None) as store:
        old = backups.outdated(folder, place.path, keep_days=keep_days)
        if dry_run:
            _show_outdated(place, folder, old)
            return
        with output.progress("backing up", quiet=place.json, unit="bytes") as report:
            made = store.backup(folder, keep_days=keep_days, progress=report)
    removed = [str(each) for each in old if not each.exists()]
    packed, size = made.stat().st_size, size_on_disk(place.path)
    if place.json:
        figures = {"path": str(made), "size": packed, "dbSize": size}
        output.document({**figures, "removed": removed, "dryRun": False})
    else:
        output.say(f"{made}: {output.size(packed)}, of a database of {output.size(size)}.")
        if removed:
            output.say(f"Removed: {output.counted(len(removed), 'older one')}.")


def _show_outdated(place: Place, folder: Path, old: Sequence[Path]) -> None:
    if place.json:
        output.document({"path": None, "removed": [str(each) for each in old], "dryRun": True})
    else:
        output.say(f"A backup would be written to {folder.absolute()}.")
        for each in old:
            output.say(f"{each} would be removed.")


@command(
    group, "restore-backup", "langgraph-sqlite relay restore-backup ARCHIVE.db.gz", redis=False
)  # fmt: skip
def restore_backup(
    place: Place,
    archive: Annotated[Path, typer.Argument(metavar="ARCHIVE", help="A file of `backup`.")],
    dry_run: DryRun = False,
    yes: Yes = False,
) -> None:
    """Put a backup in the place of the file.

    Stop the service before. The backup is checked first, and the file that was there is kept
    beside it until you remove it.
    """
    if not dry_run:
        place.need_yes(yes)
    found = backups.check_backup(archive)
    if "api_keys" not in found.tables or "redis_keys" not in found.tables:
        raise NotADatabaseError(f"{archive} is no backup of a relay's database.")
    if not dry_run:
        made = f"{found.created:%Y-%m-%d %H:%M:%S}"
        place.ask(f"Put the backup of {made} in the place of {place.path}?", yes)
        place.path.absolute().parent.mkdir(parents=True, exist_ok=True)
        found = backups.restore_backup(archive, place.path)
    _show_backup(place, found, dry_run)


def _show_backup(place: Place, found: backups.BackupFigures, dry_run: bool) -> None:
    figures = {
        "apiKeysCount": found.tables["api_keys"],
        "accountsCount": found.tables["accounts"],
        "usageRecordsCount": found.tables["usage_records"],
        "redisKeysCount": found.tables["redis_keys"],
        "danglingCount": found.dangling,
        "dbSize": found.bytes,
        "dbPath": str(place.path.absolute()),
        "createdAt": found.created.isoformat(timespec="seconds"),
    }
    if place.json:
        kept = None if found.kept is None else str(found.kept)
        output.document({**figures, "keptPath": kept, "dryRun": dry_run})
        return
    rows = [(name, _figure(name, value)) for name, value in figures.items()]
    output.table(("would be restored" if dry_run else "restored", "value"), rows)
    if found.kept is not None:
        output.say(f"The file that was there is kept as {found.kept}: remove it when all is well.")


@command(group, "optimize", "langgraph-sqlite relay optimize --vacuum incremental", redis=False)
def optimize(
    place: Place,
    vacuum: Annotated[
        Vacuum | None,
        typer.Option(help="Give free pages back; full rewrites the file, while writers wait."),
    ] = None,
) -> None:
    """Keep the file in shape; for cron, weekly.

    What expired and what was deleted long ago is dropped.
    """
    with place.existing(redis_url=None) as store:
        was = size_on_disk(place.path)
        store.optimize(vacuum=vacuum.value if vacuum else None)
        free = store.stats()["freeSize"]
        now = size_on_disk(place.path)
    if place.json:
        output.document({"sizeBefore": was, "dbSize": now, "freeSize": free})
    else:
        output.say(
            f"{output.size(was)} before, {output.size(now)} now, {output.size(free)} of it free."
        )
