"""Where instances come from, one file per source, and the ways a user may name a source."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..foreign import shown
from ..instance import Instance
from .base import Addresses, Discovery, Listing, PollingDiscovery
from .cached import Cached
from .combined import Fallback, Merge
from .consul import Consul
from .dns import Dns
from .environment import Environment
from .etcd import Etcd
from .eureka import Eureka
from .file import File
from .function import Function
from .kubernetes import Kubernetes
from .nacos import Nacos
from .shaped import Filter, Map, Routed
from .static import Static
from .url import discovery_from_url
from .xds import Xds
from .zookeeper import ZooKeeper

DiscoveryLike = (
    Discovery | Mapping[str, Sequence[Instance | str]] | Mapping[str, Sequence[str]] | Callable[[str], Any] | str | None
)


def discovery_of(source: DiscoveryLike) -> Discovery | None:
    """The source that a user means: a `Discovery`, a mapping, a callable or a URL. None stays None."""
    if source is None or isinstance(source, Discovery):
        return source
    if isinstance(source, str):
        return discovery_from_url(source)
    if isinstance(source, Mapping):
        return Static(source)
    if isinstance(source, type) and issubclass(source, Discovery):
        raise TypeError(
            f"discovery: expected an instance of {source.__name__}, got the class: write {source.__name__}(…)"
        )
    if callable(source):
        return Function(source)
    raise TypeError(
        "discovery: expected a Discovery, a mapping {service: [address, …]}, a callable, a URL such as "
        f"'consul://127.0.0.1:8500', or None; got {shown(source)}"
    )


__all__ = [
    "Addresses",
    "Cached",
    "Consul",
    "Discovery",
    "DiscoveryLike",
    "Dns",
    "Environment",
    "Etcd",
    "Eureka",
    "Fallback",
    "File",
    "Filter",
    "Function",
    "Kubernetes",
    "Listing",
    "Map",
    "Merge",
    "Nacos",
    "PollingDiscovery",
    "Routed",
    "Static",
    "Xds",
    "ZooKeeper",
    "discovery_from_url",
    "discovery_of",
]
