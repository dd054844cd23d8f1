"""What a put pays for storing only what changed, beside one that stores values whole."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter

from langchain_core.messages import AIMessage, AnyMessage

from benchmarks.benchmark import Benchmark, Measure, Measurement, Metric, Scale, at_least, at_most
from benchmarks.contestants import (
    IN_MEMORY,
    OFFICIAL_NORMAL,
    OURS_FULL_HISTORY,
    OURS_NORMAL,
    Contestant,
)
from benchmarks.prose import prose
from benchmarks.reads import MEGABYTE
from benchmarks.workload import SERDE, Pair, Thread, wide
from benchmarks.writes import save

CONTESTANTS = (OURS_NORMAL, OFFICIAL_NORMAL, IN_MEMORY, OURS_FULL_HISTORY)
CHANNELS = 8


@contextmanager
def growing_state(scale: Scale) -> Iterator[Measure]:
    """put of a 1 MB channel of LangChain messages that grows by one message each step."""
    first, *more = growing_messages(scale.pick(MEGABYTE, 50_000), scale.pick(60, 5) + 1)

    def measure(contestant: Contestant, path: Path) -> Measurement:
        with contestant.writer(path) as writer:
            writer.put(first)
            start = perf_counter()
            for pair in more:
                writer.put(pair)
            return {"put": (perf_counter() - start) / len(more) * 1_000}

    yield measure


@contextmanager
def small_states(scale: Scale) -> Iterator[Measure]:
    """put + put_writes of 8 channels: of 2 KB together that all change, of 2 KB each, one does."""
    steps = scale.pick(1_000, 50)
    together, each = small_channels(steps), wide("wide", steps, writes=True)

    def measure(contestant: Contestant, path: Path) -> Measurement:
        beside = path.with_name("each.sqlite")
        return {
            "together": _pairs_per_second(contestant, path, together),
            "each": _pairs_per_second(contestant, beside, each),
        }

    yield measure


def _pairs_per_second(contestant: Contestant, path: Path, pairs: Sequence[Pair]) -> float:
    with contestant.writer(path) as writer:
        save(writer, pairs[:5])
        start = perf_counter()
        save(writer, pairs[5:])
        return (len(pairs) - 5) / (perf_counter() - start)


def growing_messages(size: int, steps: int) -> list[Pair]:
    """One channel, of `size` bytes at the first step, and a message of 1 KB more at each other."""
    rng = random.Random("growing")
    thread = Thread("growing")
    count = size // len(SERDE.dumps_typed(_message(rng))[1])
    messages = [_message(rng) for _ in range(count)]
    pairs = []
    for _ in range(steps):
        pairs.append(thread.step({"messages": messages}, []))
        messages = [*messages, _message(rng)]
    return pairs


def _message(rng: random.Random) -> AnyMessage:
    return AIMessage(prose(rng, 1_000), id=f"{rng.getrandbits(64):016x}")


def small_channels(steps: int) -> list[Pair]:
    """Eight channels, 2 KB together, which all change at every step."""
    rng = random.Random("small channels")
    thread = Thread("small channels")
    pairs = []
    for _ in range(steps):
        changed = {f"notes_{channel}": _note(rng) for channel in range(CHANNELS)}
        pairs.append(thread.step(changed, list(changed.items())))
    return pairs


def _note(rng: random.Random) -> list[str | int]:
    """About 256 bytes once encoded."""
    return [item for _ in range(2) for item in (prose(rng, 120), rng.randrange(1_000_000))]


def _pairs_metric(key: str, label: str) -> Metric:
    bars = [at_least(0.95, OURS_NORMAL, OURS_FULL_HISTORY)]
    return Metric(key, label, bars, more_is_better=True)


BENCHMARKS = (
    Benchmark(
        "put-1mb",
        growing_state,
        CONTESTANTS,
        [Metric("put", "ms, a put", [at_most(1.15, OURS_NORMAL, OURS_FULL_HISTORY)])],
    ),
    Benchmark(
        "put-small-history",
        small_states,
        CONTESTANTS,
        [
            _pairs_metric("together", "pairs/s, 2 KB, all change"),
            _pairs_metric("each", "pairs/s, 8 × 2 KB, one changes"),
        ],
    ),
)
