"""Checker: the one thread that makes all active health checks of a client, in an event loop of its own.

Each check is a connection of its own, so that accepting one is checked, too; it is made with the client's TLS settings.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable
from dataclasses import replace
from random import Random
from typing import Any
from weakref import WeakKeyDictionary

from ..connections.dialing import Dialing
from ..connections.request import Address, address_of
from ..health.active import HealthCheck
from ..node import Node
from ..services.service import Service
from ..support.hosts import is_link_local
from ..support.loggers import HEALTH

AT_ONCE = 50
LONGEST_SLEEP = 0.5  # seconds: for instances that are new
FIRST_WITHIN = 1.0  # seconds, spread at random
JOIN_AT_MOST = 0.1


class Patient:
    """What is known of one node. row: successes (> 0) or failures (< 0) in a row."""

    __slots__ = ("due", "row", "task")

    def __init__(self, due: float) -> None:
        self.due: float = due
        self.row: int = 0
        self.task: Any = None


class Checker:
    """Checks the nodes of the services it is shown."""

    def __init__(self, dialing: Dialing, clock: Callable[[], float], rng: Random) -> None:
        self._dialing = dialing
        self._clock = clock
        self._rng = rng
        self._lock = threading.Lock()
        self._services: dict[Service, HealthCheck | None] = {}  # and by what each is checked
        self._patients: WeakKeyDictionary[Node, Patient] = WeakKeyDictionary()
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._closed = False

    def watch(self, service: Service) -> None:
        """Check that service's nodes from now on."""
        if service.forgotten or (service in self._services and self._thread is not None):
            return
        with self._lock:
            self._services.setdefault(service, service.policy.health_check)
            if self._thread is None and not self._closed:
                self._thread = threading.Thread(target=self._run, name="smartclient-checks", daemon=True)
                try:
                    self._thread.start()
                except RuntimeError as error:  # no more threads to be had: the next call tries again
                    self._thread = None
                    HEALTH.warning("active health checks could not be started: %s", error)

    def forget(self, service: Service) -> None:
        """There is no such service, or nobody calls it any more."""
        with self._lock:
            self._services.pop(service, None)

    def reconfigured(self) -> None:
        """Policies have changed: each node whose service is checked otherwise now is checked again soon."""
        with self._lock:
            for service, before in self._services.items():
                self._services[service] = settings = service.policy.health_check
                if settings != before:
                    for node in service.nodes:
                        self._patients.pop(node, None)

    def close(self) -> None:
        """End the thread; never takes longer than 0.1 s."""
        with self._lock:
            self._closed = True
            thread, loop, stop = self._thread, self._loop, self._stop
        if loop is not None and stop is not None:
            try:
                loop.call_soon_threadsafe(stop.set)
            except RuntimeError:  # it has just ended
                pass
        if thread is not None and thread is not threading.current_thread():
            thread.join(JOIN_AT_MOST)

    def after_fork(self) -> None:
        """In a forked child there is no thread; the next call starts one."""
        self._lock = threading.Lock()
        self._thread = self._loop = self._stop = None
        self._patients = WeakKeyDictionary()

    # ---- in the thread ----

    def _run(self) -> None:
        try:
            asyncio.run(self._check_all())
        except Exception:
            HEALTH.exception("active health checks ended")

    async def _check_all(self) -> None:
        stop = asyncio.Event()
        with self._lock:
            self._loop, self._stop = asyncio.get_running_loop(), stop
            if self._closed:
                return
        turns = asyncio.Semaphore(AT_ONCE)
        while not stop.is_set():
            now = self._clock()
            soonest = now + LONGEST_SLEEP
            for service in tuple(self._services):
                settings = service.policy.health_check
                if settings is None:
                    continue
                for node in service.nodes:
                    patient = self._patients.get(node)
                    if patient is None:
                        first = now + self._rng.random() * min(FIRST_WITHIN, settings.interval)
                        self._patients[node] = patient = Patient(first)
                    if patient.due <= now and patient.task is None:
                        patient.task = asyncio.ensure_future(self._visit(service, settings, node, patient, turns))
                    elif patient.task is None:
                        soonest = min(soonest, patient.due)
            try:
                await asyncio.wait_for(stop.wait(), max(soonest - now, 0.01))
            except asyncio.TimeoutError:
                pass

    async def _visit(
        self, service: Service, settings: HealthCheck, node: Node, patient: Patient, turns: asyncio.Semaphore
    ) -> None:
        async with turns:
            try:
                well = await asyncio.wait_for(self._ask(service, settings, node), settings.timeout)
            except (Exception, asyncio.CancelledError) as error:
                if isinstance(error, asyncio.CancelledError) and self._closed:
                    raise
                HEALTH.debug("%s: check of %s: %r", service.name, node.instance, error)
                well = False
        if service.policy.health_check != settings:
            patient.task = None
            return  # it is checked otherwise by now, or not at all
        patient.row = max(patient.row, 0) + 1 if well else min(patient.row, 0) - 1
        if patient.row >= settings.healthy:
            service.checked(node, True, settings.unejects)
        elif patient.row <= -settings.unhealthy:
            service.checked(node, False)
        now = self._clock()
        patient.due = now + settings.pause(now - service.used_at, self._rng)
        patient.task = None

    async def _ask(self, service: Service, settings: HealthCheck, node: Node) -> bool:
        address = self._address(service, settings, node)
        https = address.sni is not None
        options = self._dialing.options(https)
        host, port = address.name, address.port
        if not service.link_local:
            found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
            if any(is_link_local(str(one[4][0])) for one in found):
                raise ConnectionError(f"{host} is link-local (allow it with the source's link_local)")
        if settings.path is None:
            tls = {"ssl": options["ssl_context"], "server_hostname": address.sni} if https else {}
            _, writer = await asyncio.open_connection(host, port, **tls)
            writer.close()
            return True
        httpcore = self._dialing.flavour.httpcore
        extensions: dict[str, Any] = {} if address.sni is None else {"sni_hostname": address.sni}
        headers = [
            (b"Host", address.host or service.name.encode()),
            (b"Connection", b"close"),
            (b"User-Agent", b"smartclient"),
        ]
        url = httpcore.URL(
            scheme=address.origin.scheme, host=address.origin.host, port=port, target=settings.path.encode()
        )
        async with httpcore.AsyncConnectionPool(max_keepalive_connections=0, **options) as pool:
            async with pool.stream("GET", url, headers=headers, extensions=extensions) as response:
                return settings.takes(response.status)

    def _address(self, service: Service, settings: HealthCheck, node: Node) -> Address:
        """Where calls to that node go; before there was one, where they would go without a port in their URL."""
        used = () if node.connections is None else tuple(node.connections.addresses)
        scheme, port = used[0] if used else (node.instance.scheme, None)
        address = address_of(node.instance, service.name, service.policy, scheme, port, self._dialing.flavour)
        if settings.port is None:
            return address
        origin = self._dialing.flavour.httpcore.Origin(address.origin.scheme, address.origin.host, settings.port)
        return replace(address, port=settings.port, origin=origin)
