"""What a power cut can leave of files, from the record of what a process did to them.

The model. It is that of SQLite's own crash tests (`test/crash*.test`, `src/test6.c`), with names as
in ALICE and CrashMonkey, the strictest reading of POSIX:

* A file's bytes and its size are on the disk once fsync or fdatasync of that file returned.
* Of what was written to it since then, any part is there: each write is cut into sectors, of 512
  or 4096 bytes, and each piece is there, missing, or (as in test6.c) garbage. Pieces come in any
  order, also those of one page, which is torn then; where two of the same sector are there, the
  later one wins. Bytes that no write named keep their value (SQLite's "powersafe overwrite").
* A file's size is part of what was written: where a piece is missing, the file may have grown by it
  all the same, and holds zeros there. A truncation happened or did not.
* A name (created, removed, renamed) is on the disk once fsync of its directory returned, for a
  rename that of the directory it leads to. fsync of a file does nothing for its name. Each change
  of a name since then happened or did not, whatever became of the others; half of the cuts keep
  their order, as journals of file systems do. A change is atomic, a rename too.
* The -shm is lost or holds garbage.

What is not modelled: disks that lie about fsync, and damage to what was synced long ago.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

_HEADER = struct.Struct("<QQIIc7x")
SHM = "-shm"


@dataclass(frozen=True)
class Event:
    """A line of the record; `recorder.c` says what the kinds mean."""

    kind: str
    inode: int = 0
    offset: int = 0
    text: str = ""
    data: bytes = b""


def read_record(path: Path) -> list[Event]:
    """All that the recorder wrote."""
    raw, at, events = path.read_bytes(), 0, []
    while at < len(raw):
        inode, offset, names, size, kind = _HEADER.unpack_from(raw, at)
        at += _HEADER.size
        text, data = raw[at : at + names].decode(), raw[at + names : at + names + size]
        at += names + size
        assert kind != b"X", f"the recorder cannot follow {text}"
        events.append(Event(kind.decode(), inode, offset, text, data))
    return events


@dataclass(frozen=True)
class Write:
    """Bytes at an offset."""

    offset: int
    data: bytes

    def pieces(self, sector: int) -> Iterator[Write]:
        """Cut where sectors begin."""
        at, end = self.offset, self.offset + len(self.data)
        while at < end:
            until = min(end, at - at % sector + sector)
            yield Write(at, self.data[at - self.offset : until - self.offset])
            at = until

    def apply(self, content: bytearray) -> None:
        self.grow(content)
        content[self.offset : self.offset + len(self.data)] = self.data

    def grow(self, content: bytearray) -> None:
        """The size alone."""
        content.extend(bytes(max(0, self.offset + len(self.data) - len(content))))

    def garbage(self, chance: random.Random) -> Write:
        return Write(self.offset, chance.randbytes(len(self.data)))


@dataclass(frozen=True)
class Truncate:
    """A new size."""

    size: int

    def apply(self, content: bytearray) -> None:
        del content[self.size :]
        content.extend(bytes(self.size - len(content)))


@dataclass
class File:
    """What of a file is on the disk, and what is on the way."""

    synced: bytearray = field(default_factory=bytearray)
    pending: list[Write | Truncate] = field(default_factory=list)

    def sync(self) -> None:
        self.synced = self.written()
        self.pending.clear()

    def written(self) -> bytearray:
        """As the process sees it."""
        content = bytearray(self.synced)
        for change in self.pending:
            change.apply(content)
        return content

    def after_cut(self, chance: random.Random, sector: int, garbage: bool) -> bytes:
        """One of the contents that a cut can leave."""
        content = bytearray(self.synced)
        changes: list[Write | Truncate] = []
        for change in self.pending:
            changes += change.pieces(sector) if isinstance(change, Write) else [change]
        for change, landed in zip(changes, _landed(len(changes), chance), strict=True):
            if landed:
                change.apply(content)
            elif isinstance(change, Write) and garbage and chance.random() < 0.3:
                change.garbage(chance).apply(content)
            elif isinstance(change, Write) and chance.random() < 0.3:
                change.grow(content)
        return bytes(content)


def _landed(count: int, chance: random.Random) -> list[bool]:
    """Which of so many changes happened: the first ones, or any."""
    if chance.random() < 0.3:
        first = chance.randint(0, count)
        return [number < first for number in range(count)]
    share = chance.choice((0.0, 0.05, 0.5, 0.95, 1.0))
    return [chance.random() < share for _ in range(count)]


class Folder:
    """Stands for a directory among files."""


Entry = File | Folder | None


@dataclass(frozen=True)
class Names:
    """A change of one name, or of two at once; on the disk when `folder` is synced."""

    folder: str
    entries: dict[str, Entry]


def _folder_of(name: str) -> str:
    parent = str(PurePosixPath(name).parent)
    return "" if parent == "." else parent


class Disk:
    """A directory as it goes through a record: `do` each event, and see what a cut would leave."""

    def __init__(self, before: dict[str, tuple[int, bytes | None]]) -> None:
        """`before` has names, inodes and contents (None: a directory); all of it was synced."""
        self._files: dict[int, File] = {}
        self._synced: dict[str, Entry] = {}
        for name, (inode, content) in before.items():
            entry: Entry = Folder()
            if content is not None:
                entry = self._files[inode] = File(bytearray(content))
            self._synced[name] = entry
        self._pending: list[Names] = []

    def do(self, event: Event) -> None:
        """The next event of the record."""
        kind, name = event.kind, event.text
        if kind == "W":
            self._files[event.inode].pending.append(Write(event.offset, event.data))
        elif kind == "T":
            self._files[event.inode].pending.append(Truncate(event.offset))
        elif kind == "S":
            self._files[event.inode].sync()
        elif kind == "C":  # an inode's number is used again
            file = self._files[event.inode] = File()
            self._rename(name, {name: file})
        elif kind == "N":
            self._rename(name, {name: Folder()})
        elif kind in "UK":
            self._rename(name, {name: None})
        elif kind == "R":
            source, target = name.split("\n")
            self._rename(target, {source: None, target: self._files[event.inode]})
        elif kind == "D":
            self._sync_names(name)

    def _rename(self, name: str, entries: dict[str, Entry]) -> None:
        self._pending.append(Names(_folder_of(name), entries))

    def _sync_names(self, folder: str) -> None:
        for change in self._pending:
            if change.folder == folder:
                self._synced.update(change.entries)
        self._pending = [change for change in self._pending if change.folder != folder]

    def written(self) -> dict[str, bytes | None]:
        """Names and contents as the process sees them."""
        names = self._names([True] * len(self._pending))
        return {n: bytes(e.written()) if isinstance(e, File) else None for n, e in names.items()}

    def after_cut(self, chance: random.Random) -> dict[str, bytes | None]:
        """Names and contents as one cut can leave them."""
        count, garbage = len(self._pending), chance.random() < 0.25
        sector = chance.choice((512, 4096))
        happened = _landed(count, chance)
        if chance.random() < 0.5:  # in order
            happened.sort(reverse=True)
        left: dict[str, bytes | None] = {}
        for name, entry in self._names(happened).items():
            content = entry.after_cut(chance, sector, garbage) if isinstance(entry, File) else None
            left[name] = content
        for name in [name for name in left if name.endswith("-wal") and chance.random() < 0.5]:
            left[name.removesuffix("-wal") + SHM] = chance.randbytes(32768)
        return left

    def _names(self, happened: list[bool]) -> dict[str, Entry]:
        names = dict(self._synced)
        for change, did in zip(self._pending, happened, strict=True):
            if did:
                names.update(change.entries)
        there = {name: entry for name, entry in names.items() if entry is not None}
        return {n: e for n, e in there.items() if _is_reachable(n, there)}


def _is_reachable(name: str, names: dict[str, Entry]) -> bool:
    folder = _folder_of(name)
    if not folder:
        return True
    return isinstance(names.get(folder), Folder) and _is_reachable(folder, names)


def contents(folder: Path) -> dict[str, tuple[int, bytes | None]]:
    """A directory as it is: names, inodes and contents, an -shm left out."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if not path.name.endswith(SHM):
            name, content = path.relative_to(folder).as_posix(), None
            if path.is_file():
                content = path.read_bytes()
            found[name] = (path.stat().st_ino, content)
    return found


def write_contents(left: dict[str, bytes | None], folder: Path) -> None:
    """Make a directory that holds this."""
    folder.mkdir(parents=True)
    for name in sorted(left):
        content = left[name]
        if content is None:
            (folder / name).mkdir()
        else:
            (folder / name).write_bytes(content)
