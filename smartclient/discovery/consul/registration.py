"""Registration with Consul, for services that serve: their users mostly own both sides.

A TTL check, kept passing from a thread; an agent that has been restarted and knows nothing of the service any more is
told again; at the end of the block the service is deregistered. Should the process die, Consul takes the instance out
of the lists after `ttl`, and forgets it after a minute (its shortest).
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote

import httpx

from ...instance import Instance
from ...support.untrusted import shown
from ..http import checked_id, kept_alive
from ..http_client import HttpClient
from .agent import ConsulAnswer
from .source import Consul

FORGET_AFTER = "1m"


@contextmanager
def register(
    service: str,
    address: str | Instance,
    *,
    consul: Consul | str | None = None,
    id: str | None = None,
    tags: Sequence[str] = (),
    meta: Mapping[str, str] | None = None,
    weight: int = 1,
    ttl: float = 10.0,
) -> Iterator[str]:
    """Have an instance listed while the block runs; its id.

        with register("orders", "10.0.0.1:8080", tags=["prod"]):
            serve()

    address: where it serves
    consul:  a `Consul`, or the agent's address; None: as `Consul()`
    id:      its own among the instances; None: made of the service, this host and this process
    weight:  Consul's weight while its check passes
    ttl:     seconds after which it is taken out of the lists if this process dies
    """
    instance = Instance.parse(address)
    if instance.port is None:
        raise ValueError(f"register: expected an address with a port, got {shown(address)}")
    if not isinstance(ttl, (int, float)) or not 1 <= ttl <= 86_400:
        raise ValueError(f"register: ttl: expected seconds from 1 up, got {ttl!r}")
    source = consul if isinstance(consul, Consul) else Consul(consul)
    name = checked_id("register: id", id or f"{service}-{socket.gethostname()}-{os.getpid()}")
    entry = {
        "ID": name,
        "Name": service,
        "Address": instance.host,
        "Port": instance.port,
        "Tags": list(tags),
        "Meta": {"scheme": instance.scheme, **(meta or {})},
        "Weights": {"Passing": weight, "Warning": 1},
        "Check": {"TTL": f"{ttl:g}s", "Status": "passing", "DeregisterCriticalServiceAfter": FORGET_AFTER},
    }

    def beat() -> None:
        with source.agent() as agent:
            if agent.put(f"v1/agent/check/pass/service:{quote(name, safe='')}").status_code != 200:
                _put(agent, "v1/agent/service/register", entry)  # restarted, it knows nothing of us

    def end() -> None:
        with source.agent() as agent:
            _put(agent, f"v1/agent/service/deregister/{quote(name, safe='')}", None)

    with source.agent() as agent:
        _put(agent, "v1/agent/service/register", entry)
    with kept_alive(service, source, ttl / 3, beat, end, (httpx.HTTPError, ConsulAnswer)):
        yield name


def _put(agent: HttpClient, path: str, body: Any) -> None:
    ConsulAnswer.unless_good(agent.put(path, json=body))
