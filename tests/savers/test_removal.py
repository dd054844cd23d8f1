"""Deleting in two steps: what others save between looking up and deleting is not lost."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from langgraph_sqlite_saver import SqliteSaver
from langgraph_sqlite_saver.checkpoints import removal, retention

from .helpers import (
    LIST,
    bases,
    chain,
    count,
    dump,
    execute,
    parent,
    place,
    prose,
    rows,
    save,
    unsound,
    values,
    version,
)

TEXT = prose(40_000)
SIZES = {number: 10_000 + 500 * number for number in range(1, 20)}


def read(saver: Any, op: Callable[..., Any], *args: Any) -> Any:
    value = saver.saver.database.read(op, *args)
    return saver.run(value) if saver.awaited else value


def write(saver: Any, op: Callable[..., Any], *args: Any) -> Any:
    value = saver.saver.database.write(op, *args)
    return saver.run(value) if saver.awaited else value


def step(saver: Any, number: int, *, after: int | None = None, run: str | None = None) -> None:
    """A checkpoint with a text that rests on older ones, and a list that no other has."""
    save(
        saver,
        number,
        {"m": TEXT[: SIZES[number]], "own": [number], "all": LIST},
        versions={"m": version("str", number), "own": number, "all": 1},
        new={"m": 1, "own": 1} if number > 1 else {"m": 1, "own": 1, "all": 1},
        parent=after if after is not None else number - 1 or None,
        metadata={"run_id": run or f"run {number}"},
    )


def steps(saver: Any, last: int) -> None:
    for number in range(1, last + 1):
        step(saver, number)


def plan(saver: Any, *numbers: int) -> Any:
    """What is found of the runs that made some checkpoints."""
    runs = [f"run {number}" for number in numbers]
    return read(saver, retention.plan_runs, saver.saver, "t", runs)


# --- what has to be looked up again


def a_child(saver: Any) -> None:
    step(saver, 10, after=9)


def a_checkpoint_with_its_value(saver: Any) -> None:
    given = {"own": [9]}
    save(saver, 10, given, versions={"own": 9}, parent=8)


def another_checkpoint_in_the_place_of_one_with_its_value(saver: Any) -> None:
    save(saver, 8, {"own": [9]}, versions={"own": 9}, parent=7)


def a_value_that_rests_on_its_own(saver: Any) -> None:
    step(saver, 10, after=8)
    assert bases(saver.saver.database.path, channel="m")[version("str", 10)] == version("str", 9)


def a_pending_write_that_rests_on_its_value(saver: Any) -> None:
    saver.put_writes(place(8), [("m", TEXT[: SIZES[9]])], "task")
    ((base,),) = rows(saver.saver.database.path, "SELECT base FROM checkpoint_writes "
                       "WHERE task_id = 'task'")  # fmt: skip
    assert version("str", 9) in base


def an_error_that_rests_on_its_value(saver: Any) -> None:
    """Such writes take the place of others."""
    saver.put_writes(place(8), [("__error__", TEXT[: SIZES[9]])], "other")
    ((base,),) = rows(
        saver.saver.database.path, "SELECT base FROM checkpoint_writes WHERE task_id = 'other'"
    )
    assert version("str", 9) in base


def the_same_id_of_another_run(saver: Any) -> None:
    step(saver, 9, run="another")


def it_was_deleted_and_saved_again(saver: Any) -> None:
    saver.delete_for_runs(["run 9"])
    step(saver, 9, run="another")


def the_others_that_used_its_values_went(saver: Any) -> None:
    saver.delete_for_runs([f"run {number}" for number in range(1, 9)])


INTERFERENCES = [
    a_child,
    a_checkpoint_with_its_value,
    another_checkpoint_in_the_place_of_one_with_its_value,
    a_value_that_rests_on_its_own,
    a_pending_write_that_rests_on_its_value,
    an_error_that_rests_on_its_value,
    the_same_id_of_another_run,
    it_was_deleted_and_saved_again,
    the_others_that_used_its_values_went,
]


@pytest.mark.parametrize("interfere", INTERFERENCES)
def test_what_was_looked_up_is_not_done_where_it_is_not_so_any_more(
    saver: Any, database_path: Path, interfere: Callable[[Any], None]
) -> None:
    """It is looked up again then, and whatever stays is whole."""
    steps(saver, 9)
    saver.put_writes(place(8), [("__error__", LIST)], "other")
    found = plan(saver, 9)
    interfere(saver)
    before = dump(saver)
    assert write(saver, removal.carry_out, found) is False
    assert dump(saver) == before
    saver.delete_for_runs(["run 9"])
    kept = [each for each in before if each[2].get("run_id") != "run 9"]
    after = dump(saver)
    assert [each[:2] + each[4:] for each in after] == [each[:2] + each[4:] for each in kept]
    assert unsound(database_path) == []
    assert saver.check() == []


def test_a_child_that_gets_the_parent_which_goes_is_seen(saver: Any) -> None:
    """Since the one between them went meanwhile."""
    steps(saver, 9)
    found = plan(saver, 4)
    saver.delete_for_runs(["run 5"])
    assert parent(saver, 6) == 4
    assert write(saver, removal.carry_out, found) is False
    saver.delete_for_runs(["run 4"])
    assert parent(saver, 6) == 3


def test_a_value_that_compact_lets_rest_on_one_which_goes_is_seen(
    saver: Any, database_path: Path
) -> None:
    """Rewriting a row is a change like any other."""
    with SqliteSaver(database_path, history="full") as full:
        steps(full, 9)
    found = plan(saver, 1)
    saver.compact()
    assert version("str", 1) in bases(database_path, channel="m").values()
    assert write(saver, removal.carry_out, found) is False
    saver.delete_for_runs(["run 1"])
    assert saver.check() == []
    assert values(saver, 9)["m"] == TEXT[: SIZES[9]]


def test_pruning_looks_again_where_a_child_of_what_goes_came(
    saver: Any, database_path: Path
) -> None:
    """A fork of an old checkpoint, made meanwhile, stays whole."""
    steps(saver, 9)
    found = read(saver, retention.plan_prune, saver.saver, "t", 2)
    step(saver, 10, after=3)
    assert write(saver, removal.carry_out, found) is False
    saver.prune(["t"], keep_last=2)
    assert [values(saver, n)["own"] for n in (9, 10)] == [[9], [10]]
    assert unsound(database_path) == []


def test_a_subgraphs_call_that_goes_on_meanwhile_is_not_deleted(saver: Any) -> None:
    """Its namespace goes with its root only as it was seen."""
    steps(saver, 3)
    save(saver, 1, {"a": LIST}, ns="call:1", metadata={"parents": {"": "000001"}})
    found = read(saver, retention.plan_prune, saver.saver, "t", 1)
    save(saver, 2, {"a": LIST}, ns="call:1", parent=1, metadata={"parents": {"": "000003"}})
    assert write(saver, removal.carry_out, found) is False
    saver.prune(["t"])
    assert values(saver, 2, ns="call:1") == {"a": LIST}


def test_a_checkpoint_that_may_be_rebuilt_from_what_goes_is_seen(saver: Any) -> None:
    """Of a thread with a DeltaChannel any new one may."""
    counters = {"counters_since_delta_snapshot": {"d": 1}}
    for number in (1, 2):
        save(saver, number, {"own": [number]}, versions={"d": number, "own": number},
             parent=number - 1 or None, metadata={"run_id": f"run {number}"})  # fmt: skip
    found = plan(saver, 1)
    save(saver, 3, {}, versions={"d": 3}, parent=2, metadata={"run_id": "run 3", **counters})
    assert write(saver, removal.carry_out, found) is False


# --- what need not


def another_thread(saver: Any) -> None:
    chain(saver, 5, thread="other")
    saver.delete_thread("other")
    chain(saver, 5, thread="another")


def another_namespace(saver: Any) -> None:
    chain(saver, 5, ns="child")


def the_next_steps(saver: Any) -> None:
    for number in (10, 11, 12):
        step(saver, number)
        saver.put_writes(place(number), [("m", TEXT[: SIZES[number]])], "task")


def nothing(saver: Any) -> None:
    pass


@pytest.mark.parametrize("happen", [nothing, another_thread, another_namespace, the_next_steps])
def test_what_has_nothing_to_do_with_it_hinders_nothing(
    saver: Any, database_path: Path, happen: Callable[[Any], None]
) -> None:
    """A thread that goes on is pruned and cleaned all the same."""
    steps(saver, 9)
    found = plan(saver, 3, 6)
    happen(saver)
    assert write(saver, removal.carry_out, found) is True
    assert (parent(saver, 4), parent(saver, 7)) == (2, 5)
    assert unsound(database_path) == []
    for number in (1, 2, 4, 5, 7, 8, 9):
        assert values(saver, number)["m"] == TEXT[: SIZES[number]]


def test_where_others_never_stop_it_is_done_under_the_lock(
    saver: Any, database_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After it was looked up in vain some times."""
    steps(saver, 9)
    tries: list[bool] = []
    carry_out = removal.carry_out

    def in_vain(conn: Any, found: Any) -> bool:
        tries.append(False)
        return False

    monkeypatch.setattr(removal, "carry_out", in_vain)
    monkeypatch.setattr(
        removal, "at_once", lambda conn, looks, *args: carry_out(conn, looks(conn, *args))
    )
    saver.delete_for_runs(["run 5"])
    assert len(tries) == removal.TRIES
    assert count(database_path, "checkpoints") == 8
    assert unsound(database_path) == []


def test_a_file_that_was_vacuumed_meanwhile_stays_whole(saver: Any, database_path: Path) -> None:
    """VACUUM may give rows other rowids, and may not."""
    chain(saver, 3, thread="gone")
    steps(saver, 9)
    saver.delete_thread("gone")
    found = plan(saver, 5)
    execute(database_path, "VACUUM")
    if not write(saver, removal.carry_out, found):
        saver.delete_for_runs(["run 5"])
    assert (saver.check(), count(database_path, "checkpoints")) == ([], 8)
    assert unsound(database_path) == []


# --- a checkpoint saved again


@pytest.mark.parametrize("table", ["checkpoints", "checkpoint_blobs", "checkpoint_writes"])
def test_rows_behind_the_largest_rowid_are_deleted_under_the_lock(
    saver: Any, database_path: Path, table: str
) -> None:
    """No rowid tells there what has come since it was looked up."""
    steps(saver, 9)
    saver.put_writes(place(9), [("m", TEXT)], "task")
    largest = (
        f"UPDATE {table} SET rowid = {2**63 - 1} WHERE rowid = (SELECT max(rowid) FROM {table})"
    )
    execute(database_path, largest)
    found = plan(saver, 4)
    assert write(saver, removal.carry_out, found) is False
    saver.delete_for_runs(["run 4", "run 7"])
    saver.prune(["t"], keep_last=2)
    assert [values(saver, n)["m"] == TEXT[: SIZES[n]] for n in (8, 9)] == [True, True]
    assert unsound(database_path) == []


def test_saving_again_in_a_saver_without_the_key_is_done_all_the_same(database_path: Path) -> None:
    """What rests on the old values stays as it is, and with it what it rests on."""
    from langgraph.checkpoint.serde.encrypted import EncryptedSerializer

    serde = EncryptedSerializer.from_pycryptodome_aes(key=b"0" * 32)
    with SqliteSaver(database_path, serde=serde) as saver:
        steps(saver, 3)
    with SqliteSaver(database_path) as plain:
        save(plain, 1, {"own": ["new"]}, versions={"own": "new"})
        assert values(plain, 1) == {"own": ["new"]}
    with SqliteSaver(database_path, serde=serde) as saver:
        assert values(saver, 3)["m"] == TEXT[: SIZES[3]]
