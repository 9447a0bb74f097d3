"""What holds of every registry: killed, silenced, started again with other data, while calls go on; and long lists."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest
from driving import needs, until
from inside import service_of
from registries import REGISTRIES, Registry, answering

from smartclient import Client
from smartclient.discovery import discovery_of

pytestmark = pytest.mark.live
SILENT, DEAD = 8.0, 20.0  # seconds
BACK = 5.0  # seconds within which other data are seen


class Traffic:
    """A client of one registry that calls all the time."""

    def __init__(self, url: str) -> None:
        self._client = Client(url, timeout=5)
        self._over = False
        self.answered, self.failures = 0, list[str]()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def listed(self) -> set[str]:
        service: Any = service_of(self._client)
        return {str(node.instance) for node in service.nodes}

    def end(self) -> None:
        self._over = True
        self._thread.join()
        self._client.close()

    def _run(self) -> None:
        while not self._over:
            try:
                self.answered += self._client.get("http://orders/").status_code == 200
            except Exception as error:
                self.failures.append(f"{type(error).__name__}: {error}")
            time.sleep(0.02)


@pytest.fixture
def registries(tmp_path: Path) -> Iterator[dict[str, Registry]]:
    missing = {name: kind.missing() for name, kind in REGISTRIES.items()}
    if os.environ.get("CI") and any(missing.values()):
        pytest.fail(str(missing))
    started: dict[str, Registry] = {}
    with ExitStack() as stack:
        for name, kind in REGISTRIES.items():
            if not missing[name]:
                home = tmp_path / name
                home.mkdir()
                started[name] = kind(home)
                stack.callback(started[name].kill)
        yield started


def test_no_call_fails_while_a_registry_does(registries: dict[str, Registry]) -> None:
    with answering() as port, ThreadPoolExecutor(len(registries)) as pool, ExitStack() as stack:
        places = [f"127.0.0.{n}:{port}" for n in (1, 2, 3)]  # DNS tells no ports
        traffic = dict[str, Traffic]()
        for name, registry in registries.items():
            registry.put({"orders": places[:1]})
            traffic[name] = Traffic(registry.url.format(port=port))
            stack.callback(traffic[name].end)

        def each(work: Callable[[str, Registry], object]) -> None:
            for done in [pool.submit(work, name, registry) for name, registry in registries.items()]:
                done.result()

        def seen(name: str, expected: list[str], seconds: float) -> None:
            try:
                until(lambda: traffic[name].listed() == set(expected), seconds)
            except AssertionError:
                pytest.fail(f"{name}: {traffic[name].listed()}, not {expected} after {seconds} s")

        def silenced(name: str, registry: Registry) -> None:
            registry.signal(signal.SIGSTOP)
            time.sleep(SILENT)
            registry.signal(signal.SIGCONT)
            registry.put({"orders": places[1:2]})
            seen(name, places[:2], 2 * BACK)  # DNS: its time to live, too

        def killed(name: str, registry: Registry) -> None:
            registry.kill()
            time.sleep(DEAD)
            registry.start()
            registry.put({"orders": places[2:]})
            seen(name, places[2:], BACK)

        each(lambda name, registry: seen(name, places[:1], 10))
        each(silenced)
        each(killed)
        for name, one in traffic.items():
            assert not one.failures, (name, one.failures[:3])
            assert one.answered > 300, name


@pytest.mark.parametrize("kind", list(REGISTRIES))
def test_five_thousand_instances(kind: str, tmp_path: Path) -> None:
    needs(REGISTRIES[kind].missing())
    registry = REGISTRIES[kind](tmp_path)
    try:
        expected = {f"10.{n >> 8}.{n & 255}.1:80" for n in range(5000)}
        registry.put({"orders": sorted(expected)})
        with Client(registry.url.format(port=80)) as client:
            service: Any = service_of(client)
            until(lambda: len(service.nodes) >= 5000, 20)
            listed = {str(node.instance).replace("[::ffff:", "").replace("]", "") for node in service.nodes}
        assert listed == expected
    finally:
        registry.kill()


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_registration_has_one_shape(registries: dict[str, Registry], backend: str) -> None:
    """Listed as it said while the block runs, and gone after it, cancelled or not."""

    async def serve(name: str, registry: Registry) -> None:
        source: Any = discovery_of(registry.url)
        with anyio.CancelScope() as scope:
            async with source.register("orders", "10.0.0.1:80", id="me", meta={"version": "v2"}, weight=3, ttl=4) as me:
                assert me == "me"
                with Client(source) as client:
                    service = service_of(client)  # type: ignore[union-attr]
                    assert service is not None
                    await anyio.to_thread.run_sync(until, lambda: len(service.nodes) == 1, 10)
                    [node] = service.nodes
                    assert node.instance.metadata["version"] == "v2", name
                    assert (node.instance.id, node.instance.weight) == ("me", 3.0), name
                scope.cancel()
                await anyio.sleep_forever()
        with Client(source) as client:
            service = service_of(client)  # type: ignore[union-attr]
            assert service is not None
            await anyio.to_thread.run_sync(until, lambda: service.ready.fired and not service.nodes, 10)

    for name in ("consul", "etcd", "zookeeper"):
        anyio.run(serve, name, registries[name], backend=backend)
