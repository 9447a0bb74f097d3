"""Priorities with spill-over: the next level takes the load that the previous one can no longer take.

Envoy ("Priority levels", "Degraded endpoints and panic"): the health of a level is its healthy share × 1.4
(overprovisioning factor), at most 1. The levels take traffic in order, each up to its health, until all is
assigned. If all of them together cannot take it, their shares are scaled up, and a level with fewer healthy nodes than
the panic threshold uses all its nodes.
"""

from __future__ import annotations

from collections.abc import Sequence

OVERPROVISIONING = 1.4


def priority_shares(levels: Sequence[tuple[int, int]], panic_threshold: float) -> list[tuple[float, bool]]:
    """The share of each level, and whether it is in panic.

    levels: (healthy nodes, nodes) of each, the first to be used first
    """
    health = [min(1.0, OVERPROVISIONING * well / count) for well, count in levels]
    total = min(1.0, sum(health))
    if total == 0.0:  # nobody is well: all of the first level
        return [(1.0, True)] + [(0.0, True)] * (len(levels) - 1)
    left = 1.0
    shares = []
    for (well, count), part in zip(levels, health, strict=True):
        share = min(left, part / total)
        left -= share
        # If the levels can take all traffic, there is no panic.
        panic = total < 1.0 and well < panic_threshold * count
        shares.append((0.0 if share < 1e-9 else share, panic))
    return shares
