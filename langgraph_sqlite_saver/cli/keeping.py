"""Looking after a checkpoint file: checking, making room, backups, deleting."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager
from dataclasses import asdict, replace
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import output
from .completion import file_names, thread_ids
from .looking import File, ThreadId, iso
from .options import (
    GIVE_KEY,
    PROBLEM,
    USAGE,
    DryRun,
    Json,
    KeyEnv,
    Vacuum,
    Yes,
    age,
    ask,
    command,
    fail,
    need_yes,
    size_on_disk,
    typed,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..checkpoints import Damage, Findings, Orphans
    from ..database.upkeep import Left
    from ..saver import SqliteSaver

_group = typer.Typer()

# How many threads a sentence names.
_NAMES = 5

Threads = Annotated[
    list[str] | None,
    typer.Argument(metavar="THREAD", help="Some threads; else all.", autocompletion=thread_ids),
]


class Strategy(str, Enum):
    """What pruning keeps."""

    keep_latest = "keep_latest"
    delete = "delete"


class Mode(str, Enum):
    """How large values are stored."""

    compact = "compact"
    full = "full"


def add_to(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    app.registered_commands += _group.registered_commands


# Checking.


@command(_group, "check", "langgraph-sqlite check agent.db")
def check(file: File, threads: Threads = None, key_env: KeyEnv = None, json: Json = False) -> None:
    """Read every value, and tell which cannot be read.

    The exit status is 1 if there are any. What is stored for checkpoints that are not there is told
    too, and is no damage. Of enciphered values only those are read whose key is
    given.
    """
    from .files import look, reader
    from .plain import PlainSerializer

    serde = reader(key_env, strict=True)

    def gather(saver: SqliteSaver) -> Findings:
        _counts(saver, threads or [])
        if isinstance(serde, PlainSerializer):
            serde.enciphered = 0
        with output.progress("checking", quiet=json, unit="values") as report:
            return saver.check(threads or None, progress=report)

    found = look(file, gather, serde)
    damages = [_told(each) for each in found if key_env is not None or not _is_enciphered(each)]
    skipped = len(found) - len(damages)
    if isinstance(serde, PlainSerializer):
        skipped += serde.enciphered
    if json:
        document = {"ok": not damages, "damages": [asdict(each) for each in damages]}
        orphans = [{**asdict(each), "made": iso(each.made)} for each in found.orphans]
        output.document({**document, "enciphered": skipped, "orphans": orphans})
    else:
        _show_damages(damages, key_env)
        _show_orphans(found.orphans, file)
        if skipped:
            values = output.counted(skipped, "enciphered value")
            output.remark(f"{values} not looked into: --key-env names the variable with the key")
    if damages:
        raise typer.Exit(PROBLEM)


def _is_enciphered(damage: Damage) -> bool:
    """Whether nothing is wrong but that no key was given."""
    return damage.reason.endswith(f") is enciphered. {GIVE_KEY}")


def _told(damage: Damage) -> Damage:
    """Without the advice that is given once, below."""
    return replace(damage, reason=damage.reason.removesuffix(f". {GIVE_KEY}"))


def _show_damages(damages: list[Damage], key_env: str | None) -> None:
    if not damages:
        output.say("No damage was found.")
        return
    output.say_lines(f"{_place(each)}: {each.reason}" for each in damages)
    places = output.counted(len(damages), "place")
    output.say(f"{places} cannot be read: restore a backup, or delete those threads.")
    if key_env is not None:
        output.say(f"If they were saved with another key than {key_env} holds, they are sound.")


def _show_orphans(orphans: Sequence[Orphans], file: Path) -> None:
    if writes := [each for each in orphans if each.checkpoint_id is not None]:
        output.say(
            f"{_weighed(writes, 'pending write')} without a checkpoint: it was never saved, was "
            "deleted before they came, or is being saved now. That is no damage. To delete old "
            f"ones: {typed('expire', file)} --older-than 1d"
        )
    if values := [each for each in orphans if each.checkpoint_id is None]:
        output.say(f"{_weighed(values, 'value')} of threads that have no checkpoint.")
    if unknown := sorted({str(each.thread_id) for each in orphans if each.made is None}):
        names = ", ".join(unknown[:_NAMES]) + (", …" if len(unknown) > _NAMES else "")
        output.say(f"Of unknown age, and deleted with their threads only: those of {names}")


def _weighed(orphans: Sequence[Orphans], name: str) -> str:
    rows = output.counted(sum(each.rows for each in orphans), name)
    return f"{rows} ({output.size(sum(each.bytes for each in orphans))})"


def _place(damage: Damage) -> str:
    if damage.thread_id is None:
        return "the file"
    place = {
        "thread": damage.thread_id,
        "namespace": damage.checkpoint_ns or None,
        "checkpoint": damage.checkpoint_id,
        "task": damage.task_id,
        "channel": damage.channel,
        "version": damage.version,
    }
    return ", ".join(f"{name} {each}" for name, each in place.items() if each is not None)


# Making room.


@command(_group, "compact", "langgraph-sqlite compact agent.db", resumable=True)
def compact(
    file: File,
    threads: Threads = None,
    history: Annotated[
        Mode, typer.Option(help="Large values as differences, or whole.")
    ] = Mode.compact,
    key_env: KeyEnv = None,
    json: Json = False,
) -> None:
    """Store old values as new ones are stored: at what changed. Nothing is lost.

    Others may use the file meanwhile. It can be stopped at any time, and goes on at the next call.
    """
    was = size_on_disk(file)
    with (
        _changing(file, key_env, history=history.value) as saver,
        output.progress("compacting", quiet=json, unit="values") as report,
    ):
        _counts(saver, threads or [])
        done = saver.compact(threads or None, progress=report)
    now = size_on_disk(file)
    if json:
        output.document({**asdict(done), "size_before": was, "size_after": now})
        return
    output.say(
        f"{output.counted(done.values, 'value')} looked at, {done.rewritten:,} stored anew: "
        f"{output.size(done.bytes_before)} became {output.size(done.bytes_after)}."
    )
    if done.unreadable:
        values = output.counted(done.unreadable, "value")
        output.say(f"{values} left as they are: damaged, or enciphered with a key not given.")
    _say_sizes(was, now, done.left)


def _changing(
    file: Path, key_env: str | None, **options: Any
) -> AbstractContextManager[SqliteSaver]:
    from .files import change, reader

    return change(file, reader(key_env), **options)


# Less is the page or two that emptying leaves, in bytes.
_MUCH = 1_000_000


def _say_sizes(was: int, now: int, left: Left | None) -> None:
    output.say(f"The file: {output.size(was)} before, {output.size(now)} now.")
    if left is not None and left.wal_bytes > _MUCH:
        output.say(
            f"{output.size(left.wal_bytes)} of that is its -wal, which somebody still reads (a "
            "backup, a replication, a transaction left open): do it again when that has ended."
        )


@command(_group, "optimize", "langgraph-sqlite optimize agent.db --vacuum incremental")
def optimize(
    file: File,
    vacuum: Annotated[
        Vacuum | None,
        typer.Option(help="Give free pages back; full rewrites the file, while writers wait."),
    ] = None,
    json: Json = False,
) -> None:
    """Keep the file in shape; for cron, weekly.

    Refreshes the statistics that queries are planned with, and empties the -wal.
    """
    was = size_on_disk(file)
    with _changing(file, None) as saver:
        left = saver.optimize(vacuum=vacuum.value if vacuum else None)
    now = size_on_disk(file)
    if json:
        output.document({"size_before": was, "size_after": now, "left": asdict(left)})
    else:
        _say_sizes(was, now, left)


@command(_group, "prune", "langgraph-sqlite prune agent.db --all --keep-last 10 --yes")
def prune(
    file: File,
    threads: Annotated[
        list[str] | None,
        typer.Argument(metavar="THREAD", help="Some threads, or --all.", autocompletion=thread_ids),
    ] = None,
    all: Annotated[bool, typer.Option("--all", help="Every thread of the file.")] = False,
    keep_last: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Keep so many checkpoints a namespace (else 1)."),
    ] = None,
    strategy: Annotated[
        Strategy, typer.Option(help="`delete` keeps nothing of the threads.")
    ] = Strategy.keep_latest,
    key_env: KeyEnv = None,
    yes: Yes = False,
    json: Json = False,
) -> None:
    """Delete old checkpoints of threads; keep the newest.

    What the values of those that are kept rest on is kept, or stored anew.
    """
    if all == bool(threads):
        fail("name some threads, or say --all", USAGE)
    if strategy is Strategy.delete and keep_last:
        fail("--strategy delete keeps nothing: leave --keep-last out", USAGE)
    need_yes(yes, json)
    keep = None if keep_last is None else min(keep_last, sys.maxsize)
    with _changing(file, key_env) as saver:
        before = _counts(saver, threads)
        kept = "nothing" if strategy is Strategy.delete else f"the newest {keep or 1:,}"
        what = output.counted(len(before), "thread")
        number = output.counted(sum(before.values()), "checkpoint")
        ask(f"Prune {what} with {number}, keeping {kept} of each namespace?", yes)
        with output.progress("pruning", quiet=json, unit="threads") as report:
            for done, each in enumerate(before, 1):
                saver.prune([each], strategy=strategy.value, keep_last=keep)
                if report:
                    report(done, len(before))
        after = _counts(saver, None)
    left = sum(after.get(each, 0) for each in before)
    deleted = max(sum(before.values()) - left, 0)  # others may have added some
    if json:
        output.document({"threads": len(before), "deleted": deleted, "kept": left})
    else:
        output.say(f"{output.counted(deleted, 'checkpoint')} deleted, {left:,} kept.")
        output.say(f"To give the space back: {typed('optimize', file)} --vacuum incremental")


def _counts(saver: SqliteSaver, ids: list[str] | None) -> dict[str, int]:
    """How many checkpoints threads have, all of which are there; every thread for None."""
    from . import finding

    return saver.database.read(finding.counts, ids)


@command(_group, "expire", "langgraph-sqlite expire agent.db --older-than 30d --dry-run")
def expire(
    file: File,
    older_than: Annotated[
        str, typer.Option(metavar="AGE", help="As 30d, 12h, 2w, or 2026-11-21 (UTC).")
    ],
    dry_run: DryRun = False,
    yes: Yes = False,
    json: Json = False,
) -> None:
    """Delete the threads whose newest checkpoint is older.

    Also older pending writes whose checkpoint is not there; see `check`.
    """
    moment = age(older_than, "--older-than")
    if not dry_run:
        need_yes(yes, json, "say --yes, or look first with --dry-run")
    from ..checkpoints import orphans, overview
    from .files import look

    def gather(saver: SqliteSaver) -> tuple[list[str], list[Orphans]]:
        read = saver.database.read
        return read(overview.threads_older_than, moment), read(orphans.older_than, moment)

    found, alone = look(file, gather, None)
    writes = f" and {_weighed(alone, 'pending write')} without a checkpoint" if alone else ""
    if (found or alone) and not dry_run:
        if not json:
            for each in found:
                output.say(each)
        ask(f"Delete {output.counted(len(found), 'thread')}{writes}?", yes)
        with _changing(file, None) as saver:
            found = list(saver.expire(moment))
    if json:
        rows = sum(each.rows for each in alone)
        output.document({"threads": found, "orphan_writes": rows, "dry_run": dry_run})
        return
    if dry_run:
        for each in found:
            output.say(each)
    would = "would be deleted" if dry_run else "deleted"
    output.say(f"{output.counted(len(found), 'thread')}{writes} {would}.")


# Threads.


@command(_group, "delete", "langgraph-sqlite delete agent.db user-42 --yes")
def delete(
    file: File,
    threads: Annotated[
        list[str],
        typer.Argument(metavar="THREAD", help="The threads.", autocompletion=thread_ids),
    ],
    yes: Yes = False,
    json: Json = False,
) -> None:
    """Delete threads, with all their namespaces."""
    need_yes(yes, json)
    with _changing(file, None) as saver:
        known = _counts(saver, threads)
        number = output.counted(sum(known.values()), "checkpoint")
        ask(f"Delete {output.counted(len(known), 'thread')} with {number}?", yes)
        for each in known:
            saver.delete_thread(each)
    if json:
        output.document({"threads": list(known), "checkpoints": sum(known.values())})
    else:
        output.say(f"{output.counted(len(known), 'thread')} with {number} deleted.")


@command(_group, "copy", "langgraph-sqlite copy agent.db user-42 user-42-trial")
def copy(
    file: File,
    thread: ThreadId,
    target: Annotated[str, typer.Argument(metavar="NEW", help="The copy's id.")],
    key_env: KeyEnv = None,
    json: Json = False,
) -> None:
    """Copy a thread under a new id, in the same file."""
    from . import finding

    with _changing(file, key_env) as saver:
        _counts(saver, [thread])
        if saver.database.read(finding.count, target):
            fail(f"there is a thread {target!r} already: give the copy another id", PROBLEM)
        saver.copy_thread(thread, target)
        copied = saver.database.read(finding.count, target)
    if json:
        output.document({"thread_id": target, "checkpoints": copied})
    else:
        output.say(f"{target}: {output.counted(copied, 'checkpoint')} copied.")


# The file.


@command(_group, "backup", "langgraph-sqlite backup agent.db /srv/backups/agent.db")
def backup(
    file: File,
    target: Annotated[
        Path, typer.Argument(metavar="DEST", help="The new file.", autocompletion=file_names)
    ],
    yes: Yes = False,
    json: Json = False,
) -> None:
    """Write a snapshot of the file while others use it.

    It appears whole or not at all.
    """
    if target.is_file():
        need_yes(yes, json)
        ask(f"{target} exists: put the backup in its place?", yes)
    from .files import look

    def gather(saver: SqliteSaver) -> None:
        with output.progress("backing up", quiet=json, unit="pages") as report:
            saver.backup(target, progress=report)

    look(file, gather, None)
    size = target.stat().st_size
    if json:
        output.document({"path": str(target), "bytes": size})
    else:
        output.say(f"{target}: {output.size(size)}.")


@command(_group, "restore", "langgraph-sqlite restore /srv/backups/agent.db agent.db")
def restore(
    source: Annotated[
        Path, typer.Argument(metavar="BACKUP", help="The backup.", autocompletion=file_names)
    ],
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="The file to replace.", autocompletion=file_names)
    ],
    no_keep: Annotated[
        bool, typer.Option("--no-keep", help="Do not keep the file that is replaced.")
    ] = False,
    yes: Yes = False,
    json: Json = False,
) -> None:
    """Put a backup in the place of a file that nobody has open.

    Stop the service before. The backup is checked first, and the file that was there is kept
    beside it, as FILE.before-restore-TIME.
    """
    from ..checkpoints.restoring import restore_backup

    if file.is_file():
        need_yes(yes, json)
        ask(f"Put {source} in the place of {file}?", yes)
    with output.progress("restoring", quiet=json, unit="bytes") as report:
        found = restore_backup(source, file, keep=not no_keep, progress=report)
    rows = found.tables["checkpoints"]
    if json:
        kept = None if found.kept is None else str(found.kept)
        figures = {"path": str(file), "bytes": found.bytes, "checkpoints": rows}
        output.document({**figures, "kept_path": kept})
        return
    output.say(f"{file}: {output.counted(rows, 'checkpoint')}, {output.size(found.bytes)}.")
    if found.kept is not None:
        output.say(f"The file that was there is kept as {found.kept}: remove it when all is well.")


@command(_group, "migrations", "langgraph-sqlite migrations agent.db")
def migrations(
    file: File,
    apply: Annotated[
        bool, typer.Option("--apply", help="Bring the tables up to date, as any change does.")
    ] = False,
    yes: Yes = False,
    json: Json = False,
) -> None:
    """Show which migrations a file has had, and which it lacks.

    The exit status is 1 if it lacks some, or has some that this release does not know.
    """
    from ..checkpoints.schema import SCHEMA

    version = _version(file)
    lacks = [each for each in SCHEMA.migrations if each.version > version]
    if apply and lacks:
        need_yes(yes, json)
        ask(f"Apply {', '.join(each.name for each in lacks)}?", yes)
        with _changing(file, None) as saver:
            saver.setup()
        version, lacks = _version(file), []
    known = [(each.version, each.name, each.version <= version) for each in SCHEMA.migrations]
    if json:
        every = [{"version": v, "name": name, "applied": done} for v, name, done in known]
        output.document({"version": version, "newest_known": SCHEMA.newest, "migrations": every})
    else:
        rows = [(v, name, "applied" if done else "pending") for v, name, done in known]
        rows += [(v, "", "applied, unknown") for v in range(SCHEMA.newest + 1, version + 1)]
        output.table(("version", "migration", "state"), rows, "r")
        if version > SCHEMA.newest:
            output.remark(
                f"{file} is at version {version} and this release knows {SCHEMA.newest}: "
                "upgrade langgraph-sqlite-saver"
            )
        elif lacks:
            output.remark(f"to apply them: {typed('migrations', file)} --apply")
    if lacks or version > SCHEMA.newest:
        raise typer.Exit(PROBLEM)


def _version(file: Path) -> int:
    from .files import check_file

    return check_file(file, current=False, newer=True)
