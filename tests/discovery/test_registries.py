"""What registries say, read: no payload breaks a parser, and no bad instance is passed on."""

from __future__ import annotations

import json
import threading
import time
from typing import Any

import httpx
import pytest
from driving import until
from hypothesis import given
from hypothesis import strategies as st
from inside import service_of
from stand_ins import EurekaStandIn, NacosStandIn

from smartclient import Client, Eureka, Instance, Nacos
from smartclient.discovery.eureka import known_of, registry_of, services_of
from smartclient.discovery.nacos import entries_of
from smartclient.discovery.xds.messages import ENDPOINTS, Messages
from smartclient.discovery.zookeeper.curator import value_of as zookeeper_value
from smartclient.testing import Fleet

URL = "http://orders/"
JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=20,
)


def fields(*names: str) -> st.SearchStrategy[dict[str, Any]]:
    return st.dictionaries(st.sampled_from(names), JSON)


def harmless(entry: Any) -> None:
    """What a source yields is an instance, or is refused."""
    try:
        instance = Instance.parse(entry)
    except (ValueError, TypeError):
        return
    assert instance.port is None or 1 <= instance.port <= 65535
    assert not set(instance.host) & set(" /\r\n")
    assert 0 <= instance.weight <= 1e6


CURATOR = fields("name", "id", "address", "port", "sslPort", "payload", "enabled", "serviceType")


@given(st.none() | st.binary() | (JSON | CURATOR).map(lambda said: json.dumps(said).encode()))
def test_no_value_of_zookeeper_breaks_anything(data: bytes | None) -> None:
    value = zookeeper_value("i-1", data)
    if value is not None:
        harmless(value)


def listed(client: Client) -> list[str]:
    return sorted(str(node.instance) for node in service_of(client).nodes)


# ---- Eureka: against a stand-in ----


def test_eureka_by_deltas() -> None:
    with EurekaStandIn() as server, Fleet(2) as fleet:
        server.put(fleet.addresses[0], metadata={"zone": "eu", "weight": "3", "@class": "x"})
        server.put("10.0.0.9:80", app="USERS")
        with Client(f"eureka://{server.address}/eureka?interval=0.05") as client:
            assert client.get(URL).status_code == 200
            [instance] = [node.instance for node in service_of(client).nodes]
            assert (instance.zone, instance.weight) == ("eu", 3.0)
            assert dict(instance.metadata) == {"zone": "eu", "weight": "3"}
            server.put(fleet.addresses[1])
            until(lambda: len(listed(client)) == 2)
            server.put(fleet.addresses[0], status="OUT_OF_SERVICE")
            until(lambda: listed(client) == [fleet.addresses[1]])
            server.drop(fleet.addresses[0])
            server.put("10.0.0.8:80", app="USERS", vipAddress="users,Orders")
            until(lambda: listed(client) == sorted(["10.0.0.8:80", fleet.addresses[1]]))
            assert server.asked.count("/eureka/apps") == 1  # all else came by deltas


@pytest.mark.parametrize("how", ["lost", "none"])
def test_eureka_without_good_deltas_fetches_all(how: str) -> None:
    with EurekaStandIn() as server, Fleet(2) as fleet:
        server.lost, server.deltas = how == "lost", how != "none"
        server.put(fleet.addresses[0])
        with Client(Eureka(f"{server.address}/eureka", interval=0.05)) as client:
            assert client.get(URL).status_code == 200
            server.put(fleet.addresses[1])
            until(lambda: len(listed(client)) == 2)


def test_eureka_is_in_trouble_and_comes_back() -> None:
    with EurekaStandIn() as server, Fleet(2) as fleet:
        server.put(fleet.addresses[0])
        source = Eureka(["127.0.0.1:1/eureka", f"{server.address}/eureka"], interval=0.05, user="me", password="x")
        with Client(source) as client:
            assert client.get(URL).status_code == 200
            server.status = 401
            until(lambda: "answered 401: as told (user and password?)" in (service_of(client).problem or ""))
            assert client.get(URL).status_code == 200
            server.status = 200
            server.put(fleet.addresses[1])
            until(lambda: len(listed(client)) == 2)


def test_many_services_share_one_fetch() -> None:
    with EurekaStandIn() as server, Client(Eureka(f"{server.address}/eureka", interval=5)) as client:
        for number in range(20):
            server.put("127.0.0.1:1", app=f"S{number}")
        for number in range(20):
            with pytest.raises(httpx.ConnectError):
                client.get(f"http://s{number}/")
        assert server.asked == ["/eureka/apps"]


def test_eureka_does_not_put_deltas_on_an_old_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their hash only counts: a registry that was replaced one for one looks the same."""
    monkeypatch.setattr("smartclient.discovery.eureka.DELTAS_REACH", 0.0)
    with EurekaStandIn() as server:
        server.put("10.0.0.1:80")
        source = Eureka(f"{server.address}/eureka", interval=0.01)
        assert [one.host for one in next(iter(source.watch("orders", threading.Event())))] == ["10.0.0.1"]
        server.drop("10.0.0.1:80")
        server.put("10.0.0.2:80")
        server.forget()
        time.sleep(0.05)
        assert [one.host for one in next(iter(source.watch("orders", threading.Event())))] == ["10.0.0.2"]


def test_ports_of_eureka() -> None:
    ports = {"port": {"$": 80, "@enabled": "true"}, "securePort": {"$": "8443", "@enabled": "true"}}
    one = {"hostName": "a.example", "status": "UP", "vipAddress": "orders", **ports}
    made = known_of("ORDERS", one, False).instance
    assert (str(made), made.id) == ("a.example:80", "a.example")
    assert str(known_of("ORDERS", one, True).instance) == "https://a.example:8443"
    one["port"] = {"$": 80, "@enabled": "false"}
    assert str(known_of("ORDERS", one, False).instance) == "https://a.example:8443"
    assert known_of("USERS", one, False).names == {"users", "orders"}  # its application's name counts, too


EUREKA_INSTANCE = fields(
    "instanceId", "hostName", "ipAddr", "status", "port", "securePort", "vipAddress", "metadata", "dataCenterInfo"
).map(lambda one: {"status": "UP", "vipAddress": "orders", **one})
EUREKA = JSON | st.fixed_dictionaries(
    {"application": JSON | st.fixed_dictionaries({"name": JSON, "instance": st.lists(EUREKA_INSTANCE) | JSON})}
)


@given(EUREKA)
def test_no_answer_of_eureka_breaks_anything(said: Any) -> None:
    try:
        registry = registry_of(said, True)
    except AttributeError:  # no object at all: `_current` says so
        assert not isinstance(said, dict)
        return
    for entries in services_of(registry).values():
        for entry in entries:
            harmless(entry)


# ---- Nacos: against a stand-in ----


@pytest.mark.parametrize("api", ["v1", "v2", "v3"])
def test_nacos(api: str) -> None:
    with NacosStandIn() as server, Fleet(2) as fleet:
        server.put(fleet.addresses[0], weight=2.5, instanceId="a", metadata={"zone": "eu"})
        server.put("10.0.0.8:80", healthy=False)
        server.put("10.0.0.9:80", enabled=False)
        server.put("10.0.0.7:0")
        url = f"nacos://{server.address}?api={api}&interval=0.05&namespace=n1&group=g&cluster=a&cluster=b"
        with Client(url) as client:
            assert client.get(URL).status_code == 200
            [one] = [node.instance for node in service_of(client).nodes]
            assert (one.weight, one.zone, one.id) == (2.5, "eu", "a")
            assert dict(one.metadata) == {"zone": "eu", "cluster": "DEFAULT"}
            server.put(fleet.addresses[1])
            until(lambda: len(listed(client)) == 2)
        assert server.queries[0] == {"serviceName": "orders", "namespaceId": "n1", "groupName": "g",
                                     "clusters" if api == "v1" else "clusterName": "a,b"}  # fmt: skip


def test_nacos_asks_for_a_password() -> None:
    with NacosStandIn("right") as server, Fleet(2) as fleet:
        server.put(fleet.addresses[0])
        with Client(Nacos(server.address, user="shop", password="right", interval=0.05)) as client:
            assert client.get(URL).status_code == 200
            server.token = "t2"  # the first has run out: it logs in anew
            server.put(fleet.addresses[1])
            until(lambda: len(listed(client)) == 2)
            server.password = "another"
            server.token = "t3"
            until(lambda: "unknown user! (user and password?)" in (service_of(client).problem or ""))
            assert client.get(URL).status_code == 200


def test_nacos_refuses() -> None:
    with pytest.raises(ValueError, match="access denied"):
        entries_of({"code": 10001, "message": "access denied", "data": None})


NACOS_HOST = fields("ip", "port", "weight", "healthy", "enabled", "metadata", "clusterName", "instanceId")


@given(JSON | st.fixed_dictionaries({"hosts": st.lists(NACOS_HOST | JSON)}) | st.fixed_dictionaries({"code": JSON}))
def test_no_answer_of_nacos_breaks_anything(said: Any) -> None:
    try:
        entries = entries_of(said)
    except ValueError:
        return
    for entry in entries:
        harmless(entry)


# ---- xDS: what messages mean (the live tests have a control plane, and Envoy) ----

WEIGHTS = st.none() | st.integers(0, 2**32 - 1)
ENDPOINT = st.fixed_dictionaries(
    {
        "endpoint": st.fixed_dictionaries(
            {
                "address": st.fixed_dictionaries(
                    {
                        "socket_address": st.fixed_dictionaries(
                            {"address": st.text(max_size=20), "port_value": st.integers(0, 2**32 - 1)}
                        )
                    }
                )
                | st.just({"pipe": {"path": "/run/x"}})
                | st.just({})
            }
        ),
        "health_status": st.integers(0, 9),
        "load_balancing_weight": WEIGHTS,
    }
)
ASSIGNMENT = st.fixed_dictionaries(
    {
        "cluster_name": st.just("orders"),
        "endpoints": st.lists(
            st.fixed_dictionaries(
                {
                    "lb_endpoints": st.lists(ENDPOINT, max_size=4),
                    "load_balancing_weight": WEIGHTS,
                    "priority": st.integers(0, 2**32 - 1),
                }
            ),
            max_size=4,
        ),
        "policy": st.fixed_dictionaries(
            {
                "drop_overloads": st.lists(
                    st.fixed_dictionaries(
                        {
                            "drop_percentage": st.fixed_dictionaries(
                                {"numerator": st.integers(0, 2**32 - 1), "denominator": st.integers(0, 5)}
                            )
                        }
                    ),
                    max_size=3,
                )
            }
        ),
    }
)
MESSAGES = Messages("me", "tests")


@given(ASSIGNMENT)
def test_no_assignment_breaks_anything(said: Any) -> None:
    from envoy.config.endpoint.v3 import endpoint_pb2
    from google.protobuf import json_format

    message = json_format.ParseDict(said, endpoint_pb2.ClusterLoadAssignment())
    made = MESSAGES.assignment(message)
    assert 0 <= made.drop <= 1
    for entry in made:
        harmless(entry)


@given(st.text(max_size=100) | JSON.map(json.dumps))
def test_no_answer_by_rest_breaks_anything(content: str) -> None:
    try:
        response = MESSAGES.from_json(content)
    except ValueError:
        return
    found, problem = MESSAGES.assignments(response)
    assert found or problem is None or problem


@given(st.lists(st.tuples(st.text(max_size=60), st.binary(max_size=60)), max_size=3))
def test_no_resource_breaks_anything(resources: list[tuple[str, bytes]]) -> None:
    from envoy.service.discovery.v3 import discovery_pb2

    response = discovery_pb2.DiscoveryResponse()
    for url, value in resources:
        response.resources.add(type_url=url, value=value)
    response.resources.add(type_url=ENDPOINTS, value=b"\xff")
    found, problem = MESSAGES.assignments(response)
    assert not found
    assert problem


def test_nacos_names_have_no_case() -> None:
    with NacosStandIn() as nacos, Fleet(1) as fleet:
        nacos.put(fleet.addresses[0], "Orders")
        with Client(f"nacos://{nacos.address}") as client:
            assert client.get("http://ORDERS/").status_code == 200
