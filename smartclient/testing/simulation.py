"""A discrete-event simulation on a virtual clock that drives the real `Service`, pickers, detectors and retry
decisions.

Servers have parallel slots and a queue; several clients, which know nothing of each other, send them calls at random
times. All randomness comes of the seed, and the calls (when, whose, how much work) are the same for every balancer.
"""

from __future__ import annotations

import heapq
import itertools
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

from ..balancers import Balancer, balancer_named
from ..events import Event, NodeEjected, Observers
from ..instance import Instance
from ..node import Node, Outcome
from ..policy import Policy
from ..retry.decisions import Decisions
from ..services.attempt import Attempt
from ..services.call import Call, CallOptions
from ..services.picking import Unavailable
from ..services.service import Service
from .clock import VirtualClock
from .scenario import DISTRIBUTIONS, Scenario, SimEvent, SimServer

REFUSED_AFTER = 0.0002  # seconds until a refused connection is known
USERS = 1000  # among whom the keys of balancers that hash are drawn


def simulate(
    scenario: str | Path | Mapping[str, Any] | Scenario,
    balancers: Iterable[str | Balancer] = ("adaptive",),
    *,
    ejection: bool = True,
    retry: bool = True,
    policy: Policy | None = None,
) -> dict[str, Any]:
    """Play a scenario with each balancer, and with an oracle that sees all queues.

    scenario:   its file, its content, or a `Scenario`
    balancers:  names, or settings
    ejection:   false: no outlier detection
    retry:      false: no retries
    policy:     the other settings

    {"oracle": R, "balancers": {name: R}}, R = {"p50_ms", "p99_ms", "p999_ms", "within_timeout": share, "failed": calls,
    "attempts", "share": [of the attempts, per server], "ejections": [{"server", "at_s", "client", "reason"}, …]}.
    Raises BadScenario.
    """
    read = scenario if isinstance(scenario, Scenario) else Scenario.read(scenario)
    base = policy or Policy()
    if not ejection:
        base = replace(base, outlier=None)
    if not retry:
        base = replace(base, retry=None)
    results = {}
    for balancer in balancers:
        made = balancer_named(balancer) if isinstance(balancer, str) else balancer
        name = balancer if isinstance(balancer, str) else repr(balancer)
        results[name] = World(read, replace(base, balancer=made)).play()
    return {"oracle": World(read, None).play(), "balancers": results}


class Queue:
    """A server at work."""

    __slots__ = ("busy", "events", "mean", "number", "settings", "waiting")

    def __init__(self, number: int, settings: SimServer, events: tuple[SimEvent, ...]) -> None:
        self.number: int = number
        self.settings: SimServer = settings
        self.mean: float = settings.mean
        self.events: tuple[SimEvent, ...] = tuple(event for event in events if number in event.servers)
        self.busy: int = 0
        self.waiting: deque[Ticket] = deque()

    def slowness(self, now: float) -> float:
        factor = 1.0
        for event in self.events:
            if event.on(now):
                factor *= event.slow
        return factor

    def trouble(self, now: float) -> SimEvent | None:
        return next((event for event in self.events if (event.down or event.fail) and event.on(now)), None)

    def expected(self, now: float) -> float:
        """Seconds a call that comes now would take, on average: what the oracle goes by."""
        slots = self.settings.slots
        ahead = self.busy + len(self.waiting) - slots + 1
        return self.mean * self.slowness(now) * (1.0 + max(0, ahead) / slots)


class Job:
    """One call, and its attempt in progress. came: when it was meant to begin; began: later, if its client was
    stalled."""

    __slots__ = ("attempt", "began", "call", "came", "client", "done", "measured", "retrying", "work")

    def __init__(self, client: int, came: float, work: float, measured: bool) -> None:
        self.client: int = client
        self.came: float = came
        self.began: float = came
        self.work: float = work
        self.measured: bool = measured
        self.call: Any = None
        self.attempt: Attempt | None = None
        self.retrying: Decisions | None = None
        self.done: bool = False


class Ticket:
    """An attempt on a server: it is worked off even when nobody waits for it any more."""

    __slots__ = ("attempt", "job", "work")

    def __init__(self, job: Job, work: float) -> None:
        self.job: Job = job
        self.attempt: Attempt | None = job.attempt
        self.work: float = work


class World:
    """One run. policy: None: the oracle."""

    def __init__(self, scenario: Scenario, policy: Policy | None) -> None:
        self.scenario = scenario
        self.clock: VirtualClock = VirtualClock(0.0)
        self.queues: list[Queue] = [
            Queue(number, server, scenario.events) for number, server in enumerate(scenario.servers)
        ]
        self.stalls: list[SimEvent] = [event for event in scenario.events if event.stall]
        self.latencies: list[float] = []
        self.within: int = 0
        self.failed: int = 0
        self.attempts: int = 0
        self.share: Counter[int] = Counter()
        self.ejections: list[dict[str, Any]] = []
        self._agenda: list[tuple[float, int, Callable[[Any], None], Any]] = []
        self._serial = itertools.count()
        self._policy = policy
        self._timeout = scenario.timeout
        self._luck = Random(scenario.seed + 1)
        self._services = [] if policy is None else [self._service(number) for number in range(scenario.clients)]

    def play(self) -> dict[str, Any]:
        scenario, agenda, clock = self.scenario, self._agenda, self.clock
        rng = Random(scenario.seed)
        calls = scenario.calls + scenario.warmup_calls
        rate = scenario.calls_per_second
        at, number = 0.0, 0
        kinds = {server.distribution for server in scenario.servers}
        only = DISTRIBUTIONS[kinds.pop()] if len(kinds) == 1 else None
        arrive = self._arrive
        for stall in self.stalls:
            self._plan(stall.ends, self._wake, stall)
        next_at = rng.expovariate(rate)
        while number < calls or agenda:
            if number < calls and (not agenda or next_at <= agenda[0][0]):
                clock.now = at = next_at
                client = int(rng.random() * scenario.clients)
                work = only(rng) if only is not None else -1.0
                arrive(Job(client, at, work, number >= scenario.warmup_calls))
                number += 1
                next_at = at + rng.expovariate(rate)
                continue
            when, _, act, what = heapq.heappop(agenda)
            clock.now = when
            act(what)
        return self._result()

    # ---- the clients ----

    def _arrive(self, job: Job) -> None:
        now = self.clock.now
        if self._policy is None:
            self._send(job, self._best(now))
            if self._timeout is not None:
                self._plan(job.came + self._timeout, self._give_up, job)
            return
        if self.stalls and self._held(now, self._arrive, job):
            return
        job.began = now
        user = int(self._luck.random() * USERS)
        job.call = Call(_Request(user), "simulated", CallOptions(hash_key=f"user-{user}"), now)
        job.call.repeatable = self._policy.retry is not None
        if self._timeout is not None:
            self._plan(now + self._timeout, self._give_up, job)
        self._try(job)

    def _try(self, job: Job) -> None:
        if job.done:
            return
        now = self.clock.now
        if self.stalls and self._held(now, self._try, job):
            return
        job.call.now = now
        try:
            attempt = self._services[job.client].start(job.call)
        except Unavailable:
            self._over(job, False)
            return
        job.attempt = attempt
        self._send(job, self.queues[int(attempt.node.instance.id or 0)])

    def _send(self, job: Job, queue: Queue) -> None:
        now = self.clock.now
        if job.measured:
            self.attempts += 1
            self.share[queue.number] += 1
        trouble = queue.trouble(now)
        if trouble is not None and trouble.down:
            self._plan(now + REFUSED_AFTER, self._refused, (job, job.attempt))
            return
        if trouble is not None and self._luck.random() < trouble.fail:
            self._plan(now + trouble.fail_after, self._answered, (job, job.attempt, 503))
            return
        work = job.work
        if work < 0.0 or (job.call is not None and job.call.attempt > 1):
            work = DISTRIBUTIONS[queue.settings.distribution](self._luck)
        ticket = Ticket(job, work)
        if queue.busy < queue.settings.slots:
            self._serve(queue, ticket)
        else:
            queue.waiting.append(ticket)

    def _refused(self, what: tuple[Job, Attempt | None]) -> None:
        job, attempt = what
        if self.stalls and self._held(self.clock.now, self._refused, what):
            return
        self._ended(job, attempt, Outcome.FAILURE, None)

    def _answered(self, what: tuple[Job, Attempt | None, int]) -> None:
        job, attempt, status = what
        if self.stalls and self._held(self.clock.now, self._answered, what):
            return
        self._ended(job, attempt, Outcome.SUCCESS if status < 500 else Outcome.FAILURE, status)

    def _ended(self, job: Job, attempt: Attempt | None, outcome: Outcome, status: int | None) -> None:
        """What an attempt came to, as far as its client still waits for it."""
        if job.done or job.attempt is not attempt:
            return
        if attempt is not None:
            attempt.judge(outcome, status)
            attempt.finish()
        if outcome is Outcome.SUCCESS:
            self._over(job, True)
            return
        pause = None if attempt is None else self._pause(job)
        if pause is None:
            self._over(job, False)
            return
        call = job.call
        call.attempt += 1
        call.tried += (attempt.node,)  # type: ignore[union-attr]
        job.attempt = None
        self._plan(self.clock.now + pause, self._try, job)

    def _give_up(self, job: Job) -> None:
        """Its time is over: as a deadline does it, with the node to blame."""
        if job.done:
            return
        if self.stalls and self._held(self.clock.now, self._give_up, job):
            return
        if job.attempt is not None:
            job.attempt.judge(Outcome.FAILURE, None)
            job.attempt.finish()
        self._over(job, False)

    def _pause(self, job: Job) -> float | None:
        service, now = self._services[job.client], self.clock.now
        if service.policy.retry is None:
            return None
        if job.retrying is None:
            job.retrying = Decisions(service.policy.retry, job.came)
        if not job.retrying.wanted(None, None, True, now):
            return None
        pause = job.retrying.pause()
        if pause is None or (self._timeout is not None and now + pause >= job.began + self._timeout):
            return None
        if service.budget is not None and not service.budget.take(now):
            return None
        job.retrying.again(pause)
        return pause

    def _over(self, job: Job, well: bool) -> None:
        job.done = True
        if not job.measured:
            return
        took = self.clock.now - job.came
        self.latencies.append(took)
        self.failed += not well
        self.within += well and (self._timeout is None or took <= self._timeout)

    def _held(self, now: float, act: Callable[[Any], None], what: Any) -> bool:
        """A stalled client attends to it when it runs again."""
        for stall in self.stalls:
            if stall.on(now):
                self._plan(stall.ends, act, what)
                return True
        return False

    def _wake(self, stall: SimEvent) -> None:
        for service in self._services:
            service.stalls.late(stall.ends - stall.begins)

    # ---- the servers ----

    def _serve(self, queue: Queue, ticket: Ticket) -> None:
        queue.busy += 1
        now = self.clock.now
        self._plan(now + ticket.work * queue.mean * queue.slowness(now), self._served, (queue, ticket))

    def _served(self, what: tuple[Queue, Ticket]) -> None:
        queue, ticket = what
        queue.busy -= 1
        if queue.waiting:
            self._serve(queue, queue.waiting.popleft())
        self._answered((ticket.job, ticket.attempt, 200))

    def _best(self, now: float) -> Queue:
        best, least = [], float("inf")
        for queue in self.queues:
            if queue.events and queue.trouble(now) is not None:
                continue
            wait = queue.expected(now)
            if wait < least:
                best, least = [queue], wait
            elif wait == least:
                best.append(queue)
        if not best:
            return self.queues[0]
        return best[0] if len(best) == 1 else best[int(self._luck.random() * len(best))]

    # ---- odds and ends ----

    def _plan(self, at: float, act: Callable[[Any], None], what: Any) -> None:
        heapq.heappush(self._agenda, (at, next(self._serial), act, what))

    def _service(self, number: int) -> Service:
        assert self._policy is not None
        rng = Random(f"{self.scenario.seed}/{number}")
        policy = self._policy
        if policy.retry is not None:  # tenacity's own waits draw from the process's randomness

            def wait(state: Any) -> float:
                return rng.uniform(0, min(1.0, 0.025 * 2 ** (state.attempt_number - 1)))

            policy = replace(policy, retry=replace(policy.retry, wait=wait))

        def saw(event: Event) -> None:
            if isinstance(event, NodeEjected):
                server = int(event.instance.id or 0)
                told = {"server": server, "at_s": round(self.clock.now, 3), "client": number, "reason": event.reason}
                self.ejections.append(told)

        service = Service("simulated", policy, source="the scenario", clock=self.clock, rng=rng,
                          observers=Observers([saw]), retire=_nothing)  # fmt: skip
        service.update(
            Instance(f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}", 80, weight=server.weight, zone=server.zone,
                     priority=server.priority, id=str(n))
            for n, server in enumerate(self.scenario.servers)
        )  # fmt: skip
        return service

    def _result(self) -> dict[str, Any]:
        ordered = sorted(self.latencies)
        total = sum(self.share.values()) or 1
        return {
            "p50_ms": _percentile(ordered, 0.5),
            "p99_ms": _percentile(ordered, 0.99),
            "p999_ms": _percentile(ordered, 0.999),
            "within_timeout": self.within / len(ordered) if ordered else 1.0,
            "failed": self.failed,
            "calls": len(ordered),
            "attempts": self.attempts,
            "share": [round(self.share[number] / total, 6) for number in range(len(self.queues))],
            "ejections": self.ejections,
        }


class _Request:
    """As much of a request as a hash needs."""

    __slots__ = ("headers", "method")

    def __init__(self, user: int) -> None:
        self.headers = {"x-forwarded-for": f"172.16.{user >> 8}.{user & 255}"}
        self.method = "GET"


def _percentile(ordered: list[float], share: float) -> float:
    return round(ordered[min(int(share * len(ordered)), len(ordered) - 1)] * 1000, 3) if ordered else 0.0


def _nothing(node: Node) -> None:
    pass
