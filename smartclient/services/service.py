"""Service: the live state of one service: its nodes, which of them may be picked, and the results of attempts.

Reading is lock-free: a call sees one immutable `Choice`, replaced as a whole. Writing (in-flight, health, membership)
holds the service's lock briefly: lists are compared and pickers made without it. The only user code that runs under it
is a balancer's `Memory`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from random import Random

from ..events import Event, Observers
from ..faults import Fault
from ..health.stalls import Stalls
from ..instance import Instance
from ..limits import Admission
from ..node import Node, Outcome
from ..policy import Policy
from ..retry.budget import BudgetAccount
from ..retry.hedge import Hedge
from ..support.gil_breaks import GilBreaks
from ..support.loggers import logger
from ..support.waiting import Places, Signal
from .allowances import account_of, admission_of
from .announcements import Announcements
from .attempt import Attempt
from .call import Call
from .changes import Change
from .latencies import Latencies
from .load_reports import LoadReports, reports_of
from .members import Members
from .picking import Unavailable

LOOK_EVERY = 0.0001  # seconds, per node: checking a node takes about 1 µs
REFRESH_EVERY = 10.0  # seconds
UP_FOR = 10.0  # seconds after an answer during which a node counts as up


def is_up(node: Node, now: float) -> bool:
    """Whether it answered a moment ago, the last time it was asked."""
    return node.answered_at is not None and now - node.answered_at <= UP_FOR and not node.removed


def is_not_down(node: Node, now: float) -> bool:
    """Whether it could be reached, as far as is known."""
    return node.unreached_at is None or now - node.unreached_at > UP_FOR


Told = tuple["tuple[Change, list[Node]] | None", float]


class Service:
    """The live state of one service in one client.

    name:     as in the URL
    source:   what discovery calls itself, for messages
    retire:   called with each node that is gone and has no call left: close its connections
    zone:     where this client runs, unless the policy says
    stalls:   of the client
    refresh:  asks the source again; called when most nodes fail: they may have been replaced without our knowledge
    by_id:    the registry's id is part of an instance's identity
    given_up: called when a call waits no longer for the first list
    link_local: names of instances may lead to link-local addresses
    ready:    set when the first list has come
    observed: somebody wants events: build none otherwise
    problem:  the source's last error, None once it answers again
    drop:     share of the calls that the registry asks not to be made
    admission: its limits, if it has any
    forgotten: its source knows no such service
    latencies: of late, once somebody has asked
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
        refresh: Callable[[str], None] | None = None,
        by_id: bool = False,
        given_up: Callable[[Service], None] | None = None,
        link_local: bool = False,
    ) -> None:
        self.name = name
        self.policy = policy
        self.source = source
        self.clock = clock
        self.observers = observers
        self.observed: bool = bool(observers)
        self.stalls: Stalls = stalls or Stalls()
        self.ready: Signal = Signal()
        self.publishing: threading.Lock = threading.Lock()  # one list at a time
        self.problem: str | None = None
        self.used_at: float = clock()
        self._listed_at = clock()
        self.budget: BudgetAccount | None = account_of(policy)
        self._hedge_budgets: dict[float, BudgetAccount] = {}
        self.latencies: Latencies | None = None
        self.members: Members = Members(name, policy, zone, clock, rng, by_id)
        self.load_reports: LoadReports | None = reports_of(self.members, clock)
        self.admission: Admission | None = admission_of(policy, rng)
        self._retire = retire
        self.rng = rng
        self.faults: tuple[Fault, ...] = ()
        self._refresh = refresh
        self._given_up = given_up
        self.forgotten: bool = False
        self._listed = False
        self.link_local = link_local
        self.drop: float = 0.0
        self.announce: Announcements = Announcements(name, source, observers)
        self._look_at = 0.0  # when to check next whether most nodes fail
        self._up: Node | None = None  # the last one that answered
        self.limit_nodes()

    @property
    def nodes(self) -> tuple[Node, ...]:
        """All members, ejected ones included."""
        return self.members.nodes

    @property
    def age(self) -> float:
        """Seconds since the source last sent a list."""
        return self.clock() - self._listed_at

    @property
    def in_flight(self) -> int:
        """Attempts that are not over, of nodes that are gone, too."""
        return self.members.in_flight

    # ---- a call ----

    def measure(self) -> Latencies:
        """Its latencies, kept from now on."""
        if self.latencies is None:
            self.latencies = Latencies()
        return self.latencies

    def knows_up(self, now: float) -> bool:
        """Whether some node answered recently, and has not failed since: then an unreachable instance is down alone,
        not the network or all instances.
        """
        if self._up is not None and is_up(self._up, now):
            return True
        self._up = next((node for node in self.nodes if is_up(node, now)), None)
        return self._up is not None

    def others_may_be_called(self, call: Call) -> bool:
        """Whether there is a node that the call has not tried and that may be called."""
        tried = {attempt.node for attempt in call.attempts}
        return any(not node.out and node not in tried for node in self.nodes)

    def hedge_budget(self, hedge: Hedge) -> BudgetAccount:
        """The account of hedges with that budget: a call's own `Hedge` may have another than the policy's."""
        account = self._hedge_budgets.get(hedge.budget)
        return account or self._hedge_budgets.setdefault(hedge.budget, hedge.account())

    def draw_drop(self) -> bool:
        """Whether this call must be dropped."""
        return self.rng.random() < self.drop

    def start(self, call: Call, places: Sequence[Places] = ()) -> Attempt:
        """Pick a node for the call's next attempt. Raises Unavailable where there is none."""
        now = call.now
        self.used_at = now
        members = self.members
        if now >= members.next_change:
            self.tell(members.advance(now))
        if self.policy.subset is not None and (told := members.want(*members.chooser.asked(call))):
            self.tell(told)
        if members.choice is None:
            raise Unavailable(self.why_none())
        node = members.claim(call)
        if call.remarked is not None:
            self.announce.favoured(call.remarked, now)
        if call.attempt == 1 and (budget := self.budget) is not None and not call.retried:
            budget.deposit(now)
        attempt = Attempt(self, node, call.attempt, now, places)
        attempt.stalled, attempt.why = self.stalls.total, call.why
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
        if outcome is Outcome.ABANDONED and not attempt.overtaken:
            return
        explained = self.stalls.explains(attempt.stalled, attempt.elapsed)
        if attempt.overtaken:
            self._overtaken(attempt, explained, now)
            return
        if explained and attempt.status is None:
            return  # it timed out because our process was stalled
        self._reached(attempt, now)
        lone = attempt.unreached and self.knows_up(now)
        if self.latencies is not None and outcome is Outcome.SUCCESS:
            self.latencies.add(attempt.elapsed, now)
        events, paused = self.members.learn(attempt, retry_after, now, lone, remember=not explained)
        if (admission := self.admission) is not None and not explained:
            self._tell_admission(admission, attempt, now)
        if paused:
            self.announce.paused(attempt.node, (attempt.node.paused_until or now) - now)
        if events or paused:
            self.apply(events, now)
        if outcome is Outcome.FAILURE and now >= self._look_at and self._refresh is not None:
            self._ask_anew(now)

    def _reached(self, attempt: Attempt, now: float) -> None:
        """Whether its server could be reached."""
        node = attempt.node
        if attempt.status is not None:
            node.answered_at, node.unreached_at, self._up = now, None, node
        elif attempt.outcome is Outcome.FAILURE:
            node.answered_at = None
            if attempt.unreached:
                node.unreached_at = now

    def _tell_admission(self, admission: Admission, attempt: Attempt, now: float) -> None:
        reason = f"{attempt.node.instance}: {attempt.error or f'status {attempt.status}'}"
        failed = attempt.outcome is Outcome.FAILURE
        in_flight, count = self.in_flight, len(self.nodes)
        admission.observe(failed, attempt.status, reason, attempt.elapsed, in_flight, count, now)
        self.announce.circuit(admission.circuit_open, reason)

    def _ask_anew(self, now: float) -> None:
        """Have the source asked, if most nodes gave no answer the last time they were called."""
        self._look_at = now + LOOK_EVERY * len(self.nodes)
        failing = sum(1 for node in self.nodes if node.health is not None and node.health.local_failures)
        if failing * 2 > len(self.nodes) and self._refresh is not None:
            self._look_at = now + REFRESH_EVERY
            self.announce.failing(failing, len(self.nodes))
            self._refresh(self.name)

    def _overtaken(self, attempt: Attempt, explained: bool, now: float) -> None:
        """Its time is a lower bound of its latency. For a node on probation that is too long."""
        events = self.members.learn_overtaken(attempt, now, remember=not explained)
        if events:
            self.apply(events, now)

    def fail_in_body(self, attempt: Attempt) -> None:
        """A body failed whose headers were taken for a success (called by `Attempt.fail_in_body`, once)."""
        now = self.clock()
        latency = now - attempt.started
        if self.stalls.explains(attempt.stalled, latency):
            return
        events = self.members.learn_of_body(attempt, latency, now)
        if events:
            self.apply(events, now)

    def finish(self, attempt: Attempt) -> None:
        """One call less in flight (called by `Attempt.finish`, once)."""
        explained = attempt.stalled != self.stalls.total and self.stalls.explains(attempt.stalled, attempt.latency)
        astray, gone = self.members.release(attempt, self.clock(), remember=not explained)
        if self.admission is not None and astray:
            self._count()
        if gone:
            self._let_go((attempt.node,))

    # ---- what others say ----

    def update(self, instances: Iterable[Instance], grace: float = 0.0) -> None:
        """Take a new full list from discovery.

        grace: seconds for which an empty list after a non-empty one is held back: a registry that was just restarted
               is legitimately empty
        """
        self.settle(self.take(instances, grace))

    def take(self, instances: Iterable[Instance], grace: float = 0.0) -> Told:
        """The first part of `update`, in which no user code runs."""
        self.problem = None
        self._listed = True
        age, self._listed_at = self.age, self.clock()
        return self.members.update(tuple(instances), grace), age

    def settle(self, told: Told) -> None:
        """The rest: pickers, waiting calls, observers, the log. No lock is held: all may be slow, and call us."""
        if told[0] is not None:
            self.members.settle()
        self.ready.fire()
        self.tell(*told)

    def forget(self) -> None:
        """It is no longer kept: a call that still holds it must not wait for a list."""
        self.forgotten = True
        self.ready.fire()

    def given_up(self) -> None:
        """A call waits no longer for the first list."""
        if self._given_up is not None:
            self._given_up(self)

    def failed(self, problem: str) -> None:
        """The source failed; the last good list stays in use."""
        self.problem = problem

    def checked(self, node: Node, healthy: bool, unejects: bool = False) -> None:
        """What active checks have found out about a node."""
        now = self.clock()
        events = self.members.check(node, healthy, unejects, now)
        if events is None:
            return
        self.announce.checked(node, healthy)
        self.apply(events, now)

    def close(self) -> None:
        """Remove all nodes: idle connections are closed, running calls finish, calls that wait are told."""
        self._let_go(self.members.close())
        self.ready.fire()

    def after_fork(self) -> None:
        """In a forked child: new locks, and none of the parent's calls."""
        self.members.after_fork()
        self.publishing = threading.Lock()
        fired = self.ready.fired
        self.ready = Signal()
        if fired:
            self.ready.fire()
        self.budget, self.admission = account_of(self.policy), admission_of(self.policy, self.rng)
        self.latencies, self._hedge_budgets = None, {}
        self.limit_nodes()

    def why_none(self) -> str:
        """Why a call finds no instance."""
        known = len(self.nodes)
        if self.members.closed:
            return "the client has been closed"
        if not self._listed:
            why = f"{self.source} has not answered yet"
        elif not known:
            why = f"{self.source} lists none (said {self.age:.0f} s ago)"
        else:
            why = f"none of the {known} that {self.source} listed {self.age:.0f} s ago can be used"
        return f"{why}; last error: {self.problem}" if self.problem else why

    # ---- changes ----

    def apply(self, events: Sequence[Event], now: float) -> None:
        """Apply a change of health, and report it."""
        self.members.refresh(now)
        self._count()
        self.announce.health(events)

    def tell(self, told: tuple[Change, list[Node]] | None, age: float = 0.0) -> None:
        """Calls already see the new members: close the connections of removed ones, and tell the observers."""
        self._count()
        if told is None or not told[0]:
            return
        change, idle = told
        self._let_go(idle)
        self.announce.listed(change, age)
        idle.clear()
        breaks = GilBreaks()
        while change.removed:  # thousands of nodes freed at once would hold the interpreter for milliseconds
            change.removed.pop()
            breaks()

    def limit_nodes(self) -> None:
        """How many attempts each node may have is limited, or not."""
        limited = self.admission is not None and self.admission.limits_nodes
        self.members.chooser.room = self.admission.room if self.admission is not None and limited else None
        self._count()

    def _count(self) -> None:
        """Who may be picked has changed."""
        if (admission := self.admission) is not None:
            admission.count(self._in_use)
        if self.members.panic or self.announce.panicked:
            out = sum(1 for node in self.nodes if node.out)
            self.announce.panic(self.members.panic, out, len(self.nodes))

    def _in_use(self) -> tuple[int, int]:
        """How many nodes take calls, and how many attempts are in flight on others."""
        choice = self.members.choice
        nodes = () if choice is None else choice.nodes
        return len(nodes), max(0, self.in_flight - sum(node.in_flight for node in nodes))

    def _let_go(self, nodes: Iterable[Node]) -> None:
        for node in nodes:
            try:
                self._retire(node)  # a transport of `connect=` is the user's
            except Exception:
                logger.exception("%s: the transport of %s could not be closed", self.name, node.instance)
