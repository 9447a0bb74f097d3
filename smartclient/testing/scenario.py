"""A scenario of the simulator: its JSON, read and checked. Format: examples/scenarios/README.md."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from random import Random
from typing import Any

MOST_SERVERS, MOST_SLOTS, MOST_CLIENTS, MOST_CALLS = 10_000, 10_000, 10_000, 10_000_000


class BadScenario(ValueError):
    """What is wrong with a scenario, in one line that names the field."""


# Samples with a mean of 1.
DISTRIBUTIONS: dict[str, Callable[[Random], float]] = {
    "exponential": lambda rng: rng.expovariate(1.0),
    "lognormal": lambda rng: rng.lognormvariate(-0.5, 1.0),
    "bimodal": lambda rng: 0.5 if rng.random() < 0.9 else 5.5,
    "constant": lambda rng: 1.0,
}


@dataclass(frozen=True)
class SimServer:
    """A server: `slots` calls at once in each of its `workers`, the others queue; `mean` seconds a call.

    queue:          calls that wait at most in each worker; a further one is answered 503
    rtt:            seconds to the server and back
    joins, leaves:  when it is listed, and no longer
    cold:           seconds after it joined in which it is `cold_slow` times as slow
    """

    slots: int
    mean: float
    distribution: str
    weight: float
    zone: str | None
    priority: int
    workers: int
    queue: float
    rtt: float
    joins: float
    leaves: float
    cold: float
    cold_slow: float


@dataclass(frozen=True)
class Route:
    """A kind of calls.

    share:     of the calls
    cost:      times a server's mean
    streamed:  the headers come at once, the body when it is done: a time in the queue is not seen in them
    """

    name: str
    share: float
    cost: float
    method: str
    streamed: bool


ONE_ROUTE = Route("all", 1.0, 1.0, "GET", False)


@dataclass(frozen=True)
class SimEvent:
    """A fault of some servers or clients, with its begin and end (seconds).

    slow:        times as slow
    fail:        share of the calls that are answered `status`, after `fail_after` seconds
    down:        connections are refused
    every, for_: within the time, only the first `for_` of every `every` seconds
    stall:       the clients do nothing in that time (a blocked event loop)
    """

    servers: frozenset[int]
    begins: float
    ends: float
    slow: float
    fail: float
    fail_after: float
    status: int
    down: bool
    every: float | None
    for_: float
    stall: bool

    def on(self, now: float) -> bool:
        if not self.begins <= now < self.ends:
            return False
        return self.every is None or (now - self.begins) % self.every < self.for_


@dataclass(frozen=True)
class Scenario:
    """What the simulator plays. Times in seconds."""

    servers: tuple[SimServer, ...]
    load: float
    clients: int
    calls: int
    warmup_calls: int
    timeout: float | None
    seed: int
    events: tuple[SimEvent, ...]
    rate: float | None = None
    routes: tuple[Route, ...] = (ONE_ROUTE,)
    at_once: int | None = None
    connect: float = 0.0
    window: float | None = None
    told: bool = False

    @property
    def calls_per_second(self) -> float:
        if self.rate is not None:
            return self.rate
        there = [server for server in self.servers if server.joins <= 0.0]
        cost = sum(route.share * route.cost for route in self.routes)
        return self.load / cost * sum(server.slots * server.workers / server.mean for server in there)

    @cached_property
    def only_distribution(self) -> str | None:
        """That of all servers, so that a call's work is the same wherever it goes; None: there are several."""
        found = {server.distribution for server in self.servers}
        return found.pop() if len(found) == 1 else None

    def route(self, draw: float) -> Route:
        """The route of a call, by a number from 0 to 1."""
        for route in self.routes:
            draw -= route.share
            if draw < 0.0:
                return route
        return self.routes[-1]

    @classmethod
    def read(cls, source: str | Path | Mapping[str, Any]) -> Scenario:
        """From a file, or from what its JSON says. Raises BadScenario."""
        if isinstance(source, Mapping):
            return _scenario(_Fields("", source))
        try:
            text = Path(source).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise BadScenario(f"{source}: {error}") from None
        try:
            said = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise BadScenario(f"{source}: no JSON: {error}") from None
        return _scenario(_Fields("", said))


class _Fields:
    """The fields of one JSON object; each is asked for once, and what was not asked for does not exist."""

    def __init__(self, where: str, value: Any) -> None:
        if not isinstance(value, Mapping):
            raise BadScenario(f"{where or 'the scenario'}: expected an object, got {_shown(value)}")
        self.where = where
        self._left = dict(value)

    def name(self, field: str) -> str:
        return f"{self.where}.{field}" if self.where else field

    def has(self, field: str) -> bool:
        return field in self._left

    def take(self, field: str, default: Any = None) -> Any:
        return self._left.pop(field, default)

    def number(self, field: str, default: float | None, least: float, most: float = 1e9) -> float:
        value = self.take(field, default)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not least <= value <= most:
            raise BadScenario(f"{self.name(field)}: expected a number from {least:g} to {most:g}, got {_shown(value)}")
        return float(value)

    def whole(self, field: str, default: int | None, least: int, most: int) -> int:
        value = self.take(field, default)
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise BadScenario(
                f"{self.name(field)}: expected a whole number from {least} to {most}, got {_shown(value)}"
            )
        return value

    def flag(self, field: str) -> bool:
        value = self.take(field, False)
        if not isinstance(value, bool):
            raise BadScenario(f"{self.name(field)}: expected true or false, got {_shown(value)}")
        return value

    def listed(self, field: str, required: bool) -> list[Any]:
        value = self.take(field, None if required else [])
        if not isinstance(value, Sequence) or isinstance(value, str) or (required and not value):
            raise BadScenario(f"{self.name(field)}: expected a list, got {_shown(value)}")
        return list(value)

    def end(self) -> None:
        for field in self._left:
            raise BadScenario(f"{self.name(str(field))}: there is no such field")


def _scenario(fields: _Fields) -> Scenario:
    servers: list[SimServer] = []
    for number, said in enumerate(fields.listed("servers", required=True)):
        group = _Fields(f"servers[{number}]", said)
        count = group.whole("count", 1, 1, MOST_SERVERS)
        if len(servers) + count > MOST_SERVERS:
            raise BadScenario(f"{group.name('count')}: more than {MOST_SERVERS} servers")
        servers += [_server(group)] * count
    servers = _deployed(fields, servers)
    rate = fields.number("calls_per_second", None, 0.001, 1e7) if fields.has("calls_per_second") else None
    timeout = fields.number("timeout_ms", None, 0.001) / 1000 if fields.has("timeout_ms") else None
    scenario = Scenario(
        servers=tuple(servers),
        load=fields.number("load", 0.7, 0.001, 100),
        clients=fields.whole("clients", 1, 1, MOST_CLIENTS),
        calls=fields.whole("calls", 20_000, 1, MOST_CALLS),
        warmup_calls=fields.whole("warmup_calls", 0, 0, MOST_CALLS),
        timeout=timeout,
        seed=fields.whole("seed", 1, 0, 2**63),
        events=tuple(
            _event(_Fields(f"events[{number}]", said), len(servers))
            for number, said in enumerate(fields.listed("events", required=False))
        ),
        rate=rate,
        routes=_routes(fields),
        at_once=fields.whole("at_once", None, 1, MOST_CLIENTS) if fields.has("at_once") else None,
        connect=fields.number("connect_ms", 0.0, 0) / 1000,
        told=fields.flag("told"),
        window=fields.number("window_s", None, 0.001) if fields.has("window_s") else None,
    )
    if not any(server.joins <= 0.0 for server in servers):
        raise BadScenario("servers: expected one at least that is there from the start (joins_s)")
    fields.take("about")
    fields.end()
    return scenario


def _server(fields: _Fields) -> SimServer:
    distribution = fields.take("distribution", "exponential")
    if not isinstance(distribution, str) or distribution not in DISTRIBUTIONS:
        raise BadScenario(
            f"{fields.name('distribution')}: expected one of {', '.join(DISTRIBUTIONS)}, got {_shown(distribution)}"
        )
    zone = fields.take("zone")
    if zone is not None and not isinstance(zone, str):
        raise BadScenario(f"{fields.name('zone')}: expected a name, got {_shown(zone)}")
    server = SimServer(
        slots=fields.whole("slots", 1, 1, MOST_SLOTS),
        mean=fields.number("mean_ms", None, 0.001) / 1000,
        distribution=distribution,
        weight=fields.number("weight", 1.0, 0, 1e6),
        zone=zone,
        priority=fields.whole("priority", 0, 0, 1000),
        workers=fields.whole("workers", 1, 1, MOST_SLOTS),
        queue=fields.whole("queue", None, 0, MOST_CALLS) if fields.has("queue") else math.inf,
        rtt=fields.number("rtt_ms", 0.0, 0) / 1000,
        joins=fields.number("joins_s", 0.0, 0),
        leaves=fields.number("leaves_s", math.inf, 0, math.inf),
        cold=fields.number("cold_s", 0.0, 0),
        cold_slow=fields.number("cold_slow", 1.0, 0.001, 1e6),
    )
    fields.end()
    return server


def _deployed(fields: _Fields, servers: list[SimServer]) -> list[SimServer]:
    """The servers, and those that take their places one after the other, if there is a deploy."""
    if not fields.has("deploy"):
        return servers
    deploy = _Fields("deploy", fields.take("deploy"))
    begins, step = deploy.number("from_s", 0.0, 0), deploy.number("step_s", 1.0, 0.001)
    cold, slow = deploy.number("cold_s", 0.0, 0), deploy.number("cold_slow", 1.0, 0.001, 1e6)
    deploy.end()
    if 2 * len(servers) > MOST_SERVERS:
        raise BadScenario(f"deploy: more than {MOST_SERVERS} servers")
    before, after = [], []
    for number, server in enumerate(servers):
        at = begins + number * step
        before.append(replace(server, leaves=at))
        after.append(replace(server, joins=max(at, 1e-9), cold=cold, cold_slow=slow))
    return before + after


def _routes(fields: _Fields) -> tuple[Route, ...]:
    listed = fields.listed("routes", required=False)
    routes = tuple(_route(_Fields(f"routes[{number}]", said), number) for number, said in enumerate(listed))
    if not routes:
        return (ONE_ROUTE,)
    if len({route.name for route in routes}) < len(routes):
        raise BadScenario("routes: two have the same name")
    total = sum(route.share for route in routes)
    return tuple(replace(route, share=route.share / total) for route in routes)


def _route(fields: _Fields, number: int) -> Route:
    name, method = fields.take("name", f"route {number}"), fields.take("method", "GET")
    for field, value in (("name", name), ("method", method)):
        if not isinstance(value, str) or not value or len(value) > 100:
            raise BadScenario(f"{fields.name(field)}: expected a name, got {_shown(value)}")
    route = Route(
        name=name,
        share=fields.number("share", 1.0, 1e-6),
        cost=fields.number("cost", 1.0, 1e-6, 1e6),
        method=method,
        streamed=fields.flag("streamed"),
    )
    fields.end()
    return route


def _event(fields: _Fields, servers: int) -> SimEvent:
    which = fields.listed("servers", required=False)
    for number in which:
        if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number < servers:
            raise BadScenario(
                f"{fields.name('servers')}: expected numbers from 0 to {servers - 1}, got {_shown(number)}"
            )
    event = SimEvent(
        servers=frozenset(which),
        begins=fields.number("from_s", 0.0, 0),
        ends=fields.number("until_s", math.inf, 0, math.inf),
        slow=fields.number("slow", 1.0, 0.001, 1e6),
        fail=fields.number("fail", 0.0, 0, 1),
        fail_after=fields.number("fail_after_ms", 1.0, 0) / 1000,
        status=fields.whole("status", 503, 200, 599),
        down=fields.flag("down"),
        every=fields.number("every_s", None, 0.001) if fields.has("every_s") else None,
        for_=fields.number("for_s", 0.0, 0),
        stall=fields.flag("stall"),
    )
    fields.end()
    return event


def _shown(value: Any) -> str:
    text = json.dumps(value, default=str) if not isinstance(value, float) or math.isfinite(value) else str(value)
    return "nothing" if value is None else text if len(text) <= 60 else text[:57] + "..."
