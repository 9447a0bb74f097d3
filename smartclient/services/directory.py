"""Services: the services of one client, each made at its first call, watched while it is used.

A name that the source says has no instances is not kept: it is remembered for a second, so that names made of user
input cost neither threads nor memory. Until a source answers, only a few of them are watched (`unknown`).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from random import Random
from typing import Any

from cachetools import TTLCache

from ..discovery.base import Discovery, drop_of
from ..discovery.watcher import Watcher
from ..events import Event, Observer, Observers
from ..faults import Fault
from ..health.stalls import Stalls
from ..instance import Instance, parse_all
from ..node import Node
from ..policy import Policies
from ..support.hosts import wire_name
from ..support.loggers import DISCOVERY
from ..support.untrusted import shown
from .reconfiguring import reconfigure
from .service import Service
from .unknown import Unknown

UNKNOWN_FOR = 1.0
UNKNOWN_AT_MOST = 10_000


class Services:
    """The live services of one client.

    retire_node: called with each node that is gone and has no call left
    by_id:       the registry's id is part of an instance's identity
    forgotten:   called with each service that is kept no longer
    faults_of:   what is injected, of a service
    """

    def __init__(
        self,
        discovery: Discovery,
        policies: Policies,
        *,
        observers: Observers,
        retire_node: Callable[[Node], None],
        clock: Callable[[], float],
        rng: Random,
        zone: str | None = None,
        by_id: bool = False,
        forgotten: Callable[[Service], None] | None = None,
        faults_of: Callable[[str], tuple[Fault, ...]] = lambda service: (),
    ) -> None:
        self._forgotten = forgotten
        self._first = Unknown(discovery.max_unknown)
        self.stalls: Stalls = Stalls()
        self._by_id = by_id
        self._zone = zone
        self.discovery: Discovery = discovery
        self._policies = policies
        for problem in policies.unknown(names) if (names := discovery.names()) is not None else ():
            DISCOVERY.warning("%s (of those that %s has)", problem, discovery)
        self._observers = observers
        self._retire_node = retire_node
        self._clock = clock
        self._rng = rng
        self._lock = threading.Lock()
        self._services: dict[str, Service] = {}
        self._watchers: dict[str, Watcher] = {}
        self._replaced: dict[str, Watcher] = {}  # by a refresh
        self._unknown: TTLCache[str, Service] = TTLCache(UNKNOWN_AT_MOST, UNKNOWN_FOR, timer=clock)
        self._closed = False
        self._faults_of = faults_of

    def covers(self, host: str) -> bool:
        """Whether a request to that host is balanced."""
        return host in self._services or self.discovery.covers(wire_name(host))

    def get(self, host: str) -> Service | None:
        """The service of that name, watched from now on; None: it is not a service."""
        service = self._services.get(host)
        if service is not None:
            watcher = self._watchers.get(service.name)
            if watcher is None or watcher.running:
                return service
        name = wire_name(host)
        return self._open(name) if self.discovery.covers(name) else None

    def refresh(self, name: str | None = None) -> None:
        """Have the source of a service that is watched asked anew, at once; None: of all. The list stays meanwhile."""
        replaced = []
        with self._lock:
            for one in tuple(self._watchers) if name is None else (wire_name(name),):
                watcher, before = self._watchers.get(one), self._replaced.get(one)
                if before is not None and before.alive:
                    continue  # its source hangs: another thread would hang, too
                if watcher is not None and watcher.running and not watcher.over:
                    replaced.append(watcher)
                    self._replaced[one] = watcher
                    watcher.stop_signal.set()  # before the new one starts, whose lists must win
                    self._start(self._services[one])
        for watcher in replaced:
            watcher.stop()

    def observe(self, observer: Observer) -> bool:
        """Tell one more, from now on; whether it was new."""
        added = self._observers.add(observer)
        self._count_observers()
        return added

    def observe_no_more(self, observer: Observer) -> None:
        self._observers.remove(observer)
        self._count_observers()

    def _count_observers(self) -> None:
        for service in tuple(self._services.values()):
            service.observed = bool(self._observers)

    def tell(self, event: Event) -> None:
        """Of what concerns no service alone."""
        self._observers(event)

    def reconfigure(self, policies: Policies) -> list[str]:
        """Have all services follow other policies; the names of those that do something else now. Services to come
        follow them, too.
        """
        with self._lock:
            self._policies = policies
            self._unknown.clear()
            services = tuple(self._services.values())
        return [
            service.name
            for service in services
            if reconfigure(service, policies[service.name], self._faults_of(service.name))
        ]

    def rediscover(self, discovery: Discovery) -> None:
        """Take the instances from another source. Lists stay until it has spoken; services that it does not cover end:
        their running calls finish.
        """
        with self._lock:
            self.discovery = discovery
            self._first = Unknown(discovery.max_unknown)
            self._unknown.clear()
            services = tuple(self._services.values())
            watchers = [self._watchers.pop(service.name, None) for service in services]
            gone = [service for service in services if not discovery.covers(service.name)]
            left = [self._dropped(service) for service in gone]
        self._stop((*watchers, *left))
        for service in gone:
            service.close()
        for service in services:
            if service in gone:
                continue
            with service.publishing:  # what the source before is publishing comes before this
                service.source, service.problem, service.drop = str(discovery), None, 0.0
            service.announce.follow_source(service.source)
            if self._takes_known(service):
                continue
            service.link_local = discovery.of(service.name).link_local
            with self._lock:
                if not self._closed and service.name not in self._watchers:
                    self._start(service)

    @property
    def in_flight(self) -> int:
        """Attempts of all services that are not over."""
        return sum(service.in_flight for service in tuple(self._services.values()))

    def __iter__(self) -> Any:
        return iter(tuple(self._services.values()))

    def close(self) -> None:
        """Stop all watches and remove all nodes; never takes longer than 0.1 s."""
        with self._lock:
            self._closed = True
            watchers = list(self._watchers.values())
            services = list(self._services.values())
            self._watchers.clear()
            self._replaced.clear()
            self._services.clear()
        for watcher in watchers:
            watcher.stop()
        for service in services:
            service.close()
        deadline = self._clock() + 0.1
        for watcher in watchers:
            watcher.join(max(0.0, deadline - self._clock()))

    def after_fork(self) -> None:
        """In a forked child: new locks, no threads (they start again at the next call), no connections of the
        parent's.
        """
        self._lock = threading.Lock()
        self._replaced = {}
        self._first = Unknown(self.discovery.max_unknown)
        stopped, self._watchers = self._watchers, {}
        self._services = {name: service for name, service in self._services.items() if service.ready.fired}
        for service in self._services.values():
            service.after_fork()
            for node in service.nodes:
                if node.connections is not None:
                    node.connections.after_fork()
            if service.name in stopped:
                self._watchers[service.name] = self._watcher(service)  # not started: `get` does

    def _open(self, name: str) -> Service:
        with self._lock:
            if self._closed:
                raise RuntimeError("Cannot send a request, as the transport has been closed.")
            service = self._services.get(name)
            made = service is None
            if service is None:
                unknown = self._unknown.get(name)
                if unknown is not None:
                    return unknown
                self._services[name] = service = self._new_service(name)
        if made:
            try:
                if self._takes_known(service):
                    return service
            except BaseException:  # the user's list or balancer is wrong: each call must raise it
                with self._lock:
                    self._dropped(service)
                raise
        with self._lock:
            watcher = self._watchers.get(name)
            wanted = made if watcher is None else not watcher.running  # `rediscover` may have been here meanwhile
            if self._closed or not wanted:
                return service
            service.used_at = self._clock()
            if made:
                self._first.queue(service)
            else:
                self._start(service)
            left = self._take_turns()
        self._stop(left)
        return service

    def _takes_known(self, service: Service) -> bool:
        """Give it its list, if that is one that never changes."""
        known = self.discovery.known(service.name)
        if known is None:
            return False
        service.link_local = True  # the user's own list
        service.update(parse_all(known, f"service {shown(service.name)}"))
        return True

    def _take_turns(self) -> list[Watcher | None]:
        """Watch the unknown names that are next (the lock held); the watchers that must be stopped for them."""
        begin, forget = self._first.next_in_turn(self._clock())
        left = [self._dropped(one) for one in forget]
        for service in begin:
            self._start(service)
        return left

    def _dropped(self, service: Service) -> Watcher | None:
        """Keep it no longer (the lock held); its watcher, to be stopped."""
        self._first.leave(service.name)
        self._services.pop(service.name, None)
        self._replaced.pop(service.name, None)
        service.forget()
        if self._forgotten is not None:
            self._forgotten(service)
        return self._watchers.pop(service.name, None)

    def _stop(self, watchers: Iterable[Watcher | None]) -> None:
        for watcher in watchers:
            if watcher is not None:
                watcher.stop()

    def _given_up(self, service: Service) -> None:
        """A call waits no longer for its first list."""
        with self._lock:
            left = [self._dropped(service)] if self._first.given_up(service) else []
            left += self._take_turns()
        self._stop(left)

    def _answered(self, service: Service) -> None:
        """The source has said something of it for the first time."""
        with self._lock:
            self._first.leave(service.name)
            left = self._take_turns()
        self._stop(left)

    def _start(self, service: Service) -> None:
        """Watch it from now on (the lock held)."""
        self._watchers[service.name] = watcher = self._watcher(service)
        try:
            watcher.start()
        except RuntimeError as error:  # no more threads to be had: the next call tries again
            service.failed(f"its watch could not be started: {error}")

    def _new_service(self, name: str) -> Service:
        service = Service(
            name,
            self._policies[name],
            source=str(self.discovery),
            clock=self._clock,
            rng=self._rng,
            observers=self._observers,
            retire=self._retire_node,
            zone=self._zone,
            stalls=self.stalls,
            refresh=self.refresh,
            by_id=self._by_id,
            given_up=self._given_up,
            link_local=self.discovery.of(name).link_local,
        )
        service.faults = self._faults_of(name)
        return service

    def _watcher(self, service: Service) -> Watcher:
        def publish(instances: tuple[Instance, ...]) -> None:
            first = not service.ready.fired
            with service.publishing:
                if watcher.stop_signal.is_set():  # replaced while it made this list: the new watcher's lists win
                    return
                told = service.take(instances, rules.grace)
                service.drop = drop_of(instances)
            service.settle(told)
            if first and instances:
                self._answered(service)
            elif first:
                self._forget(service)

        rules = self.discovery.of(service.name)

        watcher = Watcher(
            service.name,
            self.discovery,
            publish=publish,
            failed=service.failed,
            used_at=lambda: service.used_at,
            observers=self._observers,
            clock=self._clock,
            rng=self._rng,
        )
        return watcher

    def _forget(self, service: Service) -> None:
        """The source knows no instance of that name."""
        with self._lock:
            self._unknown[service.name] = service
            left = [self._dropped(service), *self._take_turns()]
        self._stop(left)
