"""Dialing: how the connections of one client are made, and what its nodes share."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Any

from ..errors import OwnTrouble, describe
from ..flavour import Flavour
from ..instance import Instance
from ..services.attempt import Attempt
from .idle import Idle, Sweep
from .link import Link


class Dialing:
    """How the connections of one client are made.

    ssl_context:  called at the first TLS connection, once; one context serves all nodes (each costs 50 ms)
    limits:       httpx's
    connect:      makes a transport for an instance, in place of connections of ours
    owned:        whether such a transport is closed with its node
    active:       attempts in progress, of all nodes, and their links (None: HTTP/2, or a transport of the user's)
    lost:         what was forgotten unfinished (responses unread, calls collected), for the next call to finish
    own_method:   of httpx's transport, as httpx has it: nobody has patched it (`patched`)
    sweep:        looks through the idle connections of all nodes
    """

    def __init__(
        self,
        flavour: Flavour,
        ssl_context: Callable[[], Any],
        *,
        http1: bool,
        http2: bool,
        limits: Any,
        connect: Callable[[Instance], Any] | None,
        owned: bool,
        clock: Callable[[], float],
    ) -> None:
        self.flavour = flavour
        self.connect = connect
        self.owned = owned
        self.active: dict[Attempt, Link | None] = {}
        self.own_method: Any = None
        self.lost: deque[Any] = deque()
        self.sweep: Sweep = Sweep()
        self.http1 = http1
        self.http2 = http2
        self.max_keepalive: int | None = limits.max_keepalive_connections
        self.keepalive_expiry: float | None = limits.keepalive_expiry
        self.clock = clock
        self._make_ssl_context = ssl_context
        self._ssl_context: Any = None
        self._lock = threading.Lock()

    @property
    def ssl_context(self) -> Any:
        """Raises OwnTrouble where it cannot be made: a file that SSL_CERT_FILE names is missing, say."""
        with self._lock:
            if self._ssl_context is None:
                try:
                    self._ssl_context = self._make_ssl_context()
                except Exception as error:
                    raise OwnTrouble(f"TLS cannot be set up: {describe(error)}") from error
            return self._ssl_context

    def after_fork(self) -> None:
        self._lock = threading.Lock()
        for attempt in self.active:
            attempt.then = None  # its end is the parent's to tell
        self.active, self.lost, self.sweep = {}, deque(), Sweep()

    def idle(self, owner: Any) -> Idle:
        """A stack for idle connections."""
        return Idle(owner, self.max_keepalive, self.keepalive_expiry, self.sweep)

    def options(self, https: bool) -> dict[str, Any]:
        """Keywords of httpcore's connections."""
        context = self.ssl_context if https else None
        return {"ssl_context": context, "http1": self.http1, "http2": self.http2}
