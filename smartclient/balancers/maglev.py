"""Maglev: consistent hashing with a lookup table, more even and faster than a ring."""

from __future__ import annotations

import itertools
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from heapq import heapify, heapreplace

from ..node import Node
from ..support.gil_breaks import GilBreaks
from ..support.hashing import hash_of
from .hashed import Hashed, Table, address
from .ring_hash import Ring, points_of

SLOTS_PER_NODE = 200
LEAST_SLOTS, GROWTH = 1 << 17, 4
LAST = 0.02  # share of the slots that is filled in the other way
MOST = 1.008  # times its share of the slots that a node has, at most
POINTS = 64  # of a node, on the ring that fills them
STEPS = 1024
MULTIPLIER, INCREMENT, MASK = 6364136223846793005, 1442695040888963407, (1 << 64) - 1  # Knuth's MMIX


@dataclass(frozen=True)
class Maglev(Hashed):
    """Calls with the same key go to the same node, from every client; if a node leaves, its keys move and few more.

    The settings are those of `RingHash`. Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load Balancer"
    (2016), §3.4; weights as in Envoy's. Up to 655 nodes the table has one size; where it must grow, at 656, 2,622
    and 10,486 nodes, nearly every key moves.
    """

    name = "maglev"

    def table(self, nodes: Sequence[Node]) -> Table:
        return Slots(nodes)


class Slots(Table):
    """The nodes fill slots in turns, each in its own order and as often as its weight says.

    In the paper they do so until the table is full. But the fuller it is, the more of a node's choices are taken, and
    the more slots of others move when a node comes or leaves: the last 5 % cause half of all moves. So the last slots
    go to the next node on a ring that is still within its share: with 200 nodes one more moves 1.7 ÷ n of the keys,
    not 2.1 ÷ n (2.4 ÷ n in a table of half the size).
    """

    def __init__(self, nodes: Sequence[Node]) -> None:
        breaks = GilBreaks()
        size = table_size(len(nodes))
        self.nodes, self.size = nodes, size
        names = [address(node) for node in breaks.each(nodes)]
        at = [hash_of(name, 1) % size for name in breaks.each(names)]
        skip = [hash_of(name, 2) % (size - 1) + 1 for name in breaks.each(names)]
        slots = array("H" if len(nodes) < 1 << 16 else "L", [0]) * size  # numbers from 1; 0: nobody's yet
        filled = [0] * len(nodes)
        weights = [node.instance.weight for node in nodes]
        steps = 0
        for number in itertools.islice(draw_order(weights), int(size * (1 - LAST))):
            slot, stride = at[number], skip[number]
            while slots[slot]:
                slot += stride
                if slot >= size:
                    slot -= size
                steps += 1
            slots[slot] = number + 1
            filled[number] += 1
            slot += stride
            at[number] = slot if slot < size else slot - size
            steps += 1
            if steps >= STEPS:
                steps = 0
                breaks()
        self.slots = slots
        self._fill_the_last(filled, weights, breaks)

    def node(self, value: int) -> Node:
        return self.nodes[self.slots[value % self.size] - 1]

    def walk(self, value: int) -> Iterator[Node]:
        # In random order, seeded by the key: the keys of a node are spread over all others. (Not by a stride: the slots
        # of a node are a stride apart, too, and one in a hundred keys would not reach it in a thousand steps.)
        while True:
            value = (value * MULTIPLIER + INCREMENT) & MASK
            yield self.nodes[self.slots[(value >> 32) % self.size] - 1]

    def _fill_the_last(self, filled: list[int], weights: Sequence[float], breaks: GilBreaks) -> None:
        slots, total = self.slots, sum(weights)
        most = [self.size * MOST * (weight / total if total else 1 / len(weights)) for weight in weights]
        ring, at = Ring(self.nodes, points_of(POINTS, len(weights))), -1
        while True:
            try:
                at = slots.index(0, at + 1)
            except ValueError:
                return
            breaks()
            for number in ring.numbers(hash_of(str(at), 3)):
                if filled[number] < most[number]:
                    slots[at] = number + 1
                    filled[number] += 1
                    break


def draw_order(weights: Sequence[float]) -> Iterator[int]:
    """The turns, without end: each node number as often as its weight says (earliest deadline first). Weight 0 gets
    none while others have a weight.
    """
    taking = [number for number, weight in enumerate(weights) if weight > 0] or list(range(len(weights)))
    if len({weights[number] for number in taking}) == 1:
        return itertools.cycle(taking)
    return _by_deadline([(1.0 / weights[number], number, 1.0 / weights[number]) for number in taking])


def _by_deadline(due: list[tuple[float, int, float]]) -> Iterator[int]:
    heapify(due)
    while True:
        when, number, between = due[0]
        yield number
        heapreplace(due, (when + between, number, between))


def table_size(count: int) -> int:
    """The smallest prime ≥ 131,072, or 4, 16, … times as much, that is ≥ 200 × nodes.

    One size is enough for most services: with another size nearly every key moves (a table
    that grew with each power of two moved 94 % of the keys from 16 to 17 nodes).
    """
    least = LEAST_SLOTS
    while least < SLOTS_PER_NODE * count:
        least *= GROWTH
    return _prime(least)


@cache
def _prime(least: int) -> int:
    number = least | 1
    while any(number % divisor == 0 for divisor in range(3, int(number**0.5) + 1, 2)):
        number += 2
    return number
