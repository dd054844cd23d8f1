"""Agents whose conversations grow turn by turn, as unmodified LangGraph graphs.

What everyone says is written before the clock starts, from a seed; the nodes only read it out, so
that every contestant saves the same values.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, TypedDict
from uuid import UUID

from langchain_core.messages import AIMessage, AnyMessage, HumanMessage, ToolCall, ToolMessage
from langgraph.channels.delta import DeltaChannel
from langgraph.graph import END, START, StateGraph
from langgraph.graph.message import add_messages
from langgraph.types import Send

from benchmarks.contestants import Saver
from benchmarks.prose import prose
from benchmarks.workload import config_of

CONFIG = config_of("conversation")
FILES = 10
SNAPSHOT_FREQUENCY = 50
# Of the coding agent's: with these its threads take the official saver 41 MB in 200 turns.
SOURCE_CHARACTERS = 50_000
EDITS = 3


@dataclass(frozen=True)
class Agent:
    """A graph, and what it is given in each turn."""

    builder: StateGraph[Any]
    inputs: Sequence[dict[str, Any]]
    messages_per_turn: int

    def converse(self, saver: Saver, start: int = 0, end: int | None = None) -> None:
        """Run the turns from `start` to `end`, each with one `graph.invoke`."""
        graph = self.builder.compile(checkpointer=saver)
        for turn, given in enumerate(self.inputs[start:end], start + 1):
            said = len(graph.invoke(given, CONFIG)["messages"])
            if said != turn * self.messages_per_turn:
                raise AssertionError(f"after {turn} turns there are {said} messages")


class ChatState(TypedDict):
    """Messages, and files that are given once and stay as they are."""

    messages: Annotated[list[AnyMessage], add_messages]
    files: dict[str, str]


def chat_agent(turns: int) -> Agent:
    """Two answers of the model in each turn, and a tool called between them; 50 KB of files."""
    script = _script(turns)

    def speak(state: ChatState) -> dict[str, Any]:
        return {"messages": [script[len(state["messages"])]]}

    builder = StateGraph(ChatState)
    builder.add_node("agent", speak)
    builder.add_node("tools", speak)
    _connect(builder, _tools_or_end)
    contents = {path: file["content"] for path, file in _first_files(5_000).items()}
    return Agent(builder, _inputs(script, turns, files=contents), len(script) // turns)


class FileData(TypedDict):
    """A file as deepagents keeps it."""

    content: str
    encoding: str
    created_at: str
    modified_at: str


def _merge_messages(state: list[AnyMessage], writes: list[list[AnyMessage]]) -> list[AnyMessage]:
    """Add messages to those there are; one with an id that is there already takes its place."""
    said = [*state, *(message for write in writes for message in write)]
    return list({message.id: message for message in said}.values())


def _merge_files(
    state: dict[str, FileData], writes: list[dict[str, FileData]]
) -> dict[str, FileData]:
    return {path: file for files in (state, *writes) for path, file in files.items()}


class DeltaState(TypedDict):
    """Channels of which LangGraph saves the writes, and every 50 of them the value.

    So declared by deepagents 0.7.32, in `graph.py` and `middleware/filesystem.py`.
    """

    messages: Annotated[
        list[AnyMessage], DeltaChannel(_merge_messages, snapshot_frequency=SNAPSHOT_FREQUENCY)
    ]
    files: Annotated[
        dict[str, FileData], DeltaChannel(_merge_files, snapshot_frequency=SNAPSHOT_FREQUENCY)
    ]


def delta_agent(turns: int) -> Agent:
    """The chat of a coding agent, in delta channels: its tool edits three files of 50 KB a turn."""
    script = _script(turns)
    files = _first_files(SOURCE_CHARACTERS)
    edits = list(_edits(files, turns))

    def speak(state: DeltaState) -> dict[str, Any]:
        return {"messages": [script[len(state["messages"])]]}

    def edit(state: DeltaState) -> dict[str, Any]:
        return {**speak(state), "files": edits[len(state["messages"]) * turns // len(script)]}

    builder = StateGraph(DeltaState)
    builder.add_node("agent", speak)
    builder.add_node("tools", edit)
    _connect(builder, _tools_or_end)
    return Agent(builder, _inputs(script, turns, files=files), len(script) // turns)


class SendState(TypedDict):
    """Messages alone."""

    messages: Annotated[list[AnyMessage], add_messages]


class CallState(SendState):
    """What a tool is sent: the whole state, and the call that is its own."""

    call: ToolCall


def send_agent(turns: int) -> Agent:
    """The chat with two tools called at once, each of which is sent the whole state."""
    script = _script(turns, calls=2)
    results = {said.tool_call_id: said for said in script if isinstance(said, ToolMessage)}

    def speak(state: SendState) -> dict[str, Any]:
        return {"messages": [script[len(state["messages"])]]}

    def answer(state: CallState) -> dict[str, Any]:
        return {"messages": [results[state["call"]["id"]]]}

    builder = StateGraph(SendState)
    builder.add_node("agent", speak)
    builder.add_node("tools", answer)
    _connect(builder, _send_or_end)
    return Agent(builder, _inputs(script, turns), len(script) // turns)


def _connect(builder: StateGraph[Any], after_agent: Any) -> None:
    """Agent, tools, agent, and so on until no tool is called."""
    builder.add_edge(START, "agent")
    builder.add_conditional_edges("agent", after_agent, ["tools", END])
    builder.add_edge("tools", "agent")


def _tools_or_end(state: dict[str, Any]) -> str:
    return "tools" if state["messages"][-1].tool_calls else END


def _send_or_end(state: dict[str, Any]) -> list[Send] | str:
    calls = state["messages"][-1].tool_calls
    return [Send("tools", {**state, "call": call}) for call in calls] or END


def _inputs(script: Sequence[AnyMessage], turns: int, **first: Any) -> list[dict[str, Any]]:
    """The question of each turn; with the first one, what else there is."""
    inputs: list[dict[str, Any]] = [
        {"messages": [question]} for question in script[:: len(script) // turns]
    ]
    inputs[0] |= first
    return inputs


def _script(turns: int, calls: int = 1) -> list[AnyMessage]:
    rng = random.Random("script")
    return [message for _ in range(turns) for message in _turn(rng, calls)]


def _turn(rng: random.Random, calls: int) -> Iterator[AnyMessage]:
    """A question, 800 characters of answers, and between them the calls and their results."""
    called = [
        ToolCall(name="search", args={"query": prose(rng, 60)}, id=_id(rng)) for _ in range(calls)
    ]
    yield HumanMessage(prose(rng, 200), id=_id(rng))
    yield AIMessage(prose(rng, 200), tool_calls=called, id=_id(rng))
    for call in called:
        yield ToolMessage(prose(rng, 400), tool_call_id=call["id"], name="search", id=_id(rng))
    yield AIMessage(prose(rng, 600), id=_id(rng))


def _id(rng: random.Random) -> str:
    return str(UUID(int=rng.getrandbits(128), version=4))


def _first_files(characters: int) -> dict[str, FileData]:
    rng = random.Random("files")
    return {f"/notes/{number}.md": _file(prose(rng, characters), 0) for number in range(FILES)}


def _edits(files: dict[str, FileData], turns: int) -> Iterator[dict[str, FileData]]:
    """A new passage in some of the files, which are written whole, as deepagents' tools do."""
    rng = random.Random("edits")
    contents = {path: file["content"] for path, file in files.items()}
    for turn in range(turns):
        chosen = rng.sample(sorted(contents), EDITS)
        for path in chosen:
            contents[path] = _with_new_passage(rng, contents[path])
        yield {path: _file(contents[path], turn) for path in chosen}


def _with_new_passage(rng: random.Random, content: str, size: int = 200) -> str:
    start = rng.randrange(len(content) - size)
    return content[:start] + prose(rng, size) + content[start + size :]


def _file(content: str, minute: int) -> FileData:
    written = f"2026-01-01T{minute // 60:02}:{minute % 60:02}:00.000000+00:00"
    return {
        "content": content,
        "encoding": "utf-8",
        "created_at": written,
        "modified_at": written,
    }
