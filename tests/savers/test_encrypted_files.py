"""EncryptedSerializer: what is in the file is as small as in plain, and nobody reads it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from langgraph.checkpoint.serde.encrypted import EncryptedSerializer
from langgraph.types import Send

from langgraph_sqlite_saver import SerializationError

from .helpers import (
    bases,
    converse,
    execute,
    expect,
    get,
    messages,
    place,
    prose,
    rows,
    save,
    unsound,
    values,
    version,
    write_as_it_is,
)

SECRET: Any = EncryptedSerializer.from_pycryptodome_aes(key=b"0123456789abcdef")
OTHER_KEY: Any = EncryptedSerializer.from_pycryptodome_aes(key=b"fedcba9876543210")
ZSTD = b"\x28\xb5\x2f\xfd"
SETTINGS = ["compact", "full"]


@pytest.fixture(params=["sync", "async"])
def open_(request: Any, open_driver: Any, database_path: Path) -> Callable[..., Any]:
    """Opens savers of one class on the test's file, with the key unless told otherwise."""
    return lambda **options: open_driver(
        request.param, database_path, **{"serde": SECRET, **options}
    )


# --- small


def test_an_encrypted_thread_is_as_small_as_a_plain_one(
    open_: Any, open_driver: Any, tmp_path: Path
) -> None:
    """Within half as much again, values and writes: what is enciphered are differences."""
    secret, plain = open_(), open_driver("sync", tmp_path / "plain.db")
    for saver in (secret, plain):
        for turn in range(1, 61):
            converse(saver, turn, start=turn)
            carried = [("__pregel_tasks", Send("tools", {"messages": messages(turn)}))]
            saver.put_writes(place(turn), carried, "task")
    ours, theirs = secret.stats(), plain.stats()
    assert ours.logical_blob_bytes > 10 * ours.blob_bytes
    assert ours.blob_bytes < 1.5 * theirs.blob_bytes
    assert ours.write_bytes < 1.5 * theirs.write_bytes
    for reader in (secret, open_()):
        expect(reader, 60)
        (write,) = get(reader, 60).pending_writes
        assert write[2].arg == {"messages": messages(60)}


def test_a_whole_encrypted_file_is_compacted(open_: Any, database_path: Path) -> None:
    """As a plain one is, and stays encrypted; with full history it becomes whole again."""
    converse(open_(history="full"), 60)
    saver = open_()
    before = saver.stats().blob_bytes
    saver.compact()
    assert saver.stats().blob_bytes < before / 10
    expect(open_(), 60)
    assert rows(database_path, "SELECT 1 FROM checkpoint_blobs WHERE type NOT LIKE '%+aes'") == []
    full = open_(history="full")
    full.compact()
    assert full.stats().blob_bytes == before
    expect(open_(), 60)
    assert unsound(database_path) == []


# --- secret

SHORT = "marker-of-a-short-str"
LONG = "marker-inside-a-long-text"
WRITTEN = "marker-of-a-pending-write"
BYTES = b"marker-of-bytes\0\1"
KEY = "marker-of-a-dicts-key"
RANDOMLY = "marker-beside-what-does-not-compress"
MARKERS = [SHORT, LONG, WRITTEN, BYTES.decode(), KEY, RANDOMLY]


def use(saver: Any, backup: Path) -> Iterator[None]:
    """Everything that writes, with markers in all values; pauses where one may look."""
    text = [prose(3000), LONG, prose(3000)]
    for thread in ("t", "u"):
        for turn in range(1, 31):
            given = {
                "short": f"{SHORT} {turn}",
                "long": text + messages(turn),
                "bytes": BYTES * turn,
                "dict": {KEY: turn},
                "random": [RANDOMLY, bytes(range(256)) * 20],
                "homeless": f"{SHORT} without a version {turn}",
            }
            versions = {channel: version("str", turn) for channel in given if channel != "homeless"}
            versions["random"] = turn // 8
            new = {**versions, "short": versions["short"]}
            if turn % 5 == 0:
                del new["long"]
            save(saver, turn, given, versions=versions, new=new, parent=turn - 1, thread=thread,
                 pending_sends=[{"x": WRITTEN}] if turn % 7 == 0 else [],
                 metadata={"run_id": f"run{turn % 3}"})  # fmt: skip
            writes = [("w", WRITTEN), ("w", Send("n", given)), ("w", [WRITTEN] * 1000)]
            saver.put_writes(place(turn, thread), writes, "task")
            saver.put_writes(place(turn, thread), [("__error__", f"{WRITTEN} failed")], "task")
        yield
    saver.copy_thread("t", "copy")
    saver.prune(["t"], keep_last=20)
    yield
    saver.copy_thread("u", "t")
    saver.delete_for_runs(["run1"])
    saver.delete_thread("u")
    yield
    saver.backup(backup)
    saver.compact()
    yield
    saver.prune(["t", "copy"], keep_last=2)
    saver.optimize(vacuum="incremental")
    yield


def found_in(directory: Path) -> set[str]:
    """Which markers any file of the directory has: the database, its -wal, -shm and backups."""
    content = [each.read_bytes() for each in directory.iterdir()]
    return {marker for marker in MARKERS if any(marker.encode() in each for each in content)}


@pytest.mark.parametrize("history", SETTINGS)
def test_no_value_or_write_reaches_the_file_in_plain(
    open_: Any, database_path: Path, history: Any
) -> None:
    """Whatever is done, at no time, nor in freed pages, the -wal and backups."""
    directory = database_path.parent
    saver = open_(history=history)
    for _ in use(saver, directory / "backup.db"):
        assert {each.name for each in directory.iterdir()} >= {"agent.db", "agent.db-wal"}
        assert found_in(directory) == set()
        for table in ("checkpoint_blobs", "checkpoint_writes"):
            for kind, blob in rows(database_path, f"SELECT type, blob FROM {table}"):
                assert kind.endswith("+aes")
                assert not blob.startswith(ZSTD)
                assert ":" not in kind or history == "compact"
    open_(history="full" if history == "compact" else "compact").compact()
    assert found_in(directory) == set()
    assert saver.check() == []
    assert values(open_(), 30)["short"] == f"{SHORT} 30"
    saver.saver.close()
    assert found_in(directory) == set()


def test_without_encryption_the_same_search_finds_them(open_: Any, database_path: Path) -> None:
    """So that finding none means something."""
    saver = open_(serde=None, history="full")
    for _ in use(saver, database_path.parent / "backup.db"):
        assert found_in(database_path.parent) == set(MARKERS)


def test_frames_do_not_show_what_they_rest_on(open_: Any, database_path: Path) -> None:
    """Equal values have other bytes each time, and no frame is one to zstd."""
    saver = open_()
    for number in range(8):
        save(saver, number, {"c": prose(20_000)}, versions={"c": version("str", number)})
    found = rows(database_path, "SELECT type, blob FROM checkpoint_blobs")
    assert all(kind.endswith(":msgpack+aes") for kind, _ in found)
    assert len({blob for _, blob in found}) == 8
    assert all(ZSTD not in blob[:64] for _, blob in found)


def test_metadata_and_names_are_in_plain(open_: Any, database_path: Path) -> None:
    """As with every saver: metadata, ids, channels and versions are for queries."""
    saver = open_()
    save(saver, 1, {"name-of-a-channel": [SHORT]}, metadata={"key": LONG}, thread="name-of-it")
    content = b"".join(each.read_bytes() for each in database_path.parent.iterdir())
    assert SHORT.encode() not in content
    for plain in (LONG, "name-of-a-channel", "name-of-it"):
        assert plain.encode() in content
    assert [each.metadata["key"] for each in saver.list(None, filter={"key": LONG})] == [LONG]


# --- keys


STRANGERS = pytest.mark.parametrize(
    "serde", [pytest.param(OTHER_KEY, id="another key"), pytest.param(None, id="no key")]
)


def errors_without_the_key(open_: Any, serde: Any) -> list[str]:
    """What each way to read an encrypted chat says."""
    saver = open_()
    converse(saver, 20)
    saver.put_writes(place(20), [("w", messages(20))], "task")
    reader = open_(serde=serde)
    texts = []
    for read in (get, lambda saver: get(saver, 3), lambda saver: saver.list(place())):
        with pytest.raises(SerializationError, match="channel 'messages'") as caught:
            read(reader)
        texts.append(str(caught.value))
    expect(saver, 20)
    return texts


@STRANGERS
def test_reading_without_the_key_names_the_channel(open_: Any, serde: Any) -> None:
    """Of small values and of large ones."""
    save(open_(), 1, {"small": ["text"]}, thread="small")
    with pytest.raises(SerializationError, match="channel 'small'"):
        get(open_(serde=serde), thread="small")
    errors_without_the_key(open_, serde)


@STRANGERS
def test_reading_without_the_key_asks_for_it(open_: Any, serde: Any) -> None:
    """It is no damage, and no reason to delete anything."""
    for text in errors_without_the_key(open_, serde):
        assert "serde" in text
        assert "delete the thread" not in text


@STRANGERS
def test_who_has_not_the_key_harms_no_value(open_: Any, database_path: Path, serde: Any) -> None:
    """Puts, writes and deletions by another key, or none, leave the others as they were."""
    saver = open_()
    converse(saver, 30)
    saver.put_writes(place(30), [("w", messages(30))], "task")
    stranger = open_(serde=serde)
    for turn in range(31, 36):
        converse(stranger, turn, start=turn)
        stranger.put_writes(place(turn), [("w", messages(turn))], "task")
    expect(stranger, 35, start=31)
    for operation in (
        lambda: stranger.prune(["t"], keep_last=10),
        lambda: stranger.compact(),
        lambda: stranger.copy_thread("t", "copy"),
    ):
        with suppress(SerializationError):
            operation()
    for number in (26, 28, 30):
        expect(open_(), number, start=number)
    assert get(open_(), 30).pending_writes == [("task", "w", messages(30))]
    # What those that cannot be read rest on stays, though no checkpoint uses it.
    assert not {"missing", "cyclic"} & {each[0] for each in unsound(database_path)}


@pytest.mark.parametrize("history", SETTINGS)
def test_a_plain_file_goes_on_with_encryption(
    open_: Any, database_path: Path, history: Any
) -> None:
    """What was stored is read on; what comes may rest on it, and is encrypted."""
    plain = open_(serde=None, history=history)
    converse(plain, 10)
    plain.put_writes(place(10), [("w", messages(10))], "task")
    last = "SELECT max(rowid) FROM checkpoint_blobs"
    ((before,),) = rows(database_path, last)
    saver = open_()
    for turn in range(11, 31):
        converse(saver, turn, start=turn)
        saver.put_writes(place(turn), [("w", [SHORT, messages(turn)])], "task")
    kinds = rows(database_path, "SELECT type FROM checkpoint_blobs WHERE rowid > ?", before)
    assert len(kinds) == 20
    assert all(kind.endswith("+aes") for (kind,) in kinds)
    assert None not in [bases(database_path)[version("str", turn)] for turn in range(12, 20)]
    for reader in (saver, open_()):
        expect(reader, 30)
        assert get(reader, 10).pending_writes == [("task", "w", messages(10))]
        assert get(reader, 30).pending_writes == [("task", "w", [SHORT, messages(30)])]
    saver.compact()
    saver.prune(["t"], keep_last=25)
    expect(open_(), 30, start=6)
    assert unsound(database_path) == []
    content = b"".join(each.read_bytes() for each in database_path.parent.iterdir())
    assert SHORT.encode() not in content


def test_a_file_whose_values_lie_as_they_are_goes_on_with_encryption(
    open_: Any, database_path: Path
) -> None:
    """Its values have neither frames nor tokens."""
    write_as_it_is(database_path, 12)
    saver = open_()
    expect(saver, 12)
    converse(saver, 24, start=13)
    saver.compact()
    expect(open_(), 24)
    assert unsound(database_path) == []


def test_values_that_were_encrypted_as_they_are_are_read_and_compacted(
    open_: Any, database_path: Path
) -> None:
    """As EncryptedSerializer itself does it."""
    write_as_it_is(database_path, 24)
    for (name,) in rows(database_path, "SELECT version FROM checkpoint_blobs"):
        execute(
            database_path,
            "UPDATE checkpoint_blobs SET type = ?, blob = ? WHERE version = ?",
            *SECRET.dumps_typed(messages(int(name[:32]))),
            name,
        )
    saver = open_()
    expect(saver, 24)
    before = saver.stats().blob_bytes
    saver.compact()
    assert saver.stats().blob_bytes < before / 5
    converse(saver, 30, start=25)
    expect(open_(), 30)
