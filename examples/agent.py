"""A research agent that survives being killed, forks its past, and runs 20 threads at once.

The agent is LangChain's own `create_agent` with three tools that search and read the sources of
Python's standard library and write a report once a person has approved it.  Only the chat model
is scripted, so the demo needs neither network nor API key and always does the same thing.

    python examples/agent.py               # works in a temporary directory
    python examples/agent.py --keep DIR    # leaves the database and the reports in DIR
"""

import argparse
import asyncio
import json
import os
import platform
import re
import signal
import sqlite3
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from subprocess import PIPE
from typing import Any
from uuid import uuid4

from langchain.agents import create_agent
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.runnables import RunnableConfig
from langchain_core.tools import BaseTool, tool
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.checkpoint.sqlite import SqliteSaver as OfficialSaver
from langgraph.graph.state import CompiledStateGraph
from langgraph.types import Command, StateSnapshot, interrupt

from langgraph_sqlite_saver import AsyncSqliteSaver, SqliteSaver

STDLIB = Path(sysconfig.get_paths()["stdlib"])
REPORT: RunnableConfig = {"configurable": {"thread_id": "report"}}
QUESTION = r"In `asyncio`, find `^class \w+Error\b` and save it as `errors.txt`."
OTHER_QUESTION = r"In `asyncio`, find `^async def \w+` and save it as `coroutines.txt`."
SOURCES = sorted(STDLIB.glob("[a-z]*.py"), key=lambda path: path.stat().st_size)
MODULES = sorted(path.stem for path in SOURCES[-20:])  # the 20 largest
TURNS = 60  # of the conversation that two savers keep


# --- The tools ------------------------------------------------------------------------------


def source_files(name: str) -> dict[str, Path]:
    """Map dotted module names to files: one for a module, several for a package."""
    if not re.fullmatch(r"\w+(\.\w+)*", name):  # a model's argument must not leave the stdlib
        raise ValueError(f"not a module name: {name!r}")
    path = STDLIB.joinpath(*name.split("."))
    if path.is_dir():
        return {f"{name}.{file.stem}": file for file in sorted(path.glob("*.py"))}
    return {name: path.with_suffix(".py")}


def source_lines(path: Path) -> list[str]:
    """Split at newlines only, so that the line numbers are those an editor shows."""
    return path.read_text(encoding="utf-8").split("\n")


@tool
def search_stdlib(pattern: str, within: str) -> str:
    """Search a standard library module or package; give `module:line: text` for each match."""
    return "\n".join(
        f"{module}:{number}: {line}"
        for module, path in source_files(within).items()
        for number, line in enumerate(source_lines(path), 1)
        if re.search(pattern, line)
    )


@tool
def read_source(module: str, start: int, lines: int) -> str:
    """Read some lines of a standard library module, counting from 1."""
    (path,) = source_files(module).values()
    return "\n".join(source_lines(path)[start - 1 : start - 1 + lines])


def report_tool(folder: Path) -> BaseTool:
    """Make the one tool with a side effect; it writes to `folder` and nowhere else."""

    @tool
    def write_report(name: str, text: str) -> str:
        """Write a report, once a person has approved it."""
        # The first run stops here.  On resume the tool starts again from its first line and
        # interrupt() returns the answer, so nothing above this line may have a side effect.
        answer = interrupt({"name": name, "text": text})
        if not answer["approved"]:
            return f"{name} was not approved"
        (folder / Path(name).name).write_text(
            f"{text}\nApproved by {answer['by']}.\n", encoding="utf-8"
        )
        return f"{name} was written, approved by {answer['by']}"

    return write_report


# --- The model ------------------------------------------------------------------------------


class ScriptedModel(BaseChatModel):
    """Stands in for an LLM: reads the conversation and decides on the next tool call.

    It keeps no state of its own.  All it knows is in the messages, which is why the agent can go
    on from a checkpoint in another process as if nothing had happened.
    """

    @property
    def _llm_type(self) -> str:
        return "scripted"

    def bind_tools(self, tools: Sequence[Any], **kwargs: Any) -> "ScriptedModel":
        return self  # the script knows its tools

    def _generate(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> ChatResult:
        return ChatResult(generations=[ChatGeneration(message=next_message(messages))])


def next_message(messages: list[BaseMessage]) -> AIMessage:
    """Search, then read around the last match, then report if asked to, then answer."""
    question = next(m for m in reversed(messages) if isinstance(m, HumanMessage))
    results = [m.text for m in messages[messages.index(question) :] if isinstance(m, ToolMessage)]
    within, pattern, *report = re.findall("`(.+?)`", question.text)
    if not results:
        return call("search_stdlib", pattern=pattern, within=within)
    hits = results[0].splitlines()
    if not hits:
        return AIMessage(f"{within}: no match")
    module, number, _ = hits[-1].split(":", 2)
    if len(results) == 1:
        return call("read_source", module=module, start=int(number), lines=6)
    if report and len(results) == 2:
        text = f"# {within}: {pattern}\n\n{results[0]}\n\n## {hits[-1]}\n\n{results[1]}\n"
        return call("write_report", name=report[0], text=text)
    first_line = results[1].split("\n")[0]
    answer = f"{within}: {len(hits)} matches, the last in {module}, line {number}: {first_line}"
    return AIMessage("; ".join([answer, *results[2:]]))


def call(name: str, /, **arguments: Any) -> AIMessage:
    """Build the message with which a chat model asks for a tool."""
    tool_call = {"name": name, "args": arguments, "id": str(uuid4())}
    return AIMessage("", tool_calls=[tool_call])


def build_agent(saver: BaseCheckpointSaver, folder: Path) -> CompiledStateGraph:
    """Put together model, tools and checkpointer; this is all the wiring there is."""
    tools = [search_stdlib, read_source, report_tool(folder)]
    return create_agent(ScriptedModel(), tools, checkpointer=saver)


# --- What the child processes do ------------------------------------------------------------


def child_work(folder: Path) -> None:
    """Run up to the interrupt, tell the parent, and wait with the database still open."""
    with SqliteSaver(folder / "agent.db") as saver:
        agent = build_agent(saver, folder)
        result = agent.invoke({"messages": [HumanMessage(QUESTION)]}, REPORT)
        print(json.dumps(result["__interrupt__"][0].value))
        sys.stdin.read()  # ends when the parent goes away, so that no child is left behind


def child_resume(folder: Path) -> None:
    """Answer the interrupt that another process left in the file; print it and what ran then."""
    with SqliteSaver(folder / "agent.db") as saver:
        agent = build_agent(saver, folder)
        asked = [pending.value for pending in agent.get_state(REPORT).interrupts]
        answer = Command(resume={"approved": True, "by": "Ada"})
        ran = [node for step in agent.stream(answer, REPORT) for node in step]
        print(json.dumps({"asked": asked, "ran": ran}))


def child_command(step: str, folder: Path) -> list[str]:
    """Start this script again with the same interpreter and warning filters."""
    options = [f"-W{option}" for option in sys.warnoptions]
    return [sys.executable, *options, __file__, "--keep", str(folder), step]


# --- The acts -------------------------------------------------------------------------------


class DemoError(Exception):
    """Something isn't as it should be."""


def check(is_so: bool, claim: str) -> None:
    """Print the claim if it holds, stop the demo if it doesn't."""
    if not is_so:
        raise DemoError(f"this is not so: {claim}")
    print(f"  [ok] {claim}")


def show(label: str, text: object) -> None:
    print(f"  {label:<12} {text}")


def act_1_killed(folder: Path) -> dict[str, str]:
    """Let a child work up to the interrupt and kill it; return what it asked for."""
    show("question", QUESTION)
    command = child_command("work", folder)
    with subprocess.Popen(command, stdin=PIPE, stdout=PIPE, encoding="utf-8") as child:
        watchdog = threading.Timer(60, child.kill)  # in case it never gets that far
        watchdog.daemon = True
        watchdog.start()
        line = child.stdout.readline() if child.stdout else ""
        watchdog.cancel()
        child.kill()  # SIGKILL: the child gets no chance to close anything
    check(bool(line), "the agent searched, read, and asks for approval")
    request = json.loads(line)
    show("asks", f"may I write {request['name']}? ({len(request['text']):,} characters)")
    show("files", ", ".join(f"{f.name} {f.stat().st_size:,} B" for f in sorted(folder.iterdir())))
    check(child.returncode == -signal.SIGKILL, f"process {child.pid} was killed with SIGKILL")
    check(not (folder / request["name"]).exists(), "no report has been written")
    return request


def act_2_resumed(folder: Path, request: dict[str, str]) -> None:
    """Let a new process approve the report, and compare it with what was asked in act 1."""
    command = child_command("resume", folder)
    child = subprocess.run(command, stdout=PIPE, encoding="utf-8", timeout=60)
    check(child.returncode == 0, "a new process took the thread from the file")
    outcome = json.loads(child.stdout)
    check(outcome["asked"] == [request], "it found the same question waiting, and approved")
    check(outcome["ran"] == ["tools", "model"], "only the unfinished steps were run")
    report = (folder / "errors.txt").read_text(encoding="utf-8")
    check(report == f"{request['text']}\nApproved by Ada.\n", "errors.txt has the approved content")
    for line in [line for line in report.splitlines() if ": class " in line][:3]:
        show("errors.txt", line)


def act_3_forked(folder: Path) -> None:
    """Fork the finished thread, and compare the branches."""
    errors = (folder / "errors.txt").read_bytes()
    with SqliteSaver(folder / "agent.db") as saver:
        agent = build_agent(saver, folder)
        before = list(agent.get_state_history(REPORT))
        ask_instead(agent, before)
        after = list(agent.get_state_history(REPORT))
        branches = [agent.get_state(head).values["messages"] for head in heads(after)]
    show("checkpoints", f"{len(before)} before, {len(after)} after")
    for messages in branches:
        show("question", messages[0].text)
        show("answer", messages[-1].text.split(": ")[1])
    questions = [messages[0].text for messages in branches]
    check(questions == [OTHER_QUESTION, QUESTION], "the thread has two branches, new and old")
    check([s for s in after if s in before] == before, "the old branch is unchanged")
    check((folder / "errors.txt").read_bytes() == errors, "the old report is unchanged")
    report = (folder / "coroutines.txt").read_text(encoding="utf-8")
    lines = [line for path in source_files("asyncio").values() for line in source_lines(path)]
    there = [line for line in lines if line.startswith("async def ")]
    check(all(line in report for line in there), f"the new report has all {len(there)} coroutines")


def ask_instead(agent: CompiledStateGraph, history: list[StateSnapshot]) -> None:
    """Go back to the moment after the question, put another one there, and run on."""
    past = next(s for s in history if len(s.values.get("messages", [])) == 1)
    # A message with the id of an existing one replaces it instead of being appended.
    question = HumanMessage(OTHER_QUESTION, id=past.values["messages"][0].id)
    fork = agent.update_state(past.config, {"messages": [question]})
    agent.invoke(None, fork)
    agent.invoke(Command(resume={"approved": True, "by": "Grace"}), REPORT)


def heads(history: list[StateSnapshot]) -> list[RunnableConfig]:
    """Pick the checkpoints that are nobody's parent: the ends of the branches, newest first."""
    parents = [snapshot.parent_config for snapshot in history]
    return [snapshot.config for snapshot in history if snapshot.config not in parents]


async def act_4_concurrent(folder: Path) -> None:
    """Ask about 20 modules in 20 threads at once, all in one file."""

    async def ask(module: str) -> str:
        question = HumanMessage(rf"In `{module}`, find `^(async def|def|class) `.")
        config: RunnableConfig = {"configurable": {"thread_id": module}}
        await agent.ainvoke({"messages": [question]}, config)
        # Take the answer from the file, not from the run: the file is what is shown to work.
        return (await agent.aget_state(config)).values["messages"][-1].text

    async with AsyncSqliteSaver(folder / "agent.db") as saver:
        agent = build_agent(saver, folder)
        answers = await asyncio.gather(*map(ask, MODULES))
    for answer in answers[:3]:
        show("answer", answer.split(",")[0])
    wrong = [m for m, answer in zip(MODULES, answers, strict=True) if answer != expected(m)]
    for module in wrong:
        show("wrong", module)
    check(not wrong, f"{len(answers)} agents at once, and every answer is right")


def expected(module: str) -> str:
    """Find the right answer without agent, tools or regular expressions."""
    with (STDLIB / f"{module}.py").open(encoding="utf-8") as source:
        hits = [
            (number, line.rstrip("\n"))
            for number, line in enumerate(source, 1)
            if line.startswith(("async def ", "def ", "class "))
        ]
    number, line = hits[-1]
    return f"{module}: {len(hits)} matches, the last in {module}, line {number}: {line}"


def act_5_file(folder: Path) -> None:
    """Say what the file holds, back it up, and let plain SQLite have a look at it."""
    with SqliteSaver(folder / "agent.db") as saver:
        threads, stats = saver.threads(), saver.stats()
        saver.backup(folder / "backup.db")
    for t in sorted(threads, key=lambda t: -t.bytes)[:3]:
        last = f"{t.last_ts.astimezone():%H:%M:%S}" if t.last_ts else "unknown"
        show(t.thread_id, f"{t.checkpoints} checkpoints, {t.bytes:,} B, last at {last}")
    show("...", f"and {len(threads) - 3} more threads")
    show("in all", f"{stats.checkpoints} checkpoints, {stats.blobs} blobs, {stats.writes} writes")
    show("file size", f"{stats.file_bytes:,} B")
    names = {"report", *MODULES}
    check({t.thread_id for t in threads} == names, f"threads() lists all {len(names)} threads")
    counts = (len(threads), sum(t.checkpoints for t in threads))
    check((stats.threads, stats.checkpoints) == counts, "stats() gives the same totals")
    for name in ("agent.db", "backup.db"):
        with closing(sqlite3.connect(folder / name)) as plain:
            verdict = plain.execute("PRAGMA integrity_check").fetchall()
        check(verdict == [("ok",)], f"PRAGMA integrity_check: {name} is sound")
    with SqliteSaver(folder / "backup.db") as saver:
        check(saver.threads() == threads, "the backup holds the same threads")


def act_6_compared(folder: Path) -> None:
    """Let one agent talk with two savers, and compare the files."""
    sizes: dict[str, int] = {}
    started = time.perf_counter()
    for name, kind in (("official", OfficialSaver), ("here", SqliteSaver)):
        path = folder / f"{name}.db"
        with kind.from_conn_string(str(path)) as saver:
            agent = build_agent(saver, folder)
            for turn in range(TURNS):
                module = MODULES[turn % len(MODULES)]
                question = HumanMessage(rf"In `{module}`, find `^(async def|def|class) `.")
                agent.invoke({"messages": [question]}, {"configurable": {"thread_id": "chat"}})
        sizes[name] = path.stat().st_size
    seconds = time.perf_counter() - started
    show("chat", f"{TURNS} questions with each of the two savers, in {seconds:.0f} s")
    show("official", f"{sizes['official']:,} B by langgraph-checkpoint-sqlite")
    times = sizes["official"] / sizes["here"]
    show("this one", f"{sizes['here']:,} B by langgraph-sqlite-saver: {times:.0f} times smaller")
    check(sizes["here"] * 5 < sizes["official"], "the same conversation in a fraction of the space")


def act_7_shown(folder: Path) -> None:
    """Show the thread with the fork by the command line."""
    show("command", "langgraph-sqlite show agent.db report")
    show("reads", "each ● is a checkpoint, oldest first; at ├─● the older branch goes its own way")
    command = [sys.executable, "-m", "langgraph_sqlite_saver.cli", "show"]
    shown = subprocess.run(
        [*command, str(folder / "agent.db"), "report"], stdout=PIPE, encoding="utf-8", timeout=60
    )
    print(shown.stdout)
    check(shown.returncode == 0, "a history with its fork, read without the agent's code")


def run_acts(folder: Path) -> None:
    """Play all the acts in one directory; each one verifies its own results."""
    if (folder / "agent.db").exists():
        raise DemoError(f"{folder} already holds an agent.db; please choose another directory")
    print(f"Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}, in {folder}")
    print("\n1. An agent is killed while it waits for approval")
    request = act_1_killed(folder)
    print("\n2. Another process resumes it")
    act_2_resumed(folder, request)
    print("\n3. A fork from the past")
    act_3_forked(folder)
    print(f"\n4. {len(MODULES)} threads at once")
    asyncio.run(act_4_concurrent(folder))
    print("\n5. What the file holds")
    act_5_file(folder)
    print("\n6. One conversation, saved by the official saver and by this one")
    act_6_compared(folder)
    print("\n7. The thread with the fork, as the command line shows it")
    act_7_shown(folder)
    print("\nEverything is as it should be.")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--keep", metavar="DIR", type=Path, help="work in DIR and leave the files")
    parser.add_argument("child", nargs="?", choices=("work", "resume"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    sys.stdout.reconfigure(line_buffering=True)  # keeps the order right when piped
    os.environ["LANGSMITH_TRACING_V2"] = "false"  # no network, whatever is set outside
    if options.child:
        {"work": child_work, "resume": child_resume}[options.child](options.keep)
        return 0
    try:
        if options.keep:
            options.keep.mkdir(parents=True, exist_ok=True)
            run_acts(options.keep)
        else:
            with tempfile.TemporaryDirectory(prefix="agent-demo-") as folder:
                run_acts(Path(folder))
    except DemoError as error:
        print(f"\nFAILED: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
