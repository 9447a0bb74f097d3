"""Status: what is, of a client's services and their instances, at a glance. Reading it holds up no call: no lock is
taken but for copies of single numbers.
"""

from __future__ import annotations

import os
import re
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any
from weakref import WeakKeyDictionary

from ..node import Node
from ..policy import Policy
from .service import Service
from .states import state_of

_PLACE = re.compile(r" (?:object )?at 0x[0-9a-f]+")
RECENT, KEPT = 10.0, 6  # seconds between two sets of counts that are kept, and how many are


@dataclass(frozen=True)
class InstanceStatus:
    """One instance, as this client knows it.

    state:        "usable"; "ejected"; "probing": ejected, and one call finds out; "unhealthy": active checks or the
                  registry say so; "paused": it sent Retry-After; "warming": in its slow start; "unused": of a priority,
                  zone or weight that is not in use
    why:          of a state that is not "usable", in words
    returns_in:   seconds until it may serve again; None: not known, or it serves
    latency:      the balancer's estimate, seconds; None: it has none
    calls, failures: attempts since it is known
    share:        of the service's attempts in the last minute, as far as that was watched
    connections:  (idle, active)
    """

    address: str
    id: str | None
    state: str
    why: str | None
    returns_in: float | None
    in_flight: int
    latency: float | None
    calls: int
    failures: int
    share: float
    weight: float
    zone: str | None
    priority: int
    metadata: Mapping[str, str]
    connections: tuple[int, int]


@dataclass(frozen=True)
class ServiceStatus:
    """One service.

    source:        where its instances come from
    age:           seconds since the source last sent a list
    problem:       the source's last error; None: it answers
    policy:        the settings that are not the default ones, in words
    panic:         so many instances are out that all are used
    circuit:       "open", "closed"; None: it has none
    queued:        calls that wait for a place
    retry_budget:  retries that may be made now; None: any number
    """

    name: str
    source: str
    age: float
    problem: str | None
    policy: Mapping[str, str]
    panic: bool
    circuit: str | None
    in_flight: int
    queued: int
    retry_budget: int | None
    instances: tuple[InstanceStatus, ...]


@dataclass(frozen=True)
class ClientStatus:
    """One client: what `client.status()` returns.

    config:  the file that its policies come from, and what is wrong with it; None: there is none
    """

    version: str
    pid: int
    services: tuple[ServiceStatus, ...]
    config: Mapping[str, Any] | None = None

    def as_dict(self) -> dict[str, Any]:
        """The same as JSON's types."""
        return asdict(self)


class Shares:
    """Each node's share of a service's attempts in the last minute: by the counts of earlier looks."""

    def __init__(self) -> None:
        self._looks: deque[tuple[float, dict[Node, int]]] = deque(maxlen=KEPT)

    def of(self, nodes: tuple[Node, ...], now: float) -> list[float]:
        looks = self._looks
        before: dict[Node, int] = looks[0][1] if looks else {}
        calls = [max(node.calls - before.get(node, 0), 0) for node in nodes]
        if not looks or now - looks[-1][0] >= RECENT:
            looks.append((now, {node: node.calls for node in nodes}))
        if not any(calls):  # none in this minute: then those before
            calls = [node.calls for node in nodes]
        total = sum(calls)
        return [count / total if total else 0.0 for count in calls]


class StatusReader:
    """Reads the status of one client."""

    def __init__(self) -> None:
        self._shares: WeakKeyDictionary[Service, Shares] = WeakKeyDictionary()

    def read(self, services: Iterable[Service], version: str, config: Mapping[str, Any] | None = None) -> ClientStatus:
        found = tuple(self._service(service) for service in sorted(services, key=lambda one: one.name))
        return ClientStatus(version, os.getpid(), found, config)

    def _service(self, service: Service) -> ServiceStatus:
        shares = self._shares.get(service) or self._shares.setdefault(service, Shares())
        return status_of(service, shares)


def status_of(service: Service, seen: Shares) -> ServiceStatus:
    """A service now. seen: of earlier looks"""
    now, nodes, admission = service.clock(), service.nodes, service.admission
    places = None if admission is None else admission.places
    circuit = None
    if service.policy.circuit is not None and admission is not None:
        circuit = "open" if admission.circuit_open else "closed"
    shares = seen.of(nodes, now)
    return ServiceStatus(
        name=service.name,
        source=service.source,
        age=round(service.age, 3),
        problem=service.problem,
        policy=differences(service.policy),
        panic=service.members.panic,
        circuit=circuit,
        in_flight=service.in_flight,
        queued=0 if places is None else places.waiting,
        retry_budget=None if service.budget is None else service.budget.left(now),
        instances=tuple(_instance(node, share, now) for node, share in zip(nodes, shares, strict=True)),
    )


def differences(policy: Policy) -> dict[str, str]:
    """The settings of a policy that are not the default ones."""
    usual = Policy()
    return {
        field.name: _written(getattr(policy, field.name))
        for field in fields(policy)
        if _written(getattr(policy, field.name)) != _written(getattr(usual, field.name))
    }


def _written(value: object) -> str:
    """As `repr`, without the places of objects in memory: tenacity's strategies have no better one."""
    return _PLACE.sub("", repr(value))


def _instance(node: Node, share: float, now: float) -> InstanceStatus:
    instance, connections = node.instance, node.connections
    state, why, until = state_of(node)
    latency = getattr(node.memory, "estimate", None)
    idle = 0 if connections is None else connections.idle
    return InstanceStatus(
        address=str(instance),
        id=instance.id,
        state=state,
        why=why,
        returns_in=None if until is None else round(max(until - now, 0.0), 3),
        in_flight=node.in_flight,
        latency=latency or None,
        calls=node.calls,
        failures=node.failures,
        share=round(share, 4),
        weight=node.weight,
        zone=instance.zone,
        priority=instance.priority,
        metadata=dict(instance.metadata),
        connections=(idle, node.in_flight),
    )
