"""Load aware: weighted round robin by what the servers themselves say of their load.

gRPC A58 (client-side weighted round robin) with ORCA reports (A51) in the response header `endpoint-load-metrics`:

    TEXT cpu_utilization=0.7, application_utilization=0.5, rps_fractional=120, eps=2
    JSON {"cpu_utilization": 0.7, "rps_fractional": 120, "eps": 2}

weight = qps ÷ (utilization + eps ÷ qps × error_penalty), utilization being the application's where it is reported, else
the CPU's. A node whose reports are younger than `blackout` or older than `expiry` has the mean weight of the others;
with fewer than two reporting nodes all weights are equal: plain round robin. The schedule is A58's static stride, which
keeps weights within a tenth of and ten times the mean.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random as Rng
from typing import ClassVar

from ..node import Node, Outcome
from ..support.checks import number, seconds, setting
from .base import Balancer, PickCall, Picker
from .load_report import HEADER, parse_report

LEAST, GREATEST = 1e-9, 1e15  # valid weights from a report; others are ignored
LIGHTEST, HEAVIEST = 0.1, 10.0  # times the mean weight
ROUNDS = 100  # the first is drawn among these: clients are not in step


class LoadMemory:
    """The latest report of one node.

    weight:  from the report; since, at: times of the first report without a gap, and of the latest
    """

    __slots__ = ("_settings", "at", "since", "weight")

    def __init__(self, settings: LoadAware) -> None:
        self._settings = settings
        self.weight: float = 0.0
        self.since: float = -math.inf
        self.at: float = -math.inf

    def observe(self, outcome: Outcome, latency: float, retry_after: float | None, now: float) -> None:
        pass

    def reported(self, value: str, now: float) -> None:
        """Take a report from the header. An invalid or empty one is ignored."""
        metrics = parse_report(value)
        qps = metrics.get("rps_fractional") or metrics.get("qps") or metrics.get("rps") or 0.0
        used = metrics.get("application_utilization") or metrics.get("cpu_utilization") or 0.0
        if qps <= 0.0 or used <= 0.0:
            return
        weight = qps / (used + max(0.0, metrics.get("eps", 0.0)) / qps * self._settings.error_penalty)
        if not LEAST < weight < GREATEST:
            return
        if now - self.at > self._settings.expiry:
            self.since = now
        self.weight, self.at = weight, now

    def usable(self, now: float) -> bool:
        return now - self.at <= self._settings.expiry and now - self.since >= self._settings.blackout


@dataclass(frozen=True, kw_only=True)
class LoadAware(Balancer):
    """Weighted round robin by the servers' own load reports; without reports plain round robin.

    blackout:       seconds of reports before they are trusted (A58: blackout_period)
    expiry:         seconds after which a report is too old (A58: weight_expiration_period)
    error_penalty:  how much a share of errors counts (A58: error_utilization_penalty)
    refresh:        seconds between two looks at the reports (A58: weight_update_period)
    """

    blackout: float = setting(10.0, seconds(zero=True))
    expiry: float = setting(180.0, seconds(zero=True))
    error_penalty: float = setting(1.0, number("a number from 0 up", lambda value: value >= 0))
    refresh: float = setting(1.0, seconds(zero=True))

    name = "load_aware"
    load_header: ClassVar[str | None] = HEADER

    def memory(self) -> LoadMemory:
        return LoadMemory(self)

    def picker(self, nodes: Sequence[Node], rng: Rng) -> Picker:
        return ByReports(nodes, rng, self.refresh)


class ByReports:
    """Static stride: the nodes in turn, round after round. A node of half the greatest weight is skipped in every
    second round, odd and even node numbers in different rounds.
    """

    def __init__(self, nodes: Sequence[Node], rng: Rng, refresh: float) -> None:
        self._nodes = nodes
        self._refresh = refresh
        self._due = -math.inf
        self._shares = [1.0] * len(nodes)  # of the greatest weight
        self._turns = itertools.count(rng.randrange(ROUNDS * len(nodes)))

    def __call__(self, call: PickCall) -> Node:
        if call.now >= self._due:
            self._due = call.now + self._refresh
            weights = [min(max(weight, LIGHTEST), HEAVIEST) for weight in reported_weights(self._nodes, call.now)]
            greatest = max(weights)
            self._shares = [weight / greatest for weight in weights]
        nodes, shares = self._nodes, self._shares
        while True:
            turn, number = divmod(next(self._turns), len(nodes))
            share = shares[number]
            if (share * turn + number * 0.5) % 1.0 >= 1.0 - share:
                return nodes[number]


def reported_weights(nodes: Sequence[Node], now: float) -> list[float]:
    """Weights with a mean of 1. With fewer than two usable reports all are 1."""
    usable: Callable[[Node], bool] = lambda node: node.memory.usable(now)  # noqa: E731
    known = [node.memory.weight for node in nodes if usable(node)]
    if len(known) < 2:
        return [1.0] * len(nodes)
    mean = sum(known) / len(known)
    return [node.memory.weight / mean if usable(node) else 1.0 for node in nodes]
