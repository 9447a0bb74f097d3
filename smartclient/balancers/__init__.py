"""The algorithms that choose a node, one file each, and their names."""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import Any, Literal

from ..support.checks import nearest, wrong
from .adaptive import Adaptive
from .base import Balancer, PickCall, Picker
from .ip_hash import IpHash
from .least_request import LeastRequest
from .load_aware import LoadAware
from .maglev import Maglev
from .peak_ewma import PeakEwma
from .power_of_two import PowerOfTwoChoices
from .random import Random
from .ring_hash import RingHash
from .round_robin import RoundRobin
from .sticky import Sticky
from .weighted_round_robin import WeightedRoundRobin

ENTRY_POINTS = "smartclient.balancers"

BalancerName = Literal[
    "adaptive",
    "ip_hash",
    "least_request",
    "load_aware",
    "maglev",
    "p2c",
    "peak_ewma",
    "random",
    "ring_hash",
    "round_robin",
    "sticky",
    "weighted_round_robin",
]
"""Names of our own algorithms, so that type checkers find typos. Those of other packages work as well."""

BALANCERS: dict[str, type[Balancer]] = {
    balancer.name: balancer
    for balancer in (
        Adaptive,
        IpHash,
        LeastRequest,
        LoadAware,
        Maglev,
        PeakEwma,
        PowerOfTwoChoices,
        Random,
        RingHash,
        RoundRobin,
        Sticky,
        WeightedRoundRobin,
    )
}


def balancer_names() -> list[str]:
    """Ours, and those of packages' entry points in the group `smartclient.balancers`."""
    return sorted({*BALANCERS, *(point.name for point in entry_points(group=ENTRY_POINTS))})


def balancer_kind(name: str, setting: str = "balancer") -> Any:
    """Its class; of a package's maybe a function that makes one, or a balancer. Raises ValueError. setting: whose name
    that is, for errors
    """
    if name in BALANCERS:
        return BALANCERS[name]
    for point in entry_points(group=ENTRY_POINTS):
        if point.name == name:
            return point.load()
    known = balancer_names()
    raise wrong(setting, f"one of {', '.join(known)}", name, ValueError, nearest(name, known))


def balancer_made(name: str, kind: Any, setting: str = "balancer") -> Balancer:
    """A balancer of that kind, with its default settings. Raises TypeError if it makes none."""
    made = kind if isinstance(kind, Balancer) else kind()
    if not isinstance(made, Balancer):
        source = next((point.value for point in entry_points(group=ENTRY_POINTS) if point.name == name), kind)
        raise TypeError(f"{setting}: {source}, the entry point {name!r}, made {made!r}, no Balancer")
    return made


def balancer_named(name: str, setting: str = "balancer") -> Balancer:
    """The algorithm of that name with its default settings."""
    return balancer_made(name, balancer_kind(name, setting), setting)


__all__ = [
    "BALANCERS",
    "Adaptive",
    "Balancer",
    "BalancerName",
    "IpHash",
    "LeastRequest",
    "LoadAware",
    "Maglev",
    "PeakEwma",
    "PickCall",
    "Picker",
    "PowerOfTwoChoices",
    "Random",
    "RingHash",
    "RoundRobin",
    "Sticky",
    "WeightedRoundRobin",
    "balancer_named",
]
