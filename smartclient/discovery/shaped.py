"""Sources that shape what another says: `Filter`, `Map`; and `Routed`, one source for each kind of name."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from ..instance import Instance, parse_all
from ..support.hosts import wire_name
from ..support.untrusted import shown
from .base import Addresses, Discovery, Listing, drop_of, problem_of
from .wrapper import Over, OverOne


class Shaped(OverOne):
    """Another source, with each instance processed. An entry that is not an address is passed on, to be logged."""

    def __init__(self, source: Any, function: Callable[[Instance], Any]) -> None:
        if not callable(function):
            raise TypeError(f"{type(self).__name__}: expected a source and a function of an instance")
        super().__init__(source)
        self._function = function

    def shaped(self, instance: Instance) -> Instance | None:
        raise NotImplementedError

    def known(self, service: str) -> Addresses | None:
        known = self.source.known(service)
        return None if known is None else list(self._all(known))

    def watch(self, service: str, stop: threading.Event) -> Iterator[Addresses]:
        for addresses in self.source.watch(service, stop):
            yield Listing(self._all(addresses), drop_of(addresses), problem_of(addresses))

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


class Routed(Over):
    """A source for each kind of name: `Routed({"*.eu": europe, "orders": […], "*": consul})`, the first that fits."""

    def __init__(self, routes: Mapping[str, Any]) -> None:
        if not routes:
            raise ValueError("Routed: expected at least one route")
        super().__init__(*(_Same(name, to) if isinstance(to, (list, tuple)) else to for name, to in routes.items()))
        self.routes: dict[str, Discovery] = dict(zip(map(wire_name, routes), self.sources, strict=True))

    def of(self, service: str) -> Discovery:
        return self._source(service).of(service)

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
        raise LookupError(f"no route for {shown(service)}")


class _Same(Discovery):
    """One list for all services whose names fit its pattern."""

    grace: float = 0.0

    def __init__(self, pattern: str, addresses: Sequence[Any]) -> None:
        self._pattern = wire_name(pattern)
        self._instances = parse_all(addresses, f"Routed[{pattern!r}]")

    def covers(self, host: str) -> bool:
        return host == self._pattern or super().covers(host)

    def known(self, service: str) -> Addresses:
        return self._instances

    def watch(self, service: str, stop: threading.Event) -> Iterator[Addresses]:
        yield self._instances

    def __str__(self) -> str:
        return "the static list"
