"""Choosing: from the members of a service to the node of one attempt.

A first attempt asks the shared picker of the current choice, without a lock. A retry, a call with `require` or
`prefer`, and a pick that has just become unusable use a temporary picker over the matching candidates. They must not
advance the shared one: with two nodes, round robin and one failing, every first attempt would go to the same node.
"""

from __future__ import annotations

import itertools
import math
from bisect import bisect
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from random import Random as Rng
from typing import Any, NamedTuple

from ..balancers import Balancer, Picker, Random
from ..balancers.base import index_drawer
from ..node import Node
from ..policy import Policy
from ..support.hashing import SPAN, hash_of
from ..support.loggers import logger
from ..topology.groups import Group, arrange, is_well
from .call import Call
from .explaining import Watched, noted, why

Metadata = Mapping[str, str]
MANY = 64  # with more nodes than this a retry looks at a sample, not at all of them
GROUPS = 3  # seed of the hash that draws a group
FILTERS = 64  # preferences whose pickers are kept


class Unavailable(Exception):
    """No node to pick. The flow turns it into the flavour's `NoInstances`."""


class Full(Unavailable):
    """All nodes to pick from are at their limit. The flow turns it into the flavour's `Overloaded`."""


class Choice(NamedTuple):
    """Who may be picked, and how; immutable, replaced whole.

    picker:      of first attempts, over all groups
    filtered:    pickers of first attempts with a preference
    weight:      of all nodes in the groups
    cumulative:  shares of the groups
    """

    groups: tuple[Group, ...]
    picker: Picker
    filtered: dict[Any, Picker]
    weight: float
    cumulative: tuple[float, ...]

    @property
    def nodes(self) -> tuple[Node, ...]:
        """Those in use."""
        return self.groups[0].nodes if len(self.groups) == 1 else tuple(n for group in self.groups for n in group.nodes)

    def group(self, point: float) -> int:
        """The group that a point in [0, 1) falls to."""
        return min(bisect(self.cumulative, point * self.cumulative[-1]), len(self.groups) - 1)


class Chooser:
    """The balancer of one service at work.

    room: whether a node may take one more attempt; None: it always may
    """

    def __init__(self, service: str, policy: Policy, zone: str | None, rng: Rng) -> None:
        self._service = service
        self._own_zone = zone
        self.rng = rng
        self.follow(policy)
        self.renew(policy)
        self.room: Callable[[Node], bool] | None = None

    def follow(self, policy: Policy) -> None:
        """Take the settings of a policy from now on, its balancer apart."""
        self._policy = policy
        self._zone = policy.zone or self._own_zone

    def renew(self, policy: Policy) -> None:
        """Take its balancer. Pickers of the one before must not be used from now on."""
        assert isinstance(policy.balancer, Balancer)
        self.balancer: Balancer = policy.balancer.for_service()
        self._table: tuple[tuple[Node, ...], Picker, Balancer] | None = None

    @property
    def lacks_table(self) -> bool:
        """Its table over the members is still to be made."""
        return self.balancer.over_members and self._table is None

    # ---- making a choice ----

    def groups(
        self,
        nodes: Sequence[Node],
        each: Callable[[Sequence[Node]], Iterable[Node]] = iter,
        well: Callable[[Node], bool] = is_well,
    ) -> tuple[Group, ...]:
        """Who of the members is in use, by health, priority and zone. well: who may be called"""
        policy = self._policy
        return tuple(
            arrange(nodes, policy.panic_threshold, self._zone, policy.client_zones, policy.min_zone_size, each, well)
            if nodes
            else ()
        )

    def choice(
        self, nodes: tuple[Node, ...], groups: tuple[Group, ...], first: bool, building: bool, stale: bool
    ) -> tuple[Choice, bool]:
        """Make the pickers: may be slow, and the user's code. Whether they are up to date comes along.

        first:     nothing has been made before
        building:  a table over the members may be made: never in a call, which uses the existing one
        stale:     weights have changed
        """
        balancer = self.balancer  # another may come meanwhile: then this is made in vain
        if not balancer.over_members:
            pickers = [self._made(group.nodes, first) for group in groups]
            return self._choice(groups, _shared_out(groups, pickers, self.rng)), True
        table = self._table
        if table is not None and table[2] is not balancer:
            table = None
        if building and (stale or table is None or table[0] != nodes):
            self._table = table = (nodes, self._made(nodes, first), balancer)
        if table is None:
            return self.stopgap(groups), False
        return self._choice(groups, table[1]), table[0] == nodes and (building or not stale)

    def stopgap(self, groups: tuple[Group, ...]) -> Choice:
        """At random, until a slow picker is made."""
        pickers = [Random().picker(group.nodes, self.rng) for group in groups]
        return self._choice(groups, _shared_out(groups, pickers, self.rng))

    def after_fork(self) -> None:
        """In a forked child: pickers may hold locks that nobody will release."""
        self._table = None
        self.balancer.after_fork()

    def _choice(self, groups: tuple[Group, ...], picker: Picker) -> Choice:
        weight = sum(node.instance.weight for group in groups for node in group.nodes)
        return Choice(groups, picker, {}, weight, tuple(itertools.accumulate(group.share for group in groups)))

    def _made(self, nodes: Sequence[Node], first: bool = False) -> Picker:
        try:
            return self.balancer.picker(nodes, self.rng)
        except Exception:
            if first:
                raise  # it never worked: say so at once
            logger.exception("%s: %r made no picker; nodes are picked at random", self._service, self.balancer)
            return Random().picker(nodes, self.rng)

    # ---- picking ----

    def required(self, call: Call) -> Metadata | None:
        """The metadata that a node must have for that call."""
        own = call.options.require
        return own if own is not ... else self._policy.require and _asked(self._policy.require, call)

    def preferred(self, call: Call) -> Metadata | None:
        """The metadata that a node should rather have."""
        own = call.options.prefer
        return own if own is not ... else self._policy.prefer and _asked(self._policy.prefer, call)

    def asked(self, call: Call) -> tuple[Metadata | None, Metadata | None]:
        """What that call requires and prefers."""
        return self.required(call), self.preferred(call)

    def pick(self, call: Call, choice: Choice, members: tuple[Node, ...], in_flight: int) -> Node:
        """The node of the call's next attempt. Raises Unavailable. in_flight: of all nodes together."""
        require, prefer = self.required(call), self.preferred(call)
        call.within = self.room
        if call.options.explain and not self.balancer.over_members:
            return self._explained(call, choice, members, require, prefer)
        if self.balancer.over_members:
            node = self._by_table(call, choice, require, prefer, in_flight)
        elif not (require or prefer):
            node = self._by_shared_picker(call, choice, members)
        else:
            node = self._by_metadata(call, choice, members, require, prefer)
        if node is not None:
            if call.options.explain:
                call.why = why(self.balancer, call, node, {}, members, members)
            return node
        found = self._candidates(call, choice, members, require, prefer)
        # A table for a single call would be expensive.
        return (Random().picker(found, self.rng) if self.balancer.over_members else self._made(found))(call)

    def _explained(
        self, call: Call, choice: Choice, members: tuple[Node, ...], require: Metadata | None, prefer: Metadata | None
    ) -> Node:
        """By a picker of its own, which is watched."""
        found = self._candidates(call, choice, members, require, prefer)
        watched = Watched(found, noted(self.balancer, call, found))
        picker = self._made(watched)
        watched.looked_at.clear()
        node = picker(call)
        call.why = why(self.balancer, call, node, watched.looked_at, found, members)
        return node

    def _by_shared_picker(self, call: Call, choice: Choice, members: tuple[Node, ...]) -> Node | None:
        """A first attempt asks the picker of all; with many nodes a retry looks at a sample of them."""
        room = self.room
        if call.attempt == 1:
            node = choice.picker(call)
            if not (node.excluded or node.removed) and (room is None or room(node)):
                return node
        if len(members) > MANY and call.rather is None:  # a look at all of them would take a while
            nodes = choice.groups[choice.group(self.rng.random())].nodes
            found = [node for node in self.rng.sample(nodes, min(MANY // 2, len(nodes))) if call.usable(node)]
            if found:
                return self._made(found)(call)
        return None

    def _by_metadata(
        self, call: Call, choice: Choice, members: tuple[Node, ...], require: Metadata | None, prefer: Metadata | None
    ) -> Node | None:
        """A first attempt asks a picker over the matching nodes; the first FILTERS pickers are kept."""
        call.within = _all(self._musts(require))
        if call.attempt > 1:
            return None
        key = frozenset((require or {}).items()), frozenset((prefer or {}).items())
        picker = choice.filtered.get(key)
        if picker is None:
            picker = self._filtered(call, choice, members, require, prefer)
            if len(choice.filtered) < FILTERS:
                choice.filtered[key] = picker
        node = picker(call)
        usable = not (node.removed or (node.excluded and node.out))
        return node if usable and (self.room is None or self.room(node)) else None

    def _by_table(
        self, call: Call, choice: Choice, require: Metadata | None, prefer: Metadata | None, in_flight: int
    ) -> Node | None:
        """Ask the table over all members for a matching node of the key's group, within the bound; else for any
        matching node.
        """
        limits: list[Callable[[Node], bool]] = []
        if self.balancer.bound is not None:
            limits.append(self._bound(choice, in_flight + 1))
        if len(choice.groups) > 1:
            key = self.balancer.key(call)
            point = self.rng.random() if key is None else hash_of(key, GROUPS) / SPAN
            limits.append(choice.groups[choice.group(point)].nodes.__contains__)
        fits, likes = self._musts(require), _fitting(prefer)
        tiers = [[*limits, *fits, *likes], [*limits, *fits], fits]
        if call.rather is not None:
            tiers = [[*conditions, call.rather] for conditions in tiers] + tiers
        for conditions in tiers:
            call.within = _all(conditions)
            node = choice.picker(call)
            if call.usable(node):
                return node
        return None

    def _filtered(
        self, call: Call, choice: Choice, members: tuple[Node, ...], require: Metadata | None, prefer: Metadata | None
    ) -> Picker:
        """A picker of first attempts over what fits, by the groups' shares as far as they have any."""
        both = {**(require or {}), **(prefer or {})}
        for wanted in (both, require or {}) if prefer else (both,):
            parts = [Group(group.share, tuple(n for n in group.nodes if has(n, wanted))) for group in choice.groups]
            parts = [part for part in parts if part.nodes]
            if parts:
                return _shared_out(parts, [self._made(part.nodes) for part in parts], self.rng)
            well = [node for node in members if not (node.out or node.removed) and has(node, wanted)]
            if well:
                return self._made(well)
        return self._made(self._candidates(call, choice, members, require, prefer))

    def _musts(self, require: Metadata | None) -> list[Callable[[Node], bool]]:
        return _fitting(require) if self.room is None else [*_fitting(require), self.room]

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
        """The nodes to choose from, the best tier there is: preferred before others, untried before tried, in use
        before merely healthy before any. Raises Unavailable, or Full.
        """
        fitting = [node for node in members if not require or has(node, require)]
        if require and not fitting:
            wanted = ", ".join(f"{key}={value}" for key, value in require.items())
            raise Unavailable(f"none of {len(members)} instances has {wanted}")
        tiers = [*self._in_use(choice, require), [node for node in fitting if not node.out]]
        if self.room is not None:
            tiers, fitting = _with_room(self.room, tiers, fitting)
        untried = [_without(call.tried, nodes) for nodes in tiers]
        found = _best(untried, call.rather, prefer)
        if found:
            return found
        # Every one has been tried.
        there = ([node for node in nodes if not node.removed] for nodes in (*tiers, fitting))
        found = next(filter(None, there), [])
        if not found:
            raise Unavailable("the instances have just been replaced")
        return _without(call.tried, found) or found

    def _in_use(self, choice: Choice, require: Metadata | None) -> list[list[Node]]:
        """The nodes of each group that fit, one drawn by the groups' shares first."""
        drawn = choice.group(self.rng.random())
        groups = [choice.groups[drawn], *choice.groups[:drawn], *choice.groups[drawn + 1 :]]
        return [[n for n in group.nodes if not n.excluded and (not require or has(n, require))] for group in groups]


def _with_room(
    room: Callable[[Node], bool], tiers: Sequence[list[Node]], fitting: list[Node]
) -> tuple[list[list[Node]], list[Node]]:
    """Those that may take one more. Raises Full if there is none."""
    found = list(filter(room, fitting))
    if fitting and not found:
        count = len(fitting)
        raise Full(f"all of {count} instances have as many attempts in progress as they may (Limits.per_node)")
    return [list(filter(room, nodes)) for nodes in tiers], found


def _without(tried: Sequence[Node], nodes: Iterable[Node]) -> list[Node]:
    return [node for node in nodes if not node.removed and node not in tried]


def _best(tiers: Sequence[list[Node]], rather: Callable[[Node], bool] | None, prefer: Metadata | None) -> list[Node]:
    """The first nodes that the call prefers (`rather`); the preference for metadata is given up first."""
    likes = [*_fitting(prefer), None] if prefer else [None]
    for wish in (rather, None) if rather else (None,):
        for like in likes:
            for nodes in tiers:
                found = [n for n in nodes if (like is None or like(n)) and (wish is None or wish(n))]
                if found:
                    return found
    return []


def _shared_out(groups: Sequence[Group], pickers: Sequence[Picker], rng: Rng) -> Picker:
    """A picker over groups, each with its share of the calls."""
    if len(pickers) == 1:
        return pickers[0]
    draw = index_drawer([group.share for group in groups], rng)
    return lambda call: pickers[draw()](call)


def _fitting(metadata: Metadata | None) -> list[Callable[[Node], bool]]:
    return [partial(has, metadata=metadata)] if metadata else []


def _all(conditions: Sequence[Callable[[Node], bool]]) -> Callable[[Node], bool] | None:
    if len(conditions) < 2:
        return conditions[0] if conditions else None
    return lambda node: all(condition(node) for condition in conditions)


def _asked(wanted: Metadata | Callable[[Any], Metadata | None], call: Call) -> Metadata | None:
    return wanted(call.request) if callable(wanted) else wanted


def has(node: Node, metadata: Metadata) -> bool:
    """Whether the node's instance has that metadata."""
    return metadata.items() <= node.instance.metadata.items()
