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


def steering_of(client: Any) -> Any:
    """Where its policies come from."""
    return balanced_of(client)._steering


def watcher_of(client: Any, name: str = "orders") -> Any:
    return services_of(client)._watchers[name]


def places_of(client: Any) -> Any:
    """The places among `max_connections`."""
    return balanced_of(client)._places


def checker_of(client: Any) -> Any:
    """What checks instances actively."""
    return balanced_of(client)._checker


def checked_services_of(client: Any) -> set[str]:
    return {service.name for service in checker_of(client)._services}


def patients_of(client: Any) -> Any:
    """What active checks know of each node."""
    return checker_of(client)._patients


def dialing_of(client: Any) -> Any:
    """What all connections of a transport share."""
    return balanced_of(client)._dialing


def limit_race_threads(client: Any, most: int) -> None:
    """Let races have so many threads."""
    from smartclient.transport.race_threads import RaceThreads

    balanced_of(client)._race_threads = RaceThreads(most)


def rng_of(transport: Any) -> Any:
    return transport._rng


def shared_of(node: Any) -> Any:
    """The HTTP/2 connections of a node, by event loop."""
    return node.connections._shared


def body_of(response: Any) -> Any:
    """The body of a response, as the connection has it."""
    return response.stream._stream


def pool_of(body: Any) -> Any:
    """The connections that a response's body goes back to."""
    return body._connections


def resolver_of(source: Any) -> Any:
    """The resolver of a DNS source, as the machine's settings are now."""
    return source._current()


def token_of(source: Any) -> Any:
    return source._token


def session_of(source: Any) -> Any:
    """The session that the watches of a ZooKeeper source share."""
    return source._shared
