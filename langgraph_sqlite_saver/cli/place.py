"""The options that the relay's commands share: its file, its Redis, its settings."""

from __future__ import annotations

import inspect
import os
import re
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Annotated, Any

import typer

from ..database import CannotOpenError, Database, InvalidInputError
from ..database.migrations import applied_version
from ..database.names import check_path
from ..relay import RedisUnavailableError, RelayStore, settings
from ..relay.schema import SCHEMA
from . import options
from .options import PROBLEM, USAGE, Json, fail, read_env_file, read_only, without_password

_REDIS_OPTIONS: dict[str, Any] = {
    "redis_url": Annotated[
        str | None,
        typer.Option(
            "--redis-url",
            metavar="URL",
            help="redis://[user:password@]host:port/db, rediss:// or unix://"
            "  [default: REDIS_URL, or REDIS_HOST and so on]",
        ),
    ],
    "cluster": Annotated[
        bool, typer.Option("--cluster", help="Redis is a cluster, and the URL one of its nodes.")
    ],
}
_FILE_OPTIONS: dict[str, Any] = {
    "db": Annotated[
        str | None,
        typer.Option(
            "--db",
            metavar="FILE",
            help="The SQLite file.  [default: SQLITE_DB_PATH, or ./data/relay-service.db]",
        ),
    ],
    "env_file": Annotated[
        Path | None,
        typer.Option(
            "--env-file",
            metavar="FILE",
            help="Take the settings from the relay's .env instead of the environment;"
            " a relative SQLITE_DB_PATH, and the place of backups, begin where it lies.",
        ),
    ],
}
_JSON_OPTION: dict[str, Any] = {"json": Json}
_FLAGS = {"cluster", "json"}


@dataclass(frozen=True)
class Place:
    """Where the data is, and who reads the answer: what the shared options say."""

    arguments: Mapping[str, Any]
    json: bool
    base: Path = Path()  # where relative paths of the settings begin

    @classmethod
    def of(
        cls,
        redis_url: str | None = None,
        cluster: bool = False,
        db: str | None = None,
        env_file: Path | None = None,
        json: bool = False,
    ) -> Place:
        """From the options, and from the environment what they do not say."""
        given = {"path": db, "redis_url": redis_url, "cluster": cluster, "heal": False}
        try:
            environ = os.environ if env_file is None else read_env_file(env_file)
            chosen_url = {} if redis_url is None else {"REDIS_URL": redis_url}
            found = settings.from_environment({**environ, **chosen_url})
            check_path(str(db or found["path"]))
        except ValueError as error:  # InvalidInputError among them
            fail(str(error), USAGE)
        if str(db or found["path"]).startswith(("file:", ":memory:")):
            fail("--db is the path of a file", USAGE)
        base = Path() if env_file is None else env_file.parent
        if env_file is not None and found["path"] is not None:
            found["path"] = base / found["path"]
        chosen = {name: value for name, value in given.items() if value is not None}
        return cls({**found, **chosen}, json, base)

    @property
    def path(self) -> Path:
        """The SQLite file's path."""
        if self.arguments["path"] is None:
            raise RelayStore.without_sqlite()
        return Path(self.arguments["path"])

    @property
    def redis_name(self) -> str:
        """The Redis URL as it may be shown."""
        return without_password(self.arguments["redis_url"] or "")

    @property
    def zone(self) -> timezone:
        """The relay's time zone, in which days and hours are counted."""
        return timezone(timedelta(hours=self.arguments["timezone_offset"]))

    def store(self, **overrides: Any) -> RelayStore:
        """A store that heals nothing by itself; it makes the file where it is missing."""
        arguments = {**self.arguments, **overrides}
        if arguments["path"] is None:
            raise RelayStore.without_sqlite()
        try:
            return RelayStore(**arguments)
        except InvalidInputError as error:
            fail(str(error), USAGE)

    def existing(self, **overrides: Any) -> RelayStore:
        """As `store`, for a file that is there and is a relay's; raises for any other."""
        self.check_file()
        return self.store(**overrides)

    def check_file(self) -> None:
        """Raise unless the file is there and holds a relay's tables."""
        path = self.path
        find(path)
        with Database(read_only(path)) as database:
            if not database.read(applied_version, SCHEMA):
                raise CannotOpenError(f"{path} holds no relay's tables: name another with --db.")

    def time(self, text: str | None) -> datetime | None:
        """A time as ISO 8601; in the relay's time zone unless it names one."""
        if text is None:
            return None
        try:
            when = datetime.fromisoformat(re.sub("[zZ]$", "+00:00", text))
        except ValueError:
            fail(f"{text!r} is no time: as 2026-11-21, or 2026-11-21T08:30:00+08:00", USAGE)
        return when if when.tzinfo else when.replace(tzinfo=self.zone)

    def need_yes(self, yes: bool) -> None:
        """End with a usage error where nobody can be asked and nobody has said yes."""
        options.need_yes(yes, self.json, "say --yes, or look first with --dry-run")

    def ask(self, question: str, yes: bool) -> None:
        """Go on if the answer is yes."""
        options.ask(question, yes)


def find(path: Path) -> os.stat_result:
    """What the system says of a file; raises CannotOpenError unless there is one to be read."""
    try:
        found = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        raise CannotOpenError(
            f"{path} does not exist. Name the file with --db or SQLITE_DB_PATH; "
            "`langgraph-sqlite relay import-redis` makes one."
        ) from None
    except OSError as error:
        raise CannotOpenError(f"{path}: {error.strerror}. {_AS_OWNER}") from error
    if stat.S_ISDIR(found.st_mode):
        raise CannotOpenError(f"{path} is a directory. Name a file with --db or SQLITE_DB_PATH.")
    if not os.access(path, os.R_OK):
        raise CannotOpenError(f"{path} may not be read by this user. {_AS_OWNER}")
    return found


_AS_OWNER = "Run this as the user whose file it is, or name another with --db."


@contextmanager
def reported(place: Place) -> Iterator[None]:
    """Our errors as a line on stderr, without a traceback; Redis' with its name."""
    with options.reported():
        try:
            yield
        except RedisUnavailableError as error:
            fail(f"{error} ({place.redis_name})", PROBLEM)


Function = Callable[..., None]


def command(
    group: typer.Typer, name: str, example: str, *, redis: bool = True, json: bool = True
) -> Callable[[Function], Function]:
    """Add a command to a group: a function of a `Place` and of its own options.

    `redis` and `json` say whether it has the options for those. The example is shown by --help.
    """
    shared = {
        **(_REDIS_OPTIONS if redis else {}),
        **_FILE_OPTIONS,
        **(_JSON_OPTION if json else {}),
    }

    def add(function: Function) -> Function:
        def run(**given: Any) -> None:
            place = Place.of(**{each: given.pop(each) for each in shared})
            with reported(place):
                function(place, **given)

        own = list(inspect.signature(function, eval_str=True).parameters.values())[1:]
        parameters = [*own, *(_keyword(each, kind) for each, kind in shared.items())]
        run.__doc__ = function.__doc__
        run.__annotations__ = {each.name: each.annotation for each in parameters}
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        group.command(name, epilog=f"\b\nExample:\n  {example}")(run)
        return function

    return add


def _keyword(name: str, annotation: Any) -> inspect.Parameter:
    default = False if name in _FLAGS else None
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation
    )
