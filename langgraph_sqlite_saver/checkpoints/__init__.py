"""What the savers do, written once, as plain functions of a `sqlite3.Connection`."""

from .checking import Damage, Findings
from .compacting import Compaction
from .errors import DamagedError, InvalidConfigError, SerializationError
from .orphans import Orphans
from .overview import Stats, ThreadInfo
from .schema import SCHEMA

__all__ = [
    "SCHEMA",
    "Compaction",
    "Damage",
    "DamagedError",
    "Findings",
    "InvalidConfigError",
    "Orphans",
    "SerializationError",
    "Stats",
    "ThreadInfo",
]
