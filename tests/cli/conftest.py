"""Commands on files that real graphs wrote."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from shutil import copyfile
from typing import Any

import pytest
from typer.testing import CliRunner

from langgraph_sqlite_saver import SqliteSaver
from langgraph_sqlite_saver.cli import make_app

from . import graphs

ESCAPE = "\x1b"


class Cli:
    """Runs commands, here or in a process of their own."""

    errors = ""

    def __call__(self, *args: str | Path, status: int = 0, **env: str) -> str:
        """The stdout of a command that ends with this status; its stderr is in `errors`."""
        result = CliRunner().invoke(make_app(), list(map(str, args)), env=env)
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        self.errors = result.stderr
        assert result.exit_code == status, (result.stdout, result.stderr)
        assert ESCAPE not in result.stdout + result.stderr
        return result.stdout

    def json(self, *args: str | Path, status: int = 0, **env: str) -> Any:
        """The JSON document that a command writes to stdout."""
        return json.loads(self(*args, "--json", status=status, **env))

    def problem(self, *args: str | Path, status: int = 1, **env: str) -> str:
        """The one line that a command ends with that does nothing else."""
        assert self(*args, status=status, **env) == ""
        assert self.errors.count("\n") == 1, self.errors
        return self.errors.strip()

    def process(self, *args: str | Path, **options: Any) -> subprocess.Popen[bytes]:
        """The same by the installed script."""
        script = Path(sys.executable).with_name("langgraph-sqlite")
        defaults: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen([script, *args], **{**defaults, **options})

    def terminal(self, *args: str | Path, typed: bytes = b"", status: int = 0) -> str:
        """What a terminal of 80 columns shows of a command."""
        mine, theirs = pty.openpty()
        env = {**os.environ, "TERM": "xterm", "COLUMNS": "80"}
        process = self.process(*args, stdin=theirs, stdout=theirs, stderr=theirs, env=env)
        os.close(theirs)
        os.write(mine, typed)
        shown = b""
        with suppress(OSError):  # on Linux a terminal that nobody has open any more is an error
            while part := os.read(mine, 4096):
                shown += part
        os.close(mine)
        assert process.wait(30) == status, shown
        return shown.decode()


@pytest.fixture
def cli() -> Cli:
    """Commands."""
    return Cli()


@pytest.fixture(scope="session")
def example_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the example's file is, and the module that its writer had."""
    folder = tmp_path_factory.mktemp("example")
    with SqliteSaver(folder / "agent.db") as saver:
        graphs.run_forked(saver)
        graphs.write_objects(saver, folder)
        graphs.write_failure(saver)
    return folder


@pytest.fixture(scope="session")
def example(example_folder: Path) -> Path:
    """A file of three threads, for tests that only look."""
    return example_folder / "agent.db"


@pytest.fixture
def own(example: Path, tmp_path: Path) -> Path:
    """A copy of the example, for tests that change it."""
    copyfile(example, tmp_path / "agent.db")
    return tmp_path / "agent.db"


@pytest.fixture
def unchanged(example: Path) -> Callable[[], bool]:
    """Tells whether the example and its folder are as they were."""

    def looks() -> dict[str, bytes]:
        return {each.name: each.read_bytes() for each in example.parent.iterdir() if each.is_file()}

    before = looks()
    return lambda: looks() == before


def cells(table: str) -> list[list[str]]:
    """The rows of a table that was printed plain, but for its headings; empty cells fall out."""
    return [re.split(" {2,}", row.strip()) for row in table.splitlines()[1:]]
