"""Maglev: consistent hashing by a lookup table, more even than a ring and quicker to ask."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ..breath import Breath
from ..hashing import hash_of
from ..node import Node
from .hashed import Hashed, Table, address

SLOTS_PER_NODE = 100
LEAST_SLOTS = 1009
STEPS = 1024


@dataclass(frozen=True)
class Maglev(Hashed):
    """Calls with the same key go to the same node, from every client; a node that goes moves its own keys and few more.

    The settings are those of `RingHash`. Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load Balancer"
    (2016), §3.4; weights as in Envoy's.
    """

    name = "maglev"

    def table(self, nodes: Sequence[Node]) -> Table:
        return Slots(nodes)


class Slots(Table):
    """Each node fills slots in an order of its own, in turns as often as its weight says."""

    def __init__(self, nodes: Sequence[Node]) -> None:
        breathe = Breath()
        size = table_size(len(nodes))
        self._nodes, self._size = nodes, size
        slots = array("l", [-1]) * size
        weights = [node.instance.weight for node in nodes]
        heaviest = max(weights) or 1.0
        names = [address(node) for node in breathe.each(nodes)]
        at = [hash_of(name, 1) % size for name in breathe.each(names)]
        skip = [hash_of(name, 2) % (size - 1) + 1 for name in breathe.each(names)]
        credit = [0.0] * len(nodes)
        left, steps = size, 0
        while left:
            for number, weight in enumerate(weights):
                credit[number] += weight / heaviest if any(weights) else 1.0
                if credit[number] < 1.0:
                    continue
                credit[number] -= 1.0
                slot = at[number]
                while slots[slot] >= 0:
                    slot = (slot + skip[number]) % size
                    steps += 1
                    if not steps % STEPS:  # towards the end the walks are long
                        breathe()
                slots[slot] = number
                at[number] = (slot + skip[number]) % size
                breathe()
                left -= 1
                if not left:
                    break
        self._slots = slots

    def node(self, value: int) -> Node:
        return self._nodes[self._slots[value % self._size]]

    def walk(self, value: int) -> Iterator[Node]:
        # By a stride of the key's own, so that the keys of one node are spread over all others.
        slot, stride = value % self._size, (value >> 32) % (self._size - 1) + 1
        for _ in range(self._size - 1):
            slot = (slot + stride) % self._size
            yield self._nodes[self._slots[slot]]


def table_size(count: int) -> int:
    """The smallest prime ≥ 100 × nodes, and ≥ 1009.

    With the nodes rounded up to a power of two: another size is another table, and nearly every key would move with
    every node that comes or goes.
    """
    rounded = count if count <= LEAST_SLOTS // SLOTS_PER_NODE else 1 << (count - 1).bit_length()
    return _prime(max(SLOTS_PER_NODE * rounded, LEAST_SLOTS))


def _prime(least: int) -> int:
    number = least | 1
    while any(number % divisor == 0 for divisor in range(3, int(number**0.5) + 1, 2)):
        number += 2
    return number
