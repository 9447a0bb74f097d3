"""The rules for a node's connections, sync and async alike.

1. A node's idle connections are stacks (`idle`), one for each origin its requests go to, and for each event loop.
2. A connection is given back when the response body is closed, if it may be used again (`link`).
3. Over HTTP/2 an async client shares a connection among its requests (`multiplexed`). A blocking one uses it for one
   request at a time: threads that share one wait for each other's reads, whatever their deadlines.
4. A request goes straight to httpcore, with the node's origin and the URL's own path (`engine_request`).
"""

from __future__ import annotations

from typing import Any

from ..calls.effects import Send
from ..errors import NotTaken
from ..node import Node
from ..services.attempt import Attempt, AttemptOwner
from .dialing import Dialing
from .link import Link
from .patched import is_patched
from .request import Address, EngineRequest, EngineURL, address_of, extensions_for, headers_for

# In a forked child: kept unclosed, since closing would write to the parent's sockets or use loops that are not here.
inherited: list[Any] = []


class NodeConnections:
    """The connections of one node, without their I/O.

    dialing:    what all nodes of the client share
    addresses:  where requests went, by their URL's scheme and port
    """

    def __init__(self, node: Node, service: AttemptOwner, dialing: Dialing) -> None:
        self.node = node
        self.dialing = dialing
        self.transport: Any = None if dialing.connect is None else dialing.connect(node.instance)
        self._service = service
        self._instance = node.instance
        self._body_class: Any = None
        self.addresses: dict[tuple[str, int | None], Address] = {}

    def forget_addresses(self) -> None:
        """How instances are addressed has changed: connections of another name, or with other TLS, rest and expire."""
        self.addresses = {}

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
        backend = backend_class(https, dialing.http2 and not dialing.http1, self._service.link_local, dialing.clock)
        http = connection_class(address.origin, network_backend=backend, **dialing.options(https))
        return Link(http, attempt, backend)

    def set_up(self, attempt: Attempt, link: Link) -> None:
        """A new connection has its first response: its set-up time is not server latency."""
        attempt.connecting = max(0.0, link.backend.ready_at - attempt.started)

    def is_of_http2(self, link: Link, error: BaseException) -> bool:
        """Whether an error may only mean that this connection accepts no more requests (`multiplexed`)."""
        httpcore = self.dialing.flavour.httpcore
        refusals = (httpcore.LocalProtocolError, httpcore.ConnectionNotAvailable)
        return isinstance(error, refusals) and (link.backend.frames is not None or self.dialing.http2)

    def not_taken(self, error: BaseException, stream: Any) -> BaseException | None:
        """The error to raise if the server said that it did not process a request.

        stream: has `left_out` and `refused`
        """
        if not isinstance(error, Exception) or not (stream.left_out or stream.refused):
            return None
        made: BaseException = self.dialing.flavour.httpx.RemoteProtocolError("the server did not take the request")
        made.__cause__ = told = NotTaken(str(error))
        told.ended = stream.left_out
        return made

    def cut(self, attempt: Attempt) -> None:
        """Shut down that attempt's connection, so that its waiting thread wakes up."""
        link = self.dialing.active.get(attempt)
        if link is not None:
            link.backend.cut()

    def leave_to_parent(self) -> None:
        """In a forked child: a transport of `connect=` shares its sockets with the parent's, so another is made."""
        if self.dialing.owned:
            inherited.append(self.transport)
            self.node.connections = None

    def is_patched(self, method: Any) -> bool:
        """Whether a tool must see our attempts: it has put that method in the place of httpx's own."""
        if self.transport is not None or is_patched(method, self.dialing.flavour):
            return self.transport is None
        self.dialing.own_method = method
        return False

    def body_of(self, stream: Any, effect: Send) -> Any:
        """A stream that is not of a connection of ours, as a body whose end is that of its attempt."""
        return self._body_class(stream, self, effect.attempt, effect.context, None, None)

    def response(self, raw: Any, body: Any) -> Any:
        return self.dialing.flavour.httpx.Response(
            raw.status, headers=raw.headers, stream=body, extensions=raw.extensions
        )
