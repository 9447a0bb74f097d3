"""Adaptive: speed-weighted power of five choices, our own.

The power of two choices and peak EWMA draw uniformly, so in a fleet of mixed speeds two slow nodes meet in a quarter of
the picks, and one of them must be taken. Here a node is *drawn* with a probability proportional to a power of its
speed; then the drawn ones are compared by what a call would find there. A node's mean latency was seen at some load of
its own, so the expected one is scaled from that load to the present (Prequal, NSDI '24, compares latencies at like
loads):

    mean latency x (in flight + 1) / sqrt(usual in flight + 1)

Figures, and what was tried and lost: examples/scenarios/README.md.
"""

from __future__ import annotations

from bisect import bisect
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import exp, sqrt
from random import Random as Rng
from statistics import median_low

from ..node import Node, Outcome
from ..support.checks import count, seconds, setting, share
from ..support.gil_breaks import GilBreaks
from .base import Balancer, PickCall, Picker
from .penalty import Penalty

SLOWEST, FASTEST = 0.05, 4.0  # speeds count within these times the median's: nobody starves, nobody is flooded
EXPONENT = 1.5  # of the speed, in the draw
USUAL_LOAD = 0.05  # share of the newest pick in the usual in-flight
MOST_AT_ONCE = 10.0  # times its mean that a failure may count as latency
REFRESH_PER_NODE = 1e-4  # seconds: in large fleets the weights are reckoned anew less often,
LARGE, DRAWS_WHEN_LARGE = 1000, 3  # nodes: each is out of the processor's cache, and a fourth gains little
AT_ONCE = 512  # and for so many nodes in one go


class AdaptiveMemory(Penalty):
    """The mean latency of one node in seconds, by count: it moves with calls and not with time, so many clients that
    each call seldom do not forget.

    cost:  the expected latency of a call with no other in flight, 0: unmeasured
    """

    __slots__ = ("_load", "_newest", "cost", "count", "mean", "seen_at")

    def __init__(self, settings: Adaptive) -> None:
        super().__init__(settings.failure_penalty, settings.penalty_decay, 4 * settings.penalty_decay)
        self._newest = settings.newest
        self._load = 1.0  # usual calls in flight with a new one
        self.mean: float = 0.0
        self.cost: float = 0.0
        self.count: int = 0
        self.seen_at: float = 0.0

    def picked(self, in_flight: int) -> None:
        """A call is added to those in flight."""
        self._load += USUAL_LOAD * (in_flight + 1.0 - self._load)
        self.cost = self.mean / sqrt(self._load)

    def observe(self, outcome: Outcome, latency: float, retry_after: float | None, now: float) -> None:
        if outcome is Outcome.FAILURE:
            self.punish(retry_after, now)
            if (
                latency > self.mean and self.count
            ):  # a timeout says that it is at least so slow; a quick failure nothing
                self._move(self._newest, min(latency, MOST_AT_ONCE * self.mean), now)
            return
        self.penalty = 0.0
        self.count += 1
        # The mean of all so far, until there are enough for the newest to count by its share.
        self._move(max(1.0 / self.count, self._newest), latency, now)

    def forget(self, usual: float, seconds: float, now: float) -> None:
        """What is slow and not called seems less and less so, until it is tried again: then its mean counts in full."""
        self.cost = (usual + (self.mean - usual) * exp((self.seen_at - now) / seconds)) / sqrt(self._load)

    def _move(self, share: float, latency: float, now: float) -> None:
        self.mean += share * (latency - self.mean)
        self.cost = self.mean / sqrt(self._load)
        self.seen_at = now


@dataclass(frozen=True, kw_only=True)
class Adaptive(Balancer):
    """Draw five nodes by weight and speed, take the one with the least expected latency.

    draws:            how many nodes are compared; at most three in fleets of more than 1,000
    newest:           share of the newest call in a node's mean latency
    refresh:          seconds after which the speeds are looked at again
    forget:           seconds over which a slow node's mean comes back to the median's while it is not called: so it is
                      tried again
    failure_penalty:  seconds a failure adds to a node's cost, at least; Retry-After may say more, up to 300
    penalty_decay:    seconds over which that penalty is forgotten; doubled for a second failure in a row, and a third
    """

    draws: int = setting(5, count(most=1000))
    newest: float = setting(0.1, share(zero=False))
    refresh: float = setting(0.1, seconds())
    forget: float = setting(10.0, seconds())
    failure_penalty: float = setting(5.0, seconds())
    penalty_decay: float = setting(1.0, seconds())

    name = "adaptive"
    live_weights = True

    def memory(self) -> AdaptiveMemory:
        return AdaptiveMemory(self)

    def picker(self, nodes: Sequence[Node], rng: Rng) -> Picker:
        if len(nodes) == 1:
            return lambda call: nodes[0]
        return SpeedWeighted(self, nodes, rng)


class SpeedWeighted:
    """The picker: cumulative draw weights, reckoned anew now and then by whichever call comes first."""

    def __init__(self, settings: Adaptive, nodes: Sequence[Node], rng: Rng) -> None:
        self._draws = range(settings.draws if len(nodes) <= LARGE else min(settings.draws, DRAWS_WHEN_LARGE))
        self._forget_over = settings.forget
        self._nodes = nodes
        self._random = rng.random
        self._last = len(nodes) - 1
        # A large fleet is looked at in parts, every so-many-th node at a time: no call waits for all.
        self._stride = -(-len(nodes) // AT_ONCE)
        self._part = 0
        self._refresh = max(settings.refresh, REFRESH_PER_NODE * len(nodes)) / self._stride
        breaks = GilBreaks()
        self._mean_weight = sum(node.weight for node in nodes) / len(nodes) or 1.0
        breaks()
        self._usual = _median(nodes)
        breaks()
        self._weights: list[float] = []
        for at in range(0, len(nodes), AT_ONCE):
            part = nodes[at : at + AT_ONCE]
            self._weights += [(node.weight or 1.0) * _factor(node.memory, self._usual) for node in part]
            breaks()
        self._cumulative = list(accumulate(self._weights))
        self._due: float | None = None

    def __call__(self, call: PickCall) -> Node:
        now = call.now
        if self._due is None or now >= self._due:
            if self._due is not None:
                self._reckon(now)
            self._due = now + self._refresh
        nodes, cumulative, last, random = self._nodes, self._cumulative, self._last, self._random
        total, usual, mean_weight = cumulative[-1], self._usual, self._mean_weight
        best, least = None, 0.0
        for _ in self._draws:
            index = bisect(cumulative, random() * total)
            node = nodes[index if index < last else last]
            if node is best:
                continue
            memory, weight = node.memory, node.weight
            # A node of twice the weight is expected to bear twice the calls. An unmeasured one is tried by the next
            # call, and then like the others until it answers.
            waiting = node.in_flight * mean_weight / weight if weight else node.in_flight
            cost = memory.cost * (waiting + 1.0) or (usual or 1.0) * waiting
            if memory.penalty:
                cost += memory.penalty_left(now) * (waiting + 1.0)
            if best is None or cost < least:
                best, least = node, cost
        assert best is not None
        best.memory.picked(best.in_flight)
        return best

    def _reckon(self, now: float) -> None:
        """Look at the speeds anew, in the call that comes first when that is due."""
        self._part = part = (self._part + 1) % self._stride
        nodes = self._nodes[part :: self._stride]
        self._mean_weight = sum(node.weight for node in nodes) / len(nodes) or 1.0
        self._usual = usual = _median(nodes)
        for node in nodes:
            if node.memory.mean > usual:
                node.memory.forget(usual, self._forget_over, now)
        self._weights[part :: self._stride] = [(node.weight or 1.0) * _factor(node.memory, usual) for node in nodes]
        self._cumulative = list(accumulate(self._weights))


def _median(nodes: Sequence[Node]) -> float:
    """Of the mean latencies of those that are measured; 0.0: none is."""
    means = [node.memory.mean for node in nodes if node.memory.count]
    return median_low(means) if means else 0.0


def _factor(memory: AdaptiveMemory, usual: float) -> float:
    """A power of its speed as a multiple of the median's, within bounds; an unmeasured node's speed is the median."""
    if not memory.count or usual <= 0.0:
        return 1.0
    speed = min(max(usual / memory.mean, SLOWEST), FASTEST) if memory.mean > 0.0 else FASTEST
    return float(speed**EXPONENT)
