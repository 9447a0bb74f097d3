"""Service: the live state of one service: its nodes, who of them may be picked, and what each attempt taught.

Reading is lock-free: a call sees one immutable `Choice`, swapped in whole. Writing (in-flight, health, membership)
holds the service's lock, and shortly: lists are compared and pickers made without it. No code of the user's runs under
it but a balancer's `Memory`.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterable, Sequence, Set
from random import Random
from typing import NamedTuple

from .breath import Breath
from .call import Attempt, Call
from .choosing import Choice, Chooser, Unavailable
from .events import Event, InstancesChanged, Observers, logger
from .health.stalls import Stalls
from .health.ward import Ward
from .instance import Instance
from .membership import compare
from .node import Node, Outcome
from .policy import Policy
from .retry.budget import BudgetAccount
from .waiting import Places, Signal

NEVER = float("inf")
TURNS = 8  # picks that other threads may spoil


class Service:
    """The live state of one service in one client.

    name:     as in the URL
    source:   what discovery calls itself, for messages
    retire:   called with each node that is gone and has no call left: close its connections
    zone:     where this client runs, unless the policy says
    stalls:   of the client
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
        rng: Random,
        observers: Observers,
        retire: Callable[[Node], None],
        zone: str | None = None,
        stalls: Stalls | None = None,
    ) -> None:
        self.name = name
        self.policy = policy
        self.source = source
        self.clock = clock
        self.observers = observers
        self.observed = bool(observers)
        self.stalls = stalls or Stalls()
        self.ready = Signal()
        self.problem: str | None = None
        self.used_at = clock()
        budget = policy.retry.budget if policy.retry is not None else None
        self.budget = None if budget is None else BudgetAccount(budget)
        self._chooser = Chooser(name, policy, zone, rng)
        self.load_header = self._chooser.balancer.load_header
        self._ward = Ward(name, policy.outlier, policy.slow_start, self.used_at, rng)
        self._rng = rng
        self._retire = retire
        self._lock = threading.Lock()
        self._updating = threading.Lock()  # one new list at a time; always taken before `_lock`
        self._closed = False
        self._complained = False
        self._nodes: tuple[Node, ...] = ()
        self._in_flight = 0
        self._choice: Choice | None = None
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
        for turn in itertools.count():
            node = (self._claim_due(call) if first and self._due else None) or self._pick(call)
            with self._lock:
                # Between the pick and here the node may have been removed and its connections closed, or filled up.
                if not node.removed and (
                    call.within is None or node.probe is call or turn >= TURNS or call.within(node)
                ):
                    node.in_flight += 1
                    self._in_flight += 1
                    break
        if first and self.budget is not None:
            self.budget.deposit(now)
        attempt = Attempt(self, node, call.attempt, now, places)
        attempt.stalled = self.stalls.total
        if node.probe is call:
            node.probe = attempt
        call.attempts.append(attempt)
        return attempt

    def judge(self, attempt: Attempt, retry_after: float | None = None) -> None:
        """Learn from an attempt (called by `Attempt.judge`, once)."""
        now = self.clock()
        attempt.elapsed = now - attempt.started
        outcome = attempt.outcome
        assert outcome is not None
        if outcome is Outcome.ABANDONED:
            return
        if attempt.status is None and self.stalls.spoils(attempt.stalled, attempt.elapsed):
            return  # it ran out of time because we did
        node = attempt.node
        with self._lock:
            if node.memory is not None and not self.stalls.spoils(attempt.stalled, attempt.elapsed):
                self._remember(node, outcome, attempt.elapsed, retry_after, now)
            if node.health is not None:
                attempt.streak = node.health.local_failures
            events = self._ward.judge(
                node, outcome, attempt.status, attempt.elapsed, node.probe is attempt, self._nodes, now
            )
            if retry_after is not None and outcome is Outcome.FAILURE and self._ward.pause(node, retry_after, now):
                self._next_change = now
        if events or self._next_change <= now:
            self._apply(events, now)

    def spoil(self, attempt: Attempt) -> None:
        """A body failed whose headers were taken for a success (called by `Attempt.spoil`, once)."""
        node, now = attempt.node, self.clock()
        latency = now - attempt.started
        with self._lock:
            if node.memory is not None:
                self._remember(node, Outcome.FAILURE, latency, None, now)
            if node.health is not None:
                node.health.local_failures = max(node.health.local_failures, attempt.streak)
            probing = node.probe is attempt
            events = self._ward.judge(node, Outcome.FAILURE, None, latency, probing, self._nodes, now)
        self._apply(events, now)

    def reported(self, attempt: Attempt, value: str) -> None:
        """What the `load_header` of a response says."""
        with self._lock:
            try:
                attempt.node.memory.reported(value, self.clock())
            except Exception:
                self._complain()

    def finish(self, attempt: Attempt) -> None:
        """One call less in flight (called by `Attempt.finish`, once)."""
        node = attempt.node
        with self._lock:
            if node.in_flight:  # a forked child starts from 0 while its parent's attempts are still to end
                node.in_flight -= 1
                self._in_flight -= 1
            if node.probe is attempt:
                node.probe = None
            gone = node.removed and node.in_flight == 0
        if gone:
            self._let_go((node,))

    # ---- what others say ----

    def update(self, instances: Iterable[Instance], grace: float = 0.0) -> None:
        """Take a new full list from discovery.

        grace: seconds for which an empty list after a non-empty one is held back: a registry that was just restarted
               is legitimately empty
        """
        wanted = tuple(instances)
        self.problem = None
        with self._updating:
            if not wanted and self._nodes and grace > 0:
                with self._lock:
                    if self._empty_at == NEVER:
                        self._empty_at = self.clock() + grace
                        self._next_change = min(self._next_change, self._empty_at)
                return
            self._exchange(wanted)
        self.ready.fire()

    def failed(self, problem: str) -> None:
        """The source failed; the last good list stays in use."""
        self.problem = problem

    def checked(self, node: Node, healthy: bool, unejects: bool = False) -> None:
        """What active checks have found out about a node."""
        now = self.clock()
        events: list[Event] = []
        with self._lock:
            returns = healthy and unejects and node.ejected_until is not None
            if node.removed or (node.unhealthy is not healthy and not returns):
                return
            node.unhealthy = not healthy
            if returns:
                events.append(self._ward.restore(node, now))
            self._next_change = now
        logger.info("%s: active checks find %s %s", self.name, node.instance, "healthy" if healthy else "unhealthy")
        self._apply(events, now)

    def close(self) -> None:
        """Remove all nodes: idle connections are closed, running calls finish, calls that wait are told."""
        with self._updating:
            with self._lock:
                self._closed = True
                gone, self._nodes, self._choice, self._due = self._nodes, (), None, ()
                self._version += 1
                idle = self._remove(gone)
        self._let_go(idle)
        self.ready.fire()

    def after_fork(self) -> None:
        """In a forked child: new locks, and none of the parent's calls."""
        self._lock, self._updating = threading.Lock(), threading.Lock()
        fired = self.ready.fired
        self.ready = Signal()
        if fired:
            self.ready.fire()
        if self.budget is not None and self.policy.retry is not None and self.policy.retry.budget is not None:
            self.budget = BudgetAccount(self.policy.retry.budget)
        self._in_flight = 0
        for node in self._nodes:
            node.in_flight = 0
            node.probe = None

    # ---- picking ----

    def _pick(self, call: Call) -> Node:
        choice = self._choice
        if choice is None:
            raise Unavailable(self._why_none())
        return self._chooser.pick(call, choice, self._nodes, self._in_flight)

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

    def _remember(self, node: Node, outcome: Outcome, latency: float, retry_after: float | None, now: float) -> None:
        try:
            node.memory.observe(outcome, latency, retry_after, now)
        except Exception:
            self._complain()

    def _complain(self) -> None:
        if not self._complained:
            self._complained = True
            logger.exception("%s: the balancer's memory failed (said once)", self.name)

    def _remove(self, nodes: Iterable[Node]) -> list[Node]:
        """Mark nodes as gone; those that have no call left."""
        for node in nodes:
            node.removed = True
        self._ward.discharge(nodes)
        return [node for node in nodes if node.in_flight == 0]

    # ---- changes ----

    def _apply(self, events: Sequence[Event], now: float) -> None:
        if events or self._next_change <= now:
            self._refresh(now)
        for event in events:
            logger.info("%s", event)
            if self.observed:
                self.observers(event)

    def _advance(self, now: float) -> None:
        """Something was due at `_next_change`."""
        if self._empty_at <= now and self._updating.acquire(blocking=False):
            try:
                if self._empty_at <= now:  # still: no list has come meanwhile
                    self._exchange(())
                    return
            finally:
                self._updating.release()
        self._refresh(now)

    def _exchange(self, instances: tuple[Instance, ...]) -> None:
        """Make the members those of a list (`_updating` held). Calls see them first; then it is told, and the old
        ones' connections are closed.
        """
        now = self.clock()
        if self.policy.subset is not None:
            instances = tuple(self.policy.subset.of(instances))
        change = compare(self._nodes, instances, self._new_node, Breath())
        fresh = not self._nodes
        with self._lock:
            self._empty_at = NEVER
            if self._closed or not change:
                return
            for node, instance in change.altered:
                node.instance, node.weight = instance, instance.weight
            if not fresh:  # all are new: somebody has to do the work
                for node in change.added:
                    self._ward.warm(node, now)
            self._nodes = change.nodes
            self._version += 1
            idle = self._remove(change.removed)
        self._refresh(now, rebuild=bool(change.altered))
        logger.info(
            "%s: %d instances from %s (%d added, %d removed)",
            self.name, len(change.nodes), self.source, len(change.added), len(change.removed),
        )  # fmt: skip
        self._let_go(idle)
        if self.observed:
            listed, added, removed = (tuple(node.instance for node in part) for part in change[:3])
            self.observers(InstancesChanged(self.name, listed, added, removed))

    def _let_go(self, nodes: Iterable[Node]) -> None:
        for node in nodes:
            try:
                self._retire(node)  # a transport of `connect=` is the user's
            except Exception:
                logger.exception("%s: the transport of %s could not be closed", self.name, node.instance)

    def _new_node(self, instance: Instance) -> Node:
        return Node(instance, self._chooser.balancer.memory(), self._ward.record())

    def _refresh(self, now: float, rebuild: bool = False) -> None:
        """Work out anew who is eligible. Only the newest result is kept."""
        with self._lock:
            self._version += 1
            version, nodes = self._version, self._nodes
            if self._next_change <= now:
                self._next_change = NEVER
        changes: list[float] = self._ward.advance(nodes, now)
        groups = self._chooser.groups(nodes)
        in_use = {node for group in groups for node in group.nodes}
        out = [(node, node.ejected_until) for node in nodes if node.ejected_until is not None]
        due = tuple(node for node, until in out if until <= now and node not in in_use)
        changes += [until for _, until in out if until > now]
        plan = Plan(version, nodes, in_use, due, min(changes, default=NEVER))
        before, balancer = self._choice, self._chooser.balancer
        fixed = balancer.live_weights or balancer.over_members or all(node.warm_since is None for node in nodes)
        if before is not None and before.groups == groups and fixed and not rebuild:
            self._commit(plan, before)
            return
        if before is not None and groups and all(node.removed for node in before.nodes):
            # None of those that the old picker knows is left: at random, until the new one is made.
            self._commit(plan, self._chooser.stopgap(groups))
        self._commit(plan, self._chooser.choice(nodes, groups, before is None, rebuild) if groups else None)

    def _commit(self, plan: Plan, choice: Choice | None) -> None:
        with self._lock:
            if plan.version != self._version:
                return
            for node in plan.nodes:
                node.excluded = node not in plan.in_use
            self._choice, self._due = choice, plan.due
            self._next_change = min(plan.next_change, self._empty_at, self._next_change)


class Plan(NamedTuple):
    """Who is to be in use, worked out without the lock; void if `version` is no longer the newest."""

    version: int
    nodes: tuple[Node, ...]
    in_use: Set[Node]
    due: tuple[Node, ...]
    next_change: float
