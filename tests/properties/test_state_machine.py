"""Any sequence of calls leaves a saver as the model says: see `model.py` for what is decided.

Two savers are open on the file, each with a history of its own: what one has deleted or stored anew
the other one's cache may still know otherwise. Values are large enough, and like the ones before
them, to be stored as differences; the test fails if too few of those come about.
"""

from __future__ import annotations

import base64
import random
import shutil
import sqlite3
import tempfile
from collections import Counter
from collections.abc import Mapping
from contextlib import closing
from dataclasses import astuple
from pathlib import Path
from typing import Any

import pytest
from conftest import Driver
from hypothesis import currently_in_test_context, note, settings
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
from langgraph.types import Send

from langgraph_sqlite_saver import AsyncSqliteSaver, SqliteSaver
from langgraph_sqlite_saver.checkpoints.encoding import Link, base_of_next
from langgraph_sqlite_saver.checkpoints.history import History

from .model import Model, Read, Saved, exactly
from .rows import assert_bases, assert_no_orphans, assert_sound

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
# Text of which any two lines have nothing in common; values are lists of some.
LINES = [base64.b64encode(random.Random(n).randbytes(600)).decode() for n in range(24)]
MOST_LINES = 18
lines = st.sampled_from(LINES)
texts = st.lists(lines, min_size=4, max_size=14)
histories = st.sampled_from(["compact", "compact", "full", "tiny"])
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
    """Two savers on a file, the model, and an InMemorySaver."""

    def __init__(self, kind: Any, happened: Counter[str], *, awaited: bool) -> None:
        super().__init__()
        self.kind, self.awaited = kind, awaited
        # How often the occasions came; to know them, what rested on what after the last step.
        self.happened = happened
        self.bases: dict[Any, str | None] = {}
        self.directory = Path(tempfile.mkdtemp(prefix="machine-"))
        self.path = self.directory / "agent.db"
        self.driver, self.other = self.open("compact"), self.open("compact")
        self.model = Model()
        self.memory = InMemorySaver()
        self.serial = 0
        # Threads in which InMemorySaver does something else; and, to know them, what is stored
        # for each version.
        self.apart: set[str] = set()
        self.stored: dict[tuple[str, str, str, str], Any] = {}

    def open(self, history: str) -> Driver:
        """A saver on the file: differences or whole values, or differences and hardly a cache."""
        mode = "full" if history == "full" else "compact"
        saver = self.kind(self.path, history=mode)
        if history == "tiny":
            saver.history = History("compact", 3000)
        return Driver(saver, awaited=self.awaited)

    def teardown(self) -> None:
        try:
            assert self.driver.check() == []
        finally:
            self.driver.shut()
            self.other.shut()
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

    @rule(data=st.data(), steps=st.sampled_from([1, 2, 3, 5]))
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
        """As drawn."""
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
        self.save(space, parent, checkpoint, metadata, new_versions)

    def save(
        self,
        space: tuple[str, str],
        parent: str | None,
        checkpoint: dict[str, Any],
        metadata: dict[str, Any],
        new_versions: dict[str, Any],
    ) -> None:
        """The same put on all three."""
        for channel in new_versions:
            chain = self.driver.saver.history.chain(space, channel)
            if chain and is_text(checkpoint["channel_values"].get(channel)):
                known = {channel: chain[base_of_next(chain)]}
                self.happened["the base known was gone: put"] += self.is_gone(space, known)
        remark(f"put {space} {parent} -> {shortened(checkpoint)}")
        given = config_of(space, parent)
        for saver in (self.driver, self.memory):
            saved = saver.put(given, checkpoint, metadata, new_versions)
            assert saved == config_of(space, checkpoint["id"])
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
            value = self._value(data, channel, before.values.get(channel))
            if value is not EMPTY:
                carried[channel] = value
        return self._checkpoint(id, before, carried, dict.fromkeys(changed, version))

    def _checkpoint(
        self, id: str, before: Saved, values: dict[str, Any], new_versions: dict[str, Any]
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        versions = {**before.versions, **new_versions}
        checkpoint = {
            **_nothing(),
            "id": id,
            "ts": f"2026-01-01T00:00:{self.serial % 60:02}+00:00",
            "channel_values": values,
            "channel_versions": versions,
            "versions_seen": {"node": dict(versions)},
            "updated_channels": sorted(new_versions),
        }
        return checkpoint, new_versions

    def _value(self, data: Any, channel: str, before: Any) -> Any:
        """No value, any of some small ones, or a text that mostly is the one before."""
        if channel == DELTA:
            before = getattr(before, "value", None)
            value = data.draw(st.just(EMPTY) | st.lists(st.integers(0, 3)) | edits(before), channel)
            return value if value is EMPTY else _DeltaSnapshot(value)
        small = st.just(EMPTY) | values
        return data.draw(small | edits(before) | edits(before) | edits(before), channel)

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
        carried=st.sampled_from([None, None, "state", "value"]),
    )
    def put_writes(
        self, data: Any, writes: list[tuple[str, Any]], task: str, path: str, carried: str | None
    ) -> None:
        """A task's writes, its checkpoint saved or not yet; some carry the state along."""
        space = self.draw_space(data)
        there = sorted(self.model.saved.get(space, {}))
        id = data.draw(st.sampled_from([f"{self.serial + 1:04}", *there[:2], *there[-1:] * 3]))
        if carried and there:
            saved = self.model.saved[space].get(id, self.model.saved[space][there[-1]])
            state = {c: value for c, value in saved.values.items() if c in PLAIN}
            if carried == "state":
                writes = [*writes, (TASKS, Send("worker", state))]
            else:
                text = next((v for v in state.values() if is_text(v)), LINES[:3])
                writes = [("a", [*text, data.draw(lines)]), *writes]
        self.write(space, id, writes, task, path)

    def write(
        self, space: tuple[str, str], id: str, writes: list[tuple[str, Any]], task: str, path: str
    ) -> None:
        """The same put_writes on all three."""
        known = self.driver.saver.history.newest(space)
        if any(len(str(value)) > 5000 for _, value in writes):
            self.happened["the base known was gone: put_writes"] += self.is_gone(space, known)
        for saver in (self.driver, self.memory):
            saver.put_writes(config_of(space, id), writes, task, path)
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
        self._delete_thread(self.draw_thread(data), how)

    def _delete_thread(self, thread: str, how: str) -> None:
        if how == "prune":
            self.driver.prune([thread, "nobody"], strategy="delete")
        else:
            self.driver.delete_thread(thread)
        self.memory.delete_thread(thread)
        self.model.delete_thread(thread)
        self.apart.discard(thread)
        self.stored = {place: v for place, v in self.stored.items() if place[0] != thread}

    @rule(data=st.data(), steps=st.integers(1, 3))
    def start_again_elsewhere(self, data: Any, steps: int) -> None:
        """The other saver deletes a thread and saves again, ints under the same versions.

        The first one does not notice, and goes on.
        """
        space = self.draw_space(data)
        self.change_savers()
        self._delete_thread(space[0], "delete_thread")
        self.put_several(data, space, None, steps)
        self.change_savers()
        self.put_several(data, space, f"{self.serial:04}", steps)

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
        self._copy_thread(self.draw_thread(data), self.draw_thread(data))

    def _copy_thread(self, source: str, onto: str) -> None:
        self.driver.copy_thread(source, onto)
        self.model.copy_thread(source, onto)
        self.apart.add(onto)

    @rule(data=st.data(), keep=st.sampled_from([None, 1, 2, 3]), nobody=st.booleans())
    def prune(self, data: Any, keep: int | None, nobody: bool) -> None:
        """All but the newest."""
        self._prune([*["nobody"] * nobody, self.draw_thread(data)], keep)

    def _prune(self, threads: list[str], keep: int | None) -> None:
        self.driver.prune(threads, strategy="keep_latest", keep_last=keep)
        for thread in threads:
            self.model.prune(thread, keep or 1)
        self.apart.update(threads)

    # Histories.

    @rule(history=histories, others=histories)
    def reopen(self, history: str, others: str) -> None:
        """Close the file and open it again, with another history or the same."""
        self.driver.shut()
        self.other.shut()
        assert sorted(each.name for each in self.directory.iterdir()) == ["agent.db"]
        self.driver, self.other = self.open(history), self.open(others)

    @rule()
    def change_savers(self) -> None:
        """Go on with the other saver, which knows what it did last."""
        self.driver, self.other = self.other, self.driver

    @rule()
    def empty_the_cache(self) -> None:
        """As a saver has it that was just opened."""
        mode = "full" if self.driver.saver.history.full else "compact"
        self.driver.saver.history = History(mode)

    @rule(data=st.data(), all_threads=st.booleans())
    def compact(self, data: Any, all_threads: bool) -> None:
        """Everything or one thread is stored as this saver would; it takes no more than before."""
        self._compact(None if all_threads else [self.draw_thread(data)])

    def _compact(self, threads: list[str] | None) -> None:
        before = self.driver.stats()
        done = self.driver.compact(threads)
        after = self.driver.stats()
        self.happened["compacted"] += done.rewritten
        growth = after.blob_bytes + after.write_bytes - before.blob_bytes - before.write_bytes
        assert growth == done.bytes_after - done.bytes_before
        self.bases = self.what_rests_on_what()
        if self.driver.saver.history.full:
            self.assert_whole(threads)
        else:
            assert growth <= 0
        if threads is None:
            assert done.values == after.blobs + after.writes

    def assert_whole(self, threads: list[str] | None) -> None:
        """No value of the threads rests on another one."""
        for each in self.driver.threads():
            if threads is None or each.thread_id in threads:
                assert each.bytes == each.logical_bytes

    @rule()
    def look_after(self) -> None:
        """Nothing is damaged, and nothing takes more than it would take whole; pending writes
        without their checkpoint are told.
        """
        found = self.driver.check()
        assert found == []
        alone = {
            key: len(kept)
            for key, kept in self.model.writes.items()
            if kept and key[2] not in self.model.saved.get(key[:2], {})
        }
        assert {astuple(each)[:3]: each.rows for each in found.orphans} == alone
        stats = self.driver.stats()
        assert stats.blob_bytes <= stats.logical_blob_bytes
        assert stats.write_bytes <= stats.logical_write_bytes
        assert all(each.bytes <= each.logical_bytes for each in self.driver.threads())

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
        """No orphans; strict JSON; what others rest on is there; each write where it belongs."""
        with closing(sqlite3.connect(self.path)) as conn:
            assert_no_orphans(conn)
            longest = assert_bases(conn)
            self.happened["and that on two more"] += longest > 3
            writes = conn.execute(
                "SELECT thread_id, checkpoint_ns, checkpoint_id, task_id, idx "
                "FROM checkpoint_writes"
            ).fetchall()
            expected = [(*place, *key) for place, kept in self.model.writes.items() for key in kept]
            assert sorted(writes) == sorted(expected)
        self.take_note()

    # What has come about.

    def is_gone(self, space: tuple[str, str], known: Mapping[str, Link]) -> bool:
        """Whether one of the values that a saver would let others rest on is not there any more."""
        with closing(sqlite3.connect(self.path)) as conn:
            found = conn.execute(
                "SELECT channel, version, token FROM checkpoint_blobs "
                "WHERE thread_id = ? AND checkpoint_ns = ?",
                space,
            ).fetchall()
        return any((channel, *link[:2]) not in found for channel, link in known.items())

    def what_rests_on_what(self) -> dict[Any, str | None]:
        """The base of each value, by where it is and its token, and of each write."""
        with closing(sqlite3.connect(self.path)) as conn:
            rows = conn.execute(
                "SELECT base, thread_id, checkpoint_ns, channel, version, token "
                "FROM checkpoint_blobs UNION ALL "
                "SELECT base, thread_id, checkpoint_ns, checkpoint_id, task_id || idx, NULL "
                "FROM checkpoint_writes"
            )
            return {tuple(key): base for base, *key in rows}

    def take_note(self) -> None:
        """Count what the last step changed."""
        before, self.bases = self.bases, self.what_rests_on_what()
        of_token: dict[Any, set[str | None]] = {}
        for key, base in self.bases.items():
            of_token.setdefault(key[-1], set()).add(base)
        for key, base in self.bases.items():
            token, is_new = key[-1], key not in before
            what = "a write" if token is None else "a value"
            if is_new and base is not None:
                self.happened[OCCASIONS[0] if token else OCCASIONS[2]] += 1
            if is_new and token and len(of_token[token]) > 1:
                self.happened["a copy rests on something else"] += 1
            if not is_new and before[key] != base:
                self.happened[f"{what} got another base"] += 1


PLACES = st.sampled_from([("ours", ""), ("ints", "")])
SEEDS = st.integers(0, 99)


class ConversationMachine(SaverMachine):
    """Two threads of growing texts: most of what happens, happens to values with a long history."""

    @initialize()
    def choose(self) -> None:
        """One thread with unique versions, one with ints, which deleted threads use again."""
        self.spaces, self.threads = [("ours", ""), ("ints", "")], ["ours", "ints"]

    def draw_thread(self, data: Any) -> str:
        return data.draw(st.sampled_from(self.threads), "thread")

    # Drawn values, and comparing with InMemorySaver, are for the other machine.
    next_steps = fork = put_writes = list = get_delta_channel_history = None
    in_memory_it_is_the_same = None

    @rule(
        space=PLACES, turns=st.sampled_from([3, 8, 12]), at=st.sampled_from([0, 0, 2]), seed=SEEDS
    )
    def talk(self, space: tuple[str, str], turns: int, at: int, seed: int) -> None:
        """Some turns from the newest checkpoint on, or from one that is a little older."""
        self.turns(space, turns, at, seed)

    def turns(self, space: tuple[str, str], turns: int, at: int, seed: int) -> None:
        """In each the writes of a task carry the state along, then a checkpoint is saved."""
        chance = random.Random(seed)
        newest = sorted(self.model.saved.get(space, {}))[::-1]
        parent = newest[min(at, len(newest) - 1)] if newest else None
        remark(f"{turns} turns of {space} on {parent}, seed {seed}")
        for _ in range(turns):
            if parent and chance.random() < 0.5:
                self.carry(space, chance.choice([parent, parent, newest[-1] if newest else parent]))
            self.serial += 1
            self.turn(space, f"{self.serial:04}", parent, chance)
            parent = f"{self.serial:04}"

    def carry(self, space: tuple[str, str], id: str) -> None:
        """A write on a checkpoint that carries along what is the newest state."""
        state = dict(self.model.saved[space][max(self.model.saved[space])].values)
        self.write(space, id, [(TASKS, Send("worker", state))], f"task {self.serial}", "")

    def turn(
        self, space: tuple[str, str], id: str, parent: str | None, chance: random.Random
    ) -> None:
        """A checkpoint in which one of two texts is longer than before."""
        before = self.model.saved[space][parent] if parent else Saved(_nothing(), {}, None)
        channel = chance.choice("aaab")
        values = {**before.values, channel: reply(before.values.get(channel), chance)}
        new_versions = {channel: self._next_version(space[0], before)}
        checkpoint, _ = self._checkpoint(id, before, values, new_versions)
        metadata = {"source": "loop", "run_id": chance.choice(RUNS)}
        self.save(space, parent, checkpoint, metadata, new_versions)

    def replace_newest(self, space: tuple[str, str], seed: int) -> None:
        """Another checkpoint under the same id; what only the first one used goes."""
        id = max(self.model.saved[space])
        parent = self.model.saved[space][id].parent
        parent = parent if parent in self.model.saved[space] else None
        self.turn(space, id, parent, random.Random(seed))

    @rule(space=PLACES, seed=SEEDS)
    def replace_what_others_rest_on(self, space: tuple[str, str], seed: int) -> None:
        """Writes on an older checkpoint rest on the values of the newest, which is replaced."""
        self.turns(space, 3, 0, seed)
        self.carry(space, min(self.model.saved[space]))
        self.take_note()
        self.replace_newest(space, seed)

    @rule(space=PLACES, seed=SEEDS)
    def start_again_elsewhere(self, space: tuple[str, str], seed: int) -> None:
        """One saver starts a thread; the other one deletes it and starts it again.

        Ints come up again, with other values. The first saver goes on, and does not know.
        """
        self._delete_thread(space[0], "delete_thread")
        self.turns(space, 2, 0, seed)
        self.change_savers()
        self._delete_thread(space[0], "delete_thread")
        self.turns(space, 2, 0, seed + 1)
        self.change_savers()
        newest = max(self.model.saved[space])
        found = read_of(self.driver.get_tuple(config_of(space, newest)))
        assert comparable(found) == comparable(self.model.get(space, newest))
        self.carry(space, newest)
        self.turns(space, 2, 0, seed)

    @rule(space=PLACES, seed=SEEDS)
    def copy_apart(self, space: tuple[str, str], seed: int) -> None:
        """Two copies of a thread part, and what one of them lacks is copied to it.

        Their newest checkpoint is another one in each, so that what follows rests on something that
        the other one has not.
        """
        other = next(each for each in self.threads if each != space[0])
        self.turns(space, 1, 0, seed)
        self._copy_thread(space[0], other)
        self.replace_newest(space, seed)
        self.empty_the_cache()  # which would take what was replaced for the base
        self.turns(space, 3, 0, seed)
        self._copy_thread(space[0], other)


def reply(before: Any, chance: random.Random) -> list[str]:
    """The text with a line more, now and then one that is edited, shorter, or another one."""
    what = chance.random()
    if not is_text(before) or what < 0.05:
        return chance.sample(LINES, 8)
    if what < 0.15:
        return [*before[:3], chance.choice(LINES), *before[4:]]
    if what < 0.2:
        return before[: max(2, len(before) // 2)]
    return [*before, chance.choice(LINES)][-MOST_LINES:]


def remark(text: str) -> None:
    if currently_in_test_context():  # and not in a run by hand
        note(text)


def is_text(value: Any) -> bool:
    return isinstance(value, list) and len(value) > 1 and value[0] in LINES


def edits(before: Any) -> st.SearchStrategy[list[str]]:
    """Texts that mostly are the one before, if there was one, or have nothing to do with it."""
    if not is_text(before):
        return texts
    at = st.integers(0, len(before) - 1)
    return st.one_of(
        st.lists(lines, min_size=1, max_size=3).map(lambda new: [*before, *new][-MOST_LINES:]),
        st.builds(lambda i, line: [*before[:i], line, *before[i + 1 :]], at, lines),
        st.integers(2, len(before)).map(lambda n: before[:n]),
        texts,
    )


def shortened(value: Any) -> Any:
    """For notes: the first letters of each line."""
    if isinstance(value, dict):
        return {key: shortened(each) for key, each in value.items()}
    return " ".join(line[:4] for line in value) if is_text(value) else value


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


# What has to come about in every run, or it shows nothing about values that rest on others.
OCCASIONS = [
    "a value rests on an older one",
    "and that on two more",
    "a write rests on values",
    "a value got another base",
    "a write got another base",
    "a copy rests on something else",
    "the base known was gone: put",
    "the base known was gone: put_writes",
    "compacted",
]


BOTH = pytest.mark.parametrize(
    ("kind", "awaited"), [(SqliteSaver, False), (AsyncSqliteSaver, True)], ids=["sync", "async"]
)
# To find the shortest sequence that fails takes a while.
patiently = pytest.mark.timeout(900)


@patiently
@BOTH
def test_any_sequence_of_calls_leaves_what_the_model_says(kind: Any, awaited: bool) -> None:
    """Put, write, read, list, delete, copy, prune, compact, reopen: in any order, on any saver."""
    run_state_machine_as_test(
        lambda: SaverMachine(kind, Counter(), awaited=awaited),
        settings=settings(max_examples=3 * settings().max_examples, stateful_step_count=20),
    )


@patiently
@BOTH
def test_values_keep_whatever_happens_to_what_they_rest_on(kind: Any, awaited: bool) -> None:
    """Differences rest on what is deleted, replaced, copied, stored anew, or changed elsewhere."""
    happened: Counter[str] = Counter()
    run_state_machine_as_test(
        lambda: ConversationMachine(kind, happened, awaited=awaited),
        settings=settings(stateful_step_count=12),
    )
    # Those that no run is without; the test below makes each of the others happen.
    often = "a value rests on an older one", "a write rests on values"
    assert all(happened[each] for each in often), happened


@BOTH
def test_the_machine_makes_everything_happen_that_it_is_for(kind: Any, awaited: bool) -> None:
    """A check of this file: in a run by hand each occasion comes, and the machine notices it."""
    happened: Counter[str] = Counter()
    machine = ConversationMachine(kind, happened, awaited=awaited)
    machine.choose()
    ints, ours = ("ints", ""), ("ours", "")
    steps = [
        (machine.turns, (ints, 30, 0, 1), OCCASIONS[:3]),
        (machine.turns, (ints, 3, 4, 2), []),
        (machine.replace_what_others_rest_on, (ints, 3), ["a write got another base"]),
        *[(machine.copy_apart, (ours, seed), []) for seed in range(9)],
        (machine.copy_apart, (ours, 9), ["a copy rests on something else"]),
        (machine._prune, (["ints", "ours"], 2), ["a value got another base"]),
        *[(machine.start_again_elsewhere, (ints, seed), []) for seed in range(4)],
        (machine.start_again_elsewhere, (ints, 4), OCCASIONS[6:8]),
        (machine.reopen, ("full", "tiny"), []),
        (machine.turns, (ints, 5, 0, 6), []),
        (machine._compact, (None,), []),
        (machine.change_savers, (), []),
        (machine.turns, (ints, 5, 0, 7), []),
        (machine._compact, (None,), ["compacted"]),
    ]
    try:
        for step, arguments, expected in steps:
            step(*arguments)
            machine.all_is_there()
            machine.rows_are_sound()
            assert all(happened[each] for each in expected), (step, happened)
    finally:
        machine.teardown()
