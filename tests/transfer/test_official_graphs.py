"""Threads that graphs left in the official saver's file: all of it comes over, and goes on."""

from __future__ import annotations

import asyncio
import dataclasses
import operator
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import pydantic
import pytest
from langchain_core.messages import AIMessage, HumanMessage
from langgraph.channels.delta import DeltaChannel
from langgraph.checkpoint.serde.encrypted import EncryptedSerializer
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver as AsyncOfficialSaver
from langgraph.graph import END, START, StateGraph
from langgraph.graph.message import add_messages
from langgraph.types import Command, Send, interrupt
from typing_extensions import TypedDict

from langgraph_sqlite_saver import SqliteSaver
from langgraph_sqlite_saver.transfer import import_official

from .official import (
    OfficialSaver,
    comparable,
    expect_all,
    official_saver,
    without_task_path,
)

THREAD: Any = {"configurable": {"thread_id": "t"}}


class Form(pydantic.BaseModel):
    name: str
    sizes: list[int] = []


@dataclasses.dataclass
class Point:
    x: int
    label: str


class State(TypedDict, total=False):
    done: Annotated[list[Any], operator.add]
    messages: Annotated[list[Any], add_messages]
    anything: Any
    data: bytes


def _ask(state: State) -> Any:
    return {"done": [interrupt({"question": "go on?"})]}


# --- the graphs


def line(saver: Any) -> Any:
    """Three steps, each with values of other kinds, then a question."""
    builder = StateGraph(State)
    kinds = {
        "one": {"anything": Form(name="form", sizes=[1]), "data": b"\0\xff" * 300},
        "two": {"anything": Point(1, "one"), "data": b"", "messages": [HumanMessage("a" * 500)]},
        "three": {"anything": None, "messages": [AIMessage("hello", id="1")]},
        "four": {"anything": np.arange(300.0).reshape(3, 100), "done": [bytearray(b"b"), 1.5]},
    }
    for name, written in kinds.items():
        builder.add_node(name, lambda _, written=written: written)
    builder.add_node("ask", _ask)
    for before, after in zip([START, *kinds, "ask"], [*kinds, "ask", END], strict=True):
        builder.add_edge(before, after)
    return builder.compile(checkpointer=saver)


def fan_out(saver: Any) -> Any:
    """Tasks made by Send; one of them asks, the others have written already."""
    builder = StateGraph(State)
    builder.add_node("each", lambda task: _ask(task) if task["n"] == 2 else {"done": [task["n"]]})
    builder.add_node("last", lambda state: {"anything": len(state["done"])})
    builder.add_conditional_edges(
        START, lambda _: [Send("each", {"n": n, "load": "x" * 400}) for n in range(12)]
    )
    builder.add_edge("each", "last")
    return builder.compile(checkpointer=saver)


def subgraphs(saver: Any) -> Any:
    """A question two graphs down: namespaces of their own."""
    inmost = StateGraph(State).add_node("ask", _ask).add_edge(START, "ask").compile()
    inner = StateGraph(State)
    inner.add_node("before", lambda _: {"done": ["before"]})
    inner.add_node("inmost", inmost)
    inner.add_edge(START, "before").add_edge("before", "inmost")
    builder = StateGraph(State)
    builder.add_node("inner", inner.compile())
    builder.add_edge(START, "inner")
    return builder.compile(checkpointer=saver)


def _extend(state: list[Any], writes: Sequence[Any]) -> list[Any]:
    return [*state, *(each for write in writes for each in write)]


class DeltaState(TypedDict):
    items: Annotated[list[Any], DeltaChannel(_extend, snapshot_frequency=3)]
    done: Annotated[list[Any], operator.add]


def delta(saver: Any) -> Any:
    """A DeltaChannel: its values are writes and, now and then, a snapshot."""
    builder = StateGraph(DeltaState)
    for n in range(7):
        builder.add_node(f"n{n}", lambda _, n=n: {"items": [f"item {n}" * 50]})
        builder.add_edge(f"n{n - 1}" if n else START, f"n{n}")
    builder.add_node("ask", _ask)
    builder.add_edge("n6", "ask")
    return builder.compile(checkpointer=saver)


def with_forks(build: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Run, then changed in the past, and run on from there."""

    def run(saver: Any) -> None:
        graph = build(saver)
        graph.invoke({"done": ["start"]}, THREAD)
        past = list(graph.get_state_history(THREAD))
        fork = graph.update_state(past[-2].config, {"done": ["changed"]})
        graph.invoke(None, fork)
        graph.invoke(None, past[2].config)
        graph.update_state(THREAD, {"done": ["again"]})

    return run


def once(build: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Run until it asks, on two threads; the second has answered once."""

    def run(saver: Any) -> None:
        graph = build(saver)
        other: Any = {"configurable": {"thread_id": "u", "user": 7}, "metadata": {"tag": ["é"]}}
        for config in (THREAD, other):
            graph.invoke({"done": ["start"]}, config)
        graph.invoke(Command(resume="yes"), other)
        graph.invoke({"done": ["second turn"]}, other)

    return run


class IntVersions(OfficialSaver):
    """Versions that a fork gives out again."""

    def get_next_version(self, current: Any, channel: Any) -> Any:
        return (current or 0) + 1


class OurIntVersions(SqliteSaver):
    def get_next_version(self, current: Any, channel: Any) -> Any:
        return (current or 0) + 1


class Case(NamedTuple):
    """A graph, what it did, and with which savers."""

    build: Callable[[Any], Any]
    run: Callable[[Any], Any]
    official: type[OfficialSaver] = OfficialSaver
    ours: type[SqliteSaver] = SqliteSaver
    serde: Any = None


SECRET: Any = EncryptedSerializer.from_pycryptodome_aes(key=b"0123456789abcdef")
CASES = {
    "line": Case(line, once(line)),
    "fan-out": Case(fan_out, once(fan_out)),
    "subgraphs": Case(subgraphs, once(subgraphs)),
    "delta": Case(delta, once(delta)),
    "forks": Case(line, with_forks(line)),
    "forks of a delta channel": Case(delta, with_forks(delta)),
    "int versions": Case(line, with_forks(line), IntVersions, OurIntVersions),
    "int versions, delta": Case(delta, with_forks(delta), IntVersions, OurIntVersions),
    "encrypted": Case(line, with_forks(line), serde=SECRET),
    "encrypted delta": Case(delta, once(delta), serde=SECRET),
}


def histories(saver: Any, case: Case) -> Any:
    """What the graph finds of each thread, at every checkpoint."""
    graph = case.build(saver)
    configs: list[Any] = [{"configurable": {"thread_id": each}} for each in "tu"]
    return [comparable(list(graph.get_state_history(config))) for config in configs]


def answered(saver: Any, case: Case) -> Any:
    """What the graph returns when it goes on with an answer."""
    graph = case.build(saver)
    result = graph.invoke(Command(resume="the answer"), THREAD)
    states = list(graph.get_state_history(THREAD))
    return comparable((result, states[0].values, states[0].next, len(states)))


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_every_state_comes_over_and_the_graph_goes_on(
    case: Case, version: int, tmp_path: Path
) -> None:
    """Checkpoints, writes, history; and the answer to what it asked leads to the same end."""
    old, new = tmp_path / "old.db", tmp_path / "new.db"
    with official_saver(old, case.serde) as saver:
        saver.__class__ = case.official
        case.run(saver)
    if version == 2:
        without_task_path(old)
    before = old.read_bytes()
    done = import_official(old, new, serde=case.serde, verify=True)
    assert old.read_bytes() == before
    assert done.verified == done.checkpoints > 0
    with official_saver(old, case.serde) as theirs, case.ours(new, serde=case.serde) as ours:
        theirs.__class__ = case.official
        assert histories(ours, case) == histories(theirs, case)
    expect_all(old, new, serde=case.serde)
    with official_saver(old, case.serde) as theirs, case.ours(new, serde=case.serde) as ours:
        theirs.__class__ = case.official
        assert answered(ours, case) == answered(theirs, case)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="interrupts of async graphs need it")
def test_what_the_async_saver_left_comes_over(tmp_path: Path) -> None:
    """Its file is the same, left as it leaves it."""
    old, new = tmp_path / "old.db", tmp_path / "new.db"

    async def run() -> None:
        async with AsyncOfficialSaver.from_conn_string(str(old)) as saver:
            await subgraphs(saver).ainvoke({"done": ["start"]}, THREAD)

    asyncio.run(run())
    assert import_official(old, new, verify=True).threads == 1
    expect_all(old, new)


def test_no_class_of_a_value_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is imported, nor made: classes that are gone, or do harm, are bytes on their way."""
    old, new = tmp_path / "old.db", tmp_path / "new.db"
    made: list[Any] = []
    with official_saver(old) as saver:
        line(saver).invoke({"anything": Form(name="gone"), "done": [Point(1, "gone")]}, THREAD)
    with monkeypatch.context() as patched:
        for kind in (Form, Point, HumanMessage, AIMessage):
            patched.setattr(kind, "__init__", lambda *_, **__: made.append(1))
        patched.delitem(globals(), "Form")
        done = import_official(old, new, verify=True)
    assert made == []
    assert done.verified == done.checkpoints
    expect_all(old, new)
