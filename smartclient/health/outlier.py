"""Outlier detection: which node is left out for a while, and when it may come back.

1. A node is ejected after `consecutive_5xx` 5xx answers in a row, or after `consecutive_local_origin_failure` transport
   errors in a row (Envoy: outlier_detection.consecutive_5xx and consecutive_local_origin_failure with
   split_external_local_origin_errors). Any other answer resets both; an answer of any kind resets the second.
2. It stays out for `base_ejection_time` × the number of times in a row it was ejected, at most `max_ejection_time`
   (Envoy), spread by `jitter`. Ten healthy seconds forgive one ejection (Envoy: once per interval).
3. It comes back by *one* probing call (Finagle: FailureAccrual's probation), not at full traffic: a success returns it,
   a failure ejects it again. That makes a return cheap, so our times are shorter than Envoy's 30 s and 300 s.
4. Of n nodes at most `max_ejected` × n are out, but always at least one may be, and never all (Envoy rounds 10 % of
   five nodes to zero).
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from ..node import Outcome

FORGIVEN_AFTER = 10.0


@dataclass(frozen=True)
class OutlierDetection:
    """When a node is ejected and for how long. Times in seconds.

    consecutive_5xx:                   5xx answers in a row that eject; None: never
    consecutive_local_origin_failure:  transport errors (refused, reset, timed out) in a row that eject; None: never
    base_ejection_time:                how long the first ejection lasts; the n-th in a row lasts n times that
    max_ejection_time:                 how long any ejection lasts at most
    max_ejected:                       share of the nodes that may be out at once
    jitter:                            share by which a time is lengthened at random, so that clients do not probe in
                                       step
    """

    consecutive_5xx: int | None = 5
    consecutive_local_origin_failure: int | None = 5
    base_ejection_time: float = 5.0
    max_ejection_time: float = 30.0
    max_ejected: float = 0.5
    jitter: float = 0.1

    def __post_init__(self) -> None:
        for name in ("consecutive_5xx", "consecutive_local_origin_failure"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
                raise ValueError(f"OutlierDetection.{name}: expected a number from 1 up or None, got {value!r}")
        for name in ("base_ejection_time", "max_ejection_time"):
            value = getattr(self, name)
            if not isinstance(value, (int, float)) or not value > 0:
                raise ValueError(f"OutlierDetection.{name}: expected seconds > 0, got {value!r}")
        for name in ("max_ejected", "jitter"):
            value = getattr(self, name)
            if not isinstance(value, (int, float)) or not 0 <= value <= 1:
                raise ValueError(f"OutlierDetection.{name}: expected a share from 0 to 1, got {value!r}")

    def may_eject(self, nodes: int, ejected: int) -> bool:
        """Whether one more of `nodes` may go when `ejected` already are."""
        allowed = min(max(1, int(nodes * self.max_ejected)), nodes - 1) if self.max_ejected else 0
        return ejected < allowed


class NodeHealth:
    """What the detector knows of one node. Not thread-safe: the service's lock guards it."""

    __slots__ = ("_healthy_since", "_settings", "_times", "answers_5xx", "local_failures")

    def __init__(self, settings: OutlierDetection) -> None:
        self._settings = settings
        self.answers_5xx = 0
        self.local_failures = 0
        self._healthy_since: float | None = None
        self._times = 0

    def observe(self, outcome: Outcome, status: int | None) -> str | None:
        """Count an attempt; the reason, if it is one too many.

        status: of the answer; None: none was had (refused, reset, timed out: of local origin)
        """
        settings = self._settings
        if outcome is Outcome.SUCCESS:
            self.answers_5xx = self.local_failures = 0
        elif outcome is Outcome.FAILURE and status is None:
            self.local_failures += 1
            limit = settings.consecutive_local_origin_failure
            if limit is not None and self.local_failures >= limit:
                return f"{self.local_failures} transport errors in a row"
        elif outcome is Outcome.FAILURE:
            self.local_failures = 0
            if status is not None and status >= 500:  # a 429 is no sign of being broken
                self.answers_5xx += 1
            limit = settings.consecutive_5xx
            if limit is not None and self.answers_5xx >= limit:
                return f"{self.answers_5xx} answers of 5xx in a row"
        return None

    def eject(self, now: float, rng: Random) -> float:
        """Note an ejection; how long it lasts."""
        settings = self._settings
        healthy = 0.0 if self._healthy_since is None else now - self._healthy_since
        self._times = max(0, self._times - int(healthy / FORGIVEN_AFTER)) + 1
        self._healthy_since = None
        self.answers_5xx = self.local_failures = 0
        duration = min(settings.base_ejection_time * self._times, settings.max_ejection_time)
        return duration * (1.0 + settings.jitter * rng.random())

    def restore(self, now: float) -> None:
        """Note that the node serves again."""
        self._healthy_since = now
        self.answers_5xx = self.local_failures = 0
