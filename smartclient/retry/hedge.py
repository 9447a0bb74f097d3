"""Hedge: a second attempt on another node while the first is still out; the first good answer wins.

Dean and Barroso, "The Tail at Scale" (2013), deferred to the 95th percentile; Finagle's `BackupRequestFilter`: fast
failures are no latencies, at least a millisecond, off while nothing is measured, at most so much extra load; Envoy:
`hedge_policy`; gRPC A6: `hedgingPolicy`.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from ..settings import check_count, check_number
from .budget import BudgetAccount, RetryBudget
from .policy import IDEMPOTENT, check_methods, check_statuses

SOONEST = 0.001  # seconds (Finagle: 1 ms)
TTL = 60.0  # seconds after which a call no longer earns a hedge: long, so that quiet clients have some


@dataclass(frozen=True)
class Hedge:
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

    after: float | str = "p95"
    max: int = 1
    budget: float = 0.05
    methods: Collection[str] = IDEMPOTENT
    statuses: Collection[int] = frozenset({500, 502, 503, 504})

    def __post_init__(self) -> None:
        if self.percentile is None:
            if isinstance(self.after, str):
                raise ValueError(f"Hedge.after: expected seconds or a percentile like 'p95', got {self.after!r}")
            check_number(self, "after", "seconds > 0, or a percentile like 'p95'", lambda value: 0 < value < 1e6)
        check_count(self, "max")
        check_number(self, "budget", "a share > 0 up to 1", lambda value: 0 < value <= 1)
        check_methods(self)
        check_statuses(self)

    @property
    def percentile(self) -> float | None:
        """As a share; None: `after` is in seconds."""
        if not isinstance(self.after, str) or self.after[:1] != "p":
            return None
        try:
            share = float(self.after[1:]) / 100
        except ValueError:
            return None
        return share if 0 < share < 1 else None

    def account(self) -> BudgetAccount:
        """Its budget, kept like that of retries."""
        return BudgetAccount(RetryBudget(ratio=self.budget, min_per_second=0.0, ttl=TTL))
