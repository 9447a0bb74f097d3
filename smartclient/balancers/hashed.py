"""What the balancers that hash have in common: a key, a table over all members, a walk while a node cannot be used."""

from __future__ import annotations

import itertools
import math
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import KW_ONLY, dataclass
from random import Random as Rng
from typing import ClassVar

from ..node import Node
from ..support.checks import number, optional, setting
from ..support.hashing import hash_of
from .base import Balancer, PickCall, Picker
from .favoured import CROWDED, Crowding
from .hash_on import HashOn, Missing, hash_key, key_of
from .power_of_two import PowerOfTwoChoices

MOST_STEPS = 1024  # of a walk: after so many unusable nodes a random one is better


@dataclass(frozen=True)
class Hashed(Balancer):
    """hash_on and bound: see `RingHash`."""

    hash_on: HashOn = setting("key", hash_key)
    _: KW_ONLY
    bound: float | None = setting(None, optional(number("a number from 1 up", lambda value: value >= 1)))

    over_members: ClassVar[bool] = True
    keyed: ClassVar[bool] = True

    @abstractmethod
    def table(self, nodes: Sequence[Node]) -> Table:
        """The table of these nodes (at least two, in an order that is the same for the same nodes)."""

    def key(self, call: PickCall) -> str | None:
        return key_of(self.hash_on, "hash_on")(call)

    def picker(self, nodes: Sequence[Node], rng: Rng) -> Picker:
        if len(nodes) == 1:
            return lambda call: nodes[0]
        table = self.table(sorted(nodes, key=address))
        read, missing = key_of(self.hash_on, "hash_on"), Missing(self.hash_on)
        others = PowerOfTwoChoices().picker(nodes, rng)
        crowding, crowded = Crowding(nodes), CROWDED if self.bound is None else math.inf

        def pick(call: PickCall) -> Node:
            key = read(call)
            if key is None:
                missing(call)
                for _ in range(4):
                    node = others(call)
                    if call.usable(node):
                        return node
                return next((node for node in nodes if call.usable(node)), node)
            value = hash_of(key)
            node = table.node(value)
            if node.in_flight >= crowded:
                crowding.observe(call, node)
            if call.usable(node):
                return node
            first, seen = node, {node}
            for node in itertools.islice(table.walk(value), MOST_STEPS):
                if node not in seen:
                    if call.usable(node):
                        return node
                    seen.add(node)
                    if len(seen) == len(nodes):
                        break
            return first

        return pick


class Table:
    """Nodes by hash value."""

    def node(self, value: int) -> Node:
        """The node of a value."""
        raise NotImplementedError

    def walk(self, value: int) -> Iterator[Node]:
        """The nodes after it, each sooner or later."""
        raise NotImplementedError


def address(node: Node) -> str:
    """What is hashed for a node: the same for every client, whatever id its registry gives the instance."""
    return f"{node.instance.host}:{node.instance.port}"
