"""Etcd: keys under a prefix, watched over etcd's JSON gateway (v3). And `register`, for services that serve.

    /services/orders/i-1   10.0.0.1:8080                                     PREFIX/SERVICE/INSTANCE-ID: an address,
    /services/orders/i-2   {"host": "10.0.0.2", "port": 8080, "weight": 2}   or an instance's fields

Keys with and without the leading slash are read, since people write both; `register` writes it.

Undocumented behaviour of the gateway (seen on 3.4 and 3.5): int64s are strings; fields with value zero are left out (a
PUT has no type); the token is sent in the header without "Bearer"; a watch of a compacted revision is cancelled in an
answer with status 200; then everything is read again.
"""

from __future__ import annotations

import base64
import json
import math
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import Any
from urllib.parse import SplitResult

import httpx

from ..instance import Instance
from ..support.hosts import wire_name
from ..support.untrusted import from_json
from .base import Addresses, Discovery, read
from .http import RegistryAnswer, Relists, registry_url, tls
from .http_client import MOST_BYTES, Answer, HttpClient, Waits
from .options import COMMON, Option, check_options, read_options, text
from .registration import Address, checked_id, checked_ttl, kept_alive, listed, registration

PORT = 2379
OPTIONS: dict[str, Option] = {"user": text, **COMMON}
MOST_KEYS = 10_000  # keys searched for a name in another spelling
QUIET = 60.0  # seconds without events, then everything is read again


class Etcd(Discovery):
    """The instances registered under a prefix.

    address:   "127.0.0.1:2379", "https://…"
    prefix:    of the keys
    user, password: where etcd asks for them; the password also from ETCD_PASSWORD
    timeout:   seconds to connect, and for answers that do not stream (the whole of one: three times that)
    most_bytes: of an answer
    verify, cert: as in httpx
    """

    def __init__(
        self,
        address: str = f"127.0.0.1:{PORT}",
        *,
        prefix: str = "/services",
        user: str | None = None,
        password: str | None = None,
        timeout: float = 5.0,
        most_bytes: int = MOST_BYTES,
        verify: Any = True,
        cert: Any = None,
        grace: float = 10.0,
    ) -> None:
        check_options("Etcd", OPTIONS, locals())
        self.url: httpx.URL = registry_url("Etcd", address, PORT)
        self.prefix: str = "/" + prefix.strip("/") if prefix.strip("/") else ""
        self.grace = grace
        self.user = user
        self._password = password or os.environ.get("ETCD_PASSWORD")
        self._timeout = timeout
        self._verify = tls([self.url], verify, cert)
        self._most_bytes = most_bytes
        self._waits = Waits()

    @classmethod
    def from_url(cls, parts: SplitResult, options: Mapping[str, list[str]]) -> Etcd:
        """`etcd://host:port/prefix?user=…`; `etcd+https://` for TLS."""
        if parts.username or parts.password:
            raise ValueError("etcd:// takes no user before the host; write ?user=…, and the password in ETCD_PASSWORD")
        keywords = read_options("etcd", options, OPTIONS)
        scheme = "https" if parts.scheme.endswith("https") else "http"
        if parts.path.strip("/"):
            keywords["prefix"] = parts.path
        return cls(f"{scheme}://{parts.netloc or f'127.0.0.1:{PORT}'}", **keywords)

    def watch(self, service: str, stop: threading.Event) -> Iterator[Addresses]:
        with self._waits.of(stop, self._new_asking()) as asking:
            self._log_in(asking)
            path = f"{self.prefix}/{service}/"
            prefixes = readable(asking, (path, path[1:]))
            yield from self._watch(asking, (*prefixes, *self._written(asking, service, prefixes)), stop)

    def interrupt(self, stop: threading.Event) -> None:
        self._waits.end(stop)

    def __str__(self) -> str:
        return f"etcd at {self.url.host}:{self.url.port or PORT}"

    @contextmanager
    def client(self) -> Iterator[HttpClient]:
        """A connection to the gateway, logged in."""
        with self._new_asking() as asking:
            self._log_in(asking)
            yield asking

    def _new_asking(self) -> HttpClient:
        return HttpClient(self.url, timeout=self._timeout, verify=self._verify, most=self._most_bytes)

    def _log_in(self, asking: HttpClient) -> None:
        if self.user is not None:
            said = post(asking, "/v3/auth/authenticate", {"name": self.user, "password": self._password or ""})
            asking.headers["Authorization"] = said["token"]

    def _written(self, client: HttpClient, service: str, prefixes: Sequence[str]) -> Sequence[str]:
        """Other prefixes of the service: names are case-insensitive, and it may be registered as "Orders"."""
        if any(count(client, prefix) for prefix in prefixes):
            return ()
        above = f"{self.prefix}/"
        try:
            found = {name for prefix in (above, above[1:]) for name in names_under(client, prefix)}
        except EtcdAnswer:  # we may not read all services
            return ()
        same = min((name for name in found if name != service and wire_name(name) == service), default=None)
        return () if same is None else (f"{above}{same}/", f"{above}{same}/"[1:])

    def _watch(self, asking: HttpClient, prefixes: Sequence[str], stop: threading.Event) -> Iterator[Addresses]:
        relists = Relists()
        while not stop.is_set():
            entries, revision = read_all(asking, prefixes)
            yield list(entries.values())
            relists.begins()
            for changed in events(asking, prefixes, revision + 1):
                if changed is None:  # all is read anew
                    break
                if stop.is_set():
                    return
                for key, value in changed.items():
                    if value is None:
                        entries.pop(key, None)
                    else:
                        entries[key] = value
                yield list(entries.values())
            relists.ended()

    @registration
    def register(
        self,
        service: str,
        address: Address,
        *,
        id: str | None = None,
        meta: Mapping[str, str] | None = None,
        weight: float | None = None,
        ttl: float = 10.0,
    ) -> Iterator[str]:
        """Have an instance listed while a block runs (`with` or `async with`), on a lease that is kept alive from a
        thread; its id.

            with Etcd("127.0.0.1:2379").register("orders", "10.0.0.1:8080"): serve()

        id:      its own among the instances; None: made of this host and this process
        meta:    its metadata
        weight:  None: the address's, else 1
        ttl:     seconds (etcd: whole ones, at least 2) after which it leaves the list if this process dies
        """
        service = checked_id("register: service", wire_name(service))
        instance, checked = listed(address, id, meta, weight), checked_ttl(ttl, 1)
        name, value = instance.id or "", _written(instance)
        key = f"{self.prefix}/{service}/{name}"
        lease = self._grant(key, value, math.ceil(checked))

        def beat() -> None:
            nonlocal lease
            with self.client() as client:
                said = post(client, "/v3/lease/keepalive", {"ID": lease})
            if not int((said.get("result") or {}).get("TTL", 0)):
                lease = self._grant(key, value, math.ceil(ttl))  # it had run out

        def end() -> None:
            with self.client() as client:
                post(client, "/v3/lease/revoke", {"ID": lease})

        with kept_alive(service, self, ttl / 3, beat, end, (httpx.HTTPError, EtcdAnswer, ValueError)):
            yield name

    def _grant(self, key: str, value: str, ttl: int) -> str:
        with self.client() as client:
            lease = str(post(client, "/v3/lease/grant", {"TTL": ttl})["ID"])
            post(client, "/v3/kv/put", {"key": coded(key), "value": coded(value), "lease": lease})
        return lease


class EtcdAnswer(RegistryAnswer):
    """An answer other than 200, in words that help."""

    def hint(self, status: int, message: str) -> str:
        named = (status in (400, 401, 403) and "auth" in message) or "user" in message
        return " (user and password?)" if named else ""


def events(asking: HttpClient, prefixes: Sequence[str], revision: int) -> Iterator[dict[str, Any] | None]:
    """The changes since that revision: values by key, None for a deleted key; None instead of a mapping: read all
    again, because the revision was compacted or there were no events for long.
    """
    asked = {"start_revision": str(revision), "progress_notify": True}
    request = "\n".join(json.dumps({"create_request": {**key_range(prefix), **asked}}) for prefix in prefixes)
    with asking.lines("POST", "/v3/watch", quiet=QUIET, content=request) as answer:
        if isinstance(answer, Answer):
            raise EtcdAnswer(answer.status_code, answer.text)
        try:
            for lines in answer:
                found: dict[str, Any] = {}
                for line in lines:
                    said = from_json(line)
                    if "error" in said:
                        raise EtcdAnswer(200, json.dumps(said["error"]))
                    result = said.get("result") or {}
                    if result.get("canceled"):
                        if "compact_revision" in result:
                            yield None
                            return
                        why = result.get("cancel_reason", "no reason given")
                        raise ConnectionError(f"the watch was cancelled: {why}")
                    found.update(changes(result.get("events") or ()))
                if found:
                    yield found
        except httpx.ReadTimeout:  # nothing has changed, or the server is silent: reading anew will tell
            yield None
            return
    raise ConnectionError("the watch ended")


def readable(client: HttpClient, prefixes: Sequence[str]) -> Sequence[str]:
    """The prefixes that our user may read; raises EtcdAnswer if there are none."""
    refusal: EtcdAnswer | None = None
    found = []
    for prefix in prefixes:
        try:
            post(client, "/v3/kv/range", {**key_range(prefix), "count_only": True})
        except EtcdAnswer as error:
            if "permission denied" not in str(error):
                raise  # a temporary error, not caused by that prefix
            refusal = refusal or error
        else:
            found.append(prefix)
    if refusal is not None and not found:
        raise refusal
    return found


def count(client: HttpClient, prefix: str) -> int:
    """How many keys there are."""
    return int(post(client, "/v3/kv/range", {**key_range(prefix), "count_only": True}).get("count", 0))


def names_under(client: HttpClient, prefix: str) -> set[str]:
    """The services that have keys (the next part of each key), from the first MOST_KEYS keys."""
    if not prefix:
        return set()
    said = post(client, "/v3/kv/range", {**key_range(prefix), "keys_only": True, "limit": MOST_KEYS})
    return {_decoded(pair["key"])[len(prefix) :].partition("/")[0] for pair in said.get("kvs") or ()}


def read_all(client: HttpClient, prefixes: Sequence[str]) -> tuple[dict[str, Any], int]:
    """All under these prefixes: values by key, and the revision they are of.

    One after another, not in one transaction: etcd 3.5.1 panics and exits when a client cancels a read-only
    transaction.
    """
    entries: dict[str, Any] = {}
    revision = 0  # as of now; the others as of the first
    for prefix in prefixes:
        said = post(client, "/v3/kv/range", {**key_range(prefix), "revision": str(revision)})
        revision = revision or int(said["header"]["revision"])
        entries.update((_decoded(pair["key"]), value_of(pair)) for pair in said.get("kvs") or ())
    return entries, revision


def changes(events: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for event in events:
        pair = event["kv"]
        found[_decoded(pair["key"])] = None if event.get("type") == "DELETE" else value_of(pair)
    return found


def value_of(pair: Mapping[str, Any]) -> Any:
    """An address, or an instance's fields with the key's last part as its id. Anything else is refused later."""
    return read(_instance_of, pair)


def _instance_of(pair: Mapping[str, Any]) -> Instance:
    value = _decoded(pair.get("value", "")).strip()
    fields = from_json(value) if value.startswith("{") else None
    if not isinstance(fields, dict):
        return Instance.parse(value)
    return Instance.parse({"id": _decoded(pair["key"]).rpartition("/")[2], **fields})


def _written(instance: Instance) -> str:
    """The value of an instance's key: its address, if that is all there is to say."""
    if instance == replace(Instance.parse(str(instance)), id=instance.id):
        return str(instance)
    fields = {**asdict(instance), "metadata": dict(instance.metadata)}
    return json.dumps({name: value for name, value in fields.items() if value is not None})


def post(client: HttpClient, path: str, body: Mapping[str, Any]) -> Any:
    return EtcdAnswer.unless_good(client.post(path, json=body)).json()


def coded(value: str) -> str:
    return base64.b64encode(value.encode()).decode()


def key_range(prefix: str) -> dict[str, str]:
    """All keys with a prefix: their end is its last byte, plus one."""
    raw = prefix.encode()
    return {"key": coded(prefix), "range_end": base64.b64encode(raw[:-1] + bytes([raw[-1] + 1])).decode()}


def _decoded(value: str) -> str:
    return base64.b64decode(value).decode("utf-8", "replace")
