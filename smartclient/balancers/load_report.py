"""What a server says of its load, in the header `endpoint-load-metrics` of its responses: ORCA's (gRPC A51).

    TEXT cpu_utilization=0.7, rps_fractional=120, named_metrics.in_flight=12
    JSON {"cpu_utilization": 0.7, "rps_fractional": 120, "named_metrics": {"in_flight": 12}}

`in_flight`, the requests that the server has in progress, is what our middleware adds.
"""

from __future__ import annotations

import json
import math
import re

HEADER = "endpoint-load-metrics"
IN_FLIGHT = "named_metrics.in_flight"
LONGEST = 2000  # characters that are looked at

_IN_FLIGHT = re.compile(r"""\bin_flight"?\s*[=:]\s*(\d{1,7})(?![\d.])""")


def parse_report(value: str) -> dict[str, float]:
    """The numbers of an ORCA report; empty if it cannot be parsed (its binary form included)."""
    kind, _, rest = value.strip().partition(" ")
    found: dict[str, float] = {}
    try:
        if kind == "JSON":
            pairs = json.loads(rest).items()
        elif kind == "TEXT":
            pairs = [part.split("=", 1) for part in rest.split(",")]
        else:
            return {}
    except (ValueError, AttributeError, RecursionError):
        return {}
    for name, *written in pairs:
        try:
            figure = float(*written)
        except (ValueError, TypeError, OverflowError):
            continue
        if written and math.isfinite(figure):
            # protobuf's JSON says cpuUtilization.
            found["".join(f"_{c.lower()}" if c.isupper() else c for c in str(name).strip())] = figure
    return found


def parse_in_flight(value: str) -> int | None:
    """The server's requests in progress, the answered one included; None: it does not say."""
    found = _IN_FLIGHT.search(value[:LONGEST])
    return None if found is None else int(found[1])


def with_in_flight(report: str | None, in_flight: int) -> str | None:
    """The application's own report, if it has one, with this in it; None: nothing can be added to its form."""
    if report is None:
        return f"TEXT {IN_FLIGHT}={in_flight}"
    return f"{report}, {IN_FLIGHT}={in_flight}" if report.lstrip().startswith("TEXT ") else None
