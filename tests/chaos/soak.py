"""Long load under one fault after the other: threads, sockets, memory and in-flight must stay flat.

    python tests/chaos/soak.py [--minutes 30]

In one process: an AsyncClient and a sync Client in four threads, with hedging, limits, a circuit, deadlines and a
discovery that changes the list all the time, against the fleet of `chaos.py`. Looked at after each round of all faults
once it has been quiet for a while. Exit status 1 if something grows.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import random
import resource
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from fleet import FAULTS, Fleet, inject

import smartclient
from smartclient import Circuit, Hedge, Limits, Policy

sys.path.append(str(Path(__file__).parents[1] / "kit"))

from inside import service_of

POLICY = Policy(
    deadline=1.0,
    attempt_timeout=0.5,
    hedge=Hedge("p95"),
    limits=Limits(max_in_flight=40, per_node=20, queue_timeout=0.2),
    circuit=Circuit(),
)
WARM = 1  # rounds before the first look counts


@dataclass
class Look:
    """What there is when all is quiet."""

    threads: int
    sockets: int
    blocks: int
    megabytes: float
    in_flight: int
    places: int


class Load:
    """Calls of both clients until it is told to pause, or stop."""

    def __init__(self, fleet: Fleet) -> None:
        self.calls = self.failed = 0
        self.running, self.stopped = threading.Event(), False
        self.blind = fleet.log.parent / "blind"
        self.ports = fleet.ports
        keywords: dict[str, Any] = {"policy": POLICY, "timeout": 0.5, "trust_env": False}
        self.client = smartclient.Client(smartclient.Function(self.resolve, interval=0.3), **keywords)
        self.aclient = smartclient.AsyncClient(smartclient.Function(self.resolve, interval=0.3), **keywords)
        works: list[Callable[[], None]] = [self.work] * 4 + [lambda: asyncio.run(self.awork())]
        self.threads = [threading.Thread(target=work) for work in works]
        for thread in self.threads:
            thread.start()

    def resolve(self, service: str) -> list[str]:
        if self.blind.exists():
            raise ConnectionError("the registry is down")
        missing = random.randrange(len(self.ports) * 2)  # now and then one is gone for a moment
        return [f"127.0.0.1:{port}" for number, port in enumerate(self.ports) if number != missing]

    def work(self) -> None:
        while not self.stopped:
            self.running.wait()
            self.calls += 1
            try:
                self.client.request(random.choice(("GET", "GET", "POST")), "http://orders/", content=b"x")
            except httpx.HTTPError:
                self.failed += 1
            time.sleep(0.01)

    async def awork(self) -> None:
        async def one() -> None:
            self.calls += 1
            try:
                if random.random() < 0.1:  # cancelled in the middle
                    async with asyncio.timeout(0.01):
                        await self.aclient.get("http://orders/")
                else:
                    await self.aclient.get("http://orders/")
            except (httpx.HTTPError, TimeoutError):
                self.failed += 1

        async with self.aclient:
            tasks: set[asyncio.Task[None]] = set()
            while not self.stopped:
                if self.running.is_set():
                    task = asyncio.ensure_future(one())
                    tasks.add(task)
                    task.add_done_callback(tasks.discard)
                await asyncio.sleep(0.015)
            await asyncio.gather(*tasks)

    def look(self) -> Look:
        """Pause, and look."""
        self.running.clear()
        time.sleep(2.5)
        gc.collect()
        services = [service_of(client) for client in (self.client, self.aclient)]
        return Look(
            threads=threading.active_count(),
            sockets=len(os.listdir("/proc/self/fd")),
            blocks=sys.getallocatedblocks(),
            megabytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            in_flight=sum(service.in_flight for service in services),
            places=sum(service.admission.places.taken for service in services),
        )

    def stop(self) -> None:
        self.stopped = True
        self.running.set()
        for thread in self.threads:
            thread.join()
        self.client.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30.0)
    options = parser.parse_args()
    until = time.monotonic() + options.minutes * 60
    looks: list[Look] = []
    short = options.minutes < 4
    faults = ["kill", "reset", "burst", "drip"] if short else [name for name in FAULTS if name != "none"]
    with tempfile.TemporaryDirectory() as home:
        fleet = Fleet(Path(home))
        load = Load(fleet)
        try:
            while time.monotonic() < until:
                load.running.set()
                for fault in faults:
                    inject(fleet, fault, time.monotonic()).join()
                looks.append(load.look())
                print(f"{load.calls} calls, {load.failed} failed: {looks[-1]}", flush=True)
        finally:
            load.stop()
            fleet.close()
    bad = list(complaints(looks[WARM:]))
    print("\n".join(bad) or "flat")
    raise SystemExit(bool(bad))


def complaints(looks: list[Look]) -> Any:
    if len(looks) < 2:
        yield "too short to say anything"
        return
    first, last = looks[0], looks[-1]
    if any(look.in_flight or look.places for look in looks):
        yield "calls are in flight, though none is"
    if last.threads > first.threads + 8:  # hedges need more threads, up to their bound
        yield f"threads grew from {first.threads} to {last.threads}"
    if last.sockets > first.sockets + 30:
        yield f"sockets grew from {first.sockets} to {last.sockets}"
    if last.blocks > 1.1 * first.blocks + 5_000:
        yield f"blocks of memory grew from {first.blocks} to {last.blocks}"


if __name__ == "__main__":
    main()
