"""Sticky sessions over any other algorithm."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from hashlib import blake2b
from random import Random as Rng
from typing import Any, ClassVar

from cachetools import TTLCache

from ..node import Memory, Node
from ..support.checks import kind, seconds, setting, wrong
from .base import Balancer, PickCall, Picker
from .hash_on import HashOn, hash_key, key_of
from .peak_ewma import PeakEwma

MOST_SESSIONS = 100_000


@dataclass(frozen=True)
class Sticky(Balancer):
    """A session stays on its first node while that is usable; then it moves once, and stays there.

    inner:    the algorithm that picks a node for new sessions, and for calls without one
    hash_on:  what names the session: see `RingHash`
    ttl:      seconds after which a session that was not seen is forgotten

    Unlike hashing, this has memory: new instances move no session, but each client knows only its own sessions.
    """

    inner: Balancer = setting(factory=PeakEwma, check=kind(Balancer))
    _: KW_ONLY
    hash_on: HashOn = setting("key", hash_key)
    ttl: float = setting(1800.0, seconds())

    name = "sticky"
    keyed: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.inner.over_members:
            raise wrong("Sticky.inner", "a balancer that does not hash", self.inner, TypeError)

    def memory(self) -> Memory | None:
        return self.inner.memory()

    def picker(self, nodes: Sequence[Node], rng: Rng) -> Picker:
        return self.for_service().picker(nodes, rng)

    def for_service(self) -> Balancer:
        return WithSessions(self)


class WithSessions(Balancer):
    """The sessions of one service."""

    keyed: ClassVar[bool] = True

    def __init__(self, settings: Sticky) -> None:
        self._inner = settings.inner.for_service()
        self._read = key_of(settings.hash_on, "Sticky.hash_on")
        self._clock = _Clock()
        self.sessions: TTLCache[bytes, Node] = TTLCache(MOST_SESSIONS, settings.ttl, timer=self._clock)
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
            read = self._read(call)
            if read is None or call.attempt > 1:  # one failure moves no session
                return inner(call)
            key = session_of(read)
            with self._lock:
                self._clock.now = max(self._clock.now, call.now)
                node = self.sessions.get(key)
            if node is None or not call.usable(node):
                node = inner(call)
            with self._lock:
                self.sessions[key] = node  # anew, also for its time to live
            return node

        return pick


def session_of(key: str) -> bytes:
    """A digest of a session's name, which may have any length: 100,000 of 10 MB would be a terabyte."""
    return blake2b(key.encode("utf-8", "surrogatepass"), digest_size=16).digest()


class _Clock:
    """The time of the latest call: cachetools asks for it whenever it likes."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now
