"""Consul: blocking queries on a service's health.

python-consul builds the queries. Its HTTP layer is replaced by ours over httpx: it has no timeouts, puts the token
into the URL, drops the response headers and reads without a limit.

The rules of a blocking query (Consul: "Features of the HTTP API / Blocking Queries"; undocumented parts observed with
1.8.7):

1. The index must be ≥ 1 to block; if it goes down, or after any error, start again without an index. A client that
   keeps its old index when the agent restarts keeps blocking while data changes.
2. `wait` may last up to wait/16 longer; only after that does the agent count as silent.
3. An answer with the same index means that the wait is over, except from an agent that is stopping: it answers at once,
   repeatedly. And the index of a service without instances changes with every other service. So a fast answer with
   nothing new is followed by a pause, which grows to a second.
"""

from __future__ import annotations

import os
import ssl
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from dataclasses import replace
from typing import Any
from urllib.parse import SplitResult, quote

import httpx

from ...instance import Instance
from ..base import Addresses, Discovery
from ..combined import Fallback
from ..http import checked_token, registry_url, tls, token_in
from ..http_client import MOST_BYTES, HttpClient
from ..options import (
    COMMON,
    TIMEOUT,
    Option,
    check_options,
    flag,
    number,
    optional,
    path,
    read_options,
    seconds,
    secret,
    several,
    text,
)
from ..registration import Address, Registration
from .agent import Agent, Agents
from .entries import Entries
from .registration import registered

PORT = 8500
SLACK = 5.0  # seconds after the longest allowed wait until a silent agent is given up
SOON = 0.1  # seconds: an answer faster than this did not block
LONGEST_PAUSE = 1.0


OPTIONS: dict[str, Option] = {
    **dict.fromkeys(("tag", "dc"), several(text)),
    "token": secret,
    "token_file": path,
    **dict.fromkeys(("near", "filter"), text),
    **dict.fromkeys(("stale", "cached", "prepared", "passing"), flag),
    "max_stale": optional(seconds()),
    "interval": seconds(),
    "wait": TIMEOUT,
    "connections": number(least=2),
    **COMMON,
}


class Consul(Discovery):
    """The passing instances of a service, from a Consul agent.

    address:     "127.0.0.1:8500", "http://…", "https://…" or "unix:///run/consul.sock"; None: CONSUL_HTTP_ADDR (with
                 TLS if CONSUL_HTTP_SSL says so), else the local agent
    token:       ACL token, sent in a header, never in a URL; None: CONSUL_HTTP_TOKEN
    token_file:  a file that holds it, read again when it changes; None: CONSUL_HTTP_TOKEN_FILE
    dc:          datacenter; None: the agent's own. Several: the first that has instances (failover)
    tag:         a tag, or several: instances that have all of them
    near:        a node's name (or "_agent"): the nearest third of the instances is used first, the others
                 (priority 1) only for the load that these cannot take
    stale:       any server may answer, even without a leader
    max_stale:   seconds that such an answer may be behind the leader; else the leader is asked
    cached:      the agent may answer from its cache (many clients on one machine)
    filter:      a filter expression ('Service.Meta.version == "v2"')
    passing:     only instances whose checks all pass; if false, also those with warnings, with Consul's warning weight,
                 and critical ones with weight 0: called only if there are no others
    prepared:    service names are those of prepared queries; these cannot block: they are asked every `interval`
                 seconds
    connections: to the agent at most; it accepts 200 from one address, for all processes together. With more services
                 than connections, the watches take turns of seven seconds
    wait:        seconds that a query blocks for at most; seven where there are more than 16 services
    timeout:     seconds to connect, and to wait for an answer that does not block (the whole of one: three times that)
    most_bytes:  of an answer
    verify, cert: as in httpx; else CONSUL_CACERT, CONSUL_CLIENT_CERT and CONSUL_CLIENT_KEY
    grace:       seconds for which an empty list after a non-empty one is held back

    An instance has the service's address, else the node's; its tags, its `Meta`, the node's name and the datacenter are
    its metadata ({"tags": "a,b", "version": "v2", …}). Covers names without a dot and `orders.service.consul`.
    """

    def __init__(
        self,
        address: str | None = None,
        *,
        token: str | None = None,
        token_file: str | None = None,
        dc: str | Sequence[str] | None = None,
        tag: str | Sequence[str] | None = None,
        near: str | None = None,
        stale: bool = False,
        max_stale: float | None = None,
        cached: bool = False,
        prepared: bool = False,
        interval: float = 5.0,
        filter: str | None = None,
        passing: bool = True,
        connections: int = 128,
        wait: float = 55.0,
        timeout: float = 5.0,
        most_bytes: int = MOST_BYTES,
        verify: Any = True,
        cert: Any = None,
        grace: float = 10.0,
    ) -> None:
        check_options("Consul", OPTIONS, locals())
        address = _address_of_environment() if address is None else address
        self.socket: str | None = address.removeprefix("unix://") if address.startswith("unix://") else None
        self.url: httpx.URL = _agent_url("http://localhost:8500" if self.socket else address)
        self.grace = grace
        self._take_token(token, token_file)
        verify, cert = _tls_of_environment(verify, cert)
        several = [dc] if isinstance(dc, str) else list(dc or ())
        self.dc = several[0] if several else None
        self.tags = (tag,) if isinstance(tag, str) else tuple(tag or ())
        self._near = near
        self.stale = stale
        self._max_stale = max_stale
        self._cached = cached
        self._prepared = prepared
        self._interval = interval
        self._filter = filter
        self._passing = passing
        self.wait = wait
        self._timeout = timeout
        self._most_bytes = most_bytes
        self._verify = tls([self.url], verify, cert)
        self.agents = Agents(lambda: Agent(self.agent()), connections)
        self._all_names = False  # only names it covers are queried
        self._elsewhere = self._failover(several) if len(several) > 1 else None

    def _failover(self, datacenters: Sequence[str]) -> Fallback:
        alone = [copy(self) for _ in datacenters]
        for one, name in zip(alone, datacenters, strict=True):
            one.dc, one._all_names, one._elsewhere = name, True, None
        return Fallback(*alone)

    def _take_token(self, token: str | None, token_file: str | None) -> None:
        environ = os.environ
        self._token = checked_token("Consul.token", token if token is not None else environ.get("CONSUL_HTTP_TOKEN"))
        self._token_file = token_file or (environ.get("CONSUL_HTTP_TOKEN_FILE") if not self._token else None)
        if self._token_file is not None and self._token is None:
            self._token = token_in(self._token_file)

    @classmethod
    def from_url(cls, parts: SplitResult, options: Mapping[str, list[str]]) -> Consul:
        """`consul://host:port?dc=eu&tag=a&tag=b&stale=true`; `consul+https://` for TLS; the token as `?token=`."""
        keywords = read_options("consul", options, OPTIONS)
        if parts.username or parts.password:
            raise ValueError("consul:// takes no user; give an ACL token as ?token= or in CONSUL_HTTP_TOKEN")
        if parts.path and not parts.netloc:
            raise ValueError(f"consul:{parts.path}: two slashes are missing; write consul://{parts.path.lstrip('/')}")
        scheme = "https" if parts.scheme.endswith("https") else "http"
        address = f"{scheme}://{parts.netloc}{parts.path}" if parts.netloc else None
        return cls(address, **keywords)

    def covers(self, host: str) -> bool:
        return self._all_names or super().covers(host) or (self.services is None and _service_of(host) is not None)

    def watch(self, service: str, stop: threading.Event) -> Iterator[Addresses]:
        if self._elsewhere is not None:
            yield from self._elsewhere.watch(service, stop)
            return
        with self.agents.watching():
            yield from (self._poll if self._prepared else self._watch)(_service_of(service) or service, stop)

    def interrupt(self, stop: threading.Event) -> None:
        if self._elsewhere is not None:
            self._elsewhere.interrupt(stop)
        self.agents.interrupt(stop)

    def __str__(self) -> str:
        if self.socket is not None:
            return f"consul at {self.socket}"
        return f"consul at {self.url.host}:{self.url.port or (443 if self.url.scheme == 'https' else 80)}"

    def register(
        self,
        service: str,
        address: Address,
        *,
        id: str | None = None,
        meta: Mapping[str, str] | None = None,
        weight: float | None = None,
        ttl: float = 10.0,
        tags: Sequence[str] = (),
    ) -> Registration:
        """Register an instance while a block runs (`with` or `async with`); the block gets its id.

            with Consul().register("orders", "10.0.0.1:8080", tags=["prod"]): serve()

        id:      its own among the agent's services; None: made of the service, this host and this process
        meta:    its metadata
        weight:  Consul's weight while its check passes, a whole number; None: the address's, else 1
        ttl:     seconds, at least 1, after which it leaves the lists if this process dies
        """
        return registered(self, service, address, id=id, meta=meta, weight=weight, ttl=ttl, tags=tags)

    def agent(self) -> HttpClient:
        """A connection to the agent: paths are relative to it, and the token goes along."""
        token = self._present_token()
        headers = {} if token is None else {"X-Consul-Token": token}
        return HttpClient(self.url, timeout=self._timeout, verify=self._verify, most=self._most_bytes, headers=headers,
                          uds=self.socket)  # fmt: skip

    def _present_token(self) -> str | None:
        return self._token if self._token_file is None else token_in(self._token_file)

    def _poll(self, query: str, stop: threading.Event) -> Iterator[Addresses]:
        """A prepared query cannot block."""
        entry_of = Entries(query, self._passing)
        while not stop.is_set():
            with self.agents.one(stop, blocks=False) as agent:
                entries = agent.http.prepared(query, self.dc)
            yield entry_of.instances(entries)
            stop.wait(self._interval)

    def _watch(self, service: str, stop: threading.Event) -> Iterator[Addresses]:
        index = waits = 0
        pause = SOON
        shown: list[Instance] | None = None
        entry_of = Entries(service, self._passing)
        while not stop.is_set():
            with self.agents.one(stop, blocks=index > 0) as agent:
                began = time.monotonic()
                wait = self.agents.wait(self.wait, waits) if index else 0.0
                answered, entries = self._ask(agent, service, index, wait)
                soon = time.monotonic() - began < SOON
            instances = shown if answered == index != 0 else self._by_distance(entry_of.instances(entries))
            waits += index > 0
            del entries  # a blocked watch must not keep them in memory
            # A lower index means that the registry was restarted.
            index = 0 if answered < max(index, 1) else answered
            if instances is not None and instances != shown:
                shown = instances
                yield instances
            elif soon:
                stop.wait(pause)
                pause = min(pause * 2, LONGEST_PAUSE)
                continue
            pause = SOON

    def _by_distance(self, instances: list[Instance]) -> list[Instance]:
        """With `near` the agent lists the nearest first."""
        if self._near is None:
            return instances
        nearest = -(-len(instances) // 3)
        return instances[:nearest] + [replace(instance, priority=1) for instance in instances[nearest:]]

    def _ask(self, agent: Agent, service: str, index: int, wait: float) -> tuple[int, list[Any]]:
        """One query; it blocks while nothing has changed since `index` (0: it does not)."""
        if self._token_file is not None:
            agent.http.use_token(self._present_token())
        answer = self._asked(agent, service, index, wait, self.stale)
        if self.stale and self._max_stale is not None and agent.http.behind > self._max_stale:
            answer = self._asked(agent, service, 0, 0.0, False)
        answered, entries = int(answer[0]), answer[1]
        if not isinstance(entries, list):
            raise ValueError(f"expected a list of instances, got {type(entries).__name__}")
        return answered, entries

    def _asked(self, agent: Agent, service: str, index: int, wait: float, stale: bool) -> Any:
        extra: list[tuple[str, str]] = [("tag", tag) for tag in self.tags]
        if stale:
            extra.append(("stale", "1"))
        if self._cached:
            extra.append(("cached", "1"))
        if self._filter is not None:
            extra.append(("filter", self._filter))
        agent.http.prepare(extra, wait * 17 / 16 + SLACK if index else 0.0, str(index) if index else None)
        return agent.health.service(
            quote(service, safe=""),
            index=index or None,
            wait=f"{wait * 1000:.0f}ms",
            passing=self._passing or None,
            dc=self.dc,
            near=self._near,
        )


def _address_of_environment() -> str:
    address = os.environ.get("CONSUL_HTTP_ADDR") or f"127.0.0.1:{PORT}"
    secure = os.environ.get("CONSUL_HTTP_SSL", "").lower() in ("1", "true")
    return f"https://{address}" if secure and "://" not in address else address


def _tls_of_environment(verify: Any, cert: Any) -> tuple[Any, Any]:
    environ = os.environ
    if verify is True and "CONSUL_CACERT" in environ:
        verify = ssl.create_default_context(cafile=environ["CONSUL_CACERT"])
    if cert is None and "CONSUL_CLIENT_CERT" in environ:
        cert = (environ["CONSUL_CLIENT_CERT"], environ.get("CONSUL_CLIENT_KEY") or environ["CONSUL_CLIENT_CERT"])
    return verify, cert


def _agent_url(address: str) -> httpx.URL:
    if "@" in address:
        raise ValueError("Consul: the address takes no user; give an ACL token as token= or in CONSUL_HTTP_TOKEN")
    return registry_url("Consul", address, PORT)


def _service_of(host: str) -> str | None:
    """orders.service.consul → orders (Consul's own DNS domain)."""
    name, dot, _ = host.partition(".service.consul")
    return name if dot and host == f"{name}.service.consul" and name and "." not in name else None
