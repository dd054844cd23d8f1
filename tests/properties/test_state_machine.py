"""Any sequence of calls leaves a saver as the model says: see `model.py` for what is decided."""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from conftest import Driver
from hypothesis import note, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)
from langgraph.checkpoint.base import (
    ERROR,
    INTERRUPT,
    RESUME,
    SCHEDULED,
    WRITES_IDX_MAP,
    BaseCheckpointSaver,
    CheckpointTuple,
)
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.serde.types import TASKS, _DeltaSnapshot

from langgraph_sqlite_saver import AsyncSqliteSaver, SqliteSaver

from .model import Model, Read, Saved, exactly
from .rows import assert_no_orphans, assert_sound

# The versions that a thread starts with; copied threads go on with what they got.
FIRST_VERSION: dict[str, Any] = {"ours": None, "also-ours": None, "ints": 1, "floats": 0.5}
THREADS = list(FIRST_VERSION)
NAMESPACES = ["", "sub", "call:1"]
SPACES = [(thread, ns) for thread in THREADS for ns in NAMESPACES]
RUNS = ["run-1", "run-2", "run-3"]
PLAIN, DELTA = ["a", "b", "c"], "log"

values = st.one_of(
    st.lists(st.integers(0, 3), max_size=2),
    st.lists(st.integers(0, 3), max_size=2),
    st.sampled_from([None, 7, True, 1.5, "short", "long " * 30, b"bytes", {"k": [1]}]),
)
EMPTY = object()
ordinary = st.tuples(st.sampled_from(["a", DELTA, DELTA, TASKS]), values)
special = st.tuples(st.sampled_from([ERROR, SCHEDULED, INTERRUPT, RESUME]), values)
several_writes = st.one_of(
    st.lists(ordinary, min_size=1, max_size=3),
    st.lists(special, min_size=1, max_size=2),
    st.lists(ordinary | special, max_size=3),
)
filters = st.none() | st.dictionaries(
    st.sampled_from(["score", "source", "run_id", "tags", "tags.k", "tags.missing", "missing"]),
    st.sampled_from([None, 0, 1, True, "loop", "run-1", {"k": 1}, {"k": 1, "l": [2]}, [1]]),
    max_size=2,
)
metadatas = st.fixed_dictionaries(
    {"source": st.sampled_from(["input", "loop"])},
    optional={
        "score": st.sampled_from([0, 1, 1.0, True, None]),
        "run_id": st.sampled_from(RUNS),
        "tags": st.sampled_from([{"k": 1}, {"l": [2], "k": 1}, [1]]),
        "thread_id": st.just("somewhere"),
    },
)


def config_of(space: tuple[str, str], id: str | None = None) -> Any:
    found = {"thread_id": space[0], "checkpoint_ns": space[1]}
    return {"configurable": {**found, **({"checkpoint_id": id} if id else {})}}


def read_of(found: CheckpointTuple | None) -> Read | None:
    if found is None:
        return None
    place, parent = found.config["configurable"], found.parent_config
    space = (place["thread_id"], place["checkpoint_ns"])
    if parent is not None:
        assert parent == config_of(space, parent["configurable"]["checkpoint_id"])
    return Read(
        *space,
        place["checkpoint_id"],
        parent["configurable"]["checkpoint_id"] if parent else None,
        dict(found.checkpoint),
        dict(found.metadata),
        list(found.pending_writes or []),
    )


def comparable(read: Read | None) -> Any:
    return exactly(vars(read)) if read else None


class SaverMachine(RuleBasedStateMachine):
    """One saver on a file, the model, and an InMemorySaver."""

    def __init__(self, kind: Any, *, awaited: bool) -> None:
        super().__init__()
        self.kind, self.awaited = kind, awaited
        self.directory = Path(tempfile.mkdtemp(prefix="machine-"))
        self.path = self.directory / "agent.db"
        self.open()
        self.model = Model()
        self.memory = InMemorySaver()
        self.serial = 0
        # Threads in which InMemorySaver does something else; and, to know them, what is stored
        # for each version.
        self.apart: set[str] = set()
        self.stored: dict[tuple[str, str, str, str], Any] = {}

    def open(self) -> None:
        self.driver = Driver(self.kind(self.path), awaited=self.awaited)

    def teardown(self) -> None:
        self.driver.shut()
        assert_sound(self.path)
        shutil.rmtree(self.directory)

    @initialize(
        roots=st.lists(st.sampled_from(THREADS), min_size=1, max_size=2, unique=True),
        others=st.lists(st.sampled_from(SPACES), max_size=2),
    )
    def choose(self, roots: list[str], others: list[tuple[str, str]]) -> None:
        """A few places for each run, so that things meet there."""
        self.spaces = [*[(thread, "") for thread in roots], *others]
        self.threads = list({thread: None for thread, _ in self.spaces})
        note(f"spaces {self.spaces}")

    def draw_space(self, data: Any) -> tuple[str, str]:
        return data.draw(st.sampled_from(self.spaces), "space")

    def draw_thread(self, data: Any) -> str:
        return data.draw(st.sampled_from([*self.threads * 3, *THREADS]), "thread")

    # Saving.

    @rule(data=st.data(), steps=st.integers(1, 3))
    def next_steps(self, data: Any, steps: int) -> None:
        """Some checkpoints, one on another, from the newest on."""
        space = self.draw_space(data)
        parent = max(self.model.saved.get(space, {}), default=None)
        self.put_several(data, space, parent, steps)

    @rule(data=st.data(), steps=st.integers(1, 3))
    def fork(self, data: Any, steps: int) -> None:
        """Some checkpoints on any that is there, or on none."""
        space = self.draw_space(data)
        parents = [*sorted(self.model.saved.get(space, {})), None]
        self.put_several(data, space, data.draw(st.sampled_from(parents), "parent"), steps)

    def put_several(self, data: Any, space: tuple[str, str], parent: str | None, n: int) -> None:
        for _ in range(n):
            self.serial += 1
            self.put(data, space, f"{self.serial:04}", parent)
            parent = f"{self.serial:04}"

    @rule(data=st.data())
    def replace(self, data: Any) -> None:
        """A checkpoint in the place of another, or under an id used elsewhere."""
        space = self.draw_space(data)
        there = self.model.saved.get(space, {})
        id = data.draw(st.sampled_from([*sorted(there)[-3:], f"{self.serial:04}"]), "id")
        parents = [None, *sorted(each for each in there if each < id)]
        self.put(data, space, id, data.draw(st.sampled_from(parents), "parent"))

    def put(self, data: Any, space: tuple[str, str], id: str, parent: str | None) -> None:
        """The same put on all three."""
        metadata = data.draw(metadatas, "metadata")
        old_format = data.draw(st.sampled_from([0, 0, 0, 1]), "old format")
        before = self.model.saved[space][parent] if parent else Saved(_nothing(), {}, None)
        checkpoint, new_versions = self._step(data, space, id, before)
        if old_format and checkpoint["channel_versions"]:
            checkpoint["v"] = 3
        if ":" in space[1] and (roots := sorted(self.model.saved.get((space[0], ""), {}))):
            metadata = {**metadata, "parents": {"": data.draw(st.sampled_from(roots), "root")}}
        if DELTA in checkpoint["channel_versions"] and DELTA not in checkpoint["channel_values"]:
            metadata = {**metadata, "counters_since_delta_snapshot": {DELTA: [1, 2]}}
        note(f"put {space} {parent} -> {checkpoint}")
        given = config_of(space, parent)
        for saver in (self.driver, self.memory):
            saved = saver.put(given, checkpoint, metadata, new_versions)
            assert saved == config_of(space, id)
        self._note_versions(space, checkpoint, new_versions)
        self.model.put(space, parent, checkpoint, metadata, new_versions)

    def _step(
        self, data: Any, space: tuple[str, str], id: str, before: Saved
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """As LangGraph makes it: one new version for all that changed, from the greatest one."""
        version = self._next_version(space[0], before)
        channels = st.sampled_from([*PLAIN, DELTA, DELTA])
        changed = data.draw(st.lists(channels, unique=True, max_size=2), "changed")
        carried = {c: v for c, v in before.values.items() if c not in changed and c != DELTA}
        for channel in changed:
            if channel == DELTA:
                value = data.draw(st.just(EMPTY) | st.lists(st.integers(0, 3)), "delta")
                value = value if value is EMPTY else _DeltaSnapshot(value)
            else:
                value = data.draw(st.just(EMPTY) | values | values | values, channel)
            if value is not EMPTY:
                carried[channel] = value
        new_versions = dict.fromkeys(changed, version)
        versions = {**before.versions, **new_versions}
        checkpoint = {
            **_nothing(),
            "id": id,
            "ts": f"2026-01-01T00:00:{self.serial % 60:02}+00:00",
            "channel_values": carried,
            "channel_versions": versions,
            "versions_seen": {"node": dict(versions)},
            "updated_channels": sorted(changed),
        }
        return checkpoint, new_versions

    def _next_version(self, thread: str, before: Saved) -> Any:
        current = max(before.versions.values(), default=None)
        if current is None and FIRST_VERSION[thread] is not None:
            return FIRST_VERSION[thread]
        if current is None or isinstance(current, str):
            return self.driver.get_next_version(current)
        return current + 1

    def _note_versions(
        self, space: tuple[str, str], checkpoint: dict[str, Any], new_versions: Mapping[str, Any]
    ) -> None:
        if checkpoint["v"] < 4:
            self.apart.add(space[0])
        for channel, version in new_versions.items():
            value = exactly(checkpoint["channel_values"].get(channel, EMPTY))
            if self.stored.setdefault((*space, channel, repr(version)), value) != value:
                self.apart.add(space[0])

    @rule(
        data=st.data(),
        writes=several_writes,
        task=st.sampled_from(["task-1", "task-2"]),
        path=st.sampled_from(["", "~__pregel_pull, a", "~__pregel_pull, b"]),
    )
    def put_writes(self, data: Any, writes: list[tuple[str, Any]], task: str, path: str) -> None:
        """A task's writes, its checkpoint saved or not yet."""
        space = self.draw_space(data)
        there = sorted(self.model.saved.get(space, {}))
        id = data.draw(st.sampled_from([f"{self.serial + 1:04}", *there[:2], *there[-1:] * 3]))
        for saver in (self.driver, self.memory, None):
            if saver:
                saver.put_writes(config_of(space, id), writes, task, path)
            else:
                self.model.put_writes(space, id, writes, task, path)
        if len({channel in WRITES_IDX_MAP for channel, _ in writes}) == 2:
            self.apart.add(space[0])

    # Reading; that everything is there is an invariant.

    @rule(data=st.data())
    def get_tuple(self, data: Any) -> None:
        """The newest, one by its id, one that is not there."""
        space = self.draw_space(data)
        there = sorted(self.model.saved.get(space, {}))
        id = data.draw(st.sampled_from([None, "unknown", *there]))
        found = read_of(self.driver.get_tuple(config_of(space, id)))
        assert comparable(found) == comparable(self.model.get(space, id))
        if space[0] not in self.apart:
            beside = read_of(self.memory.get_tuple(config_of(space, id)))
            assert comparable(found) == comparable(beside)

    @rule(
        data=st.data(),
        all_threads=st.booleans(),
        ns=st.sampled_from([None, *NAMESPACES]),
        filter=filters,
        limit=st.sampled_from([None, None, 0, 1, 3]),
    )
    def list(
        self, data: Any, all_threads: bool, ns: str | None, filter: Any, limit: int | None
    ) -> None:
        """Any thread and namespace, with a filter, an end and a limit."""
        thread = None if all_threads else self.draw_thread(data)
        serials = st.none() | st.integers(0, self.serial + 1).map(lambda n: f"{n:04}")
        before, id = data.draw(serials, "before"), None
        given = None
        if thread is not None:
            id = data.draw(serials, "id")
            wanted = {"thread_id": thread, "checkpoint_ns": ns, "checkpoint_id": id}
            given = {"configurable": {k: v for k, v in wanted.items() if v is not None}}
        found = self.driver.list(
            given,
            filter=filter,
            before=config_of(("any", ""), before) if before else None,
            limit=limit,
        )
        expected = self.model.list(
            thread, ns if thread is not None else None, id, filter, before, limit
        )
        assert [comparable(read_of(each)) for each in found] == [comparable(e) for e in expected]

    @rule(
        data=st.data(),
        channels=st.lists(st.sampled_from([DELTA, DELTA, "a", "nowhere"]), unique=True),
    )
    def get_delta_channel_history(self, data: Any, channels: list[str]) -> None:
        """What a DeltaChannel is rebuilt from; the base class, step by step, finds the same."""
        space = self.draw_space(data)
        there = sorted(self.model.saved.get(space, {}))
        id = data.draw(st.sampled_from([None, "unknown", *there[-3:]]))
        expected = exactly(self.model.history(space, id, channels))
        asked = {"config": config_of(space, id), "channels": channels}
        assert exactly(self.driver.get_delta_channel_history(**asked)) == expected
        assert exactly(self._base_history(asked)) == expected
        if space[0] not in self.apart:
            assert exactly(self.memory.get_delta_channel_history(**asked)) == expected

    def _base_history(self, asked: dict[str, Any]) -> Any:
        saver = self.driver.saver
        if self.awaited:
            return self.driver.run(BaseCheckpointSaver.aget_delta_channel_history(saver, **asked))
        return BaseCheckpointSaver.get_delta_channel_history(saver, **asked)

    # Deleting and copying.

    @rule(data=st.data(), how=st.sampled_from(["delete_thread", "prune"]))
    def delete_thread(self, data: Any, how: str) -> None:
        """Everything of a thread, if there is anything; `prune` with "delete" does the same."""
        thread = self.draw_thread(data)
        if how == "prune":
            self.driver.prune([thread, "nobody"], strategy="delete")
        else:
            self.driver.delete_thread(thread)
        self.memory.delete_thread(thread)
        self.model.delete_thread(thread)
        self.apart.discard(thread)
        self.stored = {place: v for place, v in self.stored.items() if place[0] != thread}

    @rule(runs=st.lists(st.sampled_from([*RUNS, "no-run"]), max_size=2))
    def delete_for_runs(self, runs: list[str]) -> None:
        """What runs made, in every thread."""
        self.driver.delete_for_runs(runs)
        self.model.delete_for_runs(runs)
        if runs:
            self.apart.update(THREADS)

    @rule(data=st.data())
    def copy_thread(self, data: Any) -> None:
        """To a fresh thread, to one that has something, to itself."""
        source, onto = self.draw_thread(data), self.draw_thread(data)
        self.driver.copy_thread(source, onto)
        self.model.copy_thread(source, onto)
        self.apart.add(onto)

    @rule(data=st.data(), keep=st.sampled_from([None, 1, 2, 3]), nobody=st.booleans())
    def prune(self, data: Any, keep: int | None, nobody: bool) -> None:
        """All but the newest."""
        threads = [*["nobody"] * nobody, self.draw_thread(data)]
        self.driver.prune(threads, strategy="keep_latest", keep_last=keep)
        for thread in threads:
            self.model.prune(thread, keep or 1)
        self.apart.update(threads)

    @rule()
    def reopen(self) -> None:
        """Close the file and open it again."""
        self.driver.shut()
        assert sorted(each.name for each in self.directory.iterdir()) == ["agent.db"]
        self.open()

    # What holds after every step.

    @invariant()
    def all_is_there(self) -> None:
        """Every checkpoint of every thread, as it was put, and no other."""
        found = [comparable(read_of(each)) for each in self.driver.list(None)]
        assert found == [comparable(each) for each in self.model.list()]

    @invariant()
    def in_memory_it_is_the_same(self) -> None:
        """InMemorySaver has the same checkpoints, in the threads where it can."""
        for space, saved in self.model.saved.items():
            for id in saved if space[0] not in self.apart else ():
                beside = read_of(self.memory.get_tuple(config_of(space, id)))
                assert comparable(beside) == comparable(self.model.get(space, id))

    @invariant()
    def rows_are_sound(self) -> None:
        """No orphans; strict JSON; each write where it belongs."""
        with closing(sqlite3.connect(self.path)) as conn:
            assert_no_orphans(conn)
            writes = conn.execute(
                "SELECT thread_id, checkpoint_ns, checkpoint_id, task_id, idx "
                "FROM checkpoint_writes"
            ).fetchall()
            expected = [(*place, *key) for place, kept in self.model.writes.items() for key in kept]
            assert sorted(writes) == sorted(expected)


def _nothing() -> dict[str, Any]:
    return {
        "v": 4,
        "id": "",
        "ts": "",
        "channel_values": {},
        "channel_versions": {},
        "versions_seen": {},
        "updated_channels": None,
    }


@pytest.mark.timeout(900)  # to find the shortest sequence that fails takes a while
@pytest.mark.parametrize(
    ("kind", "awaited"), [(SqliteSaver, False), (AsyncSqliteSaver, True)], ids=["sync", "async"]
)
def test_any_sequence_of_calls_leaves_what_the_model_says(kind: Any, awaited: bool) -> None:
    """Put, write, read, list, delete, copy, prune, reopen, in any order, on both savers."""
    run_state_machine_as_test(
        lambda: SaverMachine(kind, awaited=awaited),
        settings=settings(max_examples=4 * settings().max_examples, stateful_step_count=20),
    )
