"""The options of a discovery URL: query parameters with the names of a constructor's keywords."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ..support.checks import nearest
from ..support.untrusted import shown

Reader = Callable[[str], Any]


def text(value: str) -> str:
    return value


def flag(value: str) -> bool:
    """`?stale`, `?stale=true`; everything but 0, false and no is yes."""
    return value.lower() not in ("0", "false", "no")


def seconds(value: str) -> float:
    try:
        return float(value)
    except ValueError:
        raise ValueError(f"expected seconds, got {shown(value)}") from None


def check_seconds(name: str, value: Any) -> None:
    """Raises ValueError unless it is a finite number of seconds > 0."""
    if not isinstance(value, (int, float)) or not 0 < value < float("inf"):
        raise ValueError(f"{name}: expected seconds > 0, got {shown(value)}")


def check_wait(name: str, value: Any) -> None:
    """Raises ValueError unless it is a number of seconds > 0, ten minutes at most."""
    if not isinstance(value, (int, float)) or not 0 < value <= 600:
        raise ValueError(f"{name}: expected seconds from 0 to 600, got {value!r}")


def check_grace(name: str, value: Any) -> None:
    """Raises ValueError unless it is a number of seconds from 0 up."""
    if not isinstance(value, (int, float)) or not value >= 0:
        raise ValueError(f"{name}: expected seconds, got {value!r}")


def number(value: str) -> int:
    try:
        return int(value)
    except ValueError:
        raise ValueError(f"expected a whole number, got {shown(value)}") from None


def read_options(
    scheme: str, options: Mapping[str, list[str]], known: Mapping[str, Reader], several: frozenset[str] = frozenset()
) -> dict[str, Any]:
    """Keywords of the constructor. several: options that may be repeated, and are lists."""
    keywords: dict[str, Any] = {}
    for name, values in options.items():
        reader = known.get(name)
        if reader is None:
            hint = nearest(name, known)
            raise ValueError(f"{scheme}:// has no option {shown(name)}; it has {', '.join(known)}{hint}")
        try:
            keywords[name] = [reader(value) for value in values] if name in several else reader(values[-1])
        except ValueError as error:
            raise ValueError(f"{scheme}:// option {name}: {error}") from None
    return keywords
