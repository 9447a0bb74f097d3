"""After a fork: in the child locks may be held by threads that are not there."""

from __future__ import annotations

import os
from typing import Protocol
from weakref import WeakSet


class Forked(Protocol):
    def after_fork(self) -> None:
        """In a forked child."""


def renewed() -> WeakSet[Forked]:
    """A set of things that are told of a fork in the child, as long as they are there."""
    known: WeakSet[Forked] = WeakSet()

    def tell() -> None:
        for one in tuple(known):
            one.after_fork()

    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=tell)
    return known
