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


def balancer_named(name: str, setting: str = "balancer") -> Balancer:
    """The algorithm of that name with its default settings: one of ours, or of a package's entry points in the group
    `smartclient.balancers`. setting: whose name that is, for errors
    """
    found = BALANCERS.get(name)
    if found is not None:
        return found()
    others = {point.name: point for point in entry_points(group=ENTRY_POINTS)}
    if name not in others:
        known = sorted({*BALANCERS, *others})
        raise wrong(setting, f"one of {', '.join(known)}", name, ValueError, nearest(name, known))
    made = others[name].load()
    balancer = made if isinstance(made, Balancer) else made()
    if not isinstance(balancer, Balancer):
        raise TypeError(f"{setting}: {others[name].value}, the entry point {name!r}, made {balancer!r}, no Balancer")
    return balancer


def entry_point_balancers() -> dict[str, Any]:
    """What packages add, by name: classes, functions that make one, or balancers."""
    return {point.name: point.load() for point in entry_points(group=ENTRY_POINTS)}


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
