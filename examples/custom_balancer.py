"""A balancing algorithm of your own: one frozen dataclass with one method. Here, the instance with the lowest port
first.

python examples/custom_balancer.py
"""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from smartclient import Balancer, Client, Node, Picker, Policy, report
from smartclient.testing import Fleet


@dataclass(frozen=True)
class LowestPort(Balancer):
    """Take the lowest port that has fewer than `limit` calls in flight; the least busy one if none has."""

    limit: int = 2

    def picker(self, nodes: Sequence[Node], rng: Random) -> Picker:
        ordered = sorted(nodes, key=lambda node: node.instance.port or 0)

        def pick(call: object) -> Node:
            free = (node for node in ordered if node.in_flight < self.limit)
            return next(free, None) or min(ordered, key=lambda node: node.in_flight)

        return pick


with Fleet(3) as fleet, Client({"orders": fleet.addresses}, policy=Policy(balancer=LowestPort())) as client:
    for _ in range(3):
        print(report(client.get("http://orders/")))
