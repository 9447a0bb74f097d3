"""The instances of a Consul agent's answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..events import logger
from ..instance import Instance
from .registry import SHOWN


class Entries:
    """Reads the entries of /v1/health/service. One that is not understood is left out, and said once."""

    def __init__(self, service: str, passing: bool) -> None:
        self._service = service
        self._passing = passing
        self._refused: set[str] = set()

    def instances(self, entries: Sequence[Any]) -> list[Instance]:
        """Raises ValueError if there are entries and none is understood: that is no empty list."""
        found = []
        problem = ""
        for entry in entries:
            try:
                found.append(_instance_of(entry, self._passing))
            except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
                problem = f"{type(error).__name__}: {str(error)[:SHOWN]}"
                if problem not in self._refused and len(self._refused) < 1000:
                    self._refused.add(problem)
                    logger.warning("%s: an entry of consul is refused: %s", self._service, problem)
        if entries and not found:
            raise ValueError(f"none of {len(entries)} entries was understood; the last: {problem}")
        return found


def _instance_of(entry: Any, passing: bool) -> Instance:
    """The instance of one entry of /v1/health/service. passing: the list has only those that pass."""
    node, details = entry["Node"], entry["Service"]
    weights = details.get("Weights") or {}
    weight = weights.get("Passing", 1)
    if not passing:
        states = {check.get("Status") for check in entry.get("Checks") or ()}
        if states & {"critical", "maintenance"}:
            weight = 0
        elif "warning" in states:
            weight = weights.get("Warning", 1)
    metadata = {str(key): str(value) for key, value in (details.get("Meta") or {}).items()}
    metadata.setdefault("tags", ",".join(details.get("Tags") or ()))
    metadata.setdefault("node", str(node.get("Node", "")))
    metadata.setdefault("dc", str(node.get("Datacenter", "")))
    return Instance(
        host=details.get("Address") or node["Address"],
        port=details.get("Port") or None,
        scheme=metadata.get("scheme", "http") if metadata.get("scheme") in ("http", "https") else "http",
        weight=float(weight),
        zone=metadata.get("zone"),
        metadata=metadata,
        id=details.get("ID"),
    )
