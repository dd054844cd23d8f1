"""Texts that look like a path and are something else: URLs, "~", other systems' paths.

As paths they would fail with an error about a directory, or make a file that nobody looks for.
"""

from __future__ import annotations

import os
import re

from .errors import InvalidInputError

_URL = re.compile(r"([a-z][a-z0-9+.-]+):(/{0,2})", re.IGNORECASE)
# The schemes that databases are named by; what is said of them, without host and password.
_DATABASES = {
    "sqlite": "SQLAlchemy's URL of an SQLite file",
    "sqlite3": "a URL of an SQLite file",
    "libsql": "a libSQL server",
    "postgres": "a PostgreSQL server",
    "postgresql": "a PostgreSQL server",
    "mysql": "a MySQL server",
    "mariadb": "a MariaDB server",
    "mongodb": "a MongoDB server",
    "redis": "a Redis server",
    "rediss": "a Redis server",
}
_WINDOWS = re.compile(r"/?[a-z]:[\\/]", re.IGNORECASE)
_HERE = "the path of an SQLite file"


def check_path(text: str) -> None:
    """Raise InvalidInputError, with what to pass instead, for a text that is not meant as a path.

    A password in it is not repeated.
    """
    if url := _URL.match(text):
        _check_url(text, url)
    _check_windows(text, text)
    if text[:1] in ("~", "$"):
        expanded = os.path.expandvars(os.path.expanduser(text))  # noqa: PTH111
        if expanded != text and (os.sep in text or text == "~"):
            raise InvalidInputError(
                f"{text}: {text[0]!r} is expanded by shells, not here: pass {expanded!r}. "
                f"(A file that is really named so is {os.path.join('.', text)!r}.)"  # noqa: PTH118
            )


def check_uri(uri: str, host: str, path: str) -> None:
    """The same for the parts of a `file:` URI."""
    if host not in ("", "localhost"):
        raise InvalidInputError(
            f"{uri}: between file:// and the next slash stands a host, and SQLite opens no other "
            f"host's files. A file here is file:{host}{path}, or file:///… with its whole path; "
            "a network share has to be mounted, and its path passed"
        )
    _check_windows(path, uri)


def _check_url(text: str, url: re.Match[str]) -> None:
    scheme, slashes = url[1].lower(), url[2]
    known = _DATABASES.get(scheme.split("+")[0])
    if known is None:
        if slashes == "//":
            raise InvalidInputError(f"{scheme}://… is a URL: pass {_HERE}")
    elif scheme.startswith("sqlite"):
        rest = text[url.end() :].split("?")[0]
        path = rest.removeprefix("/") if slashes == "//" else rest
        raise InvalidInputError(f"{text} is {known}: pass the path itself, {path or ':memory:'!r}")
    elif slashes:
        raise InvalidInputError(f"{scheme}://… is {known}: pass {_HERE}")


def _check_windows(path: str, name: str) -> None:
    if os.name != "nt" and _WINDOWS.match(path):
        raise InvalidInputError(f"{name} is a path of Windows: pass one of this system")
