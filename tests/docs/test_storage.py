"""docs/storage.md says all that a reader needs: examples/read_file.py reads every file by it."""

from __future__ import annotations

import ast
import itertools
import json
import operator
import random
import re
import runpy
import shutil
import sqlite3
import struct
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any, TypedDict

import pytest
from langchain_core.messages import AIMessage, HumanMessage
from langgraph.checkpoint.base import empty_checkpoint
from langgraph.checkpoint.serde.encrypted import EncryptedSerializer
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.types import Send, interrupt

from langgraph_sqlite_saver import SqliteSaver
from langgraph_sqlite_saver.checkpoints import differences, encoding
from langgraph_sqlite_saver.checkpoints.frames import MOST_BYTES
from langgraph_sqlite_saver.checkpoints.values import no_value

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "examples" / "read_file.py"
PAGE = (ROOT / "docs" / "storage.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", PAGE, re.DOTALL)
SERDE = JsonPlusSerializer()
KEY = b"0123456789abcdef"
TURNS = 16
CHAT: Any = {"configurable": {"thread_id": "chat"}}


class State(MessagesState):
    """Messages, and results of tasks that get the whole state."""

    results: Annotated[list[str], operator.add]


def reply(state: State) -> dict[str, Any]:
    turn = len(state["messages"])
    text = " ".join(f"{turn * n % 997}" for n in range(200))
    return {"messages": [AIMessage(text, id=f"a{turn}")]}


def look(state: State) -> dict[str, Any]:
    if len(state["messages"]) == 2 * TURNS:
        interrupt("go on?")
    return {"results": [f"{len(state['messages'])} messages"]}


def chat(saver: SqliteSaver, turns: int = TURNS) -> None:
    """A conversation in which a Send with the whole state follows every reply.

    The last turn ends at an interrupt, with its writes pending.
    """
    builder = StateGraph(State)
    builder.add_node("reply", reply)
    builder.add_node("look", look)
    builder.add_edge(START, "reply")
    builder.add_conditional_edges("reply", lambda state: [Send("look", state)], ["look"])
    graph = builder.compile(checkpointer=saver)
    for turn in range(turns):
        graph.invoke({"messages": [HumanMessage(f"And {turn}?", id=f"h{turn}")]}, CHAT)


class Inner(TypedDict):
    numbers: Annotated[list[int], operator.add]


def subgraph(saver: SqliteSaver) -> None:
    """A graph in a graph, which stops inside: a namespace of its own."""
    inner = StateGraph(Inner)
    inner.add_node("ask", lambda state: {"numbers": [interrupt("which?")]})
    inner.add_edge(START, "ask")
    outer = StateGraph(Inner)
    outer.add_node("inner", inner.compile())
    outer.add_edge(START, "inner")
    graph = outer.compile(checkpointer=saver)
    graph.invoke({"numbers": list(range(5000))}, {"configurable": {"thread_id": "sub"}})


def odd_places(saver: SqliteSaver) -> None:
    """Values that lie elsewhere than under their version."""
    config: Any = {"configurable": {"thread_id": "odd", "checkpoint_ns": ""}}
    for number, (values, versions, keys) in enumerate(
        (
            ({"a": [1.5] * 900, "b": 2**70, "n": b"\0", "t": None}, {"a": 1.0, "b": 1, "n": 1}, {}),
            ({"a": [2.5] * 900, "t": "x" * 200}, {"a": 1.0, "b": 1e16}, {}),
            ({"a": [3.5] * 900, "b": {1, 2}}, {"a": 2, "b": 1e16}, {"pending_sends": [{1: 2}]}),
            ({}, {"a": 2}, {}),
        )
    ):
        checkpoint: Any = {
            "v": 4,
            "id": f"{number}",
            "ts": "2026-01-01T00:00:00+00:00",
            "channel_values": values,
            "channel_versions": versions,
            "versions_seen": {},
            "updated_channels": None,
            **keys,
        }
        config = saver.put(config, checkpoint, {}, versions)


def several_bases(saver: SqliteSaver) -> None:
    """A write that repeats two channels, the second of which is the larger one."""
    values = {"p": list(range(2000)), "q": [str(n) for n in range(3000)]}
    versions: Any = {"p": 1, "q": 1}
    checkpoint: Any = {**empty_checkpoint(), "channel_values": values, "channel_versions": versions}
    place: Any = {"configurable": {"thread_id": "several", "checkpoint_ns": ""}}
    saver.put_writes(saver.put(place, checkpoint, {}, versions), [("r", values)], "task")


def fill(saver: SqliteSaver) -> None:
    chat(saver)
    several_bases(saver)
    subgraph(saver)
    odd_places(saver)


def compact(path: Path) -> None:
    with SqliteSaver(path) as saver:
        fill(saver)


def full(path: Path) -> None:
    with SqliteSaver(path, history="full") as saver:
        fill(saver)


def by_hand(path: Path) -> None:
    """Values as another program may add them, and a saver that went on with them."""
    full(path)
    with closing(sqlite3.connect(path)) as conn:
        conn.execute("UPDATE checkpoint_blobs SET token = NULL, number = NULL")
        conn.commit()
    with SqliteSaver(path) as saver:
        chat(saver, turns=3)


def compacted(path: Path) -> None:
    full(path)
    with SqliteSaver(path) as saver:
        saver.compact()


def pruned(path: Path) -> None:
    """What is left rests on other blobs than before."""
    with SqliteSaver(path) as saver:
        chat(saver)
        saver.prune(["chat"], keep_last=3)


def copied(path: Path) -> None:
    """Rows that keep their tokens, on top of others and beside them."""
    with SqliteSaver(path) as saver:
        chat(saver, turns=TURNS // 2)
        saver.copy_thread("chat", "copy")
        chat(saver, turns=TURNS // 2)
        saver.copy_thread("chat", "copy")


def edited(path: Path) -> None:
    """Values that change at the beginning, in the middle and at the end, and at none of them."""
    with SqliteSaver(path) as saver:
        config: Any = {"configurable": {"thread_id": "edits", "checkpoint_ns": ""}}
        numbers = list(range(50_000))
        for step in range(12):
            numbers = numbers.copy()
            at = (len(numbers), 30_000, 20_000, 0)[step % 4]
            numbers[at : at + step % 3 * 10] = [-step] * (step + 1)
            values = {"list": numbers, "map": {"n": numbers[:3000], "step": step}}
            versions: Any = dict.fromkeys(values, f"{step:04}")
            checkpoint: Any = {**empty_checkpoint(), "id": f"{step:04}"}
            checkpoint |= {"channel_values": values, "channel_versions": versions}
            config = saver.put(config, checkpoint, {}, versions)
            saver.put_writes(config, [("list", numbers[1:]), ("r", values)], "task")


def without_a_value(path: Path) -> None:
    """A row that says so, as Postgres has them."""
    with SqliteSaver(path) as saver:
        odd_places(saver)
    with closing(sqlite3.connect(path)) as conn:
        emptied = "UPDATE checkpoint_blobs SET type = 'empty', blob = NULL WHERE channel = 'n'"
        assert conn.execute(emptied).rowcount == 1
        conn.commit()


FILES: dict[str, Callable[[Path], None]] = {
    each.__name__: each
    for each in (
        compact,
        full,
        by_hand,
        compacted,
        pruned,
        copied,
        edited,
        without_a_value,
    )
}


@pytest.fixture(scope="module")
def script() -> dict[str, Any]:
    return runpy.run_path(str(SCRIPT))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "agent file.db"


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, encoding="utf-8", timeout=60, check=False
    )


def decoded(kind: str, data: Any) -> Any:
    return data if kind == "inline" else SERDE.loads_typed((kind, data))


def assert_serialised(value: Any, kind: str, data: Any) -> None:
    """The script's bytes are those that the value is serialised to."""
    if kind == "inline":
        assert (type(data), data) == (type(value), value)
    elif kind == "json":
        assert json.loads(data) == value
    else:
        assert (kind, data) == SERDE.dumps_typed(value)


def rows_of(conn: sqlite3.Connection, sql: str) -> list[Any]:
    return conn.execute(sql).fetchall()


@pytest.mark.parametrize("make", FILES.values(), ids=FILES)
def test_the_script_reads_what_the_library_does(
    make: Callable[[Path], None], path: Path, script: dict[str, Any]
) -> None:
    """Every value of every checkpoint, byte for byte, and every pending write."""
    make(path)
    with SqliteSaver(path) as saver:
        expected = {tuple(each.config["configurable"].values()): each for each in saver.list(None)}
        assert saver.check() == []
    with closing(script["connect"](path)) as conn:
        rows = rows_of(
            conn,
            "SELECT thread_id, checkpoint_ns, checkpoint_id, checkpoint, blob_versions"
            " FROM checkpoints",
        )
        assert {row[:3] for row in rows} == expected.keys()
        for *key, checkpoint, notes in rows:
            place = tuple(key[:2])
            document, notes = json.loads(checkpoint), json.loads(notes or "{}")
            found = script["channel_values"](conn, place, document, notes)
            if extra := found.pop("__checkpoint_keys__", None):
                document.update(decoded(*extra))
            saved: Any = expected[tuple(key)]
            assert {**document, "channel_values": {}} == {**saved.checkpoint, "channel_values": {}}
            values = saved.checkpoint["channel_values"]
            assert found.keys() == values.keys()
            for channel, stored in found.items():
                assert_serialised(values[channel], *stored)
            writes = list(script["pending_writes"](conn, place, key[2]))
            assert [write[:2] for write in writes] == [each[:2] for each in saved.pending_writes]
            for write, (_, _, value) in zip(writes, saved.pending_writes, strict=True):
                assert_serialised(value, *write[2:])


def test_the_files_hold_what_they_are_to_show(path: Path) -> None:
    """Chains of several links, writes that rest on others, and every kind of place."""
    compact(path)
    with closing(sqlite3.connect(path)) as conn:
        bases = {
            tuple(row[:4]): (*row[:3], row[4])
            for row in rows_of(
                conn,
                "SELECT thread_id, checkpoint_ns, channel, version, base FROM checkpoint_blobs",
            )
        }
        longest = 0
        for key in bases:
            links = 0
            while key[3] is not None:
                key, links = bases[key], links + 1
            longest = max(longest, links)
        assert longest >= 3
        writes = "SELECT 1 FROM checkpoint_writes WHERE base IS NOT NULL"
        assert len(rows_of(conn, f"{writes} AND channel = '__pregel_tasks'")) >= TURNS // 2
        two = json.dumps([["q", "1"], ["p", "1"]], separators=(",", ":"))
        assert rows_of(conn, f"SELECT 1 FROM checkpoint_writes WHERE base = '{two}'")
        assert rows_of(conn, "SELECT 1 FROM checkpoint_blobs WHERE version LIKE '_%~%'")
        assert rows_of(conn, "SELECT 1 FROM checkpoint_blobs WHERE version LIKE '~%'")
        assert rows_of(conn, "SELECT 1 FROM checkpoint_blobs WHERE version = '1e+16'")
        assert len(rows_of(conn, "SELECT DISTINCT checkpoint_ns FROM checkpoints")) == 2
        kinds = {kind for (kind,) in rows_of(conn, "SELECT DISTINCT type FROM checkpoint_blobs")}
        assert {"msgpack", "zstd:msgpack", "diff:msgpack", "bytes", "json"} <= kinds


def test_the_differences_are_of_every_form(path: Path, script: dict[str, Any]) -> None:
    """Each part of one is there in some and not in others; so is the dictionary."""
    edited(path)
    rows = "SELECT channel, base, blob FROM checkpoint_blobs WHERE base IS NOT NULL"
    forms = set()
    with closing(script["connect"](path)) as conn:
        for channel, base, blob in rows_of(conn, rows):
            _, data, _ = script["stored_value"](conn, ("edits", ""), channel, base)
            found = differences.parse(
                blob, MOST_BYTES, lambda start, stop, data=data: data[start:stop], len(data)
            )
            context, resume = struct.unpack_from("<II", blob)
            forms |= {("head", found.head), ("from the start", context == 0)}
            forms |= {("tail", resume < len(data)), ("taken out", found.stop < resume)}
    parts = ("from the start", "tail", "taken out")
    assert forms >= {("head", 0), ("head", 3), *itertools.product(parts, (True, False))}


class Misleading(JsonPlusSerializer):
    """Its types look like those of frames and differences."""

    def dumps_typed(self, obj: Any) -> tuple[str, bytes]:
        kind, data = super().dumps_typed(obj)
        return f"{'diff:' if len(data) % 2 else 'zstd:'}{kind}", data

    def loads_typed(self, data: tuple[str, bytes]) -> Any:
        return super().loads_typed((data[0][5:], data[1]))


def test_a_type_of_ones_own_may_begin_with_anything(path: Path, script: dict[str, Any]) -> None:
    """Whether a row holds a frame or a difference is told by size and base."""
    serde = Misleading()
    with SqliteSaver(path, serde=serde) as saver:
        chat(saver)
        expected = list(saver.list(None))
    with closing(script["connect"](path)) as conn:
        for each in expected:
            saved: Any = each.checkpoint
            values = {name: serde.dumps_typed(v) for name, v in saved["channel_values"].items()}
            document = {**saved, "channel_values": {}}
            assert script["channel_values"](conn, ("chat", ""), document, {}) == values
        kinds = {kind for (kind,) in rows_of(conn, "SELECT DISTINCT type FROM checkpoint_blobs")}
    assert kinds >= {"diff:msgpack", "zstd:msgpack", "diff:diff:msgpack", "diff:zstd:msgpack"}


def test_the_script_shows_an_encrypted_file_as_it_is(path: Path, script: dict[str, Any]) -> None:
    """Types and lengths, and nothing of the content."""
    serde = EncryptedSerializer.from_pycryptodome_aes(key=KEY)
    with SqliteSaver(path, serde=serde) as saver:
        chat(saver)
        saved: Any = saver.get_tuple(CHAT)
    with closing(script["connect"](path)) as conn:
        id_ = saved.config["configurable"]["checkpoint_id"]
        (row,) = rows_of(conn, f"SELECT checkpoint FROM checkpoints WHERE checkpoint_id = '{id_}'")
        found = script["channel_values"](conn, ("chat", ""), json.loads(*row), {})
        assert found.keys() == saved.checkpoint["channel_values"].keys()
        stored = set(rows_of(conn, "SELECT type, blob FROM checkpoint_blobs"))
        assert set(found.values()) <= stored
        writes = list(script["pending_writes"](conn, ("chat", ""), id_))
        assert len(writes) == len(saved.pending_writes) > 0
        assert {kind for kind, _ in found.values()} >= {"diff:msgpack+aes"}
    done = run(path, "chat")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()[1:]
    assert len(lines) == len(found) + len(writes)
    assert all(re.search(r"\(\S+\+aes, \d+ bytes\) encrypted$", line) for line in lines)


def test_the_script_prints_threads_checkpoints_and_values(path: Path) -> None:
    """Objects are shown by name and content."""
    compact(path)
    threads = run(path).stdout
    assert re.search(r"^thread 'chat', namespace '': \d+ checkpoints, newest '\S+'$", threads, re.M)
    assert "thread 'sub', namespace 'inner:" in threads
    newest = run(path, "chat")
    assert newest.returncode == 0, newest.stderr
    assert "{'langchain_core.messages.ai.AIMessage': {'content': '0 " in newest.stdout
    assert re.search(
        r"^pending write of '\S+' to '__interrupt__': .*'go on\?'", newest.stdout, re.M
    )
    assert run(path, "odd", "2").stdout.splitlines() == [
        "checkpoint '2' in namespace ''",
        f"channel 'a': (msgpack, 8103 bytes) {[3.5] * 900}",
        "channel 'b': (msgpack, 20 bytes) {'builtins.set': [1, 2]}",
        "channel '__checkpoint_keys__': (msgpack, 19 bytes) {'pending_sends': [{1: 2}]}",
    ]


def test_without_ormsgpack_the_script_prints_lengths(path: Path) -> None:
    """It needs nothing but zstd."""
    compact(path)
    code = (
        "import runpy, sys; sys.modules['ormsgpack'] = None;"
        "del sys.argv[0]; runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    command = [sys.executable, "-c", code, str(SCRIPT), str(path), "odd", "2"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert "channel 'a': (msgpack, 8103 bytes) not shown\n" in done.stdout, done.stderr


def test_the_script_changes_nothing(path: Path) -> None:
    """Not a byte, and nothing is left beside the file; where there is none, none is made."""
    compact(path)
    before = path.read_bytes()
    run(path, "chat")
    assert run(path.with_name("none.db")).returncode == 1
    assert [(each, each.read_bytes()) for each in path.parent.iterdir()] == [(path, before)]


def test_the_script_reads_a_file_in_use(path: Path) -> None:
    """What was committed last is in the -wal."""
    with SqliteSaver(path) as saver:
        odd_places(saver)
        assert Path(f"{path}-wal").stat().st_size
        assert "4 checkpoints, newest '3'" in run(path).stdout


def test_errors_name_the_remedy(path: Path) -> None:
    """In one sentence on stderr."""
    compact(path)
    with closing(sqlite3.connect(path)) as conn:
        conn.execute("INSERT INTO checkpoint_migrations VALUES (11)")
        conn.commit()
        assert "version 11, not 10: see the docs of that version" in run(path).stderr
        conn.execute("DELETE FROM checkpoint_migrations WHERE v = 11")
        conn.commit()
    assert "no such checkpoint: FILE alone shows" in run(path, "nobody").stderr
    for damage, reason in (
        ("token = token + 1", "one is not what it was: restore the file from a backup"),
        ("base = 'gone' WHERE base IS NOT NULL", "one is missing: restore the file from a backup"),
        ("blob = x'00' WHERE base IS NOT NULL", "Is it a saver's file"),
    ):
        damaged = path.with_name("damaged.db")
        shutil.copy(path, damaged)
        with closing(sqlite3.connect(damaged)) as conn:
            conn.execute(f"UPDATE checkpoint_blobs SET {damage}")
            conn.commit()
        done = run(damaged, "chat")
        assert (done.returncode, done.stderr.count("\n")) == (1, 1)
        assert reason in done.stderr
    assert "Is it a saver's file" in run(SCRIPT).stderr


def test_the_script_imports_nothing_of_ours() -> None:
    """SQLite, JSON and zstd do; ormsgpack may be missing."""
    imported = set()
    for node in ast.walk(ast.parse(SCRIPT.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            imported |= {f"{node.module}.{alias.name}" for alias in node.names}
    assert imported == {
        "json",
        "sqlite3",
        "struct",
        "sys",
        "pathlib.Path",
        "compression.zstd",
        "backports.zstd",
        "ormsgpack",
    }
    assert len(SCRIPT.read_text(encoding="utf-8").splitlines()) <= 120


def test_the_page_names_every_column_of_every_table(path: Path) -> None:
    """In the tables' order, and no other."""
    with SqliteSaver(path) as saver:
        saver.setup()
    described: dict[str, list[str]] = {}
    for name, text in re.findall(r"^### `(\w+)`\n(.*?)(?=^##)", PAGE, re.MULTILINE | re.DOTALL):
        cells = re.findall(r"^\| (`.*?) \|", text, re.MULTILINE)
        described[name] = [column for cell in cells for column in re.findall(r"`(\w+)`", cell)]
    with closing(sqlite3.connect(path)) as conn:
        tables = rows_of(conn, "SELECT name FROM sqlite_master WHERE type = 'table'")
        columns = {
            name: [row[1] for row in rows_of(conn, f"PRAGMA table_info({name})")]
            for (name,) in tables
            if not name.startswith("sqlite_")
        }
        assert rows_of(conn, "SELECT max(v) FROM checkpoint_migrations") == [(10,)]
    assert described == columns
    assert "the version of the tables: **10**" in PAGE


def base_number(number: int) -> int:
    """The number of what a version rests on, with all versions before it there."""
    chain, before = [], number - 1
    while before:
        chain.append(before)
        before &= before - 1
    links = tuple(encoding.Link("", 0, each, "", None) for each in (*chain, 0))
    return links[encoding.base_of_next(links)].number


def test_the_pages_figures_are_those_of_the_code() -> None:
    """Those that a reader does not need are still true."""
    text = PAGE.replace("\n", " ")
    assert f"Values below {encoding.SMALL:,} bytes" in text
    assert f"reached a {encoding._BYTES_PER_LINK}th of its bytes" in text
    assert f"up to {differences._CONTEXT:,} bytes before it" in text
    examples = re.findall(r"(\d+) on (\d+)[,.]", text)
    assert len(examples) == 5
    assert all(base_number(int(i)) == int(base) for i, base in examples)
    assert f"`{no_value('')}`" in PAGE


def blocks(language: str) -> list[str]:
    return [text for found, text in BLOCKS if found == language]


@pytest.fixture
def example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The page's example file; its tokens are the page's, drawn as this generator draws them."""
    monkeypatch.setattr(encoding, "_random", random.Random(1))
    monkeypatch.chdir(tmp_path)
    (snippet,) = blocks("python")
    exec(snippet, {})
    return tmp_path / "example.db"


def as_printed(rows: list[Any]) -> str:
    """As the sqlite3 command line prints them."""
    return "".join(
        "|".join("" if each is None else str(each) for each in row) + "\n" for row in rows
    )


def test_the_example_is_what_the_snippet_makes(example: Path) -> None:
    """Frames, which other releases of zstd may make otherwise, only with the release named."""
    blobs, writes, _ = blocks("sql")
    _, *printed, bytes_of_10 = blocks("")
    shown = "".join(printed)
    with closing(sqlite3.connect(example)) as conn:
        found = as_printed(rows_of(conn, blobs)) + as_printed(rows_of(conn, writes))
        ((size,),) = rows_of(
            conn,
            "SELECT sum(length(blob)) + (SELECT sum(length(blob)) FROM checkpoint_writes)"
            " FROM checkpoint_blobs",
        )
    assert f"holds some\n{round(size, -1)} bytes" in PAGE
    if f"With zstd {zstd.zstd_version};" not in PAGE:
        shown, found = (re.sub(r"\|[0-9A-F]+\n", "\n", text) for text in (shown, found))
    assert found == shown
    frame = re.search(r"^10\|.*\|(\w+)$", shown, re.MULTILINE)
    assert frame
    assert "".join(line.split()[0] for line in bytes_of_10.splitlines()) == frame[1]


@pytest.mark.skipif(
    not (shutil.which("zstd") and shutil.which("sqlite3")),
    reason="no command line of zstd, sqlite3",
)
def test_the_command_lines_undo_the_example(example: Path, script: dict[str, Any]) -> None:
    """With the tools that a system brings."""
    (commands,) = blocks("sh")
    subprocess.run(
        ["sh", "-ec", commands], cwd=example.parent, check=True, capture_output=True, timeout=60
    )
    with closing(script["connect"](example)) as conn:
        _, data, _ = script["stored_value"](conn, ("t", ""), "words", "10")
    assert (example.parent / "value-10").read_bytes() == data


def test_the_costs_are_those_of_stats(path: Path) -> None:
    """The page's SQL counts what `stats` counts."""
    with SqliteSaver(path) as saver:
        chat(saver)
        stats = saver.stats()
    with closing(sqlite3.connect(path)) as conn:
        ((thread_id, logical, stored),) = rows_of(conn, blocks("sql")[2])
    assert thread_id == "chat"
    assert stored == stats.blob_bytes + stats.write_bytes
    assert logical == stats.logical_blob_bytes + stats.logical_write_bytes > stored * 2
