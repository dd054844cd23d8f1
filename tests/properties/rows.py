"""What must hold of the rows of any file, whatever was called: read with plain sqlite3."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any


def assert_sound(path: Path) -> None:
    """SQLite finds nothing wrong, and the rows belong together."""
    with closing(sqlite3.connect(path)) as conn:
        assert conn.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert_no_orphans(conn)
        assert_bases(conn)


def assert_no_orphans(conn: sqlite3.Connection) -> None:
    """Strict JSON, run ids as the metadata has them, and no blob that no checkpoint uses."""
    used: set[tuple[str, ...]] = set()
    for thread, ns, checkpoint, metadata, run_id, notes in conn.execute(
        "SELECT thread_id, checkpoint_ns, checkpoint, metadata, run_id, blob_versions "
        "FROM checkpoints"
    ):
        document = strict_json(checkpoint)
        named = strict_json(metadata).get("run_id")
        if named is None or isinstance(named, str):
            assert run_id == named
        homes = {c: str(v) for c, v in document["channel_versions"].items()}
        homes = {c: v for c, v in homes.items() if c not in document["channel_values"]}
        homes.update(strict_json(notes or "{}"))
        used |= {(thread, ns, *home) for home in homes.items()}
    blobs = conn.execute("SELECT thread_id, checkpoint_ns, channel, version FROM checkpoint_blobs")
    assert set(blobs) <= used


# Of this package's tables: thread, namespace, channel and version key.
Key = tuple[str, str, str, str]


def assert_bases(conn: sqlite3.Connection) -> int:
    """What values rest on is there, and in the end a whole value; frames are smaller than values.

    A base has a token: without one nobody would know that it is still the same value. Returns how
    many rows the longest chain has.
    """
    bases, tokens = {}, {}
    for *key, kind, blob, size, base, token, number in conn.execute(
        "SELECT thread_id, checkpoint_ns, channel, version, type, length(blob), size, base, token, "
        "number FROM checkpoint_blobs"
    ):
        bases[tuple(key)] = (*key[:3], base) if base is not None else None
        tokens[tuple(key)] = token
        assert_frame(kind, blob, size, base)
        assert (token is None) == (number is None)
    for key, base in bases.items():
        assert base is None or tokens.get(base) is not None, f"{key} rests on nothing"
    longest = max((len(chain_of(key, bases)) for key in bases), default=0)
    for thread, ns, kind, blob, size, base in conn.execute(
        "SELECT thread_id, checkpoint_ns, type, length(blob), size, base FROM checkpoint_writes"
    ):
        assert_frame(kind, blob, size, base)
        for channel, version in strict_json(base or "[]"):
            carried = (thread, ns, channel, version)
            assert tokens.get(carried) is not None, f"a write rests on {carried}"
    return longest


def assert_frame(kind: str, blob: int, size: int | None, base: str | None) -> None:
    """What rests on others is so marked; what is says how large its value is, and is not larger."""
    marked = kind.startswith(("zstd:", "diff:"))
    assert marked or base is None
    assert marked == (size is not None)
    if "+" not in kind:  # a cipher adds to it
        assert size is None or blob < size


def chain_of(key: Key, bases: dict[Key, Key | None]) -> list[Key]:
    """A blob and those it rests on, down to the whole one."""
    chain = [key]
    while (base := bases[chain[-1]]) is not None:
        assert base not in chain, f"{key} rests on itself: {chain}"
        chain.append(base)
    return chain


def strict_json(text: str) -> Any:
    """What the text holds; NaN, infinities and NULs are no JSON that all databases read."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    value = json.loads(text, parse_constant=refuse)
    assert "\0" not in json.dumps(value, ensure_ascii=False)
    return value
