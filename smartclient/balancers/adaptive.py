"""Adaptive: speed-weighted power of five choices, our own.

The power of two choices and peak EWMA draw uniformly. In a fleet of mixed speeds two slow nodes then meet in a quarter
of the picks, and one of them must be taken. Here a node is *drawn* with a probability proportional to a power of its
speed; then the drawn ones are compared by what a call would find there. A node's mean latency was seen at some load of
its own, so the expected one is scaled from that load to the present (Prequal, NSDI '24, compares latencies at like
loads):

    mean latency x (in flight + 1) / (usual in flight + 1) ** 0.6

Above three calls in flight the exponent is 0.9: a few at once hardly slow a server down, more of them wait for each
other.

The rules, each with what it is for. Figures are p99 as a ratio to an oracle's, unless said otherwise; all of them, and
what lost: examples/scenarios/README.md.

1. The mean is geometric: one slow report among quick reads moves it little (the reads' p99: 1.2; with an arithmetic
   mean 14).
2. A latency is the time spent waiting for the server: for the headers and for each piece of the body, without the
   set-up of the connection (`Attempt.latency`; mean time of streams: 1.05; with the headers' time alone 43).
3. A quick wrong answer (4xx) earns no credit: it counts as the node's mean, or as the median's (where one of ten nodes
   answers 404, 11 % of the calls are lost, not 95 %).
4. Unmeasured nodes are explored while most are unmeasured. One that joins others is taken for a usual one (its share
   after 2 s: 1.0 of an even one, not 0.17).
5. What is slow and not called is forgotten, in the comparison and in the draw. So it is tried again, and then the
   newest latency counts more (share 15 s after it recovered: 0.7 of an even one or more, not 0.0).
6. A node that has calls in flight and has ended none for several means gets dearer.
7. Weights that differ are intent: being quick earns nobody much more than its weight's share (a quick canary of weight
   1 in 91: 2.2 % of the calls, not 20 %). Those of the registry, not those of a slow start, and not by a little: in a
   mixed fleet the cap costs the quick nodes calls (one weight of 1.01 among ones: p99 1,251 ms, not 157).
8. With little traffic the node that looks quickest would get every call, the means of the others would stand still, and
   one unlucky call would keep a node out. So nodes that are as quick as the others, as far as can be told, are owed
   their share (least share of three equals: 0.8 of an even one, not 0.005). The means of a few calls differ by chance,
   so what counts is the distance in standard errors, in the mean of several looks (by single looks an equal starved in
   every fourth run, and mixed fleets were taken for equals: mixed-20-clients 1.27, not 1.23). In a fleet of mixed
   speeds nobody is owed anything; busy quick nodes look like idle slow ones there, so a high load's part is taken off.
9. Where servers say how many requests they have in progress (`endpoint-load-metrics`; our middleware does), the cost
   goes by the calls of others, too: as a multiple of their usual number, for a few means of time (mixed-20-clients:
   1.20, not 1.23; with raw numbers in place of multiples of the usual 1.65, since all clients go where it was quiet).
10. A mean of few calls may be better than it looks, so its cost is a little less (UCB1, Auer 2002; a rolling deploy
   with 200 clients: 1.5, not 1.9). And the longer a node's tail, the more it costs (two fast nodes beside 18 at a
   twentieth of their speed: 1.37, not 1.54).
11. Two or three nodes of one weight are all compared: drawn at random, a busy one is taken now and then while one is
   idle (envoyproxy/envoy#11004; three unlike ones: 1.16, not 1.23).
"""

from __future__ import annotations

from bisect import bisect
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import exp, inf, log, sqrt
from random import Random as Rng
from statistics import fmean, median_low
from typing import ClassVar

from ..node import Node, Outcome
from ..support.checks import count, seconds, setting, share
from ..support.gil_breaks import GilBreaks
from .base import Balancer, PickCall, Picker
from .crowd import Crowded
from .favoured import remark_on_quick
from .load_report import HEADER
from .shares import SEVERAL, WINDOW, Fairness, differ, intended, mean_spread, orders_of_alike, owed_or

SLOWEST, FASTEST = 0.05, 4.0  # speeds count within these times the median's: nobody starves, nobody is flooded
EXPONENT = 1.8  # of the speed, in the draw; from 2.3 on the quick ones are flooded
ALL_COMPARED = 3  # nodes
LOAD_EXPONENT, HIGH_LOAD_EXPONENT = 0.6, 0.9  # up to several calls in flight, and above
HIGH_LOAD = SEVERAL ** (LOAD_EXPONENT - HIGH_LOAD_EXPONENT)
TAIL = 0.06  # of the square of the spread, in the logarithm of the cost
AGE_PER_CALL = 0.15  # seconds that a call adds to the age of knowledge at most: who calls seldom forgets slowly,
FEW = 30  # and so does who has more nodes than that
REFRESH_PER_NODE = 2e-4  # seconds: in large fleets the weights are computed less often,
REFRESH_CALLS = 20  # calls per node: in small ones after so many calls, too
LARGE, DRAWS_WHEN_LARGE = 1000, 3  # nodes: each is out of the processor's cache, and a fourth draw gains little
AT_ONCE = 512  # nodes that are looked at in one go
SD = 1.25  # standard deviations in a mean deviation
USUAL_LOAD = 0.05  # share of the newest pick in the usual in-flight
FAILED = 0.28  # share of a slow failure in the mean
FAILED_MOST = log(10.0)  # a slow failure counts as ten times the mean at most
OPTIMISM, LEAST_NOISE = 0.15, 0.25  # times the noise, which is at least that
LEAST_VARIANCE = 0.08**2  # of a mean's logarithm
SILENT, SILENT_MOST = 3.0, 4.0  # means without an end; times the cost
SHORTEST, SHORTEST_LOG = 1e-6, log(1e-6)  # seconds
IDLE_AGES = 0.01  # share of a pause by which knowledge ages, however few calls follow: a night is forgotten


class AdaptiveMemory(Crowded):
    """The latency of one node, by count: it moves with calls and not with time, so many clients that each call seldom
    do not forget.

    mean:      the logarithm of the geometric mean latency
    believed:  the same, as far as it is not forgotten
    spread:    the mean distance of a latency's logarithm from it
    count:     how many latencies it is made of; less once it is forgotten; 0: unmeasured
    estimate:  seconds: what a call is expected to take, as far as speed goes
    cost:      the same with no other call in flight; 0: unmeasured
    load:      usual calls in flight with a new one
    picks:     of late
    missed:    calls per node that the client has made since this node had its last
    unlike:    how far apart the nodes of its fleet were, as `Fairness` has it; 0: unknown
    """

    __slots__ = ("_enough", "_forget_over", "_handicap", "_heard_at", "_idle", "_least_share", "_loaded",
        "_news", "_noise", "_slowest", "_tail", "_usual", "believed", "cost", "count", "load",
        "mean", "missed", "picks", "spread", "unlike")  # fmt: skip

    def __init__(self, newest: float, failure_penalty: float, penalty_decay: float, forget_over: float) -> None:
        super().__init__(failure_penalty, penalty_decay, 4 * penalty_decay)
        self._forget_over = forget_over
        self._slowest = 0.0  # failure, before its first success
        self._enough = 1.0 / newest
        self._least_share = newest / 2  # of one latency, in the variance of the mean
        self._loaded = 1.0  # what its usual load makes of a latency
        self._heard_at = 0.0  # when an attempt last ended, or the first of those in flight began
        self._idle = 0.0  # seconds without news
        self._news = False  # since the last look
        self._noise = self._tail = self._usual = 0.0
        self._handicap = 1.0
        self.mean: float = 0.0
        self.believed: float = 0.0
        self.spread: float = 0.0
        self.count: float = 0.0
        self.cost: float = 0.0
        self.load: float = 1.0
        self.picks: float = 0.0
        self.missed: float = 0.0
        self.unlike: float = 0.0

    def picked(self, in_flight: int, now: float) -> None:
        """A call is added to those in flight."""
        self.picks += 1.0
        self.own = in_flight + 1
        self.load = load = self.load + USUAL_LOAD * (in_flight + 1.0 - self.load)
        self._loaded = load**LOAD_EXPONENT if load <= SEVERAL else HIGH_LOAD * load**HIGH_LOAD_EXPONENT
        if self._idle and self.count:  # once it is tried again its mean counts in full, until it answers
            self._believe(self.mean)
        else:
            self.cost = self.estimate / self._loaded
        if not in_flight:
            self._heard_at = now

    def observe(self, outcome: Outcome, latency: float, retry_after: float | None, now: float) -> None:
        self._heard_at = now
        self.own -= 1
        if outcome is Outcome.FAILURE:
            self.punish(retry_after, now)
            if not self.count:
                self._slowest = max(self._slowest, latency)
            # A timeout says that it is at least so slow; a quick failure says nothing.
            if self.count and latency > 0.0 and (slower := log(latency) - self.mean) > 0.0:
                self.mean += FAILED * min(slower, FAILED_MOST)
                self._news = True
                self._believe(self.mean)
            return
        self.penalty = 0.0
        self._learn(log(latency) if latency > SHORTEST else SHORTEST_LOG)

    def observe_wrong(self, latency: float, now: float) -> None:
        """It gave an answer 4xx."""
        self._heard_at = now
        self.own -= 1
        self.penalty = 0.0
        value = log(max(latency, SHORTEST))
        if self.count:
            value = max(value, self.mean)
        self._learn(max(value, self._usual) if self._usual else value)

    def passed(self, age: float, calls: float, faded: float) -> None:
        """Time and calls have passed since the last look. faded: what is left of older picks"""
        self.picks *= faded
        if self._news:
            self._news, self._idle, self.missed = False, 0.0, 0.0
        else:
            self._idle += age
            self.missed += calls

    def unusual_cost(self, cost: float, waiting: float, now: float) -> float:
        if self._slowest and not self.count:  # nothing is known of it, but that a failure took so long
            known = self._slowest * exp((self.penalised_at - now) / self._forget_over)
            cost = max(cost, known * (waiting + 1.0))
        return super().unusual_cost(cost, waiting, now)

    def update_cost(self, usual: float, noise: float, handicap: float) -> None:
        """Compute its cost anew.

        usual:     the median's mean
        noise:     of one latency's logarithm, as far as it makes a mean of few calls better than it looks
        handicap:  the mean weight of nodes as a multiple of its own: who is meant to have few calls has few
        """
        self._usual, mean = usual, self.mean
        self._noise, self._handicap = noise, handicap
        self._tail = TAIL * self.spread * self.spread
        if self._idle and mean > usual:
            kept = exp(-self._idle / self._forget_over)
            mean = usual + (mean - usual) * kept
            known = max(kept * self._enough, 0.01)
            if known < self.count:
                self.count = known
        self._believe(mean)

    def silence(self, now: float) -> None:
        """It has calls in flight: how long it has ended none makes it dearer."""
        silent = (now - self._heard_at) / (SILENT * self.estimate)
        if silent > 1.0:
            self.cost *= min(silent, SILENT_MOST)

    def variance(self, noise: float) -> float:
        """Of `mean`, from that of one latency's logarithm."""
        share = 1.0 / self.count if self.count > 1.0 else 1.0
        variance = noise * (share if share > self._least_share else self._least_share)
        return variance if variance > LEAST_VARIANCE else LEAST_VARIANCE

    def _learn(self, value: float) -> None:
        # The mean of all so far, until there are enough for the newest to count by its share.
        count = self.count + 1.0
        if count > self._enough:
            count = self._enough
        if not self.estimate:
            self.mean = value
        away = value - self.mean
        self.count = count
        self.spread += (abs(away) - self.spread) / count
        self.mean = mean = self.mean + away / count
        self._news = True
        self._believe(mean)

    def _believe(self, mean: float) -> None:
        self.believed = mean
        self.estimate = estimate = exp(mean + self._tail - self._noise / sqrt(self.picks * self._handicap + 1.0))
        self.cost = estimate / self._loaded


@dataclass(frozen=True, kw_only=True)
class Adaptive(Balancer):
    """Draw five nodes by weight and speed, take the one with the least expected latency.

    draws:            nodes that are compared, of up to three of one weight all; at most three in fleets of over 1,000
    newest:           share of the newest call in a node's mean latency
    refresh:          seconds after which the speeds are looked at again
    forget:           seconds over which a slow node's mean comes back to the median's while it is not called: so it is
                      tried again
    failure_penalty:  seconds a failure adds to a node's cost, at least; Retry-After may say more, up to 300
    penalty_decay:    seconds over which that penalty is forgotten; doubled for a second failure in a row, and a third

    Where the weights of instances differ by more than half, they are intent: a node gets at most 1.5 times its weight's
    share.
    """

    draws: int = setting(5, count(most=1000))
    newest: float = setting(0.07, share(zero=False))
    refresh: float = setting(0.1, seconds())
    forget: float = setting(8.0, seconds())
    failure_penalty: float = setting(5.0, seconds())
    penalty_decay: float = setting(1.0, seconds())

    name = "adaptive"
    live_weights = True
    load_header: ClassVar[str | None] = HEADER

    def memory(self) -> AdaptiveMemory:
        return AdaptiveMemory(self.newest, self.failure_penalty, self.penalty_decay, self.forget)

    def picker(self, nodes: Sequence[Node], rng: Rng) -> Picker:
        if len(nodes) == 1:
            return lambda call: nodes[0]
        return SpeedWeighted(self, nodes, rng)

    def explain(self, node: Node, nodes: Sequence[Node], call: PickCall) -> dict[str, float]:
        memory, mean_weight = node.memory, fmean(one.weight for one in nodes) or 1.0
        waiting = node.in_flight * mean_weight / (node.weight or mean_weight)
        penalty = memory.penalty_left(call.now) * (waiting + 1.0)
        parts = {"mean": memory.estimate, "usual in flight": memory.load - 1.0, "in flight": float(node.in_flight)}
        parts |= {"weight": node.weight, "penalty": penalty, "picks of late": memory.picks}
        if not memory.cost:
            return {"unmeasured": 1.0, **parts}
        if memory.crowd:
            parts["crowding"] = memory.crowding(call.now)
        return {"cost": memory.unusual_cost(memory.cost * (waiting + 1.0), waiting, call.now), **parts}


class SpeedWeighted:
    """The picker: cumulative draw weights, computed anew now and then by whichever call comes first."""

    def __init__(self, settings: Adaptive, nodes: Sequence[Node], rng: Rng) -> None:
        self._draws = [None] * (settings.draws if len(nodes) <= LARGE else min(settings.draws, DRAWS_WHEN_LARGE))
        self._compares_all = len(nodes) <= min(ALL_COMPARED, settings.draws)
        self._nodes = nodes
        self._random = rng.random
        self._last = len(nodes) - 1
        # A large fleet is looked at in parts, every so-many-th node at a time: no call waits for all.
        self._stride = -(-len(nodes) // AT_ONCE)
        self._part = 0
        self._refresh = max(settings.refresh, REFRESH_PER_NODE * len(nodes)) / self._stride
        self._refresh_calls = REFRESH_CALLS * len(nodes)
        self._age_per_call = AGE_PER_CALL * min(1.0, FEW / len(nodes))
        self._calls = 0  # since the last look
        self._looked_at, self._due = inf, -inf  # not yet: at once
        self._mean_weight = self._usual = 1.0
        self._measured = 0.0  # share of the nodes that are
        self._orders: list[list[Node]] = []  # in which all are compared; none: some are drawn
        self._differ = differ(nodes)
        self._fairness = Fairness(nodes)
        self._owed: list[Node] = []
        self._weights = [1.0] * len(nodes)
        breaks = GilBreaks()
        for part in range(self._stride):
            self._update(part, 0.0, 0)
            breaks()
        self._cumulative = list(accumulate(self._weights))

    def __call__(self, call: PickCall) -> Node:
        now = call.now
        self._calls += 1
        if now >= self._due or self._calls >= self._refresh_calls:
            self._refresh_at(call, now)
        nodes, cumulative, last, random = self._nodes, self._cumulative, self._last, self._random
        total, usual, mean_weight = cumulative[-1], self._usual, self._mean_weight
        orders, best, least = self._orders, None, 0.0
        for compared in orders[int(random() * len(orders))] if orders else self._draws:
            node = compared or nodes[bisect(cumulative, random() * total, 0, last)]
            if node is best:
                continue
            memory = node.memory
            waiting: float = node.in_flight
            # Unmeasured ones are explored while most are unmeasured; one that joins others is taken for a usual one.
            if waiting:  # a node of twice the weight is expected to bear twice the calls
                waiting = waiting * mean_weight / (node.weight or mean_weight)
                cost = memory.cost * (waiting + 1.0) or usual * (waiting + self._measured)
            else:
                cost = memory.cost or usual * self._measured
            if memory.unusual:
                cost = memory.unusual_cost(cost, waiting, now)
            if best is None or cost < least:
                best, least = node, cost
        assert best is not None
        if self._owed:
            best = owed_or(self._owed, best, least, call, random())
        best.memory.picked(best.in_flight, now)
        return best

    def _refresh_at(self, call: PickCall, now: float) -> None:
        """Look at the nodes anew, in the call that comes first when that is due."""
        if now > self._looked_at:
            self._part = part = (self._part + 1) % self._stride
            gone = now - self._looked_at
            age = min(gone, max(self._calls * self._age_per_call, gone * IDLE_AGES))
            calls, self._calls = self._calls, 0
            self._fairness.passed(calls)
            self._update(part, age * self._stride, calls * self._stride, now)
            remark_on_quick(call, self._nodes[part :: self._stride], log(self._usual))
            self._cumulative = list(accumulate(self._weights))
        self._looked_at = now
        self._due = now + self._refresh

    def _update(self, part: int, age: float, calls: int, now: float = 0.0) -> None:
        """Give each node of a part its cost, and its weight in the draw, after so many seconds and calls."""
        nodes = self._nodes[part :: self._stride]
        measured = [node for node in nodes if node.memory.count]
        noise = SD * mean_spread(measured)
        usual = median_low([node.memory.mean for node in measured]) if measured else 0.0
        each, faded = calls / len(self._nodes), exp(-calls / (WINDOW * len(self._nodes)))
        for node in nodes:
            node.memory.passed(age, each, faded)
        self._mean_weight = mean_weight = fmean([node.weight for node in nodes]) or 1.0
        if self._compares_all:
            self._orders = orders_of_alike(nodes)
        optimism = OPTIMISM * max(noise, LEAST_NOISE)
        for node in measured:
            node.memory.update_cost(usual, optimism, mean_weight / (node.weight or mean_weight))
            if node.in_flight:
                node.memory.silence(now)
        self._measured = len(measured) / len(nodes)
        self._usual = exp(usual) if measured else 1.0
        factors = [_factor(node.memory.estimate, self._usual) for node in nodes]
        if self._differ:
            factors = intended(nodes, factors)
        weights = [(node.weight or 1.0) * factor for node, factor in zip(nodes, factors, strict=True)]
        self._weights[part :: self._stride] = weights
        self._owed = self._fairness.owed(nodes, noise)


def _factor(estimate: float, usual: float) -> float:
    """A power of its speed as a multiple of the median's, within bounds; an unmeasured node's speed is the median."""
    speed = usual / estimate if estimate else 1.0
    return float((speed if SLOWEST < speed < FASTEST else SLOWEST if speed <= SLOWEST else FASTEST) ** EXPONENT)
