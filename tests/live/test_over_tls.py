"""Every source that speaks to a server, over TLS: it lists, it hears of changes soon, it closes at once, and it trusts
nobody whom it should not.
"""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from driving import needs, until
from inside import balanced_of, service_of
from registries import REGISTRIES, Registry
from stand_ins import EurekaStandIn, KubernetesStandIn, NacosStandIn, endpoint, piece
from tls import Terminator

import smartclient
from smartclient import Client, Consul, Discovery, Etcd, Eureka, Kubernetes, Nacos, Xds, ZooKeeper

pytestmark = pytest.mark.live
FIRST, SECOND = "10.0.0.1:80", "10.0.0.2:80"
Put = Callable[[str], object]
Made = Callable[[Terminator], Discovery]


@contextmanager
def real(name: str, home: Path) -> Iterator[tuple[str, Put]]:
    needs(REGISTRIES[name].missing())
    registry: Registry = REGISTRIES[name](home)
    rest = getattr(registry.server, "rest_port", None)
    address = registry.server.address
    try:
        yield f"{address} 127.0.0.1:{rest}", lambda added: registry.put({"orders": [added]})
    finally:
        registry.kill()


@contextmanager
def kubernetes(home: Path) -> Iterator[tuple[str, Put]]:
    (home / "token").write_text("right")
    api = KubernetesStandIn()

    def put(added: str) -> None:
        one = piece(f"orders-{added}", endpoint(added.partition(":")[0]), port=80)
        api.items.append(one)
        api.say("ADDED", one)

    try:
        yield api.address, put
    finally:
        api.close()


@contextmanager
def eureka(home: Path) -> Iterator[tuple[str, Put]]:
    with EurekaStandIn() as server:
        yield server.address, server.put


@contextmanager
def nacos(home: Path) -> Iterator[tuple[str, Put]]:
    with NacosStandIn() as server:
        yield server.address, server.put


def trusting(front: Terminator, trusted: bool) -> Any:
    return front.context if trusted else True


def file(front: Terminator, trusted: bool) -> Any:
    return front.ca_file if trusted else None


SOURCES: dict[str, tuple[Any, Callable[[Terminator, bool, Path], Discovery]]] = {
    "consul": (
        lambda home: real("consul", home),
        lambda front, trusted, home: Consul(f"https://{front.address}", verify=trusting(front, trusted)),
    ),
    "etcd": (
        lambda home: real("etcd", home),
        lambda front, trusted, home: Etcd(f"https://{front.address}", verify=trusting(front, trusted)),
    ),
    "zookeeper": (
        lambda home: real("zookeeper", home),
        lambda front, trusted, home: ZooKeeper(front.address, tls=True, ca_file=file(front, trusted), timeout=2),
    ),
    "xds": (
        lambda home: real("xds", home),
        lambda front, trusted, home: Xds(f"https://{front.address}", ca_file=file(front, trusted), timeout=2),
    ),
    "xds by REST": (
        lambda home: real("xds", home),
        lambda front, trusted, home: Xds(
            f"https://{front.address}", ca_file=file(front, trusted), rest=True, interval=0.1
        ),
    ),
    "kubernetes": (
        kubernetes,
        lambda front, trusted, home: Kubernetes(
            f"https://{front.address}", token_file=home / "token", ca_file=file(front, trusted), port="http"
        ),
    ),
    "eureka": (
        eureka,
        lambda front, trusted, home: Eureka(
            f"https://{front.address}/eureka", verify=trusting(front, trusted), interval=0.1
        ),
    ),
    "nacos": (
        nacos,
        lambda front, trusted, home: Nacos(f"https://{front.address}", verify=trusting(front, trusted), interval=0.1),
    ),
}
NO_SERVER = {"Static", "Function", "File", "Environment", "Dns"}  # Dns: over UDP and TCP only


def listed(client: Client) -> set[str]:
    balanced: Any = balanced_of(client)
    return {str(node.instance) for node in service_of(balanced).nodes}


def test_no_source_is_forgotten() -> None:
    exported = {
        name for name in smartclient.__all__
        if isinstance(kind := getattr(smartclient, name), type) and issubclass(kind, Discovery)
    }  # fmt: skip
    own = {name for name in exported if getattr(smartclient, name).__module__.startswith("smartclient.discovery.")}
    over_others = {"Cached", "Fallback", "Filter", "Map", "Merge", "Routed", "Discovery", "PollingDiscovery"}
    assert {name.lower() for name in own - over_others - NO_SERVER} == {name.split()[0] for name in SOURCES}


@pytest.mark.parametrize("name", SOURCES)
def test_lists_and_changes_over_tls(name: str, tmp_path: Path) -> None:
    server, make = SOURCES[name]
    with server(tmp_path) as (addresses, put):
        put(FIRST)
        behind: Sequence[str] = addresses.split()
        with Terminator(tmp_path, behind[-1] if name.endswith("REST") else behind[0]) as front:
            with Client(make(front, True, tmp_path)) as client:
                until(lambda: listed(client) == {FIRST}, 10)
                for turn in range(2):
                    time.sleep(0.2 * turn)
                    added = [SECOND, "10.0.0.3:80"][turn]
                    began = time.monotonic()
                    put(added)
                    until(lambda one=added: one in listed(client), 10)
                    assert time.monotonic() - began < 2
                service: Any = service_of(client)  # type: ignore[union-attr]
                assert service.problem is None
                began = time.monotonic()
            assert time.monotonic() - began < 1
        until(lambda: not [one for one in threading.enumerate() if one.name == "smartclient-orders"])


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # kazoo forgets sockets then
@pytest.mark.parametrize("name", SOURCES)
def test_whom_it_does_not_trust_it_does_not_hear(name: str, tmp_path: Path) -> None:
    server, make = SOURCES[name]
    with server(tmp_path) as (addresses, put):
        put(FIRST)
        with Terminator(tmp_path, addresses.split()[0]) as front, Client(make(front, False, tmp_path)) as client:
            balanced: Any = balanced_of(client)
            service = service_of(balanced)
            until(lambda: service.problem, 10)
            assert not service.nodes
    gc.collect()
