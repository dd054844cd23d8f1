"""Damage: which value it is in is said where it is read, and check() finds all of it."""

from __future__ import annotations

import pickle
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from langgraph.checkpoint.serde.encrypted import EncryptedSerializer
from langgraph.types import Send

from langgraph_sqlite_saver import Damage, DamagedError, SerializationError, StorageError

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
    values,
)


@pytest.fixture(params=["sync", "async"])
def open_(request: Any, open_driver: Any, database_path: Path) -> Callable[..., Any]:
    """Opens savers of one class on the test's file: `open_(history="full")`."""
    return lambda **options: open_driver(request.param, database_path, **options)


ONE = "thread_id = 't' AND channel = 'messages' AND version = '{}'"


def flipped(blob: bytes, position: int = -1, mask: int = 0xFF) -> bytes:
    changed = bytearray(blob)
    changed[position] ^= mask
    return bytes(changed)


def blob_of(path: Path, version: str) -> bytes:
    ((blob,),) = rows(path, f"SELECT blob FROM checkpoint_blobs WHERE {ONE.format(version)}")
    return blob


def set_blob(path: Path, version: str, **columns: Any) -> None:
    names = ", ".join(f"{name} = ?" for name in columns)
    condition = ONE.format(version)
    execute(path, f"UPDATE checkpoint_blobs SET {names} WHERE {condition}", *columns.values())


# Each damages a value that version 26 rests on, by hand; and the versions that it names then.


def flip_a_byte(path: Path) -> str:
    base = str(bases(path)["26"])
    set_blob(path, base, blob=flipped(blob_of(path, base), 20))
    return base


def cut_it_off(path: Path) -> str:
    base = str(bases(path)["26"])
    set_blob(path, base, blob=blob_of(path, base)[:-9])
    return base


def delete_the_base(path: Path) -> str:
    execute(path, f"DELETE FROM checkpoint_blobs WHERE {ONE.format(bases(path)['26'])}")
    return "26"


def replace_the_base(path: Path) -> str:
    """By a value that can be read, and is another one."""
    other = bytes(prose(5000, "other"), "utf-8")
    set_blob(path, str(bases(path)["26"]), type="bytes", blob=other, base=None, size=None)
    return "26"


def make_it_cyclic(path: Path) -> str:
    set_blob(path, str(bases(path)["26"]), base="26")
    return "26"


DAMAGES = [flip_a_byte, cut_it_off, delete_the_base, replace_the_base, make_it_cyclic]


@pytest.fixture
def chats(open_: Any, database_path: Path) -> Path:
    """Two threads of eight turns; no saver has them at hand any more."""
    saver = open_()
    for thread in ("t", "sound"):
        converse(saver, 28, start=21, kind="int", thread=thread)
    found = bases(database_path)
    assert found["26"] not in (None, "21")
    assert found[str(found["26"])] == "21"
    assert {found[version] for version in ("22", "23", "24")} <= {"21", "22", "23"}
    return database_path


# --- reading damaged values


@pytest.mark.parametrize("damage", DAMAGES)
def test_reading_a_damaged_value_says_which_it_is(chats: Path, open_: Any, damage: Any) -> None:
    """Thread, namespace, channel and version, as attributes and in the text; by every reader."""
    found = bases(chats)
    resting = {version for version in found if found[version] == found["26"]}
    named = {damage(chats)}
    reads: list[Callable[[Any], Any]] = [
        lambda saver: get(saver, 26),
        lambda saver: saver.list(place()),
        lambda saver: saver.list(None, limit=14),
        lambda saver: saver.get_delta_channel_history(config=place(27), channels=["messages"]),
    ]
    for read in reads:
        with pytest.raises(DamagedError) as caught:
            read(open_())
        error = caught.value
        assert isinstance(error, SerializationError)
        assert isinstance(error, StorageError)
        assert (error.thread_id, error.checkpoint_ns, error.channel) == ("t", "", "messages")
        assert error.version in named
        text = str(error)
        parts = ("'t'", "'messages'", f"version {error.version}:", "check()")
        assert all(part in text for part in parts)
        assert error.reason in text
        named |= {str(found["26"]), *resting}  # the others come upon the damage by any of these


def test_an_error_that_is_kept_keeps_no_snapshot(chats: Path, open_: Any) -> None:
    """Its traceback holds what the call held; the -wal can be emptied all the same."""
    saver = open_()
    execute(chats, "UPDATE checkpoints SET checkpoint = '[]' WHERE checkpoint_id = '000027'")
    with pytest.raises(DamagedError) as kept:
        saver.get_delta_channel_history(config=place(28), channels=["nothing stored"])
    converse(saver, 29, start=29, thread="sound")
    with closing(sqlite3.connect(chats)) as conn:
        assert conn.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] == 0
    assert kept.value.checkpoint_id == "000027"


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_does_not_rest_on_it_is_read_as_ever(chats: Path, open_: Any, damage: Any) -> None:
    """Other threads, and the values of the same thread that lie elsewhere."""
    damage(chats)
    saver = open_()
    expect(saver, 28, start=21, thread="sound")
    assert len(saver.list(place(thread="sound"))) == 8
    expect(saver, 22, start=21)
    for turn in (22, 23, 24):
        expect(saver, turn, start=turn)


@pytest.mark.parametrize("newest", [26, 28])
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_put_on_a_damaged_thread_works(chats: Path, open_: Any, damage: Any, newest: int) -> None:
    """It rests on nothing that cannot be read; what comes after it can be."""
    damage(chats)
    for turn in range(newest + 1, 29):
        execute(chats, f"DELETE FROM checkpoint_blobs WHERE {ONE.format(turn)}")
    saver = open_()
    with pytest.raises(DamagedError):
        get(saver, 26)
    saver.put_writes(place(28), [("w", messages(26)), ("w", [1])], "task")
    saver.put_writes(place(29), [("w", messages(26)), ("w", [1])], "task")
    converse(saver, 32, start=29, kind="int")
    for reader in (saver, open_()):
        expect(reader, 32, start=29)
        assert get(reader, 29).pending_writes == [("task", "w", messages(26)), ("task", "w", [1])]


def test_putting_the_damaged_version_again_repairs_it(chats: Path, open_: Any) -> None:
    """A checkpoint that is put again, with its value, has it."""
    flip_a_byte(chats)
    saver = open_()
    converse(saver, 26, start=26, kind="int")
    for reader in (saver, open_()):
        expect(reader, 26, start=26)


def test_a_damaged_thread_can_be_deleted(chats: Path, open_: Any) -> None:
    """It is gone, and with it the damage."""
    flip_a_byte(chats)
    saver = open_()
    saver.delete_thread("t")
    assert saver.check() == []
    assert [thread.thread_id for thread in saver.threads()] == ["sound"]


def test_no_flipped_bit_is_read_as_a_value(chats: Path, open_: Any) -> None:
    """Each byte of a frame, and of the whole value it rests on."""
    for version in ("26", "21"):
        reader, read, refused = open_(), 0, 0
        blob = blob_of(chats, version)
        some = range(len(blob)) if len(blob) < 200 else [*range(12), *range(12, len(blob), 97), -1]
        with closing(sqlite3.connect(chats, isolation_level=None)) as conn:
            update = f"UPDATE checkpoint_blobs SET blob = ? WHERE {ONE.format(version)}"
            for position in some:
                for mask in (0xFF, 1, 0x80):
                    conn.execute(update, (flipped(blob, position, mask),))
                    try:
                        found = values(reader, 26)
                    except SerializationError:
                        refused += 1
                    else:  # a bit that says nothing here
                        assert found == {"messages": messages(26)}
                        reader = open_()
                        read += 1
            assert read < refused / 10
            conn.execute(update, (blob,))
        expect(reader, 26, start=26)


def test_a_damaged_pending_write_is_named(chats: Path, open_: Any) -> None:
    """By the channel it was written to; one whose base is gone, by the base."""
    saver = open_()
    get(saver)
    sends = [("w", Send("tools", {"messages": messages(28)}))]
    saver.put_writes(place(28), sends, "task")
    ((blob,),) = rows(chats, "SELECT blob FROM checkpoint_writes")
    execute(chats, "UPDATE checkpoint_writes SET blob = ?", flipped(blob))
    for read in (get, lambda saver: saver.list(place())):
        with pytest.raises(DamagedError, match="channel 'w', version of a pending write") as caught:
            read(open_())
        assert (caught.value.thread_id, caught.value.channel) == ("t", "w")
    execute(chats, "UPDATE checkpoint_writes SET blob = ?", blob)
    assert get(open_()).pending_writes == [("task", *each) for each in sends]
    execute(chats, f"DELETE FROM checkpoint_blobs WHERE {ONE.format(28)}")
    with pytest.raises(DamagedError, match=r"channel 'messages', version 28: .* pending write"):
        get(open_())


def test_a_damaged_error_passes_through_pickle(chats: Path, open_: Any) -> None:
    """As from a worker process."""
    flip_a_byte(chats)
    with pytest.raises(DamagedError) as caught:
        get(open_(), 26)
    again = pickle.loads(pickle.dumps(caught.value))
    assert type(again) is DamagedError
    assert (str(again), vars(again)) == (str(caught.value), vars(caught.value))


# --- check


def test_a_sound_file_has_no_damage(every_saver: Any, database_path: Path) -> None:
    """Every value and write is read, as progress tells."""
    assert every_saver.check() == []
    for thread in "ab":
        converse(every_saver, 10, thread=thread)
        every_saver.put_writes(place(10, thread), [("w", messages(10)), ("w", 1)], "task")
        save(every_saver, 11, {"inline": 1, "other": b"", "none": None}, thread=thread)
    told: list[tuple[int, int]] = []
    assert every_saver.check(progress=lambda *each: told.append(each)) == []
    done = [each for each, _ in told]
    assert {total for _, total in told} == {26}
    assert done == sorted(done)
    assert len(set(done)) >= 4
    assert done[-1] == 26


def test_progress_that_raises_stops_it(chats: Path, open_: Any) -> None:
    """The error is the caller's own."""

    def stop(done: int, total: int) -> None:
        raise KeyError("enough")

    with pytest.raises(KeyError, match="enough"):
        open_().check(progress=stop)


@pytest.mark.parametrize("damage", DAMAGES)
def test_every_value_that_cannot_be_read_is_found(chats: Path, open_: Any, damage: Any) -> None:
    """Those that rest on a damaged one too, each with the reason that reading it gives."""
    damage(chats)
    saver = open_()
    found = saver.check()
    unreadable = set()
    for thread in ("t", "sound"):
        for turn in range(21, 29):
            try:
                values(open_(), turn, thread)
            except DamagedError:
                unreadable.add((thread, str(turn)))
    assert ("t", "26") in unreadable
    assert all(thread == "t" for thread, _ in unreadable)
    assert {(each.thread_id, each.version) for each in found} == unreadable
    assert len(found) == len(unreadable)
    for each in found:
        assert isinstance(each, Damage)
        assert (each.checkpoint_ns, each.channel, each.checkpoint_id) == ("", "messages", None)
        with pytest.raises(DamagedError) as caught:
            get(open_(), int(str(each.version)))
        assert caught.value.reason == each.reason


def test_pending_writes_that_cannot_be_read_are_found(chats: Path, open_: Any) -> None:
    """By their checkpoint and channel."""
    saver = open_()
    get(saver)
    for number in (27, 28, 29):
        saver.put_writes(place(number), [("w", [messages(28)]), ("x", b"whole")], f"task{number}")
    execute(chats, "UPDATE checkpoint_writes SET blob = x'00' WHERE task_id = 'task27' AND idx = 0")
    execute(chats, "UPDATE checkpoint_writes SET type = 'no' WHERE task_id = 'task29' AND idx = 1")
    found = [(each.channel, each.version, each.checkpoint_id) for each in saver.check()]
    assert found == [("w", None, "000027"), ("x", None, "000029")]
    execute(chats, f"DELETE FROM checkpoint_blobs WHERE {ONE.format(28)}")
    assert len(saver.check(["t"])) == 4


def test_only_the_threads_given_are_checked(chats: Path, open_: Any) -> None:
    """None of them for an empty list; one that is not there is no error."""
    flip_a_byte(chats)
    saver = open_()
    assert saver.check(["sound", "missing"]) == saver.check([]) == []
    assert saver.check(["t"]) == saver.check(["sound", "t"]) == saver.check() != []
    told: list[tuple[int, int]] = []
    saver.check(["sound"], progress=lambda *each: told.append(each))
    assert told[-1] == (8, 8)


def test_a_whole_value_that_was_cut_off_is_found(open_: Any, database_path: Path) -> None:
    """A row without a frame, which has no checksum, as far as the serialiser notices."""
    saver = open_(history="full")
    converse(saver, 3, kind="int")
    set_blob(database_path, "2", blob=blob_of(database_path, "2")[:100])
    with pytest.raises(SerializationError, match="'messages'"):
        get(saver, 2)
    (found,) = saver.check()
    assert (found.thread_id, found.channel, found.version) == ("t", "messages", "2")
    expect(saver, 1)


@pytest.mark.parametrize("column", ["checkpoint", "metadata"])
def test_a_checkpoint_whose_json_is_damaged_is_found(chats: Path, open_: Any, column: str) -> None:
    """By its id, beside whatever else there is."""
    flip_a_byte(chats)
    before = open_().check()
    execute(
        chats,
        f"UPDATE checkpoints SET {column} = substr({column}, 2) "
        "WHERE thread_id = 'sound' AND checkpoint_id = '000025'",
    )
    first, *others = open_().check()
    assert (first.thread_id, first.checkpoint_id, first.channel) == ("sound", "000025", None)
    assert "JSON" in first.reason
    assert others == before


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE checkpoints SET blob_versions = '{' WHERE thread_id = 't'",
        "UPDATE checkpoints SET checkpoint = '[]' WHERE thread_id = 't'",
    ],
)
def test_other_columns_of_a_checkpoint_that_cannot_be_read_are_found(
    chats: Path, open_: Any, statement: str
) -> None:
    """Reading it fails."""
    execute(chats, statement)
    assert {each.checkpoint_id for each in open_().check()} == {f"{n:06}" for n in range(21, 29)}


def test_the_json_of_the_threads_given_is_checked(chats: Path, open_: Any) -> None:
    """As their values are."""
    execute(chats, "UPDATE checkpoints SET checkpoint = '{' WHERE checkpoint_id = '000025'")
    (found,) = open_().check(["t"])
    assert (found.thread_id, found.checkpoint_id) == ("t", "000025")


WRONG_KINDS = pytest.mark.parametrize(
    "statement",
    [
        "UPDATE checkpoint_writes SET base = '{'",
        "UPDATE checkpoint_writes SET blob = 'text'",
        "UPDATE checkpoint_blobs SET blob = 'text' WHERE thread_id = 't'",
        "UPDATE checkpoint_blobs SET type = x'00' WHERE thread_id = 't'",
    ],
)


@WRONG_KINDS
def test_columns_of_the_wrong_kind_are_damage_too(chats: Path, open_: Any, statement: str) -> None:
    """What is in them is no value, and check() does not stumble over it."""
    saver = open_()
    get(saver)
    saver.put_writes(place(28), [("w", [messages(28)])], "task")
    execute(chats, statement)
    assert {each.thread_id for each in saver.check()} == {"t"}


@WRONG_KINDS
def test_reading_columns_of_the_wrong_kind_says_which_value_it_is(
    chats: Path, open_: Any, statement: str
) -> None:
    """As with any other damage."""
    saver = open_()
    get(saver)
    saver.put_writes(place(28), [("w", [messages(28)])], "task")
    execute(chats, statement)
    with pytest.raises(SerializationError):
        get(open_())


def test_a_page_that_is_damaged_is_found(open_: Any, open_driver: Any, tmp_path: Path) -> None:
    """check() is what one calls then; it tells, and does not stop there."""
    saver = open_(history="full")
    converse(saver, 30)
    copy = saver.backup(tmp_path / "copy.db")
    content = bytearray(copy.read_bytes())
    middle = len(content) // 2 // 4096 * 4096
    content[middle : middle + 4096] = b"\x5a" * 4096
    copy.write_bytes(content)
    assert open_driver("sync", copy).check() != []


# --- keys


@pytest.mark.parametrize("key", [b"j" * 16, None])
def test_without_its_key_an_encrypted_file_is_reported_value_by_value(
    open_: Any, key: bytes | None
) -> None:
    """With a wrong one or none; nothing is raised, and nothing changed."""
    secret = open_(serde=EncryptedSerializer.from_pycryptodome_aes(key=b"k" * 16))
    converse(secret, 27, start=20)
    secret.put_writes(place(27), [("w", messages(27)), ("small", "text")], "task")
    serde = key and EncryptedSerializer.from_pycryptodome_aes(key=key)
    found = open_(serde=serde).check()
    assert [each.channel for each in found] == ["messages"] * 8 + ["w", "small"]
    assert secret.check() == []
    expect(open_(serde=secret.saver.serde), 27, start=20)


# --- the log


def test_damage_is_told_to_the_log(
    open_: Any, chats: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """By whatever comes upon it: reading, listing, and check(), which tells how much there is."""
    delete_the_base(chats)
    saver = open_()

    def told() -> list[str]:
        found = [each for each in caplog.records if each.name == "langgraph_sqlite_saver.damage"]
        lines = [each.getMessage() for each in found]
        caplog.clear()
        return lines

    with pytest.raises(DamagedError):
        get(saver, 26)
    (line,) = told()
    assert "thread 't'" in line and "channel 'messages', version 26" in line
    with pytest.raises(DamagedError):
        saver.list(place())
    assert "list() leaves out a checkpoint" in told()[0]
    found = saver.check()
    (line,) = told()
    assert line.startswith(f"check() found {len(found)} damages; the first: ")
    get(saver, 28, thread="sound")
    assert told() == []
