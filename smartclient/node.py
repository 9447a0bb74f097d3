"""Node: an instance plus what this client has learned of it.

A node lives as long as discovery keeps naming its instance at the same address; it outlives pickers, eligible lists and
changes of weight or metadata. Its fields are written by `Service` (under the service's lock) and read by balancers
without one: each is a single attribute, so a reader sees an old or a new value, never a mixture.
"""

from __future__ import annotations

from enum import Enum
from typing import Any, Protocol

from .instance import Instance


class Outcome(str, Enum):
    """How an attempt ended. ABANDONED (cancelled, or trouble of our own) counts for nothing."""

    SUCCESS = "success"
    FAILURE = "failure"
    ABANDONED = "abandoned"

    def __str__(self) -> str:
        return self.value


class Memory(Protocol):
    """What a balancer remembers of one node, fed with every judged attempt (service's lock held: be quick)."""

    def observe(self, outcome: Outcome, latency: float, retry_after: float | None, now: float) -> None: ...


class Node:
    """An instance and its state in this client.

    instance:   what discovery says now
    weight:     the weight balancers use: the instance's, or less while it warms up
    in_flight:  attempts begun and not finished (a response body still open counts)
    excluded:   not to be picked: out (unless in panic), or of a priority or zone that is not in use
    removed:    discovery no longer names it: no new call, running ones finish
    ejected_until: by the outlier detector; past, and it is due for its probing call
    paused_until:  it asked to be left alone (Retry-After)
    unhealthy:  active checks say so
    warm_since: when its slow start began
    probe:      the attempt that probes it
    memory:     the balancer's own knowledge (`Balancer.memory`)
    health:     the outlier detector's own knowledge
    connections: set by the transport
    identity:   of its instance
    """

    __slots__ = (
        "__weakref__",
        "connections",
        "ejected_until",
        "excluded",
        "health",
        "identity",
        "in_flight",
        "instance",
        "memory",
        "paused_until",
        "probe",
        "removed",
        "unhealthy",
        "warm_since",
        "weight",
    )

    def __init__(self, instance: Instance, memory: Memory | None = None, health: Any = None) -> None:
        self.instance = instance
        self.identity = identity(instance)
        self.weight = instance.weight
        self.in_flight = 0
        self.excluded = False
        self.removed = False
        self.ejected_until: float | None = None
        self.paused_until: float | None = None
        self.unhealthy = False
        self.warm_since: float | None = None
        self.probe: object | None = None
        self.memory: Any = memory
        self.health: Any = health
        self.connections: Any = None

    @property
    def out(self) -> bool:
        """Not to be used, unless too few are left."""
        return self.ejected_until is not None or self.unhealthy or self.paused_until is not None

    def __repr__(self) -> str:
        state = "removed" if self.removed else "ejected" if self.ejected_until is not None else "in use"
        if self.ejected_until is None and self.out:
            state = "unhealthy" if self.unhealthy else "paused"
        return f"<Node {self.instance} {state}, {self.in_flight} in flight>"


def identity(instance: Instance) -> str:
    """Two instances with the same identity are the same node.

    That is the registry's id (else the scheme) *and* the address: connections belong to an address, so an id that moved
    is a new node.
    """
    return f"{instance.id!r} {instance.scheme} {instance.host} {instance.port}"
