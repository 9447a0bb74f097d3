"""A request as httpcore takes it: where it goes, its headers, what is left of its time.

httpcore asks of a request only the five attributes of `EngineRequest`; its own class would check and copy every header
again.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from ..calls.effects import Send
from ..flavour import Flavour
from ..instance import Instance, is_ip
from ..policy import Policy
from ..support.hosts import wire_name

DEFAULT_PORTS = {"http": 80, "https": 443}
SECURE = frozenset({"https", "wss"})


class EngineURL:
    """What httpcore reads of a URL: `origin` says where the request goes. The rest is the service's, for mocks that
    match it (respx).
    """

    __slots__ = ("_url", "origin", "scheme", "target")

    def __init__(self, origin: Any, url: Any, target: bytes) -> None:
        self.origin: Any = origin
        self.scheme: Any = origin.scheme
        self.target: bytes = target
        self._url = url

    @property
    def host(self) -> bytes:
        host: bytes = self._url.raw_host
        return host

    @property
    def port(self) -> int | None:
        port: int | None = self._url.port
        return port


class EngineRequest:
    """What httpcore asks of a request."""

    __slots__ = ("extensions", "headers", "method", "stream", "url")

    def __init__(self, method: bytes, url: EngineURL, headers: Any, stream: Any, extensions: Any) -> None:
        self.method: bytes = method
        self.url: EngineURL = url
        self.headers: Any = headers
        self.stream: Any = stream
        self.extensions: Any = extensions


class InMemory:
    """A request body in memory. httpx's own is an async generator, which httpcore leaves unfinished when it cannot
    send all of it: trio warns about that.
    """

    __slots__ = ("_chunks",)

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = iter(chunks)

    def __aiter__(self) -> InMemory:
        return self

    async def __anext__(self) -> bytes:
        for chunk in self._chunks:
            return chunk
        raise StopAsyncIteration


@dataclass(frozen=True)
class Address:
    """Where a node's requests go, for one scheme and port of the URL.

    origin: its scheme, host and port, as httpcore wants them
    sni:    the name for TLS, None without TLS
    host:   the Host header, None where the service's stays
    """

    scheme: str
    name: str
    port: int
    sni: str | None
    host: bytes | None
    origin: Any = field(compare=False, hash=False)


def address_of(
    instance: Instance, service: str, policy: Policy, scheme: str, port: int | None, flavour: Flavour
) -> Address:
    """The instance's port wins, the URL's is used where it has none; TLS if either says https (or wss). A zone id
    ("fe80::1%eth0") means something on this machine only: it is for the socket, and in no header (RFC 9110 §7.2).
    """
    https = scheme in SECURE or instance.scheme == "https"
    scheme = "https" if https else "http"
    port = instance.port or port or DEFAULT_PORTS[scheme]
    sni = None
    if https:
        named = "." in instance.host and not is_ip(instance.host)
        sni = wire_name(policy.tls_server_name or (instance.host if named else service))
    host = None
    if policy.host_header == "instance":
        name = instance.host.partition("%")[0]
        bracketed = f"[{name}]" if ":" in name else name
        host = (bracketed if port == DEFAULT_PORTS[scheme] else f"{bracketed}:{port}").encode()
    origin = flavour.httpcore.Origin(scheme.encode(), instance.host.encode(), port)
    return Address(scheme, instance.host, port, sni, host, origin)


def headers_for(request: Any, effect: Send, address: Address) -> Any:
    """The request's headers as httpcore takes them, with those of the attempt and, if the policy wants that, the
    instance's Host.
    """
    headers = request.headers.raw
    if address.host is not None:
        headers = [(b"Host", address.host)] + [(key, value) for key, value in headers if key.lower() != b"host"]
    if effect.headers:
        ours = {key.lower() for key, _ in effect.headers}
        headers = [(key, value) for key, value in headers if key.lower() not in ours] + list(effect.headers)
    return headers


def extensions_for(request: Any, effect: Send, address: Address) -> Any:
    """The request's extensions, with what is left of the time and the name for TLS. Mostly the very same object."""
    extensions = request.extensions
    if effect.timeouts is None and address.sni is None:
        return extensions
    extensions = dict(extensions)
    if effect.timeouts is not None:
        extensions["timeout"] = effect.timeouts
    if address.sni is not None:
        extensions.setdefault("sni_hostname", address.sni)
    return extensions


def instance_request(request: Any, effect: Send, address: Address, flavour: Flavour) -> Any:
    """The request as a transport of `connect=` sees it: the instance's URL, the service's Host header."""
    url = request.url.copy_with(scheme=address.scheme, host=address.name, port=address.port)
    return flavour.httpx.Request(
        request.method,
        url,
        headers=headers_for(request, effect, address),
        stream=effect.stream,
        extensions=extensions_for(request, effect, address),
    )
