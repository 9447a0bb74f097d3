"""Wrong answers: a node that answers 404 where its peers do not."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
from worlds import World

from smartclient import NodeEjected, Outcome, OutlierDetection


def ejected(world: World) -> list[Any]:
    return [event for event in world.events if isinstance(event, NodeEjected)]


def play(world: World, statuses: Any, calls: int) -> None:
    """Calls that are answered as `statuses(port)` says."""
    for _ in range(calls):
        world.clock.advance(0.01)
        attempt = world.start()
        attempt.judge(Outcome.SUCCESS, statuses(attempt.node.instance.port))
        attempt.finish()


@pytest.mark.parametrize("status", [401, 403, 404])
def test_one_that_alone_gives_wrong_answers_is_ejected(status: int) -> None:
    world = World(10, balancer="round_robin")
    play(world, lambda port: status if port == 1 else 200, 80)
    [event] = ejected(world)
    assert event.instance.port == 1
    assert f"answers were like {status}, of its peers'" in event.reason


@pytest.mark.parametrize("rate", [0.05, 0.3, 0.6, 1.0])
@pytest.mark.parametrize("balancer", ["round_robin", "random", "adaptive"])
def test_where_all_give_them_alike_nobody_is(balancer: str, rate: float) -> None:
    rng = Random(3)
    world = World(5, balancer=balancer)
    play(world, lambda port: 200, 1000)
    play(world, lambda port: 404 if rng.random() < rate else 200, 5000)
    assert not ejected(world)


def test_a_run_of_requests_for_what_does_not_exist_condemns_nobody() -> None:
    """Little traffic, and a balancer that sends all of it to the node that looks quickest."""
    world = World(2, balancer="round_robin")
    play(world, lambda port: 200, 50)
    call = world.start()
    for _ in range(100):  # all at one node, and nobody else is asked meanwhile
        attempt = world.start()
        while attempt.node is not call.node:
            attempt.finish()
            attempt = world.start()
        attempt.judge(Outcome.SUCCESS, 404)
        attempt.finish()
    assert not ejected(world)


@pytest.mark.parametrize("balancer", ["maglev", "ring_hash", "sticky"])
def test_not_with_balancers_that_hash(balancer: str) -> None:
    world = World(5, balancer=balancer)
    play(world, lambda port: 404 if port == 1 else 200, 1000)
    assert not ejected(world)


def test_it_can_be_turned_off() -> None:
    world = World(5, balancer="round_robin", outlier=OutlierDetection(wrong_answers=False))
    play(world, lambda port: 404 if port == 1 else 200, 1000)
    assert not ejected(world)


def test_its_probe_must_be_answered_well() -> None:
    world = World(5, balancer="round_robin")
    play(world, lambda port: 404 if port == 1 else 200, 60)
    assert len(ejected(world)) == 1
    world.clock.advance(6)
    play(world, lambda port: 404 if port == 1 else 200, 10)
    assert "its probing call was answered 404" in ejected(world)[-1].reason
    world.clock.advance(30)
    play(world, lambda port: 200, 20)
    assert all(node.ejected_until is None for node in world.service.nodes)
