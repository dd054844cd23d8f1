"""`langgraph-sqlite relay`: what people and cron jobs type, and what they are told."""

# ruff: noqa: F401, F811 - fixtures are imported

from __future__ import annotations

import json
import os
import pty
import re
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import closing, suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from langgraph_sqlite_saver.cli import doctor, make_app, options, output
from langgraph_sqlite_saver.relay import Difference, RelayStore, UsageRecord
from langgraph_sqlite_saver.relay import layout as names

from .following import WAYS, Following, path, quick, start_following
from .sample import differences, dump, load
from .servers import Cluster, Server, until

LOOKING = ["diff", "stats", "usage", "audit", "trash", "doctor"]
USER = "user:b3f72c02fdafa02fef1081594097a597"
GROUP = "account_group:bb830d3e-79ef-4dd6-b852-b381813b3c0e"
SECRET = "correct-horse"
API_KEY = "63ef13b7-e21a-4556-8019-49c03642bfdd"
ESCAPE = "\x1b"


class Cli:
    """Runs commands on one file and one server, here or in a process of their own."""

    def __init__(self, server: Server, db: Path) -> None:
        self.db = db
        self.env = {"REDIS_URL": server.url, "SQLITE_DB_PATH": str(db), "TIMEZONE_OFFSET": "8"}

    def __call__(self, *args: str, status: int = 0, **env: str) -> str:
        """The stdout of a command that ends with this status; its stderr is in `errors`."""
        result = CliRunner().invoke(make_app(), ["relay", *args], env={**self.env, **env})
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        self.errors = result.stderr
        assert result.exit_code == status, (result.stdout, result.stderr)
        return result.stdout

    def json(self, *args: str, status: int = 0, **env: str) -> Any:
        """The JSON document that a command writes to stdout."""
        return json.loads(self(*args, "--json", status=status, **env))

    def process(self, *args: str, **options: Any) -> subprocess.Popen[bytes]:
        """The same by the installed script."""
        script = Path(sys.executable).with_name("langgraph-sqlite")
        defaults: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        env = {**os.environ, **self.env, "TERM": "xterm", "COLUMNS": "80"}
        return subprocess.Popen([script, "relay", *args], env=env, **{**defaults, **options})

    def rows(self) -> dict[str, int]:
        """How many rows each table has."""
        with closing(sqlite3.connect(self.db)) as conn:
            tables = conn.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
            return {t: conn.execute(f"SELECT count(*) FROM {t}").fetchone()[0] for (t,) in tables}

    def store(self) -> RelayStore:
        """A store on the same file and server."""
        return RelayStore(self.db, self.env["REDIS_URL"], heal=False)


@pytest.fixture
def cli(loaded: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cli:
    """Commands on the sample, which nobody has imported yet; the working directory is empty."""
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    for name in [n for n in os.environ if n.startswith(("REDIS_", "SQLITE_", "ENABLE_"))]:
        monkeypatch.delenv(name)
    return Cli(loaded, tmp_path / "data" / "relay.db")


@pytest.fixture
def imported(cli: Cli) -> Cli:
    """Commands on the sample, imported."""
    cli("import-redis")
    return cli


@pytest.fixture
def disturbed(imported: Cli, loaded: Server) -> Cli:
    """As `imported`, and then Redis was changed behind SQLite's back."""
    client = loaded.client()
    client.hset(f"apikey:{API_KEY}", "name", "renamed")
    client.hset("apikey:hash_map", "ab" * 32, API_KEY)
    client.delete("apikey:tag:ci")
    client.set("apikey_hash:" + "cd" * 32, "1")
    client.set("new:[red]\x1b[31mkey[/red]", "1")
    return imported


# Importing and looking.


def test_import_prints_counts_and_size(cli: Cli) -> None:
    """import-redis prints how many API keys and accounts there are, keys in all, and the size."""
    printed = cli("import-redis")
    assert re.search(r"^API keys +6$", printed, re.MULTILINE)
    assert re.search(r"^accounts +10$", printed, re.MULTILINE)
    assert re.search(r"^database +\d\d\d\.\d KB$", printed, re.MULTILINE)
    again = cli.json("import-redis")
    assert (again["apiKeysCount"], again["accountsCount"], again["changed"]) == (6, 10, 0)
    assert again["dbSize"] > 100_000


def test_dry_import_makes_no_file(cli: Cli) -> None:
    """import-redis --dry-run tells what a first import would take over, and makes nothing."""
    assert cli.json("import-redis", "--dry-run")["changed"] > 200
    cli("import-redis", "--dry-run")
    assert "does not exist yet" in cli.errors
    assert not cli.db.parent.exists()


def test_dry_import_changes_no_file(disturbed: Cli) -> None:
    """import-redis --dry-run tells what has changed since, and takes nothing over."""
    rows = disturbed.rows()
    assert disturbed.json("import-redis", "--dry-run")["changed"] == 4
    assert disturbed.rows() == rows
    assert disturbed.json("import-redis")["changed"] == 4


def test_stats(imported: Cli) -> None:
    """stats shows the guide's figures, as a table and as JSON."""
    found = imported.json("stats")
    assert (found["apiKeysCount"], found["accountsCount"]) == (6, 10)
    assert found["usageRecordsCount"] == 6 and found["dbPath"] == str(imported.db)
    assert found["dbSize"] == imported.db.stat().st_size
    assert re.search(r"^apiKeysCount +6$", imported("stats"), re.MULTILINE)


def test_no_differences(imported: Cli) -> None:
    """diff says so, with status 0."""
    assert imported("diff") == "SQLite and Redis agree.\n"
    assert imported.json("diff") == {"count": 0, "atLeast": False, "differences": []}


def test_differences(disturbed: Cli) -> None:
    """diff names keys that differ, with status 1; neither hashes nor control characters."""
    printed = disturbed("diff", status=1)
    assert "differ in 5 keys." in printed and "fields name" in printed
    assert r"new:[red]\x1b[31mkey[/red]" in printed
    assert "ab" * 20 not in printed and "cd" * 20 not in printed and "renamed" not in printed
    assert set(disturbed.json("diff", status=1)["differences"][0]) == {"key", "kind", "detail"}


@pytest.mark.parametrize(("limit", "count", "more"), [(2, 2, True), (5, 5, False), (9, 5, False)])
def test_some_differences(disturbed: Cli, limit: int, count: int, more: bool) -> None:
    """diff --limit says whether there are more."""
    found = disturbed.json("diff", "--limit", str(limit), status=1)
    assert (found["count"], len(found["differences"]), found["atLeast"]) == (count, count, more)
    printed = disturbed("diff", "--limit", str(limit), status=1)
    assert f"differ in {'at least ' if more else ''}{count} keys." in printed


def test_hashes_are_hidden() -> None:
    """What names an API key's hash is shown without it."""
    from langgraph_sqlite_saver.cli.relay import _difference

    shown = _difference(Difference(names.HASH_MAP, "differs", "fields xyz, zyx; when it expires"))
    assert shown["detail"] == "its fields; when it expires"
    shown = _difference(Difference(b"apikey_hash:xyz", "missing in Redis", ""))
    assert shown["key"] == "apikey_hash:(hidden)"


def test_usage_totals(imported: Cli) -> None:
    """usage sums by day, or as it is told, of the periods that are asked for."""
    assert re.search(r"^2026-11-21 +1 +1,500 +320 ", imported("usage"), re.MULTILINE)
    months = imported.json("usage", "--by", "month", "--since", "2026-11-01")["totals"]
    assert [(each["start"], each["requests"]) for each in months] == [("2026-11", 4)]
    of_key = imported.json("usage", "--api-key", API_KEY, "--until", "2020-01-01")
    assert of_key == {"totals": [], "from": "totals"}
    hours = imported.json("usage", "--by", "hour")["totals"]
    assert imported.json("usage", "--by", "hour", "--limit", "2")["totals"] == hours[-2:]
    assert len(hours) > 2


def test_usage_of_a_key_and_an_account(imported: Cli) -> None:
    """Those sums are of single records, and usage says so."""
    (record,) = imported.json("usage", "--records", "--limit", "1")["records"]
    of_both = ["--api-key", record["apiKeyId"], "--account", record["accountId"]]
    with imported.store() as store:
        ids = {"api_key_id": record["apiKeyId"], "account_id": record["accountId"]}
        count = len(store.usage(**ids))
    found = imported.json("usage", *of_both)
    assert found["from"] == "records"
    assert sum(each["requests"] for each in found["totals"]) == count > 0
    imported("usage", *of_both)
    assert "Summed from single records" in imported.errors
    of_one = imported.json("usage", *of_both[:2])
    assert of_one["from"] == "totals" and imported.errors == ""


def test_usage_records(imported: Cli) -> None:
    """usage --records shows records, the newest first."""
    found = imported.json("usage", "--records", "--limit", "3")["records"]
    assert len(found) == 3
    assert [r["timestamp"] for r in found] == sorted((r["timestamp"] for r in found), reverse=True)
    assert found[0]["timestamp"] in imported("usage", "--records")


@pytest.mark.parametrize("since", ["2026-11-20T23:00:00", "2026-11-20T15:00:00Z"])
def test_times_are_the_relays(imported: Cli, since: str) -> None:
    """A time without a zone is one of the relay's, as the periods are."""
    hours = imported.json("usage", "--by", "hour", "--since", since, "--until", "2026-11-22")
    assert all("2026-11-20T23" <= each["start"] < "2026-11-22" for each in hours["totals"])
    assert hours["totals"]


def test_audit_and_trash(imported: Cli) -> None:
    """audit and trash show what was changed and what was deleted; undelete brings it back."""
    with imported.store() as store:
        store.save_api_key({"id": "k1", "name": "研究", "apiKey": "ef" * 32, "secret": SECRET})
        store.redis.delete("apikey:k1")
        store.reconcile("redis")
    assert re.search(r"create +api_key +k1 .*name", imported("audit", "--record", "k1"))
    assert imported.json("audit", "--kind", "claude") == {"entries": []}
    entries = imported.json("audit", "--since", "2026-01-01")["entries"]
    assert SECRET not in str(entries) and "ef" * 32 not in str(entries) and "研究" in str(entries)
    assert "研究" in imported("trash")
    assert imported.json("trash")["entries"][0]["id"] == "k1"
    assert "brought back" in imported("undelete", "k1")
    assert imported.json("trash") == {"entries": []}
    with imported.store() as store:
        assert store.redis.hget("apikey:k1", "name") == "研究".encode()


@pytest.fixture
def binned(imported: Cli, loaded: Server) -> Cli:
    """As `imported`, and an API key, a user and a group of accounts were deleted."""
    loaded.client().delete(f"apikey:{API_KEY}", USER, GROUP)
    imported("reconcile", "--prefer", "redis", "--yes")
    return imported


def test_all_of_the_trash(binned: Cli, loaded: Server) -> None:
    """trash --all shows keys that are no records, too, by the names that undelete takes."""
    (only,) = binned.json("trash")["entries"]
    assert only["id"] == API_KEY
    entries = {each["id"]: each["kind"] for each in binned.json("trash", "--all")["entries"]}
    assert entries == {API_KEY: "api_key", USER: "key", GROUP: "key"}
    assert USER in binned("trash", "--all")
    assert binned("undelete", USER) == "1 key brought back.\n"
    assert loaded.client().exists(USER) and not loaded.client().exists(GROUP)


def test_all_comes_back(binned: Cli, loaded: Server) -> None:
    """undelete --all brings back what was deleted, or of it what was deleted since a time."""
    assert binned.json("undelete", "--all", "--since", "2999-01-01")["keys"] == 0
    assert binned.json("undelete", "--all", "--since", "2026-01-01T00:00")["keys"] == 3
    assert loaded.client().exists(f"apikey:{API_KEY}", USER, GROUP) == 3
    assert binned.json("trash", "--all") == {"entries": []}
    binned("diff")


def test_dry_undelete(binned: Cli, loaded: Server) -> None:
    """undelete --dry-run shows what would come back, and brings back nothing."""
    rows = binned.rows()
    would = binned.json("undelete", "--all", "--dry-run")
    assert {each["id"] for each in would["entries"]} == {API_KEY, USER, GROUP} and would["dryRun"]
    assert API_KEY in binned("undelete", API_KEY, "--dry-run")
    assert binned.json("undelete", "--all", "--since", "2999-01-01", "--dry-run")["entries"] == []
    binned("undelete", "nobody", "--dry-run", status=1)
    assert "nobody" in binned.errors
    assert binned.rows() == rows and not loaded.client().exists(f"apikey:{API_KEY}", USER, GROUP)


def test_the_trash_shows_no_hashes(imported: Cli, loaded: Server) -> None:
    """By an API key's hash requests find it: as diff, trash --all names it without."""
    loaded.client().mset({"apikey_hash:xyz": API_KEY, "lookup:" + "cd" * 32: API_KEY})
    imported("import-redis")
    loaded.client().delete("apikey_hash:xyz", "lookup:" + "cd" * 32)
    imported("reconcile", "--prefer", "redis", "--yes")
    printed = imported("trash", "--all") + str(imported.json("trash", "--all"))
    assert "apikey_hash:(hidden)" in printed and "lookup:(hidden)" in printed
    assert "xyz" not in printed and "cdcd" not in printed
    assert imported.json("undelete", "--all")["keys"] == 2


@pytest.mark.parametrize("args", [[], [API_KEY, "--all"], [API_KEY, "--since", "2026-01-01"]])
def test_undelete_of_one_or_of_all(imported: Cli, args: list[str]) -> None:
    """Either an id or --all, and --since with that alone."""
    imported("undelete", *args, status=2)
    assert "--all" in imported.errors


@pytest.mark.parametrize("what", [API_KEY, "--all"])
def test_undelete_while_redis_is_down(cli: Cli, fresh_server: Server, what: str) -> None:
    """undelete says that Redis was not told yet; restore-redis tells it."""
    load(fresh_server.client())
    cli.env["REDIS_URL"] = fresh_server.url
    cli("import-redis")
    fresh_server.client().delete(f"apikey:{API_KEY}")
    cli("reconcile", "--prefer", "redis", "--yes")
    fresh_server.stop()
    assert cli("undelete", what, status=1) == ""
    assert "is back in SQLite" in cli.errors and "restore-redis" in cli.errors
    fresh_server.start()
    cli("restore-redis")
    assert fresh_server.client().exists(f"apikey:{API_KEY}")


def test_undelete_of_what_is_not_there(imported: Cli) -> None:
    """undelete of an unknown id says so."""
    imported("undelete", "nobody", status=1)
    assert "nobody" in imported.errors


# Putting in step.


def test_restore(imported: Cli, loaded: Server) -> None:
    """restore-redis writes what Redis has lost; --dry-run only counts it."""
    loaded.client().flushall()
    would = imported.json("restore-redis", "--dry-run")
    assert (would["apiKeysCount"], would["accountsCount"]) == (6, 10)
    assert not dump(loaded.client())
    assert re.search(r"^of them API keys +6$", imported("restore-redis"), re.MULTILINE)
    imported("diff")


def test_reconcile_wants_a_yes(disturbed: Cli, loaded: Server) -> None:
    """Where nobody can be asked, reconcile needs --yes; --dry-run changes nothing."""
    before, rows = dump(loaded.client()), disturbed.rows()
    disturbed("reconcile", status=2)
    assert "--yes" in disturbed.errors
    disturbed("reconcile", "--json", status=2)
    assert "5 keys to be put in step" in disturbed("reconcile", "--dry-run")
    assert disturbed.json("reconcile", "--dry-run")["count"] == 5
    assert not differences(before, dump(loaded.client())) and disturbed.rows() == rows
    assert "5 keys put in step" in disturbed("reconcile", "--yes")
    disturbed("diff")
    assert loaded.client().hget(f"apikey:{API_KEY}", "name") != b"renamed"


def test_reconcile_with_redis(disturbed: Cli) -> None:
    """reconcile --prefer redis takes over what Redis has."""
    assert disturbed.json("reconcile", "--prefer", "redis", "--yes")["count"] == 5
    with disturbed.store() as store:
        key = store.get_api_key(API_KEY)
    assert key is not None and key["name"] == "renamed"


def test_a_redis_that_has_lost_its_keys_is_not_preferred(imported: Cli, loaded: Server) -> None:
    """reconcile --prefer redis names the remedy, and changes nothing, unless it is told to."""
    loaded.client().flushall()
    rows = imported.rows()
    for args in (["--dry-run"], ["--yes"]):
        imported("reconcile", "--prefer", "redis", *args, status=1)
        assert "restore-redis" in imported.errors and "(--even-if-lost)" in imported.errors
    imported("reconcile", "--even-if-lost", "--yes", status=2)
    assert imported.rows() == rows
    would = imported.json("reconcile", "--prefer", "redis", "--even-if-lost", "--dry-run")
    assert would["count"] > 200 and imported.rows() == rows
    imported("reconcile", "--prefer", "redis", "--even-if-lost", "--yes")
    assert imported.json("stats")["apiKeysCount"] == 0
    assert imported.json("undelete", "--all")["keys"] == would["count"]
    assert imported.json("stats")["apiKeysCount"] == 6


# Upkeep.


def test_backup_and_back(imported: Cli) -> None:
    """backup writes an archive; restore-backup puts it in place, when told to."""
    made = imported.json("backup", "--directory", "kept", "--keep-days", "3")
    assert Path(made["path"]).parent == Path.cwd() / "kept"
    assert made["size"] == Path(made["path"]).stat().st_size
    with imported.store() as store:
        store.delete_api_key(API_KEY)
    rows = imported.rows()
    imported("restore-backup", made["path"], status=2)
    assert imported.json("restore-backup", made["path"], "--dry-run")["apiKeysCount"] == 6
    assert imported.rows() == rows and rows["api_keys"] == 5
    printed = imported("restore-backup", made["path"], "--yes")
    assert re.search(r"apiKeysCount +6", printed) and f"{imported.db}.before-restore-" in printed
    assert imported.rows()["api_keys"] == 6
    kept = imported.json("restore-backup", made["path"], "--yes")["keptPath"]
    assert kept in map(str, imported.db.parent.glob("*.before-restore-*"))


def test_dry_backup(imported: Cli) -> None:
    """backup --dry-run names the old ones that would be removed; backup names those that were."""
    old = Path(imported.json("backup", "--directory", "kept")["path"])
    old = old.rename(old.with_name("sqlite_backup_20260101_030000.db.gz"))
    would = imported.json("backup", "--directory", "kept", "--dry-run")
    assert would == {"path": None, "removed": [str(old)], "dryRun": True}
    assert f"{old} would be removed." in imported("backup", "--directory", "kept", "--dry-run")
    assert list(old.parent.iterdir()) == [old]
    assert imported.json("backup", "--directory", "kept")["removed"] == [str(old)]
    assert not old.exists()


def test_backups_lie_where_the_settings_do(imported: Cli, tmp_path: Path) -> None:
    """With --env-file, backup and doctor begin at its directory; --directory begins here."""
    env = tmp_path / "data" / ".env"
    env.write_text(f"REDIS_URL={imported.env['REDIS_URL']}\nSQLITE_DB_PATH=relay.db\n")
    made = Path(imported.json("backup", "--env-file", str(env))["path"])
    assert made.parent == tmp_path / "data" / "backups" / "sqlite"
    assert states(imported.json("doctor", "--env-file", str(env)))["backup"] == "ok"
    made = Path(imported.json("backup", "--env-file", str(env), "--directory", "here")["path"])
    assert made.parent == Path.cwd() / "here"


def test_doctor_looks_for_backups_of_this_file(imported: Cli, tmp_path: Path) -> None:
    """Those of another relay, in the same directory, are none."""
    other = str(tmp_path / "other.db")
    imported("import-redis", "--db", other)
    imported("backup", "--db", other)
    assert states(imported.json("doctor"))["backup"] == "note"
    assert states(imported.json("doctor", "--db", other))["backup"] == "ok"


def test_a_backup_of_a_newer_version(imported: Cli) -> None:
    """restore-backup refuses it, also --dry-run, and names the remedy."""
    with imported.store() as store:
        store.database.write(lambda conn: conn.execute("INSERT INTO relay_migrations VALUES (99)"))
        made = store.backup("newer")
        store.database.write(lambda conn: conn.execute("DELETE FROM relay_migrations WHERE v=99"))
    for args in (["--dry-run"], ["--yes"]):
        assert imported("restore-backup", str(made), *args, status=1) == ""
        assert "Upgrade langgraph-sqlite-saver" in imported.errors
    assert not list(imported.db.parent.glob("*.before-restore-*"))
    imported("diff")


def test_restore_to_a_new_place(imported: Cli, tmp_path: Path) -> None:
    """restore-backup makes the file and its directory where they are missing."""
    archive = imported.json("backup")["path"]
    new = tmp_path / "new" / "place.db"
    imported("restore-backup", archive, "--yes", "--db", str(new))
    assert imported.json("stats", "--db", str(new))["accountsCount"] == 10


def test_damaged_backup(imported: Cli, tmp_path: Path) -> None:
    """restore-backup refuses what is no backup of a relay's, and leaves the file."""
    with closing(sqlite3.connect(tmp_path / "other.db")) as other:
        other.execute("CREATE TABLE t (a)")
        other.commit()
    (tmp_path / "damaged.db.gz").write_bytes(b"\x1f\x8b nonsense")
    for name in ("damaged.db.gz", "other.db", "missing.db.gz"):
        imported("restore-backup", str(tmp_path / name), "--yes", status=1)
        assert name in imported.errors and "Traceback" not in imported.errors
    assert imported.rows()["api_keys"] == 6


def test_optimize(imported: Cli) -> None:
    """optimize says how large the file was and is."""
    assert " before, " in imported("optimize", "--vacuum", "full")
    assert imported.json("optimize")["dbSize"] > 0
    imported("optimize", "--vacuum", "quickly", status=2)


def test_purge(imported: Cli) -> None:
    """usage --purge-older-than deletes old records, when told to; sums stay."""
    old = datetime(2025, 10, 1, tzinfo=timezone.utc)
    with imported.store() as store:
        record = UsageRecord(API_KEY, "m", timestamp=old.isoformat())
        store.record_usages([record, UsageRecord(API_KEY, "m")], wait=True)
        recorded = len(store.usage())
    imported("usage", "--purge-older-than", "300", status=2)
    would = imported("usage", "--purge-older-than", "300", "--dry-run")
    assert would == "1 usage record would be deleted.\n"
    assert imported.rows()["usage_records"] == recorded
    assert imported.json("usage", "--purge-older-than", "300", "--yes")["purged"] == 1
    assert imported.rows()["usage_records"] == recorded - 1
    assert imported.json("usage", "--model", "m", "--until", "2026-01-01")["totals"]


@pytest.mark.parametrize(
    "args",
    [
        ["--purge-older-than", "1", "--model", "m"],
        ["--purge-older-than", "1e9", "--yes"],
        ["--purge-older-than", "-1", "--yes"],
        ["--dry-run"],
        ["--since", "yesterday"],
        ["--by", "year"],
        ["--limit", "0"],
        ["--nonsense"],
        ["--records", "--by", "day"],
        ["--purge-older-than", "1", "--by", "day", "--yes"],
        ["--purge-older-than", "1", "--limit", "1", "--yes"],
    ],
)
def test_wrong_usage(imported: Cli, args: list[str]) -> None:
    """What cannot be meant ends with status 2, and changes nothing."""
    rows = imported.rows()
    assert imported("usage", *args, status=2) == ""
    assert imported.errors and imported.rows() == rows


# The doctor.


def states(found: Any) -> dict[str, str]:
    return {each["subject"]: each["state"] for each in found["findings"]}


def test_healthy(imported: Cli) -> None:
    """doctor finds nothing wrong, and that both agree, also beside a store that was just used."""
    imported("backup")
    with imported.store() as store:
        store.save_api_key({"id": "k1"})
        assert states(imported.json("doctor"))["outbox"] == "ok"
    found = imported.json("doctor")
    assert found["ok"] and found["agree"] and "problem" not in states(found).values()
    assert imported("doctor").endswith("SQLite and Redis agree.\n")


def test_many_things_wrong(disturbed: Cli, loaded: Server) -> None:
    """doctor names everything that is wrong, each with its remedy, and changes nothing."""
    disturbed.db.chmod(0o644)
    loaded.config("maxmemory-policy", "allkeys-lru")
    loaded.config("maxmemory", "1gb")
    loaded.config("notify-keyspace-events", "KEA")
    directory = Path("old")
    directory.mkdir()
    (directory / "sqlite_backup_20200101_000000.db.gz").touch()
    os.utime(directory / "sqlite_backup_20200101_000000.db.gz", (0, 0))
    with closing(sqlite3.connect(disturbed.db)) as conn:
        conn.execute("UPDATE relay_state SET value = 'another' WHERE name = 'identity'")
        conn.execute("INSERT INTO outbox (changes, due_at) VALUES (x'90', 0)")
        conn.execute("INSERT INTO usage_extra (usage_id, extra) VALUES (999, '{}')")
        conn.commit()
    before, rows = dump(loaded.client()), disturbed.rows()
    found = disturbed.json("doctor", "--directory", "old", status=1)
    wrong = {"mode", "eviction", "outbox", "keys", "backup", "rows"}
    assert {name for name, state in states(found).items() if state == "problem"} == wrong
    assert states(found)["source"] == "note" and states(found)["notifications"] == "ok"
    assert all(each["remedy"] for each in found["findings"] if each["state"] != "ok")
    printed = disturbed("doctor", "--directory", "old", status=1)
    last = printed.splitlines()[-1]
    assert last.startswith("SQLite and Redis disagree on 5 keys: 2 different, 1 missing in Redis")
    assert not differences(before, dump(loaded.client())) and disturbed.rows() == rows


def test_cluster(cli: Cli, redis_cluster: Cluster) -> None:
    """--cluster imports from a cluster, and looks at all of its servers."""
    load(redis_cluster.client())
    url = ["--cluster", "--redis-url", redis_cluster.url]
    assert cli.json("import-redis", *url)["apiKeysCount"] == 6
    redis_cluster.servers[2].config("maxmemory-policy", "allkeys-lru")
    found = cli.json("doctor", *url)
    redis_cluster.servers[2].config("maxmemory-policy", "noeviction")
    assert found["agree"] and states(found)["eviction"] == "note"


def test_doctor_without_redis(imported: Cli) -> None:
    """doctor says that Redis does not answer, and looks at the file all the same."""
    found = imported.json("doctor", status=1, REDIS_URL="redis://127.0.0.1:1/0")
    assert found["agree"] is None and states(found)["Redis"] == "problem"
    assert states(found)["outbox"] == "ok"


def test_doctor_of_a_damaged_file(imported: Cli) -> None:
    """doctor says that the file is damaged and how to go on, and looks at Redis all the same."""
    with imported.db.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * 50_000)
    found = imported.json("doctor", status=1)
    assert states(found)["file"] == "problem" and states(found)["Redis"] == "ok"
    assert "restore-backup" in json.dumps(found)


def test_one_key_that_differs(imported: Cli, loaded: Server) -> None:
    """doctor speaks of one as of one."""
    loaded.client().set("new", "1")
    assert "1 key differs" in imported("doctor", status=1)


def test_doctor_of_what_is_no_relay_s_file(imported: Cli, tmp_path: Path) -> None:
    """doctor says what the path names, with that remedy: nothing is to be restored over it."""
    (tmp_path / "photo.jpg").write_bytes(bytes(range(256)) * 40)
    with closing(sqlite3.connect(tmp_path / "other.db")) as other:
        other.execute("CREATE TABLE t (a)")
    wrong = {
        tmp_path: "is a directory",
        tmp_path / "photo.jpg": "is not a database",
        tmp_path / "other.db": "no relay's tables",
        tmp_path / "none.db": "does not exist",
        tmp_path / "photo.jpg" / "none.db": "does not exist",
    }
    for each, reason in wrong.items():
        found = imported.json("doctor", "--db", str(each), status=1)
        (file,) = [each for each in found["findings"] if each["subject"] in ("file", "tables")]
        assert reason in file["text"] and file["remedy"] and file["state"] == "problem"
        assert "restore-backup" not in str(found) and "chmod" not in str(found)
        assert "file://" not in str(found)


AS_NOBODY = """
import os, sys
from typer.testing import CliRunner
from langgraph_sqlite_saver import cli
# What it needs is loaded: that user may not read this folder either.
CliRunner().invoke(cli.make_app(), sys.argv[1:])
os.setgid(65534)
os.setuid(65534)
cli.main()
"""


@pytest.mark.parametrize(
    ("command", "closed", "reason"),
    [
        ("doctor", "file", "may not be read by this user"),
        ("doctor", "directory", "Permission denied"),
        ("stats", "file", "may not be read by this user"),
        ("stats", "directory", "Permission denied"),
        ("import-redis", "directory", "Permission denied"),
    ],
)
def test_a_file_of_another_user(imported: Cli, command: str, closed: str, reason: str) -> None:
    """What this user may not read is told so: it is not damaged, and nothing is to be restored."""
    with tempfile.TemporaryDirectory() as place:
        Path(place).chmod(0o755)
        db = Path(place) / "data" / "relay.db"
        db.parent.mkdir(mode=0o700 if closed == "directory" else 0o755)
        db.write_bytes(imported.db.read_bytes())
        db.chmod(0o600)
        run = [sys.executable, "-c", AS_NOBODY, "relay", command, "--db", str(db)]
        env = {**os.environ, **imported.env}
        found = subprocess.run(run, env=env, cwd="/", capture_output=True, text=True)
    said = found.stdout + found.stderr
    assert found.returncode == 1 and "Traceback" not in said and "Errno" not in said
    assert str(db) in said and reason in said and "user" in said
    assert "restore-backup" not in said and "chmod" not in said and "file://" not in said


def test_doctor_where_redis_tells_nothing(imported: Cli, loaded: Server) -> None:
    """Where CONFIG is forbidden, doctor says what to look after."""
    client = loaded.client()
    client.execute_command("ACL", "SETUSER", "app", "on", ">pw", "~*", "+@all", "-config")
    url = loaded.url.replace("redis://", "redis://app:pw@")
    found = imported.json("doctor", REDIS_URL=url)
    client.execute_command("ACL", "DELUSER", "app")
    assert states(found)["eviction"] == states(found)["notifications"] == "note"
    assert "app" not in json.dumps(found)


@pytest.mark.parametrize("way", WAYS)
def test_doctor_beside_a_follower_at_work(
    cli: Cli,
    loaded: Server,
    start_following: Callable[..., Following],
    way: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What changes all the time, and follows, is no difference; what does not follow is one."""
    follower = start_following(loaded, way, path=cli.db).begun()
    client, done = loaded.client(), threading.Event()

    def relay() -> None:
        while not done.wait(0.01):
            client.hincrby("usage:busy", "totalRequests", 1)

    busy = threading.Thread(target=relay)
    busy.start()
    try:
        assert cli.json("doctor")["agree"]
        follower.stop()
        monkeypatch.setattr(doctor, "_NOTICED", 0.5)
        monkeypatch.setattr(doctor, "_CAME_ACROSS", 0.5)
        assert not cli.json("doctor", status=1)["agree"]
    finally:
        done.set()
        busy.join()


# What goes wrong.


@pytest.mark.parametrize("command", [*LOOKING, "restore-redis", "backup", "optimize"])
def test_missing_file(cli: Cli, command: str) -> None:
    """A command that needs the file says that there is none, and makes neither it nor a place."""
    printed = cli(command, status=1)
    assert "does not exist" in printed + cli.errors
    assert not cli.db.parent.exists()


@pytest.mark.parametrize("command", LOOKING)
def test_other_programs_files(cli: Cli, tmp_path: Path, command: str) -> None:
    """A file without a relay's tables is left as it is."""
    other = tmp_path / "other.db"
    with closing(sqlite3.connect(other)) as conn:
        conn.execute("CREATE TABLE t (a)")
        conn.commit()
    content = other.read_bytes()
    cli(command, "--db", str(other), status=1)
    assert other.read_bytes() == content


@pytest.mark.parametrize("command", ["import-redis", "restore-redis", "diff", "reconcile"])
def test_redis_down(imported: Cli, command: str) -> None:
    """A Redis that does not answer is one line on stderr that names it, and status 1."""
    args = [command, *(["--yes"] if command == "reconcile" else [])]
    assert imported(*args, status=1, REDIS_URL="redis://:hush@127.0.0.1:1/0") == ""
    assert imported.errors.count("\n") == 1 and "redis://127.0.0.1:1/0" in imported.errors
    assert "hush" not in imported.errors


def test_stats_without_redis(imported: Cli) -> None:
    """stats tells what the file holds also when Redis is down, and what is wrong with Redis."""
    assert imported.json("stats", REDIS_URL="redis://127.0.0.1:1/0")["redisUp"] is False
    assert imported.errors.count("\n") == 1 and "redis://127.0.0.1:1/0" in imported.errors
    assert "does not answer" in imported.errors
    assert imported.json("stats")["redisUp"] and imported.errors == ""


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"REDIS_URL": f"http://:{SECRET}@somewhere"}, "Redis URL"),
        ({"REDIS_URL": f"redis://:{SECRET}@host:port/0"}, "Redis URL"),
        ({"REDIS_URL": f"redis://:{SECRET}@host/relay"}, "Redis URL"),
        ({"REDIS_URL": "", "REDIS_DB": "main"}, "REDIS_DB"),
        ({"ENABLE_SQLITE": "perhaps"}, "ENABLE_SQLITE"),
        ({"TIMEZONE_OFFSET": "far"}, "TIMEZONE_OFFSET"),
        ({"TIMEZONE_OFFSET": "99"}, "TIMEZONE_OFFSET"),
        ({"SQLITE_DB_PATH": "file:relay.db"}, "--db"),
    ],
)
def test_wrong_settings(cli: Cli, settings: dict[str, str], told: str) -> None:
    """Settings that cannot be meant end with status 2 and a line that names them."""
    assert cli("import-redis", status=2, **settings) == ""
    assert cli.errors.count("\n") == 1 and told in cli.errors and SECRET not in cli.errors
    assert not cli.db.exists()


def test_settings_that_redis_refuses(cli: Cli) -> None:
    """A database that it does not have, and a cluster that it is not, are told by the setting."""
    cli("import-redis", status=1, REDIS_URL=cli.env["REDIS_URL"].replace("/0", "/99"))
    assert "REDIS_DB" in cli.errors and "/99" in cli.errors
    cli("import-redis", "--cluster", status=1)
    assert "leave out" in cli.errors and "--cluster" in cli.errors


def test_the_url_that_is_given_counts(cli: Cli) -> None:
    """--redis-url is looked at as REDIS_URL is, which does not matter beside it."""
    cli("import-redis", "--redis-url", "redis://host/relay", status=2)
    assert "Redis URL" in cli.errors
    url = cli.env["REDIS_URL"]
    cli("import-redis", "--redis-url", url, REDIS_URL="redis://host/relay", REDIS_PORT="x")


@pytest.mark.parametrize("command", ["import-redis", "follow"])
def test_a_file_that_others_may_read(cli: Cli, command: str) -> None:
    """What is taken over into one is said to be exposed, once, with the remedy."""
    cli("import-redis")
    assert cli.errors == ""
    cli.db.chmod(0o644)
    process = cli.process(command)
    assert process.stdout is not None
    process.stdout.readline()  # it has begun
    process.send_signal(signal.SIGTERM)
    errors = process.communicate(timeout=30)[1].decode()
    assert errors.count("\n") == 1 and "0644" in errors and f"chmod 600 {cli.db}" in errors


def test_sqlite_switched_off(cli: Cli) -> None:
    """With ENABLE_SQLITE=false a command says so, unless it is given a file."""
    cli("stats", status=1, ENABLE_SQLITE="false")
    assert "ENABLE_SQLITE" in cli.errors
    cli("import-redis", "--db", str(cli.db), ENABLE_SQLITE="false")


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://:pw@host:6379/0", "redis://host:6379/0"),
        ("rediss://user:pw@host/1?password=pw", "rediss://host/1"),
        ("unix:///run/redis.sock?password=pw", "unix:///run/redis.sock"),
        ("redis://:p/w@host:1/0", "(a URL that cannot be read)"),
        ("redis://p#w@host:1/0", "redis://(hidden)"),
        ("redis://u:p/w@host", "(a URL that cannot be read)"),
        ("redis://u:pw@[::1]:6379/0", "redis://[::1]:6379/0"),
    ],
)
def test_urls_are_shown_without_passwords(url: str, shown: str) -> None:
    """Also where the password is not quoted as it should be."""
    assert options.without_password(url) == shown


def test_password_is_never_shown(
    cli: Cli, start_server: Callable[..., Server], tmp_path: Path
) -> None:
    """Neither the right password nor a wrong one is in what any command writes."""
    server = start_server(requirepass=SECRET)
    load(server.client())
    wrong = server.url.replace(SECRET, "wrong-horse")
    cli.env["REDIS_URL"] = server.url
    written = cli("import-redis") + cli.errors
    for command in (["stats"], ["diff"], ["doctor"], ["restore-redis"], ["reconcile", "--yes"]):
        written += cli(*command) + cli.errors
        try:
            written += cli(*command, "--redis-url", wrong, status=1)
        except AssertionError:
            assert command == ["stats"]
        written += cli.errors
    assert "horse" not in written and "AuthenticationError" in written


def test_env_file(cli: Cli, loaded: Server, tmp_path: Path) -> None:
    """--env-file takes the settings from the relay's .env, and none from the environment."""
    env = tmp_path / "relay.env"
    env.write_text(
        f"# Redis\nREDIS_HOST=127.0.0.1 # here\nexport REDIS_PORT='{loaded.port}'\nREDIS_DB=\n"
        f'REDIS_PASSWORD=""\nSQLITE_DB_PATH = "{tmp_path / "other.db"}"\nnonsense\n'
    )
    found = cli.json("import-redis", "--env-file", str(env), REDIS_URL="redis://127.0.0.1:1/0")
    assert found["dbPath"] == str(tmp_path / "other.db") and found["apiKeysCount"] == 6
    env.write_text("SQLITE_DB_PATH=./other.db\n")
    assert cli.json("stats", "--env-file", str(env))["dbPath"] == str(tmp_path / "other.db")


@pytest.mark.parametrize("kind", ["missing", "directory", "binary", "UTF-16"])
def test_env_files_that_are_none(cli: Cli, tmp_path: Path, kind: str) -> None:
    """What cannot be read, or is no text, is told by its name and not taken for an empty one."""
    env = tmp_path / "relay.env"
    if kind == "directory":
        env.mkdir()
    elif kind == "binary":
        env.write_bytes(bytes(range(256)) * 9)
    elif kind == "UTF-16":
        env.write_text("REDIS_DB=1\n", encoding="utf-16")
    cli("import-redis", "--env-file", str(env), status=2)
    assert cli.errors.startswith(f"--env-file {env}: ") and "relay's .env" in cli.errors
    assert cli.errors.count("\n") == 1 and "Errno" not in cli.errors and not cli.db.exists()


def test_env_values(tmp_path: Path) -> None:
    """Quotes and comments are as in dotenv: what is quoted is kept as it is."""
    env = tmp_path / ".env"
    env.write_text("A=a b  \nB='b # c'\nC=\"c'd\"\n D = d#e\nE=\nF=f=g\n#G=g\nexport H=`h`\n")
    expected = {"A": "a b", "B": "b # c", "C": "c'd", "D": "d", "E": "", "F": "f=g", "H": "h"}
    assert options.read_env_file(env) == expected


# Terminals, pipes and processes.


def test_help_names_an_example() -> None:
    """Each command's help fits 80 columns and shows an example."""
    listed = CliRunner().invoke(make_app(), ["relay", "--help"]).stdout.split("Commands:")[1]
    commands = re.findall(r"^  ([a-z-]+)  ", listed, re.MULTILINE)
    assert len(commands) == 14 and set(LOOKING) < set(commands) and "..." not in listed
    for name in commands:
        printed = CliRunner().invoke(make_app(), ["relay", name, "--help"]).stdout
        assert f"Example:\n    langgraph-sqlite relay {name}" in printed
        assert max(map(len, printed.splitlines())) <= 80, name


def test_version() -> None:
    """--version tells the package's."""
    printed = CliRunner().invoke(make_app(), ["--version"]).stdout
    assert re.fullmatch(r"langgraph-sqlite \d+\.\d+\.\d+\n", printed)


def test_nothing_but_text_in_a_pipe(disturbed: Cli) -> None:
    """In a pipe there are no colours and no bars, whatever the environment asks for."""
    disturbed.env["FORCE_COLOR"] = "1"
    process = disturbed.process("diff")
    out, errors = process.communicate(timeout=30)
    assert process.returncode == 1 and errors == b""
    assert b"differ in 5 keys." in out and ESCAPE.encode() not in out


def read_all(terminal: int) -> str:
    """What a process wrote to a terminal until it closed it."""
    found = b""
    with suppress(OSError):  # on Linux a terminal that nobody has open any more is an error
        while part := os.read(terminal, 4096):
            found += part
    return found.decode()


def test_a_person_is_asked(disturbed: Cli) -> None:
    """On a terminal reconcile shows what differs and asks; "n" changes nothing."""
    mine, theirs = pty.openpty()
    process = disturbed.process("reconcile", stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    os.write(mine, b"n\n")
    shown = read_all(mine)
    os.close(mine)
    assert process.wait(30) == 1
    assert "Put 5 keys in step" in shown and "Nothing was changed." in shown
    assert ESCAPE in shown and "fields name" in shown
    assert disturbed.json("diff", status=1)["count"] == 5


def on_terminal(cli: Cli, *args: str) -> str:
    """What a command shows on a terminal of 80 columns."""
    mine, theirs = pty.openpty()
    process = cli.process(*args, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    shown = read_all(mine)
    os.close(mine)
    process.wait(30)
    return shown


def test_keys_can_be_copied_from_a_terminal(imported: Cli, loaded: Server) -> None:
    """diff and trash break no key's name, however narrow the terminal is."""
    long = f"usage:{API_KEY}:model:daily:claude-sonnet-4-5-20250929:2026-11-21:and-more"
    assert len(long) > 80
    loaded.client().set(long, "1")
    assert long in on_terminal(imported, "diff")
    imported("import-redis")
    loaded.client().delete(long)
    imported("reconcile", "--prefer", "redis", "--yes")
    assert long in on_terminal(imported, "trash", "--all")


def names_in(document: Any) -> set[str]:
    """The names of a JSON document, but for those of records' own fields."""
    if isinstance(document, list):
        return {name for each in document for name in names_in(each)}
    if not isinstance(document, dict):
        return set()
    own = {name: each for name, each in document.items() if name not in _OF_RECORDS}
    return {*document, *names_in(list(own.values()))}


_OF_RECORDS = {"before", "after", "extra"}


def test_names_in_json(disturbed: Cli) -> None:
    """Whatever the command, they are written as the guide's, apiKeysCount."""
    archive = disturbed.json("backup")["path"]
    commands = [
        ["import-redis", "--dry-run"], ["restore-redis", "--dry-run"], ["diff"], ["stats"],
        ["reconcile", "--yes"], ["usage"], ["usage", "--records"], ["audit"], ["doctor"],
        ["backup"], ["restore-backup", archive, "--dry-run"], ["optimize"], ["trash", "--all"],
    ]  # fmt: skip
    found: set[str] = set()
    for command in commands:
        found |= names_in(disturbed.json(*command, status=1 if command == ["diff"] else 0))
    assert {"apiKeysCount", "apiKeyId", "recordId", "cacheCreateTokens", "keptPath"} <= found
    assert [name for name in found if not re.fullmatch("[a-z]+([A-Z][a-z]*)*", name)] == []


def test_json_on_a_terminal(imported: Cli) -> None:
    """--json writes the document and nothing else, also to a terminal."""
    mine, theirs = pty.openpty()
    process = imported.process("diff", "--json", stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    shown = read_all(mine)
    os.close(mine)
    assert process.wait(30) == 0 and json.loads(shown)["count"] == 0


def test_progress_as_lines(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without a terminal, progress is a line from time to time, on stderr."""
    monkeypatch.setattr(output, "EVERY", 0.0)
    cli("import-redis")
    assert re.search(r"^importing: \d+ of 248 keys$", cli.errors, re.MULTILINE)
    monkeypatch.setattr(output, "EVERY", 60.0)
    cli("import-redis")
    assert cli.errors == ""


def test_tables_line_up_with_wide_characters(capsys: pytest.CaptureFixture[str]) -> None:
    """Columns of plain tables start at one place, and nothing is cut off."""
    output.table(("name", "count"), [("研究", 1234), ("x" * 300, None)], " r")
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == "研究" + " " * 296 + "  1,234" and lines[2] == "x" * 300


@pytest.mark.parametrize(
    ("count", "shown"),
    [
        (0, "0 bytes"), (999, "999 bytes"), (1000, "1.0 KB"), (1_234_567, "1.2 MB"),
        (5e9, "5.0 GB"), (2e15, "2,000.0 TB"),
    ],
)  # fmt: skip
def test_sizes(count: float, shown: str) -> None:
    """Sizes are in units of a thousand."""
    assert output.size(count) == shown


def test_without_the_extra() -> None:
    """Where the extra is not installed, one line says what to install."""
    code = "import sys; sys.modules['typer'] = None; from langgraph_sqlite_saver import cli; "
    command = [sys.executable, "-c", code + "cli.main()", "relay"]
    found = subprocess.run(command, capture_output=True)
    assert found.returncode == 2 and found.stdout == b""
    assert found.stderr.decode() == (
        "langgraph-sqlite needs typer: pip install 'langgraph-sqlite-saver[relay]'\n"
    )


RIGHTS = re.search(
    r"^    (ACL SETUSER follower .*)$",
    (Path(__file__).parents[2] / "docs/relay.md").read_text(encoding="utf-8"),
    re.MULTILINE,
)


@pytest.mark.parametrize("mode", ["notified", "scanning", "enabling", "--no-restore"])
def test_rights_that_are_documented_suffice(
    cli: Cli, any_fresh_server: Server, tmp_path: Path, mode: str
) -> None:
    """docs/relay.md names what Redis has to allow, for each of the follower's ways."""
    assert RIGHTS is not None
    server, client = any_fresh_server, any_fresh_server.client()
    load(client)
    rights = RIGHTS[1].replace("PASSWORD", SECRET)
    if mode == "notified":
        server.config("notify-keyspace-events", "EA")
    if mode == "enabling":
        rights += " +config|set"
    if mode == "--no-restore":
        rights = rights.replace(" +@write", "")
    client.execute_command(*rights.split())
    cli.env["REDIS_URL"] = server.url.replace("redis://", f"redis://follower:{SECRET}@")
    flags = {"enabling": ["--enable-notifications"], "--no-restore": ["--no-restore"]}
    process = cli.process("follow", "--scan-interval", "0.2", *flags.get(mode, []))
    try:
        until(lambda: cli.db.exists() and imported_name(cli) is not None, "the first look")
        client.hset(f"apikey:{API_KEY}", "name", "followed")
        client.xadd("billing:events", {"data": "one more"})
        until(lambda: imported_name(cli) == "followed", "the change")
        until(lambda: agree(cli), "the stream")
        assert states(cli.json("doctor"))["Redis"] == "ok"
        if mode != "--no-restore":
            client.flushall()
            until(lambda: client.xlen("billing:events") == 6, "the restore")
    finally:
        process.terminate()
        out = process.communicate(timeout=30)[0].decode()
    assert process.returncode == 0
    assert ("notified" in out) is (mode in ("notified", "enabling"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_follow_until_told_to_stop(cli: Cli, loaded: Server, number: int) -> None:
    """follow takes changes over until SIGTERM or SIGINT, and ends in good order."""
    process = cli.process("follow", "--scan-interval", "0.1")
    try:
        until(lambda: cli.db.exists() and imported_name(cli) is not None, "the first look")
        loaded.client().hset(f"apikey:{API_KEY}", "name", "followed")
        until(lambda: imported_name(cli) == "followed", "the change")
        process.send_signal(number)
        out, errors = process.communicate(timeout=30)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0 and errors == b"" and ESCAPE.encode() not in out


def agree(cli: Cli) -> bool:
    """Whether SQLite and Redis do."""
    with cli.store() as store:
        return not store.diff()


def imported_name(cli: Cli) -> str | None:
    """The API key's name in the file, as far as there is one."""
    with suppress(sqlite3.Error), closing(sqlite3.connect(cli.db)) as conn:
        found = conn.execute("SELECT name FROM api_keys WHERE id = ?", (API_KEY,)).fetchone()
        return found[0] if found else None
    return None


def is_connected(pid: int, port: int) -> bool:
    """Whether a process has a connection to a port."""
    sockets = set()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed meanwhile
            sockets.add(link.readlink().name)
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return any(
        int(row[2].partition(":")[2], 16) == port and f"socket:[{row[9]}]" in sockets
        for row in rows
    )


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="looks for a connection in /proc")
def test_second_interrupt_kills(cli: Cli, fresh_server: Server) -> None:
    """A follower that waits for a Redis that hangs is ended by the second Ctrl-C."""
    cli.env["REDIS_URL"] = fresh_server.url
    fresh_server.pause()
    process = cli.process("follow", "--scan-interval", "0.1")

    def is_ended_by_another() -> bool:
        process.send_signal(signal.SIGINT)
        return process.poll() is not None

    try:
        # It asks for an answer that does not come: the first signal is for when it has.
        until(lambda: is_connected(process.pid, fresh_server.port), "the connection")
        process.send_signal(signal.SIGINT)
        # Again and again: on a busy machine the first one may not be handled yet.
        until(is_ended_by_another, "the end")
        assert process.returncode == -signal.SIGINT
    finally:
        process.kill()
        process.communicate()


def test_module() -> None:
    """`python -m langgraph_sqlite_saver.cli` is the same program."""
    command = [sys.executable, "-m", "langgraph_sqlite_saver.cli", "relay", "nonsense"]
    found = subprocess.run(command, capture_output=True, text=True)
    assert found.returncode == 2 and "nonsense" in found.stderr and found.stdout == ""
