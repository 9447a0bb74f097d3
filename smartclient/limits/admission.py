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
        self.rule: str = rule
        self.down: bool = rule == "circuit"


class Admission:
    """The live limits of one service.

    places:  for attempts in progress; None: no limit
    limits:  the settings, for calls that wait
    """

    def __init__(self, limits: Limits | None, throttle: Throttle | None, circuit: Circuit | None, rng: Random) -> None:
        self._lock = threading.Lock()
        self._rng = rng
        self._gradient: Gradient | None = None
        self._most = self._room = UNLIMITED
        self.limits: Limits | None = None
        self.places: Places | None = None
        self._throttling: Throttling | None = None
        self._breaker: Breaker | None = None
        self.follow(limits, throttle, circuit)

    def follow(self, limits: Limits | None, throttle: Throttle | None, circuit: Circuit | None) -> None:
        """Take these settings from now on. What they do not change keeps what it knows."""
        with self._lock:
            if limits != self.limits:
                self._limit(limits)
            if throttle is None or self._throttling is None:
                self._throttling = None if throttle is None else Throttling(throttle, self._rng)
            else:
                self._throttling.follow(throttle)
            if circuit is None or self._breaker is None:
                self._breaker = None if circuit is None else Breaker(circuit)
            else:
                self._breaker.follow(circuit)

    def _limit(self, limits: Limits | None) -> None:
        before, self.limits = self.limits, limits
        most = None if limits is None else limits.max_in_flight
        if not isinstance(most, AdaptiveLimit):
            self._gradient = None
            self._most = UNLIMITED if most is None else most
        elif self._gradient is None or before is None or before.max_in_flight != most:
            self._gradient = Gradient(most)
            self._most = self._gradient.limit
        if not self.limits_nodes:
            self._room = UNLIMITED
        limited = most is not None or self.limits_nodes
        if limited and self.places is None:
            self.places = Places(self._most)
        self._resize()  # without a limit: who waits, goes
        if not limited:
            self.places = None

    @property
    def limits_nodes(self) -> bool:
        """Whether each node has a limit of its own."""
        return self.limits is not None and self.limits.per_node is not None

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
        if not self.limits_nodes:
            return
        with self._lock:  # asked under the lock: else two threads may tell in the wrong order
            limits = self.limits
            if limits is not None and limits.per_node is not None:
                nodes, astray = in_use()
                self._room = limits.per_node * nodes + astray if nodes else UNLIMITED
                self._resize()

    def room(self, node: Node) -> bool:
        """Whether a node may take one more."""
        limits = self.limits
        return limits is None or limits.per_node is None or node.in_flight < limits.per_node

    def _resize(self) -> None:
        limit = min(self._most, self._room)
        if self.places is not None and limit != self.places.limit:
            self.places.resize(limit)
