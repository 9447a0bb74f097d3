"""The words in which a status is told, on the page and in the terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ..services.states import STATES

OUT = ("ejected", "probing", "unhealthy")


def in_order(instances: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Those in trouble first; then those that are avoided; then those that have most of the calls."""
    return sorted(instances, key=lambda one: (_rank(one["state"]), not one["why"], -one["share"], one["address"]))


def services_in_order(services: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Those in trouble first, then by name."""
    return sorted(services, key=lambda one: (not _troubles(one), str(one["name"])))


def headline(client: Mapping[str, Any]) -> Iterator[tuple[str, bool]]:
    """A client in a line or two, before all details; whether a line is bad news."""
    config = client.get("config") or {}
    for problem in config.get("problems", ())[:3]:
        yield f"The configuration is wrong, the last good one is in force: {problem}", True
    troubles = [f"{one['name']}: {_troubles(one)}" for one in client["services"] if _troubles(one)]
    if troubles:
        yield "; ".join(troubles), True


def _troubles(service: Mapping[str, Any]) -> str:
    out = sum(one["state"] in OUT for one in service["instances"])
    said = [f"{out} of {len(service['instances'])} out"] if out else []
    said += ["panic"] if service["panic"] else []
    said += ["its circuit is open"] if service["circuit"] == "open" else []
    said += ["no instances"] if not service["instances"] else []
    said += ["its registry fails"] if service["problem"] else []
    return ", ".join(said)


def summary(service: Mapping[str, Any]) -> Iterator[tuple[str, bool]]:
    """A service in lines; whether a line is bad news."""
    states = Counter(one["state"] for one in service["instances"])
    count = len(service["instances"])
    listed = ", ".join(f"{states[state]} {state}" for state in STATES if states[state]) or "none"
    bad = not count or any(states[state] for state in OUT)
    yield f"{count} instances ({listed}) from {service['source']}, listed {duration(service['age'])} ago", bad
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
    left = instance["returns_in"]
    until = "" if left is None else f"next try in {duration(max(round(left), 1))}: "
    return until + (instance["why"] or "")


def duration(seconds: float) -> str:
    """For people: 0.3 ms, 25 ms, 1.2 s, 3 min, 2 h."""
    if seconds < 0.01:
        return f"{seconds * 1000:.2g} ms"
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 10 and seconds != round(seconds):
        return f"{seconds:.1f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.0f} h"


def share(part: float) -> str:
    return f"{part:.1%}" if part else ""


def _rank(state: str) -> int:
    return STATES.index(state) if state in STATES else len(STATES)
