from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smartclient import Outcome, OutlierDetection
from smartclient.health.detector import NodeHealth

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


def test_the_two_counters_are_split() -> None:
    health = NodeHealth(OutlierDetection(consecutive_5xx=3, consecutive_local_origin_failure=2))
    assert health.observe(FAILURE, 503) is None
    assert health.observe(FAILURE, 503) is None
    assert health.observe(FAILURE, None) is None
    # An answer, even a bad one, says that the node can be reached.
    assert "3 answers of 5xx" in (health.observe(FAILURE, 503) or "")
    assert health.local_failures == 0
    assert health.observe(SUCCESS, 503) is None
    assert health.observe(FAILURE, None) is None
    assert health.observe(ABANDONED, None) is None
    assert "2 transport errors" in (health.observe(FAILURE, None) or "")


def test_switched_off() -> None:
    health = NodeHealth(OutlierDetection(consecutive_5xx=None, consecutive_local_origin_failure=None))
    for status in (None, 503) * 50:
        assert health.observe(FAILURE, status) is None


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
    health = NodeHealth(OutlierDetection(consecutive_5xx=3))
    assert {health.observe(FAILURE, 429) for _ in range(20)} == {None}
    assert {health.observe(FAILURE, 503) for _ in range(2)} == {None}
