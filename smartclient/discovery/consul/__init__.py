"""Consul: the source, and `register` for services that serve."""

from __future__ import annotations

from typing import Any

from ..registration import Address, Registration
from .source import Consul

__all__ = ["Consul", "register"]


def register(service: str, address: Address, *, consul: Consul | str | None = None, **options: Any) -> Registration:
    """`Consul.register`, with the agent's address. consul: a `Consul`, or an address; None: as `Consul()`"""
    return (consul if isinstance(consul, Consul) else Consul(consul)).register(service, address, **options)
