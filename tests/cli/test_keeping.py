"""check, compact, prune, expire, delete, copy, backup, optimize, migrations."""

from __future__ import annotations

import gzip
import importlib.resources
import re
from pathlib import Path

import pytest
from langgraph.checkpoint.serde.encrypted import EncryptedSerializer
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from savers.helpers import (
    chain,
    converse,
    execute,
    expect,
    names,
    numbers,
    place,
    rows,
    save,
    unsound,
)

from langgraph_sqlite_saver import SqliteSaver
from langgraph_sqlite_saver.checkpoints.schema import SCHEMA
from langgraph_sqlite_saver.cli import output
from langgraph_sqlite_saver.database import Migration

from .conftest import Cli, cells

KEY = "0123456789abcdef"


@pytest.fixture
def chains(tmp_path: Path) -> Path:
    """Threads "a" of 2020 and "b" of 2026, with 3 and 5 checkpoints."""
    path = tmp_path / "chains.db"
    with SqliteSaver(path) as saver:
        for number in (1, 2, 3):
            save(saver, number, {"n": [number]}, thread="a", ts="2020-01-01T00:00:00Z")
        chain(saver, 5, thread="b")
    return path


def threads(path: Path) -> dict[str, int]:
    """How many checkpoints each thread has."""
    counts = "SELECT thread_id, count(*) FROM checkpoints GROUP BY thread_id"
    return dict(rows(path, counts))  # type: ignore[arg-type]


# check


def test_check_finds_damage(cli: Cli, chains: Path) -> None:
    """check names what cannot be read, with status 1."""
    assert cli("check", chains) == "No damage was found.\n"
    assert cli.json("check", chains) == {
        "ok": True, "damages": [], "enciphered": 0, "orphans": [],
    }  # fmt: skip
    execute(
        chains, "UPDATE checkpoint_blobs SET blob = X'C1' WHERE thread_id = 'b' AND version = 2"
    )
    found = cli.json("check", chains, status=1)
    assert [(d["thread_id"], d["channel"], d["version"]) for d in found["damages"]] == [
        ("b", "list", "2")
    ]
    printed = cli("check", chains, status=1)
    assert printed.startswith("thread b, channel list, version 2: ")
    assert "1 place cannot be read" in printed
    assert cli("check", chains, "a") == "No damage was found.\n"


def test_check_of_enciphered_values(cli: Cli, tmp_path: Path) -> None:
    """Without the key they are no damage, and are said not to be looked into."""
    path = tmp_path / "secret.db"
    serde = EncryptedSerializer.from_pycryptodome_aes(key=KEY.encode())
    with SqliteSaver(path, serde=serde) as saver:
        converse(saver, 20)
    assert "--key-env NAME" in cli.problem("prune", path, "t", "--yes")
    assert "No damage" in cli("check", path) and "20 enciphered values not" in cli.errors
    assert "No damage" in cli("check", path, "--key-env", "K", K=KEY) and cli.errors == ""
    execute(path, "UPDATE checkpoint_blobs SET blob = X'00' WHERE version LIKE '%1'")
    damages = cli.json("check", path, "--key-env", "K", status=1, K=KEY)["damages"]
    assert len(damages) > 1


def test_check_with_another_key(cli: Cli, tmp_path: Path) -> None:
    """Where the key may be the wrong one, that is said beside the advice for damaged files."""
    serde = EncryptedSerializer.from_pycryptodome_aes(key=KEY.encode())
    with SqliteSaver(tmp_path / "secret.db", serde=serde) as saver:
        converse(saver, 2)
    printed = cli("check", tmp_path / "secret.db", "--key-env", "K", status=1, K=KEY[::-1])
    assert printed.endswith("saved with another key than K holds, they are sound.\n")
    assert "Give the saver" not in printed


def test_threads_that_are_not_there(cli: Cli, chains: Path) -> None:
    """Nothing is said to be sound, or done, that was not found."""
    before = chains.read_bytes()
    for command in ("check", "compact"):
        assert "no thread 'x'" in cli.problem(command, chains, "a", "x")
    assert chains.read_bytes() == before


def test_check_a_damaged_file(cli: Cli, chains: Path) -> None:
    """A file whose pages are damaged is found to be so."""
    content = bytearray(chains.read_bytes())
    content[-4096:] = b"\xff" * 4096
    chains.write_bytes(content)
    cli("check", chains, status=1)


# compact, optimize


def test_compact(cli: Cli, tmp_path: Path) -> None:
    """What was stored whole is stored at what changed; every value is what it was."""
    path = tmp_path / "full.db"
    with SqliteSaver(path, history="full") as saver:
        converse(saver, 60)
    done = cli.json("compact", path)
    assert done["rewritten"] > 40 and done["bytes_after"] * 10 < done["bytes_before"]
    assert done["size_after"] < done["size_before"]
    with SqliteSaver(path) as saver:
        expect(saver, 60)
    assert "0 stored anew" in cli("compact", path)
    assert cli.json("compact", path, "--history", "full")["rewritten"] > 0


def test_compact_without_the_classes(cli: Cli, own: Path) -> None:
    """No value is read for it."""
    cli("compact", own)
    cli("compact", own, "--history", "full")
    assert "only_there" in str(cli.json("state", own, "objects"))


def test_optimize(cli: Cli, chains: Path) -> None:
    """optimize gives free pages back when asked."""
    with SqliteSaver(chains) as saver:
        save(saver, 9, {"large": list(range(100_000))}, thread="c")
        saver.delete_thread("c")
    found = cli.json("optimize", chains, "--vacuum", "full")
    assert found["size_after"] < found["size_before"]
    assert "before" in cli("optimize", chains)


def test_progress(cli: Cli, chains: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a terminal, long work tells how far it is from time to time, on stderr."""
    monkeypatch.setattr(output, "EVERY", 0.0)
    for command, doing in (("check", "checking"), ("compact", "compacting")):
        cli(command, chains)
        assert re.search(rf"^{doing}: \d+ of 8 values$", cli.errors, re.MULTILINE)
        cli(command, chains, "--json")
        assert cli.errors == ""


# prune, expire, delete, copy


def test_prune(cli: Cli, chains: Path) -> None:
    """prune keeps the newest of the threads that are named, or of all."""
    assert cli.json("prune", chains, "b", "--keep-last", "2", "--yes") == {
        "threads": 1, "deleted": 3, "kept": 2,
    }  # fmt: skip
    assert threads(chains) == {"a": 3, "b": 2}
    assert "3 checkpoints deleted, 2 kept" in cli("prune", chains, "--all", "--yes")
    with SqliteSaver(chains) as saver:
        assert numbers(list(saver.list(None))) == [5, 3]
    cli("prune", chains, "a", "--strategy", "delete", "--yes")
    assert threads(chains) == {"b": 1} and not unsound(chains)


def test_prune_an_enciphered_thread(cli: Cli, tmp_path: Path) -> None:
    """Its values rest on one another, and are stored anew with the key."""
    path = tmp_path / "secret.db"
    serde = EncryptedSerializer.from_pycryptodome_aes(key=KEY.encode())
    with SqliteSaver(path, serde=serde) as saver:
        converse(saver, 20)
    cli("prune", path, "t", "--yes", "--key-env", "K", K=KEY)
    with SqliteSaver(path, serde=serde) as saver:
        expect(saver, 20, start=20)


def test_prune_keeps_any_number(cli: Cli, chains: Path) -> None:
    """Also one that SQLite has no integer for."""
    printed = cli("prune", chains, "--all", "--keep-last", "9" * 20, "--yes")
    assert "0 checkpoints deleted, 8 kept" in printed


def test_wrong_prunes(cli: Cli, chains: Path) -> None:
    """What cannot be meant ends with status 2, and a thread that is not there with 1."""
    for args in (["--yes"], ["--all", "a"], ["a", "--strategy", "delete", "--keep-last", "1"]):
        cli.problem("prune", chains, *args, status=2)
    assert "no thread 'x'" in cli.problem("prune", chains, "a", "x", "--yes")
    assert threads(chains) == {"a": 3, "b": 5}


def test_expire(cli: Cli, chains: Path) -> None:
    """expire deletes threads by the time of their newest checkpoint; --dry-run names them."""
    dry = cli("expire", chains, "--older-than", "2025-01-01", "--dry-run")
    assert dry == "a\n1 thread would be deleted.\n" and len(threads(chains)) == 2
    assert cli.json("expire", chains, "--older-than", "2025-01-01", "--yes")["threads"] == ["a"]
    assert threads(chains) == {"b": 5}
    assert cli("expire", chains, "--older-than", "900w", "--yes") == "0 threads deleted.\n"


def test_delete(cli: Cli, chains: Path) -> None:
    """delete deletes the threads that are named, all of which must be there."""
    cli.problem("delete", chains, "a", "x", "--yes")
    assert "3 checkpoints deleted" in cli("delete", chains, "a", "--yes")
    assert threads(chains) == {"b": 5}


def test_copy(cli: Cli, chains: Path) -> None:
    """copy makes a thread under a new id, and never onto another one."""
    assert cli.json("copy", chains, "a", "c") == {"thread_id": "c", "checkpoints": 3}
    assert threads(chains) == {"a": 3, "b": 5, "c": 3}
    assert "already" in cli.problem("copy", chains, "a", "b")
    cli.problem("copy", chains, "x", "y")


@pytest.fixture
def late(chains: Path) -> Path:
    """A file with 3 writes that came after their thread was deleted, and one of unknown age."""
    with SqliteSaver(chains) as saver:
        old = {"thread_id": "late", "checkpoint_ns": "", "checkpoint_id": ID_OF_2024}
        for task in "abc":
            saver.put_writes({"configurable": old}, [("c", b"x" * 1000)], task)
        saver.put_writes(place(7, "odd"), [("c", 1)], "task")
    return chains


ID_OF_2024 = "1eec1f72-8c36-6000-8000-000000000000"


def test_writes_without_a_checkpoint(cli: Cli, late: Path) -> None:
    """check tells them from damage, stats counts them, expire deletes the old ones."""
    said = cli("check", late)
    assert said.startswith("No damage was found.\n4 pending writes (3.0 KB) without a checkpoint")
    assert f"langgraph-sqlite expire {late} --older-than 1d" in said
    assert "Of unknown age, and deleted with their threads only: those of odd\n" in said
    found = cli.json("check", late)
    assert (found["ok"], len(found["orphans"])) == (True, 2)
    assert found["orphans"][0]["made"].startswith("2024-02-0")
    assert re.search(r"pending writes without a checkpoint +4\n", cli("stats", late))
    for *more, done in (["--dry-run", "would be deleted"], ["--yes", "deleted"]):
        printed = cli("expire", late, "--older-than", "2025-01-01", *more)
        assert f"and 3 pending writes (3.0 KB) without a checkpoint {done}.\n" in printed
    dry = cli.json("expire", late, "--older-than", "2025-01-01", "--dry-run")
    assert dry == {"threads": [], "orphan_writes": 0, "dry_run": True}
    cli("delete", late, "odd", "--yes")
    assert cli("check", late) == "No damage was found.\n"
    assert threads(late) == {"b": 5}


@pytest.mark.parametrize(
    "args", [["prune", "a"], ["delete", "a"], ["expire", "--older-than", "1d"]]
)
def test_nobody_to_ask(cli: Cli, chains: Path, args: list[str]) -> None:
    """Where nobody can be asked, what deletes needs --yes."""
    command, *others = args
    before = chains.read_bytes()
    assert "--yes" in cli.problem(command, chains, *others, status=2)
    cli(command, chains, *others, "--json", status=2)
    assert chains.read_bytes() == before


@pytest.mark.parametrize(
    "args", [["prune", "--all"], ["delete", "a"], ["expire", "--older-than=1d"]]
)
def test_a_person_is_asked(cli: Cli, chains: Path, args: list[str]) -> None:
    """On a terminal these ask; "n" changes nothing, "y" does it."""
    command, *others = args
    for no in (b"n\n", b"\x04"):
        shown = cli.terminal(command, chains, *others, typed=no, status=1)
        assert "? [y/N]" in shown and "Nothing was changed." in shown
        assert threads(chains) == {"a": 3, "b": 5}
    cli.terminal(command, chains, *others, typed=b"y\n")
    assert threads(chains) != {"a": 3, "b": 5}


# backup, migrations


def test_backup(cli: Cli, chains: Path, tmp_path: Path) -> None:
    """backup writes a file that holds the same; one that is there is only replaced when asked."""
    target = tmp_path / "backup.db"
    assert cli.json("backup", chains, target)["bytes"] == target.stat().st_size
    assert threads(target) == threads(chains)
    cli.problem("backup", chains, target, status=2)
    cli("backup", chains, target, "--yes")
    assert "create the directory" in cli.problem("backup", chains, tmp_path / "no" / "b.db")


def test_backup_of_a_file_in_use(cli: Cli, chains: Path, tmp_path: Path) -> None:
    """What is committed is in it, also what is in the -wal only."""
    with SqliteSaver(chains) as saver:
        save(saver, 1, {"n": 1}, thread="c")
        cli("backup", chains, tmp_path / "backup.db")
    assert threads(tmp_path / "backup.db") == {"a": 3, "b": 5, "c": 1}


@pytest.mark.parametrize("name", ["backup.db", "backup.db.gz"])
def test_restore(cli: Cli, chains: Path, tmp_path: Path, name: str) -> None:
    """restore puts a backup in place, and keeps what was there, unless told otherwise."""
    backup = tmp_path / name
    cli("backup", chains, tmp_path / "backup.db")
    if backup.suffix == ".gz":
        backup.write_bytes(gzip.compress((tmp_path / "backup.db").read_bytes()))
    was = threads(chains)
    cli("delete", chains, "a", "--yes")
    cli.problem("restore", backup, chains, status=2)
    found = cli.json("restore", backup, chains, "--yes")
    assert (found["checkpoints"], threads(chains)) == (8, was)
    assert threads(Path(found["kept_path"])) == {"b": 5}
    assert cli.json("restore", backup, chains, "--yes", "--no-keep")["kept_path"] is None
    assert "8 checkpoints" in cli("restore", backup, tmp_path / "new.db")
    assert threads(tmp_path / "new.db") == was


def test_restore_of_a_file_in_use_is_refused(cli: Cli, chains: Path, tmp_path: Path) -> None:
    """By an idle saver, which goes on undisturbed; nothing is left behind."""
    backup = tmp_path / "backup.db"
    cli("backup", chains, backup)
    with SqliteSaver(chains) as saver:
        save(saver, 1, {"n": 1}, thread="c")
        before = names(tmp_path)
        assert "stop the service" in cli.problem("restore", backup, chains, "--yes")
        assert names(tmp_path) == before
        save(saver, 2, {"n": 2}, thread="c")
    assert threads(chains) == {"a": 3, "b": 5, "c": 2}


def test_restore_refuses_what_is_not_a_backup_of_checkpoints(
    cli: Cli, chains: Path, tmp_path: Path
) -> None:
    """An empty database, a text, a damaged file: the file stays as it is."""
    other = tmp_path / "other.db"
    execute(other, "CREATE TABLE t (x)")
    text = tmp_path / "text.db"
    text.write_text("no database" * 100)
    damaged = tmp_path / "damaged.db"
    damaged.write_bytes(chains.read_bytes()[:-9000])
    before = chains.read_bytes()
    assert "no checkpoints" in cli.problem("restore", other, chains, "--yes")
    for each in (text, damaged):
        assert "another backup" in cli.problem("restore", each, chains, "--yes")
    assert chains.read_bytes() == before


def test_migrations(cli: Cli, chains: Path) -> None:
    """migrations lists what was applied."""
    shipped = importlib.resources.files("langgraph_sqlite_saver.migrations") / "checkpoints"
    expected = sorted(each.name for each in shipped.iterdir())
    assert [row[1:] for row in cells(cli("migrations", chains))] == [
        [name, "applied"] for name in expected
    ]
    found = cli.json("migrations", chains)
    assert found["version"] == found["newest_known"] == 9 + len(expected)


@pytest.fixture
def later_release(chains: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A release with one migration more than the one that wrote the file."""
    step = Migration(SCHEMA.newest + 1, "later_step.sql", "CREATE TABLE later (n INTEGER);")
    monkeypatch.setitem(SCHEMA.__dict__, "migrations", (*SCHEMA.migrations, step))


@pytest.mark.usefixtures("later_release")
def test_older_files(cli: Cli, chains: Path) -> None:
    """Looking does not migrate; migrations tells what is pending, and applies it when told."""
    before = chains.read_bytes()
    for args in (["threads"], ["show", "b"], ["state", "b"], ["check"]):
        said = cli.problem(args[0], chains, *args[1:])
        assert said.endswith(f"langgraph-sqlite migrations {chains} --apply")
    assert "pending" in cli("migrations", chains, status=1)
    assert "--yes" in cli.problem("migrations", chains, "--apply", status=2)
    assert chains.read_bytes() == before and names(chains.parent) == [chains.name]
    assert "pending" not in cli("migrations", chains, "--apply", "--yes")
    assert len(cells(cli("show", chains, "b"))) == 5


@pytest.mark.parametrize("version", [1, 2, 3])
def test_files_from_before_the_first_release(cli: Cli, chains: Path, version: int) -> None:
    """Every command refuses them with a sentence of their own, and leaves them as they are."""
    execute(chains, "UPDATE checkpoint_migrations SET v = ?", version)
    before = chains.read_bytes()
    for args in (["threads"], ["check"], ["compact"], ["migrations"], ["migrations", "--apply"]):
        said = cli.problem(args[0], chains, *args[1:])
        assert f"version {version}, from before the first release" in said
    assert chains.read_bytes() == before and names(chains.parent) == [chains.name]


def test_newer_files(cli: Cli, chains: Path) -> None:
    """A file of a newer release is left alone, and migrations says what it is."""
    execute(chains, "INSERT INTO checkpoint_migrations VALUES (99)")
    before = chains.read_bytes()
    for args in (["threads"], ["compact"], ["delete", "a", "--yes"], ["check"]):
        assert "upgrade langgraph-sqlite-saver" in cli.problem(args[0], chains, *args[1:])
    assert "99" in cli("migrations", chains, status=1) and "upgrade" in cli.errors
    assert cli.json("migrations", chains, status=1)["version"] == 99
    assert chains.read_bytes() == before


def test_values_stay_what_they_were(
    cli: Cli, own: Path, example: Path, example_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Changing commands carry bytes: no class is needed, and none is lost."""

    def stored(path: Path) -> dict[tuple[str, str], object]:
        with SqliteSaver(path, serde=JsonPlusSerializer(allowed_msgpack_modules=None)) as saver:
            return {
                (each.config["configurable"]["checkpoint_id"], each.checkpoint["ts"]): repr(each)
                for each in saver.list({"configurable": {"thread_id": "objects"}})
            }

    expected = stored(example)
    for args in (["compact"], ["copy", "objects", "two"], ["prune", "house", "--yes"]):
        cli(args[0], own, *args[1:])
    assert stored(own) == expected
