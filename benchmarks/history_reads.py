"""Reading a long conversation again: its head in a new process, and all of its states."""

from __future__ import annotations

import gc
import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

from benchmarks.benchmark import Benchmark, Measure, Measurement, Metric, Scale, at_most
from benchmarks.contestants import (
    CONTESTANTS,
    OFFICIAL_NORMAL,
    OURS_FULL_HISTORY,
    OURS_NORMAL,
    READERS,
    Contestant,
    Saver,
)
from benchmarks.conversations import CONFIG, chat_agent
from benchmarks.history import TURNS, converse
from benchmarks.workload import config_of


@contextmanager
def cold_head(scale: Scale) -> Iterator[Measure]:
    """get_tuple of the head of the chat of 200 turns in a new process, and opening with it."""
    with Conversations(scale.pick(TURNS, 6)) as long, Conversations(2) as short:

        def measure(contestant: Contestant, path: Path) -> Measurement:
            paths = short.path(contestant), long.path(contestant)
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
                return process.submit(_read_cold, contestant.name, *paths).result()

        yield measure


def _read_cold(name: str, warm_up: Path, path: Path) -> Measurement:
    """The milliseconds to read a file's head, after another one's; in a new process."""
    contestant = CONTESTANTS[name]
    _read_head(contestant, warm_up)
    gc.collect()  # else it is chance whose read a collection falls into
    return _read_head(contestant, path)


def _read_head(contestant: Contestant, path: Path) -> Measurement:
    start = perf_counter()
    with contestant.open(path) as saver:
        saver.get_tuple(config_of("no such thread"))
        opened = perf_counter()
        found = saver.get_tuple(CONFIG)
        end = perf_counter()
    if not found.checkpoint["channel_values"]["messages"]:
        raise LookupError(f"{contestant.name} found no messages")
    return {"head": (end - opened) * 1_000, "open": (end - start) * 1_000}


@contextmanager
def state_history(scale: Scale) -> Iterator[Measure]:
    """list(graph.get_state_history(config)) of the chat of 200 turns."""
    with Conversations(scale.pick(TURNS, 6)) as conversations:

        def measure(contestant: Contestant, path: Path) -> Measurement:
            with conversations.open(contestant) as saver:
                graph = conversations.agent.builder.compile(checkpointer=saver)
                saver.get_tuple(config_of("no such thread"))
                start = perf_counter()
                found = list(graph.get_state_history(CONFIG))
                seconds = perf_counter() - start
            if len(found) != conversations.states:
                raise LookupError(f"{conversations.states} states were saved, {len(found)} found")
            return {"seconds": seconds}

        yield measure


class Conversations:
    """A chat, held once with every contestant; reading leaves its file as it is."""

    def __init__(self, turns: int) -> None:
        self.agent = chat_agent(turns)
        self.states = 5 * turns
        self._folder = TemporaryDirectory(prefix="benchmark-conversations-")

    def __enter__(self) -> Conversations:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._folder.cleanup()

    def path(self, contestant: Contestant) -> Path:
        """The file of a contestant."""
        path = Path(self._folder.name) / contestant.name
        if not path.exists():
            converse(self.agent, contestant, path)
        return path

    @contextmanager
    def open(self, contestant: Contestant) -> Iterator[Saver]:
        """A fresh saver; what is kept in memory is said again."""
        path = self.path(contestant) if contestant.on_disk else Path()
        with contestant.open(path) as saver:
            if not contestant.on_disk:
                self.agent.converse(saver)
            yield saver


BENCHMARKS = (
    Benchmark(
        "chat-cold-head",
        cold_head,
        (OURS_NORMAL, OFFICIAL_NORMAL, OURS_FULL_HISTORY),
        [
            Metric("head", "ms, new process", [at_most(1.2, OURS_NORMAL, OFFICIAL_NORMAL)]),
            Metric("open", "ms, with opening"),
        ],
    ),
    Benchmark(
        "chat-history",
        state_history,
        READERS,
        [Metric("seconds", "s, all states", [at_most(1.1, OURS_NORMAL, OFFICIAL_NORMAL)])],
        rounds=3,
    ),
)
