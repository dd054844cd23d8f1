"""Values without their classes: nothing that a file names is imported, and nothing breaks."""

from __future__ import annotations

import json
import os
import pickle
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import ormsgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st
from langgraph.checkpoint.serde.encrypted import EncryptedSerializer
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.checkpoint.serde.types import _DeltaSnapshot
from langgraph.types import Interrupt, Send
from savers.helpers import converse, execute, id_of, messages, place, save

from langgraph_sqlite_saver import SqliteSaver
from langgraph_sqlite_saver.cli import pretty
from langgraph_sqlite_saver.cli.plain import Opaque, Plain, PlainSerializer, to_json

from .conftest import Cli

KEY = "0123456789abcdef"


def plain(value: Any) -> Any:
    """A value as it is read that LangGraph's serialiser wrote."""
    return PlainSerializer().loads_typed(JsonPlusSerializer().dumps_typed(value))


def unread(kind: str, data: bytes) -> str:
    """What is shown of a value that cannot be read."""
    found = PlainSerializer().loads_typed((kind, data))
    assert isinstance(found, Opaque)
    return str(found)


# Objects.


def test_classes_are_not_imported(
    cli: Cli, example: Path, example_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a module that leaves a trace when it is imported there is none, and its data is shown."""
    monkeypatch.syspath_prepend(str(example_folder))
    printed = cli("state", example, "objects", "--full")
    assert "'plan': Plan(goal='sell', steps=[1, 2])" in printed
    assert "'offer': Offer(price=3, note=None)" in printed
    assert "'mood': Mood('fine')" in printed
    for command in ("show", "diff", "check", "stats", "threads"):
        cli(command, example, *(["objects"] if command in ("show", "diff") else []))
    assert not (example_folder / "imported").exists() and "only_there" not in sys.modules
    # It would have been: LangGraph's own serialiser imports it.
    with SqliteSaver(example) as saver:
        saver.get_tuple({"configurable": {"thread_id": "objects"}})
    assert (example_folder / "imported").exists()
    (example_folder / "imported").unlink()
    del sys.modules["only_there"]


def test_objects_as_json(cli: Cli, example: Path) -> None:
    """Objects say their type; what JSON has no word for is an object of one "@" key."""
    made = cli.json("state", example, "objects")["values"]["made"]
    assert made == {
        "plan": {"@type": "only_there.Plan", "goal": "sell", "steps": [1, 2]},
        "offer": {"@type": "only_there.Offer", "price": 3, "note": None},
        "mood": {"@type": "only_there.Mood", "@args": ["fine"]},
        "when": {"@type": "datetime.datetime", "@args": ["2026-01-02T00:00:00+00:00"]},
        "id": {"@type": "uuid.UUID", "@args": ["00000000000000000000000000000007"]},
        "price": {"@type": "decimal.Decimal", "@args": ["1.50"]},
        "tags": {"@type": "builtins.set", "@args": [["a"]]},
        "raw": {"@bytes": "0001ff"},
        "infinite": {"@float": "inf"},
        "numbers": {"@map": [[1, "one"]]},
    }


def test_maps_that_look_like_objects() -> None:
    """A map is told from an object, whatever its keys."""
    assert to_json({"@type": "x", "n": 1}) == {"@map": [["@type", "x"], ["n", 1]]}


def test_langgraphs_own_objects() -> None:
    """Sends, interrupts, snapshots and arrays."""
    assert plain([Send("a", {"b": 1})]) == [Plain("langgraph.types", "Send", ("a", {"b": 1}))]
    found = plain(Interrupt("why?", id="1"))
    assert found.type == "langgraph.types.Interrupt"
    assert (found.fields["value"], found.fields["id"]) == ("why?", "1")
    assert plain(_DeltaSnapshot([1])) == Plain("", "DeltaSnapshot", ([1],))
    numpy = pytest.importorskip("numpy")
    array = plain(numpy.array([[1, 2]], dtype="int8"))
    assert array.fields == {"dtype": "|i1", "shape": [1, 2], "data": b"\x01\x02"}


values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False)
    | st.text(st.characters(exclude_categories=["Cs"])) | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(codec="utf-8")), inner),
)  # fmt: skip


@given(values)
def test_plain_data_is_itself(value: Any) -> None:
    """What has no classes in it comes back as it was, and can be shown."""
    assert plain(value) == value
    assert "\n".join(pretty.lines(plain(value))).replace("\n", "").isprintable()
    json.dumps(to_json(plain(value)), allow_nan=False)


@given(st.binary(), st.sampled_from(["msgpack", "json", "bytes", "null", "msgpack+aes", "x"]))
def test_any_bytes_can_be_shown(data: bytes, kind: str) -> None:
    """Whatever lies in a file, reading it gives something that can be printed."""
    found = PlainSerializer().loads_typed((kind, data))
    assert all(line.isprintable() for line in pretty.lines(found))
    json.dumps(to_json(found), allow_nan=False)


# Hostile files.


def test_pickles_are_not_loaded(cli: Cli, tmp_path: Path) -> None:
    """A pickle would run code; it is shown as one."""
    data = pickle.dumps(Trap(str(tmp_path / "trace")))
    with SqliteSaver(tmp_path / "p.db") as saver:
        save(saver, 1, {"value": [1], "sound": [2]})
    execute(
        tmp_path / "p.db",
        "UPDATE checkpoint_blobs SET type = 'pickle', blob = ? WHERE channel = 'value'",
        data,
    )
    assert f"value = <pickle, {len(data)} bytes>" in cli("state", tmp_path / "p.db", "t")
    assert "No damage" in cli("check", tmp_path / "p.db")
    assert not (tmp_path / "trace").exists()
    pickle.loads(data).close()
    assert (tmp_path / "trace").exists()


class Trap:
    """Leaves a trace where it is unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (self.path, "x")


def test_deep_nesting() -> None:
    """Values that are nested beyond reason are cut there; nothing runs out of stack."""
    packed = ormsgpack.packb(1)
    for _ in range(3000):
        packed = ormsgpack.packb(ormsgpack.Ext(0, b"\x93\xa1m\xa1n" + packed))
    for data in (packed, b"\x91" * 900 + b"\x01", b"\x81\xa1k" * 900 + b"\x01"):
        found = PlainSerializer().loads_typed(("msgpack", data))
        assert "nested too deeply" in "".join(pretty.lines(found))
        json.dumps(to_json(found))
    assert "damaged" in unread("msgpack", b"\x91" * 100_000 + b"\x01")
    assert "damaged" in unread("json", b"[" * 100_000)
    assert "damaged" in unread("msgpack", b"\xdd\xff\xff\xff\xff")


def test_deep_json(cli: Cli, tmp_path: Path) -> None:
    """A checkpoint's JSON and its metadata are cut off as values are."""
    path = tmp_path / "deep.db"
    with SqliteSaver(path) as saver:
        for number in (1, 2):
            save(saver, number, {"n": 5}, parent=number - 1, metadata={"deep": 5})
    deep = "[" * 900 + "]" * 900
    execute(
        path,
        "UPDATE checkpoints SET checkpoint = replace(checkpoint, '\"n\":5', ?), "
        "metadata = replace(metadata, ':5', ?)",
        f'"n":{deep}',
        f":{deep}",
    )
    found = cli.json("state", path, "t")
    for each in (found["values"]["n"], found["metadata"]["deep"]):
        assert "nested too deeply" in json.dumps(each)
    assert "nested too deeply" in cli("state", path, "t")
    assert "no channel differs" in cli("diff", path, "t")
    cli("show", path, "t")


@pytest.mark.parametrize("content", [[], ["m"], ["m", "n"], [1, 2, 3], ["m", "n", 3], {"a": 1}, 7])
@pytest.mark.parametrize("code", [0, 1, 2, 3, 4, 5, 6, 7, 8, 100])
def test_odd_extensions(code: int, content: Any) -> None:
    """Extensions that hold other things than LangGraph's are shown, and raise nothing."""
    data = ormsgpack.packb(ormsgpack.Ext(code, ormsgpack.packb(content)))
    found = PlainSerializer(strict=True).loads_typed(("msgpack", data))
    assert isinstance(found, (Plain, Opaque)) and pretty.lines(found)


def test_terminals_are_not_commanded(cli: Cli, tmp_path: Path) -> None:
    """Names and values with control characters are shown escaped, whichever command shows them."""
    evil = "x\x1b[2J\x07\u202e\x9b31m"
    with SqliteSaver(tmp_path / "e.db") as saver:
        for number in (1, 2):
            values = {evil: evil + str(number), "d": {evil: [evil]}}
            save(saver, number, values, thread=evil, ns=evil, parent=number - 1)
            save(saver, number, {"n": number}, thread=evil, metadata={"source": evil, "step": 1})
        writes = [(evil, evil), ("__interrupt__", [evil])]
        saver.put_writes(place(2, evil), writes, evil, f"~__pregel_pull, {evil}")
    path = tmp_path / "e.db"
    for args in (
        ["threads", path], ["show", path, evil, "--subgraphs"], ["state", path, evil],
        ["state", path, evil, "--ns", evil], ["diff", path, evil, "--ns", evil],
        ["state", path, evil, "--ns", evil, "--channel", evil],
    ):  # fmt: skip
        printed = cli(*args) + cli.errors
        assert all(line.isprintable() for line in printed.splitlines())
        assert "\\x1b[2J" in printed
    assert "\\x1b[2J" in cli.problem("show", path, evil + "no")


def test_lone_surrogates(cli: Cli, tmp_path: Path) -> None:
    """Text that no terminal can show is escaped; JSON holds it."""
    with SqliteSaver(tmp_path / "s.db") as saver:
        save(saver, 1, {"v": [1], "w": "x" * 200})
    execute(
        tmp_path / "s.db",
        "UPDATE checkpoint_blobs SET type = 'json', blob = ? WHERE channel = 'v'",
        b'["\\ud800", 1e999, ' + b"9" * 4000 + b"]",
    )
    printed = cli("state", tmp_path / "s.db", "t")
    assert "'\\ud800',\n" in printed and " inf,\n" in printed and "9" * 4000 in printed
    assert cli.json("state", tmp_path / "s.db", "t")["values"]["v"][0] == "\ud800"


# Damaged and enciphered values.


def test_damaged_values_hide_no_others(cli: Cli, tmp_path: Path) -> None:
    """A value that cannot be read is shown as damaged, and the others as they are."""
    path = tmp_path / "d.db"
    with SqliteSaver(path) as saver:
        save(saver, 1, {"broken": [1], "sound": [2]})
    execute(path, "UPDATE checkpoint_blobs SET blob = X'C1' WHERE channel = 'broken'")
    printed = cli("state", path, "t")
    assert "broken = <damaged: " in printed and "sound = [2]" in printed
    assert cli.json("state", path, "t")["values"]["broken"]["bytes"] == 1
    cli("show", path, "t")


def test_damaged_checkpoints_hide_no_others(cli: Cli, tmp_path: Path) -> None:
    """A checkpoint whose JSON is damaged is shown as such in the history."""
    path = tmp_path / "d.db"
    with SqliteSaver(path) as saver:
        converse(saver, 4)
    for number, text in (
        (2, "{"),
        (3, "[1]"),
        (4, '{"channel_values": [], "channel_versions": 1}'),
    ):
        execute(
            path,
            "UPDATE checkpoints SET checkpoint = ? WHERE checkpoint_id = ?",
            text,
            id_of(number),
        )
    assert cli("show", path, "t").count("damaged") == 3
    assert "damaged" in cli.problem("state", path, "t", id_of(2))
    assert len(cli.json("threads", path)["threads"]) == 1


def test_differences_whose_base_is_gone(cli: Cli, tmp_path: Path) -> None:
    """A value whose base was deleted by hand is damaged; the message says so."""
    path = tmp_path / "d.db"
    with SqliteSaver(path) as saver:
        converse(saver, 20)
    execute(path, "DELETE FROM checkpoint_blobs WHERE base IS NULL AND size NOT NULL")
    assert "messages = <damaged: its base" in cli("state", path, "t")


@pytest.fixture
def enciphered(tmp_path: Path) -> Path:
    """A conversation that nobody reads without the key."""
    path = tmp_path / "secret.db"
    with SqliteSaver(
        path, serde=EncryptedSerializer.from_pycryptodome_aes(key=KEY.encode())
    ) as saver:
        converse(saver, 20)
        saver.put_writes(place(20), [("messages", messages(21)), ("n", 1)], "task")
    return path


def test_enciphered_values(cli: Cli, enciphered: Path) -> None:
    """Without the key they are shown as enciphered; with it, as they are."""
    printed = cli("state", enciphered, "t")
    assert printed.count("<enciphered (aes), ") == 3
    found = cli.json("state", enciphered, "t", "--key-env", "THE_KEY", THE_KEY=KEY)
    assert found["values"]["messages"] == messages(20)
    assert [each["value"] for each in found["tasks"][0]["writes"]] == [messages(21), 1]
    assert "<enciphered" in cli("state", enciphered, "t", "--key-env", "K", K=KEY[::-1])
    cli("show", enciphered, "t")
    cli("threads", enciphered)


def test_differences_between_enciphered_values(cli: Cli, enciphered: Path) -> None:
    """Without the key it can be told that a value changed, and that it did not."""
    assert "messages: changed" in cli("diff", enciphered, "t")
    assert "no channel differs" in cli("diff", enciphered, "t", "HEAD", "HEAD")
    assert "+1 item" in cli("diff", enciphered, "t", "--key-env", "K", K=KEY)


def test_wrong_keys(cli: Cli, enciphered: Path) -> None:
    """A key that is none ends with status 2; it is not shown."""
    assert "is not set" in cli.problem("state", enciphered, "t", "--key-env", "NO", status=2)
    said = cli.problem("state", enciphered, "t", "--key-env", "K", status=2, K="hush-hush")
    assert "not 9" in said and "hush" not in said


def test_without_a_cipher(enciphered: Path) -> None:
    """--key-env says what to install where there is no pycryptodome."""
    code = "import sys; sys.modules['Crypto'] = None; from langgraph_sqlite_saver import cli; "
    found = subprocess.run(
        [sys.executable, "-c", code + "cli.main()", "state", enciphered, "t", "--key-env", "K"],
        capture_output=True, text=True, timeout=60, env={**os.environ, "K": KEY},
    )  # fmt: skip
    assert (found.returncode, found.stdout) == (2, "")
    assert found.stderr == "--key-env needs a cipher: pip install pycryptodome\n"


def test_old_json_values(cli: Cli, tmp_path: Path) -> None:
    """Values that old releases wrote as JSON are shown as what they hold, constructors too."""
    path = tmp_path / "j.db"
    made = {"lc": 2, "type": "constructor", "id": ["os", "system"], "args": ["true"]}
    with SqliteSaver(path) as saver:
        save(saver, 1, {"v": [1]})
    execute(path, "UPDATE checkpoint_blobs SET type = 'json', blob = ?", json.dumps(made).encode())
    assert cli.json("state", path, "t")["values"] == {"v": made}


def test_columns_of_other_types(cli: Cli, tmp_path: Path) -> None:
    """Rows that hold other things than they should are shown as damaged."""
    path = tmp_path / "c.db"
    with SqliteSaver(path) as saver:
        save(saver, 1, {"a": [1], "b": [2], "c": [3], "d": [4]})
    with closing(sqlite3.connect(path)) as conn, conn:
        change = "UPDATE checkpoint_blobs SET {} WHERE channel = ?"
        for channel, column in {
            "a": "type = 7",
            "b": "blob = CAST(X'ff' AS TEXT)",
            "c": "size = 5, token = 'x', base = 'y'",
            "d": "type = 'zstd:msgpack', size = -1",
        }.items():
            conn.execute(change.format(column), (channel,))
    printed = cli("state", path, "t")
    assert printed.count("<damaged") == 3 and "a = <of type 7, 2 bytes>" in printed
    assert len(cli.json("check", path, status=1)["damages"]) == 3
