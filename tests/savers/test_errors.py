"""Bad input gets an error of ours that names the remedy, and what was stored stays stored."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import subprocess
import sys
import tempfile
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

import langgraph_sqlite_saver
from langgraph_sqlite_saver import (
    AsyncSqliteSaver,
    CannotOpenError,
    DatabaseClosedError,
    DatabaseFullError,
    EventLoopError,
    InvalidConfigError,
    InvalidInputError,
    InvalidTypeError,
    NotADatabaseError,
    OwnersTransactionWarning,
    ReadOnlyError,
    SerializationError,
    SqliteSaver,
    StorageError,
    UnknownSchemaError,
)

from .helpers import LIST, chain, checkpoint, count, dump, execute, get, names, place, rows, save


@pytest.fixture
def stored(saver: Any) -> Iterator[Any]:
    """A saver that holds something; after the test it holds the same."""
    chain(saver, 2)
    saver.put_writes(place(2), [("c", LIST)], "task")
    before = dump(saver)
    yield saver
    assert dump(saver) == before


def put(saver: Any, made: Any = None, metadata: Any = None, new: Any = None, **config: Any) -> Any:
    made = checkpoint(9, {"a": LIST}) if made is None else made
    return saver.put(place(**config), made, {} if metadata is None else metadata, new or {})


def writes(saver: Any, given: Any, *task: Any) -> None:
    saver.put_writes(place(2), given, *(task or ("task2",)))


# --- configs

ASKING: dict[str, Callable[[Any, Any], Any]] = {
    "get_tuple": lambda s, config: s.get_tuple(config),
    "list": lambda s, config: s.list(config),
    "put": lambda s, config: s.put(config, checkpoint(9), {}, {}),
    "put_writes": lambda s, config: s.put_writes(config, [("c", 1)], "task"),
    "history": lambda s, config: s.get_delta_channel_history(config=config, channels=["d"]),
}
NAMELESS: list[Any] = [
    {},
    {"configurable": {}},
    {"configurable": None},
    {"configurable": "t"},
    "t",
    7,
]


@pytest.mark.parametrize("method", ASKING)
@pytest.mark.parametrize("config", NAMELESS, ids=repr)
def test_a_config_must_name_a_thread(stored: Any, method: str, config: Any) -> None:
    """The error shows one that does."""
    with pytest.raises(InvalidConfigError, match="thread_id"):
        ASKING[method](stored, config)


ODD_THREADS = [None, b"t", 1.5, ["t"], {"t": 1}, object()]


@pytest.mark.parametrize("method", [*ASKING, "delete_thread", "copy_thread", "target"])
@pytest.mark.parametrize("thread", ODD_THREADS, ids=lambda thread: type(thread).__name__)
def test_a_thread_id_is_text_a_uuid_or_an_int(stored: Any, method: str, thread: Any) -> None:
    """Anything else could only be a mistake."""
    calls = {
        "delete_thread": lambda: stored.delete_thread(thread),
        "copy_thread": lambda: stored.copy_thread(thread, "u"),
        "target": lambda: stored.copy_thread("t", thread),
    }
    with pytest.raises(InvalidTypeError, match="thread_id"):
        calls.get(method, lambda: ASKING[method](stored, place(2, thread)))()


@pytest.mark.parametrize("method", ASKING)
@pytest.mark.parametrize("key", ["checkpoint_ns", "checkpoint_id"])
@pytest.mark.parametrize("value", [7, b"x", ["x"], {}])
def test_namespaces_and_ids_are_text(stored: Any, method: str, key: str, value: Any) -> None:
    """A UUID will do for an id."""
    config = place(2)
    config["configurable"][key] = value
    with pytest.raises(InvalidTypeError, match=key):
        ASKING[method](stored, config)


def test_a_checkpoint_id_may_be_a_uuid(saver: Any) -> None:
    """Compared as its text."""
    identity = uuid.UUID(int=7)
    saver.put(place(), {**checkpoint(1), "id": str(identity)}, {}, {})
    config = place()
    config["configurable"]["checkpoint_id"] = identity
    assert saver.get_tuple(config) is not None


# Text that no file can hold: a lone surrogate. NUL ends a string in C, and in Postgres nowhere.
UNSTORABLE = ["a\ud800"]


@pytest.mark.parametrize("text", UNSTORABLE, ids=ascii)
def test_text_that_cannot_be_stored_is_refused_everywhere(stored: Any, text: str) -> None:
    """In ids, names, paths and versions; in values and metadata it is replaced or kept."""
    config = place(2)
    elsewhere = place(2)
    elsewhere["configurable"]["checkpoint_ns"] = text
    other_id = place(2)
    other_id["configurable"]["checkpoint_id"] = text
    calls: list[Callable[[], Any]] = [
        lambda: stored.put_writes(config, [(text, 1)], "task"),
        lambda: stored.put_writes(config, [("c", 1)], text),
        lambda: stored.put_writes(config, [("c", 1)], "task", text),
        lambda: stored.delete_thread(text),
        lambda: stored.delete_for_runs([text]),
        lambda: stored.copy_thread(text, "u"),
        lambda: stored.copy_thread("t", text),
        lambda: stored.prune([text]),
        lambda: stored.list(None, before=other_id),
        lambda: stored.get_delta_channel_history(config=config, channels=[text]),
        lambda: put(stored, {**checkpoint(9), "id": text}),
        lambda: put(stored, {**checkpoint(9), "ts": text}),
        lambda: put(stored, checkpoint(9, {text: 1})),
        lambda: put(stored, checkpoint(9, {text: LIST})),
        lambda: put(stored, checkpoint(9, {text: LIST}), new={text: 9}),
        lambda: put(stored, checkpoint(9, {text: LIST}, {})),
        lambda: put(stored, checkpoint(9, {"a": LIST}, {"a": text})),
        lambda: put(stored, checkpoint(9, {"a": LIST}, {"a": text}), new={"a": text}),
        lambda: put(stored, checkpoint(9, versions_seen={text: {}})),
    ]
    for wrong in (place(2, text), elsewhere, other_id):
        calls += [lambda m=m, c=wrong: ASKING[m](stored, c) for m in ASKING if m != "put"]
    calls += [lambda c=c: stored.put(c, checkpoint(9), {}, {}) for c in (place(2, text), other_id)]
    for number, call in enumerate(calls):
        with pytest.raises(StorageError):
            pytest.fail(f"call {number} returned {call()!r}")


def test_text_with_a_nul_is_an_id_like_any_other_or_refused(saver: Any) -> None:
    """Nothing is cut off at it in silence."""
    try:
        chain(saver, 3, thread="a\0b", ns="n\0s")
    except StorageError:
        return
    chain(saver, 1, thread="a", ns="n")
    assert [each.config for each in saver.list(place(thread="a\0b", ns=None))] == [
        place(number, "a\0b", "n\0s") for number in (3, 2, 1)
    ]
    assert len(saver.list(None)) == 4
    assert all(each.checkpoint["channel_values"] for each in saver.list(None))
    saver.prune(["a\0b"])
    assert len(saver.list(None)) == 2
    saver.delete_thread("a\0b")
    assert len(saver.list(None)) == 1


@pytest.mark.parametrize("before", ["000001", 7, {"configurable": 7}, place(1)["configurable"]])
def test_before_is_a_config(stored: Any, before: Any) -> None:
    """Not an id."""
    if isinstance(before, dict) and "configurable" not in before:
        assert len(stored.list(None, before=before)) == 2  # names no checkpoint: no limit
        return
    with pytest.raises(StorageError, match="before"):
        stored.list(None, before=before)


# --- what is put


@pytest.mark.parametrize(
    "made",
    [
        None,
        "checkpoint",
        {},
        {**checkpoint(9), "id": None},
        {**checkpoint(9), "id": 9},
        {**checkpoint(9), "id": ""},
        {**checkpoint(9), "channel_values": [1]},
        {**checkpoint(9), "channel_versions": [1]},
        {**checkpoint(9), "channel_versions": {"a": object()}},
        {**checkpoint(9), "channel_versions": {1: 1}},
        {**checkpoint(9), "channel_values": {1: 1}},
        {**checkpoint(9), "channel_values": {1: LIST}},
        {**checkpoint(9), "channel_values": {None: LIST}, "channel_versions": {None: 1}},
        {**checkpoint(9), "channel_versions": {"a": 2**64}},
        {**checkpoint(9), "channel_versions": {"a": float("nan")}, "channel_values": {"a": LIST}},
        {**checkpoint(9), "versions_seen": {"node": {1, 2}}},
        {**checkpoint(9), "v": "four"},
        {**checkpoint(9), "v": None},
        {**checkpoint(9), 7: "key"},
    ],
    ids=range(19),
)
def test_a_checkpoint_that_is_none_is_refused(stored: Any, made: Any) -> None:
    """Nothing of it is stored."""
    with pytest.raises(StorageError):
        stored.put(place(2), made, {}, {})


@pytest.mark.parametrize("missing", ["channel_values", "channel_versions", "versions_seen", "ts"])
def test_a_checkpoint_may_lack_what_can_be_empty(saver: Any, missing: str) -> None:
    """As the one in the official saver's documentation does."""
    made = checkpoint(1, {"a": LIST})
    del made[missing]
    saver.put(place(), made, {}, {})
    found = get(saver).checkpoint
    assert {key: found[key] for key in made} == made
    assert saver.list(None)[0].checkpoint == found
    saver.prune(["t"])
    assert [thread.thread_id for thread in saver.threads()] == ["t"]


@pytest.mark.parametrize("new", [None, "a", ["a"], 7])
def test_new_versions_are_a_dict(stored: Any, new: Any) -> None:
    """An error otherwise."""
    with pytest.raises(InvalidTypeError, match="new_versions"):
        stored.put(place(2), checkpoint(9), {}, new)


def unpicklable() -> Any:
    return (each for each in ())


@pytest.mark.parametrize("new", [{}, {"b": 9}])
@pytest.mark.parametrize("versions", [None, {}])
def test_a_value_that_cannot_be_serialised_leaves_nothing(
    stored: Any, database_path: Path, new: Any, versions: Any
) -> None:
    """Not the checkpoint, not the values before it; the error names the channel."""
    before = count(database_path, "checkpoint_blobs")
    made = checkpoint(9, {"a": LIST, "b": unpicklable()}, versions)
    with pytest.raises(SerializationError, match="'b'") as caught:
        stored.put(place(2), made, {}, new)
    assert isinstance(caught.value, TypeError)
    assert caught.value.__cause__ is not None
    assert count(database_path, "checkpoint_blobs") == before


def test_a_write_that_cannot_be_serialised_leaves_nothing(stored: Any) -> None:
    """Not the writes before it either."""
    with pytest.raises(SerializationError, match="'b'"):
        writes(stored, [("a", 1), ("b", unpicklable()), ("c", 3)])


@pytest.mark.parametrize(
    "given",
    [None, 7, "abc", ["abc"], [("c",)], [("c", 1, 2)], [7], [(1, 1)], [(None, 1)], [(["c"], 1)],
     {"abc": 1}, [("a", 1), ("b",)]],
    ids=repr,
)  # fmt: skip
def test_writes_are_pairs_of_a_channel_and_a_value(stored: Any, given: Any) -> None:
    """Anything else stores nothing."""
    with pytest.raises(InvalidTypeError, match="writes"):
        writes(stored, given)


@pytest.mark.parametrize("task", [(None,), (7,), ("task", None), ("task", 7), (b"task",)])
def test_task_ids_and_paths_are_text(stored: Any, task: Any) -> None:
    """An error otherwise."""
    with pytest.raises(InvalidTypeError, match="task"):
        writes(stored, [("c", 1)], *task)


@pytest.mark.parametrize("number", [None, ""])
def test_writes_need_a_checkpoint_id(stored: Any, number: Any) -> None:
    """The error says where to take the config from."""
    config = place()
    if number is not None:
        config["configurable"]["checkpoint_id"] = number
    with pytest.raises(InvalidConfigError, match="put"):
        stored.put_writes(config, [("c", 1)], "task")


# --- metadata


def circular() -> Any:
    value: list[Any] = []
    value.append(value)
    return value


@pytest.mark.parametrize(
    "metadata",
    [None, [1], "x", {"a": {1, 2}}, {"a": b"x"}, {"deep": [{"a": object()}]}, {"a": circular()},
     pytest.param({"a": 10**5000}, id="5000 digits")],
    ids=range(8),
)  # fmt: skip
def test_metadata_that_cannot_be_json_is_refused(stored: Any, metadata: Any) -> None:
    """The error names the key and says what belongs there."""
    with pytest.raises(StorageError, match="metadata"):
        stored.put(place(2), checkpoint(9), metadata, {})


def test_metadata_of_any_reasonable_depth_is_kept(saver: Any) -> None:
    """300 levels; copying, filtering and reading take it too."""
    deep: Any = "bottom"
    for _ in range(300):
        deep = {"a": deep}
    save(saver, 1, metadata={"deep": deep, "thread_id": "t"})
    saver.copy_thread("t", "u")
    assert get(saver, 1, "u").metadata == {"deep": deep, "thread_id": "u"}
    assert len(saver.list(None, filter={"deep": deep})) == 2


@pytest.mark.parametrize("config_metadata", [{7: "x"}, "x", [1]])
def test_metadata_in_the_config_that_is_none_is_refused(stored: Any, config_metadata: Any) -> None:
    """An error of ours, not what happens to break first."""
    config = place(2)
    config["metadata"] = config_metadata
    with pytest.raises(StorageError):
        stored.put(config, checkpoint(9), {}, {})


@pytest.mark.parametrize("run_id", ["a\ud800", "a\0b", 7, 1.5, uuid.UUID(int=7), True, None, ["x"]])
def test_any_run_id_can_be_stored(saver: Any, run_id: Any) -> None:
    """And what cannot be looked for is no error of SQLite's."""
    save(saver, 1, {"a": LIST}, metadata={"run_id": run_id})
    assert get(saver) is not None
    if isinstance(run_id, (int, uuid.UUID)):
        saver.delete_for_runs([run_id])
        assert get(saver) is None


# --- files


@pytest.fixture(params=[SqliteSaver, AsyncSqliteSaver])
def open_saver(request: Any) -> Iterator[Callable[..., Any]]:
    """Opens savers of either class, used through their blocking methods."""
    opened: list[Any] = []

    def open_(target: Any, **options: Any) -> Any:
        opened.append(request.param(target, **options))
        return opened[-1]

    yield open_
    for saver in opened:
        saver.close()


@pytest.mark.parametrize("content", [b"no database", b"x" * 5000, b"SQLite format 3\0" + b"x" * 99])
def test_a_file_that_is_no_database_is_left_alone(
    open_saver: Any, tmp_path: Path, content: bytes
) -> None:
    """The error says what to give instead; not a byte changes."""
    path = tmp_path / "file"
    path.write_bytes(content)
    for _ in range(2):
        with pytest.raises(NotADatabaseError, match="file"):
            open_saver(path).get_tuple(place())
    assert path.read_bytes() == content
    assert names(tmp_path) == ["file"]


def test_a_directory_is_no_file(open_saver: Any, tmp_path: Path) -> None:
    """Nor is what lies in a directory that does not exist, or in a file."""
    (tmp_path / "plain").write_bytes(b"")
    for path in (tmp_path, tmp_path / "missing" / "agent.db", tmp_path / "plain" / "agent.db"):
        with pytest.raises(CannotOpenError, match=path.name):
            open_saver(path).get_tuple(place())
    assert names(tmp_path) == ["plain"]


@pytest.mark.parametrize("target", [None, 7, b"path", 1.5, ["agent.db"]])
def test_a_saver_is_made_of_a_path_or_a_connection(open_saver: Any, target: Any) -> None:
    """Anything else is refused at once."""
    with pytest.raises(InvalidTypeError, match="path"):
        open_saver(target)


@pytest.mark.parametrize("pragmas", [{"synchronus": "FULL"}, {"synchronous": "a; b"}, {"x y": 1}])
def test_a_pragma_that_is_none_is_refused(open_saver: Any, tmp_path: Path, pragmas: Any) -> None:
    """SQLite would ignore it in silence."""
    with pytest.raises(InvalidInputError, match="PRAGMA"):
        open_saver(tmp_path / "agent.db", pragmas=pragmas)


@pytest.fixture
def read_only_file(tmp_path: Path) -> Iterator[str]:
    """An SQLite URI of a file that may be read only; permissions do not stop root."""
    path = tmp_path / "agent.db"
    with SqliteSaver(path) as saver:
        chain(saver, 3)
        saver.put_writes(place(3), [("c", LIST)], "task")
    yield f"file:{path}?mode=ro"


def test_a_read_only_file_still_serves_reads(open_saver: Any, read_only_file: str) -> None:
    """Every method that reads, backup included; the file stays as it is."""
    path = Path(read_only_file[5:-8])
    before = path.read_bytes()
    saver = open_saver(read_only_file)
    assert saver.get_tuple(place()).checkpoint["channel_values"] == {"list": [3]}
    assert len(list(saver.list(None))) == 3
    assert saver.get_delta_channel_history(config=place(), channels=["list"])["list"]["seed"] == [2]
    assert [thread.checkpoints for thread in saver.threads()] == [3]
    assert saver.stats().checkpoints == 3
    assert count(saver.backup(path.with_name("backup.db")), "checkpoints") == 3
    assert path.read_bytes() == before


READ_BY_ANOTHER = """
import asyncio, os, sys
from langgraph_sqlite_saver import AsyncSqliteSaver, SqliteSaver

os.setegid(65534); os.seteuid(65534)

config = {"configurable": {"thread_id": "t"}}
with SqliteSaver(sys.argv[1]) as saver:
    print(saver.get_tuple(config).metadata["step"], len(list(saver.list(config))))

async def main():
    async with AsyncSqliteSaver(sys.argv[1]) as saver:
        listed = [each async for each in saver.alist(config)]
        print((await saver.aget_tuple(config)).metadata["step"], len(listed))

asyncio.run(main())
"""


def test_a_file_in_a_folder_of_another_user_is_read_by_its_path() -> None:
    """A container's read-only mount, a backup of root's: nothing has to be said, and nothing is
    made beside it.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "agent.db")
        with SqliteSaver(path) as saver:
            for number in (1, 2, 3):
                save(saver, number, metadata={"step": number})
        path.chmod(0o444)
        path.parent.chmod(0o555)
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", READ_BY_ANOTHER, path],
            capture_output=True,
            text=True,
            timeout=60,
            cwd="/",
        )
        assert (done.stdout, done.stderr) == ("3 3\n3 3\n", "")
        assert names(path.parent) == ["agent.db"]


WRITING: dict[str, Callable[[Any], Any]] = {
    "put": lambda s: save(s, 4),
    "put_writes": lambda s: s.put_writes(place(3), [("c", 1)], "other"),
    "delete_thread": lambda s: s.delete_thread("t"),
    "copy_thread": lambda s: s.copy_thread("t", "u"),
    "prune": lambda s: s.prune(["t"]),
    "expire": lambda s: s.expire(timedelta(0)),
    "optimize": lambda s: s.optimize(vacuum="full"),
}


@pytest.mark.parametrize("name", WRITING)
def test_a_read_only_file_refuses_writes_clearly(
    open_saver: Any, read_only_file: str, name: str
) -> None:
    """The error says what would help; the file stays as it is."""
    path = Path(read_only_file[5:-8])
    before = path.read_bytes()
    with pytest.raises(ReadOnlyError, match="permission"):
        WRITING[name](open_saver(read_only_file))
    assert path.read_bytes() == before


@pytest.mark.parametrize("name", ["put", "put_writes"])
def test_a_full_disk_keeps_what_was_stored(open_saver: Any, tmp_path: Path, name: str) -> None:
    """The save that does not fit is refused whole; reading, deleting and saving go on."""
    saver = open_saver(tmp_path / "agent.db", pragmas={"max_page_count": 40})
    saved = []
    with pytest.raises(DatabaseFullError, match="space"):
        for number in range(1, 1000):
            if name == "put":
                save(saver, number, {"a": os.urandom(5000)})
            else:
                config = save(saver, number)
                saver.put_writes(config, [("a", os.urandom(5000)), ("b", b"")], "task")
            saved.append(number)
    assert len(saved) > 3
    for number in saved:
        found = get(saver, number)
        assert (
            found.checkpoint["channel_values"] if name == "put" else len(found.pending_writes) == 2
        )
    half = get(saver, saved[-1] + 1)
    assert half is None or half.pending_writes == []
    saver.delete_thread("t")
    save(saver, 1, {"a": os.urandom(5000)})
    assert rows(tmp_path / "agent.db", "PRAGMA integrity_check") == [("ok",)]


def test_of_threads_that_save_at_once_on_a_full_disk_each_learns_the_truth(
    tmp_path: Path,
) -> None:
    """Those that share a commit with one that does not fit are answered one by one."""
    outcome: dict[int, bool] = {}
    with SqliteSaver(tmp_path / "agent.db", pragmas={"max_page_count": 60}) as saver:

        def work(thread: int) -> None:
            for number in range(8):
                try:
                    save(saver, number, {"a": os.urandom(4000)}, thread=thread)
                    outcome[thread, number] = True
                except DatabaseFullError:
                    outcome[thread, number] = False

        threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
        stored = {key: get(saver, key[1], key[0]) is not None for key in outcome}
    assert stored == outcome
    assert set(outcome.values()) == {True, False}


def test_a_newer_file_is_refused(open_saver: Any, tmp_path: Path) -> None:
    """One that a later release of this library wrote is left untouched."""
    path = tmp_path / "agent.db"
    with SqliteSaver(path) as saver:
        chain(saver, 1)
    execute(path, "INSERT INTO checkpoint_migrations VALUES (1000)")
    before = path.read_bytes()
    with pytest.raises(UnknownSchemaError, match="upgrade"):
        get(open_saver(path))
    assert path.read_bytes() == before


def test_a_damaged_file_is_an_error_of_ours(open_saver: Any, tmp_path: Path) -> None:
    """It says how to save what is left."""
    path = tmp_path / "agent.db"
    with SqliteSaver(path) as saver:
        for number in range(1, 60):
            save(saver, number, {"a": os.urandom(3000)})
    content = path.read_bytes()
    path.write_bytes(content[:4096] + os.urandom(len(content) - 4096))
    with pytest.raises(NotADatabaseError, match="backup"):
        list(open_saver(path).list(None))


# --- closed, and where a loop runs


def test_a_closed_saver_refuses_every_call(every_saver: Any) -> None:
    """Closing twice is allowed."""
    chain(every_saver, 1)
    every_saver.saver.close()
    every_saver.saver.close()
    for call in [*WRITING.values(), get, lambda s: s.list(None), lambda s: s.threads()]:
        with pytest.raises(DatabaseClosedError, match="inside the block, or make a new one"):
            call(every_saver)


def test_a_graph_that_outlives_its_with_block_is_told_so(tmp_path: Path) -> None:
    """The commonest mistake: the graph is compiled inside the block and run after it."""
    conn = sqlite3.connect(tmp_path / "b.db", check_same_thread=False)
    for target, shown in ((tmp_path / "a.db", "a.db"), (conn, "borrowed"), (":memory:", "memory")):
        for kind in (SqliteSaver, AsyncSqliteSaver):
            saver = kind(target)
            get(saver)
            saver.close()
            with pytest.raises(DatabaseClosedError, match=rf"{shown}.*`with` block"):
                get(saver)
    conn.close()


@pytest.mark.parametrize(
    "call",
    [
        get,
        save_one := lambda s: save(s, 1),
        lambda s: s.put_writes(place(1), [("c", 1)], "task"),
        lambda s: s.list(None),
        lambda s: s.delete_thread("t"),
        lambda s: s.get_delta_channel_history(config=place(), channels=["d"]),
        lambda s: s.threads(),
        lambda s: s.close(),
    ],
)
def test_a_blocking_call_where_a_loop_runs_is_refused(tmp_path: Path, call: Any) -> None:
    """On the async saver; the error names what to call instead, and nothing hangs."""

    async def scenario() -> None:
        async with AsyncSqliteSaver(tmp_path / "agent.db") as saver:
            with pytest.raises(EventLoopError, match="await"):
                call(saver)
            assert await saver.aget_tuple(place()) is None

    asyncio.run(scenario())


# --- the errors themselves


def test_every_error_has_one_base_and_a_docstring() -> None:
    """And those that LangGraph's own code catches are what they were."""
    errors = [
        value
        for value in vars(langgraph_sqlite_saver).values()
        if isinstance(value, type) and issubclass(value, Exception)
        if not issubclass(value, Warning)
    ]
    assert len(errors) > 10
    assert all(issubclass(each, StorageError) and each.__doc__ for each in errors)
    assert issubclass(InvalidInputError, ValueError)
    assert issubclass(InvalidTypeError, TypeError)
    assert not issubclass(StorageError, sqlite3.Error)


def test_what_was_saved_outlives_the_owner_s_rollback(tmp_path: Path) -> None:
    """Also the tables, made at the first save: a call returns after its commit."""
    with closing(sqlite3.connect(tmp_path / "agent.db", isolation_level=None)) as conn:
        saver = SqliteSaver(conn)
        conn.execute("BEGIN")
        with pytest.warns(OwnersTransactionWarning):
            save(saver, 1)
        with pytest.raises(sqlite3.OperationalError, match="no transaction is active"):
            conn.execute("ROLLBACK")
        assert len(list(saver.list(None))) == 1
        saver.close()
