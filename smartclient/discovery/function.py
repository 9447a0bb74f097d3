"""Function: a callable as a discovery source."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .base import Addresses, PollingDiscovery
from .options import check_options, seconds


class Function(PollingDiscovery):
    """A callable `service -> [address, …]`, or `-> ([address, …], ttl)`, called every `interval` seconds or `ttl`.

    It is called in a discovery thread and may block.
    """

    def __init__(self, resolve: Callable[[str], Any], interval: float = 5.0) -> None:
        if not callable(resolve):
            raise TypeError(f"Function: expected a callable service -> [address, …], got {resolve!r}")
        check_options("Function", {"interval": seconds()}, locals())
        self._resolve = resolve
        self.interval = interval

    def resolve(self, service: str) -> Addresses | tuple[Addresses, float]:
        answer: Addresses | tuple[Addresses, float] = self._resolve(service)
        return answer

    def __str__(self) -> str:
        return getattr(self._resolve, "__qualname__", None) or repr(self._resolve)
