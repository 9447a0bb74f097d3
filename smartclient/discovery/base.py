"""The contract of a discovery source: a callable, or a subclass of one of these with one method.

A source runs in a thread of its own per watched service, so it may block and use any library.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from ..errors import describe
from ..instance import Instance

Addresses = Sequence[Instance] | Sequence[str] | Sequence["Instance | str"]


SHORTEST_TTL, LONGEST_TTL = 0.05, 86_400.0  # seconds

Made = TypeVar("Made", bound="Listing")


class Listing(tuple[Any, ...]):
    """A list of addresses with extra fields. Without extra fields, any list will do.

    drop:    share of the calls (0 to 1) to drop (Envoy: drop_overloads)
    problem: why a part of it is missing, as text: one of several servers does not answer; the others did
    """

    drop: float
    problem: str | None

    def __new__(cls: type[Made], addresses: Iterable[Any] = (), drop: float = 0.0, problem: str | None = None) -> Made:
        made = tuple.__new__(cls, addresses)
        made.drop, made.problem = drop, problem
        return made

    def __eq__(self, other: object) -> bool:
        said = (self.drop, self.problem) == (drop_of(other), problem_of(other))
        return isinstance(other, tuple) and said and tuple.__eq__(self, other)

    def __ne__(self, other: object) -> bool:  # a tuple has one of its own
        return not self == other

    __hash__ = tuple.__hash__


def drop_of(addresses: object) -> float:
    """The share of calls that a list asks to drop."""
    return addresses.drop if isinstance(addresses, Listing) else 0.0


def problem_of(addresses: object) -> str | None:
    """What is wrong with a part of a list."""
    return addresses.problem if isinstance(addresses, Listing) else None


class Unreadable:
    """An entry of a registry that cannot be an address. Only this entry is refused; the others are used."""

    __slots__ = ("reason",)

    def __init__(self, reason: str) -> None:
        self.reason: str = reason

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Unreadable) and self.reason == other.reason

    def __hash__(self) -> int:
        return hash(self.reason)


def read(reader: Callable[..., Any], *written: Any) -> Any:
    """The result of a reader for an entry. An error in one entry does not affect the others."""
    try:
        return reader(*written)
    except Exception as error:
        return Unreadable(describe(error))


def entry_of(fields: Mapping[str, Any]) -> Any:
    """An instance of these fields."""
    return read(Instance.parse, fields)


class Discovery(ABC):
    """A source of instances.

    grace:  seconds for which an empty list after a non-empty one is held back, since a registry that was just restarted
            is legitimately empty

    link_local: whether instances may have link-local addresses (169.254.169.254 serves a cloud's secrets: an entry of a
            registry that anybody can write to must not point there)

    services:  the only names it covers, where a URL said `?services=orders,users`

    max_unknown: how many names without a first list are watched at once; calls to further names wait in a queue for
            their first list
    """

    grace: float = 10.0
    link_local: bool = False
    services: frozenset[str] | None = None
    max_unknown: int = 64
    judged: bool = False  # its entries were already checked by its inner sources

    def covers(self, host: str) -> bool:
        """Whether that host (lower case, no trailing dot) is a service of this source.

        Called for every request, so be quick. By default names without a dot, other than localhost.
        """
        if self.services is not None:
            return host in self.services
        return "." not in host and ":" not in host and host != "localhost"

    def names(self) -> Collection[str] | None:
        """All services it covers, if this set is fixed; None: others may be added later."""
        return self.services

    def of(self, service: str) -> Discovery:
        """The source responsible for a service: its `grace` and `link_local` apply."""
        return self

    @abstractmethod
    def watch(self, service: str, stop: threading.Event) -> Iterator[Addresses]:
        """Yield the full list each time it changes; block in between.

        Called in its own thread, starting with the first call to that service. End soon after `stop` is set. Raise on
        errors: the library logs it, waits with growing jittered pauses and calls again; the last good list stays in
        use. A watch that returns is not called again.
        """

    def known(self, service: str) -> Addresses | None:
        """A list that never changes; None: watch. Where there is one, no thread is started."""
        return None

    def interrupt(self, stop: threading.Event) -> None:  # noqa: B027  (optional)
        """Wake the blocked watch that was given this `stop`, if what it is blocked in does not check `stop` itself.

        Called at close, from any thread, after `stop` was set.
        """

    def __str__(self) -> str:
        """How messages name it."""
        return type(self).__name__


class PollingDiscovery(Discovery):
    """A source without push: it is asked every `interval` seconds, or when its own ttl has expired."""

    interval: float = 5.0

    @abstractmethod
    def resolve(self, service: str) -> Addresses | tuple[Addresses, float]:
        """The full list now, or (list, ttl in seconds). Called in the watch's thread; raise on trouble."""

    def watch(self, service: str, stop: threading.Event) -> Iterator[Addresses]:
        while not stop.is_set():
            answer = self.resolve(service)
            ttl = self.interval
            if isinstance(answer, tuple) and len(answer) == 2 and isinstance(answer[1], (int, float)):
                addresses, ttl = answer
            else:
                addresses = answer
            yield addresses
            # NaN is no ttl; a ttl of years would overflow the wait.
            stop.wait(min(max(float(ttl), SHORTEST_TTL), LONGEST_TTL) if ttl == ttl else self.interval)
