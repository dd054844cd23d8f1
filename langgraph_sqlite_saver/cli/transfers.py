"""Moving threads: from the official saver's file, to Postgres and back."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from . import output
from .completion import file_names
from .keeping import Mode
from .looking import File
from .options import Json, KeyEnv, command

if TYPE_CHECKING:
    from collections.abc import Sequence

    from langgraph.checkpoint.serde.base import SerializerProtocol

    from ..transfer import Transferred

_group = typer.Typer()

Uri = Annotated[
    str,
    typer.Argument(
        metavar="URI", help="postgresql://user@host/database; PGPASSWORD may hold the password."
    ),
]
Threads = Annotated[
    list[str] | None,
    typer.Option("--thread", metavar="ID", help="Only this thread; several times for more."),
]
Verify = Annotated[
    bool, typer.Option("--verify", help="Read every checkpoint from both sides and compare.")
]
Follow = Annotated[
    bool,
    typer.Option(
        "--follow",
        help="Go through all again until nothing is left; what is deleted meanwhile is deleted.",
    ),
]


_WORDS = {
    "threads": "threads at the source",
    "checkpoints": "checkpoints carried over",
    "writes": "pending writes carried over",
    "already_there": "checkpoints that were there",
    "deleted": "checkpoints deleted at the target",
    "verified": "checkpoints compared",
    "bytes_before": "size of the source",
    "bytes_after": "size of the target",
}

# The tables of langgraph.store.sqlite.
_STORE = {"store", "store_migrations", "store_vectors", "vector_migrations"}

_QUIET = (
    "Nothing was left to do. What is saved from now on is not carried: pause the service, and run "
    "this once more."
)


def add_to(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    app.registered_commands += _group.registered_commands


@command(
    _group, "import", "langgraph-sqlite import checkpoints.sqlite agent.db --verify", resumable=True
)
def import_(
    old: Annotated[
        Path,
        typer.Argument(
            metavar="OLD",
            help="A file of langgraph-checkpoint-sqlite.",
            autocompletion=file_names,
        ),
    ],
    new: Annotated[
        Path,
        typer.Argument(
            metavar="NEW",
            help="The new file; one that is there is added to.",
            autocompletion=file_names,
        ),
    ],
    history: Annotated[
        Mode, typer.Option(help="Store large values as differences, or whole.")
    ] = Mode.compact,
    verify: Verify = False,
    key_env: KeyEnv = None,
    json: Json = False,
) -> None:
    """Take over every thread of the official saver's file.

    The old file is not changed, and may be in use. Doing it again brings what came since.
    LangGraph's store, if the file holds one, stays there.
    """
    from ..transfer import import_official

    with output.progress("importing", quiet=json, unit="bytes") as report:
        done = import_official(
            old, new, serde=_serde(key_env), history=history.value, verify=verify, progress=report
        )
    _show(done, json)
    if done.tables_left and not json:
        _tell_what_is_left(old, done.tables_left)


def _tell_what_is_left(old: Path, tables: Sequence[str]) -> None:
    store = [each for each in tables if each in _STORE]
    own = [each for each in tables if each not in _STORE]
    if store:
        output.remark(
            f"{old} also holds LangGraph's store ({', '.join(store)}), which was not carried over: "
            "keep the file, and SqliteStore on it."
        )
    if own:
        output.remark(f"{old} also holds tables that were not carried over: {', '.join(own)}")


@command(
    _group,
    "to-postgres",
    "langgraph-sqlite to-postgres agent.db postgresql://me@db/agents",
    resumable=True,
)
def to_postgres(
    file: File,
    uri: Uri,
    thread: Threads = None,
    verify: Verify = False,
    follow: Follow = False,
    key_env: KeyEnv = None,
    json: Json = False,
) -> None:
    """Copy threads into Postgres, for LangGraph's PostgresSaver.

    The file is not changed. Doing it again brings what came since.
    """
    from ..transfer import to_postgres
    from .files import check_file

    check_file(file, current=False)
    with output.progress("copying", quiet=json, unit="checkpoints") as report:
        done = to_postgres(
            file,
            uri,
            threads=thread or None,
            serde=_serde(key_env),
            verify=verify,
            follow=follow,
            progress=report,
        )
    _show(done, json)
    if follow:
        output.remark(_QUIET)


@command(
    _group,
    "from-postgres",
    "langgraph-sqlite from-postgres postgresql://me@db/agents agent.db",
    resumable=True,
)
def from_postgres(
    uri: Uri,
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE", help="The file; made where it is missing.", autocompletion=file_names
        ),
    ],
    thread: Threads = None,
    verify: Verify = False,
    follow: Follow = False,
    key_env: KeyEnv = None,
    json: Json = False,
) -> None:
    """Copy threads of PostgresSaver's tables into a file.

    Postgres is not changed. Doing it again brings what came since.
    """
    from ..transfer import from_postgres

    with output.progress("copying", quiet=json, unit="checkpoints") as report:
        done = from_postgres(
            uri,
            file,
            threads=thread or None,
            serde=_serde(key_env),
            verify=verify,
            follow=follow,
            progress=report,
        )
    _show(done, json)
    if follow:
        output.remark(_QUIET)


def _serde(key_env: str | None) -> SerializerProtocol | None:
    from .files import encrypted

    return None if key_env is None else encrypted(key_env)


def _show(done: Transferred, json: bool) -> None:
    figures = asdict(done)
    if json:
        output.document(figures)
        return
    rows = [
        (_WORDS[name], output.size(value) if name.startswith("bytes") else value)
        for name, value in figures.items()
        if name in _WORDS and (value or name != "deleted")
    ]
    output.table(("figure", "value"), rows, " r")
