"""Least request: look at every node, take the least busy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random as Rng

from ..node import Node
from .base import LIGHTEST, Balancer, PickCall, Picker, index_drawer


@dataclass(frozen=True)
class LeastRequest(Balancer):
    """Take the node with the fewest calls in flight per weight; ties are broken at random, by weight.

    A full scan, O(n) a pick (gRPC A48 and Envoy draw two instead: `PowerOfTwoChoices`).
    """

    name = "least_request"

    def explain(self, node: Node, nodes: Sequence[Node], call: PickCall) -> dict[str, float]:
        busy = (node.in_flight + 1) / (node.weight or LIGHTEST)
        return {"cost": busy, "in flight": node.in_flight, "weight": node.weight}

    def picker(self, nodes: Sequence[Node], rng: Rng) -> Picker:
        draw = index_drawer([node.weight for node in nodes], rng)

        def pick(call: object) -> Node:
            # One is drawn by weight. Another takes its place if even with the call it is no busier: so light nodes do
            # not take the calls of heavy ones that have just one in flight.
            drawn = nodes[draw()]
            if not drawn.in_flight:
                return drawn
            least = drawn.in_flight / (drawn.weight or LIGHTEST)
            # All least busy nodes, not the first: else that one would get the share of every busy node.
            best: list[Node] = []
            for node in nodes:
                busy = (node.in_flight + 1) / (node.weight or LIGHTEST)
                if busy < least:
                    best, least = [node], busy
                elif busy == least:
                    best.append(node)
            if len(best) < 2:
                return best[0] if best else drawn
            return rng.choices(best, [node.weight or LIGHTEST for node in best])[0]

        return pick
