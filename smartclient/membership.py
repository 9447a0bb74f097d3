"""Membership: what a new list from discovery changes. Known instances keep their node and its history."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from heapq import merge
from typing import NamedTuple

from .breath import Breath
from .instance import Instance
from .node import Node, identity

CHUNK = 500


class Change(NamedTuple):
    """A new list, compared with the nodes there are.

    nodes:    the members from now on, in an order of our own: that of the source may change with every answer
    added:    new ones among them
    removed:  those that are gone
    altered:  instances whose weight, metadata, … changed, with their nodes
    """

    nodes: tuple[Node, ...]
    added: tuple[Node, ...]
    removed: list[Node]
    altered: tuple[tuple[Node, Instance], ...]

    def __bool__(self) -> bool:
        return bool(self.added or self.removed or self.altered)


def compare(before: Iterable[Node], instances: Iterable[Instance], make: Callable[[Instance], Node],
            breath: Breath) -> Change:  # fmt: skip
    """The change a list makes. make: a node for a new instance; breath: lets others run now and then."""
    known = {node.identity: node for node in breath.each(before)}
    kept: dict[str, Node] = {}
    added: list[str] = []
    altered = []
    for instance in breath.each(instances):
        key = identity(instance)
        if key in kept:
            continue
        node = known.get(key)
        if node is None:
            node = make(instance)
            added.append(node.identity)
        elif node.instance != instance:
            altered.append((node, instance))
        kept[node.identity] = node
    order = [key for key in breath.each(known) if key in kept]
    # Two runs, each in order: to sort ten thousand that are not would hold the interpreter for several milliseconds.
    runs = [sorted(added[at : at + CHUNK]) for at in breath.each(range(0, len(added), CHUNK))]
    order += breath.each(merge(*runs))
    order.sort()
    return Change(
        tuple(kept[key] for key in breath.each(order)),
        tuple(kept[key] for key in breath.each(added)),
        [node for key, node in breath.each(known.items()) if key not in kept],
        tuple(altered),
    )
