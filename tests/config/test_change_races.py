"""What a change meets: forks, other changes, calls and checks under way. From a review, and from reports on others."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import httpx
import pytest
from driving import in_child, until
from files import replaced
from inside import service_of, steering_of

from smartclient import (
    Balancer,
    Circuit,
    CircuitChanged,
    Client,
    ConfigError,
    ConfigRejected,
    HealthCheck,
    Hedge,
    Limits,
    Maglev,
    OutlierDetection,
    Policy,
    Retry,
    load_config,
    report,
)
from smartclient.cli.main import main
from smartclient.testing import FAILING, OK, SILENT, Behaviour, ScriptedDiscovery

URL = "http://orders/v1/items"
ANSWERING = httpx.MockTransport(lambda request: httpx.Response(200))


def deadline_of(client: Any, name: str = "orders") -> Any:
    return service_of(client, name).policy.deadline


def test_a_child_of_a_fork_in_the_middle_of_a_change(tmp_path: Path, fleet: Any) -> None:
    """gunicorn#3509: the lock of a thread that is not there. The child finishes the change, and follows the next."""
    path = tmp_path / "smartclient.yaml"
    path.write_text("version: 1\ndefaults: {deadline: 5}\n")
    with Client.from_config(path, discovery={"orders": fleet(1).addresses}) as client:
        client.get(URL)
        with steering_of(client).lock:

            def child() -> None:
                client.get(URL)
                replaced(path, "version: 1\ndefaults: {deadline: 6}\n")
                until(lambda: deadline_of(client) == 6, 5)
                client.reconfigure(policies={"orders": Policy(deadline=7.0)})
                assert deadline_of(client) == 7.0

            in_child(child)


def test_a_table_of_the_balancer_before_is_not_used() -> None:
    """A slow thread makes the old table while another balancer comes, and is done last."""
    making, go = threading.Event(), threading.Event()

    class Slow(Maglev):
        def picker(self, nodes: Any, rng: Random) -> Any:
            if len(nodes) > 2:
                making.set()
                go.wait(5)
            return super().picker(nodes, rng)

    source = ScriptedDiscovery({"orders": ["10.0.0.1:80", "10.0.0.2:80"]})
    with Client(source, policy=Policy(Slow(hash_on="header:x-old")), transport=ANSWERING) as client:
        client.get(URL)
        source.publish("orders", [f"10.0.0.{n}:80" for n in range(1, 7)])
        making.wait(5)
        changing = threading.Thread(target=lambda: client.reconfigure(Policy(Maglev(hash_on="header:x-new"))))
        changing.start()
        time.sleep(0.05)
        go.set()
        changing.join(5)
        until(lambda: len(service_of(client).nodes) == 6)

        def used() -> set[Any]:
            calls = [client.get(URL, headers={"x-new": "1", "x-old": str(n)}) for n in range(20)]
            return {story.attempts[0].instance for story in map(report, calls) if story is not None}

        until(lambda: len(used()) == 1)


def test_a_check_under_way_does_not_outlive_its_policy(fleet: Any) -> None:
    """kgateway#3219: the health check changed while its answer was out, and the instance was unhealthy for ever."""
    servers = fleet(2)
    checked = Policy(health_check=HealthCheck(path="/up", interval=0.05, timeout=0.4, unhealthy=1), outlier=None)
    with Client({"orders": servers.addresses}, policy=checked) as client:
        servers.behave(OK)
        client.get(URL)
        servers.behave(SILENT)
        until(lambda: sum(request.target == "/up" for request in servers.received) >= 2)
        client.reconfigure(Policy(outlier=None))
        time.sleep(0.8)
        assert not any(node.unhealthy for node in service_of(client).nodes)
        servers.behave(OK)


def test_detection_that_goes_while_a_probe_is_due(fleet: Any) -> None:
    servers = fleet(2)
    servers[0].behave(FAILING)
    outlier = OutlierDetection(consecutive_5xx=1, base_ejection_time=0.05, max_ejection_time=0.05)
    with Client({"orders": servers.addresses}, policy=Policy("round_robin", outlier=outlier)) as client:
        for _ in range(6):
            client.get(URL)
        time.sleep(0.1)
        service = service_of(client)
        service.members.follow(Policy("round_robin", outlier=None), frozenset({"outlier"}))
        assert service.members.due == ()
        assert client.get(URL).status_code in (200, 503)


@pytest.mark.parametrize("given", [True, False])
def test_who_gave_the_registry_says_whether_the_file_may_change_it(tmp_path: Path, fleet: Any, given: bool) -> None:
    """A running client and one that is started afresh must agree."""
    code, file = fleet(1), fleet(1)
    path, listed = tmp_path / "smartclient.yaml", tmp_path / "list.json"
    listed.write_text(f'{{"orders": ["{file.addresses[0]}"]}}')
    path.write_text("version: 1\n")
    discovery = {"discovery": {"orders": code.addresses}} if given else {}
    with Client.from_config(path, **discovery) as client:
        replaced(path, f"version: 1\ndiscovery: file://{listed}\ndefaults: {{deadline: 4}}\n")
        time.sleep(1.5)
        client.get(URL)
        assert bool(code.received) is given
        assert bool(file.received) is not given
    with Client.from_config(path, **discovery) as client:
        code.servers[0].received.clear()
        client.get(URL)
        assert bool(code.received) is given


def test_a_balancer_that_cannot_be_made_changes_nothing() -> None:
    """prometheus#1149: half of a change was applied, and shown as rejected."""

    class Broken(Balancer):
        def for_service(self) -> Balancer:
            raise RuntimeError("no licence")

        def picker(self, nodes: Any, rng: Random) -> Any:
            raise AssertionError

    names = ("a", "b", "c")
    with Client({name: ["10.0.0.1:80", "10.0.0.2:80"] for name in names}, transport=ANSWERING) as client:
        for name in names:
            client.get(f"http://{name}/")
        with pytest.raises(RuntimeError, match="no licence"):
            client.reconfigure(policies={"a": Policy(deadline=3.0), "b": Policy(Broken()), "c": Policy(deadline=3.0)})
        assert [deadline_of(client, name) for name in names] == [None] * 3
        client.reconfigure(Policy(deadline=2.0))
        assert [deadline_of(client, name) for name in names] == [2.0] * 3


def test_a_delayed_attempt_that_lost_sends_nothing(fleet: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """mcp-proxy#209: hedging with injected latency."""
    monkeypatch.setenv("SMARTCLIENT_FAULTS", "orders:delay=300ms@60%")
    servers = fleet(3)
    policy = Policy(hedge=Hedge(0.02, budget=1.0), retry=None)
    with Client({"orders": servers.addresses}, policy=policy) as client:
        for _ in range(12):
            client.get(URL)
        time.sleep(0.5)
    assert len(servers.received) == 12


def test_a_circuit_that_goes_is_closed_and_one_that_changes_stays_open(fleet: Any) -> None:
    servers, events = fleet(1, FAILING), []
    policy = Policy(outlier=None, retry=None, circuit=Circuit(failures=1, probe=60))
    with Client({"orders": servers.addresses}, policy=policy, observers=[events.append]) as client:
        client.get(URL)

        def states() -> list[str]:
            return [event.state for event in events if isinstance(event, CircuitChanged)]

        assert states() == ["open"]
        client.reconfigure(replace(policy, circuit=Circuit(failures=1, probe=50)))
        assert service_of(client).admission.circuit_open  # resilience4j#2365
        client.reconfigure(replace(policy, circuit=None))
        assert states() == ["open", "closed"]


def test_who_left_the_list_comes_back_by_the_new_settings(fleet: Any) -> None:
    servers = fleet(3)
    source = ScriptedDiscovery({"orders": servers.addresses}, grace=0)
    policy = Policy(
        "round_robin", outlier=OutlierDetection(consecutive_5xx=1, base_ejection_time=60, max_ejection_time=60)
    )
    with Client(source, policy=policy) as client:
        servers[0].behave(FAILING)
        for _ in range(6):
            client.get(URL)
        source.publish("orders", servers.addresses[1:])
        until(lambda: len(service_of(client).nodes) == 2)
        client.reconfigure(replace(policy, outlier=None))
        source.publish("orders", servers.addresses)
        until(lambda: len(service_of(client).nodes) == 3)
        assert not any(node.ejected_until or node.health for node in service_of(client).nodes)


def test_a_mapping_that_was_given_is_not_looked_at_again() -> None:
    policies: dict[str, Any] = {"orders": Policy(deadline=1.0)}
    with Client({"orders": ["10.0.0.1:80"]}, policies=policies, transport=ANSWERING) as client:
        client.get(URL)
        policies["orders"] = "nonsense"
        client.reconfigure(Policy())
        assert deadline_of(client) == 1.0


def test_limits_that_come_and_go_leak_no_place(fleet: Any) -> None:
    servers = fleet(2, Behaviour(delay=0.002))
    policies = [
        Policy(limits=Limits(max_in_flight=4)),
        Policy(limits=Limits(per_node=3)),
        Policy(),
        Policy(retry=Retry(attempts=2)),
    ]
    failed: list[BaseException] = []
    ends = threading.Event()
    with Client({"orders": servers.addresses}) as client:

        def call() -> None:
            while not ends.is_set():
                try:
                    client.get(URL)
                except BaseException as error:
                    failed.append(error)

        threads = [threading.Thread(target=call) for _ in range(6)]
        for thread in threads:
            thread.start()
        for turn in range(300):
            client.reconfigure(policies[turn % len(policies)])
            time.sleep(0.001)
        ends.set()
        for thread in threads:
            thread.join(5)
        assert not failed, failed[:3]
        client.reconfigure(Policy(limits=Limits(max_in_flight=4, per_node=2)))
        client.get(URL)
        assert service_of(client).admission.places.taken == 0
        assert service_of(client).in_flight == 0


# ---- files ----


def problems(tmp_path: Path, text: str, **environment: str) -> list[str]:
    path = tmp_path / "smartclient.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_config(path, environment=environment)
    return [one.replace(str(path), "F") for one in caught.value.problems]


def test_names_of_the_environment_that_are_not_clear(tmp_path: Path) -> None:
    """node-config#71."""
    name = "SMARTCLIENT_POLICY__PAY_EU__DEADLINE"
    assert problems(tmp_path, "version: 1\nservices: {pay-eu: {}, pay.eu: {}}\n", **{name: "1"}) == [
        f"{name}: may be pay-eu and pay.eu: say it in the file"
    ]
    path = tmp_path / "smartclient.yaml"
    path.write_text("version: 1\nservices: {xn--bcher-kva: {}, xn: {}}\n")
    found = load_config(path, environment={"SMARTCLIENT_POLICY__XN__BCHER_KVA__DEADLINE": "3"}).policies
    assert (found["xn--bcher-kva"].deadline, found["xn"].deadline) == (3, None)


def test_faults_of_a_file(tmp_path: Path) -> None:
    assert problems(tmp_path, "version: 1\nfaults:\n  Orders: 503@1%\n  orders: 504@1%\n") == [
        "F:4: faults.orders: stands twice: names of services have no upper case"
    ]
    path = tmp_path / "smartclient.yaml"
    path.write_text("version: 1\nfaults: {orders: null}\n")
    assert load_config(path, environment={}).faults == {}


def test_the_environments_faults_go_before_the_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "smartclient.yaml"
    path.write_text("version: 1\nfaults: {orders: 503@100%}\n")
    monkeypatch.setenv("SMARTCLIENT_FAULTS", "*:429@100%")
    with Client.from_config(
        path, discovery={"orders": ["10.0.0.1:80"]}, transport=ANSWERING, policy=Policy(retry=None)
    ) as client:
        assert client.get(URL).status_code == 429
    assert main(["check", str(path), "--service", "orders"]) == 0
    assert "fault: status 429 for 100.000% of the attempts" in capsys.readouterr().out


def test_a_file_that_is_written_in_place_is_taken_when_it_rests(tmp_path: Path, fleet: Any) -> None:
    """service-fabric-traefik#31: the half that was there was valid."""
    path, events = tmp_path / "smartclient.yaml", []
    path.write_text("version: 1\ndefaults: {deadline: 2}\n")
    with Client.from_config(path, discovery={"orders": fleet(1).addresses}, observers=[events.append]) as client:
        client.get(URL)
        time.sleep(0.7)
        with path.open("w") as file:
            for row in ("version: 1\n", "defaults: {deadline: 5}\n", "services:\n", "  orders: {deadline: 3}\n"):
                file.write(row)
                file.flush()
                time.sleep(0.05)
        until(lambda: deadline_of(client) == 3, 3)
    assert not any(isinstance(event, ConfigRejected) for event in events)
    assert [event.changed for event in events if type(event).__name__ == "PolicyChanged"] == [("deadline",)]
