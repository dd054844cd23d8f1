"""Compiled graphs, where LangGraph's own work is part of the time."""

from __future__ import annotations

import asyncio
import operator
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter
from typing import Annotated, Any, TypedDict

from langgraph.graph import END, START, StateGraph

from benchmarks.benchmark import Benchmark, Measure, Measurement, Metric, Scale, at_least
from benchmarks.contestants import (
    OFFICIAL_FULL,
    OFFICIAL_NORMAL,
    OURS_FULL,
    OURS_NORMAL,
    SAVERS,
    Contestant,
)
from benchmarks.workload import config_of

SUPERSTEPS = 10


class State(TypedDict):
    """A chat that grows by one message each superstep."""

    messages: Annotated[list[dict[str, Any]], operator.add]
    turns: int
    summary: str


@contextmanager
def graphs_at_once(scale: Scale) -> Iterator[Measure]:
    """32 graphs of 10 supersteps at once through ainvoke, one thread each."""
    builder = _builder()
    graphs, times = scale.pick(32, 4), scale.pick(3, 1)

    async def measure(contestant: Contestant, path: Path) -> Measurement:
        async with contestant.open_async(path) as saver:
            graph = builder.compile(checkpointer=saver)
            await _run(graph, "warm-up")
            start = perf_counter()
            for time in range(times):
                threads = (f"thread {time} {number}" for number in range(graphs))
                await asyncio.gather(*(_run(graph, thread) for thread in threads))
            return {"supersteps": times * graphs * SUPERSTEPS / (perf_counter() - start)}

    yield lambda contestant, path: asyncio.run(measure(contestant, path))


def _builder() -> StateGraph[State]:
    async def agent(state: State) -> dict[str, Any]:
        turn = state["turns"] + 1
        reply = {"type": "ai", "content": f"This is the answer to question {turn}. " * 5}
        return {"messages": [reply], "turns": turn, "summary": f"{turn} questions answered"}

    builder = StateGraph(State)
    builder.add_node("agent", agent)
    builder.add_edge(START, "agent")
    builder.add_conditional_edges("agent", _next, ["agent", END])
    return builder


def _next(state: State) -> str:
    return "agent" if state["turns"] < SUPERSTEPS else END


async def _run(graph: Any, thread: str) -> None:
    question = {"messages": [{"type": "human", "content": "Where is my parcel?"}], "turns": 0}
    result = await graph.ainvoke({**question, "summary": ""}, config_of(thread))
    if result["turns"] != SUPERSTEPS:
        raise AssertionError(f"the graph stopped after {result['turns']} supersteps")


BENCHMARKS = (
    Benchmark(
        "graphs",
        graphs_at_once,
        SAVERS,
        [
            Metric(
                "supersteps",
                "supersteps/s, 32 ainvoke",
                [
                    at_least(1.8, OURS_FULL, OFFICIAL_FULL),
                    at_least(1.8, OURS_NORMAL, OFFICIAL_NORMAL),
                ],
                more_is_better=True,
            )
        ],
    ),
)
