"""Telling open databases about os.fork()."""

from __future__ import annotations

import os
import threading
import weakref
from typing import Protocol

# How long a fork waits for operations under way before it happens around them, in seconds.
PATIENCE = 5.0


class Forkable(Protocol):
    """What has to do something around a fork."""

    def before_fork(self) -> None:
        """In the parent, before."""

    def after_fork_in_parent(self) -> None:
        """In the parent, after."""

    def after_fork_in_child(self) -> None:
        """In the child, whose only thread is the one that forked."""


_watched: weakref.WeakSet[Forkable] = weakref.WeakSet()
# Held from before a fork until after it, and by whoever is inside SQLite outside any operation: a
# child would inherit SQLite's own mutexes as they are, and wait for a thread that it does not have.
mutex = threading.RLock()
_around: list[Forkable] = []


def watch(what: Forkable) -> None:
    """Call the three methods at every fork, for as long as the object lives."""
    with mutex:
        _watched.add(what)


def _before() -> None:
    mutex.acquire()
    _around.extend(_watched)
    for each in _around:
        each.before_fork()


def _after_in_parent() -> None:
    _after("after_fork_in_parent")


def _after_in_child() -> None:
    _after("after_fork_in_child")


def _after(method: str) -> None:
    around = _around.copy()
    _around.clear()
    for each in around:
        getattr(each, method)()
    mutex.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before, after_in_parent=_after_in_parent, after_in_child=_after_in_child
    )
