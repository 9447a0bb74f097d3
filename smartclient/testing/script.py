"""A discovery source that says what a test tells it to."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator, Mapping

from ..discovery.base import Addresses, Discovery


class ScriptedDiscovery(Discovery):
    """A source that says what the test tells it to: `publish` a list, or `fail` with an exception.

    watches:  how many watches are running
    """

    def __init__(self, services: Mapping[str, Addresses] | None = None, *, grace: float = 10.0) -> None:
        self.grace = grace
        self.watches: int = 0
        self._changed = threading.Condition()
        self._said: dict[str, tuple[int, Addresses | Exception]] = {}
        self._serial = itertools.count(1)
        for service, addresses in (services or {}).items():
            self.publish(service, addresses)

    def publish(self, service: str, addresses: Addresses) -> None:
        """Say that list, to all who watch the service and who will."""
        self.say(service, tuple(addresses))

    def fail(self, service: str, error: Exception) -> None:
        """Raise that in the watch, until something is published."""
        self.say(service, error)

    def watch(self, service: str, stop: threading.Event) -> Iterator[Addresses]:
        seen = 0
        with self._changed:
            self.watches += 1
        try:
            while not stop.is_set():
                with self._changed:
                    self._changed.wait_for(lambda at=seen: stop.is_set() or self._latest(service)[0] > at)  # type: ignore[misc]
                    seen, said = self._latest(service)
                if stop.is_set():
                    return
                if isinstance(said, Exception):
                    raise said
                yield said
        finally:
            with self._changed:
                self.watches -= 1

    def interrupt(self, stop: threading.Event) -> None:
        with self._changed:
            self._changed.notify_all()

    def __str__(self) -> str:
        return "the script"

    def _latest(self, service: str) -> tuple[int, Addresses | Exception]:
        return self._said.get(service, (0, ()))

    def say(self, service: str, said: Addresses | Exception) -> None:
        """Have it say this of a service: addresses, a `Listing`, or the error that it raises."""
        with self._changed:
            self._said[service] = (next(self._serial), said)
            self._changed.notify_all()
