"""Service: the live state of one service: its nodes, who of them may be picked, and what each attempt taught.

Reading is lock-free: a call sees one immutable pair (eligible nodes, picker), swapped in whole. Writing (in-flight,
health, membership) holds the service's lock. No code of the user's runs under it but a balancer's `Memory.observe`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from random import Random as Rng
from typing import NamedTuple

from .balancers import Balancer, Picker, Random
from .call import Attempt, Call
from .events import Event, InstancesChanged, NodeEjected, NodeReturned, Observers, logger
from .health.outlier import NodeHealth
from .instance import Instance
from .node import Node, Outcome, identity
from .policy import Policy
from .retry.budget import BudgetAccount
from .waiting import Places, Signal

NEVER = float("inf")


class Unavailable(Exception):
    """No node to pick. The flow turns it into the flavour's `NoInstances`."""


class Change(NamedTuple):
    """What a new list changed. altered: instances that stayed have other weights or metadata; idle: nodes that are gone
    and have no call left.
    """

    nodes: tuple[Node, ...]
    added: tuple[Instance, ...]
    removed: tuple[Instance, ...]
    altered: bool
    idle: tuple[Node, ...]


class Service:
    """The live state of one service in one client.

    name:     as in the URL
    source:   what discovery calls itself, for messages
    retire:   called with each node that is gone and has no call left: close its connections
    ready:    set when the first list has come
    observed: somebody wants events: build none otherwise
    problem:  the source's last error, None once it answers again
    """

    def __init__(
        self,
        name: str,
        policy: Policy,
        *,
        source: str,
        clock: Callable[[], float],
        rng: Rng,
        observers: Observers,
        retire: Callable[[Node], None],
    ) -> None:
        assert isinstance(policy.balancer, Balancer)
        self.name = name
        self.policy = policy
        self.source = source
        self.clock = clock
        self.observers = observers
        self.observed = bool(observers)
        self.ready = Signal()
        self.problem: str | None = None
        self.used_at = clock()
        budget = policy.retry.budget if policy.retry is not None else None
        self.budget = None if budget is None else BudgetAccount(budget)
        self._balancer = policy.balancer
        self._rng = rng
        self._retire = retire
        self._lock = threading.Lock()
        self._closed = False
        self._complained = False
        self._nodes: tuple[Node, ...] = ()
        self._choice: tuple[tuple[Node, ...], Picker] | None = None
        self._version = 0
        self._next_change = NEVER
        self._empty_at = NEVER
        self._due: tuple[Node, ...] = ()  # ejected nodes whose time is over: one probing call each

    @property
    def nodes(self) -> tuple[Node, ...]:
        """All members, ejected ones included."""
        return self._nodes

    # ---- a call ----

    def start(self, call: Call, places: Places | None) -> Attempt:
        """Pick a node for the call's next attempt. Raises Unavailable where there is none."""
        now = call.now
        self.used_at = now
        if now >= self._next_change:
            self._advance(now)
        first = call.attempt == 1
        while True:
            node = (self._claim_due(call) if first and self._due else None) or self._pick(call)
            with self._lock:
                # Between the pick and here the node may have been removed and its connections closed.
                if not node.removed:
                    node.in_flight += 1
                    break
        if first and self.budget is not None:
            self.budget.deposit(now)
        attempt = Attempt(self, node, call.attempt, now, places)
        if node.probe is call:
            node.probe = attempt
        call.attempts.append(attempt)
        return attempt

    def judge(self, attempt: Attempt, retry_after: float | None) -> None:
        """Learn from an attempt (called by `Attempt.judge`, once)."""
        now = self.clock()
        attempt.elapsed = now - attempt.started
        outcome = attempt.outcome
        assert outcome is not None
        if outcome is Outcome.ABANDONED:
            return
        node = attempt.node
        events: list[Event] = []
        with self._lock:
            if node.memory is not None:
                self._remember(node, outcome, attempt.elapsed, retry_after, now)
            if node.health is not None:
                attempt.streak = node.health.local_failures
                self._judge_health(attempt, outcome, now, events)
        self._apply(events)

    def spoil(self, attempt: Attempt) -> None:
        """A body failed whose headers were taken for a success (called by `Attempt.spoil`, once)."""
        node, now = attempt.node, self.clock()
        events: list[Event] = []
        with self._lock:
            if node.memory is not None:
                self._remember(node, Outcome.FAILURE, now - attempt.started, None, now)
            if node.health is not None:
                node.health.local_failures = max(node.health.local_failures, attempt.streak)
                attempt.status, status = None, attempt.status
                self._judge_health(attempt, Outcome.FAILURE, now, events)
                attempt.status = status
        self._apply(events)

    def finish(self, attempt: Attempt) -> None:
        """One call less in flight (called by `Attempt.finish`, once)."""
        node = attempt.node
        with self._lock:
            if node.in_flight:  # a forked child starts from 0 while its parent's attempts are still to end
                node.in_flight -= 1
            if node.probe is attempt:
                node.probe = None
            gone = node.removed and node.in_flight == 0
        if gone:
            self._let_go((node,))

    # ---- membership (from the watcher's thread) ----

    def update(self, instances: Iterable[Instance], grace: float = 0.0) -> None:
        """Take a new full list from discovery.

        grace: seconds for which an empty list after a non-empty one is held back: a registry that was just restarted
               is legitimately empty
        """
        now = self.clock()
        wanted = {identity(instance): instance for instance in reversed(tuple(instances))}
        with self._lock:
            self.problem = None
            if not wanted and self._nodes and grace > 0:
                if self._empty_at == NEVER:
                    self._empty_at = now + grace
                    self._next_change = min(self._next_change, self._empty_at)
                return
            change = self._exchange(wanted)
        self._changed(change, now)
        self.ready.fire()

    def failed(self, problem: str) -> None:
        """The source failed; the last good list stays in use."""
        self.problem = problem

    def close(self) -> None:
        """Remove all nodes: idle connections are closed, running calls finish, calls that wait are told."""
        with self._lock:
            self._closed = True
            idle = self._exchange({}).idle
            self._choice, self._due = None, ()
            self._version += 1
        self._let_go(idle)
        self.ready.fire()

    def after_fork(self) -> None:
        """In a forked child: new locks, and none of the parent's calls."""
        self._lock = threading.Lock()
        fired = self.ready.fired
        self.ready = Signal()
        if fired:
            self.ready.fire()
        if self.budget is not None and self.policy.retry is not None and self.policy.retry.budget is not None:
            self.budget = BudgetAccount(self.policy.retry.budget)
        for node in self._nodes:
            node.in_flight = 0
            node.probe = None

    # ---- inside ----

    def _pick(self, call: Call) -> Node:
        choice = self._choice
        if choice is None:
            raise Unavailable(self._why_none())
        eligible, picker = choice
        if call.attempt == 1 and call.options.prefer is None:
            node = picker(call)
            if not (node.excluded or node.removed):
                return node
        # A retry, a preference, or a node just ejected: a throw-away picker, for the shared one must not move. With a
        # shared cursor, two nodes and one failing, every first attempt would go to the same node.
        candidates = [node for node in eligible if not (node.excluded or node.removed)]
        if not candidates:  # ejected or replaced in this very moment
            candidates = [node for node in self._nodes if not node.removed]
            if not candidates:
                raise Unavailable(self._why_none())
        prefer = call.options.prefer
        if prefer:
            matching = [n for n in candidates if prefer.items() <= n.instance.metadata.items()]
            candidates = matching or candidates
        untried = [node for node in candidates if node not in call.tried]
        return self._balancer.picker(untried or candidates, self._rng)(call)

    def _claim_due(self, call: Call) -> Node | None:
        outlier = self.policy.outlier
        assert outlier is not None
        with self._lock:
            for node in self._due:
                assert node.ejected_until is not None
                # A call that cannot be repeated is risked only after such a time without one that can.
                risky = not call.repeatable and call.now < node.ejected_until + outlier.base_ejection_time
                if node.probe is None and not node.removed and not risky:
                    node.probe = call
                    return node
        return None

    def _why_none(self) -> str:
        known = len(self._nodes)
        if self._closed:
            return "the client has been closed"
        if not self.ready.fired:
            why = f"{self.source} has not answered yet"
        elif not known:
            why = f"{self.source} lists none"
        else:
            why = f"none of {known} can be used"
        return f"{why}; last error: {self.problem}" if self.problem else why

    def _judge_health(self, attempt: Attempt, outcome: Outcome, now: float, events: list[Event]) -> None:
        node, outlier = attempt.node, self.policy.outlier
        health: NodeHealth = node.health
        assert outlier is not None
        if node.removed:
            return
        if node.ejected_until is not None:
            # Only a probe speaks for an ejected node (or, in panic, a call that began in it): answers to calls from
            # before the ejection are old news.
            if node.probe is attempt or not node.excluded:
                if outcome is Outcome.SUCCESS:
                    node.ejected_until = None
                    health.restore(now)
                    events.append(NodeReturned(self.name, node.instance))
                elif node.probe is attempt:
                    self._eject(node, "its probing call failed", now, events)
            return
        reason = health.observe(outcome, attempt.status)
        if reason is not None:
            out = sum(1 for other in self._nodes if other.ejected_until is not None)
            if outlier.may_eject(len(self._nodes), out):
                self._eject(node, reason, now, events)

    def _eject(self, node: Node, reason: str, now: float, events: list[Event]) -> None:
        duration = node.health.eject(now, self._rng)
        node.ejected_until = now + duration
        events.append(NodeEjected(self.name, node.instance, reason, duration))

    def _apply(self, events: Sequence[Event]) -> None:
        if not events:
            return
        self._refresh(self.clock())
        for event in events:
            logger.info("%s", event)
            if self.observed:
                self.observers(event)

    def _advance(self, now: float) -> None:
        """Something was due at `_next_change`."""
        with self._lock:
            # In one hold with the decision: a fresh list that came meanwhile must not be wiped.
            change = self._exchange({}) if self._empty_at <= now else None
        if change is None:
            self._refresh(now)
        else:
            self._changed(change, now)

    def _exchange(self, wanted: dict[tuple[object, ...], Instance]) -> Change:
        """Make the members those of `wanted` (lock held): known ones keep their node and its history."""
        self._empty_at = NEVER
        before = {identity(node.instance): node for node in self._nodes}
        nodes, added, altered = [], [], False
        for key, instance in wanted.items():
            node = before.pop(key, None)
            if node is None:
                node = self._new_node(instance)
                added.append(instance)
            elif node.instance != instance:
                node.instance, node.weight, altered = instance, instance.weight, True
            nodes.append(node)
        # In an order of our own: that of the source may change with every answer.
        nodes.sort(key=lambda node: str(identity(node.instance)))
        self._nodes = tuple(nodes)
        for node in before.values():
            node.removed = True
        idle = tuple(node for node in before.values() if node.in_flight == 0)
        return Change(self._nodes, tuple(added), tuple(node.instance for node in before.values()), altered, idle)

    def _changed(self, change: Change, now: float) -> None:
        """Calls see the new members first; then the old ones' connections are closed, and it is told."""
        if change.added or change.removed or change.altered:
            self._refresh(now, rebuild=change.altered)
            logger.info(
                "%s: %d instances from %s (%d added, %d removed)",
                self.name, len(change.nodes), self.source, len(change.added), len(change.removed),
            )  # fmt: skip
        self._let_go(change.idle)
        if self.observed and (change.added or change.removed or change.altered):
            listed = tuple(node.instance for node in change.nodes)
            self.observers(InstancesChanged(self.name, listed, change.added, change.removed))

    def _let_go(self, nodes: Iterable[Node]) -> None:
        for node in nodes:
            try:
                self._retire(node)  # a transport of `connect=` is the user's
            except Exception:
                logger.exception("%s: the transport of %s could not be closed", self.name, node.instance)

    def _remember(self, node: Node, outcome: Outcome, latency: float, retry_after: float | None, now: float) -> None:
        try:
            node.memory.observe(outcome, latency, retry_after, now)
        except Exception:
            if not self._complained:
                self._complained = True
                logger.exception("%s: the balancer's memory failed (said once)", self.name)

    def _new_node(self, instance: Instance) -> Node:
        outlier = self.policy.outlier
        return Node(instance, self._balancer.memory(), None if outlier is None else NodeHealth(outlier))

    def _refresh(self, now: float, rebuild: bool = False) -> None:
        """Work out who is eligible: members, without the ejected ones, unless too few are left (panic)."""
        with self._lock:
            nodes = self._nodes
            out = [node for node in nodes if node.ejected_until is not None]
            panic = len(nodes) - len(out) < max(1.0, self.policy.panic_threshold * len(nodes))
            for node in nodes:
                node.excluded = node.ejected_until is not None and not panic
            self._due = tuple(n for n in out if n.excluded and n.ejected_until is not None and n.ejected_until <= now)
            changes = [n.ejected_until for n in out if n.ejected_until is not None and n.ejected_until > now]
            self._next_change = min(changes, default=NEVER)
            self._next_change = min(self._next_change, self._empty_at)
            usable = [node for node in nodes if not node.excluded]
            # Weight 0 takes no traffic while others can.
            eligible = tuple([node for node in usable if node.weight > 0] or usable)
            if not rebuild and self._choice is not None and self._choice[0] == eligible:
                return
            self._version += 1
            version = self._version
            before = self._choice
            if before is not None and all(node.removed for node in before[0]):
                # None of those that the old picker knows is left: at random, until the new one is made.
                self._choice = (eligible, Random().picker(eligible, self._rng)) if eligible else None
        # Building a picker is the user's code and may be slow: outside the lock, and only the newest is kept.
        choice = (eligible, self._picker(eligible, first=before is None)) if eligible else None
        with self._lock:
            if version == self._version:
                self._choice = choice

    def _picker(self, nodes: Sequence[Node], first: bool) -> Picker:
        try:
            return self._balancer.picker(nodes, self._rng)
        except Exception:
            if first:
                raise  # it never worked: say so at once
            logger.exception("%s: %r made no picker; nodes are picked at random", self.name, self._balancer)
            return Random().picker(nodes, self._rng)
