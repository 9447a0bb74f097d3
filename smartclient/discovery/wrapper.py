"""Over: the base of all sources that wrap other sources. The settings of the inner sources apply to it, too."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from .base import Discovery
from .given import discovery_of


class Over(Discovery):
    """A source over others. Its `grace` is their longest; `link_local` is true if it is for one of them (each judges
    its own entries).

    sources: in any of the ways in which a source may be named
    """

    def __init__(self, *sources: Any) -> None:
        self.sources: list[Discovery] = []
        for source in sources:
            made = discovery_of(source)
            if made is None:
                raise TypeError(f"{type(self).__name__}: expected a source, got None")
            self.sources.append(made)
        if not self.sources:
            raise TypeError(f"{type(self).__name__}: expected at least one source")
        self.grace: float = max(source.grace for source in self.sources)
        self.link_local: bool = any(source.link_local for source in self.sources)
        self.max_unknown: int = max(source.max_unknown for source in self.sources)

    def covers(self, host: str) -> bool:
        if self.services is not None:
            return host in self.services
        return any(source.covers(host) for source in self.sources)

    def names(self) -> Collection[str] | None:
        if self.services is not None:
            return self.services
        closed = [source.names() for source in self.sources]
        return None if None in closed else {name for names in closed for name in names or ()}


class OverOne(Over):
    """A source over one other, which speaks for its services."""

    def __init__(self, source: Any) -> None:
        super().__init__(source)
        self.source: Discovery = self.sources[0]

    def of(self, service: str) -> Discovery:
        return self.source.of(service)
