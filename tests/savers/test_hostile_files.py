"""Files made to harm whoever reads them: what is little in the file is little in memory."""

from __future__ import annotations

import random
import sqlite3
import struct
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from langgraph_sqlite_saver import DamagedError, SerializationError, UnknownSchemaError
from langgraph_sqlite_saver.checkpoints.frames import MOST_BYTES, compress, most_bytes, zstd

from .helpers import get, place, rows, save, values

Columns = dict[str, Any]


@pytest.fixture(params=["sync", "async"])
def open_(request: Any, open_driver: Any, database_path: Path) -> Callable[..., Any]:
    """Opens savers of one class on the test's file."""
    return lambda **options: open_driver(request.param, database_path, **options)


def noise(size: int) -> bytes:
    """Bytes that do not compress."""
    return random.Random(size).randbytes(size)


def bomb(size: int) -> bytes:
    """A frame of so many zero bytes."""
    made = zstd.ZstdCompressor(options={zstd.CompressionParameter.checksum_flag: 1})
    block = bytes(1 << 20)
    parts = [made.compress(block[: size - at]) for at in range(0, size, len(block))]
    return b"".join([*parts, made.flush()])


def difference(context: int, resume: int, head: int, start: int, stop: int, mark: int,
               rest: bytes = b"", base: bytes = b"") -> bytes:  # fmt: skip
    """A difference with any places."""
    content = struct.pack("<IIBIIQ", context, resume, head, start, stop, mark) + rest
    return struct.pack("<II", context, resume) + compress(content, base)


def blob(path: Path, version: str, content: bytes, **columns: Any) -> None:
    """Put a row into `checkpoint_blobs`, in the place of one."""
    given = {"type": "bytes", "blob": content, "base": None, "size": None, "token": 1, "number": 0}
    given |= {"thread_id": "t", "checkpoint_ns": "", "channel": "m", "version": version, **columns}
    put_row(path, "checkpoint_blobs", given)


def write(path: Path, content: bytes, **columns: Any) -> None:
    """Put a pending write of the checkpoint into the file."""
    given = {"type": "diff:bytes", "blob": content, "base": None, "size": None, "task_path": ""}
    given |= {"thread_id": "t", "checkpoint_ns": "", "checkpoint_id": "000001", "task_id": "task",
              "idx": 0, "channel": "w", **columns}  # fmt: skip
    put_row(path, "checkpoint_writes", given)


def put_row(path: Path, table: str, columns: Columns) -> None:
    names, marks = ", ".join(columns), ", ".join("?" * len(columns))
    with closing(sqlite3.connect(path)) as conn, conn:
        sql = f"INSERT OR REPLACE INTO {table} ({names}) VALUES ({marks})"
        conn.execute(sql, list(columns.values()))


@contextmanager
def in_little_memory(most: int = 20_000_000) -> Iterator[None]:
    """Hold that what is inside takes no more than so many bytes; `bytes` objects are among them."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < most
    finally:
        tracemalloc.stop()


def one_checkpoint(open_: Callable[..., Any]) -> None:
    with closing(open_()) as saver:
        save(saver, 1, {"m": ["x"]}, versions={"m": "v"})


def refused(open_: Callable[..., Any], match: str | None = None) -> None:
    """The checkpoint raises, check() finds it, and neither takes memory."""
    with closing(open_()) as saver, in_little_memory():
        with pytest.raises(DamagedError, match=match):
            get(saver, 1)
        assert saver.check()


@pytest.mark.parametrize("size", [5_000, 1_000_000, MOST_BYTES, 100 * MOST_BYTES, 2**63 - 1, -1])
def test_a_frame_never_gives_more_than_its_row_may_say(
    open_: Callable[..., Any], database_path: Path, size: int
) -> None:
    """What the row says is not believed either: a row of some KB has no value of a gigabyte."""
    one_checkpoint(open_)
    content = bomb(100_000_000)
    blob(database_path, "v", content, type="zstd:bytes", size=size)
    refused(open_, "more than|says that")
    blob(database_path, "v", b"", type="bytes")
    write(database_path, content, type="zstd:bytes", size=size)
    refused(open_)


def test_a_frame_that_wants_a_large_window_gets_none(
    open_: Callable[..., Any], database_path: Path
) -> None:
    """The window is memory that a frame asks for before it has given anything."""
    one_checkpoint(open_)
    options = {zstd.CompressionParameter.window_log: 31, zstd.CompressionParameter.checksum_flag: 1}
    made = zstd.ZstdCompressor(options=options)
    frame = made.compress(b"x" * 5_000) + made.flush()  # of unknown length
    blob(database_path, "v", frame, type="zstd:bytes", size=5_000)
    refused(open_)


# context, resume, head, start, stop: of a base of 8,000 bytes, with 10 that are new
DISORDER = {
    "the base twice": (0, 0, 0, 0, 8_000),
    "a part twice": (0, 4_000, 0, 0, 4_001),
    "backwards": (0, 8_000, 0, 6_000, 5_000),
    "behind its end": (0, 8_001, 0, 0, 8_000),
    "far behind its end": (0, 2**32 - 1, 0, 0, 2**32 - 1),
    "a dictionary that ends before it begins": (500, 400, 0, 0, 0),
    "a head longer than what is new": (0, 8_000, 11, 0, 8_000),
}


@pytest.mark.parametrize("places", DISORDER.values(), ids=list(DISORDER))
def test_places_that_are_not_in_their_order_are_damage(
    open_: Callable[..., Any], database_path: Path, places: tuple[int, ...]
) -> None:
    """So nothing of a base can be there twice."""
    one_checkpoint(open_)
    base = noise(8_000)
    context, resume, _, start, stop = places
    size = 10 + max(0, stop - start) + max(0, 8_000 - resume)
    dictionary = base[context:resume] if context < resume else b""
    content = difference(*places, 1, b"ten bytes.", dictionary)
    blob(database_path, "v0", base)
    blob(database_path, "v", content, type="diff:bytes", base="v0", size=size, token=2, number=1)
    refused(open_, "order|says that")
    blob(database_path, "v", base)
    write(database_path, content, base='[["m","v"]]', size=size)
    refused(open_, "order|says that")


@pytest.mark.parametrize("by", ["places", "frames"])
def test_a_chain_cannot_double_its_value_at_every_step(
    open_: Callable[..., Any], database_path: Path, by: str
) -> None:
    """Neither by taking all of the base twice, nor by frames that repeat their dictionary."""
    one_checkpoint(open_)
    base = noise(500_000)
    blob(database_path, "v00", base)
    size = len(base)
    for number in range(1, 40):
        if by == "places" or size > 4_000_000:
            content = difference(0, 0, 0, 0, min(size, 2**32 - 1), number)
        else:
            content = difference(0, size, 0, 0, 0, number, base * 2, base)
            base *= 2
        size *= 2
        columns = {"base": f"v{number - 1:02}", "size": size, "token": number + 1}
        version = f"v{number:02}" if number < 39 else "v"
        blob(database_path, version, content, type="diff:bytes", number=number, **columns)
    refused(open_)


@pytest.mark.parametrize(
    "base",
    [
        '[["m","v"],["m","v"]]',
        "[" + ",".join(['["m","v"]'] * 10_000) + "]",
        "[" + ",".join(f'["m{n}","v"]' for n in range(5)) + "]",
        "[" * 100_000,
        '["m","v"]',
    ],
    ids=["one twice", "one very often", "more than are ever made", "deep", "no pairs"],
)
def test_a_write_rests_on_few_values_and_on_each_once(
    open_: Callable[..., Any], database_path: Path, base: str
) -> None:
    """Else a short list would make a large value of a small one."""
    one_checkpoint(open_)
    content = noise(900_000)
    blob(database_path, "v", content)
    for number in range(5):
        blob(database_path, "v", content, channel=f"m{number}")
    size = len(content) * 2
    write(database_path, difference(0, 0, 0, 0, 0, 2, b""), base=base, size=size)
    refused(open_)


def test_a_chain_of_thousands_and_one_without_an_end_are_damage(
    open_: Callable[..., Any], database_path: Path
) -> None:
    """Neither takes long."""
    one_checkpoint(open_)
    base = noise(8_000)
    blob(database_path, "0", base)
    with closing(sqlite3.connect(database_path)) as conn, conn:
        for number in range(1, 300):
            content = difference(8_000, 8_000, 0, 0, 8_000, number)
            version = str(number) if number < 299 else "v"
            conn.execute(
                "INSERT OR REPLACE INTO checkpoint_blobs VALUES ('t', '', 'm', ?, 'diff:bytes', ?, "
                "?, 8000, ?, ?)",
                (version, content, str(number - 1), number + 1, number),
            )
    refused(open_, "no end")
    with closing(sqlite3.connect(database_path)) as conn, conn:
        conn.execute("UPDATE checkpoint_blobs SET base = 'v' WHERE version = '290'")
    refused(open_, "no end")


def test_large_values_that_repeat_themselves_come_back(
    open_: Callable[..., Any], database_path: Path
) -> None:
    """What would be refused when it is read is not made: it is stored whole."""
    large = b"\0" * 3_000_000
    steps = [large, large + b"new", b"new" + large, large * 2, noise(4_000) + large]
    for number, value in enumerate(steps, 1):
        with closing(open_()) as saver:
            parent = number - 1 or None
            save(saver, number, {"m": value}, versions={"m": f"{number}"}, parent=parent)
            saver.put_writes(place(number), [("w", value * 2)], "task")
            with closing(open_()) as other:
                assert values(other) == {"m": value}
                assert get(other).pending_writes == [("task", "w", value * 2)]
    with closing(open_()) as saver:
        saver.compact()
        assert saver.check() == []
        assert values(saver, 4) == {"m": large * 2}
    stored = rows(
        database_path, "SELECT size, length(blob) FROM checkpoint_blobs WHERE base IS NULL"
    )
    assert all(size is None or size <= most_bytes(length) for size, length in stored)


def test_large_values_that_are_shuffled_come_back_along_their_chain(
    open_: Callable[..., Any],
) -> None:
    """Each difference holds all of the value: together they are more than is held at once."""
    text = noise(25_000_000)
    made = []
    with closing(open_()) as saver:
        for number in range(1, 9):
            text = text[1_000_000:] + b"%d" % number + text[:1_000_000]
            made.append(text)
            parent = number - 1 or None
            save(saver, number, {"m": text}, versions={"m": f"{number}"}, parent=parent)
    with closing(open_()) as saver:
        for number, value in enumerate(made, 1):
            assert values(saver, number)["m"] == value


def test_a_value_larger_than_sqlite_takes_is_refused_when_it_is_saved(
    open_: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error says so; nothing is stored."""
    monkeypatch.setattr("langgraph_sqlite_saver.checkpoints.values.MOST_BYTES", 1_000_000)
    with closing(open_()) as saver:
        with pytest.raises(SerializationError, match=r"'m' has 1,000,001 bytes.*in a file"):
            save(saver, 1, {"m": b"x" * 1_000_001})
        with pytest.raises(SerializationError, match="'w' has"):
            saver.put_writes(place(1), [("w", b"x" * 1_000_001)], "task")
        assert get(saver) is None


IMITATIONS = {
    "view": """
        ALTER TABLE {0} RENAME TO real;
        CREATE VIEW {0} AS WITH RECURSIVE n (v) AS (SELECT 1 UNION ALL SELECT v + 1 FROM n)
        SELECT v FROM n
    """,
    "virtual table": """
        DROP TABLE {0};
        CREATE VIRTUAL TABLE {0} USING fts5(v)
    """,
    "computed column": """
        ALTER TABLE {0} RENAME COLUMN {1} TO other;
        ALTER TABLE {0} ADD COLUMN {1} AS (zeroblob(1000000000))
    """,
}


@pytest.mark.parametrize("kind", list(IMITATIONS))
@pytest.mark.parametrize(
    ("table", "column"),
    [
        ("checkpoint_migrations", "v"),
        ("checkpoints", "checkpoint"),
        ("checkpoint_blobs", "blob"),
        ("checkpoint_writes", "blob"),
    ],
)
def test_what_only_looks_like_our_tables_is_not_read(
    open_: Callable[..., Any], database_path: Path, kind: str, table: str, column: str
) -> None:
    """A view may have no end, and a column that is computed any size."""
    one_checkpoint(open_)
    with closing(sqlite3.connect(database_path)) as conn:
        conn.executescript(IMITATIONS[kind].format(table, column))
    with closing(open_()) as saver, pytest.raises(UnknownSchemaError, match="checkpoint"):
        get(saver, 1)


def test_columns_and_views_of_others_are_left_alone(
    open_: Callable[..., Any], database_path: Path
) -> None:
    """Under names of their own."""
    one_checkpoint(open_)
    with closing(sqlite3.connect(database_path)) as conn:
        conn.execute(
            "ALTER TABLE checkpoints ADD COLUMN step AS (json_extract(metadata, '$.step'))"
        )
        conn.execute("CREATE VIEW heads AS SELECT max(checkpoint_id) FROM checkpoints")
    with closing(open_()) as saver:
        assert values(saver, 1) == {"m": ["x"]}


NOT_TEXT = "CAST(x'61ff' AS TEXT)"


@pytest.mark.parametrize(
    "damage",
    [
        f"UPDATE checkpoint_blobs SET type = {NOT_TEXT}",
        f"UPDATE checkpoint_blobs SET token = {NOT_TEXT} WHERE version = 'v4'",
        f"UPDATE checkpoint_writes SET checkpoint_id = {NOT_TEXT} WHERE rowid = 1",
        f"UPDATE checkpoint_writes SET thread_id = {NOT_TEXT} WHERE rowid = 1",
        f"UPDATE checkpoint_writes SET checkpoint_ns = {NOT_TEXT}, "
        "checkpoint_id = '1e000000-0000-6000-8000-000000000000' WHERE rowid = 1",
        "UPDATE checkpoints SET metadata = 17, checkpoint = '{}'",
    ],
)
def test_text_that_is_none_keeps_nothing_from_its_work(
    open_: Callable[..., Any],
    database_path: Path,
    caplog: pytest.LogCaptureFixture,
    damage: str,
) -> None:
    """The row is damaged; copying, expiring, pruning and listing go on."""
    one_checkpoint(open_)
    with closing(open_()) as saver:
        text = "x" * 5_000
        for number in (2, 3, 4):
            text += f"{number}" * 10
            save(saver, number, {"m": text}, versions={"m": f"v{number}"}, parent=number - 1)
            saver.put_writes(place(number), [("w", text)], "task")
        save(saver, 1, {"a": 1}, thread="other")
    with closing(sqlite3.connect(database_path, isolation_level=None)) as conn:
        conn.execute("PRAGMA ignore_check_constraints = ON")
        conn.execute(damage)
    with closing(open_()) as saver:
        saver.copy_thread("t", "other")
        saver.copy_thread("t", "new")
        saver.expire(datetime(2020, 1, 1, tzinfo=timezone.utc))
        saver.prune(["t"], keep_last=1)
        saver.compact()
        with suppress(SerializationError):
            saver.list(None)
        assert saver.threads()
    caplog.text.encode()  # in a log, and on a terminal
