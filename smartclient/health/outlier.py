"""Outlier detection, the settings: which node is left out for a while, and when it may come back.

Reasons to eject a node, each compared with its peers (`detector`):

1. `consecutive_5xx` answers of 5xx in a row, `consecutive_gateway_failure` of 502, 503, 504,
   `consecutive_local_origin_failure` transport errors (Envoy: outlier_detection, with
   split_external_local_origin_errors). Any other answer resets the counters; any answer resets the last one.
2. `evidence`: a sequential test of the node's failures against its peers', for the traffic of a Python process, which
   rarely has the 100 requests per host in 10 s that Envoy's statistics need.
3. At the end of each `interval`, with enough traffic: a success rate below the mean − `success_rate_factor` standard
   deviations, twice running (Envoy: success_rate_*, once), a failure percentage above `failure_percentage` (Envoy:
   failure_percentage_*), a mean latency above `latency_factor` × the median of the nodes.

A node stays out for `base_ejection_time` × the number of times in a row it was ejected, at most `max_ejection_time`
(Envoy), spread by `jitter`. Who has failed all calls of five seconds counts as ejected twice. Ten healthy seconds
forgive one ejection (Envoy: once per interval). It comes back by *one* probing call (Finagle: FailureAccrual's
probation), not at full traffic: a success returns it, a failure ejects it again. That makes a return cheap, so our
times are shorter than Envoy's 30 s and 300 s.

Of n nodes at most `max_ejected` × n are out, but always at least one may be, and never all (Envoy rounds 10 % of five
nodes to zero).
"""

from __future__ import annotations

from dataclasses import dataclass

from ..support.checks import Settings, count, flag, number, optional, seconds, setting, share, wrong


@dataclass(frozen=True, kw_only=True)
class OutlierDetection(Settings):
    """When a node is ejected and for how long. Times in seconds.

    consecutive_5xx:                   5xx answers in a row that eject; None: never
    consecutive_gateway_failure:       answers of 502, 503 or 504 in a row that eject; None: never
    consecutive_local_origin_failure:  transport errors (refused, reset, timed out) in a row that eject; None: never
    evidence:                          eject a node that clearly fails more often than its peers
    wrong_answers:                     eject a node that clearly answers 4xx more often than its peers; not with
                                       balancers that hash: they send all mistakes of a user to one node
    interval:                          how often the statistics of the following are taken
    success_rate_factor:               standard deviations below the mean success rate that eject (Envoy: 1.9); None:
                                       never
    success_rate_min_hosts:            nodes with that much traffic, at least
    success_rate_volume:               calls in the interval, at least
    failure_percentage:                percent of failures that eject, whatever the others do; None: never
    failure_percentage_min_hosts:      nodes with that much traffic, at least
    failure_percentage_volume:         calls in the interval, at least
    latency_factor:                    times the median of the nodes' mean latencies that eject; None: never
    base_ejection_time:                how long the first ejection lasts; the n-th in a row lasts n times that; after
                                       five seconds of nothing but failures, the first counts as two
    max_ejection_time:                 how long any ejection lasts at most
    max_ejected:                       share of the nodes that may be out at once
    jitter:                            share by which a time is lengthened at random, so that clients do not probe in
                                       step
    max_pause:                         a node that answers 429 or 503 with Retry-After gets no calls for that time, at
                                       most this long; 0: ignored
    """

    consecutive_5xx: int | None = setting(5, optional(count()))
    consecutive_gateway_failure: int | None = setting(None, optional(count()))
    consecutive_local_origin_failure: int | None = setting(5, optional(count()))
    evidence: bool = setting(True, flag)
    wrong_answers: bool = setting(True, flag)
    interval: float = setting(10.0, seconds())
    success_rate_factor: float | None = setting(1.9, optional(number("a number > 0", lambda value: value > 0)))
    success_rate_min_hosts: int = setting(5, count())
    success_rate_volume: int = setting(100, count())
    failure_percentage: float | None = setting(None, optional(number("a percentage", lambda value: 0 < value <= 100)))
    failure_percentage_min_hosts: int = setting(5, count())
    failure_percentage_volume: int = setting(50, count())
    latency_factor: float | None = setting(None, optional(number("a number > 1", lambda value: value > 1)))
    base_ejection_time: float = setting(5.0, seconds())
    max_ejection_time: float = setting(30.0, seconds())
    max_ejected: float = setting(0.5, share())
    jitter: float = setting(0.1, share())
    max_pause: float = setting(30.0, seconds(zero=True))

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.base_ejection_time > self.max_ejection_time:
            most = f"at most max_ejection_time ({self.max_ejection_time:g})"
            raise wrong("OutlierDetection.base_ejection_time", most, self.base_ejection_time)

    def may_eject(self, nodes: int, ejected: int) -> bool:
        """Whether one more of `nodes` may go when `ejected` already are."""
        allowed = min(max(1, int(nodes * self.max_ejected)), nodes - 1) if self.max_ejected else 0
        return ejected < allowed
