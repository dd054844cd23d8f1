"""Relay persistence: API keys, accounts and usage of a Claude relay service beside its Redis."""

try:
    import redis as _redis  # noqa: F401
except ModuleNotFoundError as _error:
    raise ModuleNotFoundError(
        "relay persistence needs redis: pip install 'langgraph-sqlite-saver[relay]'", name="redis"
    ) from _error

from .aio import AsyncRelayStore
from .audit import AuditEntry
from .comparing import Difference
from .errors import (
    RedisLostKeysError,
    RedisUnavailableError,
    SqliteDisabledError,
    UsageNotStoredError,
)
from .follow import Follower
from .layout import ACCOUNT_TYPES
from .losses import Restored
from .mirror import Taken
from .store import RelayStore
from .trash import TrashEntry
from .usage import UsageRecord, UsageTotals

__all__ = [
    "ACCOUNT_TYPES",
    "AsyncRelayStore",
    "AuditEntry",
    "Difference",
    "Follower",
    "RedisLostKeysError",
    "RedisUnavailableError",
    "RelayStore",
    "Restored",
    "SqliteDisabledError",
    "Taken",
    "TrashEntry",
    "UsageNotStoredError",
    "UsageRecord",
    "UsageTotals",
]
