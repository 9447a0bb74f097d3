"""Policy: all settings of one service."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from .balancers import Adaptive, Balancer, balancer_named
from .health.active import HealthCheck
from .health.outlier import OutlierDetection
from .health.slow_start import SlowStart
from .hosts import wire_name
from .limits import Circuit, Limits, Throttle
from .retry.hedge import Hedge
from .retry.policy import Retry
from .topology.subset import Subset


@dataclass(frozen=True)
class Policy:
    """How calls to a service are made. Derive one from another with `dataclasses.replace`.

    balancer:         the algorithm, or its name
    retry:            when a failed attempt is followed by another; None: never
    hedge:            when a slow attempt is joined by another; None: never
    outlier:          when a node is left out for a while; None: never
    deadline:         seconds for the whole call: auth, redirects, retries, waits and a body that is not streamed; None:
                      none. With a blocking client over HTTP/2 or a transport of `connect=`, phase by phase
    deadline_header:  each attempt says in this header how much time is left: "X-Request-Deadline-Ms" (milliseconds) or
                      "grpc-timeout" (in gRPC's form); None: it does not
    attempt_timeout:  seconds for one attempt up to its response headers; None: httpx's timeouts alone
    attempt_header:   each attempt says its number in this header, from 1: "X-Envoy-Attempt-Count"; None: it does not.
                      With `smartclient.middleware` on the other side a chain of services does not retry retries
    idempotency_key:  a POST or PATCH gets a key, the same in each attempt, and so may be retried: True: in the header
                      "Idempotency-Key" (draft-ietf-httpapi-idempotency-key-header), else the header's name. Only for
                      servers that know such keys
    limits:           how many attempts may be in progress, of the service and of each instance; None: any number
    throttle:         refuse calls here while the service refuses them; None: never
    circuit:          fail at once while every instance fails; None: never. Read about its danger before
    panic_threshold:  with fewer than this share of the nodes in use, all are used, whatever their health (Envoy:
                      healthy_panic_threshold)
    host_header:      "service": the Host header names the service, as in the URL; "instance": the instance's address
    require:          metadata ({"version": "v2"}) that an instance must have to be used, or a function of the request
                      that says it (a header of a canary, say); none has it: NoInstances
    prefer:           the same for instances that are used while there are any
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

    balancer: Balancer | str = field(default_factory=Adaptive)
    retry: Retry | None = field(default_factory=Retry)
    outlier: OutlierDetection | None = field(default_factory=OutlierDetection)
    deadline: float | None = None
    deadline_header: str | None = None
    attempt_timeout: float | None = None
    attempt_header: str | None = None
    hedge: Hedge | None = None
    idempotency_key: bool | str = False
    limits: Limits | None = None
    throttle: Throttle | None = None
    circuit: Circuit | None = None
    panic_threshold: float = 0.5
    host_header: str = "service"
    tls_server_name: str | None = None
    require: Mapping[str, str] | Callable[[Any], Mapping[str, str] | None] | None = None
    prefer: Mapping[str, str] | Callable[[Any], Mapping[str, str] | None] | None = None
    zone: str | None = None
    client_zones: Mapping[str, float] | None = None
    min_zone_size: int = 6
    subset: Subset | None = None
    slow_start: SlowStart | None = None
    health_check: HealthCheck | None = None

    @cached_property
    def says(self) -> bool:
        """Attempts have headers of ours."""
        return bool(self.deadline_header or self.attempt_header or self.idempotency_key)

    def __post_init__(self) -> None:
        if isinstance(self.balancer, str):
            object.__setattr__(self, "balancer", balancer_named(self.balancer))
        if not isinstance(self.balancer, Balancer):
            raise TypeError(f"Policy.balancer: expected a Balancer or its name, got {self.balancer!r}")
        if self.retry is not None and not isinstance(self.retry, Retry):
            raise TypeError(f"Policy.retry: expected a Retry or None, got {self.retry!r}")
        if self.outlier is not None and not isinstance(self.outlier, OutlierDetection):
            raise TypeError(f"Policy.outlier: expected an OutlierDetection or None, got {self.outlier!r}")
        if self.hedge is not None and not isinstance(self.hedge, Hedge):
            raise TypeError(f"Policy.hedge: expected a Hedge or None, got {self.hedge!r}")
        for name, kind in (("limits", Limits), ("throttle", Throttle), ("circuit", Circuit)):
            if not isinstance(getattr(self, name), (kind, type(None))):
                raise TypeError(f"Policy.{name}: expected a {kind.__name__} or None, got {getattr(self, name)!r}")
        for name in ("deadline_header", "attempt_header"):
            check_header(f"Policy.{name}", getattr(self, name))
        if not isinstance(self.idempotency_key, bool):
            check_header("Policy.idempotency_key", self.idempotency_key)
        for name in ("deadline", "attempt_timeout"):
            check_seconds(f"Policy.{name}", getattr(self, name))
        if not isinstance(self.panic_threshold, (int, float)) or not 0 <= self.panic_threshold <= 1:
            raise ValueError(f"Policy.panic_threshold: expected a share from 0 to 1, got {self.panic_threshold!r}")
        for name in ("require", "prefer"):
            value = getattr(self, name)
            if not (value is None or isinstance(value, Mapping) or callable(value)):
                raise TypeError(f"Policy.{name}: expected a mapping or a function of the request, got {value!r}")
        if self.client_zones is not None and not isinstance(self.client_zones, Mapping):
            raise TypeError(f"Policy.client_zones: expected a mapping {{zone: share}}, got {self.client_zones!r}")
        if self.subset is not None and not isinstance(self.subset, Subset):
            raise TypeError(f"Policy.subset: expected a Subset or None, got {self.subset!r}")
        if self.slow_start is not None and not isinstance(self.slow_start, SlowStart):
            raise TypeError(f"Policy.slow_start: expected a SlowStart or None, got {self.slow_start!r}")
        if self.health_check is not None and not isinstance(self.health_check, HealthCheck):
            raise TypeError(f"Policy.health_check: expected a HealthCheck or None, got {self.health_check!r}")
        if self.host_header not in ("service", "instance"):
            raise ValueError(f"Policy.host_header: expected 'service' or 'instance', got {self.host_header!r}")


def check_header(name: str, value: object) -> None:
    """Raise unless `value` is the name of a header or None."""
    if value is not None and not (isinstance(value, str) and re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", value)):
        raise ValueError(f"{name}: expected the name of a header or None, got {value!r}")


def check_seconds(name: str, value: object) -> None:
    """Raise unless `value` is a positive number of seconds or None."""
    if value is None:
        return
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise TypeError(f"{name}: expected seconds or None, got {value!r}")
    if not 0 < value < float("inf"):
        raise ValueError(f"{name}: expected seconds > 0 or None, got {value!r}")


class Policies:
    """The policy of each service: its own, else the default."""

    def __init__(self, policy: Policy | None = None, policies: Mapping[str, Policy] | None = None) -> None:
        if policy is not None and not isinstance(policy, Policy):
            raise TypeError(f"policy: expected a Policy, got {policy!r}")
        if policies is not None and not isinstance(policies, Mapping):
            raise TypeError(f"policies: expected a mapping of service names to Policy, got {policies!r}")
        self._default = Policy() if policy is None else policy
        self._policies = {}
        for service, own in (policies or {}).items():
            if not isinstance(own, Policy):
                raise TypeError(f"policies[{service!r}]: expected a Policy, got {own!r}")
            self._policies[wire_name(service)] = own

    def __iter__(self) -> Iterator[Policy]:
        """The default, and all others."""
        return iter((self._default, *self._policies.values()))

    def __getitem__(self, service: str) -> Policy:
        return self._policies.get(service, self._default)
