"""What every command takes, and what becomes of its errors."""

from __future__ import annotations

import functools
import os
import re
import shlex
import sqlite3
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from enum import Enum
from pathlib import Path
from typing import Annotated, NoReturn
from urllib.parse import unquote, urlsplit

import typer

from . import NAME, output

PROBLEM = 1
USAGE = 2
STOPPED = 130  # what shells expect after Ctrl-C


class Vacuum(str, Enum):
    """How free pages are given back."""

    incremental = "incremental"
    full = "full"


Json = Annotated[
    bool, typer.Option("--json", help="Write one JSON document, and nothing else, to stdout.")
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be done; change nothing.")]
KeyEnv = Annotated[
    str | None,
    typer.Option(
        "--key-env",
        metavar="NAME",
        help="The environment variable that holds the AES key of enciphered values.",
    ),
]


def read_only(path: Path, *, at_rest: bool = False) -> str:
    """The URI that opens a file for reading only; at rest, as one that nobody writes.

    To read a file in WAL mode SQLite makes a -wal and a -shm, and a reader leaves them behind.
    """
    return f"{_itself(path).as_uri()}?{'immutable=1' if at_rest else 'mode=ro'}"


def is_at_rest(path: Path) -> bool:
    """Whether SQLite has nothing beside a file: no part of what it holds, and nobody who writes."""
    return not (_beside(path, "-wal").exists() or _beside(path, "-journal").exists())


def size_on_disk(path: Path) -> int:
    """How large a file is with what SQLite has beside it and moves into it later; 0 without it."""
    files = (path, _beside(path, "-wal"))
    return sum(each.stat().st_size for each in files if each.exists())


def _beside(path: Path, ending: str) -> Path:
    return Path(f"{_itself(path)}{ending}")


def _itself(path: Path) -> Path:
    # SQLite's files are beside this one, and not beside a link to it.
    return Path(os.path.realpath(path))


def read_env_file(path: Path) -> dict[str, str]:
    """The variables of a `.env`: KEY=VALUE lines, quotes and comments as dotenv has them.

    Raises ValueError for a file that cannot be read, or is no text.
    """
    try:
        content = path.read_text(encoding="utf-8-sig", errors="surrogateescape")
    except OSError as error:
        reason = f"{error.strerror}: name the relay's .env, as a user who may read it"
        raise ValueError(f"--env-file {path}: {reason}") from error
    if "\0" in content:
        raise ValueError(f"--env-file {path}: no text in UTF-8: name the relay's .env")
    found = {}
    for line in content.splitlines():
        match = _VARIABLE.match(line)
        if match:
            found[match[1]] = next((part for part in match.groups()[1:] if part is not None), "")
    return found


_VARIABLE = re.compile(
    r"""\s*(?:export\s+)?([\w.-]+)\s*=\s*
    (?:"([^"]*)"|'([^']*)'|`([^`]*)`|([^#]*?))\s*(?:\#.*)?$""",
    re.VERBOSE,
)


def without_password(url: str) -> str:
    """A Redis URL as it may be shown: which server and which database."""
    try:
        parts = urlsplit(url)
        _ = parts.port  # raises where what stands there is none
    except ValueError:
        return "(a URL that cannot be read)"
    if "@" in f"{parts.path}{parts.query}{parts.fragment}":  # a password that is not quoted
        return f"{parts.scheme}://(hidden)"
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def typed(command: str, path: Path) -> str:
    """A command on a file, as it is to be typed."""
    return f"{NAME} {command} {shlex.quote(str(path))}"


def fail(text: str, status: int) -> NoReturn:
    """End the command with a line on stderr, or several."""
    for line in text.split("\n"):
        output.remark(line)
    raise typer.Exit(status)


def need_yes(yes: bool, json: bool, instead: str = "say --yes") -> None:
    """End with a usage error where nobody can be asked and nobody has said yes."""
    if not yes and (json or not sys.stdin.isatty()):
        fail(f"nobody can be asked here: {instead}", USAGE)


def ask(question: str, yes: bool) -> None:
    """Go on if the answer is yes."""
    try:
        sure = yes or typer.confirm(output.clean(question), err=True)
    except typer.Abort:  # Ctrl-C or Ctrl-D, on the question's line
        output.remark("")
        sure = False
    if not sure:
        fail("Nothing was changed.", PROBLEM)


@contextmanager
def reported(resumable: bool = False) -> Iterator[None]:
    """Our errors, and Ctrl-C, as a line on stderr, without a traceback."""
    try:
        yield
    except BrokenPipeError:
        raise
    except KeyboardInterrupt:
        fail(f"Stopped.{' The same command goes on from here.' if resumable else ''}", STOPPED)
    except (OSError, sqlite3.Error) as error:
        fail(for_a_terminal(_named(error)), PROBLEM)
    except MemoryError:
        fail("This takes more memory than there is: give --limit, or one checkpoint.", PROBLEM)
    except Exception as error:
        from ..database import StorageError

        if not isinstance(error, StorageError):
            raise
        fail(for_a_terminal(str(error)), PROBLEM)


def _named(error: Exception) -> str:
    """An error of the system's with its file and without its number."""
    if isinstance(error, OSError) and error.filename and error.strerror:
        return f"{os.fsdecode(error.filename)}: {error.strerror}. See that this user may go there."
    return str(error)


# What the library's errors say that want a key.
GIVE_KEY = "Give the serde, and the key, that it was saved with."
_URI = re.compile(r"file://(/.*?)\?(?:mode=ro|immutable=1)")


def for_a_terminal(text: str) -> str:
    """An error's text with paths, not the URIs that files are opened with, and with our options."""
    text = text.replace(GIVE_KEY, "It takes the key that it was saved with: --key-env NAME.")
    text = text.replace("(even_if_lost)", "(--even-if-lost)")
    return _URI.sub(lambda match: unquote(match[1]), text)


Function = Callable[..., None]


def command(
    group: typer.Typer, name: str, example: str, *, resumable: bool = False
) -> Callable[[Function], Function]:
    """Add a command to a group; its errors are a line, and the example is shown by --help.

    A `resumable` one, stopped, goes on where it was when it is called again.
    """

    def add(function: Function) -> Function:
        @functools.wraps(function)
        def run(**given: object) -> None:
            _refuse_other_text(given.values())
            with reported(resumable):
                function(**given)

        group.command(name, epilog=f"\b\nExample:\n  {example}")(run)
        return function

    return add


def _refuse_other_text(arguments: Iterable[object]) -> None:
    """End with a usage error for text that is not UTF-8, and so is in no database."""
    for each in arguments:
        for one in each if isinstance(each, list) else [each]:
            if isinstance(one, (str, Path)) and _SURROGATE.search(str(one)):
                fail(f"this argument is not UTF-8: {one}", USAGE)


_SURROGATE = re.compile("[\ud800-\udfff]")  # what Python makes of bytes that are not UTF-8


# Arguments that are times.

_AGE = re.compile(r"(\d+(?:\.\d+)?)\s*(min|h|d|w)", re.IGNORECASE)
_SECONDS = {"min": 60, "h": 3600, "d": 24 * 3600, "w": 7 * 24 * 3600}


def age(text: str, option: str) -> datetime:
    """The moment that "30d", "12h", "90min", "2w" ago was, or that an ISO 8601 time names (UTC)."""
    match = _AGE.fullmatch(text.strip())
    try:
        if match:
            past = timedelta(seconds=float(match[1]) * _SECONDS[match[2].lower()])
            return datetime.now(timezone.utc) - past
        moment = datetime.fromisoformat(re.sub("[zZ]$", "+00:00", text.strip()))
        return moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)
    except (ValueError, OverflowError):
        fail(f"{option} {text!r} is no age or time: as 30d, 12h, 90min, 2w, or 2026-11-21", USAGE)
