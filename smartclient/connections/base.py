"""The rules for a node's connections, sync and async alike.

1. A node's idle connections are a stack: the newest is taken first, so that surplus ones grow old and are dropped.
2. One is taken only if it is younger than `keepalive_expiry` and its socket is not readable: an idle connection that
   has something to say has been closed by its server (httpcore's `has_expired`; a connection the server closed stays
   "available").
3. It is given back when the response body is closed and httpcore says it is idle; at most `max_keepalive_connections`
   stay.
4. With HTTP/2 a node has one httpcore pool instead: a multiplexed connection is never "taken".
5. A request goes straight to httpcore, with the node's origin and the URL's own path (`wire`).
"""

from __future__ import annotations

import select
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

from ..call import Attempt
from ..effects import Send, SendContext
from ..errors import describe
from ..flavour import Flavour
from ..instance import Instance
from ..node import Node
from ..service import Service
from .wire import Address, WireRequest, WireURL, address_of, extensions_for, headers_for


class Dialing:
    """How the connections of one client are made.

    ssl_context:  called at the first TLS connection, once; one context serves all nodes (each costs 50 ms)
    connect:      makes a transport for an instance, in place of connections of ours
    owned:        whether such a transport is closed with its node
    active:       attempts in progress, of all nodes, and their links (None: HTTP/2, or a transport of the user's)
    lost:         attempts whose response was forgotten unread, for the next call to finish
    """

    def __init__(
        self,
        flavour: Flavour,
        ssl_context: Callable[[], Any],
        *,
        http1: bool,
        http2: bool,
        max_keepalive: int | None,
        keepalive_expiry: float | None,
        connect: Callable[[Instance], Any] | None,
        owned: bool,
        clock: Callable[[], float],
    ) -> None:
        self.flavour = flavour
        self.connect = connect
        self.owned = owned
        self.active: dict[Attempt, Link | None] = {}
        self.lost: deque[Attempt] = deque()
        self.http1 = http1
        self.http2 = http2
        self.max_keepalive = max_keepalive
        self.keepalive_expiry = keepalive_expiry
        self.clock = clock
        self._make_ssl_context = ssl_context
        self._ssl_context: Any = None
        self._lock = threading.Lock()

    @property
    def ssl_context(self) -> Any:
        with self._lock:
            if self._ssl_context is None:
                self._ssl_context = self._make_ssl_context()
            return self._ssl_context

    def after_fork(self) -> None:
        self._lock = threading.Lock()
        self.active, self.lost = {}, deque()

    def options(self, https: bool) -> dict[str, Any]:
        """Keywords that httpcore's connections and pools have in common."""
        context = self.ssl_context if https else None
        return {"ssl_context": context, "http1": self.http1, "http2": self.http2}


def readable(stream: Any) -> Callable[[], bool]:
    """A function that tells whether a connection's socket has something to read, at the price of one system call."""
    sock = stream.get_extra_info("socket")
    number = -1 if sock is None else sock.fileno()
    if number < 0:
        return lambda: True
    if not hasattr(select, "poll"):  # Windows
        return lambda: bool(select.select([number], [], [], 0)[0])
    poll = select.poll()
    poll.register(number, select.POLLIN)
    return lambda: bool(poll.poll(0))


class Link:
    """One connection of a node.

    http:        httpcore's connection
    backend:     its network backend: knows the socket, and what is left of a request's time
    idle_since:  when it was given back
    attempt:     who has it now
    """

    __slots__ = ("_readable", "attempt", "backend", "http", "idle_since")

    def __init__(self, http: Any, attempt: Attempt, backend: Any) -> None:
        self.http = http
        self.attempt = attempt
        self.backend = backend
        self.idle_since = 0.0
        self._readable: Callable[[], bool] | None = None

    def rest(self, network_stream: Any, now: float) -> None:
        """It is idle now."""
        if self._readable is None:
            self._readable = readable(network_stream)
        self.idle_since = now

    def alive(self, now: float, expiry: float | None) -> bool:
        """Whether an idle connection may be taken."""
        if expiry is not None and now - self.idle_since > expiry:
            return False
        return self._readable is not None and not self._readable()


# In a forked child: what would say something on the parent's sockets, or to loops that are not here, were it closed.
inherited: list[Any] = []


class NodeConnections:
    """The connections of one node, without their I/O.

    dialing:    what all nodes of the client share
    addresses:  where requests went, by their URL's scheme and port
    """

    def __init__(self, node: Node, service: Service, dialing: Dialing) -> None:
        self.node = node
        self.dialing = dialing
        self.transport = None if dialing.connect is None else dialing.connect(node.instance)
        self._service = service
        self.addresses: dict[tuple[str, int | None], Address] = {}

    def address(self, request: Any) -> Address:
        """Where the request goes; remembered for each scheme and port it may come with."""
        url = request.url
        key = (url.scheme, url.port)
        address = self.addresses.get(key)
        if address is None:
            flavour = self.dialing.flavour
            address = address_of(self.node, self._service.name, self._service.policy, *key, flavour)
            same = [known for known in self.addresses.values() if known.origin == address.origin]
            self.addresses[key] = address = same[0] if same else address
        return address

    def wire_request(self, request: Any, effect: Send, address: Address) -> WireRequest:
        return WireRequest(
            request.method.encode(),
            WireURL(address.origin, request.url, request.extensions.get("target") or request.url.raw_path),
            headers_for(request, effect, address),
            effect.stream,
            extensions_for(request, effect, address),
        )

    def new_link(self, connection_class: Any, address: Address, attempt: Attempt, backend: Any) -> Link:
        options = self.dialing.options(address.sni is not None)
        return Link(connection_class(address.origin, network_backend=backend, **options), attempt, backend)

    def new_pool(self, pool_class: Any, address: Address) -> Any:
        dialing = self.dialing
        return pool_class(
            max_connections=None,
            max_keepalive_connections=dialing.max_keepalive,
            keepalive_expiry=dialing.keepalive_expiry,
            **dialing.options(address.sni is not None),
        )

    def cut(self, attempt: Attempt) -> None:
        """Make the thread that waits for that attempt's answer find its connection ended."""
        link = self.dialing.active.get(attempt)
        if link is not None:
            link.backend.cut()

    def leave_to_parent(self) -> None:
        """In a forked child: a transport of `connect=` shares its sockets with the parent's, so another is made."""
        if self.dialing.owned:
            inherited.append(self.transport)
            self.node.connections = None

    def response(self, raw: Any, body: Any) -> Any:
        return self.dialing.flavour.httpx.Response(
            raw.status, headers=raw.headers, stream=body, extensions=raw.extensions
        )


def translated(error: BaseException, flavour: Flavour) -> BaseException:
    """httpx's exception for httpcore's; any other as it is.

    It is returned and not raised here: an exception that a frame of its own traceback holds is a reference cycle.
    """
    mapped = flavour.mapped(type(error))
    if mapped is None:
        return error
    made = mapped(str(error))
    made.__cause__ = error
    return made


class Body:
    """A response's body: gives the connection back and finishes its attempt when it is closed, or forgotten."""

    def __init__(
        self,
        raw: Any,
        connections: Any,
        attempt: Attempt,
        context: SendContext,
        link: Link | None,
        home: Any,
        network: Any,
    ) -> None:
        self.attempt = attempt
        self._raw = raw
        self._connections = connections
        self._link = link
        self._home = home
        self._network = network
        self._context = context
        self._ends_at = context.body_ends_at
        self._closed = False
        self._in_flow = False  # read by the flow, which tells the story of its errors itself
        connections.dialing.active[attempt] = link
        self._chunks: deque[bytes] | None = None

    def _too_late(self) -> bool:
        """Asked between chunks: a server that sends a byte now and then is never timed out by httpx."""
        return self._ends_at is not None and self._connections.dialing.clock() >= self._ends_at

    def left(self) -> float:
        """Seconds until it must have been read, where there is such a moment."""
        return max(0.0, (self._ends_at or 0.0) - float(self._connections.dialing.clock()))

    def _broken(self, error: Exception) -> BaseException:
        """The body failed: blame the node. What to raise: httpx's exception for httpcore's."""
        flavour = self._connections.dialing.flavour
        mapped = flavour.mapped(type(error)) or type(error)
        if issubclass(mapped, flavour.TransportError):
            self.attempt.spoil(describe(error))
        if (
            self._too_late()
            and issubclass(mapped, flavour.httpx.TimeoutException)
            and not isinstance(error, flavour.DeadlineExceeded)
        ):
            late = self.late()
            late.__cause__ = error
            return late
        made = translated(error, flavour)
        call = self._context.call
        if call is not None and not self._in_flow:
            call.attach_to(made)
        return made

    def late(self) -> Exception:
        error: Exception = self._connections.dialing.flavour.DeadlineExceeded.of(
            self.attempt.service.name, self._context.deadline, "while reading the body"
        )
        return error

    def _let_go(self) -> None:
        self._connections.dialing.active.pop(self.attempt, None)

    def __del__(self) -> None:
        # Never read and never closed. This may run anywhere, inside a lock of ours too: take none.
        if not self._closed:
            self._closed = True
            self._let_go()
            if self._link is not None:
                self._connections.drop(self._link)
            self._connections.dialing.lost.append(self.attempt)
