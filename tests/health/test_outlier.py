from __future__ import annotations

import random
import statistics
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smartclient import Instance, Node, Outcome, OutlierDetection
from smartclient.health.detector import Detector, NodeHealth

FAILURE, SUCCESS, ABANDONED = Outcome.FAILURE, Outcome.SUCCESS, Outcome.ABANDONED


@pytest.mark.parametrize(
    "wrong",
    [
        {"consecutive_5xx": 0},
        {"consecutive_5xx": True},
        {"base_ejection_time": 0},
        {"max_ejected": 1.5},
        {"jitter": -1},
    ],
)
def test_mistakes_name_the_field(wrong: Any) -> None:
    with pytest.raises(ValueError, match=f"OutlierDetection.{next(iter(wrong))}"):
        OutlierDetection(**wrong)


@pytest.mark.parametrize(("nodes", "allowed"), [(1, 0), (2, 1), (3, 1), (4, 2), (5, 2), (10, 5)])
def test_how_many_may_go(nodes: int, allowed: int) -> None:
    """Half of them, but always one, and never all."""
    settings = OutlierDetection()
    ejected = 0
    while settings.may_eject(nodes, ejected):
        ejected += 1
    assert ejected == allowed


@given(st.integers(1, 200), st.floats(0.01, 1))
def test_never_all_and_always_one(nodes: int, share: float) -> None:
    settings = OutlierDetection(max_ejected=share)
    ejected = 0
    while settings.may_eject(nodes, ejected):
        ejected += 1
    assert ejected < nodes
    assert ejected >= min(1, nodes - 1)


class Watch:
    """A detector over some nodes, on a clock of its own."""

    def __init__(self, nodes: int = 5, **settings: Any) -> None:
        self.settings = OutlierDetection(**settings)
        self.now = 1000.0
        self.detector = Detector(self.settings, self.now)
        self.nodes = [Node(Instance("h", n + 1), None, NodeHealth(self.settings)) for n in range(nodes)]

    def say(self, node: int, outcome: Outcome, status: int | None = 200, latency: float = 0.01) -> str | None:
        self.now += 0.01
        health = self.nodes[node].health
        finding = self.detector.observe(health, outcome, status, latency, self.now, len(self.nodes) - 1)
        return None if finding is None else finding.reason

    def fail(self, node: int, status: int | None = 503) -> str | None:
        return self.say(node, FAILURE, status, 0.001)

    def succeed(self, node: int, times: int = 1) -> None:
        for _ in range(times):
            assert self.say(node, SUCCESS) is None

    def end(self) -> dict[int, str]:
        return {self.nodes.index(node): why.reason for node, why in self.detector.end_interval(self.nodes, self.now)}


def test_the_counters_are_split() -> None:
    watch = Watch(consecutive_5xx=3, consecutive_local_origin_failure=2, consecutive_gateway_failure=2, evidence=False)
    health = watch.nodes[0].health
    assert watch.fail(0, 500) is None
    assert watch.fail(0, None) is None
    # An answer, even a bad one, says that the node can be reached.
    assert watch.fail(0, 500) is None
    assert health.local_failures == 0
    assert "3 answers of 5xx" in (watch.fail(0, 500) or "")
    watch = Watch(3, consecutive_local_origin_failure=2, consecutive_gateway_failure=2, evidence=False)
    watch.succeed(2, 400)
    assert watch.fail(0, None) is None
    assert watch.say(0, ABANDONED, None) is None
    assert "2 transport errors" in (watch.fail(0, None) or "")
    watch.succeed(0, 30)
    assert watch.fail(1, 502) is None
    assert "2 answers of 502, 503 or 504" in (watch.fail(1, 503) or "")


@pytest.mark.parametrize(("apart", "out"), [(0.1, 5.0), (6.0, 10.0)])
def test_who_has_only_failed_for_long_is_out_for_longer(apart: float, out: float) -> None:
    """Whom the balancer avoids fails seldom. A probe after the shortest time would be one more call lost."""
    watch = Watch(consecutive_local_origin_failure=2, jitter=0)
    for node in range(1, 5):
        watch.succeed(node, 100)
    assert watch.fail(0, None) is None
    watch.now += apart
    assert "2 transport errors" in (watch.fail(0, None) or "")
    assert watch.nodes[0].health.eject(watch.now, random.Random(1)) == out


def test_switched_off() -> None:
    watch = Watch(consecutive_5xx=None, consecutive_local_origin_failure=None, evidence=False)
    for status in (None, 503) * 50:
        assert watch.fail(0, status) is None


@pytest.mark.parametrize(("share", "calls"), [(1.0, 5), (0.3, 60), (0.2, 200)])
def test_evidence_comes_within_the_calls_it_is_designed_for(share: float, calls: int) -> None:
    needed = []
    for seed in range(60):
        rng = random.Random(seed)
        watch = Watch(2)
        for n in range(1, 1000):
            watch.succeed(1)
            if watch.fail(0) if rng.random() < share else watch.say(0, SUCCESS):
                needed.append(n)
                break
    assert len(needed) == 60
    assert statistics.median(needed) <= calls


@pytest.mark.parametrize("share", [0.0, 0.01, 0.05, 0.2, 0.5, 0.8, 1.0])
@pytest.mark.parametrize("nodes", [2, 5, 10])
def test_when_all_fail_alike_nobody_is_an_outlier(share: float, nodes: int) -> None:
    rng = random.Random(7)
    watch = Watch(nodes)
    reasons = []
    for n in range(20_000):
        node = rng.randrange(nodes)
        reasons.append(watch.fail(node) if rng.random() < share else watch.say(node, SUCCESS))
        if n % 2000 == 1999:
            reasons += watch.end().values()
    assert not [reason for reason in reasons if reason]


def test_an_outage_of_all_ejects_nobody() -> None:
    watch = Watch(5)
    for n in range(5000):
        watch.succeed(n % 5)
    assert not [why for n in range(5000) if (why := watch.fail(n % 5, None))]


def test_evidence_fades() -> None:
    watch = Watch(2, consecutive_5xx=None)
    watch.succeed(1, 100)
    for _ in range(4):
        assert watch.fail(0) is None
    watch.now += 3600
    for _ in range(4):
        assert watch.fail(0) is None
    assert watch.fail(0)


def test_failures_with_one_cause_count_less() -> None:
    """Fifty attempts that were under way together and timed out together are one event: it must fail once more."""
    watch = Watch(3)
    watch.succeed(1, 200)
    for _ in range(50):
        assert watch.say(0, FAILURE, None, latency=5.0) is None
    assert watch.fail(0, None) or watch.fail(0, None)


def test_success_rate_is_envoys_and_more() -> None:
    watch = Watch(6, consecutive_5xx=None, evidence=False)
    for turn in range(2):
        for n in range(200):
            for node in range(5):
                watch.succeed(node)
            watch.fail(5) if n % 4 == 0 else watch.succeed(5)
        found = watch.end()
        # A burst that all bear leaves some worse off, once: so twice running.
        assert set(found) == (set() if turn == 0 else {5})
    assert "success rate 75.0%" in found[5]


def test_success_rate_asks_for_hosts_and_volume() -> None:
    for nodes, calls in ((4, 200), (6, 90)):
        watch = Watch(nodes, consecutive_5xx=None, evidence=False)
        for _ in range(3):
            for node in range(nodes - 1):
                watch.succeed(node, calls)
            for _ in range(calls):
                watch.fail(nodes - 1)
            assert not watch.end()


def test_failure_percentage() -> None:
    watch = Watch(5, consecutive_5xx=None, evidence=False, success_rate_factor=None, failure_percentage=85)
    for node in range(4):
        watch.succeed(node, 60)
    for n in range(60):
        watch.fail(4) if n % 10 else watch.succeed(4)
    assert watch.end() == {4: "90 % of its calls failed"}


def test_latency_factor() -> None:
    for factor, out in ((None, {}), (3.0, {1: "mean latency 40 ms, 4.0 x the median"})):
        watch = Watch(2, latency_factor=factor)
        for _ in range(30):
            watch.say(0, SUCCESS, latency=0.01)
            watch.say(1, SUCCESS, latency=0.04)
        assert watch.end() == out


def test_one_that_comes_back_only_to_fail_again_is_out_longer() -> None:
    settings = OutlierDetection(jitter=0)
    health = NodeHealth(settings)
    rng, now, times = random.Random(1), 0.0, []
    for _ in range(8):
        times.append(health.eject(now, rng))
        now += times[-1]
        health.restore(now)
        now += 2
    assert times == sorted(times)
    assert times[-1] > 200
    health.restore(now)
    assert health.eject(now + 36000, rng) == 5  # all is forgiven


def test_times_grow_to_a_cap_and_are_forgiven() -> None:
    settings = OutlierDetection(base_ejection_time=5, max_ejection_time=30, jitter=0)
    health = NodeHealth(settings)
    rng = random.Random(1)
    now, times = 0.0, []
    for _ in range(8):  # each time its probe fails
        times.append(health.eject(now, rng))
        now += times[-1]
    assert times == [5, 10, 15, 20, 25, 30, 30, 30]
    health.restore(now)
    assert health.eject(now + 60, rng) == 15  # six healthy times ten seconds forgive six of eight
    health.restore(now)
    assert health.eject(now + 3600, rng) == 5


def test_jitter_lengthens() -> None:
    rng = random.Random(1)
    durations = [NodeHealth(OutlierDetection(jitter=0.1)).eject(0.0, rng) for _ in range(100)]
    assert 5 <= min(durations) < max(durations) <= 5.5


def test_too_many_requests_is_no_sign_of_being_broken() -> None:
    watch = Watch(consecutive_5xx=3)
    assert {watch.fail(0, 429) for _ in range(50)} == {None}
    assert {watch.fail(0, 503) for _ in range(2)} == {None}


@pytest.mark.parametrize(
    "wrong",
    [{"interval": 0}, {"success_rate_volume": 0}, {"success_rate_factor": -1}, {"failure_percentage": 101},
     {"latency_factor": 1}, {"max_pause": -1}, {"consecutive_gateway_failure": 0}],
    ids=str,
)  # fmt: skip
def test_absurd_settings(wrong: Any) -> None:
    with pytest.raises(ValueError, match=f"OutlierDetection.{next(iter(wrong))}"):
        OutlierDetection(**wrong)
