"""A client in the simulation: the third driver of a call's flow, beside the two that use sockets.

A call runs the real flow, with the real `Service`, pickers and detectors. Sending and sleeping are entries in the
world's agenda.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from functools import partial
from random import Random
from typing import Any, Protocol

from ..balancers.load_report import HEADER, with_in_flight
from ..calls.context import SendContext
from ..calls.effects import Discard, Effect, Ended, Race, Read, Send, Sleep
from ..calls.flow import CallFlow
from ..calls.race import Rules
from ..calls.state import CallState
from ..events import Event, NodeEjected, Observers
from ..flavour import HTTPX
from ..instance import Instance
from ..node import Node
from ..policy import Policy
from ..services.announcements import Announcements
from ..services.attempt import Attempt
from ..services.call import CallOptions
from ..services.service import Service
from .clock import VirtualClock
from .scenario import Route, Scenario, SimEvent
from .simulated import Body, Request, Response, SimulatedServer

Resume = Callable[[Any, "Exception | None"], None]
"""Goes on with a flow: with what an effect came to, or the error that it ended with."""


class Job:
    """A call that somebody makes. came: when it was meant to begin;  then: called when it is over"""

    __slots__ = ("came", "client", "measured", "route", "then", "user", "work")

    def __init__(self, client: int, came: float, route: Route, work: float, measured: bool, user: int) -> None:
        self.client: int = client
        self.came: float = came
        self.route: Route = route
        self.work: float = work
        self.measured: bool = measured
        self.user: int = user
        self.then: Callable[[], None] | None = None


class Around(Protocol):
    """What a client needs of its world."""

    scenario: Scenario
    servers: list[SimulatedServer]
    clock: VirtualClock

    def plan(self, at: float, act: Callable[..., Any], what: Any = None) -> None:
        """Call `act(what, now)` then."""

    def transmit(self, job: Job, server: SimulatedServer, again: bool, answer: Callable[[int], None]) -> None:
        """Send an attempt; `answer` is called with its status, 0 for the headers of a stream, -1 if it is refused."""

    def over(self, job: Job, well: bool) -> None:
        """A call is over."""


class Unlogged(Announcements):
    """Of a service that is none."""

    def log(self, logger: Any, level: int, text: str, *args: Any, **fields: Any) -> None:
        pass


class SimulatedClient:
    """One client, which knows nothing of the others."""

    def __init__(self, number: int, world: Around, policy: Policy, ejections: list[dict[str, Any]]) -> None:
        self.world = world
        self._stalls = [event for event in world.scenario.events if event.stall]
        self._idle: dict[int, int] = {}  # connections, by server

        def saw(event: Event) -> None:
            if isinstance(event, NodeEjected):
                ejections.append({"server": int(event.instance.id or 0), "at_s": round(world.clock(), 3),
                                  "client": number, "reason": event.reason})  # fmt: skip

        observers = Observers([saw])
        rng = Random(f"{world.scenario.seed}/{number}")
        self.service: Service = Service("simulated", policy, source="the scenario", clock=world.clock, rng=rng,
                                        observers=observers, retire=_nothing)  # fmt: skip
        self.service.observed = False  # calls need not be told, and nothing is logged
        self.service.announce = Unlogged(self.service.name, self.service.source, observers)
        self.list(0.0)
        for stall in self._stalls:
            world.plan(stall.ends, self._wake, stall)

    def list(self, now: float) -> None:
        """Discovery says who is there now."""
        self.service.update([instance_of(server) for server in self.world.servers if server.listed(now)])

    def call(self, job: Job, now: float) -> None:
        if self._stalls and self._held(now, self.call, job):
            return
        request, context = Request(job.user, job.route.method), SendContext(CallOptions(hash_key=f"user-{job.user}"))
        state = CallState(request, self.service, context, None, None, HTTPX, self.world.clock)
        self.run(job, CallFlow(state).run(), partial(self._over, job))

    def run(self, job: Job, flow: Generator[Effect, Any, Any], over: Resume) -> None:
        """Perform a flow's effects, one after the other; `over` gets the result."""

        def resume(value: Any, error: Exception | None) -> None:
            if self._stalls and self._held(self.world.clock(), lambda _, at: resume(value, error), None):
                return
            try:
                effect = flow.send(value) if error is None else flow.throw(error)
            except StopIteration as done:
                over(done.value, None)
            except Exception as caught:
                over(None, caught)
            else:
                self._perform(job, effect, resume)

        resume(None, None)

    def connect(self, server: int) -> bool:
        """Take an idle connection, if there is one."""
        idle = self._idle.get(server, 0)
        if idle:
            self._idle[server] = idle - 1
        return idle > 0

    def give_back(self, server: int) -> None:
        self._idle[server] = self._idle.get(server, 0) + 1

    def _perform(self, job: Job, effect: Effect, resume: Resume) -> None:
        if isinstance(effect, Send):
            Sending(self, job, effect, resume).begin()
        elif isinstance(effect, Sleep):
            self.world.plan(self.world.clock() + effect.seconds, lambda _, now: resume(None, None))
        elif isinstance(effect, Race):
            Racing(self, job, effect, resume).begin()
        else:
            # Bodies are read by whoever made the call; no place and no list has to be waited for.
            assert isinstance(effect, (Discard, Read)), effect
            if isinstance(effect, Discard):
                finish(effect.response)
            resume(None, None)

    def _over(self, job: Job, response: Any, error: Exception | None) -> None:
        body = None if response is None else response.body
        if body is not None and body.done is None:
            body.told = lambda: self._over(job, response, error)
            return
        if response is not None:
            finish(response)
        self.world.over(job, response is not None and response.status_code < 400)

    def _held(self, now: float, act: Callable[..., None], what: Any) -> bool:
        """Whether the client is stalled: then it handles this when it runs again."""
        for stall in self._stalls:
            if stall.on(now):
                self.world.plan(stall.ends, act, what)
                return True
        return False

    def _wake(self, stall: SimEvent, now: float) -> None:
        self.service.stalls.late(stall.ends - stall.begins)


class Sending:
    """One attempt on its way: what comes first, its answer or the end of its time, resumes the flow."""

    __slots__ = ("_attempt", "_body", "_client", "_ends_at", "_job", "_resume", "_server", "_waiting")

    def __init__(self, client: SimulatedClient, job: Job, effect: Send, resume: Resume) -> None:
        self._client = client
        self._job = job
        self._attempt = effect.attempt
        self._ends_at = None if effect.timeouts is None else effect.timeouts.ends_at
        self._resume = resume
        self._server = client.world.servers[int(effect.attempt.node.instance.id or 0)]
        self._waiting = True
        self._body: Body | None = None

    def begin(self) -> None:
        world, attempt = self._client.world, self._attempt
        if self._ends_at is not None:
            world.plan(self._ends_at, self._give_up)
        attempt.reused = self._client.connect(self._server.number)
        if attempt.reused or not world.scenario.connect:
            self._transmit(None, attempt.started)
        else:
            world.plan(world.clock() + world.scenario.connect + self._server.settings.rtt, self._transmit)

    def _transmit(self, _: Any, now: float) -> None:
        attempt = self._attempt
        attempt.connecting = max(0.0, now - attempt.started)
        self._client.world.transmit(self._job, self._server, attempt.number > 1, self._answered)

    def _answered(self, status: int) -> None:
        body = self._body
        if body is not None:
            body.done = self._client.world.clock()
            self._client.give_back(self._server.number)
            if body.told is not None:
                body.told()
            return
        if not self._waiting:
            return
        self._waiting = False
        if status == -1:
            self._resume(None, HTTPX.httpx.ConnectError("refused"))
        elif status == 0:
            self._body = Body(self._attempt, self._client.world.clock())
            self._resume(Response(200, self._body), None)
        else:
            self._client.give_back(self._server.number)
            response = Response(status)
            if self._client.world.scenario.told:  # this one is over for the server
                response.headers[HEADER] = str(with_in_flight(None, self._server.in_flight() + 1))
            self._resume(response, None)

    def _give_up(self, _: Any, now: float) -> None:
        if self._waiting:
            self._waiting = False
            self._resume(None, HTTPX.httpx.ReadTimeout("out of time"))


class Racing:
    """A race of attempts, as the flow's rules have it."""

    def __init__(self, client: SimulatedClient, job: Job, effect: Race, resume: Resume) -> None:
        self._client = client
        self._job = job
        self._race = effect
        self._resume = resume
        self._rules = Rules(effect, client.world.clock())
        self._over = False

    def begin(self) -> None:
        self._start(self._race.first)
        self._wait()

    def _start(self, attempt: Attempt) -> None:
        self._client.run(self._job, self._race.run(attempt), partial(self._ended, attempt))

    def _wait(self) -> None:
        now = self._client.world.clock()
        patience = self._rules.patience(now)
        if patience is not None and not self._over:
            self._client.world.plan(now + patience, self._due)

    def _due(self, _: Any, now: float) -> None:
        if self._over or self._rules.patience(now):
            return
        another = self._rules.another(None, now)
        if another is not None:
            self._start(another)
            self._wait()

    def _ended(self, attempt: Attempt, response: Any, error: Exception | None) -> None:
        ended: Ended = (attempt, response, error)
        if self._over:  # nobody waits for it any more
            if response is not None:
                finish(response)
            return
        if not self._rules.wins(ended):
            another = self._rules.another(ended, self._client.world.clock())
            if another is not None:
                self._start(another)
            if not self._rules.counts(ended):
                if response is not None:
                    finish(response)
                return
        self._over = True
        for loser in self._rules.out:
            self._race.overtaken(loser)
            loser.finish()
        self._resume(ended, None)


def finish(response: Response) -> None:
    """Close a response: its attempt is over."""
    response.is_closed = True
    body = response.body
    if body is not None:
        if body.done is not None:
            body.attempt.in_body = body.done - body.began
        body.attempt.finish()


def instance_of(server: SimulatedServer) -> Instance:
    number, settings = server.number, server.settings
    return Instance(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}", 80, weight=settings.weight,
                    zone=settings.zone, priority=settings.priority, id=str(number))  # fmt: skip


def _nothing(node: Node) -> None:
    pass
