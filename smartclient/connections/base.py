"""The rules for a node's connections, sync and async alike.

1. A node's idle connections are stacks (`idle`), one for each origin its requests go to, and for each event loop.
2. A connection is given back when the response body is closed, if it may be used again (`link`).
3. Over HTTP/2 an async client shares a connection among its requests (`multiplexed`). A blocking one takes it for each
   request alone: threads that share one wait for each other's reads, whatever their deadlines.
4. A request goes straight to httpcore, with the node's origin and the URL's own path (`engine_request`).
"""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

from ..calls.context import SendContext
from ..calls.effects import Send
from ..errors import NotTaken, OwnTrouble, describe
from ..flavour import Flavour
from ..instance import Instance
from ..node import Node
from ..services.attempt import Attempt, AttemptOwner
from .idle import Idle, Sweep
from .link import Link
from .request import Address, EngineRequest, EngineURL, address_of, extensions_for, headers_for


class Dialing:
    """How the connections of one client are made.

    ssl_context:  called at the first TLS connection, once; one context serves all nodes (each costs 50 ms)
    connect:      makes a transport for an instance, in place of connections of ours
    owned:        whether such a transport is closed with its node
    active:       attempts in progress, of all nodes, and their links (None: HTTP/2, or a transport of the user's)
    lost:         attempts whose response was forgotten unread, for the next call to finish
    sweep:        looks through the idle connections of all nodes
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
        self.sweep = Sweep()
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
        self.active, self.lost, self.sweep = {}, deque(), Sweep()

    def idle(self, owner: Any) -> Idle:
        """A stack for idle connections."""
        return Idle(owner, self.max_keepalive, self.keepalive_expiry, self.sweep)

    def options(self, https: bool) -> dict[str, Any]:
        """Keywords of httpcore's connections."""
        context = self.ssl_context if https else None
        return {"ssl_context": context, "http1": self.http1, "http2": self.http2}


# In a forked child: what would say something on the parent's sockets, or to loops that are not here, were it closed.
inherited: list[Any] = []


class NodeConnections:
    """The connections of one node, without their I/O.

    dialing:    what all nodes of the client share
    addresses:  where requests went, by their URL's scheme and port
    """

    def __init__(self, node: Node, service: AttemptOwner, dialing: Dialing) -> None:
        self.node = node
        self.dialing = dialing
        self.transport = None if dialing.connect is None else dialing.connect(node.instance)
        self._service = service
        self._instance = node.instance
        self.addresses: dict[tuple[str, int | None], Address] = {}

    def address(self, request: Any) -> Address:
        """Where the request goes; remembered for each scheme and port it may come with."""
        if self.node.instance is not self._instance:  # it may speak TLS now
            self._instance, self.addresses = self.node.instance, {}
        url = request.url
        key = (url.scheme, url.port)
        address = self.addresses.get(key)
        if address is None:
            flavour = self.dialing.flavour
            address = address_of(self._instance, self._service.name, self._service.policy, *key, flavour)
            same = [known for known in self.addresses.values() if known == address]
            self.addresses[key] = address = same[0] if same else address
        return address

    def engine_request(self, request: Any, effect: Send, address: Address) -> EngineRequest:
        return EngineRequest(
            request.method.encode(),
            EngineURL(address.origin, request.url, request.extensions.get("target") or request.url.raw_path),
            headers_for(request, effect, address),
            effect.stream,
            extensions_for(request, effect, address),
        )

    def new_link(self, connection_class: Any, backend_class: Any, address: Address, attempt: Attempt) -> Link:
        dialing, https = self.dialing, address.sni is not None
        backend = backend_class(https, dialing.http2 and not dialing.http1, self._service.link_local)
        http = connection_class(address.origin, network_backend=backend, **dialing.options(https))
        return Link(http, attempt, backend)

    def is_of_http2(self, link: Link, error: BaseException) -> bool:
        """Whether an error may say no more than that this connection takes no further request (`multiplexed`)."""
        httpcore = self.dialing.flavour.httpcore
        refusals = (httpcore.LocalProtocolError, httpcore.ConnectionNotAvailable)
        return isinstance(error, refusals) and (link.backend.frames is not None or self.dialing.http2)

    def not_taken(self, error: BaseException, stream: Any) -> BaseException | None:
        """What to raise where the server said that it did not take a request.

        stream: knows that: has `left_out` and `refused`
        """
        if not isinstance(error, Exception) or not (stream.left_out or stream.refused):
            return None
        made: BaseException = self.dialing.flavour.httpx.RemoteProtocolError("the server did not take the request")
        made.__cause__ = told = NotTaken(str(error))
        told.ended = stream.left_out
        return made

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


class Body:
    """A response's body: gives the connection back and finishes its attempt when it is closed, or forgotten."""

    def __init__(
        self,
        raw: Any,
        connections: Any,
        attempt: Attempt,
        context: SendContext,
        link: Link | None,
        stack: Any,
    ) -> None:
        self.attempt = attempt
        self._raw = raw
        self._connections = connections
        self._link = link
        self._stack = stack
        self._context = context
        self._ends_at = context.body_ends_at
        self._closed = False
        self._whole = False  # it was read to its end
        self._in_flow = False  # read by the flow, which tells the story of its errors itself
        connections.dialing.active[attempt] = link
        self._chunks: deque[bytes] | None = None

    def _too_late(self) -> bool:
        """Asked between chunks: a server that sends a byte now and then is never timed out by httpx."""
        return self._ends_at is not None and self._connections.dialing.clock() >= self._ends_at

    def left(self) -> float:
        """Seconds until it must have been read; without such a moment infinitely many."""
        return math.inf if self._ends_at is None else max(0.0, self._ends_at - self._connections.dialing.clock())

    def _broken(self, error: Exception) -> BaseException:
        """The body failed: blame the node. What to raise: httpx's exception for httpcore's."""
        flavour = self._connections.dialing.flavour
        made: BaseException = flavour.translated(error)
        if isinstance(made, flavour.TransportError):
            self.attempt.fail_in_body(describe(error))
        if (
            self._too_late()
            and isinstance(made, flavour.httpx.TimeoutException)
            and not isinstance(error, flavour.DeadlineExceeded)
        ):
            late = self.late()
            late.__cause__ = error
            return late
        call = self._context.call
        if call is not None and not self._in_flow:
            call.attach_to(made, named=isinstance(made, flavour.TransportError))
        return made

    def late(self) -> Exception:
        error: Exception = self._connections.dialing.flavour.DeadlineExceeded.of(
            self.attempt.service.name, self._context.deadline, "while reading the body"
        )
        return error

    @property
    def httpx(self) -> Any:
        """The flavour's module."""
        return self._connections.dialing.flavour.httpx

    def _let_go(self) -> None:
        self._connections.dialing.active.pop(self.attempt, None)

    def __del__(self) -> None:
        # Never read and never closed. This may run anywhere, inside a lock of ours too: take none.
        if not self._closed:
            self._closed = True
            self._let_go()
            if self._link is not None:
                self._connections.forgotten(self._link, self._stack)
            self._connections.dialing.lost.append(self.attempt)
