"""What can go wrong on the way."""

from __future__ import annotations

from ..database import StorageError


class TransferError(StorageError):
    """Something cannot be carried over; the message names it. What was carried before stays."""


class VerificationError(TransferError):
    """A checkpoint that was carried over is not what it was."""
