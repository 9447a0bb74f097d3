"""The algorithms that choose a node, one file each, and their names."""

from __future__ import annotations

from .base import Balancer, PickCall, Picker
from .least_request import LeastRequest
from .peak_ewma import PeakEwma
from .power_of_two import PowerOfTwoChoices
from .random import Random
from .round_robin import RoundRobin

BALANCERS: dict[str, type[Balancer]] = {
    balancer.name: balancer for balancer in (Random, RoundRobin, LeastRequest, PowerOfTwoChoices, PeakEwma)
}


def balancer_named(name: str) -> Balancer:
    """The algorithm of that name with its default settings."""
    try:
        return BALANCERS[name]()
    except KeyError:
        raise ValueError(f"balancer: expected one of {', '.join(sorted(BALANCERS))}, got {name!r}") from None


__all__ = [
    "BALANCERS",
    "Balancer",
    "LeastRequest",
    "PeakEwma",
    "PickCall",
    "Picker",
    "PowerOfTwoChoices",
    "Random",
    "RoundRobin",
    "balancer_named",
]
