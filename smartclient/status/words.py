"""The words in which a status is told, on the page and in the terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ..services.states import STATES


def in_order(instances: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Those in trouble first; then those that have most of the calls."""
    return sorted(instances, key=lambda one: (_rank(one["state"]), -one["share"], one["address"]))


def summary(service: Mapping[str, Any]) -> Iterator[tuple[str, bool]]:
    """A service in lines; whether a line is bad news."""
    states = Counter(one["state"] for one in service["instances"])
    count = len(service["instances"])
    listed = ", ".join(f"{states[state]} {state}" for state in STATES if states[state]) or "none"
    yield f"{count} instances ({listed}) from {service['source']}, listed {duration(service['age'])} ago", not count
    if service["panic"]:
        yield "Panic: too many instances are out, so all of them get calls.", True
    if service["circuit"] == "open":
        yield "The circuit is open: calls fail at once, but for a probing one now and then.", True
    if service["problem"]:
        kept = "the last good list is used" if count else "there is no list"
        yield f"{service['source']} fails: {service['problem']} ({kept})", True
    parts = [f"{service['in_flight']} in flight"]
    if service["queued"]:
        parts.append(f"{service['queued']} calls wait for a place")
    if service["retry_budget"] is not None:
        parts.append(f"budget for {service['retry_budget']} retries")
    if service["circuit"] == "closed":
        parts.append("circuit closed")
    yield "; ".join(parts), False
    if service["policy"]:
        yield "policy: " + ", ".join(f"{name}={value}" for name, value in service["policy"].items()), False


def reason(instance: Mapping[str, Any]) -> str:
    """Why an instance is in its state, and for how long."""
    left = "" if instance["returns_in"] is None else f"{duration(instance['returns_in'])} left: "
    return left + (instance["why"] or "")


def duration(seconds: float) -> str:
    """For people: 0.3 ms, 25 ms, 1.2 s, 3 min, 2 h."""
    if seconds < 0.01:
        return f"{seconds * 1000:.2g} ms"
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.0f} h"


def share(part: float) -> str:
    return f"{part:.1%}" if part else ""


def _rank(state: str) -> int:
    return STATES.index(state) if state in STATES else len(STATES)
