"""What hedging and the circuit are worth: figures from real sockets.

    python tests/chaos/survival.py [hedging] [outage] [--quick] [--check]

hedging  one of ten instances answers after a second, the others after 10 ms; a client that knows nothing of it yet.
         p99 beside that of a healthy fleet, and the extra load
outage   every instance is gone (connections refused, then none answered) while 200 calls a second go on.
         Attempts per call, the time until a call has failed, and until the first success once they are back
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx
from fleet import Fleet

import smartclient
from smartclient import Circuit, Hedge, Policy, RetryBudget

USUAL = 0.01
bad: list[str] = []


async def load(client: Any, rate: float, seconds: float) -> list[tuple[float, float, bool]]:
    """Open loop: (when it was to begin, how long it took, whether it succeeded) of each call."""
    results: list[tuple[float, float, bool]] = []
    began = time.monotonic()

    async def one(due: float) -> None:
        try:
            good = (await client.get("http://orders/")).status_code == 200
        except httpx.HTTPError:
            good = False
        results.append((due - began, time.monotonic() - due, good))

    tasks = []
    for number in range(int(rate * seconds)):
        due = began + number / rate
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        tasks.append(asyncio.ensure_future(one(due)))
    await asyncio.gather(*tasks)
    return results


class Counting:
    """An observer that counts attempts."""

    def __init__(self) -> None:
        self.attempts = 0

    def __call__(self, event: smartclient.Event) -> None:
        self.attempts += isinstance(event, smartclient.AttemptStarted)


def client_of(fleet: Fleet, policy: Policy, counting: Counting, timeout: float = 2.0) -> smartclient.AsyncClient:
    return smartclient.AsyncClient({"orders": [f"127.0.0.1:{port}" for port in fleet.ports]}, policy=policy,
                                   observers=[counting], timeout=timeout, trust_env=False)  # fmt: skip


def promise(what: str, held: bool) -> None:
    print(f"  {'held' if held else 'MISSED'}: {what}")
    if not held:
        bad.append(what)


def p99(results: list[tuple[float, float, bool]]) -> float:
    return statistics.quantiles([latency for _, latency, _ in results], n=100)[98] * 1000


def hedging(fleet: Fleet, seconds: float) -> None:
    async def run(policy: Policy) -> tuple[float, float]:
        counting = Counting()
        async with client_of(fleet, policy, counting) as client:
            results = await load(client, 200, seconds)
        assert all(good for _, _, good in results)
        return p99(results), counting.attempts / len(results) - 1

    for instance in fleet.instances:
        instance.behave(delay=USUAL)
    healthy, _ = asyncio.run(run(Policy()))
    print(f"hedging: all ten answer after 10 ms: p99 {healthy:.0f} ms")
    fleet.instances[3].behave(delay=1.0)
    for name, balancer in (("random", "random"), ("round_robin", "round_robin"), ("adaptive", "adaptive")):
        without, _ = asyncio.run(run(Policy(balancer)))
        print(f"  {name:12} one after 1 s: p99 {without:.0f} ms without hedging")
        for hedge in (Hedge("p95"), Hedge(0.03)):
            found, extra = asyncio.run(run(Policy(balancer, hedge=hedge)))
            print(f"  {name:12} Hedge({hedge.after!r}): p99 {found:.0f} ms, {extra:.1%} more attempts")
            if name == "adaptive":
                promise(f"p99 ≤ 5 × the healthy one with Hedge({hedge.after!r})", found <= 5 * healthy)
                promise("extra load ≤ 5 %", extra <= 0.05)
    for instance in fleet.instances:
        instance.behave()


def outage(fleet: Fleet, seconds: float) -> None:
    for how in ("refused", "silent"):
        for circuit in (None, Circuit()):
            asyncio.run(one_outage(fleet, how, circuit, seconds))


async def one_outage(fleet: Fleet, how: str, circuit: Circuit | None, seconds: float) -> None:
    counting, rate = Counting(), 200.0
    async with client_of(fleet, Policy(circuit=circuit, attempt_timeout=0.5), counting) as client:
        await load(client, rate, 1)
        for instance in fleet.instances:
            if how == "refused":
                instance.behave(listening=False)
            else:
                instance.signal(signal.SIGSTOP)
        await asyncio.sleep(0.05)
        counting.attempts = 0
        down = await load(client, rate, seconds)
        attempts = counting.attempts
        for instance in fleet.instances:
            if how == "refused":
                instance.behave()
            else:
                instance.signal(signal.SIGCONT)
        await asyncio.sleep(0.05)
        back = await load(client, rate, 3)
    calls = len(down)
    budget = RetryBudget()
    # What is always allowed, and what the calls before had earned.
    floor = budget.min_per_second * (seconds + budget.ttl) + budget.ratio * rate
    failing = statistics.median(latency for _, latency, good in down if not good) * 1000
    first = min((began + latency for began, latency, good in back if good), default=float("inf"))
    print(
        f"outage, {how}, {'no circuit' if circuit is None else 'circuit'}: {calls} calls, {attempts} attempts, "
        f"median time to fail {failing:.1f} ms, first success {first:.2f} s after they are back"
    )
    promise("attempts ≤ 1.2 × calls + floor", attempts <= 1.2 * calls + floor)
    promise("first success ≤ 2 s", first <= 2)
    if circuit is not None:
        promise("median time to fail ≤ 5 ms", failing <= 5)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help="hedging, outage; without any: both")
    parser.add_argument("--quick", action="store_true", help="short: to see that it runs")
    parser.add_argument("--check", action="store_true", help="exit with 1 if a promise is missed")
    options = parser.parse_args()
    parts = options.parts or ["hedging", "outage"]
    with tempfile.TemporaryDirectory() as home:
        fleet = Fleet(Path(home), 10)
        try:
            if "hedging" in parts:
                hedging(fleet, 3 if options.quick else 20)
            if "outage" in parts:
                outage(fleet, 3 if options.quick else 60)
        finally:
            fleet.close()
    if options.check and bad:
        sys.exit(1)


if __name__ == "__main__":
    main()
