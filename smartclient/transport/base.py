"""What both transports share: their construction, and the way from a request to its flow.

All policy of a call is in `flow`; what remains for the drivers (`sync`, `aio`) is to perform its effects.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Mapping
from contextvars import ContextVar
from random import Random
from typing import TYPE_CHECKING, Any, ClassVar

from ..calls.context import SendContext
from ..calls.flow import CallFlow
from ..calls.state import CallState
from ..connections.dialing import Dialing
from ..discovery import Discovery, DiscoveryLike, discovery_of
from ..events import ConfigRejected, Observer, Observers, everywhere
from ..flavour import Flavour
from ..instance import Instance
from ..node import Node
from ..policy import Policies, Policy
from ..retry.request_body import RequestBody, body_of
from ..services.attempt import AttemptOwner
from ..services.call import EXTENSION, NO_OPTIONS, CallOptions
from ..services.directory import Services
from ..services.status import ClientStatus, StatusReader
from ..support.loggers import CONFIG
from ..support.version import version
from ..support.waiting import Places, Signal
from .health_checks import Checker
from .steering import Steering

if TYPE_CHECKING:
    from ..config import Config

# Seconds after which a waiting call checks for lost places: a response that is dropped unread cannot wake a waiter,
# since its destructor must not take a lock.
LOST_INTERVAL = 0.1
USUAL_LIMITS = {"max_connections": 100, "max_keepalive_connections": 20}  # httpx's own default for a client
SHOWN = 10  # problems of a file in one line of the log
AGAIN = 0.5  # seconds after which a service without instances is looked at again

send_context: ContextVar[SendContext | None] = ContextVar("smartclient_send", default=None)


class TransportBase:
    """The part of a balanced transport that does no I/O."""

    _flavour: ClassVar[Flavour]
    _connections_class: ClassVar[Any]
    _default_sleep: ClassVar[Any]

    def __init__(
        self,
        discovery: DiscoveryLike,
        *,
        policy: Policy | None = None,
        policies: Mapping[str, Policy] | None = None,
        connect: Callable[[Instance], Any] | None = None,
        observers: Iterable[Observer] = (),
        verify: Any = True,
        cert: Any = None,
        trust_env: bool = True,
        http1: bool = True,
        http2: bool = False,
        limits: Any = None,
        fallback: Any = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Any] | None = None,
        rng: Random | None = None,
        status: bool | None = None,
        _connect_owned: bool = True,
        _config: Config | None = None,
        _discovery_given: bool = True,
    ) -> None:
        source = _checked(discovery_of(discovery), connect, http2)
        httpx = self._flavour.httpx
        limits = httpx.Limits(**USUAL_LIMITS) if limits is None else limits
        self._sleep = sleep or self._default_sleep
        self._clock, self._fallback = clock, fallback
        self._lock = threading.Lock()
        self._places = None if limits.max_connections is None else Places(limits.max_connections)
        self._dialing = Dialing(
            self._flavour,
            lambda: httpx.create_ssl_context(verify=verify, cert=cert, trust_env=trust_env),
            http1=http1,
            http2=http2,
            limits=limits,
            connect=connect,
            owned=_connect_owned,
            clock=clock,
        )
        if isinstance(verify, str) or cert is not None:
            self._dialing.ssl_context  # noqa: B018  (a wrong path is said now, not at the first call)
        self._own_rng = rng is None
        self._rng = rng = Random() if rng is None else rng
        self._steering = Steering(policy, policies, _config, trust_env, _discovery_given)
        self._checker = self._new_checker(self._steering.policies)
        self._services = Services(
            source,
            self._steering.policies,
            observers=(told := Observers(observers)),
            retire_node=_retire,
            clock=clock,
            rng=rng,
            zone=os.environ.get("SMARTCLIENT_ZONE") if trust_env else None,
            by_id=connect is not None,
            forgotten=self._unchecked,
            faults_of=self._steering.faults_of,
        )
        self._status = StatusReader()
        self._begin(told, _config, _is_shown(status, trust_env))

    def _begin(self, told: Observers, config: Config | None, shown: bool) -> None:
        """What runs beside the calls."""
        self._watch: Any = None if config is None else self._watch_config(config)
        self._status_socket: Any = self._status_on_a_socket() if shown else None
        _enter(self, told)

    def _new_checker(self, policies: Policies) -> Checker | None:
        """The one that makes active checks, if a policy asks for them."""
        if not any(policy.health_check is not None for policy in policies):
            return None
        if self._dialing.connect is not None:
            raise ValueError(
                "Policy.health_check: instances are checked by connections of our own; with connect= or transport= "
                "nothing is known of them"
            )
        return Checker(self._dialing, self._clock, self._rng)

    def covers(self, host: str) -> bool:
        """Whether a request to that host is balanced."""
        return self._services.covers(host)

    def refresh(self, service: str | None = None) -> None:
        """Ask discovery again, at once, for a service in use; None: for all. Returns without waiting for the answer.

        Done automatically when most instances of a service fail (with outlier detection, every 10 s at most).
        """
        self._services.refresh(service)

    def status(self) -> ClientStatus:
        """What is, of each service in use and its instances: JSON by `as_dict()`. From any thread; holds up no call."""
        return self._status.read(self._services, version(), self._steering.status())

    def reconfigure(self, policy: Policy | None = None, policies: Mapping[str, Policy] | None = None) -> None:
        """Change the policies while calls go on: what a changed field does not concern stays as it is, and calls in
        progress keep the policy they began with.

        policy:    in place of the default of before; None: that stays
        policies:  in place of all those of before; None: they stay
        """
        with self._steering.lock:
            self._prepare(Policies(policy, policies))
            self._steering.change(policy, policies)
            self._follow()

    def load(self, config: Config) -> None:
        """The configuration file has changed."""
        with self._steering.lock:
            self._prepare(Policies(config.default, config.policies))
            other = discovery_of(self._steering.other_discovery(config))
            self._steering.load(config)
            self._follow()
            if other is not None:
                self._services.rediscover(other)

    def reject(self, problems: tuple[str, ...]) -> None:
        """The configuration file has changed, and is wrong: the last good one stays in force."""
        config = self._steering.config
        assert config is not None
        self._steering.problems = problems
        CONFIG.error("%s is wrong, the last good one stays in force: %s", config.path, "; ".join(problems[:SHOWN]))
        self._services.tell(ConfigRejected(str(config.path), problems))

    def _prepare(self, policies: Policies) -> None:
        """Raises for what could not be followed, before anything is changed."""
        for policy in policies:
            policy.balancer.for_service()  # type: ignore[union-attr]
        checker = self._new_checker(policies)
        if self._checker is None and checker is not None:
            self._checker = checker

    def _follow(self) -> None:
        self._services.reconfigure(self._steering.policies)
        if self._checker is not None:
            self._checker.reconfigured()

    def _unchecked(self, service: Any) -> None:
        if self._checker is not None:
            self._checker.forget(service)

    def _watch_config(self, config: Config) -> Any:
        from ..config.watching import ConfigWatch

        return ConfigWatch(config, self)

    def _status_on_a_socket(self) -> Any:
        """Must not keep this transport alive."""
        from ..status.socket import StatusSocket

        this = weakref.ref(self)

        def status() -> Any:
            transport = this()
            return StatusReader().read((), version()) if transport is None else transport.status()

        return StatusSocket(status)

    def _stop(self) -> None:
        """Stop watching and checking, and remove all nodes."""
        if self._status_socket is not None:
            self._status_socket.close()
        if self._watch is not None:
            self._watch.close()
        self._services.close()
        if self._checker is not None:
            self._checker.close()

    def _flow(self, request: Any) -> CallFlow | None:
        """The flow of a request's call; None: its host is not a service."""
        service = self._services.get(request.url.raw_host.decode("ascii"))
        if service is None:
            return None
        if self._checker is not None and service.policy.health_check is not None:
            self._checker.watch(service)
        if self._dialing.lost:
            self._finish_lost()
        context = send_context.get()
        if context is None or context.transport is not self:
            context = SendContext(options_of(request))
        body = self._body(request, context)
        return CallFlow(
            CallState(request, service, context, body, self._places, self._flavour, self._clock, self._dialing.lost)
        )

    def _body(self, request: Any, context: SendContext) -> RequestBody | None:
        body = body_of(request, self._flavour.ByteStream, self._flavour.WatchedStream)
        if body is None:
            return None
        if context.stream is request.stream and context.body is not None:
            return context.body  # a redirect that keeps its body: its file restarts where it was given
        context.stream, context.body = request.stream, body
        return body

    def _connections_of(self, node: Node, service: AttemptOwner) -> Any:
        made = self._connections_class(node, service, self._dialing)  # not under the lock: `connect=` is the user's
        with self._lock:
            if node.connections is None:
                node.connections = made
        if node.connections is not made:
            made.close()
        return node.connections

    def _finish_lost(self) -> None:
        """Finish the attempts whose responses were forgotten unread."""
        lost = self._dialing.lost
        try:
            while True:
                lost.popleft().finish()
        except IndexError:  # by another thread, maybe
            pass

    def _after_fork(self) -> None:
        """In a forked child: new locks, none of the parent's calls, connections and threads."""
        if self._own_rng:  # else the children of one parent would all pick the same nodes, in step
            self._rng.seed()
        self._lock = threading.Lock()
        self._places = None if self._places is None else Places(self._places.limit)
        self._dialing.after_fork()
        if self._checker is not None:
            self._checker.after_fork()
        self._services.after_fork()
        if self._status_socket is not None:
            self._status_socket.after_fork()
        self._steering.after_fork()
        if self._watch is not None:
            self._watch.after_fork()

    def _not_ready(self, name: str, until: float) -> tuple[Any, float] | None:
        """What to wait for until a service has instances, and how long; None: it has. Raises NoInstances if it is too
        late.
        """
        service = self._services.get(name)
        if service is None:
            raise self._flavour.NoInstances.of(name, f"{self._services.discovery} does not cover it")
        if service.nodes:
            return None
        left = until - self._clock()
        if left <= 0:
            raise self._flavour.NoInstances.of(name, service.why_none())
        # A name without instances is forgotten, and asked for again.
        return (Signal() if service.ready.fired else service.ready), min(left, AGAIN)

    def _observe(self, observer: Any) -> None:
        if self._services.observe(observer):
            observer.watch(self)

    def _not_a_service(self, request: Any) -> Exception:
        error: Exception = self._flavour.NoInstances.of(
            request.url.host,
            f"{self._services.discovery} does not cover this host, and there is no fallback transport",
        )
        return error


def observe_all(observer: Observer) -> None:
    """Have each client of the process observed, those that there are and those to come."""
    with _entering:
        everywhere.append(observer)
        transports = tuple(_all)
    for transport in transports:
        transport._observe(observer)


def observe_no_more(observer: Observer) -> None:
    """The contrary."""
    with _entering:
        everywhere.remove(observer)
        transports = tuple(_all)
    for transport in transports:
        transport._services.observe_no_more(observer)


def _enter(transport: TransportBase, told: Observers) -> None:
    """It is one of the process's from now on. told: its observers; some may have come while it was made"""
    with _entering:
        _all.add(transport)
        late = tuple(everywhere)
    told.watch(transport)
    for observer in late:
        transport._observe(observer)


def _is_shown(status: bool | None, trust_env: bool) -> bool:
    """Whether the status is shown on a socket."""
    return trust_env and os.environ.get("SMARTCLIENT_STATUS", "") not in ("", "0") if status is None else status


def options_of(request: Any) -> CallOptions:
    """What `smartclient.call(…)` put into a request's extensions."""
    options = request.extensions.get(EXTENSION)
    return options if isinstance(options, CallOptions) else NO_OPTIONS


def environment_discovery() -> str | None:
    return os.environ.get("SMARTCLIENT_DISCOVERY") or None


def _retire(node: Node) -> None:
    if node.connections is not None:
        node.connections.close()


_all: weakref.WeakSet[TransportBase] = weakref.WeakSet()
_entering = threading.Lock()


def _after_fork() -> None:
    global _entering
    _entering = threading.Lock()
    for transport in tuple(_all):
        transport._after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def _checked(source: Discovery | None, connect: Any, http2: bool) -> Discovery:
    if http2:
        _require_h2()
    if source is None:
        raise TypeError("discovery: expected a source of instances, got None")
    if connect is not None and not callable(connect):
        raise TypeError(f"connect: expected a callable Instance -> transport, got {connect!r}")
    return source


def _require_h2() -> None:
    try:
        import h2  # noqa: F401
    except ImportError:
        raise ImportError("http2=True needs the h2 package: pip install 'smartclient[http2]'") from None
