"""What many services cost, and how soon a new instance is called, for each source and its real server.

    python tests/bench/discovery.py [SOURCE …] [--services 200] [--instances 50] [--large 5000] [--adds 15] [--idle 20]

Each source in a process of its own, and the server (a stand-in where the table says so) in another:

memory    MB more that one client has with all services watched (the resident set, after a collection)
idle      % of a core used while nothing changes
close     seconds
large     seconds until one service with `--large` instances is listed
added     median and longest seconds from the registry's having a new instance to the first call to it
behind    seconds from the last of 200 changes of the large service, made within 2.3 s or as fast as the registry takes
          them, to its being in use; and the CPU seconds of the client for them all
"""

from __future__ import annotations

import argparse
import gc
import json
import multiprocessing
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parents[1] / name) for name in ("kit", "live")]

from inside import balanced_of, service_of, services_of  # noqa: E402
from registries import REGISTRIES, Lists, answering  # noqa: E402

Put = Callable[[Lists], None]
PORT = 80
STORM, STORM_LASTS = 200, 2.3  # changes, seconds
LAST = "10.255.255.1"


@contextmanager
def kubernetes(home: Path) -> Iterator[tuple[str, Put]]:
    from stand_ins import KubernetesStandIn, endpoint, piece

    from smartclient.discovery.kubernetes.source import LABEL

    (home / "token").write_text("right")
    api = KubernetesStandIn()

    def put(lists: Lists) -> None:
        for name, addresses in lists.items():
            for start in range(0, len(addresses), 100):  # as many as a slice has
                some = addresses[start : start + 100]
                pods = [endpoint(address.rpartition(":")[0], ready=True) for address in some]
                port = int(some[0].rpartition(":")[2])
                mine = [n for n, one in enumerate(api.items) if one["metadata"]["labels"][LABEL] == name]
                last = mine[-1] if mine else None
                if last is not None and len(api.items[last]["endpoints"]) + len(pods) <= 100:  # as its controller does
                    one = json.loads(json.dumps(api.items[last]))
                    one["endpoints"] += pods
                    api.items[last] = one
                    api.say("MODIFIED", one)
                    continue
                one = piece(f"{name}-{len(api.items)}", *pods, port=port, service=name)
                api.items.append(one)
                api.say("ADDED", one)

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
                    server.put(address, name.upper())
            if len(lists) > 1:
                server.forget()

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


@contextmanager
def real(kind: type[Any], home: Path) -> Iterator[tuple[str, Put]]:
    assert not kind.missing(), kind.missing()
    registry = kind(home)
    try:
        yield registry.url, registry.put
    finally:
        registry.kill()


STAND_INS: dict[str, Any] = {"kubernetes": kubernetes, "eureka": eureka, "nacos": nacos}
SOURCES: dict[str, Any] = {**{name: partial(real, kind) for name, kind in REGISTRIES.items()}, **STAND_INS}


def watched(url: str, names: Sequence[str], instances: int, idle: float) -> dict[str, float]:
    """What a client costs that watches all these services. Run in a fresh process."""
    from smartclient import Client
    from smartclient.discovery import discovery_of

    discovery_of(url)  # what its library costs is no cost of many services
    gc.collect()
    before, began = resident(), time.monotonic()
    client = Client(discovery=url)
    services: Any = services_of(balanced_of(client))  # type: ignore[attr-defined]
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


def weathered(url: str, large: int, ready: Path) -> tuple[float, float]:
    """When the storm's last change is in use, and CPU seconds for it. Run in a fresh process."""
    from smartclient import Client

    with Client(discovery=url) as client:
        service: Any = service_of(client, "large")  # type: ignore[attr-defined]
        until(lambda: len(service.nodes) >= large, 120, service.name)
        used = time.process_time()
        ready.touch()
        until(lambda: any(LAST in node.instance.host for node in service.nodes[-300:]), 120, "the storm's end")
        return time.monotonic(), time.process_time() - used


def storm(put: Put, ready: Path) -> float:
    """When it was over."""
    until(ready.exists, 120, "the client")
    time.sleep(1)
    began = time.monotonic()
    for number in range(STORM):
        put({"large": [f"10.200.0.{number}:{PORT}" if number < STORM - 1 else f"{LAST}:{PORT}"]})
        time.sleep(max(0.0, began + STORM_LASTS * (number + 1) / STORM - time.monotonic()))
    return time.monotonic()


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sources", nargs="*", metavar="SOURCE", help=", ".join(SOURCES))
    for name, default in (("services", 200), ("instances", 50), ("large", 5000), ("adds", 15)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--idle", type=float, default=20.0)
    options = parser.parse_args()
    spawn = multiprocessing.get_context("spawn")
    titles = ("memory", "idle %", "close", "listed", "large", "added", "longest", "behind", "CPU")
    print(f"{'':22}" + "".join(f"{title:>8}" for title in titles))
    for name in options.sources or SOURCES:
        with ExitStack() as stack:
            home = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            port = stack.enter_context(answering())
            url, put = stack.enter_context(SOURCES[name](home))
            url = url.format(port=port)
            names = [f"s{number}" for number in range(options.services)]
            put({one: [f"10.1.{n}.{m}:{PORT}" for m in range(options.instances)] for n, one in enumerate(names)})
            put({"large": [f"10.{2 + (m >> 16)}.{m >> 8 & 255}.{m & 255}:{PORT}" for m in range(options.large)]})
            with ProcessPoolExecutor(1, spawn) as pool:
                many = pool.submit(watched, url, names, options.instances, options.idle).result()
            with ProcessPoolExecutor(1, spawn) as pool:
                large = pool.submit(watched, url, ["large"], options.large, 0.1).result()
            delays = added(url, put, port, options.adds)
            with ProcessPoolExecutor(1, spawn) as pool:
                weather = pool.submit(weathered, url, options.large, home / "ready")
                over = storm(put, home / "ready")
                in_use, cpu = weather.result()
        what = f"{name} (stand-in)" if name in STAND_INS else name
        row = [many["memory"], many["idle"], many["close"], many["listed"], large["listed"]]
        row += [statistics.median(delays), max(delays), in_use - over, cpu]
        print(f"{what:22}" + "".join(f"{one:8.2f}" for one in row), flush=True)


if __name__ == "__main__":
    main()
