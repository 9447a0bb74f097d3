"""Choosing: from the members of a service to the node of one attempt.

A first attempt asks the shared picker of the current choice, without a lock. A retry, a call with `require` or
`prefer`, and a pick that has just become unusable go to a throw-away picker over fitting candidates, since the shared
one must not move for them: two nodes, round robin, one failing, and every first attempt would go to the same node.
"""

from __future__ import annotations

import itertools
import math
from bisect import bisect
from collections.abc import Callable, Mapping, Sequence
from random import Random as Rng
from typing import Any, NamedTuple

from .balancers import Balancer, PickCall, Picker, Random
from .call import Call
from .events import logger
from .node import Node
from .policy import Policy
from .topology import Group, arrange

Metadata = Mapping[str, str]
MANY = 64  # with more nodes than this a retry looks at a sample, not at all of them
FILTERS = 64  # preferences whose pickers are kept


class Unavailable(Exception):
    """No node to pick. The flow turns it into the flavour's `NoInstances`."""


class Choice(NamedTuple):
    """Who may be picked, and how; immutable, replaced whole.

    picker:   of first attempts, over all groups
    filtered: pickers of first attempts with a preference
    weight:   of all nodes in the groups
    """

    groups: tuple[Group, ...]
    picker: Picker
    filtered: dict[Any, Picker]
    weight: float

    @property
    def nodes(self) -> tuple[Node, ...]:
        """Those in use."""
        return self.groups[0].nodes if len(self.groups) == 1 else tuple(n for group in self.groups for n in group.nodes)


class Chooser:
    """The balancer of one service at work."""

    def __init__(self, service: str, policy: Policy, zone: str | None, rng: Rng) -> None:
        assert isinstance(policy.balancer, Balancer)
        self.balancer = policy.balancer.for_service()
        self._service = service
        self._policy = policy
        self._zone = policy.zone or zone
        self._rng = rng
        self._table: tuple[tuple[Node, ...], Picker] | None = None

    # ---- making a choice ----

    def groups(self, nodes: Sequence[Node]) -> tuple[Group, ...]:
        """Who of the members is in use, by health, priority and zone."""
        policy = self._policy
        return tuple(
            arrange(nodes, policy.panic_threshold, self._zone, policy.client_zones, policy.min_zone_size)
            if nodes
            else ()
        )

    def choice(self, nodes: tuple[Node, ...], groups: tuple[Group, ...], first: bool, rebuild: bool) -> Choice:
        """Make the pickers: may be slow, and the user's code. first: nothing has been made before."""
        if self.balancer.over_members:
            table = self._table
            if rebuild or table is None or table[0] != nodes:
                self._table = table = (nodes, self._made(nodes, first))
            picker = table[1]
        else:
            pickers = [self._made(group.nodes, first) for group in groups]
            picker = pickers[0] if len(pickers) == 1 else _shared_out(groups, pickers, self._rng)
        return self._choice(groups, picker)

    def stopgap(self, groups: tuple[Group, ...]) -> Choice:
        """At random, until a slow picker is made."""
        pickers = [Random().picker(group.nodes, self._rng) for group in groups]
        return self._choice(groups, _shared_out(groups, pickers, self._rng))

    def _choice(self, groups: tuple[Group, ...], picker: Picker) -> Choice:
        weight = sum(node.instance.weight for group in groups for node in group.nodes)
        return Choice(groups, picker, {}, weight)

    def _made(self, nodes: tuple[Node, ...], first: bool) -> Picker:
        try:
            return self.balancer.picker(nodes, self._rng)
        except Exception:
            if first:
                raise  # it never worked: say so at once
            logger.exception("%s: %r made no picker; nodes are picked at random", self._service, self.balancer)
            return Random().picker(nodes, self._rng)

    # ---- picking ----

    def pick(self, call: Call, choice: Choice, members: tuple[Node, ...], in_flight: int) -> Node:
        """The node of the call's next attempt. Raises Unavailable. in_flight: of all nodes together."""
        options, policy, balancer = call.options, self._policy, self.balancer
        require = options.require or (policy.require and _asked(policy.require, call))
        prefer = options.prefer or (policy.prefer and _asked(policy.prefer, call))
        if balancer.over_members:
            bound = None if balancer.bound is None else self._bound(choice, in_flight + 1)
            for wanted in ({**(require or {}), **prefer}, require) if prefer else (require,):
                call.within = _both(bound, wanted)
                node = choice.picker(call)
                if call.usable(node):
                    return node
        elif not (require or prefer):
            if call.attempt == 1:
                node = choice.picker(call)
                if not (node.excluded or node.removed):
                    return node
            if len(members) > MANY:  # a look at all of them would take a while
                nodes = choice.groups[0].nodes
                found = [node for node in self._rng.sample(nodes, min(MANY // 2, len(nodes))) if call.usable(node)]
                if found:
                    return balancer.picker(found, self._rng)(call)
        elif call.attempt == 1:
            key = frozenset((require or {}).items()), frozenset((prefer or {}).items())
            picker = choice.filtered.get(key)
            if picker is None:
                found = self._candidates(call, choice, members, require, prefer)
                picker = balancer.picker(found, self._rng)
                if len(choice.filtered) < FILTERS:
                    choice.filtered[key] = picker
            node = picker(call)
            if call.usable(node):
                return node
        call.within = None
        found = self._candidates(call, choice, members, require, prefer)
        # A table for a single call would be dear.
        return (Random() if balancer.over_members else balancer).picker(found, self._rng)(call)

    def _bound(self, choice: Choice, in_flight: int) -> Callable[[Node], bool]:
        """Consistent hashing with bounded loads (Mirrokni et al. 2016): a node takes ⌈bound × its share⌉ at most."""
        assert self.balancer.bound is not None
        most = self.balancer.bound * in_flight / (choice.weight or 1.0)

        def within(node: Node) -> bool:
            return node.in_flight < math.ceil(most * (node.instance.weight or 1.0))

        return within

    def _candidates(
        self,
        call: Call,
        choice: Choice,
        members: tuple[Node, ...],
        require: Metadata | None,
        prefer: Metadata | None,
    ) -> list[Node]:
        """The nodes to choose from, the best sort there is: preferred before others, untried before tried, in use
        before merely healthy before any.
        """
        if require:
            fitting = [node for node in members if _has(node, require)]
            if not fitting:
                wanted = ", ".join(f"{key}={value}" for key, value in require.items())
                raise Unavailable(f"none of {len(members)} instances has {wanted}")
        else:
            fitting = list(members)
        here = set(fitting) if require else None
        in_use = [[node for node in group.nodes if not node.excluded and (here is None or node in here)]
                  for group in choice.groups]  # fmt: skip
        sorts = [*in_use, [node for node in fitting if not node.out]]
        for liked in (prefer, None) if prefer else (None,):
            for nodes in sorts:
                found = [n for n in nodes if not n.removed and n not in call.tried and (not liked or _has(n, liked))]
                if found:
                    return found
        for nodes in (*sorts, fitting):  # every one has been tried
            found = [node for node in nodes if not node.removed]
            if found:
                return [node for node in found if node not in call.tried] or found
        raise Unavailable("the instances have just been replaced")


def _shared_out(groups: tuple[Group, ...], pickers: Sequence[Picker], rng: Rng) -> Picker:
    """A picker over groups, each with its share of the calls."""
    cumulative = list(itertools.accumulate(group.share for group in groups))
    last, random = len(groups) - 1, rng.random

    def pick(call: PickCall) -> Node:
        return pickers[min(bisect(cumulative, random() * cumulative[-1]), last)](call)

    return pick


def _both(bound: Callable[[Node], bool] | None, wanted: Metadata | None) -> Callable[[Node], bool] | None:
    if not wanted:
        return bound
    return lambda node: _has(node, wanted) and (bound is None or bound(node))


def _asked(wanted: Metadata | Callable[[Any], Metadata | None], call: Call) -> Metadata | None:
    return wanted(call.request) if callable(wanted) else wanted


def _has(node: Node, metadata: Metadata) -> bool:
    return metadata.items() <= node.instance.metadata.items()
