"""Explaining a pick: which nodes were compared, what each would cost, and who was left out. Only for calls that ask for
it (`call(explain=True)`): a picker of their own is made for them, over a list that notes which nodes it looks at.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import overload

from ..balancers import Balancer
from ..node import Node
from ..reports import Candidate, Why
from .call import Call
from .states import state_of

MOST = 20  # candidates, and instances that were left out, in an explanation


Parts = dict[str, float]


class Watched(Sequence[Node]):
    """A list of nodes.

    note:       called with each node that is looked at, in that moment
    looked_at:  what it said
    """

    def __init__(self, nodes: Sequence[Node], note: Callable[[Node], Parts]) -> None:
        self._nodes = nodes
        self._note = note
        self.looked_at: dict[Node, Parts] = {}

    def __len__(self) -> int:
        return len(self._nodes)

    @overload
    def __getitem__(self, index: int) -> Node: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Node]: ...
    def __getitem__(self, index: int | slice) -> Node | Sequence[Node]:
        if isinstance(index, slice):
            return self._nodes[index]
        node = self._nodes[index]
        self.looked_at[node] = self._note(node)
        return node

    def __iter__(self) -> Iterator[Node]:
        for node in self._nodes:
            self.looked_at[node] = self._note(node)
            yield node


def noted(balancer: Balancer, call: Call, nodes: Sequence[Node]) -> Callable[[Node], Parts]:
    """What the balancer says of a node among others."""

    def note(node: Node) -> Parts:
        try:
            return dict(balancer.explain(node, nodes, call))
        except Exception as error:  # the user's code; the call does not depend on it
            return {f"{type(error).__name__} in explain": 0.0}

    return note


def why(
    balancer: Balancer,
    call: Call,
    picked: Node,
    looked_at: Mapping[Node, Parts],
    among: Sequence[Node],
    members: Sequence[Node],
) -> Why:
    """Why that node. among: the nodes that the picker chose from; members: all"""
    compared = {picked: looked_at.get(picked) or noted(balancer, call, among)(picked), **looked_at}
    candidates = [Candidate(node.instance, node is picked, parts) for node, parts in compared.items()]
    candidates.sort(key=lambda one: (not one.picked, one.parts.get("cost", 0.0)))
    chosen_from = set(among)
    left_out = [(node.instance, _reason(node, call)) for node in members if node not in chosen_from]
    return Why(balancer.name or type(balancer).__name__, tuple(candidates[:MOST]), tuple(left_out[:MOST]))


def _reason(node: Node, call: Call) -> str:
    if node in call.tried:
        return "tried by this call"
    state, because, _ = state_of(node)
    return "it does not match, or is of another group" if state == "usable" else f"{state}: {because}"
