"""What a user may give where a source is wanted."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..instance import Instance
from ..support.untrusted import shown
from .base import Discovery
from .function import Function
from .static import Static
from .url import discovery_from_url

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
