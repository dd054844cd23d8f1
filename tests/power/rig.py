"""Runs a workload under the recorder, and rebuilds what power cuts could have left of its files."""

from __future__ import annotations

import json
import os
import platform
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import mistakes, workload
from .disk import Disk, Event, contents, read_record, write_contents

HERE = Path(__file__).parent
SOAK = os.environ.get("HYPOTHESIS_PROFILE") == "soak"


def why_not() -> str | None:
    """Why nothing can be recorded here."""
    if sys.platform != "linux" or platform.machine() not in ("x86_64", "aarch64"):
        return "the recorder is for 64-bit Linux: LD_PRELOAD and its system calls"
    if compiler() is None:
        return "there is no C compiler (cc or gcc)"
    return None


def compiler() -> str | None:
    return shutil.which("cc") or shutil.which("gcc")


def compile_recorder(folder: Path) -> Path:
    """The library to preload."""
    library = folder / "recorder.so"
    source = str(HERE / "recorder.c")
    options = ["-O1", "-Wall", "-Werror", "-shared", "-fPIC", "-pthread"]
    subprocess.run([str(compiler()), *options, "-o", str(library), source], check=True)
    return library


def seed_of_this_run() -> int:
    """POWER_SEED repeats the programs and the cuts of another run."""
    seed = int(os.environ.get("POWER_SEED") or random.SystemRandom().randrange(10**6))
    print(f"POWER_SEED={seed}")
    return seed


@dataclass(frozen=True)
class Cut:
    """A directory as a power cut left it, and what the workload had said until then."""

    folder: Path
    marks: list[str]

    def count(self, mark: str) -> int:
        """How often the workload said this."""
        return self.marks.count(mark)


@dataclass
class Recording:
    """What a workload did."""

    before: dict[str, tuple[int, bytes | None]]
    events: list[Event]
    kept: Path
    cuts: int = 0

    def check(self, seed: int, count: int, check: Callable[[Cut], None]) -> None:
        """Cut the power at so many moments; each directory that is left must pass."""
        self.cuts += count
        chance = random.Random(f"cuts {seed}")
        moments = sorted(chance.randint(0, len(self.events)) for _ in range(count))
        disk, marks, done = Disk(self.before), [], 0
        for number, moment in enumerate(moments):
            for event in self.events[done:moment]:
                disk.do(event)
                if event.kind == "M":
                    marks.append(event.text)
            done = moment
            left = disk.after_cut(random.Random(f"{seed} {number}"))
            with self._directory(left, f"POWER_SEED={seed}, cut {number} at event {moment}") as at:
                check(Cut(at, list(marks)))

    @contextmanager
    def _directory(self, left: dict[str, bytes | None], what: str) -> Iterator[Path]:
        """The directory as it was left; a copy stays if its check fails."""
        folder = self.kept / "cut"
        write_contents(left, folder)
        try:
            yield folder
        except BaseException:
            failed = self.kept / "failed"
            shutil.rmtree(failed, ignore_errors=True)
            write_contents(left, failed)
            print(f"{what}; the directory is in {failed}")
            raise
        finally:
            shutil.rmtree(folder)


class Rig:
    """Records workloads in directories of their own."""

    def __init__(self, library: Path, folder: Path) -> None:
        self._library = library
        self._folder = folder
        self._number = 0

    def directory(self) -> Path:
        """A new directory, to prepare for a workload."""
        self._number += 1
        folder = self._folder / f"run {self._number}" / "watched"
        folder.mkdir(parents=True)
        return folder.resolve()

    def record(self, watched: Path, name: str, **options: Any) -> Recording:
        """Run a workload in the directory: a function of `workload.py` or `mistakes.py`."""
        record, before = watched.parent / "record", contents(watched)
        environment = {
            **os.environ,
            "LD_PRELOAD": str(self._library),
            "POWER_WATCH": str(watched),
            "POWER_RECORD": str(record),
        }
        script = str((mistakes if hasattr(mistakes, name) else workload).__file__)
        command = [sys.executable, script, name, str(watched), json.dumps(options)]
        subprocess.run(command, env=environment, check=True, timeout=300)
        events = read_record(record)
        disk = Disk(before)
        for event in events:
            disk.do(event)
        found = {each: content for each, (_, content) in contents(watched).items()}
        assert disk.written() == found, "the record is not all that was done"
        return Recording(before, events, watched.parent)
