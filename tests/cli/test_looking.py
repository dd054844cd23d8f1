"""threads, show, state, diff, stats: what a file is found to hold."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from langgraph.graph import START, StateGraph
from langgraph.types import Command, Send, interrupt
from savers.helpers import chain, id_of, messages, place, save

from langgraph_sqlite_saver import SqliteSaver

from . import graphs
from .conftest import Cli, cells


def history(example: Path, thread: str = "house") -> list[Any]:
    """The thread's states as LangGraph tells them, oldest first."""
    with SqliteSaver(example) as saver:
        return list(graphs.build(saver).get_state_history(graphs.config(thread)))[::-1]


def id_at(state: Any) -> str:
    return state.config["configurable"]["checkpoint_id"]


@pytest.fixture
def chains(tmp_path: Path) -> Path:
    """Threads "a", "b" and "c" with 1, 20 and 3 checkpoints; "b" is the newest."""
    path = tmp_path / "chains.db"
    with SqliteSaver(path) as saver:
        chain(saver, 20, thread="b")
        save(saver, 1, {"text": "x" * 5000}, thread="a", ts="2020-01-01T00:00:00+00:00")
        chain(saver, 3, thread="c")
    return path


# threads


def test_threads(cli: Cli, example: Path) -> None:
    """threads tells each thread's checkpoints, namespaces, time and size, the newest first."""
    printed = cells(cli("threads", example))
    assert [row[0] for row in printed] == ["failed", "objects", "house"]
    assert printed[2][1:3] == ["15", "3"] and re.fullmatch(r"[\d.]+ KB", printed[2][4])


def test_threads_agree_with_the_saver(cli: Cli, example: Path) -> None:
    """Its JSON has what saver.threads() tells."""
    with SqliteSaver(example) as saver:
        expected = {each.thread_id: each for each in saver.threads()}
    found = cli.json("threads", example)
    assert found["total"] == 3
    for each in found["threads"]:
        info = expected.pop(each["thread_id"])
        assert each["checkpoints"] == info.checkpoints
        assert each["namespaces"] == len(info.namespaces)
        assert each["bytes"] == info.bytes
        assert datetime.fromisoformat(each["last"]) == info.last_ts
    assert not expected


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], "bca"),
        (["--sort", "id"], "abc"),
        (["--sort", "id", "--reverse"], "cba"),
        (["--sort", "checkpoints"], "bca"),
        (["--sort", "size", "--reverse"], "acb"),
        (["--match", "b"], "b"),
        (["--match", "[ac]", "--sort", "id"], "ac"),
        (["--older-than", "2026-01-01"], "a"),
        (["--newer-than", "2026-01-01"], "bc"),
        (["--older-than", "100w"], "a"),
        (["--sort", "size", "--limit", "1", "--match", "a"], "a"),
    ],
)
def test_threads_are_sorted_and_chosen(
    cli: Cli, chains: Path, options: list[str], expected: str
) -> None:
    """By what the options say."""
    assert "".join(row[0] for row in cells(cli("threads", chains, *options))) == expected


def test_threads_limit(cli: Cli, chains: Path) -> None:
    """--limit shows the first ones and says how many there are; the table has no other lines."""
    assert len(cells(cli("threads", chains, "--limit", "1"))) == 1
    assert cli.errors == "… 2 more threads: --limit 0 shows all\n"
    assert len(cli.json("threads", chains, "--limit", "0")["threads"]) == 3


def test_threads_without_sizes(cli: Cli, chains: Path) -> None:
    """--no-size leaves the column out; it makes no sense with --sort size."""
    assert "size" not in cli("threads", chains, "--no-size")
    assert cli.json("threads", chains, "--no-size")["threads"][0]["bytes"] is None
    cli.problem("threads", chains, "--no-size", "--sort", "size", status=2)


# show


def test_show_agrees_with_langgraph(cli: Cli, example: Path) -> None:
    """show has the checkpoints, steps, sources and next nodes that get_state_history has."""
    states = history(example)
    (found,) = cli.json("show", example, "house")["namespaces"]
    shown = {each["checkpoint_id"]: each for each in found["checkpoints"]}
    assert list(shown) == [id_at(each) for each in states]
    for each in states:
        step = shown[id_at(each)]
        assert (step["step"], step["source"]) == (each.metadata["step"], each.metadata["source"])
        assert step["next"] == sorted(each.next)
        parent = each.parent_config and each.parent_config["configurable"]["checkpoint_id"]
        assert step["parent_checkpoint_id"] == parent
        interrupts = [i["value"] for task in step["tasks"] for i in task["interrupts"]]
        assert interrupts == [i.value for task in each.tasks for i in task.interrupts]


def test_show_tells_what_ran(cli: Cli, example: Path) -> None:
    """The nodes that made a checkpoint; a node that two Sends led to is there twice."""
    (found,) = cli.json("show", example, "house")["namespaces"]
    ran = [each["ran"] for each in found["checkpoints"]]
    assert ran[:6] == [[], ["__start__"], ["greet"], ["look", "look"], ["ponder"], ["decide"]]
    assert ran[6:] == [[], ["look", "look"], ["ponder"]]


def test_show_draws_forks(cli: Cli, example: Path) -> None:
    """The way to the newest checkpoint is at the left; what it was forked from is indented."""
    printed = cli("show", example, "house").splitlines()[1:]
    ids = [id_at(each) for each in history(example)]
    drawn = {re.search(r"[0-9a-f]{8}-\S+", line)[0]: line for line in printed if " loop" in line}  # type: ignore[index]
    assert drawn[ids[3]].startswith("● ")
    assert drawn[ids[4]].startswith("├─● ")
    assert drawn[ids[5]].startswith("│ ● ")
    assert drawn[ids[7]].startswith("● ")
    assert next(line for line in printed if "answered" in line).startswith("│ │ ")
    assert printed[-1].strip() == "decide: interrupt({'question': 'Shall I sell it?'})"


def test_show_sizes(cli: Cli, example: Path) -> None:
    """What a checkpoint stores: its row, the values that are new with it, the writes at it."""
    with SqliteSaver(example) as saver:
        (expected,) = (each.bytes for each in saver.threads() if each.thread_id == "house")
    found = cli.json("show", example, "house", "--subgraphs")["namespaces"]
    # Each stored value is counted once: a fork shares its parent's, and makes its own.
    assert sum(c["bytes"] for each in found for c in each["checkpoints"]) == expected


def test_show_subgraphs(cli: Cli, example: Path) -> None:
    """Subgraphs are named where they ran; --subgraphs shows their histories, --ns one of them."""
    (found,) = cli.json("show", example, "house")["namespaces"]
    calls = [call for each in found["checkpoints"] for call in each["subgraphs"]]
    assert [call["checkpoints"] for call in calls] == [3, 3]
    names = {call["checkpoint_ns"] for call in calls}
    every = cli.json("show", example, "house", "--subgraphs")["namespaces"]
    assert {each["checkpoint_ns"] for each in every} == {"", *names}
    name = names.pop()
    (one,) = cli.json("show", example, "house", "--ns", name[7:20])["namespaces"]
    assert one["checkpoint_ns"] == name
    assert [each["ran"] for each in one["checkpoints"]] == [[], ["__start__"], ["think"]]
    assert "ponder:" in cli.problem("show", example, "house", "--ns", "ponder")


def test_show_errors(cli: Cli, example: Path) -> None:
    """What a node raised is told below the checkpoint that it started from."""
    assert "climb: error: \"ValueError('the stairs are gone')\"" in cli("show", example, "failed")


def test_show_limit(cli: Cli, chains: Path) -> None:
    """The newest are shown; how many are older is told."""
    printed = cells(cli("show", chains, "b", "--limit", "5"))
    assert [row[1] for row in printed] == ["16", "17", "18", "19", "20"]
    assert cli.errors == "… 15 older checkpoints: --limit 0 shows all\n"
    found = cli.json("show", chains, "b", "--limit", "0")["namespaces"][0]
    assert len(found["checkpoints"]) == found["total"] == 20


def test_show_long_threads(cli: Cli, tmp_path: Path) -> None:
    """A long thread is shown to its limit, and as a whole when asked."""
    path = tmp_path / "long.db"
    with SqliteSaver(path) as saver:
        for number in range(1, 2001):
            save(saver, number, {"n": number}, parent=number - 1 or None, metadata={"step": number})
        save(saver, 5000, {"n": 0}, parent=1)
    assert len(cells(cli("show", path, "t"))) == 50
    assert "1,951 older" in cli.errors
    whole = cli("show", path, "t", "--limit", "0").splitlines()
    assert len(whole) == 2002 and whole[1].startswith("● 000001")
    assert whole[2].startswith("├─● 000002") and whole[-1].startswith("● 005000")


def test_show_any_limit(cli: Cli, chains: Path) -> None:
    """Also one that SQLite has no integer for."""
    assert len(cells(cli("show", chains, "b", "--limit", "9" * 20))) == 20


def test_threads_of_subgraphs_only(cli: Cli, tmp_path: Path) -> None:
    """Where the root graph has no checkpoint, what there is is named, and shown when asked."""
    path = tmp_path / "inner.db"
    with SqliteSaver(path) as saver:
        save(saver, 1, {"n": 7}, ns="inner:1")
    for command in ("show", "state"):
        assert "subgraphs only (inner:1)" in cli.problem(command, path, "t")
    (found,) = cli.json("show", path, "t", "--subgraphs")["namespaces"]
    assert (found["checkpoint_ns"], found["total"]) == ("inner:1", 1)
    assert cli.json("state", path, "t", "000001")["values"] == {"n": 7}


def test_checkpoints_whose_parent_is_gone(cli: Cli, tmp_path: Path) -> None:
    """HEAD~1 ends there, and says so."""
    with SqliteSaver(tmp_path / "g.db") as saver:
        save(saver, 2, {"n": 2}, parent=1)
    said = cli.problem("diff", tmp_path / "g.db", "t")
    assert "the first one is HEAD~0; the checkpoint before it, 000001, is gone" in said


def test_delta_channels(cli: Cli, tmp_path: Path) -> None:
    """What LangGraph rebuilds is said to be so; that it changed is told all the same."""
    path = tmp_path / "delta.db"
    builder = StateGraph(graphs.Log)
    builder.add_node("a", lambda state: {"log": ["a"]})
    builder.add_edge(START, "a")
    with SqliteSaver(path) as saver:
        graph = builder.compile(checkpointer=saver)
        graph.invoke({"log": ["in"]}, graphs.config("t"))
        graph.update_state(graphs.config("t"), {"n": 1})
    told = "log = <a DeltaChannel's, which LangGraph rebuilds from writes>\n"
    assert told in cli("state", path, "t")
    assert "log: changed" in cli("diff", path, "t", "HEAD~2", "HEAD~1")
    assert "log" not in cli("diff", path, "t", "HEAD~1", "HEAD")


def test_show_loops(cli: Cli, tmp_path: Path) -> None:
    """Checkpoints that are ancestors of themselves are shown, once each."""
    with SqliteSaver(tmp_path / "loop.db") as saver:
        save(saver, 1, parent=2)
        save(saver, 2, parent=1)
        save(saver, 3, parent=3)
    assert len(cells(cli("show", tmp_path / "loop.db", "t"))) == 3
    assert "HEAD~0" in cli.problem("state", tmp_path / "loop.db", "t", "HEAD~999999999")


def test_missing_thread(cli: Cli, example: Path) -> None:
    """A thread that is not there is a line that says how to find them."""
    for command in ("show", "state", "diff"):
        assert "no thread 'nobody'" in cli.problem(command, example, "nobody")


def test_sends_of_old_formats(cli: Cli, tmp_path: Path) -> None:
    """Before format 4 the Sends of a checkpoint are its parent's writes."""
    with SqliteSaver(tmp_path / "v3.db") as saver:
        save(saver, 1, {"n": 1}, v=3)
        saver.put_writes(place(1), [("__pregel_tasks", Send("look", {}))], "t", "")
        save(saver, 2, {"n": 2}, parent=1, v=3)
    assert cli.json("state", tmp_path / "v3.db", "t")["next"] == ["look"]


def test_nodes_that_wait_for_several(cli: Cli, tmp_path: Path) -> None:
    """A node that waits for two others is next when both have run, and not before."""
    path = tmp_path / "join.db"
    builder = StateGraph(graphs.Talk)
    for name in ("a", "b1", "b2", "c"):
        builder.add_node(name, lambda state: {"messages": [("ai", "done")]})
    for start, end in ((START, "a"), (START, "b1"), ("b1", "b2"), (["a", "b2"], "c")):
        builder.add_edge(start, end)
    with SqliteSaver(path) as saver:
        graph = builder.compile(checkpointer=saver)
        graph.invoke({"turns": 1}, graphs.config("t"))
        states = list(graph.get_state_history(graphs.config("t")))[::-1]
    (found,) = cli.json("show", path, "t")["namespaces"]
    assert [each["next"] for each in found["checkpoints"]] == [sorted(each.next) for each in states]
    assert ["c"] in [each["next"] for each in found["checkpoints"]]


# state


def test_state(cli: Cli, example: Path) -> None:
    """state shows the newest checkpoint: where it is, what is next, and the values."""
    newest = history(example)[-1]
    printed = cli("state", example, "house")
    assert re.search(rf"^checkpoint +{id_at(newest)} \(step 5, loop, .* UTC\)$", printed, re.M)
    assert re.search(r"^next +decide$", printed, re.MULTILINE)
    assert re.search(r"^note +decide: interrupt\({'question'", printed, re.MULTILINE)
    assert "content='Sell the house.'" in printed
    assert re.search(r"^  turns = 41$", printed, re.MULTILINE) and "branch:to" not in printed
    assert "branch:to:decide = None" in cli("state", example, "house", "--all")


def test_state_as_json(cli: Cli, example: Path) -> None:
    """Its JSON has the values, objects with their type, and the metadata."""
    newest = history(example)[-1]
    found = cli.json("state", example, "house")
    assert found["checkpoint_id"] == id_at(newest) and found["next"] == ["decide"]
    assert found["metadata"]["source"] == "loop" and found["values"]["turns"] == 41
    first = found["values"]["messages"][0]
    assert first["@type"] == "langchain_core.messages.human.HumanMessage"
    assert [each["content"] for each in found["values"]["messages"]] == [
        each.content for each in newest.values["messages"]
    ]


def test_state_at_a_checkpoint(cli: Cli, example: Path) -> None:
    """A checkpoint is named by its id, by a part of it, or by its distance from the newest."""
    states = history(example)
    for wanted, state in (
        (id_at(states[4]), states[4]),
        (id_at(states[4])[-10:], states[4]),
        ("HEAD~1", states[7]),
        ("HEAD~3", states[3]),
    ):
        assert cli.json("state", example, "house", wanted)["checkpoint_id"] == id_at(state)
    assert "HEAD~6" in cli.problem("state", example, "house", "HEAD~50")
    assert "give more of it" in cli.problem("state", example, "house", "-")
    assert "no checkpoint 'xyz'" in cli.problem("state", example, "house", "xyz")


def test_state_of_a_subgraph(cli: Cli, example: Path) -> None:
    """A checkpoint of a subgraph is found by its id alone; HEAD with its namespace."""
    calls = cli.json("show", example, "house", "--subgraphs")["namespaces"][1]
    wanted = calls["checkpoints"][-1]["checkpoint_id"]
    found = cli.json("state", example, "house", wanted)
    assert found["checkpoint_ns"] == calls["checkpoint_ns"]
    assert cli.json("state", example, "house", "--ns", calls["checkpoint_ns"]) == found


def test_state_of_a_channel(cli: Cli, example: Path, tmp_path: Path) -> None:
    """--channel shows one value and nothing else; text as it is, line by line."""
    with SqliteSaver(tmp_path / "text.db") as saver:
        save(saver, 1, {"text": "one\ntwo \x1b[31mred", "other": [1]})
    printed = cli("state", tmp_path / "text.db", "t", "--channel", "text")
    assert printed == "one\ntwo \\x1b[31mred\n"
    assert cli.json("state", example, "house", "--channel", "turns")["values"] == {"turns": 41}
    assert "text, other" in cli.problem("state", tmp_path / "text.db", "t", "--channel", "x") or (
        "other, text" in cli.errors
    )


def test_pending_writes(cli: Cli, tmp_path: Path) -> None:
    """What tasks wrote at a checkpoint is shown, by node."""
    with SqliteSaver(tmp_path / "w.db") as saver:
        save(saver, 1, {"n": 1})
        saver.put_writes(place(1), [("n", 2), ("branch:to:b", None)], "t1", "~__pregel_pull, a")
        saver.put_writes(place(1), [("n", 3)], "t2")
    printed = cli("state", tmp_path / "w.db", "t")
    assert "  a: n = 2\n" in printed and "  t2: n = 3\n" in printed and "branch" not in printed
    tasks = cli.json("state", tmp_path / "w.db", "t")["tasks"]
    writes = {each["node"]: [w["value"] for w in each["writes"]] for each in tasks}
    assert writes == {"a": [2, None], "": [3]}


def test_nothing_is_cut_in_a_pipe(cli: Cli, tmp_path: Path) -> None:
    """Long values are whole, and so are long ids."""
    thread = "long-" * 60
    with SqliteSaver(tmp_path / "x.db") as saver:
        save(saver, 1, {"long": "y" * 5000, "many": list(range(1000))}, thread=thread)
    printed = cli("state", tmp_path / "x.db", thread)
    assert "y" * 5000 in printed and "…" not in printed and " 999,\n" in printed
    assert thread in cli("threads", tmp_path / "x.db")


def test_delta_channels_are_named(cli: Cli, tmp_path: Path) -> None:
    """A channel whose value LangGraph rebuilds from writes is said to be one."""
    with SqliteSaver(tmp_path / "d.db") as saver:
        save(
            saver, 1, {"n": 1}, versions={"n": 1, "log": 1},
            metadata={"counters_since_delta_snapshot": {"log": 2}},
        )  # fmt: skip
    assert "log = <a DeltaChannel's" in cli("state", tmp_path / "d.db", "t")


# diff


def test_diff(cli: Cli, example: Path) -> None:
    """diff tells what a step changed; without arguments, the newest one."""
    printed = cli("diff", example, "house")
    assert "messages: +1 item\n" in printed
    assert "\nturns: changed\n  - 40\n  + 41\n" in printed
    assert "  + [6] = AIMessage(content='Good morning.'" in printed
    found = cli.json("diff", example, "house", "HEAD~3", "HEAD")["channels"]
    assert [(each["change"], each["path"]) for each in found["messages"]] == [
        ("added", [number]) for number in (4, 5, 6)
    ]
    assert cli("diff", example, "house", "HEAD", "HEAD").endswith("no channel differs\n")


def test_diff_inside_values(cli: Cli, tmp_path: Path) -> None:
    """Inside dicts, lists and objects it tells what was added, removed and changed."""
    before = {"files": {"a": "1", "b": "2"}, "list": [0, 1, 2, 3], "gone": [1], "same": [1.5]}
    after = {"files": {"a": "x", "c": "3"}, "list": [0, 9, 3], "new": [2], "same": [1.5]}
    with SqliteSaver(tmp_path / "d.db") as saver:
        save(saver, 1, before)
        save(saver, 2, after, parent=1)
    found = cli.json("diff", tmp_path / "d.db", "t")["channels"]
    assert found == {
        "files": [
            {"change": "changed", "path": ["a"], "before": "1", "after": "x"},
            {"change": "removed", "path": ["b"], "before": "2"},
            {"change": "added", "path": ["c"], "after": "3"},
        ],
        "gone": [{"change": "removed", "path": [], "before": [1]}],
        "list": [
            {"change": "changed", "path": [1], "before": 1, "after": 9},
            {"change": "removed", "path": [2], "before": 2},
        ],
        "new": [{"change": "added", "path": [], "after": [2]}],
    }
    printed = cli("diff", tmp_path / "d.db", "t")
    assert "files: +1 item, -1 item, 1 changed\n  - ['a'] = '1'\n  + ['a'] = 'x'\n" in printed
    assert "gone: removed\n  - [1]\n" in printed


def test_diff_of_types(cli: Cli, tmp_path: Path) -> None:
    """Values that are equal and of other types differ; NaN is what it was."""
    with SqliteSaver(tmp_path / "d.db") as saver:
        save(saver, 1, {"a": 1, "b": [True], "c": [float("nan")]})
        save(saver, 2, {"a": True, "b": [1], "c": [float("nan")]}, parent=1)
    assert set(cli.json("diff", tmp_path / "d.db", "t")["channels"]) == {"a", "b"}


# stats


def test_stats(cli: Cli, example: Path) -> None:
    """stats has the figures of saver.stats()."""
    with SqliteSaver(example) as saver:
        expected = saver.stats().as_dict()
    found = cli.json("stats", example)
    del expected["synchronous"]
    assert found == expected and found["journal_mode"] == "wal"
    printed = cli("stats", example)
    assert re.search(r"^threads +3$", printed, re.MULTILINE)
    names = [row[0] for row in cells(printed)]
    assert len(names) == len(found) == len(set(names))


# What looking leaves behind.


def test_looking_changes_nothing(cli: Cli, example: Path, unchanged: Callable[[], bool]) -> None:
    """Neither the file nor its directory: no -wal and no -shm is left beside it."""
    for command in (["threads"], ["stats"], ["check"], ["migrations"]):
        cli(command[0], example)
    for command in (["show"], ["state"], ["diff"]):
        cli(command[0], example, "house")
    assert unchanged()


def test_looking_while_others_write(cli: Cli, own: Path) -> None:
    """What was committed is seen while a saver has the file open, and it goes on writing."""
    with SqliteSaver(own) as saver:
        for number in range(1, 6):
            save(saver, number, {"messages": messages(number)}, thread="new", parent=number - 1)
            found = cli.json("state", own, "new")
            assert found["checkpoint_id"] == id_of(number)
            assert found["values"]["messages"] == messages(number)
        assert len(cli.json("threads", own)["threads"]) == 4


def test_ages(cli: Cli, tmp_path: Path) -> None:
    """Ages are counted back from now; what is none ends with status 2."""
    now = datetime.now(timezone.utc)
    with SqliteSaver(tmp_path / "a.db") as saver:
        for thread, past in (("new", timedelta(minutes=1)), ("old", timedelta(hours=3))):
            save(saver, 1, {"n": 1}, thread=thread, ts=(now - past).isoformat())
    for given, expected in (("90min", "old"), ("2h", "old"), ("1d", None)):
        found = cli.json("threads", tmp_path / "a.db", "--older-than", given)["threads"]
        assert [each["thread_id"] for each in found] == ([expected] if expected else [])
    for wrong in ("soon", "9" * 30 + "d", "2026-13-01"):
        cli.problem("threads", tmp_path / "a.db", "--older-than", wrong, status=2)


def test_json_is_ascii(cli: Cli, tmp_path: Path) -> None:
    """JSON arrives whatever the terminal's encoding, also from text that is none."""
    with SqliteSaver(tmp_path / "u.db") as saver:
        save(saver, 1, {"text": "研究"}, thread="研究")
    printed = cli("threads", tmp_path / "u.db", "--json")
    assert printed.isascii() and json.loads(printed)["threads"][0]["thread_id"] == "研究"


# what a graph did


def test_an_answered_subgraph_is_answered_in_its_caller_too(cli: Cli, tmp_path: Path) -> None:
    """The answer is written in the subgraph's namespace; its caller has gone on."""

    def ask(state: graphs.Talk) -> graphs.Talk:
        return {"log": [interrupt("sure?")]}

    inner = StateGraph(graphs.Talk).add_node("ask", ask).add_edge(START, "ask").compile()
    outer = StateGraph(graphs.Talk).add_node("sub", inner).add_edge(START, "sub")
    path = tmp_path / "agent.db"
    with SqliteSaver(path) as saver:
        graph = outer.compile(checkpointer=saver)
        graph.invoke({"log": []}, graphs.config("t"))
        assert tasks_with_interrupts(cli.json("show", path, "t")) == [("sub", False)]
        graph.invoke(Command(resume="yes"), graphs.config("t"))
    assert tasks_with_interrupts(cli.json("show", path, "t")) == [("sub", True)]


def test_only_what_was_interrupted_and_answered_is_called_resumed(cli: Cli, tmp_path: Path) -> None:
    """Not every task that ran; and not one that waits again, at its second interrupt."""

    def ask(state: graphs.Talk) -> graphs.Talk:
        return {"log": [interrupt("one?"), interrupt("two?")]}

    builder = StateGraph(graphs.Talk)
    builder.add_node("ask", ask).add_node("beside", lambda state: {"log": ["ran"]})
    builder.add_edge(START, "ask").add_edge(START, "beside")
    path = tmp_path / "agent.db"

    def resumed() -> dict[str, bool]:
        (shown,) = cli.json("show", path, "t")["namespaces"]
        return {t["node"]: t["resumed"] for each in shown["checkpoints"] for t in each["tasks"]}

    with SqliteSaver(path) as saver:
        graph = builder.compile(checkpointer=saver)
        graph.invoke({"log": []}, graphs.config("t"))
        for answer in ("first", "second"):
            assert resumed() == {"__start__": False, "ask": False, "beside": False}
            assert "answered" not in cli("show", path, "t")
            graph.invoke(Command(resume=answer), graphs.config("t"))
    assert resumed() == {"__start__": False, "ask": True, "beside": False}
    assert "interrupt('two?'), answered" in cli("show", path, "t")
    (waited,) = (
        each for each in cli.json("state", path, "t", "HEAD~1")["tasks"] if each["resumed"]
    )
    assert waited["node"] == "ask"


def tasks_with_interrupts(shown: Any) -> list[tuple[str, bool]]:
    steps = [step for each in shown["namespaces"] for step in each["checkpoints"]]
    return [(t["node"], t["resumed"]) for step in steps for t in step["tasks"] if t["interrupts"]]


def test_what_was_given_up_did_not_run(cli: Cli, tmp_path: Path) -> None:
    """New input at a checkpoint whose next node had not run: that node made nothing of it."""
    builder = StateGraph(graphs.Talk)
    for name in ("one", "two"):
        builder.add_node(name, lambda state, name=name: {"log": [name]})
    builder.add_edge(START, "one").add_edge("one", "two")
    path = tmp_path / "agent.db"
    with SqliteSaver(path) as saver:
        graph = builder.compile(checkpointer=saver)
        graph.invoke({"log": []}, graphs.config("t"))
        before = next(s for s in graph.get_state_history(graphs.config("t")) if s.next == ("two",))
        graph.invoke({"log": ["new"]}, before.config)
    (shown,) = cli.json("show", path, "t")["namespaces"]
    ran = [(step["source"], step["ran"]) for step in shown["checkpoints"]]
    assert [each for each in ran if each[0] == "input"] == [("input", [])] * 2
    assert [names for _, names in ran if names] == [
        ["__start__"], ["one"], ["two"], ["__start__"], ["one"], ["two"],
    ]  # fmt: skip


def test_minutes_are_no_months(cli: Cli, chains: Path) -> None:
    """6m may be meant as either, and is refused where threads would be deleted."""
    assert "90min" in cli.problem("expire", chains, "--older-than", "6m", "--yes", status=2)
    assert cli.json("threads", chains)["total"] == 3


def test_no_thread_is_said(cli: Cli, chains: Path) -> None:
    """Where none matches there is no bare heading."""
    assert cli("threads", chains, "--match", "nothing") == ""
