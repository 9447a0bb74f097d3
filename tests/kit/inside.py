"""What tests look at inside a client: the only place that names what is private."""

from __future__ import annotations

from typing import Any


def balanced_of(client: Any) -> Any:
    """The balanced transport of a client; a transport is its own."""
    mounts = getattr(client, "_mounts", None)
    return client if mounts is None else next(iter(mounts.values()))


def services_of(client: Any) -> Any:
    """All services of a client."""
    return balanced_of(client)._services


def service_of(client: Any, name: str = "orders") -> Any:
    """The live state of a service, from its first call on."""
    return services_of(client).get(name)


def watcher_of(client: Any, name: str = "orders") -> Any:
    return services_of(client)._watchers[name]


def places_of(client: Any) -> Any:
    """The places among `max_connections`."""
    return balanced_of(client)._places
