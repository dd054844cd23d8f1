"""Terminals, pipes, completion, and what is imported when."""

from __future__ import annotations

import json
import os
import pty
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from savers.helpers import converse, expect, save
from typer.testing import CliRunner

from langgraph_sqlite_saver import SqliteSaver
from langgraph_sqlite_saver.cli import completion, make_app

from .conftest import ESCAPE, Cli
from .reference import commands


def run(code: str, *args: str, **env: str) -> subprocess.CompletedProcess[str]:
    """A Python program in a process of its own."""
    return subprocess.run(
        [sys.executable, "-c", code, *args],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, **env},
    )


# Terminals and pipes.


def test_a_history_on_a_terminal(cli: Cli, example: Path) -> None:
    """On a terminal ids are short, lines fit, and what waits for an answer stands out."""
    shown = cli.terminal("show", example, "house")
    assert ESCAPE in shown and "├─● " in shown and "\x1b[33m" in shown
    plain = re.sub("\x1b\\[[0-9;]*m", "", shown)
    assert max(map(len, plain.splitlines())) <= 80
    ids = re.findall(r"● (\w+)", plain)
    assert len(ids) == 9 and {len(each) for each in ids} == {8}
    for each in ids:
        assert cli.json("state", example, "house", each)["checkpoint_id"].endswith(each)
    assert "2026" in cli.terminal("show", example, "house", "--full")


def test_long_values_on_a_terminal(cli: Cli, tmp_path: Path) -> None:
    """On a terminal they are cut, which is said; with --full they are not."""
    with SqliteSaver(tmp_path / "l.db") as saver:
        save(saver, 1, {"text": "y" * 5000, "many": list(range(1000)), "raw": b"z" * 5000})
    shown = cli.terminal("state", tmp_path / "l.db", "t")
    assert "(4,700 more characters)" in shown and "980 more items" in shown
    assert "(5,000 bytes)" in shown and "999" in shown
    assert "more" not in cli.terminal("state", tmp_path / "l.db", "t", "--full")


def test_long_texts_that_differ_on_a_terminal(cli: Cli, tmp_path: Path) -> None:
    """diff shows both from the place where they begin to differ, and says where that is."""
    path = tmp_path / "long.db"
    sides = {"text": ("x" * 200 + " cat " + "y" * 200, "x" * 200 + " dog!"),
             "data": (bytes(200) + b"cat", bytes(200) + b"dog"),
             "short": ("cat", "dog")}  # fmt: skip
    with SqliteSaver(path) as saver:
        for at in (0, 1):
            save(saver, at + 1, {name: each[at] for name, each in sides.items()}, parent=at or None)
    printed = cli.terminal("diff", path, "t").replace("\r\n", "\n")
    around = "…'" + "x" * 19 + " "
    assert f"  - {around}cat {'y' * 36}'… (from character 182 of 405)\n" in printed
    assert f"  + {around}dog!' (from character 182 of 205)\n" in printed
    assert re.search(r"- …\S*x00cat' \(from .*\n  \+ …\S*x00dog' \(from", printed)
    assert "  - 'cat'\n  + 'dog'\n" in printed


def test_progress_on_a_terminal(cli: Cli, own: Path) -> None:
    """Long work has a bar there."""
    assert "checking" in cli.terminal("check", own)


def test_a_table_on_a_terminal(cli: Cli, example: Path) -> None:
    """JSON is the document alone, also there."""
    assert "house" in cli.terminal("threads", example)
    assert json.loads(cli.terminal("threads", example, "--json"))["total"] == 3


def test_a_pipe_gets_plain_text(cli: Cli, example: Path) -> None:
    """No colours and no bars, whatever the environment asks for; ids are whole."""
    env = {**os.environ, "FORCE_COLOR": "1", "PYTHONIOENCODING": "utf-8"}
    for args in (["show", example, "house"], ["check", example], ["state", example, "house"]):
        process = cli.process(*args, env=env)
        out, errors = process.communicate(timeout=30)
        assert process.returncode == 0 and errors == b"" and ESCAPE.encode() not in out
    assert len(re.findall("[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", out.decode())) > 2


def test_a_pipe_that_knows_no_lines(cli: Cli, example: Path) -> None:
    """Where the encoding has no line characters, the tree is drawn in ASCII."""
    env = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    out, _ = cli.process("show", example, "house", env=env).communicate(timeout=30)
    assert b"\n|-* " in out and b"\n| * " in out and b"\\u" not in out


def test_a_reader_that_goes_away(cli: Cli, example: Path) -> None:
    """`langgraph-sqlite … | head` ends without a traceback."""
    process = cli.process("state", example, "house", "--full")
    assert process.stdout and process.stderr
    process.stdout.close()
    errors = process.stderr.read()
    process.wait(30)
    process.stderr.close()
    assert b"Traceback" not in errors


def test_ctrl_c(cli: Cli, tmp_path: Path) -> None:
    """Long work ends with a line and the shell's own status; nothing is lost."""
    path = tmp_path / "full.db"
    with SqliteSaver(path, history="full") as saver:
        converse(saver, 60)
    mine, theirs = pty.openpty()
    with closing(sqlite3.connect(path)) as other:
        other.execute("BEGIN IMMEDIATE")  # so that it cannot come to its end
        process = cli.process("compact", path, stderr=theirs)
        os.close(theirs)
        shown = b""
        while b"compacting" not in shown:
            shown += os.read(mine, 4096)
        process.send_signal(signal.SIGINT)
        with suppress(OSError):
            while part := os.read(mine, 4096):
                shown += part
        out, _ = process.communicate(timeout=30)
    os.close(mine)
    assert (process.returncode, out) == (130, b"")
    assert b"Stopped. The same command goes on from here.\r\n" in shown
    assert b"Traceback" not in shown
    with SqliteSaver(path) as saver:
        expect(saver, 60)


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams(own: Path, closed: str) -> None:
    """Where a caller has closed a stream, commands work, and take it that nobody can be asked."""
    for command, status in (("threads", 0), ("show", 1), ("delete", 2)):
        thread = "" if command == "threads" else "nobody"
        line = f'"$0" -m langgraph_sqlite_saver.cli {command} "$1" {thread} {closed}'
        found = subprocess.run(
            ["sh", "-c", line, sys.executable, own],
            capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        assert (found.returncode, "Traceback" in found.stderr) == (status, False)


# Help and completion.


def test_help() -> None:
    """Each command's help fits 80 columns and shows an example; summaries are not cut."""
    assert "..." not in CliRunner().invoke(make_app(), ["--help"]).stdout.split("Commands:")[1]
    for name in commands():
        printed = CliRunner().invoke(make_app(), [*name.split(), "--help"]).stdout
        assert max(map(len, printed.splitlines())) <= 80, name
        assert f"    langgraph-sqlite {name}".rstrip() in printed.split("Example")[-1], name


BASH = shutil.which("bash")


@pytest.mark.skipif(BASH is None, reason="no bash")
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["thr"], ["threads"]),
        (["relay", "undel"], ["undelete"]),
        (["threads", "agent.db", "--sort", "s"], ["size"]),
        (["show", "agent.db", ""], ["failed", "house", "objects"]),
        (["delete", "agent.db", "ho"], ["house"]),
        (["show", "agent.db", os.fsdecode(b"\xff")], []),
        (["show", "ag"], []),
        (["backup", "agent.db", "ag"], []),
    ],
)
def test_completion(example: Path, words: list[str], expected: list[str]) -> None:
    """bash completes commands, options' values and thread ids; where nothing is offered it
    completes names of files by itself.
    """
    scripts = str(Path(sys.executable).parent)
    line = " ".join(f"'{word}'" for word in ["langgraph-sqlite", *words])
    script = f"""
        eval "$(langgraph-sqlite --show-completion bash)"
        complete -p langgraph-sqlite
        COMP_WORDS=({line}); COMP_CWORD={len(words)}
        _langgraph_sqlite_completion langgraph-sqlite
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    done = subprocess.run(
        [str(BASH), "--norc", "-c", script],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=example.parent,
        env={**os.environ, "PATH": f"{scripts}:{os.environ['PATH']}", "SHELL": "/bin/bash"},
    )
    complete, *offered = done.stdout.splitlines()
    assert "-o default" in complete and done.stderr == ""
    assert [each for each in offered if each] == expected


# Ids that mean something to a shell, or to a terminal; and some that do not.
HOSTILE = [
    "zz$(touch${IFS}PWNED)", "zz`touch PWNED`", "zz;touch PWNED", "zz&touch", "zz|touch",
    "zz>PWNED", "zz\nplain", "zz\\x", "zz'x", 'zz"x', "zz*", "zz?", "zz[a]", "zz{a,b}", "zz~",
    "zz!!", "zz x", "zz\tx", "zz\x1b]0;title\x07", "zz\u202ex", "zz\xa0x", "zz#",
    "zz^x", "zz(x)", "zz<x", "zzü",
    "zz" * 300, "-zz", "--limit=zz", "=zz", "~zz", "@zz", "%zz", ",zz", ":zz", "",
]  # fmt: skip
HARMLESS = ["+49170123", "a@b.example/inbox:7", "zz-1_2.3", "zz=1,2+3%4"]


def test_what_a_shell_could_take_for_a_command_is_not_offered(tmp_path: Path) -> None:
    """Ids are chosen by clients, and shells put what is offered on their line as it is."""
    path = tmp_path / "agent.db"
    with SqliteSaver(path) as saver:
        for each in (*filter(None, HOSTILE), *HARMLESS):
            save(saver, 1, thread=each)
    context: Any = SimpleNamespace(params={"file": path})
    assert completion.thread_ids(context, "") == HARMLESS
    for each in HOSTILE:
        assert set(completion.thread_ids(context, each)) <= set(HARMLESS)


@pytest.mark.skipif(BASH is None, reason="no bash")
def test_tab_and_enter_in_bash_run_nothing_from_a_file(tmp_path: Path) -> None:
    """In an interactive bash: the line after TAB is what was typed, and nothing was run."""
    with SqliteSaver(tmp_path / "agent.db") as saver:
        save(saver, 1, thread="zz$(touch${IFS}PWNED)")
    scripts = str(Path(sys.executable).parent)
    env = {**os.environ, "PATH": f"{scripts}:{os.environ['PATH']}", "PS1": "> ", "TERM": "dumb"}
    master, slave = pty.openpty()
    bash = subprocess.Popen(
        [str(BASH), "--norc", "--noprofile", "-i"],
        stdin=slave, stdout=slave, stderr=slave, cwd=tmp_path, env=env, start_new_session=True,
    )  # fmt: skip
    os.close(slave)
    shown = b""

    def type_and_wait(text: bytes, until: bytes) -> None:
        nonlocal shown
        os.write(master, text)
        while until not in shown:
            shown += os.read(master, 4096)
        shown = b""

    try:
        type_and_wait(b'eval "$(langgraph-sqlite --show-completion bash)"\n', b"> ")
        type_and_wait(b"echo rea''dy\n", b"ready")
        type_and_wait(b"langgraph-sqlite show agent.db zz\t", b"agent.db zz")
        type_and_wait(b"\necho do''ne\n", b"done")
    finally:
        bash.kill()
        bash.wait()
        os.close(master)
    assert [each.name for each in tmp_path.iterdir()] == ["agent.db"]


def test_completion_of_a_file_without_an_end_ends(tmp_path: Path) -> None:
    """Somebody's view in the place of the table."""
    path = tmp_path / "agent.db"
    with closing(sqlite3.connect(path)) as conn:
        conn.execute(ENDLESS.format("checkpoints"))
    context: Any = SimpleNamespace(params={"file": path})
    assert completion.thread_ids(context, "") == []


ENDLESS = """
CREATE VIEW {} AS WITH RECURSIVE n (thread_id) AS
(SELECT 1 UNION ALL SELECT thread_id + 1 FROM n) SELECT thread_id FROM n
"""


# What is imported, and what is missing.

LOADED = """
import sys
from langgraph_sqlite_saver.cli import main
try:
    main()
finally:
    print(*sys.modules, file=sys.stderr)
"""
SLOW = {"langgraph", "langchain_core", "redis", "psycopg", "asyncio", "orjson"}


def loaded(*args: str, **env: str) -> set[str]:
    """The modules that a command has imported when it ends."""
    return set(run(LOADED, *args, **env).stderr.splitlines()[-1].split())


@pytest.mark.parametrize("args", [["--help"], ["--version"], ["state", "--help"], ["prune"]])
def test_help_imports_little(args: list[str]) -> None:
    """Help needs neither LangGraph nor Redis' client, and so comes at once."""
    assert not loaded(*args) & SLOW


def test_completion_imports_little(example: Path) -> None:
    """Whoever types TAB waits for it; thread ids are read by SQLite alone."""
    words = f"langgraph-sqlite show {example} ho"
    asked = {"COMP_WORDS": words, "COMP_CWORD": "3", "_LANGGRAPH_SQLITE_COMPLETE": "complete_bash"}
    assert run(LOADED, **asked).stdout == "house\n"
    assert not loaded(**asked) & SLOW


def test_checkpoints_need_no_redis(example: Path) -> None:
    """Without redis, commands on checkpoints work; the relay's say what to install."""
    code = "import sys; sys.modules['redis'] = None; from langgraph_sqlite_saver import cli; "
    found = run(code + "cli.main()", "threads", str(example))
    assert found.returncode == 0 and "house" in found.stdout
    for args in (["relay", "stats"], ["relay", "--help"]):
        found = run(code + "cli.main()", *args)
        assert found.returncode == 2 and found.stdout == ""
        assert found.stderr == (
            "langgraph-sqlite needs redis: pip install 'langgraph-sqlite-saver[relay]'\n"
        )


@pytest.mark.parametrize("missing", ["typer", "rich", "ormsgpack"])
def test_without_the_extra(missing: str, example: Path) -> None:
    """Where the extra is not installed, one line says what to install."""
    hide = "import sys; import langgraph_sqlite_saver; "
    hide += f"sys.modules.update({{k: None for k in [{missing!r}, *sys.modules]"
    hide += f" if k.partition('.')[0] == {missing!r}}}); "
    code = hide + "from langgraph_sqlite_saver import cli; cli.main()"
    found = run(code, "state", str(example), "house")
    assert found.returncode == 2 and found.stdout == ""
    assert found.stderr == (
        f"langgraph-sqlite needs {missing}: pip install 'langgraph-sqlite-saver[cli]'\n"
    )


def test_without_postgres(example: Path) -> None:
    """Without psycopg, what moves threads to Postgres says what to install."""
    code = "import sys; sys.modules['psycopg'] = None; from langgraph_sqlite_saver import cli; "
    for args in (["to-postgres", str(example), "URI"], ["from-postgres", "URI", "new.db"]):
        found = run(code + "cli.main()", *args)
        assert found.returncode == 2 and found.stdout == ""
        assert "pip install 'langgraph-sqlite-saver[cli,postgres]'" in found.stderr
        assert found.stderr.count("\n") == 1
