"""Shares: what the nodes of a fleet have had of the calls, and who is owed some, or has had enough.

Reckoned from what `AdaptiveMemory` counts; the rules and their figures are in `adaptive`.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import log

from ..node import Node
from .base import PickCall

WINDOW = 50.0  # calls per node over which picks are counted
ALIKE, FAR = 0.9, 3.0  # standard errors: the mean distance in a fleet of equals; a greater one than that is no chance
NEAR = log(1.25)  # nodes of equals that differ by less are as quick, however sure the difference is
OUT_OF_SIGHT = 50.0  # calls per node after which what is known of a node is worth half as much
PATIENCE = 35  # calls per node before anybody is owed a call: the first few say little
OWED_COST = 5.0  # times the best node's cost that an owed one may have
MOST_OWED = 12  # calls at once
SEVERAL = 3.0  # calls in flight: so many hardly slow each other down
INTENT = 1.5  # times its weight's share


def even_picks(nodes: Sequence[Node]) -> list[float]:
    """How many of all their picks each would have had by its weight."""
    share = sum(node.memory.picks for node in nodes) / (sum(node.weight for node in nodes) or 1.0)
    return [share * node.weight for node in nodes]


def differ(nodes: Sequence[Node]) -> bool:
    """Whether the weights of the instances differ by more than a cap would allow. (A slow start is no intent.)"""
    weights = [node.instance.weight for node in nodes]
    return max(weights) > INTENT * min(weights)


def orders_of_alike(nodes: Sequence[Node]) -> list[list[Node]]:
    """Orders in which to compare nodes of one weight: each begins with another, since of equals the first is taken."""
    if len({node.weight for node in nodes}) != 1:
        return []
    return [[*nodes[first:], *nodes[:first]] for first in range(len(nodes))]


def calls_so_far(nodes: Sequence[Node]) -> float:
    """How many calls these nodes have had from an earlier picker: lists change, and what is known is not lost."""
    most = WINDOW * len(nodes)
    return -most * log(1.0 - min(sum(node.memory.picks for node in nodes) / most, 0.99))


def owed_nodes(nodes: Sequence[Node], noise: float) -> list[Node]:
    """The nodes that are owed a call, each as often as it is. noise: the standard deviation of a latency's logarithm"""
    picks = sum(node.memory.picks for node in nodes)
    measured = [(node, expected) for node, expected in zip(nodes, even_picks(nodes), strict=True) if node.memory.count]
    if not picks or not measured:
        return []
    # Latencies where the calls go, without what their load adds.
    usual = sum(node.memory.picks * _unloaded(node) for node, _ in measured) / picks
    distances = [(_unloaded(node) - usual) / node.memory.error(noise) for node, _ in measured]
    if sum(min(abs(distance), FAR) for distance in distances) >= ALIKE * len(measured):
        return []
    owed: list[Node] = []
    for (node, expected), distance in zip(measured, distances, strict=True):
        memory = node.memory
        missing = expected - memory.picks
        if missing < 1.0 or memory.penalty:
            continue
        if distance <= FAR or memory.believed - usual < NEAR:
            # No more than it has shown already: what is known of it grows by doubling.
            owed += [node] * min(int(missing), MOST_OWED, max(int(memory.count), 1))
        elif distance <= FAR * (1.0 + memory.missed / OUT_OF_SIGHT):
            owed.append(node)
    return owed


def owed_or(owed: list[Node], best: Node, least: float, call: PickCall) -> Node:
    """A node that is owed a call, unless a call would wait there; else the best one. least: the best one's cost"""
    try:
        node = owed.pop()
    except IndexError:  # another thread took it
        return best
    fits = node.in_flight <= best.in_flight and node.memory.cost * (node.in_flight + 1) <= OWED_COST * least
    return node if fits and call.usable(node) else best


def intended(nodes: Sequence[Node], factors: list[float]) -> list[float]:
    """Where weights differ: the factors of the draw, none above its weight's, and 0 for who has had enough."""
    left = [node.memory.picks <= INTENT * even + 1.0 for node, even in zip(nodes, even_picks(nodes), strict=True)]
    if not any(left):
        return factors
    return [min(factor, 1.0) if has_left else 0.0 for factor, has_left in zip(factors, left, strict=True)]


def _unloaded(node: Node) -> float:
    return float(node.memory.believed) - log(max(node.memory.load / SEVERAL, 1.0))
