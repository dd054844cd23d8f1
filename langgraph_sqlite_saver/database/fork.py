"""Telling open databases about os.fork()."""

from __future__ import annotations

import os
import weakref
from typing import Protocol


class Forkable(Protocol):
    """What has to do something around a fork."""

    def before_fork(self) -> None:
        """In the parent, before."""

    def after_fork_in_parent(self) -> None:
        """In the parent, after."""

    def after_fork_in_child(self) -> None:
        """In the child, whose only thread is the one that forked."""


_watched: weakref.WeakSet[Forkable] = weakref.WeakSet()


def watch(what: Forkable) -> None:
    """Call the three methods at every fork, for as long as the object lives."""
    _watched.add(what)


def _before() -> None:
    for each in list(_watched):
        each.before_fork()


def _after_in_parent() -> None:
    for each in list(_watched):
        each.after_fork_in_parent()


def _after_in_child() -> None:
    for each in list(_watched):
        each.after_fork_in_child()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before, after_in_parent=_after_in_parent, after_in_child=_after_in_child
    )
