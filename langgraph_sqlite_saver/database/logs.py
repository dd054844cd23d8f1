"""The loggers of this library, named by what they tell; docs/operating.md lists them."""

from __future__ import annotations

import logging

NAME = "langgraph_sqlite_saver"

# What becomes of it is for the program to say.
logging.getLogger(NAME).addHandler(logging.NullHandler())

locks = logging.getLogger(f"{NAME}.locks")
migrations = logging.getLogger(f"{NAME}.migrations")
damage = logging.getLogger(f"{NAME}.damage")
events = logging.getLogger(f"{NAME}.events")
files = logging.getLogger(f"{NAME}.files")
