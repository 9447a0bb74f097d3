"""Node: a server, as this client knows it: an instance plus what was learned of it.

A node lives as long as discovery lists its address; it outlives pickers, eligible lists and changes of weight,
metadata or id. In-flight counts, health and membership are written under the service's lock, `memory` by the
balancer's own code, `connections` by the transport. Balancers read without a lock: each field is a single attribute, so
a reader sees the old or the new value, never a mix.
"""

from __future__ import annotations

from enum import Enum
from typing import Any, Protocol

from .instance import Instance, compressed


class Outcome(str, Enum):
    """How an attempt ended. ABANDONED (cancelled, or a problem on our side) is not counted."""

    SUCCESS = "success"
    FAILURE = "failure"
    ABANDONED = "abandoned"

    def __str__(self) -> str:
        return self.value


class Memory(Protocol):
    """What a balancer remembers of one node (service's lock held: be quick).

    It is told of each failure when that is judged, and of each success when the attempt is over: only then is it known
    how long the server took. If it has `observe_wrong(latency, now)`, that is called for an answer 4xx: such an answer
    may be quick where a good one would not be.
    """

    def observe(self, outcome: Outcome, latency: float, retry_after: float | None, now: float) -> None: ...


class Node:
    """An instance and its state in this client.

    instance:   what discovery says now
    weight:     the weight balancers use: the instance's, or less while it warms up
    in_flight:  attempts begun and not finished (a response body still open counts)
    calls, failures: attempts, and failed ones
    excluded:   not to be picked: out (unless in panic), or of a priority or zone that is not in use
    removed:    discovery no longer names it: no new call, running ones finish
    answered_at: when it last answered; None: its latest attempt ended without an answer, or there was none
    unreached_at: when connecting to it last failed; None: it has answered since, or was never tried
    ejected_until: by the outlier detector; after that time its probing call is due
    paused_until:  it asked for a pause (Retry-After)
    unhealthy:  active checks say so
    warm_since: when its slow start began
    probe:      the attempt that probes it
    memory:     the balancer's own knowledge (`Balancer.memory`)
    health:     the outlier detector's own knowledge
    connections: set by the transport
    identity:   which server it is
    """

    __slots__ = (
        "__weakref__",
        "answered_at",
        "calls",
        "connections",
        "ejected_until",
        "excluded",
        "failures",
        "health",
        "identity",
        "in_flight",
        "instance",
        "memory",
        "paused_until",
        "probe",
        "removed",
        "unhealthy",
        "unreached_at",
        "warm_since",
        "weight",
    )

    def __init__(
        self, instance: Instance, memory: Memory | None = None, health: Any = None, identity: str | None = None
    ) -> None:
        self.instance: Instance = instance
        self.identity: str = identity_of(instance) if identity is None else identity
        self.weight: float = instance.weight
        self.in_flight: int = 0
        self.calls: int = 0
        self.failures: int = 0
        self.excluded: bool = False
        self.removed: bool = False
        self.answered_at: float | None = None
        self.unreached_at: float | None = None
        self.ejected_until: float | None = None
        self.paused_until: float | None = None
        self.unhealthy: bool = False
        self.warm_since: float | None = None
        self.probe: object | None = None
        self.memory: Any = memory
        self.health: Any = health
        self.connections: Any = None

    # Only these two properties decide whether a node may be called.

    @property
    def out(self) -> bool:
        """Not to be used, unless too few are left."""
        return self.ejected_until is not None or self.barred

    @property
    def barred(self) -> bool:
        """Out for a reason that forbids a probing call: checks or its registry say that it is down, or it asked for a
        pause.
        """
        return self.unhealthy or self.paused_until is not None or not self.instance.healthy

    def __repr__(self) -> str:
        state = "removed" if self.removed else "ejected" if self.ejected_until is not None else "in use"
        if self.ejected_until is None and self.out:
            state = "paused" if self.paused_until is not None else "unhealthy"
        return f"<Node {self.instance} {state}, {self.in_flight} in flight>"


def identity_of(instance: Instance, by_id: bool = False) -> str:
    """Which server an instance is: its address. Several registrations of one address are one server; a new
    registration, other weights or other metadata do not change that.

    by_id: the registry's id counts, too, since addresses may be placeholders (with `connect=`)
    """
    host = instance.host.lower()
    if ":" in host:  # IPv6 has several spellings
        host = compressed(host)
    return f"{host} {instance.port} {instance.id!r}" if by_id else f"{host} {instance.port}"
