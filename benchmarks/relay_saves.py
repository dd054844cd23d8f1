"""What saving in SQLite and in Redis costs beside the least that it could."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import redis

from benchmarks.benchmark import Benchmark, Measure, Measurement, Metric, Scale, at_most
from benchmarks.contestants import OURS_FULL, OURS_NORMAL, Contestant
from benchmarks.relay_data import api_key
from benchmarks.relay_server import Server, serving
from benchmarks.relay_timing import in_turns
from langgraph_sqlite_saver.relay import RelayStore, logic

Fields = dict[str, str]
Commands = Sequence[tuple[Any, ...]]
WARM_UP = 10


@contextmanager
def saving(scale: Scale) -> Iterator[Measure]:
    """save_api_key in turns with the same commands in a pipeline and two bare commits of a row."""
    rng = random.Random("saves")
    count = scale.pick(300, 20) + WARM_UP
    ours, other = ([api_key(rng) for _ in range(count)] for _ in range(2))
    with serving() as server:
        new, changed = _told(server, other)

        def measure(contestant: Contestant, path: Path) -> Measurement:
            server.flush()
            level = contestant.name.partition(" ")[2]
            with (
                RelayStore(path, server.url, pragmas={"synchronous": level}) as store,
                Bare.open(path.with_name("bare.sqlite"), level, store.redis) as bare,
            ):
                first = _compare(store, ours, partial(bare.save, size=_size(ours[0])), new)
                again = [_changed(fields) for fields in ours]
                then = _compare(store, again, partial(bare.save, size=_size(again[0])), changed)
            written = _written(path.with_name("pages.db"), ours, again)
            return _named("new", *first) | _named("changed", *then) | written

        yield measure


def _compare(
    store: RelayStore, keys: Sequence[Fields], save: Callable[[Commands], None],
    told: Sequence[Commands],
) -> list[float]:  # fmt: skip
    """The microseconds of a save, and of its bare counterpart."""
    sides = (
        [partial(store.save_api_key, fields) for fields in keys],
        [partial(save, commands) for commands in told],
    )
    in_turns(*(side[:WARM_UP] for side in sides))
    return in_turns(*(side[WARM_UP:] for side in sides))


def _named(name: str, ours: float, bare: float) -> Measurement:
    return {f"{name}_ratio": ours / bare, name: ours, f"{name}_bare": bare}


def _written(path: Path, new: Sequence[Fields], changed: Sequence[Fields]) -> Measurement:
    """How many pages a commit writes, as the -wal grows."""
    frame = 4096 + 24  # https://sqlite.org/fileformat2.html#walformat
    sizes = []
    with RelayStore(path, None, pragmas={"wal_autocheckpoint": 0}) as store:
        for records in ([], new, changed):
            for fields in records:
                store.save_api_key(fields)
            sizes.append(path.with_name(f"{path.name}-wal").stat().st_size)
    empty, after_new, after_changed = sizes
    return {
        "new_pages": (after_new - empty) / frame / len(new),
        "changed_pages": (after_changed - after_new) / frame / len(changed),
    }


def _changed(fields: Fields) -> Fields:
    """With another limit, and the same place in the indexes."""
    return {**fields, "dailyCostLimit": "25"}


def _size(fields: Fields) -> int:
    return sum(len(name) + len(value) for name, value in fields.items())


@dataclass(frozen=True)
class Bare:
    """redis-py and sqlite3 by themselves."""

    conn: sqlite3.Connection
    client: redis.Redis

    @classmethod
    @contextmanager
    def open(cls, path: Path, synchronous: str, client: redis.Redis) -> Iterator[Bare]:
        """With a new file."""
        with closing(sqlite3.connect(path, isolation_level=None)) as conn:
            conn.execute("PRAGMA journal_mode=WAL")
            conn.execute(f"PRAGMA synchronous={synchronous}")
            conn.execute("CREATE TABLE records (id INTEGER PRIMARY KEY, value BLOB NOT NULL)")
            yield cls(conn, client)

    def save(self, commands: Commands, size: int) -> None:
        """A commit, a round trip, and another commit."""
        self._commit(size)
        pipe = self.client.pipeline(transaction=False)
        for command in commands:
            pipe.execute_command(*command)
        pipe.execute()
        self._commit(size)

    def _commit(self, size: int) -> None:
        self.conn.execute("BEGIN IMMEDIATE")
        self.conn.execute("INSERT INTO records (value) VALUES (?)", (bytes(size),))
        self.conn.execute("COMMIT")


# What the store tells Redis.


def _told(server: Server, keys: Sequence[Fields]) -> tuple[list[Commands], list[Commands]]:
    """The commands by which a store tells Redis of these keys when they are new, and changed."""
    with TemporaryDirectory(prefix="benchmark-told-") as folder, _listening() as heard:
        with RelayStore(Path(folder) / "relay.db", server.url) as store:
            for fields in (*keys, *map(_changed, keys)):
                store.save_api_key(fields)
    if len(heard) != 2 * len(keys):
        raise LookupError(f"{len(heard)} tellings were heard of {2 * len(keys)} saves")
    return heard[: len(keys)], heard[len(keys) :]


@contextmanager
def _listening() -> Iterator[list[Commands]]:
    """Hears what stores tell Redis of saves."""
    heard: list[Commands] = []
    tell = logic.tell

    def hear(client: redis.Redis, commands: Commands, **options: Any) -> list[Any]:
        heard.append(commands)
        return tell(client, commands, **options)

    logic.tell = hear
    try:
        yield heard
    finally:
        logic.tell = tell


_BAR = [at_most(1.5, OURS_NORMAL)]

BENCHMARKS = (
    Benchmark(
        "relay-save",
        saving,
        (OURS_NORMAL, OURS_FULL),
        [
            Metric("new_ratio", "new key ÷ bare", _BAR),
            Metric("new", "µs, new key"),
            Metric("new_bare", "µs, the same bare"),
            Metric("new_pages", "pages that its commit writes"),
            Metric("changed_ratio", "changed key ÷ bare", _BAR),
            Metric("changed", "µs, changed key"),
            Metric("changed_bare", "µs, the same bare"),
            Metric("changed_pages", "pages that its commit writes"),
        ],
    ),
)
