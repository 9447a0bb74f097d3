"""Sticky sessions over any other algorithm."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random as Rng
from typing import Any

from cachetools import TTLCache

from ..node import Memory, Node
from ..settings import check_number
from .base import Balancer, PickCall, Picker
from .hash_on import HashOn, key_of
from .peak_ewma import PeakEwma

MOST_SESSIONS = 100_000


@dataclass(frozen=True)
class Sticky(Balancer):
    """A session stays on the node it was first given to while that can be used; then it moves once, and stays there.

    inner:    the algorithm that gives new sessions, and calls without one, their node
    hash_on:  what names the session: see `RingHash`
    ttl:      seconds after which a session that was not seen is forgotten

    Unlike hashing, this remembers: nobody moves when instances come, but each client knows its own sessions only.
    """

    inner: Balancer = field(default_factory=PeakEwma)
    hash_on: HashOn = "key"
    ttl: float = 1800.0

    name = "sticky"

    def __post_init__(self) -> None:
        if not isinstance(self.inner, Balancer) or self.inner.over_members:
            raise TypeError(f"Sticky.inner: expected a balancer that does not hash, got {self.inner!r}")
        key_of(self.hash_on, "Sticky.hash_on")
        check_number(self, "ttl", "seconds > 0", lambda value: 0 < value < float("inf"))

    def memory(self) -> Memory | None:
        return self.inner.memory()

    def picker(self, nodes: Sequence[Node], rng: Rng) -> Picker:
        return self.for_service().picker(nodes, rng)

    def for_service(self) -> Balancer:
        return WithSessions(self)


class WithSessions(Balancer):
    """The sessions of one service."""

    def __init__(self, settings: Sticky) -> None:
        self._inner = settings.inner.for_service()
        self._read = key_of(settings.hash_on, "Sticky.hash_on")
        self._clock = _Clock()
        self._sessions: TTLCache[str, Node] = TTLCache(MOST_SESSIONS, settings.ttl, timer=self._clock)
        self._lock = threading.Lock()
        own: Any = self
        own.load_header, own.live_weights = self._inner.load_header, self._inner.live_weights

    def memory(self) -> Memory | None:
        return self._inner.memory()

    def after_fork(self) -> None:
        self._lock = threading.Lock()
        self._inner.after_fork()

    def picker(self, nodes: Sequence[Node], rng: Rng) -> Picker:
        inner = self._inner.picker(nodes, rng)

        def pick(call: PickCall) -> Node:
            key = self._read(call)
            if key is None or call.attempt > 1:  # a single failure moves nobody
                return inner(call)
            with self._lock:
                self._clock.now = max(self._clock.now, call.now)
                node = self._sessions.get(key)
            if node is None or not call.usable(node):
                node = inner(call)
            with self._lock:
                self._sessions[key] = node  # anew, also for its time to live
            return node

        return pick


class _Clock:
    """The time of the latest call: cachetools asks for it whenever it likes."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now
