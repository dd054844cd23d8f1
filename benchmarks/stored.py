"""Files that were filled before the clock starts."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType

from benchmarks.contestants import Contestant, Saver, SaverWriter
from benchmarks.workload import Pair


class Stored:
    """Threads, stored once by every contestant; each measurement reads a fresh copy."""

    def __init__(self, threads: Sequence[Sequence[Pair]]) -> None:
        self._threads = threads
        self._folder = TemporaryDirectory(prefix="benchmark-stored-")

    def __enter__(self) -> Stored:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._folder.cleanup()

    @contextmanager
    def open(self, contestant: Contestant, path: Path) -> Iterator[Saver]:
        """The sync saver, on a copy of its file."""
        self._copy(contestant, path)
        with contestant.open(path) as saver:
            self._fill_memory(contestant, saver)
            yield saver

    @asynccontextmanager
    async def open_async(self, contestant: Contestant, path: Path) -> AsyncIterator[Saver]:
        """The async saver, on a copy of its file."""
        self._copy(contestant, path)
        async with contestant.open_async(path) as saver:
            self._fill_memory(contestant, saver)
            yield saver

    def _copy(self, contestant: Contestant, path: Path) -> None:
        if not contestant.on_disk:
            return
        original = Path(self._folder.name) / contestant.name
        if not original.exists():
            with contestant.open(original) as saver:
                self._fill(saver)
        shutil.copy(original, path)

    def _fill_memory(self, contestant: Contestant, saver: Saver) -> None:
        if not contestant.on_disk:
            self._fill(saver)

    def _fill(self, saver: Saver) -> None:
        writer = SaverWriter(saver)
        for pairs in self._threads:
            for pair in pairs:
                writer.put(pair)
                writer.put_writes(pair)
