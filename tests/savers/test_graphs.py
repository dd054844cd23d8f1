"""Compiled graphs on the savers: what LangGraph does with them, end to end."""

from __future__ import annotations

import asyncio
import operator
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any

import pytest
import uvloop
from langgraph.channels.delta import DeltaChannel
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.graph import END, START, StateGraph
from langgraph.types import Command, Send, interrupt
from typing_extensions import TypedDict

from langgraph_sqlite_saver import AsyncSqliteSaver, SqliteSaver

from .helpers import count, orphans, rows

THREAD: Any = {"configurable": {"thread_id": "t"}}
DURABILITIES = ["sync", "async", "exit"]


class Graph:
    """A compiled graph on a saver, driven by its blocking or by its async methods."""

    def __init__(self, build: Callable[..., Any], saver: Any, run: Callable[[Any], Any] | None):
        if run is not None and sys.version_info < (3, 11) and hasattr(build, "asks"):
            pytest.skip("LangGraph's interrupt() in async graphs needs Python 3.11")
        self.graph = build(saver)
        self._run = run

    def __getattr__(self, name: str) -> Any:
        if self._run is None:
            return getattr(self.graph, name)
        run = self._run
        return lambda *a, **k: run(getattr(self.graph, f"a{name}")(*a, **k))

    def history(self, config: Any = THREAD) -> list[Any]:
        if self._run is None:
            return list(self.graph.get_state_history(config))

        async def collect() -> list[Any]:
            return [each async for each in self.graph.aget_state_history(config)]

        return self._run(collect())


@pytest.fixture(params=["sync", "async", "sync-awaited"])
def make(request: Any, open_driver: Any, database_path: Path) -> Iterator[Any]:
    """Compiles a graph on a saver: `make(build)`; all of one test share the file."""
    driver = open_driver(request.param, database_path)
    yield lambda build: Graph(build, driver.saver, driver.run if driver.awaited else None)
    if database_path.exists():
        assert orphans(database_path) == []


def in_memory(build: Callable[..., Any]) -> Graph:
    """The same graph on LangGraph's own InMemorySaver."""
    return Graph(build, InMemorySaver(), None)


def shape(snapshot: Any) -> Any:
    """What of a state snapshot is the same in every run: no ids, no times."""
    metadata = {**snapshot.metadata}
    metadata["parents"] = sorted(metadata["parents"])
    return {
        "values": snapshot.values,
        "next": snapshot.next,
        "metadata": {key: metadata[key] for key in sorted(metadata) if key != "run_id"},
        "has_parent": snapshot.parent_config is not None,
        "tasks": [(task.name, task.error, len(task.interrupts)) for task in snapshot.tasks],
    }


class State(TypedDict):
    log: Annotated[list[Any], operator.add]
    total: int


def add(name: str) -> Callable[[State], Any]:
    return lambda state: {"log": [name], "total": state.get("total", 0) + 1}


# --- the graphs


def line(saver: Any) -> Any:
    """Three steps, one after another."""
    builder = StateGraph(State)
    builder.add_sequence([(name, add(name)) for name in "abc"])
    builder.add_edge(START, "a")
    return builder.compile(checkpointer=saver)


def approval(saver: Any) -> Any:
    """Asks twice, and goes on with the answers."""

    def ask(state: State) -> Any:
        first = interrupt("first?")
        second = interrupt({"second?": first})
        return {"log": [first, second], "total": 1}

    builder = StateGraph(State)
    builder.add_sequence([("a", add("a")), ("ask", ask), ("c", add("c"))])
    builder.add_edge(START, "a")
    return builder.compile(checkpointer=saver)


approval.asks = True  # type: ignore[attr-defined]


def fan_out(saver: Any) -> Any:
    """Ten tasks in parallel by Send, gathered in order."""

    def spread(state: State) -> Any:
        return [Send("work", {"log": [n], "total": n}) for n in range(10)]

    builder = StateGraph(State)
    builder.add_node("begin", lambda state: {"log": ["begin"]})
    builder.add_node("work", lambda state: {"log": [state["total"] * 2]})
    builder.add_node("end", add("end"))
    builder.add_edge(START, "begin")
    builder.add_conditional_edges("begin", spread, ["work"])
    builder.add_edge("work", "end")
    return builder.compile(checkpointer=saver)


def nested(persistent: bool) -> Callable[[Any], Any]:
    """A subgraph that asks; it keeps its state between calls if `persistent`."""

    def build(saver: Any) -> Any:
        def ask(state: State) -> Any:
            return {"log": [interrupt("inside?")], "total": 1}

        child = StateGraph(State)
        child.add_sequence([("x", add("x")), ("ask", ask)])
        child.add_edge(START, "x")
        builder = StateGraph(State)
        builder.add_node("before", add("before"))
        builder.add_node("child", child.compile(checkpointer=True if persistent else None))
        builder.add_edge(START, "before")
        builder.add_edge("before", "child")
        builder.add_edge("child", END)
        return builder.compile(checkpointer=saver)

    build.asks = True  # type: ignore[attr-defined]
    return build


def extend(state: list[Any], writes: Sequence[Any]) -> list[Any]:
    return [*state, *(item for write in writes for item in write)]


class DeltaState(TypedDict):
    log: Annotated[list[Any], DeltaChannel(extend, snapshot_frequency=3)]
    n: int


def delta(saver: Any) -> Any:
    """Counts up to its input in a loop, with a DeltaChannel that snapshots every third update."""

    def step(state: DeltaState) -> Any:
        return {"log": [state["n"]], "n": state["n"] - 1}

    builder = StateGraph(DeltaState)
    builder.add_node("step", step)
    builder.add_edge(START, "step")
    builder.add_conditional_edges("step", lambda state: "step" if state["n"] > 0 else END)
    return builder.compile(checkpointer=saver)


# --- runs


def test_a_run_is_saved_step_by_step_and_goes_on(make: Any) -> None:
    """A second run continues from the state of the first."""
    graph = make(line)
    graph.invoke({"log": ["in"]}, THREAD)
    assert graph.invoke({"log": ["in2"]}, THREAD) == {
        "log": ["in", "a", "b", "c", "in2", "a", "b", "c"],
        "total": 6,
    }
    assert len(graph.history()) == 10


@pytest.mark.parametrize("durability", DURABILITIES)
def test_an_interrupt_is_resumed_by_another_process(
    make: Any, open_driver: Any, database_path: Path, durability: str
) -> None:
    """Or by another saver on the file, which is the same; each answer is remembered."""
    graph = make(approval)
    asked = graph.invoke({"log": []}, THREAD, durability=durability)
    assert [each.value for each in asked["__interrupt__"]] == ["first?"]
    asked = graph.invoke(Command(resume="yes"), THREAD, durability=durability)
    assert [each.value for each in asked["__interrupt__"]] == [{"second?": "yes"}]
    other = Graph(approval, open_driver("sync", database_path).saver, None)
    assert other.get_state(THREAD).next == ("ask",)
    done = other.invoke(Command(resume="no"), THREAD, durability=durability)
    assert done["log"] == ["a", "yes", "no", "c"]
    assert graph.get_state(THREAD).values == done


@pytest.mark.parametrize("durability", DURABILITIES)
@pytest.mark.parametrize("build", [line, approval, fan_out, nested(False), nested(True), delta])
def test_state_history_is_what_the_in_memory_saver_has(
    make: Any, build: Any, durability: str
) -> None:
    """Values, next, tasks and metadata of every step, for the same run."""
    histories = []
    for graph in (make(build), in_memory(build)):
        graph.invoke({"log": ["in"], "n": 7} if build is delta else {"log": ["in"]}, THREAD,
                     durability=durability)  # fmt: skip
        if build in (line, fan_out, delta):
            graph.update_state(THREAD, {"log": ["by hand"]})
        else:
            graph.invoke(Command(resume="answer"), THREAD, durability=durability)
        histories.append([shape(each) for each in graph.history()])
    assert histories[0] == histories[1]


def test_sends_run_once_each_and_arrive_in_order(make: Any) -> None:
    """In the order in which they were sent."""
    done = make(fan_out).invoke({"log": []}, THREAD)
    assert done["log"] == ["begin", *range(0, 20, 2), "end"]


def test_a_failed_task_is_run_again_alone(make: Any) -> None:
    """The writes of those that were done beside it are pending, and are not repeated."""
    runs: list[str] = []
    failing = [True]

    def bad(state: State) -> Any:
        runs.append("bad")
        if failing.pop() if failing else False:
            raise RuntimeError("boom")
        return {"log": ["bad"]}

    def good(state: State) -> Any:
        runs.append("good")
        return {"log": ["good"]}

    def build(saver: Any) -> Any:
        builder = StateGraph(State)
        builder.add_node("good", good)
        builder.add_node("late", lambda state: {"log": ["late"]})
        builder.add_edge(START, "good")
        builder.add_conditional_edges("good", lambda state: ["fine", "bad"], ["fine", "bad"])
        builder.add_node("fine", lambda state: runs.append("fine") or {"log": ["fine"]})
        builder.add_node("bad", bad)
        builder.add_edge(["fine", "bad"], "late")
        return builder.compile(checkpointer=saver)

    graph = make(build)
    with pytest.raises(RuntimeError, match="boom"):
        graph.invoke({"log": []}, THREAD)
    saved = graph.graph.checkpointer.get_tuple(THREAD).pending_writes
    fine_was_saved = any(value == ["fine"] for _, _, value in saved)  # it may have come too late
    done = graph.invoke(None, THREAD)
    assert sorted(done["log"]) == ["bad", "fine", "good", "late"]
    assert (runs.count("good"), runs.count("bad")) == (1, 2)
    assert runs.count("fine") == 1 or not fine_was_saved


@pytest.mark.parametrize("persistent", [False, True])
def test_a_subgraphs_state_is_found_while_it_waits(make: Any, persistent: bool) -> None:
    """Through the parent's state; the answer reaches the node inside."""
    graph = make(nested(persistent))
    for turn in (1, 2):
        graph.invoke({"log": [turn]}, THREAD)
        state = graph.get_state(THREAD, subgraphs=True)
        inner = state.tasks[0].state
        assert inner.next == ("ask",)
        assert inner.config["configurable"]["checkpoint_ns"].split(":")[0] == "child"
        done = graph.invoke(Command(resume=f"answer {turn}"), THREAD)
        assert f"answer {turn}" in done["log"]


@pytest.mark.parametrize("persistent", [False, True])
def test_pruning_keeps_what_a_waiting_subgraph_needs(make: Any, persistent: bool) -> None:
    """The run goes on as if nothing had happened, in every durability the same."""
    graph, memory = make(nested(persistent)), in_memory(nested(persistent))
    for turn in (1, 2, 3):
        for each in (graph, memory):
            each.invoke({"log": [turn]}, THREAD)
        graph.graph.checkpointer.prune(["t"]) if graph._run is None else graph._run(
            graph.graph.checkpointer.aprune(["t"])
        )
        answers = [each.invoke(Command(resume=turn), THREAD) for each in (graph, memory)]
        assert answers[0] == answers[1]


def test_update_state_forks_and_time_travel_replays(make: Any) -> None:
    """From any checkpoint of the past; the branches do not mix."""
    graph = make(line)
    graph.invoke({"log": ["in"]}, THREAD)
    past = next(each for each in graph.history() if each.next == ("b",))
    fork = graph.update_state(past.config, {"log": ["fork"], "total": 100})
    assert graph.invoke(None, fork) == {"log": ["in", "a", "fork", "b", "c"], "total": 102}
    assert graph.invoke(None, past.config) == {"log": ["in", "a", "b", "c"], "total": 3}
    assert graph.get_state(past.config).values == past.values
    sources = {each.metadata["source"] for each in graph.history()}
    assert sources == {"input", "loop", "update"} or sources == {"input", "loop", "update", "fork"}


def test_update_state_as_a_node_and_of_a_copy(make: Any) -> None:
    """As LangGraph's documentation has it: by node name, and a plain copy with None."""
    graph, memory = make(line), in_memory(line)
    for each in (graph, memory):
        each.update_state(THREAD, {"log": ["x"], "total": 5}, as_node="a")
        each.update_state(THREAD, None, as_node="__copy__")
        each.invoke(None, THREAD)
    assert [shape(s) for s in graph.history()] == [shape(s) for s in memory.history()]


# --- delta channels


@pytest.mark.parametrize("durability", DURABILITIES)
def test_a_delta_channel_is_rebuilt_at_every_checkpoint(make: Any, durability: str) -> None:
    """Through snapshots, in forks, and after pruning and copying."""
    graph, memory = make(delta), in_memory(delta)
    states = []
    for each in (graph, memory):
        for n in (7, 2, 5):
            each.invoke({"log": ["in"], "n": n}, THREAD, durability=durability)
        past = each.history()[1]
        each.update_state(past.config, {"log": ["fork"]})
        each.invoke({"log": ["after"], "n": 2}, THREAD, durability=durability)
        states.append([shape(s) for s in each.history()])
    assert states[0] == states[1]
    before = graph.get_state(THREAD).values
    saver = graph.graph.checkpointer
    copied = {"configurable": {"thread_id": "copy"}}
    if graph._run is None:
        saver.copy_thread("t", "copy")
        saver.prune(["t"])
    else:
        graph._run(saver.acopy_thread("t", "copy"))
        graph._run(saver.aprune(["t"]))
    for config in (THREAD, copied):
        assert graph.get_state(config).values == before
        done = graph.invoke({"log": ["more"], "n": 4}, config, durability=durability)
        assert done["log"] == [*before["log"], "more", 4, 3, 2, 1]
        assert graph.get_state(config).values == done


def test_a_delta_channel_stores_what_is_added(make: Any, database_path: Path) -> None:
    """Not the list at every step."""
    make(delta).invoke({"log": ["in"], "n": 12}, THREAD)
    stored = rows(database_path, "SELECT count(*) FROM checkpoint_blobs WHERE channel = 'log'")
    assert 0 < stored[0][0] < count(database_path, "checkpoints") / 2


# --- across the two worlds


def test_an_async_saver_serves_a_blocking_graph_in_a_plain_thread(tmp_path: Path) -> None:
    """Where no loop runs; and afterwards an async one, and that on uvloop."""
    saver = AsyncSqliteSaver(tmp_path / "agent.db")
    graph = line(saver)
    with ThreadPoolExecutor(1) as pool:
        pool.submit(graph.invoke, {"log": ["thread"]}, THREAD).result()
    asyncio.run(graph.ainvoke({"log": ["loop"]}, THREAD))
    with (
        asyncio.Runner(loop_factory=uvloop.new_event_loop)
        if hasattr(asyncio, "Runner")
        else _OldRunner() as runner
    ):
        runner.run(graph.ainvoke({"log": ["uvloop"]}, THREAD))
    assert graph.get_state(THREAD).values["total"] == 9
    saver.close()


class _OldRunner:
    """asyncio.Runner of Python 3.11, for 3.10."""

    def __enter__(self) -> _OldRunner:
        self._loop = uvloop.new_event_loop()
        return self

    def run(self, main: Any) -> Any:
        return self._loop.run_until_complete(main)

    def __exit__(self, *exc_info: object) -> None:
        self._loop.run_until_complete(self._loop.shutdown_default_executor())
        self._loop.close()


def test_many_threads_of_conversation_at_once(tmp_path: Path) -> None:
    """Thirty-two graphs in one loop, each with its own thread."""

    async def scenario() -> list[Any]:
        async with AsyncSqliteSaver(tmp_path / "agent.db") as saver:
            graph = line(saver)
            configs: list[Any] = [{"configurable": {"thread_id": str(n)}} for n in range(32)]
            return await asyncio.gather(*(graph.ainvoke({"log": []}, c) for c in configs))

    assert asyncio.run(scenario()) == [{"log": ["a", "b", "c"], "total": 3}] * 32
    assert orphans(tmp_path / "agent.db") == []


@pytest.mark.parametrize("kind", [SqliteSaver, AsyncSqliteSaver])
def test_copies_that_compile_makes_share_one_database(kind: Any, tmp_path: Path) -> None:
    """`with_allowlist` clones the saver; closing one closes all."""
    saver = kind(tmp_path / "agent.db", serde=JsonPlusSerializer(allowed_msgpack_modules=None))
    graph = line(saver.with_allowlist({("some.module", "Class")}))
    clone = saver.with_allowlist({("some.module", "Class")})
    assert clone is not saver
    assert clone.database is saver.database
    graph.invoke({"log": []}, THREAD)
    assert saver.get_tuple(THREAD).checkpoint["channel_values"]["total"] == 3
    clone.close()
    with pytest.raises(Exception, match="closed"):
        saver.get_tuple(THREAD)


class IntVersions:
    """What a subclass may change: versions, and what goes through put and get_tuple."""

    calls: list[str]

    def get_next_version(self, current: Any, channel: Any) -> Any:
        return 1 if current is None else current + 1

    def put(self, *args: Any) -> Any:
        self.calls.append("put")
        return super().put(*args)  # type: ignore[misc]

    def put_writes(self, *args: Any) -> Any:
        self.calls.append("put_writes")
        return super().put_writes(*args)  # type: ignore[misc]

    def get_tuple(self, config: Any) -> Any:
        self.calls.append("get_tuple")
        return super().get_tuple(config)  # type: ignore[misc]


@pytest.mark.parametrize("kind", [SqliteSaver, AsyncSqliteSaver])
@pytest.mark.parametrize("build", [line, fan_out, delta])
def test_a_subclass_may_override_methods_and_versions(
    kind: Any, build: Any, tmp_path: Path
) -> None:
    """Int versions as `BaseCheckpointSaver` makes them, through forks, as in memory."""

    class Own(IntVersions, kind):
        pass

    saver = Own(tmp_path / "agent.db")
    saver.calls = []
    histories = []
    for each in (Graph(build, saver, None), in_memory(build)):
        each.invoke({"log": ["in"], "n": 5} if build is delta else {"log": ["in"]}, THREAD)
        past = each.history()[2]
        each.update_state(past.config, {"log": ["left"]})
        each.update_state(past.config, {"log": ["right"]})
        each.invoke(None, THREAD)
        histories.append([shape(snapshot) for snapshot in each.history()])
    assert histories[0] == histories[1]
    assert set(saver.calls) == {"put", "put_writes", "get_tuple"}
    versions = saver.get_tuple(THREAD).checkpoint["channel_versions"].values()
    assert all(type(version) is int for version in versions)
    assert orphans(tmp_path / "agent.db") == []
    saver.close()


def test_the_blocking_methods_overridden_are_used_by_the_async_ones(tmp_path: Path) -> None:
    """On SqliteSaver, whose async methods are the blocking ones on threads."""

    class Own(IntVersions, SqliteSaver):
        pass

    with Own(tmp_path / "agent.db") as saver:
        saver.calls = []
        asyncio.run(line(saver).ainvoke({"log": []}, THREAD))
        assert set(saver.calls) == {"put", "put_writes", "get_tuple"}
