"""Dns: addresses (A, AAAA) or SRV records, asked again when their time to live is over. Needs the extra
`smartclient[dns]` (dnspython).

RFC 2782 for SRV: priority is the instance's priority, weight its weight; its target's addresses are those that came
along, else it is looked up by the same server. Answers may have 1232 bytes over UDP (EDNS; "DNS flag day 2020").
NXDOMAIN is an empty list, and held back like any other; SERVFAIL, a refusal and silence are trouble: the last good list
stays. If one address family or one SRV target fails, the answers of the others are used. A truncated answer is
repeated over TCP (by dnspython).

Consul's DNS interface silently leaves instances out of a UDP answer (its option enable_truncate is off), and has its
SRV records at the service's own name: in Consul's domain, names are queried this way, and over TCP.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import SplitResult

from ..instance import Instance, is_ip
from .base import Addresses, Listing, PollingDiscovery, entry_of
from .options import Option, check_options, flag, number, optional, read_options, seconds, text

OPTIONS: dict[str, Option] = {
    "port": optional(number(most=65_535)),
    "domain": text,
    "protocol": text,
    "tcp": optional(flag),
    "timeout": seconds(most=60),
}
SHORTEST = 1.0  # seconds: a time to live of 0 (Consul) must not cause constant queries
PAYLOAD = 1232
RESOLV_CONF = "/etc/resolv.conf"


class Dns(PollingDiscovery):
    """The addresses of a name.

    server:    the resolver's address; None: those of the machine (/etc/resolv.conf)
    server_port: of that server
    port:      of the instances; None: the URL's, or SRV's
    srv:       ask for `_http._tcp.SERVICE.DOMAIN`
    domain:    appended to the service's name ("shop.example", "shop.svc.cluster.local"); None: the machine's search
               list
    protocol:  in the name of SRV records; None: "_http._tcp", and none at all in Consul's domain
    tcp:       ask over TCP; None: in Consul's domain, and where an answer was truncated
    timeout:   seconds for an answer
    """

    def __init__(
        self,
        server: str | None = None,
        *,
        server_port: int = 53,
        port: int | None = None,
        srv: bool = False,
        domain: str | None = None,
        protocol: str | None = None,
        tcp: bool | None = None,
        timeout: float = 2.0,
    ) -> None:
        try:
            import dns.resolver
        except ImportError:
            raise ImportError("Dns needs dnspython: pip install 'smartclient[dns]'") from None
        if server is not None and not is_ip(server):
            raise ValueError(f"Dns.server: expected an IP address, got {server!r}")
        check_options("Dns", OPTIONS, locals())
        self._server = server
        self._dns: Any = dns.resolver
        self._server_port = server_port
        self._timeout = timeout
        self._read = self._settings()
        self._resolver = self._new_resolver()  # raises here if the machine's settings are wrong
        self.port = port
        self.srv = srv
        self._domain = None if domain is None else domain.strip(".").lower()
        consul = f".{self._domain}".endswith(".consul")
        self._protocol = ("" if consul else "_http._tcp") if protocol is None else protocol.strip(".")
        self._tcp = consul if tcp is None else tcp

    @classmethod
    def from_url(cls, parts: SplitResult, options: Mapping[str, list[str]]) -> Dns:
        """`dns://127.0.0.1:53?port=8080`, `dns+srv://127.0.0.1?domain=shop.example`; no server: the machine's."""
        keywords = read_options(parts.scheme, options, OPTIONS)
        if parts.port is not None:
            keywords["server_port"] = parts.port
        return cls(parts.hostname, srv=parts.scheme == "dns+srv", **keywords)

    def covers(self, host: str) -> bool:
        if super().covers(host):
            return True
        own = f".{self._domain}" if self._domain else None
        return self.services is None and own is not None and host.endswith(own) and "." not in host[: -len(own)]

    def resolve(self, service: str) -> Addresses | tuple[Addresses, float]:
        name = f"{service}.{self._domain}." if self._domain and not service.endswith(f".{self._domain}") else service
        if self.srv:
            return self._services(f"{self._protocol}.{name}" if self._protocol else name)
        addresses, ttl, problem = self._addresses(name)
        return Listing((Instance(address, self.port) for address in addresses), problem=problem), ttl

    def __str__(self) -> str:
        return f"dns at {self._server}" if self._server else "dns"

    def _services(self, name: str) -> tuple[Listing, float]:
        """The targets' addresses. A target that cannot be resolved does not affect the others."""
        answer = self._ask(name, "SRV")
        until = time.monotonic() + 2 * self._timeout  # for all targets together
        found: list[Any] = []
        problems: list[str] = []
        ttl = answer.ttl
        for record in answer.records:
            target = str(record.target)
            if target == ".":  # RFC 2782: decidedly not available
                continue
            addresses: Sequence[str] = answer.came_along.get(target.lower(), ())
            if not addresses:
                try:
                    if time.monotonic() > until:
                        raise TimeoutError(f"{target}: no time was left to look it up")
                    addresses, its_ttl, problem = self._addresses(target)
                except (ConnectionError, TimeoutError) as error:
                    its_ttl, problem = self.interval, str(error)
                ttl = min(ttl, its_ttl)
                problems += [problem] if problem else []
            # Weight 0 has "a very small chance" of being chosen.
            weight = float(record.weight) or 0.01
            fields = {"port": self.port or record.port, "weight": weight, "priority": record.priority,
                      "metadata": {"target": target.rstrip(".")}}  # fmt: skip
            found += [entry_of({"host": address, **fields}) for address in addresses]
        if problems and not found:
            raise ConnectionError("; ".join(problems[:3]))
        return Listing(found, problem="; ".join(problems[:3]) or None), ttl

    def _addresses(self, name: str) -> tuple[list[str], float, str | None]:
        """The addresses of both families, their ttl, and the error of one family. Raises ConnectionError or
        TimeoutError if one family fails and the other has no addresses.
        """
        addresses: set[str] = set()
        ttls: list[float] = []
        trouble: Exception | None = None
        for kind in ("A", "AAAA"):
            try:
                answer = self._ask(name, kind)
            except (ConnectionError, TimeoutError) as error:
                trouble = trouble or error
                continue
            addresses.update(record.address for record in answer.records)
            if answer.records:
                ttls.append(answer.ttl)
        if trouble is None:
            return sorted(addresses), min(ttls, default=self.interval), None
        if not addresses:
            raise trouble
        return sorted(addresses), min(*ttls, self.interval), str(trouble)

    def _ask(self, name: str, kind: str) -> Asked:
        """The records; none if there are none, or no such name. Raises ConnectionError or TimeoutError."""
        resolver = self._current()
        try:
            answer = resolver.resolve(name, kind, search=not name.endswith("."), tcp=self._tcp)
        except (self._dns.NXDOMAIN, self._dns.NoAnswer):
            return Asked([], self.interval, {})
        except self._dns.NoNameservers as error:
            raise ConnectionError(f"{kind} {name}: {_reason(error)}") from None
        except self._dns.LifetimeTimeout:
            raise TimeoutError(f"{kind} {name}: no answer within {resolver.lifetime:g} s") from None
        # For a chain of CNAMEs the smallest ttl counts: each name may point elsewhere after its ttl.
        ttls = [answer.chaining_result.minimum_ttl]
        came_along: dict[str, list[str]] = {}
        for one in answer.response.additional:
            addresses = [record.address for record in one if hasattr(record, "address")]
            if addresses:
                ttls.append(one.ttl)
                came_along.setdefault(str(one.name).lower(), []).extend(addresses)
        return Asked(list(answer), max(SHORTEST, float(min(ttls))), came_along)

    def _current(self) -> Any:
        """The resolver, made anew when the machine's settings have changed: networks come and go."""
        read = self._settings()
        if self._read != read:
            self._read, self._resolver = read, self._new_resolver()
        return self._resolver

    def _settings(self) -> object:
        return None if self._server is not None else _signature(RESOLV_CONF)

    def _new_resolver(self) -> Any:
        resolver = self._dns.Resolver(configure=self._server is None)
        if self._server is not None:
            resolver.nameservers = [self._server]
            resolver.port = self._server_port
        resolver.lifetime = self._timeout
        resolver.cache = None
        resolver.use_edns(0, 0, PAYLOAD)
        return resolver


class Asked(NamedTuple):
    """An answer: the records, how long they hold, and addresses that came along, by name."""

    records: list[Any]
    ttl: float
    came_along: Mapping[str, Sequence[str]]


def _signature(path: str) -> object:
    try:
        about = os.stat(path)
    except OSError:
        return None
    return about.st_mtime_ns, about.st_ino, about.st_size


def _reason(error: Any) -> str:
    """What the servers said (SERVFAIL, REFUSED, …)."""
    said = [str(entry[-2]) for entry in error.kwargs.get("errors", ())]
    return said[-1] if said else str(error)
