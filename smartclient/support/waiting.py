"""Waiting for another thread or loop: for a service's first instances, and for a place among `max_connections`.

A waiter is woken by a callback that may be called from any thread; how it then wakes its own thread or task is the
driver's business (`threading.Event`, or `loop.call_soon_threadsafe`). Nothing here blocks.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable


class Waiter:
    """A waiting thread or task. wake: called once, from any thread; false if its loop is closed."""

    __slots__ = ("granted", "wake")

    def __init__(self, wake: Callable[[], bool]) -> None:
        self.wake: Callable[[], bool] = wake
        self.granted: bool = False


class Signal:
    """An event that happens once; later callers do not wait."""

    __slots__ = ("_lock", "_waiters", "fired")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiters: set[Waiter] = set()
        self.fired: bool = False

    def join(self, waiter: Waiter) -> bool:
        """Be woken when it happens; false if it has happened already."""
        with self._lock:
            if self.fired:
                return False
            self._waiters.add(waiter)
            return True

    @property
    def awaited(self) -> bool:
        """Whether anybody waits for it."""
        return bool(self._waiters)

    def leave(self, waiter: Waiter) -> None:
        with self._lock:
            self._waiters.discard(waiter)

    def fire(self) -> None:
        with self._lock:
            self.fired = True
            waiters, self._waiters = self._waiters, set()
        for waiter in waiters:
            waiter.wake()


class Places:
    """The attempts a client, or a service, may have in progress at once. First come, first served."""

    __slots__ = ("_free", "_lock", "_queue", "limit")

    def __init__(self, limit: int) -> None:
        self.limit: int = limit
        self._free = limit
        self._lock = threading.Lock()
        self._queue: deque[Waiter] = deque()

    @property
    def taken(self) -> int:
        return self.limit - self._free

    @property
    def waiting(self) -> int:
        """How many are in the queue."""
        return len(self._queue)

    def resize(self, limit: int) -> None:
        """Change the limit. If more places are taken than it allows, they are kept, but no new ones are granted."""
        with self._lock:
            self._free += limit - self.limit
            self.limit = limit
        while True:  # those who wait get what is free now
            with self._lock:
                if not self._queue or self._free <= 0:
                    return
                waiter = self._queue.popleft()
                waiter.granted = True
                self._free -= 1
            if not waiter.wake():
                self.release()

    def try_take(self) -> bool:
        """Take a place if one is free."""
        with self._lock:
            if self._free <= 0:
                return False
            self._free -= 1
            return True

    def join(self, waiter: Waiter) -> bool:
        """Queue up; false if a place was free and is now the waiter's."""
        with self._lock:
            if self._free > 0:
                self._free -= 1
                waiter.granted = True
                return False
            self._queue.append(waiter)
            return True

    def leave(self, waiter: Waiter) -> None:
        """Give up waiting. A place that was granted meanwhile is passed on."""
        with self._lock:
            if not waiter.granted:
                self._queue.remove(waiter)
                return
        self.release()

    def release(self) -> None:
        """Give a place back: to the first in the queue who can still be woken."""
        while True:
            with self._lock:
                if not self._queue or self._free < 0:
                    self._free += 1
                    return
                waiter = self._queue.popleft()
                waiter.granted = True
            if waiter.wake():
                return
