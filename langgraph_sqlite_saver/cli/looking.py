"""Looking into a checkpoint file: threads, their history, states, and what differs between two.

The file is only read, and nothing that it names is imported or run.
"""

from __future__ import annotations

import fnmatch
import re
import sys
from collections.abc import Iterator, Sequence
from datetime import datetime
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import output
from .completion import file_names, thread_ids
from .options import PROBLEM, USAGE, Json, KeyEnv, age, command, fail, size_on_disk

if TYPE_CHECKING:
    import sqlite3

    from langgraph.checkpoint.serde.base import SerializerProtocol

    from .changes import Change
    from .finding import Thread
    from .pretty import Limits
    from .states import History, State, Step, Task

_group = typer.Typer()

File = Annotated[
    Path, typer.Argument(metavar="FILE", help="The file.", autocompletion=file_names)
]  # fmt: skip
ThreadId = Annotated[
    str, typer.Argument(metavar="THREAD", help="The thread's id.", autocompletion=thread_ids)
]
Namespace = Annotated[
    str | None,
    typer.Option("--ns", metavar="NAME", help="A subgraph's namespace, or a part of its name."),
]
Limit = Annotated[int, typer.Option("--limit", metavar="N", min=0, help="How many; 0 for all.")]
Full = Annotated[bool, typer.Option("--full", help="Leave nothing out, also on a terminal.")]
All = Annotated[
    bool, typer.Option("--all", help="Also the channels that LangGraph keeps for itself.")
]
# A subgraph's namespace ends with the id of its task, whose beginning tells it apart.
_TASK = re.compile(r":([0-9a-f]{8})-[0-9a-f-]{27}\b")
_CHECKPOINT = "HEAD (the newest), HEAD~2, or a part of an id."


class Sort(str, Enum):
    """What threads are sorted by."""

    id = "id"
    time = "time"
    size = "size"
    checkpoints = "checkpoints"


def add_to(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    app.registered_commands += _group.registered_commands


# Threads.


@command(_group, "threads", "langgraph-sqlite threads agent.db --sort size --limit 10")
def threads(
    file: File,
    match: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help="Whose id holds this, or fits it, as user-*."),
    ] = None,
    older_than: Annotated[
        str | None, typer.Option(metavar="AGE", help="Unchanged since, as 30d, 12h, 2026-11-21.")
    ] = None,
    newer_than: Annotated[
        str | None, typer.Option(metavar="AGE", help="Changed since, as 30d, 12h, 2026-11-21.")
    ] = None,
    sort: Annotated[Sort, typer.Option(help="The newest, largest and longest first.")] = Sort.time,
    reverse: Annotated[bool, typer.Option("--reverse", help="The other way round.")] = False,
    limit: Limit = 100,
    no_size: Annotated[
        bool, typer.Option("--no-size", help="Leave sizes out: faster on a large file.")
    ] = False,
    json: Json = False,
) -> None:
    """List the threads of a file.

    Sizes are bytes stored, without SQLite's overhead; times are UTC.
    """
    before = age(older_than, "--older-than") if older_than else None
    after = age(newer_than, "--newer-than") if newer_than else None
    if no_size and sort is Sort.size:
        fail("--sort size needs the sizes: leave --no-size out", USAGE)
    from . import finding
    from .files import look

    def gather(conn: sqlite3.Connection) -> tuple[list[Thread], int]:
        found = [each for each in finding.threads(conn) if _wanted(each, match, before, after)]
        if sort is Sort.size:
            _add_sizes(conn, found, json)
        _sort(found, sort, reverse)
        shown = found[:limit] if limit else found
        if sort is not Sort.size and not no_size:
            _add_sizes(conn, shown, json)
        return shown, len(found)

    shown, total = look(file, lambda saver: saver.database.read(gather), None)
    if json:
        output.document({"total": total, "threads": [_thread_as_json(each) for each in shown]})
    else:
        if shown:
            _show_threads(shown, sizes=not no_size)
        else:
            output.remark("No thread.")
        _tell_left(total - len(shown), "more thread")


def _show_threads(shown: Sequence[Thread], *, sizes: bool) -> None:
    headings = ["thread", "checkpoints", "namespaces", "last change (UTC)"]
    rows: list[list[object]] = [
        [each.thread_id, each.checkpoints, each.namespaces, _time(each.last)] for each in shown
    ]
    if sizes:
        headings.append("size")
        rows = [[*row, output.size(t.bytes or 0)] for row, t in zip(rows, shown, strict=True)]
    output.table(headings, rows, " rr r")


def _add_sizes(conn: sqlite3.Connection, found: Sequence[Thread], json: bool) -> None:
    from . import finding

    with output.progress("summing up", quiet=json, unit="threads") as report:
        for done, each in enumerate(found, 1):
            each.bytes = finding.size(conn, each.thread_id)
            if report:
                report(done, len(found))


def _wanted(
    thread: Thread, match: str | None, before: datetime | None, after: datetime | None
) -> bool:
    if match is not None:
        fits = fnmatch.fnmatchcase(thread.thread_id, match)
        if not fits and match not in thread.thread_id:
            return False
    if before is not None and not (thread.last and thread.last < before):
        return False
    return after is None or bool(thread.last and thread.last >= after)


def _sort(found: list[Thread], sort: Sort, reverse: bool) -> None:
    if sort is Sort.id:
        found.sort(key=lambda each: each.thread_id, reverse=reverse)
        return
    keys = {
        Sort.time: lambda each: each.last.timestamp() if each.last else 0.0,
        Sort.size: lambda each: each.bytes or 0,
        Sort.checkpoints: lambda each: each.checkpoints,
    }
    found.sort(key=lambda each: each.thread_id)
    found.sort(key=keys[sort], reverse=not reverse)


def _thread_as_json(thread: Thread) -> dict[str, Any]:
    return {
        "thread_id": thread.thread_id,
        "checkpoints": thread.checkpoints,
        "namespaces": thread.namespaces,
        "last": iso(thread.last),
        "bytes": thread.bytes,
    }


def _tell_left(left: int, what: str) -> None:
    if left > 0:
        output.remark(f"… {output.counted(left, what)}: --limit 0 shows all")


def _time(moment: datetime | None) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S}" if moment else ""


def iso(moment: datetime | None) -> str | None:
    """A time for a JSON document."""
    return moment.isoformat() if moment else None


# A thread's history.


@command(_group, "show", "langgraph-sqlite show agent.db user-42 --subgraphs")
def show(
    file: File,
    thread: ThreadId,
    ns: Namespace = None,
    subgraphs: Annotated[
        bool, typer.Option("--subgraphs", help="Show the histories of subgraphs too.")
    ] = False,
    limit: Limit = 50,
    full: Full = False,
    key_env: KeyEnv = None,
    json: Json = False,
) -> None:
    """Show a thread's checkpoints as a tree, forks indented.

    The newest is last. For each: its step and source, the nodes that ran to make it, the nodes that
    are next, when, and the bytes stored for it; interrupts and errors below it.
    """
    from . import finding, states
    from .files import look, reader

    serde = reader(key_env)

    def gather(conn: sqlite3.Connection) -> tuple[list[History], dict[str, int]]:
        ids = finding.Ids(conn, thread)
        if subgraphs:
            within = "" if ns is None else ids.namespace(ns)
            names = [each for each in ids.namespaces if each.startswith(within)]
        else:
            names = [ids.namespace(ns)]
        found = [states.history(conn, serde, thread, each, limit) for each in names]
        return found, {each: ids.short(each) for each in names}

    found, short = look(file, lambda saver: saver.database.read(gather), serde)
    if json:
        namespaces = [_history_as_json(each) for each in found]
        output.document({"thread_id": thread, "namespaces": namespaces})
        return
    short = {} if full or not output.is_terminal(sys.stdout) else short
    for number, each in enumerate(found):
        if number:
            output.say("")
        if each.checkpoint_ns:
            output.say_styled(f"subgraph {each.checkpoint_ns}", "bold")
        _tell_left(each.total - len(each.steps), "older checkpoint")
        _show_history(each, short.get(each.checkpoint_ns))


def _show_history(history: History, short: int | None) -> None:
    """The tree; on a terminal, with the last characters of ids that tell them apart."""
    from .tree import tree

    encoding = (sys.stdout.encoding or "").lower().replace("-", "")
    branches = list(tree(history.steps, ascii=not encoding.startswith("utf")))
    rows = [["checkpoint", "step", "source", "ran", "next", "time (UTC)", "size"]]
    rows += [_row(each.lead, each.step, short) for each in branches]
    heading, *lines = output.columns(rows, " r    r")
    output.say_styled(heading, "bold")
    for branch, line in zip(branches, lines, strict=True):
        output.say(line)
        for note, style in _notes(branch.step, cut=short is not None):
            output.say_styled(f"{branch.past}    {note}", style)


def _row(lead: str, step: Step, short: int | None) -> list[str]:
    when = f"{step.time:%m-%d %H:%M:%S}" if short and step.time else _time(step.time)
    name = step.checkpoint_id[-short:] if short else step.checkpoint_id
    cells = [lead + name, output.number(step.number), step.source]
    cells += [", ".join(step.ran), ", ".join(step.next), when, output.size(step.bytes)]
    return [output.clean(each) for each in cells]


def _notes(step: Step, *, cut: bool = False) -> Iterator[tuple[str, str]]:
    """What is worth a line of its own, and how it looks: interrupts, errors, subgraphs."""
    from .pretty import line

    if step.damaged:
        yield "damaged: its JSON cannot be read", "red"
    for task in step.tasks:
        of = f"{task.node}: " if task.node else ""
        for each in task.interrupts:
            shown = f"{of}{line(_shown_interrupt(each))}"
            yield (f"{shown}, answered", "") if task.resumed else (shown, "yellow")
        if task.error is not None:
            yield f"{of}error: {line(task.error)}", "red"
    for ns, count in step.calls:
        name = _TASK.sub(r":\1", ns) if cut else ns
        yield f"subgraph {name}, {output.counted(count, 'checkpoint')}", ""


def _shown_interrupt(value: Any) -> Any:
    from .plain import Plain

    if isinstance(value, Plain) and value.name == "Interrupt" and "value" in value.fields:
        return Plain("", "interrupt", (value.fields["value"],))
    return value


def _history_as_json(history: History) -> dict[str, Any]:
    return {
        "checkpoint_ns": history.checkpoint_ns,
        "total": history.total,
        "checkpoints": [_step_as_json(each) for each in history.steps],
    }


def _step_as_json(step: Step) -> dict[str, Any]:
    return {
        "checkpoint_id": step.checkpoint_id,
        "checkpoint_ns": step.checkpoint_ns,
        "parent_checkpoint_id": step.parent_id,
        "step": step.number,
        "source": step.source,
        "time": iso(step.time),
        "ran": step.ran,
        "next": step.next,
        "bytes": step.bytes,
        "tasks": [_task_as_json(each) for each in step.tasks],
        "subgraphs": [{"checkpoint_ns": ns, "checkpoints": n} for ns, n in step.calls],
        "damaged": step.damaged,
    }


def _task_as_json(task: Task) -> dict[str, Any]:
    from .plain import to_json

    return {
        "task_id": task.task_id,
        "node": task.node,
        "interrupts": [to_json(each) for each in task.interrupts],
        "resumed": task.resumed,
        "error": to_json(task.error),
        "writes": [{"channel": name, "value": to_json(each)} for name, each in task.writes],
    }


# A state.


@command(_group, "state", "langgraph-sqlite state agent.db user-42 HEAD~1 --channel messages")
def state(
    file: File,
    thread: ThreadId,
    checkpoint: Annotated[str, typer.Argument(metavar="CHECKPOINT", help=_CHECKPOINT)] = "HEAD",
    ns: Namespace = None,
    channel: Annotated[
        str | None, typer.Option(metavar="NAME", help="Only this channel, and all of it.")
    ] = None,
    full: Full = False,
    all: All = False,
    key_env: KeyEnv = None,
    json: Json = False,
) -> None:
    """Show the state at a checkpoint, and what is next.

    Interrupts and what tasks have written since are shown too. Objects are shown by what they were
    made of, without fields that hold nothing; their classes are not needed. On a terminal, long
    things are cut.
    """
    from .plain import to_json

    (found,) = _states(file, thread, [checkpoint], ns, key_env)
    values = {**found.values, **(found.internal if all or channel else {})}
    if channel is not None:
        if channel not in values:
            known = ", ".join(found.values) or "none"
            fail(f"there is no value of channel {channel!r}; the channels are: {known}", PROBLEM)
        values = {channel: values[channel]}
    if json:
        shown = {name: to_json(each) for name, each in values.items()}
        about = {**_step_as_json(found.step), "metadata": to_json(found.metadata)}
        output.document({"thread_id": thread, **about, "values": shown})
    elif channel is not None:
        _show_whole(values[channel])
    else:
        _show_state(found, values, _limits(full), all=all)


def _states(
    file: Path, thread: str, wanted: Sequence[str], ns: str | None, key_env: str | None
) -> list[State]:
    """The states at some checkpoints of a thread, in one snapshot."""
    from . import finding, states
    from .files import look, reader

    serde: SerializerProtocol = reader(key_env)

    def gather(conn: sqlite3.Connection) -> list[State]:
        ids = finding.Ids(conn, thread)
        places = [ids.find(each, ns) for each in wanted]
        return [states.state(conn, serde, thread, *place) for place in places]

    return look(file, lambda saver: saver.database.read(gather), serde)


def _limits(full: bool) -> Limits:
    from .pretty import FULL, SHORT, WHOLE

    if full:
        return FULL
    return SHORT if output.is_terminal(sys.stdout) else WHOLE


def _show_whole(value: Any) -> None:
    from .pretty import lines

    output.say_lines(value.splitlines() if isinstance(value, str) else lines(value))


def _show_state(found: State, values: dict[str, Any], limits: Limits, *, all: bool) -> None:
    from .pretty import SHORT, line, lines
    from .states import is_internal

    step = found.step
    about = [_number(step), step.source, f"{_time(step.time)} UTC" if step.time else ""]
    output.say(f"thread      {found.thread_id}")
    if step.checkpoint_ns:
        output.say(f"namespace   {step.checkpoint_ns}")
    output.say(f"checkpoint  {step.checkpoint_id} {_in_brackets(about)}")
    if step.parent_id:
        output.say(f"parent      {step.parent_id}")
    if step.ran:
        output.say(f"ran         {', '.join(step.ran)}")
    output.say(f"next        {', '.join(step.next) or 'nothing'}")
    for note, style in _notes(step):
        output.say_styled(f"note        {note}", style)
    output.say("values")
    for channel, value in values.items():
        _show_value(f"  {channel} = ", lines(value, limits, output.width() - 6))
    if not values:
        output.say("  none")
    writes = [
        (task, *each)
        for task in step.tasks
        for each in task.writes
        if all or not is_internal(each[0])
    ]
    if writes:
        output.say("written by tasks that ran from here")
    for task, channel, value in writes:
        shown = [line(value)] if limits is SHORT else lines(value, limits)
        _show_value(f"  {task.node or task.task_id}: {channel} = ", shown)


def _show_value(name: str, lines: Sequence[str]) -> None:
    output.say_lines([name + lines[0], *(f"  {each}" for each in lines[1:])])


# Two states.


@command(_group, "diff", "langgraph-sqlite diff agent.db user-42 HEAD~1 HEAD")
def diff(
    file: File,
    thread: ThreadId,
    first: Annotated[str, typer.Argument(metavar="A", help=_CHECKPOINT)] = "HEAD~1",
    second: Annotated[str, typer.Argument(metavar="B", help="As A.")] = "HEAD",
    ns: Namespace = None,
    full: Full = False,
    all: All = False,
    key_env: KeyEnv = None,
    json: Json = False,
) -> None:
    """Show what changed from checkpoint A to checkpoint B.

    Without A and B: what the newest checkpoint changed. On a terminal, long texts are shown from
    where they begin to differ.
    """
    from .changes import changes

    before, after = _states(file, thread, [first, second], ns, key_env)
    old = {**before.values, **(before.internal if all else {})}
    new = {**after.values, **(after.internal if all else {})}
    found = {
        channel: changes(old, new, channel) for channel in dict.fromkeys([*old, *new])
    }  # fmt: skip
    found = {channel: each for channel, each in found.items() if each}
    if json:
        _diff_as_json(before, after, found)
        return
    output.say(f"from  {_named(before.step)}")
    output.say(f"to    {_named(after.step)}")
    for channel, each in found.items():
        _show_changes(channel, each, _limits(full))
    if not found:
        output.say("no channel differs")


def _named(step: Step) -> str:
    about = [_number(step), f"of {step.checkpoint_ns}" if step.checkpoint_ns else ""]
    return f"{step.checkpoint_id} {_in_brackets(about)}"


def _number(step: Step) -> str:
    return "" if step.number is None else f"step {step.number}"


def _in_brackets(about: Sequence[str]) -> str:
    found = ", ".join(each for each in about if each)
    return f"({found})" if found else ""


def _show_changes(channel: str, found: Sequence[Change], limits: Limits) -> None:
    from .changes import summary

    output.say(f"{channel}: {summary(found)}")
    for each in found:
        for (sign, _), shown in zip(each.sides(), _shown_sides(each, limits), strict=True):
            _show_value(f"  {sign} {each.place}", shown)


def _shown_sides(change: Change, limits: Limits) -> list[list[str]]:
    from .pretty import SHORT, differing, line, lines

    if limits is not SHORT:
        return [lines(value, limits) for _, value in change.sides()]
    if change.kind == "changed":
        return [[each] for each in differing(change.before, change.after)]
    return [[line(value)] for _, value in change.sides()]


def _diff_as_json(before: State, after: State, found: dict[str, list[Change]]) -> None:
    output.document(
        {
            "thread_id": before.thread_id,
            "from": before.step.checkpoint_id,
            "to": after.step.checkpoint_id,
            "channels": {
                channel: [each.as_json() for each in every] for channel, every in found.items()
            },
        }
    )


# The file.


@command(_group, "stats", "langgraph-sqlite stats agent.db --json")
def stats(file: File, json: Json = False) -> None:
    """Show what a file holds, in figures. It is read as a whole."""
    from .files import look

    figures = look(file, lambda saver: saver.stats(), None).as_dict()
    del figures["synchronous"]  # each connection has its own
    figures["path"] = str(file)
    figures["file_bytes"], figures["wal_bytes"] = file.stat().st_size, _wal_bytes(file)
    figures["journal_mode"] = _journal_mode(file, figures["journal_mode"])
    if json:
        output.document(figures)
    else:
        output.table(("figure", "value"), [(_words(n), _figure(n, v)) for n, v in figures.items()])


# What people call the figures whose names say how they are stored.
_FIGURES = {
    "path": "file",
    "file_bytes": "size",
    "wal_bytes": "size of the -wal",
    "free_bytes": "free in the file",
    "blobs": "stored values",
    "writes": "pending writes",
    "checkpoint_bytes": "checkpoints take",
    "blob_bytes": "values take",
    "logical_blob_bytes": "values stored whole would take",
    "write_bytes": "pending writes take",
    "logical_write_bytes": "pending writes stored whole would take",
    "orphan_writes": "pending writes without a checkpoint",
    "orphan_blobs": "values of threads without a checkpoint",
    "orphan_bytes": "these two take",
    "schema_version": "migrations applied",
}


def _wal_bytes(file: Path) -> int:
    return size_on_disk(file) - file.stat().st_size


def _journal_mode(file: Path, told: str) -> str:
    """What the file's header says; a connection that only reads a file at rest does not tell.

    Where this process has the file open nothing but SQLite may open it: closing it again would drop
    the locks. Then it is not at rest, and what was told is right.
    """
    from ..database.file_identity import is_open_here

    if told == "wal" or is_open_here(file):
        return told
    with file.open("rb") as content:
        return "wal" if content.read(19)[18:] == b"\x02" else told


def _words(name: str) -> str:
    return _FIGURES.get(name, name.replace("_", " "))


def _figure(name: str, value: object) -> str:
    if name.endswith("_bytes") and isinstance(value, int):
        return f"{value:,} ({output.size(value)})"
    return output.number(value)
