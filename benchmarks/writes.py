"""Saving from one thread, and from eight that share a saver."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter

from benchmarks.benchmark import Benchmark, Measure, Measurement, Metric, Scale, at_least
from benchmarks.contestants import (
    BARE,
    OFFICIAL_FULL,
    OFFICIAL_NORMAL,
    OURS_FULL,
    OURS_NORMAL,
    SAVERS,
    Contestant,
    Writer,
)
from benchmarks.workload import Pair, chat, encode, wide

THREADS = 8


@contextmanager
def small_state(scale: Scale) -> Iterator[Measure]:
    """put + put_writes of a small state, one call after the other."""
    yield _one_thread(chat("small", scale.pick(2_000, 50)))


@contextmanager
def wide_state(scale: Scale) -> Iterator[Measure]:
    """put + put_writes of 8 channels of 2 KB, of which one changes per step."""
    yield _one_thread(wide("wide", scale.pick(1_000, 50), writes=True))


@contextmanager
def state_with_files(scale: Scale) -> Iterator[Measure]:
    """put + put_writes of a small state with 50 KB of files that stay as they are."""
    yield _one_thread(chat("files", scale.pick(1_000, 50), files_bytes=50_000))


def _one_thread(pairs: Sequence[Pair]) -> Measure:
    warm_up = chat("warm-up", 5)
    encode([*pairs, *warm_up])

    def measure(contestant: Contestant, path: Path) -> Measurement:
        with contestant.writer(path) as writer:
            save(writer, warm_up)
            start = perf_counter()
            save(writer, pairs)
            return {"pairs": len(pairs) / (perf_counter() - start)}

    return measure


@contextmanager
def eight_threads(scale: Scale) -> Iterator[Measure]:
    """put + put_writes of small states from eight threads that share one saver."""
    chats = [chat(f"thread {number}", scale.pick(250, 10)) for number in range(THREADS)]
    warm_up = chat("warm-up", 5)
    for pairs in (*chats, warm_up):
        encode(pairs)

    def measure(contestant: Contestant, path: Path) -> Measurement:
        with contestant.writer(path) as writer:
            save(writer, warm_up)
            elapsed = _save_at_once(writer, chats)
            return {"pairs": sum(map(len, chats)) / elapsed}

    yield measure


def save(writer: Writer, pairs: Sequence[Pair]) -> None:
    """Save pairs one after the other."""
    for pair in pairs:
        writer.put(pair)
        writer.put_writes(pair)


def _save_at_once(writer: Writer, chats: Sequence[Sequence[Pair]]) -> float:
    """Save each chat in a thread of its own; return the seconds from the start of all."""
    barrier = threading.Barrier(len(chats) + 1)

    def work(pairs: Sequence[Pair]) -> None:
        barrier.wait()
        save(writer, pairs)

    with ThreadPoolExecutor(len(chats)) as pool:
        futures = [pool.submit(work, pairs) for pairs in chats]
        barrier.wait()
        start = perf_counter()
        for future in futures:
            future.result()
        return perf_counter() - start


_ONE_THREAD = Metric(
    "pairs",
    "pairs/s, one thread",
    [at_least(1.3, OURS_NORMAL, OFFICIAL_NORMAL), at_least(1.0, OURS_FULL, OFFICIAL_FULL)],
    more_is_better=True,
)

BENCHMARKS = (
    Benchmark("put-small", small_state, (*SAVERS, *BARE), [_ONE_THREAD]),
    Benchmark("put-wide", wide_state, (*SAVERS, *BARE), [_ONE_THREAD]),
    Benchmark("put-files", state_with_files, (*SAVERS, *BARE), [_ONE_THREAD]),
    Benchmark(
        "put-threads",
        eight_threads,
        (*SAVERS, *BARE),
        [
            Metric(
                "pairs",
                "pairs/s, 8 threads",
                [at_least(2, OURS_FULL, OFFICIAL_FULL)],
                more_is_better=True,
            )
        ],
    ),
)
