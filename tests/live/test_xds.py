"""The xDS source against a control plane of ours, with a real Envoy on the same one as the oracle."""

from __future__ import annotations

import socket
import statistics
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from control_plane import ControlPlane, endpoint, group
from driving import needs, until
from inside import service_of
from servers import Envoy, envoy_program

from smartclient import Client, Instance, Overloaded, Policy, Xds
from smartclient.testing import Fleet

pytestmark = pytest.mark.live
URL = "http://orders/"


@pytest.fixture
def plane() -> Iterator[ControlPlane]:
    made = ControlPlane()
    yield made
    made.close()


@pytest.fixture
def envoy(plane: ControlPlane, tmp_path: Path) -> Iterator[Envoy]:
    program = envoy_program()
    needs("no Envoy: .ci/envoy" if program is None else None)
    assert program is not None
    server = Envoy(program, tmp_path, plane.address)
    yield server
    server.kill()


def nodes(client: Client) -> Any:
    return service_of(client).nodes


def instances(client: Client) -> dict[str, Instance]:
    return {str(node.instance): node.instance for node in nodes(client)}


def source(plane: ControlPlane, rest: bool = False, **keywords: Any) -> Xds:
    if rest:
        return Xds(f"127.0.0.1:{plane.rest_port}", rest=True, interval=0.05, **keywords)
    return Xds(plane.address, **keywords)


@pytest.mark.parametrize("rest", [False, True], ids=["ads", "rest"])
def test_endpoints_come_change_and_go(plane: ControlPlane, rest: bool) -> None:
    with Fleet(2) as fleet:
        one, two = fleet.addresses
        plane.put("orders", group(endpoint(one)))
        with Client(source(plane, rest)) as client:
            assert client.get(URL).status_code == 200
            delays = []
            for number in range(9):  # added until it is listed
                began = time.monotonic()
                plane.put("orders", group(endpoint(one), endpoint(f"127.0.0.2:{8000 + number}")))
                until(lambda: len(nodes(client)) == 2)
                delays.append(time.monotonic() - began)
                plane.put("orders", group(endpoint(one)))
                until(lambda: len(nodes(client)) == 1)
            assert statistics.median(delays) < 1
            metadata = {"filter_metadata": {"envoy.lb": {"canary": "yes", "stage": 3.0}}}
            plane.put("orders", group(endpoint(two, 7, metadata=metadata), zone="b", priority=1))
            until(lambda: set(instances(client)) == {two})
            [made] = instances(client).values()
            assert (made.weight, made.zone, made.priority) == (7.0, "b", 1)
            assert dict(made.metadata) == {"region": "eu", "canary": "yes", "stage": "3.0"}
            assert client.get(URL).status_code == 200
        assert plane.refused == []


def test_one_stream_for_all_services_and_each_answer_is_acknowledged(plane: ControlPlane) -> None:
    with Fleet(1) as fleet:
        names = [f"s{number}" for number in range(20)]
        for name in names:
            plane.put(f"outbound|80||{name}.shop.svc.cluster.local", group(endpoint(fleet.addresses[0])))
        template = "outbound|80||{service}.shop.svc.cluster.local"
        with Client(source(plane, cluster=template, node="sidecar~10.0.0.1~me.shop~shop")) as client:
            for name in names:
                assert client.get(f"http://{name}/").status_code == 200
            until(lambda: len(plane.asked[-1].resource_names) == 20 and plane.asked[-1].response_nonce)
            assert [request.node.id for request in plane.asked if request.node.id] == ["sidecar~10.0.0.1~me.shop~shop"]
            assert plane.asked[-1].version_info == str(plane.version)
        until(lambda: threading.active_count() < 40)


def test_what_is_no_assignment_is_refused_and_the_rest_is_used(plane: ControlPlane) -> None:
    from envoy.config.cluster.v3 import cluster_pb2

    with Fleet(1) as fleet:
        plane.put("orders", group(endpoint(fleet.addresses[0])))
        with Client(source(plane)) as client:
            assert client.get(URL).status_code == 200
            good = plane.version
            plane.put_raw("orders", cluster_pb2.Cluster(name="orders"))
            until(lambda: plane.refused)
            assert "expected a ClusterLoadAssignment" in plane.refused[0]
            refusal = next(request for request in plane.asked if request.HasField("error_detail"))
            assert refusal.version_info == str(good)  # the last that was accepted
            assert client.get(URL).status_code == 200
            plane.put("orders", group(endpoint(fleet.addresses[0]), endpoint("127.0.0.3:1")))
            until(lambda: len(nodes(client)) == 2)


@pytest.mark.parametrize("rest", [False, True], ids=["ads", "rest"])
def test_a_cluster_that_does_not_exist(plane: ControlPlane, rest: bool) -> None:
    with Client(source(plane, rest, timeout=1, absent_after=0.3), timeout=5) as client:
        with pytest.raises(httpx.ConnectError, match=r"no instances: xds at .* lists none"):
            client.get(URL)


def test_a_silent_control_plane_has_not_said_that_a_cluster_does_not_exist() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        source = Xds(f"127.0.0.1:{silent.getsockname()[1]}", timeout=1, absent_after=0.1)
        with pytest.raises(ConnectionError, match="UNAVAILABLE"):
            next(iter(source.watch("orders", threading.Event())))


def test_a_control_plane_that_comes_back_mute_takes_nothing_away(plane: ControlPlane) -> None:
    """What is known stays; a name that was never known does not exist after a while (gRPC A57)."""
    with Fleet(1) as fleet:
        plane.put("orders", group(endpoint(fleet.addresses[0])))
        with Client(source(plane, timeout=0.5, absent_after=0.3, grace=0.0), timeout=5) as client:
            assert client.get(URL).status_code == 200
            plane.stop()
            plane.forget()
            service = client._mounts and service_of(client)  # type: ignore[union-attr]
            until(lambda: service.problem)
            plane.start()
            until(lambda: len([one for one in plane.asked if "orders" in one.resource_names]) >= 2)
            with pytest.raises(httpx.ConnectError, match="lists none"):
                client.get("http://stock/")
            assert client.get(URL).status_code == 200
            plane.put("orders", group(endpoint(fleet.addresses[0]), endpoint("127.0.0.3:1")))
            until(lambda: len(nodes(client)) == 2)


def test_an_answer_that_is_refused_is_no_sign_that_a_cluster_does_not_exist(plane: ControlPlane) -> None:
    """grpc/grpc-java#8657."""
    from envoy.config.cluster.v3 import cluster_pb2

    plane.put_raw("orders", cluster_pb2.Cluster(name="orders"))
    with Client(source(plane, timeout=0.2, absent_after=0.3), timeout=1.5) as client:
        with pytest.raises(httpx.ConnectError, match="an answer was refused: expected a ClusterLoadAssignment"):
            client.get(URL)


def test_a_stream_that_could_not_start_is_not_shared(plane: ControlPlane, monkeypatch: pytest.MonkeyPatch) -> None:
    plane.put("orders", group(endpoint("10.0.0.1:80")))
    xds = source(plane)

    def refuse(thread: Any) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr("smartclient.discovery.xds.stream.Stream.start", refuse)
        with pytest.raises(RuntimeError):
            next(iter(xds.watch("orders", threading.Event())))
    watch = xds.watch("orders", threading.Event())
    assert [one["host"] for one in next(iter(watch))] == ["10.0.0.1"]  # type: ignore[index]
    watch.close()  # type: ignore[attr-defined]


def test_a_service_that_is_left_and_wanted_again_at_once(plane: ControlPlane) -> None:
    plane.put("orders", group(endpoint("10.0.0.1:80")))
    plane.put("users", group(endpoint("10.0.0.2:80")))
    xds, stop = source(plane, absent_after=0.5, timeout=0.5), threading.Event()
    users = xds.watch("users", stop)  # keeps the stream
    assert len(list(next(users))) == 1
    for _ in range(30):
        watch = xds.watch("orders", threading.Event())
        assert [one["host"] if isinstance(one, dict) else one.host for one in next(watch)] == ["10.0.0.1"]
        watch.close()  # type: ignore[attr-defined]
    users.close()  # type: ignore[attr-defined]


def test_stale_endpoints_go(plane: ControlPlane) -> None:
    with Fleet(1) as fleet:
        stale = {"endpoint_stale_after": "0.3s"}
        plane.put("orders", group(endpoint(fleet.addresses[0])), policy=stale)
        with Client(source(plane, grace=0.0)) as client:
            assert client.get(URL).status_code == 200
            until(lambda: not nodes(client))
            plane.put("orders", group(endpoint(fleet.addresses[0])), policy=stale)
            until(lambda: nodes(client))


def test_dropped_calls(plane: ControlPlane) -> None:
    categories = [
        {"category": "throttle", "drop_percentage": {"numerator": 50, "denominator": "HUNDRED"}},
        {"category": "lottery", "drop_percentage": {"numerator": 200_000, "denominator": "MILLION"}},
    ]
    with Fleet(1) as fleet:
        plane.put("orders", group(endpoint(fleet.addresses[0])), policy={"drop_overloads": categories})
        with Client(source(plane)) as client:
            errors = []
            for _ in range(500):
                try:
                    client.get(URL)
                except Overloaded as error:
                    errors.append(str(error))
            assert 250 < len(errors) < 350
            assert "has 60.000% of the calls dropped" in errors[0]
            assert len(fleet.received) == 500 - len(errors)
            plane.put("orders", group(endpoint(fleet.addresses[0])))
            until(lambda: service_of(client).drop == 0)
            assert client.get(URL).status_code == 200


@pytest.mark.parametrize("rest", [False, True], ids=["ads", "rest"])
def test_wrong_credentials_are_said_and_the_last_list_stays(plane: ControlPlane, rest: bool, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("right\n")
    plane.token = "right"
    with Fleet(2) as fleet:
        plane.put("orders", group(endpoint(fleet.addresses[0])))
        with Client(source(plane, rest, token_file=token)) as client:
            assert client.get(URL).status_code == 200
            plane.token = "another"
            if not rest:
                plane.stop()
                plane.start()
            until(lambda: "no such token (is the token good?)" in (service_of(client).problem or ""), 15)
            assert client.get(URL).status_code == 200
            token.write_text("another")
            plane.put("orders", group(*map(endpoint, fleet.addresses)))
            until(lambda: len(nodes(client)) == 2, 15)


def test_the_control_plane_is_gone_for_a_while(plane: ControlPlane) -> None:
    with Fleet(2) as fleet:
        plane.put("orders", group(endpoint(fleet.addresses[0])))
        with Client(source(plane)) as client:
            assert client.get(URL).status_code == 200
            plane.stop()
            until(lambda: "UNAVAILABLE" in (service_of(client).problem or ""), 15)
            for _ in range(20):
                assert client.get(URL).status_code == 200
            plane.forget()
            plane.put("orders", group(endpoint(fleet.addresses[1])))
            plane.start()
            until(lambda: set(instances(client)) == {fleet.addresses[1]}, 10)


MIXED = (
    group(endpoint("127.0.0.1:7001", 3), endpoint("127.0.0.1:7002"), endpoint("127.0.0.1:7003", status="UNHEALTHY")),
    group(endpoint("127.0.0.1:7004", status="DRAINING"), endpoint("127.0.0.1:7005", 2), zone="b"),
    group(endpoint("127.0.0.1:7006", status="UNKNOWN"), endpoint("127.0.0.1:7007", 4), zone="c", priority=1),
    group(endpoint("127.0.0.1:7008", status="DEGRADED"), endpoint("127.0.0.1:7009", status="TIMEOUT"), zone="d"),
)


def test_the_same_instances_and_weights_as_envoy(plane: ControlPlane, envoy: Envoy) -> None:
    plane.put("orders", *MIXED)
    transport = httpx.MockTransport(lambda request: httpx.Response(200))
    with Client(source(plane), transport=transport) as client:
        assert client.get(URL).status_code == 200
        until(lambda: len(envoy.endpoints()) == 9)
        theirs = {}
        for address, host in envoy.endpoints().items():
            status = host["health_status"].get("eds_health_status", "UNKNOWN")
            if status in ("HEALTHY", "UNKNOWN"):
                locality = host["locality"]
                theirs[address] = (host["weight"], host.get("priority", 0), locality["zone"], locality["region"])
            else:
                assert status in ("UNHEALTHY", "DRAINING", "DEGRADED", "TIMEOUT")
        ours = {
            address: (one.weight, one.priority, one.zone, one.metadata["region"])
            for address, one in instances(client).items()
            if one.weight and one.healthy
        }
        assert ours == theirs
        assert instances(client)["127.0.0.1:7008"].weight == 0  # degraded: only if there are no others


def test_the_same_traffic_as_envoy(plane: ControlPlane, envoy: Envoy) -> None:
    """Weights of localities and of the endpoints in them: three to one, whatever the number of endpoints."""
    with Fleet(4) as fleet:
        a, b, c, d = fleet.addresses
        plane.put(
            "orders",
            group(endpoint(a, 1), endpoint(b, 2), endpoint(c, 3), zone="a", weight=3),
            group(endpoint(d, 5), zone="b", weight=1),
        )
        expected = {a: 3 / 4 / 6, b: 3 / 4 / 3, c: 3 / 4 / 2, d: 1 / 4}
        until(lambda: len(envoy.endpoints()) == 4)
        counts = []
        with Client(source(plane), policy=Policy("weighted_round_robin")) as ours, httpx.Client() as plain:
            for url, client in ((URL, ours), (f"http://{envoy.address}/", plain)):
                before = [len(server.received) for server in fleet.servers]
                for _ in range(1200):
                    assert client.get(url).status_code == 200
                now = [len(server.received) for server in fleet.servers]
                counts.append({address: n - was for address, n, was in zip(fleet.addresses, now, before, strict=True)})
        for address, share in expected.items():
            for name, servers in zip(("ours", "envoy"), counts, strict=True):
                assert abs(servers[address] / 1200 - share) < 0.05, (name, address, servers)


def test_the_same_spill_over_as_envoy(plane: ControlPlane, envoy: Envoy) -> None:
    """Unhealthy endpoints count in their priority: we sent nothing to the next one where Envoy sent 64 %."""
    with Fleet(2) as fleet:
        first, second = fleet.addresses
        down = [endpoint(f"127.0.0.1:{port}", status="UNHEALTHY") for port in (7001, 7002, 7003)]
        plane.put("orders", group(endpoint(first), *down), group(endpoint(second), priority=1))
        until(lambda: len(envoy.endpoints()) == 5)
        shares = []
        with Client(source(plane)) as ours, httpx.Client() as plain:
            for url, client in ((URL, ours), (f"http://{envoy.address}/", plain)):
                before = len(fleet[1].received)
                for _ in range(1000):
                    assert client.get(url).status_code == 200
                shares.append((len(fleet[1].received) - before) / 1000)
        assert abs(shares[0] - shares[1]) < 0.06, shares
        assert 0.58 < shares[1] < 0.72
