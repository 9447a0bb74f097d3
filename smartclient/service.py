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
from .membership import Change, compare
from .node import Node, Outcome
from .policy import Policy
from .retry.budget import BudgetAccount
from .topology import Group
from .waiting import Places, Signal

NEVER = float("inf")
CHUNK = 256  # nodes that are removed in one go
TURNS = 8  # picks, or choices, that other threads may spoil
AGAIN = 1.0  # seconds after which what was due is tried again, should a thread not have got through with it


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
        self._breathe = Breath()
        self._closed = False
        self._complained = False
        self._nodes: tuple[Node, ...] = ()
        self._in_flight = 0
        self._choice: Choice | None = None
        self._version = 0
        self._stale = False  # the pickers do not know the latest weights, or are a stopgap
        self._next_change = NEVER
        self._empty_at = NEVER
        self._due: tuple[Node, ...] = ()  # ejected nodes whose time is over: one probing call each

    @property
    def nodes(self) -> tuple[Node, ...]:
        """All members, ejected ones included."""
        return self._nodes

    @property
    def in_flight(self) -> int:
        """Attempts that are not over, of nodes that are gone, too."""
        return self._in_flight

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
            paused = retry_after is not None and outcome is Outcome.FAILURE and self._ward.pause(node, retry_after, now)
        if events or paused:
            self._apply(events, now)

    def spoil(self, attempt: Attempt) -> None:
        """A body failed whose headers were taken for a success (called by `Attempt.spoil`, once)."""
        node, now = attempt.node, self.clock()
        latency = now - attempt.started
        if self.stalls.spoils(attempt.stalled, latency):
            return
        with self._lock:
            if node.memory is not None:
                self._remember(node, Outcome.FAILURE, latency, None, now)
            if node.health is not None:
                node.health.local_failures = max(node.health.local_failures, attempt.streak)
            probing = node.probe is attempt
            events = self._ward.judge(node, Outcome.FAILURE, None, latency, probing, self._nodes, now)
        if events:
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
        told = None
        with self._updating:
            if not wanted and self._nodes and grace > 0:
                with self._lock:
                    if self._empty_at == NEVER:
                        self._empty_at = self.clock() + grace
                        self._next_change = min(self._next_change, self._empty_at)
                return
            told = self._exchange(wanted)
        self._tell(told)
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
        logger.info("%s: active checks find %s %s", self.name, node.instance, "healthy" if healthy else "unhealthy")
        self._apply(events, now)

    def close(self) -> None:
        """Remove all nodes: idle connections are closed, running calls finish, calls that wait are told."""
        with self._lock:  # an update that is under way finds its version void
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
        # Whatever a thread was about when the process was copied, the next call does it.
        self._chooser.after_fork()
        self._choice, self._stale = None, True
        self._version += 1
        self._next_change = -NEVER

    # ---- picking ----

    def _pick(self, call: Call) -> Node:
        choice = self._choice
        if choice is None:
            raise Unavailable(self._why_none())
        return self._chooser.pick(call, choice, self._nodes, self._in_flight)

    def _claim_due(self, call: Call) -> Node | None:
        outlier = self.policy.outlier
        assert outlier is not None
        require = self._chooser.required(call)
        with self._lock:
            for node in self._due:
                until = node.ejected_until
                if until is None or until > call.now or node.probe is not None or node.removed:
                    continue
                # A call that cannot be repeated is risked only after such a time without one that can.
                if not call.repeatable and call.now < until + outlier.base_ejection_time:
                    continue
                if not require or require.items() <= node.instance.metadata.items():
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
        """Make a change of health felt, and tell of it."""
        self._refresh(now)
        for event in events:
            logger.info("%s", event)
            if self.observed:
                self.observers(event)

    def _advance(self, now: float) -> None:
        """Something was due at `_next_change`: one thread sees to it."""
        with self._lock:
            if now < self._next_change:
                return
            self._next_change = now + AGAIN
        told = None
        if self._empty_at <= now and self._updating.acquire(blocking=False):
            try:
                if self._empty_at <= now:  # still: no list has come meanwhile
                    told = self._exchange(())
            finally:
                self._updating.release()
        if told is None:
            self._refresh(now, building=self._choice is None)
        self._tell(told)

    def _exchange(self, instances: tuple[Instance, ...]) -> tuple[Change, list[Node]] | None:
        """Make the members those of a list (`_updating` held); what is then to be told, and which nodes let go."""
        now = self.clock()
        if self.policy.subset is not None:
            instances = tuple(self.policy.subset.of(instances))
        change = compare(self._nodes, instances, self._new_node, self._breathe)
        fresh = not self._nodes
        with self._lock:
            self._empty_at = NEVER
            if self._closed or not (change or self._choice is None):
                return None
            for node, instance in change.altered:
                node.instance, node.weight = instance, instance.weight
            if not fresh:  # all are new: somebody has to do the work
                for node in change.added:
                    self._ward.warm(node, now)
            self._nodes = change.nodes
            self._version += 1
            self._stale = self._stale or bool(change.altered)
        idle = []
        for at in range(0, len(change.removed), CHUNK):  # calls go on in between
            with self._lock:
                idle += self._remove(change.removed[at : at + CHUNK])
            self._breathe()
        self._refresh(now, building=True)
        return change, idle

    def _tell(self, told: tuple[Change, list[Node]] | None) -> None:
        """Calls see the new members by now; their old ones' connections are closed, and observers hear of it."""
        if told is None or not told[0]:
            return
        change, idle = told
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

    def _refresh(self, now: float, building: bool = False) -> None:
        """Work out anew who is eligible. building: tables may be made; repeated until it is the newest result."""
        for _ in range(TURNS if building else 1):
            with self._lock:
                self._version += 1
                version, nodes, stale = self._version, self._nodes, self._stale
                if self._next_change <= now:
                    self._next_change = now + AGAIN  # should this come to nothing
                changes, moved = self._ward.advance(nodes, now)
            if building:
                self._breathe()
            groups = self._chooser.groups(nodes)
            in_use = {node for group in groups for node in group.nodes}
            if building:
                self._breathe()
            out = [(node, node.ejected_until) for node in nodes if node.ejected_until is not None]
            due = tuple(node for node, until in out if until <= now and node not in in_use)
            changes += [until for _, until in out if until > now]
            plan = Plan(version, nodes, in_use, due, min(changes, default=NEVER))
            if self._choose(plan, groups, stale, moved, building):
                return

    def _choose(self, plan: Plan, groups: tuple[Group, ...], stale: bool, moved: bool, building: bool) -> bool:
        """Make the pickers for a plan, as far as there are none; whether the plan is carried out."""
        before, balancer = self._choice, self._chooser.balancer
        if not groups:
            return self._commit(plan, None, stale=False)
        same = before is not None and before.groups == groups and not stale
        indifferent = balancer.live_weights or balancer.over_members  # to the steps of a slow start
        if same and (indifferent or not moved) and not (building and balancer.over_members):
            return self._commit(plan, before, stale=False)
        if before is not None and all(node.removed for node in before.nodes):
            # None of those that the old picker knows is left: at random, until the new one is made.
            self._commit(plan, self._chooser.stopgap(groups), stale=True)
        choice, current = self._chooser.choice(plan.nodes, groups, before is None, building, stale)
        return self._commit(plan, choice, stale=not current)

    def _commit(self, plan: Plan, choice: Choice | None, stale: bool) -> bool:
        with self._lock:
            if plan.version != self._version:
                return False
            for node in plan.nodes:
                node.excluded = node not in plan.in_use
            self._choice, self._due, self._stale = choice, plan.due, stale
            self._next_change = min(plan.next_change, self._empty_at)
            return True


class Plan(NamedTuple):
    """Who is to be in use, worked out without the lock; void if `version` is no longer the newest."""

    version: int
    nodes: tuple[Node, ...]
    in_use: Set[Node]
    due: tuple[Node, ...]
    next_change: float
