"""The outlier detector: what is known of each node's failures, and whether its peers fare better.

The sequential test (`evidence`) is Page's CUSUM of the log-likelihood ratio of two rates of failure: p0, the
rate of the node's peers, against p1, half way from p0 to 100 %. Each failure adds ln(p1/p0), each success
ln((1-p1)/(1-p0)), never below 0; the sum fades with a time constant of five minutes. At 16 = ln(9·10⁶) the node is out.

    peers fail 0-1 %, the node   always  →  out after  5 calls
                                   30 %  →  after about 23 calls
                                   20 %  →  after about 70
                                   10 %  →  never by this test (the interval's statistics see it, given volume)
    all nodes fail alike, at any rate    →  a node is out by mistake about once in 10⁶ calls or less

p0 is the larger of two figures, since a problem of all (a shared dependency, the network, this process) must be seen as
quickly as a single node's: the peers' failure rate over the last 10-20 s, and the mean of an average by count
(α = ¼) over the peers, which shows a change after two or three calls to each. So when all get worse together, no node
is ejected. Failures in a row need such evidence, too: 3 for each failure. A node that came back recently is trusted
less: two failures in a row are enough. A node that cannot be connected to while another is known to be up has its own
problem: p0 is 1 % then, however many of its peers cannot be reached either.

A success costs a few attribute accesses; all arithmetic waits for a failure. Not thread-safe: the service's lock guards
it.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from math import log
from random import Random
from typing import Any, NamedTuple

from ..node import Outcome
from ..statuses import BAD_GATEWAYS, is_wrong
from .evidence import (
    ENOUGH,
    LEAST_RATE,
    MOST_RATE,
    PRIOR_BAD,
    PRIOR_CALLS,
    faded,
    likelihood_ratio,
    moved,
    peers_rate,
)
from .outlier import OutlierDetection
from .wrong_answers import NodeAnswers, WrongAnswers

FORGIVEN_AFTER = 10.0
EVIDENCE_PER_FAILURE = 3.0  # asked of failures in a row
HIGHEST_RATE = 0.95  # of p0
TOGETHER = 0.25  # weight of a failure whose attempt was running at the failure before: they have one cause
MOST_TOGETHER = 12.0  # evidence that such failures can make: the node must fail once more
AN_OUTLIER = 2.0  # times its peers' failures, for the interval's statistics
RELAPSE = 2  # failures in a row that eject a node again which has come back
RELAPSE_WITHIN = 30.0  # seconds ago, at most
# While its peers fail less than CLEAN, this many failures in a row over this many seconds are enough: a balancer that
# avoids failing nodes rarely calls them more. Such an ejection counts as two, since a probe after the shortest time is
# one more call lost (one-slow: 78 of 60,000 calls, not 69).
LASTING, CLEAN = (2, 5.0), 0.003
MOST_RELAPSES = 10  # times max_ejection_time, for a node that fails again whenever it comes back
LATENCY_CALLS = 20  # calls in an interval that make a mean latency


class Finding(NamedTuple):
    """Why a node is to be ejected: `NodeEjected`'s rule and reason."""

    rule: str
    reason: str


class NodeHealth:
    """What the detector knows of one node.

    answers_5xx, gateway_failures, local_failures: in a row
    answers:     what is known of its wrong answers
    by_answers:  they are why it was ejected
    finding:     why it was ejected the last time
    """

    __slots__ = (
        "_healthy_since",
        "_relapses",
        "_settings",
        "_times",
        "answers",
        "answers_5xx",
        "by_answers",
        "calls",
        "calls_before",
        "evidence",
        "failed_at",
        "failing_since",
        "failures",
        "failures_before",
        "finding",
        "gateway_failures",
        "latency_sum",
        "local_failures",
        "low",
        "quick",
        "seen_at",
    )

    def __init__(self, settings: OutlierDetection) -> None:
        self._settings = settings
        self.answers: NodeAnswers = NodeAnswers()
        self.by_answers: bool = False
        self.finding: Finding | None = None
        self.answers_5xx: int = 0
        self.gateway_failures: int = 0
        self.local_failures: int = 0
        self.calls: int = 0  # in this interval
        self.failures: int = 0
        self.calls_before: int = 0  # in the one before
        self.failures_before: int = 0
        self.latency_sum: float = 0.0
        self.low: bool = False  # its success rate was, in the interval before
        self.failing_since: float = 0.0
        self.failed_at: float = float("-inf")  # the last failure that counted in full
        self.evidence: float = 0.0
        self.quick: float = 0.0  # average failure by count
        self.seen_at: float = 0.0  # when `evidence` was last reckoned
        self._healthy_since: float | None = None
        self._times = 0
        self._relapses = 0  # in a row: it came back, and failed again before it was forgiven

    def follow(self, settings: OutlierDetection) -> None:
        """Take these from now on; what is known stays."""
        self._settings = settings

    @property
    def suspect(self) -> bool:
        """There is something against it."""
        return bool(self.evidence or self.local_failures or self.answers_5xx)

    def succeed(self) -> None:
        self.answers_5xx = self.gateway_failures = self.local_failures = 0

    def fail(self, status: int | None, now: float) -> None:
        """status: of the answer; None: none was had (refused, reset, timed out: of local origin)."""
        if not self._fails_in_a_row:
            self.failing_since = now
        if status is None:
            self.local_failures += 1
            return
        self.local_failures = 0
        # A 429 is no sign of being broken.
        self.answers_5xx = self.answers_5xx + 1 if status >= 500 else 0
        self.gateway_failures = self.gateway_failures + 1 if status in BAD_GATEWAYS else 0

    def in_a_row(self, now: float, clean: bool) -> Finding | None:
        """Why the failures in a row are too many; None: they are not. clean: its peers have hardly any."""
        for rule, count, what in (
            ("consecutive_local_origin_failure", self.local_failures, "transport errors"),
            ("consecutive_5xx", self.answers_5xx, "answers of 5xx"),
            ("consecutive_gateway_failure", self.gateway_failures, "answers of 502, 503 or 504"),
        ):
            limit = getattr(self._settings, rule)
            if limit is None:
                continue
            if self._relapsing(now):
                limit = min(limit, RELAPSE)
            if clean and self._lasting(now):
                limit = min(limit, LASTING[0])
            if count >= limit and self.evidence >= min(ENOUGH, EVIDENCE_PER_FAILURE * limit):
                return Finding(rule, f"{count} {what} in a row within {now - self.failing_since:.3g} s")
        return None

    def eject(self, now: float, rng: Random) -> float:
        """Note an ejection; how long it lasts."""
        settings = self._settings
        healthy = 0.0
        if self._healthy_since is not None:
            healthy = self._well_until(now) - self._healthy_since
            self._relapses = self._relapses + 1 if self._relapsing(now) else 0
        self._times = max(0, self._times - int(healthy / FORGIVEN_AFTER)) + (2 if self._lasting(now) else 1)
        self._healthy_since = None
        self.succeed()
        self.evidence = 0.0
        longest = settings.max_ejection_time * min(1 + self._relapses, MOST_RELAPSES)
        duration = min(settings.base_ejection_time * self._times * (1 + self._relapses), longest)
        return duration * (1.0 + settings.jitter * rng.random())

    def restore(self, now: float) -> None:
        """Note that the node serves again."""
        self._healthy_since = now
        self.succeed()

    def _relapsing(self, now: float) -> bool:
        """It has been ejected, and not yet been well for long enough to be forgiven."""
        well = self._well_until(now)
        within = min(FORGIVEN_AFTER * self._times, RELAPSE_WITHIN)
        return self._healthy_since is not None and well - self._healthy_since < within

    @property
    def _fails_in_a_row(self) -> bool:
        return bool(self.local_failures or self.answers_5xx)

    def _lasting(self, now: float) -> bool:
        """It has failed for so long already that it is no blip."""
        return self._fails_in_a_row and now - self.failing_since >= LASTING[1]

    def _well_until(self, now: float) -> float:
        """Until the first of its failures in a row: the next may come late if the balancer avoids it."""
        return self.failing_since if self._fails_in_a_row else now


class Detector:
    """The detector of one service: compares its nodes. Ejected nodes do not count as peers."""

    def __init__(self, settings: OutlierDetection, now: float, keyed: bool = False) -> None:
        self.settings: OutlierDetection = settings
        self._answers = WrongAnswers() if settings.wrong_answers and not keyed else None
        self.interval_ends_at: float = now + settings.interval
        self._calls = self._failures = 0
        self._calls_before = self._failures_before = 0
        self._quick_sum = 0.0

    def follow(self, settings: OutlierDetection, now: float, keyed: bool) -> None:
        """Take these from now on; what is known stays."""
        if not (settings.wrong_answers and not keyed):
            self._answers = None
        elif self._answers is None:
            self._answers = WrongAnswers()
        if settings.interval != self.settings.interval:
            self.interval_ends_at = now + settings.interval
        self.settings = settings

    def observe(self, health: NodeHealth, outcome: Outcome, status: int | None, latency: float, now: float,
                peers: int, lone: bool = False) -> Finding | None:  # fmt: skip
        """Count an attempt; why its node is to be ejected, if it is.

        peers: how many other nodes are in use
        lone:  a failure that is this node's own, however many others fail: it cannot be reached while
               another one is known to be up
        """
        if outcome is Outcome.ABANDONED:
            return None
        health.calls += 1
        self._calls += 1
        if outcome is Outcome.SUCCESS:
            health.succeed()
            health.latency_sum += latency
            if health.evidence or health.quick:
                self._weigh(health, False, latency, now, peers)
            if self._answers is None or status is None:
                return None
            reason = self._answers.observe(health.answers, is_wrong(status), status, peers, now)
            health.by_answers = reason is not None
            return None if reason is None else Finding("wrong_answers", reason)
        health.fail(status, now)
        if status is not None and status < 500:
            return None
        health.failures += 1
        self._failures += 1
        self._weigh(health, True, latency, now, peers, lone)
        finding = health.in_a_row(now, lone or self._peers_rate(health, peers) < CLEAN)
        if finding is None and self.settings.evidence and health.evidence >= ENOUGH:
            calls, failures = health.calls + health.calls_before, health.failures + health.failures_before
            peers_rate = self._peers_rate(health, peers)
            finding = Finding("evidence", f"{failures} of {calls} calls failed, of its peers' {peers_rate:.1%}")
        return finding

    def forget(self, health: NodeHealth) -> None:
        """The node is ejected or gone: it no longer counts as a peer."""
        if self._answers is not None:
            self._answers.forget(health.answers)
        self._quick_sum = max(0.0, self._quick_sum - health.quick)
        self._calls = max(0, self._calls - health.calls)
        self._failures = max(0, self._failures - health.failures)
        self._calls_before = max(0, self._calls_before - health.calls_before)
        self._failures_before = max(0, self._failures_before - health.failures_before)
        health.quick = health.latency_sum = 0.0
        health.low = False
        health.calls = health.failures = health.calls_before = health.failures_before = 0

    def end_interval(self, nodes: Sequence[Any], now: float) -> list[tuple[Any, Finding]]:
        """Take the interval's statistics; the nodes to be ejected and why."""
        self.interval_ends_at = now + self.settings.interval
        found: dict[Any, Finding] = {}
        for node, finding in (*self._by_success_rate(nodes), *self._by_percentage(nodes), *self._by_latency(nodes)):
            found.setdefault(node, finding)
        for node in nodes:
            health = node.health
            health.calls_before, health.failures_before = health.calls, health.failures
            health.calls = health.failures = 0
            health.latency_sum = 0.0
        self._calls_before, self._failures_before = self._calls, self._failures
        self._calls = self._failures = 0
        return list(found.items())

    # ---- inside ----

    def _peers_rate(self, health: NodeHealth, peers: int) -> float:
        calls = self._calls + self._calls_before - health.calls - health.calls_before
        failures = self._failures + self._failures_before - health.failures - health.failures_before
        quick = (self._quick_sum - health.quick) / peers if peers > 0 else 0.0
        return peers_rate(failures, calls, quick)

    def _weigh(
        self, health: NodeHealth, failed: bool, latency: float, now: float, peers: int, lone: bool = False
    ) -> None:
        rate = LEAST_RATE if lone else min(max(self._peers_rate(health, peers), LEAST_RATE), HIGHEST_RATE)
        ratio = likelihood_ratio(rate, failed)
        if rate > MOST_RATE:  # if nearly all fail, no node is an outlier: failures must not add up
            ratio = min(ratio, 0.0)
        together = failed and now - latency < health.failed_at
        if together:
            ratio *= TOGETHER
        elif failed:
            health.failed_at = now
        left = faded(health.evidence, health.seen_at, now)
        health.evidence = max(0.0, left + ratio)
        if together:
            health.evidence = min(health.evidence, max(left, MOST_TOGETHER))
        health.seen_at = now
        before = health.quick
        health.quick = moved(before, failed)
        self._quick_sum += health.quick - before

    def _by_success_rate(self, nodes: Iterable[Any]) -> list[tuple[Any, Finding]]:
        settings = self.settings
        if settings.success_rate_factor is None:
            return []
        rates = {}
        for node in nodes:
            if node.health.calls >= settings.success_rate_volume:
                rates[node] = 1.0 - node.health.failures / node.health.calls
            else:
                node.health.low = False
        if len(rates) < settings.success_rate_min_hosts:
            for node in rates:
                node.health.low = False
            return []
        mean, deviation = statistics.fmean(rates.values()), statistics.pstdev(rates.values())
        least = mean - settings.success_rate_factor * deviation
        found = []
        for node, rate in rates.items():
            low = rate < least and self._is_clear(node.health)
            # Twice in a row: a burst that hits all makes some look worse than others, once.
            if low and node.health.low:
                why = f"success rate {rate:.1%}, below {least:.1%} (mean - {settings.success_rate_factor:g} sigma)"
                found.append((node, Finding("success_rate", why)))
            node.health.low = low
        return found

    def _by_percentage(self, nodes: Iterable[Any]) -> list[tuple[Any, Finding]]:
        settings = self.settings
        if settings.failure_percentage is None:
            return []
        rates = {
            node: 100.0 * node.health.failures / node.health.calls
            for node in nodes
            if node.health.calls >= settings.failure_percentage_volume
        }
        if len(rates) < settings.failure_percentage_min_hosts:
            return []
        return [
            (node, Finding("failure_percentage", f"{rate:.0f} % of its calls failed"))
            for node, rate in rates.items()
            if rate >= settings.failure_percentage and self._is_clear(node.health)
        ]

    def _is_clear(self, health: NodeHealth) -> bool:
        """Whether chance does not explain the interval's failures: of ten nodes that fail alike, one is always lowest.

        Chernoff's bound: that many failures come of the peers' rate with a probability below exp(-calls x KL).
        """
        calls = self._calls - health.calls
        peers = max(LEAST_RATE, (self._failures - health.failures + PRIOR_BAD) / (calls + PRIOR_CALLS))
        own = health.failures / health.calls
        if own < AN_OUTLIER * peers:
            return False
        divergence = own * log(own / peers)
        if own < 1.0:
            divergence += (1.0 - own) * log((1.0 - own) / (1.0 - min(peers, HIGHEST_RATE)))
        return health.calls * divergence >= ENOUGH

    def _by_latency(self, nodes: Iterable[Any]) -> list[tuple[Any, Finding]]:
        factor = self.settings.latency_factor
        if factor is None:
            return []
        means = {
            node: node.health.latency_sum / (node.health.calls - node.health.failures)
            for node in nodes
            if node.health.calls - node.health.failures >= LATENCY_CALLS
        }
        if len(means) < 2:
            return []
        # Of an even number the lower one: of two nodes the faster is the measure.
        usual = statistics.median_low(means.values())
        return [
            (node, Finding("latency", f"mean latency {mean * 1000:.0f} ms, {mean / usual:.1f} x the median"))
            for node, mean in means.items()
            if usual > 0 and mean > factor * usual
        ]
