"""Client and AsyncClient: httpx's clients, with balanced calls to services.

The hook is httpx's own mount table: our transport is the first mount, with a pattern that matches hosts that are
services. So a balanced host never uses a proxy, all other hosts are routed as before, and only `send` of httpx is
overridden (a call's deadline covers its redirects and auth).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, TypedDict

import httpx

from .calls.context import SendContext
from .discovery import DiscoveryLike, discovery_of
from .events import Observer
from .flavour import HTTPX
from .instance import Instance
from .policy import Policies, Policy
from .services.status import ClientStatus, StatusReader
from .support.version import version
from .transport.aio import AsyncTransport
from .transport.base import environment_discovery, options_of, send_context
from .transport.sync import SyncTransport

if TYPE_CHECKING:
    import ssl

    from httpx._types import (
        AuthTypes,
        CertTypes,
        CookieTypes,
        HeaderTypes,
        ProxyTypes,
        QueryParamTypes,
        TimeoutTypes,
    )
    from typing_extensions import Self, Unpack

    from .config import Config


class BalancedTransport(SyncTransport, httpx.BaseTransport):
    """For `httpx.Client(transport=…)` and SDKs that take a transport.

    fallback:  the transport for hosts that are not services; without it they raise NoInstances. It is closed with
               this transport
    The other arguments are those of `Client`.

    A transport sees one hop of a call and does not know whether its caller streams. So a deadline ends at the response
    headers and restarts at each redirect, and a response body that breaks off is not retried on another instance. If
    that matters, use `Client`.
    """

    _flavour = HTTPX


class AsyncBalancedTransport(AsyncTransport, httpx.AsyncBaseTransport):
    """For `httpx.AsyncClient(transport=…)` and SDKs that take a transport. See `BalancedTransport`."""

    _flavour = HTTPX


class ServiceHosts:
    """The pattern of our mount: hosts that are services."""

    def __init__(self, covers: Callable[[str], bool]) -> None:
        self._covers = covers

    def matches(self, url: Any) -> bool:
        return url.scheme in ("http", "https", "ws", "wss") and self._covers(url.raw_host.decode("ascii"))


class ClientMixin:
    """What our clients add to httpx's, whichever the flavour."""

    _transport_class: ClassVar[Any]

    def __init__(
        self,
        discovery: DiscoveryLike = None,
        *,
        policy: Policy | None = None,
        policies: Mapping[str, Policy] | None = None,
        connect: Callable[[Instance], Any] | None = None,
        observers: Iterable[Observer] = (),
        status: bool | None = None,
        _config: Config | None = None,
        **keywords: Any,
    ) -> None:
        if _config is None and keywords.get("trust_env", True):
            _config = environment_config()
        given = discovery is not None
        if discovery is None and _config is not None:
            discovery = _config.discovery
        if discovery is None and keywords.get("trust_env", True):
            discovery = environment_discovery()
        if discovery is None and _config is not None:
            discovery = {}  # a later version of the file may name one
        source = discovery_of(discovery)
        if source is None:
            Policies(policy, policies)  # a wrong policy is an error even where there is nothing to balance yet
        super().__init__(**keywords)
        self._balanced: Any = None
        if source is None:
            return
        transport = keywords.get("transport")
        shared = connect is None and transport is not None
        passed = {name: keywords[name] for name in _OURS_TOO & keywords.keys()}
        balanced = self._transport_class(
            source,
            policy=policy,
            policies=policies,
            connect=(lambda instance: transport) if shared else connect,
            observers=observers,
            status=status,
            # An explicit transport is httpx's to close.
            _connect_owned=not shared,
            _config=_config,
            _discovery_given=given,
            **passed,
        )
        self._balanced = balanced
        mine: Any = self  # `_mounts` is private, and of another type in each flavour
        mine._mounts = {ServiceHosts(balanced.covers): balanced, **mine._mounts}

    @classmethod
    def from_config(cls, path: str | os.PathLike[str] | None = None, **overrides: Any) -> Self:
        """A client by a configuration file (YAML, TOML, JSON), which is watched: what changes in it is in force within
        a second, and nothing that it does not concern is lost. Needs the extra: pip install 'smartclient[config]'.

        path:       of the file; None: the environment's SMARTCLIENT_CONFIG
        overrides:  arguments of the client; `policies` (by name or glob) go before the file's, `policy` is for services
                    that the file does not name

        Raises ConfigError, which says all that is wrong with the file.
        """
        from .config import load_config

        found = os.environ.get(CONFIG) if path is None else path
        if not found:
            raise ValueError(f"from_config: no path was given, and {CONFIG} is not set")
        environment: dict[str, str] | None = None if overrides.get("trust_env", True) else {}
        return cls(_config=load_config(found, environment=environment), **overrides)

    def reconfigure(self, policy: Policy | None = None, policies: Mapping[str, Policy] | None = None) -> None:
        """Change the policies while calls go on: what a changed field does not concern stays as it is, and calls in
        progress keep the policy they began with.

        policy:    in place of the default of before; None: that stays
        policies:  in place of all those of before; None: they stay
        """
        if self._balanced is None:
            Policies(policy, policies)
        else:
            self._balanced.reconfigure(policy, policies)

    def refresh(self, service: str | None = None) -> None:
        """Query discovery again now for a service in use; None: for all. Does not wait for the result.

        Happens automatically when most instances of a service fail (with outlier detection, at most every 10 s).
        """
        if self._balanced is not None:
            self._balanced.refresh(service)

    def status(self) -> ClientStatus:
        """What is, of each service in use and its instances: JSON by `as_dict()`. From any thread; holds up no call."""
        if self._balanced is None:
            return StatusReader().read((), version())
        status: ClientStatus = self._balanced.status()
        return status


class SyncClientMixin(ClientMixin):
    def ready(self, service: str, timeout: float = 10.0) -> None:
        """Wait until a service has instances, for readiness probes. Raises NoInstances, which says why it has none.

        timeout: seconds
        """
        if self._balanced is not None:
            self._balanced.wait_until_ready(service, timeout)

    def send(self, request: Any, *, stream: bool = False, **keywords: Any) -> Any:
        """httpx's `send`. Its hops (auth, redirects, retries) share one deadline."""
        token = send_context.set(SendContext(options_of(request), stream, transport=self._balanced))
        try:
            return super().send(request, stream=stream, **keywords)  # type: ignore[misc]
        finally:
            _reset(token)


class AsyncClientMixin(ClientMixin):
    async def ready(self, service: str, timeout: float = 10.0) -> None:
        """Wait until a service has instances, for readiness probes. Raises NoInstances, which says why it has none.

        timeout: seconds
        """
        if self._balanced is not None:
            await self._balanced.wait_until_ready(service, timeout)

    async def send(self, request: Any, *, stream: bool = False, **keywords: Any) -> Any:
        """httpx's `send`. Its hops (auth, redirects, retries) share one deadline."""
        token = send_context.set(SendContext(options_of(request), stream, transport=self._balanced))
        try:
            return await super().send(request, stream=stream, **keywords)  # type: ignore[misc]
        finally:
            _reset(token)


CONFIG = "SMARTCLIENT_CONFIG"


def environment_config() -> Config | None:
    """What the file says that the environment names."""
    path = os.environ.get(CONFIG)
    if not path:
        return None
    from .config import load_config

    return load_config(path)


def _reset(token: Any) -> None:
    try:
        send_context.reset(token)
    except ValueError:  # collected in another context: that of this call is gone
        pass


_OURS_TOO = frozenset({"verify", "cert", "trust_env", "http1", "http2", "limits"})


class _CommonKeywords(TypedDict, total=False):
    auth: AuthTypes | None
    params: QueryParamTypes | None
    headers: HeaderTypes | None
    cookies: CookieTypes | None
    verify: ssl.SSLContext | str | bool
    cert: CertTypes | None
    trust_env: bool
    http1: bool
    http2: bool
    proxy: ProxyTypes | None
    timeout: TimeoutTypes
    follow_redirects: bool
    limits: httpx.Limits
    max_redirects: int
    event_hooks: Mapping[str, list[Callable[..., Any]]] | None
    base_url: httpx.URL | str
    default_encoding: str | Callable[[bytes], str]


class ClientKeywords(_CommonKeywords, total=False):
    """The keywords of `httpx.Client`."""

    mounts: Mapping[str, httpx.BaseTransport | None] | None
    transport: httpx.BaseTransport | None


class AsyncClientKeywords(_CommonKeywords, total=False):
    """The keywords of `httpx.AsyncClient`."""

    mounts: Mapping[str, httpx.AsyncBaseTransport | None] | None
    transport: httpx.AsyncBaseTransport | None


class Client(SyncClientMixin, httpx.Client):
    """An `httpx.Client` that balances calls to services.

    discovery:  where instances come from: a `Discovery`, a mapping {service: [address, …]}, a callable service ->
                [address, …], a URL ("consul://127.0.0.1:8500"), or None: the environment variable
                SMARTCLIENT_DISCOVERY, else nothing is balanced
    policy:     the settings of every service
    policies:   the settings of some services, each in place of `policy`
    connect:    a transport for an instance, in place of connections of our own: a Unix socket, a WSGI app, a mock
    observers:  callables that are told what happens (see `smartclient.events`)
    status:     show `status()` on a Unix socket of this user's, for `smartclient top`; None: if the environment says
                SMARTCLIENT_STATUS=1
    keywords:   httpx.Client's
    """

    _transport_class = BalancedTransport

    if TYPE_CHECKING:

        def __init__(
            self,
            discovery: DiscoveryLike = None,
            *,
            policy: Policy | None = None,
            policies: Mapping[str, Policy] | None = None,
            connect: Callable[[Instance], httpx.BaseTransport] | None = None,
            observers: Iterable[Observer] = (),
            status: bool | None = None,
            **keywords: Unpack[ClientKeywords],
        ) -> None: ...


class AsyncClient(AsyncClientMixin, httpx.AsyncClient):
    """An `httpx.AsyncClient` that balances calls to services, under asyncio and trio. See `Client`.

    connect:  makes an `httpx.AsyncBaseTransport`
    """

    _transport_class = AsyncBalancedTransport

    if TYPE_CHECKING:

        def __init__(
            self,
            discovery: DiscoveryLike = None,
            *,
            policy: Policy | None = None,
            policies: Mapping[str, Policy] | None = None,
            connect: Callable[[Instance], httpx.AsyncBaseTransport] | None = None,
            observers: Iterable[Observer] = (),
            status: bool | None = None,
            **keywords: Unpack[AsyncClientKeywords],
        ) -> None: ...
