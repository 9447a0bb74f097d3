"""Membership: what a new list from discovery changes. Known servers keep their node and its history.

A registration is not a server: one address under four ids is one node, otherwise round robin would give it four shares,
and three attempts of a call might all go to it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from heapq import merge
from typing import NamedTuple

from ..instance import MOST_WEIGHT, Instance
from ..node import Node, identity_of
from ..support.gil_breaks import GilBreaks

CHUNK = 500
HEAVIEST = 1e6  # weight: lists with heavier ones are scaled down to it


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


def servers_of(
    instances: Iterable[Instance], by_id: bool, breaks: GilBreaks, several: Callable[[Instance, list[Instance]], None]
) -> dict[str, Instance]:
    """The servers that a list names, by their identity: weights are added if one is registered several times, and all
    weights are scaled down if one exceeds HEAVIEST (xDS has 32-bit weights).

    several:  told of each server that has several registrations
    """
    servers: dict[str, Instance] = {}
    more: dict[str, list[Instance]] = {}
    for instance in breaks.each(instances):
        key = identity_of(instance, by_id)
        first = servers.setdefault(key, instance)
        if first is not instance and first != instance:
            more.setdefault(key, [first]).append(instance)
    for key, registrations in more.items():
        servers[key] = _together(registrations)
        if len(registrations) > 1:
            several(servers[key], registrations)
    heaviest = max((instance.weight for instance in breaks.each(servers.values())), default=0.0)
    if heaviest > HEAVIEST:
        factor = HEAVIEST / heaviest
        servers = {key: replace(one, weight=one.weight * factor) for key, one in breaks.each(servers.items())}
    return servers


def _together(registrations: list[Instance]) -> Instance:
    """One instance for all: the first by its id, with the weights of all. (An id that comes twice counts once.)"""
    registrations.sort(key=lambda instance: instance.id or "")
    by_id: dict[object, Instance] = {}
    for number, instance in enumerate(registrations):
        by_id.setdefault(instance.id if instance.id is not None else number, instance)
    registrations[:] = by_id.values()
    return replace(registrations[0], weight=min(sum(one.weight for one in registrations), MOST_WEIGHT))


def compare(before: Iterable[Node], servers: Mapping[str, Instance], make: Callable[[str, Instance], Node],
            breaks: GilBreaks) -> Change:  # fmt: skip
    """The change a list makes. make: a node for a new server; breaks: lets others run now and then."""
    known = {node.identity: node for node in breaks.each(before)}
    kept: dict[str, Node] = {}
    added: list[str] = []
    altered = []
    for key, instance in breaks.each(servers.items()):
        node = known.get(key)
        if node is None:
            node = make(key, instance)
            added.append(key)
        elif node.instance != instance:
            altered.append((node, instance))
        kept[key] = node
    order = [key for key in breaks.each(known) if key in kept]
    # Two runs, each in order: to sort ten thousand that are not would hold the interpreter for several milliseconds.
    runs = [sorted(added[at : at + CHUNK]) for at in breaks.each(range(0, len(added), CHUNK))]
    order += breaks.each(merge(*runs))
    order.sort()
    return Change(
        tuple(kept[key] for key in breaks.each(order)),
        tuple(kept[key] for key in breaks.each(added)),
        [node for key, node in breaks.each(known.items()) if key not in kept],
        tuple(altered),
    )
