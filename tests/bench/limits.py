"""Which algorithm finds the limit of a service: Netflix's gradient2, TCP Vegas, or a fixed number?

    python tests/bench/limits.py [--quick] [--json]

A simulation on a virtual clock: a service with ten slots and a mean of 10 ms (1,000 calls a second at most),
exponential service times and a first-in-first-out queue; open-loop load of 0.5, 0.9 and 1.5 times that; half-way one in
two slots goes. A call that finds the limit reached is refused. Good: answered within 100 ms, as a share of what the
service could have answered (or of what was asked, if that is less).
"""

from __future__ import annotations

import argparse
import heapq
import json
import math
from collections import deque
from random import Random
from typing import Any

from smartclient import AdaptiveLimit
from smartclient.limits.limits import Gradient

SLOTS, MEAN, TIMEOUT = 10, 0.01, 0.1


class Fixed:
    def __init__(self, limit: int) -> None:
        self.limit = limit

    def observe(self, latency: float, in_flight: int, failed: bool) -> None:
        pass


class Vegas:
    """Netflix's `VegasLimit`: the queue is limit × (1 − least latency ÷ latency); up to six steps of it are well."""

    def __init__(self) -> None:
        self._limit, self._least = 20.0, math.inf
        self._probe = 0

    @property
    def limit(self) -> int:
        return int(self._limit)

    def observe(self, latency: float, in_flight: int, failed: bool) -> None:
        self._probe += 1
        if self._probe > 30 * self._limit:  # the least latency is measured anew now and then
            self._probe, self._least = 0, latency
        self._least = min(self._least, latency)
        step = math.log10(max(self._limit, 10))
        if failed:
            self._limit = max(4.0, self._limit - step)
            return
        if in_flight * 2 < self._limit:
            return
        queue = self._limit * (1 - self._least / latency)
        if queue <= step:
            self._limit += 6 * step
        elif queue < 3 * step:
            self._limit += step
        elif queue > 6 * step:
            self._limit -= step
        self._limit = min(max(self._limit, 4.0), 1000.0)


def simulate(limiter: Any, load: float, seconds: float, seed: int) -> dict[str, float]:
    rng = Random(seed)
    now, in_flight, busy, good, refused, asked = 0.0, 0, 0, 0, 0, 0
    queue: deque[tuple[float, int]] = deque()
    events: list[tuple[float, int, float]] = []  # (when a call is done, number, when it began)
    latencies, limits = [], []
    due = rng.expovariate(load * SLOTS / MEAN)
    number = 0

    def serve(began: float) -> None:
        heapq.heappush(events, (now + rng.expovariate(1 / MEAN), number, began))

    while due < seconds or events:
        if events and events[0][0] <= due:
            now, _, began = heapq.heappop(events)
            busy -= 1
            in_flight -= 1
            latency = now - began
            latencies.append(latency)
            good += latency <= TIMEOUT
            limiter.observe(min(latency, TIMEOUT), in_flight + 1, latency > TIMEOUT)
            limits.append(limiter.limit)
        else:
            if due >= seconds:
                due = math.inf
                continue
            now = due
            due += rng.expovariate(load * SLOTS / MEAN)
            number += 1
            asked += 1
            if in_flight >= limiter.limit:
                refused += 1
            else:
                in_flight += 1
                queue.append((now, number))
        slots = SLOTS if now < seconds / 2 else SLOTS // 2
        while queue and busy < slots:
            began, _ = queue.popleft()
            busy += 1
            serve(began)
    first, second = min(load, 1.0), min(load, 0.5)
    possible = (first + second) / 2 * SLOTS / MEAN * seconds
    latencies.sort()
    return {
        "good": good / possible,
        "p99_ms": latencies[int(0.99 * len(latencies))] * 1000,
        "refused": refused / asked,
        "limit": sum(limits) / len(limits),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    makers = {
        "gradient2": lambda: Gradient(AdaptiveLimit()),
        "vegas": Vegas,
        "fixed 20": lambda: Fixed(20),
        "fixed 200": lambda: Fixed(200),
    }
    table: dict[str, dict[str, dict[str, float]]] = {}
    for load in (0.5, 0.9, 1.5):
        for name, make in makers.items():
            runs = [
                simulate(make(), load, 4 if options.quick else 40, seed) for seed in range(1, 3 if options.quick else 6)
            ]
            means = {key: sum(run[key] for run in runs) / len(runs) for key in runs[0]}
            table.setdefault(f"{load:g}", {})[name] = means
    if options.json:
        print(json.dumps(table))
        return
    print(f"{'load':6}{'':12}{'good':>8}{'p99 ms':>9}{'refused':>9}{'limit':>8}")
    for load_name, rows in table.items():
        for name, row in rows.items():
            print(
                f"{load_name:6}{name:12}{row['good']:8.2f}{row['p99_ms']:9.0f}{row['refused']:9.2f}{row['limit']:8.0f}"
            )


if __name__ == "__main__":
    main()
