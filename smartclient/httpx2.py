"""The same names over httpx2, httpx's maintained continuation: `from smartclient.httpx2 import Client`.

Needs the extra: pip install 'smartclient[httpx2]'. What is not of a flavour (Policy, Static, call, report, …) is
imported from `smartclient`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypedDict

try:
    import httpcore2
    import httpx2
except ImportError:
    raise ImportError("smartclient.httpx2 needs httpx2: pip install 'smartclient[httpx2]'") from None

from .client import AsyncClientMixin, SyncClientMixin
from .errors import DeadlineExceededFields, NoInstancesFields, OverloadedFields
from .flavour import Flavour
from .transport.aio import AsyncTransport
from .transport.sync import SyncTransport

if TYPE_CHECKING:
    import ssl

    from httpx2._types import (
        AuthTypes,
        CertTypes,
        CookieTypes,
        HeaderTypes,
        ProxyTypes,
        QueryParamTypes,
        TimeoutTypes,
    )
    from typing_extensions import Unpack

    from .discovery import DiscoveryLike
    from .events import Observer
    from .instance import Instance
    from .policy import Policy


class NoInstances(NoInstancesFields, httpx2.ConnectError):
    __doc__ = NoInstancesFields.__doc__


class DeadlineExceeded(DeadlineExceededFields, httpx2.TimeoutException):
    __doc__ = DeadlineExceededFields.__doc__


class Overloaded(OverloadedFields, httpx2.PoolTimeout):
    __doc__ = OverloadedFields.__doc__


HTTPX2 = Flavour(httpx2, httpcore2, sys.modules[__name__])


class BalancedTransport(SyncTransport, httpx2.BaseTransport):
    """For `httpx2.Client(transport=…)`. See `smartclient.BalancedTransport`."""

    _flavour = HTTPX2


class AsyncBalancedTransport(AsyncTransport, httpx2.AsyncBaseTransport):
    """For `httpx2.AsyncClient(transport=…)`. See `smartclient.BalancedTransport`."""

    _flavour = HTTPX2


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
    limits: httpx2.Limits
    max_redirects: int
    event_hooks: Mapping[str, list[Callable[..., Any]]] | None
    base_url: httpx2.URL | str
    default_encoding: str | Callable[[bytes], str | None]


class ClientKeywords(_CommonKeywords, total=False):
    """The keywords of `httpx2.Client`."""

    mounts: Mapping[str, httpx2.BaseTransport | None] | None
    transport: httpx2.BaseTransport | None


class AsyncClientKeywords(_CommonKeywords, total=False):
    """The keywords of `httpx2.AsyncClient`."""

    mounts: Mapping[str, httpx2.AsyncBaseTransport | None] | None
    transport: httpx2.AsyncBaseTransport | None


class Client(SyncClientMixin, httpx2.Client):
    """An `httpx2.Client` that balances calls to services. See `smartclient.Client`."""

    _transport_class = BalancedTransport

    if TYPE_CHECKING:

        def __init__(
            self,
            discovery: DiscoveryLike = None,
            *,
            policy: Policy | None = None,
            policies: Mapping[str, Policy] | None = None,
            connect: Callable[[Instance], httpx2.BaseTransport] | None = None,
            observers: Iterable[Observer] = (),
            status: bool | None = None,
            **keywords: Unpack[ClientKeywords],
        ) -> None: ...


class AsyncClient(AsyncClientMixin, httpx2.AsyncClient):
    """An `httpx2.AsyncClient` that balances calls to services. See `smartclient.AsyncClient`."""

    _transport_class = AsyncBalancedTransport

    if TYPE_CHECKING:

        def __init__(
            self,
            discovery: DiscoveryLike = None,
            *,
            policy: Policy | None = None,
            policies: Mapping[str, Policy] | None = None,
            connect: Callable[[Instance], httpx2.AsyncBaseTransport] | None = None,
            observers: Iterable[Observer] = (),
            status: bool | None = None,
            **keywords: Unpack[AsyncClientKeywords],
        ) -> None: ...


__all__ = [
    "AsyncBalancedTransport",
    "AsyncClient",
    "BalancedTransport",
    "Client",
    "DeadlineExceeded",
    "NoInstances",
    "Overloaded",
]
