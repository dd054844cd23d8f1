"""What a growing conversation costs: on disk, and in time."""

from __future__ import annotations

import sqlite3
import statistics
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from time import perf_counter

from benchmarks.benchmark import Bar, Benchmark, Measure, Measurement, Metric, Scale, at_most
from benchmarks.contestants import (
    IN_MEMORY,
    OFFICIAL_FULL,
    OFFICIAL_NORMAL,
    OURS_FULL,
    OURS_FULL_HISTORY,
    OURS_NORMAL,
    SAVERS,
    Contestant,
)
from benchmarks.conversations import CONFIG, Agent, chat_agent, delta_agent, send_agent
from benchmarks.files import megabytes
from benchmarks.workload import config_of

TURNS = 200


@contextmanager
def chat_of_200_turns(scale: Scale) -> Iterator[Measure]:
    """A chat of 200 turns with a tool call each and 50 KB of files, saver opened to closed."""
    yield _conversing(chat_agent(scale.pick(TURNS, 6)))


@contextmanager
def chat_of_500_turns(scale: Scale) -> Iterator[Measure]:
    """The same chat of 500 turns."""
    yield _conversing(chat_agent(scale.pick(500, 10)))


def _conversing(agent: Agent) -> Measure:
    def measure(contestant: Contestant, path: Path) -> Measurement:
        _warm_up(agent, contestant, path)
        seconds = converse(agent, contestant, path)
        return {"seconds": seconds} | _size(contestant, path)

    return measure


@contextmanager
def growth(scale: Scale) -> Iterator[Measure]:
    """The same chat of 1,000 turns: its file in the middle and at the end, closed both times."""
    half = scale.pick(500, 10)
    agent = chat_agent(2 * half)

    def measure(contestant: Contestant, path: Path) -> Measurement:
        seconds = converse(agent, contestant, path, 0, half)
        middle = megabytes(path)
        seconds += converse(agent, contestant, path, half)
        end = megabytes(path)
        return {"growth": end / middle, "middle": middle, "end": end, "seconds": seconds}

    yield measure


@contextmanager
def delta_channels(scale: Scale) -> Iterator[Measure]:
    """A coding agent's chat of 200 turns in delta channels, as deepagents has them."""
    agent = delta_agent(scale.pick(TURNS, 6))

    def measure(contestant: Contestant, path: Path) -> Measurement:
        _warm_up(agent, contestant, path)
        seconds = converse(agent, contestant, path)
        head = _rebuild_head(agent, contestant, path) if contestant.on_disk else {}
        return {"seconds": seconds} | _size(contestant, path) | head

    yield measure


def _rebuild_head(agent: Agent, contestant: Contestant, path: Path, times: int = 5) -> Measurement:
    """The milliseconds of `graph.get_state`: the first one of a saver, and the next."""
    first, again = [], []
    for _ in range(times):
        with contestant.open(path) as saver:
            graph = agent.builder.compile(checkpointer=saver)
            saver.get_tuple(config_of("no such thread"))
            for taken in (first, again):
                start = perf_counter()
                state = graph.get_state(CONFIG)
                taken.append(perf_counter() - start)
        if len(state.values["messages"]) != agent.messages_per_turn * len(agent.inputs):
            raise LookupError(f"{contestant.name} has lost messages")
    return {
        "head": statistics.median(first) * 1_000,
        "again": statistics.median(again) * 1_000,
    }


@contextmanager
def sends(scale: Scale) -> Iterator[Measure]:
    """A chat of 100 turns, each of which sends the whole state to two tools at once."""
    agent = send_agent(scale.pick(100, 6))

    def measure(contestant: Contestant, path: Path) -> Measurement:
        _warm_up(agent, contestant, path)
        seconds = converse(agent, contestant, path)
        writes = {"writes": _megabytes_of_writes(path)} if contestant.on_disk else {}
        return {"seconds": seconds} | writes | _size(contestant, path)

    yield measure


def _megabytes_of_writes(path: Path) -> float:
    """The bytes of the pending writes' values, rows and keys aside."""
    with closing(sqlite3.connect(path)) as conn:
        tables = {name for (name,) in conn.execute("SELECT name FROM sqlite_schema")}
        table, value = ("writes", "value") if "writes" in tables else ("checkpoint_writes", "blob")
        (size,) = conn.execute(f"SELECT sum(length({value})) FROM {table}").fetchone()
        return float(size) / 1_000_000


def _warm_up(agent: Agent, contestant: Contestant, path: Path) -> None:
    converse(agent, contestant, path.with_name("warm-up.sqlite"), 0, 2)


def converse(
    agent: Agent, contestant: Contestant, path: Path, start: int = 0, end: int | None = None
) -> float:
    """Have a conversation; return the seconds from opening the saver until it is closed."""
    began = perf_counter()
    with contestant.open(path) as saver:
        agent.converse(saver, start, end)
    return perf_counter() - began


def _size(contestant: Contestant, path: Path) -> Measurement:
    """What a closed file weighs; nothing is said of one who has no file."""
    return {"size": megabytes(path)} if contestant.on_disk else {}


def _size_metric(fraction: int) -> Metric:
    return Metric("size", "MB on disk", [at_most(1 / fraction, OURS_NORMAL, OFFICIAL_NORMAL)])


def _seconds(*bars: Bar) -> Metric:
    return Metric("seconds", "s, whole run", bars)


_CHAT_SECONDS = _seconds(
    at_most(1, OURS_NORMAL, OFFICIAL_NORMAL),
    at_most(1, OURS_FULL, OFFICIAL_FULL),
    at_most(1.3, OURS_NORMAL, IN_MEMORY),
)

BENCHMARKS = (
    Benchmark(
        "chat-200",
        chat_of_200_turns,
        (*SAVERS, OURS_FULL_HISTORY),
        [_size_metric(60), _CHAT_SECONDS],
        rounds=3,
    ),
    Benchmark("chat-500", chat_of_500_turns, SAVERS, [_size_metric(150), _CHAT_SECONDS], rounds=1),
    Benchmark(
        "chat-growth",
        growth,
        (OURS_NORMAL,),
        [
            Metric("growth", "times larger, 1,000 turns", [at_most(2.3, OURS_NORMAL)]),
            Metric("middle", "MB, 500 turns"),
            Metric("end", "MB, 1,000 turns"),
            _seconds(),
        ],
        rounds=1,
    ),
    Benchmark(
        "delta-agent",
        delta_channels,
        (OURS_NORMAL, OFFICIAL_NORMAL, IN_MEMORY, OURS_FULL_HISTORY),
        [
            _size_metric(6),
            _seconds(at_most(0.9, OURS_NORMAL, OFFICIAL_NORMAL)),
            Metric("head", "ms, first get_state", [at_most(1, OURS_NORMAL, OFFICIAL_NORMAL)]),
            Metric("again", "ms, next get_state", [at_most(1, OURS_NORMAL, OFFICIAL_NORMAL)]),
        ],
        rounds=3,
    ),
    Benchmark(
        "send-agent",
        sends,
        (OURS_NORMAL, OFFICIAL_NORMAL, IN_MEMORY, OURS_FULL_HISTORY),
        [
            Metric("writes", "MB of writes", [at_most(1 / 20, OURS_NORMAL, OFFICIAL_NORMAL)]),
            Metric("size", "MB on disk"),
            _seconds(),
        ],
        rounds=3,
    ),
)
