"""`call(explain=True)`: why an attempt went where it did."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest

from smartclient import Balancer, Client, Instance, Node, Policy, call, report
from smartclient.cli.main import main
from smartclient.testing import FAILING

URL = "http://orders/v1"
EXPLAINED = call(explain=True)
ANSWERING = httpx.MockTransport(lambda _: httpx.Response(200))


def instances(count: int, **keywords: Any) -> list[Instance]:
    return [Instance("10.0.0.1", port, **keywords) for port in range(1, count + 1)]


def test_who_was_compared_and_what_each_would_have_cost(driver: Any, fleet: Any) -> None:
    servers = fleet(4)
    with driver.client({"orders": servers.addresses}) as client:
        for _ in range(20):
            client.get(URL)
        for _ in range(20):
            story = report(client.get(URL, extensions=EXPLAINED))
            assert story is not None
            why = story.attempts[0].why
            assert why is not None
            assert why.balancer == "adaptive"
            assert 1 <= len(why.candidates) <= 4
            assert [one.picked for one in why.candidates] == [True] + [False] * (len(why.candidates) - 1)
            assert why.candidates[0].instance == story.attempts[0].instance
            assert {"cost", "mean", "in flight", "weight", "penalty"} <= why.candidates[0].parts.keys()
            costs = [one.parts["cost"] for one in why.candidates]
            assert costs[0] <= min(costs[1:], default=costs[0]) * 5.01  # one that is owed a call may cost more
            assert not why.left_out
        plain = report(client.get(URL))
        assert plain is not None
        assert plain.attempts[0].why is None


@pytest.mark.parametrize("name", ["p2c", "least_request", "peak_ewma", "round_robin", "random", "weighted_round_robin"])
def test_each_balancer_says_what_it_looked_at(name: str) -> None:
    with Client({"orders": instances(5)}, policy=Policy(name), transport=ANSWERING) as client:
        for _ in range(10):
            client.get(URL)
        story = report(client.get(URL, extensions=EXPLAINED))
        assert story is not None
        why = story.attempts[0].why
        assert why is not None
        assert why.balancer == name
        assert {"in flight", "weight"} <= why.candidates[0].parts.keys()
        if name in ("p2c", "peak_ewma"):
            assert len(why.candidates) == 2
        if name == "least_request":
            assert len(why.candidates) in (1, 5)


@pytest.mark.parametrize("name", ["maglev", "ring_hash", "ip_hash"])
def test_a_table_goes_by_its_key(name: str) -> None:
    with Client({"orders": instances(5)}, policy=Policy(name), transport=ANSWERING) as client:
        for _ in range(3):
            said = report(client.get(URL, extensions=call(explain=True, hash_key="me")))
            usual = report(client.get(URL, extensions=call(hash_key="me")))
            assert said is not None
            assert usual is not None
            assert said.attempts[0].instance == usual.attempts[0].instance
            assert said.attempts[0].why is not None


def test_who_was_left_out_and_why(fleet: Any) -> None:
    servers = fleet(4)
    servers[0].behave(FAILING)
    listed = [Instance("127.0.0.1", int(a.rpartition(":")[2]), metadata={"v": "1" if n == 3 else "2"})
              for n, a in enumerate(servers.addresses)]  # fmt: skip
    with Client({"orders": listed}, policy=Policy("round_robin")) as client:
        for _ in range(40):
            client.get(URL)
        story = report(client.get(URL, extensions=call(explain=True, require={"v": "2"})))
    assert story is not None
    why = story.attempts[0].why
    assert why is not None
    out = {str(instance): reason for instance, reason in why.left_out}
    assert out[servers.addresses[0]].startswith("ejected: consecutive_5xx: ")
    assert out[servers.addresses[3]] == "it does not match, or is of another group"
    assert set(out) == {servers.addresses[0], servers.addresses[3]}


def test_a_retry_says_who_was_tried(fleet: Any) -> None:
    with Client({"orders": fleet(2, FAILING).addresses}, policy=Policy(outlier=None)) as client:
        story = report(client.get(URL, extensions=EXPLAINED))
    assert story is not None
    first, second = story.attempts[:2]
    assert second.why is not None
    assert second.why.left_out == ((first.instance, "tried by this call"),)
    assert "tried by this call" in str(second.why)


class Silly(Balancer):
    name = "silly"

    def picker(self, nodes: Sequence[Node], rng: Any) -> Any:
        return lambda call: nodes[0]

    def explain(self, node: Node, nodes: Sequence[Node], call: Any) -> Any:
        raise ZeroDivisionError


def test_an_explanation_that_raises_is_no_failure() -> None:
    with Client({"orders": instances(2)}, policy=Policy(Silly()), transport=ANSWERING) as client:
        story = report(client.get(URL, extensions=EXPLAINED))
    assert story is not None
    assert story.attempts[0].why is not None
    assert story.attempts[0].why.candidates[0].parts == {"ZeroDivisionError in explain": 0.0}


def test_explain_is_a_flag() -> None:
    with pytest.raises((TypeError, ValueError), match="explain"):
        call(explain="yes")  # type: ignore[arg-type]


def test_on_the_command_line(fleet: Any, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    [address] = fleet(1).addresses
    (tmp_path / "services.json").write_text(json.dumps({"orders": [address]}))
    assert main(["call", "--explain", "--discovery", f"file://{tmp_path}/services.json", URL]) == 0
    told = capsys.readouterr().out
    assert f"adaptive: {address} (picked): " in told
