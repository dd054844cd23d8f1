"""Processes that are started once and then work at the same moment, again and again."""

from __future__ import annotations

import multiprocessing
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier
from pathlib import Path
from time import perf_counter
from types import TracebackType

from benchmarks.contestants import CONTESTANTS, Writer
from benchmarks.workload import Pair, chat, encode

PATIENCE = 120


@dataclass
class Outcome:
    """What one worker saw; `perf_counter` is one clock for all processes of a machine."""

    errors: list[str]
    started: float = 0.0
    ended: float = 0.0
    slowest: float = 0.0

    def attempt(self, act: Callable[..., None], *arguments: object) -> None:
        """Call `act`, note how long it took and how it failed."""
        start = perf_counter()
        try:
            act(*arguments)
        except Exception as error:
            self.errors.append(f"{type(error).__name__}: {error}")
        self.slowest = max(self.slowest, perf_counter() - start)


@dataclass(frozen=True)
class Save:
    """Save `steps` pairs in a thread of the worker's own, in one file for all workers."""

    contestant: str
    path: Path
    steps: int

    def run(self, worker: int, barrier: Barrier) -> Outcome:
        outcome = Outcome([])
        pairs = _pairs(worker, self.steps)
        with CONTESTANTS[self.contestant].writer(self.path) as writer:
            _save(writer, _pairs(worker, 3, "warm-up"), Outcome([]))
            barrier.wait(PATIENCE)
            outcome.started = perf_counter()
            _save(writer, pairs, outcome)
            outcome.ended = perf_counter()
        return outcome


@dataclass(frozen=True)
class Create:
    """Open a file that does not exist yet, tables included, and close it."""

    contestant: str
    path: Path

    def run(self, worker: int, barrier: Barrier) -> Outcome:
        outcome = Outcome([])
        contestant = CONTESTANTS[self.contestant]
        barrier.wait(PATIENCE)
        outcome.attempt(contestant.create, self.path)
        return outcome


Job = Save | Create


class Workers:
    """A number of processes that each do the same job, from one barrier on."""

    def __init__(self, count: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._errors: Counter[tuple[str, str]] = Counter()
        self._barrier = context.Barrier(count)
        pipes = [context.Pipe() for _ in range(count)]
        self._ends = [here for here, _ in pipes]
        self._processes = [
            context.Process(target=_serve, args=(worker, self._barrier, there), daemon=True)
            for worker, (_, there) in enumerate(pipes)
        ]
        for process in self._processes:
            process.start()
        for _, there in pipes:
            there.close()

    def __enter__(self) -> Workers:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for end in self._ends:
            end.close()
        for process in self._processes:
            process.join(PATIENCE)
            process.close()
        self._tell()

    def run(self, job: Job) -> Sequence[Outcome]:
        """Have all do the job at once."""
        for end in self._ends:
            end.send(job)
        outcomes = [end.recv() for end in self._ends]
        if broken := [outcome for outcome in outcomes if isinstance(outcome, BaseException)]:
            raise broken[0]
        for outcome in outcomes:
            self._errors.update((job.contestant, error) for error in outcome.errors)
        return outcomes

    def _tell(self) -> None:
        """Print the errors, which the table only counts."""
        for (contestant, error), times in self._errors.items():
            print(f"    {contestant}: {times} × {error}", file=sys.stderr)


def _serve(worker: int, barrier: Barrier, pipe: Connection) -> None:
    """Do jobs until the other end of the pipe is closed."""
    while True:
        try:
            job = pipe.recv()
        except EOFError:
            return
        try:
            pipe.send(job.run(worker, barrier))
        except Exception as error:
            barrier.abort()
            pipe.send(error)
            return


def _save(writer: Writer, pairs: Sequence[Pair], outcome: Outcome) -> None:
    for pair in pairs:
        outcome.attempt(writer.put, pair)
        outcome.attempt(writer.put_writes, pair)


@lru_cache
def _pairs(worker: int, steps: int, name: str = "worker") -> Sequence[Pair]:
    pairs = chat(f"{name} {worker}", steps)
    encode(pairs)
    return pairs
