"""Evidence that a node is worse than its peers: Page's CUSUM of the log-likelihood ratio of two rates.

What is counted is bad or not: a failure (`detector`), or a wrong answer (`wrong_answers`).
"""

from __future__ import annotations

from math import exp, log

ENOUGH = 16.0  # ln(9·10⁶): the node is out
FADES_OVER = 300.0  # seconds
LEAST_RATE = 0.01  # of the peers
MOST_RATE = 0.8  # of the peers, for a node to stand out
PRIOR_BAD, PRIOR_CALLS = 0.1, 10.0
QUICK = 0.25  # weight of the newest call in the average by count


def likelihood_ratio(rate: float, bad: bool) -> float:
    """What one call says: the logarithm of how much likelier it is at the worse rate, half way from the peers' to 1."""
    worse = rate + 0.5 * (1.0 - rate)
    return log(worse / rate) if bad else log((1.0 - worse) / (1.0 - rate))


def faded(evidence: float, seen_at: float, now: float) -> float:
    """What is left of older evidence."""
    return evidence * exp((seen_at - now) / FADES_OVER) if evidence else 0.0


def peers_rate(bad: float, calls: float, quick: float) -> float:
    """The larger of the peers' rate of late and their average by count, which knows a change after a few calls."""
    return max((bad + PRIOR_BAD) / (calls + PRIOR_CALLS), quick)


def moved(average: float, bad: bool) -> float:
    """An average by count, with one more call."""
    average += QUICK * ((1.0 if bad else 0.0) - average)
    return average if average >= 1e-3 else 0.0
