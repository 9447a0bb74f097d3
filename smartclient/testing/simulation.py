"""A discrete-event simulation on a virtual clock.

Servers have parallel slots and a queue (`simulated`); several clients, which know nothing of each other, send them
calls, and drive the real flow of a call (`simulated_client`). All randomness comes of the seed, and the calls (when,
whose, how much work) are the same for every balancer.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

from ..balancers import Balancer, balancer_named
from ..policy import Policy
from .clock import VirtualClock
from .scenario import DISTRIBUTIONS, Scenario
from .simulated import REFUSED_AFTER, SimulatedServer, Ticket
from .simulated_client import Job, SimulatedClient
from .tally import Tally

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
    policy:     the other settings; its deadline is the scenario's `timeout_ms`

    {"oracle": R, "balancers": {name: R}}, R = {"mean_ms", "p50_ms", "p99_ms", "p999_ms", "within_timeout": share,
    "failed", "calls", "attempts", "share": [of the attempts, per server], "ejections": [{"server", "at_s", "client",
    "reason"}, …]}; with several routes "routes": {name: …}, with `window_s` "windows": [{"from_s", …}, …]. Raises
    BadScenario.
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


class World:
    """One run. policy: None: the oracle."""

    def __init__(self, scenario: Scenario, policy: Policy | None) -> None:
        self.scenario: Scenario = scenario
        self.clock: VirtualClock = VirtualClock(0.0)
        self.tally: Tally = Tally(scenario)
        self._agenda: list[tuple[float, int, Callable[..., Any], Any]] = []
        self._serial = itertools.count()
        self._luck = Random(scenario.seed + 1)
        self.servers: list[SimulatedServer] = [
            SimulatedServer(number, settings, scenario.events, self.plan, self._luck)
            for number, settings in enumerate(scenario.servers)
        ]
        self._clients: list[SimulatedClient] = []
        if policy is not None:
            settings = self._settings(policy)
            self._clients = [
                SimulatedClient(number, self, settings, self.tally.ejections) for number in range(scenario.clients)
            ]
            for change in {at for server in scenario.servers for at in (server.joins, server.leaves)}:
                if 0.0 < change < float("inf"):
                    self.plan(change, self._list)

    def play(self) -> dict[str, Any]:
        if self.scenario.at_once is None:
            self._play_open()
        else:
            self._play_closed(self.scenario.at_once)
        return self.tally.result()

    def plan(self, at: float, act: Callable[..., Any], what: Any = None) -> None:
        """Call `act(what, now)` then."""
        heapq.heappush(self._agenda, (at, next(self._serial), act, what))

    # ---- calls ----

    def _play_open(self) -> None:
        """Calls come when they come."""
        scenario, agenda, clock = self.scenario, self._agenda, self.clock
        rng = Random(scenario.seed)
        calls = scenario.calls + scenario.warmup_calls
        rate = scenario.calls_per_second
        next_at, number = rng.expovariate(rate), 0
        while number < calls or agenda:
            if number < calls and (not agenda or next_at <= agenda[0][0]):
                clock.now = at = next_at
                self._begin(self._job(rng, at, number), at)
                number += 1
                next_at = at + rng.expovariate(rate)
            else:
                self._next()

    def _play_closed(self, at_once: int) -> None:
        """Each client makes so many calls at once, each as soon as the one before is over."""
        rng, numbers = Random(self.scenario.seed), itertools.count()
        calls = self.scenario.calls + self.scenario.warmup_calls

        def again(client: int, now: float) -> None:
            number = next(numbers)
            if number < calls:
                job = self._job(rng, now, number)
                job.client = client
                job.then = lambda: self.plan(self.clock.now, again, client)
                self._begin(job, now)

        for client in range(self.scenario.clients):
            for _ in range(at_once):
                again(client, 0.0)
        while self._agenda:
            self._next()

    def _job(self, rng: Random, at: float, number: int) -> Job:
        scenario = self.scenario
        client = int(rng.random() * scenario.clients)
        route = scenario.routes[0] if len(scenario.routes) == 1 else scenario.route(rng.random())
        only = scenario.only_distribution
        work = DISTRIBUTIONS[only](rng) if only is not None else -1.0
        user = int(self._luck.random() * USERS) if self._clients else 0
        return Job(client, at, route, work, number >= scenario.warmup_calls, user)

    def _next(self) -> None:
        when, _, act, what = heapq.heappop(self._agenda)
        self.clock.now = when
        act(what, when)

    def _begin(self, job: Job, now: float) -> None:
        if self._clients:
            self._clients[job.client].call(job, now)
        else:
            self._ask_oracle(job, now)

    def over(self, job: Job, well: bool) -> None:
        """A call is over."""
        if job.measured:
            self.tally.call(job.route.name, job.came, self.clock.now, well)
        if job.then is not None:
            job.then()

    def _list(self, _: Any, now: float) -> None:
        for client in self._clients:
            client.list(now)

    # ---- the way to a server, and back ----

    def transmit(self, job: Job, server: SimulatedServer, again: bool, answer: Callable[[int], None]) -> None:
        """Send an attempt; `answer` is called with its status, 0 for the headers of a stream, -1 if it is refused."""
        now, trouble = self.clock.now, server.trouble(self.clock.now) if server.events else None
        if job.measured:
            self.tally.attempt(server.number, now)
        way = server.half_way
        returned = answer
        if way:

            def returned(status: int) -> None:
                self.plan(self.clock.now + way, lambda _, at: answer(status))

        if trouble is not None and trouble.down:
            self.plan(now + way + REFUSED_AFTER, lambda _, at: returned(-1))
            return
        if trouble is not None and self._luck.random() < trouble.fail:
            self.plan(now + way + trouble.fail_after, lambda _, at: returned(trouble.status))
            return
        work = job.work if job.work >= 0.0 and not again else server.work()
        ticket = Ticket(job.route, work * job.route.cost, returned)
        if way:
            self.plan(now + way, server.take, ticket)
        else:
            server.take(ticket, now)

    # ---- the oracle ----

    def _ask_oracle(self, job: Job, now: float) -> None:
        waiting = True

        def answer(status: int) -> None:
            nonlocal waiting
            if waiting and status != 0:
                waiting = False
                self.over(job, 0 < status < 400)

        self.transmit(job, self._best(now, job.route.cost), False, answer)
        if self.scenario.timeout is not None:
            self.plan(now + self.scenario.timeout, lambda _, at: answer(-1))

    def _best(self, now: float, cost: float) -> SimulatedServer:
        best, least = [], float("inf")
        for server in self.servers:
            if not server.listed(now) or (server.events and server.trouble(now) is not None):
                continue
            wait = server.expected(now, cost)
            if wait < least:
                best, least = [server], wait
            elif wait == least:
                best.append(server)
        if not best:
            return self.servers[0]
        return best[0] if len(best) == 1 else best[int(self._luck.random() * len(best))]

    def _settings(self, policy: Policy) -> Policy:
        if policy.retry is not None:  # tenacity's own waits draw from the process's randomness
            rng = Random(f"{self.scenario.seed}/waits")

            def wait(state: Any) -> float:
                return rng.uniform(0, min(1.0, 0.025 * 2 ** (state.attempt_number - 1)))

            policy = replace(policy, retry=replace(policy.retry, wait=wait))
        timeout = self.scenario.timeout
        return policy if timeout is None else replace(policy, deadline=timeout)
