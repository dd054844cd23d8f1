"""Going through a source once, or again and again, and telling what was deleted there."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, groupby

from ..checkpoints.history import Place
from .emptying import PAGE, Entry, Key, in_pages, with_heads
from .errors import TransferError
from .failures import Failures
from .result import Progress
from .seen import Seen


class Passes(ABC):
    """One call of a move: passes over the source, each bringing what the target has not."""

    def __init__(
        self, threads: Sequence[str] | None, *, verify: bool, progress: Progress | None
    ) -> None:
        self._threads = threads
        self._verify = verify
        self._progress = progress
        self._failures = Failures()
        self._found_threads: set[str] = set()
        self._is_first = True
        self._done = self._total = 0
        self._already = self._deleted = 0
        # How much there was to bring, also of what was deleted before it could be read.
        self._found = 0

    def run(self, seen: Seen | None) -> None:
        """One pass, or, where it is to follow, as many as find something to do."""
        if seen:
            self._note_deleted_before(seen)
        while True:
            before = self._found, self._deleted
            self._pass(seen)
            self._is_first = False
            if seen is None or before == (self._found, self._deleted):
                break
        unknown = sorted(set(self._threads or ()) - self._found_threads)
        self._failures.add(
            {each: TransferError(f"there is no thread {each!r}") for each in unknown}
        )
        self._failures.raise_()

    def _pass(self, seen: Seen | None) -> None:
        self._done, self._total = 0, self._count()
        if seen:
            seen.begin()
        for page, heads in with_heads(self._source()):
            if seen:
                seen.note(entry.key for entry in page)
            self._found_threads.update(entry.key.thread_id for entry in page)
            done = self._done + sum(entry.is_saved for entry in page)
            self._bring([e for e in page if e.key.thread_id not in self._failures], heads)
            self._advance(done)
        self._advance(max(self._done, self._total))  # some may have been deleted meanwhile
        if seen:
            self._delete_gone(seen)

    def _delete_gone(self, seen: Seen) -> None:
        for keys in seen.gone():
            stay, gone_on = self._existing(keys), self._gone_on(seen, {key[0] for key in keys})
            self._deleted += self._delete(
                [key for key in keys if key not in stay and key.place not in gone_on]
            )
            seen.forget(keys)

    def _gone_on(self, seen: Seen, threads: Iterable[str]) -> set[Place]:
        """Where the target has checkpoints of its own that came from the source's: their values
        may rest on any of those, also on what the source needs no longer.
        """
        places: set[Place] = set()
        for page in self._target(list(threads)):
            there = self._existing([entry.key for entry in page])
            places.update(
                key.place
                for key, parent in ((entry.key, entry.parent) for entry in page)
                if parent in seen and key not in there and key not in seen
            )
        return places

    def _note_deleted_before(self, seen: Seen) -> None:
        """What both sides have, and what an earlier call carried that the source deleted since."""
        entries = chain.from_iterable(self._target(self._threads))
        for _, of_place in groupby(entries, lambda entry: entry.key.place):
            seen.note(self._both_or_deleted(of_place))

    def _both_or_deleted(self, entries: Iterator[Entry]) -> Iterator[Key]:
        """Of what the target has of a place: what the source has, or has had.

        Nothing at the target tells what was carried and what was made there. But deleting gives
        children another parent: where the source has another one for a checkpoint than the target,
        and has not the target's, it has deleted that one, and what that one came from.
        """
        lacking: dict[Key, Key | None] = {}
        replaced: list[Key] = []
        for page in in_pages(entries, PAGE):
            there = self._existing([entry.key for entry in page])
            parents = self._parents(list(there))
            yield from there
            for entry in page:
                parent = entry.parent
                if entry.key not in there:
                    lacking[entry.key] = parent
                elif parent and parents.get(entry.key, entry.parent_id) != entry.parent_id:
                    replaced.append(parent)
        for key in replaced:
            deleted: Key | None = key
            while deleted in lacking:
                yield deleted
                deleted = lacking.pop(deleted)

    def _not_gone_on(self, keys: Iterable[Key]) -> set[Key]:
        """Those of some keys whose place has no newer checkpoint at the target."""
        wanted = set(keys)
        places = {key.place for key in wanted}
        there, here = self._newest_there(places), self._newest(places)
        return {key for key in wanted if there.get(key.place, "") <= here.get(key.place, "")}

    def _advance(self, done: int) -> None:
        if done != self._done:
            self._done = done
            if self._progress is not None:
                self._progress(done, max(done, self._total))

    @abstractmethod
    def _count(self) -> int:
        """How many checkpoints the source has."""

    @abstractmethod
    def _source(self) -> Iterator[list[Entry]]:
        """The source's keys, in order."""

    @abstractmethod
    def _target(self, threads: Sequence[str] | None) -> Iterator[list[Entry]]:
        """The target's keys, or those of some threads, in order."""

    @abstractmethod
    def _existing(self, keys: Sequence[Key]) -> set[Key]:
        """Those of some keys that the source has, as checkpoints or only as pending writes."""

    @abstractmethod
    def _parents(self, keys: Sequence[Key]) -> Mapping[Key, str | None]:
        """The source's parents of those of some keys that it has as checkpoints."""

    @abstractmethod
    def _newest(self, places: set[Place]) -> Mapping[Place, str]:
        """The source's newest checkpoint of each place that it has."""

    @abstractmethod
    def _newest_there(self, places: set[Place]) -> Mapping[Place, str]:
        """The same of the target."""

    @abstractmethod
    def _bring(self, page: Sequence[Entry], heads: frozenset[Key]) -> None:
        """Bring what the target lacks of some keys."""

    @abstractmethod
    def _delete(self, keys: Sequence[Key]) -> int:
        """Delete at the target; returns how many checkpoints."""
