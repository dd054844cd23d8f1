"""The loggers of this library, one per topic; docs/operating.md lists them."""

from __future__ import annotations

import logging

NAME = "langgraph_sqlite_saver"

# Without it, Python prints warnings of a program that configures no logging.
logging.getLogger(NAME).addHandler(logging.NullHandler())

locks = logging.getLogger(f"{NAME}.locks")
migrations = logging.getLogger(f"{NAME}.migrations")
damage = logging.getLogger(f"{NAME}.damage")
events = logging.getLogger(f"{NAME}.events")
files = logging.getLogger(f"{NAME}.files")
wal = logging.getLogger(f"{NAME}.wal")
