"""The relay's Redis layout: which key means what. Claude Relay Service 1.1.314 and older.

Key names hold arbitrary text (tags, model names), so keys are bytes and are told apart by how they
begin; what nobody here knows is kept like any other key.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

API_KEY = b"apikey:"
HASH_MAP = b"apikey:hash_map"
OLD_HASH = b"apikey_hash:"
INDEX_VERSION = b"apikey:index:version"
ALL = b"apikey:idx:all"
CREATED_AT = b"apikey:idx:createdAt"
LAST_USED_AT = b"apikey:idx:lastUsedAt"
NAME = b"apikey:idx:name"
ACTIVE = b"apikey:set:active"
DELETED = b"apikey:set:deleted"
TAG = b"apikey:tag:"
TAGS = b"apikey:tags:all"

RECORDS = b"usage:records:"
COST_TOTAL = b"usage:cost:total:"


@dataclass(frozen=True)
class AccountType:
    """One kind of account: its keys, its index, the set of those that are shared, its secrets."""

    name: str
    prefix: bytes
    shared: bytes | None
    credentials: tuple[str, ...]
    is_json: bool = False

    @property
    def index(self) -> bytes:
        """The set of the ids."""
        return self.prefix + b"index"

    @property
    def empty_mark(self) -> bytes:
        """Written by a relay that found no account; while it is there, all are invisible."""
        return self.prefix + b"index:empty"


_OAUTH = ("accessToken", "refreshToken")


def _type(
    name: str, prefix: str, shared: str | None, *credentials: str, is_json: bool = False
) -> AccountType:
    shared_set = f"shared_{shared}_accounts".encode() if shared else None
    return AccountType(name, prefix.encode(), shared_set, credentials, is_json)


_ALL = (
    _type("claude", "claude:account:", None, "claudeAiOauth", *_OAUTH, "password", "email"),
    _type("claude-console", "claude_console_account:", "claude_console", "apiKey"),
    _type("gemini", "gemini_account:", "gemini", "geminiOauth", *_OAUTH),
    _type("gemini-api", "gemini_api_account:", "gemini_api", "apiKey"),
    _type("openai", "openai:account:", "openai", "openaiOauth", "idToken", *_OAUTH, "email"),
    _type("openai-responses", "openai_responses_account:", "openai_responses", "apiKey"),
    _type("azure-openai", "azure_openai:account:", "azure_openai", "apiKey"),
    _type("bedrock", "bedrock_account:", None, "awsCredentials", "bearerToken", is_json=True),
    _type("droid", "droid:account:", None, *_OAUTH, "apiKeys"),
    _type("ccr", "ccr_account:", "ccr", "apiKey"),
)
ACCOUNT_TYPES: dict[str, AccountType] = {kind.name: kind for kind in _ALL}
_BY_PREFIX = {kind.prefix: kind for kind in ACCOUNT_TYPES.values()}
_ACCOUNT = re.compile(b"(%s)([^:]+)\\Z" % b"|".join(map(re.escape, _BY_PREFIX)), re.DOTALL)

EMPTY_MARKS = tuple(kind.empty_mark for kind in ACCOUNT_TYPES.values())

# Many records have a member in each of these, so they are changed member by member.
_INDEXES = frozenset(
    {HASH_MAP, ALL, CREATED_AT, LAST_USED_AT, NAME, ACTIVE, DELETED, TAGS}
    | {kind.index for kind in ACCOUNT_TYPES.values()}
    | {kind.shared for kind in ACCOUNT_TYPES.values() if kind.shared}
)
# Those that are no sets.
INDEX_TYPES = {HASH_MAP: "hash", CREATED_AT: "zset", LAST_USED_AT: "zset", NAME: "zset"}


def record_of(index: bytes, member: bytes, value: bytes | None) -> bytes | None:
    """The key of the record that a member of an index stands for."""
    if index == HASH_MAP:
        return API_KEY + (value or b"")
    if index == NAME:
        return API_KEY + member.rpartition(b"\0")[2]
    if index == TAGS:
        return None
    if index.startswith(API_KEY):
        return API_KEY + member
    kinds = [kind for kind in ACCOUNT_TYPES.values() if index in (kind.index, kind.shared)]
    return kinds[0].prefix + member if kinds else None


def is_index(key: bytes) -> bool:
    """Whether many records share this collection."""
    return key in _INDEXES or key.startswith(TAG)


# Worthless after a restore: sessions, rate limits, locks, caches, scratch.
_SHORT_LIVED = re.compile(
    rb"(?:concurrency|rate_limit|session|user_session|sticky_session|oauth|oauth_session"
    rb"|temp_unavailable|error_history|system:metrics:minute|account_balance|account_balance_local"
    rb"|account:overload|account:last_test|cost_rank_lock|token_refresh_lock|lock|init"
    rb"|apikey:tmp):"
    rb"|user_msg_queue_"
    rb"|.*_session.*_mapping:|.*_account_sessions:|.*:empty\Z",
    re.DOTALL,
)
# Names in these end in text of the users' choice, which may look like one of the above.
_EMPTY_MARK = re.compile(rb"(?:account_)?usage:[a-z:]+:index:[0-9:-]+:empty\Z")
_ALWAYS_KEPT = (b"apikey:tag:", b"usage:", b"account_usage:", b"username:", b"account_group")


def is_lasting(key: bytes) -> bool:
    """Whether a key is worth keeping; families that nobody knows are."""
    if key.startswith(_ALWAYS_KEPT):
        return not _EMPTY_MARK.match(key)
    # A record's id may look like one of the above too.
    return not _SHORT_LIVED.match(key) or place(key) is not None


Family = Literal[
    "api_key", "account", "records", "key_totals", "key_cost", "account_totals", "stats"
]


@dataclass(slots=True)
class Place:
    """What a key holds, for those that have columns in the relational tables."""

    family: Family
    id: str
    account_type: str = ""
    scope: str = ""
    period: str = ""
    model: str = ""
    start: str = ""


def text(value: bytes) -> str:
    """Bytes as text, for people and columns; `raw` gives the bytes back, whatever they are."""
    return value.decode("utf-8", "surrogateescape")


def texts(values: Sequence[bytes]) -> list[str]:
    """As `text`, of many."""
    try:
        return list(map(bytes.decode, values))
    except UnicodeDecodeError:
        return list(map(text, values))


def raw(value: str) -> bytes:
    """The bytes that a text stands for."""
    return value.encode("utf-8", "surrogateescape")


def column(value: bytes) -> str:
    """Bytes as text for a column, which cannot hold what is no UTF-8."""
    return value.decode("utf-8", "replace")


_STATS = re.compile(
    r"(?:usage:(?P<key>[^:]+):model:(?P<of_key>hourly|daily|monthly)"
    r"|account_usage:model:(?P<of_account>hourly|daily|monthly):(?P<account>[^:]+)):(?P<rest>.+)\Z",
    re.DOTALL,
)
_TIME = re.compile(r"\d{4}-\d\d(-\d\d(:\d\d)?)?\Z")
_PERIODS = {"hourly": ("hour", 13), "daily": ("day", 10), "monthly": ("month", 7)}


def place(key: bytes) -> Place | None:
    """Where a key's content goes in the relational tables; None for keys without columns."""
    first = key.split(b":", 1)[0]
    if first == b"apikey":
        return _api_key(key)
    if first == b"usage":
        return _usage(key)
    if first == b"account_usage":
        return _account_usage(key)
    match = _ACCOUNT.match(key)
    if match is None or match[2] == b"index":
        return None
    return Place("account", text(match[2]), account_type=_BY_PREFIX[match[1]].name)


def _api_key(key: bytes) -> Place | None:
    id = key[len(API_KEY) :]
    if not id or b":" in id or key == HASH_MAP:
        return None
    return Place("api_key", text(id))


def _usage(key: bytes) -> Place | None:
    rest = key[6:]
    if b":" not in rest:
        return Place("key_totals", text(rest)) if rest else None
    if key.startswith(RECORDS):
        return Place("records", text(key[len(RECORDS) :]))
    if key.startswith(COST_TOTAL):
        return Place("key_cost", text(key[len(COST_TOTAL) :]))
    return _stats("key", key)


def _account_usage(key: bytes) -> Place | None:
    rest = key[14:]
    if b":" not in rest:
        return Place("account_totals", text(rest)) if rest else None
    return _stats("account", key)


def _stats(scope: str, key: bytes) -> Place | None:
    match = _STATS.match(text(key))
    if match is None:
        return None
    period, length = _PERIODS[match["of_key"] or match["of_account"]]
    # The model's name may hold colons: what tells the time is as long as its period says.
    model, start = match["rest"][: -length - 1], match["rest"][-length:]
    if not model or not _TIME.match(start):
        return None
    id = match["key"] or match["account"]
    return Place("stats", id, "", scope, period, model, start.replace(":", "T"))
