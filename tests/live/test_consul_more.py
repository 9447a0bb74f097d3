"""The rest of what the Consul source does, against a real agent: registration, failover, sockets, queries, tokens."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from driving import in_child, until
from inside import balanced_of, service_of, watcher_of

from smartclient import Client, Consul
from smartclient.discovery.consul import register
from smartclient.testing import Fleet

pytestmark = pytest.mark.live
URL = "http://orders/"


def nodes(client: Client) -> Any:
    balanced: Any = balanced_of(client)
    return service_of(balanced).nodes


def weights(client: Client) -> dict[str | None, float]:
    return {node.instance.id: node.instance.weight for node in nodes(client)}


def test_register(agents: Any) -> None:
    agent = agents()
    with Fleet(1) as fleet, Client(Consul(agent.address)) as client:
        with register(
            "orders", fleet.addresses[0], consul=agent.address, tags=["prod"], meta={"version": "v2"}, weight=3, ttl=1.5
        ) as name:
            until(lambda: len(nodes(client)) == 1, 10)
            [node] = nodes(client)
            assert (node.instance.id, node.instance.weight, node.instance.metadata["version"]) == (name, 3.0, "v2")
            time.sleep(3)  # twice the time to live: it is kept alive
            assert client.get(URL).status_code == 200
            # An agent that has forgotten us is told again.
            httpx.put(f"http://{agent.address}/v1/agent/service/deregister/{name}")
            time.sleep(1)
            until(lambda: httpx.get(f"http://{agent.address}/v1/agent/service/{name}").status_code == 200)
        assert httpx.get(f"http://{agent.address}/v1/agent/service/{name}").status_code == 404


@pytest.mark.parametrize("arguments", [{"address": "10.0.0.1"}, {"address": "10.0.0.1:80", "ttl": 0}])
def test_register_checks_its_arguments(arguments: Any) -> None:
    with pytest.raises(ValueError, match="register: "):
        with register("orders", **arguments):
            pass


def test_warnings_weigh_less_and_critical_ones_nothing(agents: Any) -> None:
    agent = agents()
    for port, state in ((1, "passing"), (2, "warning"), (3, "critical")):
        check = {"TTL": "60s", "Status": state}
        agent.register("orders", port, ID=state, Weights={"Passing": 10, "Warning": 2}, Check=check)
    with Client(Consul(agent.address, passing=False)) as client:
        until(lambda: nodes(client) and weights(client) == {"passing": 10.0, "warning": 2.0, "critical": 0.0})


def test_a_datacenter_that_is_not_there_is_passed_over(agents: Any) -> None:
    agent = agents()
    with Fleet(1) as fleet:
        agent.register("orders", fleet[0].port)
        with Client(f"consul://{agent.address}?dc=nowhere&dc=dc1") as client:
            assert client.get(URL).status_code == 200


def test_a_unix_socket(agents: Any, tmp_path: Path) -> None:
    agent = agents()
    with Fleet(1) as fleet:
        agent.register("orders", fleet[0].port)
        path = tmp_path / "agent.sock"
        with forwarding(path, agent.port):
            with Client(Consul(f"unix://{path}")) as client:
                assert client.get(URL).status_code == 200
                agent.register("orders", 1, ID="other")
                until(lambda: len(nodes(client)) == 2)
                watcher = watcher_of(balanced_of(client))
                time.sleep(0.2)
                client.refresh()
                until(lambda: not watcher.alive, 1)  # its wait can be ended


def test_a_registration_outlives_a_token_file_that_is_away(
    agents: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = agents()
    path = tmp_path / "token"
    path.write_text("any\n")
    monkeypatch.setenv("CONSUL_HTTP_ADDR", agent.address)
    monkeypatch.setenv("CONSUL_HTTP_TOKEN_FILE", str(path))
    with Client(Consul(agent.address, token="")) as client, register("orders", "127.0.0.1:1", ttl=1):
        until(lambda: len(nodes(client)) == 1)
        path.unlink()
        time.sleep(0.8)
        path.write_text("any\n")
        time.sleep(2.5)
        assert len(nodes(client)) == 1
        thing = register("child", "127.0.0.1:2", ttl=1)
        thing.__enter__()
        in_child(lambda: thing.__exit__(None, None, None))
        assert "child" in httpx.get(f"http://{agent.address}/v1/catalog/services", trust_env=False).json()
        thing.__exit__(None, None, None)
        assert "child" not in httpx.get(f"http://{agent.address}/v1/catalog/services", trust_env=False).json()


@contextmanager
def forwarding(path: Path, port: int) -> Iterator[None]:
    """A Unix socket in front of a port (the agent's own would take a configuration that the others have not)."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()
    threads: list[threading.Thread] = []
    sockets = [listener]

    def run(work: Any, *arguments: Any) -> None:
        threads.append(threading.Thread(target=work, args=arguments))
        threads[-1].start()

    def pump(source: socket.socket, target: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def accept() -> None:
        while True:
            try:
                here, _ = listener.accept()
            except OSError:
                return
            there = socket.create_connection(("127.0.0.1", port))
            sockets.extend((here, there))
            run(pump, here, there)
            run(pump, there, here)

    run(accept)
    try:
        yield
    finally:
        for one in sockets:
            try:
                one.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
        for thread in threads:
            thread.join(5)
        for one in sockets:
            one.close()


def test_a_prepared_query(agents: Any) -> None:
    agent = agents()
    with Fleet(1) as fleet:
        agent.register("shop-orders", fleet[0].port)
        query = {"Name": "orders", "Service": {"Service": "shop-orders", "OnlyPassing": True}}
        httpx.post(f"http://{agent.address}/v1/query", json=query).raise_for_status()
        with Client(Consul(agent.address, prepared=True, interval=0.1)) as client:
            assert client.get(URL).status_code == 200
            agent.register("shop-orders", 1, ID="other")
            until(lambda: len(nodes(client)) == 2)


def test_the_agents_cache(agents: Any) -> None:
    agent = agents()
    with Fleet(1) as fleet:
        agent.register("orders", fleet[0].port)
        with Client(f"consul://{agent.address}?cached&stale&max_stale=5") as client:
            assert client.get(URL).status_code == 200
            agent.register("orders", 1, ID="other")
            until(lambda: len(nodes(client)) == 2)


def test_a_token_in_a_file_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "token"
    path.write_text("first\n")
    monkeypatch.setenv("CONSUL_HTTP_TOKEN_FILE", str(path))
    monkeypatch.setenv("CONSUL_HTTP_ADDR", "consul.example:8501")
    monkeypatch.setenv("CONSUL_HTTP_SSL", "true")
    source = Consul()
    assert str(source.url) == "https://consul.example:8501"
    with source.agent() as agent:
        assert agent.headers["X-Consul-Token"] == "first"
    path.write_text("second\n")
    with source.agent() as agent:
        assert agent.headers["X-Consul-Token"] == "second"


@pytest.mark.parametrize("accepted", [200, 16], ids=["our limit", "the agent's limit"])
def test_more_services_than_connections(agents: Any, monkeypatch: pytest.MonkeyPatch, accepted: int) -> None:
    """Their watches take turns, also where other processes have left fewer connections than we would like."""
    monkeypatch.setattr("smartclient.discovery.consul.agent.TURN", 0.5)
    agent = agents(limits={"http_max_conns_per_client": accepted})
    names = [f"s{number}" for number in range(40)]
    for name in names:
        agent.register(name, 80)
    source = Consul(agent.address, connections=20 if accepted == 200 else 128)
    with Client(source) as client:
        services = {name: service_of(client, name) for name in names}
        until(lambda: all(len(service.nodes) == 1 for service in services.values()), 20)
        assert connections_to(agent.port) <= min(20, accepted)
        for name in names:
            put(agent, name, 81)
        until(lambda: all(len(service.nodes) == 2 for service in services.values()), 20)
        assert connections_to(agent.port) <= min(20, accepted)
        if accepted == 200:
            assert not any(service.problem for service in services.values())
        for name in names[5:]:
            watcher_of(balanced_of(client), name).stop()
        until(lambda: connections_to(agent.port) <= 5)
        agent.stop()
        agent.start()  # with nothing registered
        agent.register("s0", 82)
        until(lambda: {node.instance.port for node in services["s0"].nodes} == {82}, 5)


def test_a_forked_child_watches_on_connections_of_its_own(agents: Any) -> None:
    agent = agents()
    with Fleet(2) as fleet, Client(Consul(agent.address)) as client:
        agent.register("orders", fleet[0].port)
        assert client.get(URL).status_code == 200

        def child() -> None:
            assert client.get(URL).status_code == 200
            put(agent, "orders", fleet[1].port)
            until(lambda: len(nodes(client)) == 2)

        in_child(child)
        until(lambda: len(nodes(client)) == 2)
        agent.deregister(f"orders-{fleet[0].port}")
        until(lambda: len(nodes(client)) == 1)


def put(agent: Any, name: str, port: int) -> None:
    """As `agent.register`, also where the agent accepts no more connections from our address."""
    transport = httpx.HTTPTransport(local_address="127.0.0.2")
    with httpx.Client(transport=transport) as client:
        said = {"Name": name, "ID": f"{name}-{port}", "Address": "127.0.0.1", "Port": port}
        client.put(f"http://{agent.address}/v1/agent/service/register", json=said).raise_for_status()


def connections_to(port: int) -> int:
    """Those of this process: established, to a port of 127.0.0.1."""
    own = f":{port:04X}"
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    pairs = [line.split() for line in lines]
    return sum(pair[2] == f"0100007F{own}" and pair[1].startswith("0100007F") and pair[3] == "01" for pair in pairs)


def test_names_have_no_case(agents: Any) -> None:
    agent = agents()
    with Fleet(1) as fleet, register("Orders", fleet.addresses[0], consul=agent.address):
        with Client(Consul(agent.address)) as client:
            assert client.get("http://ORDERS/").status_code == 200


def test_the_nearest_third_is_used_first(agents: Any) -> None:
    agent = agents()
    with Fleet(6) as fleet:
        for number, address in enumerate(fleet.addresses):
            host, _, port = address.partition(":")
            service = {"Name": "orders", "ID": str(number), "Address": host, "Port": int(port)}
            httpx.put(f"http://{agent.address}/v1/agent/service/register", json=service).raise_for_status()
        with Client(Consul(agent.address, near="_agent")) as client:
            for _ in range(30):
                assert client.get(URL).status_code == 200
            assert sorted(node.instance.priority for node in nodes(client)) == [0, 0, 1, 1, 1, 1]
            assert sum(bool(server.received) for server in fleet.servers) == 2
