"""Hedge: a second attempt on another node while the first is still out; the first good answer wins.

Dean and Barroso, "The Tail at Scale" (2013), deferred to the 95th percentile; Finagle's `BackupRequestFilter`: fast
failures are no latencies, a delay of at least 1 ms, off while nothing is measured, limited extra load; Envoy:
`hedge_policy`; gRPC A6: `hedgingPolicy`.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import KW_ONLY, dataclass

from ..support.checks import Settings, count, either, matching, seconds, setting, share
from ..support.checks import methods as method_set
from ..support.checks import statuses as status_set
from .budget import BudgetAccount, RetryBudget
from .retry import IDEMPOTENT

SOONEST = 0.001  # seconds (Finagle: 1 ms)
AFTER = either(
    "seconds > 0, or a percentile like 'p95'",
    seconds(most=1e6),
    matching("a percentile", r"p(?=.*[1-9])\d{1,2}(\.\d{1,9})?"),
)
TTL = 60.0  # seconds after which a call no longer earns a hedge: long, so that quiet clients have some


@dataclass(frozen=True)
class Hedge(Settings):
    """When a call gets a second chance while its first is still out.

    after:     seconds without an answer, or a percentile of the service's own latency lately ("p95": one call in twenty
               is hedged, if so many are that slow). A failure before that starts the second at once
    max:       attempts on top of the first, `after` apart
    budget:    share of calls that may be hedged in the long run (0.05: one in twenty)
    methods:   that may be sent twice
    statuses:  answers that do not win while another attempt is out

    The loser is cancelled and its connection closed; its node is not blamed, but the balancer learns how long it has
    kept the call waiting. Only bodies in memory are hedged.
    """

    after: float | str = setting("p95", AFTER)
    _: KW_ONLY
    max: int = setting(1, count(most=100))
    budget: float = setting(0.05, share(zero=False))
    methods: Collection[str] = setting(IDEMPOTENT, method_set)
    statuses: Collection[int] = setting(frozenset({500, 502, 503, 504}), status_set)

    @property
    def percentile(self) -> float | None:
        """As a share; None: `after` is in seconds."""
        return float(self.after[1:]) / 100 if isinstance(self.after, str) else None

    def account(self) -> BudgetAccount:
        """Its budget, kept like that of retries."""
        return BudgetAccount(RetryBudget(ratio=self.budget, min_per_second=0.0, ttl=TTL))
