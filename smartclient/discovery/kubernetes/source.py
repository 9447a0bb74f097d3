"""Kubernetes: a service's EndpointSlices, listed and then watched. Over httpx; no Kubernetes client is needed.

Rules of the API ("Efficient detection of changes"; what was seen on real servers is in the tests' stand-in):

1. list, then watch from the list's resourceVersion; bookmarks move that on;
2. an expired watch gets status 200 with an ERROR event of code 410, an expired list HTTP 410: list again;
3. the token is read again for each request: it is replaced about every hour; 401 means that it was too old;
4. an endpoint is used if it is ready; if none is, those that are still serving while they terminate
   (kube-proxy: ProxyTerminatingEndpoints).
"""

from __future__ import annotations

import json
import os
import ssl
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple
from urllib.parse import SplitResult, quote

import httpx

from ...support.untrusted import from_json, shown
from ..base import Addresses, Discovery, Unreadable, entry_of, read
from ..http import RegistryAnswer, Relists, tls, token_in
from ..http_client import MOST_BYTES, Answer, HttpClient, Waits
from ..options import COMMON, Option, check_options, path, read_options, several, text
from .access import access_to

SLICES = "apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices"
LABEL = "kubernetes.io/service-name"
OPTIONS: dict[str, Option] = {
    "namespace": text,
    "namespaces": several(text),
    "port": text,
    "token_file": path,
    "ca_file": path,
    **COMMON,
}
WATCH_FOR = 60  # seconds after which the server ends a watch and it is restarted; a silent one is given up soon after


class Kubernetes(Discovery):
    """The endpoints of services, as kube-proxy sees them: `orders` (in our namespace), `orders.shop.svc`,
    `orders.shop.svc.cluster.local`, and `orders.shop` for our own namespace and those of `namespaces` (any other name
    of two parts may be an internet host).

    server:      of the API; None: in the cluster as every pod knows it, else the context of KUBECONFIG
    namespace:   of names without one; None: our own
    namespaces:  others that are called by `service.namespace`
    port:        name of the port, where a service has several ("http"); None: the first
    token_file, ca_file: in place of the pod's
    timeout:     seconds to connect, and for answers that do not stream (the whole of one: three times that)
    most_bytes:  of an answer
    zone, and hints for topology-aware routing, become the instance's zone and its metadata ({"for_zones": "a,b"}).
    """

    def __init__(
        self,
        server: str | None = None,
        *,
        namespace: str | None = None,
        namespaces: Sequence[str] = (),
        port: str | None = None,
        token_file: str | os.PathLike[str] | None = None,
        ca_file: str | os.PathLike[str] | None = None,
        timeout: float = 5.0,
        most_bytes: int = MOST_BYTES,
        grace: float = 10.0,
    ) -> None:
        check_options("Kubernetes", OPTIONS, locals())
        access = access_to(server, token_file, ca_file)
        self.url: str = access["server"]
        self.namespace: str = namespace or access.get("namespace") or "default"
        self.grace = grace
        self._namespaces = frozenset({self.namespace, *namespaces})
        self._port = port
        self._token_file: Any = access.get("token_file")
        self._token: str | None = access.get("token")
        self._ca_file: Any = access.get("ca_file")
        self._verify: Any = access.get("verify", True)
        self._context: tuple[object, ssl.SSLContext] = (None, tls([], True, None))
        self._timeout = timeout
        self._most_bytes = most_bytes
        self._waits = Waits()

    @classmethod
    def from_url(cls, parts: SplitResult, options: Mapping[str, list[str]]) -> Kubernetes:
        """`kubernetes://` in the cluster, `kubernetes://host:port?namespace=shop&port=http` from outside."""
        keywords = read_options("kubernetes", options, OPTIONS)
        scheme = "http" if parts.scheme.endswith("+http") else "https"
        return cls(f"{scheme}://{parts.netloc}" if parts.netloc else None, **keywords)

    def covers(self, host: str) -> bool:
        return host in self.services if self.services is not None else self._name_of(host) is not None

    def watch(self, service: str, stop: threading.Event) -> Iterator[Addresses]:
        found = self._name_of(service)
        if found is None:
            raise LookupError(f"{shown(service)} is not the name of a service")
        name, namespace = found
        path = SLICES.format(namespace=quote(namespace, safe=""))
        selector = {"labelSelector": f"{LABEL}={name}"}
        with self._waits.of(stop, self.client()) as asking:
            relists = Relists()
            while not stop.is_set():
                slices, version = self._list(asking, path, selector)
                yield instances_of(slices.values())
                relists.begins()
                for changed in self._changes(asking, path, selector, slices, version, stop):
                    if changed:
                        yield instances_of(slices.values())
                relists.ended()

    def interrupt(self, stop: threading.Event) -> None:
        self._waits.end(stop)

    def __str__(self) -> str:
        url = httpx.URL(self.url)
        return f"kubernetes at {url.netloc.decode()}{url.path.rstrip('/')}"

    def client(self) -> HttpClient:
        return HttpClient(self.url, timeout=self._timeout, verify=self._tls(), most=self._most_bytes)

    def _tls(self) -> ssl.SSLContext:
        """One context for all watches, made anew when the cluster's CA was changed."""
        read_at = os.stat(self._ca_file).st_mtime_ns if self._ca_file else 0
        if self._context[0] != read_at:
            verify = ssl.create_default_context(cafile=self._ca_file) if self._ca_file else self._verify
            self._context = read_at, tls([httpx.URL(self.url)], verify, None)
        return self._context[1]

    def _name_of(self, host: str) -> tuple[str, str] | None:
        """(service, namespace) of a host; None: it is none."""
        if super().covers(host):
            return host, self.namespace
        short = host.removesuffix(".svc.cluster.local").removesuffix(".svc")
        name, _, namespace = short.partition(".")
        if name and namespace and "." not in namespace and (short != host or namespace in self._namespaces):
            return name, namespace
        return None

    def _headers(self) -> dict[str, str]:
        token = token_in(self._token_file) if self._token_file else self._token
        return {"Authorization": f"Bearer {token}"} if token else {}

    def _list(self, asking: HttpClient, path: str, selector: Mapping[str, str]) -> tuple[dict[str, Slice], str]:
        said = KubernetesAnswer.unless_good(asking.get(path, params=selector, headers=self._headers())).json()
        items = [one for one in said.get("items") or () if isinstance(one, dict)]
        return {name_of(one): self._slice(one) for one in items}, said["metadata"]["resourceVersion"]

    def _changes(
        self,
        asking: HttpClient,
        path: str,
        selector: Mapping[str, str],
        slices: dict[str, Slice],
        version: str,
        stop: threading.Event,
    ) -> Iterator[bool]:
        """Keep `slices` up to date until everything must be read again; yields whether the events changed them."""
        while not stop.is_set():
            query = {**selector, "watch": "1", "allowWatchBookmarks": "true", "resourceVersion": version,
                     "timeoutSeconds": str(WATCH_FOR)}  # fmt: skip
            began, changed = time.monotonic(), False
            with asking.lines("GET", path, quiet=WATCH_FOR + 10.0, params=query, headers=self._headers()) as answer:
                if isinstance(answer, Answer):
                    if answer.status_code == 410:
                        return
                    raise KubernetesAnswer(answer.status_code, answer.text)
                for lines in answer:
                    kinds = set()
                    for line in lines:
                        event = from_json(line)
                        kind, thing = event["type"], event["object"]
                        if kind == "ERROR":
                            if thing.get("code") == 410:
                                return
                            raise KubernetesAnswer(int(thing.get("code") or 0), json.dumps(thing))
                        version = thing["metadata"]["resourceVersion"]
                        if kind == "DELETED":
                            slices.pop(name_of(thing), None)
                        elif kind in ("ADDED", "MODIFIED"):
                            slices[name_of(thing)] = self._slice(thing)
                        kinds.add(kind)
                    changed = changed or kinds != {"BOOKMARK"}
                    yield kinds != {"BOOKMARK"}
            if not changed and time.monotonic() - began < 1:  # client-go: "very short watch"
                raise ConnectionError("the watch ended at once, without an event")

    def _slice(self, one: Mapping[str, Any]) -> Slice:
        made = read(slice_of, one, self._port)
        return made if isinstance(made, Slice) else Slice("", [(None, True, [made])])


class KubernetesAnswer(RegistryAnswer):
    """An answer that is no list, in words that help."""

    hints: ClassVar = {401: " (is the token still good?)", 403: " (may this account list endpointslices?)"}


class Slice(NamedTuple):
    """What is used of an EndpointSlice. endpoints: the pod of each, whether it is ready (else it serves while it
    terminates), and its instances
    """

    family: str
    endpoints: list[tuple[Any, bool, list[Any]]]


def instances_of(slices: Iterable[Slice]) -> list[Any]:
    """Those that are ready; if there are none, those that still serve."""
    ready: list[Any] = []
    serving: list[Any] = []
    families: dict[Any, str] = {}  # of each pod
    # A pod with two addresses is in two slices, one for each family: it is one server.
    for one in sorted(slices, key=family_of):
        for pod, is_ready, entries in one.endpoints:
            if pod is None or families.setdefault(pod, one.family) == one.family:
                (ready if is_ready else serving).extend(entries)
    return ready or serving


def family_of(one: Slice) -> str:
    return one.family


def name_of(one: Mapping[str, Any]) -> str:
    """A slice's name, by which it is known."""
    return str(one["metadata"]["name"])


def slice_of(one: Mapping[str, Any], port_name: str | None) -> Slice:
    endpoints: list[tuple[Any, bool, list[Any]]] = []
    family = str(one.get("addressType"))
    try:
        port = port_of(one, port_name)
    except LookupError:
        return Slice(family, endpoints)  # its pods have no port of that name
    for endpoint in one.get("endpoints") or ():
        made = read(endpoint_of, endpoint, port)
        if isinstance(made, Unreadable):
            made = None, True, [made]
        if made is not None:
            endpoints.append(made)
    return Slice(family, endpoints)


def endpoint_of(endpoint: Mapping[str, Any], port: int | None) -> tuple[Any, bool, list[Any]] | None:
    """None: it must not be called."""
    conditions = endpoint.get("conditions") or {}
    ready = conditions.get("ready") is not False  # no condition at all counts as ready
    if not ready and not (conditions.get("serving") and conditions.get("terminating")):
        return None
    return pod_of(endpoint), ready, entries_of(endpoint, port)


def port_of(one: Mapping[str, Any], name: str | None) -> int | None:
    """The TCP port of a slice by its name, else its first; None: it has no ports, and the URL's is used. Raises
    LookupError if it has ports and none of TCP with that name.
    """
    ports = one.get("ports") or ()
    for port in ports:
        if (port.get("protocol") or "TCP") == "TCP" and (name is None or port.get("name") == name):
            number = port.get("port")
            return number if isinstance(number, int) else None
    if ports:
        raise LookupError(name)
    return None


def pod_of(endpoint: Mapping[str, Any]) -> tuple[Any, ...] | None:
    """Which pod an endpoint is; None: it does not say."""
    target = endpoint.get("targetRef") or {}
    return (target.get("kind"), target.get("uid") or target["name"]) if "name" in target or "uid" in target else None


def entries_of(endpoint: Mapping[str, Any], port: int | None) -> list[Any]:
    """An endpoint's addresses as instances; an invalid address is refused later, alone."""
    target = endpoint.get("targetRef") or {}
    zones = [zone.get("name") for zone in (endpoint.get("hints") or {}).get("forZones") or ()]
    metadata = {"node": endpoint.get("nodeName"), "pod": target.get("name"), "for_zones": ",".join(filter(None, zones))}
    found: list[Any] = []
    for address in endpoint.get("addresses") or ():
        fields = {"host": address, "port": port, "zone": endpoint.get("zone"),
                  "metadata": {key: value for key, value in metadata.items() if value}}  # fmt: skip
        found.append(entry_of(fields))
    return found
