"""Eureka: the whole registry, fetched once and then by its deltas, as Netflix' own client does (`DiscoveryClient`).

1. GET apps; then, every `interval`, GET apps/delta: what was recently added, modified and deleted. The server sends a
   hash code of the result (how many instances have which status); if it differs, everything is fetched again.
2. All watches of a source share one copy of the registry, and one error while it cannot be fetched.
3. Only instances whose status is UP are called; OUT_OF_SERVICE, STARTING, DOWN and UNKNOWN are not.

Eureka does not push, and its servers answer from a cache of their own that is up to 30 s old.
"""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, cast
from urllib.parse import SplitResult

import httpx

from ..errors import describe
from ..support.untrusted import whole_number
from .base import Addresses, Discovery, Unreadable, entry_of, read
from .http import RegistryAnswer, registry_url, tls, weight_of
from .http_client import MOST_BYTES, HttpClient
from .options import COMMON, Option, check_options, flag, read_options, seconds, text
from .threads import Lock

PORT = 8761
OPTIONS: dict[str, Option] = {"secure": flag, "user": text, "interval": seconds(), **COMMON}
DELTAS_REACH = 90.0  # seconds; servers keep a change for 180 (eureka.retentionTimeInMSInDeltaQueue)
AGAIN = 1.0  # seconds for which all watches share one failure


class Known(NamedTuple):
    """An instance: its status, the names of its services, and its fields."""

    status: str
    names: frozenset[str]
    instance: Any


Registry = dict[tuple[str, str], Known]  # an instance by its application and its id


class Eureka(Discovery):
    """The instances that are UP, by their virtual address (`vipAddress`, or `secureVipAddress`) or their application's
    name.

    address:   "10.0.0.1:8761/eureka", or several: the first that answers is asked
    secure:    use the secure port where it is enabled; else only where no other is
    user, password: basic authentication; the password also from EUREKA_PASSWORD
    interval:  seconds between two fetches
    timeout:   seconds to connect, and for an answer (the whole of one: three times that)
    most_bytes: of an answer
    verify, cert: as in httpx

    An instance's host is its `hostName`, as for Java clients; its zone is `metadata.zone`, else the data center's
    availability zone.
    """

    def __init__(
        self,
        address: str | Sequence[str] = f"127.0.0.1:{PORT}/eureka",
        *,
        secure: bool = False,
        user: str | None = None,
        password: str | None = None,
        interval: float = 5.0,
        timeout: float = 5.0,
        most_bytes: int = MOST_BYTES,
        verify: Any = True,
        cert: Any = None,
        grace: float = 10.0,
    ) -> None:
        check_options("Eureka", OPTIONS, locals())
        addresses = [address] if isinstance(address, str) else list(address)
        if not addresses:
            raise ValueError("Eureka.address: expected an address, or several, got none")
        self.urls: list[httpx.URL] = [registry_url("Eureka", one, PORT) for one in addresses]
        self.grace = grace
        self._secure = secure
        self._auth = None if user is None else (user, password or os.environ.get("EUREKA_PASSWORD") or "")
        self._interval = interval
        self._timeout = timeout
        self._most_bytes = most_bytes
        self._verify = tls(self.urls, verify, cert)
        self._lock = Lock()
        self._registry: Registry | None = None
        self._services: dict[str, list[Any]] = {}
        self._asked_at = self._good_at = float("-inf")
        self._failure: str | None = None

    @classmethod
    def from_url(cls, parts: SplitResult, options: Mapping[str, list[str]]) -> Eureka:
        """`eureka://host:port,host:port/eureka/v2?secure=true`; `eureka+https://` for TLS."""
        if "@" in parts.netloc:
            raise ValueError("eureka:// takes no user before the host; write ?user=…, and EUREKA_PASSWORD")
        keywords = read_options("eureka", options, OPTIONS)
        scheme = "https" if parts.scheme.endswith("https") else "http"
        hosts = (parts.netloc or f"127.0.0.1:{PORT}").split(",")
        return cls([f"{scheme}://{host}{parts.path or '/eureka'}" for host in hosts], **keywords)

    def watch(self, service: str, stop: threading.Event) -> Iterator[Addresses]:
        read: object = None
        shown: list[Any] | None = None
        while not stop.is_set():
            services = self._current()
            if services is not read:
                read, found = services, services.get(service, [])
                if found != shown:
                    shown = found
                    yield found
            stop.wait(self._interval)

    def __str__(self) -> str:
        return f"eureka at {', '.join(url.netloc.decode() for url in self.urls)}"

    def _current(self) -> dict[str, list[Any]]:
        """The services, not older than `interval`; the same object if nothing has changed. Raises what the last fetch
        raised.
        """
        with self._lock:
            age = time.monotonic() - self._asked_at
            if self._failure is not None and age < min(AGAIN, self._interval):
                raise ConnectionError(self._failure)
            if self._registry is None or self._failure is not None or age >= self._interval * 0.9:
                try:
                    before, now = self._registry, time.monotonic()
                    self._registry = self._fetched(before if now - self._good_at < DELTAS_REACH else None)
                    self._good_at = now
                    if self._registry is not before:
                        self._services = services_of(self._registry)
                    self._failure = None
                except Exception as error:
                    self._failure = describe(error)
                    raise ConnectionError(self._failure) from None
                finally:
                    self._asked_at = time.monotonic()
            return self._services

    def _fetched(self, before: Registry | None) -> Registry:
        with HttpClient("", timeout=self._timeout, verify=self._verify, most=self._most_bytes, auth=self._auth,
                        headers={"Accept": "application/json"}) as client:  # fmt: skip
            if before is not None:
                changed = updated(before, self._asked(client, "/apps/delta") or {}, self._secure)
                if changed is not None:
                    return changed
            return registry_of(self._asked(client, "/apps"), self._secure)

    def _asked(self, client: HttpClient, path: str) -> Any:
        """None: the server does not know that path (deltas may be switched off)."""
        problem: Exception | None = None
        for url in self.urls:
            try:
                answer = client.get(f"{str(url).rstrip('/')}{path}")
            except httpx.TransportError as error:
                problem = error
                continue
            if answer.status_code in (403, 404) and path.endswith("delta"):
                return None
            if answer.status_code == 200:
                return answer.json()["applications"]
            problem = EurekaAnswer(answer.status_code, answer.text)
            if answer.status_code < 500:
                break
        assert problem is not None
        raise problem


class EurekaAnswer(RegistryAnswer):
    """An answer that is no registry, in words that help."""

    hints: ClassVar = {
        401: " (user and password?)",
        403: " (user and password?)",
        404: " (is the path right? Spring's is /eureka, Netflix' is /eureka/v2)",
    }


def registry_of(applications: Any, prefer_secure: bool) -> Registry:
    """A full answer's instances."""
    return {key: _known(key, one, prefer_secure) for key, one in _instances(applications)}


def updated(before: Registry, delta: Any, prefer_secure: bool) -> Registry | None:
    """The registry after a delta; the same object if nothing changes (a change is repeated for three minutes); None:
    everything must be fetched again.
    """
    wanted = delta.get("apps__hashcode")
    if wanted is None:
        return None
    after = dict(before)
    for key, one in _instances(delta):
        if one.get("actionType") == "DELETED":
            after.pop(key, None)
        else:  # ADDED, MODIFIED
            after[key] = _known(key, one, prefer_secure)
    if hash_of(after) != wanted:
        return None
    return before if after == before else after


def services_of(registry: Registry) -> dict[str, list[Any]]:
    """The instances that are UP, by the services they are of."""
    services: dict[str, list[Any]] = {}
    for known in registry.values():
        if known.status == "UP":
            for name in known.names:
                services.setdefault(name, []).append(known.instance)
    return services


def hash_of(registry: Registry) -> str:
    """How many instances have which status: "DOWN_1_UP_4_" (Eureka: `Applications.getReconcileHashCode`)."""
    counts = Counter(known.status for known in registry.values())
    return "".join(f"{status}_{count}_" for status, count in sorted(counts.items()))


def known_of(application: str, one: Mapping[str, Any], prefer_secure: bool) -> Known:
    """What is used of an instance."""
    plain, secure = _port(one.get("port")), _port(one.get("securePort"))
    encrypted = secure is not None and (prefer_secure or plain is None)
    given = one.get("metadata")
    metadata = {str(key): str(value) for key, value in given.items() if not str(key).startswith("@")} \
        if isinstance(given, dict) else {}  # fmt: skip
    center = one.get("dataCenterInfo")
    about = center.get("metadata") if isinstance(center, dict) else None
    zone = metadata.get("zone") or (about.get("availability-zone") if isinstance(about, dict) else None)
    fields = {
        "host": one.get("hostName") or one.get("ipAddr"),
        "port": secure if encrypted else plain,
        "scheme": "https" if encrypted else "http",
        "weight": weight_of(metadata),
        "zone": zone,
        "metadata": metadata,
        "id": _id_of(one),
    }
    names = {application.lower(), *_names(one.get("vipAddress")), *_names(one.get("secureVipAddress"))}
    return Known(str(one.get("status")), frozenset(names), entry_of(fields))


def _known(key: tuple[str, str], one: Mapping[str, Any], prefer_secure: bool) -> Known:
    made = read(known_of, key[0], one, prefer_secure)
    if isinstance(made, Unreadable):
        return Known(str(one.get("status")), frozenset({key[0].lower()}), made)
    return cast(Known, made)


def _instances(applications: Any) -> Iterator[tuple[tuple[str, str], Mapping[str, Any]]]:
    for application in _several(applications.get("application")):
        for one in _several(application.get("instance")):
            yield (str(application.get("name")), _id_of(one)), one


def _id_of(one: Mapping[str, Any]) -> str:
    return str(one.get("instanceId") or one.get("hostName"))


def _names(written: Any) -> set[str]:
    return {name.strip().lower() for name in written.split(",")} if isinstance(written, str) else set()


def _port(said: Any) -> Any:
    """{"$": 8080, "@enabled": "true"}; None: there is none."""
    if not isinstance(said, dict) or str(said.get("@enabled", "true")).lower() != "true":
        return None
    number = said.get("$")
    return whole_number(number) if isinstance(number, str) else number


def _several(said: Any) -> list[Any]:
    """A list with one item may be sent as the item itself."""
    return [one for one in (said if isinstance(said, list) else [said]) if isinstance(one, dict)]
