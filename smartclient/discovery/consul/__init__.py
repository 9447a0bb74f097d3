"""Consul: the source, and `register` for services that serve."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..registration import Address, Registration
from .source import Consul

__all__ = ["Consul", "register"]


def register(
    service: str,
    address: Address,
    *,
    consul: Consul | str | None = None,
    id: str | None = None,
    meta: Mapping[str, str] | None = None,
    weight: float | None = None,
    ttl: float = 10.0,
    tags: Sequence[str] = (),
) -> Registration:
    """`Consul.register`, with the agent's address. consul: a `Consul`, or an address; None: as `Consul()`"""
    source = consul if isinstance(consul, Consul) else Consul(consul)
    return source.register(service, address, id=id, meta=meta, weight=weight, ttl=ttl, tags=tags)
