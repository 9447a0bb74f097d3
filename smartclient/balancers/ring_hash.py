"""Ring hash: consistent hashing with virtual nodes, as ketama does it."""

from __future__ import annotations

import itertools
from array import array
from bisect import bisect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ..node import Node
from ..support.checks import count, setting
from ..support.gil_breaks import GilBreaks
from ..support.hashing import hash_of
from .hashed import Hashed, Table, address

MOST_POINTS = 200_000  # on a ring: more nodes have fewer each, at least LEAST
LEAST = 8
BUCKETS = 1024
NUMBER = 32  # bits
LAST = (1 << NUMBER) - 1


@dataclass(frozen=True)
class RingHash(Hashed):
    """Calls with the same key go to the same node, from every client; if a node leaves, only its own keys move.

    hash_on:  what is hashed: "key" (`call(hash_key=…)`), "header:NAME", "cookie:NAME", "query:NAME", "path", "ip", or a
              function of the request. Calls without it use the power of two choices
    bound:    a node takes at most this times the average of calls in flight (by weight); others go to the next nodes
              (Mirrokni, Thorup, Zadimoghaddam 2016; Vimeo, HAProxy: 1.25). None: no bound
    points:   virtual nodes of a node of average weight (ketama: 160)

    An unusable node is skipped: its keys are spread over the others, and return when it does.
    """

    points: int = setting(160, count(most=100_000))

    name = "ring_hash"

    def table(self, nodes: Sequence[Node]) -> Table:
        return Ring(nodes, points_of(self.points, len(nodes)))


def points_of(points: int, count: int) -> int:
    """How many points each of so many nodes has."""
    return max(min(points, MOST_POINTS // count), min(points, LEAST))


class Ring(Table):
    """Points on a circle of 2⁶⁴; a value belongs to the next point."""

    def __init__(self, nodes: Sequence[Node], points: int) -> None:
        breaks = GilBreaks()
        total = sum(node.instance.weight for node in nodes)
        # In buckets by their highest bits: to sort all at once would hold the interpreter for a second.
        # Whole numbers, not pairs: the garbage collector would go through all of them, again and again.
        buckets: list[list[int]] = [[] for _ in range(BUCKETS)]
        for number, node in enumerate(nodes):
            share = node.instance.weight * len(nodes) / total if total else 1.0
            name = address(node)
            for turn in range(max(1, round(points * share)) if share else 0):
                value = hash_of(f"{name}#{turn}")
                buckets[value >> 54].append(value << NUMBER | number)
                breaks()
        self._nodes = nodes
        self._values, self._numbers = array("Q"), array("L")
        for bucket in buckets:
            for point in sorted(bucket):
                self._values.append(point >> NUMBER)
                self._numbers.append(point & LAST)
            bucket.clear()
            breaks()

    def node(self, value: int) -> Node:
        return self._nodes[self._numbers[bisect(self._values, value) % len(self._values)]]

    def walk(self, value: int) -> Iterator[Node]:
        return (self._nodes[number] for number in itertools.islice(self.numbers(value), 1, None))

    def numbers(self, value: int) -> Iterator[int]:
        """The numbers of the nodes from a value on."""
        start, count = bisect(self._values, value), len(self._values)
        for step in range(count):
            yield self._numbers[(start + step) % count]
