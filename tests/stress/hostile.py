"""Files that somebody else may have made: what the savers wrote, with bytes or columns changed.

    python tests/stress/hostile.py SEED COUNT

Each file is read, checked, pruned, compacted and shown, in at most 1 GB more than it takes to start
and 10 seconds a step. What comes out is a value or a StorageError; anything else ends the run.
"""

from __future__ import annotations

import logging
import random
import resource
import shutil
import signal
import sqlite3
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from langgraph.checkpoint.base import empty_checkpoint
from langgraph.checkpoint.serde.encrypted import EncryptedSerializer
from typer.testing import CliRunner

from langgraph_sqlite_saver import SqliteSaver, StorageError
from langgraph_sqlite_saver.cli import make_app

MEMORY = 1_000_000_000
SECONDS = 10
KEY = b"0123456789abcdef"
TABLES = ("checkpoints", "checkpoint_blobs", "checkpoint_writes")


def make(path: Path) -> None:
    """A file with differences, frames, writes that rest on values, and encrypted values."""
    words = [f"{n * 7919 % 10007:x}" for n in range(2000)]
    for thread, serde in (
        ("plain", None),
        ("secret", EncryptedSerializer.from_pycryptodome_aes(key=KEY)),
    ):
        with SqliteSaver(path, serde=serde) as saver:
            config: Any = {"configurable": {"thread_id": thread, "checkpoint_ns": ""}}
            messages: list[Any] = [" ".join(words)]
            for step in range(12):
                messages = [*messages, f"message {step} " + words[step] * 50]
                checkpoint = empty_checkpoint()
                version = f"{step:032}.5"
                checkpoint["channel_values"] = {"messages": messages, "n": step, "s": "x" * 300}
                checkpoint["channel_versions"] = {"messages": version, "s": "1"}
                config = saver.put(
                    config,
                    checkpoint,
                    {"step": step, "run_id": f"r{step % 3}"},
                    {"messages": version},
                )
                saver.put_writes(config, [("messages", messages), ("w", step)], f"task {step}")


def values(die: random.Random, old: Any) -> Any:
    """What a column may hold that no saver stored."""
    hostile = [
        None, 0, -1, 2**40, 2**63 - 1, 1.5, float("inf"),
        "", "x", "\0", "[" * 100_000, '{"a":' * 5000, "9" * 5000, '"\\ud800"', "[]", "{}", "null",
        '{"channel_versions": []}', '[["messages", "1"], ["messages", "1"]]',
        "zstd:msgpack", "diff:msgpack", "pickle", "msgpack+aes", "json",
        b"", b"\xff\xfe", b"\x28\xb5\x2f\xfd" + bytes(40), b"\x91" * 50_000,
        b"\xdd\xff\xff\xff\xff", b"\xc9\xff\xff\xff\xff\x05",
    ]  # fmt: skip
    if isinstance(old, (bytes, str)) and old and die.random() < 0.6:
        data = bytearray(old if isinstance(old, bytes) else old.encode())
        for _ in range(die.choice([1, 1, 3, 20])):
            at = die.randrange(len(data))
            data[at : at + die.randrange(2)] = die.randbytes(die.randrange(3))
            if not data:
                break
        return bytes(data) if isinstance(old, bytes) else data.decode("utf-8", "replace")
    if isinstance(old, int) and die.random() < 0.5:
        return old + die.choice([-1, 1, 1000, 2**31, -(2**31)])
    return die.choice(hostile)


def change_columns(path: Path, die: random.Random) -> None:
    with closing(sqlite3.connect(path)) as conn:
        conn.execute("PRAGMA ignore_check_constraints = 1")
        for _ in range(die.choice([1, 1, 2, 5])):
            table = die.choice(TABLES)
            columns = [row[1] for row in conn.execute(f"PRAGMA table_info({table})")]
            column = die.choice(columns)
            (rowid, old) = die.choice(
                conn.execute(f"SELECT rowid, {column} FROM {table}").fetchall()
            )
            new = values(die, old)
            conn.execute(f"UPDATE OR IGNORE {table} SET {column} = ? WHERE rowid = ?", (new, rowid))
        conn.commit()


def change_bytes(path: Path, die: random.Random) -> None:
    data = bytearray(path.read_bytes())
    for _ in range(die.choice([1, 4, 40])):
        at = die.randrange(len(data))
        data[at] = die.randrange(256)
    path.write_bytes(data)


def steps(path: Path, die: random.Random) -> Iterator[tuple[str, Callable[[], Any]]]:
    """What is done with a file, in some order, and last what changes it."""
    serde = EncryptedSerializer.from_pycryptodome_aes(key=KEY) if die.random() < 0.3 else None
    saver = SqliteSaver(path, serde=serde, lock_timeout=1)
    place: Any = {
        "configurable": {"thread_id": die.choice(["plain", "secret"]), "checkpoint_ns": ""}
    }
    thread = place["configurable"]["thread_id"]

    def shown(*arguments: str) -> None:
        result = CliRunner().invoke(make_app(), [arguments[0], str(path), *arguments[1:]])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception

    readings = [
        ("list", lambda: list(saver.list(None))),
        ("get_tuple", lambda: saver.get_tuple(place)),
        ("history", lambda: saver.get_delta_channel_history(config=place, channels=["messages"])),
        ("check", saver.check),
        ("threads", saver.threads),
        ("stats", saver.stats),
        ("threads command", lambda: shown("threads")),
        ("show", lambda: shown("show", thread)),
        ("show as JSON", lambda: shown("show", thread, "--json")),
        ("state", lambda: shown("state", thread)),
        ("check command", lambda: shown("check")),
    ]
    changes = [
        ("prune", lambda: saver.prune([thread], keep_last=3)),
        ("delete_for_runs", lambda: saver.delete_for_runs(["r1"])),
        ("copy_thread", lambda: saver.copy_thread(thread, "copy")),
        ("compact", saver.compact),
        (
            "put_writes",
            lambda: saver.put_writes(
                {"configurable": {**place["configurable"], "checkpoint_id": "1"}}, [("w", 1)], "t"
            ),
        ),
    ]
    yield from die.sample(readings, 5)
    yield from die.sample(changes, 2)
    yield from die.sample(readings, 2)
    yield "close", saver.close


class TooLong(BaseException):
    """A step takes more than its seconds."""


def too_long(*_: object) -> None:
    raise TooLong


def run(seed: int, folder: Path, original: Path) -> None:
    """One file, whole; prints what it was about where something else comes out than should."""
    die = random.Random(seed)
    path = folder / f"{seed}.db"
    shutil.copy(original, path)
    die.choice([change_bytes, change_columns, change_columns, change_columns])(path, die)
    for name, step in steps(path, die):
        signal.setitimer(signal.ITIMER_REAL, SECONDS)
        try:
            step()
        except StorageError:
            pass
        except BaseException:
            print(f"seed {seed}, {name}:", file=sys.stderr, flush=True)
            raise
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    for each in folder.glob(f"{seed}.db*"):
        each.unlink()


def main(first: int, count: int) -> None:
    warnings.simplefilter("ignore")
    logging.disable()
    signal.signal(signal.SIGALRM, too_long)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        original = folder / "original.db"
        make(original)
        taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (taken + MEMORY, resource.RLIM_INFINITY))
        for seed in range(first, first + count):
            run(seed, folder, original)
    print(f"{count} files")


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
