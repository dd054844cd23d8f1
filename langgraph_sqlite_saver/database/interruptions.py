"""Telling an operation's own errors from those that strike it."""

from __future__ import annotations

import signal
import threading
from functools import partial
from types import CodeType
from typing import Any


def is_from_outside(error: BaseException) -> bool:
    """Whether an error says nothing of what was being done, and is to reach the caller as it is.

    So it is when memory ran out, and when a signal's handler raised it in the midst of whatever was
    running: Ctrl-C, or a time limit that is a plain Exception (Celery's SoftTimeLimitExceeded).
    """
    if isinstance(error, MemoryError) or not isinstance(error, Exception):
        return True
    if threading.current_thread() is not threading.main_thread():
        return False  # handlers run in the main thread
    handlers = {_code(signal.getsignal(number)) for number in signal.valid_signals()}
    place = error.__traceback__
    while place is not None:
        if place.tb_frame.f_code in handlers:
            return True
        place = place.tb_next
    return False


def _code(handler: Any) -> CodeType | None:
    """What a handler runs; None for what is no Python function."""
    while isinstance(handler, partial):
        handler = handler.func
    handler = getattr(handler, "__func__", handler)  # a bound method
    code = getattr(handler, "__code__", None)
    if code is None and callable(handler):
        code = getattr(type(handler).__call__, "__code__", None)
    return code if isinstance(code, CodeType) else None
