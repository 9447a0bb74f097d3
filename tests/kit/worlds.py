"""A service on a virtual clock, and calls without a client."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random
from typing import Any

import httpx

from smartclient import Event, Instance, NodeEjected, Policy
from smartclient.events import Observers
from smartclient.node import Node, Outcome
from smartclient.services.attempt import Attempt
from smartclient.services.call import NO_OPTIONS, Call, CallOptions
from smartclient.services.service import Service
from smartclient.testing import VirtualClock


def instances(*ports: int, **fields: Any) -> list[Instance]:
    return [Instance("10.0.0.1", port, **fields) for port in ports]


class World:
    """A service on a virtual clock."""

    def __init__(self, ports: int = 3, **policy: Any) -> None:
        self.clock = VirtualClock()
        self.events: list[Event] = []
        self.retired: list[Any] = []
        self.service = Service(
            "orders",
            Policy(**policy),
            source="the test",
            clock=self.clock,
            rng=Random(1),
            observers=Observers([self.events.append]),
            retire=self.retired.append,
        )
        if ports:
            self.service.update(instances(*range(1, ports + 1)))

    def start(self, *, tried: Any = (), repeatable: bool = True, options: CallOptions = NO_OPTIONS) -> Attempt:
        call = Call(None, "orders", options, self.clock())
        call.tried, call.attempt, call.repeatable = tuple(tried), len(tried) + 1, repeatable
        return self.service.start(call)

    def call(self, outcome: Outcome = Outcome.SUCCESS, status: int | None = 200, **how: Any) -> int:
        attempt = self.start(**how)
        attempt.judge(outcome, status)
        attempt.finish()
        port: int = attempt.node.instance.port  # type: ignore[assignment]
        return port

    def eject(self, port: int) -> None:
        """Have calls to that port fail until it is out."""
        for _ in range(500):
            attempt = self.start()
            bad = attempt.node.instance.port == port
            attempt.judge(Outcome.FAILURE if bad else Outcome.SUCCESS, 503 if bad else 200)
            attempt.finish()
            if any(isinstance(event, NodeEjected) and event.instance.port == port for event in self.events):
                return
        raise AssertionError("not ejected")

    def ports(self, calls: int = 60) -> set[int]:
        return {self.call() for _ in range(calls)}


@dataclass
class FakeCall:
    now: float = 0.0
    hash_key: str | None = None
    attempt: int = 1
    service: str = "orders"
    request: Any = field(default_factory=lambda: httpx.Request("GET", "http://orders/"))
    tried: tuple[Node, ...] = ()

    def usable(self, node: Node) -> bool:
        return not (node.excluded or node.removed)

    def remark(self, node: Node, share: float, reason: str) -> None:
        """Said to nobody."""
