"""The live state of a service, on a virtual clock: membership, ejection, probing, panic, the feedback of attempts."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, replace
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from worlds import World, instances

from smartclient import (
    AttemptStarted,
    Balancer,
    Client,
    Instance,
    InstancesChanged,
    NodeEjected,
    NodeReturned,
    Outcome,
    OutlierDetection,
    Policy,
    Retry,
    RetryBudget,
    call,
)
from smartclient.events import Event, Observers
from smartclient.services.attempt import Attempt
from smartclient.services.call import CallOptions
from smartclient.services.picking import Unavailable
from smartclient.services.service import Service
from smartclient.support.waiting import Places, Signal, Waiter
from smartclient.testing import VirtualClock

ROUND = {"balancer": "round_robin"}


def test_in_flight_counts_and_everything_is_idempotent() -> None:
    world = World(1)
    attempt = world.start()
    (node,) = world.service.nodes
    assert node.in_flight == 1
    for _ in range(3):
        attempt.judge(Outcome.SUCCESS, 200)
        attempt.judge(Outcome.FAILURE, 503)
    attempt.finish()
    attempt.finish()
    assert node.in_flight == 0
    assert attempt.outcome is Outcome.SUCCESS


def test_an_attempt_that_is_never_judged_is_abandoned() -> None:
    world = World(1)
    attempt = world.start()
    attempt.finish()
    assert attempt.outcome is Outcome.ABANDONED
    assert world.service.nodes[0].health.local_failures == 0


def test_ejection_probe_and_return() -> None:
    world = World(3, **ROUND)
    world.eject(1)
    assert world.ports() == {2, 3}
    world.clock.advance(6)
    probe = world.start()
    assert probe.node.instance.port == 1
    assert world.ports() == {2, 3}  # one probing call, not more
    probe.judge(Outcome.FAILURE, 503)
    probe.finish()
    world.clock.advance(6)
    assert world.ports() == {2, 3}  # twice as long
    world.clock.advance(6)
    assert world.call() == 1
    assert world.ports() == {1, 2, 3}
    kinds = [type(event) for event in world.events]
    assert kinds.count(NodeEjected) == 2
    assert kinds.count(NodeReturned) == 1


def test_an_abandoned_probe_is_made_again() -> None:
    world = World(3, **ROUND)
    world.eject(1)
    world.clock.advance(6)
    world.start().finish()
    assert world.call() == 1


def test_what_cannot_be_repeated_is_not_risked_on_a_probe_at_once() -> None:
    world = World(3, **ROUND)
    world.eject(1)
    world.clock.advance(5.6)
    assert {world.call(repeatable=False) for _ in range(20)} == {2, 3}
    world.clock.advance(5)
    assert world.call(repeatable=False) == 1


def test_answers_to_calls_from_before_the_ejection_do_not_end_it() -> None:
    world = World(3, **ROUND)
    early = [world.start() for _ in range(3)]
    world.eject(1)
    for attempt in early:
        attempt.judge(Outcome.SUCCESS, 200)
        attempt.finish()
    assert world.ports() == {2, 3}


def test_never_all_are_ejected_and_panic_uses_all() -> None:
    world = World(4, outlier=OutlierDetection(consecutive_5xx=1, max_ejected=1.0), **ROUND)
    for _ in range(40):
        world.call(Outcome.FAILURE, 503)
    out = [node for node in world.service.nodes if node.ejected_until is not None]
    assert len(out) == 3
    assert not any(node.excluded for node in world.service.nodes)  # fewer than half are left: panic, all are used
    assert len(world.ports()) == 2  # until successes have brought half of them back
    assert sum(node.excluded for node in world.service.nodes) == 2


def test_a_single_node_is_never_ejected() -> None:
    world = World(1)
    for _ in range(20):
        assert world.call(Outcome.FAILURE, None) == 1
    assert not world.events[1:]


def test_a_body_that_breaks_counts_although_its_headers_were_good() -> None:
    world = World(2, **ROUND)
    for _ in range(5 * 2):
        attempt = world.start()
        attempt.judge(Outcome.SUCCESS, 200)
        if attempt.node.instance.port == 1:
            attempt.fail_in_body("ReadError")
            attempt.fail_in_body("ReadError")
        attempt.finish()
    assert [event.instance.port for event in world.events if isinstance(event, NodeEjected)] == [1]


def test_retries_go_elsewhere_and_move_nothing() -> None:
    """Two nodes, round robin, one failing: with a shared cursor every first attempt would go to the same."""
    world = World(2, outlier=None, **ROUND)
    firsts = []
    for _ in range(20):
        first = world.start()
        firsts.append(first.node.instance.port)
        second = world.start(tried=[first.node])
        assert second.node is not first.node
        third = world.start(tried=[first.node, second.node])
        for attempt in (first, second, third):
            attempt.finish()
    assert firsts == [firsts[0], firsts[1]] * 10
    assert firsts[0] != firsts[1]


def test_identical_instances_keep_their_node() -> None:
    world = World(3)
    before = world.service.nodes
    choice = world.service.members.choice
    world.service.update(instances(3, 1, 2))
    assert world.service.nodes == before
    assert world.service.members.choice is choice  # no new picker, no new cursor
    world.service.update(instances(1, 2, 3, weight=5.0))
    assert world.service.nodes == before
    assert {node.weight for node in before} == {5.0}
    assert world.service.members.choice is not choice
    assert not world.retired


def test_an_id_that_moved_is_a_new_node() -> None:
    world = World(0)
    world.service.update([Instance("10.0.0.1", 1, id="a")])
    (old,) = world.service.nodes
    world.service.update([Instance("10.0.0.2", 1, id="a")])
    (new,) = world.service.nodes
    assert new is not old
    assert world.retired == [old]


def test_a_removed_node_finishes_its_calls_and_is_then_retired() -> None:
    world = World(2)
    attempts = [world.start() for _ in range(6)]
    removed = world.service.nodes[0]
    world.service.update(instances(2))
    assert world.ports() == {2}
    mine = [attempt for attempt in attempts if attempt.node is removed]
    assert mine
    for attempt in mine:
        assert not world.retired
        attempt.finish()
    assert world.retired == [removed]


def test_duplicates_are_one() -> None:
    world = World(0)
    world.service.update(instances(1, 1, 2))
    assert len(world.service.nodes) == 2


def test_weight_zero_takes_nothing_while_others_can() -> None:
    world = World(0)
    world.service.update([*instances(1, weight=0.0), *instances(2, 3)])
    assert world.ports() == {2, 3}
    world.service.update(instances(1, 2, weight=0.0))
    assert world.ports() == {1, 2}


def test_an_empty_list_is_held_back_for_a_while() -> None:
    world = World(2)
    world.service.update([], grace=10)
    world.clock.advance(9)
    assert world.ports() == {1, 2}
    world.service.update(instances(3), grace=10)
    assert world.ports() == {3}
    world.clock.advance(100)
    assert world.ports() == {3}
    world.service.update([], grace=10)
    world.clock.advance(10.1)
    with pytest.raises(Unavailable, match="the test lists none"):
        world.call()


def test_preference() -> None:
    world = World(0)
    world.service.update([*instances(1, metadata={"v": "1"}), *instances(2, 3, metadata={"v": "2"})])
    assert {world.call(options=CallOptions(prefer={"v": "2"})) for _ in range(50)} == {2, 3}
    assert {world.call(options=CallOptions(prefer={"v": "3"})) for _ in range(90)} == {1, 2, 3}


def test_an_observer_that_raises_breaks_nothing(caplog: pytest.LogCaptureFixture) -> None:
    def broken(event: Event) -> None:
        raise RuntimeError("no")

    observers = Observers([broken])
    observers(NodeReturned("orders", instances(1)[0]))
    observers(NodeReturned("orders", instances(1)[0]))
    assert caplog.text.count("RuntimeError: no") == 1
    assert not Observers()


@given(st.data())
def test_no_history_corrupts_the_counters(data: st.DataObject) -> None:
    """Membership changes, outcomes and endings in any order: in-flight is what is running, and somebody is always
    usable.
    """
    budget = RetryBudget(min_per_second=1)
    world = World(3, balancer=data.draw(st.sampled_from(["p2c", "round_robin", "peak_ewma"])),
                  retry=Retry(budget=budget), outlier=OutlierDetection(consecutive_5xx=2,
                  consecutive_local_origin_failure=2))  # fmt: skip
    running: list[Attempt] = []
    nodes = set(world.service.nodes)
    for _ in range(data.draw(st.integers(1, 60))):
        step = data.draw(st.sampled_from(["start", "start", "end", "end", "members", "time"]))
        if step == "start":
            attempt = world.start(repeatable=data.draw(st.booleans()))
            assert not attempt.node.removed
            running.append(attempt)
        elif step == "end" and running:
            attempt = running.pop(data.draw(st.integers(0, len(running) - 1)))
            attempt.judge(data.draw(st.sampled_from(list(Outcome))), data.draw(st.sampled_from([None, 200, 503])))
            if data.draw(st.booleans()):
                attempt.fail_in_body("late")
            attempt.finish()
        elif step == "members":
            ports = data.draw(st.sets(st.integers(1, 6), min_size=1))
            world.service.update(instances(*ports))
            nodes |= set(world.service.nodes)
        else:
            world.clock.advance(data.draw(st.floats(0, 20)))
        for node in nodes:
            assert node.in_flight == sum(attempt.node is node for attempt in running)
        members = world.service.nodes
        assert any(node.ejected_until is None for node in members) or not any(node.excluded for node in members)
    for attempt in running:
        attempt.finish()
    removed = {node for node in nodes if node.removed}
    assert set(world.retired) == removed
    assert len(world.retired) == len(removed)


class TestWaiting:
    def test_places_first_come_first_served(self) -> None:
        places = Places(1)
        assert places.try_take()
        assert not places.try_take()
        woken: list[int] = []
        waiters = [Waiter(lambda n=n: woken.append(n) is None) for n in range(3)]  # type: ignore[misc]
        assert all(places.join(waiter) for waiter in waiters)
        places.release()
        assert woken == [0]
        places.leave(waiters[1])  # gives up in the queue
        places.leave(waiters[0])  # gives up what it was granted: passed on
        assert woken == [0, 2]
        places.release()
        assert places.taken == 0

    def test_a_place_for_one_whose_loop_is_gone_is_passed_on(self) -> None:
        places = Places(1)
        places.try_take()
        woken: list[str] = []
        places.join(Waiter(lambda: False))
        places.join(Waiter(lambda: woken.append("second") is None))
        places.release()
        assert woken == ["second"]

    def test_a_signal_is_for_all_and_for_good(self) -> None:
        signal = Signal()
        woken: list[int] = []
        for n in range(3):
            assert signal.join(Waiter(lambda n=n: woken.append(n) is None))  # type: ignore[misc]
        signal.fire()
        assert sorted(woken) == [0, 1, 2]
        assert not signal.join(Waiter(lambda: True))


def test_many_threads_lose_no_count() -> None:
    world = World(4, balancer="p2c")

    def work() -> None:
        for n in range(400):
            attempt = world.start()
            attempt.judge(Outcome.SUCCESS if n % 3 else Outcome.FAILURE, 200 if n % 3 else 503)
            attempt.finish()

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for turn in range(50):
        world.service.update(instances(*range(1 + turn % 2, 5)))
        time.sleep(0)
    for thread in threads:
        thread.join()
    assert all(node.in_flight == 0 for node in world.service.nodes)


# ---- found by review ----


class Slow(Balancer):
    """A picker whose making can be interrupted by the test."""

    def __init__(self) -> None:
        self.during: Any = None

    def picker(self, nodes: Any, rng: Random) -> Any:
        during, self.during = self.during, None
        if during is not None:
            during()
        return lambda call: nodes[0]


def test_a_change_while_a_picker_is_made_is_not_lost() -> None:
    """New weights, and meanwhile a node is ejected: the choice that is dropped is made again."""
    world = World(4, balancer="random", outlier=OutlierDetection(consecutive_5xx=1))
    chooser = world.service.members.chooser
    choice = chooser.choice
    once = []

    def interrupted(*arguments: Any) -> Any:
        if not once:
            once.append(True)
            world.service.members.refresh(world.clock())
        return choice(*arguments)

    chooser.choice = interrupted  # type: ignore[method-assign]
    world.service.update([*instances(1, weight=97.0), *instances(2, 3, 4)])
    count = [world.call() for _ in range(400)].count(1)
    assert count > 350


def test_a_probe_is_claimed_once_though_the_list_of_the_due_is_old() -> None:
    balancer = Slow()
    world = World(3, balancer=balancer)
    node = world.service.nodes[0]
    for _ in range(30):
        attempt = world.start()
        attempt.judge(Outcome.FAILURE, 503)
        attempt.finish()
        if node.ejected_until:
            break
        for peer in world.service.nodes[1:]:
            peer.memory = None
    assert node.ejected_until
    world.clock.advance(6)
    probe = world.start()
    assert probe.node is node
    balancer.during = lambda: world.start().finish()  # while the choice with it in use is being made
    probe.judge(Outcome.SUCCESS, 200)
    probe.finish()
    assert node.ejected_until is None
    assert not node.excluded


def test_an_old_success_does_not_undo_an_ejection_that_is_being_carried_out() -> None:
    balancer = Slow()
    world = World(3, balancer=balancer, outlier=OutlierDetection(consecutive_5xx=1))
    early = world.start()
    late = world.start()
    balancer.during = lambda: early.judge(Outcome.SUCCESS, 200)
    late.judge(Outcome.FAILURE, 503)
    assert late.node.ejected_until is not None
    assert late.node.excluded
    early.finish()
    late.finish()


def test_a_probing_call_has_what_is_required() -> None:
    world = World(0, balancer="round_robin")
    world.service.update([*instances(1, 2, metadata={"v": "1"}), *instances(3, 4, metadata={"v": "2"})])
    world.eject(1)
    world.clock.advance(6)
    for _ in range(6):
        assert world.call(options=CallOptions(require={"v": "2"})) in (3, 4)
    assert world.call() == 1


def test_a_picker_that_fails_at_first_is_made_at_the_next_list() -> None:
    class Late(Balancer):
        works = False

        def picker(self, nodes: Any, rng: Random) -> Any:
            if not self.works:
                raise ZeroDivisionError
            return lambda call: nodes[0]

    balancer = Late()
    world = World(0, balancer=balancer)
    with pytest.raises(ZeroDivisionError):
        world.service.update(instances(1, 2))
    balancer.works = True
    world.service.update(instances(1, 2))
    assert world.call() == 1


def test_an_observer_may_close() -> None:
    world = World(0)
    world.service.observers = Observers([lambda event: world.service.close()])
    thread = threading.Thread(target=world.service.update, args=(instances(1),), daemon=True)
    thread.start()
    thread.join(5)
    assert not thread.is_alive()


def test_closing_does_not_wait_for_a_table() -> None:
    balancer = Slow()
    world = World(0, balancer=balancer)
    building, release = threading.Event(), threading.Event()

    def build() -> None:
        building.set()
        release.wait(10)

    balancer.during = build
    thread = threading.Thread(target=world.service.update, args=(instances(1),))
    thread.start()
    assert building.wait(5)
    began = time.monotonic()
    world.service.close()
    assert time.monotonic() - began < 0.1
    release.set()
    thread.join()
    assert not world.service.nodes
    with pytest.raises(Unavailable, match="closed"):
        world.call()


def test_a_call_never_builds_a_table() -> None:
    world = World(6, balancer="maglev", outlier=OutlierDetection(consecutive_5xx=1))
    options = [CallOptions(hash_key=str(n)) for n in range(30)]
    caller = threading.get_ident()
    built: list[int] = []
    made = world.service.members.chooser.balancer.picker
    object.__setattr__(
        world.service.members.chooser.balancer, "picker", lambda *a: (built.append(threading.get_ident()), made(*a))[1]
    )
    attempt = world.start(options=options[0])
    attempt.judge(Outcome.FAILURE, 503)
    attempt.finish()
    gone = attempt.node
    assert gone.ejected_until
    update = threading.Thread(
        target=world.service.update, args=([n.instance for n in world.service.nodes if n is not gone],)
    )
    update.start()
    update.join()
    for option in options:
        world.call(options=option)
    for option in options[:2]:  # ejections of others
        attempt = world.start(options=option)
        attempt.judge(Outcome.FAILURE, 503)
        attempt.finish()
    world.clock.advance(20)
    for option in options:
        world.call(options=option)
    assert built
    assert caller not in built


def test_after_a_fork_nothing_waits_for_the_parents_threads() -> None:
    for name in ("sticky", "weighted_round_robin", "load_aware", "maglev"):
        world = World(3, balancer=name)
        balancer: Any = world.service.members.chooser.balancer
        picker: Any = world.service.members.choice and world.service.members.choice.picker
        locks = [getattr(owner, "_lock", None) for owner in (balancer, picker)]
        held = [
            lock for lock in (*locks, world.service.members.lock, world.service.members.updating) if lock is not None
        ]
        for lock in held:
            lock.acquire()
        world.service.members.next_change = float("inf")
        world.service.after_fork()
        done = threading.Thread(target=world.call, daemon=True)
        done.start()
        done.join(5)
        assert not done.is_alive(), name
        world.service.update(instances(1, 2, 3, 4))
        assert len(world.service.nodes) == 4


@pytest.mark.parametrize("name", ["adaptive", "maglev"])
def test_after_a_fork_a_call_need_not_wait_for_the_thread_that_sees_to_it(name: str) -> None:
    """In the child the new watch and the first call meet: one of them makes the pickers, the other finds none yet."""
    world = World(3, balancer=name)
    members = world.service.members
    members.after_fork()
    members.next_change = world.clock() + 1  # another thread has begun
    options = CallOptions(hash_key="mine")
    assert world.call(options=options) in (1, 2, 3)
    world.clock.advance(1)
    assert len({world.call(options=options) for _ in range(9)}) == (1 if name == "maglev" else 3)


@dataclass(frozen=True)
class Interrupted(Balancer):
    """While its first pick is under way all instances are replaced."""

    def picker(self, nodes: Any, rng: Any) -> Any:
        def pick(call: Any) -> Any:
            if updates:
                updates.pop()()
            return nodes[0]

        return pick


updates: list[Any] = []


def test_lists_say_their_source_and_their_age() -> None:
    world = World(2)
    world.clock.advance(7)
    world.service.update(instances(1, 2, 3))
    change = world.events[-1]
    assert isinstance(change, InstancesChanged)
    assert (change.source, change.age) == ("the test", 7.0)
    world.clock.advance(5)
    world.service.update([], grace=0)
    world.clock.advance(2)
    with pytest.raises(Unavailable, match=r"the test lists none \(said 2 s ago\)"):
        world.start()


def test_a_pick_that_is_overtaken_by_a_new_list_goes_by_that() -> None:
    world = World(2, balancer=Interrupted())
    updates.append(lambda: world.service.update(instances(3, 4)))
    assert world.call() in (3, 4)
    assert not updates


# ---- a registration is not a server ----


class TestServers:
    def test_one_address_under_several_ids_is_one_node(self, caplog: pytest.LogCaptureFixture) -> None:
        world = World(0, balancer="round_robin")
        listed = [Instance("10.0.0.1", 80, id=name, weight=2, metadata={"n": name}) for name in "dbca"]
        others = [Instance("10.0.0.2", 80), Instance("10.0.0.3", 80)]
        for _ in range(2):
            world.service.update([*listed, *others, *listed[:1]])
        assert len(world.service.nodes) == 3
        [node] = [node for node in world.service.nodes if node.instance.host == "10.0.0.1"]
        assert (node.weight, node.instance.metadata, node.instance.id) == (8, {"n": "a"}, "a")
        hosts = [world.start().node.instance.host for _ in range(30)]
        assert {hosts.count(host) for host in set(hosts)} == {10}
        said = [record.getMessage() for record in caplog.records if "is registered" in record.getMessage()]
        assert len(said) == 1
        assert "10.0.0.1:80 is registered 4 times (a, b, c, d)" in said[0]

    def test_retries_go_to_other_servers(self) -> None:
        """67 % of the traffic went to the bad one, three attempts of a call all to it: 26 of 120 GETs were lost."""
        for seed in range(50):
            world = World(0, balancer="round_robin")
            world.service.members.chooser.rng.seed(seed)
            listed = [Instance("10.0.0.1", 80, id=name) for name in "abcd"]
            world.service.update([*listed, Instance("10.0.0.2", 80), Instance("10.0.0.3", 80)])
            tried: list[Any] = []
            for _ in range(3):
                tried.append(world.start(tried=tried).node)
            assert len({node.instance.host for node in tried}) == 3

    @pytest.mark.parametrize(
        ("one", "other"),
        [
            (Instance("10.0.0.1", 80, id="a"), Instance("10.0.0.1", 80, id="b")),
            (Instance("10.0.0.1", 80), Instance("10.0.0.1", 80, scheme="https")),
            (Instance("10.0.0.1", 80), Instance("10.0.0.1", 80, weight=3, zone="z", priority=1, metadata={"a": "b"})),
            (Instance("A.example", 80), Instance("a.EXAMPLE", 80)),
            (Instance("::1", 80), Instance("0:0:0:0:0:0:0:1", 80)),
        ],
    )
    def test_an_address_keeps_its_node_whatever_else_changes(self, one: Instance, other: Instance) -> None:
        world = World(0)
        world.service.update([one])
        [node] = world.service.nodes
        world.service.update([other])
        assert world.service.nodes == (node,)
        assert node.instance == other

    def test_with_connect_the_id_counts(self) -> None:
        service = Service(
            "orders",
            Policy(),
            source="test",
            clock=VirtualClock(),
            rng=Random(1),
            observers=Observers(),
            retire=lambda node: None,
            by_id=True,
        )
        service.update([Instance("app", 80, id=name) for name in "ab"])
        assert len(service.nodes) == 2

    @pytest.mark.parametrize("most", [2.0**32 - 1, 1e12])
    def test_weights_beyond_our_limit_are_scaled(self, most: float) -> None:
        world = World(0, balancer="weighted_round_robin")
        world.service.update([Instance("10.0.0.1", 1, weight=most), Instance("10.0.0.1", 2, weight=most / 4)])
        ports = [world.start().node.instance.port for _ in range(100)]
        assert 78 <= ports.count(1) <= 82
        assert max(node.weight for node in world.service.nodes) <= 1e6


class TestFlapping:
    def test_an_ejected_instance_that_leaves_and_comes_back_is_still_ejected(self) -> None:
        """26 bad attempts became 1,480."""
        world = World(
            3, balancer="round_robin", outlier=OutlierDetection(base_ejection_time=10, max_ejection_time=60, jitter=0)
        )
        world.eject(1)
        everybody = [node.instance for node in world.service.nodes]
        bad = 0
        for _ in range(100):
            world.service.update([instance for instance in everybody if instance.port != 1])
            world.clock.advance(0.05)
            world.service.update(everybody)
            for _ in range(10):
                attempt = world.start()
                failed = attempt.node.instance.port == 1
                bad += failed
                attempt.judge(Outcome.FAILURE if failed else Outcome.SUCCESS, 503 if failed else 200)
                attempt.finish()
        assert bad <= 1  # its probe
        assert world.service.members.health.ejected == 1

    def test_so_is_one_that_is_under_suspicion(self) -> None:
        world = World(3, balancer="round_robin")
        everybody = [node.instance for node in world.service.nodes]
        for _ in range(200):
            attempt = world.start()
            bad = attempt.node.instance.port == 1
            attempt.judge(Outcome.FAILURE if bad else Outcome.SUCCESS, 503 if bad else 200)
            attempt.finish()
            if bad:
                world.service.update([instance for instance in everybody if instance.port != 1])
                world.service.update(everybody)
            if any(isinstance(event, NodeEjected) for event in world.events):
                return
        raise AssertionError("flapped through")

    def test_after_its_time_it_is_new(self) -> None:
        world = World(3, balancer="round_robin", outlier=OutlierDetection(base_ejection_time=5, jitter=0))
        world.eject(1)
        everybody = [node.instance for node in world.service.nodes]
        world.service.update([instance for instance in everybody if instance.port != 1])
        world.clock.advance(6)
        world.service.update(everybody)
        assert all(node.ejected_until is None for node in world.service.nodes)
        assert world.service.members.health.ejected == 0

    def test_never_are_all_out(self) -> None:
        world = World(2, balancer="round_robin", outlier=OutlierDetection(base_ejection_time=10))
        world.eject(1)
        [one] = [node.instance for node in world.service.nodes if node.instance.port == 1]
        world.service.update([])
        world.clock.advance(0.1)
        world.service.update([one])
        assert world.start().node.instance.port == 1
        assert world.service.members.health.ejected == 0


# ---- one reason's end is no other's ----


class TestBarred:
    """An ejection that is over brings a probing call, but not while something else keeps the node out."""

    def world(self, **policy: Any) -> tuple[World, Any]:
        world = World(4, balancer="round_robin", outlier=OutlierDetection(base_ejection_time=5, jitter=0), **policy)
        world.eject(1)
        [node] = [node for node in world.service.nodes if node.instance.port == 1]
        return world, node

    def probes(self, world: World) -> int:
        world.clock.advance(6)
        return [world.call() for _ in range(40)].count(1)

    def change(self, world: World, others: dict[str, Any] | None = None, **fields: Any) -> None:
        listed = [node.instance for node in world.service.nodes]
        world.service.update([replace(one, **(fields if one.port == 1 else others or {})) for one in listed])

    def test_nothing_else(self) -> None:
        world, _ = self.world()
        assert self.probes(world) > 5

    def test_active_checks(self) -> None:
        """POSTs only, one silent node: one POST lost every 1.7 s for ever."""
        world, node = self.world()
        world.service.checked(node, False)
        assert self.probes(world) == 0
        world.service.checked(node, True)
        assert self.probes(world) > 5

    def test_the_registry(self) -> None:
        world, _ = self.world()
        self.change(world, healthy=False)
        assert self.probes(world) == 0

    def test_weight_zero(self) -> None:
        world, _ = self.world()
        self.change(world, weight=0)
        assert self.probes(world) == 0

    def test_a_priority_that_is_not_used(self) -> None:
        world, _ = self.world()
        self.change(world, priority=1)
        assert self.probes(world) == 0

    def test_a_zone_that_is_not_used(self) -> None:
        world, _ = self.world(zone="here", min_zone_size=1)
        self.change(world, {"zone": "here"}, zone="there")
        assert self.probes(world) == 0

    def test_a_pause(self) -> None:
        world, node = self.world()
        node.paused_until = world.clock() + 60
        assert self.probes(world) == 0


# ---- most are down ----


@pytest.mark.parametrize("balancer", ["round_robin", "p2c", "least_request", "random", "adaptive", "maglev"])
@pytest.mark.parametrize(("count", "after"), [(5, 1.0), (20, 3.0)])
def test_no_call_fails_while_one_is_known_to_be_up(
    driver: Any, fleet: Any, balancer: str, count: int, after: float
) -> None:
    """Four of five refuse: 38-65 % of the calls were lost for 9 s, and 13-29 % afterwards."""
    servers = fleet(count)
    for server in servers.servers[1:]:
        server.refuse()
    clock, failed = VirtualClock(), []
    policy = Policy(balancer, retry=Retry(budget=RetryBudget(min_per_second=1, ratio=0.2)))
    with driver.transport({"orders": servers.addresses}, policy=policy, clock=clock) as client:
        began = clock()
        for number in range(300):
            method = "POST" if number % 3 == 0 else "GET"
            try:
                client.request(method, "http://orders/", extensions=call(hash_key=str(number)))
            except driver.httpx.ConnectError:
                failed.append(clock() - began)
            clock.advance(0.05)
    assert [when for when in failed if when > after] == []


def test_a_total_outage_is_still_nobodys_and_paid_for(driver: Any, fleet: Any) -> None:
    servers = fleet(5)
    clock, events = VirtualClock(), []
    budget = RetryBudget(min_per_second=0.1, ratio=0.2, ttl=10)
    policy = Policy("round_robin", retry=Retry(budget=budget))
    where = {"orders": servers.addresses}
    with driver.transport(where, policy=policy, clock=clock, observers=[events.append]) as client:
        for _ in range(50):
            client.get("http://orders/")
        events.clear()
        for server in servers.servers:
            server.refuse()
        for _ in range(200):
            with pytest.raises(driver.httpx.ConnectError):
                client.get("http://orders/")
            clock.advance(0.01)
    attempts = sum(isinstance(event, AttemptStarted) for event in events)
    assert attempts <= 1.2 * 200 + 0.2 * 50 + 1 + 5  # each node was known to be up once
    assert not [event for event in events if isinstance(event, NodeEjected)]


def test_who_wants_no_retry_has_none(driver: Any, fleet: Any) -> None:
    servers = fleet(2)
    with driver.client({"orders": servers.addresses}, policy=Policy("round_robin", retry=Retry(attempts=1))) as client:
        for _ in range(4):
            client.get("http://orders/")
        servers[0].refuse()
        with pytest.raises(driver.httpx.ConnectError):
            for _ in range(2):
                client.get("http://orders/")


def test_the_first_list_is_there_before_observers_are_told(driver: Any, fleet: Any) -> None:
    """A slow log sink: the first call waited for it, and failed."""
    servers, told = fleet(1), threading.Event()

    def slow(event: Event) -> None:
        if isinstance(event, InstancesChanged):
            told.wait(5)

    with driver.client(lambda name: servers.addresses, observers=[slow], timeout=2) as client:
        try:
            assert client.get("http://orders/").status_code == 200
        finally:
            told.set()


def test_an_observer_may_call_the_service(fleet: Any) -> None:
    servers = fleet(1)
    answers: list[int] = []

    def calling(event: Event) -> None:
        if isinstance(event, InstancesChanged):
            answers.append(client.get("http://orders/").status_code)

    with Client(lambda name: servers.addresses, observers=[calling], timeout=2, trust_env=False) as client:
        client.get("http://orders/")
        ends_at = time.monotonic() + 5
        while not answers and time.monotonic() < ends_at:
            time.sleep(0.01)
    assert answers == [200]
