"""What a saver does, as plain dicts: the state machine compares both savers with it.

A checkpoint keeps the values it was given; nothing is shared, so nothing can be mixed up.

Decided here:

* Each checkpoint gives back its own values, also where two branches of a fork, or two threads that
  were copied onto each other, use the same version for different values.
* A channel that `put` leaves out: if `new_versions` names it, it is empty from here on. If not, it
  has what the parent has at that version (a DeltaChannel's snapshot, mostly).
* Saving an id again replaces the checkpoint, its parent included. Its writes stay.
* Before format 4 a checkpoint's pending sends are its parent's writes to TASKS. They appear in
  `channel_values`, with the greatest version, as long as the parent is there.
* `list`: newest id first; the same id in several places by thread, then namespace.
* `delete_for_runs`: whose parent went gets the nearest ancestor that is left.
* `prune`: whose parent went has none. "What the values need" is, for each DeltaChannel without a
  value at a kept checkpoint, every ancestor up to the nearest one with a value, which is kept too.
  A DeltaChannel is known by a snapshot in its namespace, or by the counters in the metadata.
  A subgraph call's namespace goes when the root checkpoint that it started from goes.
* `copy_thread` onto an existing thread adds the checkpoints and the writes that are missing there.
* Writes are kept for checkpoints that are not saved (yet), until their thread or, in a subgraph
  call, their namespace is deleted.

`InMemorySaver` runs beside the model. Where they differ, ours is as the model; a thread in which
one of the first four has happened is not compared any more until it is deleted:

* It keeps one value for each version, so after a fork with int versions the last one saved wins.
* It looks at each write for itself: in a call that mixes special writes (errors, interrupts …) with
  ordinary ones the special ones replace. With us, as in the official SQLite and Postgres savers,
  only a call of nothing but special writes does.
* It has no copy_thread, delete_for_runs and prune.
* It leaves the pending sends of old formats where they are.
* It lists thread by thread, so a limit over several threads takes others, and it compares filters
  only with the top level of the metadata. So both are left out of the comparison.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from langgraph.checkpoint.base import WRITES_IDX_MAP, writes_sort_key
from langgraph.checkpoint.serde.types import TASKS, _DeltaSnapshot


@dataclass(frozen=True)
class Saved:
    """A checkpoint: the dict that `put` was given, values that it left out filled in."""

    checkpoint: dict[str, Any]
    metadata: dict[str, Any]
    parent: str | None

    @property
    def values(self) -> dict[str, Any]:
        return self.checkpoint["channel_values"]

    @property
    def versions(self) -> dict[str, Any]:
        return self.checkpoint["channel_versions"]


@dataclass(frozen=True)
class Write:
    """One pending write."""

    channel: str
    value: Any
    path: str


@dataclass(frozen=True)
class Read:
    """What a CheckpointTuple says, without its wrapping."""

    thread: str
    ns: str
    id: str
    parent: str | None
    checkpoint: dict[str, Any]
    metadata: dict[str, Any]
    writes: list[tuple[str, str, Any]]


Space = tuple[str, str]  # thread, namespace


class Model:
    """A saver without a file."""

    def __init__(self) -> None:
        self.saved: dict[Space, dict[str, Saved]] = {}
        self.writes: dict[tuple[str, str, str], dict[tuple[str, int], Write]] = {}

    # Saving.

    def put(
        self,
        space: Space,
        parent: str | None,
        checkpoint: dict[str, Any],
        metadata: dict[str, Any],
        new_versions: Mapping[str, Any],
    ) -> None:
        values = dict(checkpoint["channel_values"])
        before = self.saved.get(space, {}).get(parent or "")
        for channel, version in checkpoint["channel_versions"].items():
            left_out = channel not in values and channel not in new_versions
            unchanged = before and before.versions.get(channel) == version
            if left_out and unchanged and channel in before.values:
                values[channel] = before.values[channel]
        whole = {**checkpoint, "channel_values": values}
        self.saved.setdefault(space, {})[checkpoint["id"]] = Saved(whole, metadata, parent)

    def put_writes(
        self, space: Space, id: str, writes: Sequence[tuple[str, Any]], task: str, path: str
    ) -> None:
        kept = self.writes.setdefault((*space, id), {})
        all_special = all(channel in WRITES_IDX_MAP for channel, _ in writes)
        for number, (channel, value) in enumerate(writes):
            key = (task, WRITES_IDX_MAP.get(channel, number))
            if all_special or key not in kept:
                kept[key] = Write(channel, value, path)

    # Reading.

    def get(self, space: Space, id: str | None) -> Read | None:
        saved = self.saved.get(space, {})
        id = max(saved, default=None) if id is None else id
        return self._read(space, id) if id in saved else None

    def list(
        self,
        thread: str | None = None,
        ns: str | None = None,
        id: str | None = None,
        filter: Mapping[str, Any] | None = None,
        before: str | None = None,
        limit: int | None = None,
    ) -> list[Read]:
        found = [
            self._read(space, each)
            for space, saved in self.saved.items()
            for each in saved
            if thread in (None, space[0])
            and ns in (None, space[1])
            and id in (None, each)
            and (before is None or each < before)
            and matches(saved[each].metadata, filter or {})
        ]
        found.sort(key=lambda read: (read.thread, read.ns))
        found.sort(key=lambda read: read.id, reverse=True)
        return found[:limit]

    def history(self, space: Space, id: str | None, channels: Sequence[str]) -> dict[str, Any]:
        saved = self.saved.get(space, {})
        id = max(saved, default=None) if id is None else id
        result: dict[str, Any] = {}
        for channel in channels:
            result[channel] = {"writes": []}
            for ancestor in self._ancestors(space, id):
                written = [w for w in self._writes(space, ancestor) if w[1] == channel]
                result[channel]["writes"][:0] = written
                if channel in saved[ancestor].values:
                    result[channel]["seed"] = saved[ancestor].values[channel]
                    break
        return result

    def _read(self, space: Space, id: str) -> Read:
        saved = self.saved[space][id]
        checkpoint = dict(saved.checkpoint)
        sends = [value for _, c, value in self._writes(space, saved.parent) if c == TASKS]
        if checkpoint["v"] < 4 and sends:
            checkpoint["channel_values"] = {**saved.values, TASKS: sends}
            checkpoint["channel_versions"] = {
                **saved.versions,
                TASKS: max(saved.versions.values()),
            }
        return Read(*space, id, saved.parent, checkpoint, saved.metadata, self._writes(space, id))

    def _writes(self, space: Space, id: str | None) -> list[tuple[str, str, Any]]:
        kept = self.writes.get((*space, id or ""), {})
        order = sorted(kept, key=lambda key: writes_sort_key(kept[key].path, *key))
        return [(key[0], kept[key].channel, kept[key].value) for key in order]

    def _ancestors(self, space: Space, id: str | None) -> Iterator[str]:
        saved = self.saved.get(space, {})
        while id in saved and (id := saved[id].parent) in saved:
            yield id

    # Deleting and copying.

    def delete_thread(self, thread: str) -> None:
        for space in [s for s in self.saved if s[0] == thread]:
            del self.saved[space]
        for place in [p for p in self.writes if p[0] == thread]:
            del self.writes[place]

    def delete_for_runs(self, runs: Sequence[str]) -> None:
        for space, saved in self.saved.items():
            gone = {id for id, each in saved.items() if each.metadata.get("run_id") in runs}
            if gone:  # what the values of the others are rebuilt from stays
                gone -= self._needed(space, sorted(saved.keys() - gone))
            for id in saved.keys() - gone:
                parent = saved[id].parent
                while parent in gone:
                    parent = saved[parent].parent
                saved[id] = replace(saved[id], parent=parent)
            self._drop(space, gone)

    def copy_thread(self, source: str, target: str) -> None:
        for (thread, ns), saved in list(self.saved.items()):
            if thread == source:
                there = self.saved.setdefault((target, ns), {})
                for id, each in saved.items():
                    there.setdefault(id, _moved(each, target))
        for (thread, ns, id), kept in list(self.writes.items()):
            if thread == source:
                there_kept = self.writes.setdefault((target, ns, id), {})
                for key, write in kept.items():
                    there_kept.setdefault(key, write)

    def prune(self, thread: str, keep: int) -> None:
        spaces = [space for space in self.saved if space[0] == thread and self.saved[space]]
        heads = {space: sorted(self.saved[space])[-keep:] for space in spaces}
        kept = {space: self._needed(space, heads[space]) for space in spaces}
        root = (thread, "")
        going = self.saved.get(root, {}).keys() - kept.get(root, set())
        for space in spaces:
            newest = self.saved[space][heads[space][-1]]
            if ":" in space[1] and newest.metadata.get("parents", {}).get("") in going:
                del self.saved[space]
                for place in [p for p in self.writes if p[:2] == space]:
                    del self.writes[place]
                continue
            gone = self.saved[space].keys() - kept[space]
            self._drop(space, gone)
            for id, each in self.saved[space].items():
                if each.parent in gone:
                    self.saved[space][id] = replace(each, parent=None)

    def _needed(self, space: Space, heads: Sequence[str]) -> set[str]:
        saved = self.saved[space]
        needed = set(heads)
        with_snapshots = {
            channel
            for each in saved.values()
            for channel, value in each.values.items()
            if isinstance(value, _DeltaSnapshot)
        }
        for head in heads:
            read = self._read(space, head)
            if TASKS in read.checkpoint["channel_values"] and saved[head].parent in saved:
                needed.add(str(saved[head].parent))
            counted = saved[head].metadata.get("counters_since_delta_snapshot", {})
            for channel in saved[head].versions.keys() & (with_snapshots | counted.keys()):
                if channel in saved[head].values:
                    continue
                for ancestor in self._ancestors(space, head):
                    needed.add(ancestor)
                    if channel in saved[ancestor].values:
                        break
        return needed

    def _drop(self, space: Space, ids: set[str]) -> None:
        for id in ids:
            del self.saved[space][id]
            self.writes.pop((*space, id), None)


def matches(metadata: Mapping[str, Any], filter: Mapping[str, Any]) -> bool:
    """Whether metadata has what a filter asks for: dots nest, None is also what is missing."""
    return all(_lookup(metadata, key.split(".")) == value for key, value in filter.items())


def _lookup(metadata: Any, path: Sequence[str]) -> Any:
    for key in path:
        metadata = metadata.get(key) if isinstance(metadata, Mapping) else None
    return metadata


def _moved(saved: Saved, thread: str) -> Saved:
    if "thread_id" not in saved.metadata:
        return saved
    return replace(saved, metadata={**saved.metadata, "thread_id": thread})


def exactly(value: Any) -> Any:
    """Something that is equal only for the same value of the same type; knows nan and no order."""
    if isinstance(value, Mapping):
        items = [(repr(exactly(k)), exactly(v)) for k, v in value.items()]
        return (type(value), sorted(items, key=lambda item: item[0]))
    if isinstance(value, (set, frozenset)):
        return (type(value), sorted((exactly(each) for each in value), key=repr))
    if isinstance(value, Sequence) and not isinstance(value, (str, bytes, bytearray)):
        return (type(value), [exactly(each) for each in value])
    return (type(value), repr(value) if isinstance(value, float) else value)
