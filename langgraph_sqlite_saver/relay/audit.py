"""The audit log: which record changed, when and by whom; what is secret is never written down.

Which fields a record has differs from version to version, so only those that are known to be
harmless are shown; of any other the log says that it changed.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import orjson

from .times import utc_now, utc_text

_HARMLESS = """
    id name description tokenLimit concurrencyLimit rateLimitWindow rateLimitRequests rateLimitCost
    isActive claudeAccountId claudeConsoleAccountId geminiAccountId openaiAccountId
    azureOpenaiAccountId bedrockAccountId droidAccountId ccrAccountId permissions
    enableModelRestriction restrictedModels enableClientRestriction allowedClients dailyCostLimit
    totalCostLimit weeklyOpusCostLimit weeklyResetDay weeklyResetHour tags activationDays
    activationUnit expirationMode isActivated activatedAt createdAt expiresAt createdBy userId
    serviceRates updatedAt isDeleted deletedAt deletedBy deletedByType restoredAt restoredBy
    restoredByType accountType priority schedulable status subscriptionExpiresAt platform
    maxConcurrency maxConcurrentTasks dailyQuota supportedModels projectId region defaultModel
    credentialType deploymentName apiVersion planType endpointType
"""
_SHOWN = frozenset(_HARMLESS.split())
# Changed by every request: a log of it would tell nothing.
_NOT_LOGGED = frozenset({"lastUsedAt", "usageCount", "lastRefreshAt"})
_HIDDEN = "(hidden)"


@dataclass(frozen=True)
class AuditEntry:
    """One change: `before` and `after` hold the fields that differ, secrets as "(hidden)"."""

    id: int
    at: str
    actor: str
    action: str
    kind: str
    record_id: str
    before: dict[str, Any] | None
    after: dict[str, Any] | None


def note(
    conn: sqlite3.Connection,
    actor: str,
    action: str,
    kind: str,
    record_id: str,
    before: Mapping[str, Any] | None = None,
    after: Mapping[str, Any] | None = None,
) -> None:
    """Write down that a record changed; nothing if only what every request changes did."""
    changed = _changed(before or {}, after or {})
    if not changed and before is not None and after is not None:
        return
    conn.execute(
        "INSERT INTO audit_log (at, actor, action, kind, record_id, before, after)"
        " VALUES (?, ?, ?, ?, ?, ?, ?)",
        (
            utc_now(),
            actor,
            action,
            kind,
            _plain(record_id),
            None if before is None else _shown(before, changed),
            None if after is None else _shown(after, changed),
        ),
    )


def _changed(old: Mapping[str, Any], new: Mapping[str, Any]) -> set[str]:
    if not old or not new:
        return {*old, *new} - _NOT_LOGGED
    # None is a value of an account that is kept as JSON.
    missing = object()
    names = {*old, *new} - _NOT_LOGGED
    return {name for name in names if old.get(name, missing) != new.get(name, missing)}


def _shown(fields: Mapping[str, Any], changed: set[str]) -> str:
    shown = {
        name: (value if name in _SHOWN else _HIDDEN)
        for name, value in fields.items()
        if name in changed
    }
    try:
        return orjson.dumps(shown).decode()
    except TypeError:  # bytes that are no UTF-8
        return orjson.dumps({_plain(n): _plain(v) for n, v in shown.items()}).decode()


def _plain(value: Any) -> Any:
    """Text that a column and JSON can hold."""
    if isinstance(value, str):
        return value.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    return value


def entries(
    conn: sqlite3.Connection,
    kind: str | None,
    record_id: str | None,
    since: datetime | None,
    until: datetime | None,
    limit: int,
) -> list[AuditEntry]:
    """The newest entries that match, newest first."""
    wanted = {
        "kind = ?": kind,
        "record_id = ?": record_id,
        "at >= ?": None if since is None else utc_text(since),
        "at < ?": None if until is None else utc_text(until),
    }
    terms = {term: value for term, value in wanted.items() if value is not None}
    where = " AND ".join(terms) or "1"
    query = (
        "SELECT id, at, actor, action, kind, record_id, before, after FROM audit_log"  # noqa: S608
        f" WHERE {where} ORDER BY id DESC LIMIT ?"
    )
    found = conn.execute(query, (*terms.values(), limit))
    return [
        AuditEntry(*row[:6], *(None if text is None else orjson.loads(text) for text in row[6:]))
        for row in found
    ]
