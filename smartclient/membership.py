"""Membership: what a new list from discovery changes. Known instances keep their node and its history."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

from .instance import Instance
from .node import Node, identity


class Change(NamedTuple):
    """A new list, compared with the nodes there are.

    nodes:    the members from now on, in an order of our own: that of the source may change with every answer
    added:    new ones among them
    removed:  those that are gone
    altered:  instances whose weight, metadata, … changed, with their nodes
    """

    nodes: tuple[Node, ...]
    added: tuple[Node, ...]
    removed: tuple[Node, ...]
    altered: tuple[tuple[Node, Instance], ...]

    def __bool__(self) -> bool:
        return bool(self.added or self.removed or self.altered)


def compare(before: Iterable[Node], instances: Iterable[Instance], make: Callable[[Instance], Node],
            breathe: Callable[[], None]) -> Change:  # fmt: skip
    """The change a list makes. make: a node for a new instance; breathe: called now and then, to let others run."""
    left = {identity(node.instance): node for node in before}
    keyed: list[tuple[str, Node]] = []
    added, altered, seen = [], [], set()
    for instance in instances:
        key = identity(instance)
        if key in seen:
            continue
        seen.add(key)
        node = left.pop(key, None)
        if node is None:
            node = make(instance)
            added.append(node)
        elif node.instance != instance:
            altered.append((node, instance))
        keyed.append((str(key), node))
        breathe()
    keyed.sort(key=_first)
    return Change(tuple(node for _, node in keyed), tuple(added), tuple(left.values()), tuple(altered))


def _first(pair: tuple[str, Node]) -> str:
    return pair[0]
