"""The rig finds what is wrong, and nothing where nothing is: of each rule of the model."""

from __future__ import annotations

import random

import pytest

from .disk import Disk, Event
from .rig import Cut, Rig
from .test_power_cuts import Saves

OLD, NEW = b"old" * 3000, b"new" * 5000
CUTS = 200


def outcomes(*events: Event) -> list[dict[str, bytes | None]]:
    """What cuts leave of a directory with one file, after all these events."""
    disk = Disk({"file": (1, OLD)})
    for event in events:
        disk.do(event)
    return [disk.after_cut(random.Random(seed)) for seed in range(CUTS)]


def contents_of(name: str, found: list[dict[str, bytes | None]]) -> set[bytes | None]:
    return {each.get(name) for each in found}


def test_what_was_synced_is_there() -> None:
    """A file's bytes, size and name."""
    created = Event("C", 2, text="new"), Event("W", 2, 0, data=NEW), Event("S", 2)
    assert contents_of("new", outcomes(*created, Event("D"))) == {NEW}
    truncated = Event("T", 1, 3), Event("S", 1)
    assert contents_of("file", outcomes(*truncated)) == {b"old"}


def test_what_was_written_last_is_there_in_any_part() -> None:
    """Nothing, all, torn, or with a hole; what was not written stays."""
    found = contents_of("file", outcomes(Event("W", 1, 512, data=b"x" * 1024)))
    first, second, rest = OLD[:512], OLD[512:1024], OLD[1536:]
    whole = b"x" * 512
    assert {OLD, first + whole * 2 + rest, first + second + whole + rest} <= found
    assert all(each[:512] == first and each[1536:] == rest for each in found)
    grown = contents_of("file", outcomes(Event("W", 1, len(OLD), data=b"x" * 4096)))
    assert {OLD, OLD + b"x" * 4096} < grown
    assert any(each.endswith(bytes(512)) for each in grown)


def test_a_truncation_may_be_lost() -> None:
    """Or not."""
    assert contents_of("file", outcomes(Event("T", 1, 3))) == {OLD, b"old"}


def test_names_are_there_or_not() -> None:
    """Each by itself; a rename is one change, and syncing the file is not enough."""
    made = Event("C", 2, text="new"), Event("W", 2, 0, data=NEW), Event("S", 2)
    assert contents_of("new", outcomes(*made)) == {None, NEW}
    removed = outcomes(Event("U", text="file"), *made)
    assert {("file" in each, "new" in each) for each in removed} == {
        (before, after) for before in (False, True) for after in (False, True)
    }
    renamed = outcomes(*made, Event("D"), Event("R", 2, text="new\nfile"))
    assert {(each["file"], each.get("new")) for each in renamed} == {(OLD, NEW), (NEW, None)}


def test_a_directory_s_names_go_with_it() -> None:
    """What is in a directory that is not there cannot be reached."""
    made = Event("N", text="folder"), Event("C", 2, text="folder/new"), Event("D", text="folder")
    assert {tuple(sorted(each)) for each in outcomes(*made)} == {
        ("file",),
        ("file", "folder", "folder/new"),
    }


def _expect_new(cut: Cut) -> None:
    found = (cut.folder / "file").read_bytes() if (cut.folder / "file").exists() else None
    assert found == NEW if cut.count("done") else found in (OLD, NEW)


@pytest.mark.parametrize("wrong", ["rename_unsynced", "create_unsynced"])
def test_a_missing_sync_is_found(rig: Rig, wrong: str) -> None:
    """Of a file before it is renamed, and of the directory that a new file is in."""
    watched = rig.directory()
    (watched / "file").write_bytes(OLD)
    if wrong == "create_unsynced":
        (watched / "file").unlink()
    recording = rig.record(watched, wrong)
    with pytest.raises(AssertionError):
        recording.check(1, CUTS, _expect_new)
    assert (recording.kept / "failed").is_dir()


def test_nothing_is_found_where_all_is_synced(rig: Rig) -> None:
    """The same, done properly."""
    watched = rig.directory()
    (watched / "file").write_bytes(OLD)
    rig.record(watched, "replace_properly").check(1, CUTS, _expect_new)


def test_synchronous_off_is_found(rig: Rig) -> None:
    """Saves that returned are lost, and the file is damaged."""
    options = {"seed": 1, "workers": 1, "operations": 12}
    recording = rig.record(rig.directory(), "saves", synchronous="OFF", **options)
    saves = Saves(1, 1, 24)
    for full in (True, False):
        with pytest.raises(Exception):  # noqa: B017 - damage has many errors
            recording.check(1, CUTS, lambda cut, full=full: saves.check(cut, full))


def test_a_save_that_normal_loses_is_found_where_full_is_promised(rig: Rig) -> None:
    """NORMAL's own promises hold on the same record."""
    options = {"seed": 1, "workers": 1, "operations": 12}
    recording = rig.record(rig.directory(), "saves", synchronous="NORMAL", **options)
    saves = Saves(1, 1, 24)
    with pytest.raises(AssertionError, match="lost operation"):
        recording.check(1, CUTS, lambda cut: saves.check(cut, full=True))
