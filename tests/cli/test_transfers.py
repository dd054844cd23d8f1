"""import, to-postgres, from-postgres: what they say. What they carry is in tests/transfer."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from langgraph.checkpoint.serde.encrypted import EncryptedSerializer
from langgraph.checkpoint.sqlite import SqliteSaver as OfficialSaver
from langgraph.store.sqlite import SqliteStore
from savers.helpers import chain, converse, dump, execute, expect, names, official_saver

from langgraph_sqlite_saver import SqliteSaver

from .conftest import Cli

KEY = "0123456789abcdef"
SECRET = "hush-hush"


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A file of the official saver with two threads, of 3 and 20 checkpoints."""
    with official_saver(tmp_path / "old.db") as saver:
        chain(saver, 3, thread="a")
        converse(saver, 20)
    return tmp_path / "old.db"


# From the official saver's file.


def test_import(cli: Cli, old: Path, tmp_path: Path) -> None:
    """import carries every thread over, and tells how many; doing it again adds nothing."""
    new, before = tmp_path / "new.db", old.read_bytes()
    printed = cli("import", old, new, "--verify")
    assert re.search(r"^threads at the source +2$", printed, re.M)
    assert re.search(r"^checkpoints carried over +23$", printed, re.M)
    with official_saver(old) as official, SqliteSaver(new) as saver:
        assert len(dump(official)) == len(dump(saver)) == 23
        expect(saver, 20)
    again = cli.json("import", old, new)
    assert (again["checkpoints"], again["already_there"]) == (0, 23)
    assert old.read_bytes() == before


def test_import_of_a_file_with_a_store(cli: Cli, old: Path, tmp_path: Path) -> None:
    """The store and the program's own tables are not carried over, which is said."""
    with SqliteStore.from_conn_string(str(old)) as store:
        store.setup()
        store.put(("user",), "key", {"v": 1})
    execute(old, "CREATE TABLE accounts (id)")
    cli("import", old, tmp_path / "new.db")
    told, own = cli.errors.splitlines()[-2:]
    assert "LangGraph's store (store, store_migrations)" in told and "keep the file" in told
    assert own.endswith("not carried over: accounts")
    left = cli.json("import", old, tmp_path / "new.db")["tables_left"]
    assert left == ["accounts", "store", "store_migrations"]


def test_import_of_an_enciphered_file(cli: Cli, tmp_path: Path) -> None:
    """Without the key a line names the option; with it the new file is enciphered too."""
    serde = EncryptedSerializer.from_pycryptodome_aes(key=KEY.encode())
    with OfficialSaver.from_conn_string(str(tmp_path / "old.db")) as saver:
        saver.serde = serde
        converse(saver, 5)
    assert "--key-env" in cli.problem("import", tmp_path / "old.db", tmp_path / "new.db")
    cli("import", tmp_path / "old.db", tmp_path / "new.db", "--key-env", "K", K=KEY)
    with SqliteSaver(tmp_path / "new.db", serde=serde) as ours:
        expect(ours, 5)
    assert "<enciphered" in cli("state", tmp_path / "new.db", "t")


def test_import_of_other_files(cli: Cli, example: Path, tmp_path: Path) -> None:
    """A file that is missing, or is not the official saver's, is a line; nothing is made."""
    cli.problem("import", tmp_path / "none.db", tmp_path / "new.db")
    cli.problem("import", example, tmp_path / "new.db")
    assert names(tmp_path) == []


# Postgres.


@pytest.fixture(scope="module")
def postgres() -> Iterator[str]:
    """How to connect to an empty database of a running server."""
    from transfer.postgres_server import PostgresServer

    server = PostgresServer()
    yield server.new_database()
    server.close()


def test_to_postgres_and_back(cli: Cli, example: Path, tmp_path: Path, postgres: str) -> None:
    """Threads go there and come back as they were; --thread chooses some."""
    some = cli.json("to-postgres", example, postgres, "--thread", "failed", "--thread", "objects")
    assert some["threads"] == 2
    printed = cli("to-postgres", example, postgres, "--verify")
    assert re.search(r"^checkpoints that were there +5$", printed, re.MULTILINE)
    back = tmp_path / "back.db"
    assert cli.json("from-postgres", postgres, back, "--verify")["threads"] == 3
    for thread in ("house", "objects", "failed"):
        found = [cli.json("show", path, thread, "--subgraphs") for path in (example, back)]
        for each in found:
            for namespace in each["namespaces"]:
                for checkpoint in namespace["checkpoints"]:
                    del checkpoint["bytes"]
        assert found[0] == found[1]
        assert cli("state", example, thread) == cli("state", back, thread)


@pytest.mark.parametrize(
    "uri",
    [
        f"postgresql://me:{SECRET}@127.0.0.1:1/agents",
        f"postgresql://127.0.0.1:1/agents?user=me&password={SECRET}",
        f"host=127.0.0.1 port=1 user=me password={SECRET}",
        f"postgresql://me:{SECRET}@[broken/agents",
        f"postgresql://me:{SECRET}@127.0.0.1:1/agents?no_such_option={SECRET}",
    ],
)
def test_passwords_are_not_shown(cli: Cli, example: Path, tmp_path: Path, uri: str) -> None:
    """A Postgres that does not answer, or a URI that is none, is a line without the password."""
    for args in (["to-postgres", example, uri], ["from-postgres", uri, tmp_path / "new.db"]):
        assert SECRET not in cli.problem(*args)
    assert names(tmp_path) == []


def test_to_postgres_from_other_files(cli: Cli, old: Path, tmp_path: Path) -> None:
    """What is wrong with the file is said before anybody is connected to."""
    nowhere = "postgresql://127.0.0.1:1/agents"
    assert "does not exist" in cli.problem("to-postgres", tmp_path / "none.db", nowhere)
    assert "langgraph-sqlite import" in cli.problem("to-postgres", old, nowhere)
