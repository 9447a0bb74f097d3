"""Round robin: each node in turn."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random as Rng

from ..node import Node
from .base import Balancer, Picker


@dataclass(frozen=True)
class RoundRobin(Balancer):
    """Take the nodes in turn, from a random one on, so that many clients do not walk in step. Ignores weights."""

    name = "round_robin"

    def picker(self, nodes: Sequence[Node], rng: Rng) -> Picker:
        # `next` of a count is atomic: threads never get the same turn.
        turn = itertools.count(rng.randrange(len(nodes)))
        return lambda call: nodes[next(turn) % len(nodes)]
