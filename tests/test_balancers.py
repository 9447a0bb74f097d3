"""The contract of every balancer, found by import, and what each is known for."""

from __future__ import annotations

import heapq
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, is_dataclass
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from smartclient import Balancer, Instance, Node, Outcome, PeakEwma, Policy
from smartclient.balancers import BALANCERS

ALL = sorted(BALANCERS)


@dataclass
class FakeCall:
    now: float = 0.0
    hash_key: str | None = None
    attempt: int = 1
    service: str = "orders"
    request: Any = field(default_factory=lambda: httpx.Request("GET", "http://orders/"))
    tried: tuple[Node, ...] = ()

    def usable(self, node: Node) -> bool:
        return not (node.excluded or node.removed)


class _Request:
    def __init__(self, headers: dict[str, str]) -> None:
        self.headers = headers


def user(number: int, **fields: Any) -> FakeCall:
    """A call of one of many users."""
    forwarded = {"x-forwarded-for": f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}"}
    return FakeCall(hash_key=str(number), request=_Request(forwarded), **fields)


def fleet(balancer: Balancer, weights: list[float]) -> list[Node]:
    return [Node(Instance("h", n + 1, weight=w), balancer.memory()) for n, w in enumerate(weights)]


def measured(nodes: list[Node], latency: float = 0.01) -> None:
    for node in nodes:
        if node.memory is not None:
            node.memory.observe(Outcome.SUCCESS, latency, None, 0.0)


def shares(balancer: Balancer, nodes: list[Node], picks: int = 20_000) -> list[float]:
    pick = balancer.picker(nodes, random.Random(1))
    count = Counter(id(pick(user(n))) for n in range(picks))
    return [count[id(node)] / picks for node in nodes]


def shares_under_load(balancer: Balancer, weights: list[float], load: float, calls: int = 20_000) -> list[float]:
    """Servers with slots by weight, exponential service times, Poisson arrivals: what share each got."""
    rng = random.Random(1)
    nodes = fleet(balancer, weights)
    pick = balancer.picker(nodes, random.Random(2))
    slots = [round(4 * weight / min(weights)) for weight in weights]
    ends: list[list[float]] = [[0.0] * count for count in slots]  # when each slot is free
    running: list[tuple[float, int, float]] = []
    count, now = Counter[int](), 0.0
    for _ in range(calls):
        now += rng.expovariate(load * sum(slots) / 0.01)
        while running and running[0][0] <= now:
            ended, number, began = heapq.heappop(running)
            nodes[number].in_flight -= 1
            if nodes[number].memory is not None:
                nodes[number].memory.observe(Outcome.SUCCESS, ended - began, None, ended)
        node = pick(FakeCall(now=now))
        number = nodes.index(node)
        count[number] += 1
        node.in_flight += 1
        ended = max(heapq.heappop(ends[number]), now) + rng.expovariate(100)
        heapq.heappush(ends[number], ended)
        heapq.heappush(running, (ended, number, now))
    return [count[number] / calls for number in range(len(nodes))]


@pytest.mark.parametrize("name", ["random", "p2c", "least_request", "peak_ewma"])
@pytest.mark.parametrize("load", [0.02, 0.5, 0.9])
@pytest.mark.parametrize("weights", [[2, 1], [300, 100, 100, 100], [3, 1, 1, 1]], ids=str)
def test_weights_are_shares(name: str, load: float, weights: list[float]) -> None:
    found = shares_under_load(BALANCERS[name](), weights, load)
    owed = weights[0] / sum(weights)
    assert owed * 0.8 <= found[0] <= owed * 1.1, found


def found(cls: Any) -> Iterator[type[Balancer]]:
    for sub in cls.__subclasses__():
        yield from found(sub)
        if sub.__module__.startswith("smartclient.") and sub.name and not sub.__abstractmethods__:
            yield sub


def test_every_balancer_is_listed() -> None:
    assert set(found(Balancer)) == set(BALANCERS.values())
    assert {Policy(balancer=name).balancer for name in ALL} == {BALANCERS[name]() for name in ALL}
    with pytest.raises(ValueError, match=r"expected one of .*round_robin"):
        Policy(balancer="nonsense")


@pytest.mark.parametrize("name", ALL)
def test_contract(name: str) -> None:
    balancer = BALANCERS[name]()
    assert is_dataclass(balancer)
    assert balancer == BALANCERS[name]()
    hash(balancer)

    @given(
        st.lists(st.sampled_from([0.0, 0.5, 1.0, 1.0, 1.0, 10.0]), min_size=1, max_size=12),
        st.integers(0, 2**32),
        st.lists(st.tuples(st.integers(0, 11), st.sampled_from(list(Outcome)), st.floats(0, 10)), max_size=20),
    )
    def picks_one_of_its_nodes(weights: list[float], seed: int, history: list[tuple[int, Outcome, float]]) -> None:
        nodes = tuple(fleet(balancer, weights))
        pick = balancer.picker(nodes, random.Random(seed))
        now = 0.0
        for index, outcome, latency in history:
            now += latency
            node = nodes[index % len(nodes)]
            node.in_flight += index % 2
            if node.memory is not None and outcome is not Outcome.ABANDONED:
                node.memory.observe(outcome, latency, None, now)
            assert pick(FakeCall(now=now)) in nodes
        assert all(node.in_flight <= len(history) for node in nodes)

    picks_one_of_its_nodes()


@pytest.mark.parametrize("name", ALL)
def test_equal_nodes_get_equal_shares(name: str) -> None:
    balancer = BALANCERS[name]()
    nodes = fleet(balancer, [1.0] * 5)
    measured(nodes)
    assert shares(balancer, nodes) == pytest.approx([0.2] * 5, abs=0.02)


@pytest.mark.parametrize("name", ["random", "peak_ewma"])
def test_the_heavier_gets_more(name: str) -> None:
    balancer = BALANCERS[name]()
    nodes = fleet(balancer, [1.0, 3.0])
    measured(nodes)
    assert shares(balancer, nodes)[1] > 0.7


def test_random_is_exact() -> None:
    balancer = BALANCERS["random"]()
    assert shares(balancer, fleet(balancer, [1.0, 2.0, 7.0])) == pytest.approx([0.1, 0.2, 0.7], abs=0.02)


def test_round_robin_begins_anywhere_and_goes_round() -> None:
    balancer = BALANCERS["round_robin"]()
    nodes = fleet(balancer, [1.0] * 4)
    firsts = set()
    for seed in range(40):
        pick = balancer.picker(nodes, random.Random(seed))
        turn = [pick(FakeCall()) for _ in range(8)]
        assert turn[:4] == turn[4:]
        assert set(turn) == set(nodes)
        firsts.add(turn[0])
    assert firsts == set(nodes)


@pytest.mark.parametrize("name", ["p2c", "least_request"])
def test_of_two_nodes_the_busier_is_never_picked(name: str) -> None:
    """With replacement, two choices of two would pick it a quarter of the time."""
    balancer = BALANCERS[name]()
    nodes = fleet(balancer, [1.0, 1.0])
    nodes[0].in_flight = 1
    assert shares(balancer, nodes, 500) == [0.0, 1.0]


def test_least_request_is_a_full_scan() -> None:
    balancer = BALANCERS["least_request"]()
    nodes = fleet(balancer, [1.0] * 50)
    for node in nodes:
        node.in_flight = 3
    nodes[17].in_flight = 2
    assert shares(balancer, nodes, 200)[17] == 1.0


class TestPeakEwma:
    def memory(self) -> Any:
        return PeakEwma().memory()

    def test_a_peak_counts_at_once_and_decays(self) -> None:
        memory = self.memory()
        memory.observe(Outcome.SUCCESS, 0.010, None, 0.0)
        memory.observe(Outcome.SUCCESS, 1.0, None, 0.1)
        assert memory.estimate == 1.0
        memory.observe(Outcome.SUCCESS, 0.010, None, 10.1)
        assert memory.estimate == pytest.approx(0.010 + 0.99 / 2.718281828, rel=1e-6)

    def test_it_decays_when_read(self) -> None:
        memory = self.memory()
        memory.observe(Outcome.SUCCESS, 1.0, None, 0.0)
        assert memory.cost(0, 10.0) == pytest.approx(1 / 2.718281828, rel=1e-6)
        assert memory.cost(3, 0.0) == pytest.approx(4.0)

    def test_a_failure_is_no_fast_answer(self) -> None:
        good, bad = self.memory(), self.memory()
        for memory in (good, bad):
            memory.observe(Outcome.SUCCESS, 0.05, None, 0.0)
        bad.observe(Outcome.FAILURE, 0.0001, None, 0.1)
        assert bad.estimate == 0.05
        assert bad.cost(0, 0.1) > 4.9 > good.cost(9, 0.1)
        assert bad.cost(0, 6.0) < good.cost(1, 6.0)  # forgotten within seconds
        bad.observe(Outcome.SUCCESS, 0.05, None, 0.2)
        assert bad.cost(0, 0.2) < 0.06  # cleared by a success

    def test_retry_after_says_how_long(self) -> None:
        memory = self.memory()
        memory.observe(Outcome.FAILURE, 0.001, 1000.0, 0.0)
        assert memory.penalty == 300.0

    def test_an_unmeasured_node_is_tried_by_the_next_call_and_not_flooded(self) -> None:
        balancer = PeakEwma()
        nodes = fleet(balancer, [1.0] * 10)
        measured(nodes[:9])
        pick = balancer.picker(nodes, random.Random(3))
        assert pick(FakeCall()) is nodes[9]
        nodes[9].in_flight = 1
        assert nodes[9] not in {pick(FakeCall()) for _ in range(500)}
        nodes[9].memory.observe(Outcome.SUCCESS, 0.01, None, 0.0)
        nodes[9].in_flight = 0
        assert nodes[9] in {pick(FakeCall()) for _ in range(500)}

    def test_a_fast_failing_node_gets_little(self) -> None:
        """Seeded simulation, ejection off: one of five fails at once (DESIGN.md: the broken node must not attract)."""
        balancer = PeakEwma()
        nodes = fleet(balancer, [1.0] * 5)
        pick = balancer.picker(nodes, random.Random(5))
        rng, now, count = random.Random(6), 0.0, 0
        for _ in range(5000):
            now += rng.expovariate(200)
            node = pick(FakeCall(now=now))
            failed = node is nodes[0]
            count += failed and now > 1
            outcome = Outcome.FAILURE if failed else Outcome.SUCCESS
            node.memory.observe(outcome, 0.0005 if failed else rng.expovariate(100), None, now)
        assert count / 5000 < 0.03
