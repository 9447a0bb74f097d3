"""Who gets how many of the calls, in shapes that strangers have reported of other balancers."""

from __future__ import annotations

from collections import Counter
from random import Random
from typing import Any

import pytest
from worlds import FakeCall

from smartclient import Adaptive, Instance, Node, Outcome, Policy, SlowStart
from smartclient.balancers.shares import Fairness, owed_or
from smartclient.testing import simulate

FAST_AND_SLOW = [{"count": 4, "slots": 4, "mean_ms": 10}, {"count": 16, "slots": 4, "mean_ms": 40}]
SLOW = {"slots": 4, "mean_ms": 40}


def adaptive_over(count: int, rng: Random, *weights: float) -> tuple[Any, list[Node], FakeCall]:
    """A picker over so many new nodes, these, and a call whose time goes on."""
    balancer = Adaptive()
    instances = [Instance("h", n + 1, weight=weights[n] if weights else 1.0) for n in range(count)]
    nodes = [Node(instance, balancer.memory()) for instance in instances]
    return balancer.picker(nodes, rng), nodes, FakeCall()


@pytest.mark.parametrize("distribution", ["exponential", "lognormal"])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_changes_of_the_list_starve_nobody(distribution: str, seed: int) -> None:
    """haproxy#1282, grpc-java#4462: each new list makes a new picker, which must not begin from nothing."""
    server = {"slots": 4, "mean_ms": 10, "distribution": distribution}
    comes_and_goes = [{**server, "joins_s": at, "leaves_s": at + 0.5} for at in range(1, 20)]
    scenario = {"servers": [{"count": 4, **server}, *comes_and_goes], "at_once": 1, "calls": 1600, "seed": seed}
    share = simulate(scenario)["balancers"]["adaptive"]["share"][:4]
    assert min(share) / sum(share) * 4 > 0.6


def mixed(last: dict[str, Any], **policy: Any) -> float:
    scenario = {"servers": [*FAST_AND_SLOW, last], "load": 0.7, "clients": 10, "calls": 8000, "warmup_calls": 3000}
    result = simulate(scenario, policy=Policy(**policy))
    return float(result["balancers"]["adaptive"]["p99_ms"] / result["oracle"]["p99_ms"])


def test_a_small_difference_of_weights_is_no_intent() -> None:
    assert mixed({**SLOW, "weight": 1.01}) < 1.1 * mixed(SLOW)


def test_a_slow_start_is_no_intent() -> None:
    """envoy#19437, #19526."""
    joins = {**SLOW, "joins_s": 1}
    assert mixed(joins, slow_start=SlowStart(30)) < 1.2 * mixed(joins)


def test_a_night_is_forgotten() -> None:
    """linkerd#1441: what was slow in the evening is tried in the morning, however few calls follow."""
    pick, nodes, call = adaptive_over(4, Random(1))

    def calls(count: int, slow: float) -> int:
        before = nodes[0].memory.picks
        for _ in range(count):
            call.now += 0.005
            node = pick(call)
            latency = slow if node is nodes[0] else 0.01
            node.memory.observe(Outcome.SUCCESS, latency, None, call.now)
        return int(nodes[0].memory.picks - before)

    calls(2000, slow=0.2)
    assert calls(100, slow=0.2) < 10
    call.now += 8 * 3600
    assert calls(200, slow=0.01) > 10


def test_a_node_with_a_queue_of_others_is_passed_over() -> None:
    pick, nodes, call = adaptive_over(2, Random(1))
    for step in range(200):
        call.now = step / 100
        node = pick(call)
        node.memory.reported("TEXT named_metrics.in_flight=3", call.now)
        node.memory.observe(Outcome.SUCCESS, 0.01, None, call.now)
    nodes[0].memory.reported("TEXT named_metrics.in_flight=40", call.now)
    assert [pick(call) for _ in range(2)] == [nodes[1]] * 2


@pytest.mark.parametrize(("workers", "better"), [(1, 0.97), (4, 1.1)])
def test_servers_that_tell_their_load_shorten_the_tail(workers: int, better: float) -> None:
    # A request meets any of the workers: what all have in progress helps nothing, and must not harm.
    servers = [
        {"count": count, "slots": 4 // workers, "workers": workers, "mean_ms": mean}
        for count, mean in ((5, 10), (5, 40))
    ]
    scenario = {"servers": servers, "load": 0.7, "clients": 100, "calls": 15000, "warmup_calls": 6000}

    def p99(told: bool) -> float:
        runs = [simulate({**scenario, "told": told, "seed": seed}, ["adaptive"]) for seed in range(1, 6)]
        return sum(run["balancers"]["adaptive"]["p99_ms"] for run in runs)

    assert p99(told=True) < better * p99(told=False)


def test_a_slow_start_holds_in_a_fleet_of_three() -> None:
    """envoy#19437: its weight counts with no call in flight, too."""
    rng = Random(1)
    pick, nodes, call = adaptive_over(3, rng)
    nodes[2].weight = 0.1
    picks = Counter[Node]()
    for _ in range(3000):
        call.now += 0.01
        node = pick(call)
        picks[node] += 1
        node.memory.observe(Outcome.SUCCESS, rng.expovariate(100), None, call.now)
    assert picks[nodes[2]] < 0.15 * picks[nodes[0]]


@pytest.mark.parametrize("count", [2, 3])
def test_a_quick_canary_earns_little_in_a_small_fleet(count: int) -> None:
    """Nodes of one weight are all compared there. Of unlike ones, who has had enough must not be."""
    pick, nodes, call = adaptive_over(count, Random(1), *[10.0] * (count - 1), 1.0)
    picks = Counter[Node]()
    for _ in range(3000):
        call.now += 0.01
        node = pick(call)
        picks[node] += 1
        node.memory.observe(Outcome.SUCCESS, 0.001 if node is nodes[-1] else 0.01, None, call.now)
    assert picks[nodes[-1]] < 0.2 * 3000


def test_equals_have_even_shares_in_a_fleet_of_three() -> None:
    pick, nodes, call = adaptive_over(3, Random(1))
    picks = Counter[Node]()
    for _ in range(60):
        node = pick(call)
        picks[node] += 1
        node.memory.observe(Outcome.SUCCESS, 0.01, None, call.now)
    assert min(picks[node] for node in nodes) > 10


@pytest.mark.parametrize("count", [2, 3, 5])
def test_one_slow_first_call_condemns_nobody(count: int) -> None:
    """Eight times the mean. One run in ten may have bad luck besides."""

    def share(seed: int) -> float:
        rng = Random(seed)
        pick, nodes, call = adaptive_over(count, rng)
        picks = Counter[Node]()
        for _ in range(200 * count):
            call.now += 0.005
            node = pick(call)
            picks[node] += 1
            first = node is nodes[-1] and picks[node] == 1
            node.memory.observe(Outcome.SUCCESS, 0.04 if first else rng.expovariate(200), None, call.now)
        return picks[nodes[-1]] / 200

    assert sorted(share(seed) for seed in range(20))[2] > 0.6


def test_equals_seldom_starve() -> None:
    """Unlucky first calls: the least share of a median run says little of how often one of the nodes gets nothing."""

    def least(servers: int, at_once: int, seed: int) -> float:
        equals = [{"count": servers, "slots": 4, "mean_ms": 5}]
        scenario = {"servers": equals, "at_once": at_once, "calls": 200 * servers, "connect_ms": 20, "seed": seed}
        share = simulate(scenario, ["adaptive"])["balancers"]["adaptive"]["share"]
        return float(min(share) * servers)

    shares = [least(servers, at_once, seed) for servers, at_once in ((2, 2), (3, 2), (5, 4)) for seed in range(1, 21)]
    assert sum(share < 0.6 for share in shares) <= 10


def test_a_new_list_does_not_make_equals_of_unlike_nodes() -> None:
    def slow_picks(changes: bool) -> int:
        rng = Random(1)
        pick, nodes, call = adaptive_over(2, rng)
        picks = Counter[Node]()
        for step in range(6000):
            call.now += 0.005
            if changes and step % 60 == 0:
                pick = Adaptive().picker(nodes, rng)
            node = pick(call)
            picks[node] += 1
            node.memory.observe(Outcome.SUCCESS, rng.expovariate(200 if node is nodes[0] else 50), None, call.now)
        return picks[nodes[1]]

    assert slow_picks(changes=True) < 1.5 * slow_picks(changes=False)


def test_each_is_given_the_calls_that_it_is_owed() -> None:
    """In any order."""
    _, nodes, call = adaptive_over(3, Random(1))
    owed = [nodes[0]] * 30 + [nodes[1]] * 20
    rng = Random(2)
    given = [owed_or(owed, nodes[2], 1.0, call, rng.random()) for _ in range(51)]
    assert Counter(given) == {nodes[0]: 30, nodes[1]: 20, nodes[2]: 1}
    assert given[50] is nodes[2]
    assert 5 < given[:25].count(nodes[0]) < 25


def test_few_calls_do_not_change_who_is_owed() -> None:
    """Looks go by time; in one at which little was called the same nodes would be found."""
    pick, nodes, call = adaptive_over(20, Random(1))
    for node in nodes:
        node.memory.observe(Outcome.SUCCESS, 0.01, None, 0.0)
    for _ in range(100):
        pick(call).memory.observe(Outcome.SUCCESS, 0.01, None, 0.0)
    fairness = Fairness(nodes)
    fairness.passed(1000)
    owed = fairness.owed(nodes, 0.5)
    assert owed
    fairness.passed(9)
    assert fairness.owed(nodes, 0.5) is owed
    fairness.passed(1)
    assert fairness.owed(nodes, 0.5) is not owed
    assert fairness.owed(nodes[:10], 0.5) is not owed, "a part of a large fleet may have its turn seldom"


def test_who_has_just_failed_is_owed_nothing() -> None:
    """It may have been found to be owed several calls before."""
    _, nodes, call = adaptive_over(3, Random(1))
    owed = [nodes[0]] * 5
    fine = owed_or(owed, nodes[1], 1.0, call, 0.0)
    nodes[0].memory.observe(Outcome.FAILURE, 0.1, None, call.now)
    assert (fine, owed_or(owed, nodes[1], 1.0, call, 0.0)) == (nodes[0], nodes[1])
