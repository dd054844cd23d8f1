"""What values rest on when others are rewritten, deleted or damaged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from langgraph.checkpoint.serde.encrypted import EncryptedSerializer

from langgraph_sqlite_saver import DamagedError, SqliteSaver

from .helpers import execute, get, id_of, place, prose, rows, save, unsound, values, version

TEXT = "".join(prose(2_000, number) for number in range(100))


def put_sizes(saver: Any, sizes: list[int], *, thread: str = "t", runs: int = 1) -> None:
    """Text that grows as told; the checkpoints are made by one run after the other."""
    for number, size in enumerate(sizes, 1):
        save(
            saver,
            number,
            {"m": TEXT[:size]},
            versions={"m": version("str", number)},
            thread=thread,
            metadata={"run_id": f"run {number % runs}"},
        )


def test_compact_rests_nothing_on_a_value_that_only_its_cipher_made_large(
    database_path: Path,
) -> None:
    """Such a value has no token by which it could be known."""
    serde = EncryptedSerializer.from_pycryptodome_aes(key=b"0" * 32)
    with SqliteSaver(database_path, serde=serde) as saver:
        put_sizes(saver, [2000, 3980, 3990, 4200, 4400, 4600])
    with SqliteSaver(database_path, serde=serde) as saver:
        saver.compact()
        assert saver.compact().rewritten == 0
        assert saver.check() == []
        assert values(saver) == {"m": TEXT[:4600]}


@pytest.mark.parametrize("column", ["blobs", "writes"])
def test_a_value_is_not_cut_to_a_size_that_is_wrong(database_path: Path, column: str) -> None:
    """Neither a whole one nor a difference."""
    with SqliteSaver(database_path) as saver:
        put_sizes(saver, [10_000, 10_100, 10_200])
        saver.put_writes(place(3), [("w", TEXT[:9_000])], "task")
        execute(database_path, f"UPDATE checkpoint_{column} SET size = size - 100")
    with SqliteSaver(database_path) as saver:
        for number in (1, 2, 3) if column == "blobs" else (3,):
            with pytest.raises(DamagedError, match=r"bytes and not|more than \d+ bytes"):
                get(saver, number)
        assert len(saver.check()) == (4 if column == "blobs" else 1)


def test_deleting_every_other_run_does_not_store_the_others_whole(database_path: Path) -> None:
    """What stays rests on what stays before it."""
    with SqliteSaver(database_path) as saver:
        put_sizes(saver, [100_000 + 500 * number for number in range(100)], runs=2)
        before = saver.stats().blob_bytes
        saver.delete_for_runs(["run 1"])
        stats = saver.stats()
        assert (stats.checkpoints, saver.check()) == (50, [])
        assert stats.blob_bytes < before * 1.5
        assert values(saver, 98) == {"m": TEXT[: 100_000 + 500 * 97]}
    assert unsound(database_path) == []


def test_chains_do_not_grow_with_each_compact(database_path: Path) -> None:
    """Where whole values, on which others rest, are put behind others again and again."""
    full, compact = SqliteSaver(database_path, history="full"), SqliteSaver(database_path)
    with full, compact:
        for number in range(1, 241):
            saver = full if number % 3 == 1 else compact
            compact.history.forget("t")
            size = 60_000 + 100 * number
            save(saver, number, {"m": TEXT[:size]}, versions={"m": version("str", number)})
        compact.compact()
        assert compact.check() == []
        assert values(compact) == {"m": TEXT[:84_000]}
    found = dict(rows(database_path, "SELECT version, base FROM checkpoint_blobs"))
    assert max(depth(found, each) for each in found) < 80


def depth(bases: dict[str, str | None], name: str | None) -> int:
    """How many others a version rests on."""
    steps = 0
    while (name := bases[str(name)]) is not None:
        steps += 1
    return steps


def test_rows_without_a_value_are_copied_onto_an_existing_thread(database_path: Path) -> None:
    """As there are in what comes from Postgres."""
    with SqliteSaver(database_path) as saver:
        for number, name in ((1, "a"), (2, "b")):
            versions = {"m": 1, "n": version("str", number)}
            save(saver, number, {}, versions=versions, thread=name)
        for channel, key in (("m", "1"), ("n", version("str", 1))):
            execute(
                database_path,
                "INSERT INTO checkpoint_blobs (thread_id, channel, version, type) "
                "VALUES ('a', ?, ?, 'empty')",
                channel,
                key,
            )
        saver.copy_thread("a", "b")
        assert values(saver, 1, thread="b") == {}
        assert saver.check() == []


def test_a_damaged_value_does_not_keep_prune_from_its_work(database_path: Path) -> None:
    """It cannot be read before, and not after."""
    with SqliteSaver(database_path) as saver:
        for name in "abc":
            put_sizes(saver, [10_000 + 100 * number for number in range(8)], thread=name)
        update = "UPDATE checkpoint_blobs SET blob = x'00' WHERE thread_id = 'a' AND base IS NULL"
        execute(database_path, update)
        saver.prune(["a", "b", "c"])
        left = rows(database_path, "SELECT thread_id, checkpoint_id FROM checkpoints")
        assert sorted(left) == [(name, id_of(8)) for name in "abc"]
        assert values(saver, thread="c") == {"m": TEXT[:10_700]}
