"""A file as graphs leave it: a fork, subgraphs, Sends, an interrupt, an error, odd objects."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime, timezone
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, TypedDict
from uuid import UUID

from langgraph.channels.delta import DeltaChannel
from langgraph.graph import END, START, StateGraph
from langgraph.graph.message import add_messages
from langgraph.types import Command, Send, interrupt

from langgraph_sqlite_saver import SqliteSaver

# A module that leaves a trace where it is imported; its classes are in the file.
SENTINEL = """
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from pydantic import BaseModel

with Path(__file__).with_name("imported").open("a") as trace:
    trace.write("imported\\n")

@dataclass
class Plan:
    goal: str
    steps: list

class Offer(BaseModel):
    price: int
    note: str | None = None

class Mood(Enum):
    good = "fine"
"""


class Talk(TypedDict, total=False):
    """The state of the example's graph."""

    messages: Annotated[list[Any], add_messages]
    turns: int
    made: Any


def extend(log: list[Any], writes: Sequence[list[Any]]) -> list[Any]:
    return [*log, *(each for write in writes for each in write)]


class Log(TypedDict, total=False):
    """A state whose log is stored as what was written to it."""

    log: Annotated[list[Any], DeltaChannel(extend, snapshot_frequency=100)]
    n: int


def greet(state: Talk) -> Talk:
    return {"messages": [("ai", "Good morning.")], "turns": state.get("turns", 0) + 1}


def fan_out(state: Talk) -> list[Send]:
    return [Send("look", {"place": place}) for place in ("attic", "cellar")]


def look(state: Any) -> Talk:
    return {"messages": [("ai", f"Looked in the {state['place']}.")]}


def decide(state: Talk) -> Talk:
    answer = interrupt({"question": "Shall I sell it?"})
    return {"messages": [("ai", f"You said {answer}.")]}


def build(saver: SqliteSaver) -> Any:
    """The graph: greet, two looks at once, a subgraph, and a decision by somebody."""
    inner = StateGraph(Talk)
    inner.add_node("think", greet)
    inner.add_edge(START, "think")
    outer = StateGraph(Talk)
    outer.add_node("greet", greet)
    outer.add_node("look", look)
    outer.add_node("ponder", inner.compile())
    outer.add_node("decide", decide)
    outer.add_edge(START, "greet")
    outer.add_conditional_edges("greet", fan_out, ["look"])
    outer.add_edge("look", "ponder")
    outer.add_edge("ponder", "decide")
    outer.add_edge("decide", END)
    return outer.compile(checkpointer=saver)


def config(thread: str) -> Any:
    return {"configurable": {"thread_id": thread}}


def run_forked(saver: SqliteSaver, thread: str = "house") -> list[Any]:
    """A thread that was answered, then forked from its middle, and waits there for an answer."""
    graph = build(saver)
    graph.invoke({"messages": [("user", "Sell the house.")]}, config(thread))
    graph.invoke(Command(resume="no"), config(thread))
    before = list(graph.get_state_history(config(thread)))
    graph.invoke(None, graph.update_state(before[2].config, {"turns": 40}))
    return list(graph.get_state_history(config(thread)))


def write_objects(saver: SqliteSaver, folder: Path) -> None:
    """A thread "objects" whose state is made of classes, some of a module that nobody else has."""
    (folder / "only_there.py").write_text(SENTINEL)
    sys.path.insert(0, str(folder))
    try:
        there: Any = importlib.import_module("only_there")
    finally:
        sys.path.remove(str(folder))
        sys.modules.pop("only_there", None)
    made = {
        "plan": there.Plan("sell", [1, 2]),
        "offer": there.Offer(price=3),
        "mood": there.Mood.good,
        "when": datetime(2026, 1, 2, tzinfo=timezone.utc),
        "id": UUID(int=7),
        "price": Decimal("1.50"),
        "tags": {"a"},
        "raw": b"\x00\x01\xff",
        "infinite": float("inf"),
        "numbers": {1: "one"},
    }
    make = StateGraph(Talk)
    make.add_node("make", lambda state: {"made": made})
    make.add_edge(START, "make")
    make.compile(checkpointer=saver).invoke({"turns": 1}, config("objects"))
    (folder / "imported").unlink()


def write_failure(saver: SqliteSaver) -> None:
    """A thread "failed" whose node raised."""

    def fail(state: Talk) -> Talk:
        raise ValueError("the stairs are gone")

    broken = StateGraph(Talk)
    broken.add_node("climb", fail)
    broken.add_edge(START, "climb")
    with suppress(ValueError):
        broken.compile(checkpointer=saver).invoke({"turns": 1}, config("failed"))
