"""Admission: decides which calls of one service may reach its instances."""

from __future__ import annotations

import threading
from collections.abc import Callable
from random import Random
from typing import TYPE_CHECKING

from ..support.waiting import Places
from .circuit import Breaker, Circuit
from .limits import AdaptiveLimit, Gradient, Limits
from .throttle import Throttle, Throttling

if TYPE_CHECKING:
    from ..node import Node

UNLIMITED = 1 << 30


class Refused(Exception):
    """This call is not let through. The flow turns it into one of the flavour's errors.

    rule:  "circuit" or "throttle"
    down:  because the service is down, not because of load
    """

    def __init__(self, reason: str, rule: str) -> None:
        super().__init__(reason)
        self.rule = rule
        self.down = rule == "circuit"


class Admission:
    """The live limits of one service.

    places:  for attempts in progress; None: no limit
    limits:  the settings, for calls that wait
    """

    def __init__(self, limits: Limits | None, throttle: Throttle | None, circuit: Circuit | None, rng: Random) -> None:
        self.limits = limits
        self._lock = threading.Lock()
        self._gradient: Gradient | None = None
        self._most = UNLIMITED
        self.places: Places | None = None
        self._room = UNLIMITED
        if limits is not None:
            if isinstance(limits.max_in_flight, AdaptiveLimit):
                self._gradient = Gradient(limits.max_in_flight)
                self._most = self._gradient.limit
            elif limits.max_in_flight is not None:
                self._most = limits.max_in_flight
            if limits.max_in_flight is not None or limits.per_node is not None:
                self.places = Places(self._most)
        self._throttling = None if throttle is None else Throttling(throttle, rng)
        self._breaker = None if circuit is None else Breaker(circuit)

    @property
    def circuit_open(self) -> bool:
        return self._breaker is not None and self._breaker.open

    def admit(self, members: int, now: float) -> None:
        """A call, or a retry, is about to be made. Raises Refused."""
        with self._lock:
            if self._breaker is not None and (reason := self._breaker.refuses(members, now)):
                raise Refused(reason, "circuit")
            if self._throttling is not None and (reason := self._throttling.refuses(now)):
                raise Refused(reason, "throttle")

    def refusal(self, members: int, now: float) -> str | None:
        """Why a retry is not let through: "circuit" or "limits"."""
        try:
            self.admit(members, now)
        except Refused as refused:
            return "circuit" if refused.down else "limits"
        return None

    def observe(
        self, failed: bool, status: int | None, reason: str, latency: float, in_flight: int, members: int, now: float
    ) -> None:
        """An attempt was judged."""
        with self._lock:
            if self._breaker is not None:
                self._breaker.observe(status, reason, members, now)
            if self._throttling is not None:
                self._throttling.observe(status, now)
            if self._gradient is not None:
                self._gradient.observe(latency, in_flight, failed)
                self._most = self._gradient.limit
                self._resize()

    def count(self, in_use: Callable[[], tuple[int, int]]) -> None:
        """The number of nodes that take calls changed. in_use: that number, and attempts in flight on others."""
        if self.limits is not None and self.limits.per_node is not None:
            with self._lock:  # asked under the lock: else two threads may tell in the wrong order
                nodes, astray = in_use()
                self._room = self.limits.per_node * nodes + astray if nodes else UNLIMITED
                self._resize()

    def room(self, node: Node) -> bool:
        """Whether a node may take one more."""
        return self.limits is None or self.limits.per_node is None or node.in_flight < self.limits.per_node

    def _resize(self) -> None:
        limit = min(self._most, self._room)
        if self.places is not None and limit != self.places.limit:
            self.places.resize(limit)
