"""Whatever `put` got, `get_tuple` and `list` give back, then and after reopening."""

from __future__ import annotations

import dataclasses
import datetime
import enum
import json
import math
import uuid
from collections import deque
from collections.abc import Callable, Mapping
from decimal import Decimal
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import pydantic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, HumanMessage
from langgraph.checkpoint.base import WRITES_IDX_MAP, writes_sort_key
from langgraph.checkpoint.serde.encrypted import EncryptedSerializer
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.checkpoint.serde.types import TASKS, _DeltaSnapshot
from langgraph.types import Interrupt, Send

from .model import exactly, matches
from .rows import assert_sound

pytestmark = pytest.mark.timeout(600)  # to find the smallest example that fails takes a while
BOTH = pytest.mark.parametrize("mode", ["sync", "async"])
number = count()
# Examples are cheap here: four times the profile's.
many = settings(max_examples=4 * settings().max_examples)


@dataclasses.dataclass(frozen=True)
class Point:
    x: int
    label: str


class Form(pydantic.BaseModel):
    name: str
    sizes: list[int] = []


class Color(enum.Enum):
    RED = "red"


class Level(str, enum.Enum):
    HIGH = "high"


class Rank(enum.IntEnum):
    FIRST = 1


class Pair(NamedTuple):
    left: int
    right: str


class OwnText(str):
    """Text of a class of its own; serialisers make plain text of it."""


def place(thread: str, id: str | None = None, ns: str = "") -> Any:
    named = {"checkpoint_id": id} if id is not None else {}
    return {"configurable": {"thread_id": thread, "checkpoint_ns": ns, **named}}


def checkpoint_of(id: str, values: Any, versions: Any, **others: Any) -> Any:
    return {
        "v": 4,
        "id": id,
        "ts": "2026-01-01T00:00:00+00:00",
        "channel_values": values,
        "channel_versions": versions,
        "versions_seen": {},
        "updated_channels": None,
        **others,
    }


# --- values

# What a file can name: no NUL, no lone surrogates (others are refused, see the savers' tests).
text = st.text(st.characters(exclude_categories=["Cs"]))
names = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8)
odd_names = st.sampled_from(
    ["", "a.b", '"', "'", "$", '$."a"', "a b", "[0]", "%", "\\", "\\u0000", "__root__", TASKS]
)
primitives = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    text,
    st.text(st.sampled_from("aé€𝄞\0\\"), min_size=90, max_size=110),
)
small_ints = st.integers(-(2**63), 2**64 - 1)
leaves = st.one_of(
    st.none(), st.booleans(), small_ints, st.floats(), text, st.binary(), st.binary().map(bytearray)
)
objects = st.sampled_from(
    [
        Point(1, "one"),
        Form(name="form", sizes=[1, 2]),
        Color.RED,
        Level.HIGH,
        Rank.FIRST,
        Pair(1, "two"),
        OwnText("own"),
        HumanMessage("hello", id="1"),
        AIMessage("", id="2", tool_calls=[{"name": "t", "args": {"a": 1}, "id": "c"}]),
        Send("node", {"a": [1]}),
        Interrupt(value={"question": "?"}, id="i"),
        uuid.UUID(int=7),
        Decimal("1.50"),
        datetime.datetime(2026, 1, 2, 3, 4, 5, 6, datetime.timezone.utc),
        datetime.date(2026, 1, 2),
        datetime.timedelta(seconds=1.5),
        Path("/a/b"),
        {1, 2},
        frozenset("ab"),
        deque([1, 2]),
        "long " * 100,
        b"\xff" * 300,
    ]
)
nested = st.recursive(
    leaves | objects,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(text | st.integers(-5, 5), inner, max_size=3),
        st.tuples(inner, inner),
    ),
    max_leaves=6,
)
values = st.one_of(primitives, nested, nested.map(_DeltaSnapshot))
# The cipher's serialiser has no ints beyond 64 bits; without it they are stored as JSON.
values_of_msgpack = st.one_of(leaves, nested, nested.map(_DeltaSnapshot))

versions = st.one_of(
    st.integers(0, 3),
    st.sampled_from([0.5, 1.0, 1e16, 1e-7]),
    st.sampled_from(["1", "2"]),
    st.builds(lambda: f"{1:032}.0.{next(number):016}"),  # as LangGraph's savers make them
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
    names,
)

SERDES: dict[str, Any] = {
    "plain": JsonPlusSerializer(),
    "pickle": JsonPlusSerializer(pickle_fallback=True),
    "encrypted": EncryptedSerializer.from_pycryptodome_aes(key=b"0123456789abcdef"),
}


def given_back(serde: Any, value: Any) -> Any:
    """What the serialiser makes of a value; JSON's own are the same anyway."""
    if type(value) in (type(None), bool, int, float, str):
        return value
    return serde.loads_typed(serde.dumps_typed(value))


class Chain:
    """Checkpoints drawn one on another, and what each must give back."""

    def __init__(self, data: Any, serde: Any, values: Any) -> None:
        self.data, self.serde, self.values = data, serde, values
        self.thread = f"thread {next(number)}"
        self.put: list[tuple[Any, Any, Any, Any]] = []
        self.expected: list[Any] = []

    def draw(self) -> tuple[Any, Any, Any, Any]:
        """The arguments of the next put."""
        data, before = self.data, self.put[-1][1] if self.put else None
        id = f"{len(self.put)}"
        given_values = data.draw(
            st.dictionaries(names | odd_names | st.sampled_from("abc"), self.values, max_size=4)
        )
        given_versions = {
            channel: data.draw(versions)
            for channel in given_values
            if data.draw(st.sampled_from([True, True, True, False]))
        }
        if before:  # what did not change
            for channel, version in before["channel_versions"].items():
                if channel not in given_values and data.draw(st.booleans()):
                    given_versions[channel] = version
                    if channel in before["channel_values"]:
                        given_values[channel] = before["channel_values"][channel]
        changed = data.draw(st.sets(st.sampled_from([*given_versions, "nowhere"])))
        for channel, value in list(given_values.items()):
            version = given_versions.get(channel)
            if before is None or channel in changed or version is None:
                continue
            # The parent's version, not named as new: LangGraph gives the parent's value.
            if str(before["channel_versions"].get(channel, "")) == str(version):
                parents = before["channel_values"].get(channel, value)
                given_values[channel] = parents
        empty = data.draw(st.sets(st.sampled_from(["a", "b", "empty"])))
        for channel in empty - given_values.keys() - given_versions.keys():
            given_versions[channel] = data.draw(versions)
            changed.add(channel)
        new_versions = {channel: given_versions.get(channel, 1) for channel in changed}
        checkpoint = checkpoint_of(id, given_values, given_versions)
        parent = f"{len(self.put) - 1}" if self.put else None
        self.put.append((place(self.thread, parent), checkpoint, {}, new_versions))
        back = {channel: given_back(self.serde, v) for channel, v in given_values.items()}
        self.expected.append(exactly({**checkpoint, "channel_values": back}))
        return self.put[-1]

    def check(self, saver: Any) -> None:
        """Each one by its id, and all in a list."""
        for id, expected in enumerate(self.expected):
            found = saver.get_tuple(place(self.thread, str(id)))
            assert exactly(found.checkpoint) == expected
        listed = [exactly(each.checkpoint) for each in saver.list(place(self.thread))]
        assert listed == self.expected[::-1]


@BOTH
@pytest.mark.parametrize("serde", list(SERDES))
def test_whatever_put_got_comes_back(
    mode: str, serde: str, open_driver: Callable[..., Any], database_path: Any
) -> None:
    """Any values, any versions, any new_versions, one checkpoint on another."""
    saver = open_driver(mode, database_path, serde=SERDES[serde])
    chains = []

    @many
    @given(data=st.data(), length=st.integers(1, 4))
    def check(data: Any, length: int) -> None:
        drawn = values_of_msgpack if serde == "encrypted" else values
        chain = Chain(data, SERDES[serde], drawn)
        for _ in range(length):
            saver.put(*chain.draw())
            chain.check(saver)
        chains.append(chain)

    check()
    reopened = open_driver(mode, database_path, serde=SERDES[serde])
    for chain in chains[-50:]:
        chain.check(reopened)
    assert_sound(database_path)


@many
@given(data=st.data())
def test_ids_may_be_any_text(data: Any) -> None:
    """Thread, namespace, checkpoint and task: quotes, dots and signs of every kind."""
    from langgraph_sqlite_saver import SqliteSaver

    anything = names | odd_names
    thread, ns = data.draw(anything), data.draw(anything)
    id, task, path = data.draw(anything.filter(bool)), data.draw(anything), data.draw(anything)
    channel = data.draw(anything)
    with SqliteSaver(":memory:") as saver:
        config = place(thread, None, ns)
        put = checkpoint_of(id, {channel: [1]}, {channel: "1"})
        saved = saver.put(config, put, {"run_id": id}, {channel: "1"})
        assert saved == place(thread, id, ns)
        saver.put_writes(saved, [(channel, [2])], task, path)
        saver.copy_thread(thread, thread + "copy")
        for each in (thread, thread + "copy"):
            found = [saver.get_tuple(place(each, None, ns)), *saver.list(place(each, id, ns))]
            assert [tuple_.checkpoint for tuple_ in found] == [put, put]
            assert found[1].pending_writes == [(task, channel, [2])]
        child = saver.put(saved, checkpoint_of(id + "~", {}, {}), {}, {})
        history = saver.get_delta_channel_history(config=child, channels=[channel])
        assert history == {channel: {"writes": [(task, channel, [2])], "seed": [1]}}
        saver.delete_for_runs([id])
        assert [each.checkpoint["id"] for each in saver.list(None)] == [id + "~"]


@BOTH
def test_old_formats_keep_or_get_their_pending_sends(
    mode: str, open_driver: Callable[..., Any], database_path: Any
) -> None:
    """Before format 4: a list inside stays as it is; without one the parent's writes move in."""
    saver = open_driver(mode, database_path)
    sends = st.lists(objects | small_ints | text, max_size=3)

    @many
    @given(
        v=st.integers(1, 4),
        inside=st.none() | sends,
        written=sends,
        versions=st.dictionaries(st.sampled_from("ab"), st.integers(1, 9), min_size=1),
    )
    def check(v: int, inside: Any, written: list[Any], versions: dict[str, int]) -> None:
        thread = f"sends {next(number)}"
        parent = saver.put(place(thread), checkpoint_of("0", {}, {}), {}, {})
        saver.put_writes(parent, [(TASKS, send) for send in written], "task")
        others = {} if inside is None else {"pending_sends": inside}
        put = checkpoint_of("1", {"a": ["value"]}, {**versions, "a": 1}, **{**others, "v": v})
        saver.put(parent, put, {}, put["channel_versions"])
        found = saver.get_tuple(place(thread)).checkpoint
        back = [given_back(JsonPlusSerializer(), send) for send in written]
        if v < 4 and written and not inside:
            put["channel_values"][TASKS] = back
            put["channel_versions"][TASKS] = max(put["channel_versions"].values())
        if inside is not None:
            put["pending_sends"] = given_back(JsonPlusSerializer(), inside)
        assert exactly(found) == exactly(put)

    check()


# --- metadata

any_text = st.text(st.characters())  # lone surrogates and NULs too
json_keys = st.one_of(any_text, st.integers(-9, 9), st.booleans(), st.none())
metadata_values = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(2**80), 2**80),
        st.floats(),
        any_text,
        st.datetimes(),
        st.dates(),
        st.uuids(),
        st.sampled_from([Color.RED, Level.HIGH, Rank.FIRST]),
        st.builds(Point, st.integers(-9, 9), st.sampled_from(["p", "nul\0"])),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.tuples(inner, inner),
        st.dictionaries(json_keys, inner, max_size=3),
    ),
    max_leaves=8,
)


def normalised(value: Any) -> Any:
    """As `checkpoints/jsontext.py` says it, in words of our own."""
    if isinstance(value, enum.Enum):
        return normalised(value.value)
    if isinstance(value, str):
        return "".join("?" if "\ud800" <= c <= "\udfff" else c for c in value if c != "\0")
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if dataclasses.is_dataclass(value):
        return {f.name: normalised(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {normalised_key(key): normalised(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [normalised(each) for each in value]
    if isinstance(value, (datetime.date, datetime.datetime)):
        return value.isoformat()
    if isinstance(value, uuid.UUID):
        return str(value)
    return value


def normalised_key(key: Any) -> str:
    if key is None or isinstance(key, bool):
        return {None: "null", True: "true", False: "false"}[key]
    return normalised(str(key))


def keys_stay_apart(value: Any) -> bool:
    """Whether no two keys become the same text, of which one would win."""
    if isinstance(value, Mapping):
        apart = len({normalised_key(key) for key in value}) == len(value)
        return apart and all(keys_stay_apart(each) for each in value.values())
    if isinstance(value, (list, tuple)):
        return all(keys_stay_apart(each) for each in value)
    return True


@BOTH
def test_metadata_comes_back_as_json(
    mode: str, open_driver: Callable[..., Any], database_path: Any
) -> None:
    """Any JSON of any size of ints, with what JSON cannot hold replaced as documented."""
    saver = open_driver(mode, database_path)

    @many
    @given(metadata=st.dictionaries(any_text, metadata_values, max_size=4).filter(keys_stay_apart))
    def check(metadata: Any) -> None:
        thread = f"metadata {next(number)}"
        saver.put(place(thread), checkpoint_of("1", {}, {}), metadata, {})
        expected = exactly(normalised(metadata))
        assert exactly(saver.get_tuple(place(thread)).metadata) == expected
        assert [exactly(each.metadata) for each in saver.list(place(thread))] == [expected]
        copy = f"{thread} copy"
        saver.copy_thread(thread, copy)
        if "thread_id" not in metadata:
            assert exactly(saver.get_tuple(place(copy)).metadata) == expected

    check()
    assert_sound(database_path)


# --- filters

filter_leaves = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 2),
    st.sampled_from([0.5, 1.0, -0.0, 2**53, 2**53 + 1, 2.0**53, 2**63, 2**64 + 1, 2.0**64]),
    st.floats(),
    st.sampled_from(["", "1", "a", "A", "null", "true", "[1]", "é", "a\0b", "\ud800", "%", "'"]),
)
filter_values = st.recursive(
    filter_leaves,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from("kl"), inner),
    max_leaves=4,
)
filter_metadatas = st.dictionaries(st.sampled_from(["a", "b", "k-1", "0"]), filter_values)
filter_keys = st.sampled_from(["a", "b", "k-1", "0", "a.k", "a.k.l", "a.0", "b.l", "missing.k"])


@BOTH
def test_filters_are_as_in_python(
    mode: str, open_driver: Callable[..., Any], database_path: Any
) -> None:
    """Equality of what is stored, by dotted path; None also for what is missing; True is 1."""
    saver = open_driver(mode, database_path)

    @many
    @given(
        metadatas=st.lists(filter_metadatas, min_size=1, max_size=4),
        filters=st.lists(st.dictionaries(filter_keys, filter_values, max_size=2), max_size=3),
        data=st.data(),
    )
    def check(metadatas: list[Any], filters: list[Any], data: Any) -> None:
        thread = f"filter {next(number)}"
        for id, metadata in enumerate(metadatas):
            saver.put(place(thread), checkpoint_of(str(id), {}, {}), metadata, {})
        for metadata in metadatas:  # filters that match
            for key, value in metadata.items():
                filters.append({key: _shuffled(value)})
                if isinstance(value, dict):
                    filters += [{f"{key}.{k}": each} for k, each in value.items()]
        for wanted in filters:
            found = [each.checkpoint["id"] for each in saver.list(place(thread), filter=wanted)]
            looked_for = {
                # NaN is null where it is stored, and equals nothing where it is looked for.
                key: value if isinstance(value, float) else normalised(value)
                for key, value in wanted.items()
            }
            expected = [
                str(id)
                for id, metadata in enumerate(metadatas)
                if matches(normalised(metadata), looked_for)
            ]
            assert found == expected[::-1], wanted

    check()


def _shuffled(value: Any) -> Any:
    """Equal, with the keys in another order."""
    if isinstance(value, dict):
        return {key: _shuffled(value[key]) for key in reversed(value)}
    return value


# --- pages


@BOTH
def test_pages_are_slices_of_one_order(
    mode: str, open_driver: Callable[..., Any], database_path: Any
) -> None:
    """Hundreds of checkpoints over threads and namespaces: newest id first, then by place.

    Sizes vary, so that pages do; many have the same id in several places.
    """
    saver = open_driver(mode, database_path)
    stored = []
    for n in range(420):
        thread, ns, id = f"t{n % 3}", ["", "sub", "call:1"][n % 4 % 3], f"{n // 6:04}"
        text = "x" * (200_000 if n % 97 == 0 else n)
        put = checkpoint_of(id, {"text": [text]}, {"text": n})
        saver.put(place(thread, None, ns), put, {"even": n % 2 == 0}, {"text": n})
        stored.append((thread, ns, id, n % 2 == 0, text))
    stored = list({row[:3]: row for row in stored}.values())
    stored.sort(key=lambda row: row[:2])
    stored.sort(key=lambda row: row[2], reverse=True)

    @many
    @given(
        thread=st.sampled_from([None, "t0", "t1", "t2"]),
        ns=st.sampled_from([None, "", "sub", "call:1"]),
        before=st.none() | st.integers(0, 75).map(lambda n: f"{n:04}"),
        limit=st.none() | st.integers(0, 450),
        even=st.sampled_from([None, True, False]),
        whole=st.booleans(),
    )
    def check(
        thread: Any, ns: Any, before: Any, limit: int | None, even: bool | None, whole: bool
    ) -> None:
        expected = [
            row
            for row in stored
            if thread in (None, row[0])
            and (thread is None or ns in (None, row[1]))
            and (before is None or row[2] < before)
            and even in (None, row[3])
        ][:limit]
        config = None
        if thread is not None:
            named = {} if ns is None else {"checkpoint_ns": ns}
            config = {"configurable": {"thread_id": thread, **named}}
        filter = {} if even is None else {"even": even}
        if whole:  # compared row by row, with other page sizes
            filter["absent.object"] = None
        found = saver.list(
            config,
            filter=filter,
            before=None if before is None else place("any", before),
            limit=limit,
        )
        assert [
            (
                each.config["configurable"]["thread_id"],
                each.config["configurable"]["checkpoint_ns"],
                each.checkpoint["id"],
                each.metadata["even"],
                each.checkpoint["channel_values"]["text"][0],
            )
            for each in found
        ] == expected

    check()


# --- writes


@BOTH
def test_writes_come_in_the_order_of_their_key(
    mode: str, open_driver: Callable[..., Any], database_path: Any
) -> None:
    """(task_path, task_id, index), whatever the order they were saved in; in get_tuple and list."""
    saver = open_driver(mode, database_path)
    channels = st.sampled_from(["a", "b", *WRITES_IDX_MAP])
    calls = st.lists(
        st.tuples(
            st.sampled_from(["task-1", "task-2", "task-10", "Ä", ""]),
            st.sampled_from(["", "~__pregel_pull, a", "~__pregel_push, 10", "~__pregel_push, 9"]),
            st.lists(st.tuples(channels, nested), max_size=12),
        ),
        max_size=6,
    )

    @many
    @given(calls=calls)
    def check(calls: list[Any]) -> None:
        thread = f"writes {next(number)}"
        kept: dict[tuple[str, int], tuple[str, str, Any]] = {}
        for task, path, writes in calls:
            saver.put_writes(place(thread, "1"), writes, task, path)
            special = all(channel in WRITES_IDX_MAP for channel, _ in writes)
            for index, (channel, value) in enumerate(writes):
                key = (task, WRITES_IDX_MAP.get(channel, index))
                if special or key not in kept:
                    kept[key] = (path, channel, given_back(JsonPlusSerializer(), value))
        saver.put(place(thread), checkpoint_of("1", {}, {}), {}, {})
        order = sorted(kept, key=lambda key: writes_sort_key(kept[key][0], *key))
        expected = exactly([(key[0], *kept[key][1:]) for key in order])
        assert exactly(saver.get_tuple(place(thread)).pending_writes) == expected
        assert [exactly(each.pending_writes) for each in saver.list(place(thread))] == [expected]

    check()


def test_the_normalisation_says_what_json_says() -> None:
    """A check of this file: where JSON has a word for it, ours is the same."""
    plain = {"a": [1, 2.5, None, True, "é"], "2": {"b": []}}
    assert normalised(plain) == json.loads(json.dumps(plain))
