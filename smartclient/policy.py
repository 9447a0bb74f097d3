"""Policy: all settings of one service."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import KW_ONLY, dataclass
from functools import cached_property
from typing import Any

from .balancers import Adaptive, Balancer, BalancerName, balancer_named
from .health.active import HealthCheck
from .health.outlier import OutlierDetection
from .health.slow_start import SlowStart
from .limits import Circuit, Limits, Throttle
from .retry.hedge import Hedge
from .retry.retry import Retry
from .support.checks import (
    Check,
    Settings,
    callable_,
    count,
    either,
    flag,
    header_name,
    kind,
    mapping,
    metadata,
    nearest,
    number,
    one_of,
    optional,
    seconds,
    setting,
    share,
    text,
    wrong,
)
from .support.forms import Checked, Form, form_of
from .support.hosts import is_name, is_pattern, matching_name, pattern_name, wire_name
from .topology.subset import Subset

Wanted = Mapping[str, str] | Callable[[Any], Mapping[str, str] | None] | None

wanted: Check = either(
    "a mapping of strings like {'version': 'v2'} or a function of the request", metadata, callable_("a function")
)
capacity: Check = number("a number from 0 up", lambda value: value >= 0)
zone_sizes: Check = mapping("a mapping of zones to numbers", text, capacity)


def _balancer_or_name(name: str, value: Any) -> Any:
    return (
        balancer_named(value, name) if isinstance(value, str) else kind(Balancer, "a Balancer or its name")(name, value)
    )


def _host_name(name: str, value: Any) -> Any:
    text(name, value)
    if not is_name(wire_name(value)):
        raise wrong(name, "the name of a host", value)
    return value


balancer_or_name: Check = Checked(_balancer_or_name, Form(settings=(Balancer,)))
host_name: Check = Checked(_host_name, form_of(text))
"""A name that a certificate may have."""


@dataclass(frozen=True)
class Policy(Settings):
    """How calls to a service are made. Derive one from another with `dataclasses.replace`.

    balancer:         the algorithm, or its name
    retry:            when a failed attempt is followed by another; None: never
    hedge:            when a slow attempt is joined by another; None: never
    outlier:          when a node is left out for a while; None: never
    deadline:         seconds for the whole call: auth, redirects, retries, waits and a body that is not streamed; None:
                      none. With a blocking client over a transport of `connect=`, phase by phase
    deadline_header:  each attempt sends the time left in this header: "X-Request-Deadline-Ms" (milliseconds) or
                      "grpc-timeout" (in gRPC's format); None: not sent
    attempt_timeout:  seconds for one attempt up to its response headers; None: httpx's timeouts alone
    attempt_header:   each attempt sends its number, from 1, in this header: "X-Envoy-Attempt-Count"; None: not sent.
                      With `smartclient.middleware` on the server, a chain of services does not retry retries
    idempotency_key:  a POST or PATCH gets a key, the same in each attempt, so it may be retried. True: in the header
                      "Idempotency-Key" (draft-ietf-httpapi-idempotency-key-header), else the header's name. Only for
                      servers that support such keys
    limits:           how many attempts may be in progress, of the service and of each instance; None: any number
    throttle:         refuse calls here while the service refuses them; None: never
    circuit:          fail at once while every instance fails; None: never. Read about its risks first
    panic_threshold:  with fewer than this share of the nodes in use, all are used, whatever their health (Envoy:
                      healthy_panic_threshold)
    host_header:      "service": the Host header names the service, as in the URL; "instance": the instance's address
    require:          metadata ({"version": "v2"}) that an instance must have to be used, or a function of the request
                      that returns it (from a canary header, say); if none has it: NoInstances
    prefer:           like `require`, but if no instance has it, others are used
    zone:             where this client runs: calls stay in that zone as far as its capacity goes (Envoy: zone aware
                      routing); None: the environment's SMARTCLIENT_ZONE
    client_zones:     how many clients each zone has, in any unit; None: equally many
    min_zone_size:    with fewer usable nodes than this, zones do not matter (Envoy: min_cluster_size)
    subset:           use only some of the instances of a huge fleet
    health_check:     active checks of the instances; None: none
    slow_start:       how a node that is new, or back from ejection, warms up; None: at once
    tls_server_name:  name for SNI and for checking the certificate; None: the instance's host where that is a name with
                      a dot, else the service's
    """

    balancer: Balancer | BalancerName = setting(factory=Adaptive, check=balancer_or_name)
    _: KW_ONLY
    retry: Retry | None = setting(factory=Retry, check=optional(kind(Retry)))
    outlier: OutlierDetection | None = setting(factory=OutlierDetection, check=optional(kind(OutlierDetection)))
    deadline: float | None = setting(None, optional(seconds()))
    deadline_header: str | None = setting(None, optional(header_name))
    attempt_timeout: float | None = setting(None, optional(seconds()))
    attempt_header: str | None = setting(None, optional(header_name))
    hedge: Hedge | None = setting(None, optional(kind(Hedge)))
    idempotency_key: bool | str = setting(False, either("True, False or the name of a header", flag, header_name))
    limits: Limits | None = setting(None, optional(kind(Limits)))
    throttle: Throttle | None = setting(None, optional(kind(Throttle)))
    circuit: Circuit | None = setting(None, optional(kind(Circuit)))
    panic_threshold: float = setting(0.5, share())
    host_header: str = setting("service", one_of(("service", "instance")))
    tls_server_name: str | None = setting(None, optional(host_name))
    require: Wanted = setting(None, optional(wanted))
    prefer: Wanted = setting(None, optional(wanted))
    zone: str | None = setting(None, optional(text))
    client_zones: Mapping[str, float] | None = setting(None, optional(zone_sizes))
    min_zone_size: int = setting(6, count(0))
    subset: Subset | None = setting(None, optional(kind(Subset)))
    slow_start: SlowStart | None = setting(None, optional(kind(SlowStart)))
    health_check: HealthCheck | None = setting(None, optional(kind(HealthCheck)))

    @cached_property
    def says(self) -> bool:
        """Attempts have headers of ours."""
        return bool(self.deadline_header or self.attempt_header or self.idempotency_key)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_times("Policy.attempt_timeout", self.attempt_timeout, self.deadline)


def check_times(name: str, attempt_timeout: float | None, deadline: float | None) -> None:
    """Raise if one attempt may take longer than the whole call: one of the two must be a mistake."""
    if attempt_timeout is not None and deadline is not None and attempt_timeout > deadline:
        raise wrong(name, f"at most the deadline ({deadline:g})", attempt_timeout)


class Policies:
    """The policy of each service: its own, else that of the longest glob that matches ("*.eu"), else the default."""

    def __init__(
        self,
        policy: Policy | None = None,
        policies: Mapping[str, Policy] | None = None,
        beneath: Policies | None = None,
    ) -> None:
        """beneath: what counts where these say nothing: its own services, before `policy`; its default, after it"""
        optional(kind(Policy))("policy", policy)
        if policies is not None and not isinstance(policies, Mapping):
            raise wrong("policies", "a mapping of service names to Policy", policies, TypeError)
        self._beneath = beneath
        self._default = policy or (Policy() if beneath is None else beneath.default)
        self._policies: dict[str, Policy] = {}
        for service, own in (policies or {}).items():
            text("policies: a service's name", service)
            kind(Policy)(f"policies[{service!r}]", own)
            self._policies[pattern_name(service)] = own

    def unknown(self, known: Collection[str]) -> Iterator[str]:
        """Errors for policies of services that do not exist. known: all services that exist"""
        for service in self._policies:
            if service not in known and not is_pattern(service):
                yield f"policies[{service!r}]: there is no such service{nearest(service, known)}"
        if self._beneath is not None:
            yield from self._beneath.unknown(known)

    def __iter__(self) -> Iterator[Policy]:
        """The default, and all others."""
        yield from (self._default, *self._policies.values())
        if self._beneath is not None:
            yield from self._beneath

    @property
    def default(self) -> Policy:
        return self._default

    def own(self, service: str) -> Policy | None:
        """That of a service which is named, or matches a glob."""
        name = matching_name(service, self._policies)
        if name is not None:
            return self._policies[name]
        return None if self._beneath is None else self._beneath.own(service)

    def __getitem__(self, service: str) -> Policy:
        return self.own(service) or self._default
