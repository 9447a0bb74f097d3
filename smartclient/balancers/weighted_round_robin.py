"""Weighted round robin: each node in turn, as often as its weight says, evenly spread."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from heapq import heapify, heapreplace
from random import Random as Rng

from ..node import Node
from ..support.gil_breaks import GilBreaks
from .base import Balancer, Picker

LEAST_WEIGHT = 1e-9


@dataclass(frozen=True)
class WeightedRoundRobin(Balancer):
    """Earliest deadline first (Envoy's EDF scheduler): the node that is due next, due again after 1 ÷ weight.

    O(log n) a pick; nginx's smooth round robin, which gives the same order, looks at every node. Weights are read at
    each turn, so a node that warms up gets its share without a new schedule. Begins at random phases, so that many
    clients do not walk in step.
    """

    name = "weighted_round_robin"
    live_weights = True

    def picker(self, nodes: Sequence[Node], rng: Rng) -> Picker:
        return Schedule(nodes, rng)


class Schedule:
    """Nodes by the time they are due."""

    def __init__(self, nodes: Sequence[Node], rng: Rng) -> None:
        breaks = GilBreaks()
        self._due: list[tuple[float, int, Node]] = []
        for number, node in enumerate(nodes):
            # The number makes entries comparable, and ties fair.
            self._due.append((rng.random() / max(node.weight, LEAST_WEIGHT), number, node))
            if not number % 256:
                breaks()
        heapify(self._due)
        self._lock = threading.Lock()

    def __call__(self, call: object) -> Node:
        with self._lock:
            due, number, node = self._due[0]
            heapreplace(self._due, (due + 1.0 / max(node.weight, LEAST_WEIGHT), number, node))
        return node
