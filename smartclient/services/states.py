"""The state of a node in one word, and why."""

from __future__ import annotations

from ..node import Node

# The worst first.
STATES = ("ejected", "probing", "unhealthy", "paused", "warming", "usable", "unused")


def state_of(node: Node) -> tuple[str, str | None, float | None]:
    """A node's state (`InstanceStatus.state`), why, and until when."""
    if node.unhealthy:
        return "unhealthy", "active checks fail", None
    if not node.instance.healthy:
        return "unhealthy", "its registry says so", None
    until = node.ejected_until
    if until is not None:
        finding = None if node.health is None else node.health.finding
        why = "ejected" if finding is None else f"{finding.rule}: {finding.reason}"
        return ("probing" if node.probe is not None else "ejected"), why, until
    if node.paused_until is not None:
        return "paused", "it asked for a pause (Retry-After)", node.paused_until
    if node.excluded:
        return "unused", "its priority, zone or weight is not in use", None
    if node.warm_since is not None:
        return "warming", f"slow start: {node.weight:.3g} of a weight of {node.instance.weight:.3g}", None
    return "usable", _suspicion(node), None


def _suspicion(node: Node) -> str | None:
    """What speaks against a node that is still used: balancers avoid it, and so it is long not ejected."""
    health = node.health
    if health is None:
        return None
    if health.local_failures:
        return f"avoided: {_calls(health.local_failures)} had no answer"
    return f"avoided: {_calls(health.answers_5xx)} had an answer of 5xx" if health.answers_5xx else None


def _calls(count: int) -> str:
    return "its last call" if count == 1 else f"its last {count} calls"
