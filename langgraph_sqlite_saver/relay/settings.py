"""The store's settings, as the relay's `.env` has them."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta, timezone
from typing import Any
from urllib.parse import quote

from ..database import InvalidInputError

DEFAULT_PATH = "./data/relay-service.db"

_TRUE = {"true", "1", "yes", "on"}
_FALSE = {"false", "0", "no", "off"}


def redis_url(environ: Mapping[str, str]) -> str:
    """REDIS_URL, or one made of REDIS_HOST, REDIS_PORT, REDIS_PASSWORD and REDIS_DB."""
    if environ.get("REDIS_URL"):
        return environ["REDIS_URL"]
    host = environ.get("REDIS_HOST") or "localhost"
    port = _number(environ, "REDIS_PORT", 6379)
    db = _number(environ, "REDIS_DB", 0)
    password = environ.get("REDIS_PASSWORD") or ""
    scheme = "rediss" if _flag(environ, "REDIS_ENABLE_TLS", False) else "redis"
    secret = f":{quote(password, safe='')}@" if password else ""
    return f"{scheme}://{secret}{host}:{port}/{db}"


def from_environment(environ: Mapping[str, str]) -> dict[str, Any]:
    """Arguments for a store."""
    enabled = _flag(environ, "ENABLE_SQLITE", True)
    return {
        "path": (environ.get("SQLITE_DB_PATH") or DEFAULT_PATH) if enabled else None,
        "redis_url": redis_url(environ),
        "timezone_offset": _offset(environ),
    }


def _flag(environ: Mapping[str, str], name: str, default: bool) -> bool:
    text = (environ.get(name) or "").strip().lower()
    if text in _TRUE or text in _FALSE:
        return text in _TRUE
    if text:
        raise InvalidInputError(f"{name} is true or false")
    return default


def _number(environ: Mapping[str, str], name: str, default: int) -> int:
    text = (environ.get(name) or "").strip()
    if text and not text.isdecimal():
        raise InvalidInputError(f"{name} is a number")
    return int(text or default)


def _offset(environ: Mapping[str, str]) -> float:
    text = (environ.get("TIMEZONE_OFFSET") or "8").strip()
    try:
        timezone(timedelta(hours=float(text)))
    except (ValueError, OverflowError):
        raise InvalidInputError(
            "TIMEZONE_OFFSET is a number of hours between -24 and 24, as 8 or -3.5"
        ) from None
    return float(text)
