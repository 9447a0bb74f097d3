"""What an observer is told. Any callable that takes one event is an observer: `Client(…, observers=[print])`.

Observers are called in the thread where it happened (a call's own thread or event loop, or a discovery thread), with no
lock held. One that raises is logged once and never breaks a call. Without observers no events are created.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from .instance import Instance

logger: logging.Logger = logging.getLogger("smartclient")


@dataclass(frozen=True)
class Event:
    """service: the service it happened to."""

    service: str


@dataclass(frozen=True)
class AttemptStarted(Event):
    """An attempt is about to be sent. number: 1 for the first of its call."""

    instance: Instance
    number: int


@dataclass(frozen=True)
class AttemptFinished(Event):
    """An attempt was judged: at its response headers or its error. elapsed: seconds."""

    instance: Instance
    number: int
    outcome: str
    status: int | None
    error: str | None
    elapsed: float


@dataclass(frozen=True)
class RetryScheduled(Event):
    """Another attempt follows after `wait` seconds. number: that of the attempt to come."""

    number: int
    wait: float
    reason: str


@dataclass(frozen=True)
class CallFinished(Event):
    """A call returned its response or raised. elapsed: seconds up to the response headers, waits included."""

    method: str
    attempts: int
    status: int | None
    error: str | None
    elapsed: float


@dataclass(frozen=True)
class NodeEjected(Event):
    """An instance was taken out for `duration` seconds. reason: which rule."""

    instance: Instance
    reason: str
    duration: float


@dataclass(frozen=True)
class NodeReturned(Event):
    """An ejected instance serves again."""

    instance: Instance


@dataclass(frozen=True)
class NodeFavoured(Event):
    """An instance gets far more than its share of the calls. Told once in ten minutes.

    share:   of all calls, from 0 to 1
    reason:  why, and what may be wrong
    """

    instance: Instance
    share: float
    reason: str


@dataclass(frozen=True)
class InstancesChanged(Event):
    """Discovery published a list that differs from the one before.

    source:  the discovery source of the list
    age:     seconds since its last report
    """

    instances: tuple[Instance, ...]
    added: tuple[Instance, ...]
    removed: tuple[Instance, ...]
    source: str = ""
    age: float = 0.0


@dataclass(frozen=True)
class DiscoveryFailed(Event):
    """The source raised; it is asked again after `pause` seconds, the last good list stays in use."""

    source: str
    error: str
    pause: float


Observer = Callable[[Event], object]


class Observers:
    """The observers of one client. False when there are none: ask before building an event."""

    def __init__(self, observers: Iterable[Observer] = ()) -> None:
        if callable(observers):
            raise TypeError(f"observers: expected a list of callables, got {observers!r}")
        self._observers = tuple(observers)
        for observer in self._observers:
            if not callable(observer):
                raise TypeError(f"observers: expected callables, got {observer!r}")
        self._failed: set[int] = set()

    def __bool__(self) -> bool:
        return bool(self._observers)

    def __call__(self, event: Event) -> None:
        for observer in self._observers:
            try:
                observer(event)
            except Exception:
                if id(observer) not in self._failed:
                    self._failed.add(id(observer))
                    logger.exception("observer %r failed on %r; said once", observer, event)
