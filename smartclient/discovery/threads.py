"""Helpers for sources, whose watches are threads: waits that end with the watch, and locks that are released in a
forked child.
"""

from __future__ import annotations

import os
import threading
from queue import Empty, SimpleQueue
from typing import Any, Protocol
from weakref import WeakSet

LOOK_UP = 5.0  # seconds after which a watch that waits sees whether it is still wanted


def taken(queue: SimpleQueue[Any], stop: threading.Event, seconds: float | None = None) -> Any:
    """The next of a queue; None if `stop` is set first. Raises Empty after that many seconds."""
    while not stop.is_set():
        step = LOOK_UP if seconds is None else min(seconds, LOOK_UP)
        try:
            return queue.get(timeout=step)
        except Empty:
            if seconds is not None:
                seconds -= step
                if seconds <= 0:
                    raise
    return None


class Forked(Protocol):
    def after_fork(self) -> None: ...


class Lock:
    """A lock. In a forked child it is free: whoever held it may be a thread that only its parent has."""

    def __init__(self) -> None:
        self.after_fork()
        tell_of_forks(self)

    def after_fork(self) -> None:
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *error: object) -> None:
        self._lock.release()


_told: WeakSet[Forked] = WeakSet()


def tell_of_forks(one: Forked) -> None:
    """Have its `after_fork` called in forked children."""
    _told.add(one)


def _after_fork() -> None:
    for one in tuple(_told):
        one.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
