"""HTTP/2 connections that an async client's requests share, and what happens to a request when one of them ends.

h2 and httpcore have one error, `LocalProtocolError`, for "our request was bad", "this connection has been closed" and
"no more streams". Here they are told apart by what was sent:

    nothing of the request was sent    another connection; no node is blamed (if a new one says so, too: our request)
    it was sent                        the server broke the rules, or its connection broke: RemoteProtocolError
    REFUSED_STREAM, above GOAWAY's     the server did not take it: `Flavour.fault` says that it may be sent again
    last stream (`frames`)

Each request has its own timeout: if the one that reads for all timed out in the read, the connection would end for all.
When a request is given up, the server is told, since httpcore does not do that.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import anyio

from ..calls.effects import Send
from .idle import Idle
from .link import Link
from .request import Address

CANCEL = 0x8
TRIES = 4  # connections for one request, if they accept no more requests


class Shared:
    """The connections of one node and address, on one event loop.

    idle:   those without a request
    agreed: whether the last one was HTTP/2; None: not known yet
    """

    def __init__(self, idle: Idle) -> None:
        self.idle = idle
        self.agreed: bool | None = None
        self.links: list[Link] = []

    def __iter__(self) -> Iterator[Link]:
        """Those that requests share, or wait for."""
        return iter(tuple(self.links))

    def join(self, now: float) -> tuple[Link | None, Sequence[Link]]:
        """A connection for one more request, and those to be closed. While one is being opened, other requests wait for
        it, as in httpcore's pool: it may turn out to be HTTP/2.
        """
        for link in self.links:
            if self._has_room(link):
                link.streams += 1
                return link, ()
        newest, ended = self.idle.take(now)
        if newest is not None:
            self.begin(newest)
        return newest, ended

    def begin(self, link: Link) -> None:
        """The first request of a connection that is new, or was idle."""
        link.streams = 1
        self.links.append(link)

    def leave(self, link: Link) -> bool:
        """A request is over; whether it was the last one of its connection."""
        link.streams -= 1
        if link.backend.ready:
            self.agreed = link.backend.frames is not None
        if link.streams or link not in self.links:
            return False
        self.links.remove(link)
        return True

    def _has_room(self, link: Link) -> bool:
        backend = link.backend
        if backend.frames is not None:
            return bool(backend.frames.open and link.streams < backend.frames.streams and link.http.is_available())
        return not backend.ready and backend.failed is None and self.agreed is not False


class SharedRequest:
    """One request on such a connection, as httpcore traces it: its stream, and its time from when it was sent.

    extensions: what httpcore is given in place of the request's
    answered:   the headers of its response have come
    """

    def __init__(self, extensions: Any, link: Link) -> None:
        self._link = link
        self._timeouts = extensions.get("timeout") or {}
        self._trace = extensions.get("trace")
        self._stream: int | None = None
        self._scope = anyio.CancelScope()
        self.extensions: dict[str, Any] = {**extensions, "timeout": self, "trace": self._traced}
        self.answered: bool = False

    @property
    def patience(self) -> float:
        """Seconds that it waits for something to read."""
        seconds = self._timeouts.get("read")
        return math.inf if seconds is None else float(seconds)

    @property
    def sent(self) -> bool:
        """Whether anything of it has gone out."""
        return self._stream is not None and bool(self._link.backend.frames.sent(self._stream))

    @property
    def refused(self) -> bool:
        """Whether the server said that it did not take it."""
        return self._stream is not None and bool(self._link.backend.frames.refused(self._stream))

    @property
    def left_out(self) -> bool:
        """Whether the server ended the connection without taking it."""
        return self._stream is not None and bool(self._link.backend.frames.left_out(self._stream))

    def get(self, phase: str, default: Any = None) -> Any:
        """httpcore asks for the timeout of a phase."""
        shared = self._link.backend.frames is not None
        return None if phase == "read" and shared else self._timeouts.get(phase, default)

    async def response(self, request: Any, late: type[Exception]) -> Any:
        """Send it; the response's headers. late: to raise if they do not come in time"""
        with self._scope:
            raw = await self._link.http.handle_async_request(request)
            self.answered = True
            return raw
        raise late("no response on this stream")

    def give_up(self) -> None:
        """It is no longer wanted: the server is told with the next write. (httpcore forgets the stream, and h2 would
        count it as open for ever.)
        """
        if self.sent:
            state = self._link.http._connection._h2_state  # httpcore has no other way; a test pins these names
            try:
                state.reset_stream(self._stream, CANCEL)
            except Exception:
                pass  # it had ended already
            if self.answered:
                # httpcore never returns its unread body data to the flow-control window.
                self._link.backend.frames.open = False

    async def _traced(self, name: str, info: Any) -> None:
        if name == "http2.send_request_headers.started":
            self._stream = info["stream_id"]
        elif name == "http2.receive_response_headers.started":
            self._scope.deadline = anyio.current_time() + self.patience
        if self._trace is not None:
            await self._trace(name, info)


async def send_shared(
    connections: Any, engine_request: Any, effect: Send, address: Address, stack: Shared, made: list[Link]
) -> Any:
    """Send on a shared connection. made: receives the connections opened for it"""
    attempt, dialing, extensions = effect.attempt, connections.dialing, engine_request.extensions
    httpx = dialing.flavour.httpx
    for left in range(TRIES, 0, -1):
        joined, ended = (None, ()) if effect.fresh or left == 1 else stack.join(dialing.clock())
        try:
            link: Link = joined or connections.new(address, attempt)
        except Exception as error:
            raise dialing.flavour.translated(error, connected=False) from error
        if joined is None:
            made.append(link)
            stack.begin(link)
        try:
            attempt.reused = joined is not None and link.backend.ready
            if link.backend.frames is None:  # HTTP/1.1 is for one alone; while it is being made the first one's counts
                link.attempt = attempt
                link.backend.times = link.backend.times or effect.timeouts
            asking = SharedRequest(extensions, link)
            engine_request.extensions = asking.extensions
            dialing.active[attempt] = None
            await connections.close_all(ended)
            raw = await asking.response(engine_request, httpx.ReadTimeout)
        except BaseException as error:
            dialing.active.pop(attempt, None)
            shared = link.backend.frames is not None
            sent = shared and asking.sent
            told = connections.not_taken(error, asking) if shared else None
            if shared:
                asking.give_up()
            await connections.leave(stack, link)
            if told is not None:
                raise told  # noqa: B904  (it has its cause)
            if connections.is_of_http2(link, error):
                if sent:
                    raise httpx.RemoteProtocolError(str(error)) from error
                if joined is not None and left > 1:
                    continue
            raise dialing.flavour.translated(error, link.backend.ready)  # noqa: B904  (it has its cause)
        return raw, link, asking if link.backend.frames is not None else None
    raise AssertionError
