"""Which checkpoint `get_tuple` gives, and what `list` yields in which order."""

from __future__ import annotations

import asyncio
import random
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from langgraph.checkpoint.memory import InMemorySaver

from langgraph_sqlite_saver import AsyncSqliteSaver, SqliteSaver, StorageError

from .helpers import chain, count, get, id_of, numbers, official_saver, place, save, values


def test_a_saved_checkpoint_comes_back(every_saver: Any) -> None:
    """Through both classes and both ways to call them: values, metadata, parent, config."""
    save(every_saver, 1, {"list": [1]}, metadata={"step": 1})
    saved = save(every_saver, 2, {"list": [2]}, parent=1, metadata={"step": 2})
    assert saved == place(2)
    found = every_saver.get_tuple(place())
    assert found.config == place(2)
    assert found.parent_config == place(1)
    assert found.checkpoint["channel_values"] == {"list": [2]}
    assert found.metadata == {"step": 2}
    assert every_saver.get(place(1))["channel_values"] == {"list": [1]}
    assert numbers(every_saver.list(place())) == [2, 1]


def test_the_newest_by_id_is_found_whatever_was_saved_last(saver: Any) -> None:
    """Order is that of checkpoint ids."""
    for number in (3, 5, 4):
        save(saver, number)
    assert get(saver).config == place(5)


def test_an_unknown_thread_namespace_or_id_gives_none(saver: Any) -> None:
    """None, and no error."""
    save(saver, 1)
    assert get(saver, thread="other") is None
    assert get(saver, ns="other") is None
    assert get(saver, 2) is None
    assert saver.get(place(2)) is None


def test_without_a_namespace_the_root_is_meant(saver: Any) -> None:
    """For `get_tuple`, also where a subgraph has newer checkpoints."""
    save(saver, 1)
    save(saver, 2, ns="child")
    assert saver.get_tuple(place(ns=None)).config == place(1)
    assert get(saver, ns="child").config == place(2, ns="child")


@pytest.mark.parametrize("thread", [uuid.UUID(int=7), 7])
def test_thread_ids_may_be_uuids_or_ints(saver: Any, database_path: Path, thread: Any) -> None:
    """Stored and compared as text, returned from `put` as given."""
    saved = save(saver, 1, {"list": [1]}, thread=thread)
    assert saved["configurable"]["thread_id"] == thread
    saver.put_writes(saved, [("list", [2])], "task")
    assert get(saver, 1, str(thread)).pending_writes == [("task", "list", [2])]
    assert get(saver, 1, thread).config == place(1, str(thread))
    assert numbers(saver.list(place(thread=thread))) == [1]
    saver.copy_thread(thread, 8)
    saver.delete_thread(thread)
    assert numbers(saver.list(None)) == [1]
    assert values(saver, 1, 8) == {"list": [1]}


@pytest.fixture
def populated(saver: Any) -> Any:
    """Two threads with a root and a child namespace, their checkpoints saved in any order."""
    where = [(thread, ns) for thread in ("a", "b") for ns in ("", "child")]
    order = [(number, *where[number % 4]) for number in range(1, 41)]
    random.Random(7).shuffle(order)
    for number, thread, ns in order:
        save(saver, number, {"list": [number]}, thread=thread, ns=ns, metadata={"n": number % 3})
    return saver


def of(thread: str, ns: str | None) -> list[int]:
    """The numbers that `populated` has in a thread and namespace, newest first."""
    offsets = {("a", ""): 0, ("a", "child"): 1, ("b", ""): 2, ("b", "child"): 3}
    wanted = {o for (t, n), o in offsets.items() if t == thread and ns in (None, n)}
    return [number for number in range(40, 0, -1) if number % 4 in wanted]


def test_list_sorts_by_id_over_all_threads_and_namespaces(populated: Any) -> None:
    """Newest first, wherever they are from."""
    assert numbers(populated.list(None)) == list(range(40, 0, -1))


@pytest.mark.parametrize("ns", [None, "", "child"])
def test_list_takes_every_namespace_unless_the_config_names_one(populated: Any, ns: Any) -> None:
    """`""` is the root alone."""
    assert numbers(populated.list(place(thread="b", ns=ns))) == of("b", ns)


def test_a_checkpoint_id_filters_exactly(populated: Any) -> None:
    """One checkpoint or none."""
    assert numbers(populated.list(place(8, "a"))) == [8]
    assert numbers(populated.list(place(8, "b"))) == []
    assert numbers(populated.list(place(9, "a", ns=None))) == [9]


@pytest.mark.parametrize("config", [None, place(thread="a", ns=None), place(thread="a")])
def test_before_is_smaller_than_and_limit_cuts(populated: Any, config: Any) -> None:
    """`before` also works over all threads, and for an id that does not exist."""
    all_of_it = numbers(populated.list(config))
    earlier = [number for number in all_of_it if number < 21]
    assert numbers(populated.list(config, before=place(21))) == earlier
    assert numbers(populated.list(config, before=place(21), limit=3)) == earlier[:3]
    assert numbers(populated.list(config, before=place(21), limit=99)) == earlier
    assert numbers(populated.list(config, before=place(0))) == []


@pytest.mark.parametrize("limit", [0, 1, 15, 16, 17, 39, 40, 41])
def test_a_limit_holds_on_and_around_page_borders(populated: Any, limit: int) -> None:
    """limit=0 yields nothing."""
    assert numbers(populated.list(None, limit=limit)) == list(range(40, 40 - min(limit, 40), -1))


def test_listing_agrees_with_the_official_savers(populated: Any) -> None:
    """Same checkpoints in the same order for the same arguments."""
    memory = InMemorySaver()
    with official_saver() as official:
        for each in reversed(populated.list(None)):
            for other in (official, memory):
                other.put(each.config, each.checkpoint, each.metadata, {})
        for config in (place(thread="a"), place(8, "a"), place(thread="b", ns="child")):
            for options in ({}, {"limit": 3}, {"before": place(21)}, {"filter": {"n": 1}}):
                ours = numbers(populated.list(config, **options))
                assert ours == numbers(list(official.list(config, **options)))
                assert ours == numbers(list(memory.list(config, **options)))


def test_the_same_id_in_several_threads_is_listed_once_for_each(saver: Any) -> None:
    """Pages are cut between equal ids without losing or repeating one."""
    threads = [f"t{n:02}" for n in range(40)]
    for thread in threads:
        chain(saver, 3, thread=thread)
    listed = saver.list(None)
    assert numbers(listed) == [3] * 40 + [2] * 40 + [1] * 40
    places = [each.config["configurable"]["thread_id"] for each in listed]
    assert places == threads * 3


def test_listed_checkpoints_carry_everything_that_get_tuple_gives(populated: Any) -> None:
    """Values, metadata, parents and writes are the same, page after page."""
    populated.put_writes(place(8, "a"), [("list", [1]), ("list", [2])], "task")
    for each in populated.list(None):
        assert each == populated.get_tuple(each.config)


def test_listed_values_are_not_shared(saver: Any) -> None:
    """Changing one checkpoint's value leaves the others', though one blob holds them."""
    save(saver, 1, {"list": [1]})
    save(saver, 2, {"list": [1]}, versions={"list": 1}, new={}, parent=1)
    newer, older = saver.list(place())
    newer.checkpoint["channel_values"]["list"].append("changed")
    assert older.checkpoint["channel_values"] == {"list": [1]}


# --- saving while listing


def test_the_caller_may_save_and_delete_while_iterating(open_driver: Any, tmp_path: Path) -> None:
    """A `for` loop over `list` holds nothing: every write goes through at once."""
    saver = open_driver("sync", tmp_path / "agent.db").saver
    chain(saver, 50)
    seen = []
    for each in saver.list(place()):
        seen += numbers([each])
        save(saver, 1000 + len(seen), {"list": [0]}, parent=50)
        saver.delete_thread("other")
        assert len(list(saver.list(place(), limit=2))) == 2
    assert seen == list(range(50, 0, -1))
    assert count(tmp_path / "agent.db", "checkpoints") == 100


@pytest.mark.parametrize("kind", [SqliteSaver, AsyncSqliteSaver])
def test_tasks_may_save_and_delete_while_iterating(kind: Any, tmp_path: Path) -> None:
    """The same in an `async for`."""

    async def scenario(saver: Any) -> list[int]:
        for number in range(1, 51):
            made = {"v": 4, "id": id_of(number), "ts": "", "channel_values": {}}
            await saver.aput(place(), {**made, "channel_versions": {}, "versions_seen": {}}, {}, {})
        seen = []
        async for each in saver.alist(place()):
            seen += numbers([each])
            await saver.aput_writes(each.config, [("list", [1])], "task")
            await saver.adelete_thread("other")
        return seen

    saver = kind(tmp_path / "agent.db")
    assert asyncio.run(scenario(saver)) == list(range(50, 0, -1))
    assert count(tmp_path / "agent.db", "checkpoint_writes") == 50
    saver.close()


def test_deleting_everything_while_iterating_ends_the_listing(saver: Any) -> None:
    """What is gone when its page is read is not yielded; nothing fails."""
    chain(saver, 60)
    if saver.awaited:

        async def scenario() -> list[Any]:
            seen = []
            async for each in saver.saver.alist(place()):
                seen.append(each)
                await saver.saver.adelete_thread("t")
            return seen

        seen = saver.run(scenario())
    else:
        seen = []
        for each in saver.saver.list(place()):
            seen.append(each)
            saver.delete_thread("t")
    assert 0 < len(seen) < 60


def test_an_abandoned_listing_holds_nothing(open_driver: Any, tmp_path: Path) -> None:
    """Stopping after the first leaves the file free for writes, VACUUM and close."""
    saver = open_driver("sync", tmp_path / "agent.db").saver
    chain(saver, 40)
    listing = saver.list(None)
    next(listing)
    saver.optimize(vacuum="full")
    saver.delete_thread("t")
    saver.close()
    assert not (tmp_path / "agent.db-wal").exists()


# --- a fresh file

CALLS: dict[str, Callable[[Any], Any]] = {
    "get_tuple": lambda s: s.get_tuple(place()),
    "list": lambda s: s.list(None),
    "put": lambda s: save(s, 1),
    "put_writes": lambda s: s.put_writes(place(1), [("c", 1)], "task"),
    "delete_thread": lambda s: s.delete_thread("t"),
    "delete_for_runs": lambda s: s.delete_for_runs(["r"]),
    "copy_thread": lambda s: s.copy_thread("t", "u"),
    "prune": lambda s: s.prune(["t"]),
    "history": lambda s: s.get_delta_channel_history(config=place(), channels=["c"]),
    "threads": lambda s: s.threads(),
    "stats": lambda s: s.stats(),
    "optimize": lambda s: s.optimize(),
    "expire": lambda s: s.expire(__import__("datetime").timedelta(days=1)),
}


@pytest.mark.parametrize("name", CALLS)
def test_every_method_sets_the_tables_up_by_itself(every_saver: Any, name: str) -> None:
    """On a file that does not exist yet (the official `adelete_thread` fails there)."""
    CALLS[name](every_saver)
    assert save(every_saver, 2) == place(2)


def test_a_backup_of_a_fresh_file_has_the_tables(every_saver: Any, tmp_path: Path) -> None:
    """It can be opened as any other."""
    assert count(every_saver.backup(tmp_path / "backup.db"), "checkpoints") == 0


@pytest.mark.parametrize("limit", [-1, "1", True, 1.0, 1.5])
def test_a_limit_that_is_none_is_refused(saver: Any, limit: Any) -> None:
    """It never reaches SQL, where -1 would mean everything."""
    with pytest.raises(StorageError, match="limit"):
        saver.list(None, limit=limit)
