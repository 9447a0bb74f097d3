"""What a pick costs: nanoseconds, at 10, 1,000 and 10,000 nodes, for every balancer.

    python tests/bench/picks.py [--quick] [--json]

CPU time of this process, the least of several rounds. `start` is a whole first attempt: pick, in-flight, budget, judge,
finish.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from random import Random
from typing import Any

import httpx

from smartclient import Instance, Node, Outcome, Policy
from smartclient.balancers import BALANCERS
from smartclient.events import Observers
from smartclient.services.call import NO_OPTIONS, Call, CallOptions
from smartclient.services.service import Service

SIZES = (10, 1_000, 10_000)


def nodes(name: str, count: int) -> tuple[Node, ...]:
    balancer = BALANCERS[name]()
    made = tuple(Node(Instance("10.0.0.1", n % 65535 + 1, id=str(n)), balancer.memory()) for n in range(count))
    for node in made:
        if node.memory is not None:
            node.memory.observe(Outcome.SUCCESS, 0.01, None, 0.0)
    return made


def least(function: Any, repeats: int, rounds: int) -> float:
    figures = []
    for _ in range(rounds):
        began = time.process_time()
        for _ in itertools.repeat(None, repeats):
            function()
        figures.append((time.process_time() - began) / repeats * 1e9)
    return min(figures)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few picks: to see that it runs")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    repeats, rounds = (200, 2) if options.quick else (50_000, 7)
    rows: dict[str, list[float]] = {}
    call: Any = Call(httpx.Request("GET", "http://orders/"), "orders", CallOptions(hash_key="user-1"), 1.0)
    for name, size in itertools.product(sorted(BALANCERS), SIZES):
        pick = BALANCERS[name]().picker(nodes(name, size), Random(1))
        count = max(20, repeats // size) if name == "least_request" else repeats
        rows.setdefault(name, []).append(least(lambda pick=pick: pick(call), count, rounds))

    for size in SIZES:
        service = Service("orders", Policy(), source="here", clock=time.monotonic, rng=Random(1), observers=Observers(),
                          retire=lambda node: None)  # fmt: skip
        service.update([Instance("10.0.0.1", n % 65535 + 1, id=str(n)) for n in range(size)])

        def attempt(service: Service = service) -> None:
            made = service.start(Call(None, "orders", NO_OPTIONS, time.monotonic()))
            made.judge(Outcome.SUCCESS, 200)
            made.finish()

        for _ in range(size):
            attempt()
        rows.setdefault("start", []).append(least(attempt, max(100, repeats // 5), rounds))
    if options.json:
        print(json.dumps(rows))
        return
    print(f"{'ns per pick':16}" + "".join(f"{size:>10,}" for size in SIZES) + f"{'10,000 / 10':>14}")
    for name, figures in rows.items():
        print(f"{name:16}" + "".join(f"{figure:10.0f}" for figure in figures) + f"{figures[-1] / figures[0]:14.2f}")


if __name__ == "__main__":
    main()
