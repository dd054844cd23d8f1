"""Threads of every kind to move, and what savers say of them."""

from __future__ import annotations

import operator
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any

import psycopg
from langchain_core.messages import AIMessage, AnyMessage, HumanMessage
from langgraph.channels.delta import DeltaChannel
from langgraph.checkpoint.postgres import PostgresSaver
from langgraph.checkpoint.serde.encrypted import EncryptedSerializer
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.graph import END, START, StateGraph
from langgraph.graph.message import add_messages
from langgraph.types import Command, Send, interrupt
from psycopg.rows import dict_row
from pydantic import BaseModel
from typing_extensions import TypedDict

KEY = b"0123456789abcdef"


class Order(BaseModel):
    """A model as users have them."""

    number: int
    lines: list[str] = []


@dataclass
class Note:
    """A dataclass as users have them."""

    text: str
    weight: float = 1.0


def serde(encrypted: bool = False) -> Any:
    """A serializer that knows the classes here."""
    plain = JsonPlusSerializer(allowed_msgpack_modules=[Order, Note])
    return EncryptedSerializer.from_pycryptodome_aes(plain, key=KEY) if encrypted else plain


def prose(size: int, seed: object = 0) -> str:
    """Text of `size` characters, the same for the same seed."""
    generator = random.Random(repr(seed))
    return " ".join(generator.choices(_WORDS, k=size // 3))[:size]


_WORDS = ("the", "of", "and", "to", "in", "is", "that", "for", "it", "as", "was", "with", "by")


def _extend(state: list[Any], writes: Any) -> list[Any]:
    return [*state, *(item for write in writes for item in write)]


class State(TypedDict, total=False):
    messages: Annotated[list[AnyMessage], add_messages]
    log: Annotated[list[Any], operator.add]
    deltas: Annotated[list[Any], DeltaChannel(_extend, snapshot_frequency=3)]
    order: Order
    note: Note
    data: bytes
    title: str
    share: float
    answers: list[Any]


class Item(TypedDict):
    n: int


def build(saver: Any) -> Any:
    """A graph with messages, models, bytes, Sends, a DeltaChannel, a subgraph that asks, a loop."""
    child = StateGraph(State)
    child.add_node("think", lambda state: {"log": ["thinking"], "deltas": ["c"]})
    child.add_node(
        "ask",
        lambda state: {"answers": [*state.get("answers", []), interrupt({"question": "what?"})]},
    )
    child.add_edge(START, "think")
    child.add_edge("think", "ask")

    def begin(state: State) -> Any:
        return {
            "messages": [AIMessage(prose(3_000, len(state.get("messages", []))), id=None)],
            "order": Order(number=len(state.get("log", [])), lines=["a", "b"]),
            "note": Note("x\0y", 0.5),
            "data": bytes(range(256)) * 20,
            "title": "short",
            "share": 0.25,
            "deltas": [len(state.get("log", []))],
        }

    builder = StateGraph(State)
    builder.add_node("begin", begin)
    builder.add_node("work", lambda item: {"log": [item["n"]], "deltas": [item["n"]]})
    builder.add_node("child", child.compile())
    builder.add_node("end", lambda state: {"log": ["end"], "title": prose(2_000)})
    builder.add_edge(START, "begin")
    builder.add_conditional_edges(
        "begin", lambda state: [Send("work", {"n": n}) for n in range(3)], ["work"]
    )
    builder.add_edge("work", "child")
    builder.add_edge("child", "end")
    builder.add_edge("end", END)
    return builder.compile(checkpointer=saver)


def thread(name: str, checkpoint_id: str | None = None) -> Any:
    """The config of a thread."""
    configurable = {"thread_id": name}
    if checkpoint_id:
        configurable["checkpoint_id"] = checkpoint_id
    return {"configurable": configurable}


def fill(saver: Any) -> None:
    """Threads that are done, that wait for an answer, and that were forked."""
    graph = build(saver)
    for name in ("done", "waiting", "forked"):
        for turn in range(2):
            graph.invoke({"messages": [HumanMessage(f"{name} {turn}", id=None)]}, thread(name))
            if (name, turn) != ("waiting", 1):
                graph.invoke(Command(resume=f"answer {turn}"), thread(name))
    history = list(graph.get_state_history(thread("forked")))
    fork = next(each for each in history if each.next == ("child",))
    graph.update_state(fork.config, {"title": "another", "data": b"other"})
    graph.invoke(None, thread("forked"))


def place(number: int | None = None, name: str = "t", ns: str = "") -> Any:
    """The config of a checkpoint that is known by its number, or of its thread."""
    configurable = {"thread_id": name, "checkpoint_ns": ns}
    if number is not None:
        configurable["checkpoint_id"] = f"{number:06}"
    return {"configurable": configurable}


def save(
    saver: Any,
    number: int,
    values: dict[str, Any],
    *,
    versions: dict[str, Any] | None = None,
    new: dict[str, Any] | None = None,
    parent: int | None = None,
    thread: str = "t",
    **keys: Any,
) -> None:
    """Put a checkpoint; without `versions`, every channel of `values` is at version `number`."""
    found = dict.fromkeys(values, str(number)) if versions is None else versions
    checkpoint = {
        "v": 4,
        "id": f"{number:06}",
        "ts": "2026-01-01T00:00:00+00:00",
        "channel_values": values,
        "channel_versions": found,
        "versions_seen": {},
        "updated_channels": None,
        **keys,
    }
    saver.put(place(parent, thread), checkpoint, {"step": number}, found if new is None else new)


def chain(saver: Any, length: int, *, start: int = 1, thread: str = "t") -> None:
    """Checkpoints `start`, …, each the parent of the next, each with a write and a new list."""
    for number in range(start, start + length):
        parent = number - 1 if number > start else None
        save(saver, number, {"list": [number]}, parent=parent, thread=thread)


def listed(saver: Any) -> dict[Any, Any]:
    """Each checkpoint by its key, as `list` has it."""
    return {tuple(each.config["configurable"].values()): _said(each) for each in saver.list(None)}


def _said(found: Any) -> Any:
    return found.checkpoint, found.metadata, found.parent_config, list(found.pending_writes)


def everything(saver: Any) -> dict[Any, Any]:
    """The same, once `get_tuple` has said so too."""
    found = listed(saver)
    for thread_id, ns, checkpoint_id in found:
        configurable = {"thread_id": thread_id, "checkpoint_ns": ns, "checkpoint_id": checkpoint_id}
        again = saver.get_tuple({"configurable": configurable})
        assert found[thread_id, ns, checkpoint_id] == _said(again)
    return found


def histories(saver: Any, names: Sequence[str] = ("done", "waiting", "forked")) -> Any:
    """What a graph makes of each thread: its states, newest first, with subgraphs' tasks."""
    graph = build(saver)
    return {
        name: [
            (each.values, each.next, each.config, each.parent_config, each.tasks, each.metadata)
            for each in list(graph.get_state_history(thread(name)))
        ]
        for name in names
    }


@contextmanager
def postgres_saver(uri: str, serde: Any = None) -> Iterator[PostgresSaver]:
    """PostgresSaver on its own connection."""
    with psycopg.connect(uri, autocommit=True, prepare_threshold=0, row_factory=dict_row) as conn:
        yield PostgresSaver(conn, serde=serde)


def query(uri: str, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
    """The rows of a query."""
    with psycopg.connect(uri) as conn:
        return conn.execute(sql, parameters).fetchall()


def execute(uri: str, sql: str, *parameters: Any) -> None:
    """Change Postgres by hand."""
    with psycopg.connect(uri) as conn:
        conn.execute(sql, parameters)


def orphans(uri: str) -> list[Any]:
    """Blobs in Postgres that no checkpoint uses, and writes without their checkpoint."""
    used = set(
        query(
            uri,
            "SELECT thread_id, checkpoint_ns, v.key, v.value FROM checkpoints, "
            "jsonb_each_text(checkpoint -> 'channel_versions') AS v",
        )
    )
    blobs = query(uri, "SELECT thread_id, checkpoint_ns, channel, version FROM checkpoint_blobs")
    keys = set(query(uri, "SELECT thread_id, checkpoint_ns, checkpoint_id FROM checkpoints"))
    writes = query(uri, "SELECT thread_id, checkpoint_ns, checkpoint_id FROM checkpoint_writes")
    return sorted(set(blobs) - used) + sorted(set(writes) - keys)
