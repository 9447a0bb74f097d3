"""Discovery sources written as a URL: `consul://127.0.0.1:8500?dc=eu&services=orders,users`.

Options are query parameters with the names of the constructor's keywords. `services=` says which names the source
covers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.metadata import entry_points
from urllib.parse import SplitResult, parse_qsl, urlsplit

from ..foreign import line, shown
from ..hosts import wire_name
from ..settings import nearest
from .base import Discovery
from .consul import Consul
from .dns import Dns
from .environment import Environment
from .etcd import Etcd
from .eureka import Eureka
from .file import File
from .kubernetes import Kubernetes
from .nacos import Nacos
from .xds import Xds
from .zookeeper import ZooKeeper

Opener = Callable[[SplitResult, Mapping[str, list[str]]], Discovery]

SCHEMES: dict[str, Opener] = {
    "consul": Consul.from_url,
    "consul+http": Consul.from_url,
    "consul+https": Consul.from_url,
    "dns": Dns.from_url,
    "dns+srv": Dns.from_url,
    "env": Environment.from_url,
    "etcd": Etcd.from_url,
    "etcd+https": Etcd.from_url,
    "eureka": Eureka.from_url,
    "eureka+https": Eureka.from_url,
    "file": File.from_url,
    "kubernetes": Kubernetes.from_url,
    "kubernetes+http": Kubernetes.from_url,
    "nacos": Nacos.from_url,
    "nacos+https": Nacos.from_url,
    "xds": Xds.from_url,
    "xds+https": Xds.from_url,
    "zookeeper": ZooKeeper.from_url,
    "zookeeper+tls": ZooKeeper.from_url,
}
ENTRY_POINTS = "smartclient.discovery"  # a package's own schemes: functions like those above


def discovery_from_url(url: str) -> Discovery:
    """The source a URL names. Raises ValueError saying what is wrong with it."""
    brief = shown(url.partition("?")[0])  # the options may hold a token
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as error:
        raise ValueError(f"discovery: {brief} is no URL: {line(str(error))}") from None
    if parts.scheme in ("http", "https"):
        raise ValueError(f"discovery: {brief} is not the URL of a registry. Did you mean base_url={brief}?")
    opener = SCHEMES.get(parts.scheme) or _of_package(parts.scheme)
    if opener is None:
        known = ", ".join(f"{scheme}://" for scheme in sorted(SCHEMES))
        hint = nearest(parts.scheme, SCHEMES)
        raise ValueError(f"discovery: expected a URL that starts with one of {known}; got {brief}{hint}")
    options: dict[str, list[str]] = {}
    for name, value in parse_qsl(parts.query, keep_blank_values=True):
        options.setdefault(name, []).append(value)
    names = [name.strip() for value in options.pop("services", []) for name in value.split(",")]
    source = opener(parts, options)
    if names:
        source.services = frozenset(wire_name(name) for name in names if name)
    return source


def _of_package(scheme: str) -> Opener | None:
    for point in entry_points(group=ENTRY_POINTS):
        if point.name == scheme:
            opener: Opener = point.load()
            return opener
    return None
