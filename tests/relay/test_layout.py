"""What a key is: worth keeping or not, and what it means; and the guide's tables."""

# ruff: noqa: F401, F811 - fixtures are imported

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from langgraph_sqlite_saver.database import UnknownSchemaError
from langgraph_sqlite_saver.relay import ACCOUNT_TYPES, RelayStore, layout

from .sample import SAMPLE, is_lasting, raw
from .stores import Face, api_key, open_store, path

# Keys.

PARTS = st.sampled_from(
    [
        "apikey", "tag", "tmp", "usage", "records", "index", "empty", "daily", "session", "lock",
        "init", "claude", "account", "account_usage", "account_group", "username", "oauth",
        "x_session_y_mapping", "gemini_account_sessions", "user_msg_queue_1", "cost_rank_lock",
        "concurrency", "model", "2026-11-21", "03", "sonnet[1m]", "*", "😀", "a b", "", "\n",
        "account_balance", "account_balance_script", "rate_limit", "system", "metrics", "minute",
    ]
)  # fmt: skip
KEYS = st.lists(PARTS, min_size=1, max_size=6).map(":".join) | st.sampled_from(list(SAMPLE))


@given(name=KEYS)
@example(name="apikey:tag:empty")
@example(name="apikey:tag:a:b")
@example(name="apikey:tag:*")
@example(name="apikey:tag:😀")
@example(name="apikey:tag:session:index:empty")
@example(name="apikey:empty")
@example(name="usage:1:model:alltime:model:index:empty")
@example(name="username:session:index:empty")
@example(name="usage:daily:index:2026-11-21:empty")
def test_what_is_worth_keeping(name: str) -> None:
    """Short-lived families are not; names that people chose do not make a key one of them."""
    assert layout.is_lasting(raw(name)) is is_lasting(raw(name))


@given(st.binary(min_size=1, max_size=30))
def test_unknown_families_are_kept(key: bytes) -> None:
    """Whatever bytes their names are."""
    key = b"unknown-family:" + key.replace(b":", b"")
    assert layout.is_lasting(key)
    assert layout.place(key) is None


PLACES: dict[str, dict[str, str] | None] = {
    "apikey:a": {"family": "api_key", "id": "a"},
    "apikey:hash_map": None,
    "apikey:idx:all": None,
    "apikey:": None,
    "usage:records:a": {"family": "records", "id": "a"},
    "usage:a": {"family": "key_totals", "id": "a"},
    "usage:cost:total:a": {"family": "key_cost", "id": "a"},
    "usage:cost:real:total:a": None,
    "account_usage:a": {"family": "account_totals", "id": "a"},
    "account_usage:daily:a:2026-11-21": None,
    "usage:a:model:hourly:m:n[1m]:2026-11-21:03": {
        "family": "stats", "id": "a", "scope": "key", "period": "hour", "model": "m:n[1m]",
        "start": "2026-11-21T03",
    },
    "usage:a:model:daily:m:2026-11-21": {
        "family": "stats", "id": "a", "scope": "key", "period": "day", "model": "m",
        "start": "2026-11-21",
    },
    "account_usage:model:monthly:a:m:2026-11": {
        "family": "stats", "id": "a", "scope": "account", "period": "month", "model": "m",
        "start": "2026-11",
    },
    "usage:a:model:alltime:m": None,
    "usage:model:daily:m:2026-11-21": None,
    "usage:model:daily:index:2026-11-21": None,
    "account_usage:model:daily:index:2026-11-21": None,
    "account_usage:model:hourly:index:2026-11-21:03": None,
    "claude:account:index": None,
    "claude:account:index:empty": None,
}  # fmt: skip
for _name, _kind in ACCOUNT_TYPES.items():
    PLACES[_kind.prefix.decode() + "a"] = {"family": "account", "id": "a", "account_type": _name}


@pytest.mark.parametrize("key", PLACES)
def test_meaning_of_a_key(key: str) -> None:
    """Models may hold colons; indexes are no records."""
    found, expected = layout.place(raw(key)), PLACES[key]
    assert (found is None) is (expected is None)
    assert expected is None or {n: getattr(found, n) for n in expected} == expected


# The guide's tables, as its text has them.

GUIDE = """
CREATE TABLE api_keys (
  id TEXT PRIMARY KEY,
  api_key_hash TEXT UNIQUE,
  name TEXT,
  description TEXT,
  token_limit INTEGER,
  rate_limit_rpm INTEGER,
  rate_limit_tpm INTEGER,
  is_active BOOLEAN,
  created_at DATETIME,
  updated_at DATETIME,
  last_used_at DATETIME,
  expires_at DATETIME,
  permissions TEXT,
  allowed_models TEXT,
  blacklist_models TEXT,
  allowed_clients TEXT,
  total_requests INTEGER DEFAULT 0,
  total_tokens INTEGER DEFAULT 0,
  total_input_tokens INTEGER DEFAULT 0,
  total_output_tokens INTEGER DEFAULT 0,
  total_cache_create_tokens INTEGER DEFAULT 0,
  total_cache_read_tokens INTEGER DEFAULT 0,
  total_cost REAL DEFAULT 0
);
CREATE TABLE accounts (
  id TEXT PRIMARY KEY,
  account_type TEXT NOT NULL,
  name TEXT NOT NULL,
  description TEXT,
  email TEXT,
  is_active BOOLEAN,
  status TEXT,
  created_at DATETIME,
  updated_at DATETIME,
  last_used_at DATETIME,
  expires_at DATETIME,
  proxy_config TEXT,
  encrypted_credentials TEXT,
  total_requests INTEGER DEFAULT 0,
  total_tokens INTEGER DEFAULT 0,
  total_input_tokens INTEGER DEFAULT 0,
  total_output_tokens INTEGER DEFAULT 0,
  total_cost REAL DEFAULT 0
);
CREATE TABLE usage_records (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  api_key_id TEXT NOT NULL,
  account_id TEXT,
  timestamp DATETIME NOT NULL,
  model TEXT NOT NULL,
  input_tokens INTEGER DEFAULT 0,
  output_tokens INTEGER DEFAULT 0,
  cache_create_tokens INTEGER DEFAULT 0,
  cache_read_tokens INTEGER DEFAULT 0,
  cost REAL DEFAULT 0,
  request_duration_ms INTEGER,
  status TEXT,
  error_message TEXT,
  created_at DATETIME DEFAULT CURRENT_TIMESTAMP,
  FOREIGN KEY (api_key_id) REFERENCES api_keys(id) ON DELETE CASCADE
);
"""


@pytest.mark.parametrize("table", ["api_keys", "accounts", "usage_records"])
@pytest.mark.parametrize("pragma", ["table_info", "foreign_key_list"])
def test_tables_are_the_guides(open_store: Callable[..., Face], table: str, pragma: str) -> None:
    """Columns in order with their types, defaults and constraints, and references."""
    with closing(sqlite3.connect(":memory:")) as conn:
        conn.executescript(GUIDE)
        expected = conn.execute(f"SELECT * FROM pragma_{pragma}('{table}')").fetchall()
    assert open_store(None).query(f"SELECT * FROM pragma_{pragma}('{table}')") == expected


@pytest.mark.parametrize(
    ("query", "index"),
    [
        ("SELECT name FROM api_keys WHERE api_key_hash = 'h'", "sqlite_autoindex_api_keys"),
        ("SELECT name FROM accounts WHERE account_type = 't'", "idx_accounts_type"),
        ("SELECT model FROM usage_records WHERE timestamp > 't'", "idx_usage_timestamp"),
    ],
)
def test_guides_indexes_are_used(open_store: Callable[..., Face], query: str, index: str) -> None:
    """On the key's hash, the account's type and the time of usage."""
    plan = open_store(None).query(f"EXPLAIN QUERY PLAN {query}")
    assert f"USING INDEX {index}" in plan[0][3]


def test_file_is_in_wal_mode(open_store: Callable[..., Face]) -> None:
    """As the guide asks for."""
    assert open_store(None).query("PRAGMA journal_mode") == [("wal",)]


def test_two_keys_cannot_have_one_hash(open_store: Callable[..., Face]) -> None:
    """It is that of the key that was saved last, in the column and in a search."""
    store = open_store(None)
    store.save_api_key(api_key("a", apiKey="h"))
    store.save_api_key(api_key("b", apiKey="h"))
    rows = "SELECT id, api_key_hash FROM api_keys ORDER BY id"
    assert store.query(rows) == [("a", None), ("b", "h")]
    assert store.find_api_key("h") == api_key("b", apiKey="h")
    store.save_api_key(api_key("a", apiKey="other"))
    assert store.find_api_key("h") == api_key("b", apiKey="h")


def test_foreign_tables_are_refused(path: Any) -> None:
    """A file with somebody else's api_keys stays as it is."""
    path.parent.mkdir()
    with closing(sqlite3.connect(path)) as conn:
        conn.execute("CREATE TABLE api_keys (secret)")
        conn.commit()
    with pytest.raises(UnknownSchemaError, match="api_keys"):
        RelayStore(path, None).open()
    with closing(sqlite3.connect(path)) as conn:
        assert conn.execute("SELECT name FROM sqlite_master").fetchall() == [("api_keys",)]
