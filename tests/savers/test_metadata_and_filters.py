"""What becomes of metadata, and which checkpoints a filter finds."""

from __future__ import annotations

import enum
import uuid
from datetime import datetime, timezone
from typing import Any

import pytest
from pydantic import BaseModel

from langgraph_sqlite_saver import InvalidInputError, SerializationError, StorageError

from .helpers import get, numbers, official_saver, place, save


def found(saver: Any, **filter: Any) -> list[int]:
    return sorted(numbers(saver.list(None, filter=filter)))


# --- what is stored


def test_the_configs_metadata_and_configurable_are_merged_in(saver: Any) -> None:
    """As `get_checkpoint_metadata` does it: the call's own keys win, `__` keys stay out."""
    config = place()
    config["metadata"] = {"run_id": "r1", "source": "not this one", "__secret": "x"}
    config["configurable"] |= {"user": "ann", "__pregel_task_id": "x", "unserialisable": object()}
    number = save(saver, 1)["configurable"]["checkpoint_id"]
    made = get(saver, 1).checkpoint
    saver.put(config, made, {"source": "loop"}, {})
    assert get(saver, int(number)).metadata == {"source": "loop", "run_id": "r1", "user": "ann"}


def test_metadata_comes_back_as_the_official_saver_gives_it_back(saver: Any) -> None:
    """Plain metadata, `writes` included, is the same in both savers."""
    metadata = {
        "source": "loop",
        "step": 3,
        "parents": {"": "x"},
        "writes": {"node": {"messages": ["hi"]}},
        "score": 0.1 + 0.2,
        "huge": 2**80,
        "nothing": None,
        "text": 'ünï😀\n"quoted" \\u0000',
    }
    save(saver, 1, metadata=metadata)
    with official_saver() as official:
        save(official, 1, metadata=metadata)
        assert get(saver, 1).metadata == get(official, 1).metadata == metadata


@pytest.mark.parametrize(
    ("given", "stored"),
    [
        (float("nan"), None),
        ([float("inf"), {"deep": float("-inf")}], [None, {"deep": None}]),
        ("a\ud800b", "a?b"),
        ("a\0b", "ab"),
        ({"k\0\ud800": "v\0"}, {"k?": "v"}),
        ((1, 2), [1, 2]),
        (uuid.UUID(int=7), str(uuid.UUID(int=7))),
        (datetime(2026, 1, 2, tzinfo=timezone.utc), "2026-01-02T00:00:00+00:00"),
        ({1: "a", 2.5: "b"}, {"1": "a", "2.5": "b"}),
    ],
)
def test_what_json_cannot_hold_is_replaced(saver: Any, given: Any, stored: Any) -> None:
    """The documented replacements, so that any JSON function reads the file."""
    save(saver, 1, metadata={"key": given})
    assert get(saver, 1).metadata == {"key": stored}


class Message(BaseModel):
    text: str


@pytest.mark.parametrize(
    "writes", [{"node": {"messages": [Message(text="hi")]}}, Message(text="hi"), {"n": {1, 2}}]
)
def test_writes_that_json_cannot_hold_are_left_out_of_the_metadata(saver: Any, writes: Any) -> None:
    """As PostgresSaver leaves them out; earlier LangGraphs put a step's writes there."""
    save(saver, 1, metadata={"source": "loop", "step": 1, "writes": writes})
    assert get(saver, 1).metadata == {"source": "loop", "step": 1}
    for metadata in ({"other": writes}, {"other": writes, "writes": {}}):
        with pytest.raises(SerializationError, match="'other"):
            save(saver, 2, metadata=metadata)
    assert get(saver, 2) is None


def test_odd_keys_are_replaced_at_the_top_too(saver: Any) -> None:
    """Surrogates and NULs in a key are treated as in a value."""
    save(saver, 1, metadata={"a\ud800": 1, "b\0": 2, "c": {1, 2}.__len__()})
    assert get(saver, 1).metadata == {"a?": 1, "b": 2, "c": 2}


# --- what is found

METADATA: dict[int, dict[str, Any]] = {
    1: {"source": "input", "step": 1, "score": 0.5, "tags": ["a", "b"], "flag": True},
    2: {"source": "loop", "step": 2, "nested": {"a": 1, "b": {"c": "x"}}, "flag": False},
    3: {"source": "loop", "step": 1, "nothing": None, "hy-phen": 1, "0digit": "y"},
    4: {"step": "1", "nested": {"b": {"c": "x"}, "a": 1}, "empty": {}, "none": []},
    5: {"text": "it's; DROP TABLE checkpoints --", "huge": 2**70, "writes": "x"},
}

FILTERS: list[tuple[dict[str, Any], list[int]]] = [
    ({}, [1, 2, 3, 4, 5]),
    ({"source": "loop"}, [2, 3]),
    ({"source": "loop", "step": 1}, [3]),
    ({"step": 1}, [1, 3]),
    ({"step": "1"}, [4]),
    ({"step": 1.0}, [1, 3]),
    ({"flag": True}, [1]),
    ({"flag": 1}, [1]),
    ({"flag": False}, [2]),
    ({"score": 0.5}, [1]),
    ({"nested.b.c": "x"}, [2, 4]),
    ({"nested.a": 1}, [2, 4]),
    ({"hy-phen": 1}, [3]),
    ({"0digit": "y"}, [3]),
    ({"nothing": None}, [1, 2, 3, 4, 5]),
    ({"source": None}, [4, 5]),
    ({"nested.b.d": None}, [1, 2, 3, 4, 5]),
    ({"nested": {"a": 1, "b": {"c": "x"}}}, [2, 4]),
    ({"nested": {"a": 1}}, []),
    ({"nested.b": {"c": "x"}}, [2, 4]),
    ({"tags": ["a", "b"]}, [1]),
    ({"tags": ["b", "a"]}, []),
    ({"tags": ["a"]}, []),
    ({"tags": "a"}, []),
    ({"tags": '["a","b"]'}, []),
    ({"empty": {}}, [4]),
    ({"none": []}, [4]),
    ({"none": ()}, [4]),
    ({"empty": []}, []),
    ({"text": "it's; DROP TABLE checkpoints --"}, [5]),
    ({"huge": 2**70}, [5]),
    ({"huge": 2**70 + 1}, []),
    ({"missing": "x"}, []),
    ({"source.deeper": "x"}, []),
]


@pytest.mark.parametrize(("filter", "expected"), FILTERS, ids=lambda each: str(each)[:40])
def test_a_filter_finds_what_is_equal(saver: Any, filter: Any, expected: Any) -> None:
    """Dicts and lists match whole, dots nest, None also matches a missing key, True is 1."""
    for number, metadata in METADATA.items():
        save(saver, number, metadata=metadata)
    assert found(saver, **filter) == expected


# The official saver builds paths without quotes and compares JSON text: it differs there.
DIFFERS = {"hy-phen", "0digit", "nested", "tags", "huge", "none"}


@pytest.mark.parametrize(
    "filter", [f for f, _ in FILTERS if not DIFFERS & set(f)], ids=lambda each: str(each)[:40]
)
def test_filters_agree_with_the_official_saver(saver: Any, filter: Any) -> None:
    """Where the official saver compares at all, the answer is the same."""
    with official_saver() as official:
        for number, metadata in METADATA.items():
            save(saver, number, metadata=metadata)
            save(official, number, metadata=metadata)
        assert found(saver, **filter) == found(official, **filter)


class Color(str, enum.Enum):
    RED = "red"


@pytest.mark.parametrize(
    "value",
    [
        Color.RED,
        uuid.UUID(int=7),
        datetime(2026, 1, 2, tzinfo=timezone.utc),
        "a\ud800b",
        "a\0b",
        [Color.RED, float("nan")],
    ],
)
def test_a_filter_value_is_read_as_metadata_is(saver: Any, value: Any) -> None:
    """What was stored is found by the very value that was given."""
    save(saver, 1, metadata={"key": value})
    save(saver, 2, metadata={"key": "other"})
    assert found(saver, key=value) == [1]


def test_a_filter_beyond_the_first_pages_is_found(saver: Any) -> None:
    """Values that are compared in Python are looked for on every page."""
    for number in range(1, 120):
        save(saver, number, metadata={"tags": ["x"] if number in (2, 90) else ["y"]})
    assert numbers(saver.list(None, filter={"tags": ["x"]}, limit=2)) == [90, 2]
    assert numbers(saver.list(None, filter={"tags": ["x"]}, limit=1)) == [90]


@pytest.mark.parametrize(
    "key", ["a'b", 'a"b', "", ".", "a..b", "a b", "a$", "ключ", "a\n", 1, None]
)
def test_a_key_that_cannot_be_one_is_refused(saver: Any, key: Any) -> None:
    """Before anything reaches SQL, in the words of the official saver."""
    with pytest.raises(InvalidInputError, match=r"^Invalid filter key") as caught:
        saver.list(None, filter={key: 1})
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize("filter", ["source", ["source"], {"key": object()}, {"key": {1, 2}}])
def test_a_filter_that_cannot_be_one_is_refused(saver: Any, filter: Any) -> None:
    """A filter is a dict of plain data."""
    with pytest.raises(StorageError):
        saver.list(None, filter=filter)
