"""To Postgres: what PostgresSaver finds there is what SqliteSaver had."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from langchain_core.messages import HumanMessage
from langgraph.types import Command

from langgraph_sqlite_saver import SqliteSaver
from langgraph_sqlite_saver.checkpoints import SCHEMA
from langgraph_sqlite_saver.database import Database
from langgraph_sqlite_saver.transfer import TransferError
from langgraph_sqlite_saver.transfer.postgres import from_postgres, to_postgres

from .official import contents
from .postgres_threads import (
    build,
    chain,
    everything,
    fill,
    histories,
    orphans,
    place,
    postgres_saver,
    prose,
    query,
    save,
    serde,
    thread,
)


def test_every_checkpoint_is_what_it_was(
    database_path: Path, postgres: str, encrypted: bool
) -> None:
    """By get_tuple, by list, and as a graph's history: forks, subgraphs, Sends, deltas, models."""
    key = serde(encrypted)
    with SqliteSaver(database_path, serde=key) as saver:
        fill(saver)
        ours, told = everything(saver), histories(saver)
    done = to_postgres(database_path, postgres, serde=key, verify=True)
    with postgres_saver(postgres, key) as theirs:
        assert everything(theirs) == ours
        assert histories(theirs) == told
    assert (done.threads, done.checkpoints, done.verified) == (3, len(ours), len(ours))
    assert orphans(postgres) == []


def test_a_graph_goes_on_under_postgres_and_back(
    database_path: Path, tmp_path: Path, postgres: str, encrypted: bool
) -> None:
    """With the answer that it waited for, its history whole; then in a file again."""
    key, again = serde(encrypted), tmp_path / "again.db"
    with SqliteSaver(database_path, serde=key) as saver:
        fill(saver)
        steps = len(histories(saver)["waiting"])
    to_postgres(database_path, postgres, serde=key)
    with postgres_saver(postgres, key) as theirs:
        graph = build(theirs)
        assert graph.get_state(thread("waiting")).next == ("child",)
        state = graph.invoke(Command(resume="at last"), thread("waiting"))
        assert state["answers"] == ["answer 0", "at last"]
        assert len(histories(theirs)["waiting"]) == steps + 2
        graph.invoke({"messages": [HumanMessage("more", id="m")]}, thread("waiting"))
        told = histories(theirs)
    from_postgres(postgres, again, serde=key)
    with SqliteSaver(again, serde=key) as saver:
        assert histories(saver) == told
        state = build(saver).invoke(Command(resume="again"), thread("waiting"))
        assert state["answers"] == ["answer 0", "at last", "again"]


@pytest.mark.parametrize("mode", ["wal", "delete"])
def test_the_file_is_only_read(tmp_path: Path, postgres: str, mode: str) -> None:
    """It stays as it is to the byte, and nothing is left beside it, also of a backup's kind."""
    path = tmp_path / "a.db"
    with SqliteSaver(path) as saver:
        chain(saver, 3)
    with closing(sqlite3.connect(path)) as conn:
        assert conn.execute(f"PRAGMA journal_mode = {mode}").fetchone() == (mode,)
    before, changed = contents(tmp_path), path.stat().st_mtime_ns
    assert to_postgres(path, postgres, verify=True, follow=True).checkpoints == 3
    assert contents(tmp_path) == before
    assert path.stat().st_mtime_ns == changed


def test_what_a_killed_process_left_in_the_log_is_carried_and_left(
    tmp_path: Path, postgres: str
) -> None:
    """A -wal that nobody has open is read, and not moved into the file."""
    live, left = tmp_path / "live" / "a.db", tmp_path / "left" / "a.db"
    live.parent.mkdir()
    with SqliteSaver(live) as saver:
        chain(saver, 3)
        shutil.copytree(live.parent, left.parent)
        assert Path(f"{left}-wal").stat().st_size > 0
    before = contents(left.parent)
    assert to_postgres(left, postgres).checkpoints == 3
    assert contents(left.parent) == before


def test_a_file_of_an_older_release_is_brought_up_to_date(
    database_path: Path, postgres: str
) -> None:
    """It cannot be read otherwise."""
    older = replace(SCHEMA, migrations=SCHEMA.migrations[:1])
    with Database(database_path, schemas=[older]) as database:
        database.open()
    with closing(sqlite3.connect(database_path)) as conn, conn:
        conn.execute(
            "INSERT INTO checkpoints (thread_id, checkpoint_id, checkpoint, metadata) VALUES "
            """('t', '1', '{"v": 4, "id": "1", "ts": "", "channel_values": {}, """
            """"channel_versions": {}, "versions_seen": {}}', '{}')"""
        )
    assert to_postgres(database_path, postgres, verify=True).verified == 1


def test_only_the_threads_that_are_named(database_path: Path, postgres: str) -> None:
    """The others stay where they are; one that is not there is told."""
    with SqliteSaver(database_path) as saver:
        for name in "abc":
            chain(saver, 2, thread=name)
    done = to_postgres(database_path, postgres, threads=["c"])
    assert (done.threads, done.checkpoints) == (1, 2)
    with pytest.raises(TransferError, match="no thread 'none'"):
        to_postgres(database_path, postgres, threads=["a", "none"])
    assert query(postgres, "SELECT DISTINCT thread_id FROM checkpoints ORDER BY 1") == [
        ("a",),
        ("c",),
    ]


def test_what_is_there_is_left_and_what_is_new_is_added(database_path: Path, postgres: str) -> None:
    """Again, nothing is carried; then the checkpoints and the writes that came since."""
    with SqliteSaver(database_path) as saver:
        chain(saver, 3)
        assert to_postgres(database_path, postgres).checkpoints == 3
        again = to_postgres(database_path, postgres)
        assert (again.checkpoints, again.writes, again.already_there) == (0, 0, 3)
        saver.put_writes(place(2), [("list", ["late"])], "task")
        chain(saver, 2, start=4)
        more = to_postgres(database_path, postgres)
        assert (more.checkpoints, more.writes, more.already_there) == (2, 1, 3)
        with postgres_saver(postgres) as theirs:
            assert everything(theirs) == everything(saver)


def test_another_answer_replaces_the_one_before(
    database_path: Path, postgres: str, encrypted: bool
) -> None:
    """Errors, interrupts and resumes are replaced in a file, and so in Postgres; and only once."""
    key = serde(encrypted)
    with SqliteSaver(database_path, serde=key) as saver:
        chain(saver, 1)
        for answer in ("first" * 2_000, "second" * 2_000):
            saver.put_writes(place(1), [("__resume__", answer)], "task")
            assert to_postgres(database_path, postgres, serde=key).writes == 1
            assert to_postgres(database_path, postgres, serde=key).writes == 0
        with postgres_saver(postgres, key) as theirs:
            assert everything(theirs) == everything(saver)


def test_writes_that_came_before_their_checkpoint_are_carried(
    database_path: Path, postgres: str
) -> None:
    """They are there when it comes."""
    with SqliteSaver(database_path) as saver:
        saver.put_writes(place(1), [("list", ["early"])], "task")
        assert to_postgres(database_path, postgres).writes == 1
        chain(saver, 1)
        to_postgres(database_path, postgres)
        with postgres_saver(postgres) as theirs:
            assert everything(theirs) == everything(saver)


def test_a_move_that_was_stopped_goes_on(database_path: Path, postgres: str) -> None:
    """Whatever raised: what is there are whole checkpoints, and the next call brings the rest."""
    with SqliteSaver(database_path) as saver:
        for name in "abcdefgh":
            chain(saver, 150, thread=name)
        wanted = everything(saver)

    def stop(done: int, total: int) -> None:
        assert total == 1_200
        if done > 400:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        to_postgres(database_path, postgres, progress=stop)
    with postgres_saver(postgres) as theirs:
        part = everything(theirs)
        assert 0 < len(part) < len(wanted)
        assert part == {key: wanted[key] for key in part}
    steps: list[int] = []
    rest = to_postgres(database_path, postgres, progress=lambda done, _: steps.append(done))
    assert (rest.checkpoints, rest.already_there) == (len(wanted) - len(part), len(part))
    assert steps == sorted(steps)
    assert steps[-1] == len(wanted)
    with postgres_saver(postgres) as theirs:
        assert everything(theirs) == wanted


def test_a_large_thread_goes_in_many_pages(database_path: Path, postgres: str) -> None:
    """Values that are shared by all of them are sent once, and differences undone."""
    with SqliteSaver(database_path) as saver:
        document = "x" * 3_000_000
        for number in range(1, 30):
            save(
                saver,
                number,
                {"document": [document], "list": [prose(700_000, number)]},
                versions={"document": "1", "list": str(number)},
                parent=number - 1 or None,
            )
        wanted = everything(saver)
    done = to_postgres(database_path, postgres, verify=True)
    assert done.verified == 29
    assert query(postgres, "SELECT count(*) FROM checkpoint_blobs") == [(30,)]
    with postgres_saver(postgres) as theirs:
        assert everything(theirs) == wanted


def test_names_may_be_any_text(database_path: Path, tmp_path: Path, postgres: str) -> None:
    """Of threads and channels: quotes, percent signs, line ends, empty ones, birds."""
    names = ['"', "'", "é\u200b", "\n\t", "a.b", "$[0]", "%s", "{}", "", "🦜"]
    with SqliteSaver(database_path) as saver:
        for name in names:
            values = {each: [each, prose(6_000)] for each in names}
            save(saver, 1, values, thread=name or "empty")
            config = place(1, name or "empty")
            saver.put_writes(config, [(each, each) for each in names], name, name)
        wanted = everything(saver)
    to_postgres(database_path, postgres, verify=True)
    back = tmp_path / "back.db"
    from_postgres(postgres, back, verify=True)
    with SqliteSaver(back) as saver, postgres_saver(postgres) as theirs:
        assert everything(theirs) == wanted
        assert everything(saver) == wanted


def test_a_checkpoint_that_does_not_tell_its_format_gets_the_oldest(
    database_path: Path, postgres: str
) -> None:
    """PostgresSaver cannot read it otherwise, and SqliteSaver takes it for that."""
    with SqliteSaver(database_path) as saver:
        found = {"id": "000001", "ts": "", "channel_values": {}, "channel_versions": {}}
        saver.put(place(), found, {}, {})
    to_postgres(database_path, postgres, verify=True)
    with postgres_saver(postgres) as theirs:
        assert theirs.get_tuple(place(1)).checkpoint["v"] == 1
