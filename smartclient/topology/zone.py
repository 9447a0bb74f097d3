"""Zones: calls stay in the client's own zone; only the load above its capacity goes to other zones.

Envoy ("Zone aware routing"): let a zone's upstream share be that of the nodes, its client share that of the clients. If
the own zone's upstream share is at least its client share, all stays. Else upstream ÷ client share stays, and the rest
goes to the zones that have more nodes than clients, by their surplus. Off with fewer than 6 nodes
(min_cluster_size), where none is in the own zone, and in panic.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..node import Node


def zone_shares(
    nodes: Sequence[Node], own: str, clients: Mapping[str, float] | None, min_size: int
) -> dict[str | None, float] | None:
    """The share of each zone that is to be used, the own one first; None: zones do not matter.

    clients: how many clients each zone has, in any unit; None: equally many
    """
    if len(nodes) < min_size:
        return None
    capacity: dict[str | None, float] = {}
    for node in nodes:
        zone = node.instance.zone
        capacity[zone] = capacity.get(zone, 0.0) + node.instance.weight
    total = sum(capacity.values())
    if not capacity.get(own) or total <= 0:
        return None
    upstream = {zone: part / total for zone, part in capacity.items()}
    if clients is None:
        demand: dict[str | None, float] = {zone: 1 / len(upstream) for zone in upstream}
    else:
        whole = sum(clients.values()) or 1.0
        demand = {zone: clients.get(zone, 0.0) / whole for zone in upstream if zone is not None}
    mine = demand.get(own, 0.0)
    if upstream[own] >= mine - 1e-9:
        return {own: 1.0}
    stays = upstream[own] / mine
    surplus = {zone: max(0.0, part - demand.get(zone, 0.0)) for zone, part in upstream.items() if zone != own}
    if not any(surplus.values()):
        surplus = {zone: part for zone, part in upstream.items() if zone != own}
    spare = sum(surplus.values())
    if not spare:
        return {own: 1.0}
    return {own: stays, **{zone: (1 - stays) * part / spare for zone, part in surplus.items() if part > 0}}
