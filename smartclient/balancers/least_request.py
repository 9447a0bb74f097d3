"""Least request: look at every node, take the least busy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random as Rng

from ..node import Node
from .base import Balancer, Picker, index_drawer


@dataclass(frozen=True)
class LeastRequest(Balancer):
    """Take the node with the fewest calls in flight per weight; ties are broken at random, by weight.

    A full scan, O(n) a pick (gRPC A48 and Envoy draw two instead: `PowerOfTwoChoices`).
    """

    name = "least_request"

    def picker(self, nodes: Sequence[Node], rng: Rng) -> Picker:
        draw = index_drawer([node.weight for node in nodes], rng)

        def pick(call: object) -> Node:
            # The scan starts at a node drawn by weight, else idle fleets would send everything to the first.
            start = draw()
            best = nodes[start]
            in_flight, weight = best.in_flight, best.weight
            for offset in range(start - len(nodes) + 1, start):
                if not in_flight:
                    break
                node = nodes[offset]
                if node.in_flight * weight < in_flight * node.weight:
                    best, in_flight, weight = node, node.in_flight, node.weight
            return best

        return pick
