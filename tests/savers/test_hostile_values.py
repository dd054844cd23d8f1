"""A few rows that would take all memory: bounded by what a frame can hold, and told as damage."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from langgraph_sqlite_saver import DamagedError
from langgraph_sqlite_saver.checkpoints.differences import _DICTIONARY, _PLACES
from langgraph_sqlite_saver.checkpoints.frames import compress, zstd

from .helpers import get, save, values


def change(path: Path, statement: str, *parameters: Any) -> None:
    with closing(sqlite3.connect(path)) as conn, conn:
        conn.execute(statement, parameters)


def zeros(megabytes: int) -> bytes:
    """A frame of some KB for so many megabytes."""
    checked = {zstd.CompressionParameter.checksum_flag: 1}
    compressor = zstd.ZstdCompressor(options=checked)
    parts = [compressor.compress(bytes(1_000_000)) for _ in range(megabytes)]
    return b"".join([*parts, compressor.flush()])


@pytest.mark.parametrize("size", [5000, 2**40, -1, "many", 1.5])
def test_a_frame_that_holds_more_than_its_row_says(
    saver: Any, database_path: Path, size: object
) -> None:
    """Or whose row says what cannot be."""
    save(saver, 1, {"m": [1]})
    change(
        database_path,
        "UPDATE checkpoint_blobs "
        "SET type = 'zstd:bytes', token = 1, number = 0, blob = ?, size = ?",
        zeros(50), size,
    )  # fmt: skip
    with pytest.raises(DamagedError, match=r"'t'.*'m'"):
        get(saver)
    assert [damage.channel for damage in saver.check()] == ["m"]


def test_a_value_that_has_its_base_twice_is_damaged(saver: Any, database_path: Path) -> None:
    """Such versions, one on the other, would double with each row."""
    save(saver, 1, {"m": b"haha"}, versions={"m": "v2"})
    change(database_path, "UPDATE checkpoint_blobs SET version = 'v0', type = 'bytes', token = 1")
    size = 4
    for number in (1, 2):
        places = _PLACES.pack(0, 0, 0, 0, size, number)
        change(
            database_path,
            "INSERT INTO checkpoint_blobs (thread_id, channel, version, type, blob, base, size, "
            "token, number) VALUES ('t', 'm', ?, 'diff:bytes', ?, ?, ?, ?, ?)",
            f"v{number}", _DICTIONARY.pack(0, 0) + compress(places), f"v{number - 1}", 2 * size,
            number + 1, number,
        )  # fmt: skip
        size *= 2
    with pytest.raises(DamagedError, match="not in their order"):
        values(saver)


def test_a_write_that_rests_on_a_value_twice_is_damaged(saver: Any, database_path: Path) -> None:
    """It would have its bytes as often as the row names it."""
    config = save(saver, 1, {"m": ["x" * 6000]})
    saver.put_writes(config, [("m", ["x" * 6000, 1])], "task")
    change(
        database_path,
        "UPDATE checkpoint_writes SET base = json_array(json(json_extract(base, '$[0]')), "
        "json(json_extract(base, '$[0]')))",
    )
    with pytest.raises(DamagedError, match="twice"):
        get(saver)
