"""Moving to Postgres and back: what is refused, and what the error says."""

from __future__ import annotations

import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from langgraph_sqlite_saver import CannotOpenError, InvalidTypeError, SqliteSaver, StorageError
from langgraph_sqlite_saver.relay import RelayStore
from langgraph_sqlite_saver.transfer.errors import TransferError, VerificationError
from langgraph_sqlite_saver.transfer.postgres import from_postgres, to_postgres

from .official import contents, official_saver
from .postgres_threads import (
    chain,
    everything,
    execute,
    orphans,
    place,
    postgres_saver,
    prose,
    query,
    save,
    serde,
)


@pytest.fixture
def filled(database_path: Path) -> Path:
    """A file with a thread of three checkpoints."""
    with SqliteSaver(database_path) as saver:
        chain(saver, 3)
    return database_path


def said(error: BaseException | None) -> str:
    """The text of an error and of all that led to it, shown by a traceback or not."""
    if error is None:
        return ""
    return "\n".join([repr(error), said(error.__cause__), said(error.__context__)])


@pytest.fixture
def secret(postgres: str) -> str:
    """A wrong password, for a role that needs one."""
    execute(
        postgres,
        "DO $$ BEGIN CREATE ROLE guarded LOGIN PASSWORD 'right'; "
        "EXCEPTION WHEN duplicate_object THEN END $$",
    )
    return "wr0ng/p@ss"


@pytest.mark.parametrize("to", [True, False], ids=["to", "from"])
@pytest.mark.parametrize("form", ["words", "url", "no conninfo"])
def test_a_wrong_password_is_in_no_error(
    filled: Path, postgres: str, secret: str, to: bool, form: str
) -> None:
    """Nor is one in a text that Postgres cannot read."""
    uri = make_conninfo(postgres, user="guarded", password=secret)
    if form == "url":
        host = postgres.split()[0].partition("=")[2]
        uri = f"postgresql://guarded:wr0ng%2Fp%40ss@/test?host={host}"
    if form == "no conninfo":
        uri = f"postgresql//guarded:{secret}@host/x"
    with pytest.raises(TransferError) as raised:
        if to:
            to_postgres(filled, uri)
        else:
            from_postgres(uri, filled)
    text = said(raised.value)
    assert "Postgres" in text
    for hidden in (secret, "wr0ng", "p@ss", "p%40ss"):
        assert hidden not in text


@pytest.mark.parametrize("mark", "/@#?:%[ ")
@pytest.mark.parametrize(
    "form", ["postgresql://me:hid{}den@/db?host={}", "host={1} password=hid{0}den"]
)
def test_a_part_of_a_password_is_in_no_error(
    filled: Path, tmp_path: Path, form: str, mark: str
) -> None:
    """Where it holds what ends one in a URI."""
    for move in (to_postgres, lambda path, uri: from_postgres(uri, path)):
        with pytest.raises(TransferError) as raised:
            move(filled, form.format(mark, tmp_path))
        text = said(raised.value)
        assert "Postgres" in text
        assert "hid" not in text
        assert "den" not in text


def test_a_server_that_is_not_there(filled: Path, tmp_path: Path) -> None:
    """The error says whose it is."""
    with pytest.raises(TransferError, match=r"Postgres: .*connection"):
        to_postgres(filled, f"host={tmp_path} dbname=none")


def test_a_file_that_is_not_there(tmp_path: Path, postgres: str) -> None:
    """None is made, nor any table."""
    with pytest.raises(CannotOpenError, match=r"no file .*missing\.db"):
        to_postgres(tmp_path / "missing.db", postgres)
    assert list(tmp_path.iterdir()) == []
    assert query(postgres, "SELECT to_regclass('checkpoints')") == [(None,)]


@pytest.mark.parametrize("what", ["official", "relay", "text", "empty"])
def test_a_file_of_another_kind(tmp_path: Path, postgres: str, what: str) -> None:
    """Neither it nor Postgres is touched."""
    path = tmp_path / "other.db"
    if what == "official":
        with official_saver(path) as saver:
            chain(saver, 1)
    elif what == "relay":
        with RelayStore(path) as store:
            store.database.open()
    elif what == "empty":
        path.touch()
    else:
        path.write_text("no database " * 100)
    before = contents(tmp_path)
    with pytest.raises(StorageError, match=r"other\.db"):
        to_postgres(path, postgres)
    assert contents(tmp_path) == before
    assert query(postgres, "SELECT to_regclass('checkpoints')") == [(None,)]


def test_threads_are_a_list_of_ids(filled: Path, postgres: str) -> None:
    """The letters of a text are not."""
    with pytest.raises(InvalidTypeError):
        to_postgres(filled, postgres, threads="t")
    with pytest.raises(InvalidTypeError):
        from_postgres(postgres, filled, threads="t")


def test_a_postgres_without_the_tables(tmp_path: Path, postgres: str) -> None:
    """It is left without them, and no file is made."""
    with pytest.raises(TransferError, match="no tables of PostgresSaver"):
        from_postgres(postgres, tmp_path / "new.db")
    assert list(tmp_path.iterdir()) == []


def test_tables_of_another_version(filled: Path, postgres: str) -> None:
    """Newer ones are refused both ways; older ones are brought up to date on the way there."""
    to_postgres(filled, postgres)
    execute(postgres, "INSERT INTO checkpoint_migrations (v) VALUES (99)")
    for move in (lambda: to_postgres(filled, postgres), lambda: from_postgres(postgres, filled)):
        with pytest.raises(TransferError, match="version 99"):
            move()
    execute(postgres, "DELETE FROM checkpoint_migrations WHERE v >= 9")
    execute(postgres, "ALTER TABLE checkpoint_writes DROP COLUMN task_path")
    with pytest.raises(TransferError, match=r"version 8.*setup\(\)"):
        from_postgres(postgres, filled)
    assert to_postgres(filled, postgres).already_there == 3


def test_an_encrypted_file_without_its_key(database_path: Path, postgres: str) -> None:
    """Differences need it: those threads are refused. What lies whole is carried as it is."""
    key = serde(True)
    with SqliteSaver(database_path, serde=key) as saver:
        chain(saver, 2, thread="small")
        for number in (1, 2):
            save(saver, number, {"list": [prose(9_000), number]}, thread="large")
        saver.put_writes(place(1, "large"), [("x", prose(9_000))], "task")
        small = {key: said for key, said in everything(saver).items() if key[0] == "small"}
    with pytest.raises(TransferError, match=r"thread 'large'.*channel 'list'.*the key"):
        to_postgres(database_path, postgres)
    with postgres_saver(postgres, key) as theirs:
        assert everything(theirs) == small


def test_another_key(database_path: Path, postgres: str) -> None:
    """Whatever has to be opened is refused."""
    from langgraph.checkpoint.serde.encrypted import EncryptedSerializer

    other = EncryptedSerializer.from_pycryptodome_aes(key=b"another key here")
    with SqliteSaver(database_path, serde=serde(True)) as saver:
        save(saver, 1, {"list": [prose(9_000)]})
    with pytest.raises(TransferError, match=r"thread 't'.*checkpoint 000001: .*key"):
        to_postgres(database_path, postgres, serde=other)
    assert query(postgres, "SELECT count(*) FROM checkpoints") == [(0,)]


def test_a_damaged_value_keeps_back_its_thread_and_no_other(
    database_path: Path, postgres: str
) -> None:
    """It is named; what else a page holds is carried."""
    with SqliteSaver(database_path) as saver:
        for thread in "abc":
            save(saver, 1, {"list": [prose(9_000)]}, thread=thread)
    with closing(sqlite3.connect(database_path)) as conn, conn:
        conn.execute("UPDATE checkpoint_blobs SET blob = substr(blob, 1, 99) WHERE thread_id = 'b'")
    with pytest.raises(TransferError, match=r"thread 'b'.*checkpoint 000001: .*damaged"):
        to_postgres(database_path, postgres)
    assert query(postgres, "SELECT thread_id FROM checkpoints ORDER BY 1") == [("a",), ("c",)]


@pytest.mark.parametrize("where", ["channel", "channel of a write", "task"])
def test_names_that_postgres_saver_cannot_read(
    database_path: Path, postgres: str, where: str
) -> None:
    """It takes backslashes for escapes, and would not list the thread at all."""
    odd = "back\\slash"
    with SqliteSaver(database_path) as saver:
        chain(saver, 1, thread="a")
        save(saver, 1, {odd if where == "channel" else "c": [1]})
        channel = odd if where == "channel of a write" else "c"
        saver.put_writes(place(1), [(channel, 1)], odd if where == "task" else "task")
    with pytest.raises(TransferError, match=r"thread 't'.*backslash"):
        to_postgres(database_path, postgres)
    with postgres_saver(postgres) as theirs:
        assert {key[0] for key in everything(theirs)} == {"a"}


def test_a_thread_that_postgres_has_no_room_for(database_path: Path, postgres: str) -> None:
    """A name that is longer than its indexes take; the others of the page are carried."""
    long = "".join(f"{n:06}" for n in range(9_000))
    with SqliteSaver(database_path) as saver:
        for thread in ("a", long, "z"):
            chain(saver, 1, thread=thread)
    with pytest.raises(TransferError, match="Postgres does not take it"):
        to_postgres(database_path, postgres)
    assert query(postgres, "SELECT thread_id FROM checkpoints ORDER BY 1") == [("a",), ("z",)]


def test_another_value_under_the_same_version(filled: Path, postgres: str) -> None:
    """Of a thread of the same name; it is neither replaced nor taken for ours."""
    with postgres_saver(postgres) as theirs:
        theirs.setup()
        save(theirs, 7, {"list": ["theirs"]}, versions={"list": "2"})
    with pytest.raises(TransferError, match=r"thread 't'.*'list'.*another value under version 2"):
        to_postgres(filled, postgres)
    with postgres_saver(postgres) as theirs:
        assert len(everything(theirs)) == 1


def test_postgres_going_away_leaves_what_is_there(filled: Path, postgres: str) -> None:
    """The error is one of ours, and the next call goes on."""

    def end(done: int, total: int) -> None:
        query(
            postgres,
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE application_name = 'langgraph-sqlite'",
        )

    with SqliteSaver(filled) as saver:
        for thread in "abcdefgh":
            chain(saver, 150, thread=thread)
    with pytest.raises(TransferError, match=r"Postgres: .*terminating connection"):
        to_postgres(filled, postgres, progress=end)
    assert 0 < query(postgres, "SELECT count(*) FROM checkpoints")[0][0] < 1_203
    to_postgres(filled, postgres)
    assert query(postgres, "SELECT count(*) FROM checkpoints") == [(1_203,)]


def test_an_encrypted_postgres_without_its_key(database_path: Path, postgres: str) -> None:
    """Nothing that is enciphered is stored as if it were a value."""
    with postgres_saver(postgres, serde(True)) as theirs:
        theirs.setup()
        chain(theirs, 2)
    with pytest.raises(TransferError, match=r"thread 't'.*channel 'list'.*the key"):
        from_postgres(postgres, database_path)
    with SqliteSaver(database_path) as saver:
        assert everything(saver) == {}


def test_what_a_file_cannot_hold_keeps_back_its_thread_and_no_other(
    database_path: Path, postgres: str
) -> None:
    """A version that is neither text nor a number, say."""
    with postgres_saver(postgres) as theirs:
        theirs.setup()
        for thread in "abc":
            chain(theirs, 2, thread=thread)
    execute(
        postgres,
        "UPDATE checkpoints SET checkpoint = jsonb_set(checkpoint, '{channel_versions}', "
        "'{\"list\": [1]}') WHERE thread_id = 'b'",
    )
    with pytest.raises(TransferError, match=r"thread 'b'.*checkpoint 000001.*version of channel"):
        from_postgres(postgres, database_path)
    with SqliteSaver(database_path) as saver:
        assert {key[0] for key in everything(saver)} == {"a", "c"}


CHANGES: dict[str, tuple[str, str]] = {
    "value": ("checkpoint_blobs", "blob = '\\x91c0' WHERE version = '2'"),
    "no value": ("checkpoint_blobs", "type = 'empty' WHERE version = '2'"),
    "metadata": (
        "checkpoints",
        "metadata = '{\"step\": 7}' WHERE checkpoint_id = '000002'",
    ),
    "versions": (
        "checkpoints",
        "checkpoint = jsonb_set(checkpoint, '{versions_seen}', '{\"n\": {}}') "
        "WHERE checkpoint_id = '000002'",
    ),
    "writes": ("checkpoint_writes", "blob = '\\x91c0'"),
}


@pytest.mark.parametrize("back", [False, True], ids=["there", "back"])
def test_what_is_another_one_keeps_back_its_thread_and_no_other(
    filled: Path, tmp_path: Path, postgres: str, back: bool
) -> None:
    """The threads before and behind it are carried; mended, the next call brings its rest."""
    with SqliteSaver(filled) as saver:
        chain(saver, 2, thread="s")
        chain(saver, 2, thread="u")
        wanted = everything(saver)
    to_postgres(filled, postgres)
    path = tmp_path / "back.db"
    if back:
        from_postgres(postgres, path, threads=["t"])
    else:
        with postgres_saver(postgres) as theirs:
            theirs.delete_thread("s")
            theirs.delete_thread("u")

    def move() -> Any:
        if back:
            return from_postgres(postgres, path, verify=True)
        return to_postgres(filled, postgres, verify=True)

    execute(postgres, "UPDATE checkpoint_blobs SET blob = '\\x9107' WHERE (thread_id, version) "
            "= ('t', '2')")  # fmt: skip
    with pytest.raises(VerificationError, match=r"thread 't'.*checkpoint 000002.*'list'"):
        move()
    execute(postgres, "UPDATE checkpoint_blobs SET blob = '\\x9102' WHERE (thread_id, version) "
            "= ('t', '2')")  # fmt: skip
    done = move()
    assert (done.checkpoints, done.already_there, done.verified) == (0, 7, 7)
    with SqliteSaver(path) if back else postgres_saver(postgres) as target:
        assert everything(target) == wanted


def test_a_connection_that_breaks_in_the_middle_of_a_transaction(
    filled: Path, postgres: str
) -> None:
    """The error is one of ours, nothing of the transaction stays, and the next call goes on."""
    to_postgres(filled, postgres)
    with SqliteSaver(filled) as saver:
        chain(saver, 2, start=4)
        wanted = everything(saver)
    waiting = (
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE application_name = 'langgraph-sqlite' AND wait_event_type = 'Lock'"
    )
    with (
        psycopg.connect(postgres) as other,
        ThreadPoolExecutor() as pool,
        pytest.raises(TransferError, match="Postgres: "),
    ):
        other.execute("LOCK TABLE checkpoints IN SHARE MODE")
        moving = pool.submit(to_postgres, filled, postgres)
        while not query(postgres, waiting):
            assert not moving.done()
        moving.result()
    assert query(postgres, "SELECT count(*) FROM checkpoints") == [(3,)]
    assert orphans(postgres) == []
    assert to_postgres(filled, postgres).checkpoints == 2
    with postgres_saver(postgres) as theirs:
        assert everything(theirs) == wanted


def test_a_postgres_that_can_only_be_read(filled: Path, tmp_path: Path, postgres: str) -> None:
    """It is read; writing is refused in Postgres' words."""
    read_only = make_conninfo(postgres, options="-c default_transaction_read_only=on")
    with pytest.raises(TransferError, match="read-only transaction"):
        to_postgres(filled, read_only)
    to_postgres(filled, postgres)
    assert from_postgres(read_only, tmp_path / "new.db", follow=True).checkpoints == 3
    with SqliteSaver(filled) as saver:
        chain(saver, 1, start=4)
    with pytest.raises(TransferError, match="read-only transaction"):
        to_postgres(filled, read_only)


def test_tables_in_another_schema(filled: Path, tmp_path: Path, postgres: str) -> None:
    """The search_path says which; without the schema, or without its tables, the error says so."""
    elsewhere = make_conninfo(postgres, options="-c search_path=elsewhere")
    with pytest.raises(TransferError, match="no schema"):
        to_postgres(filled, elsewhere)
    execute(postgres, "CREATE SCHEMA elsewhere")
    to_postgres(filled, elsewhere, verify=True)
    assert query(postgres, "SELECT to_regclass('public.checkpoints')") == [(None,)]
    assert from_postgres(elsewhere, tmp_path / "new.db", verify=True).checkpoints == 3
    execute(postgres, "DROP TABLE elsewhere.checkpoint_blobs")
    with pytest.raises(TransferError, match=r'relation "checkpoint_blobs" does not exist'):
        to_postgres(filled, elsewhere)


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("back", [False, True], ids=["there", "back"])
def test_a_checkpoint_that_is_another_one_is_found(
    filled: Path, postgres: str, change: str, back: bool
) -> None:
    """With verify, also among those that were there before."""
    with SqliteSaver(filled) as saver:
        saver.put_writes(place(2), [("list", [2])], "task")
    to_postgres(filled, postgres, verify=True)
    table, how = CHANGES[change]
    execute(postgres, f"UPDATE {table} SET {how}")
    move: Any = (
        (lambda **options: from_postgres(postgres, filled, **options))
        if back
        else (lambda **options: to_postgres(filled, postgres, **options))
    )
    move()
    with pytest.raises(VerificationError, match=r"thread 't'.*checkpoint 000002"):
        move(verify=True)
