"""The graph that the tests' server serves; copied beside its langgraph.json.

It repeats what it hears, and notes it in a `DeltaChannel`. A question it asks back, in a subgraph,
by an interrupt; told to stay, it stays until it is cancelled.
"""

import asyncio
from collections.abc import Sequence
from typing import Annotated

from langchain_core.messages import AIMessage, HumanMessage
from langgraph.channels import DeltaChannel
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.types import interrupt


def joined(notes: list[str], new: Sequence[list[str]]) -> list[str]:
    """The notes so far and the new ones."""
    return [*notes, *(note for some in new for note in some)]


class State(MessagesState):
    """What was said, and notes of it."""

    notes: Annotated[list[str], DeltaChannel(joined, snapshot_frequency=3)]


def heard(state: MessagesState) -> str:
    """What was said to it last."""
    return [str(m.content) for m in state["messages"] if isinstance(m, HumanMessage)][-1]


async def listen(state: State) -> State:
    """Says what it heard."""
    text = f"heard {heard(state)}"
    return {"messages": [AIMessage(text)], "notes": [text]}


async def ask(state: MessagesState) -> MessagesState:
    """Asks back."""
    if not heard(state).endswith("?"):
        return {"messages": []}
    return {"messages": [AIMessage(f"told {interrupt('what do you think?')}")]}


async def stay(state: State) -> None:
    """Ends at once, or never."""
    if heard(state) == "stay":
        await asyncio.Event().wait()


think = StateGraph(MessagesState).add_node(ask).add_edge(START, "ask").compile()

graph = (
    StateGraph(State)
    .add_node(listen)
    .add_node("think", think)
    .add_node(stay)
    .add_edge(START, "listen")
    .add_edge("listen", "think")
    .add_edge("think", "stay")
    .compile()
)
