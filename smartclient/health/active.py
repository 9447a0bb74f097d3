"""Active health checks, the settings. Who makes the checks: `transport.checks`."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from ..settings import check_count, check_number


@dataclass(frozen=True)
class HealthCheck:
    """Ask each instance now and then whether it is well; one that is not gets no calls, unless too few are left.

    path:       of a GET request, sent to the service's name with the client's own TLS settings; None: it is enough that
                the instance takes a connection (with TLS, if it has that)
    interval:   seconds between two checks of an instance
    idle_interval: the same while the service is not called (Envoy: no_traffic_interval)
    timeout:    seconds for one check
    healthy:    successes in a row that make an unhealthy instance healthy
    unhealthy:  failures in a row that make it unhealthy
    statuses:   that count as success; None: 200 to 299
    jitter:     share of the interval by which it is varied at random
    port:       where to ask; None: the instance's own
    unejects:   a success also ends an ejection that calls have caused. A server's health page may be fine while its
    work
                is not, so not by default
    """

    path: str | None = "/healthz"
    interval: float = 10.0
    idle_interval: float = 60.0
    timeout: float = 2.0
    healthy: int = 2
    unhealthy: int = 3
    statuses: Collection[int] | None = None
    jitter: float = 0.1
    port: int | None = None
    unejects: bool = False

    def __post_init__(self) -> None:
        if self.path is not None and (
            not isinstance(self.path, str) or not self.path.startswith("/") or not self.path.isprintable()
        ):
            raise ValueError(f"HealthCheck.path: expected a path like '/healthz' or None, got {self.path!r}")
        for name in ("interval", "idle_interval", "timeout"):
            check_number(self, name, "seconds > 0", lambda value: 0 < value < float("inf"))
        for name in ("healthy", "unhealthy"):
            check_count(self, name)
        check_number(self, "jitter", "a share from 0 to 1", lambda value: 0 <= value <= 1)
        if self.port is not None and (not isinstance(self.port, int) or not 1 <= self.port <= 65535):
            raise ValueError(f"HealthCheck.port: expected 1 to 65535 or None, got {self.port!r}")
        if self.statuses is not None:
            if isinstance(self.statuses, (str, int)) or not all(isinstance(status, int) for status in self.statuses):
                raise TypeError(f"HealthCheck.statuses: expected a set of numbers like {{200}}, got {self.statuses!r}")
            object.__setattr__(self, "statuses", frozenset(self.statuses))

    def takes(self, status: int) -> bool:
        """Whether an answer is a success."""
        return 200 <= status < 300 if self.statuses is None else status in self.statuses
