"""Nodes that get far more than their share, and why: operators should see it, for no rule of a balancer can help there.

1. A node that answers much quicker than its peers draws the calls. In a fleet of mixed speeds that is right; an empty
   200 from a node that does no work looks the same.
2. A table without a bound gives a popular key's node all of its calls: under Zipf's law the p99 is 250 times that of
   a table with `bound=1.25`.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import exp, log

from ..node import Node
from .base import PickCall
from .shares import even_picks

QUICKER, TIMES_ITS_SHARE = log(10.0), 3.0  # than the median; of an even share
FEWEST_PICKS = 100.0
CROWDED = 8  # calls in flight: with fewer a node is not looked at
TIMES_ITS_LOAD = 4.0  # of an even share of the calls in flight
LOOKS, BETWEEN = 3, 1.0  # in a row; seconds: a burst is soon over


def remark_on_quick(call: PickCall, nodes: Sequence[Node], usual: float) -> None:
    """Remark on the quickest node if it draws the calls. usual: the logarithm of the median's latency"""
    if not [node for node in nodes if node.memory.count and usual - node.memory.mean > QUICKER]:
        return
    picks = sum(node.memory.picks for node in nodes)
    for node, even in zip(nodes, even_picks(nodes), strict=True):
        memory = node.memory
        quicker = usual - memory.mean
        if picks >= FEWEST_PICKS and memory.count and quicker > QUICKER and memory.picks > TIMES_ITS_SHARE * even:
            call.remark(node, memory.picks / picks, f"it answers {exp(quicker):.0f} times quicker than its "
                        "peers; right if its machine is, wrong if it answers without doing the work")  # fmt: skip
            return


class Crowding:
    """Whether one node of a table without a bound has far more calls in flight than its share."""

    def __init__(self, nodes: Sequence[Node]) -> None:
        self._nodes = nodes
        self._due = 0.0
        self._last: Node | None = None
        self._row = 0

    def observe(self, call: PickCall, node: Node) -> None:
        """A call's key belongs to a node that has many in flight."""
        if call.now < self._due:
            return
        self._due = call.now + BETWEEN
        in_flight = sum(one.in_flight for one in self._nodes)
        weights = sum(one.weight for one in self._nodes)
        even = in_flight * (node.weight / weights if weights else 1 / len(self._nodes))
        if node.in_flight <= TIMES_ITS_LOAD * even:
            self._row = 0
            return
        self._row = self._row + 1 if node is self._last else 1
        self._last = node
        if self._row >= LOOKS:
            call.remark(node, node.in_flight / in_flight, "a few keys have most of the calls; `bound=1.25` would "
                        "give the next instances what is too much for it")  # fmt: skip
