"""`server.checkpointer`: what the server enters, without a server."""

from __future__ import annotations

import asyncio
import json
import re
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, closing
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest
from langgraph.checkpoint.base import empty_checkpoint

from langgraph_sqlite_saver import DatabaseClosedError, NotADatabaseError
from langgraph_sqlite_saver.server import checkpointer

from .running import PATH

PAGE = Path(__file__).parents[2] / "docs/server.md"
DEFAULT = Path(".langgraph_sqlite/checkpoints.db")


@pytest.fixture(autouse=True)
def working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty directory to work in, and no variable set."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LANGGRAPH_SQLITE_PATH", raising=False)
    monkeypatch.delenv("LANGGRAPH_AES_KEY", raising=False)
    return tmp_path


def place(thread: str) -> Any:
    return {"configurable": {"thread_id": thread, "checkpoint_ns": ""}}


async def save(saver: Any, thread: str, **values: Any) -> None:
    checkpoint = {
        **empty_checkpoint(),
        "channel_values": values,
        "channel_versions": dict.fromkeys(values, 1),
    }
    await saver.aput(place(thread), checkpoint, {}, dict.fromkeys(values, 1))


async def values_of(saver: Any, thread: str) -> Any:
    found = await saver.aget_tuple(place(thread))
    return found and found.checkpoint["channel_values"]


async def enter_and_save(thread: str, **values: Any) -> None:
    async with checkpointer() as saver:
        await save(saver, thread, **values)


async def enter_and_read(thread: str) -> Any:
    async with checkpointer() as saver:
        return await values_of(saver, thread)


# --- the file


def test_the_default_file_is_kept_out_of_git() -> None:
    """A folder in the working directory, which git is told to ignore."""
    asyncio.run(enter_and_save("1", said="hello"))
    assert sorted(path.name for path in DEFAULT.parent.iterdir()) == [".gitignore", DEFAULT.name]
    assert (DEFAULT.parent / ".gitignore").read_text() == "*\n"
    assert asyncio.run(enter_and_read("1")) == {"said": "hello"}


def test_a_gitignore_that_is_there_stays() -> None:
    """Whoever wants the file in git can have it."""
    ignored = DEFAULT.parent / ".gitignore"
    ignored.parent.mkdir()
    ignored.write_text("")
    asyncio.run(enter_and_save("1"))
    assert ignored.read_text() == ""


@pytest.mark.parametrize("form", ["{}", "file:{}?mode=rwc"])
def test_the_variable_names_the_file(
    form: str, working_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A path or an SQLite URI; missing folders are made, and nothing but the file is put there."""
    path = working_directory / "data" / "agents" / "server.db"
    monkeypatch.setenv("LANGGRAPH_SQLITE_PATH", form.format(path))
    asyncio.run(enter_and_save("1", said="hello"))
    assert list(path.parent.iterdir()) == [path]
    assert list(working_directory.iterdir()) == [working_directory / "data"]


def test_an_empty_variable_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a line `LANGGRAPH_SQLITE_PATH=` in an .env file sets it."""
    monkeypatch.setenv("LANGGRAPH_SQLITE_PATH", "")
    asyncio.run(enter_and_save("1"))
    assert DEFAULT.exists()


def test_a_file_that_cannot_be_used_is_named_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server does not start on what is no database, and leaves it alone."""
    Path("notes.txt").write_text("not a database, but long enough to look like one " * 20)
    monkeypatch.setenv("LANGGRAPH_SQLITE_PATH", "notes.txt")
    with pytest.raises(NotADatabaseError, match=r"notes\.txt"):
        asyncio.run(enter_and_read("1"))


# --- the savers


def test_threads_with_loops_of_their_own_share_the_file() -> None:
    """Entered in each of two threads at once: what one has saved, the other one reads."""
    both = Barrier(2, timeout=30)

    async def talk(me: str, other: str) -> Any:
        async with checkpointer() as saver:
            both.wait()
            for number in range(20):
                await save(saver, f"{me} {number}", by=me)
            both.wait()
            return [await values_of(saver, f"{other} {number}") for number in range(20)]

    with ThreadPoolExecutor(2) as pool:
        answers = pool.map(lambda pair: asyncio.run(talk(*pair)), [("a", "b"), ("b", "a")])
        assert list(answers) == [[{"by": "b"}] * 20, [{"by": "a"}] * 20]
    # Both have closed it: the last one out leaves no -wal.
    assert sorted(path.name for path in DEFAULT.parent.iterdir()) == [".gitignore", DEFAULT.name]


def test_leaving_closes_the_saver() -> None:
    """What the server still holds of it at its end refuses to work."""

    async def leave() -> Any:
        async with checkpointer() as saver:
            await save(saver, "1")
        return saver

    saver = asyncio.run(leave())
    with pytest.raises(DatabaseClosedError):
        asyncio.run(values_of(saver, "1"))


def test_nothing_touches_the_disk_in_the_event_loop() -> None:
    """`langgraph dev` raises where something does."""
    blockbuster = pytest.importorskip("blockbuster", reason="comes with LangGraph's server")

    async def use_it() -> Any:
        with blockbuster.blockbuster_ctx():
            async with AsyncExitStack() as stack:
                saver = await stack.enter_async_context(checkpointer())
                await save(saver, "1", said="hello", long="hello" * 10_000)
                assert [each async for each in saver.alist(place("1"))]
                await saver.acopy_thread("1", "2")
                await saver.adelete_for_runs(["nobody"])
                await saver.aprune(["1"])
                await saver.adelete_thread("1")
                return (await values_of(saver, "2"))["said"]

    assert asyncio.run(use_it()) == "hello"


# --- the key


def test_the_key_of_the_server_enciphers_values(monkeypatch: pytest.MonkeyPatch) -> None:
    """With LANGGRAPH_AES_KEY nothing new is legible; what was saved before still can be read."""
    asyncio.run(enter_and_save("before", said="in plain"))
    monkeypatch.setenv("LANGGRAPH_AES_KEY", "0123456789abcdef")
    asyncio.run(enter_and_save("after", said="in secret"))
    assert asyncio.run(enter_and_read("before")) == {"said": "in plain"}
    assert asyncio.run(enter_and_read("after")) == {"said": "in secret"}
    with closing(sqlite3.connect(DEFAULT)) as conn:
        dump = "\n".join(conn.iterdump())
    assert "in plain" in dump
    assert "in secret" not in dump
    assert b"in secret".hex() not in dump.lower()


def test_a_key_of_another_length_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rather than saved in plain."""
    monkeypatch.setenv("LANGGRAPH_AES_KEY", "too short")
    with pytest.raises(ValueError, match="LANGGRAPH_AES_KEY must be 16, 24, or 32 bytes"):
        asyncio.run(enter_and_save("1", said="hello"))
    assert not DEFAULT.exists()


# --- the page


def test_the_page_shows_what_the_tests_use() -> None:
    """docs/server.md has the line of langgraph.json that the real server is started with."""
    (shown,) = re.findall(r"```json\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert json.loads(shown)["checkpointer"] == {"path": PATH}


def test_the_page_shows_a_context_manager_that_works(working_directory: Path) -> None:
    """With the path of the test's instead of its own."""
    (shown,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    names: dict[str, Any] = {}
    exec(shown.replace("/var/lib", str(working_directory)), names)

    async def use_it() -> Any:
        async with names["checkpointer"]() as saver:
            await save(saver, "1", said="hello")
            return await values_of(saver, "1")

    assert asyncio.run(use_it()) == {"said": "hello"}
    assert (working_directory / "agent.db").exists()
