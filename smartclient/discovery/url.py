"""Discovery sources written as a URL: `consul://127.0.0.1:8500?dc=eu&services=orders,users`.

Options are query parameters with the names of the constructor's keywords. `services=` says which names the source
covers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.metadata import entry_points
from urllib.parse import SplitResult, parse_qsl, urlsplit

from ..support.checks import nearest
from ..support.hosts import wire_name
from ..support.untrusted import line, shown
from .base import Discovery

Opener = Callable[[SplitResult, Mapping[str, list[str]]], Discovery]

# By name, as entry points are: a source is imported when it is wanted.
SCHEMES = {
    "consul": "consul:Consul",
    "consul+http": "consul:Consul",
    "consul+https": "consul:Consul",
    "dns": "dns:Dns",
    "dns+srv": "dns:Dns",
    "env": "environment:Environment",
    "etcd": "etcd:Etcd",
    "etcd+https": "etcd:Etcd",
    "eureka": "eureka:Eureka",
    "eureka+https": "eureka:Eureka",
    "file": "file:File",
    "kubernetes": "kubernetes:Kubernetes",
    "kubernetes+http": "kubernetes:Kubernetes",
    "nacos": "nacos:Nacos",
    "nacos+https": "nacos:Nacos",
    "xds": "xds:Xds",
    "xds+https": "xds:Xds",
    "zookeeper": "zookeeper:ZooKeeper",
    "zookeeper+tls": "zookeeper:ZooKeeper",
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
    opener = _own(parts.scheme) or _of_package(parts.scheme)
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


def _own(scheme: str) -> Opener | None:
    if scheme not in SCHEMES:
        return None
    module, _, name = SCHEMES[scheme].partition(":")
    opener: Opener = getattr(import_module(f".{module}", __package__), name).from_url
    return opener


def _of_package(scheme: str) -> Opener | None:
    for point in entry_points(group=ENTRY_POINTS):
        if point.name == scheme:
            opener: Opener = point.load()
            return opener
    return None
