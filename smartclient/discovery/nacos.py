"""Nacos: a service's instances, by its open API.

The API has no long polling for services (only for configurations; Nacos' own clients get pushes over UDP or gRPC): the
list is polled every `interval`. `protectThreshold` is applied by the server: if too many are unhealthy, it reports all
as healthy.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar
from urllib.parse import SplitResult

import httpx

from ..instance import Instance
from ..support.hosts import wire_name
from ..support.untrusted import shown
from .base import Addresses, Discovery, read
from .http import RegistryAnswer, registry_url, tls
from .http_client import MOST_BYTES, HttpClient
from .options import COMMON, Option, check_options, one_of, read_options, seconds, several, text

PORT = 8848
LISTS = {"v1": "/v1/ns/instance/list", "v2": "/v2/ns/instance/list", "v3": "/v3/client/ns/instance/list"}
OPTIONS: dict[str, Option] = {
    **dict.fromkeys(("namespace", "group", "user"), text),
    "cluster": several(text),
    "api": one_of(*LISTS),
    "interval": seconds(),
    **COMMON,
}
NAMES, MOST_NAMES = "/v1/ns/service/list", 10_000


class Nacos(Discovery):
    """The healthy and enabled instances of a service, with Nacos' weights (0 takes no call while others can).

    address:    "127.0.0.1:8848", or with another path than /nacos
    namespace:  its id; None: public
    group:      of the service
    cluster:    only instances of that cluster, or of several
    user, password: where Nacos asks for them; the password also from NACOS_PASSWORD
    api:        "v1" (Nacos 1 and 2), "v2" (from 2.2 on) or "v3" (3)
    interval:   seconds between two polls
    timeout:    seconds to connect, and for an answer (the whole of one: three times that)
    most_bytes: of an answer
    verify, cert: as in httpx

    An instance's cluster is in its metadata ({"cluster": "DEFAULT"}), its zone is `metadata.zone`; TLS is used where
    `metadata.secure` is "true".
    """

    def __init__(
        self,
        address: str = f"127.0.0.1:{PORT}",
        *,
        namespace: str | None = None,
        group: str = "DEFAULT_GROUP",
        cluster: str | Sequence[str] | None = None,
        user: str | None = None,
        password: str | None = None,
        api: str = "v2",
        interval: float = 3.0,
        timeout: float = 5.0,
        most_bytes: int = MOST_BYTES,
        verify: Any = True,
        cert: Any = None,
        grace: float = 10.0,
    ) -> None:
        check_options("Nacos", OPTIONS, locals())
        url = registry_url("Nacos", address, PORT)
        self.url: httpx.URL = url if url.path.strip("/") else url.copy_with(path="/nacos")
        self.grace = grace
        clusters = [cluster] if isinstance(cluster, str) else list(cluster or ())
        named = {"namespaceId": namespace, "groupName": group, "clusters" if api == "v1" else "clusterName":
                 ",".join(clusters) or None}  # fmt: skip
        self._query = {name: value for name, value in named.items() if value is not None}
        self._path = LISTS[api]
        self._login = None if user is None else (user, password or os.environ.get("NACOS_PASSWORD") or "")
        self._interval = interval
        self._timeout = timeout
        self._most_bytes = most_bytes
        self._verify = tls([self.url], verify, cert)

    @classmethod
    def from_url(cls, parts: SplitResult, options: Mapping[str, list[str]]) -> Nacos:
        """`nacos://host:port?namespace=…&group=…&cluster=…`; `nacos+https://` for TLS."""
        if "@" in parts.netloc:
            raise ValueError("nacos:// takes no user before the host; write ?user=…, and NACOS_PASSWORD")
        keywords = read_options("nacos", options, OPTIONS)
        scheme = "https" if parts.scheme.endswith("https") else "http"
        return cls(f"{scheme}://{parts.netloc or f'127.0.0.1:{PORT}'}{parts.path}", **keywords)

    def watch(self, service: str, stop: threading.Event) -> Iterator[Addresses]:
        shown: list[Any] | None = None
        name = service
        with HttpClient(self.url, timeout=self._timeout, verify=self._verify, most=self._most_bytes) as client:
            if self._login is not None:
                # Not as the parameter accessToken: httpx logs URLs.
                client.headers["Authorization"] = f"Bearer {self._token(client, *self._login)}"
            while not stop.is_set():
                answer = client.get(self._path, params={"serviceName": name, **self._query})
                # An expired token is refused too: then the watch starts again.
                found = entries_of(NacosAnswer.unless_good(answer).json())
                if not found and (written := self._written(client, service)) not in (None, name):
                    name = written
                    continue
                if found != shown:
                    shown = found
                    yield found
                stop.wait(self._interval)

    def __str__(self) -> str:
        return f"nacos at {self.url.netloc.decode()}"

    def _written(self, client: HttpClient, service: str) -> str | None:
        """The spelling of the service's name in Nacos: our names are case-insensitive, those of Nacos are not."""
        query = {key: value for key, value in self._query.items() if key in ("namespaceId", "groupName")}
        answer = client.get(NAMES, params={"pageNo": 1, "pageSize": MOST_NAMES, **query})
        said = answer.json() if answer.status_code == 200 else {}
        names = said.get("doms") if isinstance(said, dict) else None
        same = [name for name in names or () if isinstance(name, str) and wire_name(name) == service]
        return service if service in same else min(same, default=None)

    def _token(self, client: HttpClient, user: str, password: str) -> str:
        answer = client.post("/v1/auth/login", data={"username": user, "password": password})
        return str(NacosAnswer.unless_good(answer).json()["accessToken"])


class NacosAnswer(RegistryAnswer):
    """An answer that is no list, in words that help."""

    hints: ClassVar = {
        403: " (user and password?)",
        404: " (is the path right, and the server's version that of api=?)",
    }


def entries_of(said: Any) -> list[Any]:
    """The instances of an answer. Raises ValueError for one that is none."""
    if isinstance(said, dict) and "code" in said and "hosts" not in said:
        if said["code"] not in (0, 200):
            raise ValueError(f"nacos refuses: {shown(said.get('message'))} (code {shown(said['code'])})")
        said = said.get("data")
    hosts = said if isinstance(said, list) else said.get("hosts") if isinstance(said, dict) else None
    if not isinstance(hosts, list):
        raise ValueError("expected a list of hosts: is that Nacos' instance list?")
    return [entry for host in hosts if (entry := read(_entry_of, host)) is not None]


def _entry_of(host: Any) -> Instance | None:
    if not isinstance(host, dict):
        return Instance.parse(host)
    if host.get("healthy") is False or host.get("enabled") is False:
        return None
    given = host.get("metadata")
    metadata = {str(key): str(value) for key, value in given.items()} if isinstance(given, dict) else {}
    metadata.setdefault("cluster", str(host.get("clusterName", "")))
    fields = {
        "host": host.get("ip"),
        "port": host.get("port"),
        "scheme": "https" if metadata.get("secure") == "true" else "http",
        "weight": host.get("weight"),
        "zone": metadata.get("zone"),
        "metadata": metadata,
        "id": host.get("instanceId") or None,
    }
    return Instance.parse(fields)
