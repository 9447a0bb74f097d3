"""Instructions per call, counted by valgrind's callgrind: the steadiest way to compare two versions of the hot path.

    python tests/bench/instructions.py [--against TREE] [--peers] [--only "async, 30"]

Each figure is the difference of two runs with another number of calls, so that start-up does not count, with
PYTHONHASHSEED=0 and without the cyclic collector (whose turns come at other moments in other versions). Under valgrind
a call takes fifty times longer; what is done by time (a balancer's looks) would be done in every third call. So our
clock stands still but for `--pace` seconds a call.

--against  another checkout of this project: its smartclient stands beside ours, and the ratio is printed
--peers    httpx and the bare LIFO of `overhead.py` beside ours
--pace     seconds by which the clock goes on with each call; 0: the real clock
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import random
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).resolve()
ROWS = [("sync", 1, 1), ("sync", 30, 1), ("async", 1, 1), ("async", 30, 20)]
FEW, MANY = 200, 600  # calls: the difference is a look and more
PACE = 0.0005  # seconds: what `overhead.py` says of a call here


class Pace:
    """A clock that is moved by calls."""

    def __init__(self, pace: float) -> None:
        self._pace, self._now = pace, 0.0

    def __call__(self) -> float:
        return self._now

    def moved_by(self, url: Callable[[], str]) -> Callable[[], str]:
        def next_url() -> str:
            self._now += self._pace
            return url()

        return next_url


def child(kind: str, at_once: int, calls: int, peer: str, pace: float, addresses: list[str]) -> None:
    clock, real = Pace(pace), time.monotonic
    if pace:  # our transports take it for the usual one
        time.monotonic = clock
    from overhead import peers, run_async, run_sync

    random.seed(1)
    make, url = next((make, url) for name, make, url in peers(addresses, kind == "async", at_once) if name == peer)
    time.monotonic = real
    url = clock.moved_by(url)
    gc.disable()
    if kind == "sync":
        run_sync(make(), url, calls)
    else:

        async def main() -> None:
            await run_async(make(), url, calls, at_once)

        asyncio.run(main())


def counted(tree: Path, kind: str, at_once: int, calls: int, peer: str, pace: float, addresses: list[str]) -> int:
    command = [
        *("valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null", sys.executable, str(HERE), "--child"),
        *(kind, str(at_once), str(calls), peer, str(pace), *addresses),
    ]
    environment = {**os.environ, "PYTHONHASHSEED": "0", "PYTHONPATH": f"{tree}{os.pathsep}{HERE.parent}"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    found = re.search(r"Collected : (\d+)", done.stderr)
    assert found is not None, done.stderr
    return int(found[1])


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        kind, at_once, calls, peer, pace, *addresses = sys.argv[2:]
        child(kind, int(at_once), int(calls), peer, float(pace), addresses)
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", type=Path)
    parser.add_argument("--peers", action="store_true")
    parser.add_argument("--pace", type=float, default=PACE)
    parser.add_argument("--only", default="")
    options = parser.parse_args()
    from overhead import nginx

    tree = HERE.parents[2]
    columns = [("ours", tree, "ours")]
    if options.against is not None:
        columns.append((options.against.name, options.against.resolve(), "ours"))
    if options.peers:
        columns += [(peer, tree, peer) for peer in ("httpx", "bare LIFO")]
    print(f"{'instructions per call':32}" + "".join(f"{name:>14}{'ours ÷':>8}" for name, _, _ in columns))
    with nginx(30) as addresses:
        for kind, instances, at_once in ROWS:
            label = f"{kind}, {instances} instances, {at_once} at once"
            if options.only not in label:
                continue
            figures = []
            for _, where, peer in columns:
                few, many = (
                    counted(where, kind, at_once, calls, peer, options.pace, addresses[:instances])
                    for calls in (FEW, MANY)
                )
                figures.append((many - few) / (MANY - FEW))
            print(f"{label:32}" + "".join(f"{it:14,.0f}{figures[0] / it:8.3f}" for it in figures), flush=True)


if __name__ == "__main__":
    main()
