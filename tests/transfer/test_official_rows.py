"""What rows of the official saver's file may hold: old formats, odd values, damage."""

from __future__ import annotations

import json
import pickle
import zlib
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, HumanMessage
from langgraph.checkpoint.base import WRITES_IDX_MAP
from langgraph.checkpoint.serde.encrypted import EncryptedSerializer
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.checkpoint.serde.types import TASKS, _DeltaSnapshot
from langgraph.types import Send
from properties.test_round_trip import (
    any_text,
    leaves,
    names,
    nested,
    normalised,
    versions,
)
from savers.helpers import checkpoint, execute, get, place, rows, save

from langgraph_sqlite_saver import SqliteSaver
from langgraph_sqlite_saver.transfer import TransferError, VerificationError, import_official

from .official import (
    VERSION_TWO,
    comparable,
    constructor,
    everything,
    expect_all,
    insert,
    insert_json,
    message,
    official_saver,
    writes_of,
)

SECRET: Any = EncryptedSerializer.from_pycryptodome_aes(key=b"0123456789abcdef")
OTHER_KEY: Any = EncryptedSerializer.from_pycryptodome_aes(key=b"fedcba9876543210")


@pytest.fixture
def old(tmp_path: Path) -> Path:
    return tmp_path / "old.db"


@pytest.fixture
def new(tmp_path: Path) -> Path:
    return tmp_path / "new.db"


# --- any checkpoints

numbers = count()
official_values = st.one_of(
    leaves,
    nested,
    nested.map(_DeltaSnapshot),
    st.text(st.sampled_from("aé€𝄞\0\\"), min_size=90, max_size=110),
    st.binary(min_size=250, max_size=300),
)
json_metadata = st.dictionaries(
    any_text,
    st.recursive(
        st.none() | st.booleans() | st.integers(-(2**80), 2**80) | st.floats() | any_text,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(any_text, inner, max_size=3),
        max_leaves=5,
    ),
    max_size=3,
)


def _draw_checkpoint(data: Any, id: int, saved: list[Any]) -> tuple[Any, Any]:
    """A checkpoint, and its parent: any earlier one, some of whose values it keeps or changes."""
    parent = data.draw(st.sampled_from([None, *saved])) if saved else None
    values = data.draw(st.dictionaries(names | st.sampled_from("abc"), official_values, max_size=4))
    given_versions = {
        channel: data.draw(versions) for channel in values if data.draw(st.integers(0, 3))
    }
    for channel, version in (parent["channel_versions"] if parent else {}).items():
        if data.draw(st.booleans()):  # the parent's version: with its value, another, or none
            given_versions[channel] = version
            if channel in parent["channel_values"] and data.draw(st.booleans()):
                values[channel] = parent["channel_values"][channel]
    for channel in data.draw(st.sets(st.sampled_from(["a", "b", "empty"]))):
        given_versions.setdefault(channel, data.draw(versions))
    return checkpoint(id, values, given_versions, id=f"{id:06}"), parent


@pytest.mark.parametrize("serde", [None, SECRET], ids=["plain", "encrypted"])
@settings(max_examples=2 * settings().max_examples)
@given(data=st.data(), length=st.integers(1, 5))
def test_whatever_the_official_saver_was_given_comes_over(
    serde: Any, data: Any, length: int, tmp_path_factory: Any
) -> None:
    """Any values, versions and metadata, forks, values without version and versions without value.

    It goes another way than the official saver in two points. A channel without a value whose
    version has one is filled in, as in Postgres. And metadata is strict JSON: NaN and infinities
    are null there, NULs go, surrogates are "?".
    """
    directory = tmp_path_factory.mktemp("any")
    old, new = directory / "old.db", directory / "new.db"
    saved: list[Any] = []
    with official_saver(old, serde) as saver:
        for id in range(length):
            made, parent = _draw_checkpoint(data, id, saved)
            config = {"configurable": {"thread_id": "t", "checkpoint_ns": ""}}
            if parent is not None:
                config["configurable"]["checkpoint_id"] = parent["id"]
            config = saver.put(config, made, data.draw(json_metadata), {})  # type: ignore[arg-type]
            saved.append(made)
            for task in data.draw(st.sets(st.sampled_from(["one", "two"]))):
                channels = names | st.sampled_from(["a", *WRITES_IDX_MAP])
                written = data.draw(st.lists(st.tuples(channels, nested), max_size=3))
                saver.put_writes(config, written, task, data.draw(names))
        expected = everything(saver)
    assert import_official(old, new, serde=serde, verify=True).checkpoints == length
    with SqliteSaver(new, serde=serde) as ours:
        found = everything(ours)
        assert ours.check() == []
    for address, parts in expected.items():
        for key, part in parts.items():
            if key == "metadata":
                cleaned = comparable(normalised(_plain_metadata(old, address)))
                assert comparable(json.loads(json.dumps(_metadata(new, address)))) == cleaned
            else:
                assert found[address].pop(key) == part, key
        found[address].pop("metadata")
        assert not {
            key
            for key in found[address]
            if key.replace("channel_values", "channel_versions") not in parts
        }


def _plain_metadata(path: Path, address: tuple[str, ...]) -> Any:
    query = "SELECT metadata FROM checkpoints WHERE checkpoint_id = ?"
    return json.loads(rows(path, query, address[-1])[0][0])


_metadata = _plain_metadata


# --- old formats


def write_old_file(path: Path) -> None:
    """A thread as the first releases of 2.x stored it: JSON, format 1, pending sends inside."""
    import sqlite3
    from contextlib import closing

    with closing(sqlite3.connect(path)) as conn:
        conn.executescript(VERSION_TWO)
    values: dict[str, Any] = {
        "messages": [message("HumanMessage", "hello " * 90), message("AIMessage", "é" * 300)],
        "uuid": constructor("uuid", "UUID", args=["00000000000000000000000000000007"]),
        "set": constructor("builtins", "set", args=[[1, 2]]),
        "mine": constructor("a_module_that_went", "Class", kwargs={"x": 1}),
        "text": "plain", "long": "x" * 500, "surrogate": "\ud83d", "none": None, "float": 1.5,
        "nan": float("nan"), "large": 2**70, "dict": {"a": [1, {"b": None}]}, "true": True,
    }  # fmt: skip
    for number in (1, 2, 3):
        insert_json(
            path,
            {
                **checkpoint(number, values, dict.fromkeys(values, 1)),
                "v": 1,
                "versions_seen": {"node": {"text": 1}},
                "pending_sends": [
                    constructor("langgraph", "types", "Send", kwargs={"node": "n", "arg": n})
                    for n in range(number - 1)
                ],
            },
            f"{number - 1:06}" if number > 1 else None,
        )
    for index, (kind, data) in enumerate(
        [("json", b'{"a": 1}'), ("null", b""), ("bytes", b"\xff"), ("bytearray", b"\0" * 300)]
    ):
        insert(path, "writes", "t", "", "000003", "task", index, "channel", kind, data)


def test_checkpoints_in_json_come_over(old: Path, new: Path) -> None:
    """Messages, sets, UUIDs and the sends inside are what they were; so are missing classes."""
    write_old_file(old)
    done = import_official(old, new, verify=True)
    assert (done.checkpoints, done.writes, done.verified) == (3, 4, 3)
    expect_all(old, new)
    with SqliteSaver(new) as saver:
        found = saver.get_tuple(place(3)).checkpoint  # type: ignore[union-attr]
    assert found["pending_sends"] == [Send("n", 0), Send("n", 1)]  # type: ignore[typeddict-item]
    assert [type(each) for each in found["channel_values"]["messages"]] == [HumanMessage, AIMessage]
    assert found["channel_values"]["set"] == {1, 2}


@pytest.mark.parametrize("inside", [[], [Send("n", {"a": 1}), Send("m", "x")]])
def test_pending_sends_of_old_formats(inside: list[Any], old: Path, new: Path) -> None:
    """Inside the checkpoint they stay there; with none inside, the parent's writes are moved in."""
    with official_saver(old) as saver:
        config = save(saver, 1, {"a": [1]}, v=3, pending_sends=[])
        saver.put_writes(config, [(TASKS, Send("n", 1)), (TASKS, Send("n", 2))], "task")
        save(saver, 2, {"a": [2]}, parent=1, v=3, pending_sends=inside)
    assert import_official(old, new, verify=True).writes == 2
    with SqliteSaver(new) as ours:
        found = ours.get_tuple(place(2)).checkpoint  # type: ignore[union-attr]
    assert found["pending_sends"] == inside  # type: ignore[typeddict-item]
    sends = found["channel_values"].get(TASKS)
    assert sends == (None if inside else [Send("n", 1), Send("n", 2)])


# --- odd values


def changed_in_place(before: Any, after: Any, old: Path, new: Path, serde: Any = None) -> None:
    """Two checkpoints with one version of "a", and its value changed between."""
    with official_saver(old, serde) as saver:
        save(saver, 1, {"a": before}, versions={"a": 1})
        save(saver, 2, {"a": after}, versions={"a": 1}, new={}, parent=1)
    import_official(old, new, serde=serde, verify=True)
    expect_all(old, new, serde=serde)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ([1], [1, 2]),
        (["x" * 300], ["x" * 300, "y"]),
        (1, True),
        (1, 1.0),
        (0.0, -0.0),
        ("a", None),
        (b"a", bytearray(b"a")),
        ([1], [1.0]),
        (float("nan"), 1.0),
        (2**64 - 1, [2**64 - 1]),
    ],
    ids=repr,
)
@pytest.mark.parametrize("serde", [None, SECRET], ids=["plain", "encrypted"])
def test_a_value_changed_without_a_new_version_is_each_checkpoints_own(
    before: Any, after: Any, serde: Any, old: Path, new: Path
) -> None:
    """Also one that equals the other in Python, and is another."""
    changed_in_place(before, after, old, new, serde)


def test_forks_with_the_same_int_version_keep_their_values(old: Path, new: Path) -> None:
    """Whichever comes first."""
    with official_saver(old) as saver:
        save(saver, 1, {"a": [0]}, versions={"a": 1})
        for number, parent in ((2, 1), (3, 1), (4, 2), (5, 3), (6, 2)):
            values = {} if number == 6 else {"a": [number] * 200}
            save(saver, number, values, versions={"a": 2 if number < 4 else 3}, parent=parent)
    import_official(old, new, verify=True)
    expect_all(old, new)


def test_deep_and_large_values_come_over(old: Path, new: Path) -> None:
    """As deep as MessagePack takes them; long text, maps of all kinds of keys, many channels."""
    deep: Any = []
    for _ in range(200):
        deep = [deep]
    with official_saver(old) as saver:
        save(saver, 1, {"deep": deep, "long": "é" * 70_000, "bytes": b"\xfe" * 70_000})
        save(saver, 2, {"keys": {1: "a", None: "b", 1.5: "c", False: "d", (1, 2): "e"}}, parent=1)
        save(saver, 3, {f"channel {n}": [n] for n in range(70_000 // 100)}, parent=2)
    import_official(old, new, verify=True)
    expect_all(old, new)


def test_writes_without_their_checkpoint_come_over(old: Path, new: Path) -> None:
    """Of a thread that has none, a namespace that has none, or one that went."""
    with official_saver(old) as saver:
        save(saver, 1)
        for config in (place(2), place(1, "alone"), place(1, "t", "sub:1")):
            saver.put_writes(config, [("a", ["x" * 300]), ("b", 1)], "task", "path")
    done = import_official(old, new, verify=True)
    assert (done.threads, done.checkpoints, done.writes) == (2, 1, 6)
    expect_all(old, new)
    with SqliteSaver(new) as saver:
        save(saver, 1, thread="alone")
        found = saver.get_tuple(place(1, "alone"))
        assert found.pending_writes == [  # type: ignore[union-attr]
            ("task", "a", ["x" * 300]),
            ("task", "b", 1),
        ]


def test_the_metadata_comes_over_as_it_is_and_strict(old: Path, new: Path) -> None:
    """What the official saver merged in before is there, and nothing is merged in again."""
    metadata = {
        "source": "loop", "step": -1, "parents": {}, "writes": {"a": 1}, "run_id": "r",
        "é": [2**70], "nan": float("nan"), "thread_id": "another", "__own": 1, "checkpoint_id": "x",
    }  # fmt: skip
    with official_saver(old) as saver:
        config: Any = {**place(), "metadata": {"tag": "t"}}
        config["configurable"]["user"] = 7
        saver.put(config, checkpoint(1), metadata, {})
    import_official(old, new, verify=True)
    with SqliteSaver(new) as ours:
        found = ours.get_tuple(place(1)).metadata  # type: ignore[union-attr]
        assert found == {**metadata, "nan": None, "tag": "t", "user": 7}
        assert [each.checkpoint["id"] for each in ours.list(None, filter={"run_id": "r"})]
        ours.delete_for_runs(["r"])
        assert list(ours.list(None)) == []


# --- serializers


class Plain:
    """A class that only pickle knows; objects of it are equal to themselves alone."""

    def __init__(self, x: int) -> None:
        self.x = x


class Pickles:
    """A serializer of one's own."""

    def dumps_typed(self, obj: Any) -> tuple[str, bytes]:
        return "pickle", pickle.dumps(obj)

    def loads_typed(self, data: tuple[str, bytes]) -> Any:
        assert data[0] == "pickle"
        return pickle.loads(data[1])


class PicklesNamedWithAPlus(Pickles):
    """Its name for what it does has the sign that LangGraph's ciphers have."""

    def dumps_typed(self, obj: Any) -> tuple[str, bytes]:
        return "pickle+mine", pickle.dumps(obj)

    def loads_typed(self, data: tuple[str, bytes]) -> Any:
        assert data[0] == "pickle+mine"
        return pickle.loads(data[1])


class Zipped(JsonPlusSerializer):
    """LangGraph's own, its bytes made smaller, under the same names."""

    def __init__(self) -> None:
        super().__init__(pickle_fallback=True)

    def dumps_typed(self, obj: Any) -> tuple[str, bytes]:
        kind, data = super().dumps_typed(obj)
        return kind, zlib.compress(data)

    def loads_typed(self, data: tuple[str, bytes]) -> Any:
        return super().loads_typed((data[0], zlib.decompress(data[1])))


SERDES: dict[str, Any] = {
    "own": Pickles(),
    "own, on LangGraph's": Zipped(),
    "own, with a plus": PicklesNamedWithAPlus(),
    "own, encrypted": EncryptedSerializer(SECRET.cipher, Pickles()),
    "pickle fallback": JsonPlusSerializer(pickle_fallback=True),
    "pickle fallback, encrypted": EncryptedSerializer(
        SECRET.cipher, JsonPlusSerializer(pickle_fallback=True)
    ),
}


def odd_file(path: Path, serde: Any) -> None:
    """Values that MessagePack has not, some changed between; writes of them as well."""
    with official_saver(path, serde) as saver:
        values: dict[str, Any] = {"plain": Plain(1), "set": {"b", "a"}, "text": "x", "n": 2**80}
        array = np.arange(100)
        save(saver, 1, {**values, "array": array}, versions=dict.fromkeys([*values, "array"], 1))
        config = save(
            saver,
            2,
            {**values, "array": array + 1, "text": HumanMessage("hello")},
            versions=dict.fromkeys([*values, "array"], 1),
            parent=1,
        )
        saver.put_writes(config, [("a", Plain(2)), ("b", [1, 2]), ("c", None)], "task")
        save(saver, 3, {"text": "plain again"}, parent=2)


@pytest.mark.parametrize("serde", SERDES.values(), ids=SERDES)
def test_another_serializer_reads_what_it_wrote(serde: Any, old: Path, new: Path) -> None:
    """Given as `serde`, it takes whole checkpoints apart and writes their values."""
    odd_file(old, serde)
    done = import_official(old, new, serde=serde, verify=True)
    assert (done.checkpoints, done.writes, done.verified) == (3, 3, 3)
    with SqliteSaver(new, serde=serde) as ours, official_saver(old, serde) as theirs:
        for number in (1, 2, 3):
            found, expected = ours.get_tuple(place(number)), theirs.get_tuple(place(number))
            assert found is not None
            assert expected is not None
            assert pickled(found.checkpoint["channel_values"]) == pickled(
                expected.checkpoint["channel_values"]
            )
            assert pickled(found.pending_writes) == pickled(expected.pending_writes)
        assert ours.check() == []


@pytest.mark.parametrize("serde", SERDES.values(), ids=SERDES)
def test_verification_reads_with_the_serializer(serde: Any, old: Path, new: Path) -> None:
    """It finds another object, and another value of a pending write."""
    odd_file(old, serde)
    import_official(old, new, serde=serde, history="full")
    with SqliteSaver(new, serde=serde, history="full") as ours:
        found: Any = ours.get_tuple(place(2))
        changed = {**found.checkpoint["channel_values"], "plain": Plain(7)}
        versions = dict.fromkeys(changed, 7)
        save(ours, 9, changed, versions=versions)
    execute(
        new,
        "UPDATE checkpoint_blobs SET blob = (SELECT blob FROM checkpoint_blobs WHERE version = '7' "
        "AND channel = 'plain') WHERE channel = 'plain' AND version = '1'",
    )
    with pytest.raises(VerificationError, match="channel 'plain'"):
        import_official(old, new, serde=serde, verify=True)


def pickled(value: Any) -> Any:
    """Plain data for a value of any class."""
    if isinstance(value, dict):
        return {key: pickled(value[key]) for key in sorted(value)}
    if isinstance(value, (list, tuple)):
        return [pickled(each) for each in value]
    return vars(value) if isinstance(value, Plain) else comparable(value)


@pytest.mark.parametrize("serde", SERDES.values(), ids=SERDES)
def test_what_cannot_be_read_is_refused_before_anything_is_carried(
    serde: Any, old: Path, new: Path
) -> None:
    """The error names how it was serialised, and what to give; no file is made."""
    odd_file(old, serde)
    with pytest.raises(TransferError, match=r"(pickle|encrypted).*serde="):
        import_official(old, new)
    assert not new.exists()


def test_an_unreadable_pending_write_is_refused_as_well(old: Path, new: Path) -> None:
    """Where every checkpoint could be carried."""
    with official_saver(old, JsonPlusSerializer(pickle_fallback=True)) as saver:
        saver.put_writes(save(saver, 1), [("a", Plain(1))], "task")
    with pytest.raises(TransferError, match="pickle"):
        import_official(old, new)
    assert not new.exists()


def test_an_encrypted_file_needs_its_key(old: Path, new: Path) -> None:
    """Without it, or with another one, nothing is made."""
    with official_saver(old, SECRET) as saver:
        saver.put_writes(save(saver, 1, {"a": [1]}), [("a", "secret")], "task")
        save(saver, 2, {"a": [2]}, parent=1)
    for wrong in (None, OTHER_KEY, JsonPlusSerializer()):
        with pytest.raises(TransferError, match=r"key.*encrypted|encrypted.*key"):
            import_official(old, new, serde=wrong)
        assert not new.exists()
    assert import_official(old, new, serde=SECRET, verify=True).checkpoints == 2
    expect_all(old, new, serde=SECRET)
    assert not any(b"secret" in data for (data,) in rows(new, "SELECT blob FROM checkpoint_writes"))


def test_plain_rows_of_a_file_that_was_encrypted_later_are_enciphered(old: Path, new: Path) -> None:
    """Both kinds in one file."""
    with official_saver(old) as saver:
        saver.put_writes(save(saver, 1, {"a": ["plain"]}), [("a", "plain write")], "task")
    with official_saver(old, SECRET) as saver:
        save(saver, 2, {"a": ["secret"]}, parent=1)
    import_official(old, new, serde=SECRET, verify=True)
    expect_all(old, new, serde=SECRET)
    kinds = rows(new, "SELECT type FROM checkpoint_blobs UNION SELECT type FROM checkpoint_writes")
    assert all("aes" in kind for (kind,) in kinds)


# --- damage

ROW = "UPDATE checkpoints SET {} WHERE checkpoint_id = '000003'"
WRITE = "UPDATE writes SET {} WHERE checkpoint_id = '000003' AND idx = 0"
DEEP = json.dumps({"a": 0}).replace("0", "[" * 100_000 + "]" * 100_000)
DAMAGES = {
    "truncated": ROW.format("checkpoint = substr(checkpoint, 1, length(checkpoint) - 5)"),
    "cut within the first value": ROW.format("checkpoint = substr(checkpoint, 1, 40)"),
    "empty": ROW.format("checkpoint = x''"),
    "with something behind": ROW.format("checkpoint = CAST(checkpoint || x'00' AS BLOB)"),
    "text": ROW.format("checkpoint = checkpoint || ''"),
    "no map": ROW.format("checkpoint = x'93010203'"),
    "null": ROW.format("checkpoint = NULL"),
    "of no type": ROW.format("type = NULL"),
    "a number": ROW.format("checkpoint = 5"),
    "of another id": ROW.format("checkpoint = (SELECT checkpoint FROM checkpoints LIMIT 1)"),
    "no JSON": ROW.format("type = 'json'"),
    "a JSON list": ROW.format("type = 'json', checkpoint = CAST('[1]' AS BLOB)"),
    "JSON without end": ROW.format(f"type = 'json', checkpoint = CAST('{DEEP}' AS BLOB)"),
    "JSON of odd parts": ROW.format(
        """type = 'json', checkpoint = CAST('{"id": "000003", "channel_values": [1]}' AS BLOB)"""
    ),
    "JSON of odd versions": ROW.format(
        """type = 'json', checkpoint = CAST('{"id": "000003", "channel_versions": 7}' AS BLOB)"""
    ),
    "text that is none": ROW.format(
        "checkpoint = CAST(x'82A26964A6303030303033AE6368616E6E656C5F76616C75657381A161A2FFFE' "
        "AS BLOB)"
    ),
    "metadata no JSON": ROW.format("metadata = '{'"),
    "metadata no object": ROW.format("metadata = '[1]'"),
    "metadata a text": ROW.format("metadata = '\"ab\"'"),
    "metadata without end": ROW.format(f"metadata = '{DEEP}'"),
    "a truncated write": WRITE.format("value = substr(value, 1, 3)"),
    "a write of no type": WRITE.format("type = NULL"),
    "a write of no value": WRITE.format("value = NULL"),
    "a write that is a number": WRITE.format("value = 7"),
    "a write of JSON that is none": WRITE.format("type = 'json'"),
}


@pytest.mark.parametrize("verify", [False, True])
@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_row_is_named_and_all_others_are_carried(
    damage: str, verify: bool, old: Path, new: Path
) -> None:
    """Its thread and its id; again when it is run again, until the row is mended."""
    with official_saver(old) as saver:
        for number in range(1, 6):
            config = save(saver, number, {"a": ["x" * 200] * number}, parent=number - 1 or None)
            saver.put_writes(config, [("a", ["y" * 200]), ("b", 1)], "task")
        saver.put_writes(save(saver, 1, {"a": [1]}, thread="u"), [("a", 1)], "task")
        expected = everything(saver)
    mended = old.read_bytes()
    execute(old, damage)
    for _ in range(2):
        with pytest.raises(TransferError, match=r"1 of .*thread 't'.*'000003'"):
            import_official(old, new, verify=verify)
        with SqliteSaver(new) as ours:
            found = everything(ours)
        found.pop(("t", "", "000003"), None)
        damaged = ("t", "", "000003")
        assert found == {key: each for key, each in expected.items() if key != damaged}
    old.write_bytes(mended)
    import_official(old, new, verify=True)
    expect_all(old, new)


@pytest.mark.parametrize("column", ["thread_id", "checkpoint_ns", "checkpoint_id"])
def test_an_id_that_no_file_of_ours_takes_is_named(column: str, old: Path, new: Path) -> None:
    """One with a NUL character, say; the other threads are carried."""
    with official_saver(old) as saver:
        save(saver, 1, thread="u")
        odd = {"thread_id": "t\0", "checkpoint_ns": "", "checkpoint_id": "000001"}
        odd = {**odd, "thread_id": "t", column: "odd\0"}
        config: Any = {"configurable": odd}
        saver.put(config, {**checkpoint(1), "id": odd["checkpoint_id"]}, {}, {})
    with pytest.raises(TransferError, match=r"odd\\x00.*NUL"):
        import_official(old, new)
    with SqliteSaver(new) as ours:
        assert [each.config["configurable"]["thread_id"] for each in ours.list(None)] == ["u"]


@pytest.mark.parametrize("column", ["thread_id", "checkpoint_id", "task_id", "channel"])
@pytest.mark.parametrize("odd", ["'odd' || char(0)", "CAST(x'6F6464FF' AS TEXT)"])
def test_a_write_whose_names_no_file_of_ours_takes_is_named(
    column: str, odd: str, old: Path, new: Path
) -> None:
    """One with a NUL character, or with bytes that are no text: none is dropped in silence."""
    with official_saver(old) as saver:
        saver.put_writes(save(saver, 1), [("a", 1)], "task")
        saver.put_writes(place(2), [("a", 1)], "task")
    execute(old, f"UPDATE writes SET {column} = {odd} WHERE checkpoint_id = '000002'")
    with pytest.raises(TransferError, match=r"odd|000002"):
        import_official(old, new, verify=True)
    if column in ("task_id", "channel") or "CAST" not in odd:  # else they cannot be asked for
        assert writes_of(new, "checkpoint_writes") == [("t", "", "000001", "task", 0, "a")]


def test_many_failures_are_counted_and_some_named(old: Path, new: Path) -> None:
    """The error stays short."""
    with official_saver(old) as saver:
        for number in range(1, 41):
            save(saver, number)
    execute(old, "UPDATE checkpoints SET metadata = 'x' WHERE checkpoint_id > '000010'")
    with pytest.raises(TransferError, match=r"^30 of .*000011.*…$") as raised:
        import_official(old, new)
    assert len(str(raised.value)) < 2_000


# --- verification

CHANGES = {
    "a value": "UPDATE checkpoint_blobs SET blob = x'9101' WHERE version = 2",
    "a value that cannot be read": "UPDATE checkpoint_blobs SET blob = x'92' WHERE version = 2",
    "a value that went": "DELETE FROM checkpoint_blobs WHERE version = 2",
    "a type": "UPDATE checkpoint_blobs SET type = 'bytes' WHERE version = 2",
    "an inline value": (
        "UPDATE checkpoints SET checkpoint = replace(checkpoint, 'inline 2', 'inline')"
    ),
    "a version": "UPDATE checkpoints SET checkpoint = replace(checkpoint, '\"b\":2', '\"b\":7')",
    "metadata": "UPDATE checkpoints SET metadata = replace(metadata, '2', '22')",
    "a parent": (
        "UPDATE checkpoints SET parent_checkpoint_id = NULL WHERE checkpoint_id = '000002'"
    ),
    "a time": "UPDATE checkpoints SET checkpoint = replace(checkpoint, '00:02+', '00:09+')",
    "a write": "UPDATE checkpoint_writes SET blob = x'01' WHERE checkpoint_id = '000002'",
    "a write's channel": (
        "UPDATE checkpoint_writes SET channel = 'c' WHERE checkpoint_id = '000002'"
    ),
    "a write that cannot be read": (
        "UPDATE checkpoint_writes SET type = 'odd' WHERE checkpoint_id = '000002'"
    ),
    "the order of writes": (
        "UPDATE checkpoint_writes SET task_path = 'z' WHERE checkpoint_id = '000002' AND idx = 0"
    ),
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_verification_finds_what_is_not_what_it_was(change: str, old: Path, new: Path) -> None:
    """Every checkpoint with `verify`, the newest ones without."""
    with official_saver(old) as saver:
        for number in (1, 2, 3):
            values = {"a": [0, number], "b": f"inline {number}"}
            config = save(
                saver, number, values, parent=number - 1 or None, metadata={"step": number}
            )
            saver.put_writes(config, [("a", 5), ("b", 6)], "task")
    import_official(old, new, history="full")
    execute(new, change)
    assert import_official(old, new).already_there == 3  # the newest is as it was
    with pytest.raises(VerificationError, match=r"1 of 3 .*thread 't'.*'000002'"):
        import_official(old, new, verify=True)
    execute(old, "DELETE FROM checkpoints WHERE checkpoint_id = '000003'")
    execute(old, "DELETE FROM writes WHERE checkpoint_id = '000003'")
    with pytest.raises(VerificationError, match="'000002'"):
        import_official(old, new)


def test_a_checkpoint_that_another_source_has_otherwise_is_found(tmp_path: Path, new: Path) -> None:
    """It is left as it is, and the difference told."""
    for name in "ab":
        with official_saver(tmp_path / name) as saver:
            save(saver, 1, {"a": [name]})
    import_official(tmp_path / "a", new)
    with pytest.raises(VerificationError, match="channel 'a'"):
        import_official(tmp_path / "b", new)
    expect_all(tmp_path / "a", new)


# --- delta channels


@pytest.mark.parametrize("versions", [(1, 1, 2), ("1.a", "1.a", "2.b")], ids=["int", "text"])
def test_the_snapshot_of_a_delta_channel_stays_one(
    old: Path, new: Path, versions: tuple[Any, Any, Any]
) -> None:
    """A child that left it out has it too, and Postgres' prune finds its mark."""
    snapshot = _DeltaSnapshot([1])
    with official_saver(old) as saver:
        for number, version in enumerate(versions, start=1):
            values = {"d": snapshot} if number == 1 else {}
            save(saver, number, values, versions={"d": version}, parent=number - 1 or None)
    import_official(old, new, verify=True)
    with SqliteSaver(new) as ours:
        found = [get(ours, number).checkpoint["channel_values"] for number in (1, 2, 3)]
    assert found == [{"d": snapshot}, {"d": snapshot}, {}]
    mark = "json_extract(checkpoint, '$.channel_values.d')"
    marks = f"SELECT {mark} FROM checkpoints ORDER BY checkpoint_id"
    assert rows(new, marks) == [(1,), (None,), (None,)]
