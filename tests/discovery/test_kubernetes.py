"""The Kubernetes source against a stand-in: no API server can be had here. It replays documented watch sequences, and
what was seen on real servers: an expired watch is an answer 200 with an ERROR event of code 410.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from driving import until
from hypothesis import given
from hypothesis import strategies as st
from inside import balanced_of, service_of, token_of
from stand_ins import KubernetesStandIn, StandIn, endpoint, piece
from tls import Terminator

from smartclient import Client, Instance, InstancesChanged, Kubernetes
from smartclient.discovery import discovery_of
from smartclient.discovery.kubernetes.source import entries_of, port_of
from smartclient.testing import Fleet

URL = "http://orders/"


@pytest.fixture(params=["plain", "tls"])
def api(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[KubernetesStandIn]:
    """Every real one speaks TLS."""
    server = KubernetesStandIn()
    if request.param == "plain":
        server.url = f"kubernetes+http://{server.address}?"
        yield server
    else:
        with Terminator(tmp_path, server.address) as front:
            server.url = f"kubernetes://{front.address}?ca_file={front.ca_file}&"
            yield server
    server.close()


@pytest.fixture
def token(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.write_text("right\n")
    return path


def listed(client: Client, service: str = "orders") -> set[str]:
    balanced: Any = balanced_of(client)
    return {str(node.instance) for node in service_of(balanced, service).nodes}


def test_slices_come_and_go(api: KubernetesStandIn, token: Path) -> None:
    with Fleet(1) as fleet:
        port = fleet[0].port
        api.items = [piece("orders-1", endpoint("127.0.0.1", ready=True), port=port)]
        source = f"{api.url}namespace=shop&port=http&token_file={token}"
        with Client(source) as client:
            assert client.get(URL).status_code == 200
            assert client.get("http://orders.shop.svc.cluster.local/").status_code == 200
            assert client.get("http://orders.shop/").status_code == 200
            assert api.asked[0] == (
                "/apis/discovery.k8s.io/v1/namespaces/shop/endpointslices",
                {"labelSelector": "kubernetes.io/service-name=orders"},
            )
            began = time.monotonic()
            api.say("ADDED", piece("orders-2", endpoint("127.0.0.2"), endpoint("127.0.0.3", ready=False), port=port))
            until(lambda: listed(client) == {f"127.0.0.1:{port}", f"127.0.0.2:{port}"})
            assert time.monotonic() - began < 1
            api.say("MODIFIED", piece("orders-2", endpoint("127.0.0.4", ready=True), port=port))
            until(lambda: listed(client) == {f"127.0.0.1:{port}", f"127.0.0.4:{port}"})
            api.say("BOOKMARK", {"metadata": {}})
            api.say("DELETED", piece("orders-2"))
            until(lambda: listed(client) == {f"127.0.0.1:{port}"})
            balanced: Any = balanced_of(client)
            [node] = service_of(balanced).nodes
            assert (node.instance.zone, node.instance.metadata["pod"], node.instance.metadata["for_zones"]) == (
                "eu-1a", "orders-abc", "eu-1a")  # fmt: skip


def test_an_expired_watch_lists_anew(api: KubernetesStandIn, token: Path) -> None:
    api.items = [piece("orders-1", endpoint("10.0.0.1"))]
    with Client(f"{api.url}token_file={token}&port=http") as client:
        balanced: Any = balanced_of(client)
        service_of(balanced)
        until(lambda: listed(client) == {"10.0.0.1:80"})
        api.items = [piece("orders-1", endpoint("10.0.0.2"))]
        api.say("ERROR", {"kind": "Status", "code": 410, "reason": "Expired"}, forget=True)
        until(lambda: listed(client) == {"10.0.0.2:80"})
        service = service_of(balanced)
        assert service.problem is None


def test_terminating_endpoints_serve_if_no_others_do(api: KubernetesStandIn, token: Path) -> None:
    leaving = {"ready": False, "serving": True, "terminating": True}
    api.items = [piece("orders-1", endpoint("10.0.0.1", ready=True), endpoint("10.0.0.2", **leaving))]
    with Client(f"{api.url}token_file={token}&port=http") as client:
        balanced: Any = balanced_of(client)
        service_of(balanced)
        until(lambda: listed(client) == {"10.0.0.1:80"})
        api.say("MODIFIED", piece("orders-1", endpoint("10.0.0.2", **leaving), endpoint("10.0.0.3", ready=False)))
        until(lambda: listed(client) == {"10.0.0.2:80"})


def test_a_token_that_was_exchanged_is_read_again(api: KubernetesStandIn, token: Path) -> None:
    api.items = [piece("orders-1", endpoint("10.0.0.1"))]
    with Client(f"{api.url}token_file={token}&port=http") as client:
        balanced: Any = balanced_of(client)
        service = service_of(balanced)
        until(lambda: listed(client) == {"10.0.0.1:80"})
        api.token = "another"
        api.say("ERROR", {"kind": "Status", "code": 410}, forget=True)
        until(lambda: "answered 401: Unauthorized (is the token still good?)" in (service.problem or ""))
        assert listed(client) == {"10.0.0.1:80"}
        token.write_text("another")
        until(lambda: service.problem is None, 15)


def test_closing_does_not_wait_for_the_watch(api: KubernetesStandIn, token: Path) -> None:
    api.items = [piece("orders-1", endpoint("10.0.0.1"))]
    client = Client(f"{api.url}token_file={token}&port=http")
    balanced: Any = balanced_of(client)
    service_of(balanced)
    until(lambda: listed(client) == {"10.0.0.1:80"})
    until(lambda: any("watch" in query for _, query in api.asked))
    began = time.monotonic()
    client.close()
    assert time.monotonic() - began < 1


def test_names(token: Path) -> None:
    source = Kubernetes("https://10.0.0.1:6443", namespace="shop", namespaces=["bank"])
    for name in ("orders", "orders.shop", "orders.bank", "orders.x.svc", "orders.x.svc.cluster.local"):
        assert source.covers(name), name
    for name in ("localhost", "10.0.0.1", "example.com", "api.example.com", "a.b.shop", "orders.shop.cluster.local"):
        assert not source.covers(name), name


def test_a_kubeconfig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "config"
    path.write_text(
        "current-context: dev\n"
        "contexts: [{name: dev, context: {cluster: here, user: me, namespace: shop}}]\n"
        "clusters: [{name: here, cluster: {server: 'http://127.0.0.1:8001'}}]\n"
        "users: [{name: me, user: {token: secret}}]\n"
    )
    monkeypatch.setenv("KUBECONFIG", str(path))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    source = discovery_of("kubernetes://")
    assert isinstance(source, Kubernetes)
    assert (source.url, source.namespace, token_of(source)) == ("http://127.0.0.1:8001", "shop", "secret")
    assert "secret" not in str(source)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    with pytest.raises(ValueError, match="neither in a cluster nor with a kubeconfig"):
        discovery_of("kubernetes://")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)


@given(st.lists(JSON), JSON)
def test_no_address_of_an_endpoint_breaks_anything(addresses: list[Any], port: Any) -> None:
    found = entries_of({"addresses": addresses}, port_of({"ports": [{"port": port}]}, None))
    assert len(found) == len(addresses)
    for one in found:
        if isinstance(one, Instance):
            assert not set(one.host) & set(" /\r\n")


def test_a_slice_without_a_port_of_that_name_has_no_instances(api: KubernetesStandIn, token: Path) -> None:
    other = piece("orders-2", endpoint("10.0.0.2", ready=True))
    other["ports"] = [{"name": "metrics", "port": 9}]
    api.items = [piece("orders-1", endpoint("10.0.0.1", ready=True)), other]
    with Client(f"{api.url}token_file={token}&port=http") as client:
        service_of(client)
        until(lambda: listed(client) == {"10.0.0.1:80"})


def test_a_watch_that_ends_at_once_is_not_begun_again_at_once(token: Path) -> None:
    class Ending(StandIn):
        def answer(self, method: str, path: str, query: dict[str, str], headers: Any) -> tuple[int, Any]:
            return 200, None if "watch" in query else {"metadata": {"resourceVersion": "1"}, "items": []}

    with Ending() as api:
        watch = Kubernetes(f"http://{api.address}", token_file=token).watch("orders", threading.Event())
        assert list(next(iter(watch))) == []
        with pytest.raises(ConnectionError, match="ended at once"):
            next(iter(watch))


def test_a_token_is_never_shown(token: Path) -> None:
    token.write_text("secret\nsecond")
    watch = Kubernetes("http://127.0.0.1:1", token_file=token).watch("orders", threading.Event())
    with pytest.raises(ValueError, match="not shown") as raised:
        next(iter(watch))
    assert "secret" not in str(raised.value)


def test_a_udp_port_is_not_called() -> None:
    ports = [{"name": "dns", "port": 53, "protocol": "UDP"}, {"name": "http", "port": 80, "protocol": "TCP"}]
    assert port_of({"ports": ports}, None) == 80
    assert port_of({"ports": ports[1:]}, "http") == 80
    assert port_of({"ports": [{"name": "http", "port": 8080}]}, None) == 8080  # TCP is the default
    for udp_only in ({"ports": ports[:1]}, {"ports": [{"port": 53, "protocol": "SCTP"}]}):
        with pytest.raises(LookupError):
            port_of(udp_only, None)
    with pytest.raises(LookupError):
        port_of({"ports": ports}, "dns")


def test_a_pod_with_two_families_is_one_server(api: KubernetesStandIn, token: Path) -> None:
    def pod(address: str, name: str) -> dict[str, Any]:
        return {**endpoint(address), "targetRef": {"kind": "Pod", "name": name, "uid": f"uid-{name}"}}

    four = piece("orders-4", pod("127.0.0.1", "a"), pod("127.0.0.2", "b"))
    six = piece("orders-6", pod("fd00::1", "a"), pod("fd00::2", "b"), pod("fd00::3", "c"))
    six["addressType"] = "IPv6"
    api.items = [six, four]
    with Client(f"{api.url}namespace=shop&port=http&token_file={token}") as client:
        balanced: Any = balanced_of(client)
        service_of(balanced)
        until(lambda: len(listed(client)) == 3)
        assert listed(client) == {"127.0.0.1:80", "127.0.0.2:80", "[fd00::3]:80"}


def test_changes_that_come_together_are_taken_together(api: KubernetesStandIn, token: Path) -> None:
    """While a list is put to use others come: they are one."""
    changes: list[Any] = []

    def slow(event: Any) -> None:
        if isinstance(event, InstancesChanged):
            changes.append(event)
            time.sleep(0.1)

    api.items = [piece("orders-1", endpoint("10.0.0.1"))]
    source = f"{api.url}namespace=shop&port=http&token_file={token}"
    with Client(source, observers=[slow]) as client:
        until(lambda: listed(client) == {"10.0.0.1:80"})
        until(lambda: len(api.asked) == 2)
        for number in range(2, 102):
            api.say("MODIFIED", piece("orders-1", endpoint(f"10.0.0.{number}")))
        until(lambda: listed(client) == {"10.0.0.101:80"})
    assert len(changes) <= 5


def test_a_watch_that_is_forbidden(api: KubernetesStandIn, token: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Its list is used, and read again now and then; that is said once."""
    api.items = [piece("orders-1", endpoint("10.0.0.1"))]
    api.watch_status = 403
    with Client(f"{api.url}namespace=shop&port=http&token_file={token}") as client:
        until(lambda: listed(client) == {"10.0.0.1:80"})
        time.sleep(1.0)
        assert 2 <= len([query for _, query in api.asked if "watch" not in query]) <= 6
        service: Any = service_of(client)  # type: ignore[union-attr]
        until(lambda: "403" in (service.problem or ""))  # none, for the moment between the list and the watch
        assert caplog.text.count("may this account list endpointslices?") == 1
        assert "answers again" not in caplog.text
        api.watch_status = 200
        until(lambda: len([query for _, query in api.asked if "watch" in query]) >= 3)
        api.items.append(piece("orders-2", endpoint("10.0.0.2")))
        api.say("ADDED", api.items[1])
        until(lambda: listed(client) == {"10.0.0.1:80", "10.0.0.2:80"}, 10)
