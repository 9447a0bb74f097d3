"""Static: a fixed list for each service."""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterator, Mapping, Sequence

from ..instance import Instance, parse_all
from ..support.hosts import wire_name
from .base import Discovery


class Static(Discovery):
    """Services and their addresses, fixed: `Static({"orders": ["10.0.0.1:8080", Instance("10.0.0.2", 8080,
    weight=2)]})`.

    The lists are copied. Covers exactly the services named.
    """

    grace: float = 0.0

    def __init__(self, services: Mapping[str, Sequence[Instance | str]]) -> None:
        if not isinstance(services, Mapping):
            raise TypeError(f"Static: expected a mapping {{service: [address, …]}}, got {services!r}")
        self._services: dict[str, tuple[Instance, ...]] = {}
        for service, addresses in services.items():
            if not isinstance(service, str) or not service:
                raise TypeError(f"Static: expected names of services as keys, got {service!r}")
            self._services[wire_name(service)] = parse_all(addresses, f"service {service!r}")

    def covers(self, host: str) -> bool:
        return host in self._services

    def names(self) -> Collection[str]:
        return self._services.keys()

    def known(self, service: str) -> Sequence[Instance] | None:
        return self._services.get(service, ())

    def watch(self, service: str, stop: threading.Event) -> Iterator[Sequence[Instance]]:
        yield self._services.get(service, ())

    def __str__(self) -> str:
        return "the static list"
