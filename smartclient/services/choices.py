"""Choices: the members of a service, which of them may be picked, and how.

Calls read `choice` without a lock: one immutable object, replaced as a whole. Slow work, comparing lists and making
pickers, is done without the lock; an outdated result is dropped.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Set
from random import Random
from typing import Any, NamedTuple

from cachetools import TLRUCache

from ..events import Event
from ..health.service_health import ServiceHealth
from ..instance import Instance
from ..node import Node
from ..policy import Policy
from ..support.gil_breaks import GilBreaks
from ..support.loggers import DISCOVERY, about
from ..topology.groups import Group
from .changes import Change, compare, servers_of
from .picking import Choice, Chooser

NEVER = float("inf")
CHUNK = 256  # nodes that are removed in one go
TURNS = 8  # choices that other threads may invalidate
AGAIN = 1.0  # seconds after which due work is tried again, in case a thread did not finish it
REMEMBERED = 10_000  # servers that have left the list
WANTED = 64  # different metadata for which a subset is kept
EVERYTHING: frozenset[tuple[str, str]] = frozenset()


class Plan(NamedTuple):
    """The nodes to use, computed without the lock; void if `version` is no longer the newest."""

    version: int
    nodes: tuple[Node, ...]
    in_use: Set[Node]
    due: tuple[Node, ...]
    next_change: float
    panic: bool


class Left(NamedTuple):
    """What is remembered of a server that has left the list, and until when."""

    until: float
    memory: Any
    health: Any
    ejected_until: float | None
    paused_until: float | None
    unhealthy: bool


class Choices:
    """The members of one service.

    lock:         the service's: guards the nodes' state and this one's
    chooser:      makes the pickers
    health:       knows the nodes' health
    nodes:        all members, ejected ones included
    choice:       who may be picked; None: nobody
    due:          ejected nodes whose time is over: one probing call each
    next_change:  when `advance` has something to do
    empty_at:     when an empty list that is held back takes effect
    closed:       for good
    panic:        so many are out that all are used
    in_flight:    attempts that are not over, of nodes that are gone, too
    """

    def __init__(
        self,
        service: str,
        policy: Policy,
        zone: str | None,
        clock: Callable[[], float],
        rng: Random,
        by_id: bool = False,
    ) -> None:
        self.lock: threading.Lock = threading.Lock()
        self.chooser: Chooser = Chooser(service, policy, zone, rng)
        self.health: ServiceHealth = ServiceHealth(
            service, policy.outlier, policy.slow_start, clock(), rng, keyed=self.chooser.balancer.keyed
        )
        self.nodes: tuple[Node, ...] = ()
        self.choice: Choice | None = None
        self.due: tuple[Node, ...] = ()
        self.next_change: float = NEVER
        self.empty_at: float = NEVER
        self.closed: bool = False
        self.panic: bool = False
        self.in_flight: int = 0
        self._service = service
        self._policy = policy
        self._clock = clock
        self._by_id = by_id
        self._left: TLRUCache[str, Left] = TLRUCache(REMEMBERED, lambda key, left, now: left.until, clock)
        self._said: set[str] = set()  # of servers with several registrations
        self._several: deque[tuple[Instance, list[Instance]]] = deque()  # of which that is to be said
        self._listed: tuple[Instance, ...] = ()  # of which a subset is used
        self._wanted = {_pairs(policy.require): None, _pairs(policy.require, policy.prefer): None}
        self.updating: threading.Lock = threading.Lock()  # one new list at a time; always taken before `lock`
        self._breaks = GilBreaks()
        self._version = 0
        self._stale = False  # the pickers do not know the latest weights, or are a stopgap

    def update(self, instances: tuple[Instance, ...], grace: float) -> tuple[Change, list[Node]] | None:
        """Take a new full list: what it changed, and which nodes to release; call `settle` next. None: it changes
        nothing, or is empty and held back for `grace` seconds.
        """
        with self.updating:
            if instances or not self.nodes or grace <= 0:
                return self._exchange(instances)
            with self.lock:
                if self.empty_at == NEVER:
                    self.empty_at = self._clock() + grace
                    self.next_change = min(self.next_change, self.empty_at)
        return None

    def want(self, require: Any, prefer: Any) -> tuple[Change, list[Node]] | None:
        """A call asks for that metadata: if subsets are used, make one of those instances, too. Returns the same as
        `update`, already settled.
        """
        wanted = [pairs for pairs in (_pairs(require), _pairs(require, prefer)) if pairs not in self._wanted]
        if not wanted or len(self._wanted) >= WANTED:
            return None
        with self.updating:
            for pairs in wanted:
                self._wanted[pairs] = None
            told = self._exchange(self._listed)
        if told is not None:
            self.settle()
        return told

    def follow(self, policy: Policy, changed: Set[str]) -> tuple[list[Event], tuple[Change, list[Node]] | None]:
        """Take another policy. changed: the names of the fields that differ. Nodes, their health and estimates stay, as
        far as these fields do not concern them. What it changed for the nodes, and what `update` returns.
        """
        now = self._clock()
        told: tuple[Change, list[Node]] | None = None
        with self.updating:
            with self.lock:
                used = tuple(node.instance for node in self.nodes)
                listed = used if self._policy.subset is None else self._listed
                self._policy = policy
                self.chooser.follow(policy)
                if "balancer" in changed:
                    self._change_balancer(policy)
                keyed = self.chooser.balancer.keyed
                if policy.outlier is None:
                    self.due = ()
                events = self.health.follow(policy.outlier, policy.slow_start, self.nodes, now, keyed)
                self._version += 1
                self._stale = True
            if changed & {"subset", "require", "prefer"}:
                self._wanted = {_pairs(policy.require): None, _pairs(policy.require, policy.prefer): None}
                if "subset" in changed or policy.subset is not None:
                    told = self._exchange(listed)
        self.settle()
        return events, told

    def _change_balancer(self, policy: Policy) -> None:
        """A picker works with the memory of its own balancer: until the new one is made, calls go to nodes at random
        (the lock held).
        """
        if self.choice is not None:
            self.choice = self.chooser.stopgap(self.choice.groups)
        self.chooser.renew(policy)
        for node in self.nodes:
            node.memory = self.chooser.balancer.memory()
        for identity, left in tuple(self._left.items()):
            self._left[identity] = left._replace(memory=self.chooser.balancer.memory())

    def settle(self) -> None:
        """Make the pickers for new members. That is the user's code, and may be slow: no lock is held."""
        self.refresh(self._clock(), building=True)
        while True:
            try:
                server, registrations = self._several.popleft()
            except IndexError:  # another thread may say them
                return
            ids = ", ".join(str(one.id) for one in registrations[:5])
            DISCOVERY.warning("%s: %s is registered %d times (%s): one server with the weights of all (said once)",
                              self._service, server, len(registrations), ids, extra=about(self._service))  # fmt: skip

    def close(self) -> list[Node]:
        """Remove all; the nodes to be let go."""
        with self.lock:  # an update that is under way finds its version void
            self.closed = True
            gone, self.nodes, self.choice, self.due = self.nodes, (), None, ()
            self._version += 1
            return self._remove(gone)

    def after_fork(self) -> None:
        """In a forked child: new locks; the next call does what a thread was doing at the fork."""
        self.lock, self.updating = threading.Lock(), threading.Lock()
        self.chooser.after_fork()
        if self.choice is not None:
            self.choice = self.chooser.stopgap(self.choice.groups)
        self._stale = True
        self._version += 1
        self.next_change = -NEVER
        self.in_flight = 0
        for node in self.nodes:
            node.in_flight, node.probe = 0, None

    def advance(self, now: float) -> tuple[Change, list[Node]] | None:
        """Do what was due at `next_change`, in one thread. Returns the same as `update`, already settled."""
        with self.lock:
            if now < self.next_change:
                return None
            self.next_change = now + AGAIN
        told = None
        if self.empty_at <= now and self.updating.acquire(blocking=False):
            try:
                if self.empty_at <= now:  # still true: no list has arrived meanwhile
                    told = self._exchange(())
            finally:
                self.updating.release()
        self.refresh(now, building=told is not None or self.chooser.lacks_table)
        return told

    def refresh(self, now: float, building: bool = False) -> None:
        """Work out anew who is eligible. building: tables may be made; repeated until it is the newest result."""
        for _ in range(TURNS if building else 1):
            with self.lock:
                self._version += 1
                version, nodes, stale = self._version, self.nodes, self._stale
                if self.next_change <= now:
                    self.next_change = now + AGAIN  # in case this fails
                changes, moved = self.health.advance(nodes, now)
            if building:
                self._breaks()
            groups = self.chooser.groups(nodes, self._breaks.each if building else iter)
            in_use = {node for group in groups for node in group.nodes}
            if building:
                self._breaks()
            out = [(node, node.ejected_until) for node in nodes if node.ejected_until is not None]
            over = {node for node, until in out if until <= now and node not in in_use}
            panic = any(node.out for node in in_use)
            changes += [until for _, until in out if until > now]
            plan = Plan(version, nodes, in_use, self._due(nodes, over), min(changes, default=NEVER), panic)
            if self._choose(plan, groups, stale, moved, building):
                return

    def _due(self, nodes: tuple[Node, ...], over: Set[Node]) -> tuple[Node, ...]:
        """The nodes whose ejection is over and that would be in use if they were healthy. Other reasons may still keep
        a node out: checks, pauses, weights, priorities, zones.
        """
        if not over:
            return ()
        groups = self.chooser.groups(nodes, well=lambda node: not (node.barred if node in over else node.out))
        return tuple(node for group in groups for node in group.nodes if node in over)

    def _choose(self, plan: Plan, groups: tuple[Group, ...], stale: bool, moved: bool, building: bool) -> bool:
        """Make the pickers for a plan, as far as there are none; whether the plan is carried out."""
        before, balancer = self.choice, self.chooser.balancer
        if not groups:
            return self._commit(plan, None, stale=False)
        same = before is not None and before.groups == groups and not stale
        indifferent = balancer.live_weights or balancer.over_members  # to the steps of a slow start
        if same and (indifferent or not moved) and not (building and balancer.over_members):
            return self._commit(plan, before, stale=False)
        if before is not None and all(node.removed for node in before.nodes):
            # None of those that the old picker knows is left: at random, until the new one is made.
            self._commit(plan, self.chooser.stopgap(groups), stale=True)
        if building:
            self._breaks()
        choice, current = self.chooser.choice(plan.nodes, groups, before is None, building, stale)
        if building:
            self._breaks()
        return self._commit(plan, choice, stale=not current)

    def _commit(self, plan: Plan, choice: Choice | None, stale: bool) -> bool:
        with self.lock:
            if plan.version != self._version:
                return False
            for node in plan.nodes:
                node.excluded = node not in plan.in_use
            self.choice, self.due, self._stale = choice, plan.due, stale
            self.panic = plan.panic
            self.next_change = min(plan.next_change, self.empty_at)
            return True

    # ---- inside ----

    def _exchange(self, instances: tuple[Instance, ...]) -> tuple[Change, list[Node]] | None:
        """Make the members those of a list (`updating` held); what is then to be told, and which nodes let go."""
        now = self._clock()
        servers = servers_of(instances, self._by_id, self._breaks, self._say_several)
        if self._policy.subset is not None:
            self._listed = instances
            chosen = set(self._policy.subset.of_all(tuple(servers.values()), tuple(self._wanted)))
            servers = {key: instance for key, instance in servers.items() if instance in chosen}
        change = compare(self.nodes, servers, self._node, self._breaks)
        fresh = not self.nodes
        with self.lock:
            self.empty_at = NEVER
            if self.closed or not (change or self._stale or self.choice is None):
                return None
            for node, instance in change.altered:
                node.instance, node.weight = instance, instance.weight
            for node in change.added:
                if node.ejected_until is not None:
                    self.health.readmit(node, change.nodes)
                elif not fresh:  # no slow start if all members are new
                    self.health.warm(node, now)
            self.nodes = change.nodes
            self._version += 1
            self._stale = self._stale or bool(change.altered)
        idle = []
        for at in range(0, len(change.removed), CHUNK):  # calls go on in between
            with self.lock:
                idle += self._remove(change.removed[at : at + CHUNK])
            self._breaks()
        return change, idle

    def _remove(self, nodes: Iterable[Node]) -> list[Node]:
        """Mark nodes as gone; those that have no call left."""
        now = self._clock()
        for node in nodes:
            node.removed = True
            until = self.health.until(node, now)
            if until > now:
                self._left[node.identity] = Left(
                    until, node.memory, node.health, node.ejected_until, node.paused_until, node.unhealthy
                )
        self.health.discharge(nodes)
        return [node for node in nodes if node.in_flight == 0]

    def _node(self, identity: str, instance: Instance) -> Node:
        """A node for a new server; one that left the list recently gets its earlier state back."""
        with self.lock:
            before = self._left.pop(identity, None)
        if before is None:
            return Node(instance, self.chooser.balancer.memory(), self.health.record(), identity)
        node = Node(instance, before.memory, self.health.record(before.health), identity)
        if self._policy.outlier is not None:
            node.ejected_until, node.paused_until = before.ejected_until, before.paused_until
        node.unhealthy = before.unhealthy and self._policy.health_check is not None
        return node

    def _say_several(self, server: Instance, registrations: list[Instance]) -> None:
        if str(server) not in self._said and len(self._said) < REMEMBERED:
            self._said.add(str(server))
            self._several.append((server, registrations))


def _pairs(*wanted: Any) -> frozenset[tuple[str, str]]:
    """The metadata that mappings ask for; a function is ignored, since it depends on the request."""
    return EVERYTHING.union(*(one.items() for one in wanted if one and not callable(one)))
