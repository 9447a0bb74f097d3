"""The Consul source against a real agent."""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from inside import balanced_of, service_of

import smartclient
from smartclient import Client, Consul, Instance, NoInstances, Policy
from smartclient.testing import Fleet
from smartclient.testing.demo_server import DemoServer

pytestmark = pytest.mark.live
ANSWER = 5.0


class Watch:
    """The lists that a source yields, in a thread."""

    def __init__(self, source: Consul, service: str = "orders") -> None:
        self.lists: list[list[Instance]] = []
        self.times: list[float] = []
        self.error: BaseException | None = None
        self.stop = threading.Event()
        self._source = source
        self._thread = threading.Thread(target=self._run, args=(service,))
        self._thread.start()

    def _run(self, service: str) -> None:
        try:
            for instances in self._source.watch(service, self.stop):
                self.lists.append(list(instances))  # type: ignore[arg-type]
                self.times.append(time.monotonic())
        except BaseException as error:
            if not self.stop.is_set():
                self.error = error

    def until(self, condition: Any, seconds: float = ANSWER) -> None:
        _until(lambda: bool(self.lists) and condition(self.lists[-1]), seconds)

    def close(self) -> None:
        self.stop.set()
        began = time.monotonic()
        self._source.interrupt(self.stop)
        self._thread.join(5)
        assert not self._thread.is_alive()
        assert time.monotonic() - began < 0.5


@contextmanager
def watching(source: Consul, service: str = "orders") -> Iterator[Watch]:
    watch = Watch(source, service)
    try:
        yield watch
    finally:
        watch.close()


def test_what_is_read_of_an_instance(agents: Any) -> None:
    agent = agents()
    agent.register("orders", 8080, Tags=["a", "b"], Meta={"version": "v2", "zone": "eu-1a"},
                   Weights={"Passing": 7, "Warning": 1})  # fmt: skip
    agent.put("/v1/agent/service/register", {"Name": "orders", "ID": "six", "Address": "::1", "Port": 81})
    agent.put("/v1/agent/service/register", {"Name": "orders", "ID": "bare", "Port": 82})
    with watching(Consul(agent.address)) as watch:
        watch.until(lambda instances: len(instances) == 3)
        by_id = {instance.id: instance for instance in watch.lists[-1]}
    first = by_id["orders-8080"]
    assert (first.host, first.port, first.weight, first.zone) == ("127.0.0.1", 8080, 7.0, "eu-1a")
    assert (first.metadata["version"], first.metadata["tags"]) == ("v2", "a,b")
    assert by_id["six"].host == "::1"
    assert by_id["bare"].host == "127.0.0.1"  # the node's


@pytest.mark.parametrize("stale", [False, True])
def test_changes_wake_a_blocking_query(agents: Any, stale: bool) -> None:
    agent = agents()
    agent.register("orders", 1)
    with watching(Consul(agent.address, stale=stale)) as watch:
        watch.until(lambda instances: len(instances) == 1)
        for port in (2, 3, 4):
            began = time.monotonic()
            agent.register("orders", port)
            watch.until(lambda instances, n=port: len(instances) == n)
            assert watch.times[-1] - began < 1
        agent.deregister("orders-2")
        watch.until(lambda instances: len(instances) == 3)
        assert len(watch.lists) <= 6  # no busy loop


def test_tags_filter_and_checks(agents: Any) -> None:
    agent = agents()
    agent.register("orders", 1, Tags=["a"])
    agent.register("orders", 2, Tags=["a", "b"], Meta={"version": "v2"})
    agent.register("orders", 3, Tags=["b"], Check={"TTL": "60s"})  # critical until it is passed
    for keywords, ports in (
        ({"tag": "a"}, [1, 2]),
        ({"tag": ["a", "b"]}, [2]),
        ({"filter": 'Service.Meta.version == "v2"'}, [2]),
        ({"passing": False}, [1, 2, 3]),
        ({"near": "_agent", "dc": "dc1"}, [1, 2]),
    ):
        with watching(Consul(agent.address, **keywords)) as watch:  # type: ignore[arg-type]
            watch.until(lambda instances, ports=ports: sorted(i.port or 0 for i in instances) == ports)


def test_a_wait_that_ends_is_no_change(agents: Any) -> None:
    agent = agents()
    agent.register("orders", 1)
    with watching(Consul(agent.address, wait=0.3)) as watch:
        watch.until(lambda instances: len(instances) == 1)
        time.sleep(1.5)
        assert len(watch.lists) == 1


def test_restart_of_the_agent(agents: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Stopped, started with an empty catalogue, registered again: the last good list stays, new data is seen."""
    agent = agents()
    with Fleet(2) as fleet, Client(Consul(agent.address)) as client:
        for server in fleet.servers:
            agent.register("orders", server.port)
        assert client.get("http://orders/").status_code == 200
        agent.stop()
        for _ in range(20):
            assert client.get("http://orders/").status_code == 200
            time.sleep(0.02)
        agent.start()
        for _ in range(20):
            assert client.get("http://orders/").status_code == 200
            time.sleep(0.05)
        agent.register("orders", fleet[1].port)
        _until(lambda: [node.instance.port for node in _nodes(client)] == [fleet[1].port])
        assert client.get("http://orders/").status_code == 200


def test_a_silent_agent_is_survived(agents: Any) -> None:
    agent = agents()
    with Fleet(1) as fleet:
        agent.register("orders", fleet[0].port)
        client = Client(Consul(agent.address))
        assert client.get("http://orders/").status_code == 200
        agent.signal(signal.SIGSTOP)
        assert client.get("http://orders/").status_code == 200
        began = time.monotonic()
        client.close()
        assert time.monotonic() - began < 0.5
        agent.signal(signal.SIGCONT)


@pytest.fixture
def secured(agents: Any) -> Any:
    agent = agents(
        acl={"enabled": True, "default_policy": "deny", "tokens": {"master": "4ad9b3a6-0000-4000-8000-000000000001"}},
        primary_datacenter="dc1",
    )
    agent.token = "4ad9b3a6-0000-4000-8000-000000000001"
    ends_at = time.monotonic() + 15
    while True:
        try:
            agent.register("orders", 1)
            return agent
        except Exception:
            if time.monotonic() > ends_at:
                raise
            time.sleep(0.1)


def test_the_token_goes_into_the_header_only(secured: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with watching(Consul(secured.address, token=secured.token)) as watch:
        watch.until(lambda instances: len(instances) == 1)
    with watching(Consul(secured.address)) as watch:  # anonymous reads see nothing, and are told nothing
        watch.until(lambda instances: instances == [])
    assert any(record.name.startswith("httpcore") for record in caplog.records)
    assert not any(record.name == "httpx" for record in caplog.records)  # it would say URLs
    assert not any(secured.token in record.getMessage() for record in caplog.records)


def test_a_bad_token_is_told_apart(secured: Any) -> None:
    with Client(Consul(secured.address, token="4ad9b3a6-0000-4000-8000-00000000beef"), timeout=0.5) as client:
        with pytest.raises(NoInstances, match=r"403.*ACL token"):
            client.get("http://orders/")


def test_a_bad_filter_is_told(agents: Any) -> None:
    agent = agents()
    with Client(Consul(agent.address, filter="Service.Nonsense =="), timeout=0.5) as client:
        with pytest.raises(NoInstances, match=r"answered [45]00"):
            client.get("http://orders/")


def test_no_agent_at_all() -> None:
    with Client("consul://127.0.0.1:1", timeout=0.3) as client:
        with pytest.raises(NoInstances, match=r"consul at 127.0.0.1:1 .* refused"):
            client.get("http://orders/")


def test_url_form_and_environment(agents: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    agent = agents()
    with Fleet(1) as fleet:
        agent.register("orders", fleet[0].port, Tags=["x"])
        agent.register("users", fleet[0].port)
        with Client(f"consul://{agent.address}?tag=x&services=orders") as client:
            assert client.get("http://orders/").status_code == 200
        monkeypatch.setenv("SMARTCLIENT_DISCOVERY", f"consul://{agent.address}")
        with Client() as client:
            assert client.get("http://users.service.consul/").status_code == 200
        monkeypatch.setenv("SMARTCLIENT_DISCOVERY", "consul://")
        monkeypatch.setenv("CONSUL_HTTP_ADDR", f"http://{agent.address}")
        with Client() as client:
            assert client.get("http://users/").status_code == 200


def test_an_unknown_service_is_asked_again(agents: Any) -> None:
    agent = agents()
    with Fleet(1) as fleet, Client(Consul(agent.address)) as client:
        threads = threading.active_count()
        for n in range(30):
            with pytest.raises(NoInstances, match="lists none"):
                client.get(f"http://made-up-{n}/")
        _until(lambda: threading.active_count() <= threads)
        agent.register("made-up-1", fleet[0].port)
        time.sleep(1.1)
        assert client.get("http://made-up-1/").status_code == 200


@pytest.mark.parametrize("driver", [("sync", "httpx"), ("asyncio", "httpx"), ("trio", "httpx2")], indirect=True)
def test_no_call_fails(driver: Any, agents: Any) -> None:
    """The issue's own scenario: killed, stopped, deregistered, added, agent stopped, restarted empty, registered
    again.
    """
    agent = agents()
    servers = [DemoServer() for _ in range(6)]
    five, sixth = servers[:5], servers[5]
    for server in five:
        agent.register("orders", server.port)
    policy = Policy(attempt_timeout=0.5)
    with driver.client(Consul(agent.address), policy=policy) as client:
        traffic = Traffic(client)
        try:
            time.sleep(0.5)
            five[0].kill()
            time.sleep(0.7)
            five[1].pause()
            time.sleep(1.5)

            agent.deregister(f"orders-{five[2].port}")
            time.sleep(1)
            after = time.monotonic()
            time.sleep(0.5)
            assert traffic.last_seen(five[2].port) < after

            began = time.monotonic()
            agent.register("orders", sixth.port)
            _until(lambda: traffic.last_seen(sixth.port) > began, 1)

            agent.stop()
            time.sleep(1)
            agent.start()
            time.sleep(1)
            for server in (five[1], five[3], five[4], sixth):
                agent.register("orders", server.port)
            five[1].resume()
            resumed = time.monotonic()
            # Ejected twice, or shunned by the balancer for its time-outs: both may take most of a minute.
            _until(lambda: traffic.last_seen(five[1].port) > resumed, 90)
        finally:
            traffic.stop()
            for server in servers:
                server.stop()
        assert traffic.failures == []
        assert traffic.calls > 200
        nodes = client.nodes()
        assert all(node.in_flight == 0 for node in nodes)


class Traffic:
    """Steady calls from some threads; where from each answer came, and when."""

    def __init__(self, client: Any, threads: int = 4) -> None:
        self.calls = 0
        self.failures: list[Any] = []
        self._client = client
        self._seen: dict[int, float] = {}
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(threads)]
        for thread in self._threads:
            thread.start()

    def last_seen(self, port: int) -> float:
        return self._seen.get(port, 0.0)

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        while not self._stop.wait(0.01):
            try:
                response = self._client.get("http://orders/")
                if response.status_code != 200:
                    self.failures.append(response)
                story = smartclient.report(response)
                assert story is not None
                self._seen[story.attempts[-1].instance.port or 0] = time.monotonic()
            except Exception as error:
                self.failures.append(error)
            self.calls += 1


def _nodes(client: Any) -> Any:
    transport = balanced_of(client)
    return service_of(transport).nodes


def _until(condition: Any, seconds: float = ANSWER) -> None:
    ends_at = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < ends_at, "did not happen in time"
        time.sleep(0.01)
