"""What the simulator plays with: servers with slots and queues, and requests and responses without a network."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from random import Random
from typing import Any

from .scenario import DISTRIBUTIONS, Route, SimEvent, SimServer

REFUSED_AFTER = 0.0002  # seconds until a refused connection is known, beside the way there and back
FULL = 503  # what a server answers whose queue is full


class Request:
    """The parts of a request that the flow of a call, and a hash, need."""

    __slots__ = ("extensions", "headers", "method", "stream")

    def __init__(self, user: int, method: str) -> None:
        self.headers = {"x-forwarded-for": f"172.16.{user >> 8}.{user & 255}"}
        self.method = method
        self.extensions: dict[str, Any] = {}
        self.stream = None


class Response:
    """The parts of a response that the flow needs."""

    __slots__ = ("body", "extensions", "headers", "is_closed", "status_code")

    has_redirect_location = False

    def __init__(self, status: int, body: Body | None = None) -> None:
        self.status_code = status
        self.headers: dict[str, str] = {}
        self.extensions: dict[str, Any] = {}
        self.is_closed = body is None
        self.body = body


class Body:
    """The body of a stream, which comes after its headers.

    began: when those came
    done:  when it has come; None: it has not
    told:  called when it comes
    """

    __slots__ = ("attempt", "began", "done", "told")

    def __init__(self, attempt: Any, now: float) -> None:
        self.attempt = attempt
        self.began = now
        self.done: float | None = None
        self.told: Callable[[], None] | None = None


class Ticket:
    """An attempt at a server: it is processed even if the client no longer waits for it.

    work:    seconds, on a server of a mean of 1
    answer:  called with a status when it is done; with 0 when the headers of a stream leave
    """

    __slots__ = ("answer", "cost", "route", "work")

    def __init__(self, route: Route, work: float, answer: Callable[[int], None]) -> None:
        self.route = route
        self.work = work
        self.cost = route.cost
        self.answer = answer


class Worker:
    """One process of a server: slots, and a queue before them."""

    __slots__ = ("ahead", "busy", "waiting")

    def __init__(self) -> None:
        self.busy = 0
        self.ahead = 0.0  # mean work in slots and queue, in calls of cost 1
        self.waiting: deque[Ticket] = deque()


class SimulatedServer:
    """A server at work. plan: calls a function at a time"""

    def __init__(
        self, number: int, settings: SimServer, events: tuple[SimEvent, ...], plan: Callable[..., None], luck: Random
    ) -> None:
        self.number = number
        self.settings = settings
        self.events = tuple(event for event in events if number in event.servers)
        self.half_way = settings.rtt / 2
        self._plan = plan
        self._luck = luck
        self._workers = [Worker() for _ in range(settings.workers)]
        self._steady = not self.events and settings.cold_slow == 1.0
        self._draw = DISTRIBUTIONS[settings.distribution]

    def listed(self, now: float) -> bool:
        return self.settings.joins <= now < self.settings.leaves

    def slowness(self, now: float) -> float:
        settings = self.settings
        factor = settings.cold_slow if now < settings.joins + settings.cold else 1.0
        for event in self.events:
            if event.on(now):
                factor *= event.slow
        return factor

    def trouble(self, now: float) -> SimEvent | None:
        return next((event for event in self.events if (event.down or event.fail) and event.on(now)), None)

    def expected(self, now: float, cost: float) -> float:
        """Seconds a call that comes now would take, on average: what the oracle goes by."""
        settings, worker = self.settings, self._workers[0]
        if len(self._workers) > 1:
            worker = min(self._workers, key=_ahead)
        calls, slots = cost, settings.slots
        if worker.busy >= slots:
            # This many must end first; each costs as much as the present ones on average.
            ahead = len(worker.waiting) + 1
            calls += worker.ahead / (slots + ahead - 1) * ahead / slots
        return settings.rtt + settings.mean * calls * (1.0 if self._steady else self.slowness(now))

    def in_flight(self) -> int:
        """Requests in progress, queued ones included."""
        return sum(worker.busy + len(worker.waiting) for worker in self._workers)

    def work(self) -> float:
        return self._draw(self._luck)

    def take(self, ticket: Ticket, now: float) -> None:
        """A request has arrived: at any worker, as with a shared listening socket."""
        workers = self._workers
        worker = workers[0] if len(workers) == 1 else workers[int(self._luck.random() * len(workers))]
        if worker.busy >= self.settings.slots and len(worker.waiting) >= self.settings.queue:
            ticket.answer(FULL)
            return
        if ticket.route.streamed:
            ticket.answer(0)
        worker.ahead += ticket.cost
        if worker.busy < self.settings.slots:
            self._serve(worker, ticket, now)
        else:
            worker.waiting.append(ticket)

    def _serve(self, worker: Worker, ticket: Ticket, now: float) -> None:
        worker.busy += 1
        self._plan(now + ticket.work * self.settings.mean * self.slowness(now), self._served, (worker, ticket))

    def _served(self, what: tuple[Worker, Ticket], now: float) -> None:
        worker, ticket = what
        worker.busy -= 1
        worker.ahead -= ticket.cost
        if worker.waiting:
            self._serve(worker, worker.waiting.popleft(), now)
        ticket.answer(200)


def _ahead(worker: Worker) -> float:
    return worker.ahead
