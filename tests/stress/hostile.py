"""Files that somebody else may have made: what the savers wrote, with bytes or columns changed.

    python -m tests.stress.hostile SEED COUNT

A program of its own, since what it looks for may take all memory, or never end. Each file is read,
checked, pruned, compacted and shown. Each call returns or raises a StorageError, and each command
ends with a message, within 1 GB more than it takes to start, and 10 seconds of the processor's
time. Otherwise the program ends with a traceback; what it printed last says what it had done.
"""

from __future__ import annotations

import contextlib
import faulthandler
import io
import logging
import os
import random
import resource
import shutil
import signal
import sqlite3
import struct
import sys
import tempfile
import warnings
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

from langgraph_sqlite_saver import SqliteSaver, StorageError
from langgraph_sqlite_saver.checkpoints.frames import compress
from langgraph_sqlite_saver.cli import main
from tests.properties.test_damage import (
    COLUMNS,
    CONTENTS,
    KEYS,
    SERDES,
    THREADS,
    config,
    damage,
    sound_file,
)

MEMORY = 1_000_000_000
SECONDS = 10
PAGE = 4096

Die = random.Random


# What is done to a file.


def bytes_of_the_file(path: Path, die: Die) -> str:
    """Other bytes anywhere: in its header, its pages, its length."""
    content = bytearray(path.read_bytes())
    kind = die.choice(("flip", "flip", "flip", "page", "copy", "cut", "header", "blur"))
    for _ in range(die.choice((1, 3, 30))):
        at, other = (die.randrange(len(content) // PAGE) * PAGE for _ in range(2))
        if kind == "flip":
            content[die.randrange(100, len(content))] ^= 1 << die.randrange(8)
        elif kind == "page":
            content[at : at + PAGE] = die.choice((bytes(PAGE), die.randbytes(PAGE)))
        elif kind == "copy":
            content[at : at + PAGE] = content[other : other + PAGE]
        elif kind == "header":
            content[die.randrange(16, 100)] = die.randrange(256)
        elif kind == "blur":  # the head of a page: how many cells it has, and where
            content[at + die.randrange(100 if at == 0 else 0, 120)] = die.randrange(256)
    if kind == "cut":
        del content[die.randrange(1, len(content)) :]
    path.write_bytes(content)
    return kind


def rows(path: Path, die: Die, serde: str) -> str:
    """Other contents in some columns."""
    done = []
    for _ in range(die.choice((1, 1, 2, 5))):
        table = die.choice(list(COLUMNS))
        column = die.choice(COLUMNS[table])
        if die.random() < 0.4:
            done.append(damage(path, table, column, die.choice(CONTENTS), die.randrange(10_000)))
            continue
        value = hostile(die, column, serde)
        where = f"rowid = (SELECT rowid FROM {table} ORDER BY random() LIMIT 1)"
        if die.random() < 0.1:
            where = "true"
        with (
            contextlib.suppress(sqlite3.Error),
            contextlib.closing(sqlite3.connect(path, isolation_level=None)) as conn,
        ):
            conn.execute("PRAGMA ignore_check_constraints = ON")
            kind = die.choice(("zstd:msgpack", "diff:msgpack", "msgpack", None))
            if column == "blob" and kind and table != "checkpoints":
                kind += "+aes" if serde == "encrypted" else ""
                size = die.choice((None, numbers(die)))
                conn.execute(f"UPDATE {table} SET type = ?, size = ? WHERE {where}", (kind, size))
            conn.execute(f"UPDATE OR IGNORE {table} SET {column} = ? WHERE {where}", (value,))
            done.append(f"{table}.{column} = {value!r:.200}")
    return "; ".join(map(str, done))


def numbers(die: Die) -> int:
    return die.choice((-1, 0, 1, 100, 8_000, 10**6, 10**9, 10**11, 2**32 - 1, 2**63 - 1, -(2**63)))


def hostile(die: Die, column: str, serde: str) -> Any:
    """Something that fits a column better than noise, and is worse."""
    if column == "blob":
        content = die.choice((frame, change, packed))(die)
        if serde == "encrypted" and die.random() < 0.8:
            return SERDES[serde]().cipher.encrypt(content)[1]
        return content
    if column in ("size", "token", "number", "idx"):
        return numbers(die)
    if column in ("checkpoint", "metadata", "blob_versions", "base"):
        return die.choice(
            (
                "[" * 100_000,
                '{"a":' * 900 + "1" + "}" * 900,
                '{"step":' + "9" * 5_000 + "}",
                '{"v":' + "9" * 5_000 + ',"channel_versions":{},"channel_values":{}}',
                '{"v":4,"v":"x","channel_versions":{},"channel_versions":[]}',
                '{"v":1e308,"channel_versions":{"messages":1e999},"channel_values":{}}',
                '{"v":1,"channel_versions":{"messages":{"a":1},"x":2},"channel_values":{"x":[[]]}}',
                '{"v":4,"ts":[],"id":{},"channel_versions":{"":null},"channel_values":{"\\u0000":1}}',
                '{"v":4,"channel_versions":{"a":"b"},"channel_values":{},"versions_seen":[1]}',
                '{"v":4,"channel_versions":{"a":"b"},"channel_values":{},"versions_seen":{"n":1}}',
                '{"messages":"' + "x" * 1_000_000 + '"}',
                '{"parents":[],"step":{},"source":[1],"counters_since_delta_snapshot":[1]}',
                '{"parents":{"":[]},"step":1e400,"counters_since_delta_snapshot":{"a":[]}}',
                '{"a":"\\ud800","\x1b]0;":1}',
                "[" + ",".join(['["messages","1"]'] * 1_000) + "]",
                '[["messages","000008"],["messages","000008"]]',
                "[[]]",
            )
        )
    return die.choice(
        ("\x1b]0;title\x07\x1b[2J", "x\0y", "a\nb\r\tc", "\u202e" * 5, "x" * 100_000, "'; --", "",
         "__pregel_tasks", "__interrupt__", "__error__", "__resume__", 2**40, 1.5, b"\xff\x00")
    )  # fmt: skip


def frame(die: Die) -> bytes:
    """A frame, mostly of little that is much."""
    size = die.choice((0, 10, 8_000, 2_000_000, 60_000_000))
    made = compress(die.choice((bytes(size), b"\x90" * size, b"\xdc\x10\x00" * (size // 3))))
    return made if die.random() < 0.7 else made[: die.randrange(len(made))]


def change(die: Die) -> bytes:
    """A difference with any places."""
    places = [die.choice((0, 1, 100, 4_000, 8_000, 2**31, 2**32 - 1)) for _ in range(4)]
    if die.random() < 0.5:
        places.sort()
    context, start, stop, resume = places
    mark = die.choice((0, 1, 2**64 - 1))
    content = struct.pack("<IIBIIQ", context, resume, die.randrange(256), start, stop, mark)
    rest = bytes(die.choice((0, 5, 5_000, 5_000_000)))
    return struct.pack("<II", context, resume) + compress(content + rest)


def packed(die: Die) -> bytes:
    """MessagePack that promises much, or is deep."""
    inside = die.choice((b"\xc0", b"\x90", b"\xa3abc", b"\xcb\x7f\xf8" + bytes(6)))
    for _ in range(die.choice((1, 50, 101, 400, 1_000, 100_000))):
        if len(inside) > 200_000:
            break
        kind = die.randrange(5)
        if kind == 0:
            inside = b"\x91" + inside
        elif kind == 1:
            inside = b"\x81\xa1k" + inside
        elif kind == 2:
            inside = b"\x81" + inside + b"\xc0"
        else:
            made = (
                b"\x94\xaflanggraph.types\xa4Send"
                + die.choice((inside, b"\x91" + inside))
                + b"\xc0"
            )
            inside = b"\xc9" + struct.pack(">IB", len(made), die.randrange(9)) + made
    return die.choice((b"\xdd", b"\xdf", b"\xc6", b"\xdb", b"", b"", b"")) + inside


# What is called on it.


def calls(die: Die) -> list[tuple[str, Callable[[SqliteSaver], Any]]]:
    """What is called on a saver."""
    thread, key = die.choice(THREADS), die.choice(KEYS)
    reading: list[tuple[str, Callable[[SqliteSaver], Any]]] = [
        ("get", lambda s: [guarded(s.get_tuple, config(each)) for each in die.sample(KEYS, 9)]),
        ("head", lambda s: s.get_tuple({"configurable": {"thread_id": thread}})),
        ("list", lambda s: list(s.list(None))),
        ("filter", lambda s: list(s.list(None, filter={"step": 9, "a.b": None}))),
        ("thread", lambda s: list(s.list({"configurable": {"thread_id": thread}}, limit=5))),
        ("check", lambda s: s.check()),
        ("threads", lambda s: s.threads()),
        ("stats", lambda s: s.stats()),
        ("delta", lambda s: s.get_delta_channel_history(config=config(key), channels=["log"])),
    ]
    writing: list[tuple[str, Callable[[SqliteSaver], Any]]] = [
        ("prune", lambda s: s.prune(list(THREADS), keep_last=die.choice((1, 4)))),
        ("runs", lambda s: s.delete_for_runs(["one"])),
        ("compact", lambda s: s.compact()),
        ("copy", lambda s: s.copy_thread(thread, die.choice(("copy", *THREADS)))),
        ("expire", lambda s: s.expire(timedelta(days=365_000))),
        ("write", lambda s: s.put_writes(config(key), [("w", ["x" * 5_000])], "a task")),
        ("delete", lambda s: s.delete_thread(thread)),
    ]
    return [*reading, *die.sample(writing, 4), *die.sample(reading, 3)]


def commands(path: Path, die: Die) -> list[list[str]]:
    """What is called in the shell."""
    thread, file = die.choice(THREADS), str(path)
    found = [
        ["threads", file],
        ["show", file, thread],
        ["state", file, thread],
        ["state", file, thread, die.choice(("HEAD~1", "HEAD~3", "00"))],
        ["diff", file, thread, "HEAD~1", "HEAD"],
        ["check", file],
        ["stats", file],
        ["prune", file, "--all", "--keep-last", "2", "--yes"],
    ]
    more = {"show": ("--full", "--json"), "state": ("--full", "--json", "--all")}
    return [
        [*each, *([die.choice(more.get(each[0], ("--json",)))] if die.random() < 0.6 else [])]
        for each in found
    ]


def guarded(call: Callable[..., Any], *args: Any) -> Any:
    """Call something; a StorageError is an answer. Otherwise the program ends."""
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        return call(*args)
    except StorageError as error:
        assert "locked" not in str(error), error  # nobody else is there
        return str(error)
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def command(words: list[str]) -> None:
    """Run a command, which ends as commands end and prints what terminals take for text."""
    printed = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True)
    sys.argv = ["langgraph-sqlite", *words]
    try:
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
            main()
    except SystemExit as end:
        assert end.code in (None, 0, 1, 2), end.code
    printed.seek(0)
    for line in printed.read().split("\n"):
        assert line.isprintable(), line


def one(seed: str, serde: str, folder: Path) -> None:
    """Damage a file, and call everything on it."""
    die = random.Random(seed)
    path = folder / "agent.db"
    for each in folder.iterdir():
        each.unlink()
    shutil.copyfile(sound_file(serde), path)
    what = bytes_of_the_file(path, die) if die.random() < 0.4 else rows(path, die, serde)
    print(f"{seed} {serde}: {what}"[:2_000].encode("unicode_escape").decode(), flush=True)
    for words in die.sample(commands(path, die), 3):
        print("  ", *words[:1], *words[2:], flush=True)
        guarded(command, words)

    def call_all() -> None:
        with SqliteSaver(path, serde=SERDES[serde](), lock_timeout=2) as saver:
            for name, call in calls(die):
                print("  ", name, flush=True)
                guarded(call, saver)

    guarded(call_all)


def limit() -> None:
    """No more than MEMORY from here on, and a traceback for what takes too long."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * os.sysconf("SC_PAGE_SIZE") + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    faulthandler.enable()
    faulthandler.register(signal.SIGPROF, chain=True)


def run(first: int, count: int) -> None:
    """Damage so many files, and call everything on each."""
    warnings.simplefilter("ignore")
    logging.disable()
    with tempfile.TemporaryDirectory() as folder:
        for serde in SERDES:
            sound_file(serde)
            one("warm", serde, Path(folder))  # what is imported at its first use
        limit()
        for number in range(first, first + count):
            one(str(number), list(SERDES)[number % len(SERDES)], Path(folder))


if __name__ == "__main__":
    run(int(sys.argv[1]), int(sys.argv[2]))
