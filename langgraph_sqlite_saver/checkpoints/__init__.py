"""What the savers do, written once, as plain functions of a `sqlite3.Connection`."""

from .checking import Damage
from .compacting import Compaction
from .errors import DamagedError, InvalidConfigError, SerializationError
from .overview import Stats, ThreadInfo
from .schema import SCHEMA

__all__ = [
    "SCHEMA",
    "Compaction",
    "Damage",
    "DamagedError",
    "InvalidConfigError",
    "SerializationError",
    "Stats",
    "ThreadInfo",
]
