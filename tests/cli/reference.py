"""Writes docs/cli.md from the commands' own help: `python tests/cli/reference.py`."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import typer
from typer.main import get_command
from typer.testing import CliRunner

from langgraph_sqlite_saver.cli import NAME, make_app

# Who lays help out; another release does it otherwise.
LAYOUT = f"typer {'.'.join(version('typer').split('.')[:2])}"
PAGE = Path(__file__).parents[2] / "docs" / "cli.md"

_HEAD = f"""\
# The command line

`pip install 'langgraph-sqlite-saver[cli]'` brings `{NAME}`; with `[cli,postgres]` it moves
threads to Postgres, and with `[relay]` it looks after [a relay's data](relay.md).

* Results go to stdout, everything else to stderr. In a pipe there is plain text, nothing of it cut;
  `--json` gives one JSON document.
* The exit status is 0 if all is well, 1 if a problem was found, 2 for wrong usage,
  130 after Ctrl-C.
* Looking only reads: `threads`, `show`, `state`, `diff`, `stats`, `check` and `backup` leave the
  file and its directory as they are (where there is a -wal, SQLite keeps a -shm beside it), and may
  be used while others write. Nothing that a file names is imported or run: objects are shown by
  what they were made of, pickled values not at all.
* An argument that begins with "-" comes after `--`: `{NAME} show agent.db -- --my-thread`.
* What deletes asks first. Where nobody can be asked, it takes `--yes`.
* `{NAME} --install-completion` makes the shell complete commands, options and thread ids.

In JSON an object is `{{"@type": "module.Class", …}}` with its fields, or with `"@args"`; bytes are
`{{"@bytes": "hexadecimal"}}`, NaN and infinities `{{"@float": "nan"}}`, maps with keys that are no
text or begin with "@" `{{"@map": [[key, value], …]}}`, and what is not read
`{{"@opaque": "why", "bytes": n}}`.

What follows is what `--help` says. (Written by `python tests/cli/reference.py`, {LAYOUT}.)
"""


def commands() -> dict[str, list[str]]:
    """All commands, those of groups too, as they are typed, with their options."""
    return {
        name: [each for parameter in command.params for each in parameter.opts if "--" in each]
        for name, command in _all()
    }


def _all() -> Iterator[tuple[str, Any]]:
    root: Any = get_command(make_app())
    yield from _below(root, typer.Context(root), "")


def _below(command: Any, context: typer.Context, name: str) -> Iterator[tuple[str, Any]]:
    yield name, command
    if hasattr(command, "list_commands"):
        for each in command.list_commands(context):
            found = command.get_command(context, each)
            yield from _below(found, context, f"{name} {each}".strip())


def page() -> str:
    """The text of docs/cli.md."""
    parts = [_HEAD]
    for name in commands():
        result = CliRunner().invoke(make_app(), [*name.split(), "--help"], prog_name=NAME)
        title = f"{NAME} {name}".strip()
        level = "##" if len(name.split()) < 2 else "###"
        parts.append(f"{level} {title}\n\n```text\n{result.stdout.strip()}\n```\n")
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
