"""Sources that shape what another says: `Filter`, `Map`; and `Routed`, one source for each kind of name."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Any

from ..hosts import wire_name
from ..instance import Instance
from .base import Addresses, Discovery, Listing, drop_of


class Shaped(Discovery):
    """Another source, its instances gone through one by one. An entry that is no address is left for the log."""

    def __init__(self, source: Any, function: Callable[[Instance], Any]) -> None:
        from . import discovery_of

        made = discovery_of(source)
        if made is None or not callable(function):
            raise TypeError(f"{type(self).__name__}: expected a source and a function of an instance")
        self.source = made
        self.grace = made.grace
        self._function = function

    def shaped(self, instance: Instance) -> Instance | None:
        raise NotImplementedError

    def covers(self, host: str) -> bool:
        return host in self.services if self.services is not None else self.source.covers(host)

    def names(self) -> Collection[str] | None:
        return self.services if self.services is not None else self.source.names()

    def known(self, service: str) -> Addresses | None:
        known = self.source.known(service)
        return None if known is None else list(self._all(known))

    def watch(self, service: str, stop: threading.Event) -> Iterator[Addresses]:
        for addresses in self.source.watch(service, stop):
            yield Listing(self._all(addresses), drop_of(addresses))

    def interrupt(self, stop: threading.Event) -> None:
        self.source.interrupt(stop)

    def __str__(self) -> str:
        return str(self.source)

    def _all(self, addresses: Iterable[Any]) -> Iterator[Any]:
        for address in addresses:
            try:
                instance = Instance.parse(address)
            except (ValueError, TypeError):
                yield address
                continue
            shaped = self.shaped(instance)
            if shaped is not None:
                yield shaped


class Filter(Shaped):
    """Only the instances for which a function says yes: `Filter(source, lambda i: i.zone == "eu-1a")`."""

    def shaped(self, instance: Instance) -> Instance | None:
        return instance if self._function(instance) else None


class Map(Shaped):
    """Each instance as a function makes it; None leaves it out. `dataclasses.replace` derives one from another."""

    def shaped(self, instance: Instance) -> Instance | None:
        made: Instance | None = self._function(instance)
        return made


class Routed(Discovery):
    """A source for each kind of name: `Routed({"*.eu": europe, "orders": […], "*": consul})`, the first that fits."""

    def __init__(self, routes: Mapping[str, Any]) -> None:
        from . import Static, discovery_of

        self.routes: dict[str, Discovery] = {}
        for pattern, source in routes.items():
            made = Static({pattern: source}) if isinstance(source, (list, tuple)) else discovery_of(source)
            if made is None:
                raise TypeError(f"Routed[{pattern!r}]: expected a source, got None")
            self.routes[wire_name(pattern)] = made
        if not self.routes:
            raise ValueError("Routed: expected at least one route")
        self.grace = max(source.grace for source in self.routes.values())

    def covers(self, host: str) -> bool:
        if self.services is not None:
            return host in self.services
        for pattern, source in self.routes.items():
            if fnmatchcase(host, pattern):
                # A pattern with a dot names the hosts itself: sources leave names with dots to others.
                return "." in pattern or source.covers(host)
        return False

    def names(self) -> Collection[str] | None:
        if self.services is not None:
            return self.services
        return None if any(set("*?[") & set(pattern) for pattern in self.routes) else self.routes.keys()

    def known(self, service: str) -> Addresses | None:
        return self._source(service).known(service)

    def watch(self, service: str, stop: threading.Event) -> Iterator[Addresses]:
        yield from self._source(service).watch(service, stop)

    def interrupt(self, stop: threading.Event) -> None:
        for source in self.routes.values():
            source.interrupt(stop)

    def __str__(self) -> str:
        return f"routed to {', '.join(map(str, self.routes.values()))}"

    def _source(self, service: str) -> Discovery:
        for pattern, source in self.routes.items():
            if fnmatchcase(service, pattern):
                return source
        raise LookupError(f"no route for {service!r}")
