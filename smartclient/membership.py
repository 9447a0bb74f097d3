"""Membership: what a new list from discovery changes. Known instances keep their node and its history."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from heapq import merge
from typing import NamedTuple

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
    removed: tuple[Node, ...]
    altered: tuple[tuple[Node, Instance], ...]

    def __bool__(self) -> bool:
        return bool(self.added or self.removed or self.altered)


def compare(before: Iterable[Node], instances: Iterable[Instance], make: Callable[[Instance], Node],
            breathe: Callable[[], None]) -> Change:  # fmt: skip
    """The change a list makes. make: a node for a new instance; breathe: called now and then, to let others run."""
    known: dict[tuple[object, ...], Node] = {}
    for node in before:
        known[identity(node.instance)] = node
        breathe()
    added: list[tuple[str, Node]] = []
    altered, seen = [], set()
    for instance in instances:
        breathe()
        key = identity(instance)
        if key in seen:
            continue
        seen.add(key)
        node = known.get(key)  # type: ignore[assignment]
        if node is None:
            added.append((str(key), make(instance)))
        elif node.instance != instance:
            altered.append((node, instance))
    keyed, removed = [], []
    for key, node in known.items():
        breathe()
        if key in seen:
            keyed.append((str(key), node))
        else:
            removed.append(node)
    # Two runs, each in order: to sort ten thousand that are not would hold the interpreter for several milliseconds.
    for at in range(0, len(added), CHUNK):
        added[at : at + CHUNK] = sorted(added[at : at + CHUNK], key=_first)
        breathe()
    for pair in merge(*(added[at : at + CHUNK] for at in range(0, len(added), CHUNK)), key=_first):
        keyed.append(pair)
        breathe()
    keyed.sort(key=_first)
    breathe()
    return Change(tuple(node for _, node in keyed), tuple(node for _, node in added), tuple(removed), tuple(altered))


def _first(pair: tuple[str, Node]) -> str:
    return pair[0]
