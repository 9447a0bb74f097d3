"""Priorities, zones, metadata, subsets, slow start: who gets calls, and how many."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from inside import service_of
from worlds import World, instances

from smartclient import Instance, NodeReturned, Outcome, Policy, SlowStart, Subset
from smartclient.services.call import CallOptions
from smartclient.services.picking import Unavailable
from smartclient.topology.priority import priority_shares
from smartclient.topology.zone import zone_shares

ROUND = {"balancer": "round_robin"}


def shares(world: World, of: Any, calls: int = 3000) -> dict[Any, float]:
    count = Counter(of(world_node(world)) for _ in range(calls))
    return {key: value / calls for key, value in count.items()}


def world_node(world: World, **how: Any) -> Any:
    attempt = world.start(**how)
    attempt.judge(Outcome.SUCCESS, 200)
    attempt.finish()
    return attempt.node.instance


class TestPriorities:
    # Envoy's documentation ("Priority levels"): the traffic of two levels by the health of the first, the second well.
    @pytest.mark.parametrize(("health", "first"), [(100, 1.0), (72, 1.0), (71, 0.99), (50, 0.7), (25, 0.35), (0, 0.0)])
    def test_envoys_table(self, health: int, first: float) -> None:
        shares = priority_shares([(health, 100), (100, 100)], 0.5)
        assert shares[0][0] == pytest.approx(first, abs=0.01)
        assert shares[1][0] == pytest.approx(1 - first, abs=0.01)
        assert not any(panic for _, panic in shares)

    # The same page: three levels.
    @pytest.mark.parametrize(
        ("levels", "expected"),
        [((100, 100, 100), (100, 0, 0)), ((72, 72, 100), (100, 0, 0)), ((71, 71, 100), (99, 1, 0)),
         ((50, 50, 100), (70, 30, 0)), ((25, 100, 100), (35, 65, 0)), ((25, 25, 100), (35, 35, 30)),
         ((25, 25, 20), (36, 36, 28))],
    )  # fmt: skip
    def test_three_levels(self, levels: Any, expected: Any) -> None:
        found = [100 * share for share, _ in priority_shares([(health, 100) for health in levels], 0.5)]
        assert found == pytest.approx(expected, abs=1.0)

    def test_panic_only_where_all_together_cannot_bear_it(self) -> None:
        assert [panic for _, panic in priority_shares([(25, 100), (25, 100), (20, 100)], 0.5)] == [True] * 3
        assert priority_shares([(0, 3), (0, 3)], 0.5) == [(1.0, True), (0.0, True)]

    @given(st.lists(st.tuples(st.integers(0, 20), st.integers(1, 20)).map(lambda p: (min(p), max(p))), min_size=1,
    max_size=5),
           st.floats(0, 1))  # fmt: skip
    def test_shares_add_up(self, levels: list[tuple[int, int]], threshold: float) -> None:
        found = priority_shares([(well, max(count, 1)) for well, count in levels], threshold)
        assert sum(share for share, _ in found) == pytest.approx(1.0)

    def test_a_service_spills_over(self) -> None:
        world = World(0, **ROUND)
        world.service.update([*instances(1, 2, 3, 4, priority=0), *instances(11, 12, priority=1)])
        assert shares(world, lambda instance: instance.priority) == {0: 1.0}
        for node in world.service.nodes:
            if node.instance.port in (1, 2):
                world.service.checked(node, False)
        found = shares(world, lambda instance: instance.priority)
        assert found[0] == pytest.approx(0.7, abs=0.03)
        assert found[1] == pytest.approx(0.3, abs=0.03)

    def test_a_retry_goes_to_the_next_priority_when_the_first_is_used_up(self) -> None:
        world = World(0, **ROUND)
        world.service.update([*instances(1, 2, priority=0), *instances(11, priority=1)])
        tried: list[Any] = []
        for _ in range(3):
            tried.append(world.start(tried=tried).node)
        assert {node.instance.port for node in tried} == {1, 2, 11}
        assert tried[2].instance.port == 11


class TestZones:
    def zoned(self, **counts: int) -> list[Instance]:
        return [Instance(f"{zone}.example", n + 1, zone=zone) for zone, count in counts.items() for n in range(count)]

    def test_local_as_far_as_its_capacity_goes(self) -> None:
        world = World(0, zone="a", **ROUND)
        world.service.update(self.zoned(a=4, b=4))
        assert shares(world, lambda instance: instance.zone) == {"a": 1.0}
        world.service.update(self.zoned(a=2, b=6))  # a quarter of the capacity for half of the clients
        found = shares(world, lambda instance: instance.zone)
        assert found["a"] == pytest.approx(0.5, abs=0.03)

    def test_the_rest_goes_where_there_is_surplus(self) -> None:
        world = World(0, zone="a", client_zones={"a": 2, "b": 1, "c": 1}, **ROUND)
        world.service.update(self.zoned(a=3, b=3, c=6))  # a: 25 % for 50 %; b: 25 for 25; c: 50 for 25
        found = shares(world, lambda instance: instance.zone)
        assert found["a"] == pytest.approx(0.5, abs=0.03)
        assert found["c"] == pytest.approx(0.5, abs=0.03)
        assert "b" not in found

    def test_off_in_small_fleets_elsewhere_and_in_panic(self) -> None:
        world = World(0, zone="a", **ROUND)
        world.service.update(self.zoned(a=2, b=3))
        assert set(shares(world, lambda instance: instance.zone)) == {"a", "b"}
        other = World(0, zone="z", **ROUND)
        other.service.update(self.zoned(a=4, b=4))
        assert set(shares(other, lambda instance: instance.zone)) == {"a", "b"}
        panic = World(0, zone="a", **ROUND)
        panic.service.update(self.zoned(a=4, b=4))
        for node in panic.service.nodes[:6]:
            panic.service.checked(node, False)
        assert set(shares(panic, lambda instance: instance.zone)) == {"a", "b"}

    def test_all_clients_together_load_all_nodes_alike(self) -> None:
        """What zone awareness must not do: overload a zone. Clients as configured, every node gets the same."""
        counts, clients = {"a": 3, "b": 5, "c": 8}, {"a": 0.5, "b": 0.3, "c": 0.2}
        members = World(0).service
        members.update(self.zoned(**counts))
        load: Counter[str] = Counter()
        for own, weight in clients.items():
            found = zone_shares(members.nodes, own, clients, 6)
            assert found is not None
            for zone, share in found.items():
                load[str(zone)] += weight * share  # type: ignore[assignment]
        per_node = [load[zone] / count for zone, count in counts.items()]
        assert per_node == pytest.approx([1 / 16] * 3, rel=0.35)

    def test_from_the_environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        import smartclient

        monkeypatch.setenv("SMARTCLIENT_ZONE", "b")
        for trust, zones in ((True, {"b"}), (False, {"a", "b"})):
            transport: Any = smartclient.BalancedTransport({"orders": self.zoned(a=4, b=4)}, trust_env=trust)
            service = service_of(transport)
            used = {node.instance.zone for node in service.nodes if not node.excluded}
            assert used == zones
            transport.close()


class TestMetadata:
    def versions(self) -> list[Instance]:
        return [
            *instances(1, 2, metadata={"version": "v1"}),
            *instances(3, metadata={"version": "v2", "canary": "yes"}),
        ]

    def test_require(self) -> None:
        world = World(0, require={"version": "v1"}, **ROUND)
        world.service.update(self.versions())
        assert world.ports() == {1, 2}
        mine = CallOptions(require={"version": "v2"})  # in place of the policy's
        assert {world.call(options=mine) for _ in range(9)} == {3}
        with pytest.raises(Unavailable, match=r"none of 3 instances has version=v3"):
            world.call(options=CallOptions(require={"version": "v3"}))

    def test_a_call_turns_them_off(self) -> None:
        world = World(0, require={"version": "v1"}, prefer={"canary": "yes"}, **ROUND)
        world.service.update([*self.versions(), *instances(4, metadata={"version": "v1", "canary": "yes"})])
        assert world.ports() == {4}
        assert {world.call(options=CallOptions(prefer=None)) for _ in range(30)} == {1, 2, 4}
        assert {world.call(options=CallOptions(require=None)) for _ in range(30)} == {3, 4}
        assert {world.call(options=CallOptions(require=None, prefer=None)) for _ in range(40)} == {1, 2, 3, 4}

    def test_required_instances_are_all_there_is_also_for_retries(self) -> None:
        world = World(0, require={"version": "v2"}, **ROUND)
        world.service.update(self.versions())
        first = world.start()
        assert world.start(tried=[first.node]).node is first.node

    def test_prefer_by_a_header(self) -> None:
        def canary(request: Any) -> dict[str, str] | None:
            return {"canary": "yes"} if request == "canary" else None

        world = World(0, prefer=canary, **ROUND)
        world.service.update(self.versions())
        assert world.ports() == {1, 2, 3}
        from smartclient.services.call import NO_OPTIONS, Call

        for _ in range(5):
            chosen = world.service.start(Call("canary", "orders", NO_OPTIONS, world.clock()), None)
            assert chosen.node.instance.port == 3

    def test_round_robin_goes_on_within_a_preference(self) -> None:
        world = World(0, **ROUND)
        world.service.update(self.versions())
        options = CallOptions(prefer={"version": "v1"})
        assert [world.call(options=options) for _ in range(6)] in ([1, 2] * 3, [2, 1] * 3)

    def test_with_a_table_over_all_members(self) -> None:
        world = World(0, balancer="maglev")
        world.service.update(self.versions())
        for n in range(20):
            key = f"u{n}"
            assert world.call(options=CallOptions(hash_key=key, require={"version": "v2"})) == 3
            chosen = {world.call(options=CallOptions(hash_key=key, prefer={"version": "v1"})) for _ in range(3)}
            assert len(chosen) == 1
            assert chosen <= {1, 2}

    def test_mistakes(self) -> None:
        for field in ("require", "prefer", "client_zones", "subset", "slow_start", "health_check"):
            with pytest.raises(TypeError, match=f"Policy.{field}"):
                Policy(**{field: 5})  # type: ignore[arg-type]


FLEET = [Instance(f"10.1.{n >> 8}.{n & 255}", 80) for n in range(500)]


class TestSubset:
    def test_clients_that_are_numbered_load_evenly(self) -> None:
        load = Counter(instance for client in range(1000) for instance in Subset(20, client=client).of(FLEET))
        assert len(load) == 500
        mean = 1000 * 20 / 500
        assert max(load.values()) / mean <= 1.35
        assert min(load.values()) / mean >= 0.65
        named = Counter(instance for n in range(1000) for instance in Subset(20, client=f"web-{n}").of(FLEET))
        assert max(named.values()) / mean <= 1.35

    def test_the_order_of_the_source_does_not_matter(self) -> None:
        assert set(Subset(20, client=7).of(FLEET)) == set(Subset(20, client=7).of(FLEET[::-1]))
        assert Subset(20, client=7).of(FLEET[:20]) == FLEET[:20]

    @given(st.integers(0, 5000), st.integers(25, 120), st.integers(0, 500))
    def test_a_change_swaps_one_at_most(self, client: int, count: int, which: int) -> None:
        before = set(Subset(20, client=client).of(FLEET[:count]))
        more = set(Subset(20, client=client).of(FLEET[: count + 1]))
        assert len(more - before) <= 1
        gone = FLEET[which % count]
        fewer = set(Subset(20, client=client).of([instance for instance in FLEET[:count] if instance != gone]))
        assert len(fewer - before) <= 1

    def test_in_a_service(self) -> None:
        world = World(0, subset=Subset(5, client="web-3"))
        world.service.update(instances(*range(1, 101)))
        assert len(world.service.nodes) == 5
        kept = set(world.service.nodes)
        world.service.update(instances(*range(1, 102)))
        assert len(kept & set(world.service.nodes)) >= 4


class TestSlowStart:
    def test_envoys_formula(self) -> None:
        even = SlowStart(window=30, aggression=1.0, min_weight=0.1)
        assert [even.factor(t) for t in (0, 3, 15, 29.9, 30, 1e9)] == pytest.approx(
            [0.1, 0.1, 0.5, 0.997, 1, 1], abs=0.01
        )
        assert SlowStart(aggression=2.0).factor(15) == pytest.approx(0.707, abs=0.01)
        for wrong in ({"window": 0}, {"aggression": -1}, {"min_weight": 0}):
            with pytest.raises(ValueError, match="SlowStart"):
                SlowStart(**wrong)

    @pytest.mark.parametrize("name", ["random", "weighted_round_robin", "p2c", "adaptive"])
    def test_a_new_node_warms_up(self, name: str) -> None:
        world = World(0, balancer=name, slow_start=SlowStart())
        world.service.update(instances(1, 2, 3))
        assert {node.weight for node in world.service.nodes} == {1.0}  # all are new: somebody has to do the work
        world.service.update(instances(1, 2, 3, 4))
        seen = []
        for _ in range(5):
            found = shares(world, lambda instance: instance.port, 1500)
            seen.append(found.get(4, 0.0))
            world.clock.advance(7.6)
            world.call()
        assert seen[0] < 0.08
        assert seen[-1] == pytest.approx(0.25, abs=0.06)
        assert seen[0] < seen[2] < seen[4]

    def test_one_that_returns_warms_up(self) -> None:
        world = World(3, balancer="round_robin", slow_start=SlowStart(window=10))
        world.eject(1)
        world.clock.advance(6)
        assert world.call() == 1
        node = next(node for node in world.service.nodes if node.instance.port == 1)
        assert any(isinstance(event, NodeReturned) for event in world.events)
        assert node.weight == 0.1
        world.clock.advance(5)
        world.call()
        assert node.weight == pytest.approx(0.5)
        world.clock.advance(6)
        world.call()
        assert node.weight == 1.0
        world.clock.advance(1)
        world.call()
        assert world.service.members.next_change == float("inf")


class TestPause:
    def test_a_node_that_says_retry_after_is_left_alone(self) -> None:
        world = World(3, **ROUND)
        attempt = world.start()
        attempt.judge(Outcome.FAILURE, 429, retry_after=4.0)
        attempt.finish()
        asked = attempt.node.instance.port
        assert asked not in world.ports()
        world.clock.advance(3.9)
        assert asked not in world.ports()
        world.clock.advance(0.2)
        assert asked in world.ports()

    def test_not_for_ever_and_not_all(self) -> None:
        world = World(2, **ROUND)
        for _ in range(2):
            attempt = world.start()
            attempt.judge(Outcome.FAILURE, 503, retry_after=1e9)
            attempt.finish()
        assert world.ports() == {1, 2}  # panic
        world.clock.advance(31)
        world.call()
        assert all(node.paused_until is None for node in world.service.nodes)


class TestSubsetOfWhatACallMayUse:
    """What a call can require, priorities and weights are narrowed first; a subset is taken of what is left."""

    def listed(self) -> list[Instance]:
        return [
            Instance(f"10.0.0.{n}", 80, metadata={"version": "v2" if n % 10 == 0 else "v1", "n": str(n)})
            for n in range(100)
        ]

    @pytest.mark.parametrize("name", [f"web-{n}" for n in range(40)])
    def test_ten_of_a_hundred_are_v2(self, name: str) -> None:
        """NoInstances for 23 of 40 clients."""
        world = World(0, subset=Subset(5, client=name), require={"version": "v2"})
        world.service.update(self.listed())
        assert len(world.service.nodes) == 5
        assert {world_node(world).metadata["version"] for _ in range(20)} == {"v2"}

    @pytest.mark.parametrize("name", [f"web-{n}" for n in range(10)])
    def test_so_it_is_where_the_call_says_so(self, name: str) -> None:
        world = World(0, subset=Subset(5, client=name))
        world.service.update(self.listed())
        options = CallOptions(require={"version": "v2"})
        assert {world_node(world, options=options).metadata["version"] for _ in range(20)} == {"v2"}
        rather = CallOptions(prefer={"version": "v2"})
        assert {world_node(world, options=rather).metadata["version"] for _ in range(20)} == {"v2"}
        assert len(world.service.nodes) <= 10
        world.service.update(self.listed()[:-1])  # and after the next list
        assert {world_node(world, options=options).metadata["version"] for _ in range(20)} == {"v2"}

    def test_what_calls_ask_for_is_bounded(self) -> None:
        from smartclient.services import choices as members

        world = World(0, subset=Subset(2, client="web-1"))
        world.service.update(self.listed())
        for n in range(100):
            try:
                world_node(world, options=CallOptions(require={"n": str(n)}))
            except Unavailable:
                assert n >= members.WANTED - 1
        assert len(world.service.nodes) <= 2 + members.WANTED

    def test_each_priority_has_its_own(self) -> None:
        world = World(0, subset=Subset(3, client="web-1"))
        world.service.update([Instance(f"10.0.{p}.{n}", 80, priority=p) for p in (0, 1) for n in range(20)])
        assert sorted(node.instance.priority for node in world.service.nodes) == [0, 0, 0, 1, 1, 1]

    def test_weight_zero_and_unhealthy_ones_take_no_place(self) -> None:
        world = World(0, subset=Subset(3, client="web-1"))
        world.service.update(
            [Instance(f"10.0.0.{n}", 80, weight=0.0 if n < 10 else 1.0, healthy=not 10 <= n < 17) for n in range(20)]
        )
        assert {node.instance.host for node in world.service.nodes} == {"10.0.0.17", "10.0.0.18", "10.0.0.19"}


class TestUnhealthyInTheRegistry:
    def test_they_get_no_calls_and_count_in_their_priority(self) -> None:
        world = World(0, balancer="random")
        healthy = Instance("10.0.0.1", 80)
        down = [Instance(f"10.0.0.{n}", 80, healthy=False) for n in (2, 3, 4)]
        world.service.update([healthy, *down, Instance("10.1.0.1", 80, priority=1)])
        found = shares(world, lambda instance: instance.host)
        assert found["10.0.0.1"] == pytest.approx(0.35, abs=0.03)  # Envoy: 1.4 x 25 %
        assert found["10.1.0.1"] == pytest.approx(0.65, abs=0.03)
        assert len(found) == 2

    def test_in_panic_they_are_called(self) -> None:
        world = World(0, balancer="random")
        world.service.update([Instance(f"10.0.0.{n}", 80, healthy=False) for n in range(3)])
        assert len(shares(world, lambda instance: instance.host, 100)) == 3
