"""The clients that an observer watches, for what it says of them when it is asked."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any
from weakref import WeakSet

from ..services.status import ClientStatus
from ..support.forks import renewed


class Clients:
    """Kept as long as they are there. Safe for threads and forks: a set that grows cannot be copied without a lock."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._clients: WeakSet[Any] = WeakSet()
        _all.add(self)

    def add(self, client: Any) -> None:
        with self._lock:
            self._clients.add(client)

    def statuses(self) -> Iterator[ClientStatus]:
        """Of each of them."""
        with self._lock:
            clients = tuple(self._clients)
        for client in clients:
            yield client.status()

    def after_fork(self) -> None:
        """In a forked child: a lock that the parent held would never be released."""
        self._lock = threading.Lock()


_all = renewed()
