"""What must be on the disk before what: of each call that promises it, in the order of its record.

Random cuts find these too, some of them rarely.
"""

from __future__ import annotations

import re
from collections import Counter

import pytest

from langgraph_sqlite_saver import SqliteSaver

from .rig import Recording, Rig


def lines_of(recording: Recording) -> list[str]:
    """Changes of names, their syncs, and marks, as text."""
    events = [event for event in recording.events if event.kind in "CNURDM"]
    return [f"{event.kind} {event.text}".strip().replace("\n", " to ") for event in events]


def assert_order(lines: list[str], *wanted: str) -> None:
    """These lines follow one another, others between them."""
    at = iter(lines)
    for pattern in wanted:
        assert any(re.fullmatch(pattern, line) for line in at), (pattern, lines)


def assert_synced(lines: list[str], change: str, sync: str) -> None:
    """Each time that this changes, the directory is synced before the next mark."""
    changed = [number for number, line in enumerate(lines) if re.fullmatch(change, line)]
    assert changed, (change, lines)
    for number in changed:
        marked = next(n for n in range(number, len(lines)) if lines[n].startswith("M "))
        assert sync in lines[number:marked], lines[number : marked + 1]


@pytest.mark.parametrize("synchronous", ["FULL", "NORMAL"])
def test_a_new_file(rig: Rig, synchronous: str) -> None:
    """Its journal is synced before it counts: torn, it may look whole and take the header away.

    With FULL the file has its name when a save returns: SQLite syncs it with the first -wal.
    """
    options = {"seed": 1, "workers": 1, "operations": 1, "sessions": 1}
    recording = rig.record(rig.directory(), "saves", synchronous=synchronous, **options)
    journals = {each.inode for each in recording.events if each.text == "agent.db-journal"}
    pages, unsynced = 0, False
    for event in recording.events:
        if event.text == "agent.db-wal":
            break
        if event.inode in journals and event.kind == "W":
            assert event.offset or not unsynced, "the header counts pages that are not there yet"
            unsynced = event.offset > 0
            pages += unsynced
        elif event.inode in journals and event.kind == "S":
            unsynced = False
    assert pages, "nothing was journaled"
    if synchronous == "FULL":
        assert_order(lines_of(recording), "C agent.db", "C agent.db-wal", "D", "M done 0")


def test_a_backup_has_its_name_when_it_returns(rig: Rig) -> None:
    """Its directory is synced after the rename; an archive's is, and those made for it."""
    lines = lines_of(rig.record(rig.directory(), "backups", synchronous="NORMAL"))
    name = r"backups/sqlite/sqlite_backup.*\.db\.gz"
    assert_synced(lines, r"R \.copy\.db.* to copy\.db", "D")
    assert_synced(lines, "N backups", "D")
    assert_synced(lines, "N backups/sqlite", "D backups")
    assert_synced(lines, f"R .* to {name}", "D backups/sqlite")
    assert_order(lines, f"R .* to {name}", "D backups/sqlite", f"U {name}")


def test_an_old_wal_is_gone_before_a_restored_file_comes(rig: Rig) -> None:
    """Otherwise a power cut could leave both, and SQLite would mix them."""
    watched = rig.directory()
    with SqliteSaver(watched / "other.db") as saver:
        saver.setup()
        saver.backup(watched / "backup.db")
    for name in ("agent.db", "agent.db-wal"):
        (watched / name).write_bytes(b"no database at all")
    lines = lines_of(rig.record(watched, "restore", backup="backup.db", keep=True))
    kept = r"agent\.db\.before-restore-[0-9_]*-wal"
    renamed = r"R .*/new\.db to agent\.db"
    assert_order(lines, f"C {kept}", "D", r"U agent\.db-wal", "D", renamed, "D")
    assert_synced(lines, renamed, "D")


def test_the_saves_move_and_cut_the_wal_and_the_file(rig: Rig) -> None:
    """Otherwise cutting their power would show little."""
    options = {"seed": 2, "workers": 1, "operations": 24, "sessions": 1}
    recording = rig.record(rig.directory(), "saves", synchronous="NORMAL", **options)
    names: dict[int, str] = {}
    seen: Counter[str] = Counter()
    for event in recording.events:
        if event.kind == "C":
            names[event.inode] = event.text
        elif event.kind == "W" and event.offset == 0:
            seen[f"{names[event.inode]} begins"] += 1
        elif event.kind == "T":
            seen[f"{names[event.inode]} is cut"] += 1
    assert seen["agent.db-wal begins"] >= 5
    assert seen["agent.db-wal is cut"] >= 2
    assert seen["agent.db is cut"] >= 2
