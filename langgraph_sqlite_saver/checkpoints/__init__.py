"""What the savers do, written once, as plain functions of a `sqlite3.Connection`."""

from .errors import InvalidConfigError, SerializationError
from .overview import Stats, ThreadInfo
from .schema import SCHEMA

__all__ = ["SCHEMA", "InvalidConfigError", "SerializationError", "Stats", "ThreadInfo"]
