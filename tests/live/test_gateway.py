"""The example of a gateway, as it is started by people: FastAPI under gunicorn, a real Consul, a real Prometheus, and a
collector of spans in memory.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from agent import free_port
from driving import needs, until

EXAMPLE = Path(__file__).parents[2] / "examples" / "gateway"
# Its policies, for a machine on which a process may stand still for a second.
PATIENT = (EXAMPLE / "smartclient.yaml").read_text().replace("500ms", "5s").replace("deadline: 2s", "deadline: 20s")
INTERNAL, SERVER, CLIENT = (f"SpanKind.{kind}" for kind in ("INTERNAL", "SERVER", "CLIENT"))

pytestmark = pytest.mark.live


class Span:
    """A span as the SDK says it in JSON."""

    def __init__(self, said: dict[str, Any]) -> None:
        self.name: str = said["name"]
        self.kind: str = said["kind"]
        self.trace_id: str = said["context"]["trace_id"]
        self.span_id: str = said["context"]["span_id"]
        self.parent_span_id: str | None = said["parent_id"]
        self.attributes: dict[str, Any] = said["attributes"]
        self.events: list[str] = [event["name"] for event in said["events"]]
        self.began: str = said["start_time"]


class Collector:
    """Takes spans, and keeps them in memory."""

    def __init__(self) -> None:
        self.spans: list[tuple[str, Any]] = []  # with the service that sent it
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                sent = json.loads(self.rfile.read(int(self.headers["content-length"])))
                collector.spans += [(one["resource"]["attributes"]["service.name"], Span(one)) for one in sent]
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}/"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def trace_of(self, path: str) -> list[tuple[str, Any]]:
        """All spans of the trace that a request for this path began."""
        roots = [span for name, span in tuple(self.spans) if not span.parent_span_id and path in str(span.attributes)]
        return [(name, span) for name, span in tuple(self.spans) if roots and span.trace_id == roots[0].trace_id]


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    made = Collector()
    yield made
    made.close()


@pytest.fixture(scope="module")
def shop(collector: Collector, consul_binary: str) -> Iterator[Any]:
    needs(None if shutil.which("prometheus") else "no Prometheus (Debian: prometheus)")
    spec = importlib.util.spec_from_file_location("gateway_example", EXAMPLE / "run.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    environment = {"SHOP_SPANS": collector.url, "CONSUL_BINARY": consul_binary}
    with module.Shop(port=free_port, environment=environment, policies=PATIENT) as running:
        yield running


def kinds(spans: list[tuple[str, Any]], kind: str) -> list[tuple[str, Any]]:
    return [(name, span) for name, span in spans if span.kind == kind]


def said(span: Any) -> dict[str, Any]:
    attributes: dict[str, Any] = span.attributes
    return attributes


def parents(spans: list[tuple[str, Any]]) -> dict[str, Any]:
    return {span.span_id: span for _, span in spans}


def untroubled(shop: Any, collector: Collector) -> list[tuple[str, Any]]:
    """The trace of a page for which nothing was asked twice: on a busy machine a slow answer is hedged, rightly."""
    for number in range(7007, 7107, 10):
        answer = httpx.get(f"{shop.gateway}/shop/{number}", trust_env=False, timeout=30)
        assert answer.status_code == 200, shop.logs()
        assert answer.json()["users"] == {"user": number}
        assert answer.json()["orders"]["stock"] == {"left": 7}
        until(lambda number=number: len(collector.trace_of(f"/shop/{number}")) >= 10, 15)
        spans = collector.trace_of(f"/shop/{number}")
        if len(kinds(spans, SERVER)) == 4 and len(kinds(spans, CLIENT)) == 3:
            return spans
    raise AssertionError(f"each page has something that was asked twice\n{shop.logs()}")


def test_one_trace_per_request_through_all_hops(shop: Any, collector: Collector) -> None:
    spans = untroubled(shop, collector)
    by_id = parents(spans)
    assert sorted(name for name, _ in kinds(spans, SERVER)) == ["gateway", "orders", "stock", "users"]
    calls, attempts = kinds(spans, INTERNAL), kinds(spans, CLIENT)
    expected = [("gateway", "GET orders"), ("gateway", "GET users"), ("orders", "GET stock")]
    assert sorted((name, span.name) for name, span in calls) == expected
    assert sorted((name, said(span)["server.address"]) for name, span in attempts) == [
        ("gateway", "orders"),
        ("gateway", "users"),
        ("orders", "stock"),
    ]
    for _, call in calls:
        assert by_id[call.parent_span_id].kind == SERVER
    for _, attempt in attempts:
        assert by_id[attempt.parent_span_id].kind == INTERNAL
    for name, served in kinds(spans, SERVER):
        if name != "gateway":
            assert by_id[served.parent_span_id].kind == CLIENT


def test_policies_change_while_it_runs(shop: Any) -> None:
    """In a folder like a ConfigMap's; each worker follows."""

    def policies() -> set[str]:
        """Of both workers."""
        asked = [httpx.get(f"{shop.gateway}/status", trust_env=False).json() for _ in range(12)]
        return {one["policy"]["deadline"] for status in asked for one in status["services"] if one["name"] == "users"}

    for number in range(6):
        assert httpx.get(f"{shop.gateway}/shop/{number}", trust_env=False, timeout=30).status_code == 200
    assert policies() in ({"20.0"}, {"20"})
    shop.configure(PATIENT.replace("deadline: 20s", "deadline: 18500ms"))
    until(lambda: policies() == {"18.5"}, 10)
    shop.configure(PATIENT.replace("deadline: 20s", "deadlin: 3s"))
    until(lambda: httpx.get(f"{shop.gateway}/status", trust_env=False).json()["config"]["problems"], 10)
    assert policies() == {"18.5"}
    assert httpx.get(f"{shop.gateway}/shop/1", trust_env=False).status_code == 200
    shop.configure(PATIENT)
    until(lambda: policies() in ({"20.0"}, {"20"}), 10)


def kill(shop: Any, which: Callable[[str], bool], most: int) -> None:
    """Without a word, workers and all."""
    victims = [process for service, process in shop.services if which(service) and process.poll() is None][:most]
    for process in victims:
        workers = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=False)
        process.send_signal(signal.SIGKILL)
        for pid in workers.stdout.split():
            subprocess.run(["kill", "-9", pid], check=False)
        process.wait()


def test_an_instance_that_dies_is_retried_elsewhere_in_the_same_trace(shop: Any, collector: Collector) -> None:
    kill(shop, lambda service: service == "orders", 1)
    for number in range(100, 160):
        assert httpx.get(f"{shop.gateway}/shop/{number}", trust_env=False, timeout=30).status_code == 200, shop.logs()

    def attempts(again: Any) -> list[Any]:
        siblings = [span for _, span in tuple(collector.spans) if span.parent_span_id == again.parent_span_id]
        return [said(span).get("error.type") for span in sorted(siblings, key=lambda span: span.began)]

    def retried() -> list[Any]:  # a busy machine makes others time out, too
        again = [span for _, span in tuple(collector.spans) if said(span).get("http.request.resend_count") == 1]
        return [span for span in again if attempts(span) == ["ConnectError", None]]

    until(retried, 10)
    again = retried()[0]
    trace = [span for _, span in tuple(collector.spans) if span.trace_id == again.trace_id]
    (call,) = (span for span in trace if span.span_id == again.parent_span_id)
    assert call.events == ["smartclient.retry"]


def query(shop: Any, what: str) -> float:
    answer = httpx.get(f"{shop.prometheus}/api/v1/query", params={"query": what}, trust_env=False).json()
    results = answer["data"]["result"]
    return float(results[0]["value"][1]) if results else -1.0


def settle(shop: Any, what: str) -> None:
    """Until Prometheus has heard all: several scrapes, one a second, say the same."""
    heard: list[float] = []

    def quiet() -> bool:
        time.sleep(1.0)
        heard.append(query(shop, what))
        return len(heard) > 3 and len(set(heard[-4:])) == 1

    until(quiet, 60)


def test_the_error_rate_is_right_while_everything_is_down(shop: Any) -> None:
    total = "sum(smartclient_calls_total)"
    until(lambda: query(shop, total) > 0, 20)
    settle(shop, total)
    good = query(shop, 'sum(smartclient_calls_total{outcome="response"})')
    lost = max(query(shop, total) - good, 0.0)
    kill(shop, lambda service: True, 9)
    asked = 20
    for number in range(asked):
        assert httpx.get(f"{shop.gateway}/shop/{number}", trust_env=False, timeout=10).status_code == 502
    wanted = 'sum(smartclient_calls_total{outcome!~"response|cancelled"})'
    until(lambda: query(shop, wanted) - lost >= asked, 20)
    settle(shop, total)
    assert query(shop, 'sum(smartclient_calls_total{outcome="response"})') == good
    # All that calls came to is one of: lost, or cancelled with the other half of its page.
    outcomes = query(shop, 'sum(smartclient_calls_total{outcome="cancelled"})')
    assert query(shop, wanted) - lost + max(outcomes, 0.0) <= 2 * asked + max(outcomes, 0.0)
    assert query(shop, f"({wanted} - {lost}) / ({total} - {good + lost} - {max(outcomes, 0.0)})") == pytest.approx(1.0)


def test_the_readme_says_how_it_is_run() -> None:
    assert "python run.py" in (EXAMPLE / "README.md").read_text()
    compiled = subprocess.run(
        [sys.executable, "-m", "py_compile", *map(str, EXAMPLE.glob("*.py"))], capture_output=True, check=False
    )
    assert compiled.returncode == 0
