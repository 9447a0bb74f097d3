"""Which members get calls at all: health, panic, priorities, zones.

    members ─► health (panic here) ─► priority ─► zone ─► groups, each with its share of the calls

Mostly there is one group. Spill-over from a priority or a zone is a share, not a mixed list: the algorithms balance
within a group.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from ..node import Node
from .priority import priority_shares
from .zone import zone_shares


class Group(NamedTuple):
    """Nodes that a share of the calls is balanced over. share: of all calls, from 0 (exclusive) to 1."""

    share: float
    nodes: tuple[Node, ...]


def is_well(node: Node) -> bool:
    return not node.out


def arrange(
    nodes: Sequence[Node],
    panic_threshold: float,
    zone: str | None = None,
    client_zones: Mapping[str, float] | None = None,
    min_zone_size: int = 6,
    each: Callable[[Sequence[Node]], Iterable[Node]] = iter,
    well: Callable[[Node], bool] = is_well,
) -> list[Group]:
    """The groups of `nodes` that are in use, the first choice first. Never empty unless `nodes` is.

    each: goes over the nodes; it may let others run meanwhile
    well: who may be called
    """
    # Weight 0 takes no traffic while others can.
    weighted = any(node.instance.weight > 0 and well(node) for node in nodes)
    levels: dict[int, tuple[list[Node], list[Node]]] = {}
    for node in each(nodes):
        instance = node.instance
        if instance.weight > 0 or not weighted:
            usable, level = levels.get(instance.priority) or levels.setdefault(instance.priority, ([], []))
            level.append(node)
            if well(node):
                usable.append(node)
    ordered = [levels[priority] for priority in sorted(levels)]
    shares = priority_shares([(len(usable), len(level)) for usable, level in ordered], panic_threshold)
    groups: list[Group] = []
    for (share, panic), (usable, level) in zip(shares, ordered, strict=True):
        if share <= 0:
            continue
        usable = level if panic else usable
        zones = None if zone is None or panic else zone_shares(usable, zone, client_zones, min_zone_size)
        if zones is None:
            groups.append(Group(share, tuple(usable)))
            continue
        for name, part in zones.items():
            groups.append(Group(share * part, tuple(node for node in usable if node.instance.zone == name)))
    return groups


__all__ = ["Group", "arrange"]
