"""The power of two choices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random as Rng

from ..node import Node
from .base import LIGHTEST, Balancer, PickCall, Picker, pair_drawer


@dataclass(frozen=True)
class PowerOfTwoChoices(Balancer):
    """Draw two different nodes by weight, take the second if it would be no busier with the call, per weight.

    Exponentially better than one random choice, at the same cost (Mitzenmacher 2001; Envoy: least_request).
    """

    name = "p2c"

    def explain(self, node: Node, nodes: Sequence[Node], call: PickCall) -> dict[str, float]:
        busy = (node.in_flight + 1) / (node.weight or LIGHTEST)
        return {"cost": busy, "in flight": node.in_flight, "weight": node.weight}

    def picker(self, nodes: Sequence[Node], rng: Rng) -> Picker:
        if len(nodes) == 1:
            return lambda call: nodes[0]
        draw = pair_drawer(nodes, rng)

        def pick(call: object) -> Node:
            first, second = draw()
            # With equal weights: the one with fewer in flight. Without the + 1 light nodes would take the calls of
            # heavy ones that have just one in flight, 2 to 4 times their share. The first was drawn by weight: if
            # both are idle, shares are right.
            return second if (second.in_flight + 1) * first.weight <= first.in_flight * second.weight else first

        return pick
