"""The threads that a run had to leave out."""

from __future__ import annotations

from collections.abc import Mapping

from .errors import TransferError, VerificationError

# How many of them are named in the error.
_NAMED = 5


class Failures:
    """Why threads are left out, by thread; the others go on."""

    def __init__(self) -> None:
        self._errors: dict[str, TransferError] = {}

    def __contains__(self, thread_id: object) -> bool:
        return thread_id in self._errors

    def add(self, errors: Mapping[str, TransferError]) -> None:
        """More of them; the first reason of a thread stays."""
        self._errors = {**errors, **self._errors}

    def raise_(self) -> None:
        """Raise TransferError if there are any, VerificationError if one is another than it was."""
        errors = list(self._errors.values())
        if len(errors) == 1:
            raise errors[0]
        if errors:
            named = "\n".join(f"  {error}" for error in errors[:_NAMED])
            more = f"\n  and {len(errors) - _NAMED} more" if len(errors) > _NAMED else ""
            differ = any(isinstance(error, VerificationError) for error in errors)
            raise (VerificationError if differ else TransferError)(
                f"{len(errors)} threads cannot be carried over; all others are:\n{named}{more}"
            )
