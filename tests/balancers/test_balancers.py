"""The contract of every balancer, found by import, and what each is known for."""

from __future__ import annotations

import heapq
import itertools
import math
import random
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import is_dataclass
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from worlds import FakeCall

from smartclient import Adaptive, Balancer, Instance, LoadAware, Node, Outcome, PeakEwma, Policy
from smartclient.balancers import BALANCERS
from smartclient.balancers.load_aware import reported_weights
from smartclient.balancers.load_report import parse_report
from smartclient.testing import Behaviour

ALL = sorted(BALANCERS)


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


@pytest.mark.parametrize("name", ["random", "p2c", "least_request", "peak_ewma", "weighted_round_robin"])
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
    assert shares(balancer, nodes) == pytest.approx([0.2] * 5, abs=0.04 if balancer.over_members else 0.02)


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


def test_weighted_round_robin_is_exact_and_spread() -> None:
    balancer = BALANCERS["weighted_round_robin"]()
    nodes = fleet(balancer, [5.0, 1.0, 1.0])
    pick = balancer.picker(nodes, random.Random(1))
    order = [nodes.index(pick(FakeCall())) for _ in range(700)]
    assert Counter(order) == pytest.approx({0: 500, 1: 100, 2: 100}, abs=2)
    gaps = [b - a for a, b in itertools.pairwise(n for n, node in enumerate(order) if node == 1)]
    assert set(gaps) <= {6, 7, 8}  # not five of a kind in a row and then the others
    nodes[0].weight = 1.0  # live
    later = Counter(nodes.index(pick(FakeCall())) for _ in range(300))
    assert later == pytest.approx({0: 100, 1: 100, 2: 100}, abs=5)


def test_weighted_round_robin_with_threads_loses_no_turn() -> None:
    balancer = BALANCERS["weighted_round_robin"]()
    nodes = fleet(balancer, [3.0, 1.0])
    pick = balancer.picker(nodes, random.Random(1))
    taken: list[Node] = []
    threads = [threading.Thread(target=lambda: [taken.append(pick(FakeCall())) for _ in range(500)]) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert Counter(map(nodes.index, taken)) == pytest.approx({0: 3000, 1: 1000}, abs=4)


class TestAdaptive:
    def world(self, latencies: list[float]) -> tuple[Any, list[Node]]:
        balancer = Adaptive()
        nodes = fleet(balancer, [1.0] * len(latencies))
        for node, latency in zip(nodes, latencies, strict=True):
            for _ in range(10):
                node.memory.observe(Outcome.SUCCESS, latency, None, 0.0)
        return balancer.picker(nodes, random.Random(1)), nodes

    def test_slow_nodes_are_seldom_drawn_and_more_seldom_taken(self) -> None:
        pick, nodes = self.world([0.01] * 5 + [0.04] * 5)
        count = Counter(nodes.index(pick(FakeCall(now=0.0))) for _ in range(5000))
        assert sum(count[n] for n in range(5, 10)) < 50

    def test_a_failure_that_is_fast_does_not_attract(self) -> None:
        pick, nodes = self.world([0.01] * 5)
        nodes[0].memory.observe(Outcome.FAILURE, 0.0001, None, 0.0)
        assert nodes[0].memory.mean == pytest.approx(math.log(0.01))
        # Drawing five of five with replacement, it is alone once in three thousand times.
        assert sum(pick(FakeCall(now=0.5)) is nodes[0] for _ in range(2000)) <= 3
        for node in nodes[1:]:
            node.in_flight = 1
        assert sum(pick(FakeCall(now=12.0)) is nodes[0] for _ in range(2000)) > 1000
        nodes[0].memory.observe(Outcome.SUCCESS, 0.01, None, 12.0)
        assert nodes[0].memory.penalty == 0.0

    def test_failures_in_a_row_are_forgotten_more_slowly(self) -> None:
        memory = Adaptive().memory()
        left = []
        for turn in range(4):
            memory.observe(Outcome.FAILURE, 0.001, None, 10.0 * turn)
            left.append(memory.penalty_left(10.0 * turn + 4.0))
        assert left[0] < left[1] < left[2] == pytest.approx(left[3])

    def test_a_timeout_says_that_it_is_slow(self) -> None:
        pick, nodes = self.world([0.01] * 5)
        for _ in range(5):
            nodes[0].memory.observe(Outcome.FAILURE, 1.0, None, 0.0)
        assert nodes[0].memory.estimate > 0.1
        assert sum(pick(FakeCall(now=5.0)) is nodes[0] for _ in range(2000)) <= 3

    def test_what_was_slow_is_tried_again(self) -> None:
        pick, nodes = self.world([0.01] * 4 + [0.02])
        assert sum(pick(FakeCall(now=1.0)) is nodes[4] for _ in range(2000)) <= 3
        for node in nodes[:4]:
            node.memory.observe(Outcome.SUCCESS, 0.01, None, 200.0)
            node.in_flight = 1
        taken = sum(pick(FakeCall(now=200.0)) is nodes[4] for _ in range(2000))
        # Once it has been picked its mean counts in full, until it answers.
        assert 1 <= taken <= 10

    def test_one_slow_call_among_quick_ones_moves_the_mean_little(self) -> None:
        """Mixed routes: a report of a second is no reason to leave a node that reads in 8 ms."""
        _, nodes = self.world([0.008] * 5)
        before = nodes[0].memory.estimate
        nodes[0].memory.observe(Outcome.SUCCESS, 1.0, None, 0.0)
        assert nodes[0].memory.estimate < 2 * before

    def test_a_quick_wrong_answer_earns_no_credit(self) -> None:
        pick, nodes = self.world([0.01] * 4 + [0.02])
        for now in range(1, 30):
            pick(FakeCall(now=float(now)))
            nodes[0].memory.observe_wrong(0.0001, float(now))
            nodes[4].memory.observe_wrong(0.0001, float(now))
        assert nodes[0].memory.mean == pytest.approx(math.log(0.01))
        assert nodes[4].memory.mean == pytest.approx(math.log(0.02), abs=0.1)
        slow = Adaptive().memory()
        slow.observe_wrong(0.5, 0.0)  # nothing else is known of it
        assert slow.mean == pytest.approx(math.log(0.5))

    def test_silence_makes_dearer(self) -> None:
        pick, nodes = self.world([0.01] * 2)
        nodes[0].in_flight = nodes[1].in_flight = 1
        pick(FakeCall(now=0.0))
        nodes[1].memory.observe(Outcome.SUCCESS, 0.01, None, 0.99)
        pick(FakeCall(now=1.0))
        assert nodes[0].memory.cost == pytest.approx(4 * nodes[1].memory.cost, rel=0.1)

    @pytest.mark.parametrize("latency", [0.001, 0.1])
    def test_weights_that_differ_are_intent(self, latency: float) -> None:
        """A canary does not get more than it is meant to, however quick it is."""
        balancer = Adaptive()
        nodes = fleet(balancer, [10.0] * 9 + [1.0])
        pick, picked = balancer.picker(nodes, random.Random(1)), Counter[int]()
        for number in range(20_000):
            now = number / 100
            node = pick(FakeCall(now=now))
            node.memory.observe(Outcome.SUCCESS, latency if node is nodes[9] else 0.01, None, now)
            picked[nodes.index(node)] += 1
        assert picked[9] <= 20_000 * 0.025

    @pytest.mark.parametrize("count", [2, 3, 5, 10])
    def test_equals_have_equal_shares_also_one_call_at_a_time(self, count: int) -> None:
        balancer, draw = Adaptive(), random.Random(5)
        nodes = fleet(balancer, [1.0] * count)
        pick, picked = balancer.picker(nodes, random.Random(1)), Counter[int]()
        now = 0.0
        for _ in range(400 * count):
            node = pick(FakeCall(now=now))
            took = draw.expovariate(200)
            now += took
            node.memory.observe(Outcome.SUCCESS, took, None, now)
            picked[nodes.index(node)] += 1
        assert min(picked[n] for n in range(count)) >= 400 * 0.6

    def test_in_a_fleet_of_mixed_speeds_nobody_is_owed_anything(self) -> None:
        balancer, draw = Adaptive(), random.Random(5)
        nodes = fleet(balancer, [1.0] * 10)
        pick, slow, now = balancer.picker(nodes, random.Random(1)), 0, 0.0
        for number in range(4000):
            node = pick(FakeCall(now=now))
            took = draw.expovariate(200 if nodes.index(node) < 5 else 20)
            now += took
            node.memory.observe(Outcome.SUCCESS, took, None, now)
            slow += number >= 1000 and nodes.index(node) >= 5
        assert slow < 30

    def test_the_unmeasured_are_tried_without_being_flooded(self) -> None:
        pick, nodes = self.world([0.01] * 4)
        fresh = Node(Instance("h", 99), Adaptive().memory())
        pick = Adaptive().picker([*nodes, fresh], random.Random(1))
        assert any(pick(FakeCall(now=0.0)) is fresh for _ in range(20))
        fresh.in_flight = 3
        assert sum(pick(FakeCall(now=0.0)) is fresh for _ in range(500)) < 10


class TestLoadAware:
    @pytest.mark.parametrize(
        "report",
        [
            "TEXT cpu_utilization=1e-300,rps_fractional=1e300",
            "TEXT cpu_utilization=1e200,rps_fractional=1e-200",
            "TEXT cpu_utilization=0.5,rps_fractional=1e-300,eps=1e300",
        ],
    )
    def test_nonsense_is_passed_over(self, report: str) -> None:
        """One response header must not stop all calls."""
        balancer = LoadAware(blackout=0)
        nodes = [Node(Instance("10.0.0.1", port), balancer.memory()) for port in (1, 2)]
        for node in nodes:
            node.memory.reported(report, 0.0)
        pick = balancer.picker(nodes, random.Random(1))
        call: Any = SimpleNamespace(now=1.0)
        assert {pick(call).instance.port for _ in range(4)} == {1, 2}

    def test_reports(self) -> None:
        assert parse_report("TEXT cpu_utilization=0.5, rps_fractional=100,eps=2") == {
            "cpu_utilization": 0.5, "rps_fractional": 100, "eps": 2,
        }  # fmt: skip
        nested = parse_report('JSON {"application_utilization": 0.3, "named_metrics": {"a": 1}}')
        assert nested == {"application_utilization": 0.3}
        for garbage in (
            "",
            "TEXT",
            "TEXT a",
            "TEXT a=b",
            "JSON",
            "JSON [1]",
            "JSON {",
            "BIN CgU=",
            "TEXT cpu_utilization=inf",
        ):
            assert parse_report(garbage) == {}

    @given(st.text(max_size=60), st.sampled_from(["TEXT ", "JSON ", ""]))
    def test_no_report_breaks_anything(self, text: str, kind: str) -> None:
        LoadAware().memory().reported(kind + text, 1.0)

    def test_blackout_expiry_and_the_error_penalty(self) -> None:
        balancer = LoadAware()
        nodes = fleet(balancer, [1.0] * 3)
        assert reported_weights(nodes, 0.0) == [1.0] * 3

        def report(now: float) -> None:
            nodes[0].memory.reported("TEXT cpu_utilization=0.2,rps_fractional=100", now)
            nodes[1].memory.reported("TEXT cpu_utilization=0.8,rps_fractional=100", now)

        report(0.0)
        assert reported_weights(nodes, 5.0) == [1.0] * 3  # blackout
        report(10.0)
        assert reported_weights(nodes, 10.0) == pytest.approx([1.6, 0.4, 1.0])
        pick = balancer.picker(nodes, random.Random(1))
        count = Counter(nodes.index(pick(FakeCall(now=11.0))) for _ in range(3000))
        assert count == pytest.approx({0: 1600, 1: 400, 2: 1000}, abs=20)
        assert reported_weights(nodes, 191.0) == [1.0] * 3  # expired
        nodes[0].memory.reported("TEXT cpu_utilization=0.2,rps_fractional=100,eps=60", 20.0)
        nodes[1].memory.reported("TEXT cpu_utilization=0.8,rps_fractional=100,eps=0", 20.0)
        assert reported_weights(nodes, 20.0)[:2] == pytest.approx([1.0, 1.0])  # 0.2 + 60 % of errors = 0.8

    def test_from_the_servers_answers(self, driver: Any, fleet: Any) -> None:
        servers = fleet(2)
        for server, used in zip(servers.servers, ("0.2", "0.8"), strict=True):
            header = ("endpoint-load-metrics", f"TEXT application_utilization={used}, rps_fractional=50")
            server.behave(Behaviour(headers=(header,)))
        with driver.client({"orders": servers.addresses}, policy=Policy(LoadAware(blackout=0, refresh=0))) as client:
            for _ in range(60):
                client.get("http://orders/")
        got = [len(server.received) for server in servers.servers]
        assert got[0] / got[1] == pytest.approx(4, rel=0.35)


def test_balancers_of_other_packages(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "theirs.py").write_text(
        "from smartclient import Balancer\n"
        "class First(Balancer):\n"
        "    def picker(self, nodes, rng):\n"
        "        return lambda call: nodes[0]\n"
        "wrong = dict\n"
    )
    info = tmp_path / "theirs-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[smartclient.balancers]\nfirst = theirs:First\nwrong = theirs:wrong\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert type(Policy("first").balancer).__name__ == "First"
    with pytest.raises(TypeError, match="theirs:wrong"):
        Policy("wrong")
    with pytest.raises(ValueError, match=r"expected one of .*first.*, got 'last'"):
        Policy("last")


class TestTies:
    """Idle nodes share what busy ones do not take; weights are shares at any load."""

    def picks(self, name: str, weights: list[float], busy: dict[int, int], calls: int = 5000) -> Counter[int]:
        balancer = BALANCERS[name]()
        nodes = fleet(balancer, weights)
        measured(nodes)
        for number, in_flight in busy.items():
            nodes[number].in_flight = in_flight
        pick = balancer.picker(nodes, random.Random(3))
        return Counter(nodes.index(pick(FakeCall())) for _ in range(calls))

    @pytest.mark.parametrize("first", [0, 3, 5])
    def test_the_first_idle_node_inherits_nothing(self, first: int) -> None:
        """2,990 of 5,000: the scan went on from a busy start."""
        busy = {(first + n) % 10: 1 for n in range(5)}
        found = self.picks("least_request", [1.0] * 10, busy)
        assert set(found) == set(range(10)) - busy.keys()
        assert all(880 <= count <= 1120 for count in found.values())

    @pytest.mark.parametrize("name", ["least_request", "p2c"])
    @pytest.mark.parametrize("at_once", [1, 2, 4, 8])
    @pytest.mark.parametrize(("weights", "light"), [([10.0, 1.0], 1), ([10.0] * 4 + [1.0], 4), ([5.0, 5.0, 1.0], 2)])
    def test_a_light_node_has_no_more_than_its_share(
        self, name: str, at_once: int, weights: list[float], light: int
    ) -> None:
        """2 to 4 times it at low load: an idle light node was taken before a heavy one with one call."""
        balancer, rng = BALANCERS[name](), random.Random(5)
        nodes = fleet(balancer, weights)
        pick = balancer.picker(nodes, rng)
        running: list[Node] = []
        taken: Counter[int] = Counter()
        for _ in range(20_000):
            if len(running) >= at_once:
                running.pop(rng.randrange(len(running))).in_flight -= 1
            node = pick(FakeCall())
            node.in_flight += 1
            running.append(node)
            taken[nodes.index(node)] += 1
        fair = weights[light] / sum(weights)
        assert 0.5 * fair <= taken[light] / 20_000 <= 1.5 * fair
