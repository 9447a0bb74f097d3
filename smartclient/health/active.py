"""Active health checks, the settings. Who makes the checks: `transport.checks`."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import KW_ONLY, dataclass
from random import Random

from ..support.checks import Settings, count, flag, matching, optional, seconds, setting, share
from ..support.checks import statuses as status_set


@dataclass(frozen=True)
class HealthCheck(Settings):
    """Check each instance periodically; an unhealthy one gets no calls, unless too few are left.

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
    unejects:   a success also ends an ejection that calls have caused. Off by default: a server's health page may be
                fine while its work is not
    """

    path: str | None = setting("/healthz", optional(matching("a path like '/healthz'", r"/[!-~]*")))
    _: KW_ONLY
    interval: float = setting(10.0, seconds())
    idle_interval: float = setting(60.0, seconds())
    timeout: float = setting(2.0, seconds())
    healthy: int = setting(2, count())
    unhealthy: int = setting(3, count())
    statuses: Collection[int] | None = setting(None, optional(status_set))
    jitter: float = setting(0.1, share())
    port: int | None = setting(None, optional(count(1, 65535)))
    unejects: bool = setting(False, flag)

    def pause(self, unused: float, rng: Random) -> float:
        """Seconds until the next check of an instance. unused: since the service was last called"""
        interval = self.idle_interval if unused > self.idle_interval else self.interval
        return interval * (1.0 + self.jitter * (2.0 * rng.random() - 1.0))

    def takes(self, status: int) -> bool:
        """Whether an answer is a success."""
        return 200 <= status < 300 if self.statuses is None else status in self.statuses
