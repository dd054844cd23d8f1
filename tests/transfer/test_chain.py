"""The whole way: the official saver's file, ours, Postgres, and a file of ours again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from langchain_core.messages import HumanMessage
from langgraph.checkpoint.serde.types import _DeltaSnapshot
from langgraph.types import Command

from langgraph_sqlite_saver import SqliteSaver
from langgraph_sqlite_saver.transfer import from_postgres, import_official, to_postgres

from .official import comparable, official_saver
from .postgres_threads import (
    build,
    everything,
    fill,
    histories,
    orphans,
    postgres_saver,
    serde,
    thread,
)

# A thread whose Sends wait to be run, beside those of `fill`.
SENDS = "sends"


class Stops(NamedTuple):
    """The same threads, each saver with a copy of its own."""

    official: Any
    ours: SqliteSaver
    postgres: Any
    again: SqliteSaver


@pytest.fixture
def stops(tmp_path: Path, postgres: str, encrypted: bool) -> Iterator[Stops]:
    """Threads that graphs left in the official saver's file, and all that was made of it."""
    key = serde(encrypted)
    old, new, again = (tmp_path / f"{name}.db" for name in ("old", "new", "again"))
    with official_saver(old, key) as saver:
        fill(saver)
        build(saver).invoke(
            {"messages": [HumanMessage("go")]}, thread(SENDS), interrupt_before=["work"]
        )
    moves = (
        import_official(old, new, serde=key, verify=True),
        to_postgres(new, postgres, serde=key, verify=True),
        from_postgres(postgres, again, serde=key, verify=True),
    )
    assert len({(done.threads, done.checkpoints, done.writes) for done in moves}) == 1
    assert all(done.verified == done.checkpoints for done in moves)
    with ExitStack() as stack:
        yield Stops(
            stack.enter_context(official_saver(old, key)),
            stack.enter_context(SqliteSaver(new, serde=key)),
            stack.enter_context(postgres_saver(postgres, key)),
            stack.enter_context(SqliteSaver(again, serde=key)),
        )
    assert orphans(postgres) == []


def test_every_checkpoint_is_the_same_at_every_stop(stops: Stops) -> None:
    """By get_tuple and by list: values, versions, metadata, parents and pending writes."""
    found = {name: everything(saver) for name, saver in stops._asdict().items()}
    wanted = comparable(found["ours"])
    assert comparable(found["postgres"]) == wanted
    assert comparable(found["again"]) == wanted
    left_out = _left_out(found["official"], found["ours"])
    assert {channel for *_, channel in left_out} == {"deltas"}
    for *key, channel in left_out:
        del found["ours"][tuple(key)][0]["channel_values"][channel]
    assert comparable(found["ours"]) == comparable(found["official"])


def _left_out(official: dict[Any, Any], ours: dict[Any, Any]) -> list[tuple[str, ...]]:
    """The values that only ours fills in: their version has a DeltaChannel's snapshot, which the
    official saver returns at the checkpoint alone that it was made for.
    """
    return [
        (*key, channel)
        for key, (checkpoint, *_) in ours.items()
        for channel, value in checkpoint["channel_values"].items()
        if channel not in official[key][0]["channel_values"] and isinstance(value, _DeltaSnapshot)
    ]


def test_a_graph_finds_the_same_history_at_every_stop(stops: Stops) -> None:
    """Every state of forks, of threads that are done or wait, with tasks and interrupts."""
    names = ("done", "waiting", "forked", SENDS)
    official, *others = (histories(saver, names) for saver in stops)
    assert [len(official[name]) for name in names] == [12, 10, 14, 3]
    for other in others:
        assert comparable(other) == comparable(official)


def test_what_waits_goes_on_to_the_same_end_at_every_stop(stops: Stops) -> None:
    """Questions in a subgraph are answered, at the end of a fork too, and Sends are run."""
    official, *others = map(_ends, stops)
    answers = [end["answers"] for end in official]
    assert answers == [["answer 0", "yes"], ["answer 0", "yes"], ["yes"]]
    for other in others:
        assert comparable(other) == comparable(official)


def _ends(saver: Any) -> list[Any]:
    """How the threads end that wait, once they are answered."""
    graph = build(saver)
    graph.invoke(None, thread(SENDS))
    return [
        graph.invoke(Command(resume="yes"), thread(name)) for name in ("waiting", "forked", SENDS)
    ]
