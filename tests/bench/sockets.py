"""Scenarios on real sockets: smartclient's balancers, and HAProxy, nginx and Envoy as sidecars, one for each client.

    python tests/bench/sockets.py [ROW …] [--contender NAME …] [--rate 300] [--seconds 20] [--seed 1] [--json] [--quick]

Each row is a scenario of examples/scenarios, or one like it. Its servers are the simulator's behind real sockets, in a
process of their own; its clients are in two more. Every contender meets the same calls: the same moments, clients and
work, which the simulator's oracle met, too. Time is stretched until the calls come at `--rate` a second, which is what
Python and two cores can do without being the bottleneck; milliseconds are told at the scenario's own scale. Latency
counts from the moment a call was meant to begin.

The sidecars are configured as in tests/chaos, but wait long and know weights. They have static lists: a server that
joins later refuses them before, and their health checks see it come (nginx has none: it tries).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.append(str(HERE.parent / "chaos"))

from sidecars import CONFIGURATIONS, Sidecar, program  # noqa: E402

from smartclient.testing.scenario import Scenario  # noqa: E402
from smartclient.testing.simulation import World  # noqa: E402
from smartclient.testing.tally import Tally  # noqa: E402

SCENARIOS = HERE.parents[1] / "examples" / "scenarios"
OURS = ("adaptive", "p2c", "least_request")
PROCESSES = 2  # of clients
WARM = 0.25  # of the calls are not counted
JOINS = 8.0  # seconds

Result = dict[str, Any]
Figure = Callable[[Result, Result], float]


def p99(found: Result, oracle: Result) -> float:
    return float(found["p99_ms"] / oracle["p99_ms"])


def reads(found: Result, oracle: Result) -> float:
    return float(found["routes"]["read"]["p99_ms"])


def mean_time(found: Result, oracle: Result) -> float:
    return float(found["mean_ms"] / oracle["mean_ms"])


def lost(found: Result, oracle: Result) -> float:
    return float(found["failed"] / found["calls"])


def least_share(found: Result, oracle: Result) -> float:
    return min(found["share"]) * len(found["share"])


def canary(found: Result, oracle: Result) -> float:
    return float(found["share"][-1])


def newcomer(begin: float, end: float) -> Figure:
    """The last server's share of the calls between two moments after it joined, in even ones."""

    def figure(found: Result, oracle: Result) -> float:
        windows = [window for window in found["windows"] if begin <= window["from_s"] - JOINS < end]
        calls = sum(window["calls"] for window in windows) or 1
        return float(sum(w["share"][-1] * w["calls"] for w in windows) / calls * len(found["share"]))

    return figure


@dataclass(frozen=True)
class Row:
    """scenario: a file's name, or what it says; stretched: its time may be; figures: what is told of it, and owed"""

    scenario: str | dict[str, Any]
    figures: dict[str, Figure]
    stretched: bool = True


LOW = {"slots": 4, "mean_ms": 5}
ROWS = {
    "mixed-20": Row("mixed-20-clients", {"p99 ÷ oracle": p99}),
    "three-speeds": Row("three-speeds", {"p99 ÷ oracle": p99}),
    "mixed-routes": Row("mixed-routes", {"the reads' p99, ms (≤ 130)": reads}),
    "streams": Row("streams", {"mean time ÷ oracle (≤ 2.5)": mean_time}),
    "404": Row("not-found", {"calls lost (≤ 0.15)": lost}),
    "canary": Row("canary", {"its share (≤ 0.025)": canary}),
    **{
        f"low-{count}-{at_once}": Row(
            {"servers": [{"count": count, **LOW}], "at_once": at_once, "calls": 200 * count},
            {"least share ÷ even (≥ 0.6)": least_share},
            stretched=False,
        )
        for count, at_once in ((2, 1), (3, 1), (5, 2), (10, 4))
    },
    "join": Row(
        {
            "servers": [{"count": 10, "slots": 4, "mean_ms": 100}, {"slots": 4, "mean_ms": 100, "joins_s": JOINS}],
            "load": 0.7, "clients": 40, "calls": 5000, "window_s": 0.5,
        },
        {"its share at once (≤ 1.5)": newcomer(0.0, 0.5), "after 2 s (≥ 0.7)": newcomer(2.0, 9.0)},
        stretched=False,
    ),
}  # fmt: skip


class Schedule(World):
    """Plays the oracle, and notes the calls that it met."""

    def __init__(self, scenario: Scenario) -> None:
        super().__init__(scenario, None)
        self.calls: list[tuple[float, int, str, float]] = []

    def over(self, job: Any, well: bool) -> None:
        self.calls.append((job.came, job.client, job.route.name, job.work))
        super().over(job, well)


def scenario_of(row: Row, rate: float, seconds: float, seed: int) -> tuple[dict[str, Any], float]:
    """A scenario that sockets can play, and how much longer its times are."""
    said = (
        dict(row.scenario)
        if isinstance(row.scenario, dict)
        else json.loads((SCENARIOS / f"{row.scenario}.json").read_text())
    )
    said["seed"] = seed
    if not row.stretched:
        return said, 1.0
    stretch = max(Scenario.read(said).calls_per_second / rate, 1.0)
    said["servers"] = [
        {name: value * stretch if name.endswith(("_ms", "_s")) else value for name, value in group.items()}
        for group in said["servers"]
    ]
    calls = int(min(rate, Scenario.read(said).calls_per_second) * seconds)
    return {**said, "calls": int(calls * (1 - WARM)), "warmup_calls": int(calls * WARM)}, stretch


@contextmanager
def process(*command: str) -> Iterator[subprocess.Popen[str]]:
    started = subprocess.Popen([sys.executable, *command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        yield started
    finally:
        started.kill()
        started.communicate()


def tell(one: subprocess.Popen[str], moment: float) -> None:
    assert one.stdin is not None
    one.stdin.write(f"{moment!r}\n")
    one.stdin.flush()


def told(one: subprocess.Popen[str]) -> str:
    assert one.stdout is not None
    line = one.stdout.readline()
    if not line:
        raise SystemExit("a process ended: see above")
    return line


def against(contender: str, said: dict[str, Any], calls: list[Any]) -> Result:
    """One contender's run."""
    scenario = Scenario.read(said)
    with ExitStack() as stack:
        fleet = stack.enter_context(process(str(HERE / "socket_fleet.py"), json.dumps(said)))
        ports: list[int] = json.loads(told(fleet))
        home = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        sidecars: dict[int, int] = {}
        if contender in CONFIGURATIONS:
            weights = [int(server.weight) for server in scenario.servers]

            def sidecar(number: int) -> Sidecar:
                (home / f"{number}").mkdir()
                return Sidecar(contender, ports, home / f"{number}", weights, patience=60.0)

            with ThreadPoolExecutor(4) as pool:
                for number, one in enumerate(pool.map(sidecar, range(scenario.clients))):
                    stack.callback(one.close)
                    sidecars[number] = one.port
        loads = []
        for part in range(min(PROCESSES, scenario.clients)):
            mine = list(range(part, scenario.clients, PROCESSES))
            orders = {"contender": contender, "scenario": said, "ports": ports, "clients": mine, "sidecars": sidecars,
                      "schedule": [call for call in calls if call[1] in set(mine)]}  # fmt: skip
            path = home / f"orders-{part}.json"
            path.write_text(json.dumps(orders))
            loads.append(stack.enter_context(process(str(HERE / "socket_load.py"), str(path))))
        for load in loads:
            told(load)
        began = time.monotonic() + 0.5
        for one in (fleet, *loads):
            tell(one, began)
        results = [call for load in loads for call in json.loads(told(load))]
    return tallied(scenario, sorted(results, key=lambda call: call[1]))


def tallied(scenario: Scenario, results: list[Any]) -> Result:
    tally = Tally(scenario)
    for route, due, took, status, server in results[scenario.warmup_calls :]:
        tally.call(route, due, due + took, status == 200)
        if server >= 0:
            tally.attempt(server, due)
    return tally.result()


def at_its_scale(result: Result, stretch: float) -> Result:
    """Milliseconds as if time had not been stretched."""
    return {
        name: value / stretch
        if name.endswith("_ms")
        else at_its_scale(value, stretch)
        if isinstance(value, dict)
        else value
        for name, value in result.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"of {', '.join(ROWS)}; default: all")
    parser.add_argument("--contender", action="append", help=f"of our balancers, and {', '.join(CONFIGURATIONS)}")
    parser.add_argument("--rate", type=float, default=300.0, help="calls a second")
    parser.add_argument("--seconds", type=float, default=20.0, help="of load, a quarter of it not counted")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--json", action="store_true", help="an object per row and contender, with all that was counted"
    )
    parser.add_argument("--quick", action="store_true", help="few calls: to see that it runs")
    options = parser.parse_args()
    contenders = options.contender or [*OURS, *(name for name in CONFIGURATIONS if program(name))]
    if not options.json:
        print("| row | figure | oracle | " + " | ".join(contenders) + " |")
        print("|---|---|---|" + "---|" * len(contenders))
    for name in options.rows or ROWS:
        row = ROWS[name]
        said, stretch = scenario_of(row, options.rate, 2.0 if options.quick else options.seconds, options.seed)
        if options.quick:
            said["calls"] = min(said["calls"], 500)
        schedule = Schedule(Scenario.read(said))
        oracle, calls = at_its_scale(schedule.play(), stretch), sorted(schedule.calls)
        found = {one: at_its_scale(against(one, said, calls), stretch) for one in contenders}
        if options.json:
            print(json.dumps({"row": name, "stretch": stretch, "oracle": oracle, **found}), flush=True)
            continue
        for told_as, figure in row.figures.items():
            cells = [f"{figure(one, oracle):.3g}" for one in (oracle, *found.values())]
            print(f"| {name} | {told_as} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
