"""Least request: look at every node, take the least busy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random as Rng

from ..node import Node
from .base import Balancer, Picker


@dataclass(frozen=True)
class LeastRequest(Balancer):
    """Take the node with the fewest calls in flight per weight; ties are broken at random.

    A full scan, O(n) a pick (gRPC A48 and Envoy draw two instead: `PowerOfTwoChoices`).
    """

    name = "least_request"

    def picker(self, nodes: Sequence[Node], rng: Rng) -> Picker:
        random = rng.random

        def pick(call: object) -> Node:
            # The scan starts at a random node, else idle fleets would send everything to the first.
            start = int(random() * len(nodes))
            best = nodes[start]
            least = (best.in_flight + 1) / best.weight if best.weight else float("inf")
            for offset in range(start - len(nodes) + 1, start):
                node = nodes[offset]
                load = (node.in_flight + 1) / node.weight if node.weight else float("inf")
                if load < least:
                    best, least = node, load
            return best

        return pick
