"""Operators see which node gets far more than its share, and why."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from worlds import World

from smartclient import Adaptive, Maglev, NodeFavoured, RingHash
from smartclient.node import Outcome
from smartclient.services.attempt import Attempt
from smartclient.services.call import CallOptions


def remarks(world: World) -> list[NodeFavoured]:
    return [event for event in world.events if isinstance(event, NodeFavoured)]


def serve(world: World, seconds: dict[int, float], calls: int) -> None:
    """Calls, one after the other, on nodes that take so long."""
    for _ in range(calls):
        attempt = world.start()
        world.clock.advance(seconds[attempt.node.instance.port or 0])
        attempt.judge(Outcome.SUCCESS, 200)
        attempt.finish()


def test_a_node_that_answers_without_doing_the_work_is_remarked_on_once(caplog: pytest.LogCaptureFixture) -> None:
    world = World(5, balancer=Adaptive())
    with caplog.at_level(logging.WARNING, "smartclient"):
        serve(world, {1: 0.001, 2: 0.1, 3: 0.1, 4: 0.1, 5: 0.1}, 2000)
    [remark] = remarks(world)
    assert (remark.service, remark.instance.port) == ("orders", 1)
    assert remark.share > 3 / 5
    [line] = caplog.messages
    assert line.startswith("orders: 10.0.0.1:1 gets ")
    assert "times quicker than its peers; right if its machine is, wrong if it answers without doing the work" in line


@pytest.mark.parametrize("quick", [0.1, 0.02])
def test_equals_and_machines_of_a_better_kind_are_not(quick: float) -> None:
    world = World(5, balancer=Adaptive())
    serve(world, {1: quick, 2: 0.1, 3: 0.1, 4: 0.1, 5: 0.1}, 2000)
    assert not remarks(world)


def test_it_is_said_again_after_ten_minutes() -> None:
    world = World(5, balancer=Adaptive())
    seconds = {1: 0.001, 2: 0.1, 3: 0.1, 4: 0.1, 5: 0.1}
    serve(world, seconds, 2000)
    world.clock.advance(600.0)
    serve(world, seconds, 2000)
    assert len(remarks(world)) == 2


def crowd(world: World, keys: list[str], turns: int) -> None:
    """Each second all keys are called at once, and answered at its end."""
    for _ in range(turns):
        running: list[Attempt] = [world.start(options=CallOptions(hash_key=key)) for key in keys]
        world.clock.advance(1.0)
        for attempt in running:
            attempt.judge(Outcome.SUCCESS, 200)
            attempt.finish()


@pytest.mark.parametrize("balancer", [RingHash("key"), Maglev("key")])
def test_a_popular_key_is_remarked_on(balancer: Any, caplog: pytest.LogCaptureFixture) -> None:
    world = World(10, balancer=balancer)
    with caplog.at_level(logging.WARNING, "smartclient"):
        crowd(world, ["popular"] * 30 + [f"user{number}" for number in range(20)], 10)
    [remark] = remarks(world)
    assert 0.5 < remark.share <= 1.0
    assert "`bound=1.25` would give the next instances what is too much for it" in caplog.text


@pytest.mark.parametrize("balancer", [RingHash("key", bound=1.25), Maglev("key", bound=1.25)])
def test_with_a_bound_there_is_nothing_to_say(balancer: Any) -> None:
    world = World(10, balancer=balancer)
    crowd(world, ["popular"] * 30 + [f"user{number}" for number in range(20)], 10)
    assert not remarks(world)


def test_a_burst_of_a_key_is_soon_over() -> None:
    world = World(10, balancer=Maglev("key"))
    crowd(world, ["popular"] * 50, 2)
    crowd(world, [f"user{number}" for number in range(100)], 20)
    assert not remarks(world)
