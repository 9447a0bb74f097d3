"""Curator's layout in ZooKeeper: what is known of one service, kept up to date by watches."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from ...instance import Instance
from ...support.hosts import wire_name
from ..http import weight_of

STATUS, UP = "instance_status", "UP"  # Spring Cloud ZooKeeper: else OUT_OF_SERVICE


class Reading:
    """What is known of one service: the values of its nodes, and which of them must be read (anew).

    ZooKeeper's watches fire once, and all of them when the connection is lost: then all is read anew.
    """

    def __init__(self, kazoo: Any, base: str, service: str, say: Callable[[Any], None], timeout: float) -> None:
        self._kazoo = kazoo
        self._base = base
        self._service = service
        self._path = f"{base}/{service}"
        self._say = say
        self._timeout = timeout
        self._stale: set[str] = set()
        self._all = self._relist = True
        self.values: dict[str, Any] = {}

    def told(self, events: list[Any]) -> None:
        for event in events:
            if event is None or event.type == "NONE":
                self._all = self._relist = True
            elif event.path in (self._path, self._base):
                self._relist = True
            else:
                self._stale.add(event.path.rpartition("/")[2])

    def changed(self, client: Any) -> bool:
        """Read what must be read; whether the list may be another now."""
        if not (self._relist or self._stale):
            return False
        stale, self._stale = self._stale, set()
        if self._relist:
            names = self._names(client)
            gone = self.values.keys() - names
            for name in gone:
                del self.values[name]
            stale = set(names) if self._all else (stale & names) | (names - self.values.keys())
        self._all = self._relist = False
        asked = [(name, client.get_async(f"{self._path}/{name}", watch=self._say)) for name in sorted(stale)]
        for name, answer in asked:
            try:
                data, _ = answer.get(timeout=self._timeout)
            except self._kazoo.no_node:
                self.values.pop(name, None)
                continue
            value = value_of(name, data)
            if value is None:
                self.values.pop(name, None)
            else:
                self.values[name] = value
        return True

    def _names(self, client: Any) -> set[str]:
        while True:
            try:
                return set(client.get_children_async(self._path, watch=self._say).get(timeout=self._timeout))
            except self._kazoo.no_node:
                written = self._written(client)
                if written is None:
                    return set()
                self._path = f"{self._base}/{written}"

    def _written(self, client: Any) -> str | None:
        """The spelling of the service's name there: names are case-insensitive, and it may be registered as "Orders".
        None: it does not exist; a watch will report when it is created.
        """
        while True:
            try:
                names = client.get_children_async(self._base or "/", watch=self._say).get(timeout=self._timeout)
                break
            except self._kazoo.no_node:  # nobody has ever registered
                if client.exists_async(self._base, watch=self._say).get(timeout=self._timeout) is None:
                    return None
                # Made in between: what watches a node that exists does not report its children.
        same = [name for name in names if wire_name(name) == self._service]
        return self._service if self._service in same else min(same, default=None)


def entry_of(service: str, instance: Instance, payload: Mapping[str, Any] | None, now: float) -> dict[str, Any]:
    """Curator's fields of an instance; what Curator has none for is in its payload's metadata (Spring Cloud).

    now: seconds since 1970
    """
    details = dict(instance.metadata)
    if instance.weight != 1.0:
        details["weight"] = f"{instance.weight:g}"
    if instance.zone is not None:
        details["zone"] = instance.zone
    port = "sslPort" if instance.scheme == "https" else "port"
    return {
        "name": service,
        "id": instance.id,
        "address": instance.host,
        "port": None,
        "sslPort": None,
        port: instance.port,
        "payload": {**(payload or {}), **({"metadata": details} if details else {})},
        "serviceType": "DYNAMIC",
        "enabled": True,
        "registrationTimeUTC": int(now * 1000),
    }


def value_of(name: str, data: bytes | None) -> Any:
    """Curator's JSON as an instance's fields; None: it is not to be called. What is neither is refused later on."""
    written = (data or b"").decode("utf-8", "replace").strip()
    try:
        said = json.loads(written)
    except (ValueError, RecursionError):
        return written
    if not isinstance(said, dict):
        return written
    if said.get("enabled") is False:
        return None
    payload = said.get("payload")
    details = payload.get("metadata") if isinstance(payload, dict) and "metadata" in payload else payload
    metadata = {str(key): str(value) for key, value in details.items()} if isinstance(details, dict) else {}
    if metadata.get(STATUS, UP).upper() != UP:
        return None
    secure = said.get("port") is None and said.get("sslPort") is not None
    return {
        "host": said.get("address"),
        "port": said.get("sslPort") if secure else said.get("port"),
        "scheme": "https" if secure else "http",
        "weight": weight_of(metadata),
        "zone": metadata.get("zone"),
        "metadata": metadata,
        "id": str(said.get("id") or name),
    }
