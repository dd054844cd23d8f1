"""Ways in and out: from the official saver's files, to and from Postgres.

`import_official` takes the extra `cli`, `to_postgres` and `from_postgres` the extra `postgres`:
each is loaded when it is asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .errors import TransferError, VerificationError
from .result import Progress, Transferred

if TYPE_CHECKING:
    from .official import import_official
    from .postgres import from_postgres, to_postgres

__all__ = [
    "Progress",
    "TransferError",
    "Transferred",
    "VerificationError",
    "from_postgres",
    "import_official",
    "to_postgres",
]

# Where each function is, and the extra that brings what it needs.
_FUNCTIONS = {
    "import_official": ("official", "cli"),
    "from_postgres": ("postgres", "postgres"),
    "to_postgres": ("postgres", "postgres"),
}


if not TYPE_CHECKING:  # type checkers would take every name for one of the module's

    def __getattr__(name: str) -> Any:
        if name not in _FUNCTIONS:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        module, extra = _FUNCTIONS[name]
        try:
            return getattr(import_module(f".{module}", __name__), name)
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                f"{name} needs {error.name}: pip install 'langgraph-sqlite-saver[{extra}]'",
                name=error.name,
            ) from error
