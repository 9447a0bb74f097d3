"""What an observer is told. Any callable that takes one event is an observer: `Client(…, observers=[print])`.

Observers are called in the thread where it happened (a call's own thread or event loop, or a discovery thread), with no
lock held. One that raises is logged once and never breaks a call. Without observers no events are created. One that has
`wants`, a frozenset of kinds of events, may not be told of others, and may have two methods: `watch` is given each
client it observes, for its `status()`; `headers` is given each `AttemptStarted`, after the observers were, and returns
what headers the attempt has in place of the request's own: pairs of strings.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from typing import Any

from .instance import Instance
from .support.loggers import logger


class Event:
    """service: the service it happened to."""

    service: str


@dataclass(frozen=True)
class CallStarted(Event):
    """A call has entered its service. For each there is one `CallFinished`, whatever happens.

    call_id:  unique in the process; all events of a call have it
    url:      without user and password
    """

    call_id: int
    service: str
    method: str
    url: str


@dataclass(frozen=True)
class CallFinished(Event):
    """A call is over: it raised, or the body of its response was read to its end, closed, or forgotten.

    outcome:   "response": one was returned, of whatever status; "error"; "deadline"; "no_instances"; "refused";
               "cancelled". A body that breaks off makes it "error", or "deadline"
    reason:    of "refused": "limits", "throttle", "circuit", "dropped"
    status:    of the response that was returned; None: there was none
    error:     what was raised
    attempts:  how many were made
    elapsed:   seconds up to the response headers or the error, waits included
    queued:    seconds of those that it waited for a place (limits, max_connections)
    """

    call_id: int
    service: str
    method: str
    outcome: str
    reason: str | None
    status: int | None
    error: str | None
    attempts: int
    elapsed: float
    queued: float


@dataclass(frozen=True)
class AttemptStarted(Event):
    """An attempt is about to be sent. For each there is one `AttemptFinished`.

    number:  1 for the first of its call
    kind:    "first", "retry", "hedge", or "probe": the call that finds out whether an ejected instance is well
    """

    call_id: int
    service: str
    instance: Instance
    number: int
    kind: str


@dataclass(frozen=True)
class AttemptFinished(Event):
    """An attempt is over: it failed, or its response's body was read to its end, closed, or forgotten.

    outcome:     "success", "failure", or "abandoned": a hedge that lost, a call that was cancelled, a problem of ours
    status:      of its response; None: there was none
    elapsed:     seconds up to the response headers or the error
    reused:      it was sent on a connection that had been idle
    connecting:  seconds that its new connection took; 0.0 if there was none
    injected:    the fault on purpose that it had (`smartclient.faults`)
    """

    call_id: int
    service: str
    instance: Instance
    number: int
    kind: str
    outcome: str
    status: int | None
    error: str | None
    elapsed: float
    reused: bool
    connecting: float
    injected: str | None


@dataclass(frozen=True)
class RetryScheduled(Event):
    """Another attempt follows after `pause` seconds. number: that of the attempt to come."""

    call_id: int
    service: str
    number: int
    pause: float
    reason: str


@dataclass(frozen=True)
class RetryDenied(Event):
    """Another attempt was wanted, and is not made.

    reason:  "attempts": there have been enough (tenacity's stop); "budget": the retry budget is spent; "method": the
             server may have processed it, and it must not be repeated; "body": its body cannot be sent again;
             "deadline": too late for another; "retry_after", "pushback": the server asks to wait for too long, or not
             to come again; "depth": it is made for a request that is a retry itself; "circuit", "limits"
    """

    call_id: int
    service: str
    reason: str


@dataclass(frozen=True)
class NodeEjected(Event):
    """An instance was taken out for `duration` seconds.

    rule:    for labels: "consecutive_5xx", "consecutive_gateway_failure", "consecutive_local_origin_failure",
             "evidence", "wrong_answers", "success_rate", "failure_percentage", "latency", or "probe": the call that was
             to find out whether it is well failed
    reason:  for people
    """

    service: str
    instance: Instance
    rule: str
    reason: str
    duration: float


@dataclass(frozen=True)
class NodeReturned(Event):
    """An ejected instance serves again."""

    service: str
    instance: Instance


@dataclass(frozen=True)
class NodePaused(Event):
    """An instance asked for a pause (Retry-After): it gets no calls for so many seconds."""

    service: str
    instance: Instance
    seconds: float


@dataclass(frozen=True)
class NodeChecked(Event):
    """Active checks find an instance well, or not, and that changes something."""

    service: str
    instance: Instance
    healthy: bool


@dataclass(frozen=True)
class PanicChanged(Event):
    """panic: so many instances are out that all are used (Envoy: healthy_panic_threshold)."""

    service: str
    panic: bool


@dataclass(frozen=True)
class CircuitChanged(Event):
    """state: "open": calls fail at once, but for a probing one now and then; "closed"."""

    service: str
    state: str


@dataclass(frozen=True)
class NodeFavoured(Event):
    """An instance gets far more than its share of the calls. Told once in ten minutes.

    share:   of all calls, from 0 to 1
    reason:  why, and what may be wrong
    """

    service: str
    instance: Instance
    share: float
    reason: str


@dataclass(frozen=True)
class InstancesChanged(Event):
    """Discovery published a list that differs from the one before.

    source:  the discovery source of the list
    age:     seconds since its last report
    """

    service: str
    instances: tuple[Instance, ...]
    added: tuple[Instance, ...]
    removed: tuple[Instance, ...]
    source: str = ""
    age: float = 0.0


@dataclass(frozen=True)
class DiscoveryFailed(Event):
    """The source raised; it is asked again after `pause` seconds. The last good list, if any, stays in use."""

    service: str
    source: str
    error: str
    pause: float


@dataclass(frozen=True)
class DiscoveryRecovered(Event):
    """The source answers again."""

    service: str
    source: str


@dataclass(frozen=True)
class PolicyChanged(Event):
    """A service follows another policy from now on. changed: the names of the fields that differ"""

    service: str
    changed: tuple[str, ...]


@dataclass(frozen=True)
class ConfigRejected(Event):
    """A configuration file has changed, and is wrong: the last good one stays in force. Told once per content.

    path:      of the file
    problems:  each as "smartclient.yaml:9: services.payments.deadline: expected …"
    """

    path: str
    problems: tuple[str, ...]
    service: str = ""


def _quickly(kind: type[Any]) -> None:
    """Have the events of every call made quickly. A frozen dataclass sets each field by a call of `object.__setattr__`:
    4.4 µs for eleven fields; this takes 1.2.
    """
    names, usual = tuple(field.name for field in fields(kind)), kind.__init__

    def __init__(self: Any, *values: Any, **named: Any) -> None:
        if named or len(values) != len(names):
            usual(self, *values, **named)
        else:
            self.__dict__.update(zip(names, values, strict=True))

    kind.__init__ = __init__


for _kind in (CallStarted, CallFinished, AttemptStarted, AttemptFinished):
    _quickly(_kind)

Observer = Callable[[Event], object]


Headers = tuple[tuple[bytes, bytes], ...]

everywhere: list[Observer] = []
"""Observers of each client of the process."""


_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
FRAMING = ("connection", "content-length", "host", "transfer-encoding")


def _header(name: str, value: str) -> tuple[bytes, bytes]:
    """Raises ValueError for what would end the call, or change what it says."""
    if not _NAME.fullmatch(name) or not _VALUE.fullmatch(value) or name.lower() in FRAMING:
        raise ValueError(f"an attempt cannot have the header {name[:100]!r}: {value[:100]!r}")
    return name.encode("ascii"), value.encode("latin-1")


def _wishes(observer: Any) -> frozenset[Any] | None:
    """What it wants to be told of; None: it does not say. (Another's `wants` may be anything.)"""
    wants = getattr(observer, "wants", None)
    return wants if isinstance(wants, frozenset) else None


class Observers:
    """The observers of one client. False when there are none: ask before building an event."""

    def __init__(self, observers: Iterable[Observer] = ()) -> None:
        if callable(observers):
            raise TypeError(f"observers: expected a list of callables, got {observers!r}")
        self._observers = (*observers, *everywhere)
        for observer in self._observers:
            if not callable(observer):
                raise TypeError(f"observers: expected callables, got {observer!r}")
        self._failed: set[int] = set()
        self._ask_wishes()

    def _ask_wishes(self) -> None:
        """What the observers want."""
        said = [kinds for kinds in map(_wishes, self._observers) if kinds is not None]
        self._wanted: frozenset[Any] | None = None if len(said) < len(self._observers) else frozenset().union(*said)
        self._heading: tuple[Any, ...] = tuple(
            one for one in self._observers if _wishes(one) is not None and hasattr(one, "headers")
        )

    def add(self, observer: Observer) -> bool:
        """Once, however often it is added; whether it was new."""
        if any(one is observer for one in self._observers):
            return False
        self._observers = (*self._observers, observer)
        self._ask_wishes()
        return True

    def remove(self, observer: Observer) -> None:
        self._observers = tuple(one for one in self._observers if one is not observer)
        self._ask_wishes()

    def headers(self, event: AttemptStarted) -> Headers:
        """What they give an attempt to send."""
        found: list[tuple[bytes, bytes]] = []
        for observer in self._heading:
            try:
                found += [_header(name, value) for name, value in observer.headers(event)]
            except Exception:
                self._complain(observer, event)
        return tuple(found)

    def watch(self, client: Any) -> None:
        """Tell those that ask which client they observe."""
        for observer in self._observers:
            if _wishes(observer) is not None and hasattr(observer, "watch"):
                observer.watch(client)

    def want(self, kind: type[Event]) -> bool:
        """Whether anybody wants events of that kind."""
        return self._wanted is None or kind in self._wanted

    def __bool__(self) -> bool:
        return bool(self._observers)

    def __call__(self, event: Event) -> None:
        for observer in self._observers:
            try:
                observer(event)
            except Exception:
                self._complain(observer, event)

    def _complain(self, observer: Observer, event: Event) -> None:
        if id(observer) not in self._failed:
            self._failed.add(id(observer))
            logger.exception("observer %r failed on %r; said once", observer, event)
