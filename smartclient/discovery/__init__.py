"""Where instances come from: one file per source, and the ways a user may name a source."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .base import Addresses, Discovery, Listing, PollingDiscovery
from .function import Function
from .given import DiscoveryLike, discovery_of
from .static import Static
from .url import discovery_from_url

if TYPE_CHECKING:
    from .cached import Cached
    from .combined import Fallback, Merge
    from .consul import Consul
    from .dns import Dns
    from .environment import Environment
    from .etcd import Etcd
    from .eureka import Eureka
    from .file import File
    from .kubernetes import Kubernetes
    from .nacos import Nacos
    from .shaped import Filter, Map, Routed
    from .xds import Xds
    from .zookeeper import ZooKeeper

# Imported when they are first used: a client needs one of them.
LATER = {
    "Cached": "cached",
    "Consul": "consul",
    "Dns": "dns",
    "Environment": "environment",
    "Etcd": "etcd",
    "Eureka": "eureka",
    "Fallback": "combined",
    "File": "file",
    "Filter": "shaped",
    "Kubernetes": "kubernetes",
    "Map": "shaped",
    "Merge": "combined",
    "Nacos": "nacos",
    "Routed": "shaped",
    "Xds": "xds",
    "ZooKeeper": "zookeeper",
}


def __getattr__(name: str) -> Any:
    if name in LATER:
        value = globals()[name] = getattr(import_module(f".{LATER[name]}", __name__), name)
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


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
