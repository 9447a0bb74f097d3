"""A node's connections for the blocking client. The rules are in `base`."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from functools import cache
from typing import Any

from ..calls.effects import Send
from ..flavour import Flavour
from ..node import Node
from ..services.service import Service
from .base import NodeConnections, inherited
from .dialing import Dialing
from .frames import Frames
from .idle import Idle
from .link import Link
from .network import sync_backend
from .patched import left_to_us, send_through_tool
from .request import Address, instance_request
from .response_body import ResponseBody


class SyncBody(ResponseBody):
    def __iter__(self) -> Iterator[bytes]:
        if self._chunks is not None:
            while self._chunks:
                yield self._chunks.popleft()
            return
        limited = self._ends_at is not None
        attempt, clock = self.attempt, self._connections.dialing.clock
        since = clock()
        try:
            for chunk in self.raw:
                attempt.in_body += clock() - since
                yield chunk
                if limited and self._too_late():
                    raise self.late()
                since = clock()
            attempt.in_body += clock() - since
            self._whole = True
        except Exception as error:
            raise self._broken(error)  # noqa: B904  (it has its cause)

    def read_ahead(self) -> None:
        """Read it all, and be done with the connection."""
        # Without a deadline straight from httpcore: a generator less for each chunk.
        alone, clock = self._ends_at is None, self._connections.dialing.clock
        began = clock() if alone else 0.0
        self._in_flow = True
        try:
            chunks = deque(self.raw if alone else self)
            if alone:
                self.attempt.in_body = clock() - began
            self._whole = True
        except Exception as error:
            raise self._broken(error)  # noqa: B904  (it has its cause)
        finally:
            self.close()
        self._chunks = chunks

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        link, given_back = self._link, False
        try:
            self._let_go()
            self.raw.close()
            if link is not None:
                self._connections.give_back(self._stack, link, self._whole)
            given_back = True
        finally:  # each step runs even if the one before failed: Ctrl-C may come anywhere
            try:
                if not given_back and link is not None:
                    self._connections.drop(link)
            finally:
                self.attempt.finish()


@cache
def body_class(flavour: Flavour) -> Any:
    """`SyncBody` as a byte stream of that flavour: its client checks."""
    return type("SyncBody", (SyncBody, flavour.httpx.SyncByteStream), {})


class SyncConnections(NodeConnections):
    """The connections of one node. Idle ones are kept per address: a URL may say http or https, and a port."""

    def __init__(self, node: Node, service: Service, dialing: Dialing) -> None:
        super().__init__(node, service, dialing)
        self._body_class = body_class(dialing.flavour)
        self._backend_class = sync_backend(dialing.flavour)
        self._stacks: dict[Address, Idle] = {}

    @property
    def idle(self) -> int:
        """How many are unused."""
        return sum(len(stack) for stack in tuple(self._stacks.values()))

    @property
    def has_idle(self) -> bool:
        """Whether a request needs no new connection."""
        return any(len(stack) for stack in tuple(self._stacks.values()))

    def send(self, request: Any, effect: Send, direct: bool = False) -> Any:
        """Send on an idle connection, else a new one; the response, its body unread. direct: past tools that patch
        httpx
        """
        attempt, dialing = effect.attempt, self.dialing
        flavour = dialing.flavour
        method = flavour.httpx.HTTPTransport.handle_request
        if method is not dialing.own_method and not direct and self.is_patched(method):
            return send_through_tool(self, request, effect)
        address = self.address(request)
        if self.transport is not None:
            with left_to_us(method, flavour):
                response = self.transport.handle_request(instance_request(request, effect, address, flavour))
            if not response.is_closed:  # MockTransport's are, from the start
                response.stream = self.body_of(response.stream, effect)
            return response
        engine_request = self.engine_request(request, effect, address)
        stack = self._stacks.get(address)
        if stack is None:  # two threads may come here at once; both go on with the one that was first
            stack = self._stacks.setdefault(address, dialing.idle(self))
        fresh, frames, before = effect.fresh, None, 0
        while True:
            link = None
            try:
                link = None if fresh else self._take(stack)
                attempt.reused = link is not None
                if link is None:
                    connection_class = flavour.httpcore.HTTPConnection
                    link = self.new_link(connection_class, self._backend_class, address, attempt)
                link.attempt, link.backend.times = attempt, effect.timeouts
                dialing.active[attempt] = link
                if (frames := link.backend.frames) is not None:
                    before = frames.highest
                raw = link.http.handle_request(engine_request)
            except BaseException as error:
                dialing.active.pop(attempt, None)
                if link is not None:
                    self.drop(link)
                    frames = link.backend.frames
                    if frames is not None and (told := self.not_taken(error, OneStream(frames))):
                        raise told  # noqa: B904  (it has its cause)
                    if self.is_of_http2(link, error):
                        if frames is not None and frames.highest > before:
                            raise flavour.httpx.RemoteProtocolError(str(error)) from error
                        if attempt.reused:
                            fresh = True
                            continue
                ready = link is not None and link.backend.ready
                raise flavour.translated(error, ready)  # noqa: B904  (it has its cause)
            if not attempt.reused:
                self.set_up(attempt, link)
            return self.response(raw, self._body_class(raw.stream, self, attempt, effect.context, link, stack))

    def give_back(self, stack: Idle, link: Link, whole: bool) -> None:
        # Over HTTP/2 the rest of a response that was not read would still come.
        spent = self.node.removed or (link.backend.frames is not None and not whole)
        if spent or not link.rests(self.dialing.clock()):
            self.drop(link)
        elif surplus := stack.put(link):
            _close(surplus)

    def drop(self, link: Link) -> None:
        _close((link,))

    def forgotten(self, link: Link, stack: Idle) -> None:
        """Its response was dropped unread."""
        self.drop(link)

    def drop_idle(self, links: Iterable[Link]) -> None:
        _close(links)

    def close(self) -> None:
        """Close what is idle. What is in use is closed as it comes back, since the node is removed."""
        for stack in tuple(self._stacks.values()):
            self.dialing.sweep.discard(stack)
            _close(stack.empty())
        if self.transport is not None and self.dialing.owned:
            self.transport.close()

    def after_fork(self) -> None:
        """Drop what is shared with the parent. Closing here tells the server nothing: the parent still has its copy."""
        if self.transport is not None:
            self.leave_to_parent()
        elif self.dialing.http2:  # closing would say GOAWAY on the parent's connections
            inherited.append(self._stacks)
            self._stacks = {}
        else:
            self.close()
            self._stacks = {}

    def _take(self, stack: Idle) -> Link | None:
        dialing = self.dialing
        now = dialing.clock()
        if now >= dialing.sweep.due:
            for other, links in dialing.sweep.inspect(now):
                other.owner.drop_idle(links)
        link, ended = stack.take(now)
        if ended:
            _close(ended)
        return link


class OneStream:
    """The stream of the only request on an HTTP/2 connection."""

    def __init__(self, frames: Frames) -> None:
        self.left_out: bool = frames.left_out(frames.highest)
        self.refused: bool = frames.refused(frames.highest)


def _close(links: Iterable[Link]) -> None:
    for link in links:
        try:
            link.http.close()
        except Exception:
            pass  # what cannot be closed is gone
