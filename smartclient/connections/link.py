"""Link: one connection of a node, and whether it may be used again.

An idle connection must have nothing to read. Over HTTP/1.1 data that comes before the next request answers no request:
bytes in the socket, in TLS, in the event loop or in the parser end the connection, else the next call would get another
call's response (response desynchronisation; httpx has it). Over HTTP/2 every frame names its stream, so the connection
ends only when the peer closes it.
"""

from __future__ import annotations

import select
from collections.abc import Callable
from typing import Any

from ..services.attempt import Attempt

POLL_ENDED = getattr(select, "POLLRDHUP", 0) | getattr(select, "POLLHUP", 0) | getattr(select, "POLLERR", 0)


class Link:
    """One connection of a node.

    http:        httpcore's connection
    backend:     its network backend: knows the socket, what is left of a request's time, and HTTP/2's frames
    idle_since:  when it was given back
    attempt:     the one that uses it, or used it last
    streams:     requests in progress on it; more than one only over HTTP/2
    """

    __slots__ = ("_speaks", "attempt", "backend", "http", "idle_since", "streams")

    def __init__(self, http: Any, attempt: Attempt, backend: Any) -> None:
        self.http: Any = http
        self.attempt: Attempt = attempt
        self.backend: Any = backend
        self.idle_since: float = 0.0
        self.streams: int = 0
        self._speaks: Callable[[], bool] | None = None

    def rests(self, now: float) -> bool:
        """Its response is over: it is idle from now on; false where it cannot be used again."""
        backend = self.backend
        if backend.frames is not None:
            # (Not `is_idle`: httpcore calls a connection active for ever after a request that was given up early.)
            if not (backend.frames.open and self.http.is_available()):
                return False
        elif not (backend.ready and self.http.is_idle()) or _unparsed(self.http) or _unread(backend):
            return False
        if self._speaks is None:
            self._speaks = _asker(backend.stream, select.POLLIN if backend.frames is None else POLL_ENDED)
        self.idle_since = now
        return True

    def ended(self) -> bool:
        """Whether an idle connection is readable: its server has closed it, or violates the protocol."""
        return self._speaks is None or self._speaks()


def _unread(backend: Any) -> bool:
    """Whether TLS or asyncio has received data that is not read yet. The socket does not show it."""
    if backend.secure is not None and (
        backend.secure.pending() or (backend.arrived is not None and backend.arrived.pending)
    ):
        return True
    return bool(backend.queue)


def _unparsed(http: Any) -> bool:
    """Whether the parser has more than the response. (httpcore does not say; a test pins these names.)"""
    return bool(http._connection._h11_state.trailing_data[0])


def _asker(stream: Any, events: int) -> Callable[[], bool]:
    """A function that tells whether something happened to a connection's socket, at the price of one system call."""
    sock = stream.get_extra_info("socket")
    number = -1 if sock is None else sock.fileno()
    if number < 0:
        return lambda: True
    if not hasattr(select, "poll"):  # Windows
        return lambda: bool(select.select([number], [], [], 0)[0])

    def asked(poll: Any) -> bool:
        return bool(poll.poll(0))

    def registered() -> Any:
        made = select.poll()
        made.register(number, events)
        return made

    kept = registered()

    def ask() -> bool:
        try:
            return asked(kept)
        except RuntimeError:  # another thread looks through all idle connections, and asks this one
            return asked(registered())

    return ask
