"""Which files are looked into, and what is said of others."""

from __future__ import annotations

import os
import random
import sqlite3
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from shutil import copyfile
from types import SimpleNamespace
from typing import Any

import pytest
from savers.helpers import chain, names, official_saver
from typer.testing import CliRunner

from langgraph_sqlite_saver import SqliteSaver
from langgraph_sqlite_saver.cli import completion, make_app
from langgraph_sqlite_saver.cli.files import look
from langgraph_sqlite_saver.database import Database
from langgraph_sqlite_saver.relay.schema import SCHEMA

from .conftest import Cli

COMMANDS = [
    ["threads"], ["show", "t"], ["state", "t"], ["diff", "t"], ["stats"], ["check"], ["migrations"],
    ["compact"], ["optimize"], ["prune", "t", "--yes"], ["expire", "--older-than=1d", "--yes"],
    ["delete", "t", "--yes"], ["copy", "t", "u"], ["backup", "b.db"],
]  # fmt: skip


@pytest.fixture(params=COMMANDS, ids=lambda args: args[0])
def command(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> list[str]:
    """Each command, in an empty directory, without its FILE."""
    monkeypatch.chdir(tmp_path)
    return request.param  # type: ignore[no-any-return]


def said(cli: Cli, command: list[str], path: Path) -> str:
    """The line that a command ends with on a file that it leaves alone."""
    before = path.read_bytes() if path.is_file() else None
    existed = names(path.parent)
    line = cli.problem(command[0], path, *command[1:])
    assert names(path.parent) == existed
    assert before is None or path.read_bytes() == before
    return line


def test_missing_files(cli: Cli, command: list[str], tmp_path: Path) -> None:
    """A file that is not there is not made; the line names those that are."""
    (tmp_path / "agents.db").touch()
    assert "agents.db" in said(cli, command, tmp_path / "agent.db")


def test_official_files(cli: Cli, command: list[str], tmp_path: Path) -> None:
    """A file of the official saver is left as it is; the line names the command that imports it."""
    with official_saver(tmp_path / "old.db") as saver:
        chain(saver, 2)
    line = said(cli, command, tmp_path / "old.db")
    assert f"langgraph-sqlite import {tmp_path / 'old.db'} NEW" in line
    (tmp_path / "old.db").rename(tmp_path / "an old.db")
    line = said(cli, command, tmp_path / "an old.db")
    assert f"langgraph-sqlite import '{tmp_path / 'an old.db'}' NEW" in line


def test_relay_files(cli: Cli, command: list[str], tmp_path: Path) -> None:
    """A relay's file holds no checkpoints, and is said to be one."""
    with Database(tmp_path / "relay.db", schemas=[SCHEMA]) as database:
        database.open()
    assert "a relay's data and no checkpoints" in said(cli, command, tmp_path / "relay.db")


def test_other_files(cli: Cli, command: list[str], tmp_path: Path) -> None:
    """Other databases, empty files, texts and directories are left as they are."""
    with closing(sqlite3.connect(tmp_path / "other.db")) as conn:
        conn.execute("CREATE TABLE t (a)")
        conn.commit()
    (tmp_path / "empty.db").touch()
    (tmp_path / "text.db").write_text("no database at all, but a text of some length\n" * 50)
    (tmp_path / "folder.db").mkdir()
    for name in ("other", "empty"):
        assert "holds no checkpoints" in said(cli, command, tmp_path / f"{name}.db")
    line = said(cli, command, tmp_path / "text.db")
    assert "not a database" in line and "file://" not in line
    assert "is a directory" in said(cli, command, tmp_path / "folder.db")


@pytest.mark.parametrize("target", [":memory:", "file:agent.db"])
def test_what_is_no_path(cli: Cli, target: str) -> None:
    """URIs and memory are no files."""
    assert "path of a file" in cli.problem("threads", target, status=2)


@pytest.mark.parametrize("name", ["a b.db", "50%25.db", "what?mode=rw#x.db", "研究.db", "'\";.db"])
def test_any_name(cli: Cli, tmp_path: Path, name: str) -> None:
    """A file may have any name, at rest and in use."""
    path = tmp_path / name
    with SqliteSaver(path) as saver:
        chain(saver, 2)
        assert len(cli.json("threads", path)["threads"]) == 1
    assert len(cli.json("threads", path)["threads"]) == 1
    assert cli("check", path) == "No damage was found.\n" and names(tmp_path) == [name]


@pytest.mark.parametrize("kind", ["pipe", "device", "link to itself"])
def test_what_cannot_be_opened(cli: Cli, command: list[str], tmp_path: Path, kind: str) -> None:
    """Other things than files are a line; a named pipe is not waited for."""
    path = tmp_path / "agent.db"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path = Path(os.devnull)
    else:
        path.symlink_to(path)
    assert str(path) in cli.problem(command[0], path, *command[1:])


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is closed to root")
def test_closed_folders(cli: Cli, example: Path, tmp_path: Path) -> None:
    """A file that this user may not see is not said to be missing."""
    copyfile(example, tmp_path / "agent.db")
    tmp_path.chmod(0o000)
    try:
        assert "Permission denied" in cli.problem("threads", tmp_path / "agent.db")
    finally:
        tmp_path.chmod(0o700)


@pytest.mark.parametrize("in_use", [True, False])
def test_links(cli: Cli, tmp_path: Path, in_use: bool) -> None:
    """Through a link the file is read with its -wal, which is not beside the link."""
    (tmp_path / "links").mkdir()
    link = tmp_path / "links" / "agent.db"
    link.symlink_to(tmp_path / "real.db")
    with SqliteSaver(tmp_path / "real.db") as saver:
        chain(saver, 2, thread="before")
    expected = {"before"}
    with SqliteSaver(tmp_path / "real.db") as saver:
        if in_use:
            chain(saver, 3, thread="since")
            expected = {"before", "since"}
        found = cli.json("threads", link)["threads"]
        assert {each["thread_id"] for each in found} == expected
        assert (cli.json("stats", link)["wal_bytes"] > 0) is in_use
        cli("backup", link, tmp_path / "copy.db")
        assert thread_ids(tmp_path / "copy.db") == expected
        context: Any = SimpleNamespace(params={"file": link})
        assert set(completion.thread_ids(context, "")) == expected
    assert names(link.parent) == ["agent.db"]


def thread_ids(path: Path) -> set[str]:
    with SqliteSaver(path) as saver:
        return {each.thread_id for each in saver.threads()}


@pytest.mark.parametrize("ever", [True, False])
def test_a_file_that_is_written_meanwhile(tmp_path: Path, ever: bool) -> None:
    """What was read while somebody wrote is read again; one who never stops is not waited for."""
    path = tmp_path / "agent.db"
    with SqliteSaver(path) as saver:
        chain(saver, 1, thread="0")
    calls = 0

    def gather(saver: SqliteSaver) -> int:
        nonlocal calls
        calls += 1
        found = len(saver.threads())
        if ever or calls == 1:
            with SqliteSaver(path) as other:
                chain(other, 1, thread=str(calls))
        return found

    found = look(path, gather, None)
    assert (found, calls) == ((4, 4) if ever else (2, 2))


def test_arguments_that_are_not_utf8(cli: Cli, example: Path) -> None:
    """No file holds such a thread; what was given is shown escaped."""
    other = os.fsdecode(b"\xff")
    for args in (["show", example, other], ["delete", example, "house", other, "--yes"]):
        process = cli.process(*args)
        out, errors = process.communicate(timeout=30)
        assert (process.returncode, out) == (2, b"")
        assert errors == b"this argument is not UTF-8: \\udcff\n"


RUINS: list[object] = [
    None, -1, 2**63 - 1, 1.5, "", "x", "\x1b[2J", "[]", "null", '{"a":1}', b"", b"\xff\xfe",
    '{"channel_values":{"a":1},"channel_versions":{"a":[1]},"versions_seen":3}', b"\x91" * 2000,
    "msgpack+aes", "diff:msgpack", "~__pregel_push, 99", '{"step":"x","source":[1],"parents":[]}',
]  # fmt: skip


def ruin_values(path: Path, chance: random.Random) -> None:
    """Put something else into some columns."""
    with closing(sqlite3.connect(path)) as conn:
        for _ in range(chance.randint(1, 6)):
            table = chance.choice(["checkpoints", "checkpoint_blobs", "checkpoint_writes"])
            columns = [each[1] for each in conn.execute(f"PRAGMA table_info({table})")]
            (rowid,) = chance.choice(conn.execute(f"SELECT rowid FROM {table}").fetchall())
            change = f"UPDATE {table} SET {chance.choice(columns)} = ? WHERE rowid = ?"
            with suppress(sqlite3.IntegrityError):
                conn.execute(change, (chance.choice(RUINS), rowid))
        conn.commit()


def ruin_bytes(path: Path, chance: random.Random) -> None:
    """Change some bytes of the file, behind its header."""
    content = bytearray(path.read_bytes())
    for _ in range(chance.randint(1, 40)):
        content[chance.randrange(100, len(content))] = chance.randrange(256)
    path.write_bytes(content)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("ruin", [ruin_values, ruin_bytes])
def test_ruined_files(
    cli: Cli, own: Path, ruin: Callable[[Path, random.Random], None], seed: int
) -> None:
    """Whatever a file holds, commands end with an answer or a line, and command no terminal."""
    ruin(own, random.Random(seed))
    for args in (
        ["threads"], ["show", "house", "--subgraphs"], ["state", "house", "--all"], ["stats"],
        ["diff", "house", "HEAD~3"], ["state", "objects", "--json"], ["check"], ["compact"],
        ["expire", "--older-than=1d", "--dry-run"], ["copy", "house", "new"],
        ["prune", "house", "--yes"], ["prune", "--all", "--yes"], ["delete", "failed", "--yes"],
    ):  # fmt: skip
        result = CliRunner().invoke(make_app(), [args[0], str(own), *args[1:]])
        assert isinstance(result.exception, (SystemExit, type(None))), result.exception
        assert result.exit_code in (0, 1)
        assert all(line.isprintable() for line in result.output.splitlines())


@pytest.mark.parametrize("command", ["threads", "stats", "check", "compact", "import"])
def test_a_url_given_as_a_file_is_named(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    """With the path to give instead, though it has lost a slash on the way."""
    monkeypatch.chdir(tmp_path)
    others = ["new.db"] if command == "import" else []
    said = cli.problem(command, "sqlite:///agent.db", *others)
    assert said.endswith("is SQLAlchemy's URL of an SQLite file: pass the path itself, 'agent.db'")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", ["stats", "import-redis", "restore-backup"])
def test_a_url_in_the_relays_settings_is_named(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    """Before anything is made."""
    monkeypatch.chdir(tmp_path)
    others = ["backup.db.gz", "--yes"] if command == "restore-backup" else []
    env = {"SQLITE_DB_PATH": "sqlite:///data/relay.db"}
    assert "'data/relay.db'" in cli.problem("relay", command, *others, status=2, **env)
    assert list(tmp_path.iterdir()) == []
