"""Uniform or weighted random choice: no state, no herd, the baseline everything else is measured against."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random as Rng

from ..node import Node
from .base import Balancer, Picker, drawer


@dataclass(frozen=True)
class Random(Balancer):
    """Take a node at random, with a probability proportional to its weight."""

    name = "random"

    def picker(self, nodes: Sequence[Node], rng: Rng) -> Picker:
        draw = drawer(nodes, rng)
        return lambda call: draw()
