"""What is, of a client: `status()`, the page, the socket, `smartclient top`."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, make_server

import anyio
import httpx
import pytest
from driving import in_child, needs, until
from inside import service_of

import smartclient
from smartclient import Circuit, Client, ClientStatus, Instance, Limits, Policy
from smartclient.cli.main import main
from smartclient.status import app, words, wsgi_app
from smartclient.status.page import page
from smartclient.status.socket import LONGEST, folder, sockets
from smartclient.testing import FAILING, SLOW, Behaviour, ScriptedDiscovery

URL = "http://orders/v1"
ANSWERING = httpx.MockTransport(lambda _: httpx.Response(200))
HOSTILE = "<img src=x onerror=alert(1)>[bold]\x1b[31m"


def one(client: Any, number: int = 0) -> smartclient.ServiceStatus:
    status: ClientStatus = client.status()
    return status.services[number]


def test_a_service_and_its_instances(driver: Any, fleet: Any) -> None:
    servers = fleet(3)
    instances = [Instance("127.0.0.1", int(a.rpartition(":")[2]), zone="eu", weight=2, metadata={"v": "2"}, id=f"i{n}")
                 for n, a in enumerate(servers.addresses)]  # fmt: skip
    with driver.client({"orders": instances}, policy=Policy(deadline=5.0)) as face:
        assert face.client.status().services == ()
        for _ in range(12):
            face.get(URL)
        found = one(face.client)
        assert (found.name, found.source, found.problem, found.panic, found.circuit) == (
            "orders", "the static list", None, False, None
        )  # fmt: skip
        assert found.policy == {"deadline": "5.0"}
        assert found.retry_budget == 102
        assert sum(instance.calls for instance in found.instances) == 12
        assert sum(instance.share for instance in found.instances) == pytest.approx(1.0, abs=0.001)
        for instance in found.instances:
            assert (instance.state, instance.why, instance.returns_in, instance.failures) == ("usable", None, None, 0)
            assert (instance.zone, instance.weight, instance.metadata) == ("eu", 2.0, {"v": "2"})
            assert instance.latency is not None
            assert 0 < instance.latency < 1
            assert instance.connections == (1, 0)
        assert {instance.id for instance in found.instances} == {"i0", "i1", "i2"}
        held = face.open("GET", URL)
        assert one(face.client).in_flight == 1
        face.finish(held)
        status = face.client.status()
        assert json.loads(json.dumps(status.as_dict()))["pid"] == os.getpid()
        assert status.version == smartclient.__version__


def test_states_and_why(fleet: Any) -> None:
    servers = fleet(5)
    servers[0].behave(FAILING)
    servers[1].behave(Behaviour(status=429, headers=(("retry-after", "60"),)))
    ports = [int(address.rpartition(":")[2]) for address in servers.addresses]
    instances = [Instance("127.0.0.1", port) for port in ports[:4]]
    instances.append(Instance("127.0.0.1", ports[4], healthy=False))
    with Client({"orders": instances}, policy=Policy("round_robin")) as client:
        for _ in range(60):
            client.get(URL)
        found = {instance.address: instance for instance in one(client).instances}
        states = [found[address].state for address in servers.addresses]
        assert states == ["ejected", "paused", "usable", "usable", "unhealthy"]
        ejected, paused = (found[servers.addresses[number]] for number in (0, 1))
        assert re.match(r"consecutive_5xx: \d answers of 5xx in a row within .* s", ejected.why or "")
        assert 4 < (ejected.returns_in or 0) < 6
        assert 25 < (paused.returns_in or 0) <= 30
        assert ejected.failures == ejected.calls >= 3


def test_who_is_not_in_use(fleet: Any) -> None:
    [first, second] = (int(address.rpartition(":")[2]) for address in fleet(2).addresses)
    with Client({"orders": [Instance("127.0.0.1", first), Instance("127.0.0.1", second, priority=1)]}) as client:
        client.get(URL)
        states = {instance.address: instance.state for instance in one(client).instances}
        assert states == {f"127.0.0.1:{first}": "usable", f"127.0.0.1:{second}": "unused"}


def test_limits_circuit_and_trouble(fleet: Any) -> None:
    policy = Policy(circuit=Circuit(1, probe=60), limits=Limits(max_in_flight=1), retry=None, outlier=None)
    source = ScriptedDiscovery({"orders": fleet(1, FAILING).addresses})
    with Client(source, policy=policy) as client:
        client.get(URL)
        found = one(client)
        assert (found.circuit, found.retry_budget, found.queued) == ("open", None, 0)
        source.fail("orders", ConnectionError("the registry is down"))
        until(lambda: one(client).problem)
        assert "the registry is down" in (one(client).problem or "")


def test_panic() -> None:
    instances = [Instance("10.0.0.1", n, healthy=False) for n in (1, 2)]
    with Client({"orders": instances}, transport=ANSWERING) as client:
        client.get(URL)
        assert one(client).panic


def test_a_share_is_that_of_the_last_minute(fleet: Any) -> None:
    servers = fleet(2)
    with Client({"orders": servers.addresses}, policy=Policy("round_robin")) as client:
        for _ in range(10):
            client.get(URL)
        one(client)
        node = service_of(client).nodes[0]
        node.calls += 30  # as if the balancer had sent them there since
        assert max(instance.share for instance in one(client).instances) == 1.0


def test_a_thousand_instances_hold_up_nobody() -> None:
    instances = [Instance(f"10.0.{n >> 8}.{n & 255}", 80) for n in range(1000)]
    with Client({"orders": instances}, transport=ANSWERING) as client:
        client.get(URL)
        service = service_of(client)
        done = threading.Event()
        with service.members.lock:  # a call in a critical section
            thread = threading.Thread(target=lambda: (client.status(), done.set()))
            thread.start()
            assert done.wait(5)
        thread.join()
        assert len(one(client).instances) == 1000


# ---- ready ----


def test_ready(driver: Any, fleet: Any) -> None:
    source = ScriptedDiscovery()
    with driver.client(source) as face:
        with pytest.raises(Exception, match=r"^orders: no instances: .* has not answered yet") as caught:
            driver.run(face.client.ready, "orders", 0.1)
        assert isinstance(caught.value, driver.names.NoInstances)
        source.publish("orders", [])
        with pytest.raises(Exception, match="lists none"):
            driver.run(face.client.ready, "orders", 0.2)
        threading.Timer(0.1, source.publish, ("orders", fleet(1).addresses)).start()
        driver.run(face.client.ready, "orders", 5.0)
        assert face.get(URL).status_code == 200


def test_ready_says_that_nobody_has_such_a_service(driver: Any) -> None:
    with driver.client({"orders": ["10.0.0.1:80"]}) as face:
        with pytest.raises(Exception, match="does not cover it"):
            driver.run(face.client.ready, "payments", 0.1)
    with driver.client(None) as face:
        driver.run(face.client.ready, "orders", 0.1)  # nothing is balanced, so nothing is waited for


# ---- the page ----


@pytest.fixture
def hostile() -> Iterator[Client]:
    """A client of a registry that means harm."""
    instances = [Instance("10.0.0.1", 80, zone=HOSTILE, id=HOSTILE, metadata={HOSTILE: HOSTILE})]
    source = ScriptedDiscovery({"orders": instances})
    with Client(source, transport=ANSWERING) as client:
        client.get(URL)
        source.fail("orders", ConnectionError(HOSTILE))
        until(lambda: one(client).problem)
        yield client


def asked(client: Any, method: str = "GET", query: str = "") -> httpx.Response:
    """What both applications answer."""
    with httpx.Client(transport=httpx.WSGITransport(wsgi_app(client)), base_url="http://here") as caller:
        wsgi = caller.request(method, f"/{query}")

    async def through_asgi() -> httpx.Response:
        transport = httpx.ASGITransport(app(client))
        async with httpx.AsyncClient(transport=transport, base_url="http://here") as caller:
            return await caller.request(method, f"/{query}")

    asgi = anyio.run(through_asgi)
    assert (asgi.status_code, asgi.headers["content-type"]) == (wsgi.status_code, wsgi.headers["content-type"])
    assert len(asgi.content) == pytest.approx(len(wsgi.content), abs=20)
    return asgi


def test_the_page_and_its_json(hostile: Client) -> None:
    html, said = asked(hostile), asked(hostile, query="?format=json")
    assert html.headers["content-type"] == "text/html; charset=utf-8"
    assert html.headers["cache-control"] == "no-store"
    assert said.json()["services"][0]["instances"][0]["address"] == "10.0.0.1:80"
    assert asked(hostile, "HEAD").content == b""
    assert asked(hostile, "POST").status_code == 405


def test_nothing_of_a_stranger_is_markup(hostile: Client) -> None:
    html = asked(hostile).text
    assert "<img" not in html
    assert "&lt;img src=x" in html
    assert "\x1b" not in html
    assert "://" not in html.replace("http://www.w3.org", "")  # nothing comes from elsewhere


def test_lifespan_is_answered() -> None:
    said: list[str] = []

    async def run() -> None:
        events = iter([{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}])

        async def receive() -> Any:
            return next(events)

        async def send(message: Any) -> None:
            said.append(message["type"])

        with Client({"orders": []}) as client:
            await app(client)({"type": "lifespan"}, receive, send)

    anyio.run(run)
    assert said == ["lifespan.startup.complete", "lifespan.shutdown.complete"]


class Quiet(WSGIRequestHandler):
    def log_message(self, *args: object) -> None:
        pass


@pytest.mark.live
def test_in_a_browser(tmp_path: Path, fleet: Any) -> None:
    """Chromium shows it, and it refreshes itself; two hundred instances stay readable."""
    chromium = shutil.which("chromium")
    needs(None if chromium else "no chromium (Debian: chromium)")
    assert chromium is not None
    instances = [Instance(f"10.0.0.{n}", 80) for n in range(1, 201)]

    def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(503 if request.url.host == "10.0.0.7" else 200)

    with Client({"orders": instances}, policy=Policy("round_robin"), transport=httpx.MockTransport(answer)) as client:
        for _ in range(1300):
            client.get(URL)
        server = make_server("127.0.0.1", 0, wsgi_app(client), handler_class=Quiet)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            quietly = [
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-dev-shm-usage",
                f"--user-data-dir={tmp_path}",
            ]
            url = f"http://127.0.0.1:{server.server_port}/"
            command = [chromium, *quietly, "--virtual-time-budget=5000", "--dump-dom", url]
            done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
        finally:
            server.shutdown()
            server.server_close()
    rows = re.findall(r'<td class="i"[^>]*>([^<]*)', done.stdout)
    assert len(rows) == 200
    assert rows[0] == "10.0.0.7:80"  # who is in trouble comes first
    assert "169 more usable instances" in done.stdout
    assert re.search(r'<span class="ejected">ejected</span> <span class="dim">next try in [\d.]+ m?s: ', done.stdout)
    assert "<h1>smartclient" in done.stdout  # else it says that there is no answer


# ---- the socket, and top ----


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    return tmp_path


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="no Unix sockets here")
def test_a_socket_of_the_user_s_own(home: Path, fleet: Any, capsys: pytest.CaptureFixture[str]) -> None:
    servers = fleet(2)
    servers[0].behave(FAILING)
    with Client({"orders": servers.addresses}, policy=Policy("round_robin"), status=True) as client:
        for _ in range(20):
            client.get(URL)
        [path] = sockets()
        assert path.parent == home / "smartclient"
        assert path.stat().st_mode & 0o777 == 0o600
        assert path.parent.stat().st_mode & 0o777 == 0o700
        for target in ([], [str(os.getpid())], [str(path)]):
            assert main(["top", "--once", *target]) == 0
            told = capsys.readouterr().out
            assert "orders" in told
            assert "2 instances (1 ejected, 1 usable) from the static list" in told
            assert servers.addresses[0] in told
    assert not list(sockets())
    with pytest.raises(SystemExit) as caught:
        main(["top", "--once"])
    assert caught.value.code == 1
    assert "SMARTCLIENT_STATUS=1" in capsys.readouterr().err


def test_the_environment_opens_it(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SMARTCLIENT_STATUS", "1")
    with Client({"orders": []}), Client({"orders": []}):
        assert len(list(sockets())) == 2
        with Client({"orders": []}, trust_env=False), Client({"orders": []}, status=False):
            assert len(list(sockets())) == 2
    assert not list(sockets())


def test_a_slow_reader_holds_up_nobody(home: Path) -> None:
    with Client({"orders": []}, status=True) as client:
        [path] = sockets()
        with socket.socket(socket.AF_UNIX) as slow:
            slow.connect(str(path))
            began = time.monotonic()
            with httpx.Client(transport=httpx.HTTPTransport(uds=str(path))) as caller:
                assert caller.get("http://status/").json()["pid"] == os.getpid()
            assert time.monotonic() - began < 1.5
        client.status()


def test_what_a_crash_left_is_removed(home: Path) -> None:
    path = folder() / "1-1.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    assert path.exists()
    with Client({"orders": []}, status=True):
        assert not path.exists()
        assert len(list(sockets())) == 1


@pytest.mark.parametrize("trouble", ["long", "shared"])
def test_a_socket_that_fails_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, trouble: str
) -> None:
    home = tmp_path / ("x" * LONGEST) if trouble == "long" else tmp_path
    if trouble == "shared":
        (tmp_path / "smartclient").mkdir()
        (tmp_path / "smartclient").chmod(0o755)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(home))
    with Client({"orders": ["10.0.0.1:80"]}, status=True, transport=ANSWERING) as client:
        assert client.get(URL).status_code == 200
    [warning] = [record for record in caplog.records if record.name == "smartclient"]
    assert warning.levelname == "WARNING"
    assert "the status socket could not be opened" in warning.message


def test_a_forked_child_has_its_own(home: Path) -> None:
    with Client({"orders": []}, status=True) as client:
        [parent] = sockets()

        def child() -> None:
            mine = [path for path in sockets() if path.name.startswith(f"{os.getpid()}-")]
            assert len(mine) == 1
            client.close()
            assert parent.exists()
            assert not mine[0].exists()

        in_child(child)
        assert list(sockets()) == [parent]


def test_top_of_a_url_and_of_strangers(hostile: Client, capsys: pytest.CaptureFixture[str]) -> None:
    server = make_server("127.0.0.1", 0, wsgi_app(hostile), handler_class=Quiet)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        assert main(["top", "--once", f"http://127.0.0.1:{server.server_port}/"]) == 0
    finally:
        server.shutdown()
        server.server_close()
    told = capsys.readouterr().out
    assert "\x1b" not in told
    assert "[bold]" in told


def test_a_forgotten_client_s_socket_goes_with_it(home: Path) -> None:
    script = (
        "import gc, time, smartclient\n"
        "from smartclient.status.socket import sockets\n"
        "client = smartclient.Client({'orders': []}, status=True)\n"
        "assert len(list(sockets())) == 1\n"
        "del client\n"
        "for _ in range(100):\n"
        "    gc.collect()\n"
        "    if not list(sockets()): break\n"
        "    time.sleep(0.05)  # a reader's thread holds it for a moment\n"
        "assert not list(sockets())\n"
        "kept = smartclient.Client({'orders': []}, status=True)\n"
    )
    environment = {**os.environ, "XDG_RUNTIME_DIR": str(home)}
    subprocess.run([sys.executable, "-c", script], check=True, env=environment, timeout=60)
    assert not list((home / "smartclient").glob("*.sock"))  # and when the process ends


def test_slow_is_not_out(fleet: Any) -> None:
    with Client({"orders": fleet(2, SLOW).addresses}) as client:
        client.get(URL)
        assert {instance.state for instance in one(client).instances} == {"usable"}


def test_trouble_stands_first_and_is_said_at_the_top() -> None:
    client = {
        "version": "1", "pid": 1, "config": {"path": "/etc/s.yaml", "problems": ["s.yaml:3: deadlin: unknown"]},
        "services": [
            {"name": "billing", "instances": [row("10.0.0.1:80")], **CALM},
            {"name": "orders", **CALM,
             "instances": [row("10.0.0.2:80"), row("10.0.0.3:80", why="avoided: its last call had an answer of 5xx"),
                           row("10.0.0.4:80", state="ejected", why="consecutive_5xx: 5 in a row", returns_in=7.6)]},
        ],
    }  # fmt: skip
    assert [service["name"] for service in words.services_in_order(client["services"])] == ["orders", "billing"]  # type: ignore[call-overload]
    assert list(words.headline(client)) == [
        ("The configuration is wrong, the last good one is in force: s.yaml:3: deadlin: unknown", True),
        ("orders: 1 of 3 out", True),
    ]
    rows = words.in_order(client["services"][1]["instances"])  # type: ignore[call-overload, index]
    assert [one["address"] for one in rows] == ["10.0.0.4:80", "10.0.0.3:80", "10.0.0.2:80"]
    assert words.reason(rows[0]) == "next try in 8 s: consecutive_5xx: 5 in a row"
    shown = page(client)
    assert shown.index("<h2>orders") < shown.index("<h2>billing")
    assert '<tr class="out">' in shown


CALM = {"source": "s", "age": 1.0, "problem": None, "policy": {}, "panic": False, "circuit": None, "in_flight": 0,
        "queued": 0, "retry_budget": None}  # fmt: skip


def row(address: str, state: str = "usable", why: str | None = None, returns_in: float | None = None) -> dict[str, Any]:
    return {"address": address, "id": None, "state": state, "why": why, "returns_in": returns_in, "in_flight": 0,
            "latency": None, "calls": 1, "failures": 0, "share": 0.5, "weight": 1.0, "zone": None, "priority": 0,
            "metadata": {}, "connections": (0, 0)}  # fmt: skip


def test_a_node_that_is_avoided_says_so(fleet: Any) -> None:
    servers = fleet(2)
    servers[0].behave(FAILING)
    with Client({"orders": servers.addresses}) as client:
        while not any(instance.failures for instance in one(client).instances) if client.status().services else True:
            client.get(URL)
        failing = next(instance for instance in one(client).instances if instance.failures)
        assert (failing.state, failing.latency) == ("usable", None)
        assert failing.why == "avoided: its last call had an answer of 5xx"
