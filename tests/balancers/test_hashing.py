"""The balancers that hash: evenness, what moves, bounded load, and that every process agrees."""

from __future__ import annotations

import itertools
import random
import subprocess
import sys
from collections import Counter
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from worlds import FakeCall, World

from smartclient import Instance, IpHash, Maglev, Node, Outcome, Policy, Random, RingHash, RoundRobin, Sticky, call
from smartclient.balancers import Balancer
from smartclient.balancers.hash_on import key_of
from smartclient.balancers.hashed import address
from smartclient.balancers.maglev import Slots, draw_order
from smartclient.services.call import CallOptions
from smartclient.support.hashing import hash_of

KEYS = [f"user-{n}" for n in range(20_000)]


def nodes(count: int, **weights: float) -> list[Node]:
    return [Node(Instance(f"10.0.{n >> 8}.{n & 255}", 8080, weight=weights.get(f"n{n}", 1.0))) for n in range(count)]


def owners(balancer: Balancer, members: list[Node], out: frozenset[Node] = frozenset()) -> list[Node]:
    for node in members:
        node.excluded = node in out
    pick = balancer.picker(members, random.Random(1))
    return [pick(FakeCall(hash_key=key)) for key in KEYS]


def test_the_hash_is_the_same_everywhere() -> None:
    assert hash_of("user-1") == 123419129006986080
    code = "from smartclient.support.hashing import hash_of; print(hash_of('user-1'), hash_of('\\u00fc\\udcff'))"
    printed = {
        subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONHASHSEED": seed}, capture_output=True, check=True
        ).stdout
        for seed in ("1", "2")
    }
    assert len(printed) == 1


@given(st.text(max_size=50), st.text(max_size=50))
def test_different_texts_hash_differently(one: str, other: str) -> None:
    assert 0 <= hash_of(one) < 2**64
    if one != other:
        assert hash_of(one) != hash_of(other) or len(one) + len(other) > 8  # 32 bits of CRC may collide for long ones


@pytest.mark.parametrize(("balancer", "most_moved"), [(RingHash(), 0.015), (Maglev(), 0.03)], ids=["ring", "maglev"])
def test_removal_moves_few_keys(balancer: Any, most_moved: float) -> None:
    members = nodes(100)
    before = owners(balancer, members)
    for gone in (0, 37, 99):
        after = owners(balancer, members[:gone] + members[gone + 1 :])
        moved = sum(a is not b for a, b in zip(before, after, strict=True)) / len(KEYS)
        assert 0.005 < moved <= most_moved
    # One that is merely ejected moves exactly its own keys, and they come back with it.
    ejected = owners(balancer, members, frozenset(members[:1]))
    assert all(a is b or a is members[0] for a, b in zip(before, ejected, strict=True))
    assert owners(balancer, members) == before
    assert len({b for a, b in zip(before, ejected, strict=True) if a is members[0]}) > 30  # over many others


def test_maglev_is_even_and_its_table_small() -> None:
    for count in (2, 3, 10, 100, 1000):
        table = Slots(nodes(count))
        slots = Counter(table.slots)
        assert len(slots) == count
        assert max(slots.values()) / min(slots.values()) <= 1.03
        assert table.size >= max(1009, 100 * count)
        assert all(table.size % divisor for divisor in range(2, int(table.size**0.5) + 1))


@pytest.mark.parametrize("base", ["10.0.{}.{}", "192.168.{}.{}"])
def test_growing_moves_few_keys_at_any_step(base: str) -> None:
    """16 to 17 nodes moved 94 % of the keys: the table's size jumped at each power of two. (`ip_hash` has it, too.)"""
    members = [Node(Instance(base.format(n >> 8, n & 255), 8080)) for n in range(201)]
    steps = [*range(1, 20), *(31, 32, 33, 63, 64, 65, 100, 127, 128, 129, 160, 199, 200)]
    tables: dict[int, list[Node]] = {}

    def slots(count: int) -> list[Node]:
        if count not in tables:
            table = Slots(sorted(members[:count], key=address))
            tables[count] = [table.nodes[number - 1] for number in table.slots]
        return tables[count]

    for count in steps:
        before, after = slots(count), slots(count + 1)
        moved = sum(a is not b for a, b in zip(before, after, strict=True)) / len(before)
        assert moved <= 2 / (count + 1), count  # growing, and shrinking again


def test_a_key_finds_the_only_node_that_can_be_used() -> None:
    """A walk by a stride of the key's own missed it for one key in a hundred."""
    members = nodes(20)
    pick = Maglev().picker(members, random.Random(1))
    for node in members:
        node.excluded = node is not members[7]
    assert {pick(FakeCall(hash_key=key)) for key in KEYS[:3000]} == {members[7]}


@pytest.mark.parametrize(
    ("weights", "owning"), [([1.0] + [0.0] * 3000, 1), ([0.0] * 3000, 3000), ([1e6] + [1e-3] * 3000, None)]
)
def test_uneven_weights_are_not_quadratic(weights: list[float], owning: int | None) -> None:
    """Nodes of weight 0 were gone through for each slot: minutes, holding the interpreter. Now a turn is a slot."""
    members = [Node(Instance(f"10.{n >> 8}.{n & 255}.1", 80, weight=weight)) for n, weight in enumerate(weights)]
    assert all(weights[number] for number in itertools.islice(draw_order(weights), 1000)) or not any(weights)
    owners = set(Slots(members).slots)
    assert owning is None or len(owners) == owning
    assert 1 in owners


@pytest.mark.parametrize("balancer", [RingHash(points=500), Maglev()], ids=["ring", "maglev"])
def test_weights(balancer: Any) -> None:
    members = nodes(10, n0=3.0, n1=0.0)
    got = Counter(id(node) for node in owners(balancer, members))
    assert got[id(members[0])] / len(KEYS) == pytest.approx(3 / 11, rel=0.15)
    assert got[id(members[1])] == 0


def test_clients_agree_whatever_their_registry_says() -> None:
    for balancer in (RingHash(), Maglev(), IpHash(hash_on="key")):
        members = nodes(20)
        others = [Node(Instance(node.instance.host, 8080, id=str(n))) for n, node in enumerate(members)]
        random.Random(2).shuffle(others)
        here = [node.instance.host for node in owners(balancer, members)]
        there = [node.instance.host for node in owners(balancer, others)]
        assert here == there


@pytest.mark.parametrize("name", ["ring_hash", "maglev"])
@given(data=st.data())
def test_bounded_load_holds_at_any_moment(name: str, data: st.DataObject) -> None:
    kind: Any = {"ring_hash": RingHash, "maglev": Maglev}[name]
    world = World(data.draw(st.integers(2, 9)), balancer=kind(bound=1.25), outlier=None)
    running: list[Any] = []
    for _ in range(data.draw(st.integers(1, 80))):
        if running and data.draw(st.integers(0, 2)) == 0:
            running.pop(data.draw(st.integers(0, len(running) - 1))).finish()
            continue
        running.append(world.start(options=CallOptions(hash_key=data.draw(st.sampled_from(["hot", "a", "b"])))))
        average = len(running) / len(world.service.nodes)
        taken = running[-1].node  # the one just started
        assert taken.in_flight <= -(-1.25 * average // 1)
    assert sum(node.in_flight for node in world.service.nodes) == len(running)


def test_a_key_stays_through_ejection_retries_and_calls() -> None:
    world = World(5, balancer="maglev")
    options = CallOptions(hash_key="user-7")
    home = world.start(options=options).node
    for _ in range(10):
        retry = world.start(tried=[home], options=options)
        assert retry.node is not home
        assert world.start(options=options).node is home
    choice = world.service.members.choice
    for _ in range(5):
        attempt = world.start(options=options)
        if attempt.node is home:
            attempt.judge(Outcome.FAILURE, 503)
        attempt.finish()
    assert home.ejected_until is not None
    second = {world.start(options=options).node for _ in range(10)}
    assert len(second) == 1
    assert home not in second
    assert world.service.members.choice is not None
    assert choice is not None
    assert world.service.members.choice.picker is choice.picker  # no new table


def test_calls_without_a_key_go_by_p2c_and_it_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    world = World(4, balancer="ring_hash")
    assert world.ports() == {1, 2, 3, 4}
    assert caplog.text.count("has no key to hash") == 1


@pytest.mark.parametrize(
    ("hash_on", "key"),
    [("key", "mine"), ("header:X-User", "h"), ("cookie:sid", "c"), ("query:id", "5"), ("path", "/a/b"),
     ("ip", "192.0.2.60"), ("header:X-None", None), ("cookie:none", None), ("query:none", None)],
)  # fmt: skip
def test_what_is_hashed(hash_on: str, key: str | None) -> None:
    headers = {"X-User": "h", "Cookie": "a=b; sid=c", "Forwarded": 'for=192.0.2.60;proto=http, for="[2001:db8::1]:80"'}
    request = httpx.Request("GET", "http://orders/a/b?id=5", headers=headers)
    assert key_of(hash_on, "hash_on")(FakeCall(hash_key="mine", request=request)) == key
    assert key_of(lambda request: request.method, "hash_on")(FakeCall(request=request)) == "GET"


@pytest.mark.parametrize(
    ("header", "value", "address"),
    [
        ("Forwarded", 'For="[2001:db8:cafe::17]:4711"', "2001:db8:cafe::17"),
        ("X-Forwarded-For", " 203.0.113.7 , 10.0.0.1", "203.0.113.7"),
        ("X-Forwarded-For", "203.0.113.7:4711", "203.0.113.7"),
        ("X-Forwarded-For", "2001:db8::1", "2001:db8::1"),
    ],
)
def test_the_end_user(header: str, value: str, address: str) -> None:
    request = httpx.Request("GET", "http://orders/", headers={header: value})
    assert key_of("ip", "hash_on")(FakeCall(request=request)) == address
    nobody = key_of("ip", "hash_on")(FakeCall(request=httpx.Request("GET", "http://orders/")))
    assert nobody  # this host


@pytest.mark.parametrize("wrong", ["", "header:", "cookie", "nonsense", "key:x", 5])
def test_what_cannot_be_hashed_is_said_at_once(wrong: Any) -> None:
    for kind in (RingHash, Maglev, IpHash, Sticky):
        with pytest.raises((ValueError, TypeError), match="hash_on"):
            kind(hash_on=wrong)  # type: ignore[operator]
    with pytest.raises(ValueError, match="bound"):
        Maglev(bound=0.9)
    with pytest.raises(TypeError, match="inner"):
        Sticky(inner=Maglev())


class TestSticky:
    def test_a_session_moves_once_and_stays(self) -> None:
        world = World(4, balancer=Sticky(inner=RoundRobin()))
        options = {f"s{n}": CallOptions(hash_key=f"s{n}") for n in range(20)}
        first = {name: world.start(options=option).node for name, option in options.items()}
        assert len(set(first.values())) == 4
        for _ in range(3):
            assert all(world.start(options=option).node is first[name] for name, option in options.items())
        gone = world.service.nodes[0]
        world.service.update([node.instance for node in world.service.nodes[1:]])
        second = {name: world.start(options=option).node for name, option in options.items()}
        assert all(second[name] is node for name, node in first.items() if node is not gone)
        assert gone not in second.values()
        world.service.update([*(node.instance for node in world.service.nodes), gone.instance])
        assert {name: world.start(options=option).node for name, option in options.items()} == second

    def test_a_failed_attempt_moves_nobody(self) -> None:
        world = World(4, balancer="sticky")
        options = CallOptions(hash_key="s")
        home = world.start(options=options).node
        assert world.start(tried=[home], options=options).node is not home
        assert world.start(options=options).node is home

    def test_keys_are_not_kept_whole(self) -> None:
        """Thirty keys of 10 MB: 305 MB."""
        world = World(4, balancer="sticky")
        for n in range(5):
            world.start(options=CallOptions(hash_key=str(n) * 1_000_000))
        kept = world.service.members.chooser.balancer.sessions
        assert sum(len(key) for key in kept) <= 5 * 16

    def test_a_session_is_forgotten(self) -> None:
        world = World(50, balancer=Sticky(inner=Random(), ttl=10))
        options = CallOptions(hash_key="s")
        seen = set()
        for _ in range(8):
            seen.add(world.start(options=options).node)
            world.clock.advance(11)
        assert len(seen) > 1


def test_through_a_real_client(driver: Any, fleet: Any) -> None:
    servers = fleet(4)
    with driver.client({"orders": servers.addresses}, policy=Policy("maglev")) as client:
        for user in range(12):
            for _ in range(3):
                client.get(f"http://orders/{user}", extensions=call(hash_key=str(user)))
    by_user: dict[str, set[int]] = {}
    for server in servers.servers:
        for request in server.received:
            by_user.setdefault(request.target, set()).add(server.port)
    assert len(by_user) == 12
    assert all(len(ports) == 1 for ports in by_user.values())
    assert len(set.union(*by_user.values())) > 1
