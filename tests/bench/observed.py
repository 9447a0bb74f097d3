"""CPU per call with nobody looking, with an observer that does nothing, and with `Metrics`; `status()` of many
instances.

    python tests/bench/observed.py [--calls 2000]

The least of several turns, so that what else the machine does counts little. Calls end in a `MockTransport`: what is
compared is the difference.
"""

from __future__ import annotations

import argparse
import logging
import time
from typing import Any

import httpx
from prometheus_client import CollectorRegistry

from smartclient import Client, Instance
from smartclient.prometheus import Metrics

TURNS = 9


def cpu_per_call(observers: list[Any], calls: int) -> float:
    """Microseconds."""
    transport = httpx.MockTransport(lambda request: httpx.Response(200))
    with Client({"orders": ["10.0.0.1:80", "10.0.0.2:80"]}, observers=observers, transport=transport) as client:
        turns = []
        for _ in range(TURNS):
            began = time.process_time()
            for _ in range(calls):
                client.get("http://orders/")
            turns.append(time.process_time() - began)
        return min(turns) / calls * 1e6


def status_ms(instances: int) -> float:
    transport = httpx.MockTransport(lambda request: httpx.Response(200))
    listed = [Instance(f"10.0.{n >> 8}.{n & 255}", 80) for n in range(instances)]
    with Client({"orders": listed}, transport=transport) as client:
        client.get("http://orders/")
        turns = []
        for _ in range(TURNS):
            began = time.process_time()
            client.status()
            turns.append(time.process_time() - began)
        return min(turns) * 1e3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=2000)
    options = parser.parse_args()
    logging.getLogger("smartclient").addHandler(logging.NullHandler())
    rows = {"nobody": [], "an observer of everything": [lambda event: None], "Metrics": [Metrics(CollectorRegistry())]}
    bare = cpu_per_call([], options.calls)
    for name, observers in rows.items():
        found = cpu_per_call(observers, options.calls)
        print(f"{name:28}{found:8.1f} µs of CPU per call{found - bare:+8.1f}")
    print(f"status() of 1,000 instances {status_ms(1000):9.2f} ms")


if __name__ == "__main__":
    main()
