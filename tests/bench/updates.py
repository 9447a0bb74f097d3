"""What an update of 10,000 instances costs the calls that go on meanwhile.

    python tests/bench/updates.py [--quick]

A thread makes calls (pick, judge, finish; no network), the main thread gives the service new lists, as a watcher does:
one instance changed, half of them replaced. How late a call was done in milliseconds, counted from when it was to begin
(the thread may have to wait for the interpreter), beside that of the same time without updates, since a shared machine
delays calls by itself. Wall time: that is what a call waits.
"""

from __future__ import annotations

import argparse
import gc
import threading
import time
from random import Random
from typing import Any

from smartclient import Instance, Outcome, Policy
from smartclient.events import Observers
from smartclient.services.call import Call, CallOptions
from smartclient.services.service import Service

COUNT = 10_000
PAUSE = 0.0005


def instances(generation: int, share: float) -> list[Instance]:
    """The list, with that share of it replaced in each generation."""
    new = int(COUNT * share)
    return [
        Instance(f"10.{n >> 14}.{n >> 7 & 127}.{n & 127}", 80 + (generation if n < new else 0), id=f"{n}")
        for n in range(COUNT)
    ]


class Caller:
    """Calls in a thread, and how long each took."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._stop = False
        self.delays: list[float] = []
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        number = 0
        while not self._stop:
            number += 1
            due = time.perf_counter() + PAUSE
            time.sleep(PAUSE)  # it waits for its answer
            call: Any = Call(None, "orders", CallOptions(hash_key=str(number)), time.monotonic())
            attempt = self._service.start(call)
            attempt.judge(Outcome.SUCCESS, 200)
            attempt.finish()
            self.delays.append(time.perf_counter() - due)

    def end(self) -> list[float]:
        self._stop = True
        self._thread.join()
        return sorted(self.delays)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few updates: to see that it runs")
    options = parser.parse_args()
    updates = 2 if options.quick else 10
    print(f"{'ms':24}{'median':>9}{'99 %':>9}{'99.9 %':>9}{'longest':>9}{'calls':>8}")
    for name in ("adaptive", "p2c", "weighted_round_robin", "maglev", "ring_hash"):
        service = Service("orders", Policy(name), source="here", clock=time.monotonic, rng=Random(1),
                          observers=Observers(), retire=lambda node: None)  # fmt: skip
        service.update(instances(0, 0.0))
        for what, share in (("no updates", None), ("one changed", 1 / COUNT), ("half replaced", 0.5)):
            lists = [] if share is None else [instances(generation + 1, share) for generation in range(updates)]
            gc.collect()
            gc.freeze()  # the lists prepared here are no part of an update: no collection shall go through them
            caller = Caller(service)
            if share is None:
                time.sleep(0.5 if options.quick else 3)
            for one in lists:
                service.update(one)
            delays = caller.end()
            figures = [delays[int(len(delays) * part)] for part in (0.5, 0.99, 0.999)] + [delays[-1]]
            print(
                f"{name[:10]:11}{what:13}" + "".join(f"{figure * 1000:9.3f}" for figure in figures) + f"{len(delays):8}"
            )


if __name__ == "__main__":
    main()
