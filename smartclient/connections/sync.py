"""A node's connections for the blocking client. The rules are in `base`."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from functools import cache
from typing import Any

from ..effects import Send
from ..flavour import Flavour
from ..node import Node
from ..service import Service
from .base import Body, Dialing, Link, NodeConnections, inherited, translated
from .timed import sync_backend
from .wire import Address, instance_request


class SyncBody(Body):
    def __iter__(self) -> Iterator[bytes]:
        if self._chunks is not None:
            while self._chunks:
                yield self._chunks.popleft()
            return
        limited = self._ends_at is not None
        try:
            for chunk in self._raw:
                yield chunk
                if limited and self._too_late():
                    raise self.late()
        except Exception as error:
            raise self._broken(error)  # noqa: B904  (it has its cause)

    def read_ahead(self) -> None:
        """Read it all, and be done with the connection."""
        # Without a deadline straight from httpcore: a generator less for each chunk.
        source = self._raw if self._ends_at is None else self
        self._in_flow = True
        try:
            chunks = deque(source)
        except Exception as error:
            raise self._broken(error)  # noqa: B904  (it has its cause)
        finally:
            self.close()
        self._chunks = chunks

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._let_go()
        try:
            self._raw.close()
        finally:
            if self._link is not None:
                self._connections.give_back(self._home, self._link, self._network)
            self.attempt.finish()


@cache
def body_class(flavour: Flavour) -> Any:
    """`SyncBody` as a byte stream of that flavour: its client checks."""
    return type("SyncBody", (SyncBody, flavour.httpx.SyncByteStream), {})


class SyncConnections(NodeConnections):
    """The connections of one node. Idle ones are kept per origin: a URL may say http or https, and a port."""

    def __init__(self, node: Node, service: Service, dialing: Dialing) -> None:
        super().__init__(node, service, dialing)
        self._body_class = body_class(dialing.flavour)
        self._backend_class = sync_backend(dialing.flavour)
        self._homes: dict[Address, Any] = {}  # of a stack of links, or (HTTP/2) a pool

    def send(self, request: Any, effect: Send) -> Any:
        """Send on an idle connection, else a new one; the response, its body unread."""
        attempt, dialing = effect.attempt, self.dialing
        flavour = dialing.flavour
        address = self.address(request)
        if self.transport is not None:
            response = self.transport.handle_request(instance_request(request, effect, address, flavour))
            if not response.is_closed:  # MockTransport's are, from the start
                response.stream = self._body_class(response.stream, self, attempt, effect.context, None, None, None)
            return response
        wire = self.wire_request(request, effect, address)
        home = self._homes.get(address)
        if home is None:
            home = self._new_home(address)
        link = None
        try:
            if dialing.http2:
                raw = home.handle_request(wire)
            else:
                link = None if effect.fresh else self._take(home)
                attempt.reused = link is not None
                if link is None:
                    link = self.new_link(flavour.httpcore.HTTPConnection, address, attempt, self._backend_class())
                link.attempt, link.backend.times = attempt, effect.timeouts
                dialing.active[attempt] = link
                raw = link.http.handle_request(wire)
        except BaseException as error:
            if link is not None:
                self.drop(link)
            raise translated(error, flavour)  # noqa: B904  (it has its cause)
        network = raw.extensions.get("network_stream")
        body = self._body_class(raw.stream, self, attempt, effect.context, link, home, network)
        return self.response(raw, body)

    def give_back(self, home: deque[Link], link: Link, network: Any) -> None:
        dialing = self.dialing
        if not link.http.is_idle():
            self.drop(link)
            return
        link.rest(network, dialing.clock())
        home.append(link)
        keep = 0 if self.node.removed else dialing.max_keepalive
        while keep is not None and len(home) > keep:
            _close_oldest(home)

    def drop(self, link: Link) -> None:
        self.dialing.active.pop(link.attempt, None)
        link.http.close()

    def close(self) -> None:
        """Close what is idle. What is in use is closed as it comes back, since the node is removed."""
        for home in self._homes.values():
            if self.dialing.http2:
                home.close()
            while home and not self.dialing.http2:
                _close_oldest(home)
        if self.transport is not None and self.dialing.owned:
            self.transport.close()

    def after_fork(self) -> None:
        """Drop what is shared with the parent. Closing here says nothing on the wire: the parent still has its copy."""
        if self.transport is not None:
            self.leave_to_parent()
        elif self.dialing.http2:
            inherited.append(self._homes)
            self._homes = {}
        else:
            self.close()

    def _new_home(self, address: Address) -> Any:
        pool_class = self.dialing.flavour.httpcore.ConnectionPool
        home: Any = self.new_pool(pool_class, address) if self.dialing.http2 else deque()
        # Two threads may come here at once; both go on with the one that was first.
        return self._homes.setdefault(address, home)

    def _take(self, home: deque[Link]) -> Link | None:
        now, expiry = self.dialing.clock(), self.dialing.keepalive_expiry
        while home:
            try:
                link = home.pop()
            except IndexError:  # another thread was faster
                return None
            if link.alive(now, expiry):
                return link
            link.http.close()
        return None


def _close_oldest(home: deque[Link]) -> None:
    try:
        home.popleft().http.close()
    except IndexError:
        pass
