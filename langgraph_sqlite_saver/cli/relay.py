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
    backups,
    layout,
    server,
)
from . import NAME, output
from .doctor import Diagnosis, examine
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
    _stop_on_signals(stop)
    with place.store() as store, ThreadPoolExecutor(1) as pool:
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
            store.note_source(about)
    if place.json:
        output.document({**asdict(found), "dryRun": dry_run})
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
        found = store.diff(limit=limit, progress=report)
    _show_differences(place, found)
    if not place.json:
        differ = f"SQLite and Redis differ in {_keys(found)}."
        output.say(differ if found else "SQLite and Redis agree.")
    if found:
        raise typer.Exit(PROBLEM)


@command(group, "reconcile", "langgraph-sqlite relay reconcile --prefer sqlite --dry-run")
def reconcile(
    place: Place,
    prefer: Annotated[Side, typer.Option(help="Whose state counts.")] = Side.sqlite,
    dry_run: DryRun = False,
    yes: Yes = False,
) -> None:
    """Put SQLite and Redis in step.

    What only Redis has is taken over; what only SQLite has is restored, or with --prefer redis
    moved to the trash.
    """
    if not dry_run:
        place.need_yes(yes)
    with place.existing() as store:
        found = _compared(place, store, prefer)
        if not place.json:
            _show_differences(place, found)
        if found and not dry_run:
            place.ask(f"Put {_keys(found)} in step, as {prefer.value} has them?", yes)
            found = _reconciled(place, store, prefer)
    if place.json:
        _show_differences(place, found)
    else:
        output.say(f"{_keys(found)} {'to be put' if dry_run else 'put'} in step.")


def _compared(place: Place, store: RelayStore, prefer: Side) -> list[Difference]:
    with output.progress("comparing", quiet=place.json) as report:
        return store.reconcile(prefer.value, dry_run=True, progress=report)


def _reconciled(place: Place, store: RelayStore, prefer: Side) -> list[Difference]:
    about = server.info(store.redis)
    if prefer is Side.sqlite:
        store.drain()
    with output.progress("putting in step", quiet=place.json) as report:
        found = store.reconcile(prefer.value, progress=report)
    store.note_source(about)
    return found


# As an API key's hash, by which requests find it.
_HASH = re.compile(r"[0-9a-fA-F]{64,}")


def _difference(found: Difference) -> dict[str, str]:
    """A difference as it may be shown: without hashes."""
    key, detail = layout.column(found.key), found.detail
    if found.key.startswith(layout.OLD_HASH):
        key = f"{layout.column(layout.OLD_HASH)}(hidden)"
    if found.key == layout.HASH_MAP:  # its fields' names are hashes
        detail = re.sub("fields .*?(?=;|$)", "its fields", detail)
    return {
        "key": _HASH.sub("(hidden)", key),
        "kind": found.kind,
        "detail": _HASH.sub("(hidden)", detail),
    }


def _show_differences(place: Place, found: Sequence[Difference]) -> None:
    shown = [_difference(each) for each in found]
    if place.json:
        output.document({"count": len(shown), "differences": shown})
    elif shown:
        output.table(("key", "difference", "in"), [tuple(each.values()) for each in shown])


def _keys(found: Sequence[Difference]) -> str:
    return output.counted(len(found), "key")


# Looking.


@command(group, "stats", "langgraph-sqlite relay stats --json")
def stats(place: Place) -> None:
    """Show how many records there are, and the file's size."""
    with place.existing() as store:
        figures = store.stats()
    if place.json:
        output.document(figures)
        return
    rows = [(name, _figure(name, value)) for name, value in figures.items()]
    output.table(("figure", "value"), rows)


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
    by: Annotated[Period, typer.Option(help="Sum by this.")] = Period.day,
    records: Annotated[bool, typer.Option("--records", help="Show single records.")] = False,
    limit: Limit = 100,
    purge_older_than: Annotated[
        float | None,
        typer.Option(metavar="DAYS", min=0, help="Delete records older than this; sums stay."),
    ] = None,
    dry_run: DryRun = False,
    yes: Yes = False,
) -> None:
    """Show what was used, in sums or record by record.

    Days and hours are those of the relay's time zone. With --purge-older-than, delete old records.
    """
    wanted: dict[str, Any] = {
        "api_key_id": api_key,
        "account_id": account,
        "model": model,
        "since": place.time(since),
        "until": place.time(until),
    }
    if purge_older_than is not None:
        if records or any(value is not None for value in wanted.values()):
            fail("--purge-older-than deletes records of every kind: leave the filters out", USAGE)
        _purge(place, purge_older_than, dry_run, yes)
    elif dry_run or yes:
        fail("--dry-run and --yes are for --purge-older-than", USAGE)
    elif records:
        _show_records(place, wanted, limit)
    else:
        _show_totals(place, wanted, by)


def _show_totals(place: Place, wanted: dict[str, Any], by: Period) -> None:
    with place.existing(redis_url=None) as store:
        found = store.usage_totals(by=by.value, **wanted)
    headings = (by.value, "requests", "input", "output", "cache made", "cache read", "all", "cost")
    _list(place, "totals", [asdict(each) for each in found], headings, " rrrrrrr")


def _show_records(place: Place, wanted: dict[str, Any], limit: int) -> None:
    with place.existing(redis_url=None) as store:
        found = [asdict(each) for each in store.usage(**wanted, limit=limit)]
    names = {
        "timestamp": "time", "api_key_id": "API key", "account_id": "account", "model": "model",
        "input_tokens": "input", "output_tokens": "output", "cache_create_tokens": "cache made",
        "cache_read_tokens": "cache read", "cost": "cost", "status": "status",
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
        output.document({"entries": [asdict(each) for each in found]})
        return
    rows = [
        (e.at, e.actor, e.action, e.kind, e.record_id, _names((e.before, e.after))) for e in found
    ]
    output.table(("time (UTC)", "by", "action", "kind", "id", "fields"), rows)


def _names(sides: Iterable[dict[str, Any] | None]) -> str:
    return ", ".join(sorted({name for side in sides for name in side or ()}))


@command(group, "trash", "langgraph-sqlite relay trash --limit 20", redis=False)
def trash(place: Place, limit: Limit = 100) -> None:
    """Show API keys and accounts that were deleted in Redis.

    They are kept for 30 days.
    """
    with place.existing(redis_url=None) as store:
        found = store.trash(limit=limit)
    entries = [
        {"removedAt": _utc(e.removed_at), "kind": e.kind, "id": e.id, "name": e.name} for e in found
    ]
    _list(place, "entries", entries, ("deleted (UTC)", "kind", "id", "name"))


def _utc(ms: int) -> str:
    when = datetime.fromtimestamp(ms / 1000, timezone.utc)
    return when.isoformat(timespec="seconds").replace("+00:00", "Z")


def _list(
    place: Place,
    name: str,
    found: Sequence[dict[str, Any]],
    headings: Sequence[str],
    right: str = "",
) -> None:
    if place.json:
        output.document({name: found})
    else:
        output.table(headings, [tuple(each.values()) for each in found], right)


@command(group, "undelete", "langgraph-sqlite relay undelete 63ef13b7-e21a-4556-8019-49c03642bfdd")
def undelete(
    place: Place,
    id: Annotated[str, typer.Argument(metavar="ID", help="Of an API key or an account.")],
    actor: Annotated[str, typer.Option(help="Who does it, for the audit log.")] = "cli",
) -> None:
    """Bring an API key or an account back from the trash.

    It comes back to SQLite and to Redis, with its usage.
    """
    with place.existing(strict=True) as store:
        try:
            count = store.undelete(id, actor=actor)
        except RedisUnavailableError:
            output.remark(f"{id} is back in SQLite. When Redis answers: {NAME} relay restore-redis")
            raise
    if place.json:
        output.document({"keys": count})
    else:
        output.say(f"{output.counted(count, 'key')} brought back.")


@command(group, "doctor", "langgraph-sqlite relay doctor --directory /srv/backups")
def doctor(
    place: Place,
    directory: Annotated[Path, typer.Option(metavar="DIR", help="Where the backups are.")] = Path(
        "backups/sqlite"
    ),
) -> None:
    """Look the file and Redis over, and say what to do.

    Nothing is changed. The exit status is 1 if there is a problem.
    """
    with output.progress("comparing", quiet=place.json) as report:
        found = examine(place, directory, report)
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
        Path, typer.Option(metavar="DIR", help="Where backups go; made where it is missing.")
    ] = Path("backups/sqlite"),
    keep_days: Annotated[
        int, typer.Option(metavar="DAYS", min=0, help="Older ones are removed.")
    ] = 7,
) -> None:
    """Write a compressed backup of the file while it is used.

    It is meant for cron, daily.
    """
    with place.existing(redis_url=None) as store:
        with output.progress("backing up", quiet=place.json, unit="bytes") as report:
            made = store.backup(directory, keep_days=keep_days, progress=report)
        size = size_on_disk(place.path)
    packed = made.stat().st_size
    if place.json:
        output.document({"path": str(made), "size": packed, "dbSize": size})
    else:
        output.say(f"{made}: {output.size(packed)}, of a database of {output.size(size)}.")


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
    beside it.
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
        output.document({**figures, "dryRun": dry_run})
        return
    rows = [(name, _figure(name, value)) for name, value in figures.items()]
    output.table(("would be restored" if dry_run else "restored", "value"), rows)


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
