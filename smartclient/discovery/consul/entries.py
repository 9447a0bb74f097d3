"""The instances of a Consul agent's answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from ...instance import Instance
from ...support.loggers import DISCOVERY
from ..base import Unreadable, read


class Entries:
    """Reads the entries of /v1/health/service. An invalid one is left out and logged once; one that is
    unchanged since the last answer is reused.

    passing: the answers list only those that pass
    """

    def __init__(self, service: str, passing: bool) -> None:
        self._service = service
        self._passing = passing
        self._made: dict[Entry, Instance] = {}
        self._refused: set[str] = set()

    def instances(self, entries: Sequence[Any]) -> list[Instance]:
        """Raises ValueError if there are entries but none is valid: that is not an empty list."""
        found = []
        before, self._made = self._made, {}
        problem = ""
        for written in entries:
            made = read(self._instance_of, written, before)
            if not isinstance(made, Unreadable):
                found.append(made)
            else:
                problem = made.reason
                if problem not in self._refused and len(self._refused) < 1000:
                    self._refused.add(problem)
                    DISCOVERY.warning("%s: an entry of consul is refused: %s", self._service, problem)
        if entries and not found:
            raise ValueError(f"none of {len(entries)} entries was understood; the last: {problem}")
        return found

    def _instance_of(self, written: Any, before: dict[Entry, Instance]) -> Instance:
        entry = entry_of(written, self._passing)
        self._made[entry] = made = before.get(entry) or instance_of(entry)
        return made


class Entry(NamedTuple):
    """What is used of an entry."""

    address: Any
    port: Any
    id: Any
    weight: Any
    meta: tuple[tuple[Any, Any], ...]
    tags: tuple[Any, ...]
    node: Any
    dc: Any


def entry_of(written: Any, passing: bool) -> Entry:
    node, details = written["Node"], written["Service"]
    name, dc = node.get("Node", ""), node.get("Datacenter", "")
    weights = details.get("Weights") or {}
    weight = weights.get("Passing", 1)
    if not passing:
        states = {check.get("Status") for check in written.get("Checks") or ()}
        if states & {"critical", "maintenance"}:
            weight = 0
        elif "warning" in states:
            weight = weights.get("Warning", 1)
    return Entry(
        details.get("Address") or node["Address"],
        details.get("Port") or None,
        details.get("ID"),
        weight,
        tuple((details.get("Meta") or {}).items()),
        tuple(details.get("Tags") or ()),
        name,
        dc,
    )


def instance_of(entry: Entry) -> Instance:
    metadata = {str(key): str(value) for key, value in entry.meta}
    metadata.setdefault("tags", ",".join(entry.tags))
    metadata.setdefault("node", str(entry.node))
    metadata.setdefault("dc", str(entry.dc))
    return Instance(
        host=entry.address,
        port=entry.port,
        scheme=metadata.get("scheme", "http") if metadata.get("scheme") in ("http", "https") else "http",
        weight=float(entry.weight),
        zone=metadata.get("zone"),
        metadata=metadata,
        id=entry.id,
    )
