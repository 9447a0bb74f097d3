"""Metrics: what is counted, how labels are bounded, several processes, and a real Prometheus."""

from __future__ import annotations

import gc
import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import httpx
import pytest
from agent import free_port
from driving import needs, until
from prometheus_client import CollectorRegistry, generate_latest, start_http_server

from smartclient import Circuit, Client, Hedge, Limits, Policy, Retry, RetryBudget
from smartclient.prometheus import OTHER, Metrics
from smartclient.testing import FAILING, SILENT, ScriptedDiscovery

EXAMPLES = Path(__file__).parents[1] / "examples" / "observability"
URL = "http://orders/v1"
ANSWERING = httpx.MockTransport(lambda _: httpx.Response(200))


class Counted:
    """Metrics, and what they say."""

    def __init__(self, **keywords: Any) -> None:
        self.registry = CollectorRegistry()
        self.metrics = Metrics(self.registry, **keywords)

    def __getitem__(self, series: str) -> float | None:
        name, _, labels = series.partition("{")
        pairs = dict(re.findall(r'(\w+)="([^"]*)"', labels))
        return self.registry.get_sample_value(name, pairs)


@pytest.fixture
def counted() -> Counted:
    return Counted()


def test_calls_and_attempts(driver: Any, fleet: Any, counted: Counted) -> None:
    servers = fleet(2)
    servers[0].behave(FAILING)
    policy = Policy("round_robin", outlier=None)
    with driver.client({"orders": servers.addresses}, policy=policy, observers=[counted.metrics]) as client:
        for _ in range(10):
            client.get(URL)
        assert counted['smartclient_calls_total{service="orders",method="GET",outcome="response"}'] == 10
        assert counted['smartclient_call_duration_seconds_count{service="orders",method="GET"}'] == 10
        attempts = 'smartclient_attempts_total{service="orders",kind="%s",outcome="%s"}'
        assert counted[attempts % ("first", "failure")] == counted[attempts % ("retry", "success")] == 5
        assert counted['smartclient_attempt_duration_seconds_count{service="orders"}'] == 15
        new = counted['smartclient_connections_total{service="orders",reused="false"}'] or 0
        used_again = counted['smartclient_connections_total{service="orders",reused="true"}'] or 0
        assert (new + used_again, new) == (15, 6)  # one that is discarded unread is closed
        assert counted['smartclient_in_flight{service="orders"}'] == 0
        held = client.open("GET", URL)
        assert counted['smartclient_in_flight{service="orders"}'] == 1
        client.finish(held)
        assert counted['smartclient_in_flight{service="orders"}'] == 0


def test_what_goes_wrong_is_counted_while_everything_is_down(fleet: Any, counted: Counted) -> None:
    """The panel that showed 0 % errors."""
    source = ScriptedDiscovery({"orders": fleet(1).addresses, "empty": []}, grace=0.0)
    lost = 'smartclient_calls_total{service="%s",method="GET",outcome="no_instances"}'
    with Client(source, timeout=0.2, observers=[counted.metrics]) as client:
        client.get(URL)
        source.publish("orders", [])

        def fails(url: str) -> bool:
            try:
                client.get(url)
            except httpx.ConnectError:
                return True
            return False

        until(lambda: fails(URL))
        assert counted[lost % "orders"] == 1
        assert fails("http://empty/")
        assert fails("http://never-heard-of/")
        assert counted[lost % OTHER] == 2


@pytest.mark.parametrize(
    ("policy", "series"),
    [
        (Policy(limits=Limits(max_in_flight=1, queue=0)), 'calls_refused_total{service="orders",reason="limits"}'),
        (
            Policy(circuit=Circuit(1, probe=60), retry=None, outlier=None),
            'calls_refused_total{service="orders",reason="circuit"}',
        ),
        (
            Policy(retry=Retry(budget=RetryBudget(0.0, min_per_second=0.0)), outlier=None),
            'retries_denied_total{service="orders",reason="budget"}',
        ),
    ],
    ids=["limits", "circuit", "budget"],
)
def test_refusals_and_denials(fleet: Any, counted: Counted, policy: Policy, series: str) -> None:
    with Client({"orders": fleet(1, FAILING).addresses}, policy=policy, observers=[counted.metrics]) as client:
        with client.stream("GET", URL):
            for _ in range(2):
                try:
                    client.get(URL)
                except httpx.HTTPError:
                    pass
    assert counted[f"smartclient_{series}"]


def test_ejections_and_states(fleet: Any, counted: Counted) -> None:
    servers = fleet(3)
    servers[0].behave(FAILING)
    with Client({"orders": servers.addresses}, policy=Policy("round_robin"), observers=[counted.metrics]) as client:
        for _ in range(40):
            client.get(URL)
        assert counted['smartclient_ejections_total{service="orders",rule="consecutive_5xx"}'] == 1
        states = {state: counted[f'smartclient_instances{{service="orders",state="{state}"}}']
                  for state in ("usable", "ejected", "paused")}  # fmt: skip
        assert states == {"usable": 2, "ejected": 1, "paused": 0}
        assert (counted['smartclient_discovery_age_seconds{service="orders"}'] or 0) > 0
        assert (counted['smartclient_retry_budget{service="orders"}'] or 0) > 90
        assert counted['smartclient_circuit_open{service="orders"}'] is None  # it has none


def test_a_failing_registry(fleet: Any, counted: Counted) -> None:
    source = ScriptedDiscovery({"orders": fleet(1).addresses})
    with Client(source, observers=[counted.metrics]) as client:
        client.get(URL)
        source.fail("orders", ConnectionError("down"))
        until(lambda: counted['smartclient_discovery_failures_total{service="orders"}'])


def test_labels_are_bounded(counted: Counted) -> None:
    with Client({"orders": ["10.0.0.1:80"]}, transport=ANSWERING, observers=[counted.metrics]) as client:
        for number in range(50):
            client.request(f"X-{number}", URL)
    assert counted[f'smartclient_calls_total{{service="orders",method="{OTHER}",outcome="response"}}'] == 50
    source = ScriptedDiscovery({f"name-{number}": [] for number in range(50)})
    with Client(source, observers=[counted.metrics]) as client:
        for number in range(50):
            with pytest.raises(httpx.ConnectError):
                client.get(f"http://name-{number}/")
    services = {sample.labels["service"] for family in counted.registry.collect() for sample in family.samples
                if "service" in sample.labels}  # fmt: skip
    assert services == {"orders", OTHER}


def test_instances_that_are_gone_disappear() -> None:
    counted = Counted(per_instance=True)
    source = ScriptedDiscovery({"orders": ["10.0.0.1:80", "10.0.0.2:80"]}, grace=0.0)
    with Client(source, transport=ANSWERING, observers=[counted.metrics]) as client:
        for _ in range(20):
            client.get(URL)
        assert counted['smartclient_instance_attempts_total{service="orders",instance="10.0.0.2:80"}']
        source.publish("orders", ["10.0.0.1:80"])
        gone = 'smartclient_instance_attempts_total{service="orders",instance="10.0.0.2:80"}'
        until(lambda: counted[gone] is None)
        assert counted['smartclient_instance_usable{service="orders",instance="10.0.0.1:80"}'] == 1


def test_a_client_that_is_forgotten_is_not_kept(counted: Counted) -> None:
    client = Client({"orders": ["10.0.0.1:80"]}, transport=ANSWERING, observers=[counted.metrics])
    client.get(URL)
    client.close()
    del client
    gc.collect()
    assert list(counted.metrics.statuses()) == []


def test_a_hedge_that_lost_is_counted_once(fleet: Any, counted: Counted) -> None:
    policy = Policy("round_robin", hedge=Hedge(0.02, budget=1.0), retry=None)
    servers = fleet(2)
    servers[0].behave(SILENT)
    with Client({"orders": servers.addresses}, policy=policy, observers=[counted.metrics]) as client:
        for _ in range(4):
            client.get(URL)
        lost = 'smartclient_attempts_total{service="orders",kind="first",outcome="abandoned"}'
        until(lambda: counted[lost])
        assert counted['smartclient_in_flight{service="orders"}'] is not None
        until(lambda: counted['smartclient_in_flight{service="orders"}'] == 0)


def test_several_clients_of_one_service() -> None:
    """What adds up is added; an age is that of the oldest."""
    counted = Counted(per_instance=True)
    clients = [Client({"orders": ["10.0.0.1:80"]}, transport=ANSWERING, observers=[counted.metrics]) for _ in range(3)]
    for client in clients:
        for _ in range(5):
            client.get(URL)
    oldest = max(client.status().services[0].age for client in clients)
    assert (counted['smartclient_discovery_age_seconds{service="orders"}'] or 0) < oldest + 1
    assert counted['smartclient_instance_attempts_total{service="orders",instance="10.0.0.1:80"}'] == 15
    for client in clients:
        client.close()


WORKER = """
    import os, sys, httpx, smartclient
    from smartclient.prometheus import Metrics

    metrics = Metrics()
    transport = httpx.MockTransport(lambda request: httpx.Response(200))
    client = smartclient.Client({"orders": ["10.0.0.1:80"]}, transport=transport, observers=[metrics])
    preloaded = sys.argv[1] == "preload"
    if preloaded:
        client.get("http://orders/")
    for _ in range(2):
        if os.fork() == 0:
            if not preloaded:
                client = smartclient.Client({"orders": ["10.0.0.1:80"]}, transport=transport, observers=[metrics])
            client.get("http://orders/")
            os._exit(0)
    for _ in range(2):
        assert os.wait()[1] == 0
    from prometheus_client import CollectorRegistry, generate_latest, multiprocess
    registry = CollectorRegistry()
    multiprocess.MultiProcessCollector(registry)
    print(generate_latest(registry).decode())
"""


@pytest.mark.parametrize("how", ["preload", "each"])
def test_several_processes(tmp_path: Path, how: str) -> None:
    """gunicorn's workers, made before or after the client was used: each counts for itself, and all are added up."""
    environment = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    command = [sys.executable, "-c", textwrap.dedent(WORKER), how]
    told = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=True).stdout
    calls = 3.0 if how == "preload" else 2.0
    assert f'smartclient_calls_total{{method="GET",outcome="response",service="orders"}} {calls}' in told
    assert 'smartclient_instances{service="orders",state="usable"} 1.0' in told
    assert re.search(r'^smartclient_in_flight\{service="orders"\} [01]', told, re.MULTILINE)


def test_per_instance_is_refused_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    with pytest.raises(ValueError, match="multiprocess mode"):
        Metrics(CollectorRegistry(), per_instance=True)


def names_in(text: str) -> set[str]:
    return set(re.findall(r"\bsmartclient_\w+", text))


def test_the_dashboard_and_the_alerts_ask_for_what_there_is(fleet: Any, counted: Counted) -> None:
    servers = fleet(1)
    with Client({"orders": servers.addresses}, observers=[counted.metrics]) as client:
        client.get(URL)
        told = names_in(generate_latest(counted.registry).decode())
    panels = json.loads((EXAMPLES / "dashboard.json").read_text())["panels"]
    asked = names_in(" ".join(target["expr"] for panel in panels for target in panel["targets"]))
    asked |= names_in((EXAMPLES / "alerts.yml").read_text())
    assert len(asked) > 8
    assert asked <= told
    promised = names_in((Path(__file__).parents[1] / "smartclient" / "prometheus.py").read_text().split('"""')[1])
    promised -= {"smartclient_instance_"}
    assert {name for name in promised if not any(one.startswith(name) for one in told)} == set()


@pytest.mark.live
def test_a_real_prometheus(tmp_path: Path, fleet: Any, counted: Counted) -> None:
    """It accepts the rules, scrapes, and says that calls are lost while everything is down."""
    prometheus, promtool = shutil.which("prometheus"), shutil.which("promtool")
    needs(None if prometheus and promtool else "no Prometheus (Debian: prometheus)")
    assert prometheus is not None
    assert promtool is not None
    subprocess.run([promtool, "check", "rules", str(EXAMPLES / "alerts.yml")], check=True, capture_output=True)
    server, thread = start_http_server(0, "127.0.0.1", counted.registry)
    port, own = server.server_port, free_port()
    job = {"job_name": "clients", "static_configs": [{"targets": [f"127.0.0.1:{port}"]}]}
    config = {"global": {"scrape_interval": "500ms"}, "scrape_configs": [job]}
    (tmp_path / "prometheus.json").write_text(json.dumps(config))  # JSON is YAML
    command = [prometheus, f"--config.file={tmp_path}/prometheus.json", f"--storage.tsdb.path={tmp_path}/data",
               f"--web.listen-address=127.0.0.1:{own}", "--log.level=error"]  # fmt: skip
    process = subprocess.Popen(command)

    def asked(query: str) -> list[Any]:
        try:
            answer = httpx.get(f"http://127.0.0.1:{own}/api/v1/query", params={"query": query}).json()
        except httpx.HTTPError:
            return []
        found: list[Any] = answer["data"]["result"] if answer["status"] == "success" else []
        return found

    try:
        with Client({"orders": fleet(2, SILENT).addresses}, timeout=0.05, policy=Policy(retry=None),
                    observers=[counted.metrics]) as client:  # fmt: skip

            def lost() -> bool:
                with pytest.raises(httpx.HTTPError):
                    client.get(URL)
                share = asked(
                    'sum(rate(smartclient_calls_total{outcome!~"response|cancelled"}[5s]))'
                    " / sum(rate(smartclient_calls_total[5s]))"
                )
                return bool(share) and float(share[0]["value"][1]) == 1.0

            until(lost, 30)
            [usable] = asked('smartclient_instances{state="usable"}')
            assert usable["metric"]["service"] == "orders"
            panels = json.loads((EXAMPLES / "dashboard.json").read_text())["panels"]
            for panel in panels:
                for target in panel["targets"]:
                    expression = target["expr"].replace("$__rate_interval", "5s").replace("$service", ".*")
                    answer = httpx.get(f"http://127.0.0.1:{own}/api/v1/query", params={"query": expression}).json()
                    assert answer["status"] == "success", (panel["title"], answer)
    finally:
        process.terminate()
        process.wait(10)
        server.shutdown()
        server.server_close()
        thread.join()
