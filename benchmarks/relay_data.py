"""A relay's records and keys, shaped as a relay writes them, from a seed."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta, timezone
from itertools import islice
from typing import Any
from uuid import UUID

import redis

from langgraph_sqlite_saver.relay import UsageRecord

MODELS = ("claude-sonnet-4-5-20250929", "claude-sonnet-4-1-20250805", "claude-sonnet-4-0-20250514")
TAGS = [f"team-{number}" for number in range(20)]
START = datetime(2026, 10, 1, tzinfo=timezone.utc)
# Of an API key's list, and hours that its statistics cover: with its other keys that makes 100.
ENTRIES = 50
HOURS = 32
WEEK = 7 * 24 * 3600

_EMPTY = (
    "activatedAt azureOpenaiAccountId bedrockAccountId claudeAccountId claudeConsoleAccountId"
    " droidAccountId expiresAt geminiAccountId icon openaiAccountId userId userUsername"
)
_ZERO = (
    "activationDays concurrencyLimit dailyCostLimit rateLimitCost rateLimitRequests"
    " rateLimitWindow tokenLimit totalCostLimit weeklyOpusCostLimit weeklyResetHour"
)
_FALSE = (
    "enableClientRestriction enableModelRestriction enableOpenAIResponsesCodexAdaptation"
    " enableOpenAIResponsesPayloadRules isDeleted"
)
_LIST = "allowedClients openaiResponsesPayloadRules permissions restrictedModels"
_API_KEY = {
    **dict.fromkeys(_EMPTY.split(), ""),
    **dict.fromkeys(_ZERO.split(), "0"),
    **dict.fromkeys(_FALSE.split(), "false"),
    **dict.fromkeys(_LIST.split(), "[]"),
    "activationUnit": "days",
    "createdAt": "2026-10-01T08:00:00.000Z",
    "createdBy": "admin",
    "description": "build agents of the platform team",
    "expirationMode": "fixed",
    "isActivated": "true",
    "isActive": "true",
    "lastUsedAt": "2026-11-21T19:51:44.166Z",
    "serviceRates": "{}",
    "weeklyResetDay": "1",
}
_ACCOUNT = {
    "accountType": "shared",
    "autoStopOnWarning": "false",
    "createdAt": "2026-10-01T08:00:00.000Z",
    "description": "shared by the data team",
    "expiresAt": "1795320367529",
    "isActive": "true",
    "platform": "claude",
    "priority": "25",
    "schedulable": "true",
    "scopes": "user:inference",
    "status": "active",
    "subscriptionInfo": '{"accountType":"claude_max"}',
}


def new_id(rng: random.Random) -> str:
    """As the relay makes them."""
    return str(UUID(int=rng.getrandbits(128), version=4))


def secret(rng: random.Random, size: int) -> str:
    """So many bytes as hexadecimal digits: a hash, or something encrypted."""
    return rng.randbytes(size).hex()


def api_key(rng: random.Random) -> dict[str, str]:
    """An API key of 45 fields, with two tags."""
    own = {
        "id": new_id(rng),
        "apiKey": secret(rng, 32),
        "name": f"Agents {rng.randrange(1_000_000)}",
        "tags": json.dumps(rng.sample(TAGS, 2), separators=(",", ":")),
    }
    return {**_API_KEY, **own}


def account(rng: random.Random) -> dict[str, str]:
    """An account of the type "claude", with its secrets."""
    sizes = {"accessToken": 80, "refreshToken": 80, "claudeAiOauth": 220, "email": 48}
    secrets = {name: f"{secret(rng, 16)}:{secret(rng, size)}" for name, size in sizes.items()}
    return {**_ACCOUNT, "id": new_id(rng), "name": f"Seat {rng.randrange(10_000)}", **secrets}


def usage_records(
    rng: random.Random, count: int, keys: Sequence[str], accounts: Sequence[str], *, extra: bool
) -> list[UsageRecord]:
    """A request a second, with what else the relay notes of it if `extra`."""
    return [
        UsageRecord(
            rng.choice(keys),
            rng.choice(MODELS),
            timestamp=_time(number),
            account_id=rng.choice(accounts),
            **_counts(rng),
            request_duration_ms=rng.randrange(300, 60_000),
            status="200",
            extra=_extra(rng) if extra else None,
        )
        for number in range(count)
    ]


def _time(second: int) -> str:
    when = START + timedelta(seconds=second)
    return when.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _counts(rng: random.Random) -> dict[str, Any]:
    return {
        "input_tokens": rng.randrange(20, 20_000),
        "output_tokens": rng.randrange(20, 4_000),
        "cache_create_tokens": rng.randrange(0, 5_000),
        "cache_read_tokens": rng.randrange(0, 100_000),
        "cost": rng.randrange(100, 900_000) / 1_000_000,
    }


def _extra(rng: random.Random) -> dict[str, Any]:
    parts = ("input", "output", "cacheCreate", "cacheRead", "ephemeral5m", "ephemeral1h", "total")
    return {
        "requestId": f"req_{secret(rng, 6)}",
        "endpoint": "/api/v1/messages",
        "costBreakdown": {part: rng.randrange(100_000) / 1_000_000 for part in parts},
    }


# What a relay leaves in Redis.


def fill(client: redis.Redis, count: int) -> None:
    """Write `count` keys: per 100, an API key, its list of records, statistics and costs."""
    rng = random.Random("keys of a relay")
    keys = (key for _ in iter(int, 1) for key in _keys_of_one(rng))
    wanted = islice(keys, count)
    while part := list(islice(wanted, 1_000)):
        _write(client, part)


Key = tuple[str, Any, bool]


def _keys_of_one(rng: random.Random) -> Iterator[Key]:
    """The keys that belong to one API key: the name, what it holds, whether it expires."""
    fields = api_key(rng)
    id = fields["id"]
    yield f"apikey:{id}", fields, False
    yield f"usage:records:{id}", [_entry(rng, number) for number in range(ENTRIES)], True
    yield f"usage:{id}", _totals(rng), False
    yield f"usage:cost:total:{id}", str(rng.randrange(900_000_000) / 1_000_000), False
    for number in range(HOURS):
        hour = (START + timedelta(hours=number)).strftime("%Y-%m-%d:%H")
        yield f"usage:hourly:{id}:{hour}", _statistics(rng), True
        yield f"usage:{id}:model:hourly:{rng.choice(MODELS)}:{hour}", _statistics(rng), True
        yield f"usage:cost:hourly:{id}:{hour}", str(rng.randrange(900_000) / 1_000_000), True


def _statistics(rng: random.Random) -> dict[str, int]:
    """The sums of an hour."""
    kinds = ("input", "output", "cacheCreate", "cacheRead", "ephemeral5m", "ephemeral1h", "all")
    tokens = {f"{kind}Tokens": rng.randrange(99_999) for kind in kinds}
    return {"requests": rng.randrange(1, 99), **tokens}


def _totals(rng: random.Random) -> dict[str, int]:
    """The sums of an API key's life."""
    sums = _statistics(rng)
    return {f"total{name[0].upper()}{name[1:]}": value for name, value in sums.items()}


def _entry(rng: random.Random, number: int) -> str:
    """A usage record as the relay's JSON."""
    counts = {"inputTokens": rng.randrange(20_000), "outputTokens": rng.randrange(4_000)}
    about = {"timestamp": _time(number), "model": rng.choice(MODELS), "statusCode": 200}
    return json.dumps({**about, **counts, "cost": rng.randrange(9_999) / 10_000, **_extra(rng)})


def _write(client: redis.Redis, keys: Sequence[Key]) -> None:
    with client.pipeline(transaction=False) as pipe:
        for name, value, expires in keys:
            if isinstance(value, dict):
                pipe.hset(name, mapping=value)
            elif isinstance(value, list):
                pipe.rpush(name, *value)
            else:
                pipe.set(name, value)
            if expires:
                pipe.expire(name, WEEK)
        pipe.execute()
