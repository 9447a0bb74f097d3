"""Registration with Consul.

A TTL check, kept passing from a thread; if a restarted agent no longer knows the service, it is
registered again; at the end of the block the service is deregistered. If the process dies, Consul removes the instance
from the lists after `ttl`, and deletes it after a minute (Consul's minimum).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol
from urllib.parse import quote

import httpx

from ..http_client import HttpClient
from ..registration import Address, checked_ttl, kept_alive, listed, registration
from .agent import ConsulAnswer

FORGET_AFTER = "1m"


class Source(Protocol):
    """What is needed of a `Consul`."""

    def agent(self) -> HttpClient: ...


@registration
def registered(
    source: Source,
    service: str,
    address: Address,
    *,
    id: str | None,
    meta: Mapping[str, str] | None,
    weight: float | None,
    ttl: float,
    tags: Sequence[str],
) -> Iterator[str]:
    instance = listed(address, id, meta, weight, prefix=f"{service}-")  # an agent's ids are those of all its services
    checked_ttl(ttl, 1)
    name = instance.id or ""
    entry = {
        "ID": name,
        "Name": service,
        "Address": instance.host,
        "Port": instance.port,
        "Tags": list(tags),
        "Meta": {"scheme": instance.scheme, **instance.metadata},
        "Weights": {"Passing": max(1, round(instance.weight)), "Warning": 1},
        "Check": {"TTL": f"{ttl:g}s", "Status": "passing", "DeregisterCriticalServiceAfter": FORGET_AFTER},
    }

    def beat() -> None:
        with source.agent() as agent:
            if agent.put(f"v1/agent/check/pass/service:{quote(name, safe='')}").status_code != 200:
                _put(agent, "v1/agent/service/register", entry)  # a restarted agent does not know us

    def end() -> None:
        with source.agent() as agent:
            _put(agent, f"v1/agent/service/deregister/{quote(name, safe='')}", None)

    with source.agent() as agent:
        _put(agent, "v1/agent/service/register", entry)
    with kept_alive(service, source, ttl / 3, beat, end, (httpx.HTTPError, ConsulAnswer)):
        yield name


def _put(agent: HttpClient, path: str, body: Any) -> None:
    ConsulAnswer.unless_good(agent.put(path, json=body))
