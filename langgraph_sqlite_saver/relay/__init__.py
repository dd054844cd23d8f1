"""Relay persistence: API keys, accounts and usage of a Claude relay service beside its Redis."""

from .aio import AsyncRelayStore
from .audit import AuditEntry
from .comparing import Difference
from .errors import RedisUnavailableError, SqliteDisabledError, UsageNotStoredError
from .follow import Follower
from .layout import ACCOUNT_TYPES
from .mirror import Taken
from .restoring import Restored
from .store import RelayStore
from .trash import TrashEntry
from .usage import UsageRecord, UsageTotals

__all__ = [
    "ACCOUNT_TYPES",
    "AsyncRelayStore",
    "AuditEntry",
    "Difference",
    "Follower",
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
