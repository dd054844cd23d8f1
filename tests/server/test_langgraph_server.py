"""LangGraph's own server, started as its users start it, keeps its threads in our file."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from langgraph_sqlite_saver import SqliteSaver

from .running import LangGraphServer, until

pytest.importorskip("langgraph_api", reason="LangGraph's server needs Python 3.11")

GRAPH = "talk"
GUESTS = [f"guest {number}" for number in range(8)]
Start = Callable[..., LangGraphServer]


def new_thread(server: LangGraphServer) -> str:
    return str(server.client.threads.create()["thread_id"])


def spoken(text: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}]}


def contents(values: Any) -> list[str]:
    """Every message of a state; its notes must be those of the messages it heard."""
    messages = [str(message["content"]) for message in values["messages"]]
    assert values["notes"] == [text for text in messages if text.startswith("heard ")]
    return messages


def say(server: LangGraphServer, thread: str, text: str, **options: Any) -> list[str]:
    """Run the graph on a message; every message there is when it ends or interrupts."""
    return contents(server.client.runs.wait(thread, GRAPH, input=spoken(text), **options))


def answer(server: LangGraphServer, thread: str, text: str) -> list[str]:
    """Resume from the interrupt."""
    return contents(server.client.runs.wait(thread, GRAPH, command={"resume": text}))


def said(server: LangGraphServer, thread: str) -> list[str]:
    """Every message of the thread's state."""
    return contents(server.client.threads.get_state(thread)["values"])


def waits_in(server: LangGraphServer, thread: str) -> list[str]:
    """The nodes that the thread's state would go on with."""
    return list(server.client.threads.get_state(thread)["next"])


def start_staying(server: LangGraphServer, thread: str) -> str:
    """A run that has saved checkpoints and does not end; its id."""
    run = server.client.runs.create(thread, GRAPH, input=spoken("stay"))["run_id"]
    until(lambda: waits_in(server, thread) == ["stay"], "the run to stay")
    assert server.rows("run_id", run)["checkpoints"] > 1
    return str(run)


def converse(server: LangGraphServer, name: str) -> str:
    """A message, a question that interrupts, and the answer to that; the thread."""
    thread = new_thread(server)
    say(server, thread, f"I am {name}")
    say(server, thread, f"{name}?")
    assert waits_in(server, thread) == ["think"]
    answer(server, thread, f"yes, {name}")
    return thread


def conversation(name: str) -> list[str]:
    """What `converse` leaves."""
    return [f"I am {name}", f"heard I am {name}", f"{name}?", f"heard {name}?", f"told yes, {name}"]


def converse_at_once(server: LangGraphServer, *names: str) -> list[str]:
    """A conversation for each name, all at the same time; their threads."""
    with ThreadPoolExecutor(len(names)) as guests:
        threads = list(guests.map(lambda name: converse(server, name), names))
    assert [said(server, thread) for thread in threads] == [conversation(n) for n in names]
    return threads


# --- starting


def test_the_start_names_our_saver_and_nothing_missing(server: LangGraphServer) -> None:
    """One line of langgraph.json is enough; the server finds every method it looks for."""
    log = [event["event"] for event in server.events()]
    assert "Using custom checkpointer: AsyncSqliteSaver" in log
    assert [event for event in log if "missing" in event] == []
    assert server.database.exists()


# --- talking


def test_eight_conversations_at_once_with_interrupts(server: LangGraphServer) -> None:
    """Each thread has its own messages, in order, and each interrupt its own answer."""
    converse_at_once(server, *GUESTS)


def test_workers_with_event_loops_of_their_own(start: Start) -> None:
    """BG_JOB_ISOLATED_LOOPS: a saver for each thread, all on one file."""
    server = start(BG_JOB_ISOLATED_LOOPS="true")
    converse_at_once(server, *GUESTS)
    server.stop()
    log = [event["event"] for event in server.events()]
    assert log.count("Using custom checkpointer: AsyncSqliteSaver") > 2
    assert server.problems() == []


def test_two_servers_may_share_a_file(start: Start, tmp_path: Path) -> None:
    """They save at once, and a thread of the one, made known by its id, is there for the other."""
    file = str(tmp_path / "both.db")
    here, there = start(LANGGRAPH_SQLITE_PATH=file), start(LANGGRAPH_SQLITE_PATH=file)
    with ThreadPoolExecutor(2) as pool:
        threads, _ = pool.map(lambda server: converse_at_once(server, *GUESTS[:4]), (here, there))
    there.client.threads.create(thread_id=threads[0], graph_id=GRAPH)
    assert said(there, threads[0]) == conversation(GUESTS[0])
    for server in (here, there):
        server.stop()
        assert server.problems() == []


def test_history_is_what_the_file_holds(server: LangGraphServer) -> None:
    """Newest first, with the states of then; read by another process while the server runs."""
    thread = converse(server, "historian")
    history = server.client.threads.get_history(thread, limit=100)
    assert [contents(state["values"]) for state in history if not state["next"]] == [
        conversation("historian")[:length] for length in (5, 2)
    ]
    with SqliteSaver(server.database) as saver:
        stored = list(saver.list({"configurable": {"thread_id": thread, "checkpoint_ns": ""}}))
    assert [each.config["configurable"]["checkpoint_id"] for each in stored] == [
        state["checkpoint"]["checkpoint_id"] for state in history
    ]


def test_a_run_from_an_earlier_checkpoint_forks(server: LangGraphServer) -> None:
    """The fork goes on from the state of then, and the other branch stays in the history."""
    thread = new_thread(server)
    start = say(server, thread, "hello")
    checkpoint = server.client.threads.get_state(thread)["checkpoint"]["checkpoint_id"]
    say(server, thread, "this way")
    then = server.client.threads.get_history(thread, limit=100)
    forked = [*start, "that way", "heard that way"]
    assert say(server, thread, "that way", checkpoint_id=checkpoint) == forked
    assert said(server, thread) == forked
    now = server.client.threads.get_history(thread, limit=100)
    assert now[-len(then) :] == then


def test_an_update_of_the_state_is_a_checkpoint(server: LangGraphServer) -> None:
    """What a client writes into a thread is there for the next run."""
    thread = new_thread(server)
    say(server, thread, "hello")
    server.client.threads.update_state(thread, spoken("a word from outside"), as_node="stay")
    after = ["hello", "heard hello", "a word from outside"]
    assert said(server, thread) == after
    assert say(server, thread, "go on") == [*after, "go on", "heard go on"]


# --- copying and deleting


def test_a_copied_thread_goes_its_own_way(server: LangGraphServer) -> None:
    """The copy has the history and the open interrupt; neither thread sees what the other does."""
    thread = new_thread(server)
    asked = say(server, thread, "which way?")
    copy = server.client.threads.copy(thread)["thread_id"]
    assert server.rows("thread_id", copy) == server.rows("thread_id", thread)
    assert answer(server, copy, "left") == [*asked, "told left"]
    assert waits_in(server, thread) == ["think"]
    assert answer(server, thread, "right") == [*asked, "told right"]
    assert said(server, copy) == [*asked, "told left"]


def test_a_run_that_is_rolled_back_leaves_nothing(server: LangGraphServer) -> None:
    """Cancelled with action="rollback": the thread is as it was before the run."""
    thread = new_thread(server)
    before = say(server, thread, "hello")
    stored = server.rows("thread_id", thread)
    run = start_staying(server, thread)
    server.client.runs.cancel(thread, run, action="rollback", wait=True)
    until(lambda: server.rows("run_id", run) == {}, "the rollback")
    assert server.rows("thread_id", thread) == stored
    assert said(server, thread) == before
    assert say(server, thread, "again") == [*before, "again", "heard again"]


def test_a_run_that_another_one_rolls_back_leaves_nothing(server: LangGraphServer) -> None:
    """multitask_strategy="rollback": the next run starts from before the one under way."""
    thread = new_thread(server)
    before = say(server, thread, "hello")
    run = start_staying(server, thread)
    after = say(server, thread, "rather this", multitask_strategy="rollback")
    assert after == [*before, "rather this", "heard rather this"] == said(server, thread)
    assert server.rows("run_id", run) == {}


def test_a_run_that_is_interrupted_keeps_what_it_saved(server: LangGraphServer) -> None:
    """Cancelled with action="interrupt": its checkpoints stay, and the thread can go on."""
    thread = new_thread(server)
    run = start_staying(server, thread)
    server.client.runs.cancel(thread, run, action="interrupt", wait=True)
    assert said(server, thread) == ["stay", "heard stay"]
    assert say(server, thread, "enough") == ["stay", "heard stay", "enough", "heard enough"]


def test_the_file_holds_nothing_of_threads_that_went(server: LangGraphServer) -> None:
    """Deleted or pruned: no row of any table, of no namespace. The other threads stay."""
    threads = converse_at_once(server, "a ghost", "a shadow", "a neighbour")
    ghost, shadow, neighbour = threads
    stored = [server.rows("thread_id", thread) for thread in threads]
    assert all(rows.keys() >= {"checkpoints", "checkpoint_blobs"} for rows in stored)
    server.client.threads.delete(ghost)
    assert server.client.threads.prune([shadow], strategy="delete") == {"pruned_count": 1}
    assert [server.rows("thread_id", thread) for thread in threads] == [{}, {}, stored[2]]
    assert said(server, neighbour) == conversation("a neighbour")


# --- ending and starting again


def test_a_restarted_server_goes_on(start: Start) -> None:
    """Threads, states, histories and open interrupts are there; the interrupt can be answered."""
    server = start()
    thread = new_thread(server)
    asked = say(server, thread, "still there?")
    history = server.client.threads.get_history(thread, limit=100)
    server.stop()
    server.start()
    assert server.client.threads.get_history(thread, limit=100) == history
    assert waits_in(server, thread) == ["think"]
    assert answer(server, thread, "yes") == [*asked, "told yes"]
    server.stop()
    assert server.problems() == []


def test_a_server_that_crashed_and_lost_its_list_of_threads(start: Start) -> None:
    """Threads that it no longer knows, made again by their ids, have state and history."""
    server = start()
    thread = new_thread(server)
    before = say(server, thread, "hello")
    history = server.client.threads.get_history(thread, limit=100)
    server.kill()
    shutil.rmtree(server.folder / ".langgraph_api")
    server.start()
    server.client.threads.create(thread_id=thread, graph_id=GRAPH)
    assert server.client.threads.get_history(thread, limit=100) == history
    assert say(server, thread, "again") == [*before, "again", "heard again"]


# --- settings


def test_the_variables_name_the_file_and_the_key(start: Start, server: LangGraphServer) -> None:
    """LANGGRAPH_SQLITE_PATH and LANGGRAPH_AES_KEY: what is said cannot be read in the file.

    Started with the other spelling of the checkpointer's path, with dots throughout.
    """
    secret = start(
        checkpointer="langgraph_sqlite_saver.server.checkpointer",
        LANGGRAPH_SQLITE_PATH="elsewhere/agent.db",
        LANGGRAPH_AES_KEY="0123456789abcdef",
    )
    for each, legible in ((server, True), (secret, False)):
        thread = new_thread(each)
        assert say(each, thread, "abracadabra") == ["abracadabra", "heard abracadabra"]
        files = each.database.parent.glob(f"{each.database.name}*")
        assert any(b"abracadabra" in file.read_bytes() for file in files) == legible
    assert not (secret.folder / ".langgraph_sqlite").exists()
